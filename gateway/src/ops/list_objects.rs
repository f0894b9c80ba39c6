//! ListObjects and ListObjectsV2.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_storage_node::metadata::{ListObjects, ListPage, UploadRecord};

use super::failure::invalid_argument;
use super::{Call, Reply, in_bucket};
use crate::checksum;
use crate::error::S3Error;
use crate::router::Query;
use crate::xml::XmlWriter;

/// Entries of a page at most.
pub const PAGE_MAX: usize = 1000;

/// Bytes of XML of an entry, besides its key, with an owner.
const ENTRY_LEN: usize = 420;

/// The first byte of a continuation token; another meaning gets another.
const TOKEN_FORMAT: u8 = 1;

/// Whether names are to be percent-encoded (`encoding-type=url`).
pub(super) fn wants_uri(query: &Query) -> Result<bool, S3Error> {
    match query.get("encoding-type") {
        None => Ok(false),
        Some("url") => Ok(true),
        Some(other) => Err(invalid_argument(
            "encoding-type",
            other,
            "Invalid Encoding Method specified in Request",
        )),
    }
}

/// A parameter that is given and not empty.
pub(super) fn non_empty<'q>(query: &'q Query, name: &str) -> Option<&'q str> {
    query.get(name).filter(|value| !value.is_empty())
}

/// An opaque token from which the next page goes on after `name`.
pub(super) fn continuation_token(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len() + 1);
    bytes.push(TOKEN_FORMAT);
    bytes.extend_from_slice(name.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The name in a token.
pub(super) fn parse_continuation_token(token: &str) -> Result<String, S3Error> {
    let name = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| {
        let name = bytes.strip_prefix(&[TOKEN_FORMAT])?;
        String::from_utf8(name.to_vec()).ok()
    });
    name.ok_or_else(|| {
        invalid_argument(
            "continuation-token",
            token,
            "The continuation token provided is incorrect",
        )
    })
}

impl Call<'_> {
    pub(super) async fn list_objects_v1(&self) -> Reply {
        let query = self.query;
        let uri = wants_uri(query)?;
        let max = query.count("max-keys")?.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let marker = query.get("marker").unwrap_or_default();
        let list = self.listing(Some(marker), max);
        let share = self.listing_memory(max).await?;
        let page = self.page(&list).await?;

        let mut document = self.start(&list, &page, uri);
        document.key("Marker", marker, uri);
        if let (Some(next), true) = (&page.next, list.delimiter.is_some()) {
            document.key("NextMarker", next, uri);
        }
        document.number("MaxKeys", max as u64);
        self.write_page(&mut document, &page, uri, true);
        Ok(share.respond(document.finish("ListBucketResult")))
    }

    pub(super) async fn list_objects_v2(&self) -> Reply {
        let query = self.query;
        let uri = wants_uri(query)?;
        let max = query.count("max-keys")?.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let start_after = non_empty(query, "start-after");
        let token = query.get("continuation-token");
        let with_owner = query
            .get("fetch-owner")
            .is_some_and(|value| value == "true");
        // An empty one is what some clients send for "not given".
        let given = token.filter(|token| !token.is_empty());
        let from_token = given.map(parse_continuation_token).transpose()?;
        let list = self.listing(from_token.as_deref().or(start_after), max);
        let share = self.listing_memory(max).await?;
        let page = self.page(&list).await?;

        let mut document = self.start(&list, &page, uri);
        if let Some(token) = token {
            document.text("ContinuationToken", token);
        }
        if let Some(next) = &page.next {
            document.text("NextContinuationToken", &continuation_token(next));
        }
        if let Some(start_after) = start_after {
            document.key("StartAfter", start_after, uri);
        }
        let count = page.entries.len() + page.common_prefixes.len();
        document.number("KeyCount", count as u64);
        document.number("MaxKeys", max as u64);
        self.write_page(&mut document, &page, uri, with_owner);
        Ok(share.respond(document.finish("ListBucketResult")))
    }

    fn listing(&self, after: Option<&str>, max: usize) -> ListObjects {
        ListObjects {
            prefix: self.query.get("prefix").unwrap_or_default().to_owned(),
            delimiter: non_empty(self.query, "delimiter").map(str::to_owned),
            after: after.filter(|after| !after.is_empty()).map(str::to_owned),
            max,
        }
    }

    async fn page(&self, list: &ListObjects) -> Result<ListPage, S3Error> {
        if list.max == 0 {
            return Ok(ListPage::default());
        }
        let metadata = &self.gateway.metadata;
        in_bucket!(self, |bucket| metadata.list(bucket, list))
    }

    fn start(&self, list: &ListObjects, page: &ListPage, uri: bool) -> XmlWriter {
        let names = page.entries.iter().map(|entry| entry.key.len());
        let prefixes = page.common_prefixes.iter().map(|prefix| prefix.len() + 64);
        let capacity = 1024 + page.entries.len() * ENTRY_LEN + names.chain(prefixes).sum::<usize>();
        let mut document = XmlWriter::new("ListBucketResult", capacity);
        document.text("Name", &self.bucket().name);
        document.key("Prefix", &list.prefix, uri);
        if let Some(delimiter) = &list.delimiter {
            document.key("Delimiter", delimiter, uri);
        }
        if uri {
            document.text("EncodingType", "url");
        }
        document.boolean("IsTruncated", page.next.is_some());
        document
    }

    fn write_page(&self, document: &mut XmlWriter, page: &ListPage, uri: bool, with_owner: bool) {
        for entry in &page.entries {
            let summary = &entry.summary;
            document.open("Contents");
            document.key("Key", &entry.key, uri);
            document.time("LastModified", summary.modified);
            document.etag(&summary.etag);
            if let Some((algorithm, kind)) = summary.checksum {
                document.text("ChecksumAlgorithm", checksum::name(algorithm));
                document.text("ChecksumType", checksum::kind_name(kind));
            }
            document.number("Size", summary.size);
            if with_owner {
                self.write_owner(document, "Owner");
            }
            document.text("StorageClass", entry.class.name());
            document.close("Contents");
        }
        for prefix in &page.common_prefixes {
            document.open("CommonPrefixes");
            document.key("Prefix", prefix, uri);
            document.close("CommonPrefixes");
        }
    }

    /// The owner of everything in the bucket.
    pub(super) fn write_owner(&self, document: &mut XmlWriter, element: &str) {
        self.write_user(document, element, element);
    }

    /// Who began an upload; the owner, where that is not known.
    pub(super) fn write_initiator(
        &self,
        document: &mut XmlWriter,
        element: &str,
        upload: &UploadRecord,
    ) {
        let Some((id, name)) = upload.headers.initiator() else {
            return self.write_owner(document, element);
        };
        document.open(element);
        document.text("ID", id);
        document.text("DisplayName", name);
        document.close(element);
    }

    /// The same with an opening tag that may have attributes.
    pub(super) fn write_user(&self, document: &mut XmlWriter, open: &str, element: &str) {
        document.open(open);
        document.text("ID", &self.bucket().owner);
        let identity = &self.auth.identity;
        if identity.owner_id == self.bucket().owner {
            document.text("DisplayName", &identity.display_name);
        }
        document.close(element);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;
    use crate::error::Code;

    #[test]
    fn tokens_are_checked() {
        for wrong in ["", "!", "abc", "Ag", "Af8"] {
            let refused = parse_continuation_token(wrong).unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn tokens_come_back(name in ".{0,40}") {
            prop_assert_eq!(parse_continuation_token(&continuation_token(&name)).unwrap(), name);
        }
    }
}
