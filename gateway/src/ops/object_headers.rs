//! The headers that an object keeps: content headers, user metadata, storage class
//! (user guide, "Working with object metadata").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_storage_node::metadata::{ObjectHeaders, StorageClass};
use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, EXPIRES,
    HeaderName,
};
use http::{HeaderMap, HeaderValue};

use super::access::Canned;
use super::failure::invalid_argument;
use super::response::set;
use super::website::REDIRECT_LOCATION;
use crate::error::{Code, S3Error};
use crate::payload::stored_content_encoding;
use crate::router::{Query, not_implemented};

/// Bytes of names and values of user metadata at most.
const USER_METADATA_LEN_MAX: usize = 2048;

/// Bytes of a redirect of an object at most.
const REDIRECT_LEN_MAX: usize = 2048;

const USER_PREFIX: &str = "x-amz-meta-";

/// What S3 answers for objects that were stored without a type.
const DEFAULT_TYPE: &str = "binary/octet-stream";

/// Reads the headers that a new object is to keep, in a bucket of `owner`.
pub fn from_request(headers: &HeaderMap, owner: &str) -> Result<ObjectHeaders, S3Error> {
    let keep = |name: HeaderName| headers.get(name).map(text).filter(|text| !text.is_empty());
    let mut kept = ObjectHeaders {
        content_type: keep(CONTENT_TYPE),
        content_encoding: stored_content_encoding(headers)?,
        content_language: keep(CONTENT_LANGUAGE),
        content_disposition: keep(CONTENT_DISPOSITION),
        cache_control: keep(CACHE_CONTROL),
        expires: keep(EXPIRES),
        website_redirect: website_redirect(headers)?,
        storage_class: storage_class(headers)?,
        user_metadata: user_metadata(headers)?,
    };
    kept.set_acl(acl(headers, owner)?);
    Ok(kept)
}

/// Whether a request brings user metadata.
pub fn has_user_metadata(headers: &HeaderMap) -> bool {
    let mut names = headers.keys();
    names.any(|name| name.as_str().starts_with(USER_PREFIX))
}

/// Where the object leads as a page of a website.
fn website_redirect(headers: &HeaderMap) -> Result<Option<String>, S3Error> {
    let Some(value) = headers.get(&REDIRECT_LOCATION) else {
        return Ok(None);
    };
    let place = text(value);
    let leads = ["/", "http://", "https://"]
        .iter()
        .any(|start| place.starts_with(start));
    match leads && place.len() <= REDIRECT_LEN_MAX {
        true => Ok(Some(place)),
        false => Err(S3Error::with(
            Code::InvalidRedirectLocation,
            "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
        )),
    }
}

/// The canned access control list that a new object is to have.
fn acl(headers: &HeaderMap, owner: &str) -> Result<Option<&'static str>, S3Error> {
    let canned = Canned::from_headers(headers, owner)?;
    Ok(canned.and_then(Canned::kept))
}

/// A value as text: UTF-8, or else ISO 8859-1.
fn text(value: &HeaderValue) -> String {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => text.to_owned(),
        Err(_) => value
            .as_bytes()
            .iter()
            .map(|byte| char::from(*byte))
            .collect(),
    }
}

fn user_metadata(headers: &HeaderMap) -> Result<Vec<(String, String)>, S3Error> {
    let mut metadata: Vec<(String, String)> = Vec::new();
    let mut len = 0;
    // All values of a name follow each other, whatever the order in which they came.
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(USER_PREFIX) else {
            continue;
        };
        let value = text(value);
        len += value.len();
        match metadata.last_mut() {
            Some((last, joined)) if last == name => {
                joined.push(',');
                joined.push_str(&value);
            }
            _ => {
                len += name.len();
                metadata.push((name.to_owned(), value));
            }
        }
    }
    if len > USER_METADATA_LEN_MAX {
        return Err(S3Error::new(Code::MetadataTooLarge)
            .detail("Size", len.to_string())
            .detail("MaxSizeAllowed", USER_METADATA_LEN_MAX.to_string()));
    }
    Ok(metadata)
}

/// The storage class to remember; `None` is `STANDARD`.
pub fn storage_class(headers: &HeaderMap) -> Result<Option<String>, S3Error> {
    let Some(value) = headers.get("x-amz-storage-class") else {
        return Ok(None);
    };
    let name = value.to_str().unwrap_or_default();
    if let Some(class) = StorageClass::named(name) {
        return Ok(class.kept());
    }
    match name {
        // From the archive objects have to be restored; the others are of other kinds of buckets.
        "GLACIER" | "DEEP_ARCHIVE" | "OUTPOSTS" | "SNOW" | "EXPRESS_ONEZONE" | "FSX_OPENZFS"
        | "FSX_ONTAP" => Err(not_implemented(&format!("The storage class {name}"))),
        _ => Err(S3Error::new(Code::InvalidStorageClass).detail("StorageClassRequested", name)),
    }
}

/// `response-*` parameters of GET and HEAD with the header that each replaces.
const OVERRIDES: [(&str, HeaderName); 6] = [
    ("response-content-type", CONTENT_TYPE),
    ("response-content-language", CONTENT_LANGUAGE),
    ("response-expires", EXPIRES),
    ("response-cache-control", CACHE_CONTROL),
    ("response-content-disposition", CONTENT_DISPOSITION),
    ("response-content-encoding", CONTENT_ENCODING),
];

/// Whether a request wants to see other headers than the object's.
pub fn overrides_any(query: &Query) -> bool {
    OVERRIDES.iter().any(|(parameter, _)| query.has(parameter))
}

/// Shows an object's headers in a response, and what the request wants to see instead.
pub fn show(object: &ObjectHeaders, query: &Query, headers: &mut HeaderMap) -> Result<(), S3Error> {
    let content_type = object.content_type.as_deref().unwrap_or(DEFAULT_TYPE);
    set(headers, CONTENT_TYPE, content_type);
    for (name, value) in [
        (CONTENT_ENCODING, &object.content_encoding),
        (CONTENT_LANGUAGE, &object.content_language),
        (CONTENT_DISPOSITION, &object.content_disposition),
        (CACHE_CONTROL, &object.cache_control),
        (EXPIRES, &object.expires),
    ] {
        if let Some(value) = value {
            set(headers, name, value);
        }
    }
    if let Some(class) = &object.storage_class {
        set(
            headers,
            HeaderName::from_static("x-amz-storage-class"),
            class,
        );
    }
    if let Some(place) = &object.website_redirect {
        set(headers, REDIRECT_LOCATION.clone(), place);
    }
    show_user_metadata(object, headers);
    for (parameter, name) in OVERRIDES {
        if let Some(value) = query.get(parameter) {
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| invalid_argument(parameter, value, "Not a header value."))?;
            headers.insert(name, value);
        }
    }
    Ok(())
}

/// What is not ASCII is shown as an RFC 2047 encoded word; what no header can hold is counted in
/// `x-amz-missing-meta`.
fn show_user_metadata(object: &ObjectHeaders, headers: &mut HeaderMap) {
    let mut missing = 0u32;
    for (name, value) in object.client_metadata() {
        let shown = if value.is_ascii() {
            HeaderValue::from_str(value)
        } else {
            HeaderValue::try_from(format!("=?UTF-8?B?{}?=", STANDARD.encode(value)))
        };
        match (HeaderName::try_from(format!("{USER_PREFIX}{name}")), shown) {
            (Ok(name), Ok(value)) => {
                headers.insert(name, value);
            }
            _ => missing += 1,
        }
    }
    if missing > 0 {
        headers.insert(
            HeaderName::from_static("x-amz-missing-meta"),
            missing.into(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[test]
    fn user_metadata_survives() {
        let pairs = headers(&[
            ("x-amz-meta-a", b"1"),
            ("x-amz-meta-b", "Ä".as_bytes()),
            ("x-amz-meta-c", b"\xC4"),
            ("x-amz-meta-a", b"2"),
        ]);
        let object = ObjectHeaders {
            user_metadata: user_metadata(&pairs).unwrap(),
            ..ObjectHeaders::default()
        };
        let mut shown = HeaderMap::new();
        show(&object, &Query::default(), &mut shown).unwrap();
        assert_eq!(shown["x-amz-meta-a"], "1,2");
        assert_eq!(shown["x-amz-meta-b"], "=?UTF-8?B?w4Q=?=");
        assert_eq!(shown["x-amz-meta-c"], "=?UTF-8?B?w4Q=?=");
        assert_eq!(shown[CONTENT_TYPE], DEFAULT_TYPE);
    }

    #[test]
    fn user_metadata_is_bounded() {
        let most = "x".repeat(2047);
        assert!(user_metadata(&headers(&[("x-amz-meta-a", most.as_bytes())])).is_ok());
        let more = "x".repeat(2048);
        let refused = user_metadata(&headers(&[("x-amz-meta-a", more.as_bytes())]));
        assert_eq!(refused.unwrap_err().code, Code::MetadataTooLarge);
    }

    #[test]
    fn storage_classes() {
        let of = |class: &'static [u8]| {
            storage_class(&headers(&[("x-amz-storage-class", class)])).map_err(|e| e.code)
        };
        assert_eq!(of(b"STANDARD"), Ok(None));
        for class in StorageClass::ALL {
            assert_eq!(of(class.name().as_bytes()), Ok(class.kept()));
        }
        assert_eq!(of(b"GLACIER"), Err(Code::NotImplemented));
        assert_eq!(of(b"standard"), Err(Code::InvalidStorageClass));
    }

    #[test]
    fn overrides_win() {
        let object = ObjectHeaders {
            content_type: Some("a/b".into()),
            ..ObjectHeaders::default()
        };
        let query = Query::parse(Some("response-content-type=c%2Fd&response-expires=x")).unwrap();
        let mut shown = HeaderMap::new();
        show(&object, &query, &mut shown).unwrap();
        assert_eq!(shown[CONTENT_TYPE], "c/d");
        assert_eq!(shown[EXPIRES], "x");
        let broken = Query::parse(Some("response-content-type=a%0Ab")).unwrap();
        assert!(show(&object, &broken, &mut shown).is_err());
    }
}
