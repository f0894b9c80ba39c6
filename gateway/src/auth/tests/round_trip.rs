//! What other signers sign is let in: those of AWS's Rust SDK, and forms that S3 takes although no SDK makes
//! them.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials as SdkCredentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use proptest::prelude::*;

use super::*;

/// All but what AWS calls unreserved.
const AWS_ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Signs as the SDK does.
fn sdk(
    method: &str,
    uri: &str,
    headers: &[(String, String)],
    body: SignableBody<'_>,
    presign: Option<Duration>,
) -> Parts {
    let identity = SdkCredentials::new(ACCESS_KEY, SECRET, None, None, "test").into();
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    if presign.is_some() {
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = presign;
    }
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("s3")
        .time(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_SECS))
        .settings(settings)
        .build()
        .unwrap()
        .into();
    let mut request = Request::builder().method(method).uri(uri);
    request = request.header("host", "localhost:9000");
    for (name, value) in headers {
        request = request.header(
            name,
            http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    let mut request = request.body(()).unwrap();
    let all: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.as_str(),
                std::str::from_utf8(value.as_bytes()).unwrap(),
            )
        })
        .collect();
    let signable = SignableRequest::new(method, uri, all.into_iter(), body).unwrap();
    let (instructions, _) = sign(signable, &params).unwrap().into_parts();
    instructions.apply_to_request_http1x(&mut request);
    // A server sees the path and the query only.
    let mut parts = request.into_parts().0;
    parts.uri = parts
        .uri
        .path_and_query()
        .unwrap()
        .as_str()
        .parse()
        .unwrap();
    parts
}

fn authenticate(parts: &Parts) -> Result<Authenticated, S3Error> {
    authenticator(clock()).authenticate(parts)
}

/// A path of segments as an SDK writes them; keys may hold anything, `..`, `//` and `%2F` included.
fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "..",
            ".",
            "",
            "a b",
            "a+b",
            "a%2Fb",
            "%",
            "~",
            "ä€😀",
            "a=b&c"
        ])
        .prop_map(String::from),
    ];
    prop::collection::vec(segment, 0..4).prop_map(|segments| {
        let encoded: Vec<_> = segments
            .iter()
            .map(|segment| percent_encode(segment.as_bytes(), AWS_ENCODED).to_string())
            .collect();
        format!("/{}", encoded.join("/"))
    })
}

/// Parameters, encoded as an SDK does or as a form (`+` for a space).
fn query() -> impl Strategy<Value = String> {
    let pair = (
        "[a-zA-Z][a-zA-Z0-9 +%&=-]{0,8}",
        any::<String>(),
        any::<bool>(),
        any::<bool>(),
    );
    prop::collection::vec(pair, 0..5).prop_map(|pairs| {
        let encoded: Vec<_> = pairs
            .iter()
            .map(|(name, value, form, bare)| {
                let encode = |text: &str| {
                    let text = percent_encode(text.as_bytes(), AWS_ENCODED).to_string();
                    if *form {
                        text.replace("%20", "+")
                    } else {
                        text
                    }
                };
                match (bare, value.is_empty()) {
                    (true, true) => encode(name),
                    _ => format!("{}={}", encode(name), encode(value)),
                }
            })
            .collect();
        encoded.join("&")
    })
}

fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    let header = prop_oneof![
        (
            "x-amz-meta-[a-z0-9-]{1,8}",
            "[!-~ ]{0,20}|[!-~][ -~]{0,10}[\u{80}-\u{2fff}]{0,4}"
        ),
        (Just("content-type".to_owned()), "[a-z]{1,8}/[a-z]{1,8}"),
        (
            Just("cache-control".to_owned()),
            "[ ]{0,2}[a-z]{1,4}[ ]{1,4}[a-z]{1,4}[ ]{0,2}"
        ),
    ];
    prop::collection::vec(header, 0..5)
}

fn uri(path: &str, query: &str) -> String {
    let mark = if query.is_empty() { "" } else { "?" };
    format!("http://localhost:9000{path}{mark}{query}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn signed_in_the_header(
        method in prop::sample::select(vec!["GET", "PUT", "DELETE", "HEAD", "POST"]),
        path in path(), query in query(), headers in headers(), bytes in any::<Vec<u8>>(),
    ) {
        let uri = uri(&path, &query);
        let parts = sdk(method, &uri, &headers, SignableBody::Bytes(&bytes), None);
        let authenticated = authenticate(&parts).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        let sha256: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&bytes).into();
        prop_assert!(matches!(authenticated.framing, PayloadFraming::Signed(hash) if hash == sha256));

        // Another value of any signed header, another method or another path is not what was signed.
        let mut other = parts.clone();
        other.method = if method == "GET" { http::Method::PUT } else { http::Method::GET };
        prop_assert!(authenticate(&other).is_err());
        for (name, _) in &headers {
            let mut other = parts.clone();
            other.headers.insert(http::HeaderName::try_from(name).unwrap(), "other value".parse().unwrap());
            prop_assert!(authenticate(&other).is_err());
        }
        let mut other = parts;
        other.uri = format!("{path}x").parse().unwrap();
        prop_assert!(authenticate(&other).is_err());
    }

    #[test]
    fn signed_in_the_query(
        path in path(), query in query(), headers in headers(), expires in 1_u64..604_800,
    ) {
        let uri = uri(&path, &query);
        let expires = Some(Duration::from_secs(expires));
        let parts = sdk("PUT", &uri, &headers, SignableBody::UnsignedPayload, expires);
        let authenticated = authenticate(&parts).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
        prop_assert!(matches!(authenticated.framing, PayloadFraming::Unsigned));
        let mut other = parts;
        other.uri = other.uri.to_string().replace("X-Amz-Expires=", "X-Amz-Expires=1").parse().unwrap();
        prop_assert!(authenticate(&other).is_err());
    }
}

const BASE: [(&str, &str); 3] = [
    ("host", "localhost"),
    ("x-amz-date", "20130524T000000Z"),
    ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
];

/// The path may come in any encoding of what was signed.
#[test]
fn one_path_in_other_encodings() {
    let signed = signed("GET", "/b/a%20b/%C3%A4%2B", &BASE);
    for sent in [
        "/b/a%20b/%c3%a4%2b",
        "/b/a%20b/%C3%A4+",
        "/%62/a%20b/%C3%A4%2B",
        "/b/a%20b/\u{e4}+",
    ] {
        let mut parts = signed.clone();
        parts.uri = http::Uri::from_maybe_shared(bytes::Bytes::from(sent)).unwrap();
        assert!(authenticate(&parts).is_ok(), "{sent}");
    }
    for other in [
        "/b/a%20b/%C3%A4%20",
        "/b/a%2520b/%C3%A4%2B",
        "/b//a%20b/%C3%A4%2B",
        "/b/a%20b/%C3%A4%2B/",
    ] {
        let mut parts = signed.clone();
        parts.uri = other.parse().unwrap();
        assert!(authenticate(&parts).is_err(), "{other}");
    }
}

/// Clients that sign the path as they send it.
#[test]
fn the_path_as_sent() {
    for path in [
        "/b/a+b",
        "/b/%e4%2f",
        "/b/a%2Fb",
        "/b/$(x)!",
        "/b/%zz",
        "/b/../c",
        "/b//c/.",
    ] {
        let mut parts = signed("GET", "/", &BASE);
        parts.uri = path.parse().unwrap();
        let names = "host;x-amz-content-sha256;x-amz-date";
        let canonical =
            canonical::request(&parts, PathForm::AsSent, names, "UNSIGNED-PAYLOAD").unwrap();
        assert!(String::from_utf8_lossy(&canonical).starts_with(&format!("GET\n{path}\n")));
        let key = SigningKey::derive(SECRET, "20130524", "us-east-1", "s3");
        let signature = key.sign(&[
            sig_v4::ALGORITHM.as_bytes(),
            b"20130524T000000Z",
            b"20130524/us-east-1/s3/aws4_request",
            &sig_v4::sha256_hex(&canonical),
        ]);
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders={names}, Signature={}",
            std::str::from_utf8(&signature).unwrap()
        );
        parts
            .headers
            .insert("authorization", authorization.parse().unwrap());
        assert!(authenticate(&parts).is_ok(), "{path}");
    }
}

#[test]
fn canonical_queries() {
    let canonical = |query: &str| {
        let parts = parts("GET", &format!("/?{query}"), &BASE);
        let request = canonical::request(&parts, PathForm::Encoded, "host", "").unwrap();
        String::from_utf8(request)
            .unwrap()
            .lines()
            .nth(2)
            .unwrap()
            .to_owned()
    };
    for (sent, expect) in [
        ("b=2&a=1&a=0", "a=0&a=1&b=2"),
        ("acl", "acl="),
        ("a=&b", "a=&b="),
        ("a+b=c+d", "a%20b=c%20d"),
        ("a=%2b", "a=%2B"),
        ("a=/~*", "a=%2F~%2A"),
        ("&&a=1&", "a=1"),
        ("a=b=c", "a=b%3Dc"),
        // By name, then value: `a=x` is before `a-=`, though `-` is before `=`.
        ("a-=&a=x", "a=x&a-="),
        ("A=1&a=1&%41=0", "A=0&A=1&a=1"),
        ("x-amz-signature=1&a=1", "a=1"),
        ("a=%", "a=%25"),
    ] {
        assert_eq!(canonical(sent), expect, "{sent}");
    }
}

#[test]
fn header_values_are_folded_and_joined() {
    let mut request = parts(
        "GET",
        "/",
        &[("host", "h"), ("x-a", "  b   c\t d "), ("x-a", "e")],
    );
    request.headers.insert(
        "x-b",
        http::HeaderValue::from_bytes("\u{e4}".as_bytes()).unwrap(),
    );
    let canonical = canonical::request(&request, PathForm::Encoded, "host;x-a;x-b", "").unwrap();
    let canonical = String::from_utf8(canonical).unwrap();
    assert!(
        canonical.contains("\nhost:h\nx-a:b c d,e\nx-b:\u{e4}\n\n"),
        "{canonical}"
    );
}

/// The SDK for JavaScript, version 2, signs a header that it then writes into the query, too; browsers send it or not.
#[test]
fn a_presigned_header_may_come_in_the_query() {
    let headers = [("x-amz-acl".to_owned(), "public  read".to_owned())];
    let uri = "http://localhost:9000/bucket/key?x-amz-acl=public%20%20read";
    let presign = Some(Duration::from_secs(60));
    let with_header = sdk("PUT", uri, &headers, SignableBody::UnsignedPayload, presign);
    assert!(authenticate(&with_header).is_ok());
    let mut without = with_header.clone();
    without.headers.remove("x-amz-acl");
    assert!(authenticate(&without).is_ok());
    let mut other_header = with_header.clone();
    let other = http::HeaderValue::from_static("private");
    other_header.headers.insert("x-amz-acl", other);
    assert!(authenticate(&other_header).is_err());
    let other_query = without
        .uri
        .to_string()
        .replace("public%20%20read", "private");
    without.uri = other_query.parse().unwrap();
    let refused = authenticate(&without).err().map(|error| error.code);
    assert_eq!(refused, Some(Code::SignatureDoesNotMatch));
}

/// What does not count for the operation does not count for the signature.
#[test]
fn a_presigned_checksum_does_not_come_in_the_query() {
    let name = "x-amz-checksum-sha256";
    let headers = [(name.to_owned(), "abc".to_owned())];
    let uri = format!("http://localhost:9000/bucket/key?{name}=abc");
    let presign = Some(Duration::from_secs(60));
    let mut request = sdk(
        "PUT",
        &uri,
        &headers,
        SignableBody::UnsignedPayload,
        presign,
    );
    assert!(authenticate(&request).is_ok());
    request.headers.remove(name);
    let refused = authenticate(&request).err().map(|error| error.code);
    assert_eq!(refused, Some(Code::SignatureDoesNotMatch));
}

/// The host of a request in absolute form.
#[test]
fn the_host_of_the_uri() {
    let mut request = signed("GET", "/", &BASE);
    request.headers.remove("host");
    assert!(authenticate(&request).is_err());
    request.uri = "http://localhost/".parse().unwrap();
    assert!(authenticate(&request).is_ok());
    request.uri = "http://other/".parse().unwrap();
    assert!(authenticate(&request).is_err());
}

/// The `Date` header stands in for `x-amz-date`.
#[test]
fn only_a_date_header() {
    let mut request = signed("GET", "/", &BASE);
    let names = "date;host;x-amz-content-sha256";
    request.headers.remove("x-amz-date");
    request
        .headers
        .insert("date", "Fri, 24 May 2013 00:00:00 GMT".parse().unwrap());
    let canonical =
        canonical::request(&request, PathForm::Encoded, names, "UNSIGNED-PAYLOAD").unwrap();
    let key = SigningKey::derive(SECRET, "20130524", "us-east-1", "s3");
    let signature = key.sign(&[
        sig_v4::ALGORITHM.as_bytes(),
        b"20130524T000000Z",
        b"20130524/us-east-1/s3/aws4_request",
        &sig_v4::sha256_hex(&canonical),
    ]);
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,SignedHeaders={names},\
         Signature={}",
        std::str::from_utf8(&signature).unwrap()
    );
    request
        .headers
        .insert("authorization", authorization.parse().unwrap());
    assert!(authenticate(&request).is_ok());
}
