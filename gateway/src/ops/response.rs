//! Pieces of responses.

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use holdfast_placement::seams::UnixMillis;
use holdfast_storage_node::metadata::Etag;

/// 200 with a document.
pub fn xml(document: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(document));
    let value = HeaderValue::from_static("application/xml");
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

/// No body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Sets a header; a value that no header can hold is left out.
pub fn set(headers: &mut HeaderMap, name: HeaderName, value: impl AsRef<[u8]>) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_ref()) {
        headers.insert(name, value);
    }
}

/// `"<etag>"`
pub fn quoted(etag: &Etag) -> String {
    format!("\"{etag}\"")
}

/// Sets `ETag`.
pub fn set_etag(headers: &mut HeaderMap, etag: &Etag) {
    set(headers, ETAG, quoted(etag));
}

/// Sets `Last-Modified`.
pub fn set_last_modified(headers: &mut HeaderMap, modified: UnixMillis) {
    set(headers, LAST_MODIFIED, http_date(modified));
}

/// The last second that an HTTP date can tell: that of the year 9999.
const SECS_MAX: u64 = 253_402_300_799;

/// An HTTP date: whole seconds, rounded down. What is later than the year 9999 is at its end.
pub fn http_date(time: UnixMillis) -> String {
    let since_epoch = std::time::Duration::from_secs(time.secs().min(SECS_MAX));
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + since_epoch)
}
