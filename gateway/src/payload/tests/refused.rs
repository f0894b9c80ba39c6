//! Bodies that are not what was said of them, and what is right.

use super::*;

const DATA: &str = "123456789";
const PLAIN: (&str, &str) = ("x-amz-content-sha256", "UNSIGNED-PAYLOAD");
const SHA256: (&str, &str) = (
    "x-amz-content-sha256",
    "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
);
const MD5: (&str, &str) = ("content-md5", "JfnnlDI7RTiF9RgfG2JNCw==");

async fn outcome(headers: &[(&str, &str)], body: &str) -> Result<Finished, Code> {
    read(&signed_put(headers), vec![body.to_owned().into()])
        .await
        .map(|(_, finished)| finished)
        .map_err(|error| error.code)
}

#[tokio::test]
async fn plain_bodies() {
    for algorithm in checksum::ALGORITHMS {
        let value = base64_of(algorithm, DATA.as_bytes());
        for hash in [PLAIN, SHA256] {
            let headers = [hash, MD5, (checksum::header(algorithm), &value)];
            let finished = outcome(&headers, DATA).await.unwrap();
            assert_eq!(finished.len, 9);
            assert_eq!(
                hex::encode(finished.md5.unwrap()),
                "25f9e794323b453885f5181f1b624d0b"
            );
            assert_eq!(finished.checksum.unwrap().algorithm, algorithm);
        }
        let headers = [PLAIN, (checksum::header(algorithm), &value)];
        assert_eq!(outcome(&headers, "12345678").await, Err(Code::BadDigest));
    }
    assert_eq!(
        outcome(&[SHA256], "12345678").await,
        Err(Code::XAmzContentSHA256Mismatch)
    );
    assert_eq!(
        outcome(&[PLAIN, MD5], "12345678").await,
        Err(Code::BadDigest)
    );
}

#[tokio::test]
async fn what_is_wanted_is_computed() {
    for hash in [PLAIN, SHA256] {
        let want = Digests {
            md5: true,
            checksum: Some(ChecksumAlgorithm::Sha256),
            ..Digests::default()
        };
        let mut payload = payload(&signed_put(&[hash]), vec![DATA.into()], want).unwrap();
        while payload.next().await.unwrap().is_some() {}
        let finished = payload.finished();
        assert!(finished.md5.is_some());
        assert_eq!(
            hex::encode(&finished.checksum.as_ref().unwrap().value),
            SHA256.1
        );
    }
    // The client's own goes first.
    let want = Digests {
        checksum: Some(ChecksumAlgorithm::Crc64Nvme),
        ..Digests::default()
    };
    let parts = signed_put(&[PLAIN, ("x-amz-checksum-crc32", "y/Q5Jg==")]);
    let mut payload = payload(&parts, vec![DATA.into()], want).unwrap();
    payload.read_all(100).await.unwrap();
    let checksum = payload.finished().checksum.as_ref().unwrap();
    assert_eq!(checksum.algorithm, ChecksumAlgorithm::Crc32);
}

#[tokio::test]
async fn messages_name_the_algorithm() {
    let parts = signed_put(&[PLAIN, ("x-amz-checksum-crc32", "AAAAAA==")]);
    let error = read(&parts, vec![DATA.into()]).await.unwrap_err();
    assert_eq!(
        error.message,
        "The CRC32 you specified did not match the calculated checksum."
    );
}

#[tokio::test]
async fn chunked_bodies() {
    use Code::{BadDigest, IncompleteBody, InvalidRequest, MalformedTrailerError};
    let crc = "x-amz-checksum-crc32:y/Q5Jg==\r\n";
    let table: &[(String, Result<(), Code>)] = &[
        (format!("9\r\n{DATA}\r\n0\r\n{crc}\r\n"), Ok(())),
        (format!("4\r\n1234\r\n5\r\n56789\r\n0\r\n{crc}\r\n"), Ok(())),
        (format!("0009\r\n{DATA}\r\n000\r\n{crc}\r\n"), Ok(())),
        (
            format!("9\r\n{DATA}\r\n0\r\nX-Amz-Checksum-Crc32: y/Q5Jg== \r\n\r\n"),
            Ok(()),
        ),
        // The framing.
        (String::new(), Err(IncompleteBody)),
        (format!("9\r\n{DATA}\r\n0\r\n{crc}\r"), Err(IncompleteBody)),
        // As some clients end it.
        (format!("9\r\n{DATA}\r\n0\r\n{crc}"), Ok(())),
        (format!("9\r\n{DATA}\r\n0\r\n"), Err(IncompleteBody)),
        (format!("9\r\n{DATA}\r\n"), Err(IncompleteBody)),
        (format!("9\r\n{DATA}"), Err(IncompleteBody)),
        ("9\r\n12345".to_owned(), Err(IncompleteBody)),
        (format!("9\r\n{DATA}0\r\n{crc}\r\n"), Err(IncompleteBody)),
        (format!("9\n{DATA}\r\n0\r\n{crc}\r\n"), Err(IncompleteBody)),
        (format!("9\r\n{DATA}\n0\r\n{crc}\r\n"), Err(IncompleteBody)),
        (
            format!("+9\r\n{DATA}\r\n0\r\n{crc}\r\n"),
            Err(IncompleteBody),
        ),
        (
            format!(" 9\r\n{DATA}\r\n0\r\n{crc}\r\n"),
            Err(IncompleteBody),
        ),
        (format!("\r\n{DATA}\r\n0\r\n{crc}\r\n"), Err(IncompleteBody)),
        (
            format!("g\r\n{DATA}\r\n0\r\n{crc}\r\n"),
            Err(IncompleteBody),
        ),
        (
            format!("9;a=b\r\n{DATA}\r\n0\r\n{crc}\r\n"),
            Err(IncompleteBody),
        ),
        (
            format!("ffffffffffffffff\r\n{DATA}\r\n0\r\n{crc}\r\n"),
            Err(IncompleteBody),
        ),
        (format!("{}\r\n", "0".repeat(200)), Err(IncompleteBody)),
        (
            format!("9\r\n{DATA}\r\n0\r\n{crc}\r\n!"),
            Err(IncompleteBody),
        ),
        (
            format!("9\r\n{DATA}\r\n0\r\n{crc}\r\n0\r\n\r\n"),
            Err(IncompleteBody),
        ),
        // The length.
        (
            format!("8\r\n12345678\r\n0\r\n{crc}\r\n"),
            Err(IncompleteBody),
        ),
        (
            format!("A\r\n{DATA}0\r\n0\r\n{crc}\r\n"),
            Err(IncompleteBody),
        ),
        (
            format!("9\r\n{DATA}\r\n1\r\n0\r\n0\r\n{crc}\r\n"),
            Err(IncompleteBody),
        ),
        // The trailer.
        (
            format!("9\r\n{DATA}\r\n0\r\n\r\n"),
            Err(MalformedTrailerError),
        ),
        (
            format!("9\r\n{DATA}\r\n0\r\nx-amz-checksum-crc32y/Q5Jg==\r\n\r\n"),
            Err(MalformedTrailerError),
        ),
        (
            format!("9\r\n{DATA}\r\n0\r\nx-amz-checksum-sha1:y/Q5Jg==\r\n\r\n"),
            Err(MalformedTrailerError),
        ),
        (
            format!("9\r\n{DATA}\r\n0\r\n:y/Q5Jg==\r\n\r\n"),
            Err(MalformedTrailerError),
        ),
        (
            format!("9\r\n{DATA}\r\n0\r\n{crc}{crc}\r\n"),
            Err(MalformedTrailerError),
        ),
        (
            format!("9\r\n{DATA}\r\n0\r\n{crc}x-amz-meta-a:b\r\n\r\n"),
            Err(MalformedTrailerError),
        ),
        (
            format!(
                "9\r\n{DATA}\r\n0\r\n{crc}x-amz-trailer-signature:{}\r\n\r\n",
                "0".repeat(64)
            ),
            Err(MalformedTrailerError),
        ),
        (
            format!("9\r\n{DATA}\r\n0\r\nx-amz-checksum-crc32:y/Q5\r\n\r\n"),
            Err(InvalidRequest),
        ),
        (
            format!("9\r\n{DATA}\r\n0\r\nx-amz-checksum-crc32:\r\n\r\n"),
            Err(InvalidRequest),
        ),
        (
            format!("9\r\n{DATA}\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"),
            Err(BadDigest),
        ),
        (format!("9\r\n12345678X\r\n0\r\n{crc}\r\n"), Err(BadDigest)),
    ];
    let headers = [
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", "9"),
        ("x-amz-trailer", "x-amz-checksum-crc32"),
        ("x-amz-sdk-checksum-algorithm", "CRC32"),
    ];
    for (body, expect) in table {
        let got = outcome(&headers, body).await;
        assert_eq!(got.map(|_| ()), *expect, "{body:?}");
    }
}

#[tokio::test]
async fn chunks_without_a_trailer() {
    let headers = [
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", "3"),
    ];
    assert!(outcome(&headers, "3\r\nabc\r\n0\r\n\r\n").await.is_ok());
    assert!(outcome(&headers, "3\r\nabc\r\n0\r\n").await.is_ok());
    let cut = outcome(&headers, "3\r\nabc\r\n0\r").await;
    assert_eq!(cut, Err(Code::IncompleteBody));
    let body = "3\r\nabc\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n";
    assert_eq!(
        outcome(&headers, body).await,
        Err(Code::MalformedTrailerError)
    );
    let empty = [headers[0], ("x-amz-decoded-content-length", "0")];
    assert!(outcome(&empty, "0\r\n\r\n").await.is_ok());
}

#[tokio::test]
async fn the_trailer_of_signed_chunks_is_signed() {
    let (parts, body) = documented::with_trailer();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let signature = text.find("x-amz-trailer-signature").unwrap();
    let without = format!("{}\r\n", &text[..signature]);
    let error = read(&parts, vec![without.into()]).await.unwrap_err();
    assert_eq!(error.code, Code::MalformedTrailerError);
    let wrong = text.replace("d81f82", "d81f83");
    let error = read(&parts, vec![wrong.into()]).await.unwrap_err();
    assert_eq!(error.code, Code::SignatureDoesNotMatch);
    let other = text.replace("sOO8/Q==", "sOO8/A==");
    let error = read(&parts, vec![other.into()]).await.unwrap_err();
    assert_eq!(error.code, Code::SignatureDoesNotMatch);
}

/// Whoever made room for as many bytes as announced never gets more.
#[tokio::test]
async fn no_more_than_announced_is_handed_on() {
    let parts = signed_put(&[
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-decoded-content-length", "9"),
    ]);
    for body in [
        "A\r\n1234567890\r\n0\r\n\r\n",
        "8\r\n12345678\r\n2\r\n90\r\n0\r\n\r\n",
    ] {
        let mut payload = payload(&parts, vec![body.into()], Digests::default()).unwrap();
        let mut len = 0;
        let error = loop {
            match payload.next().await {
                Ok(piece) => len += piece.map(|piece| piece.len()).unwrap(),
                Err(error) => break error,
            }
        };
        assert!(len <= 9, "{body:?}");
        assert_eq!(error.code, Code::IncompleteBody);
        let names: Vec<_> = error.details.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["NumberBytesExpected", "NumberBytesProvided"]);
    }
}

#[tokio::test]
async fn after_an_error_there_is_no_end() {
    let parts = signed_put(&[PLAIN, MD5]);
    let mut payload = payload(&parts, vec!["other".into()], Digests::default()).unwrap();
    assert!(payload.next().await.unwrap().is_some());
    assert!(payload.next().await.is_err());
    assert!(payload.next().await.is_err());
}

#[tokio::test]
async fn read_all_has_a_limit() {
    let parts = signed_put(&[PLAIN]);
    let frames = || vec![Bytes::from("123"), Bytes::from("456"), Bytes::from("789")];
    let all = async |max| {
        let mut payload = payload(&parts, frames(), Digests::default()).unwrap();
        payload.read_all(max).await.map_err(|error| error.code)
    };
    assert_eq!(all(9).await.unwrap(), DATA);
    assert_eq!(all(8).await, Err(Code::MaxMessageLengthExceeded));
    assert_eq!(all(2).await, Err(Code::MaxMessageLengthExceeded));
    let auth = authenticator(clock()).authenticate(&parts).unwrap();
    let mut long = Payload::new(&auth, &parts, Body::from(DATA), Digests::default()).unwrap();
    assert_eq!(
        long.read_all(8).await.unwrap_err().code,
        Code::MaxMessageLengthExceeded
    );
}
