//! Rules of lifecycles, and what responses tell of them.

use super::*;

/// The rules, of which the first two expire what is under `a/` after a day and what is tagged after three.
const RULES: &str = "<LifecycleConfiguration>\
    <Rule><ID>short one</ID><Prefix>a/</Prefix><Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule>\
    <Rule><ID>tagged</ID><Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter><Status>Enabled</Status><Expiration><Days>3</Days></Expiration></Rule>\
    <Rule><ID>off</ID><Prefix/><Status>Disabled</Status><Expiration><Days>1</Days></Expiration></Rule>\
    </LifecycleConfiguration>";

#[tokio::test]
async fn rules_are_set_shown_and_dropped() {
    let (one, other) = Store::pair();
    one.send(ask("PUT", "/bucket")).await.expect(200);
    let none = one.get("/bucket?lifecycle").await;
    none.expect_error(404, "NoSuchLifecycleConfiguration");
    let put = ask("PUT", "/bucket?lifecycle").body(RULES);
    one.send(put).await.expect(200);
    let shown = other.get("/bucket?lifecycle").await.expect(200);
    assert_eq!(shown.elements("ID"), ["short one", "tagged", "off"]);
    let broken = ask("PUT", "/bucket?lifecycle").body(RULES.replace("Enabled", "enabled"));
    one.send(broken).await.expect_error(400, "MalformedXML");
    let minimum = "x-amz-transition-default-minimum-object-size";
    let wrong = ask("PUT", "/bucket?lifecycle").body(RULES);
    let wrong = one.send(wrong.header(minimum, "64K")).await;
    wrong.expect_error(400, "InvalidRequest");
    let drop = ask("DELETE", "/bucket?lifecycle");
    other.send(drop).await.expect(204);
    let none = one.get("/bucket?lifecycle").await;
    none.expect_error(404, "NoSuchLifecycleConfiguration");
}

#[tokio::test]
async fn responses_tell_when_an_object_goes() {
    let store = Store::with_bucket().await;
    let put = ask("PUT", "/bucket?lifecycle").body(RULES);
    store.send(put).await.expect(200);
    let stored = store.put("/bucket/a/key", "x").await;
    let day = "expiry-date=\"Sat, 25 May 2013 00:00:00 GMT\", rule-id=\"short%20one\"";
    assert_eq!(stored.header("x-amz-expiration"), day);
    let head = store.head("/bucket/a/key").await;
    assert_eq!(head.header("x-amz-expiration"), day);
    let get = store.get("/bucket/a/key").await;
    assert_eq!(get.header("x-amz-expiration"), day);
    let other = store.put("/bucket/b", "x").await;
    assert_eq!(other.header("x-amz-expiration"), "");
    let tagged = ask("PUT", "/bucket/b").header("x-amz-tagging", "k=v");
    let tagged = store.send(tagged).await.expect(200);
    let days = "expiry-date=\"Mon, 27 May 2013 00:00:00 GMT\", rule-id=\"tagged\"";
    assert_eq!(tagged.header("x-amz-expiration"), days);
    let copy = ask("PUT", "/bucket/c").header("x-amz-copy-source", "bucket/b");
    let copy = store.send(copy).await.expect(200);
    assert_eq!(copy.header("x-amz-expiration"), days);
    store
        .send(ask("DELETE", "/bucket?lifecycle"))
        .await
        .expect(204);
    let head = store.head("/bucket/a/key").await;
    assert_eq!(head.header("x-amz-expiration"), "");
}

#[tokio::test]
async fn responses_tell_when_an_upload_goes() {
    let store = Store::with_bucket().await;
    let rule = |id: &str, prefix: &str, status: &str, days: u8| {
        format!(
            "<Rule><ID>{id}</ID><Prefix>{prefix}</Prefix><Status>{status}</Status><AbortIncompleteMultipartUpload>\
             <DaysAfterInitiation>{days}</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>"
        )
    };
    let rules = [
        rule("late one", "a/", "Enabled", 9),
        rule("the first", "a/b", "Enabled", 2),
        rule("off", "a/", "Disabled", 1),
    ];
    let rules = format!(
        "<LifecycleConfiguration>{}</LifecycleConfiguration>",
        rules.concat()
    );
    store.put("/bucket?lifecycle", rules).await;
    for (key, date, rule) in [
        ("a/b/c", "Sun, 26 May 2013 00:00:00 GMT", "the%20first"),
        ("a/c", "Sun, 02 Jun 2013 00:00:00 GMT", "late%20one"),
        ("b", "", ""),
    ] {
        let begun = ask("POST", format!("/bucket/{key}?uploads"));
        let begun = store.send(begun).await.expect(200);
        let id = begun.element("UploadId").unwrap();
        let parts = store.get(&format!("/bucket/{key}?uploadId={id}")).await;
        for told in [&begun, &parts] {
            assert_eq!(told.header("x-amz-abort-date"), date, "{key}");
            assert_eq!(told.header("x-amz-abort-rule-id"), rule, "{key}");
        }
    }
}

#[tokio::test]
async fn what_goes_after_the_year_9999_is_served_too() {
    let store = Store::with_bucket().await;
    let days = i32::MAX;
    let rule = format!(
        "<LifecycleConfiguration><Rule><ID>never</ID><Prefix/><Status>Enabled</Status><Expiration><Days>{days}</Days></Expiration>\
        <AbortIncompleteMultipartUpload><DaysAfterInitiation>{days}</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>"
    );
    let put = ask("PUT", "/bucket?lifecycle").body(rule);
    store.send(put).await.expect(200);
    let last = "Fri, 31 Dec 9999 23:59:59 GMT";
    let told = format!("expiry-date=\"{last}\", rule-id=\"never\"");
    let stored = store.put("/bucket/key", "x").await;
    assert_eq!(stored.header("x-amz-expiration"), told);
    let get = store.get("/bucket/key").await.expect(200);
    assert_eq!(
        (get.header("x-amz-expiration"), &get.body[..]),
        (&*told, &b"x"[..])
    );
    let begun = store.send(ask("POST", "/bucket/key?uploads")).await;
    assert_eq!(begun.expect(200).header("x-amz-abort-date"), last);
}
