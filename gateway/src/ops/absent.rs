//! Configurations that S3 has for buckets and that no bucket here can have. Asked for them, a bucket answers as one on S3
//! that has none: it is true, and tools that look at a bucket's every configuration go on. Deleting one does nothing, as
//! there. Setting one is refused by the router, but for one that says what is so anyway.

use axum::body::Body;
use holdfast_placement::directory::Setting;
use http::StatusCode;

use super::access::Canned;
use super::response::{empty, xml};
use super::{Call, Reply};
use crate::error::{Code, S3Error};
use crate::router::not_implemented;
use crate::xml::{XmlWriter, requests};

/// What S3 answers for a bucket that has no such configuration.
#[derive(Clone, Copy, Debug)]
enum Absent {
    /// An error.
    Error(Code),
    /// A document without content.
    Empty(&'static str),
    /// A document that says so.
    Says(&'static str, &'static str, &'static str),
    /// There may be many by `id`: a list of none.
    List(&'static str),
}

/// By sub-resource, and whether such a configuration can be deleted (API reference, "Actions").
const CONFIGURATIONS: [(&str, Absent, bool); 13] = [
    (
        "abac",
        Absent::Says("AbacStatus", "Status", "Disabled"),
        false,
    ),
    (
        "accelerate",
        Absent::Empty("AccelerateConfiguration"),
        false,
    ),
    (
        "analytics",
        Absent::List("ListBucketAnalyticsConfigurationsResult"),
        true,
    ),
    (
        "encryption",
        Absent::Error(Code::ServerSideEncryptionConfigurationNotFoundError),
        true,
    ),
    (
        "intelligent-tiering",
        Absent::List("ListBucketIntelligentTieringConfigurationsResult"),
        true,
    ),
    (
        "inventory",
        Absent::List("ListInventoryConfigurationsResult"),
        true,
    ),
    ("logging", Absent::Empty("BucketLoggingStatus"), false),
    (
        "metrics",
        Absent::List("ListMetricsConfigurationsResult"),
        true,
    ),
    (
        "ownershipControls",
        Absent::Error(Code::OwnershipControlsNotFoundError),
        true,
    ),
    ("policy", Absent::Error(Code::NoSuchBucketPolicy), true),
    (
        "policyStatus",
        Absent::Error(Code::NoSuchBucketPolicy),
        false,
    ),
    (
        "publicAccessBlock",
        Absent::Error(Code::NoSuchPublicAccessBlockConfiguration),
        true,
    ),
    (
        "replication",
        Absent::Error(Code::ReplicationConfigurationNotFoundError),
        true,
    ),
];

impl Call<'_> {
    fn asked_for(&self) -> Result<(Absent, bool), S3Error> {
        let found = CONFIGURATIONS
            .iter()
            .find(|(name, ..)| self.query.has(name));
        let found = found.ok_or(Code::NotImplemented)?;
        Ok((found.1, found.2))
    }

    fn none(&self, code: Code) -> S3Error {
        S3Error::new(code).detail("BucketName", self.bucket().name.clone())
    }

    pub(super) fn get_absent(&self) -> Reply {
        let (absent, _) = self.asked_for()?;
        match absent {
            Absent::Error(code) => Err(self.none(code)),
            Absent::List(_) if self.query.has("id") => Err(self.none(Code::NoSuchConfiguration)),
            Absent::List(root) => {
                let mut document = XmlWriter::new(root, 256);
                document.boolean("IsTruncated", false);
                Ok(xml(document.finish(root)))
            }
            Absent::Empty(root) => Ok(xml(XmlWriter::new(root, 256).finish(root))),
            Absent::Says(root, element, value) => {
                let mut document = XmlWriter::new(root, 256);
                document.text(element, value);
                Ok(xml(document.finish(root)))
            }
        }
    }

    /// Objects are the bucket's owner's anyway, so that this may be said; it is not kept. It may not be if others were let in
    /// by the bucket's list, which it would take away on S3.
    pub(super) async fn put_ownership_controls(&self, body: Body) -> Reply {
        let document = self.document(body, requests::SMALL_LEN_MAX).await?;
        match requests::object_ownership(&document)?.as_str() {
            "BucketOwnerEnforced" => {}
            "BucketOwnerPreferred" | "ObjectWriter" => {
                return Err(not_implemented("Ownership other than BucketOwnerEnforced"));
            }
            _ => return Err(S3Error::new(Code::MalformedXML)),
        }
        match self.setting::<Canned>(Setting::AccessControl).await? {
            None | Some(Canned::Private) => Ok(empty(StatusCode::OK)),
            Some(_) => Err(self.none(Code::InvalidBucketAclWithObjectOwnership)),
        }
    }

    pub(super) fn delete_absent(&self) -> Reply {
        let (absent, is_deletable) = self.asked_for()?;
        match absent {
            _ if !is_deletable => Err(S3Error::new(Code::MethodNotAllowed).header("allow", "GET")),
            Absent::List(_) => Err(self.none(Code::NoSuchConfiguration)),
            _ => Ok(empty(StatusCode::NO_CONTENT)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CONFIGURATIONS;
    use crate::router::BUCKET_ABSENT;

    #[test]
    fn every_configuration_that_is_routed_here_has_an_answer() {
        let known: Vec<_> = CONFIGURATIONS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(known, BUCKET_ABSENT);
    }
}
