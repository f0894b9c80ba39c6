//! PutObject.

use axum::body::Body;
use holdfast_storage_node::metadata::{
    Condition, Etag, NewVersion, ObjectChecksum, VersionSummary, WriteError,
};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, IF_NONE_MATCH, TRANSFER_ENCODING};

use super::quota::within_quota;
use super::response::{empty, set_etag};
use super::{
    Call, Reply, checksums, conditions, failure, in_bucket, object_headers, on_bucket, tags,
    versions,
};
use crate::body::{ByteSource, Written};
use crate::error::{Code, S3Error};
use crate::payload::{Digests, Payload};

/// Bytes of an object of one PUT, of a part, and of a copy at most.
pub const BODY_LEN_MAX: u64 = 5 * 1024 * 1024 * 1024;

/// The body of a request, perhaps seen through something that computes besides.
pub(super) trait RequestBody: ByteSource {
    fn payload(&self) -> &Payload;
}

impl RequestBody for Payload {
    fn payload(&self) -> &Payload {
        self
    }
}

/// A body that came whole and right.
pub(super) struct Received {
    pub written: Written,
    pub md5: [u8; 16],
    pub checksum: Option<ObjectChecksum>,
}

/// A body is longer than one may be.
pub fn too_large(len: u64) -> S3Error {
    S3Error::new(Code::EntityTooLarge)
        .detail("ProposedSize", len.to_string())
        .detail("MaxSizeAllowed", BODY_LEN_MAX.to_string())
}

impl Call<'_> {
    pub(super) async fn put_object(&self, key: &str, body: Body) -> Reply {
        let headers = &self.parts.headers;
        let condition = conditions::of_write(headers)?;
        if let Some(offset) = self.write_offset()? {
            return Box::pin(self.append(key, body, offset, condition)).await;
        }
        self.put_new(key, body, condition).await
    }

    /// Makes the body the key's version, if the condition holds.
    pub(super) async fn put_new(&self, key: &str, body: Body, condition: Condition) -> Reply {
        let headers = &self.parts.headers;
        let tags = tags::from_header(headers)?;
        let kept = object_headers::from_request(headers, &self.bucket().owner)?;
        let lock = self.lock_from_headers()?;
        let digests = Digests {
            md5: true,
            checksum: Some(checksums::DEFAULT),
            ..Digests::default()
        };
        let inline_len_max = self.gateway.config.inline_len_max;
        let payload = Payload::new(self.auth, self.parts, body, digests)?.limited(BODY_LEN_MAX);
        let is_long = payload.len().is_none_or(|len| len > inline_len_max as u64);
        if is_long && condition.absent && condition.etag.is_none() {
            self.refuse_if_there(key).await?;
        }
        let received = self.receive(payload, inline_len_max).await?;

        let new = NewVersion {
            size: received.written.len,
            etag: Etag::Md5(received.md5),
            checksum: received.checksum,
            body: received.written.body,
            inline: received.written.inline,
            missed: received.written.missed,
            headers: kept,
            tags,
            lock,
        };
        let summary = self.commit(key, &new, &condition).await?;
        let mut response = empty(StatusCode::OK);
        set_etag(response.headers_mut(), &summary.etag);
        versions::show(&summary, None, response.headers_mut());
        self.show_expiration(key, &summary, &new.tags, response.headers_mut())
            .await;
        if let Some(checksum) = &new.checksum {
            checksums::show(checksum, None, response.headers_mut());
        }
        Ok(response)
    }

    /// Spares a client the sending of a long body in vain. What decides is still the condition at commit.
    async fn refuse_if_there(&self, key: &str) -> Result<(), S3Error> {
        let metadata = &self.gateway.metadata;
        match in_bucket!(self, |bucket| metadata.head(bucket, key))? {
            Some(_) => Err(failure::precondition_failed(&IF_NONE_MATCH)),
            None => Ok(()),
        }
    }

    /// Reads a request's body to flash, verified. Nothing is left behind if it ends in an error.
    pub(super) async fn receive(
        &self,
        mut payload: Payload,
        inline_len_max: usize,
    ) -> Result<Received, S3Error> {
        self.receive_from(&mut payload, inline_len_max).await
    }

    /// As `receive`, from a payload that passes through something else.
    pub(super) async fn receive_from(
        &self,
        source: &mut impl RequestBody,
        inline_len_max: usize,
    ) -> Result<Received, S3Error> {
        let len = self.announced_len(source.payload())?;
        let bodies = &self.gateway.bodies;
        let written = bodies.write(source, len, inline_len_max).await?;
        let finished = source.payload().finished();
        match finished.md5 {
            Some(md5) if finished.len == written.len => Ok(Received {
                written,
                md5,
                checksum: finished.checksum.clone(),
            }),
            _ => {
                bodies.discard(&written.body);
                Err(S3Error::new(Code::InternalError))
            }
        }
    }

    /// How long the body is going to be; `None`: as long as its framing says, within the limit of the payload.
    pub(super) fn announced_len(&self, payload: &Payload) -> Result<Option<u64>, S3Error> {
        let headers = &self.parts.headers;
        let announced =
            headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
        if !announced {
            return Err(S3Error::new(Code::MissingContentLength));
        }
        match payload.len() {
            Some(len) if len > BODY_LEN_MAX => Err(too_large(len)),
            len => Ok(len),
        }
    }

    /// Makes `new` the key's version. Its body is freed again if that is refused.
    pub(super) async fn commit(
        &self,
        key: &str,
        new: &NewVersion,
        condition: &Condition,
    ) -> Result<VersionSummary, S3Error> {
        let metadata = self.metadata_for_changes();
        let stored = within_quota!(
            self,
            key,
            on_bucket!(self, |bucket| metadata.put(
                bucket,
                key,
                new.clone(),
                condition
            ))
        );
        stored.map_err(|error| {
            if failure::is_known_not_to_have_happened(&error) {
                self.gateway.bodies.discard(&new.body);
            }
            self.refused(error, key)
        })
    }
}
