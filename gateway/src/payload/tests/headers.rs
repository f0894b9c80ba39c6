//! What the headers say, before any byte is read.

use super::*;

const CRC32: (&str, &str) = ("x-amz-checksum-crc32", "y/Q5Jg==");
const TRAILING: (&str, &str) = ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER");
const PLAIN: (&str, &str) = ("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
const LEN: (&str, &str) = ("x-amz-decoded-content-length", "9");

fn refused(headers: &[(&str, &str)]) -> (Code, String) {
    let parts = signed_put(headers);
    let error = payload(&parts, vec![], Digests::default())
        .err()
        .unwrap_or_else(|| panic!("{headers:?} is accepted"));
    (error.code, error.message.into_owned())
}

#[test]
fn refusals() {
    type Headers = &'static [(&'static str, &'static str)];
    let table: &[(Headers, Code, &str)] = &[
        (
            &[PLAIN, ("content-md5", "x")],
            Code::InvalidDigest,
            "Content-MD5",
        ),
        (
            &[PLAIN, ("content-md5", "")],
            Code::InvalidDigest,
            "Content-MD5",
        ),
        (
            &[PLAIN, ("content-md5", "AAAAAAAAAAAAAAAAAAAAAAA=")],
            Code::InvalidDigest,
            "Content-MD5",
        ),
        (
            &[PLAIN, CRC32, ("x-amz-checksum-sha1", "x")],
            Code::InvalidRequest,
            "Expecting a single",
        ),
        (
            &[PLAIN, ("x-amz-checksum-crc32", "y/Q5Jg")],
            Code::BadDigest,
            "Value for x-amz-checksum-crc32 header",
        ),
        (
            &[PLAIN, ("x-amz-checksum-xxhash64", "y/Q5Jg==")],
            Code::NotImplemented,
            "checksum algorithm",
        ),
        (
            &[PLAIN, ("x-amz-checksum-crc8", "y/Q5Jg==")],
            Code::InvalidRequest,
            "algorithm type",
        ),
        (
            &[PLAIN, ("x-amz-sdk-checksum-algorithm", "CRC32")],
            Code::InvalidRequest,
            "no corresponding",
        ),
        (
            &[PLAIN, CRC32, ("x-amz-sdk-checksum-algorithm", "SHA1")],
            Code::InvalidRequest,
            "Value for x-amz-sdk-checksum-algorithm",
        ),
        (
            &[PLAIN, CRC32, ("x-amz-sdk-checksum-algorithm", "SHA3")],
            Code::InvalidRequest,
            "unsupported",
        ),
        (
            &[PLAIN, CRC32, ("x-amz-sdk-checksum-algorithm", "MD5")],
            Code::NotImplemented,
            "MD5",
        ),
        (
            &[PLAIN, ("x-amz-trailer", "x-amz-checksum-crc32")],
            Code::InvalidRequest,
            "x-amz-trailer needs",
        ),
        (
            &[
                PLAIN,
                ("content-encoding", "gzip, aws-chunked"),
                ("x-amz-decoded-content-length", "3"),
            ],
            Code::InvalidRequest,
            "aws-chunked needs",
        ),
        (
            &[TRAILING],
            Code::MissingContentLength,
            "x-amz-decoded-content-length",
        ),
        (
            &[TRAILING, ("x-amz-decoded-content-length", "-1")],
            Code::InvalidArgument,
            "number",
        ),
        (
            &[TRAILING, ("x-amz-decoded-content-length", "+1")],
            Code::InvalidArgument,
            "number",
        ),
        (
            &[TRAILING, ("x-amz-decoded-content-length", "")],
            Code::InvalidArgument,
            "number",
        ),
        (
            &[
                TRAILING,
                ("x-amz-decoded-content-length", "99999999999999999999"),
            ],
            Code::InvalidArgument,
            "number",
        ),
        (
            &[TRAILING, LEN, ("x-amz-trailer", "x-amz-meta-a")],
            Code::InvalidRequest,
            "not supported",
        ),
        (
            &[TRAILING, LEN, ("x-amz-trailer", "")],
            Code::InvalidRequest,
            "not supported",
        ),
        (
            &[TRAILING, LEN, ("x-amz-trailer", "x-amz-checksum-sha512")],
            Code::NotImplemented,
            "algorithm",
        ),
        (
            &[
                TRAILING,
                LEN,
                ("x-amz-trailer", "x-amz-checksum-crc32,x-amz-checksum-sha1"),
            ],
            Code::InvalidRequest,
            "Expecting a single",
        ),
        (
            &[
                TRAILING,
                LEN,
                CRC32,
                ("x-amz-trailer", "x-amz-checksum-crc32"),
            ],
            Code::InvalidRequest,
            "Expecting a single",
        ),
    ];
    for (headers, code, message) in table {
        let (got_code, got_message) = refused(headers);
        assert_eq!(got_code, *code, "{headers:?}");
        let both = format!("{got_message} {headers:?}");
        assert!(both.contains(message), "{headers:?}: {got_message}");
    }
}

#[test]
fn lengths() {
    let len = |headers: &[(&str, &str)], frames: Vec<Bytes>| {
        payload(&signed_put(headers), frames, Digests::default())
            .unwrap()
            .len()
    };
    assert_eq!(len(&[TRAILING, LEN], vec![]), Some(9));
    assert_eq!(
        len(&[PLAIN], vec![]),
        None,
        "a stream has no length of its own"
    );
    let parts = signed_put(&[PLAIN]);
    let auth = authenticator(clock()).authenticate(&parts).unwrap();
    let payload = |body| Payload::new(&auth, &parts, body, Digests::default()).unwrap();
    assert_eq!(payload(Body::from("12345")).len(), Some(5));
    assert!(payload(Body::empty()).is_empty());
}

#[tokio::test]
async fn an_object_s_checksum_is_not_the_body_s() {
    let parts = signed_put(&[PLAIN, CRC32, ("x-amz-sdk-checksum-algorithm", "SHA1")]);
    let want = Digests {
        checksum_header: ChecksumHeader::Object,
        ..Digests::default()
    };
    let mut payload = payload(&parts, vec!["other".into()], want).unwrap();
    assert_eq!(payload.read_all(10).await.unwrap(), "other");
    assert_eq!(payload.finished().checksum, None);
}

#[test]
fn content_encoding_to_store() {
    let stored = |values: &[&str]| {
        let headers: Vec<_> = values
            .iter()
            .map(|value| ("content-encoding", *value))
            .collect();
        stored_content_encoding(&parts("PUT", "/", &headers).headers).unwrap()
    };
    assert_eq!(stored(&[]), None);
    assert_eq!(stored(&["aws-chunked"]), None);
    assert_eq!(stored(&["aws-chunked,"]), None);
    assert_eq!(stored(&["gzip"]), Some("gzip".to_owned()));
    assert_eq!(stored(&["AWS-chunked, gzip"]), Some("gzip".to_owned()));
    assert_eq!(
        stored(&["br,aws-chunked", "gzip"]),
        Some("br, gzip".to_owned())
    );
}
