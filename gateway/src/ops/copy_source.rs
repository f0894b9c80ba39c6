//! What a copy reads: `x-amz-copy-source`, its conditions, its bytes.

use bytes::Bytes;
use md5::{Digest, Md5};
use std::ops::Range;
use std::sync::Arc;

use holdfast_placement::directory::Bucket;
use holdfast_storage_node::metadata::{
    self, ChecksumAlgorithm, ChecksumKind, Etag, Lookup, MetadataError, ObjectChecksum,
    VersionRecord, VersionRef,
};
use http::{HeaderMap, HeaderName};

use super::authorise::Permit;
use super::conditions::{self, Verdict};
use super::get_object::{Located, may_read};
use super::put_object::Received;
use super::response::set;
use super::versions::parse_version;
use super::{Call, Sought, failure};
use crate::body::{BodySource, ByteSource, Written};
use crate::checksum::Hasher;
use crate::error::{Code, S3Error};
use crate::router::{Operation, Query, percent_decode, validate_bucket_name, validate_key};

/// An object to copy from, as it was when the copy began.
pub(super) struct Source {
    pub bucket: Arc<Bucket>,
    pub key: String,
    /// As the request names it.
    pub version: Option<VersionRef>,
    pub record: VersionRecord,
    inline: Bytes,
}

impl Source {
    /// Sets `x-amz-copy-source-version-id`.
    pub fn show_version(&self, headers: &mut HeaderMap) {
        let summary = &self.record.summary;
        if !summary.null || self.version.is_some() {
            let name = HeaderName::from_static("x-amz-copy-source-version-id");
            set(headers, name, summary.name().to_string());
        }
    }
}

/// What `x-amz-copy-source` names.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    bucket: String,
    key: String,
    version: Option<VersionRef>,
}

/// Reads `x-amz-copy-source`: `bucket/key` or `/bucket/key`, URL-encoded, perhaps with `?versionId=`. Any other question mark
/// is one of a key that was not encoded.
fn parse(header: &[u8]) -> Result<Named, S3Error> {
    let wrong = |value: &str| {
        failure::invalid_argument(
            "x-amz-copy-source",
            value,
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
        )
    };
    let text = std::str::from_utf8(header).map_err(|_| wrong(""))?;
    if text.starts_with("arn:") {
        return Err(crate::router::not_implemented(
            "Copying from an access point",
        ));
    }
    let (path, query) = match text.rsplit_once('?') {
        Some((path, query)) if query.starts_with("versionId=") => (path, Some(query)),
        _ => (text, None),
    };
    let version = Query::parse(query)?
        .get("versionId")
        .map(|version| parse_version("versionId", version))
        .transpose()?;
    // Some clients escape the slash between bucket and key too. A plus is a space, unlike in the path of a request.
    let path = percent_decode(path, true).map_err(|_| wrong(text))?;
    let path = path.strip_prefix('/').unwrap_or(&path);
    match path.split_once('/') {
        Some((bucket, key)) if !key.is_empty() => {
            validate_bucket_name(bucket).map_err(|_| {
                let message = "Invalid copy source bucket name";
                failure::invalid_argument("x-amz-copy-source", text, message)
            })?;
            validate_key(key)?;
            Ok(Named {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                version,
            })
        }
        _ => Err(wrong(text)),
    }
}

impl Call<'_> {
    /// The source of a copy, if the identity may read it and its conditions hold.
    pub(super) async fn copy_source(&self) -> Result<Source, S3Error> {
        let headers = &self.parts.headers;
        let header = headers.get("x-amz-copy-source");
        let Named {
            bucket: name,
            key,
            version,
        } = parse(header.map(|value| value.as_bytes()).unwrap_or_default())?;
        let mut sought = Sought {
            name: &name,
            cached: true,
            identity: &self.auth.identity,
            operation: Operation::GetObject,
            expected_owner: "x-amz-source-expected-bucket-owner",
        };
        let metadata = &self.gateway.metadata;
        let (mut bucket, mut permit) = sought.find(self.gateway, self.parts).await?;
        let mut found = metadata.get_version(bucket.id, &key, version).await;
        if let Err(MetadataError::BucketClosed) = found {
            let closed = bucket.id;
            sought.cached = false;
            (bucket, permit) = sought.find(self.gateway, self.parts).await?;
            found = match bucket.id == closed {
                // It is being deleted, and there is nothing in it.
                true => Ok(Lookup::Nothing),
                false => metadata.get_version(bucket.id, &key, version).await,
            };
        }
        let found = found.map_err(failure::metadata)?;
        if let (Lookup::Marker(_), Some(_)) = (&found, version) {
            return Err(failure::invalid_request(
                "The source of a copy request may not specifically refer to a delete marker by version id.",
            ));
        }
        let found = match permit {
            Permit::Listed { lists: false } if !matches!(found, Lookup::Found(_)) => {
                return Err(S3Error::new(Code::AccessDenied));
            }
            _ => found,
        };
        let source = self.found(&key, version, found)?;
        may_read(permit, &self.auth.identity, &source.record)?;
        let summary = &source.record.summary;
        let now = self.gateway.clock.wall();
        match conditions::COPY_SOURCE.judge(headers, &summary.etag, summary.modified, now) {
            Verdict::Go => {}
            Verdict::NotModified(condition) | Verdict::Failed(condition) => {
                return Err(failure::precondition_failed(condition));
            }
        }
        Ok(Source {
            bucket,
            key,
            version,
            record: source.record,
            inline: source.inline,
        })
    }

    /// Copies bytes `range` of the source to a body of its own; with its checksum by `algorithm`.
    pub(super) async fn copy_bytes(
        &self,
        source: &Source,
        range: Range<u64>,
        algorithm: ChecksumAlgorithm,
        inline_len_max: usize,
    ) -> Result<Received, S3Error> {
        let len = range.end - range.start;
        let record = &source.record;
        let whole = len == record.summary.size;
        let known = known_digests(record, algorithm).filter(|_| whole);
        let inline = source.inline.clone();
        let located = self.locate(source.bucket.id, &source.key, record, inline, range);
        let bodies = &self.gateway.bodies;
        let from = match located.await? {
            Located::Bytes(bytes) => From::Bytes(bytes),
            Located::Pieces(at) => From::Body(Box::new(bodies.source(at))),
        };
        let mut tap = Tap::new(from, algorithm, known.is_none());
        let written = bodies.write(&mut tap, Some(len), inline_len_max).await?;
        Ok(tap.received(written, known))
    }
}

/// MD5 and checksum of an object, where its record has both: the bytes are verified by checksums of their own as they are
/// read, so they need not be hashed again.
fn known_digests(
    record: &VersionRecord,
    algorithm: ChecksumAlgorithm,
) -> Option<([u8; 16], ObjectChecksum)> {
    let Etag::Md5(md5) = record.summary.etag else {
        return None;
    };
    let checksum = record.checksum.as_ref()?;
    let fits = checksum.algorithm == algorithm && checksum.kind == ChecksumKind::FullObject;
    let is_multipart = matches!(record.body, metadata::Body::Multipart { .. });
    (fits && !is_multipart).then(|| (md5, checksum.clone()))
}

/// Where the bytes come from.
enum From {
    Bytes(Bytes),
    Body(Box<BodySource>),
}

/// Passes bytes on and computes their digests.
struct Tap {
    from: From,
    algorithm: ChecksumAlgorithm,
    /// Without an MD5 here it is left to the reader.
    digests: Option<(Option<Md5>, Hasher)>,
    /// What the reader found it to be.
    md5: [u8; 16],
}

impl Tap {
    fn new(from: From, algorithm: ChecksumAlgorithm, compute: bool) -> Self {
        Self {
            from,
            algorithm,
            digests: compute.then(|| (Some(Md5::new()), Hasher::new(algorithm))),
            md5: [0; 16],
        }
    }

    fn received(self, written: Written, known: Option<([u8; 16], ObjectChecksum)>) -> Received {
        let (md5, checksum) = match self.digests {
            Some((md5, hasher)) => {
                let checksum = ObjectChecksum {
                    algorithm: self.algorithm,
                    kind: ChecksumKind::FullObject,
                    value: hasher.finish(),
                };
                let md5 = md5.map_or(self.md5, |md5| md5.finalize().into());
                (md5, Some(checksum))
            }
            None => known.map_or(([0; 16], None), |(md5, checksum)| (md5, Some(checksum))),
        };
        Received {
            written,
            md5,
            checksum,
        }
    }
}

impl ByteSource for Tap {
    async fn prepare(&mut self) -> Result<(), S3Error> {
        match &mut self.from {
            From::Bytes(_) => Ok(()),
            From::Body(source) => source.prepare().await,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        let bytes = match &mut self.from {
            From::Bytes(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            From::Body(source) => source.next().await?,
        };
        if let (Some((md5, checksum)), Some(bytes)) = (&mut self.digests, &bytes) {
            if let Some(md5) = md5 {
                md5.update(bytes);
            }
            checksum.update(bytes);
        }
        Ok(bytes)
    }

    fn leave_md5(&mut self) -> bool {
        let md5 = self.digests.as_mut().and_then(|(md5, _)| md5.take());
        md5.is_some()
    }

    fn set_md5(&mut self, md5: [u8; 16]) -> Result<(), S3Error> {
        self.md5 = md5;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    proptest! {
        #[test]
        fn never_panics(header in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&header);
        }
    }

    #[test]
    fn reads_sources() {
        let source = |text: &str| parse(text.as_bytes()).map_err(|error| error.code);
        let named = |bucket: &str, key: &str, version| {
            let (bucket, key) = (bucket.to_owned(), key.to_owned());
            Ok(Named {
                bucket,
                key,
                version,
            })
        };
        let found = |bucket: &str, key: &str| named(bucket, key, None);
        assert_eq!(source("bucket/key"), found("bucket", "key"));
        assert_eq!(source("/bucket/a/../b//"), found("bucket", "a/../b//"));
        assert_eq!(source("bucket%2Fa%20b+c%3F"), found("bucket", "a b c?"));
        assert_eq!(source("bucket/a%2Bb"), found("bucket", "a+b"));
        let null = named("bucket", "ä", Some(VersionRef::Null));
        assert_eq!(source("bucket/ä?versionId=null"), null);
        assert_eq!(source("bucket/k?versionId=1"), Err(Code::InvalidArgument));
        for wrong in [
            "",
            "/",
            "bucket",
            "bucket/",
            "bucket/%zz",
            "bucket/%ff",
            "B/k",
        ] {
            assert_eq!(source(wrong), Err(Code::InvalidArgument), "{wrong}");
        }
    }
}
