//! Responses that do not depend on an operation, and what all responses carry.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, SERVER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::error::{Code, S3Error};
use crate::xml::XmlWriter;

static REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
static HOST_ID: HeaderName = HeaderName::from_static("x-amz-id-2");

/// Adds what every response carries; hyper adds `Date`.
pub(super) fn stamp(headers: &mut HeaderMap, id: &[u8; 16], host_id: &HeaderValue) {
    if let Ok(id) = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(id)) {
        headers.insert(REQUEST_ID.clone(), id);
    }
    headers.insert(HOST_ID.clone(), host_id.clone());
    headers.insert(SERVER, HeaderValue::from_static("Holdfast"));
}

/// A response with a body of its own.
pub(super) fn plain(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The response for `error` (API reference, "REST error responses"). Answers to HEAD, and 304, have no body.
pub(super) fn error(
    error: &S3Error,
    resource: &str,
    id: &[u8; 16],
    host_id: &HeaderValue,
    is_head: bool,
) -> Response<Body> {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if error.code == Code::InternalError {
        tracing::warn!(resource, "{}", error.message);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status == StatusCode::RANGE_NOT_SATISFIABLE
        && let Some((_, size)) = error
            .details
            .iter()
            .find(|(name, _)| *name == "ActualObjectSize")
        && let Ok(range) = HeaderValue::try_from(format!("bytes */{size}"))
    {
        headers.insert(CONTENT_RANGE, range);
    }
    for (name, value) in &error.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if error.code == Code::NotModified {
        return response;
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    if !is_head {
        *response.body_mut() = Body::from(document(error, resource, id, host_id));
    }
    response
}

fn document(error: &S3Error, resource: &str, id: &[u8; 16], host_id: &HeaderValue) -> Bytes {
    let mut xml = XmlWriter::bare(512);
    xml.open("Error");
    xml.text("Code", error.code.as_str());
    xml.text("Message", &error.message);
    for (name, value) in &error.details {
        xml.text(name, value);
    }
    if !resource.is_empty() {
        xml.text("Resource", resource);
    }
    xml.text("RequestId", &String::from_utf8_lossy(id));
    xml.text("HostId", host_id.to_str().unwrap_or_default());
    xml.finish("Error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_s3_xml() {
        let wrong = S3Error::new(Code::NoSuchKey).detail("Key", "a&b");
        let host_id = HeaderValue::from_static("host");
        let text = document(&wrong, "/b/a&b", b"0123456789ABCDEF", &host_id);
        assert_eq!(
            std::str::from_utf8(&text).unwrap(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code>\
             <Message>The specified key does not exist.</Message><Key>a&amp;b</Key>\
             <Resource>/b/a&amp;b</Resource><RequestId>0123456789ABCDEF</RequestId>\
             <HostId>host</HostId></Error>"
        );
    }

    #[test]
    fn range_errors_say_the_size() {
        let wrong = S3Error::new(Code::InvalidRange).detail("ActualObjectSize", "7");
        let host_id = HeaderValue::from_static("host");
        let response = error(&wrong, "/", &[b'0'; 16], &host_id, true);
        assert_eq!(response.status(), 416);
        assert_eq!(response.headers()["content-range"], "bytes */7");
    }
}
