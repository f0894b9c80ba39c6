//! Requests that are not let in, each with the error of S3.

use proptest::prelude::*;

use super::*;

const HOST: (&str, &str) = ("host", "localhost");
const DATE: (&str, &str) = ("x-amz-date", "20130524T000000Z");
const UNSIGNED: (&str, &str) = ("x-amz-content-sha256", "UNSIGNED-PAYLOAD");

fn error(parts: &Parts) -> S3Error {
    authenticator(clock())
        .authenticate(parts)
        .err()
        .unwrap_or_else(|| panic!("{parts:?} is let in"))
}

/// A request that is right but for its `Authorization`.
fn with_authorization(authorization: &str) -> Parts {
    parts(
        "GET",
        "/",
        &[HOST, DATE, UNSIGNED, ("authorization", authorization)],
    )
}

fn well_formed(credential: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={credential}, \
         SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature={}",
        "0".repeat(64)
    )
}

#[test]
fn authorization_headers() {
    let scope = "20130524/us-east-1/s3/aws4_request";
    let key = format!("{ACCESS_KEY}/{scope}");
    let signed = "SignedHeaders=host;x-amz-content-sha256;x-amz-date";
    let malformed = Code::AuthorizationHeaderMalformed;
    let table = [
        (String::new(), Code::AccessDenied, ""),
        (
            "AWS AKID:c2lnbmF0dXJl".to_owned(),
            Code::InvalidRequest,
            "Please use AWS4-HMAC-SHA256",
        ),
        (
            "AWS".to_owned(),
            Code::InvalidRequest,
            "Please use AWS4-HMAC-SHA256",
        ),
        (
            "AWS4-HMAC-SHA512 Credential=a".to_owned(),
            Code::InvalidRequest,
            "Please use AWS4-HMAC-SHA256",
        ),
        (
            "AWS4-ECDSA-P256-SHA256 Credential=a".to_owned(),
            Code::NotImplemented,
            "4A",
        ),
        (
            "Bearer abc".to_owned(),
            Code::InvalidArgument,
            "Unsupported Authorization Type",
        ),
        ("AWS4-HMAC-SHA256".to_owned(), malformed, "component \"\""),
        (
            "AWS4-HMAC-SHA256 nonsense".to_owned(),
            malformed,
            "\"nonsense\"",
        ),
        (
            format!("AWS4-HMAC-SHA256 Credential={key}, {signed}"),
            malformed,
            "Signature is missing",
        ),
        (
            format!("AWS4-HMAC-SHA256 Credential={key}, Signature=0"),
            malformed,
            "SignedHeaders is missing",
        ),
        (
            format!("AWS4-HMAC-SHA256 {signed}, Signature=0"),
            malformed,
            "Credential is missing",
        ),
        (
            format!("AWS4-HMAC-SHA256 Credential={key}, {signed}, Signature="),
            malformed,
            "\"Signature=\"",
        ),
        (
            format!("AWS4-HMAC-SHA256 Credential={key}, {signed}, Signature=0, Signature=0"),
            malformed,
            "\"Signature=0\"",
        ),
        (
            format!("AWS4-HMAC-SHA256 Credential={key}, {signed}, Signature=0, X=y"),
            malformed,
            "\"X=y\"",
        ),
        (
            format!("AWS4-HMAC-SHA256 Credential={key}, SignedHeaders=host;;a, Signature=0"),
            malformed,
            "SignedHeaders",
        ),
        (
            format!("AWS4-HMAC-SHA256 Credential={key}, SignedHeaders=host;a;host, Signature=0"),
            malformed,
            "SignedHeaders",
        ),
        (
            format!(
                "AWS4-HMAC-SHA256 Credential={key}, SignedHeaders=host;authorization, Signature=0"
            ),
            malformed,
            "SignedHeaders",
        ),
        (
            well_formed(ACCESS_KEY),
            malformed,
            "expecting \"<YOUR-AKID>/YYYYMMDD",
        ),
        (
            well_formed(&format!("/{scope}")),
            malformed,
            "non-empty Access Key",
        ),
        (
            well_formed(&key.replace("aws4_request", "aws5_request")),
            malformed,
            "terminal \"aws5_request\"",
        ),
        (
            well_formed(&key.replace("/s3/", "/ec2/")),
            malformed,
            "service \"ec2\"",
        ),
        (
            well_formed(&key.replace("us-east-1", "eu-west-1")),
            malformed,
            "the region 'eu-west-1' is wrong; expecting 'us-east-1'",
        ),
        (
            well_formed(&key.replace("us-east-1", "")),
            malformed,
            "the region ''",
        ),
        (
            well_formed(&key.replace("20130524", "20130523")),
            malformed,
            "date \"20130523\"",
        ),
        (
            well_formed(&key.replace("20130524", "2013")),
            malformed,
            "date format \"2013\"",
        ),
        (
            well_formed(&key.replace("AKIA", "AKIB")),
            Code::InvalidAccessKeyId,
            "",
        ),
        (
            well_formed(&key.replace("AKIA", "akia")),
            Code::InvalidAccessKeyId,
            "",
        ),
        (
            well_formed(&format!("a/b/{key}")),
            Code::InvalidAccessKeyId,
            "",
        ),
        (well_formed(&key), Code::SignatureDoesNotMatch, ""),
        (
            format!(
                "AWS4-HMAC-SHA256 Credential={key}, \
                 SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=0"
            ),
            Code::SignatureDoesNotMatch,
            "",
        ),
        (
            format!(
                "AWS4-HMAC-SHA256 Credential={key}, \
                 SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, Signature=0"
            ),
            Code::SignatureDoesNotMatch,
            "header range is among the signed headers",
        ),
        (
            format!(
                "AWS4-HMAC-SHA256 Credential={key}, SignedHeaders=x-amz-content-sha256;x-amz-date, Signature=0"
            ),
            Code::AccessDenied,
            "not signed",
        ),
        (
            format!("AWS4-HMAC-SHA256 Credential={key}, SignedHeaders=host, Signature=0"),
            Code::AccessDenied,
            "not signed",
        ),
    ];
    for (authorization, code, message) in table {
        let error = error(&with_authorization(&authorization));
        assert_eq!(error.code, code, "{authorization}: {error:?}");
        assert!(
            error.message.contains(message),
            "{authorization}: {error:?}"
        );
    }
}

#[test]
fn the_right_region_is_told() {
    let key = format!("{ACCESS_KEY}/20130524/eu-west-1/s3/aws4_request");
    let error = error(&with_authorization(&well_formed(&key)));
    assert_eq!(error.details, [("Region", "us-east-1".to_owned())]);
}

#[test]
fn without_a_signature() {
    assert_eq!(error(&parts("GET", "/", &[HOST])).code, Code::AccessDenied);
    assert_eq!(
        error(&parts("GET", "/?prefix=a", &[HOST])).code,
        Code::AccessDenied
    );
}

#[test]
fn headers_of_a_signed_request() {
    let mut twice = signed("GET", "/", &[HOST, DATE, UNSIGNED]);
    let again = twice.headers["authorization"].clone();
    twice.headers.append("authorization", again);
    assert_eq!(error(&twice).code, Code::AuthorizationHeaderMalformed);

    let mut request = signed("GET", "/", &[HOST, DATE, UNSIGNED]);
    request.headers.remove("x-amz-content-sha256");
    let refused = error(&request);
    assert_eq!(refused.code, Code::InvalidRequest);
    assert_eq!(
        refused.message,
        "Missing required header for this request: x-amz-content-sha256"
    );

    let mut request = signed("GET", "/", &[HOST, DATE, UNSIGNED]);
    request.headers.remove("x-amz-date");
    let refused = error(&request);
    assert_eq!(refused.code, Code::AccessDenied);
    assert_eq!(
        refused.message,
        "AWS authentication requires a valid Date or x-amz-date header"
    );

    for (name, value) in [("x-amz-meta-a", "b"), ("x-amz-acl", "private")] {
        let mut request = signed("GET", "/", &[HOST, DATE, UNSIGNED]);
        request.headers.insert(name, value.parse().unwrap());
        let refused = error(&request);
        assert_eq!(refused.code, Code::AccessDenied);
        assert_eq!(refused.details, [("HeadersNotSigned", name.to_owned())]);
    }

    // Headers that are neither `host` nor of Amazon's may be added on the way.
    let mut request = signed("GET", "/", &[HOST, DATE, UNSIGNED]);
    request.headers.insert("via", "1.1 proxy".parse().unwrap());
    request
        .headers
        .insert("range", "bytes=0-1".parse().unwrap());
    assert!(authenticator(clock()).authenticate(&request).is_ok());

    let token = ("x-amz-security-token", "abc");
    let request = signed("GET", "/", &[HOST, DATE, UNSIGNED, token]);
    assert_eq!(error(&request).code, Code::InvalidToken);
}

#[test]
fn content_sha256() {
    let refused = |value: &str| {
        let error = error(&signed(
            "PUT",
            "/",
            &[HOST, DATE, ("x-amz-content-sha256", value)],
        ));
        (error.code, error.details)
    };
    for value in [
        "",
        "abc",
        "unsigned-payload",
        "STREAMING-",
        &"0".repeat(63),
        &"g".repeat(64),
    ] {
        let (code, details) = refused(value);
        assert_eq!(code, Code::InvalidArgument, "{value}");
        assert_eq!(details[1], ("ArgumentValue", value.to_owned()));
    }
    for value in [
        "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
        "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER",
    ] {
        assert_eq!(refused(value).0, Code::NotImplemented);
    }
}

#[test]
fn clocks_that_differ() {
    let request = signed("GET", "/", &[HOST, DATE, UNSIGNED]);
    let at = |offset_secs: i64| {
        let now = NOW_SECS.checked_add_signed(offset_secs).unwrap();
        let clock = ManualClock::at(UnixMillis(now * 1000));
        authenticator(clock).authenticate(&request).err()
    };
    for fine in [-900, -1, 0, 1, 900] {
        assert!(at(fine).is_none(), "{fine} s");
    }
    for skewed in [-901, 901, 86_400 * 365] {
        let error = at(skewed).unwrap();
        assert_eq!(error.code, Code::RequestTimeTooSkewed);
        assert_eq!(
            error.details[0],
            ("RequestTime", "20130524T000000Z".to_owned())
        );
        assert_eq!(
            error.details[2],
            ("MaxAllowedSkewMilliseconds", "900000".to_owned())
        );
    }
}

#[test]
fn a_mismatch_tells_what_was_signed() {
    let mut request = signed("GET", "/a", &[HOST, DATE, UNSIGNED]);
    request.uri = "/b".parse().unwrap();
    let error = error(&request);
    assert_eq!(error.code, Code::SignatureDoesNotMatch);
    let detail = |name| {
        let found = error.details.iter().find(|(detail, _)| *detail == name);
        &found.unwrap_or_else(|| panic!("{name}")).1
    };
    assert_eq!(detail("AWSAccessKeyId"), ACCESS_KEY);
    assert_eq!(detail("SignatureProvided").len(), 64);
    assert_eq!(
        detail("CanonicalRequest"),
        "GET\n/b\n\nhost:localhost\nx-amz-content-sha256:UNSIGNED-PAYLOAD\n\
         x-amz-date:20130524T000000Z\n\nhost;x-amz-content-sha256;x-amz-date\nUNSIGNED-PAYLOAD"
    );
    assert!(
        detail("StringToSign").starts_with(
            "AWS4-HMAC-SHA256\n20130524T000000Z\n20130524/us-east-1/s3/aws4_request\n"
        )
    );
    assert!(!format!("{error:?}").contains(SECRET));
}

/// The query of a presigned request, with one parameter replaced or (`None`) left out.
fn query(name: &str, value: Option<&str>) -> String {
    let credential = format!("{ACCESS_KEY}%2F20130524%2Fus-east-1%2Fs3%2Faws4_request");
    let signature = "0".repeat(64);
    let all = [
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
        ("X-Amz-Credential", credential.as_str()),
        ("X-Amz-Date", "20130524T000000Z"),
        ("X-Amz-Expires", "60"),
        ("X-Amz-SignedHeaders", "host"),
        ("X-Amz-Signature", signature.as_str()),
    ];
    let mut pairs = Vec::new();
    for (known, default) in all {
        match (known == name, value) {
            (true, Some(value)) => pairs.push(format!("{known}={value}")),
            (true, None) => {}
            (false, _) => pairs.push(format!("{known}={default}")),
        }
    }
    format!("/?{}", pairs.join("&"))
}

#[test]
fn presigned_parameters() {
    let bad = Code::AuthorizationQueryParametersError;
    let scope = |text: &str| format!("{ACCESS_KEY}%2F{}", text.replace('/', "%2F"));
    let table: Vec<(&str, Option<String>, Code, &str)> = vec![
        ("X-Amz-Algorithm", None, bad, "requires the X-Amz-Algorithm"),
        (
            "X-Amz-Credential",
            None,
            bad,
            "requires the X-Amz-Algorithm",
        ),
        ("X-Amz-Date", None, bad, "requires the X-Amz-Algorithm"),
        ("X-Amz-Expires", None, bad, "requires the X-Amz-Algorithm"),
        (
            "X-Amz-SignedHeaders",
            None,
            bad,
            "requires the X-Amz-Algorithm",
        ),
        ("X-Amz-Signature", None, bad, "requires the X-Amz-Algorithm"),
        (
            "X-Amz-Algorithm",
            Some("AWS4-HMAC-SHA1".into()),
            bad,
            "only supports",
        ),
        (
            "X-Amz-Algorithm",
            Some("AWS4-ECDSA-P256-SHA256".into()),
            Code::NotImplemented,
            "4A",
        ),
        (
            "X-Amz-Date",
            Some("2013-05-24T00:00:00Z".into()),
            bad,
            "ISO8601",
        ),
        (
            "X-Amz-Date",
            Some("20130524T000000%5A".into()),
            Code::SignatureDoesNotMatch,
            "",
        ),
        (
            "X-Amz-Date",
            Some("20131324T000000Z".into()),
            bad,
            "ISO8601",
        ),
        (
            "X-Amz-Date",
            Some("20130523T235959Z".into()),
            bad,
            "invalid credential date",
        ),
        ("X-Amz-Expires", Some("".into()), bad, "should be a number"),
        (
            "X-Amz-Expires",
            Some("1.5".into()),
            bad,
            "should be a number",
        ),
        (
            "X-Amz-Expires",
            Some("%2B1".into()),
            bad,
            "should be a number",
        ),
        (
            "X-Amz-Expires",
            Some("-1".into()),
            Code::AccessDenied,
            "must be non-negative",
        ),
        (
            "X-Amz-Expires",
            Some("0".into()),
            Code::AccessDenied,
            "at least 1 second",
        ),
        (
            "X-Amz-Expires",
            Some("604801".into()),
            Code::AccessDenied,
            "less than a week",
        ),
        (
            "X-Amz-Expires",
            Some("99999999999999999999".into()),
            Code::AccessDenied,
            "less than a week",
        ),
        (
            "X-Amz-Expires",
            Some("604800".into()),
            Code::SignatureDoesNotMatch,
            "",
        ),
        (
            "X-Amz-SignedHeaders",
            Some("".into()),
            bad,
            "X-Amz-SignedHeaders",
        ),
        (
            "X-Amz-SignedHeaders",
            Some("host%3Bhost".into()),
            bad,
            "X-Amz-SignedHeaders",
        ),
        (
            "X-Amz-SignedHeaders",
            Some("range".into()),
            Code::AccessDenied,
            "not signed",
        ),
        ("X-Amz-Credential", Some("a".into()), bad, "mal-formed"),
        ("X-Amz-Credential", Some("%FF".into()), bad, "UTF-8"),
        (
            "X-Amz-Credential",
            Some(scope("20130524/eu-west-1/s3/aws4_request")),
            bad,
            "expecting 'us-east-1'",
        ),
        (
            "X-Amz-Credential",
            Some(scope("20130524/us-east-1/ec2/aws4_request")),
            bad,
            "service",
        ),
        (
            "X-Amz-Credential",
            Some(scope("20130524/us-east-1/s3/aws4")),
            bad,
            "terminal",
        ),
        (
            "X-Amz-Signature",
            Some("%00".into()),
            bad,
            "control characters",
        ),
        (
            "X-Amz-Signature",
            Some("0".into()),
            Code::SignatureDoesNotMatch,
            "",
        ),
        (
            "X-Amz-Signature",
            Some("1&X-Amz-Signature=1".into()),
            bad,
            "more than once",
        ),
        (
            "X-Amz-Signature",
            Some("1&X-Amz-Content-Sha256=1".into()),
            Code::InvalidArgument,
            "sha256",
        ),
        (
            "X-Amz-Signature",
            Some("1&X-Amz-Security-Token=1".into()),
            Code::InvalidToken,
            "",
        ),
    ];
    for (name, value, code, message) in table {
        let uri = query(name, value.as_deref());
        let error = error(&parts("GET", &uri, &[HOST]));
        assert_eq!(error.code, code, "{uri}: {error:?}");
        assert!(error.message.contains(message), "{uri}: {error:?}");
    }
}

#[test]
fn presigned_for_later() {
    let uri = query("", None);
    let early = ManualClock::at(UnixMillis((NOW_SECS - 901) * 1000));
    let error = authenticator(early).authenticate(&parts("GET", &uri, &[HOST]));
    assert_eq!(error.err().unwrap().message, "Request is not yet valid");
}

#[test]
fn other_presigned_requests() {
    let v2 = "/a?AWSAccessKeyId=a&Expires=1&Signature=b";
    assert_eq!(error(&parts("GET", v2, &[HOST])).code, Code::InvalidRequest);
    let both = parts(
        "GET",
        &query("", None),
        &[HOST, ("authorization", "AWS a:b")],
    );
    let error = error(&both);
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.starts_with("Only one auth mechanism allowed"));
}

proptest! {
    /// Nothing that stands in an `Authorization` header makes the parser panic, or lets a request in.
    #[test]
    fn any_authorization(
        text in prop_oneof![
            "[ -~]{0,80}",
            "AWS4-HMAC-SHA256 [ -~\u{80}-\u{ff}]{0,200}",
            "AWS4-HMAC-SHA256 (Credential=|SignedHeaders=|Signature=|[,/; =a-z0-9]){0,12}",
            "AWS4-HMAC-SHA256 Credential=[/A-Z0-9]{0,30}20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=[a-z;-]{0,20}, ?Signature=[0-9a-f]{0,65}",
        ],
    ) {
        let value = http::HeaderValue::from_bytes(text.as_bytes()).unwrap();
        let mut request = parts("GET", "/", &[HOST, DATE, UNSIGNED]);
        request.headers.insert("authorization", value);
        prop_assert!(authenticator(clock()).authenticate(&request).is_err());
    }

    /// The same for queries, dates and other headers.
    #[test]
    fn any_query(
        query in prop_oneof![
            "[!-~&&[^#]]{0,80}",
            "(X-Amz-(Algorithm|Credential|Date|Expires|SignedHeaders|Signature|Content-Sha256)=[!-~&&[^#]]{0,20}&){0,8}",
        ],
        date in "[ -~]{0,20}",
        hash in "[ -~]{0,70}",
    ) {
        let Ok(uri) = format!("/a?{query}").parse::<http::Uri>() else { return Ok(()) };
        let mut request = parts("GET", "/", &[HOST, ("x-amz-date", &date), ("x-amz-content-sha256", &hash)]);
        request.uri = uri;
        prop_assert!(authenticator(clock()).authenticate(&request).is_err());
        let authorization = well_formed(&format!("{ACCESS_KEY}/20130524/us-east-1/s3/aws4_request"));
        request.headers.insert("authorization", authorization.parse().unwrap());
        prop_assert!(authenticator(clock()).authenticate(&request).is_err());
    }

    /// Timestamps are either refused or come back as they were.
    #[test]
    fn any_timestamp(text in "[0-9]{4}[01][0-9][0-3][0-9]T[0-9]{6}Z|[ -~]{16}") {
        if let Some(timestamp) = Timestamp::parse(text.as_bytes()) {
            prop_assert_eq!(Timestamp::at(timestamp.unix_secs()), Some(timestamp));
        }
    }
}
