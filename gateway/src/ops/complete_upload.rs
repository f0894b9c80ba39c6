//! CompleteMultipartUpload: the parts become an object.

use axum::body::Body;
use http::HeaderValue;
use http::header::HOST;
use md5::{Digest, Md5};

use holdfast_placement::ids::UploadId;
use holdfast_storage_node::metadata::{
    ChecksumKind, CompleteUpload, CompleteUploadError, Condition, Etag, ListParts, ObjectChecksum,
    PartRecord, UploadRecord, VersionSummary, WriteError,
};

use super::failure::{invalid_argument, invalid_request};
use super::response::{quoted, xml};
use super::{Call, Reply, checksums, conditions, in_bucket, versions};
use crate::checksum;
use crate::error::{Code, S3Error};
use crate::payload::ChecksumHeader;
use crate::router::virtual_bucket;
use crate::xml::requests::{self, NamedPart, PARTS_MAX};
use crate::xml::{XmlWriter, encode_uri_into};

/// Bytes of a part, unless it is the last, at least.
const PART_LEN_MIN: u64 = 5 * 1024 * 1024;

/// How often a completion is tried again because parts were uploaded meanwhile.
const COMPLETE_TRIES_MAX: usize = 4;

impl Call<'_> {
    pub(super) async fn complete_upload(&self, key: &str, body: Body) -> Reply {
        let id = self.upload_id()?;
        let condition = conditions::of_write(&self.parts.headers)?;
        // Its checksum headers are about the object.
        let about = ChecksumHeader::Object;
        let document = self.read_document(body, requests::COMPLETE_LEN_MAX, about);
        let document = document.await?;
        let named = in_order(id, requests::complete_upload(&document)?)?;
        for _ in 0..COMPLETE_TRIES_MAX {
            let Some((upload, parts)) = self.all_parts(key, id).await? else {
                return self.completed_before(key, id, &named).await;
            };
            let complete = self.assemble(&upload, &named, parts)?;
            match self.try_complete(key, &complete, &condition).await {
                Ok(summary) => {
                    let checksum = complete.checksum.as_ref();
                    let mut response =
                        self.completion(key, &summary, checksum, complete.parts.len());
                    self.show_expiration(key, &summary, &upload.tags, response.headers_mut())
                        .await;
                    return Ok(response);
                }
                Err(CompleteUploadError::PartsChanged) => {}
                Err(CompleteUploadError::Write(WriteError::NoSuchUpload)) => {
                    return self.completed_before(key, id, &named).await;
                }
                Err(CompleteUploadError::Write(error)) => {
                    return Err(self.refused(error, key));
                }
            }
        }
        Err(S3Error::new(Code::ConditionalRequestConflict))
    }

    async fn try_complete(
        &self,
        key: &str,
        complete: &CompleteUpload,
        condition: &Condition,
    ) -> Result<VersionSummary, CompleteUploadError> {
        let metadata = &self.gateway.metadata;
        let complete_in =
            |bucket| metadata.complete_upload(bucket, key, complete.clone(), condition);
        let began = self.gateway.clock.monotonic();
        loop {
            let completed = match complete_in(self.bucket().id).await {
                Err(CompleteUploadError::Write(WriteError::NoSuchBucket)) => {
                    complete_in(self.settle().await?).await
                }
                completed => completed,
            };
            match completed {
                Err(CompleteUploadError::Write(WriteError::OverQuota(need))) => {
                    self.find_room(key, need, began).await?;
                }
                completed => return completed,
            }
        }
    }

    /// The upload with all its parts, by number.
    async fn all_parts(
        &self,
        key: &str,
        upload: UploadId,
    ) -> Result<Option<(UploadRecord, Vec<PartRecord>)>, S3Error> {
        let list = ListParts {
            upload,
            after: 0,
            max: PARTS_MAX,
        };
        let metadata = &self.gateway.metadata;
        let page = in_bucket!(self, |bucket| metadata.list_parts(bucket, key, &list))?;
        Ok(page.map(|page| (page.upload, page.parts)))
    }

    /// Checks the parts that the client names against those that are there, and computes what the object will be.
    fn assemble(
        &self,
        upload: &UploadRecord,
        named: &[NamedPart],
        parts: Vec<PartRecord>,
    ) -> Result<CompleteUpload, S3Error> {
        let upload_id = upload.upload.to_string();
        let wrong = |code, named: &NamedPart| {
            S3Error::new(code)
                .detail("UploadId", &*upload_id)
                .detail("PartNumber", named.number.to_string())
                .detail("ETag", &*named.etag)
        };
        let mut chosen: Vec<PartRecord> = Vec::with_capacity(named.len());
        let mut stored = parts.into_iter();
        for named_part in named {
            check_algorithm(named_part, upload)?;
            // Both are in ascending order.
            let part = stored
                .find(|part| u32::from(part.number) >= named_part.number)
                .filter(|part| is_meant(part, named_part, upload))
                .ok_or_else(|| wrong(Code::InvalidPart, named_part))?;
            chosen.push(part);
        }
        let but_last = chosen.len() - 1;
        for (part, named_part) in chosen.iter().zip(named).take(but_last) {
            if part.size < PART_LEN_MIN {
                return Err(wrong(Code::EntityTooSmall, named_part)
                    .detail("ProposedSize", part.size.to_string())
                    .detail("MinSizeAllowed", PART_LEN_MIN.to_string()));
            }
        }
        let size = chosen.iter().map(|part| part.size).sum();
        self.check_object_size(size)?;
        let checksum = object_checksum(upload, &chosen);
        self.check_object_checksum(upload, checksum.as_ref(), chosen.len())?;
        Ok(CompleteUpload {
            upload: upload.upload,
            etag: multipart_etag(chosen.iter().map(|part| part.md5)),
            parts: chosen,
            size,
            checksum,
        })
    }

    fn check_object_size(&self, size: u64) -> Result<(), S3Error> {
        match self.header("x-amz-mp-object-size")? {
            Some(expected) if expected.parse() != Ok(size) => Err(invalid_request(format!(
                "The provided 'x-amz-mp-object-size' header value {expected} does not match what was computed: {size}"
            ))),
            _ => Ok(()),
        }
    }

    /// Honours `x-amz-checksum-type` and `x-amz-checksum-*`, which are about the object here.
    fn check_object_checksum(
        &self,
        upload: &UploadRecord,
        computed: Option<&ObjectChecksum>,
        parts: usize,
    ) -> Result<(), S3Error> {
        let mode = upload.checksum.map(|(_, kind)| kind);
        let asked = checksums::kind(&self.parts.headers)?;
        if asked.is_some() && asked != mode {
            return Err(invalid_request(format!(
                "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
                mode.map_or("null", checksum::kind_name)
            )));
        }
        let mut given = Vec::new();
        for algorithm in checksum::ALGORITHMS {
            let header = self.header(checksum::header(algorithm))?;
            given.extend(header.map(|value| (algorithm, value)));
        }
        let (algorithm, value) = match given.as_slice() {
            [] => return Ok(()),
            [one] => *one,
            _ => return Err(checksum::too_many()),
        };
        let shown = computed
            .filter(|computed| computed.algorithm == algorithm)
            .map(|computed| checksum::format(computed, Some(parts as u16)));
        let fits = shown.is_some_and(|shown| {
            let bare = shown.rsplit_once('-').map(|(bare, _)| bare);
            shown == value || bare == Some(value)
        });
        match fits {
            true => Ok(()),
            false => Err(S3Error::with(
                Code::BadDigest,
                format!(
                    "The {} you specified did not match the calculated checksum.",
                    checksum::name(algorithm)
                ),
            )),
        }
    }

    /// A repeated completion is answered like the first. One with other parts is none.
    async fn completed_before(&self, key: &str, upload: UploadId, named: &[NamedPart]) -> Reply {
        let metadata = &self.gateway.metadata;
        let completed = in_bucket!(self, |bucket| metadata.completed(bucket, key, upload))?;
        let summary =
            completed.filter(|summary| etag_of(named).is_some_and(|etag| etag == summary.etag));
        let summary = summary.ok_or_else(|| self.no_such_upload())?;
        let version = Some(summary.name());
        let record = in_bucket!(self, |bucket| metadata.head_version(bucket, key, version))?;
        let record = record
            .found()
            .filter(|record| record.summary.version == summary.version);
        let checksum = record.and_then(|record| record.checksum);
        let parts = match summary.etag {
            Etag::Multipart(_, parts) => usize::from(parts),
            Etag::Md5(_) => 0,
        };
        Ok(self.completion(key, &summary, checksum.as_ref(), parts))
    }

    fn completion(
        &self,
        key: &str,
        summary: &VersionSummary,
        checksum: Option<&ObjectChecksum>,
        parts: usize,
    ) -> axum::response::Response {
        let mut document = XmlWriter::new("CompleteMultipartUploadResult", 1024);
        document.text("Location", &self.location(key));
        document.text("Bucket", &self.bucket().name);
        document.text("Key", key);
        document.text("ETag", &quoted(&summary.etag));
        if let Some(checksum) = checksum {
            checksums::write(&mut document, checksum, Some(parts as u16), true);
        }
        let mut response = xml(document.finish("CompleteMultipartUploadResult"));
        versions::show(summary, None, response.headers_mut());
        response
    }

    fn location(&self, key: &str) -> String {
        let host = self.parts.headers.get(HOST).map(HeaderValue::to_str);
        let host = host.and_then(Result::ok).unwrap_or("localhost");
        let mut url = format!("http://{host}/").into_bytes();
        let domain = self.gateway.config.domain.as_deref();
        if virtual_bucket(self.parts, domain).is_none() {
            url.extend_from_slice(self.bucket().name.as_bytes());
            url.push(b'/');
        }
        encode_uri_into(&mut url, key);
        String::from_utf8(url).unwrap_or_default()
    }
}

/// The named parts, which must be in order; of one that is named several times in a row the last naming counts, as its last
/// upload does.
fn in_order(upload: UploadId, mut named: Vec<NamedPart>) -> Result<Vec<NamedPart>, S3Error> {
    if !named.is_sorted_by_key(|part| part.number) {
        return Err(S3Error::new(Code::InvalidPartOrder).detail("UploadId", upload.to_string()));
    }
    named.reverse();
    named.dedup_by_key(|part| part.number);
    named.reverse();
    let numbers = 1..=PARTS_MAX as u32;
    match named.iter().find(|part| !numbers.contains(&part.number)) {
        Some(part) => Err(invalid_argument(
            "PartNumber",
            &part.number.to_string(),
            "PartNumber must be >= 1 and <= 10000",
        )),
        None => Ok(named),
    }
}

/// The ETag of an object of these parts: the MD5 of their MD5s.
fn multipart_etag(parts: impl ExactSizeIterator<Item = [u8; 16]>) -> Etag {
    let count = parts.len() as u16;
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    Etag::Multipart(md5.finalize().into(), count)
}

/// The ETag of an object of parts with these ETags; none if one of these is no part's.
fn etag_of(named: &[NamedPart]) -> Option<Etag> {
    let mut parts = vec![[0; 16]; named.len()];
    for (md5, part) in parts.iter_mut().zip(named) {
        hex::decode_to_slice(&part.etag, md5).ok()?;
    }
    Some(multipart_etag(parts.into_iter()))
}

/// Whether `part` is what the client means by `named`: number, etag and, if it names one, checksum.
fn is_meant(part: &PartRecord, named: &NamedPart, upload: &UploadRecord) -> bool {
    let etag_fits = hex::encode(part.md5).eq_ignore_ascii_case(&named.etag);
    // A part of an upload without an algorithm is kept with the default checksum only; SDKs name the one that they sent it
    // with, which was checked then.
    let checksum_fits = match (&named.checksum, &part.checksum) {
        (Some(named), Some(own)) if named.algorithm == own.algorithm => named.value == own.value,
        (Some(_), _) => upload.checksum.is_none(),
        (None, _) => true,
    };
    u32::from(part.number) == named.number && etag_fits && checksum_fits
}

/// A checksum of a part has to be of the upload's algorithm, if that has one.
fn check_algorithm(named: &NamedPart, upload: &UploadRecord) -> Result<(), S3Error> {
    let (Some(given), Some((expected, _))) = (&named.checksum, upload.checksum) else {
        return Ok(());
    };
    match given.algorithm == expected {
        true => Ok(()),
        false => Err(S3Error::with(
            Code::BadDigest,
            format!(
                "The {} you specified for part {} did not match what we received.",
                checksum::name(given.algorithm),
                named.number
            ),
        )),
    }
}

/// The object's checksum from its parts'.
fn object_checksum(upload: &UploadRecord, parts: &[PartRecord]) -> Option<ObjectChecksum> {
    let (algorithm, kind) = upload
        .checksum
        .unwrap_or((checksums::DEFAULT, ChecksumKind::FullObject));
    let mut values = Vec::with_capacity(parts.len());
    for part in parts {
        let checksum = part.checksum.as_ref()?;
        if checksum.algorithm != algorithm {
            return None;
        }
        values.push((checksum.value.as_slice(), part.size));
    }
    let value = match kind {
        ChecksumKind::Composite => {
            checksum::composite(algorithm, values.into_iter().map(|(value, _)| value))
        }
        ChecksumKind::FullObject => checksum::combine_full_object(algorithm, values)?,
    };
    Some(ObjectChecksum {
        algorithm,
        kind,
        value,
    })
}
