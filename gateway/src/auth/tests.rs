use holdfast_placement::seams::{ManualClock, UnixMillis};
use http::Request;

use super::*;

mod documented;
mod kept;
mod refused;
mod round_trip;
mod version_2;

/// The credentials and the moment of all examples in the documentation of S3.
pub(crate) const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub(crate) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// 2013-05-24T00:00:00Z.
pub(crate) const NOW_SECS: u64 = 1_369_353_600;

pub(crate) fn clock() -> ManualClock {
    ManualClock::at(UnixMillis(NOW_SECS * 1000))
}

pub(crate) fn authenticator(clock: ManualClock) -> Authenticator {
    let credentials = Credentials::new(ACCESS_KEY, SECRET, "owner", "Owner");
    Authenticator::new(vec![credentials], "us-east-1".to_owned(), Arc::new(clock))
}

pub(crate) fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

#[test]
fn secrets_are_not_shown() {
    let credentials = Credentials::new(ACCESS_KEY, SECRET, "owner", "Owner");
    let key = SigningKey::derive(SECRET, "20130524", "us-east-1", "s3");
    for shown in [format!("{credentials:?}"), format!("{key:?}")] {
        assert!(!shown.contains("wJalr"), "{shown}");
        assert!(shown.len() < 100, "{shown}");
    }
}

#[test]
fn a_key_is_derived_once_a_day() {
    let authenticator = authenticator(clock());
    let entry = &authenticator.keys.given[ACCESS_KEY];
    let today = entry.signing_key("20130524", "us-east-1");
    let cached = entry.day.load_full().unwrap();
    let again = entry.signing_key("20130524", "us-east-1");
    assert_eq!(today.sign(&[b"x"]), again.sign(&[b"x"]));
    // An older day does not push the newest out, a newer one does.
    let before = entry.signing_key("20130523", "us-east-1");
    assert_ne!(today.sign(&[b"x"]), before.sign(&[b"x"]));
    assert!(Arc::ptr_eq(&cached, &entry.day.load_full().unwrap()));
    entry.signing_key("20130525", "us-east-1");
    assert_eq!(&entry.day.load_full().unwrap().date, b"20130525");
}

/// A request with `headers`, all of them signed. They must hold `host`, `x-amz-date` and `x-amz-content-sha256`.
pub(crate) fn signed(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    signed_by(ACCESS_KEY, SECRET, method, uri, headers)
}

/// The same with any key.
pub(crate) fn signed_by(
    access_key: &str,
    secret: &str,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
) -> Parts {
    signed_in("us-east-1", access_key, secret, method, uri, headers)
}

/// The same in any region.
pub(crate) fn signed_in(
    region: &str,
    access_key: &str,
    secret: &str,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
) -> Parts {
    let mut parts = parts(method, uri, headers);
    let mut names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let names = names.join(";");
    let value = |name: &str| parts.headers[name].to_str().unwrap().to_owned();
    let hash = value("x-amz-content-sha256");
    let canonical = canonical::request(&parts, PathForm::Encoded, &names, &hash).unwrap();
    let scope = format!("20130524/{region}/s3/aws4_request");
    let key = SigningKey::derive(secret, "20130524", region, "s3");
    let signature = key.sign(&[
        sig_v4::ALGORITHM.as_bytes(),
        value("x-amz-date").as_bytes(),
        scope.as_bytes(),
        &sig_v4::sha256_hex(&canonical),
    ]);
    let signature = std::str::from_utf8(&signature).unwrap();
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    );
    let authorization = authorization.parse().unwrap();
    parts
        .headers
        .insert(http::header::AUTHORIZATION, authorization);
    parts
}

/// Signatures of a form's policy: of version 2, and of version 4 on the day of the examples.
pub(crate) fn form_signatures(policy: &str) -> (String, String) {
    let key = SigningKey::derive(SECRET, "20130524", "us-east-1", "s3");
    let v4 = key.sign(&[policy.as_bytes()]);
    let v4 = String::from_utf8(v4.to_vec()).unwrap();
    (sig_v2::sign(SECRET, policy.as_bytes()), v4)
}
