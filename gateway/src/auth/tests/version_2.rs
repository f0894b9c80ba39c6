//! Signature Version 2: the examples of the developer guide ("Signing and Authenticating REST Requests"), and what is
//! refused.

use super::*;

/// 2007-03-27T19:40:00Z: about when the examples were signed.
const THEN_SECS: u64 = 1_175_024_400;
const HOST: (&str, &str) = ("host", "johnsmith.s3.amazonaws.com");

fn version_2(secs: u64) -> Authenticator {
    let clock = ManualClock::at(UnixMillis(secs * 1000));
    authenticator(clock).with_sig_v2(Some("s3.amazonaws.com".to_owned()))
}

fn code(secs: u64, parts: &Parts) -> Option<Code> {
    let refused = version_2(secs).authenticate(parts).err();
    refused.map(|error| error.code)
}

fn signed_so(signature: &str) -> String {
    format!("AWS {ACCESS_KEY}:{signature}")
}

#[test]
fn the_documented_examples_are_let_in() {
    let get = signed_so("bWq2s1WEIj+Ydj0vQ697zp+IXMU=");
    let put = signed_so("MyyxeRY7whkBe+bq8fHCL/2kKUg=");
    let list = signed_so("htDYFYduRNen8P9ZfE/s9SuKy0U=");
    let acl = signed_so("c2WLPFtWHVgbEmeEG93a4cG37dM=");
    let at = |time: &'static str| ("date", time);
    for (secs, request) in [
        (
            THEN_SECS,
            parts(
                "GET",
                "/photos/puppy.jpg",
                &[
                    HOST,
                    at("Tue, 27 Mar 2007 19:36:42 +0000"),
                    ("authorization", &get),
                ],
            ),
        ),
        (
            THEN_SECS + 5800,
            parts(
                "PUT",
                "/photos/puppy.jpg",
                &[
                    HOST,
                    at("Tue, 27 Mar 2007 21:15:45 +0000"),
                    ("content-type", "image/jpeg"),
                    ("content-length", "94328"),
                    ("authorization", &put),
                ],
            ),
        ),
        (
            THEN_SECS,
            parts(
                "GET",
                "/?prefix=photos&max-keys=50&marker=puppy",
                &[
                    HOST,
                    at("Tue, 27 Mar 2007 19:42:41 +0000"),
                    ("authorization", &list),
                ],
            ),
        ),
        (
            THEN_SECS,
            parts(
                "GET",
                "/?acl",
                &[
                    HOST,
                    at("Tue, 27 Mar 2007 19:44:46 +0000"),
                    ("authorization", &acl),
                ],
            ),
        ),
        (
            THEN_SECS,
            parts(
                "GET",
                &format!(
                    "/photos/puppy.jpg?AWSAccessKeyId={ACCESS_KEY}&Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D&Expires=1175139620"
                ),
                &[HOST],
            ),
        ),
    ] {
        assert_eq!(code(secs, &request), None, "{request:?}");
        let mut other = request.clone();
        other.headers.insert("x-amz-meta-a", "b".parse().unwrap());
        assert_eq!(code(secs, &other), Some(Code::SignatureDoesNotMatch));
        let mut other = request.clone();
        other.method = http::Method::DELETE;
        assert_eq!(code(secs, &other), Some(Code::SignatureDoesNotMatch));
        let known = version_2(secs).authenticate(&request).unwrap();
        assert_eq!(known.identity.owner_id, "owner");
    }
}

#[test]
fn headers_in_the_query_are_signed_as_headers() {
    let message =
        "PUT\n\ntext/plain\n1175139620\nx-amz-acl:private\nx-amz-meta-a:b c\n/johnsmith/k?uploads";
    let signature = sig_v2::sign(SECRET, message.as_bytes());
    let signature = signature
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D");
    let uri = format!(
        "/k?uploads&AWSAccessKeyId={ACCESS_KEY}&Signature={signature}&Expires=1175139620&content-type=text%2Fplain&x-amz-acl=private&x-amz-meta-a=b+c"
    );
    assert_eq!(code(THEN_SECS, &parts("PUT", &uri, &[HOST])), None);
    let changed = uri.replace("acl=private", "acl=public-read");
    let refused = code(THEN_SECS, &parts("PUT", &changed, &[HOST]));
    assert_eq!(refused, Some(Code::SignatureDoesNotMatch));
    let refused = code(1_175_139_621, &parts("PUT", &uri, &[HOST]));
    assert_eq!(refused, Some(Code::AccessDenied));
}

/// minio-go and rclone send `?uploads=` and sign `?uploads`; botocore signs what it sends.
#[test]
fn empty_parameters_may_be_signed_without_their_sign() {
    let when = "Tue, 27 Mar 2007 19:36:42 +0000";
    for (uri, signed) in [
        ("/b/k?uploads=", "/johnsmith/b/k?uploads"),
        ("/b/k?uploads=", "/johnsmith/b/k?uploads="),
        ("/b/k?uploads", "/johnsmith/b/k?uploads"),
        ("/?acl=", "/johnsmith/?acl"),
    ] {
        let message = format!("GET\n\n\n{when}\n{signed}");
        let authorization = signed_so(&sig_v2::sign(SECRET, message.as_bytes()));
        let headers = [HOST, ("date", when), ("authorization", &authorization)];
        assert_eq!(code(THEN_SECS, &parts("GET", uri, &headers)), None, "{uri}");
    }
    let message = format!("GET\n\n\n{when}\n/johnsmith/b/k?uploads=");
    let authorization = signed_so(&sig_v2::sign(SECRET, message.as_bytes()));
    let headers = [HOST, ("date", when), ("authorization", &authorization)];
    let other = code(THEN_SECS, &parts("GET", "/b/k?uploads=a", &headers));
    assert_eq!(other, Some(Code::SignatureDoesNotMatch));
}

#[test]
fn a_signature_in_the_query_is_the_only_one() {
    let uri = format!("/k?AWSAccessKeyId={ACCESS_KEY}&Signature=a&Expires=1175139620");
    for authorization in ["Bearer x", "AWS a:b", "AWS4-HMAC-SHA256 x"] {
        let both = parts("GET", &uri, &[HOST, ("authorization", authorization)]);
        assert_eq!(code(THEN_SECS, &both), Some(Code::InvalidArgument));
    }
}

#[test]
fn strange_signatures_are_refused() {
    let right = signed_so("bWq2s1WEIj+Ydj0vQ697zp+IXMU=");
    let on = |authorization: &str, headers: &[(&str, &str)]| {
        let mut all = vec![HOST, ("authorization", authorization)];
        all.extend(headers);
        code(THEN_SECS, &parts("GET", "/photos/puppy.jpg", &all))
    };
    let date = ("date", "Tue, 27 Mar 2007 19:36:42 +0000");
    assert_eq!(on(&right, &[date]), None);
    assert_eq!(on("AWS HAHAHA", &[date]), Some(Code::InvalidArgument));
    assert_eq!(on("AWS :x", &[date]), Some(Code::InvalidArgument));
    let unknown = Some(Code::InvalidAccessKeyId);
    assert_eq!(on("AWS nobody:x", &[date]), unknown);
    assert_eq!(on(&right, &[]), Some(Code::AccessDenied));
    for (time, refusal) in [
        ("", Code::AccessDenied),
        ("Bad Date", Code::AccessDenied),
        ("Tue, 07 Jul 1950 21:53:04 GMT", Code::AccessDenied),
        ("Tue, 07 Jul 2010 21:53:04 GMT", Code::RequestTimeTooSkewed),
        ("Tue, 07 Jul 9999 21:53:04 GMT", Code::RequestTimeTooSkewed),
    ] {
        let headers = [date, ("x-amz-date", time)];
        assert_eq!(on(&right, &headers), Some(refusal), "{time}");
    }
    let request = parts(
        "GET",
        "/photos/puppy.jpg",
        &[HOST, date, ("authorization", &right)],
    );
    let off = authenticator(ManualClock::at(UnixMillis(THEN_SECS * 1000)));
    let refused = off.authenticate(&request).err().unwrap();
    assert_eq!(refused.code, Code::InvalidRequest);
    let both = parts(
        "GET",
        "/photos/puppy.jpg?AWSAccessKeyId=a&Signature=b&Expires=1",
        &[HOST, date, ("authorization", &right)],
    );
    assert_eq!(code(THEN_SECS, &both), Some(Code::InvalidArgument));
}
