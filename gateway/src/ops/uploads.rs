//! ListParts and ListMultipartUploads.

use holdfast_storage_node::metadata::{ListParts, ListUploads, StorageClass, UploadsPage};

use super::list_objects::{PAGE_MAX, non_empty, wants_uri};
use super::multipart::parse_upload_id;
use super::{Call, Reply, checksums, failure, in_bucket};
use crate::checksum;
use crate::error::{Code, S3Error};
use crate::xml::XmlWriter;

impl Call<'_> {
    pub(super) async fn list_parts(&self, key: &str) -> Reply {
        let query = self.query;
        let uri = wants_uri(query)?;
        let upload = self.upload_id()?;
        let max = query.count("max-parts")?.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let after = query.count("part-number-marker")?.unwrap_or(0);
        let list = ListParts {
            upload,
            after: after.min(usize::from(u16::MAX)) as u16,
            max,
        };
        let share = self.listing_memory(max).await?;
        let metadata = &self.gateway.metadata;
        let page = in_bucket!(self, |bucket| metadata.list_parts(bucket, key, &list))?;
        let page = page.ok_or_else(|| {
            S3Error::new(Code::NoSuchUpload).detail("UploadId", upload.to_string())
        })?;
        self.check_initiator(&page.upload)?;

        let mut document = XmlWriter::new("ListPartsResult", 1024 + 256 * page.parts.len());
        document.text("Bucket", &self.bucket().name);
        document.key("Key", key, uri);
        if uri {
            document.text("EncodingType", "url");
        }
        document.text("UploadId", &upload.to_string());
        self.write_initiator(&mut document, "Initiator", &page.upload);
        self.write_initiator(&mut document, "Owner", &page.upload);
        let class = page.upload.headers.storage_class.as_deref();
        document.text("StorageClass", StorageClass::of_headers(class).name());
        document.number("PartNumberMarker", after as u64);
        let last = page.parts.last().map_or(0, |part| u64::from(part.number));
        document.number("NextPartNumberMarker", last);
        document.number("MaxParts", max as u64);
        document.boolean("IsTruncated", page.truncated);
        if let Some((algorithm, kind)) = page.upload.checksum {
            document.text("ChecksumAlgorithm", checksum::name(algorithm));
            document.text("ChecksumType", checksum::kind_name(kind));
        }
        for part in &page.parts {
            document.open("Part");
            document.number("PartNumber", u64::from(part.number));
            document.time("LastModified", part.modified);
            document.etag(&holdfast_storage_node::metadata::Etag::Md5(part.md5));
            document.number("Size", part.size);
            if let (Some(checksum), true) = (&part.checksum, page.upload.checksum.is_some()) {
                checksums::write(&mut document, checksum, None, false);
            }
            document.close("Part");
        }
        let mut response = share.respond(document.finish("ListPartsResult"));
        self.show_abort(key, page.upload.initiated, response.headers_mut())
            .await;
        Ok(response)
    }

    pub(super) async fn list_uploads(&self) -> Reply {
        let query = self.query;
        let uri = wants_uri(query)?;
        let max = query
            .count("max-uploads")?
            .unwrap_or(PAGE_MAX)
            .min(PAGE_MAX);
        let key_marker = non_empty(query, "key-marker");
        let upload_marker = non_empty(query, "upload-id-marker");
        let list = ListUploads {
            prefix: query.get("prefix").unwrap_or_default().to_owned(),
            delimiter: non_empty(query, "delimiter").map(str::to_owned),
            key_marker: key_marker.map(str::to_owned),
            // Without a key marker it is ignored (API reference, ListMultipartUploads).
            upload_marker: match (key_marker, upload_marker) {
                (Some(_), Some(id)) => Some(parse_upload_id(id).ok_or_else(|| {
                    failure::invalid_argument("upload-id-marker", id, "Invalid uploadId marker")
                })?),
                _ => None,
            },
            max,
        };
        let share = self.listing_memory(max).await?;
        let page = match max {
            0 => UploadsPage::default(),
            _ => {
                let metadata = &self.gateway.metadata;
                in_bucket!(self, |bucket| metadata.list_uploads(bucket, &list))?
            }
        };

        let root = "ListMultipartUploadsResult";
        let mut document = XmlWriter::new(root, 1024 + 640 * page.uploads.len());
        document.text("Bucket", &self.bucket().name);
        document.key("KeyMarker", key_marker.unwrap_or_default(), uri);
        document.text("UploadIdMarker", upload_marker.unwrap_or_default());
        // The elements are there on the last page too, as on S3: what they name is the last upload shown.
        let last = || {
            page.uploads
                .last()
                .map(|last| (&last.key, Some(last.upload)))
        };
        let next = page.next.as_ref().map(|(key, upload)| (key, *upload));
        let (next_key, next_upload) = next.or_else(last).unzip();
        document.key("NextKeyMarker", next_key.map_or("", String::as_str), uri);
        let id = next_upload.flatten().map(|id| id.to_string());
        document.text("NextUploadIdMarker", &id.unwrap_or_default());
        document.key("Prefix", &list.prefix, uri);
        if let Some(delimiter) = &list.delimiter {
            document.key("Delimiter", delimiter, uri);
        }
        if uri {
            document.text("EncodingType", "url");
        }
        document.number("MaxUploads", max as u64);
        document.boolean("IsTruncated", page.next.is_some());
        for upload in &page.uploads {
            document.open("Upload");
            document.key("Key", &upload.key, uri);
            document.text("UploadId", &upload.upload.to_string());
            self.write_initiator(&mut document, "Initiator", upload);
            self.write_initiator(&mut document, "Owner", upload);
            let class = upload.headers.storage_class.as_deref();
            document.text("StorageClass", StorageClass::of_headers(class).name());
            document.time("Initiated", upload.initiated);
            if let Some((algorithm, kind)) = upload.checksum {
                document.text("ChecksumAlgorithm", checksum::name(algorithm));
                document.text("ChecksumType", checksum::kind_name(kind));
            }
            document.close("Upload");
        }
        for prefix in &page.common_prefixes {
            document.open("CommonPrefixes");
            document.key("Prefix", prefix, uri);
            document.close("CommonPrefixes");
        }
        Ok(share.respond(document.finish(root)))
    }
}
