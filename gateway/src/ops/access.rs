//! Canned access control lists (user guide, "Access control list (ACL) overview"). They are the only ones there are: a
//! bucket or an object has one of them, whether by its name or by grants that say the same.

use axum::body::Body;
use holdfast_placement::directory::Setting;
use holdfast_storage_node::metadata::{ObjectHeaders, WriteError};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::response::{empty, xml};
use super::{Call, Reply, grants, in_bucket, on_bucket, versions};
use crate::auth::Identity;
use crate::error::{Code, S3Error};
use crate::router::not_implemented;
use crate::xml::{XmlWriter, requests};

pub(super) const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
pub(super) const AUTHENTICATED_USERS: &str =
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";

/// A canned list. The order of variants is persisted: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Canned {
    #[default]
    Private,
    PublicRead,
    PublicReadWrite,
    AuthenticatedRead,
}

impl Canned {
    pub const ALL: [Self; 4] = [
        Self::Private,
        Self::PublicRead,
        Self::PublicReadWrite,
        Self::AuthenticatedRead,
    ];

    /// As `x-amz-acl` names it. What the bucket's owner may do anyway is no grant: all that is in a bucket is the
    /// owner's.
    pub fn parse(text: &str) -> Result<Self, S3Error> {
        match text {
            "private" | "bucket-owner-full-control" | "bucket-owner-read" => Ok(Self::Private),
            "public-read" => Ok(Self::PublicRead),
            "public-read-write" => Ok(Self::PublicReadWrite),
            "authenticated-read" => Ok(Self::AuthenticatedRead),
            "aws-exec-read" | "log-delivery-write" => {
                Err(not_implemented(&format!("The canned ACL {text}")))
            }
            _ => Err(S3Error::new(Code::InvalidArgument)
                .detail("ArgumentName", "x-amz-acl")
                .detail("ArgumentValue", text)),
        }
    }

    /// As `parse` reads it, and as objects keep it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::PublicRead => "public-read",
            Self::PublicReadWrite => "public-read-write",
            Self::AuthenticatedRead => "authenticated-read",
        }
    }

    /// As an object keeps it.
    pub fn kept(self) -> Option<&'static str> {
        (self != Self::Private).then(|| self.name())
    }

    /// Of an object. What is not understood lets nobody in.
    pub fn of_object(headers: &ObjectHeaders) -> Self {
        let kept = headers.acl().map(Self::parse);
        kept.and_then(Result::ok).unwrap_or_default()
    }

    /// From the headers of a request, `x-amz-acl` or `x-amz-grant-*`; `None`: they say nothing. `owner` is the id of who owns
    /// what the list is for.
    pub fn from_headers(headers: &HeaderMap, owner: &str) -> Result<Option<Self>, S3Error> {
        // Empty says nothing: tcllib's client always sends it.
        let Some(value) = headers.get("x-amz-acl").filter(|value| !value.is_empty()) else {
            return grants::from_headers(headers, owner);
        };
        let mut granted = grants::GRANT_HEADERS.iter();
        if granted.any(|(name, _)| headers.contains_key(*name)) {
            let message = "Specifying both Canned ACLs and Header Grants is not allowed";
            return Err(S3Error::with(Code::InvalidRequest, message));
        }
        Self::parse(value.to_str().unwrap_or_default()).map(Some)
    }

    /// Whether somebody who is not the owner may read.
    pub fn lets_read(self, identity: &Identity) -> bool {
        match self {
            Self::Private => false,
            Self::PublicRead | Self::PublicReadWrite => true,
            Self::AuthenticatedRead => !identity.is_anonymous(),
        }
    }

    /// Whether somebody who is not the owner may write.
    pub fn lets_write(self) -> bool {
        self == Self::PublicReadWrite
    }

    /// Group and permission of each grant beside the owner's.
    pub(super) fn grants(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Private => &[],
            Self::PublicRead => &[(ALL_USERS, "READ")],
            Self::PublicReadWrite => &[(ALL_USERS, "READ"), (ALL_USERS, "WRITE")],
            Self::AuthenticatedRead => &[(AUTHENTICATED_USERS, "READ")],
        }
    }
}

impl Call<'_> {
    pub(super) async fn get_bucket_acl(&self) -> Reply {
        let canned: Option<Canned> = self.setting(Setting::AccessControl).await?;
        Ok(self.acl_document(canned.unwrap_or_default()))
    }

    pub(super) async fn put_bucket_acl(&self, body: Body) -> Reply {
        let canned = self.canned_acl(body).await?;
        match canned {
            Canned::Private => self.unset(Setting::AccessControl).await?,
            canned => self.set(Setting::AccessControl, &canned).await?,
        }
        Ok(empty(StatusCode::OK))
    }

    pub(super) async fn get_object_acl(&self, key: &str) -> Reply {
        let metadata = &self.gateway.metadata;
        let asked = self.version()?;
        let found = in_bucket!(self, |bucket| metadata.head_version(bucket, key, asked))?;
        let record = self.found(key, asked, found)?;
        let mut response = self.acl_document(Canned::of_object(&record.headers));
        versions::show(&record.summary, asked, response.headers_mut());
        Ok(response)
    }

    pub(super) async fn put_object_acl(&self, key: &str, body: Body) -> Reply {
        let canned = self.canned_acl(body).await?;
        let metadata = &self.gateway.metadata;
        let asked = self.version()?;
        let kept = canned.kept();
        let changed = on_bucket!(self, |bucket| metadata.set_acl(bucket, key, asked, kept));
        let summary = changed.map_err(|error| self.refused(error, key))?;
        let mut response = empty(StatusCode::OK);
        versions::show(&summary, asked, response.headers_mut());
        Ok(response)
    }

    /// The canned list of a request that is to set one.
    pub(super) async fn canned_acl(&self, body: Body) -> Result<Canned, S3Error> {
        let document = self.document_if_any(body, requests::SMALL_LEN_MAX).await?;
        let owner = &self.bucket().owner;
        match Canned::from_headers(&self.parts.headers, owner)? {
            Some(canned) if document.is_empty() => Ok(canned),
            Some(_) => Err(S3Error::new(Code::UnexpectedContent)),
            None if document.is_empty() => {
                Err(S3Error::new(Code::MissingSecurityHeader)
                    .detail("MissingHeaderName", "x-amz-acl"))
            }
            None => grants::from_document(&document, owner),
        }
    }

    /// `AccessControlPolicy`.
    pub(super) fn acl_document(&self, canned: Canned) -> http::Response<Body> {
        const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
        let mut document = XmlWriter::new("AccessControlPolicy", 1024);
        self.write_owner(&mut document, "Owner");
        document.open("AccessControlList");
        document.open("Grant");
        let user = format!("Grantee xmlns:xsi=\"{XSI}\" xsi:type=\"CanonicalUser\"");
        self.write_user(&mut document, &user, "Grantee");
        document.text("Permission", "FULL_CONTROL");
        document.close("Grant");
        for (group, permission) in canned.grants() {
            document.open("Grant");
            document.open(&format!("Grantee xmlns:xsi=\"{XSI}\" xsi:type=\"Group\""));
            document.text("URI", group);
            document.close("Grantee");
            document.text("Permission", permission);
            document.close("Grant");
        }
        document.close("AccessControlList");
        xml(document.finish("AccessControlPolicy"))
    }
}
