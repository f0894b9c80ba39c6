//! The examples of the documentation: "Transferring Payload in Multiple Chunks" and "Including Trailing
//! Headers".

use super::*;

const LEN: usize = 66_560;

fn put(signature: &str, signed: &str, more: &[(&str, &str)]) -> Parts {
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
         SignedHeaders={signed},Signature={signature}"
    );
    let mut headers = vec![
        ("host", "s3.amazonaws.com"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("authorization", &authorization),
    ];
    headers.extend(more);
    parts("PUT", "/examplebucket/chunkObject.txt", &headers)
}

pub(super) fn chunked() -> (Parts, Bytes) {
    let parts = put(
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;\
         x-amz-decoded-content-length;x-amz-storage-class",
        &[
            ("content-length", "66824"),
            ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ],
    );
    let a = |count| "a".repeat(count);
    let body = format!(
        "10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n{}\r\n\
         400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n{}\r\n\
         0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n",
        a(65_536),
        a(1024)
    );
    (parts, body.into())
}

pub(super) fn with_trailer() -> (Parts, Bytes) {
    let parts = put(
        "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
        "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;\
         x-amz-storage-class;x-amz-trailer",
        &[
            ("x-amz-trailer", "x-amz-checksum-crc32c"),
            (
                "x-amz-content-sha256",
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            ),
        ],
    );
    let a = |count| "a".repeat(count);
    let body = format!(
        "10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n{}\r\n\
         400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n{}\r\n\
         0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n\
         x-amz-checksum-crc32c:sOO8/Q==\r\n\
         x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n",
        a(65_536),
        a(1024)
    );
    (parts, body.into())
}

#[tokio::test]
async fn the_chunked_example() {
    let (parts, bytes) = chunked();
    assert_eq!(bytes.len(), 66_824);
    let (read, finished) = read(&parts, vec![bytes]).await.unwrap();
    assert_eq!(read, vec![b'a'; LEN]);
    assert_eq!(finished.len, LEN as u64);
}

#[tokio::test]
async fn the_trailer_example() {
    let (parts, bytes) = with_trailer();
    let (read, finished) = read(&parts, vec![bytes]).await.unwrap();
    assert_eq!(read, vec![b'a'; LEN]);
    let checksum = finished.checksum.unwrap();
    assert_eq!(checksum.algorithm, ChecksumAlgorithm::Crc32c);
    assert_eq!(checksum::format(&checksum, None), "sOO8/Q==");
}

/// As the text of the documentation writes it: a line feed of its own after the value.
#[tokio::test]
async fn the_trailer_example_with_its_line_feed() {
    let (parts, bytes) = with_trailer();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    let text = text.replace("sOO8/Q==\r\n", "sOO8/Q==\n\r\n");
    assert!(read(&parts, vec![text.into()]).await.is_ok());
}

/// Any flipped bit of the body is noticed: data, sizes, signatures, trailer.
#[tokio::test]
async fn flipped_bits_are_refused() {
    for (parts, bytes) in [chunked(), with_trailer()] {
        let len = bytes.len();
        // All of the framing, and some of the data.
        let framing = (0..90).chain(65_620..65_720).chain(len - 300..len);
        let data = (90..65_620).step_by(7919);
        for at in framing.chain(data) {
            for bit in [0, 3, 5] {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << bit;
                let read = read(&parts, vec![flipped.into()]).await;
                // The name of a trailer may be written in any case.
                let same = bit == 5 && at > len - 200 && bytes[at].is_ascii_alphabetic();
                assert!(read.is_err() || same, "byte {at}, bit {bit}");
            }
        }
    }
}
