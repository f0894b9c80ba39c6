//! Buckets as websites.

use super::*;

const SITE: &str = "<WebsiteConfiguration><IndexDocument><Suffix>index.html</Suffix></IndexDocument>\
    <ErrorDocument><Key>error.html</Key></ErrorDocument><RoutingRules>\
    <RoutingRule><Condition><KeyPrefixEquals>old/</KeyPrefixEquals></Condition>\
    <Redirect><ReplaceKeyPrefixWith>new/</ReplaceKeyPrefixWith><HttpRedirectCode>302</HttpRedirectCode></Redirect></RoutingRule>\
    <RoutingRule><Condition><KeyPrefixEquals>gone/</KeyPrefixEquals><HttpErrorCodeReturnedEquals>403</HttpErrorCodeReturnedEquals></Condition>\
    <Redirect><HostName>b.test</HostName><Protocol>https</Protocol><ReplaceKeyWith>why</ReplaceKeyWith></Redirect></RoutingRule>\
    </RoutingRules></WebsiteConfiguration>";

async fn site() -> Store {
    let store = Store::configured(GatewayConfig {
        website_domain: Some("web.test".to_owned()),
        ..GatewayConfig::default()
    });
    store.send(ask("PUT", "/bucket")).await.expect(200);
    let put = ask("PUT", "/bucket?website").body(SITE);
    store.send(put).await.expect(200);
    for (key, body) in [
        ("index.html", "home"),
        ("dir/index.html", "directory"),
        ("error.html", "what?"),
    ] {
        let page = ask("PUT", format!("/bucket/{key}")).header("x-amz-acl", "public-read");
        let page = page.header("content-type", "text/html");
        store.send(page.body(body)).await.expect(200);
    }
    store.put("/bucket/secret", "x").await;
    let moved = ask("PUT", "/bucket/moved")
        .header("x-amz-acl", "public-read")
        .header("x-amz-website-redirect-location", "/dir/");
    store.send(moved).await.expect(200);
    store
}

async fn browse(store: &Store, method: &str, path: &str) -> Answer {
    browse_with(store, method, path, &[]).await
}

async fn browse_with(store: &Store, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "bucket.web.test:9000");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    store.send_raw(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn pages_are_served_to_anybody() {
    let store = site().await;
    let home = browse(&store, "GET", "/").await.expect(200);
    assert_eq!(
        (&home.body[..], home.header("content-type")),
        (&b"home"[..], "text/html")
    );
    let page = browse(&store, "GET", "/dir/").await.expect(200);
    assert_eq!(page.body, "directory");
    let head = browse(&store, "HEAD", "/dir/index.html").await.expect(200);
    assert_eq!(head.header("content-length"), "9");
    for (meant, status) in [("\"no\"", 200), (home.header("etag"), 206)] {
        let headers = [("range", "bytes=0-1"), ("if-range", meant)];
        let page = browse_with(&store, "GET", "/", &headers).await;
        page.expect(status);
    }
    let directory = browse(&store, "GET", "/dir?a=1").await.expect(302);
    assert_eq!(directory.header("location"), "/dir/?a=1");
    let moved = browse(&store, "GET", "/moved").await.expect(301);
    assert_eq!(moved.header("location"), "/dir/");
    let rule = browse(&store, "GET", "/old/a%20b?c=d%20e")
        .await
        .expect(302);
    assert_eq!(
        rule.header("location"),
        "http://bucket.web.test:9000/new/a%20b?c=d%20e"
    );
    let rule = browse(&store, "GET", "/gone/x").await.expect(301);
    assert_eq!(rule.header("location"), "https://b.test/why");
    for path in ["/secret", "/none"] {
        let refused = browse(&store, "GET", path).await.expect(403);
        assert_eq!(refused.body, "what?", "{path}");
        assert_eq!(refused.header("x-amz-error-code"), "AccessDenied");
        assert_eq!(refused.header("x-amz-error-message"), "Access Denied");
        assert_eq!(refused.header("etag"), "");
    }
    // Who may list the bucket is told what is not there.
    let open = ask("PUT", "/bucket?acl").header("x-amz-acl", "public-read");
    store.send(open).await.expect(200);
    let missing = browse(&store, "GET", "/%3Cnone%3E").await.expect(404);
    assert_eq!(missing.body, "what?");
    assert_eq!(missing.header("x-amz-error-code"), "NoSuchKey");
    assert_eq!(missing.header("x-amz-error-detail-key"), "<none>");
    store
        .send(ask("DELETE", "/bucket/error.html"))
        .await
        .expect(204);
    let missing = browse(&store, "GET", "/%3Cnone%3E").await.expect(404);
    let page = String::from_utf8(missing.body.to_vec()).unwrap();
    assert!(page.contains("<li>Key: &lt;none&gt;</li>"), "{page}");
    assert!(page.contains("Retrieve a Custom Error Document"), "{page}");
    assert!(page.contains("<li>Key: error.html</li>"), "{page}");
    let wrong = browse(&store, "PUT", "/index.html").await.expect(405);
    assert_eq!(wrong.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(wrong.header("x-amz-error-code"), "MethodNotAllowed");
    let moved = ask("PUT", "/bucket/error.html")
        .header("x-amz-acl", "public-read")
        .header("x-amz-website-redirect-location", "/sorry");
    store.send(moved).await.expect(200);
    let led = browse(&store, "GET", "/none").await.expect(301);
    assert_eq!(led.header("location"), "/sorry");
    // As an object it says where it leads.
    let object = store.head("/bucket/moved").await.expect(200);
    assert_eq!(object.header("x-amz-website-redirect-location"), "/dir/");
}

#[tokio::test]
async fn a_website_is_set_and_dropped() {
    let store = site().await;
    let shown = store.get("/bucket?website").await.expect(200);
    assert_eq!(shown.element("Suffix"), Some("index.html"));
    let all = "<WebsiteConfiguration><RedirectAllRequestsTo><HostName>a.test</HostName></RedirectAllRequestsTo></WebsiteConfiguration>";
    store
        .send(ask("PUT", "/bucket?website").body(all))
        .await
        .expect(200);
    let elsewhere = browse(&store, "GET", "/a/b?c").await.expect(301);
    assert_eq!(elsewhere.header("location"), "http://a.test/a/b?c");
    store
        .send(ask("DELETE", "/bucket?website"))
        .await
        .expect(204);
    let none = store.get("/bucket?website").await;
    none.expect_error(404, "NoSuchWebsiteConfiguration");
    browse(&store, "GET", "/").await.expect(404);
    let wrong = ask("PUT", "/bucket/k").header("x-amz-website-redirect-location", "elsewhere");
    store
        .send(wrong)
        .await
        .expect_error(400, "InvalidRedirectLocation");
}

/// Scripts of other sites load pages too, if the bucket's rules let them.
#[tokio::test]
async fn pages_are_shared_with_other_origins() {
    let store = site().await;
    let origin = ("origin", "http://a.test");
    let before = browse_with(&store, "GET", "/", &[origin]).await;
    assert_eq!(before.header("access-control-allow-origin"), "");
    let rules = "<CORSConfiguration><CORSRule><AllowedOrigin>http://a.test</AllowedOrigin>\
        <AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>";
    let put = ask("PUT", "/bucket?cors").body(rules);
    store.send(put).await.expect(200);
    for (path, status) in [("/", 200), ("/none", 403)] {
        let page = browse_with(&store, "GET", path, &[origin])
            .await
            .expect(status);
        assert_eq!(page.header("access-control-allow-origin"), "http://a.test");
    }
    let method = ("access-control-request-method", "GET");
    let may = browse_with(&store, "OPTIONS", "/", &[origin, method])
        .await
        .expect(200);
    assert_eq!(may.header("access-control-allow-methods"), "GET");
    let other = ("access-control-request-method", "PUT");
    for (headers, status) in [(&[origin, other][..], 403), (&[method], 400)] {
        browse_with(&store, "OPTIONS", "/", headers)
            .await
            .expect(status);
    }
}
