//! RenameObject (API reference, RenameObject; user guide, "Renaming objects in directory buckets").

use holdfast_storage_node::metadata::{Rename, RenameCondition, RenameToken, WriteError};
use http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest, Sha256};

use super::conditions::{self, ReadConditions};
use super::failure::{invalid_argument, invalid_request};
use super::quota::within_quota;
use super::response::empty;
use super::{Call, Reply, on_bucket};
use crate::error::S3Error;
use crate::router::{percent_decode, validate_key};

const SOURCE: &str = "x-amz-rename-source";
const TOKEN: &str = "x-amz-client-token";

/// Characters of a client's token at most.
const TOKEN_LEN_MAX: usize = 64;

/// The conditions about the source.
fn of_source() -> ReadConditions {
    ReadConditions {
        if_match: HeaderName::from_static("x-amz-rename-source-if-match"),
        if_none_match: HeaderName::from_static("x-amz-rename-source-if-none-match"),
        if_modified_since: HeaderName::from_static("x-amz-rename-source-if-modified-since"),
        if_unmodified_since: HeaderName::from_static("x-amz-rename-source-if-unmodified-since"),
    }
}

impl Call<'_> {
    pub(super) async fn rename_object(&self, key: &str) -> Reply {
        let headers = &self.parts.headers;
        let source = self.rename_source()?;
        if source == key {
            return Err(invalid_request(
                "The source and the destination of a rename must be different keys.",
            ));
        }
        if source.ends_with('/') || key.ends_with('/') {
            return Err(invalid_request(
                "RenameObject does not rename to or from keys that end with a slash.",
            ));
        }
        let mut rename = Rename {
            source: condition(headers, &of_source())?,
            destination: condition(headers, &conditions::READ)?,
            token: None,
        };
        rename.token = self.client_token(&source, key, &rename)?;
        let metadata = &self.gateway.metadata;
        let renamed = within_quota!(
            self,
            key,
            on_bucket!(self, |bucket| metadata
                .rename(bucket, &source, key, &rename))
        );
        renamed.map_err(|error| self.refused(error, &source))?;
        Ok(empty(StatusCode::OK))
    }

    /// The key to rename. Some clients name the bucket before it, which is this one; a slash in front means nothing.
    fn rename_source(&self) -> Result<String, S3Error> {
        let text = self.header(SOURCE)?.unwrap_or_default();
        let wrong = || {
            invalid_argument(
                SOURCE,
                text,
                "The rename source must be the URL-encoded key of an object of the bucket.",
            )
        };
        let path = percent_decode(text, false).map_err(|_| wrong())?;
        let path = path.strip_prefix('/').unwrap_or(&path);
        let in_bucket = path
            .strip_prefix(self.bucket().name.as_str())
            .and_then(|rest| rest.strip_prefix('/'));
        let key = in_bucket.unwrap_or(path);
        if key.is_empty() {
            return Err(wrong());
        }
        validate_key(key)?;
        Ok(key.to_owned())
    }

    fn client_token(
        &self,
        source: &str,
        key: &str,
        rename: &Rename,
    ) -> Result<Option<RenameToken>, S3Error> {
        let Some(text) = self.header(TOKEN)? else {
            return Ok(None);
        };
        let fits = (1..=TOKEN_LEN_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !fits {
            return Err(invalid_argument(
                TOKEN,
                text,
                "A client token is 1 to 64 visible ASCII characters.",
            ));
        }
        let id = self.bucket().id.0.to_be_bytes();
        let mut request = vec![source.to_owned(), key.to_owned()];
        for condition in [&rename.source, &rename.destination] {
            let dates = [condition.if_modified_since, condition.if_unmodified_since];
            request.extend([&condition.if_match, &condition.if_none_match].map(said));
            request.extend(dates.map(|date| said(&date.map(|date| date.to_string()))));
        }
        let request = request.iter().map(String::as_bytes);
        Ok(Some(RenameToken {
            token: digest([&id[..], text.as_bytes()]),
            request: digest(request),
        }))
    }
}

/// What was said, so that it differs from nothing.
fn said(value: &Option<String>) -> String {
    value
        .as_ref()
        .map_or(String::new(), |value| format!("={value}"))
}

/// Of strings in order.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize()[..16]);
    first
}

/// One end's conditions; a date that is none is ignored, as in reads.
fn condition(headers: &HeaderMap, names: &ReadConditions) -> Result<RenameCondition, S3Error> {
    let date = |name| headers.get(name).and_then(conditions::parse_date);
    Ok(RenameCondition {
        if_match: conditions::etag_of(headers, &names.if_match)?,
        if_none_match: conditions::etag_of(headers, &names.if_none_match)?,
        if_modified_since: date(&names.if_modified_since),
        if_unmodified_since: date(&names.if_unmodified_since),
    })
}
