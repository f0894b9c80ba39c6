//! GetObject and HeadObject.

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use holdfast_placement::ids::BucketId;
use holdfast_storage_node::metadata::{
    self, Metadata, ObjectChecksum, PartRecord, VersionId, VersionRecord, VersionRef,
};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, HeaderName, RANGE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use std::ops::Range;
use std::sync::Arc;

use super::access::Canned;
use super::authorise::Permit;
use super::conditions::{self, Verdict};
use super::range::{self, Asked};
use super::response::{empty, set, set_etag, set_last_modified};
use super::{
    Call, Reply, checksums, failure, in_bucket, lifecycle, object_headers, object_lock, versions,
};
use crate::auth::Identity;
use crate::body::{BodyPiece, Whereabouts};
use crate::error::{Code, S3Error};

static MP_PARTS_COUNT: HeaderName = HeaderName::from_static("x-amz-mp-parts-count");
static TAGGING_COUNT: HeaderName = HeaderName::from_static("x-amz-tagging-count");

/// The bytes of a version that a response is about.
struct Selection {
    range: Range<u64>,
    /// Whether it was asked for as a part of the object (206).
    partial: bool,
    /// The part of a multipart object that `partNumber` asked for.
    part: Option<PartRecord>,
}

/// Whether somebody with that permit may see a version.
pub(super) fn may_read(
    permit: Permit,
    identity: &Identity,
    record: &VersionRecord,
) -> Result<(), S3Error> {
    match permit {
        Permit::All | Permit::Granted => Ok(()),
        Permit::Listed { .. } if Canned::of_object(&record.headers).lets_read(identity) => Ok(()),
        Permit::Listed { .. } | Permit::Denied => Err(S3Error::new(Code::AccessDenied)),
    }
}

/// Where bytes of a version are.
pub(super) enum Located {
    /// At hand.
    Bytes(Bytes),
    /// On drives.
    Pieces(Whereabouts),
}

impl Call<'_> {
    pub(super) async fn get_object(&self, key: &str) -> Reply {
        self.check_overrides()?;
        let metadata = &self.gateway.metadata;
        let asked = self.version()?;
        let found = in_bucket!(self, |bucket| metadata.get_version(bucket, key, asked))?;
        let version = self.found(key, asked, found).map_err(|e| self.hide(e))?;
        let record = version.record;
        self.may_read(&record)?;
        if let Some(response) = self.judge(&record)? {
            return Ok(response);
        }
        let selection = self.select(key, &record).await?;
        let mut response = self.describe(&record, &selection)?;
        self.tell_hints(key, &record, response.headers_mut()).await;
        let bytes = self.read(key, &record, version.inline, selection.range);
        *response.body_mut() = bytes.await?;
        Ok(response)
    }

    pub(super) async fn head_object(&self, key: &str) -> Reply {
        self.check_overrides()?;
        let metadata = &self.gateway.metadata;
        let asked = self.version()?;
        let found = in_bucket!(self, |bucket| metadata.head_version(bucket, key, asked))?;
        let record = self.found(key, asked, found).map_err(|e| self.hide(e))?;
        self.may_read(&record)?;
        if let Some(response) = self.judge(&record)? {
            return Ok(response);
        }
        let selection = self.select(key, &record).await?;
        let mut response = self.describe(&record, &selection)?;
        self.tell_hints(key, &record, response.headers_mut()).await;
        Ok(response)
    }

    /// Nobody may have others see a public object as what it is not: that takes a signature (API reference, GetObject).
    fn check_overrides(&self) -> Result<(), S3Error> {
        match self.auth.identity.is_anonymous() && object_headers::overrides_any(self.query) {
            true => Err(failure::invalid_request(
                "Request specific response headers cannot be used for anonymous GET requests.",
            )),
            false => Ok(()),
        }
    }

    /// Whether somebody who is not the bucket's owner may see this version.
    fn may_read(&self, record: &VersionRecord) -> Result<(), S3Error> {
        may_read(self.permit, &self.auth.identity, record)
    }

    /// Tells when a current version will go, and that it is the null version where there may be others.
    async fn tell_hints(&self, key: &str, record: &VersionRecord, headers: &mut HeaderMap) {
        // Rules are about the newest version; which that is, is not known of one that was named.
        if self.query.has("versionId") {
            return;
        }
        let Some(hint) = self.hint().await else {
            return;
        };
        let summary = &record.summary;
        let rules = &hint.lifecycle.rules;
        lifecycle::show_expiration(rules, key, summary, &record.tags, headers);
        if summary.null && hint.keeps_versions {
            versions::show(summary, Some(VersionRef::Null), headers);
        }
    }

    /// Checks the conditions: the response if it is "not modified".
    pub(super) fn judge(&self, record: &VersionRecord) -> Result<Option<Response<Body>>, S3Error> {
        let summary = &record.summary;
        let headers = &self.parts.headers;
        let now = self.gateway.clock.wall();
        match conditions::READ.judge(headers, &summary.etag, summary.modified, now) {
            Verdict::Go => Ok(None),
            Verdict::Failed(condition) => Err(failure::precondition_failed(condition)),
            Verdict::NotModified(_) => {
                let mut response = empty(StatusCode::NOT_MODIFIED);
                set_etag(response.headers_mut(), &summary.etag);
                set_last_modified(response.headers_mut(), summary.modified);
                versions::show(summary, self.version()?, response.headers_mut());
                Ok(Some(response))
            }
        }
    }

    /// What the request is about: the whole, a `Range`, or a `partNumber`.
    async fn select(&self, key: &str, record: &VersionRecord) -> Result<Selection, S3Error> {
        let size = record.summary.size;
        let range = self.parts.headers.get(RANGE);
        if let Some(number) = self.query.get("partNumber") {
            if range.is_some() {
                return Err(failure::invalid_request(
                    "Cannot specify both Range header and partNumber query parameter",
                ));
            }
            return self.select_part(key, record, number).await;
        }
        let summary = &record.summary;
        let counts = |_: &&HeaderValue| {
            conditions::range_counts(&self.parts.headers, &summary.etag, summary.modified)
        };
        let asked = match range.filter(counts) {
            Some(range) => range::asked(range.to_str().unwrap_or_default(), size)?,
            None => Asked::Whole,
        };
        let (range, partial) = match asked {
            Asked::Whole => (0..size, false),
            Asked::Part(range) => (range, true),
        };
        Ok(Selection {
            range,
            partial,
            part: None,
        })
    }

    async fn select_part(
        &self,
        key: &str,
        record: &VersionRecord,
        number: &str,
    ) -> Result<Selection, S3Error> {
        let number = super::multipart::part_number(number)?;
        let none = |count: u16| {
            S3Error::new(Code::InvalidPartNumber)
                .detail("PartNumberRequested", number.to_string())
                .detail("ActualPartCount", count.to_string())
        };
        let metadata::Body::Multipart { table, parts } = record.body else {
            return match number {
                1 => Ok(Selection {
                    range: 0..record.summary.size,
                    partial: true,
                    part: None,
                }),
                _ => Err(none(1)),
            };
        };
        // Parts are counted by where they are in the object, so that whoever asks for 1 to x-amz-mp-parts-count gets all of it,
        // whatever the numbers that they were uploaded with.
        if number > parts {
            return Err(none(parts));
        }
        let bucket = self.bucket().id;
        let some = |after, count| {
            let metadata = &self.gateway.metadata;
            metadata.parts_after(bucket, key, table, after, count)
        };
        let beyond = some(parts, 1).await.map_err(failure::metadata)?;
        let (after, count) = match beyond.is_empty() {
            // As many parts, and none with a greater number: the numbers have no gaps.
            true => (number - 1, 1),
            false => (0, number),
        };
        let found = some(after, count.into()).await.map_err(failure::metadata)?;
        let nth = found.into_iter().nth(usize::from(count) - 1);
        let (offset, part) = nth.ok_or_else(|| none(parts))?;
        Ok(Selection {
            range: offset..offset + part.size,
            partial: true,
            part: Some(part),
        })
    }

    /// Status and headers of the response.
    fn describe(&self, record: &VersionRecord, selection: &Selection) -> Reply {
        let summary = &record.summary;
        let mut response = empty(StatusCode::OK);
        let mut headers = HeaderMap::with_capacity(20);
        set_last_modified(&mut headers, summary.modified);
        set_etag(&mut headers, &summary.etag);
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        versions::show(summary, self.version()?, &mut headers);
        object_lock::show(&record.lock, &mut headers);
        object_headers::show(&record.headers, self.query, &mut headers)?;
        if !record.tags.is_empty() {
            headers.insert(TAGGING_COUNT.clone(), record.tags.len().into());
        }
        let part_count = match record.body {
            metadata::Body::Multipart { parts, .. } => Some(parts),
            _ => None,
        };
        let is_whole = selection.range == (0..summary.size);
        if checksums::wanted(&self.parts.headers) {
            match (&selection.part, &record.checksum) {
                (Some(part), _) => {
                    if let Some(checksum) = &part.checksum {
                        // The type is the object's: whether its checksum is made of those of its parts.
                        let kind = record.checksum.as_ref().map(|whole| whole.kind);
                        let shown = ObjectChecksum {
                            kind: kind.unwrap_or(checksum.kind),
                            ..checksum.clone()
                        };
                        checksums::show(&shown, None, &mut headers);
                    }
                }
                // A checksum of the whole beside a part of it would only mislead.
                (None, Some(checksum)) if is_whole => {
                    checksums::show(checksum, part_count, &mut headers);
                }
                (None, _) => {}
            }
        }
        let Range { start, end } = selection.range;
        headers.insert(CONTENT_LENGTH, (end - start).into());
        if selection.partial {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            if start < end {
                let range = format!("bytes {start}-{}/{}", end - 1, summary.size);
                set(&mut headers, CONTENT_RANGE, range);
            }
            if let (Some(count), true) = (part_count, self.query.has("partNumber")) {
                headers.insert(MP_PARTS_COUNT.clone(), count.into());
            }
        }
        *response.headers_mut() = headers;
        Ok(response)
    }

    /// The bytes `range` of a version, verified as they stream.
    async fn read(
        &self,
        key: &str,
        record: &VersionRecord,
        inline: Bytes,
        range: Range<u64>,
    ) -> Result<Body, S3Error> {
        match self
            .locate(self.bucket().id, key, record, inline, range)
            .await?
        {
            Located::Bytes(bytes) => Ok(Body::from(bytes)),
            Located::Pieces(at) => self.gateway.bodies.read(at).await,
        }
    }

    /// Where the bytes `range` of a version are.
    pub(super) async fn locate(
        &self,
        bucket: BucketId,
        key: &str,
        record: &VersionRecord,
        inline: Bytes,
        range: Range<u64>,
    ) -> Result<Located, S3Error> {
        if range.is_empty() {
            return Ok(Located::Bytes(Bytes::new()));
        }
        if record.body == metadata::Body::Inline {
            if inline.len() as u64 != record.summary.size {
                return Err(failure::inconsistent(key));
            }
            let bytes = inline.slice(range.start as usize..range.end as usize);
            return Ok(Located::Bytes(bytes));
        }
        let metadata = &self.gateway.metadata;
        let pieces = pieces(metadata, bucket, key, record, range.clone()).await?;
        let version = Arc::new(Version {
            metadata: metadata.clone(),
            bucket,
            key: key.to_owned(),
            id: record.summary.version,
            name: record.summary.name(),
        });
        let again = Box::new(move || {
            let (version, range) = (version.clone(), range.clone());
            let again: BoxFuture<'static, _> = Box::pin(async move { version.find(range).await });
            again
        });
        Ok(Located::Pieces(Whereabouts::new(pieces, again)))
    }
}

/// A version that is being read.
struct Version {
    metadata: Metadata,
    bucket: BucketId,
    key: String,
    id: VersionId,
    name: VersionRef,
}

impl Version {
    /// Where the bytes `range` of it are by now; `None` if it is gone.
    async fn find(&self, range: Range<u64>) -> Option<Vec<BodyPiece>> {
        let found = self
            .metadata
            .head_version(self.bucket, &self.key, Some(self.name));
        let record = found.await.ok()?.found()?;
        if record.summary.version != self.id {
            return None;
        }
        let pieces = pieces(&self.metadata, self.bucket, &self.key, &record, range);
        pieces.await.ok()
    }
}

/// Where the bytes `range` of a version are whose body is in chunks.
async fn pieces(
    metadata: &Metadata,
    bucket: BucketId,
    key: &str,
    record: &VersionRecord,
    range: Range<u64>,
) -> Result<Vec<BodyPiece>, S3Error> {
    match record.body {
        metadata::Body::Chunked(body) => Ok(vec![BodyPiece { body, range }]),
        metadata::Body::Multipart { table, .. } => {
            let parts = metadata.parts_in_range(bucket, key, table, range.clone());
            let parts = parts.await.map_err(failure::metadata)?;
            pieces_of(&parts, range).ok_or_else(|| failure::inconsistent(key))
        }
        metadata::Body::Inline | metadata::Body::Empty => Err(failure::inconsistent(key)),
    }
}

/// Cuts `range` of an object into ranges of its parts; `None` if the parts do not cover it.
pub(super) fn pieces_of(parts: &[(u64, PartRecord)], range: Range<u64>) -> Option<Vec<BodyPiece>> {
    let mut pieces = Vec::with_capacity(parts.len());
    let mut at = range.start;
    for (offset, part) in parts {
        let from = at.max(*offset);
        let to = range.end.min(offset + part.size);
        if from >= to {
            continue;
        }
        let metadata::Body::Chunked(body) = part.body else {
            return None;
        };
        if from != at {
            return None;
        }
        pieces.push(BodyPiece {
            body,
            range: from - offset..to - offset,
        });
        at = to;
    }
    (at == range.end).then_some(pieces)
}
