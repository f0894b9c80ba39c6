//! The request bodies that are read.

use holdfast_storage_node::metadata::{ChecksumAlgorithm, ChecksumKind, ObjectChecksum};

use crate::ops::cors::{CorsRule, RULES_MAX};

use super::reader::{Element, Limits, malformed, parse};
use crate::checksum;
use crate::error::{Code, S3Error};
use crate::ops::failure::invalid_argument;

/// Keys of a `DeleteObjects` at most.
pub const DELETE_KEYS_MAX: usize = 1000;

/// Parts of an upload at most.
pub const PARTS_MAX: usize = 10_000;

/// Bytes of a `CreateBucketConfiguration` or `Tagging` at most.
/// What most documents may be.
pub const SMALL_LEN_MAX: usize = 64 * 1024;

/// Bytes of a `Delete` at most: 1000 keys of 1024 bytes, with room for escapes.
pub const DELETE_LEN_MAX: usize = 2 * 1024 * 1024;

/// Bytes of a `CompleteMultipartUpload` at most: 10,000 parts with a checksum each.
pub const COMPLETE_LEN_MAX: usize = 5 * 1024 * 1024;

pub const SMALL: Limits = Limits {
    len_max: SMALL_LEN_MAX,
    depth_max: 5,
    elements_max: 1000,
};

/// `CreateBucketConfiguration`.
pub fn create_bucket(document: &[u8]) -> Result<NewBucket, S3Error> {
    let root = parse(document, "CreateBucketConfiguration", SMALL)?;
    for child in &root.children {
        if ["Location", "Bucket"].contains(&child.name.as_ref()) {
            return Err(S3Error::with(
                Code::NotImplemented,
                format!("Buckets with {} are not implemented.", child.name),
            ));
        }
    }
    root.expect_only(&["LocationConstraint", "Tags"])?;
    let tags = root.child("Tags")?;
    Ok(NewBucket {
        location: root.child_text("LocationConstraint")?.map(str::to_owned),
        tags: tags.map(tag_set).transpose()?.unwrap_or_default(),
    })
}

/// What `CreateBucketConfiguration` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewBucket {
    pub location: Option<String>,
    pub tags: Vec<(String, String)>,
}

/// A key to delete, and on what condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteKey {
    pub key: String,
    pub version: Option<String>,
    pub etag: Option<String>,
    /// An HTTP date or an ISO 8601 time.
    pub modified: Option<String>,
    pub size: Option<u64>,
}

/// `Delete`: keys and `Quiet`.
pub fn delete_objects(document: &[u8]) -> Result<(Vec<DeleteKey>, bool), S3Error> {
    let limits = Limits {
        len_max: DELETE_LEN_MAX,
        depth_max: 4,
        elements_max: 8 * DELETE_KEYS_MAX,
    };
    let root = parse(document, "Delete", limits)?;
    root.expect_only(&["Object", "Quiet"])?;
    let quiet = match root.child_text("Quiet")?.map(str::trim) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(malformed()),
    };
    let objects = || root.children.iter().filter(|child| child.name == "Object");
    let count = objects().count();
    if count == 0 || count > DELETE_KEYS_MAX {
        return Err(malformed());
    }
    let mut keys = Vec::with_capacity(count);
    for object in objects() {
        object.expect_only(&["Key", "VersionId", "ETag", "LastModifiedTime", "Size"])?;
        let text = |name| Ok::<_, S3Error>(object.child_text(name)?.map(str::to_owned));
        let key = text("Key")?.filter(|key| !key.is_empty());
        let size = match object.child_text("Size")? {
            Some(size) => Some(size.trim().parse().map_err(|_| malformed())?),
            None => None,
        };
        keys.push(DeleteKey {
            key: key.ok_or_else(malformed)?,
            version: text("VersionId")?,
            etag: text("ETag")?,
            modified: text("LastModifiedTime")?,
            size,
        });
    }
    Ok((keys, quiet))
}

/// A part as `CompleteMultipartUpload` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPart {
    pub number: u32,
    /// Without quotes.
    pub etag: String,
    pub checksum: Option<ObjectChecksum>,
}

/// Elements of a part's checksums.
pub const CHECKSUM_ELEMENTS: [(&str, ChecksumAlgorithm); 5] = [
    ("ChecksumCRC32", ChecksumAlgorithm::Crc32),
    ("ChecksumCRC32C", ChecksumAlgorithm::Crc32c),
    ("ChecksumCRC64NVME", ChecksumAlgorithm::Crc64Nvme),
    ("ChecksumSHA1", ChecksumAlgorithm::Sha1),
    ("ChecksumSHA256", ChecksumAlgorithm::Sha256),
];

/// `CompleteMultipartUpload`: the parts as listed, in whatever order.
pub fn complete_upload(document: &[u8]) -> Result<Vec<NamedPart>, S3Error> {
    let limits = Limits {
        len_max: COMPLETE_LEN_MAX,
        depth_max: 4,
        elements_max: 8 * PARTS_MAX + 1,
    };
    let root = parse(document, "CompleteMultipartUpload", limits)?;
    root.expect_only(&["Part"])?;
    if root.children.is_empty() || root.children.len() > PARTS_MAX {
        return Err(malformed());
    }
    root.children.iter().map(named_part).collect()
}

fn named_part(part: &Element<'_>) -> Result<NamedPart, S3Error> {
    let mut named = NamedPart {
        number: 0,
        etag: String::new(),
        checksum: None,
    };
    let (mut has_number, mut has_etag) = (false, false);
    for child in &part.children {
        if !child.children.is_empty() {
            return Err(malformed());
        }
        let text = child.text.trim();
        match child.name.as_ref() {
            "PartNumber" if !has_number => {
                named.number = match text.parse::<i64>() {
                    // What is out of range is no number of a part, and 0 is none either.
                    Ok(number) => u32::try_from(number).unwrap_or(0),
                    Err(_) => return Err(malformed()),
                };
                has_number = true;
            }
            "ETag" if !has_etag => {
                named.etag = text.trim_matches('"').to_owned();
                has_etag = true;
            }
            name => {
                let algorithm = CHECKSUM_ELEMENTS
                    .iter()
                    .find(|(element, _)| *element == name)
                    .map(|(_, algorithm)| *algorithm)
                    .ok_or_else(malformed)?;
                let wrong = |message: &str| invalid_argument(name, text, message);
                if named.checksum.is_some() {
                    return Err(wrong("A part has one checksum."));
                }
                let value = checksum::parse(algorithm, text);
                named.checksum = Some(ObjectChecksum {
                    algorithm,
                    kind: ChecksumKind::FullObject,
                    value: value.ok_or_else(|| wrong("The checksum of a part is not valid."))?,
                });
            }
        }
    }
    if has_number && has_etag {
        Ok(named)
    } else {
        Err(malformed())
    }
}

/// `Tagging`: the tags, not yet judged.
pub fn tagging(document: &[u8]) -> Result<Vec<(String, String)>, S3Error> {
    let root = parse(document, "Tagging", SMALL)?;
    root.expect_only(&["TagSet"])?;
    root.child("TagSet")?.map_or(Ok(Vec::new()), tag_set)
}

/// The tags in an element.
fn tag_set(set: &Element<'_>) -> Result<Vec<(String, String)>, S3Error> {
    set.expect_only(&["Tag"])?;
    let mut tags = Vec::with_capacity(set.children.len());
    for tag in &set.children {
        tag.expect_only(&["Key", "Value"])?;
        let key = tag.child_text("Key")?.ok_or_else(malformed)?;
        let value = tag.child_text("Value")?.ok_or_else(malformed)?;
        tags.push((key.to_owned(), value.to_owned()));
    }
    Ok(tags)
}

/// `RequestPaymentConfiguration`: who pays.
pub fn payer(document: &[u8]) -> Result<String, S3Error> {
    let root = parse(document, "RequestPaymentConfiguration", SMALL)?;
    only_text(&root, "Payer")
}

/// `OwnershipControls`: how objects are owned.
pub fn object_ownership(document: &[u8]) -> Result<String, S3Error> {
    let root = parse(document, "OwnershipControls", SMALL)?;
    root.expect_only(&["Rule"])?;
    only_text(
        root.child("Rule")?.ok_or_else(malformed)?,
        "ObjectOwnership",
    )
}

/// The text of the one child that an element must have and no other.
fn only_text(element: &Element<'_>, name: &str) -> Result<String, S3Error> {
    element.expect_only(&[name])?;
    let text = element.child_text(name)?.ok_or_else(malformed)?;
    Ok(text.to_owned())
}

/// `CORSConfiguration`: the rules, not yet judged.
pub fn cors(document: &[u8]) -> Result<Vec<CorsRule>, S3Error> {
    let limits = Limits {
        elements_max: 10_000,
        ..SMALL
    };
    let root = parse(document, "CORSConfiguration", limits)?;
    root.expect_only(&["CORSRule"])?;
    if root.children.is_empty() {
        return Err(malformed());
    }
    if root.children.len() > RULES_MAX {
        return Err(S3Error::with(
            Code::InvalidRequest,
            format!(
                "The number of CORS rules should not exceed allowed limit of {RULES_MAX} rules."
            ),
        ));
    }
    root.children.iter().map(cors_rule).collect()
}

fn cors_rule(element: &Element<'_>) -> Result<CorsRule, S3Error> {
    let mut rule = CorsRule {
        id: element.child_text("ID")?.map(str::to_owned),
        ..CorsRule::default()
    };
    if let Some(secs) = element.child_text("MaxAgeSeconds")? {
        rule.max_age_secs = Some(secs.trim().parse().map_err(|_| malformed())?);
    }
    for child in &element.children {
        if !child.children.is_empty() {
            return Err(malformed());
        }
        let values = match child.name.as_ref() {
            "AllowedHeader" => &mut rule.allowed_headers,
            "AllowedMethod" => &mut rule.allowed_methods,
            "AllowedOrigin" => &mut rule.allowed_origins,
            "ExposeHeader" => &mut rule.expose_headers,
            "ID" | "MaxAgeSeconds" => continue,
            _ => return Err(malformed()),
        };
        values.push(child.text.clone().into_owned());
    }
    Ok(rule)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    #[test]
    fn reads_a_bucket_configuration() {
        let document = b"<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>";
        assert_eq!(
            create_bucket(document).unwrap().location.as_deref(),
            Some("eu-west-1")
        );
        assert_eq!(
            create_bucket(b"<CreateBucketConfiguration/>").unwrap(),
            NewBucket::default()
        );
        let with_bucket = b"<CreateBucketConfiguration><Bucket/></CreateBucketConfiguration>";
        assert_eq!(
            create_bucket(with_bucket).unwrap_err().code,
            Code::NotImplemented
        );
    }

    #[test]
    fn reads_a_deletion() {
        let document = b"<Delete><Quiet>true</Quiet><Object><Key> a/../ </Key><VersionId>null</VersionId></Object><Object><Key>b</Key><ETag>\"e\"</ETag><Size>5</Size></Object></Delete>";
        let (keys, quiet) = delete_objects(document).unwrap();
        assert!(quiet);
        assert_eq!(keys[0].key, " a/../ ");
        assert_eq!(keys[0].version.as_deref(), Some("null"));
        assert_eq!(keys[1].size, Some(5));
        for wrong in [
            "<Delete/>",
            "<Delete><Object/></Delete>",
            "<Delete><Object><Key/></Object></Delete>",
            "<Delete><Object><Key>a</Key><Key>b</Key></Object></Delete>",
            "<Delete><Object><Key>a</Key><Size>-1</Size></Object></Delete>",
            "<Delete><Quiet>perhaps</Quiet><Object><Key>a</Key></Object></Delete>",
            "<Delete><Key>a</Key></Delete>",
        ] {
            assert!(delete_objects(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let many = format!(
            "<Delete>{}</Delete>",
            "<Object><Key>a</Key></Object>".repeat(1001)
        );
        assert!(delete_objects(many.as_bytes()).is_err());
    }

    #[test]
    fn reads_a_completion() {
        let document = b"<CompleteMultipartUpload><Part><ETag>&quot;0a&quot;</ETag><PartNumber>1</PartNumber><ChecksumCRC32>AAAAAQ==</ChecksumCRC32></Part></CompleteMultipartUpload>";
        let parts = complete_upload(document).unwrap();
        assert_eq!((parts[0].number, parts[0].etag.as_str()), (1, "0a"));
        assert_eq!(parts[0].checksum.as_ref().unwrap().value, [0, 0, 0, 1]);
        for wrong in [
            "<CompleteMultipartUpload/>",
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>",
            "<CompleteMultipartUpload><Part><PartNumber>x</PartNumber><ETag>a</ETag></Part></CompleteMultipartUpload>",
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>a</ETag><Other/></Part></CompleteMultipartUpload>",
        ] {
            let refused = complete_upload(wrong.as_bytes()).unwrap_err();
            assert_eq!(refused.code, Code::MalformedXML, "{wrong}");
        }
        for checksums in [
            "<ChecksumCRC32>?</ChecksumCRC32>",
            "<ChecksumCRC32>AAAA</ChecksumCRC32>",
            "<ChecksumCRC32>AAAAAQ==</ChecksumCRC32><ChecksumCRC32C>AAAAAQ==</ChecksumCRC32C>",
        ] {
            let part = format!("<Part><PartNumber>1</PartNumber><ETag>a</ETag>{checksums}</Part>");
            let document = format!("<CompleteMultipartUpload>{part}</CompleteMultipartUpload>");
            let refused = complete_upload(document.as_bytes()).unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument, "{checksums}");
        }
    }

    #[test]
    fn reads_cors_rules() {
        let document = b"<CORSConfiguration><CORSRule><ID>a</ID><AllowedOrigin>*</AllowedOrigin><AllowedMethod>GET</AllowedMethod><AllowedMethod>PUT</AllowedMethod><MaxAgeSeconds>30</MaxAgeSeconds></CORSRule></CORSConfiguration>";
        let rules = cors(document).unwrap();
        assert_eq!(rules[0].allowed_methods, ["GET", "PUT"]);
        assert_eq!(rules[0].max_age_secs, Some(30));
        assert_eq!(rules[0].id.as_deref(), Some("a"));
        assert!(cors(b"<CORSConfiguration/>").is_err());
        assert!(
            cors(b"<CORSConfiguration><CORSRule><Other/></CORSRule></CORSConfiguration>").is_err()
        );
    }

    #[test]
    fn reads_tags() {
        let document = b"<Tagging><TagSet><Tag><Key>k</Key><Value/></Tag></TagSet></Tagging>";
        assert_eq!(
            tagging(document).unwrap(),
            [("k".to_owned(), String::new())]
        );
        assert_eq!(tagging(b"<Tagging/>").unwrap(), []);
        assert!(tagging(b"<Tagging><Tag/></Tagging>").is_err());
        assert!(tagging(b"<Tagging><TagSet><Tag><Key>k</Key></Tag></TagSet></Tagging>").is_err());
        assert_eq!(tagging(b"<Tagging><TagSet/></Tagging>").unwrap(), []);
    }

    proptest! {
        #[test]
        fn never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = create_bucket(&bytes);
            let _ = delete_objects(&bytes);
            let _ = complete_upload(&bytes);
            let _ = tagging(&bytes);
            let _ = cors(&bytes);
        }

        #[test]
        fn never_panic_on_almost_right(body in "(</?(Delete|Object|Key|Part|PartNumber|ETag|Size|TagSet|Tag|Value|Quiet|CompleteMultipartUpload)/?>|[a1 ]){0,40}") {
            let _ = delete_objects(format!("<Delete>{body}</Delete>").as_bytes());
            let _ = complete_upload(format!("<CompleteMultipartUpload>{body}</CompleteMultipartUpload>").as_bytes());
            let _ = tagging(format!("<Tagging><TagSet>{body}</TagSet></Tagging>").as_bytes());
        }
    }
}
