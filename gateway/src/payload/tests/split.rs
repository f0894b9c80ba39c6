//! However the bytes are split into frames, the result is the same.

use proptest::prelude::*;

use super::*;

/// Cuts `bytes` at `cuts`, and gives each piece memory of its own.
fn split(bytes: &Bytes, cuts: &[usize]) -> Vec<Bytes> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut at = 0;
    let mut pieces = Vec::new();
    for cut in cuts.into_iter().chain([bytes.len()]) {
        pieces.push(Bytes::copy_from_slice(&bytes[at..cut]));
        at = cut;
    }
    pieces
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// `data` in unsigned chunks of `sizes`, with a CRC32 trailer.
fn unsigned(data: &[u8], sizes: &[usize]) -> (Parts, Bytes) {
    let mut body = Vec::new();
    let mut rest = data;
    for size in sizes.iter().copied().chain([data.len()]) {
        let (chunk, left) = rest.split_at(size.min(rest.len()));
        rest = left;
        if !chunk.is_empty() {
            body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
    }
    let crc = base64_of(ChecksumAlgorithm::Crc32, data);
    body.extend_from_slice(format!("0\r\nx-amz-checksum-crc32:{crc}\r\n\r\n").as_bytes());
    let len = data.len().to_string();
    let parts = signed_put(&[
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", &len),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
        ("content-encoding", "aws-chunked"),
    ]);
    (parts, body.into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn unsigned_chunks(
        data in prop::collection::vec(any::<u8>(), 0..600),
        sizes in prop::collection::vec(1_usize..200, 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let (parts, body) = unsigned(&data, &sizes);
        let (got, finished) = block_on(read(&parts, split(&body, &cuts))).unwrap();
        prop_assert_eq!(&got, &data);
        prop_assert_eq!(finished.len, data.len() as u64);
    }

    /// Broken bodies: the same error for any split, and no panic.
    #[test]
    fn broken_chunks(
        data in prop::collection::vec(any::<u8>(), 0..100),
        sizes in prop::collection::vec(1_usize..50, 0..4),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        remove in any::<bool>(),
    ) {
        let (parts, body) = unsigned(&data, &sizes);
        let mut body = body.to_vec();
        let at = at.index(body.len());
        if remove {
            body.remove(at);
        } else {
            body.insert(at, byte);
        }
        let body = Bytes::from(body);
        let whole = block_on(read(&parts, vec![body.clone()]));
        let pieces = block_on(read(&parts, split(&body, &cuts)));
        match (whole, pieces) {
            (Ok(whole), Ok(pieces)) => prop_assert_eq!(whole, pieces),
            (Err(whole), Err(pieces)) => {
                prop_assert_eq!(whole.code, pieces.code);
                prop_assert_eq!(whole.message, pieces.message);
            }
            (whole, pieces) => prop_assert!(false, "{:?} {:?}", whole.is_ok(), pieces.is_ok()),
        }
    }

    /// Anything at all as a chunked body: no panic, and never accepted as longer than announced.
    #[test]
    fn nonsense(
        body in "[0-9a-f]{0,3}(;chunk-signature=[0-9a-f]{0,66})?\r?\n?[ -~\r\n]{0,60}",
        signed in any::<bool>(),
    ) {
        let hash = if signed { "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" } else { "STREAMING-UNSIGNED-PAYLOAD-TRAILER" };
        let parts = signed_put(&[("x-amz-content-sha256", hash), ("x-amz-decoded-content-length", "9")]);
        if let Ok((data, _)) = block_on(read(&parts, vec![body.into()])) {
            prop_assert_eq!(data.len(), 9);
        }
    }
}

#[test]
fn signed_examples_in_every_two_pieces() {
    for (parts, body) in [documented::chunked(), documented::with_trailer()] {
        let framing = (0..100)
            .chain(65_530..65_800)
            .chain(body.len() - 300..body.len());
        for at in framing.step_by(3) {
            let pieces = split(&body, &[at]);
            assert!(block_on(read(&parts, pieces)).is_ok(), "cut at {at}");
        }
        let bytes = body
            .iter()
            .map(|byte| Bytes::copy_from_slice(&[*byte]))
            .collect();
        assert!(block_on(read(&parts, bytes)).is_ok(), "byte by byte");
    }
}

/// The data that is handed on lies where it came in.
#[test]
fn data_is_not_copied() {
    let data = vec![7; 1000];
    let (parts, body) = unsigned(&data, &[400]);
    let range = body.as_ptr_range();
    block_on(async {
        let mut payload = payload(&parts, vec![body], Digests::default()).unwrap();
        while let Some(piece) = payload.next().await.unwrap() {
            assert!(range.contains(&piece.as_ptr()));
        }
    });
}
