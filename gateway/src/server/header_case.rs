//! The case of header names in responses. They mean the same in any (RFC 9110, section 5.1), but there are clients that look for
//! them as S3 writes them (API reference, "Common Response Headers"): htslib 1.16 for `ETag`, JetS3t for `Content-Length`.
//!
//! hyper writes names in the case that an extension of the response says, and makes that extension only of requests that it
//! reads: so it is given one.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use futures_util::future::{join, join_all};
use http::{Extensions, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, duplex};
use tokio::sync::OnceCell;

/// Others stay in lower case; S3's own (`x-amz-...`) are so there too. Few: each response has a copy.
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

/// Sets that connections share. Copies of a set count in one place how many they are, so all cores should not have the same.
const SETS: usize = 16;

/// Extensions with which responses have S3's names.
#[derive(Default)]
pub(super) struct HeaderCase {
    sets: OnceCell<Vec<Extensions>>,
    taken: AtomicUsize,
}

impl HeaderCase {
    /// The number of the set for another connection.
    pub(super) fn take(&self) -> usize {
        self.taken.fetch_add(1, Ordering::Relaxed) % SETS
    }

    /// Has a response written with S3's names.
    pub(super) async fn apply<B>(&self, response: &mut Response<B>, set: usize) {
        let make = async || join_all((0..SETS).map(|_| as_s3())).await;
        if let Some(names) = self.sets.get_or_init(make).await.get(set) {
            response.extensions_mut().extend(names.clone());
        }
    }
}

async fn as_s3() -> Extensions {
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
    if let (Err(error), _) | (_, Err(error)) = join(
        async { asked.await.map_err(|error| error.to_string()) },
        async { connection.await.map_err(|error| error.to_string()) },
    )
    .await
    {
        tracing::warn!(error, "header names are in lower case");
    }
    seen.get().cloned().unwrap_or_default()
}
