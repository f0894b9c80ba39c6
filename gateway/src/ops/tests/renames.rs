use super::*;

fn rename(from: &str, to: &str) -> Ask {
    ask("PUT", format!("/bucket/{to}?renameObject")).header("x-amz-rename-source", from)
}

#[tokio::test]
async fn an_object_gets_another_key() {
    let store = Store::with_bucket().await;
    // Inline, in chunks, and appended to; to several keys, so to several groups.
    for (number, len) in [10, 50_000, 3_000_000].into_iter().enumerate() {
        let mut data = pattern(len, number as u8).to_vec();
        let put = ask("PUT", "/bucket/a%20b").body(data.clone());
        let put = put.header("x-amz-meta-a", "1");
        store
            .send(put.header("x-amz-tagging", "t=1"))
            .await
            .expect(200);
        let append = ask("PUT", "/bucket/a%20b").body("tail");
        let append = append.header("x-amz-write-offset-bytes", len.to_string());
        store.send(append).await.expect(200);
        data.extend_from_slice(b"tail");
        let before = store.head("/bucket/a%20b").await.expect(200);
        let mut at = "a%20b".to_owned();
        for (step, named) in ["", "/", "bucket/", "/bucket/"].into_iter().enumerate() {
            let to = format!("to/{number}/{step}");
            let moved = store.send(rename(&format!("{named}{at}"), &to)).await;
            moved.expect(200);
            store
                .get(&format!("/bucket/{at}"))
                .await
                .expect_error(404, "NoSuchKey");
            at = to;
        }
        let got = store.get(&format!("/bucket/{at}")).await.expect(200);
        assert_eq!(got.body, data);
        for name in [
            "etag",
            "last-modified",
            "x-amz-meta-a",
            "x-amz-tagging-count",
        ] {
            assert_eq!(got.header(name), before.header(name), "{name}");
        }
        let range = ask("GET", format!("/bucket/{at}")).header("range", "bytes=-6");
        let tail = store.send(range).await.expect(206);
        assert_eq!(tail.body, data[data.len() - 6..]);
        let listed = store.get("/bucket?list-type=2").await.expect(200);
        assert_eq!(listed.elements("Key").last(), Some(&at.as_str()));
        assert_eq!(listed.elements("Key").len(), number + 1);
    }
}

#[tokio::test]
async fn requests_that_cannot_be() {
    let store = Store::with_bucket().await;
    store.put("/bucket/a", "a").await;
    for (from, to, status, code) in [
        ("missing", "b", 404, "NoSuchKey"),
        ("a", "a", 400, "InvalidRequest"),
        ("a", "b/", 400, "InvalidRequest"),
        ("b/", "b", 400, "InvalidRequest"),
        ("", "b", 400, "InvalidArgument"),
        ("%zz", "b", 400, "InvalidArgument"),
    ] {
        store
            .send(rename(from, to))
            .await
            .expect_error(status, code);
    }
    let token = rename("a", "b").header("x-amz-client-token", "x".repeat(65));
    store.send(token).await.expect_error(400, "InvalidArgument");
    let elsewhere = ask("PUT", "/bucket/b").header("x-amz-rename-source", "a");
    store
        .send(elsewhere)
        .await
        .expect_error(501, "NotImplemented");
    assert_eq!(store.get("/bucket/a").await.expect(200).body, "a");
    let document = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let versioned = ask("PUT", "/bucket?versioning").body(document);
    store.send(versioned).await.expect(200);
    store
        .send(rename("a", "b"))
        .await
        .expect_error(501, "NotImplemented");
}

#[tokio::test]
async fn conditions_and_tokens() {
    let store = Store::with_bucket().await;
    let etag = store.put("/bucket/a", "a").await.header("etag").to_owned();
    store.put("/bucket/b", "b").await;
    for (name, value) in [
        ("if-none-match", "*"),
        ("if-match", etag.as_str()),
        ("x-amz-rename-source-if-match", "\"other\""),
        ("x-amz-rename-source-if-none-match", "*"),
        ("x-amz-rename-source-if-none-match", etag.as_str()),
        (
            "x-amz-rename-source-if-modified-since",
            "Fri, 24 May 2013 00:00:00 GMT",
        ),
        ("if-unmodified-since", "Thu, 23 May 2013 00:00:00 GMT"),
    ] {
        let refused = store.send(rename("a", "b").header(name, value)).await;
        refused.expect_error(412, "PreconditionFailed");
    }
    let good = || {
        rename("a", "b")
            .header("x-amz-rename-source-if-match", &etag)
            .header("x-amz-client-token", "token")
    };
    store.send(good()).await.expect(200);
    // Sent again it has been done, with other parameters it is refused.
    store.send(good()).await.expect(200);
    let other = good().header("if-none-match", "*");
    store
        .send(other)
        .await
        .expect_error(400, "IdempotencyParameterMismatch");
    let other = rename("a", "c").header("x-amz-client-token", "token");
    store
        .send(other)
        .await
        .expect_error(400, "IdempotencyParameterMismatch");
    assert_eq!(store.get("/bucket/b").await.expect(200).body, "a");
}
