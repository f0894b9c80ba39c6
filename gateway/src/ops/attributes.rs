//! GetObjectAttributes.

use holdfast_storage_node::metadata::{self, StorageClass, VersionRecord};

use super::failure::{self, invalid_argument, invalid_request};
use super::list_objects::PAGE_MAX;
use super::response::{set_last_modified, xml};
use super::{Call, Reply, checksums, in_bucket, versions};
use crate::error::S3Error;
use crate::xml::XmlWriter;

/// What a request wants to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wanted {
    etag: bool,
    checksum: bool,
    parts: bool,
    class: bool,
    size: bool,
}

impl Call<'_> {
    pub(super) async fn attributes(&self, key: &str) -> Reply {
        let wanted = self.wanted_attributes()?;
        let max = self.count_header("x-amz-max-parts")?.unwrap_or(PAGE_MAX);
        let marker = self.count_header("x-amz-part-number-marker")?.unwrap_or(0);
        let metadata = &self.gateway.metadata;
        let asked = self.version()?;
        let found = in_bucket!(self, |bucket| metadata.head_version(bucket, key, asked))?;
        let record = self.found(key, asked, found)?;
        if let Some(response) = self.judge(&record)? {
            return Ok(response);
        }

        let root = "GetObjectAttributesResponse";
        let mut document = XmlWriter::new(root, 1024);
        if wanted.etag {
            document.text("ETag", &record.summary.etag.to_string());
        }
        let parts = match record.body {
            metadata::Body::Multipart { parts, .. } => Some(parts),
            _ => None,
        };
        if let (true, Some(checksum)) = (wanted.checksum, &record.checksum) {
            document.open("Checksum");
            checksums::write(&mut document, checksum, parts, true);
            document.close("Checksum");
        }
        if wanted.parts {
            let max = max.min(PAGE_MAX);
            self.write_parts(&mut document, key, &record, marker, max)
                .await?;
        }
        if wanted.class {
            let class = record.headers.storage_class.as_deref();
            document.text("StorageClass", StorageClass::of_headers(class).name());
        }
        if wanted.size {
            document.number("ObjectSize", record.summary.size);
        }
        let mut response = xml(document.finish(root));
        set_last_modified(response.headers_mut(), record.summary.modified);
        versions::show(&record.summary, asked, response.headers_mut());
        Ok(response)
    }

    /// `ObjectParts`, of multipart objects only.
    async fn write_parts(
        &self,
        document: &mut XmlWriter,
        key: &str,
        record: &VersionRecord,
        marker: usize,
        max: usize,
    ) -> Result<(), S3Error> {
        let metadata::Body::Multipart { table, parts } = record.body else {
            return Ok(());
        };
        let after = marker.min(usize::from(u16::MAX)) as u16;
        let metadata = &self.gateway.metadata;
        let found = metadata.parts_after(self.bucket().id, key, table, after, max + 1);
        let mut found = found.await.map_err(failure::metadata)?;
        let truncated = found.len() > max;
        found.truncate(max);
        document.open("ObjectParts");
        document.number("PartsCount", u64::from(parts));
        document.number("PartNumberMarker", marker as u64);
        let last = found.last().map_or(0, |(_, part)| u64::from(part.number));
        document.number("NextPartNumberMarker", last);
        document.number("MaxParts", max as u64);
        document.boolean("IsTruncated", truncated);
        for (_, part) in &found {
            document.open("Part");
            document.number("PartNumber", u64::from(part.number));
            document.number("Size", part.size);
            if let Some(checksum) = &part.checksum {
                checksums::write(document, checksum, None, false);
            }
            document.close("Part");
        }
        document.close("ObjectParts");
        Ok(())
    }

    fn wanted_attributes(&self) -> Result<Wanted, S3Error> {
        let name = "x-amz-object-attributes";
        let mut wanted = Wanted::default();
        for value in self.parts.headers.get_all(name) {
            if value.is_empty() {
                continue;
            }
            for attribute in value.to_str().unwrap_or("?").split(',') {
                match attribute.trim() {
                    "ETag" => wanted.etag = true,
                    "Checksum" => wanted.checksum = true,
                    "ObjectParts" => wanted.parts = true,
                    "StorageClass" => wanted.class = true,
                    "ObjectSize" => wanted.size = true,
                    other => {
                        let message = "Invalid attribute name specified.";
                        return Err(invalid_argument(name, other, message));
                    }
                }
            }
        }
        if wanted == Wanted::default() {
            return Err(invalid_request(
                "The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty",
            ));
        }
        Ok(wanted)
    }

    fn count_header(&self, name: &'static str) -> Result<Option<usize>, S3Error> {
        let Some(value) = self.header(name)? else {
            return Ok(None);
        };
        match value.parse::<u32>() {
            Ok(count) if count <= i32::MAX as u32 => Ok(Some(count as usize)),
            _ => Err(invalid_argument(
                name,
                value,
                format!("Argument {name} must be an integer between 0 and 2147483647"),
            )),
        }
    }
}
