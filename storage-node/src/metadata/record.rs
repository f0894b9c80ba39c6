//! What is known of an object version, an upload and a part.

use std::fmt;
use std::str::FromStr;

use holdfast_placement::ids::{ChunkSetId, SiteId, UploadId};
use holdfast_placement::protection::Protection;
use holdfast_placement::seams::UnixMillis;
use serde::{Deserialize, Serialize};

use super::lock::VersionLock;

/// A version's id: 48 bits of milliseconds and 80 bits that make it unique, so that ids order by time.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct VersionId(pub [u8; 16]);

impl VersionId {
    /// When the version was committed.
    pub fn committed(&self) -> UnixMillis {
        let [a, b, c, d, e, f, ..] = self.0;
        UnixMillis(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }
}

/// An entity tag, without its quotes. `Display` gives S3's form: 32 hex digits, or those, `-` and the number of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Etag {
    /// MD5 of the body.
    Md5([u8; 16]),
    /// MD5 of the parts' MD5s, and how many parts.
    Multipart([u8; 16], u16),
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Etag::Md5(md5) => f.write_str(&hex::encode(md5)),
            Etag::Multipart(md5, parts) => write!(f, "{}-{parts}", hex::encode(md5)),
        }
    }
}

/// The checksum algorithms of S3 (API reference, "Checking object integrity").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// Whether a multipart object's checksum is that of its bytes or that of its parts' checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumKind {
    FullObject,
    Composite,
}

/// A checksum. `value` is big endian, 4 to 32 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectChecksum {
    pub algorithm: ChecksumAlgorithm,
    pub kind: ChecksumKind,
    pub value: Vec<u8>,
}

/// What a client may set and gets back as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectHeaders {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_language: Option<String>,
    pub content_disposition: Option<String>,
    pub cache_control: Option<String>,
    pub expires: Option<String>,
    pub website_redirect: Option<String>,
    /// As sent; `None` is `STANDARD`.
    pub storage_class: Option<String>,
    /// `x-amz-meta-*` without the prefix, lower case, in the order sent. A name that begins with `:`, as none of a header
    /// can, is no client's: [`ACL_ATTRIBUTE`].
    pub user_metadata: Vec<(String, String)>,
}

/// Says which canned access control list an object has, if it is not private. Persisted.
const ACL_ATTRIBUTE: &str = ":acl";

/// Says who began an upload: canonical user id, a line feed, display name. Persisted.
const INITIATOR_ATTRIBUTE: &str = ":initiator";

impl ObjectHeaders {
    /// Who began the upload: canonical user id and display name, if it is known.
    pub fn initiator(&self) -> Option<(&str, &str)> {
        let mut found = self.user_metadata.iter();
        let (_, value) = found.find(|(name, _)| name == INITIATOR_ATTRIBUTE)?;
        value.split_once('\n')
    }

    /// Notes who begins the upload; `None`: nobody, as in the object that it becomes.
    pub fn set_initiator(&mut self, initiator: Option<(&str, &str)>) {
        self.user_metadata
            .retain(|(name, _)| name != INITIATOR_ATTRIBUTE);
        if let Some((id, name)) = initiator {
            let attribute = (INITIATOR_ATTRIBUTE.to_owned(), format!("{id}\n{name}"));
            self.user_metadata.push(attribute);
        }
    }

    /// The canned access control list; `None`: private.
    pub fn acl(&self) -> Option<&str> {
        let mut found = self.user_metadata.iter();
        found
            .find(|(name, _)| name == ACL_ATTRIBUTE)
            .map(|(_, value)| value.as_str())
    }

    /// Sets the canned access control list; `None`: private.
    pub fn set_acl(&mut self, acl: Option<&str>) {
        self.user_metadata.retain(|(name, _)| name != ACL_ATTRIBUTE);
        if let Some(acl) = acl {
            let attribute = (ACL_ATTRIBUTE.to_owned(), acl.to_owned());
            self.user_metadata.push(attribute);
        }
    }

    /// What clients gave as `x-amz-meta-*`.
    pub fn client_metadata(&self) -> impl Iterator<Item = &(String, String)> {
        let all = self.user_metadata.iter();
        all.filter(|(name, _)| !name.starts_with(':'))
    }
}

/// Where a version's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// No bytes, or a delete marker.
    Empty,
    /// In the metadata, beside the record.
    Inline,
    /// In chunks of one set.
    Chunked(ChunkedBody),
    /// In parts: the table is stored under `table`, `parts` long; HEAD and LIST never read it.
    Multipart { table: UploadId, parts: u16 },
}

/// A body in chunks: all facts that a reader needs to find its shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkedBody {
    pub set: ChunkSetId,
    /// Bytes in all.
    pub len: u64,
    /// Bytes a chunk; the last is shorter.
    pub chunk_len: u32,
    pub protection: Protection,
    /// The site in whose ring the chunks are.
    pub site: SiteId,
}

/// A shard of a body that was not on its drive when the body was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MissedSlot {
    pub chunk: u32,
    pub slot: u8,
}

/// What a listing needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionSummary {
    pub modified: UnixMillis,
    pub size: u64,
    pub etag: Etag,
    pub version: VersionId,
    /// Shown as `null`: written while the bucket was not versioned.
    pub null: bool,
    pub delete_marker: bool,
    /// For `ChecksumAlgorithm` and `ChecksumType` in listings.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// An object version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    pub summary: VersionSummary,
    pub body: Body,
    pub checksum: Option<ObjectChecksum>,
    pub headers: ObjectHeaders,
    pub tags: Vec<(String, String)>,
    pub lock: VersionLock,
}

/// Names a version of a key. In commands: the order of variants is persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VersionRef {
    /// The one that was written while the bucket was not versioned, or while its versioning was suspended.
    Null,
    /// Any other.
    Id(VersionId),
}

impl VersionSummary {
    /// What the version is called.
    pub fn name(&self) -> VersionRef {
        match self.null {
            true => VersionRef::Null,
            false => VersionRef::Id(self.version),
        }
    }
}

/// `null`, or 32 hex digits.
impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VersionRef::Null => f.write_str("null"),
            VersionRef::Id(id) => f.write_str(&hex::encode(id.0)),
        }
    }
}

impl FromStr for VersionRef {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        if text == "null" {
            return Ok(VersionRef::Null);
        }
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map_err(|_| UnknownVersion)?;
        // One way to write each.
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        is_lower
            .then_some(VersionRef::Id(VersionId(id)))
            .ok_or(UnknownVersion)
    }
}

/// The text names no version that can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no version id")]
pub struct UnknownVersion;

/// What is found under a key, or under a key and a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lookup<T> {
    Found(T),
    /// A delete marker.
    Marker(VersionSummary),
    #[default]
    Nothing,
}

impl<T> Lookup<T> {
    /// The object that was found, if one was.
    pub fn found(self) -> Option<T> {
        match self {
            Lookup::Found(found) => Some(found),
            Lookup::Marker(_) | Lookup::Nothing => None,
        }
    }
}

/// A multipart upload under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRecord {
    pub upload: UploadId,
    pub key: String,
    pub initiated: UnixMillis,
    pub headers: ObjectHeaders,
    pub tags: Vec<(String, String)>,
    /// As `CreateMultipartUpload` asked; `None` when it did not.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// A part: of an upload under way, or of a completed object's part table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    pub number: u16,
    pub size: u64,
    pub md5: [u8; 16],
    pub modified: UnixMillis,
    pub checksum: Option<ObjectChecksum>,
    /// `Empty` or `Chunked`; parts are never inline.
    pub body: Body,
}
