//! The examples of the documentation: "Signature Calculations for the Authorization Header" and
//! "Authenticating Requests: Using Query Parameters".

use super::*;

const HOST: (&str, &str) = ("host", "examplebucket.s3.amazonaws.com");
const DATE: (&str, &str) = ("x-amz-date", "20130524T000000Z");
const EMPTY: (&str, &str) = ("x-amz-content-sha256", sig_v4::EMPTY_SHA256);

fn authorization(signed_headers: &str, signature: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,\
         SignedHeaders={signed_headers},Signature={signature}"
    )
}

fn passes(method: &str, uri: &str, headers: &[(&str, &str)], signed: &str, signature: &str) {
    let right = authorization(signed, signature);
    let request = |authorization: &str| {
        let mut parts = parts(method, uri, headers);
        let authorization = authorization.parse().unwrap();
        parts.headers.insert("authorization", authorization);
        parts
    };
    let identity = authenticator(clock())
        .authenticate(&request(&right))
        .unwrap_or_else(|error| panic!("{error:?}"))
        .identity;
    assert_eq!(identity.owner_id, "owner");

    // No digit of the signature may be another one.
    for at in 0..signature.len() {
        let mut wrong = signature.as_bytes().to_vec();
        wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
        let wrong = authorization(signed, std::str::from_utf8(&wrong).unwrap());
        let refused = authenticator(clock()).authenticate(&request(&wrong));
        assert_eq!(refused.err().unwrap().code, Code::SignatureDoesNotMatch);
    }
}

#[test]
fn get_object() {
    passes(
        "GET",
        "/test.txt",
        &[HOST, ("range", "bytes=0-9"), EMPTY, DATE],
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    );
}

#[test]
fn put_object_by_date_header() {
    passes(
        "PUT",
        "/test$file.text",
        &[
            HOST,
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            DATE,
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            (
                "x-amz-content-sha256",
                "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            ),
        ],
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    );
}

#[test]
fn get_bucket_lifecycle() {
    passes(
        "GET",
        "/?lifecycle",
        &[HOST, EMPTY, DATE],
        "host;x-amz-content-sha256;x-amz-date",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    );
}

#[test]
fn list_objects() {
    passes(
        "GET",
        "/?max-keys=2&prefix=J",
        &[HOST, EMPTY, DATE],
        "host;x-amz-content-sha256;x-amz-date",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    );
}

const PRESIGNED: &str = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
    &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
    &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
    &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";

#[test]
fn presigned() {
    let clock = clock();
    let authenticator = authenticator(clock.clone());
    let request = parts("GET", PRESIGNED, &[HOST]);
    let authenticated = authenticator.authenticate(&request).unwrap();
    assert!(matches!(authenticated.framing, PayloadFraming::Unsigned));

    clock.advance(Duration::from_secs(86_400));
    assert!(authenticator.authenticate(&request).is_ok());
    clock.advance(Duration::from_secs(1));
    let expired = authenticator.authenticate(&request).err().unwrap();
    assert_eq!(expired.code, Code::AccessDenied);
    assert_eq!(expired.message, "Request has expired");
    assert_eq!(
        expired.details,
        [
            ("X-Amz-Expires", "86400".to_owned()),
            ("Expires", "2013-05-25T00:00:00Z".to_owned()),
            ("ServerTime", "2013-05-25T00:00:01Z".to_owned()),
        ]
    );

    let wrong = PRESIGNED.replace("d404", "d405");
    let refused = authenticator.authenticate(&parts("GET", &wrong, &[HOST]));
    assert_eq!(refused.err().unwrap().code, Code::AccessDenied);
}

#[test]
fn a_presigned_request_is_for_its_method_path_and_parameters() {
    let authenticator = authenticator(clock());
    let refused = |method, uri: &str| {
        let parts = parts(method, uri, &[HOST]);
        authenticator
            .authenticate(&parts)
            .err()
            .map(|error| error.code)
    };
    let code = Some(Code::SignatureDoesNotMatch);
    assert_eq!(refused("PUT", PRESIGNED), code);
    assert_eq!(
        refused("GET", &PRESIGNED.replace("test.txt", "test.txu")),
        code
    );
    assert_eq!(refused("GET", &format!("{PRESIGNED}&acl")), code);
    assert_eq!(refused("GET", &PRESIGNED.replace("d404", "d405")), code);
    assert_eq!(refused("GET", &PRESIGNED.replace("86400", "86401")), code);
    assert_eq!(refused("GET", PRESIGNED), None);
}
