use super::*;

#[tokio::test]
async fn come_and_go() {
    let store = Store::new();
    store.get("/bucket").await.expect_error(404, "NoSuchBucket");
    let made = store.send(ask("PUT", "/bucket")).await.expect(200);
    assert_eq!(made.header("location"), "/bucket");
    let again = store.send(ask("PUT", "/bucket")).await.expect(200);
    assert_eq!(again.header("location"), "/bucket");
    let other = ask("PUT", "/bucket").header("x-amz-bucket-object-lock-enabled", "true");
    let other = store.send(other).await;
    other.expect_error(409, "BucketAlreadyOwnedByYou");
    let public = ask("PUT", "/bucket").header("x-amz-acl", "public-read");
    store.send(public).await.expect(200);
    let acl = store.get("/bucket?acl").await.expect(200);
    assert_eq!(acl.elements("Permission"), ["FULL_CONTROL", "READ"]);
    store.send(ask("PUT", "/bucket")).await.expect(200);
    let acl = store.get("/bucket?acl").await.expect(200);
    assert_eq!(acl.elements("Permission"), ["FULL_CONTROL"]);
    let head = store.head("/bucket").await.expect(200);
    assert_eq!(head.header("x-amz-bucket-region"), "us-east-1");
    let location = store.get("/bucket?location").await.expect(200);
    assert!(location.body.ends_with(b"<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"></LocationConstraint>"));

    store.put("/bucket/key", "x").await;
    store
        .send(ask("DELETE", "/bucket"))
        .await
        .expect_error(409, "BucketNotEmpty");
    store.put("/bucket/key2", "x").await;
    store.send(ask("DELETE", "/bucket/key")).await.expect(204);
    store.send(ask("DELETE", "/bucket/key2")).await.expect(204);
    let upload = store.send(ask("POST", "/bucket/key?uploads")).await;
    let upload = upload.expect(200).element("UploadId").unwrap().to_owned();
    let part = format!("/bucket/key?uploadId={upload}&partNumber=1");
    store.put(&part, "x").await;
    // Uploads do not keep a bucket.
    store.send(ask("DELETE", "/bucket")).await.expect(204);
    let late = store.send(ask("PUT", part).body("x")).await;
    late.expect_error(404, "NoSuchBucket");
    store.head("/bucket").await.expect(404);
    let put = ask("PUT", "/bucket/key").body("x");
    store.send(put).await.expect_error(404, "NoSuchBucket");
    store.send(ask("PUT", "/bucket")).await.expect(200);
    store.put("/bucket/key", "x").await;
}

#[tokio::test]
async fn locations() {
    let store = Store::new();
    let with = |region: &str| {
        format!(
            "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
        )
    };
    let elsewhere = ask("PUT", "/bucket").body(with("eu-west-1"));
    let elsewhere = store.send(elsewhere).await;
    elsewhere.expect_error(400, "IllegalLocationConstraintException");
    let nowhere = ask("PUT", "/bucket").body(with("aws-global"));
    let nowhere = store.send(nowhere).await;
    nowhere.expect_error(400, "InvalidLocationConstraint");
    store
        .send(ask("PUT", "/bucket").body(with("us-east-1")))
        .await
        .expect(200);
    let broken = ask("PUT", "/bucket2").body("<CreateBucketConfiguration>");
    store.send(broken).await.expect_error(400, "MalformedXML");
}

#[tokio::test]
async fn buckets_are_made_with_tags() {
    let store = Store::new();
    let with = |value: &str| {
        let tags = format!("<Tags><Tag><Key>k</Key><Value>{value}</Value></Tag></Tags>");
        let body = format!("<CreateBucketConfiguration>{tags}</CreateBucketConfiguration>");
        ask("PUT", "/bucket").body(body)
    };
    let refused = store.send(with("v".repeat(257).as_str())).await;
    refused.expect_error(400, "InvalidTag");
    store.head("/bucket").await.expect(404);
    for _ in 0..2 {
        store.send(with("v")).await.expect(200);
    }
    let tags = store.get("/bucket?tagging").await.expect(200);
    assert_eq!(tags.elements("Key"), ["k"]);
    assert_eq!(tags.elements("Value"), ["v"]);
    let other = store.send(with("w")).await;
    other.expect_error(409, "BucketAlreadyOwnedByYou");
    for nothing in ["<Tagging><TagSet/></Tagging>", "<Tagging/>"] {
        let put = ask("PUT", "/bucket?tagging").body(nothing);
        store.send(put).await.expect(204);
        let none = store.get("/bucket?tagging").await;
        none.expect_error(404, "NoSuchTagSet");
    }
}

#[tokio::test]
async fn listing() {
    let store = Store::new();
    for n in 0..12 {
        store
            .send(ask("PUT", format!("/bucket-{n:02}")))
            .await
            .expect(200);
    }
    store.send(ask("PUT", "/other")).await.expect(200);
    let all = store.get("/").await.expect(200);
    assert_eq!(all.elements("Name").len(), 13);
    assert_eq!(all.element("ID"), Some("owner"));
    assert_eq!(
        all.element("CreationDate"),
        Some("2013-05-24T00:00:00.000Z")
    );
    let mut names = Vec::new();
    let mut uri = "/?prefix=bucket-&max-buckets=5".to_owned();
    loop {
        let page = store.get(&uri).await.expect(200);
        names.extend(page.elements("Name").into_iter().map(str::to_owned));
        match page.element("ContinuationToken") {
            Some(token) => {
                uri = format!("/?prefix=bucket-&max-buckets=5&continuation-token={token}");
            }
            None => break,
        }
    }
    let expected: Vec<_> = (0..12).map(|n| format!("bucket-{n:02}")).collect();
    assert_eq!(names, expected);
    store
        .get("/?max-buckets=0")
        .await
        .expect_error(400, "InvalidArgument");
}

/// HeadBucket says where the bucket is, whoever asks.
#[tokio::test]
async fn the_region_is_told_with_a_refusal() {
    let store = Store::with_bucket().await;
    let region = "us-east-1";
    let owner = ask("HEAD", "/bucket").header("x-amz-expected-bucket-owner", "another");
    for (ask, status, told) in [
        (owner, 403, region),
        (ask("HEAD", "/bucket").by("nobody", "x"), 403, region),
        (ask("HEAD", "/bucket").by(ACCESS_KEY, "x"), 403, region),
        (ask("HEAD", "/nobucket"), 404, ""),
        (ask("HEAD", "/nobucket").by(ACCESS_KEY, "x"), 403, ""),
        (ask("GET", "/bucket").by(ACCESS_KEY, "x"), 403, ""),
        (
            ask("HEAD", "/bucket").header("x-amz-content-sha256", "x"),
            400,
            "",
        ),
    ] {
        let shown = format!("{} {} {:?}", ask.method, ask.uri, ask.headers);
        let answer = store.send(ask).await.expect(status);
        assert_eq!(answer.header("x-amz-bucket-region"), told, "{shown}");
    }
    let unsigned = Request::head("/bucket").body(Body::empty()).unwrap();
    let answer = store.send_raw(unsigned).await.expect(403);
    assert_eq!(answer.header("x-amz-bucket-region"), region);
}

/// A bucket answers as one of S3's that has none of what is not supported; setting it is refused.
#[tokio::test]
async fn absent_configurations_are_told() {
    let store = Store::with_bucket().await;
    for (name, code) in [
        (
            "encryption",
            "ServerSideEncryptionConfigurationNotFoundError",
        ),
        ("ownershipControls", "OwnershipControlsNotFoundError"),
        ("policy", "NoSuchBucketPolicy"),
        ("publicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
        ("replication", "ReplicationConfigurationNotFoundError"),
    ] {
        let uri = format!("/bucket?{name}");
        store.get(&uri).await.expect_error(404, code);
        store.send(ask("DELETE", &uri)).await.expect(204);
        if name != "ownershipControls" {
            let put = ask("PUT", &uri).body("<x/>");
            store.send(put).await.expect_error(501, "NotImplemented");
        }
        let missing = store.get(&format!("/missing?{name}")).await;
        missing.expect_error(404, "NoSuchBucket");
    }
    let status = store.get("/bucket?policyStatus").await;
    status.expect_error(404, "NoSuchBucketPolicy");
    for name in ["analytics", "intelligent-tiering", "inventory", "metrics"] {
        let list = store.get(&format!("/bucket?{name}")).await.expect(200);
        assert_eq!(list.element("IsTruncated"), Some("false"));
        let one = store.get(&format!("/bucket?{name}&id=x")).await;
        one.expect_error(404, "NoSuchConfiguration");
    }
    for name in ["accelerate", "logging"] {
        let none = store.get(&format!("/bucket?{name}")).await.expect(200);
        assert_eq!(none.element("Status"), None);
        let delete = ask("DELETE", format!("/bucket?{name}"));
        store
            .send(delete)
            .await
            .expect_error(405, "MethodNotAllowed");
    }
    let abac = store.get("/bucket?abac").await.expect(200);
    assert_eq!(abac.element("Status"), Some("Disabled"));
}

#[tokio::test]
async fn what_is_so_anyway_may_be_set() {
    let store = Store::with_bucket().await;
    let pays = |who: &str| {
        let document = format!(
            "<RequestPaymentConfiguration><Payer>{who}</Payer></RequestPaymentConfiguration>"
        );
        ask("PUT", "/bucket?requestPayment").body(document)
    };
    let owns = |how: &str| {
        let rule = format!("<Rule><ObjectOwnership>{how}</ObjectOwnership></Rule>");
        let document = format!("<OwnershipControls>{rule}</OwnershipControls>");
        ask("PUT", "/bucket?ownershipControls").body(document)
    };
    for (ask, status, code) in [
        (pays("BucketOwner"), 200, ""),
        (pays("Requester"), 501, "NotImplemented"),
        (pays("Nobody"), 400, "MalformedXML"),
        (owns("BucketOwnerEnforced"), 200, ""),
        (owns("BucketOwnerPreferred"), 501, "NotImplemented"),
        (owns("ObjectWriter"), 501, "NotImplemented"),
        (owns("Nobody"), 400, "MalformedXML"),
    ] {
        let shown = ask.body.clone();
        let answer = store.send(ask).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{shown:?}");
    }
    let public = ask("PUT", "/bucket?acl").header("x-amz-acl", "public-read");
    store.send(public).await.expect(200);
    let refused = store.send(owns("BucketOwnerEnforced")).await;
    refused.expect_error(400, "InvalidBucketAclWithObjectOwnership");
    for (owner, list, status, code) in [
        (
            "BucketOwnerEnforced",
            "public-read",
            400,
            "InvalidBucketAclWithObjectOwnership",
        ),
        ("ObjectWriter", "public-read", 501, "NotImplemented"),
        ("Nobody", "private", 400, "InvalidArgument"),
        ("BucketOwnerEnforced", "private", 200, ""),
    ] {
        let create = ask("PUT", "/owned").header("x-amz-object-ownership", owner);
        let answer = store.send(create.header("x-amz-acl", list)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{owner} {list}"
        );
    }
}

/// All buckets are in the region of the cluster, whatever it was called when they were made.
#[tokio::test]
async fn the_region_is_that_of_the_cluster() {
    let store = Store::configured(GatewayConfig {
        region: "eu-west-1".to_owned(),
        ..GatewayConfig::default()
    });
    let directory = &store.gateway.directory;
    let older = directory.create_bucket("older", "owner", "us-east-1");
    older.await.unwrap();
    let here = "<CreateBucketConfiguration><LocationConstraint>eu-west-1</LocationConstraint></CreateBucketConfiguration>";
    let made = ask("PUT", "/newer").in_region("eu-west-1").body(here);
    store.send(made).await.expect(200);
    for name in ["older", "newer"] {
        let ask = |method, uri: String| ask(method, uri).in_region("eu-west-1");
        let location = ask("GET", format!("/{name}?location"));
        let location = store.send(location).await.expect(200);
        let text = String::from_utf8_lossy(&location.body);
        assert!(text.ends_with(">eu-west-1</LocationConstraint>"), "{text}");
        let head = store
            .send(ask("HEAD", format!("/{name}")))
            .await
            .expect(200);
        assert_eq!(head.header("x-amz-bucket-region"), "eu-west-1");
    }
    let list = ask("GET", "/?bucket-region=eu-west-1").in_region("eu-west-1");
    let list = store.send(list).await.expect(200);
    assert_eq!(list.elements("BucketRegion"), ["eu-west-1"; 2]);
    let elsewhere = store.head("/newer").await.expect(400);
    assert_eq!(elsewhere.header("x-amz-bucket-region"), "eu-west-1");
    let elsewhere = store.get("/newer").await;
    let elsewhere = elsewhere.expect_error(400, "AuthorizationHeaderMalformed");
    assert_eq!(elsewhere.element("Region"), Some("eu-west-1"));
}
