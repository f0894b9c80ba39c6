//! Versions and their locks, as requests see them.

use super::*;

const ENABLED: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
const SUSPENDED: &str =
    "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
const FUTURE: &str = "2030-01-01T00:00:00Z";

impl Store {
    async fn versioned() -> Self {
        let store = Self::with_bucket().await;
        store.put("/bucket?versioning", ENABLED).await;
        store
    }

    async fn locked() -> Self {
        let store = Self::new();
        let create = ask("PUT", "/bucket").header("x-amz-bucket-object-lock-enabled", "true");
        store.send(create).await.expect(200);
        store
    }

    /// Puts an object; gives its version.
    async fn put_version(&self, path: &str, body: &'static str) -> String {
        let put = self.put(path, body).await;
        put.header("x-amz-version-id").to_owned()
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(ask("DELETE", path)).await
    }

    /// All versions: key, version, whether it is the latest.
    async fn versions(&self, query: &str) -> Vec<(String, String, bool)> {
        let list = self
            .get(&format!("/bucket?versions{query}"))
            .await
            .expect(200);
        let text = |name| list.elements(name).into_iter().map(str::to_owned);
        let latest = list.elements("IsLatest");
        let latest = latest.into_iter().map(|latest| latest == "true");
        text("Key")
            .zip(text("VersionId"))
            .zip(latest)
            .map(|((key, version), latest)| (key, version, latest))
            .collect()
    }
}

fn entry(key: &str, version: &str, latest: bool) -> (String, String, bool) {
    (key.to_owned(), version.to_owned(), latest)
}

#[tokio::test]
async fn versioning_is_enabled_and_suspended() {
    let store = Store::with_bucket().await;
    let get = store.get("/bucket?versioning").await.expect(200);
    assert_eq!(get.element("Status"), None);
    for (document, status) in [
        (SUSPENDED, "Suspended"),
        (ENABLED, "Enabled"),
        (ENABLED, "Enabled"),
    ] {
        store.put("/bucket?versioning", document).await;
        let get = store.get("/bucket?versioning").await.expect(200);
        assert_eq!(get.element("Status"), Some(status));
    }
    let wrong = ask("PUT", "/bucket?versioning").body("<VersioningConfiguration/>");
    let code = "IllegalVersioningConfigurationException";
    store.send(wrong).await.expect_error(400, code);
    let mfa = "<VersioningConfiguration><Status>Enabled</Status><MfaDelete>Enabled</MfaDelete></VersioningConfiguration>";
    let mfa = ask("PUT", "/bucket?versioning").body(mfa);
    store.send(mfa).await.expect_error(501, "NotImplemented");
    store
        .get("/none?versioning")
        .await
        .expect_error(404, "NoSuchBucket");
}

#[tokio::test]
async fn every_write_makes_a_version() {
    let store = Store::versioned().await;
    let first = store.put_version("/bucket/key", "one").await;
    let second = store.put_version("/bucket/key", "two").await;
    assert_ne!(first, second);
    let get = store.get("/bucket/key").await.expect(200);
    assert_eq!(
        (&get.body[..], get.header("x-amz-version-id")),
        (&b"two"[..], &second[..])
    );
    let old = store
        .get(&format!("/bucket/key?versionId={first}"))
        .await
        .expect(200);
    assert_eq!(
        (&old.body[..], old.header("x-amz-version-id")),
        (&b"one"[..], &first[..])
    );
    let versions = [entry("key", &second, true), entry("key", &first, false)];
    assert_eq!(store.versions("").await, versions);

    let deleted = store.delete("/bucket/key").await.expect(204);
    assert_eq!(deleted.header("x-amz-delete-marker"), "true");
    let marker = deleted.header("x-amz-version-id").to_owned();
    let gone = store
        .get("/bucket/key")
        .await
        .expect_error(404, "NoSuchKey");
    assert_eq!(gone.header("x-amz-delete-marker"), "true");
    assert_eq!(gone.header("x-amz-version-id"), marker);
    let head = store
        .head(&format!("/bucket/key?versionId={marker}"))
        .await
        .expect(405);
    assert_eq!(head.header("x-amz-delete-marker"), "true");
    let named = store.get(&format!("/bucket/key?versionId={marker}")).await;
    named.expect_error(405, "MethodNotAllowed");
    assert_eq!(store.get("/bucket").await.elements("Key").len(), 0);
    store
        .delete("/bucket")
        .await
        .expect_error(409, "BucketNotEmpty");

    // Without its marker the key is there again, then without its newest version the one before.
    let undeleted = store
        .delete(&format!("/bucket/key?versionId={marker}"))
        .await
        .expect(204);
    assert_eq!(undeleted.header("x-amz-delete-marker"), "true");
    assert_eq!(&store.get("/bucket/key").await.expect(200).body[..], b"two");
    let removed = store
        .delete(&format!("/bucket/key?versionId={second}"))
        .await
        .expect(204);
    assert_eq!(removed.header("x-amz-delete-marker"), "");
    assert_eq!(removed.header("x-amz-version-id"), second);
    assert_eq!(&store.get("/bucket/key").await.expect(200).body[..], b"one");
    let gone = store.get(&format!("/bucket/key?versionId={second}")).await;
    gone.expect_error(404, "NoSuchVersion");
    store
        .delete(&format!("/bucket/key?versionId={first}"))
        .await
        .expect(204);
    store.delete("/bucket").await.expect(204);
}

#[tokio::test]
async fn version_ids_are_checked() {
    let store = Store::with_bucket().await;
    store.put("/bucket/key", "x").await;
    let null = store.get("/bucket/key?versionId=null").await.expect(200);
    assert_eq!(null.header("x-amz-version-id"), "null");
    assert_eq!(
        store.get("/bucket/key").await.header("x-amz-version-id"),
        ""
    );
    for wrong in ["", "abc", "NULL", "0123456789ABCDEF0123456789ABCDEF"] {
        let get = store.get(&format!("/bucket/key?versionId={wrong}")).await;
        get.expect_error(400, "InvalidArgument");
    }
    let unknown = "0123456789abcdef0123456789abcdef";
    let get = store.get(&format!("/bucket/key?versionId={unknown}")).await;
    get.expect_error(404, "NoSuchVersion");
    store
        .delete(&format!("/bucket/key?versionId={unknown}"))
        .await
        .expect(204);
    let put = ask("PUT", "/bucket/key?versionId=null").body("x");
    store.send(put).await.expect_error(400, "InvalidArgument");
    store.delete("/bucket/key?versionId=null").await.expect(204);
    store
        .get("/bucket/key")
        .await
        .expect_error(404, "NoSuchKey");
}

#[tokio::test]
async fn there_is_one_null_version() {
    let store = Store::with_bucket().await;
    store.put("/bucket/key", "before").await;
    let id = async |method| {
        let read = store.send(ask(method, "/bucket/key")).await.expect(200);
        read.header("x-amz-version-id").to_owned()
    };
    assert_eq!((id("GET").await, id("HEAD").await), <_>::default());
    store.put("/bucket?versioning", ENABLED).await;
    let nulls = || ("null".to_owned(), "null".to_owned());
    assert_eq!((id("GET").await, id("HEAD").await), nulls());
    let version = store.put_version("/bucket/key", "versioned").await;
    let null = store.get("/bucket/key?versionId=null").await.expect(200);
    assert_eq!(&null.body[..], b"before");
    store.put("/bucket?versioning", SUSPENDED).await;
    let put = store.put("/bucket/key", "after").await;
    assert_eq!(put.header("x-amz-version-id"), "");
    assert_eq!((id("GET").await, id("HEAD").await), nulls());
    assert_eq!(
        &store.get("/bucket/key?versionId=null").await.body[..],
        b"after"
    );
    let versions = [entry("key", "null", true), entry("key", &version, false)];
    assert_eq!(store.versions("").await, versions);
    let deleted = store.delete("/bucket/key").await.expect(204);
    assert_eq!(deleted.header("x-amz-version-id"), "null");
    assert_eq!(deleted.header("x-amz-delete-marker"), "true");
    assert_eq!(store.versions("").await, versions);
    let marker = store.get("/bucket/key?versionId=null").await;
    marker.expect_error(405, "MethodNotAllowed");
}

#[tokio::test]
async fn versions_are_listed_in_pages() {
    let store = Store::versioned().await;
    let mut expected = Vec::new();
    for key in ["a", "b/1", "b/2", "c"] {
        let one = store.put_version(&format!("/bucket/{key}"), "1").await;
        let marker = store.delete(&format!("/bucket/{key}")).await;
        let marker = marker.header("x-amz-version-id").to_owned();
        let two = store.put_version(&format!("/bucket/{key}"), "2").await;
        expected.extend([entry(key, &two, true), entry(key, &marker, false)]);
        expected.push(entry(key, &one, false));
    }
    assert_eq!(store.versions("").await, expected);
    for max in 1..=expected.len() {
        let mut found = Vec::new();
        let mut query = format!("&max-keys={max}");
        loop {
            let page = store.versions(&query).await;
            assert!(page.len() <= max);
            found.extend(page);
            let list = store.get(&format!("/bucket?versions{query}")).await;
            if list.element("IsTruncated") == Some("false") {
                break;
            }
            let key = list.element("NextKeyMarker").unwrap().replace('/', "%2F");
            let version = list.element("NextVersionIdMarker").unwrap();
            query = format!("&max-keys={max}&key-marker={key}&version-id-marker={version}");
        }
        assert_eq!(found, expected, "{max}");
    }
    let list = store.get("/bucket?versions&delimiter=/").await.expect(200);
    assert_eq!(list.elements("Key"), ["a", "a", "a", "c", "c", "c"]);
    assert!(list.element("CommonPrefixes").unwrap().contains("b/"));
    assert_eq!(list.elements("DisplayName").len(), 6);
    let after = store.versions("&key-marker=b/2&prefix=").await;
    assert_eq!(after, expected[9..]);
    assert_eq!(store.versions("&prefix=b%2F2").await, expected[6..9]);
    let wrong = store.get("/bucket?versions&version-id-marker=null").await;
    wrong.expect_error(400, "InvalidArgument");
    let wrong = store
        .get("/bucket?versions&key-marker=a&version-id-marker=")
        .await;
    wrong.expect_error(400, "InvalidArgument");
}

#[tokio::test]
async fn the_newest_is_known_after_a_marker_that_is_gone() {
    let store = Store::versioned().await;
    let one = store.put_version("/bucket/key", "one").await;
    let two = store.put_version("/bucket/key", "two").await;
    let three = store.put_version("/bucket/key", "three").await;
    let path = format!("/bucket/key?versionId={three}");
    store.delete(&path).await.expect(204);
    let page = format!("&key-marker=key&version-id-marker={three}");
    let versions = [entry("key", &two, true), entry("key", &one, false)];
    assert_eq!(store.versions(&page).await, versions);
}

#[tokio::test]
async fn versions_are_copied_tagged_and_described() {
    let store = Store::versioned().await;
    let first = store.put_version("/bucket/key", "one").await;
    store.put("/bucket/key", "two").await;
    let source = format!("/bucket/key?versionId={first}");
    // An older version is made the newest again.
    let copy = ask("PUT", "/bucket/key").header("x-amz-copy-source", source.clone());
    let copy = store.send(copy).await.expect(200);
    assert_eq!(copy.header("x-amz-copy-source-version-id"), first);
    assert_eq!(copy.header("x-amz-version-id").len(), 32);
    assert_eq!(&store.get("/bucket/key").await.body[..], b"one");

    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>";
    let path = format!("/bucket/key?tagging&versionId={first}");
    let put = store.put(&path, tags).await;
    assert_eq!(put.header("x-amz-version-id"), first);
    assert_eq!(
        store.get(&path).await.expect(200).element("Value"),
        Some("1")
    );
    assert_eq!(
        store.get("/bucket/key?tagging").await.element("Value"),
        None
    );

    let attributes = format!("/bucket/key?attributes&versionId={first}");
    let attributes = ask("GET", attributes).header("x-amz-object-attributes", "ObjectSize");
    let attributes = store.send(attributes).await.expect(200);
    assert_eq!(attributes.header("x-amz-version-id"), first);

    let marker = store.delete("/bucket/key").await;
    let marker = marker.header("x-amz-version-id");
    let copy = ask("PUT", "/bucket/other").header("x-amz-copy-source", "/bucket/key");
    store.send(copy).await.expect_error(404, "NoSuchKey");
    let source = format!("/bucket/key?versionId={marker}");
    let copy = ask("PUT", "/bucket/other").header("x-amz-copy-source", source);
    store.send(copy).await.expect_error(400, "InvalidRequest");
    let put = ask("PUT", format!("/bucket/key?tagging&versionId={marker}")).body(tags);
    let put = store.send(put).await;
    let newest = store
        .send(ask("PUT", "/bucket/key?tagging").body(tags))
        .await;
    for (refused, method) in [
        (put, "PUT"),
        (newest, "PUT"),
        (store.delete("/bucket/key?tagging").await, "DELETE"),
        (store.get("/bucket/key?tagging").await, "GET"),
    ] {
        let refused = refused.expect_error(405, "MethodNotAllowed");
        assert_eq!(refused.element("Method"), Some(method));
        assert_eq!(refused.element("ResourceType"), Some("DeleteMarker"));
        assert_eq!(refused.header("allow"), "DELETE");
    }
}

#[tokio::test]
async fn versions_are_deleted_by_the_thousand() {
    let store = Store::versioned().await;
    let one = store.put_version("/bucket/key", "one").await;
    let two = store.put_version("/bucket/key", "two").await;
    let delete = |document: String| {
        let md5 = {
            use base64::Engine as _;
            let digest = hex::decode(md5_hex(document.as_bytes())).unwrap();
            base64::engine::general_purpose::STANDARD.encode(digest)
        };
        store.send(
            ask("POST", "/bucket?delete")
                .header("content-md5", md5)
                .body(document),
        )
    };
    let answer = delete(format!(
        "<Delete><Object><Key>key</Key></Object><Object><Key>key</Key><VersionId>{one}</VersionId></Object><Object><Key>key</Key><VersionId>x</VersionId></Object></Delete>"
    ))
    .await
    .expect(200);
    assert_eq!(answer.elements("Deleted").len(), 2);
    assert_eq!(answer.elements("DeleteMarker"), ["true"]);
    let marker = answer.element("DeleteMarkerVersionId").unwrap().to_owned();
    assert_eq!(answer.elements("Code"), ["NoSuchVersion"]);
    let versions = [entry("key", &marker, true), entry("key", &two, false)];
    assert_eq!(store.versions("").await, versions);
    let answer = delete(format!(
        "<Delete><Object><Key>key</Key><VersionId>{marker}</VersionId></Object><Object><Key>key</Key><VersionId>{two}</VersionId></Object></Delete>"
    ));
    assert_eq!(answer.await.expect(200).elements("Deleted").len(), 2);
    store.delete("/bucket").await.expect(204);
}

#[tokio::test]
async fn conditions_are_about_the_newest_version() {
    let store = Store::versioned().await;
    let put = |name: &str, value: &str| {
        let put = ask("PUT", "/bucket/key").header(name, value).body("x");
        store.send(put)
    };
    put("if-none-match", "*").await.expect(200);
    put("if-none-match", "*")
        .await
        .expect_error(412, "PreconditionFailed");
    let etag = store.head("/bucket/key").await.header("etag").to_owned();
    put("if-match", &etag).await.expect(200);
    let delete = |value: &str| store.send(ask("DELETE", "/bucket/key").header("if-match", value));
    delete("\"0\"")
        .await
        .expect_error(412, "PreconditionFailed");
    delete(&etag).await.expect(204);
    // What is there now is a delete marker.
    put("if-match", &etag).await.expect_error(404, "NoSuchKey");
    delete(&etag).await.expect_error(412, "PreconditionFailed");
    delete("*").await.expect(204);
    put("if-none-match", "*").await.expect(200);
}

#[tokio::test]
async fn uploads_become_versions() {
    let store = Store::versioned().await;
    let version = store.put_version("/bucket/key", "old").await;
    let upload = store
        .send(ask("POST", "/bucket/key?uploads"))
        .await
        .expect(200);
    let id = upload.element("UploadId").unwrap().to_owned();
    let part = format!("/bucket/key?uploadId={id}&partNumber=1");
    let part = store.put(&part, "part").await;
    let etag = part.header("etag");
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    );
    let complete = || ask("POST", format!("/bucket/key?uploadId={id}")).body(document.clone());
    let done = store.send(complete()).await.expect(200);
    let new = done.header("x-amz-version-id").to_owned();
    let versions = [entry("key", &new, true), entry("key", &version, false)];
    assert_eq!(store.versions("").await, versions);
    // What the parts are is known of an older version too.
    let newest = store.put_version("/bucket/key", "newest").await;
    let old = store
        .get(&format!("/bucket/key?versionId={new}"))
        .await
        .expect(200);
    assert_eq!(&old.body[..], b"part");
    let again = store.send(complete()).await.expect(200);
    assert_eq!(again.header("x-amz-version-id"), new);
    store
        .delete(&format!("/bucket/key?versionId={newest}"))
        .await
        .expect(204);
    assert_eq!(&store.get("/bucket/key").await.body[..], b"part");
}

#[tokio::test]
async fn object_lock_is_configured() {
    let store = Store::locked().await;
    let get = store.get("/bucket?versioning").await.expect(200);
    assert_eq!(get.element("Status"), Some("Enabled"));
    let suspend = ask("PUT", "/bucket?versioning").body(SUSPENDED);
    store
        .send(suspend)
        .await
        .expect_error(409, "InvalidBucketState");
    let get = store.get("/bucket?object-lock").await.expect(200);
    assert_eq!(
        (get.element("ObjectLockEnabled"), get.element("Rule")),
        (Some("Enabled"), None)
    );
    let rule = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>2</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    store.put("/bucket?object-lock", rule).await;
    let get = store.get("/bucket?object-lock").await.expect(200);
    assert_eq!(
        (get.element("Mode"), get.element("Days")),
        (Some("GOVERNANCE"), Some("2"))
    );
    store.put("/bucket/key", "x").await;
    let head = store.head("/bucket/key").await.expect(200);
    assert_eq!(head.header("x-amz-object-lock-mode"), "GOVERNANCE");
    let until = head.header("x-amz-object-lock-retain-until-date");
    assert_eq!(until, "2013-05-26T00:00:00Z");

    store.send(ask("PUT", "/plain")).await.expect(200);
    let none = store.get("/plain?object-lock").await;
    none.expect_error(404, "ObjectLockConfigurationNotFoundError");
    let late = || ask("PUT", "/plain?object-lock").body(rule);
    store
        .send(late())
        .await
        .expect_error(409, "InvalidBucketState");
    store.put("/plain?versioning", ENABLED).await;
    store.send(late()).await.expect(200);
    let none = ask("PUT", "/bucket/other").header("x-amz-object-lock-mode", "GOVERNANCE");
    store.send(none).await.expect_error(400, "InvalidArgument");
}

#[tokio::test]
async fn locked_versions_stay() {
    let store = Store::locked().await;
    let put = ask("PUT", "/bucket/key")
        .header("x-amz-object-lock-mode", "GOVERNANCE")
        .header("x-amz-object-lock-retain-until-date", FUTURE)
        .header("x-amz-object-lock-legal-hold", "ON")
        .body("x");
    let put = store.send(put).await.expect(200);
    let version = put.header("x-amz-version-id").to_owned();
    let path = format!("/bucket/key?versionId={version}");
    let bypassing = |path: &str| {
        let delete = ask("DELETE", path);
        store.send(delete.header("x-amz-bypass-governance-retention", "true"))
    };
    bypassing(&path).await.expect_error(403, "AccessDenied");
    let hold = store.get("/bucket/key?legal-hold").await.expect(200);
    assert_eq!(hold.element("Status"), Some("ON"));
    store
        .put(
            "/bucket/key?legal-hold",
            "<LegalHold><Status>OFF</Status></LegalHold>",
        )
        .await;
    store.delete(&path).await.expect_error(403, "AccessDenied");

    // A delete marker hides it and goes again.
    let marker = store.delete("/bucket/key").await.expect(204);
    let marker = marker.header("x-amz-version-id").to_owned();
    store
        .delete(&format!("/bucket/key?versionId={marker}"))
        .await
        .expect(204);
    store.delete(&path).await.expect_error(403, "AccessDenied");
    let retention = store.get("/bucket/key?retention").await.expect(200);
    assert_eq!(retention.element("RetainUntilDate"), Some(FUTURE));

    let compliance = "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate></Retention>";
    let stricter = || ask("PUT", "/bucket/key?retention").body(compliance);
    store
        .send(stricter())
        .await
        .expect_error(403, "AccessDenied");
    let past = compliance.replace("2030", "2003");
    let past = ask("PUT", "/bucket/key?retention").body(past);
    store.send(past).await.expect_error(400, "InvalidArgument");
    let strictest = stricter().header("x-amz-bypass-governance-retention", "true");
    store.send(strictest).await.expect(200);
    bypassing(&path).await.expect_error(403, "AccessDenied");

    let other = store.put_version("/bucket/other", "y").await;
    let none = store.get("/bucket/other?retention").await;
    none.expect_error(404, "NoSuchObjectLockConfiguration");
    store
        .delete(&format!("/bucket/other?versionId={other}"))
        .await
        .expect(204);
    store.send(ask("PUT", "/plain")).await.expect(200);
    store.put("/plain/key", "x").await;
    let put = ask("PUT", "/plain/key?retention").body(compliance);
    store.send(put).await.expect_error(400, "InvalidRequest");
    let put = ask("PUT", "/plain/key").header("x-amz-object-lock-legal-hold", "ON");
    store.send(put).await.expect_error(400, "InvalidRequest");
    let get = store.get("/plain/key?legal-hold").await;
    get.expect_error(400, "InvalidRequest");
}

#[tokio::test]
async fn other_gateways_obey_at_once() {
    let (one, other) = Store::pair();
    one.send(ask("PUT", "/bucket")).await.expect(200);
    other.put("/bucket/key", "before").await;
    one.put("/bucket?versioning", ENABLED).await;
    let version = other.put_version("/bucket/key", "after").await;
    assert_eq!(version.len(), 32);
    let get = other.get("/bucket?versioning").await.expect(200);
    assert_eq!(get.element("Status"), Some("Enabled"));
    assert_eq!(one.versions("").await.len(), 2);
    other.delete("/bucket/key").await.expect(204);
    assert_eq!(
        one.get("/bucket/key").await.header("x-amz-delete-marker"),
        "true"
    );
}
