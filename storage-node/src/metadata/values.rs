//! Values of a metadata group's state: a format byte, then postcard.

use holdfast_placement::ids::{BucketId, Lane};
use holdfast_placement::seams::IndexError;
use serde::{Deserialize, Serialize};

use super::classes::StorageClass;
use super::lock::VersionLock;
use super::record::{
    Body, ChecksumAlgorithm, ChecksumKind, ObjectChecksum, ObjectHeaders, PartRecord,
    VersionRecord, VersionSummary,
};
use super::versioning::BucketVersioning;

/// Format of all values here; persisted.
const FORMAT: u8 = 1;

/// What of a version neither a listing nor an overwrite reads. Encoded details may end in an encoded [`VersionLock`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionDetails {
    pub checksum: Option<ObjectChecksum>,
    pub headers: ObjectHeaders,
    pub tags: Vec<(String, String)>,
}

/// Whether a lane takes writes, and what it makes of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneState {
    /// The bucket's deletion that closed the lane, if it is closed.
    pub closed_by: Option<u64>,
    /// Deletions up to this one are cancelled and cannot close the lane.
    pub cancelled: u64,
    /// Encoded only if it is not the default: older states end before it.
    pub versioning: BucketVersioning,
}

impl LaneState {
    pub fn encode(&self) -> Result<Vec<u8>, IndexError> {
        let value = encode(&(self.closed_by, self.cancelled))?;
        if self.versioning == BucketVersioning::default() {
            return Ok(value);
        }
        postcard::to_extend(&self.versioning, value).map_err(unencodable)
    }

    pub fn decode(value: &[u8]) -> Result<Self, IndexError> {
        let damaged = || damaged("a lane");
        let rest = value.strip_prefix(&[FORMAT]).ok_or_else(damaged)?;
        let ((closed_by, cancelled), rest) =
            postcard::take_from_bytes(rest).map_err(|_| damaged())?;
        let (versioning, rest) = match rest {
            [] => (BucketVersioning::default(), rest),
            rest => postcard::take_from_bytes(rest).map_err(|_| damaged())?,
        };
        match rest {
            [] => Ok(Self {
                closed_by,
                cancelled,
                versioning,
            }),
            _ => Err(damaged()),
        }
    }
}

/// Some parts of a part table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartPage {
    /// Where in the object the first part begins.
    pub offset: u64,
    pub parts: Vec<PartRecord>,
}

/// Where an upload is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPlace {
    pub bucket: BucketId,
    pub lane: Lane,
    pub key: String,
}

/// What an upload completed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedUpload {
    pub bucket: BucketId,
    pub key: String,
    pub summary: VersionSummary,
}

/// A version's value: format byte, summary, body, details, each decoded only by those who need it.
pub fn encode_version(
    summary: &VersionSummary,
    body: &Body,
    details: &[u8],
) -> Result<Vec<u8>, IndexError> {
    let mut value = Vec::with_capacity(160 + details.len());
    value.push(FORMAT);
    let value = postcard::to_extend(summary, value).map_err(unencodable)?;
    let mut value = postcard::to_extend(body, value).map_err(unencodable)?;
    value.extend_from_slice(details);
    Ok(value)
}

/// The summary alone, and what follows it.
#[inline]
pub fn version_summary(value: &[u8]) -> Result<(VersionSummary, &[u8]), IndexError> {
    match value.split_first() {
        Some((&FORMAT, rest)) => {
            postcard::take_from_bytes(rest).map_err(|_| damaged("an object version"))
        }
        _ => Err(damaged("an object version")),
    }
}

/// What of a version comes before its storage class; bytes where text need not be looked at.
#[derive(Deserialize)]
struct UpToClass<'a> {
    _body: Body,
    #[serde(borrow)]
    _checksum: Option<(ChecksumAlgorithm, ChecksumKind, &'a [u8])>,
    /// Content headers and the redirect of a website.
    #[serde(borrow)]
    _headers: [Option<&'a [u8]>; 7],
    #[serde(borrow)]
    storage_class: Option<&'a str>,
}

/// The storage class of a version, from what follows its summary.
pub fn storage_class(rest: &[u8]) -> Result<StorageClass, IndexError> {
    let (details, _) = postcard::take_from_bytes::<UpToClass<'_>>(rest)
        .map_err(|_| damaged("an object version"))?;
    Ok(StorageClass::of_headers(details.storage_class))
}

/// Summary and body, and the encoded details.
pub fn version_body(value: &[u8]) -> Result<(VersionSummary, Body, &[u8]), IndexError> {
    let (summary, rest) = version_summary(value)?;
    let (body, details) =
        postcard::take_from_bytes(rest).map_err(|_| damaged("an object version"))?;
    Ok((summary, body, details))
}

/// The version's value with another body.
pub fn with_body(value: &[u8], body: &Body) -> Result<Vec<u8>, IndexError> {
    let (summary, _, details) = version_body(value)?;
    encode_version(&summary, body, details)
}

/// The version's value with another summary.
pub fn with_summary(value: &[u8], summary: &VersionSummary) -> Result<Vec<u8>, IndexError> {
    let (_, body, details) = version_body(value)?;
    encode_version(summary, &body, details)
}

/// All of a version.
pub fn version(value: &[u8]) -> Result<VersionRecord, IndexError> {
    let (summary, body, details) = version_body(value)?;
    let (details, lock) = split_details(details).ok_or_else(|| damaged("an object version"))?;
    Ok(VersionRecord {
        summary,
        body,
        checksum: details.checksum,
        headers: details.headers,
        tags: details.tags,
        lock,
    })
}

/// Encoded details.
pub fn encode_details(
    details: &VersionDetails,
    lock: &VersionLock,
) -> Result<Vec<u8>, postcard::Error> {
    let bytes = postcard::to_stdvec(details)?;
    match lock.is_none() {
        true => Ok(bytes),
        false => postcard::to_extend(lock, bytes),
    }
}

/// Reads encoded details; `None` if they are not that and nothing else.
pub fn split_details(bytes: &[u8]) -> Option<(VersionDetails, VersionLock)> {
    let (details, rest) = postcard::take_from_bytes(bytes).ok()?;
    let (lock, rest) = match rest {
        [] => (VersionLock::default(), rest),
        rest => postcard::take_from_bytes(rest).ok()?,
    };
    rest.is_empty().then_some((details, lock))
}

/// Any other value.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, IndexError> {
    postcard::to_extend(value, vec![FORMAT]).map_err(unencodable)
}

/// Any other value; `what` names it if it is damaged.
pub fn decode<'a, T: Deserialize<'a>>(value: &'a [u8], what: &str) -> Result<T, IndexError> {
    match value.split_first() {
        Some((&FORMAT, rest)) => match postcard::take_from_bytes(rest) {
            Ok((decoded, [])) => Ok(decoded),
            _ => Err(damaged(what)),
        },
        _ => Err(damaged(what)),
    }
}

pub fn damaged(what: &str) -> IndexError {
    IndexError::Corrupt(format!("the record of {what} is damaged"))
}

pub fn unencodable(error: postcard::Error) -> IndexError {
    IndexError::Io(format!("a record cannot be encoded: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::{
        CompletedUpload, LaneState, PartPage, UploadPlace, decode, storage_class, version,
        version_summary,
    };
    use crate::metadata::record::{PartRecord, UploadRecord};
    use crate::metadata::usage::Usage;
    use crate::repair::reclaim::Entry;

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(mut bytes in any::<Vec<u8>>(), known in any::<bool>()) {
            if let Some(format) = bytes.first_mut() && known {
                *format = 1;
            }
            let _ = LaneState::decode(&bytes);
            let _ = decode::<PartPage>(&bytes, "");
            let _ = decode::<UploadPlace>(&bytes, "");
            let _ = decode::<CompletedUpload>(&bytes, "");
            let _ = decode::<UploadRecord>(&bytes, "");
            let _ = decode::<PartRecord>(&bytes, "");
            let _ = decode::<Entry>(&bytes, "");
            let _ = decode::<Usage>(&bytes, "");
            let whole = version(&bytes).is_ok();
            let summary = version_summary(&bytes);
            prop_assert!(!whole || summary.is_ok());
            if let Ok((_, rest)) = summary {
                let class = storage_class(rest);
                prop_assert!(!whole || class.is_ok());
            }
        }
    }
}
