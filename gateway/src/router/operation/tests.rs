use http::HeaderValue;
use http::header::HeaderName;

use super::*;

fn find(
    method: &str,
    on: &str,
    raw_query: &str,
    headers: &[(&str, &str)],
) -> Result<Operation, Code> {
    let target = match on {
        "service" => Target::Service,
        "bucket" => Target::Bucket("bucket".into()),
        _ => Target::Object("bucket".into(), "key".into()),
    };
    let query = Query::parse(Some(raw_query)).unwrap();
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    route(&method, &target, &query, &header_map(headers)).map_err(|error| error.code)
}

fn header_map(headers: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    };
    headers.iter().map(pair).collect()
}

#[test]
fn finds_operations() {
    let copy = [("x-amz-copy-source", "b/k")];
    let form = [("content-type", "Multipart/Form-Data; boundary=x")];
    for (method, on, query, headers, operation) in [
        ("POST", "bucket", "", &form[..], Operation::PostObject),
        ("GET", "bucket", "acl", &[][..], Operation::GetBucketAcl),
        ("PUT", "bucket", "cors", &[][..], Operation::PutBucketCors),
        ("GET", "service", "", &[][..], Operation::ListBuckets),
        (
            "GET",
            "service",
            "x-id=ListBuckets&prefix=a",
            &[],
            Operation::ListBuckets,
        ),
        ("PUT", "bucket", "", &[], Operation::CreateBucket),
        ("HEAD", "bucket", "", &[], Operation::HeadBucket),
        ("DELETE", "bucket", "", &[], Operation::DeleteBucket),
        (
            "GET",
            "bucket",
            "location",
            &[],
            Operation::GetBucketLocation,
        ),
        (
            "GET",
            "bucket",
            "location=",
            &[],
            Operation::GetBucketLocation,
        ),
        (
            "GET",
            "bucket",
            "prefix=a&delimiter=%2F",
            &[],
            Operation::ListObjects,
        ),
        (
            "GET",
            "bucket",
            "list-type=2&unknown=1",
            &[],
            Operation::ListObjectsV2,
        ),
        (
            "GET",
            "bucket",
            "uploads&prefix=p",
            &[],
            Operation::ListMultipartUploads,
        ),
        ("POST", "bucket", "delete", &[], Operation::DeleteObjects),
        ("PUT", "object", "x-id=PutObject", &[], Operation::PutObject),
        ("PUT", "object", "", &copy, Operation::CopyObject),
        (
            "GET",
            "object",
            "response-content-type=a",
            &[],
            Operation::GetObject,
        ),
        ("GET", "object", "partNumber=1", &[], Operation::GetObject),
        ("GET", "object", "versionId=null", &[], Operation::GetObject),
        (
            "GET",
            "bucket",
            "versions",
            &[],
            Operation::ListObjectVersions,
        ),
        (
            "GET",
            "bucket",
            "versioning",
            &[],
            Operation::GetBucketVersioning,
        ),
        (
            "PUT",
            "bucket",
            "versioning",
            &[],
            Operation::PutBucketVersioning,
        ),
        (
            "GET",
            "bucket",
            "object-lock",
            &[],
            Operation::GetObjectLockConfiguration,
        ),
        (
            "PUT",
            "bucket",
            "object-lock",
            &[],
            Operation::PutObjectLockConfiguration,
        ),
        (
            "GET",
            "object",
            "retention&versionId=a",
            &[],
            Operation::GetObjectRetention,
        ),
        (
            "PUT",
            "object",
            "retention",
            &[],
            Operation::PutObjectRetention,
        ),
        (
            "GET",
            "object",
            "legal-hold",
            &[],
            Operation::GetObjectLegalHold,
        ),
        (
            "PUT",
            "object",
            "legal-hold",
            &[],
            Operation::PutObjectLegalHold,
        ),
        ("HEAD", "object", "", &[], Operation::HeadObject),
        ("DELETE", "object", "", &[], Operation::DeleteObject),
        (
            "GET",
            "object",
            "attributes",
            &[],
            Operation::GetObjectAttributes,
        ),
        ("GET", "object", "tagging", &[], Operation::GetObjectTagging),
        ("PUT", "object", "tagging", &[], Operation::PutObjectTagging),
        (
            "DELETE",
            "object",
            "tagging",
            &[],
            Operation::DeleteObjectTagging,
        ),
        (
            "POST",
            "object",
            "uploads",
            &[],
            Operation::CreateMultipartUpload,
        ),
        (
            "PUT",
            "object",
            "partNumber=1&uploadId=u",
            &[],
            Operation::UploadPart,
        ),
        (
            "PUT",
            "object",
            "partNumber=1&uploadId=u",
            &copy,
            Operation::UploadPartCopy,
        ),
        (
            "POST",
            "object",
            "uploadId=u",
            &[],
            Operation::CompleteMultipartUpload,
        ),
        (
            "DELETE",
            "object",
            "uploadId=u",
            &[],
            Operation::AbortMultipartUpload,
        ),
        (
            "GET",
            "object",
            "uploadId=u&max-parts=3",
            &[],
            Operation::ListParts,
        ),
    ] {
        assert_eq!(
            find(method, on, query, headers),
            Ok(operation),
            "{method} {on} ?{query}"
        );
    }
}

#[test]
fn refuses_by_name() {
    for (method, on, query, headers, code) in [
        ("OPTIONS", "service", "", &[][..], Code::NotImplemented),
        ("POST", "service", "", &[], Code::MethodNotAllowed),
        ("DELETE", "service", "", &[], Code::MethodNotAllowed),
        ("PATCH", "bucket", "", &[], Code::MethodNotAllowed),
        ("POST", "bucket", "", &[], Code::PreconditionFailed),
        ("PUT", "bucket", "location", &[], Code::MethodNotAllowed),
        ("GET", "bucket", "delete", &[], Code::MethodNotAllowed),
        ("GET", "bucket", "list-type=3", &[], Code::InvalidArgument),
        ("PUT", "bucket", "policy", &[], Code::NotImplemented),
        ("GET", "bucket", "metadataTable", &[], Code::NotImplemented),
        ("OPTIONS", "object", "", &[], Code::MethodNotAllowed),
        ("POST", "object", "", &[], Code::MethodNotAllowed),
        (
            "POST",
            "object",
            "select&select-type=2",
            &[],
            Code::NotImplemented,
        ),
        ("POST", "object", "restore", &[], Code::NotImplemented),
        ("GET", "object", "torrent", &[], Code::NotImplemented),
        (
            "PUT",
            "object",
            "versionId=null",
            &[],
            Code::InvalidArgument,
        ),
        (
            "POST",
            "object",
            "uploads&versionId=null",
            &[],
            Code::InvalidArgument,
        ),
        ("GET", "object", "uploads", &[], Code::InvalidRequest),
        ("GET", "object", "versions", &[], Code::InvalidRequest),
        ("PUT", "object", "versions", &[], Code::MethodNotAllowed),
        ("POST", "object", "tagging", &[], Code::MethodNotAllowed),
        ("PUT", "object", "partNumber=1", &[], Code::InvalidArgument),
        ("PUT", "object", "uploadId=u", &[], Code::MethodNotAllowed),
        // What is about an object is not done to the bucket.
        ("DELETE", "bucket", "uploadId=u", &[], Code::InvalidRequest),
        ("GET", "bucket", "uploadId=u", &[], Code::InvalidRequest),
        ("POST", "bucket", "uploadId=u", &[], Code::InvalidRequest),
        (
            "DELETE",
            "bucket",
            "versionId=1",
            &[],
            Code::InvalidArgument,
        ),
        (
            "PUT",
            "bucket",
            "versionId=null",
            &[],
            Code::InvalidArgument,
        ),
        ("GET", "bucket", "partNumber=1", &[], Code::InvalidRequest),
        ("PUT", "bucket", "partNumber=1", &[], Code::InvalidRequest),
        (
            "PUT",
            "bucket",
            "partNumber=1&uploadId=u",
            &[],
            Code::MethodNotAllowed,
        ),
        (
            "DELETE",
            "bucket",
            "legal-hold",
            &[],
            Code::MethodNotAllowed,
        ),
        ("DELETE", "bucket", "retention", &[], Code::MethodNotAllowed),
        ("GET", "bucket", "torrent", &[], Code::MethodNotAllowed),
        // Nor what is about a bucket to the object.
        ("DELETE", "object", "policy", &[], Code::MethodNotAllowed),
        ("DELETE", "object", "cors", &[], Code::MethodNotAllowed),
        ("PUT", "object", "lifecycle", &[], Code::MethodNotAllowed),
        ("GET", "object", "website", &[], Code::MethodNotAllowed),
        ("DELETE", "object", "delete", &[], Code::MethodNotAllowed),
        // One thing at a time.
        ("GET", "bucket", "acl&policy", &[], Code::InvalidArgument),
        (
            "GET",
            "bucket",
            "uploads&versions",
            &[],
            Code::InvalidArgument,
        ),
        ("GET", "object", "acl&tagging", &[], Code::InvalidArgument),
        (
            "POST",
            "object",
            "uploads&uploadId=u",
            &[],
            Code::InvalidArgument,
        ),
    ] {
        assert_eq!(
            find(method, on, query, headers),
            Err(code),
            "{method} {on} ?{query}"
        );
    }
}

#[test]
fn says_which_methods_there_are() {
    let object = Target::Object("bucket".into(), "key".into());
    let bucket = Target::Bucket("bucket".into());
    for (method, target, raw_query, allowed) in [
        (Method::POST, &Target::Service, "", "GET"),
        (Method::PATCH, &bucket, "", "DELETE, GET, HEAD, POST, PUT"),
        (Method::PUT, &bucket, "location", "GET"),
        (Method::GET, &bucket, "delete", "POST"),
        (Method::POST, &object, "", "DELETE, GET, HEAD, PUT"),
        (Method::POST, &object, "tagging", "DELETE, GET, PUT"),
    ] {
        let query = Query::parse(Some(raw_query)).unwrap();
        let refused = route(&method, target, &query, &HeaderMap::new()).unwrap_err();
        let told = [("allow", allowed.to_owned())];
        assert_eq!(refused.headers, told, "{method} {target:?} {raw_query}");
    }
}

#[test]
fn refuses_headers_that_would_be_ignored() {
    assert!(KNOWN_HEADERS.is_sorted());
    for (name, value) in [
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-server-side-encryption-customer-key", "a"),
        ("x-amz-mfa", "1 2"),
        ("x-amz-checksum-sha512", "a"),
        ("x-amz-something-new", "a"),
    ] {
        let refused =
            refuse_unsupported_headers(Operation::PutObject, &header_map(&[(name, value)]));
        assert_eq!(refused.unwrap_err().code, Code::NotImplemented, "{name}");
    }
    for (name, value) in [
        ("x-amz-acl", "private"),
        ("x-amz-acl", "bucket-owner-full-control"),
        ("x-amz-meta-anything", "a"),
        ("x-amz-request-payer", "requester"),
        ("x-amzn-trace-id", "Root=1"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-grant-read", "id=1"),
    ] {
        assert!(
            refuse_unsupported_headers(Operation::PutObject, &header_map(&[(name, value)])).is_ok(),
            "{name}"
        );
    }
}
