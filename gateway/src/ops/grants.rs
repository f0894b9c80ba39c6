//! Access control lists as grants: a document `AccessControlPolicy`, or the headers `x-amz-grant-*` (API reference,
//! PutBucketAcl, PutObjectAcl). Those that say the same as a canned list are taken for it; the others are not implemented.

use http::HeaderMap;

use super::access::{ALL_USERS, AUTHENTICATED_USERS, Canned};
use super::failure::invalid_argument;
use crate::error::{Code, S3Error};
use crate::router::not_implemented;
use crate::xml::{Element, Limits, parse};

const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

/// Headers of grants with the permission that each gives.
pub const GRANT_HEADERS: [(&str, &str); 5] = [
    ("x-amz-grant-full-control", "FULL_CONTROL"),
    ("x-amz-grant-read", "READ"),
    ("x-amz-grant-read-acp", "READ_ACP"),
    ("x-amz-grant-write", "WRITE"),
    ("x-amz-grant-write-acp", "WRITE_ACP"),
];

/// Bounds of a document: a hundred grants, as S3 has at most, need less.
const LIMITS: Limits = Limits {
    len_max: crate::xml::requests::SMALL_LEN_MAX,
    depth_max: 5,
    elements_max: 1000,
};

/// Grants to others than the owner, as group and permission.
#[derive(Debug, Default)]
struct Grants<'a> {
    owner: &'a str,
    to_groups: Vec<(&'static str, &'static str)>,
}

impl Grants<'_> {
    /// What the owner is granted changes nothing: to the owner everything is allowed.
    fn give_user(&self, id: &str, argument: &str) -> Result<(), S3Error> {
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        match is_id {
            _ if id == self.owner => Ok(()),
            true => Err(not_implemented("A grant to another user")),
            false => Err(invalid_argument(argument, id, "Invalid id")),
        }
    }

    fn give_group(
        &mut self,
        uri: &str,
        permission: &'static str,
        argument: &str,
    ) -> Result<(), S3Error> {
        let known = [ALL_USERS, AUTHENTICATED_USERS];
        match known.into_iter().find(|known| *known == uri) {
            Some(group) => self.to_groups.push((group, permission)),
            None if uri == LOG_DELIVERY => {
                return Err(not_implemented("A grant to the log delivery group"));
            }
            None => return Err(invalid_argument(argument, uri, "Invalid group uri")),
        }
        Ok(())
    }

    fn canned(self) -> Result<Canned, S3Error> {
        let given = |grant| self.to_groups.contains(grant);
        Canned::ALL
            .into_iter()
            .find(|canned| {
                let meant = canned.grants();
                meant.iter().all(given) && self.to_groups.iter().all(|grant| meant.contains(grant))
            })
            .ok_or_else(|| not_implemented("An ACL that is not as a canned one"))
    }
}

/// The canned list that the `x-amz-grant-*` headers say; `None`: there are none. `owner` is the id of who owns what the list
/// is for.
pub fn from_headers(headers: &HeaderMap, owner: &str) -> Result<Option<Canned>, S3Error> {
    let mut grants = Grants {
        owner,
        ..Grants::default()
    };
    let mut any = false;
    for (name, permission) in GRANT_HEADERS {
        for value in headers.get_all(name) {
            any = true;
            let value = value.to_str().unwrap_or_default();
            let wrong = || invalid_argument(name, value, "Argument format not recognized");
            for grantee in value.split(',') {
                let (kind, id) = grantee.split_once('=').ok_or_else(wrong)?;
                let id = id.trim().trim_matches('"');
                match kind.trim() {
                    kind if kind.eq_ignore_ascii_case("id") => grants.give_user(id, "id")?,
                    kind if kind.eq_ignore_ascii_case("uri") => {
                        grants.give_group(id, permission, "uri")?;
                    }
                    kind if kind.eq_ignore_ascii_case("emailAddress") => return Err(by_mail()),
                    _ => return Err(wrong()),
                }
            }
        }
    }
    any.then(|| grants.canned()).transpose()
}

/// The canned list that a document `AccessControlPolicy` says.
pub fn from_document(document: &[u8], owner: &str) -> Result<Canned, S3Error> {
    let root = parse(document, "AccessControlPolicy", LIMITS).map_err(|_| malformed())?;
    let mut grants = Grants {
        owner,
        ..Grants::default()
    };
    let named = text(child(&root, "Owner")?, "ID")?;
    if let Err(error) = grants.give_user(named, "CanonicalUser/ID") {
        return Err(match error.code {
            Code::NotImplemented => S3Error::new(Code::AccessDenied),
            _ => error,
        });
    }
    for grant in &child(&root, "AccessControlList")?.children {
        if grant.name != "Grant" {
            return Err(malformed());
        }
        let permission = text(grant, "Permission")?;
        let permission = GRANT_HEADERS.into_iter().find(|(_, it)| *it == permission);
        let (_, permission) = permission.ok_or_else(malformed)?;
        let grantee = child(grant, "Grantee")?;
        match grantee.kind.as_ref() {
            "CanonicalUser" => grants.give_user(text(grantee, "ID")?, "CanonicalUser/ID")?,
            "Group" => grants.give_group(text(grantee, "URI")?, permission, "Group/URI")?,
            "AmazonCustomerByEmail" => return Err(by_mail()),
            _ => return Err(malformed()),
        }
    }
    grants.canned()
}

/// What a document's fault is called where the document is a list.
fn malformed() -> S3Error {
    S3Error::new(Code::MalformedACLError)
}

fn child<'e, 'd>(element: &'e Element<'d>, name: &str) -> Result<&'e Element<'d>, S3Error> {
    let found = element.child(name).map_err(|_| malformed())?;
    found.ok_or_else(malformed)
}

fn text<'e>(element: &'e Element<'_>, name: &str) -> Result<&'e str, S3Error> {
    let found = element.child_text(name).map_err(|_| malformed())?;
    found.map(str::trim).ok_or_else(malformed)
}

fn by_mail() -> S3Error {
    not_implemented("A grant to an e-mail address")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const OWNER: &str = "0000000000000000000000000000000000000000000000000000000000000001";
    const OTHER: &str = "0000000000000000000000000000000000000000000000000000000000000002";

    fn headers(given: &[(&'static str, String)]) -> Result<Option<Canned>, Code> {
        let mut map = HeaderMap::new();
        for (name, value) in given {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        from_headers(&map, OWNER).map_err(|error| error.code)
    }

    fn document(owner: &str, grants: &str) -> Result<Canned, Code> {
        let document = format!(
            "<AccessControlPolicy xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Owner><ID>{owner}</ID></Owner>\
             <AccessControlList>{grants}</AccessControlList></AccessControlPolicy>"
        );
        from_document(document.as_bytes(), OWNER).map_err(|error| error.code)
    }

    fn grant(kind: &str, element: &str, id: &str, permission: &str) -> String {
        format!(
            "<Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{kind}\"><{element}>{id}\
             </{element}></Grantee><Permission>{permission}</Permission></Grant>"
        )
    }

    #[test]
    fn headers_that_say_a_canned_list_are_it() {
        assert_eq!(headers(&[]), Ok(None));
        let own = ("x-amz-grant-full-control", format!("id=\"{OWNER}\""));
        assert_eq!(
            headers(std::slice::from_ref(&own)),
            Ok(Some(Canned::Private))
        );
        let read = ("x-amz-grant-read", format!("uri={ALL_USERS}, id={OWNER}"));
        assert_eq!(headers(&[own, read.clone()]), Ok(Some(Canned::PublicRead)));
        let write = ("x-amz-grant-write", format!("uri=\"{ALL_USERS}\""));
        assert_eq!(
            headers(&[read.clone(), write.clone()]),
            Ok(Some(Canned::PublicReadWrite))
        );
        let known = ("x-amz-grant-read", format!("uri={AUTHENTICATED_USERS}"));
        assert_eq!(
            headers(std::slice::from_ref(&known)),
            Ok(Some(Canned::AuthenticatedRead))
        );
        assert_eq!(headers(&[write]), Err(Code::NotImplemented));
        assert_eq!(headers(&[read, known]), Err(Code::NotImplemented));
        for (value, code) in [
            (format!("id={OTHER}"), Code::NotImplemented),
            (format!("uri={LOG_DELIVERY}"), Code::NotImplemented),
            ("emailAddress=a@b.c".to_owned(), Code::NotImplemented),
            ("id=wrong".to_owned(), Code::InvalidArgument),
            ("uri=http://nobody".to_owned(), Code::InvalidArgument),
            ("who=me".to_owned(), Code::InvalidArgument),
            (String::new(), Code::InvalidArgument),
        ] {
            assert_eq!(headers(&[("x-amz-grant-read", value)]), Err(code));
        }
    }

    #[test]
    fn documents_that_say_a_canned_list_are_it() {
        let own = grant("CanonicalUser", "ID", OWNER, "FULL_CONTROL");
        let all = grant("Group", "URI", ALL_USERS, "READ");
        assert_eq!(document(OWNER, &own), Ok(Canned::Private));
        assert_eq!(document(OWNER, ""), Ok(Canned::Private));
        assert_eq!(
            document(OWNER, &format!("{own}{all}")),
            Ok(Canned::PublicRead)
        );
        for (owner, grants, code) in [
            (OTHER, own.clone(), Code::AccessDenied),
            ("wrong", own.clone(), Code::InvalidArgument),
            (
                OWNER,
                grant("CanonicalUser", "ID", OTHER, "READ"),
                Code::NotImplemented,
            ),
            (
                OWNER,
                grant("Group", "URI", ALL_USERS, "READ_ACP"),
                Code::NotImplemented,
            ),
            (
                OWNER,
                grant("Group", "URI", "http://nobody", "READ"),
                Code::InvalidArgument,
            ),
            (
                OWNER,
                grant("CanonicalUser", "ID", OWNER, "ALL"),
                Code::MalformedACLError,
            ),
            (
                OWNER,
                grant("Robot", "ID", OWNER, "READ"),
                Code::MalformedACLError,
            ),
            (OWNER, "<Deny/>".to_owned(), Code::MalformedACLError),
        ] {
            assert_eq!(document(owner, &grants), Err(code), "{grants}");
        }
        let refused = from_document(b"<AccessControlPolicy/>", OWNER).unwrap_err();
        assert_eq!(refused.code, Code::MalformedACLError);
    }
}
