//! Values of a metadata group's state: a format byte, then postcard.

use holdfast_placement::ids::{BucketId, Lane};
use holdfast_placement::seams::IndexError;
use serde::{Deserialize, Serialize};

use super::record::{
    Body, ObjectChecksum, ObjectHeaders, PartRecord, VersionRecord, VersionSummary,
};

/// Format of all values here; persisted.
const FORMAT: u8 = 1;

/// What of a version neither a listing nor an overwrite reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionDetails {
    pub checksum: Option<ObjectChecksum>,
    pub headers: ObjectHeaders,
    pub tags: Vec<(String, String)>,
}

/// Whether a lane takes writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneState {
    /// The bucket's deletion that closed the lane, if it is closed.
    pub closed_by: Option<u64>,
    /// Deletions up to this one are cancelled and cannot close the lane.
    pub cancelled: u64,
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

/// All of a version.
pub fn version(value: &[u8]) -> Result<VersionRecord, IndexError> {
    let (summary, body, details) = version_body(value)?;
    let (details, rest) = postcard::take_from_bytes::<VersionDetails>(details)
        .map_err(|_| damaged("an object version"))?;
    if !rest.is_empty() {
        return Err(damaged("an object version"));
    }
    Ok(VersionRecord {
        summary,
        body,
        checksum: details.checksum,
        headers: details.headers,
        tags: details.tags,
    })
}

/// Whether the bytes are encoded details and nothing else.
pub fn are_details(bytes: &[u8]) -> bool {
    matches!(
        postcard::take_from_bytes::<VersionDetails>(bytes),
        Ok((_, []))
    )
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
        CompletedUpload, LaneState, PartPage, UploadPlace, decode, version, version_summary,
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
            let _ = decode::<LaneState>(&bytes, "");
            let _ = decode::<PartPage>(&bytes, "");
            let _ = decode::<UploadPlace>(&bytes, "");
            let _ = decode::<CompletedUpload>(&bytes, "");
            let _ = decode::<UploadRecord>(&bytes, "");
            let _ = decode::<PartRecord>(&bytes, "");
            let _ = decode::<Entry>(&bytes, "");
            let _ = decode::<Usage>(&bytes, "");
            let whole = version(&bytes).is_ok();
            prop_assert!(!whole || version_summary(&bytes).is_ok());
        }
    }
}
