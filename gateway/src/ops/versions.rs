//! Versions of objects: how requests name them and answers show them, and ListObjectVersions
//! (user guide, "Retaining multiple versions of objects with S3 Versioning").

use holdfast_placement::seams::UnixMillis;
use holdfast_storage_node::metadata::{
    ListVersions, Lookup, VersionEntry, VersionId, VersionRef, VersionSummary, VersionsPage,
};
use http::{HeaderMap, HeaderName};

use super::failure::{self, invalid_argument};
use super::list_objects::{PAGE_MAX, non_empty, wants_uri};
use super::response::{http_date, set};
use super::{Call, Reply, in_bucket};
use crate::checksum;
use crate::error::{Code, S3Error};
use crate::router::Operation;
use crate::xml::XmlWriter;

static VERSION_ID: HeaderName = HeaderName::from_static("x-amz-version-id");
static DELETE_MARKER: HeaderName = HeaderName::from_static("x-amz-delete-marker");

/// Bytes of XML of an entry, besides its key.
const ENTRY_LEN: usize = 520;

/// The version that an argument of a request names.
pub(super) fn parse_version(argument: &str, text: &str) -> Result<VersionRef, S3Error> {
    text.parse().map_err(|_| {
        let message = match text {
            "" => "Version id cannot be the empty string",
            _ => "Invalid version id specified",
        };
        invalid_argument(argument, text, message)
    })
}

/// Sets `x-amz-version-id`. Nobody who asked for no version needs to know that an object is the null version, where there is
/// no other.
pub(super) fn show(summary: &VersionSummary, asked: Option<VersionRef>, headers: &mut HeaderMap) {
    if !summary.null || asked.is_some() {
        set(headers, VERSION_ID.clone(), summary.name().to_string());
    }
}

/// Sets `x-amz-version-id` and, if it is one, `x-amz-delete-marker`.
pub(super) fn show_deleted(version: VersionRef, is_marker: bool, headers: &mut HeaderMap) {
    set(headers, VERSION_ID.clone(), version.to_string());
    if is_marker {
        set(headers, DELETE_MARKER.clone(), "true");
    }
}

impl Call<'_> {
    /// The version that the request names.
    pub(super) fn version(&self) -> Result<Option<VersionRef>, S3Error> {
        let text = self.query.get("versionId");
        text.map(|text| parse_version("versionId", text))
            .transpose()
    }

    /// What was found under the key or, if one was asked for, under the version. A delete marker has nothing to read (API
    /// reference, GetObject: 404 if it is the newest, 405 if it was named; GetObjectTagging: 405).
    pub(super) fn found<T>(
        &self,
        key: &str,
        asked: Option<VersionRef>,
        lookup: Lookup<T>,
    ) -> Result<T, S3Error> {
        let marker = match (lookup, asked) {
            (Lookup::Found(found), _) => return Ok(found),
            (Lookup::Nothing, None) => return Err(failure::no_such_key(key)),
            (Lookup::Nothing, Some(version)) => {
                return Err(S3Error::new(Code::NoSuchVersion)
                    .detail("Key", key)
                    .detail("VersionId", version.to_string()));
            }
            (Lookup::Marker(marker), _) => marker,
        };
        let error = match asked {
            // Tags are not looked for behind a delete marker.
            None if self.operation != Operation::GetObjectTagging => failure::no_such_key(key),
            None | Some(_) => failure::is_delete_marker(&self.parts.method)
                .header("last-modified", http_date(marker.modified)),
        };
        Err(error
            .header("x-amz-delete-marker", "true")
            .header("x-amz-version-id", marker.name().to_string()))
    }

    pub(super) async fn list_versions(&self) -> Reply {
        let query = self.query;
        let uri = wants_uri(query)?;
        let max = query.count("max-keys")?.unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let key_marker = non_empty(query, "key-marker");
        let list = ListVersions {
            prefix: query.get("prefix").unwrap_or_default().to_owned(),
            delimiter: non_empty(query, "delimiter").map(str::to_owned),
            key_marker: key_marker.map(str::to_owned),
            version_marker: self.version_marker(key_marker).await?,
            max,
        };
        let share = self.listing_memory(max).await?;
        let page = match max {
            0 => VersionsPage::default(),
            _ => {
                let metadata = &self.gateway.metadata;
                in_bucket!(self, |bucket| metadata.list_versions(bucket, &list))?
            }
        };

        let root = "ListVersionsResult";
        let names = page.entries.iter().map(|entry| entry.key.len() + ENTRY_LEN);
        let mut document = XmlWriter::new(root, 1024 + names.sum::<usize>());
        document.text("Name", &self.bucket().name);
        document.key("Prefix", &list.prefix, uri);
        document.key("KeyMarker", key_marker.unwrap_or_default(), uri);
        let marker = query.get("version-id-marker").unwrap_or_default();
        document.text("VersionIdMarker", marker);
        if let Some((next_key, next_version)) = &page.next {
            document.key("NextKeyMarker", next_key, uri);
            if let Some(version) = next_version {
                // The null version too: by this name its place is known when it is gone.
                document.text("NextVersionIdMarker", &VersionRef::Id(*version).to_string());
            }
        }
        document.number("MaxKeys", max as u64);
        if let Some(delimiter) = &list.delimiter {
            document.key("Delimiter", delimiter, uri);
        }
        if uri {
            document.text("EncodingType", "url");
        }
        document.boolean("IsTruncated", page.next.is_some());
        for entry in &page.entries {
            self.write_version(&mut document, entry, uri);
        }
        for prefix in &page.common_prefixes {
            document.open("CommonPrefixes");
            document.key("Prefix", prefix, uri);
            document.close("CommonPrefixes");
        }
        Ok(share.respond(document.finish(root)))
    }

    /// The version after which the page begins; `None`: all of the marker's key are passed.
    async fn version_marker(&self, key_marker: Option<&str>) -> Result<Option<VersionId>, S3Error> {
        let name = "version-id-marker";
        let Some(marker) = self.query.get(name) else {
            return Ok(None);
        };
        let Some(key) = key_marker else {
            let message = "A version-id marker cannot be specified without a key marker.";
            // An empty one beside an empty key marker is what some clients send for "none".
            return match marker {
                "" => Ok(None),
                _ => Err(invalid_argument(name, marker, message)),
            };
        };
        if marker.is_empty() {
            let message = "A version-id marker cannot be empty.";
            return Err(invalid_argument(name, marker, message));
        }
        let version = match parse_version(name, marker)? {
            VersionRef::Id(id) => return Ok(Some(id)),
            VersionRef::Null => Some(VersionRef::Null),
        };
        let metadata = &self.gateway.metadata;
        let found = in_bucket!(self, |bucket| metadata.head_version(bucket, key, version))?;
        Ok(match found {
            Lookup::Found(record) => Some(record.summary.version),
            Lookup::Marker(summary) => Some(summary.version),
            Lookup::Nothing => None,
        })
    }

    fn write_version(&self, document: &mut XmlWriter, entry: &VersionEntry, uri: bool) {
        let summary = &entry.summary;
        let element = match summary.delete_marker {
            true => "DeleteMarker",
            false => "Version",
        };
        document.open(element);
        document.key("Key", &entry.key, uri);
        document.text("VersionId", &summary.name().to_string());
        document.boolean("IsLatest", entry.latest);
        document.time("LastModified", summary.modified);
        if !summary.delete_marker {
            document.etag(&summary.etag);
            if let Some((algorithm, kind)) = summary.checksum {
                document.text("ChecksumAlgorithm", checksum::name(algorithm));
                document.text("ChecksumType", checksum::kind_name(kind));
            }
            document.number("Size", summary.size);
            document.text("StorageClass", entry.class.name());
        }
        self.write_owner(document, "Owner");
        document.close(element);
    }

    /// The time now, by the clock of the gateway.
    pub(super) fn now(&self) -> UnixMillis {
        self.gateway.clock.wall()
    }
}
