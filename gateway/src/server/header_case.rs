//! The case of header names in responses. They mean the same in any (RFC 9110, section 5.1), but there are clients that look for
//! them as S3 writes them (API reference, "Common Response Headers"): htslib 1.16 for `ETag`, JetS3t for `Content-Length`.
//!
//! hyper writes names in the case that an extension of the response says, and makes that extension only of requests that it
//! reads: so it is given one.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use http::{Extensions, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, duplex};

/// All others are in lower case, as S3's own are (`x-amz-...`). Few: each response has a copy.
const NAMES: [&str; 13] = [
    "Accept-Ranges",
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Range",
    "Content-Type",
    "Date",
    "ETag",
    "Expires",
    "Last-Modified",
    "Location",
    "Server",
];

/// The extension with which a response has S3's names.
pub(super) async fn as_s3() -> Extensions {
    let mut request =
        String::from("GET / HTTP/1.1\r\nHost: -\r\nConnection: close\r\nContent-Length: 0\r\n");
    for name in NAMES {
        request.push_str(name);
        request.push_str(": -\r\n");
    }
    request.push_str("\r\n");
    let (mut client, server) = duplex(4096);
    let seen = Arc::new(OnceLock::new());
    let taken = seen.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let _first = taken.set(request.extensions().clone());
        async { Ok::<_, Infallible>(Response::new(Body::empty())) }
    });
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true);
    let connection = builder.serve_connection(TokioIo::new(server), service);
    let asked = async {
        client.write_all(request.as_bytes()).await?;
        client.shutdown().await
    };
    if let (Err(error), _) | (_, Err(error)) = futures_util::future::join(
        async { asked.await.map_err(|error| error.to_string()) },
        async { connection.await.map_err(|error| error.to_string()) },
    )
    .await
    {
        tracing::warn!(error, "header names are in lower case");
    }
    seen.get().cloned().unwrap_or_default()
}
