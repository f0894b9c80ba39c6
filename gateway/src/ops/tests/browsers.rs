//! What browsers do: preflights, requests from other origins, forms.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::request::Builder;

use super::*;

const RULES: &str = "<CORSConfiguration>\
    <CORSRule><AllowedOrigin>http://a.test</AllowedOrigin><AllowedMethod>GET</AllowedMethod>\
    <AllowedMethod>PUT</AllowedMethod><AllowedHeader>x-amz-*</AllowedHeader>\
    <ExposeHeader>ETag</ExposeHeader><MaxAgeSeconds>60</MaxAgeSeconds></CORSRule>\
    <CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>HEAD</AllowedMethod></CORSRule>\
    </CORSConfiguration>";

fn options(uri: &str) -> Builder {
    Request::builder().method("OPTIONS").uri(uri)
}

fn nothing(builder: Builder) -> Request<Body> {
    builder.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_rules() {
    let store = Store::with_bucket().await;
    let asks = |method: &str, headers: &str| {
        let request = options("/bucket/key")
            .header("origin", "http://a.test")
            .header("access-control-request-method", method)
            .header("access-control-request-headers", headers);
        nothing(request)
    };
    let none = store.send_raw(asks("GET", "")).await;
    none.expect_error(403, "AccessForbidden");
    // What it wants to do does not matter before there are rules.
    let vague = options("/bucket/key").header("origin", "http://a.test");
    let none = store.send_raw(nothing(vague)).await;
    none.expect_error(403, "AccessForbidden");
    let put = ask("PUT", "/bucket?cors").body(RULES);
    store.send(put).await.expect(200);
    let allowed = store
        .send_raw(asks("PUT", "X-Amz-Meta-A, x-amz-date"))
        .await;
    let allowed = allowed.expect(200);
    let shown = |name: &str| allowed.header(&format!("access-control-{name}")).to_owned();
    assert_eq!(shown("allow-origin"), "http://a.test");
    assert_eq!(shown("allow-methods"), "GET, PUT");
    assert_eq!(shown("allow-headers"), "x-amz-meta-a, x-amz-date");
    assert_eq!(shown("expose-headers"), "ETag");
    assert_eq!(shown("max-age"), "60");
    assert_eq!(shown("allow-credentials"), "true");
    for (method, headers) in [("DELETE", ""), ("PUT", "content-type")] {
        let refused = store.send_raw(asks(method, headers)).await;
        refused.expect_error(403, "AccessForbidden");
    }
    for (method, headers) in [("PATCH", ""), ("PUT", "x-amz-date, a:b")] {
        let wrong = store.send_raw(asks(method, headers)).await;
        wrong.expect_error(400, "BadRequest");
    }
    let wrong = store.send_raw(nothing(options("/bucket/key"))).await;
    wrong.expect_error(400, "BadRequest");
    let gone = options("/nobucket")
        .header("origin", "http://a.test")
        .header("access-control-request-method", "GET");
    let gone = store.send_raw(nothing(gone)).await;
    gone.expect_error(403, "AccessForbidden");
    store.send(ask("DELETE", "/bucket?cors")).await.expect(204);
    let none = store.send_raw(asks("GET", "")).await;
    none.expect_error(403, "AccessForbidden");
}

#[tokio::test]
async fn responses_and_refusals_say_who_may_see_them() {
    let store = Store::with_bucket().await;
    store.put("/bucket/key", "x").await;
    let put = ask("PUT", "/bucket?cors").body(RULES);
    store.send(put).await.expect(200);
    let from = |method, uri: &str, origin: &str| ask(method, uri).header("origin", origin);
    let seen = store
        .send(from("GET", "/bucket/key", "http://a.test"))
        .await;
    assert_eq!(seen.header("access-control-allow-origin"), "http://a.test");
    let refused = from("GET", "/bucket/none", "http://a.test");
    let refused = store.send(refused).await.expect_error(404, "NoSuchKey");
    assert_eq!(
        refused.header("access-control-allow-origin"),
        "http://a.test"
    );
    let any = store
        .send(from("HEAD", "/bucket/key", "http://b.test"))
        .await;
    assert_eq!(any.header("access-control-allow-origin"), "*");
    assert_eq!(any.header("access-control-allow-credentials"), "");
    for (method, uri, origin) in [
        ("GET", "/bucket/key", "http://b.test"),
        ("DELETE", "/bucket/key", "http://a.test"),
        ("GET", "/nobucket/key", "http://a.test"),
    ] {
        let hidden = store.send(from(method, uri, origin)).await;
        assert_eq!(hidden.header("access-control-allow-origin"), "", "{uri}");
    }
}

#[tokio::test]
async fn rules_are_kept_as_they_were_given() {
    let (one, other) = Store::pair();
    one.send(ask("PUT", "/bucket")).await.expect(200);
    let put = ask("PUT", "/bucket?cors").body(RULES);
    one.send(put).await.expect(200);
    let shown = other.get("/bucket?cors").await.expect(200);
    assert_eq!(shown.elements("AllowedMethod"), ["GET", "PUT", "HEAD"]);
    assert_eq!(shown.elements("AllowedOrigin"), ["http://a.test", "*"]);
    assert_eq!(shown.element("MaxAgeSeconds"), Some("60"));
    let wrong = "<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>PATCH</AllowedMethod></CORSRule></CORSConfiguration>";
    let wrong = ask("PUT", "/bucket?cors").body(wrong);
    one.send(wrong).await.expect_error(400, "InvalidRequest");
    let wrong = RULES.replace("<ExposeHeader>ETag<", "<ExposeHeader>X (a)<");
    let wrong = ask("PUT", "/bucket?cors").body(wrong);
    one.send(wrong).await.expect_error(400, "InvalidRequest");
}

/// A form, as a browser sends it.
fn form(fields: &[(&str, &str)], file: &[u8]) -> Request<Body> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let part =
            format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    body.extend_from_slice(
        b"--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"dir/f.txt\"\r\n\
          Content-Type: text/plain\r\n\r\n",
    );
    body.extend_from_slice(file);
    body.extend_from_slice(b"\r\n--edge--\r\n");
    // In pieces of all sizes, so that delimiters are cut anywhere.
    let mut pieces: Vec<Result<Bytes, std::io::Error>> = Vec::new();
    let mut rest = Bytes::from(body);
    let mut size = 1;
    while !rest.is_empty() {
        pieces.push(Ok(rest.split_to(size.min(rest.len()))));
        size = size % 97 + 13 * (pieces.len() / 40) + 1;
    }
    Request::builder()
        .method("POST")
        .uri("/bucket")
        .header("host", "localhost:9000")
        .header("content-type", "multipart/form-data; boundary=edge")
        .body(Body::from_stream(futures_util::stream::iter(pieces)))
        .unwrap()
}

/// A policy in Base64, with its signatures of both versions.
fn policy(conditions: &str) -> (String, String, String) {
    let text = format!(
        "{{\"expiration\": \"2013-05-25T00:00:00Z\", \"conditions\": [{{\"bucket\": \"bucket\"}}, {conditions}]}}"
    );
    let text = STANDARD.encode(text);
    let (v2, v4) = crate::auth::tests::form_signatures(&text);
    (text, v2, v4)
}

const CREDENTIAL: &str = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request";

#[tokio::test]
async fn a_form_of_either_version_stores_its_file() {
    let store = Store::with_bucket().await;
    let (text, _, v4) = policy(
        "[\"starts-with\", \"$key\", \"up/\"], {\"x-amz-meta-a\": \"b\"}, [\"content-length-range\", 1, 2000000], \
         {\"x-amz-algorithm\": \"AWS4-HMAC-SHA256\"}, [\"starts-with\", \"$x-amz-credential\", \"\"], \
         [\"starts-with\", \"$x-amz-date\", \"\"], {\"success_action_status\": \"201\"}, \
         [\"starts-with\", \"$Content-Type\", \"text/\"], {\"content-language\": \"de\"}",
    );
    for len in [1, 1000, 100_000, 1_500_000] {
        let file = pattern(len, 3);
        let fields = [
            ("key", "up/${filename}"),
            ("Content-Type", "text/css"),
            ("Content-Language", "de"),
            ("x-amz-meta-a", "b"),
            ("success_action_status", "201"),
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", CREDENTIAL),
            ("X-Amz-Date", "20130524T000000Z"),
            ("Policy", &text),
            ("X-Amz-Signature", &v4),
        ];
        let stored = store.send_raw(form(&fields, &file)).await.expect(201);
        assert_eq!(stored.element("Key"), Some("up/f.txt"));
        assert_eq!(
            stored.header("location"),
            "http://localhost:9000/bucket/up/f.txt"
        );
        let get = store.get("/bucket/up/f.txt").await.expect(200);
        assert_eq!(get.body, file);
        let crc = stored.header("x-amz-checksum-crc64nvme");
        let head = ask("HEAD", "/bucket/up/f.txt").header("x-amz-checksum-mode", "ENABLED");
        let head = store.send(head).await;
        assert_eq!(
            (crc.len(), head.header("x-amz-checksum-crc64nvme")),
            (12, crc)
        );
        assert_eq!(get.header("content-type"), "text/css");
        assert_eq!(get.header("content-language"), "de");
        assert_eq!(get.header("x-amz-meta-a"), "b");
        assert_eq!(get.header("etag"), format!("\"{}\"", md5_hex(&file)));
    }
    let (text, v2, _) =
        policy("{\"key\": \"k\"}, {\"success_action_redirect\": \"http://a.test/?x=y\"}");
    let fields = [
        ("key", "k"),
        ("AWSAccessKeyId", ACCESS_KEY),
        ("success_action_redirect", "http://a.test/?x=y"),
        ("policy", &text),
        ("signature", &v2),
    ];
    let rule = "<LifecycleConfiguration><Rule><ID>r</ID><Prefix/><Status>Enabled</Status>\
        <Expiration><Days>1</Days></Expiration></Rule></LifecycleConfiguration>";
    store.put("/bucket?lifecycle", rule).await;
    let stored = store
        .send_raw(form(&fields, b"\r\n--edg"))
        .await
        .expect(303);
    let day = "expiry-date=\"Sat, 25 May 2013 00:00:00 GMT\", rule-id=\"r\"";
    assert_eq!(stored.header("x-amz-expiration"), day);
    assert_eq!(
        stored.header("location"),
        format!(
            "http://a.test/?x=y&bucket=bucket&key=k&etag=%22{}%22",
            md5_hex(b"\r\n--edg")
        )
    );
    assert_eq!(store.get("/bucket/k").await.expect(200).body, "\r\n--edg");
}

#[tokio::test]
async fn a_form_without_leave_is_refused() {
    let store = Store::with_bucket().await;
    let (text, v2, _) = policy("{\"key\": \"k\"}, [\"content-length-range\", 3, 5]");
    let right = [
        ("key", "k"),
        ("AWSAccessKeyId", ACCESS_KEY),
        ("policy", &text),
        ("signature", &v2),
    ];
    let mut with_query = form(&right, b"abc");
    *with_query.uri_mut() = "/bucket?a=b".parse().unwrap();
    let refused = store.send_raw(with_query).await;
    let refused = refused.expect_error(400, "InvalidArgument");
    assert_eq!(refused.element("ArgumentName"), Some("a"));
    let with = |name: &'static str, value: &'static str| {
        let mut fields = right.to_vec();
        match fields.iter_mut().find(|(own, _)| *own == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
        fields
    };
    let without = |name: &str| {
        let mut fields = right.to_vec();
        fields.retain(|(own, _)| *own != name);
        fields
    };
    for (fields, file, status, code) in [
        (with("key", "other"), "abc", 403, "AccessDenied"),
        (with("bucket", "other"), "abc", 403, "AccessDenied"),
        (with("acl", "private"), "abc", 403, "AccessDenied"),
        (
            with("signature", "AAAA"),
            "abc",
            403,
            "SignatureDoesNotMatch",
        ),
        (
            with("AWSAccessKeyId", "x"),
            "abc",
            403,
            "InvalidAccessKeyId",
        ),
        (without("policy"), "abc", 403, "AccessDenied"),
        (without("signature"), "abc", 400, "InvalidArgument"),
        (without("key"), "abc", 400, "InvalidArgument"),
        (right.to_vec(), "ab", 400, "EntityTooSmall"),
        (right.to_vec(), "abcdef", 400, "EntityTooLarge"),
    ] {
        let refused = store.send_raw(form(&fields, file.as_bytes())).await;
        refused.expect_error(status, code);
    }
    store.get("/bucket/k").await.expect_error(404, "NoSuchKey");
    let long = "x".repeat(21_000);
    let mut fields = right.to_vec();
    fields.push(("x-ignore-this", &long));
    let refused = store.send_raw(form(&fields, b"abc")).await;
    refused.expect_error(400, "MaxPostPreDataLengthExceeded");
    store.send_raw(form(&right, b"abc")).await.expect(204);
    for broken in [
        "",
        "--edge",
        "--edge\r\n\r\n",
        "--edge--\r\n",
        "--edge\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc",
    ] {
        let request = Request::builder()
            .method("POST")
            .uri("/bucket")
            .header("content-type", "multipart/form-data; boundary=edge");
        let refused = store
            .send_raw(request.body(Body::from(broken)).unwrap())
            .await;
        assert_eq!(refused.status, 400, "{broken:?}: {refused:?}");
    }
}
