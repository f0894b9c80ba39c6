//! PutObject with `x-amz-write-offset-bytes` (user guide, "Appending data to objects in directory buckets").
//!
//! The object is read, the new bytes are stored, and then a command puts them behind the version that was read. It takes
//! effect only if that is still the newest: of several writers at one offset exactly one wins. What is written is what was
//! added, but for small objects that outgrow the metadata.

use axum::body::Body;
use bytes::Bytes;
use http::HeaderName;
use md5::{Digest, Md5};

use holdfast_storage_node::metadata::{
    self, Appended, ChecksumKind, ChunkedBody, Condition, Etag, NewBytes, ObjectChecksum,
    StoredVersion, VersionSummary, WriteError,
};
use http::StatusCode;

use super::failure::{self, invalid_argument, invalid_request};
use super::object_headers::has_user_metadata;
use super::put_object::Received;
use super::quota::within_quota;
use super::response::{empty, set, set_etag};
use super::{Call, Reply, checksums, in_bucket, on_bucket};
use crate::body::ByteSource;
use crate::checksum::{self, Hasher};
use crate::error::{Code, S3Error};
use crate::payload::{Digests, Payload};
use crate::xml::requests::PARTS_MAX;

const WRITE_OFFSET: &str = "x-amz-write-offset-bytes";
const OBJECT_SIZE: HeaderName = HeaderName::from_static("x-amz-object-size");

/// Headers that say what an object is to have besides bytes, which one that is there has already. (Content headers are
/// sent by some clients with every PUT: they are not looked at.)
const ABOUT_NEW_OBJECTS: [&str; 9] = [
    "x-amz-tagging",
    "x-amz-acl",
    "x-amz-grant-full-control",
    "x-amz-grant-read",
    "x-amz-grant-read-acp",
    "x-amz-grant-write",
    "x-amz-grant-write-acp",
    "x-amz-website-redirect-location",
    "x-amz-storage-class",
];

impl Call<'_> {
    /// Where a PUT is to begin in the object; `None`: it makes a new one.
    pub(super) fn write_offset(&self) -> Result<Option<u64>, S3Error> {
        let Some(text) = self.header(WRITE_OFFSET)? else {
            return Ok(None);
        };
        let offset = text.trim().parse();
        offset.map(Some).map_err(|_| {
            invalid_argument(
                WRITE_OFFSET,
                text,
                "The write offset must be a number of bytes.",
            )
        })
    }

    pub(super) async fn append(
        &self,
        key: &str,
        body: Body,
        offset: u64,
        condition: Condition,
    ) -> Reply {
        let metadata = &self.gateway.metadata;
        let Some(base) = in_bucket!(self, |bucket| metadata.get(bucket, key))? else {
            return self.create_by_append(key, body, offset, condition).await;
        };
        let headers = &self.parts.headers;
        if !base.record.summary.null {
            return Err(failure::write(WriteError::KeepsVersions, "", key));
        }
        if base.record.summary.size != offset {
            return Err(wrong_offset(offset, base.record.summary.size));
        }
        if has_user_metadata(headers) {
            return Err(invalid_request(
                "Cannot specify both a write offset value and user-defined object metadata for existing objects.",
            ));
        }
        if let Some(name) = ABOUT_NEW_OBJECTS
            .into_iter()
            .find(|name| headers.get(*name).is_some_and(|value| !value.is_empty()))
        {
            return Err(invalid_request(format!(
                "Cannot specify both a write offset value and {name} for existing objects."
            )));
        }
        if let metadata::Body::Multipart { parts, .. } = base.record.body
            && usize::from(parts) >= PARTS_MAX
        {
            return Err(S3Error::new(Code::TooManyParts));
        }
        let own = base.record.checksum.as_ref();
        let algorithm = own.map_or(checksums::DEFAULT, |own| own.algorithm);
        let becomes_part = matches!(
            base.record.body,
            metadata::Body::Chunked(_) | metadata::Body::Multipart { .. }
        );
        let digests = Digests {
            md5: becomes_part,
            checksum: Some(algorithm),
            ..Digests::default()
        };
        let payload = Payload::new(self.auth, self.parts, body, digests)?;
        // What fits inline is decided beforehand, so a length is needed.
        let len = self.announced_len(&payload)?;
        let len = len.ok_or(Code::MissingContentLength)?;
        if len == 0 {
            return Err(empty_body());
        }
        let of_addition;
        let appended = match becomes_part {
            true => {
                let received = self.receive(payload, 0).await?;
                if own.is_some() {
                    self.check_algorithm(&received, algorithm)?;
                }
                of_addition = received.checksum.clone();
                part_of(&base, received)?
            }
            false => {
                let joined = self.join(&base, payload, len).await?;
                of_addition = joined.checksum.clone();
                joined
            }
        };
        let summary = self
            .commit_append(key, &appended, &condition, offset)
            .await?;
        let mut response = empty(StatusCode::OK);
        let answer = response.headers_mut();
        set_etag(answer, &summary.etag);
        set(answer, OBJECT_SIZE, summary.size.to_string());
        match (&appended.checksum, of_addition) {
            (Some(checksum), _) => checksums::show(checksum, None, answer),
            // The whole has none: that of what was added (user guide, as above).
            (None, Some(checksum)) => {
                checksums::show(&checksum, None, answer);
                answer.remove("x-amz-checksum-type");
            }
            (None, None) => {}
        }
        let tags = &base.record.tags;
        self.show_expiration(key, &summary, tags, response.headers_mut())
            .await;
        Ok(response)
    }

    /// At offset 0, where there is nothing, the bytes become an object as others do.
    async fn create_by_append(
        &self,
        key: &str,
        body: Body,
        offset: u64,
        condition: Condition,
    ) -> Reply {
        if self.bucket_versioning().await?.keeps_versions() {
            return Err(failure::write(WriteError::KeepsVersions, "", key));
        }
        if offset != 0 {
            return Err(wrong_offset(offset, 0));
        }
        if condition.etag.is_some() && !condition.absent {
            return Err(failure::no_such_key(key));
        }
        let only_if_absent = Condition {
            absent: true,
            ..Condition::default()
        };
        let len = self.parts.headers.get(http::header::CONTENT_LENGTH);
        let decoded = self.parts.headers.get("x-amz-decoded-content-length");
        if decoded.or(len).is_some_and(|len| len == "0") {
            return Err(empty_body());
        }
        match self.put_new(key, body, only_if_absent).await {
            Err(error) if error.code == Code::PreconditionFailed && !condition.absent => {
                Err(S3Error::new(Code::InvalidWriteOffset))
            }
            reply => reply,
        }
    }

    /// Puts a body behind bytes that are inline: they stay so, or all of them become one body in chunks.
    async fn join(
        &self,
        base: &StoredVersion,
        payload: Payload,
        len: u64,
    ) -> Result<Appended, S3Error> {
        let summary = &base.record.summary;
        let own = base.record.checksum.as_ref();
        let algorithm = own.map_or(checksums::DEFAULT, |own| own.algorithm);
        let size = summary.size.saturating_add(len);
        let stays_inline = size <= self.gateway.config.inline_len_max as u64;
        let mut digests = (Md5::new(), Hasher::new(algorithm));
        digests.0.update(&base.inline);
        digests.1.update(&base.inline);
        let mut behind = Behind {
            before: match stays_inline {
                true => Bytes::new(),
                false => base.inline.clone(),
            },
            payload,
            digests,
        };
        let bodies = &self.gateway.bodies;
        let stored = match stays_inline {
            true => len,
            false => size,
        };
        let inline_len_max = match stays_inline {
            true => self.gateway.config.inline_len_max,
            false => 0,
        };
        let written = bodies
            .write(&mut behind, Some(stored), inline_len_max)
            .await?;
        let of_client = behind.payload.finished().checksum.as_ref();
        let actual = of_client.map(|checksum| checksum.algorithm);
        if own.is_some() && actual.is_some_and(|actual| actual != algorithm) {
            bodies.discard(&written.body);
            return Err(checksums::mismatch(algorithm, actual));
        }
        let added = match written.body {
            metadata::Body::Chunked(body) => NewBytes::Whole {
                body,
                missed: written.missed,
            },
            _ => NewBytes::Inline(written.inline),
        };
        let (md5, hasher) = behind.digests;
        Ok(Appended {
            base: summary.version,
            added,
            size,
            etag: Etag::Md5(md5.finalize().into()),
            checksum: Some(ObjectChecksum {
                algorithm,
                kind: ChecksumKind::FullObject,
                value: hasher.finish(),
            }),
        })
    }

    /// Commits, or frees what was stored if it is refused.
    async fn commit_append(
        &self,
        key: &str,
        appended: &Appended,
        condition: &Condition,
        offset: u64,
    ) -> Result<VersionSummary, S3Error> {
        let metadata = &self.gateway.metadata;
        let stored = within_quota!(
            self,
            key,
            on_bucket!(self, |bucket| metadata.append(
                bucket,
                key,
                appended.clone(),
                condition
            ))
        );
        let error = match stored {
            Ok(summary) => return Ok(summary),
            Err(error) => error,
        };
        if failure::is_known_not_to_have_happened(&error)
            && let Some(body) = chunks_of(&appended.added)
        {
            self.gateway.bodies.discard(&metadata::Body::Chunked(body));
        }
        if let WriteError::BaseChanged = error {
            let now = in_bucket!(self, |bucket| metadata.head(bucket, key))?;
            let size = now.map_or(0, |record| record.summary.size);
            if size != offset {
                return Err(wrong_offset(offset, size));
            }
        }
        Err(self.refused(error, key))
    }
}

fn chunks_of(added: &NewBytes) -> Option<ChunkedBody> {
    match added {
        NewBytes::Inline(_) => None,
        NewBytes::Whole { body, .. } | NewBytes::Part { body, .. } => Some(*body),
    }
}

/// A body that came becomes a part. The ETag is the MD5 of the former one and the part's, so that nothing of the other
/// parts needs to be known; the checksum is that of the whole, where two can be combined.
fn part_of(base: &StoredVersion, received: Received) -> Result<Appended, S3Error> {
    let summary = &base.record.summary;
    let metadata::Body::Chunked(body) = received.written.body else {
        return Err(Code::InternalError.into());
    };
    let parts = match base.record.body {
        metadata::Body::Multipart { parts, .. } => parts,
        _ => 1,
    };
    let (Etag::Md5(before) | Etag::Multipart(before, _)) = summary.etag;
    let mut etag = Md5::new();
    etag.update(before);
    etag.update(received.md5);
    let combined = match (&base.record.checksum, &received.checksum) {
        (Some(own), Some(new))
            if own.kind == ChecksumKind::FullObject && own.algorithm == new.algorithm =>
        {
            let values = [
                (own.value.as_slice(), summary.size),
                (new.value.as_slice(), received.written.len),
            ];
            let value = checksum::combine_full_object(own.algorithm, values);
            value.map(|value| ObjectChecksum {
                value,
                ..own.clone()
            })
        }
        _ => None,
    };
    Ok(Appended {
        base: summary.version,
        size: summary.size + received.written.len,
        added: NewBytes::Part {
            size: received.written.len,
            md5: received.md5,
            checksum: received.checksum,
            body,
            missed: received.written.missed,
        },
        etag: Etag::Multipart(etag.finalize().into(), parts + 1),
        checksum: combined,
    })
}

/// A payload behind bytes that are known, hashed with them.
struct Behind {
    /// Given first.
    before: Bytes,
    payload: Payload,
    digests: (Md5, Hasher),
}

impl ByteSource for Behind {
    async fn prepare(&mut self) -> Result<(), S3Error> {
        self.payload.prepare().await
    }

    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        if !self.before.is_empty() {
            return Ok(Some(std::mem::take(&mut self.before)));
        }
        let bytes = self.payload.next().await?;
        if let Some(bytes) = &bytes {
            self.digests.0.update(bytes);
            self.digests.1.update(bytes);
        }
        Ok(bytes)
    }
}

fn empty_body() -> S3Error {
    invalid_request("Request body cannot be empty when 'write offset' is specified.")
}

fn wrong_offset(offset: u64, size: u64) -> S3Error {
    S3Error::new(Code::InvalidWriteOffset)
        .detail("WriteOffset", offset.to_string())
        .detail("ObjectSize", size.to_string())
}
