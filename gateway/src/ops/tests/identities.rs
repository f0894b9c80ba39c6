//! Several identities: whose a bucket is, and what others may do with it.

use holdfast_placement::directory::Identity;

use super::*;

const ANN: &str = "ANN";
const BOB: &str = "BOB";
const SECRETS: &str = "a secret of somebody";

fn owner(name: &str) -> String {
    hex::encode(name).repeat(11)[..64].to_owned()
}

/// Two gateways of a cluster with two identities.
async fn cluster() -> (Store, Store) {
    let (one, other) = Store::pair();
    for name in [ANN, BOB] {
        let identity = serde_json::json!({
            "access_key": name,
            "secret_key": SECRETS,
            "owner_id": owner(name),
            "display_name": format!("display of {name}"),
        });
        let add = ask("POST", "/-/identities").body(identity.to_string());
        one.send(add).await.expect(200);
    }
    (one, other)
}

fn ann(method: &'static str, uri: &str) -> Ask {
    ask(method, uri).by(ANN, SECRETS)
}

fn bob(method: &'static str, uri: &str) -> Ask {
    ask(method, uri).by(BOB, SECRETS)
}

#[tokio::test]
async fn everybody_has_buckets_of_their_own() {
    let (one, other) = cluster().await;
    one.send(ann("PUT", "/anns")).await.expect(200);
    other.send(bob("PUT", "/bobs")).await.expect(200);
    for store in [&one, &other] {
        let taken = store.send(bob("PUT", "/anns")).await;
        taken.expect_error(409, "BucketAlreadyExists");
        store.send(ann("PUT", "/anns")).await.expect(200);
        let listed = store.send(ann("GET", "/")).await.expect(200);
        assert_eq!(listed.elements("Name"), ["anns"]);
        assert_eq!(listed.element("ID"), Some(&*owner(ANN)));
        assert_eq!(listed.element("DisplayName"), Some("display of ANN"));
    }
    one.send(ann("PUT", "/anns/key")).await.expect(200);
    let listed = other.send(ann("GET", "/anns")).await.expect(200);
    assert_eq!(listed.element("ID"), Some(&*owner(ANN)));
    assert_eq!(listed.element("DisplayName"), Some("display of ANN"));
}

#[tokio::test]
async fn nobody_else_gets_at_a_bucket() {
    let (one, other) = cluster().await;
    one.send(ann("PUT", "/anns")).await.expect(200);
    one.send(ann("PUT", "/anns/key").body("x"))
        .await
        .expect(200);
    other.send(bob("PUT", "/bobs")).await.expect(200);
    for (method, uri) in [
        ("GET", "/anns"),
        ("GET", "/anns?location"),
        ("GET", "/anns?acl"),
        ("GET", "/anns?cors"),
        ("GET", "/anns?uploads"),
        ("GET", "/anns/key"),
        ("GET", "/anns/none"),
        ("PUT", "/anns/key"),
        ("PUT", "/anns?tagging"),
        ("DELETE", "/anns/key"),
        ("DELETE", "/anns"),
        ("POST", "/anns/key?uploads"),
    ] {
        for store in [&one, &other] {
            let refused = store.send(bob(method, uri)).await;
            refused.expect_error(403, "AccessDenied");
        }
    }
    let copy = bob("PUT", "/bobs/copy").header("x-amz-copy-source", "anns/key");
    one.send(copy).await.expect_error(403, "AccessDenied");
    // Of many deletions each is answered by itself.
    let many = "<Delete><Object><Key>key</Key></Object><Object><Key>none</Key></Object></Delete>";
    let many = bob("POST", "/anns?delete").with_md5(many);
    let refused = other.send(many).await.expect(200);
    assert_eq!(refused.elements("Code"), ["AccessDenied", "AccessDenied"]);
    assert_eq!(refused.elements("Key"), ["key", "none"]);
    // The root user may.
    assert_eq!(other.get("/anns/key").await.expect(200).body, "x");
    other.send(ask("DELETE", "/anns/key")).await.expect(204);
    other.send(ask("DELETE", "/anns")).await.expect(204);
}

#[tokio::test]
async fn canned_lists_let_others_in() {
    let (one, other) = cluster().await;
    let public = ann("PUT", "/anns").header("x-amz-acl", "public-read");
    one.send(public).await.expect(200);
    let acl = one.send(ann("GET", "/anns?acl")).await.expect(200);
    assert_eq!(acl.elements("Permission"), ["FULL_CONTROL", "READ"]);
    other.send(bob("GET", "/anns")).await.expect(200);
    let missing = other.send(bob("GET", "/anns/none")).await;
    missing.expect_error(404, "NoSuchKey");
    let refused = other.send(bob("PUT", "/anns/key")).await;
    refused.expect_error(403, "AccessDenied");
    let open = ann("PUT", "/anns?acl").header("x-amz-acl", "public-read-write");
    one.send(open).await.expect(200);
    other.send(bob("PUT", "/anns/key")).await.expect(200);
    other
        .send(bob("DELETE", "/anns"))
        .await
        .expect_error(403, "AccessDenied");
    let closed = ann("PUT", "/anns?acl").header("x-amz-acl", "private");
    one.send(closed).await.expect(200);
    other
        .send(bob("GET", "/anns"))
        .await
        .expect_error(403, "AccessDenied");
    let members = ann("PUT", "/anns?acl").header("x-amz-acl", "authenticated-read");
    one.send(members).await.expect(200);
    other.send(bob("GET", "/anns")).await.expect(200);
    let anonymous = Request::builder().uri("/anns").body(Body::empty());
    let refused = one.send_raw(anonymous.unwrap()).await;
    refused.expect_error(403, "AccessDenied");
    let grants = ann("PUT", "/anns?acl").body("<AccessControlPolicy/>");
    one.send(grants)
        .await
        .expect_error(400, "MalformedACLError");
    let unknown = ann("PUT", "/anns?acl").header("x-amz-acl", "secret");
    one.send(unknown).await.expect_error(400, "InvalidArgument");
}

#[tokio::test]
async fn canned_lists_of_objects_let_others_read() {
    let (one, other) = cluster().await;
    one.send(ann("PUT", "/anns")).await.expect(200);
    let put = |acl: &str| {
        let put = ann("PUT", "/anns/key").header("x-amz-acl", acl);
        one.send(put.body("x"))
    };
    let anonymous = || {
        let request = Request::builder().uri("/anns/key").body(Body::empty());
        other.send_raw(request.unwrap())
    };
    put("public-read").await.expect(200);
    let seen = anonymous().await.expect(200);
    assert_eq!(seen.body, "x");
    assert!(
        seen.headers
            .keys()
            .all(|name| !name.as_str().contains("acl"))
    );
    // Nobody makes a page of it for others.
    let uri = "/anns/key?response-content-type=text/html";
    let dressed = Request::builder().uri(uri).body(Body::empty()).unwrap();
    let dressed = one.send_raw(dressed).await;
    dressed.expect_error(400, "InvalidRequest");
    // It does not go along with a copy.
    let copy = ann("PUT", "/anns/copy").header("x-amz-copy-source", "anns/key");
    one.send(copy).await.expect(200);
    let refused = other.send(bob("GET", "/anns/copy")).await;
    refused.expect_error(403, "AccessDenied");
    other.send(bob("PUT", "/bobs")).await.expect(200);
    let copy = bob("PUT", "/bobs/copy").header("x-amz-copy-source", "anns/key");
    other.send(copy).await.expect(200);
    // Nobody learns from it what else there is.
    let refused = other.send(bob("GET", "/anns/none")).await;
    refused.expect_error(403, "AccessDenied");
    other
        .send(bob("GET", "/anns"))
        .await
        .expect_error(403, "AccessDenied");
    let closed = ann("PUT", "/anns/key?acl").header("x-amz-acl", "authenticated-read");
    one.send(closed).await.expect(200);
    anonymous().await.expect_error(403, "AccessDenied");
    other.send(bob("GET", "/anns/key")).await.expect(200);
    let acl = one.send(ann("GET", "/anns/key?acl")).await.expect(200);
    assert_eq!(acl.elements("Permission"), ["FULL_CONTROL", "READ"]);
    other
        .send(bob("GET", "/anns/key?acl"))
        .await
        .expect_error(403, "AccessDenied");
    put("private").await.expect(200);
    other
        .send(bob("GET", "/anns/key"))
        .await
        .expect_error(403, "AccessDenied");
    let upload = ann("POST", "/anns/key?uploads").header("x-amz-acl", "public-read");
    let id = one.send(upload).await.expect(200);
    let id = id.element("UploadId").unwrap();
    let part = format!("/anns/key?partNumber=1&uploadId={id}");
    let part = one
        .send(ask("PUT", part).by(ANN, SECRETS).body("parts"))
        .await
        .expect(200);
    let etag = part.header("etag");
    let complete = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    let complete = ask("POST", format!("/anns/key?uploadId={id}")).body(complete);
    one.send(complete.by(ANN, SECRETS)).await.expect(200);
    assert_eq!(anonymous().await.expect(200).body, "parts");
    let missing = ann("PUT", "/anns/none?acl").header("x-amz-acl", "private");
    one.send(missing).await.expect_error(404, "NoSuchKey");
}

#[tokio::test]
async fn a_list_that_was_read_can_be_put_back() {
    let (one, other) = cluster().await;
    one.send(ann("PUT", "/anns")).await.expect(200);
    for uri in ["/anns?acl", "/anns/key?acl"] {
        let of_object = uri != "/anns?acl";
        let mut put = ann("PUT", "/anns/key");
        if of_object {
            let read = "uri=\"http://acs.amazonaws.com/groups/global/AllUsers\"";
            put = put.header("x-amz-grant-read", read);
        }
        one.send(put.body("x")).await.expect(200);
        if !of_object {
            let open = ann("PUT", uri).header("x-amz-acl", "public-read");
            one.send(open).await.expect(200);
        }
        let read = one.send(ann("GET", uri)).await.expect(200);
        assert_eq!(read.elements("Permission"), ["FULL_CONTROL", "READ"]);
        let what = uri.split('?').next().unwrap();
        let close = ann("PUT", uri).header("x-amz-acl", "private");
        one.send(close).await.expect(200);
        let refused = other.send(bob("GET", what)).await;
        refused.expect_error(403, "AccessDenied");
        let back = ann("PUT", uri).body(read.body.clone());
        one.send(back).await.expect(200);
        other.send(bob("GET", what)).await.expect(200);
        // What somebody else is granted by name is not to be had, and changes nothing.
        let named = ann("PUT", uri).header("x-amz-grant-read", format!("id={}", owner(BOB)));
        one.send(named).await.expect_error(501, "NotImplemented");
        let both = ann("PUT", uri)
            .header("x-amz-acl", "private")
            .header("x-amz-grant-read", format!("id={}", owner(ANN)));
        one.send(both).await.expect_error(400, "InvalidRequest");
        other.send(bob("GET", what)).await.expect(200);
    }
    let none = ann("PUT", "/anns?acl");
    let none = one.send(none).await;
    assert_eq!(none.element("MissingHeaderName"), Some("x-amz-acl"));
    none.expect_error(400, "MissingSecurityHeader");
}

#[tokio::test]
async fn identities_are_the_root_users_to_give() {
    let (one, other) = cluster().await;
    for (method, uri) in [
        ("GET", "/-/identities"),
        ("POST", "/-/identities"),
        ("DELETE", "/-/identities?access-key=BOB"),
        ("GET", "/-/status"),
        ("POST", "/-/order"),
    ] {
        // Of no stored key anything is known here: only the root user is asked for.
        let refused = one.send(ann(method, uri)).await;
        assert_eq!(refused.status, 403, "{method} {uri}");
    }
    let listed = one.get("/-/identities").await.expect(200);
    let text = String::from_utf8(listed.body.to_vec()).unwrap();
    assert!(text.contains("ANN") && text.contains(&owner(BOB)), "{text}");
    assert!(!text.contains(SECRETS), "{text}");
    let root = Identity {
        access_key: "MORE".to_owned(),
        secret_key: SECRETS.to_owned(),
        owner_id: "owner".to_owned(),
        display_name: String::new(),
    };
    for (field, value) in [("owner_id", "owner"), ("owner_id", "short"), ("other", "x")] {
        let mut identity = serde_json::to_value(&root).unwrap();
        identity["owner_id"] = owner("MORE").into();
        identity[field] = value.into();
        let add = ask("POST", "/-/identities").body(identity.to_string());
        one.send(add).await.expect_error(400, "InvalidRequest");
    }
    let gone = ask("DELETE", "/-/identities?access-key=BOB");
    one.send(gone).await.expect(200);
    let again = ask("DELETE", "/-/identities?access-key=BOB");
    other.send(again).await.expect_error(400, "InvalidRequest");
    let refused = other.send(bob("GET", "/")).await;
    refused.expect_error(403, "InvalidAccessKeyId");
}

#[tokio::test]
async fn uploads_are_of_those_who_began_them() {
    let (one, other) = cluster().await;
    one.send(ann("PUT", "/anns")).await.expect(200);
    let list = ann("PUT", "/anns?acl").header("x-amz-acl", "public-read-write");
    one.send(list).await.expect(200);
    let begin = |ask: Ask| async {
        let begun = one.send(ask).await.expect(200);
        begun.element("UploadId").unwrap().to_owned()
    };
    let anns = begin(ann("POST", "/anns/a?uploads")).await;
    let bobs = begin(bob("POST", "/anns/b?uploads")).await;
    for ask in [ann("GET", "/anns?uploads"), bob("GET", "/anns?uploads")] {
        let listed = other.send(ask).await.expect(200);
        let (ann_id, bob_id) = (owner(ANN), owner(BOB));
        let ids = [&*ann_id, &ann_id, &bob_id, &bob_id];
        assert_eq!(listed.elements("ID"), ids);
        assert_eq!(listed.elements("DisplayName")[2], "display of BOB");
    }
    let part = format!("/anns/b?partNumber=1&uploadId={bobs}");
    let put = other
        .send(bob("PUT", &part).body("bytes"))
        .await
        .expect(200);
    let etag = put.header("etag").to_owned();
    let of = |key: &str, id: &str| format!("/anns/{key}?uploadId={id}");
    one.send(bob("GET", &of("b", &bobs))).await.expect(200);
    for method in ["GET", "DELETE"] {
        let refused = one.send(bob(method, &of("a", &anns))).await;
        refused.expect_error(403, "AccessDenied");
    }
    let again = begin(bob("POST", "/anns/c?uploads")).await;
    other
        .send(bob("DELETE", &of("c", &again)))
        .await
        .expect(204);
    // The object is the bucket owner's, and says nothing of who began it.
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    one.send(bob("POST", &of("b", &bobs)).body(document))
        .await
        .expect(200);
    let head = one.send(ann("HEAD", "/anns/b")).await.expect(200);
    let mut names = head.headers.keys();
    assert!(!names.any(|name| name.as_str().starts_with("x-amz-meta")));
    other.send(ann("DELETE", &of("a", &anns))).await.expect(204);
}
