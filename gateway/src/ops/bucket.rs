//! Buckets: CreateBucket, HeadBucket, DeleteBucket, GetBucketLocation, ListBuckets.

use axum::body::Body;
use http::header::{CONTENT_TYPE, HeaderName, LOCATION};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode};

use holdfast_placement::directory::{CreateBucket, Expected, Setting};
use holdfast_storage_node::metadata::{
    BucketVersioning, DeleteBucket, bucket_versioning, delete_bucket,
};

use super::access::Canned;
use super::list_objects::{continuation_token, non_empty, parse_continuation_token};
use super::response::{empty, set, xml};
use super::{Call, Reply, failure, object_lock, settings, tags};
use crate::auth::{Authenticated, BUCKET_REGION};
use crate::error::{Code, S3Error};
use crate::payload::{Digests, Payload};
use crate::router::{Query, Target, not_implemented};
use crate::server::Gateway;
use crate::xml::XmlWriter;
use crate::xml::requests::{self, NewBucket};

/// Buckets of a page at most.
const BUCKETS_PAGE_MAX: usize = 10_000;

const BUCKET_ARN: HeaderName = HeaderName::from_static("x-amz-bucket-arn");

/// The bucket's name among all of AWS's resources (IAM user guide, "Amazon Resource Names").
fn arn(bucket: &str) -> String {
    format!("arn:aws:s3:::{bucket}")
}

/// The region whose buckets have no location constraint.
const CLASSIC_REGION: &str = "us-east-1";

/// ListBuckets: the identity's own, by name.
pub(super) async fn list_buckets(gateway: &Gateway, auth: &Authenticated, query: &Query) -> Reply {
    let prefix = query.get("prefix").unwrap_or_default();
    let max = match query.count("max-buckets")? {
        Some(max) if (1..=BUCKETS_PAGE_MAX).contains(&max) => max,
        Some(max) => {
            let max = max.to_string();
            let message = "max-buckets must be an integer between 1 and 10000";
            return Err(failure::invalid_argument("max-buckets", &max, message));
        }
        None => BUCKETS_PAGE_MAX,
    };
    let token = non_empty(query, "continuation-token");
    let mut after = token.map(parse_continuation_token).transpose()?;
    let region = non_empty(query, "bucket-region");

    let mut shown = Vec::new();
    let mut more = true;
    while more && shown.len() < max {
        let page = gateway
            .directory
            .list_buckets(prefix, after.as_deref(), max);
        let (buckets, truncated) = page.await.map_err(failure::directory)?;
        more = truncated;
        for bucket in buckets {
            if shown.len() == max {
                more = true;
                break;
            }
            after = Some(bucket.name.clone());
            let is_own = bucket.owner == auth.identity.owner_id;
            if is_own && region.is_none_or(|region| region == gateway.config.region) {
                shown.push(bucket);
            }
        }
    }

    let mut document = XmlWriter::new("ListAllMyBucketsResult", 512 + 160 * shown.len());
    document.open("Owner");
    document.text("ID", &auth.identity.owner_id);
    document.text("DisplayName", &auth.identity.display_name);
    document.close("Owner");
    document.open("Buckets");
    for bucket in &shown {
        document.open("Bucket");
        document.text("Name", &bucket.name);
        document.time("CreationDate", bucket.created);
        document.text("BucketRegion", &gateway.config.region);
        document.text("BucketArn", &arn(&bucket.name));
        document.close("Bucket");
    }
    document.close("Buckets");
    if !prefix.is_empty() {
        document.text("Prefix", prefix);
    }
    if let (true, Some(last)) = (more, &after) {
        document.text("ContinuationToken", &continuation_token(last));
    }
    Ok(xml(document.finish("ListAllMyBucketsResult")))
}

/// CreateBucket.
pub(super) async fn create(
    gateway: &Gateway,
    parts: &Parts,
    body: Body,
    auth: &Authenticated,
    name: &str,
) -> Reply {
    let mut payload = Payload::new(auth, parts, body, Digests::default())?;
    let document = payload.read_all(requests::SMALL_LEN_MAX).await?;
    let wanted = match document.is_empty() {
        true => NewBucket::default(),
        false => requests::create_bucket(&document)?,
    };
    check_location(wanted.location.as_deref(), &gateway.config.region)?;
    tags::validate_for_bucket(&wanted.tags)?;
    let tags = settings::encode(&wanted.tags)?;
    let owner = &auth.identity.owner_id;
    let locked = object_lock::wanted_for_bucket(&parts.headers)?;
    let versioning = BucketVersioning::with_lock();
    let value = versioning.encode().map_err(failure::metadata)?;
    let canned = Canned::from_headers(&parts.headers, owner)?.unwrap_or_default();
    let list = settings::encode(&canned)?;
    let mut settings: Vec<(Setting, &[u8])> = Vec::new();
    if canned != Canned::Private {
        settings.push((Setting::AccessControl, &list));
    }
    if locked {
        settings.push((Setting::Versioning, &value));
    }
    if !wanted.tags.is_empty() {
        settings.push((Setting::Tagging, &tags));
    }
    let mut is_as_wanted = true;
    let region = &gateway.config.region;
    let made = gateway
        .directory
        .create_bucket_with(name, owner, region, &settings);
    let made = made.await.map_err(failure::directory)?;
    if let CreateBucket::Created(bucket) | CreateBucket::Exists(bucket) = &made
        && locked
        && bucket.owner == *owner
    {
        // Whoever was cut short here tries again.
        let found = bucket_versioning(&gateway.directory, bucket).await;
        let versioning = found.map_err(failure::metadata)?;
        is_as_wanted &= versioning.lock.is_some();
        let told = gateway.metadata.set_versioning(bucket.id, versioning).await;
        told.map_err(failure::metadata)?;
    }
    if let CreateBucket::Exists(bucket) = &made
        && bucket.owner == *owner
        && !wanted.tags.is_empty()
    {
        let found = settings::read(&gateway.directory, bucket, Setting::Tagging).await?;
        is_as_wanted &= found == Some(wanted.tags);
    }
    let done = || {
        let mut response = empty(StatusCode::OK);
        set(response.headers_mut(), LOCATION, format!("/{name}"));
        set(response.headers_mut(), BUCKET_ARN, arn(name));
        Ok(response)
    };
    match made {
        CreateBucket::Created(_) => done(),
        // As S3 does there (API reference, "List of error codes", BucketAlreadyOwnedByYou).
        CreateBucket::Exists(bucket)
            if bucket.owner == *owner && region == CLASSIC_REGION && is_as_wanted =>
        {
            let set = gateway.directory.set_setting(
                &bucket,
                Setting::AccessControl,
                Expected::Anything,
                (canned != Canned::Private).then_some(&list),
            );
            set.await.map_err(failure::directory)?;
            done()
        }
        CreateBucket::Exists(bucket) if bucket.owner == *owner => {
            Err(S3Error::new(Code::BucketAlreadyOwnedByYou).detail("BucketName", name))
        }
        CreateBucket::Exists(_) => {
            Err(S3Error::new(Code::BucketAlreadyExists).detail("BucketName", name))
        }
    }
}

/// Buckets are made in the region of the gateway, whether the request says so or says nothing.
fn check_location(constraint: Option<&str>, region: &str) -> Result<(), S3Error> {
    match constraint {
        None | Some("") => Ok(()),
        Some("EU") if region == "eu-west-1" => Ok(()),
        Some(constraint) if constraint == region => Ok(()),
        Some(constraint) if !is_region(constraint) => {
            Err(S3Error::new(Code::InvalidLocationConstraint)
                .detail("LocationConstraint", constraint))
        }
        Some(constraint) => Err(S3Error::with(
            Code::IllegalLocationConstraintException,
            format!(
                "The {constraint} location constraint is incompatible for the region specific endpoint this request was sent to."
            ),
        )),
    }
}

/// Whether AWS calls regions so: `EU`, or like `us-gov-west-1`. Which of these there are is not known here.
fn is_region(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let is_word = |part: &&str| part.len() > 1 && part.bytes().all(|b| b.is_ascii_lowercase());
    match parts.as_slice() {
        [only] => *only == "EU",
        [words @ .., number] => {
            words.len() > 1
                && words.iter().all(is_word)
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
        }
        [] => false,
    }
}

/// A refused HeadBucket, which says where the bucket is all the same. Not so a 400: clients would take it for word that
/// they have signed for another region. Nor a failure: nobody waits for the directory twice.
pub async fn tell_region(
    gateway: &Gateway,
    method: &Method,
    target: &Target,
    refusal: S3Error,
) -> S3Error {
    let Target::Bucket(name) = target else {
        return refusal;
    };
    let says_region = (401..500).contains(&refusal.status) && refusal.status != 404;
    if method != Method::HEAD || !says_region {
        return refusal;
    }
    match gateway.directory.bucket_now(name).await {
        Ok(Some(_)) => refusal.header(BUCKET_REGION, gateway.config.region.clone()),
        Ok(None) | Err(_) => refusal,
    }
}

impl Call<'_> {
    pub(super) fn head_bucket(&self) -> Reply {
        let mut response = empty(StatusCode::OK);
        let headers = response.headers_mut();
        set(headers, CONTENT_TYPE, "application/xml");
        let region = HeaderName::from_static(BUCKET_REGION);
        set(headers, region, &self.gateway.config.region);
        let alias = HeaderName::from_static("x-amz-access-point-alias");
        headers.insert(alias, HeaderValue::from_static("false"));
        set(headers, BUCKET_ARN, arn(&self.bucket().name));
        Ok(response)
    }

    pub(super) fn bucket_location(&self) -> Reply {
        let mut document = XmlWriter::new("LocationConstraint", 256);
        // All buckets are where the cluster says that it is, whatever it said when they were made.
        let region = &self.gateway.config.region;
        if region != CLASSIC_REGION {
            document.value(region);
        }
        Ok(xml(document.finish("LocationConstraint")))
    }

    /// Always the owner: nothing is charged here.
    pub(super) fn request_payment(&self) -> http::Response<Body> {
        let mut document = XmlWriter::new("RequestPaymentConfiguration", 256);
        document.text("Payer", "BucketOwner");
        xml(document.finish("RequestPaymentConfiguration"))
    }

    /// What is so anyway may be said.
    pub(super) async fn put_request_payment(&self, body: Body) -> Reply {
        let document = self.document(body, requests::SMALL_LEN_MAX).await?;
        match requests::payer(&document)?.as_str() {
            "BucketOwner" => Ok(empty(StatusCode::OK)),
            "Requester" => Err(not_implemented("Paying by requesters")),
            _ => Err(S3Error::new(Code::MalformedXML)),
        }
    }

    pub(super) async fn delete_bucket(&self) -> Reply {
        let gateway = self.gateway;
        let name = &self.bucket().name;
        let outcome = delete_bucket(&gateway.directory, &gateway.metadata, name).await;
        match outcome.map_err(failure::metadata)? {
            DeleteBucket::Deleted => Ok(empty(StatusCode::NO_CONTENT)),
            DeleteBucket::NotEmpty => {
                Err(S3Error::new(Code::BucketNotEmpty).detail("BucketName", name))
            }
            DeleteBucket::NoSuchBucket => Err(failure::no_such_bucket(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        assert!(check_location(None, "us-east-1").is_ok());
        assert!(check_location(Some(""), "eu-west-1").is_ok());
        assert!(check_location(Some("EU"), "eu-west-1").is_ok());
        assert!(check_location(Some("eu-west-1"), "eu-west-1").is_ok());
        assert!(check_location(Some("home"), "home").is_ok());
        for elsewhere in ["eu-west-1", "EU", "us-gov-west-1"] {
            let refused = check_location(Some(elsewhere), "us-east-1").unwrap_err();
            assert_eq!(refused.code, Code::IllegalLocationConstraintException);
        }
        for nowhere in [
            "foo",
            "aws-global",
            "us-east",
            "us-east-",
            "1",
            "-1",
            "US-EAST-1",
        ] {
            let refused = check_location(Some(nowhere), "us-east-1").unwrap_err();
            assert_eq!(refused.code, Code::InvalidLocationConstraint, "{nowhere}");
        }
    }
}
