//! Multipart uploads under way: CreateMultipartUpload, UploadPart, UploadPartCopy, AbortMultipartUpload
//! (user guide, "Uploading and copying objects using multipart upload").

use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderName;

use holdfast_placement::ids::UploadId;
use holdfast_placement::seams::UnixMillis;
use holdfast_storage_node::metadata::{
    ChecksumAlgorithm, ChecksumKind, Etag, NewPart, NewUpload, ObjectChecksum, UploadRecord,
    WriteError,
};

use super::authorise::Permit;
use super::failure::{self, invalid_argument, invalid_request};
use super::put_object::{BODY_LEN_MAX, Received, RequestBody};
use super::quota::within_quota;
use super::response::{empty, set, set_etag, xml};
use super::{Call, Reply, checksums, in_bucket, object_headers, on_bucket, range, tags};
use crate::body::ByteSource;
use crate::checksum::{self, Hasher};
use crate::error::{Code, S3Error};
use crate::payload::{Digests, Payload};
use crate::xml::XmlWriter;
use crate::xml::requests::PARTS_MAX;

/// `partNumber`: 1 to 10,000.
pub(super) fn part_number(text: &str) -> Result<u16, S3Error> {
    match text.parse::<u16>() {
        Ok(number) if number >= 1 && usize::from(number) <= PARTS_MAX => Ok(number),
        _ => Err(invalid_argument(
            "partNumber",
            text,
            "Part number must be an integer between 1 and 10000, inclusive",
        )),
    }
}

/// The id that clients know as `UploadId`; `None` for what is none of ours.
pub(super) fn parse_upload_id(text: &str) -> Option<UploadId> {
    let mut id = [0u8; 16];
    hex::decode_to_slice(text, &mut id).ok()?;
    Some(UploadId(id))
}

impl Call<'_> {
    pub(super) async fn create_upload(&self, key: &str) -> Reply {
        let headers = &self.parts.headers;
        let mut kept = object_headers::from_request(headers, &self.bucket().owner)?;
        let identity = &self.auth.identity;
        kept.set_initiator(Some((&identity.owner_id, &identity.display_name)));
        let new = NewUpload {
            headers: kept,
            tags: tags::from_header(headers)?,
            lock: self.lock_from_headers()?,
            checksum: checksums::of_upload(headers)?,
        };
        let metadata = &self.gateway.metadata;
        let upload = on_bucket!(self, |bucket| metadata.create_upload(
            bucket,
            key,
            new.clone()
        ))
        .map_err(|error| self.refused(error, key))?;
        let mut document = XmlWriter::new("InitiateMultipartUploadResult", 512 + key.len());
        document.text("Bucket", &self.bucket().name);
        document.text("Key", key);
        document.text("UploadId", &upload.to_string());
        let mut response = xml(document.finish("InitiateMultipartUploadResult"));
        if let Some((algorithm, kind)) = new.checksum {
            let mut show = |name, value| {
                set(response.headers_mut(), HeaderName::from_static(name), value);
            };
            show("x-amz-checksum-algorithm", checksum::name(algorithm));
            show("x-amz-checksum-type", checksum::kind_name(kind));
        }
        self.show_abort(key, self.now(), response.headers_mut())
            .await;
        Ok(response)
    }

    /// The upload that the request names.
    pub(super) fn upload_id(&self) -> Result<UploadId, S3Error> {
        let id = self.query.get("uploadId").and_then(parse_upload_id);
        id.ok_or_else(|| self.no_such_upload())
    }

    pub(super) fn no_such_upload(&self) -> S3Error {
        let id = self.query.get("uploadId").unwrap_or_default();
        S3Error::new(Code::NoSuchUpload).detail("UploadId", id)
    }

    async fn find_upload(&self, key: &str) -> Result<UploadRecord, S3Error> {
        let id = self.upload_id()?;
        let metadata = &self.gateway.metadata;
        let found = in_bucket!(self, |bucket| metadata.upload(bucket, key, id))?;
        found.ok_or_else(|| self.no_such_upload())
    }

    /// Those who are not the bucket's owner may look at, and end, what they have begun themselves.
    pub(super) fn check_initiator(&self, upload: &UploadRecord) -> Result<(), S3Error> {
        let identity = &self.auth.identity;
        let is_own = upload
            .headers
            .initiator()
            .is_some_and(|(id, _)| !identity.is_anonymous() && id == identity.owner_id);
        match self.permit == Permit::All || is_own {
            true => Ok(()),
            false => Err(S3Error::new(Code::AccessDenied)),
        }
    }

    fn part_number(&self) -> Result<u16, S3Error> {
        part_number(self.query.get("partNumber").unwrap_or_default())
    }

    pub(super) async fn upload_part(&self, key: &str, body: Body) -> Reply {
        let number = self.part_number()?;
        let upload = self.find_upload(key).await?;
        let algorithm = upload.checksum.map(|(algorithm, _)| algorithm);
        let digests = Digests {
            md5: true,
            checksum: algorithm,
            ..Digests::default()
        };
        let payload = Payload::new(self.auth, self.parts, body, digests)?.limited(BODY_LEN_MAX);
        let (received, of_client) = match algorithm {
            Some(algorithm) => {
                let received = self.receive(payload, 0).await?;
                self.check_algorithm(&received, algorithm)?;
                let checksum = received.checksum.clone();
                (received, checksum)
            }
            // The object is to get the default checksum, whatever the client verifies its parts with.
            None => {
                let mut hashing = Hashing::new(payload);
                let mut received = self.receive_from(&mut hashing, 0).await?;
                let default = hashing.finish();
                let of_client = received.checksum.replace(default);
                (received, of_client)
            }
        };
        let md5 = received.md5;
        self.record_part(key, upload.upload, number, received)
            .await?;
        let mut response = empty(StatusCode::OK);
        set_etag(response.headers_mut(), &Etag::Md5(md5));
        if let Some(checksum) = of_client {
            checksums::show(&checksum, None, response.headers_mut());
            response.headers_mut().remove("x-amz-checksum-type");
        }
        Ok(response)
    }

    /// Refuses bytes with a checksum of another algorithm than that of the upload, or object, that they are to be part of.
    pub(super) fn check_algorithm(
        &self,
        received: &Received,
        expected: ChecksumAlgorithm,
    ) -> Result<(), S3Error> {
        let actual = received
            .checksum
            .as_ref()
            .map(|checksum| checksum.algorithm);
        if actual == Some(expected) {
            return Ok(());
        }
        self.gateway.bodies.discard(&received.written.body);
        Err(checksums::mismatch(expected, actual))
    }

    async fn record_part(
        &self,
        key: &str,
        upload: UploadId,
        number: u16,
        received: Received,
    ) -> Result<(UnixMillis, Option<ObjectChecksum>), S3Error> {
        let part = NewPart {
            number,
            size: received.written.len,
            md5: received.md5,
            checksum: received.checksum,
            body: received.written.body,
            missed: received.written.missed,
        };
        let metadata = &self.gateway.metadata;
        let recorded = within_quota!(
            self,
            key,
            on_bucket!(self, |bucket| metadata.put_part(
                bucket,
                key,
                upload,
                part.clone()
            ))
        );
        match recorded {
            Ok(modified) => Ok((modified, part.checksum)),
            Err(error) => {
                if failure::is_known_not_to_have_happened(&error) {
                    self.gateway.bodies.discard(&part.body);
                }
                Err(match error {
                    WriteError::NoSuchUpload | WriteError::NoSuchBucket => self.no_such_upload(),
                    error => self.refused(error, key),
                })
            }
        }
    }

    pub(super) async fn upload_part_copy(&self, key: &str) -> Reply {
        let number = self.part_number()?;
        let upload = self.find_upload(key).await?;
        let source = self.copy_source().await?;
        let size = source.record.summary.size;
        let range = match self.header("x-amz-copy-source-range")? {
            Some(header) => range::copy_range(header, size)?,
            None => 0..size,
        };
        if range.end - range.start > BODY_LEN_MAX {
            return Err(invalid_request(format!(
                "The specified copy source is larger than the maximum allowable size for a copy source: {BODY_LEN_MAX}"
            )));
        }
        let algorithm = upload.checksum.map(|(algorithm, _)| algorithm);
        let algorithm = algorithm.unwrap_or(checksums::DEFAULT);
        let received = self.copy_bytes(&source, range, algorithm, 0).await?;
        let etag = Etag::Md5(received.md5);
        let recorded = self
            .record_part(key, upload.upload, number, received)
            .await?;
        let (modified, part_checksum) = recorded;
        let mut document = XmlWriter::new("CopyPartResult", 512);
        document.time("LastModified", modified);
        document.etag(&etag);
        if let (Some(checksum), true) = (part_checksum, upload.checksum.is_some()) {
            checksums::write(&mut document, &checksum, None, false);
        }
        let mut response = xml(document.finish("CopyPartResult"));
        source.show_version(response.headers_mut());
        Ok(response)
    }

    pub(super) async fn abort_upload(&self, key: &str) -> Reply {
        if self
            .parts
            .headers
            .contains_key("x-amz-if-match-initiated-time")
        {
            return Err(crate::router::not_implemented(
                "x-amz-if-match-initiated-time",
            ));
        }
        let upload = self.upload_id()?;
        if self.permit != Permit::All {
            self.check_initiator(&self.find_upload(key).await?)?;
        }
        let metadata = &self.gateway.metadata;
        match on_bucket!(self, |bucket| metadata.abort_upload(bucket, key, upload)) {
            Ok(()) => Ok(empty(StatusCode::NO_CONTENT)),
            Err(WriteError::NoSuchUpload | WriteError::NoSuchBucket) => Err(self.no_such_upload()),
            Err(error) => Err(self.refused(error, key)),
        }
    }
}

/// A payload of which the default checksum is computed besides.
pub(super) struct Hashing {
    payload: Payload,
    hasher: Hasher,
}

impl Hashing {
    fn new(payload: Payload) -> Self {
        Self {
            payload,
            hasher: Hasher::new(checksums::DEFAULT),
        }
    }

    fn finish(self) -> ObjectChecksum {
        ObjectChecksum {
            algorithm: checksums::DEFAULT,
            kind: ChecksumKind::FullObject,
            value: self.hasher.finish(),
        }
    }
}

impl ByteSource for Hashing {
    async fn prepare(&mut self) -> Result<(), S3Error> {
        self.payload.prepare().await
    }

    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        let bytes = self.payload.next().await?;
        if let Some(bytes) = &bytes {
            self.hasher.update(bytes);
        }
        Ok(bytes)
    }

    fn leave_md5(&mut self) -> bool {
        self.payload.leave_md5()
    }

    fn set_md5(&mut self, md5: [u8; 16]) -> Result<(), S3Error> {
        self.payload.set_md5(md5)
    }

    fn leave_crc64(&mut self) -> bool {
        self.payload.leave_crc64()
    }

    fn set_crc64(&mut self, crc64: u64) -> Result<(), S3Error> {
        self.payload.set_crc64(crc64)
    }
}

impl RequestBody for Hashing {
    fn payload(&self) -> &Payload {
        &self.payload
    }
}
