mod documented;
mod headers;
mod idle;
mod refused;
mod split;

use std::convert::Infallible;

use http_body::Frame;

use super::*;
use crate::auth::tests::{authenticator, clock, parts};

/// A body that comes in `frames`.
fn body(frames: Vec<Bytes>) -> Body {
    let frames = frames
        .into_iter()
        .map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    Body::new(http_body_util::StreamBody::new(futures_util::stream::iter(
        frames,
    )))
}

fn payload(parts: &Parts, frames: Vec<Bytes>, want: Digests) -> Result<Payload, S3Error> {
    let auth = authenticator(clock()).authenticate(parts)?;
    Payload::new(&auth, parts, body(frames), want)
}

/// Reads all of it.
async fn read(parts: &Parts, frames: Vec<Bytes>) -> Result<(Vec<u8>, Finished), S3Error> {
    let mut payload = payload(parts, frames, Digests::default())?;
    let mut all = Vec::new();
    while let Some(piece) = payload.next().await? {
        assert!(!piece.is_empty());
        all.extend_from_slice(&piece);
    }
    Ok((all, payload.finished().clone()))
}

/// A PUT with `headers`, signed.
fn signed_put(headers: &[(&str, &str)]) -> Parts {
    let mut all = vec![("host", "localhost"), ("x-amz-date", "20130524T000000Z")];
    all.extend(headers);
    crate::auth::tests::signed("PUT", "/bucket/key", &all)
}

fn base64_of(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> String {
    let mut hasher = checksum::Hasher::new(algorithm);
    hasher.update(bytes);
    checksum::format(
        &ObjectChecksum {
            algorithm,
            kind: holdfast_storage_node::metadata::ChecksumKind::FullObject,
            value: hasher.finish(),
        },
        None,
    )
}
