use super::*;

async fn filled(keys: &[&str]) -> Store {
    let store = Store::with_bucket().await;
    for key in keys {
        store.put(&format!("/bucket/{key}"), "x").await;
    }
    store
}

/// All keys and prefixes, page by page.
async fn pages(store: &Store, query: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut token = None;
    loop {
        let from = token.map(|token| format!("&continuation-token={token}"));
        let uri = format!("/bucket?list-type=2&{query}{}", from.unwrap_or_default());
        let page = store.get(&uri).await.expect(200);
        let mut here = Vec::new();
        for entry in page.elements("Contents") {
            let key = entry.split_once("</Key>").unwrap().0;
            here.push(key.strip_prefix("<Key>").unwrap().to_owned());
        }
        for prefix in page.elements("CommonPrefixes") {
            let prefix = prefix.strip_prefix("<Prefix>").unwrap();
            here.push(prefix.strip_suffix("</Prefix>").unwrap().to_owned());
        }
        assert_eq!(
            page.element("KeyCount"),
            Some(here.len().to_string().as_str())
        );
        here.sort();
        found.extend(here);
        token = page.element("NextContinuationToken").map(str::to_owned);
        assert_eq!(
            page.element("IsTruncated"),
            Some(if token.is_some() { "true" } else { "false" })
        );
        if token.is_none() {
            return found;
        }
    }
}

#[tokio::test]
async fn pages_in_order() {
    let keys = [
        "a", "a/1", "a/2", "a/b/1", "b", "c/1", "c/2", "d", "%C3%A4", "Z",
    ];
    let store = filled(&keys).await;
    let all = ["Z", "a", "a/1", "a/2", "a/b/1", "b", "c/1", "c/2", "d", "ä"];
    for max in [1, 2, 3, 1000] {
        assert_eq!(pages(&store, &format!("max-keys={max}")).await, all);
        let folders = pages(&store, &format!("max-keys={max}&delimiter=%2F")).await;
        assert_eq!(folders, ["Z", "a", "a/", "b", "c/", "d", "ä"]);
        let under = pages(&store, &format!("max-keys={max}&delimiter=%2F&prefix=a%2F")).await;
        assert_eq!(under, ["a/1", "a/2", "a/b/"]);
    }
    assert_eq!(
        pages(&store, "start-after=c").await,
        ["c/1", "c/2", "d", "ä"]
    );
    assert_eq!(
        pages(&store, "start-after=c%2F1&max-keys=1").await,
        ["c/2", "d", "ä"]
    );
    let none = store
        .get("/bucket?list-type=2&max-keys=0")
        .await
        .expect(200);
    assert_eq!(none.element("KeyCount"), Some("0"));
    assert_eq!(none.element("IsTruncated"), Some("false"));
}

#[tokio::test]
async fn first_version() {
    let store = filled(&["a/1", "a/2", "b", "c"]).await;
    let page = store
        .get("/bucket?delimiter=/&max-keys=2")
        .await
        .expect(200);
    assert_eq!(page.element("IsTruncated"), Some("true"));
    assert_eq!(page.element("NextMarker"), Some("b"));
    assert_eq!(page.element("Marker"), Some(""));
    assert_eq!(page.element("CommonPrefixes"), Some("<Prefix>a/</Prefix>"));
    let page = store.get("/bucket?delimiter=/&marker=b").await.expect(200);
    assert_eq!(page.elements("Key"), ["c"]);
    let page = store.get("/bucket?delimiter=/&marker=a/").await.expect(200);
    assert_eq!(page.elements("Key"), ["b", "c"]);
    let page = store.get("/bucket?max-keys=1").await.expect(200);
    assert_eq!(page.element("NextMarker"), None);
    assert_eq!(page.element("ID"), Some("owner"));
}

#[tokio::test]
async fn elements() {
    let store = Store::with_bucket().await;
    store.put("/bucket/a%20b%26%0A", "x").await;
    let page = store.get("/bucket?list-type=2").await.expect(200);
    assert_eq!(page.element("Key"), Some("a b&amp;&#xA;"));
    assert_eq!(
        page.element("LastModified"),
        Some("2013-05-24T00:00:00.000Z")
    );
    assert_eq!(
        page.element("ETag"),
        Some("&quot;9dd4e461268c8034f5c8564e155c67a6&quot;")
    );
    assert_eq!(page.element("Size"), Some("1"));
    assert_eq!(page.element("StorageClass"), Some("STANDARD"));
    assert_eq!(page.element("ChecksumAlgorithm"), Some("CRC64NVME"));
    assert_eq!(page.element("ChecksumType"), Some("FULL_OBJECT"));
    assert_eq!(page.element("Owner"), None);
    assert_eq!(page.element("Name"), Some("bucket"));
    let page = store
        .get("/bucket?list-type=2&fetch-owner=true&encoding-type=url&prefix=a%20")
        .await;
    assert_eq!(page.element("Key"), Some("a%20b%26%0A"));
    assert_eq!(page.element("EncodingType"), Some("url"));
    assert!(page.element("Owner").is_some());
    for wrong in [
        "max-keys=-1",
        "max-keys=a",
        "encoding-type=xml",
        "list-type=2&continuation-token=x",
    ] {
        store
            .get(&format!("/bucket?{wrong}"))
            .await
            .expect_error(400, "InvalidArgument");
    }
}

#[tokio::test]
async fn mass_deletion() {
    let store = filled(&["a", "b", "c", "d"]).await;
    let document = "<Delete><Object><Key>a</Key></Object><Object><Key>none</Key></Object>\
        <Object><Key>b</Key><ETag>\"no\"</ETag></Object>\
        <Object><Key>c</Key><VersionId>1</VersionId></Object>\
        <Object><Key>d</Key><VersionId>null</VersionId><Size>1</Size></Object></Delete>";
    let bare = ask("POST", "/bucket?delete").body(document);
    store.send(bare).await.expect_error(400, "InvalidRequest");
    let delete = |text: &str| ask("POST", "/bucket?delete").with_md5(text);
    let answer = store.send(delete(document)).await.expect(200);
    assert_eq!(
        answer.elements("Deleted"),
        [
            "<Key>a</Key>",
            "<Key>none</Key>",
            "<Key>d</Key><VersionId>null</VersionId>"
        ]
    );
    assert_eq!(
        answer.elements("Code"),
        ["PreconditionFailed", "NoSuchVersion"]
    );
    let quiet = "<Delete><Quiet>true</Quiet><Object><Key>b</Key></Object></Delete>";
    let answer = store.send(delete(quiet)).await.expect(200);
    assert!(answer.elements("Deleted").is_empty());
    assert_eq!(pages(&store, "").await, ["c"]);
    store
        .send(delete("<Delete/>"))
        .await
        .expect_error(400, "MalformedXML");
}
