//! CopyObject.

use holdfast_storage_node::metadata::{Etag, NewVersion, ObjectHeaders};

use super::copy_source::Source;
use super::put_object::BODY_LEN_MAX;
use super::response::xml;
use super::{Call, Reply, checksums, conditions, failure, object_headers, tags, versions};
use crate::error::S3Error;
use crate::xml::XmlWriter;

/// `COPY` or `REPLACE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Copy,
    Replace,
}

impl Call<'_> {
    pub(super) async fn copy_object(&self, key: &str) -> Reply {
        let headers = &self.parts.headers;
        let condition = conditions::of_write(headers)?;
        if let Some(range) = headers.get(http::header::RANGE) {
            let range = String::from_utf8_lossy(range.as_bytes());
            let message = "RANGE is not supported in Copy!";
            return Err(failure::invalid_argument("Range", &range, message));
        }
        let metadata_directive = self.directive("x-amz-metadata-directive")?;
        let tagging_directive = self.directive("x-amz-tagging-directive")?;
        let algorithm = checksums::algorithm(headers)?;
        let given = object_headers::from_request(headers, &self.bucket().owner)?;
        let lock = self.lock_from_headers()?;
        let source = self.copy_source().await?;
        self.refuse_idle_copy(&source, key, metadata_directive)?;
        if source.record.summary.size > BODY_LEN_MAX {
            return Err(failure::invalid_request(format!(
                "The specified copy source is larger than the maximum allowable size for a copy source: {BODY_LEN_MAX}"
            )));
        }
        let new_headers = match metadata_directive {
            Directive::Replace => given,
            // Class, redirect and access control list are the new object's own (API reference, CopyObject).
            Directive::Copy => {
                let acl = given.acl().map(str::to_owned);
                let mut copied = ObjectHeaders {
                    storage_class: given.storage_class,
                    website_redirect: given.website_redirect,
                    ..source.record.headers.clone()
                };
                copied.set_acl(acl.as_deref());
                copied
            }
        };
        let new_tags = match tagging_directive {
            Directive::Replace => tags::from_header(headers)?,
            Directive::Copy => source.record.tags.clone(),
        };
        let of_source = source.record.checksum.as_ref().map(|own| own.algorithm);
        let algorithm = algorithm.or(of_source).unwrap_or(checksums::DEFAULT);

        let range = 0..source.record.summary.size;
        let inline_len_max = self.gateway.config.inline_len_max;
        let copied = self
            .copy_bytes(&source, range, algorithm, inline_len_max)
            .await?;
        let new = NewVersion {
            size: copied.written.len,
            etag: Etag::Md5(copied.md5),
            checksum: copied.checksum,
            body: copied.written.body,
            inline: copied.written.inline,
            missed: copied.written.missed,
            headers: new_headers,
            tags: new_tags,
            lock,
        };
        let summary = self.commit(key, &new, &condition).await?;
        let mut document = XmlWriter::new("CopyObjectResult", 512);
        document.time("LastModified", summary.modified);
        document.etag(&summary.etag);
        if let Some(checksum) = &new.checksum {
            checksums::write(&mut document, checksum, None, true);
        }
        let mut response = xml(document.finish("CopyObjectResult"));
        versions::show(&summary, None, response.headers_mut());
        source.show_version(response.headers_mut());
        self.show_expiration(key, &summary, &new.tags, response.headers_mut())
            .await;
        Ok(response)
    }

    fn directive(&self, name: &'static str) -> Result<Directive, S3Error> {
        match self.parts.headers.get(name).map(|value| value.as_bytes()) {
            None | Some(b"COPY") => Ok(Directive::Copy),
            Some(b"REPLACE") => Ok(Directive::Replace),
            Some(other) => {
                let value = String::from_utf8_lossy(other);
                Err(failure::invalid_argument(
                    name,
                    &value,
                    "Unknown directive.",
                ))
            }
        }
    }

    /// A copy of an object onto itself must change something.
    fn refuse_idle_copy(
        &self,
        source: &Source,
        key: &str,
        metadata_directive: Directive,
    ) -> Result<(), S3Error> {
        let changes = [
            "x-amz-storage-class",
            "x-amz-checksum-algorithm",
            "x-amz-website-redirect-location",
        ];
        // An older version may be made the newest.
        let same =
            source.bucket.id == self.bucket().id && source.key == key && source.version.is_none();
        let changed = metadata_directive == Directive::Replace
            || changes
                .iter()
                .any(|name| self.parts.headers.contains_key(*name));
        if same && !changed {
            return Err(failure::invalid_request(
                "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.",
            ));
        }
        Ok(())
    }
}
