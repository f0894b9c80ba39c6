//! The AWS SDK for Rust against a started server.

use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketLocationConstraint, ChecksumAlgorithm, ChecksumMode, ChecksumType,
    CompletedMultipartUpload, CompletedPart, CreateBucketConfiguration, Delete, MetadataDirective,
    ObjectAttributes, ObjectIdentifier,
};
use aws_smithy_http_client::Builder;
use holdfast_s3_tests::{Client as Raw, Connection, Content, Keys, Scratch, Server, ServerOptions};

type Client = aws_sdk_s3::Client;

/// A server of its own for each test, and the SDK as a user would set it up.
struct Bench {
    server: Server,
    client: Client,
    _scratch: Scratch,
}

impl Bench {
    async fn start(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let server = Server::start(&ServerOptions::new(scratch.join("data")));
        let keys = server.keys();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(Credentials::new(
                &keys.access,
                &keys.secret,
                None,
                None,
                "test",
            ))
            .region(Region::new("us-east-1"))
            .endpoint_url(server.endpoint())
            .force_path_style(true)
            .http_client(Builder::new().build_http())
            .build();
        let client = Client::from_conf(config);
        client
            .create_bucket()
            .bucket("bucket")
            .send()
            .await
            .expect("CreateBucket");
        Self {
            server,
            client,
            _scratch: scratch,
        }
    }

    async fn put(&self, key: &str, body: &'static [u8]) -> String {
        let put = self
            .client
            .put_object()
            .bucket("bucket")
            .key(key)
            .body(ByteStream::from_static(body));
        put.send().await.expect("PutObject").e_tag.expect("an ETag")
    }

    async fn body(&self, key: &str) -> Vec<u8> {
        let got = self
            .client
            .get_object()
            .bucket("bucket")
            .key(key)
            .send()
            .await
            .expect("GetObject");
        got.body.collect().await.expect("body").to_vec()
    }
}

/// The S3 code of a failed call.
fn code<T, E: ProvideErrorMetadata + std::fmt::Debug, R: std::fmt::Debug>(
    result: Result<T, aws_sdk_s3::error::SdkError<E, R>>,
) -> String {
    match result {
        Ok(_) => "success".to_owned(),
        Err(error) => error
            .code()
            .map(str::to_owned)
            .unwrap_or_else(|| format!("{error:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets() {
    let bench = Bench::start("sdk-buckets").await;
    let client = &bench.client;
    for name in ["alpha", "beta", "gamma"] {
        client
            .create_bucket()
            .bucket(name)
            .send()
            .await
            .expect("CreateBucket");
    }
    let again = client.create_bucket().bucket("alpha").send().await;
    again.expect("CreateBucket of one's own, in us-east-1");
    let names = |page: aws_sdk_s3::operation::list_buckets::ListBucketsOutput| -> Vec<String> {
        page.buckets()
            .iter()
            .filter_map(|bucket| bucket.name().map(str::to_owned))
            .collect()
    };
    let all = client.list_buckets().send().await.expect("ListBuckets");
    assert!(
        all.buckets()
            .iter()
            .all(|bucket| bucket.creation_date().is_some())
    );
    assert_eq!(names(all), ["alpha", "beta", "bucket", "gamma"]);
    let first = client
        .list_buckets()
        .max_buckets(2)
        .prefix("b")
        .send()
        .await
        .expect("ListBuckets");
    assert_eq!(names(first), ["beta", "bucket"]);
    let first = client
        .list_buckets()
        .max_buckets(3)
        .send()
        .await
        .expect("ListBuckets");
    let token = first.continuation_token().expect("more").to_owned();
    assert_eq!(names(first), ["alpha", "beta", "bucket"]);
    let second = client
        .list_buckets()
        .max_buckets(3)
        .continuation_token(token)
        .send()
        .await
        .expect("ListBuckets");
    assert_eq!(names(second), ["gamma"]);

    client
        .head_bucket()
        .bucket("alpha")
        .send()
        .await
        .expect("HeadBucket");
    let missing = client
        .head_bucket()
        .bucket("missing")
        .send()
        .await
        .expect_err("no such bucket");
    assert!(missing.into_service_error().is_not_found());
    let location = client
        .get_bucket_location()
        .bucket("alpha")
        .send()
        .await
        .expect("GetBucketLocation");
    // us-east-1 is written as nothing at all.
    assert!(
        location.location_constraint().is_none_or(
            |l| l.as_str().is_empty() || *l == BucketLocationConstraint::from("us-east-1")
        )
    );
    let elsewhere = CreateBucketConfiguration::builder()
        .location_constraint(BucketLocationConstraint::EuWest1)
        .build();
    let refused = code(
        client
            .create_bucket()
            .bucket("elsewhere")
            .create_bucket_configuration(elsewhere)
            .send()
            .await,
    );
    assert!(
        [
            "InvalidLocationConstraint",
            "IllegalLocationConstraintException"
        ]
        .contains(&refused.as_str()),
        "{refused}"
    );

    bench.put("x", b"x").await;
    assert_eq!(
        code(client.delete_bucket().bucket("bucket").send().await),
        "BucketNotEmpty"
    );
    client
        .delete_object()
        .bucket("bucket")
        .key("x")
        .send()
        .await
        .expect("DeleteObject");
    client
        .delete_bucket()
        .bucket("bucket")
        .send()
        .await
        .expect("DeleteBucket");
    assert_eq!(
        code(client.delete_bucket().bucket("bucket").send().await),
        "NoSuchBucket"
    );
    client
        .create_bucket()
        .bucket("bucket")
        .send()
        .await
        .expect("a name can be taken again");
    let page = client
        .list_objects_v2()
        .bucket("bucket")
        .send()
        .await
        .expect("ListObjectsV2");
    assert_eq!(page.key_count(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_with_all_that_belongs_to_them() {
    let bench = Bench::start("sdk-objects").await;
    let client = &bench.client;
    let body = Content::new(1, 100_000).bytes();
    let put = client
        .put_object()
        .bucket("bucket")
        .key("dir/ä b+c.txt")
        .body(ByteStream::from(body.clone()))
        .content_type("text/plain; charset=utf-8")
        .cache_control("max-age=60")
        .content_disposition("attachment; filename=\"x\"")
        .content_encoding("identity")
        .content_language("de")
        .metadata("color", "blue")
        .metadata("shape", "round thing")
        .tagging("a=1&b=x%20y")
        .send()
        .await
        .expect("PutObject");
    let etag = put.e_tag().expect("ETag").to_owned();
    assert!(
        put.checksum_crc32().is_some(),
        "the SDK sends CRC32 by default, and gets it back"
    );

    let head = client
        .head_object()
        .bucket("bucket")
        .key("dir/ä b+c.txt")
        .send()
        .await
        .expect("HeadObject");
    assert_eq!(head.content_length(), Some(100_000));
    assert_eq!(head.e_tag(), Some(etag.as_str()));
    assert_eq!(head.content_type(), Some("text/plain; charset=utf-8"));
    assert_eq!(head.cache_control(), Some("max-age=60"));
    assert_eq!(
        head.content_disposition(),
        Some("attachment; filename=\"x\"")
    );
    assert_eq!(head.content_language(), Some("de"));
    let metadata = head.metadata().expect("metadata");
    assert_eq!(metadata.get("color").map(String::as_str), Some("blue"));
    assert_eq!(
        metadata.get("shape").map(String::as_str),
        Some("round thing")
    );
    assert!(head.last_modified().is_some());

    let got = client
        .get_object()
        .bucket("bucket")
        .key("dir/ä b+c.txt")
        .send()
        .await
        .expect("GetObject");
    assert_eq!(got.tag_count(), Some(2));
    assert_eq!(got.body.collect().await.expect("body").to_vec(), body);
    let tags = client
        .get_object_tagging()
        .bucket("bucket")
        .key("dir/ä b+c.txt")
        .send()
        .await
        .expect("tags");
    let tags: Vec<_> = tags
        .tag_set()
        .iter()
        .map(|tag| (tag.key(), tag.value()))
        .collect();
    assert_eq!(tags, [("a", "1"), ("b", "x y")]);

    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=99990-", 99_990, 100_000),
        ("bytes=-7", 99_993, 100_000),
        ("bytes=5-200000", 5, 100_000),
    ] {
        let got = client
            .get_object()
            .bucket("bucket")
            .key("dir/ä b+c.txt")
            .range(range)
            .send()
            .await
            .expect(range);
        assert_eq!(
            got.content_range(),
            Some(format!("bytes {from}-{}/100000", to - 1).as_str())
        );
        assert_eq!(
            got.body.collect().await.expect("body").to_vec(),
            body[from..to],
            "{range}"
        );
    }
    let beyond = client
        .get_object()
        .bucket("bucket")
        .key("dir/ä b+c.txt")
        .range("bytes=100000-")
        .send()
        .await;
    assert_eq!(code(beyond), "InvalidRange");

    let overridden = client
        .get_object()
        .bucket("bucket")
        .key("dir/ä b+c.txt")
        .response_content_type("application/x-y")
        .response_cache_control("no-cache")
        .send()
        .await
        .expect("GetObject");
    assert_eq!(overridden.content_type(), Some("application/x-y"));
    assert_eq!(overridden.cache_control(), Some("no-cache"));

    let attributes = client
        .get_object_attributes()
        .bucket("bucket")
        .key("dir/ä b+c.txt")
        .object_attributes(ObjectAttributes::Etag)
        .object_attributes(ObjectAttributes::ObjectSize)
        .object_attributes(ObjectAttributes::Checksum)
        .object_attributes(ObjectAttributes::StorageClass)
        .send()
        .await
        .expect("GetObjectAttributes");
    assert_eq!(attributes.object_size(), Some(100_000));
    assert_eq!(attributes.e_tag(), Some(etag.trim_matches('"')));
    assert_eq!(
        attributes.checksum().and_then(|sum| sum.checksum_crc32()),
        put.checksum_crc32()
    );

    let missing = client
        .get_object()
        .bucket("bucket")
        .key("nothing")
        .send()
        .await
        .expect_err("no such key");
    assert!(missing.into_service_error().is_no_such_key());
    let missing = client
        .head_object()
        .bucket("bucket")
        .key("nothing")
        .send()
        .await
        .expect_err("no such key");
    assert!(missing.into_service_error().is_not_found());
    client
        .delete_object()
        .bucket("bucket")
        .key("nothing")
        .send()
        .await
        .expect("deleting nothing succeeds");

    bench.put("empty", b"").await;
    assert_eq!(bench.body("empty").await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions() {
    let bench = Bench::start("sdk-conditions").await;
    let client = &bench.client;
    let first = bench.put("key", b"one").await;
    let put = |body: &'static [u8]| {
        client
            .put_object()
            .bucket("bucket")
            .key("key")
            .body(ByteStream::from_static(body))
    };
    let get = || client.get_object().bucket("bucket").key("key");
    assert_eq!(
        code(put(b"two").if_none_match("*").send().await),
        "PreconditionFailed"
    );
    assert_eq!(
        code(put(b"two").if_match("\"00\"").send().await),
        "PreconditionFailed"
    );
    assert_eq!(bench.body("key").await, b"one");
    let second = put(b"two")
        .if_match(&first)
        .send()
        .await
        .expect("If-Match")
        .e_tag
        .expect("ETag");
    assert_eq!(bench.body("key").await, b"two");
    assert_ne!(first, second);

    get().if_match(&second).send().await.expect("If-Match");
    assert_eq!(
        code(get().if_match(&first).send().await),
        "PreconditionFailed"
    );
    get()
        .if_none_match(&first)
        .send()
        .await
        .expect("If-None-Match");
    let unchanged = get()
        .if_none_match(&second)
        .send()
        .await
        .expect_err("not modified");
    assert_eq!(
        unchanged.raw_response().map(|raw| raw.status().as_u16()),
        Some(304)
    );
    let modified = client
        .head_object()
        .bucket("bucket")
        .key("key")
        .send()
        .await
        .expect("Head")
        .last_modified
        .expect("date");
    let unchanged = get()
        .if_modified_since(modified)
        .send()
        .await
        .expect_err("not modified");
    assert_eq!(
        unchanged.raw_response().map(|raw| raw.status().as_u16()),
        Some(304)
    );
    get()
        .if_unmodified_since(modified)
        .send()
        .await
        .expect("unmodified since");
    let before = aws_sdk_s3::primitives::DateTime::from_secs(modified.secs() - 1000);
    assert_eq!(
        code(get().if_unmodified_since(before).send().await),
        "PreconditionFailed"
    );
    get()
        .if_modified_since(before)
        .send()
        .await
        .expect("modified since");

    let fresh = client
        .put_object()
        .bucket("bucket")
        .key("fresh")
        .if_none_match("*")
        .body(ByteStream::from_static(b"x"));
    fresh.send().await.expect("If-None-Match: * of a new key");
    assert_eq!(
        code(
            client
                .delete_object()
                .bucket("bucket")
                .key("key")
                .if_match(&first)
                .send()
                .await
        ),
        "PreconditionFailed"
    );
    assert_eq!(bench.body("key").await, b"two");
    client
        .delete_object()
        .bucket("bucket")
        .key("key")
        .if_match(&second)
        .send()
        .await
        .expect("DELETE with If-Match");
    assert_eq!(code(get().send().await), "NoSuchKey");
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_of_every_kind() {
    let bench = Bench::start("sdk-checksums").await;
    let client = &bench.client;
    let body = Content::new(4, 70_000).bytes();
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
        let key = format!("key-{algorithm}");
        let put = client
            .put_object()
            .bucket("bucket")
            .key(&key)
            .checksum_algorithm(algorithm.clone());
        put.body(ByteStream::from(body.clone()))
            .send()
            .await
            .expect("PutObject");
        let got = client
            .get_object()
            .bucket("bucket")
            .key(&key)
            .checksum_mode(ChecksumMode::Enabled);
        // The SDK verifies what it reads against the checksum that comes with it.
        let got = got.send().await.expect("GetObject");
        assert_eq!(got.checksum_type(), Some(&ChecksumType::FullObject));
        let present = [
            got.checksum_crc32(),
            got.checksum_crc32_c(),
            got.checksum_crc64_nvme(),
            got.checksum_sha1(),
            got.checksum_sha256(),
        ];
        assert_eq!(present.iter().flatten().count(), 1, "{algorithm}");
        assert_eq!(got.body.collect().await.expect("body").to_vec(), body);
    }
    // No checksum sent: CRC64NVME is added.
    let mut raw = bench.server.client();
    assert!(
        raw.put("bucket", "plain", Content::new(4, 70_000))
            .expect("PUT")
            .is_success()
    );
    let head = client
        .head_object()
        .bucket("bucket")
        .key("plain")
        .checksum_mode(ChecksumMode::Enabled);
    let head = head.send().await.expect("HeadObject");
    let expected = holdfast_s3_tests::chunked::crc64nvme(&body);
    assert_eq!(head.checksum_crc64_nvme(), Some(expected.as_str()));
}

/// Uploads `content` in parts; returns the ETag and the response of Complete.
async fn upload(
    client: &Client,
    key: &str,
    content: Content,
    part_size: u64,
    algorithm: Option<(ChecksumAlgorithm, ChecksumType)>,
) -> aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadOutput {
    let mut create = client
        .create_multipart_upload()
        .bucket("bucket")
        .key(key)
        .metadata("a", "b")
        .content_type("x/y");
    if let Some((algorithm, kind)) = &algorithm {
        create = create
            .checksum_algorithm(algorithm.clone())
            .checksum_type(kind.clone());
    }
    let id = create
        .send()
        .await
        .expect("CreateMultipartUpload")
        .upload_id
        .expect("an upload id");
    let mut parts = Vec::new();
    let mut offset = 0;
    for number in 1.. {
        let len = part_size.min(content.len - offset);
        if len == 0 {
            break;
        }
        let mut bytes = vec![0; len as usize];
        content.fill(offset, &mut bytes);
        let mut part = client
            .upload_part()
            .bucket("bucket")
            .key(key)
            .upload_id(&id)
            .part_number(number);
        if let Some((algorithm, _)) = &algorithm {
            part = part.checksum_algorithm(algorithm.clone());
        }
        let sent = part
            .body(ByteStream::from(bytes))
            .send()
            .await
            .expect("UploadPart");
        parts.push(
            CompletedPart::builder()
                .part_number(number)
                .set_e_tag(sent.e_tag)
                .set_checksum_crc32(sent.checksum_crc32)
                .set_checksum_crc32_c(sent.checksum_crc32_c)
                .set_checksum_crc64_nvme(sent.checksum_crc64_nvme)
                .set_checksum_sha1(sent.checksum_sha1)
                .set_checksum_sha256(sent.checksum_sha256)
                .build(),
        );
        offset += len;
    }
    let completed = CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build();
    let complete = client
        .complete_multipart_upload()
        .bucket("bucket")
        .key(key)
        .upload_id(id)
        .multipart_upload(completed);
    complete.send().await.expect("CompleteMultipartUpload")
}

#[tokio::test(flavor = "multi_thread")]
async fn multipart() {
    let bench = Bench::start("sdk-multipart").await;
    let client = &bench.client;
    let content = Content::new(8, (11 << 20) + 17);
    let done = upload(client, "big", content, 5 << 20, None).await;
    let etag = done.e_tag().expect("ETag").trim_matches('"').to_owned();
    assert!(etag.ends_with("-3") && etag.len() == 34, "{etag}");
    Raw::new(bench.server.address(), Keys::for_tests()).get_whole("bucket", "big", content);
    let head = client
        .head_object()
        .bucket("bucket")
        .key("big")
        .part_number(2)
        .send()
        .await
        .expect("HeadObject");
    assert_eq!(
        (head.parts_count(), head.content_length()),
        (Some(3), Some(5 << 20))
    );
    let last = client
        .get_object()
        .bucket("bucket")
        .key("big")
        .part_number(3)
        .send()
        .await
        .expect("GetObject");
    assert_eq!(
        last.content_range(),
        Some(format!("bytes {}-{}/{}", 10 << 20, content.len - 1, content.len).as_str())
    );
    let last = last.body.collect().await.expect("body").to_vec();
    assert_eq!(content.mismatch(10 << 20, &last), None);
    assert_eq!(last.len() as u64, (1 << 20) + 17);
    let attributes = client.get_object_attributes().bucket("bucket").key("big");
    let attributes = attributes
        .object_attributes(ObjectAttributes::ObjectParts)
        .send()
        .await
        .expect("GetObjectAttributes");
    assert_eq!(
        attributes
            .object_parts()
            .and_then(|parts| parts.total_parts_count()),
        Some(3)
    );

    for (algorithm, kind) in [
        (ChecksumAlgorithm::Crc32, ChecksumType::FullObject),
        (ChecksumAlgorithm::Crc32, ChecksumType::Composite),
        (ChecksumAlgorithm::Crc32C, ChecksumType::FullObject),
        (ChecksumAlgorithm::Crc32C, ChecksumType::Composite),
        (ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject),
        (ChecksumAlgorithm::Sha1, ChecksumType::Composite),
        (ChecksumAlgorithm::Sha256, ChecksumType::Composite),
    ] {
        let key = format!("{algorithm}-{kind}");
        upload(
            client,
            &key,
            content,
            6 << 20,
            Some((algorithm.clone(), kind.clone())),
        )
        .await;
        let head = client
            .head_object()
            .bucket("bucket")
            .key(&key)
            .checksum_mode(ChecksumMode::Enabled);
        let head = head.send().await.expect("HeadObject");
        assert_eq!(head.checksum_type(), Some(&kind), "{key}");
        let sums = [
            head.checksum_crc32(),
            head.checksum_crc32_c(),
            head.checksum_crc64_nvme(),
            head.checksum_sha1(),
            head.checksum_sha256(),
        ];
        let sum = sums
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_else(|| panic!("no checksum of {key}"))
            .to_owned();
        assert_eq!(
            sum.ends_with("-2"),
            kind == ChecksumType::Composite,
            "{key}: {sum}"
        );
        let whole = content.bytes();
        match (&algorithm, &kind) {
            (ChecksumAlgorithm::Crc32, ChecksumType::FullObject) => {
                assert_eq!(sum, holdfast_s3_tests::chunked::crc32(&whole))
            }
            (ChecksumAlgorithm::Crc32C, ChecksumType::FullObject) => {
                assert_eq!(sum, holdfast_s3_tests::chunked::crc32c(&whole))
            }
            (ChecksumAlgorithm::Crc64Nvme, _) => {
                assert_eq!(sum, holdfast_s3_tests::chunked::crc64nvme(&whole))
            }
            _ => {}
        }
        let got = client
            .get_object()
            .bucket("bucket")
            .key(&key)
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        let bytes = got
            .expect("GetObject")
            .body
            .collect()
            .await
            .expect("body")
            .to_vec();
        assert_eq!(content.mismatch(0, &bytes), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_under_way() {
    let bench = Bench::start("sdk-uploads").await;
    let client = &bench.client;
    let mut ids = Vec::new();
    for key in ["a", "a", "b/c", "d"] {
        let created = client
            .create_multipart_upload()
            .bucket("bucket")
            .key(key)
            .send()
            .await
            .expect("Create");
        ids.push((key, created.upload_id.expect("id")));
    }
    let listed = client
        .list_multipart_uploads()
        .bucket("bucket")
        .send()
        .await
        .expect("ListMultipartUploads");
    let keys: Vec<_> = listed
        .uploads()
        .iter()
        .filter_map(|upload| upload.key())
        .collect();
    assert_eq!(keys, ["a", "a", "b/c", "d"]);
    let listed = client
        .list_multipart_uploads()
        .bucket("bucket")
        .delimiter("/")
        .prefix("b")
        .send()
        .await
        .expect("list");
    assert_eq!(
        listed
            .common_prefixes()
            .first()
            .and_then(|prefix| prefix.prefix()),
        Some("b/")
    );
    let first = client
        .list_multipart_uploads()
        .bucket("bucket")
        .max_uploads(3)
        .send()
        .await
        .expect("list");
    assert_eq!(first.is_truncated(), Some(true));
    let second = client
        .list_multipart_uploads()
        .bucket("bucket")
        .set_key_marker(first.next_key_marker().map(str::to_owned))
        .set_upload_id_marker(first.next_upload_id_marker().map(str::to_owned))
        .send()
        .await
        .expect("list");
    assert_eq!(
        second
            .uploads()
            .iter()
            .filter_map(|upload| upload.key())
            .collect::<Vec<_>>(),
        ["d"]
    );

    let (key, id) = &ids[3];
    let body = Content::new(1, 5 << 20).bytes();
    for number in [3, 1, 2, 1] {
        let part = client
            .upload_part()
            .bucket("bucket")
            .key(*key)
            .upload_id(id)
            .part_number(number);
        part.body(ByteStream::from(body[..(number as usize) << 20].to_vec()))
            .send()
            .await
            .expect("UploadPart");
    }
    let first = client
        .list_parts()
        .bucket("bucket")
        .key(*key)
        .upload_id(id)
        .max_parts(2)
        .send()
        .await
        .expect("ListParts");
    let sizes = |page: &aws_sdk_s3::operation::list_parts::ListPartsOutput| -> Vec<_> {
        page.parts()
            .iter()
            .map(|part| (part.part_number().unwrap_or(0), part.size().unwrap_or(0)))
            .collect()
    };
    assert_eq!(sizes(&first), [(1, 1 << 20), (2, 2 << 20)]);
    assert_eq!(first.is_truncated(), Some(true));
    let marker = first.next_part_number_marker().map(str::to_owned);
    let second = client
        .list_parts()
        .bucket("bucket")
        .key(*key)
        .upload_id(id)
        .set_part_number_marker(marker);
    let second = second.send().await.expect("ListParts");
    assert_eq!(sizes(&second), [(3, 3 << 20)]);

    for (key, id) in &ids {
        client
            .abort_multipart_upload()
            .bucket("bucket")
            .key(*key)
            .upload_id(id)
            .send()
            .await
            .expect("Abort");
    }
    let listed = client
        .list_multipart_uploads()
        .bucket("bucket")
        .send()
        .await
        .expect("list");
    assert!(listed.uploads().is_empty());
    let gone = client
        .list_parts()
        .bucket("bucket")
        .key("d")
        .upload_id(&ids[3].1)
        .send()
        .await;
    assert_eq!(code(gone), "NoSuchUpload");
    let page = client
        .list_objects_v2()
        .bucket("bucket")
        .send()
        .await
        .expect("list");
    assert!(page.contents().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn copies() {
    let bench = Bench::start("sdk-copies").await;
    let client = &bench.client;
    let content = Content::new(9, 9_000_000);
    let put = client
        .put_object()
        .bucket("bucket")
        .key("src/ä+ %.bin")
        .metadata("a", "b")
        .content_type("x/y");
    let put = put
        .body(ByteStream::from(content.bytes()))
        .send()
        .await
        .expect("PutObject");
    let source = "bucket/src/%C3%A4%2B%20%25.bin";
    let copied = client
        .copy_object()
        .bucket("bucket")
        .key("copy")
        .copy_source(source)
        .send()
        .await
        .expect("CopyObject");
    assert_eq!(
        copied
            .copy_object_result()
            .and_then(|result| result.e_tag()),
        put.e_tag()
    );
    let head = client
        .head_object()
        .bucket("bucket")
        .key("copy")
        .send()
        .await
        .expect("HeadObject");
    assert_eq!(head.content_type(), Some("x/y"));
    assert_eq!(
        head.metadata().and_then(|m| m.get("a")).map(String::as_str),
        Some("b")
    );
    let replaced = client
        .copy_object()
        .bucket("bucket")
        .key("copy")
        .copy_source("bucket/copy");
    let replaced = replaced
        .metadata_directive(MetadataDirective::Replace)
        .metadata("c", "d")
        .content_type("z/z");
    replaced
        .send()
        .await
        .expect("CopyObject onto itself with new metadata");
    let head = client
        .head_object()
        .bucket("bucket")
        .key("copy")
        .send()
        .await
        .expect("HeadObject");
    assert_eq!(head.content_type(), Some("z/z"));
    assert_eq!(head.metadata().map(|m| m.len()), Some(1));
    let other = client
        .copy_object()
        .bucket("bucket")
        .key("copy2")
        .copy_source(source)
        .copy_source_if_match("\"0\"");
    assert_eq!(code(other.send().await), "PreconditionFailed");
    let other = client
        .copy_object()
        .bucket("bucket")
        .key("copy")
        .copy_source(source)
        .if_none_match("*");
    assert_eq!(code(other.send().await), "PreconditionFailed");

    // The copy outlives its source.
    client
        .delete_object()
        .bucket("bucket")
        .key("src/ä+ %.bin")
        .send()
        .await
        .expect("DeleteObject");
    let mut raw = bench.server.client();
    raw.get_whole("bucket", "copy", content);

    let id = client
        .create_multipart_upload()
        .bucket("bucket")
        .key("joined")
        .send()
        .await
        .expect("Create")
        .upload_id;
    let id = id.expect("id");
    let mut parts = Vec::new();
    for (number, range) in [(1, "bytes=0-5999999"), (2, "bytes=6000000-8999999")] {
        let part = client
            .upload_part_copy()
            .bucket("bucket")
            .key("joined")
            .upload_id(&id)
            .part_number(number);
        let part = part
            .copy_source("bucket/copy")
            .copy_source_range(range)
            .send()
            .await
            .expect("UploadPartCopy");
        let etag = part.copy_part_result.and_then(|result| result.e_tag);
        parts.push(
            CompletedPart::builder()
                .part_number(number)
                .set_e_tag(etag)
                .build(),
        );
    }
    let parts = CompletedMultipartUpload::builder()
        .set_parts(Some(parts))
        .build();
    let complete = client
        .complete_multipart_upload()
        .bucket("bucket")
        .key("joined")
        .upload_id(&id)
        .multipart_upload(parts);
    complete.send().await.expect("Complete");
    raw.get_whole("bucket", "joined", content);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings() {
    let bench = Bench::start("sdk-listings").await;
    let client = &bench.client;
    let mut keys: Vec<String> = (0..40)
        .map(|index| format!("dir{}/sub/{index:02}", index % 4))
        .collect();
    keys.extend(
        [
            "dir1",
            "dir1!",
            "dir1/",
            "ä",
            "z",
            "Z",
            "a\u{10FFFF}",
            "a\u{FFFD}",
            "a b",
            "a+b",
        ]
        .map(str::to_owned),
    );
    for key in &keys {
        client
            .put_object()
            .bucket("bucket")
            .key(key)
            .body(ByteStream::from_static(b"x"))
            .send()
            .await
            .expect("PutObject");
    }
    keys.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let mut found = Vec::new();
    let mut pages = client
        .list_objects_v2()
        .bucket("bucket")
        .into_paginator()
        .page_size(7)
        .send();
    while let Some(page) = pages.next().await {
        let page = page.expect("page");
        assert!(page.contents().len() <= 7);
        found.extend(
            page.contents()
                .iter()
                .filter_map(|object| object.key().map(str::to_owned)),
        );
    }
    assert_eq!(found, keys);

    let page = client
        .list_objects_v2()
        .bucket("bucket")
        .delimiter("/")
        .send()
        .await
        .expect("list");
    let prefixes: Vec<_> = page
        .common_prefixes()
        .iter()
        .filter_map(|prefix| prefix.prefix())
        .collect();
    assert_eq!(prefixes, ["dir0/", "dir1/", "dir2/", "dir3/"]);
    let plain: Vec<_> = page
        .contents()
        .iter()
        .filter_map(|object| object.key())
        .collect();
    let expected: Vec<_> = keys
        .iter()
        .map(String::as_str)
        .filter(|key| !key.contains('/'))
        .collect();
    assert_eq!(plain, expected);
    assert_eq!(
        page.key_count(),
        Some((prefixes.len() + plain.len()) as i32)
    );

    // Pages of one, prefixes and keys mixed, lose and repeat nothing.
    let mut mixed = Vec::new();
    let mut token = None;
    loop {
        let page = client
            .list_objects_v2()
            .bucket("bucket")
            .delimiter("/")
            .max_keys(1)
            .set_continuation_token(token);
        let page = page.send().await.expect("page");
        mixed.extend(
            page.common_prefixes()
                .iter()
                .filter_map(|prefix| prefix.prefix().map(str::to_owned)),
        );
        mixed.extend(
            page.contents()
                .iter()
                .filter_map(|object| object.key().map(str::to_owned)),
        );
        token = page.next_continuation_token;
        if token.is_none() {
            break;
        }
    }
    let mut all: Vec<String> = prefixes
        .iter()
        .chain(&plain)
        .map(|text| (*text).to_owned())
        .collect();
    all.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    assert_eq!(mixed, all);

    let page = client
        .list_objects_v2()
        .bucket("bucket")
        .start_after("dir3/sub/35")
        .send()
        .await
        .expect("list");
    assert_eq!(
        page.contents().first().and_then(|object| object.key()),
        Some("dir3/sub/39")
    );
    let page = client
        .list_objects()
        .bucket("bucket")
        .prefix("dir2/")
        .marker("dir2/sub/30")
        .max_keys(1)
        .send()
        .await;
    let page = page.expect("ListObjects");
    assert_eq!(
        page.contents().first().and_then(|object| object.key()),
        Some("dir2/sub/34")
    );
    assert_eq!(page.is_truncated(), Some(true));
    let page = client
        .list_objects_v2()
        .bucket("bucket")
        .max_keys(0)
        .send()
        .await
        .expect("list");
    assert_eq!(
        (page.key_count(), page.is_truncated()),
        (Some(0), Some(false))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_deleted_at_once() {
    let bench = Bench::start("sdk-delete").await;
    let client = &bench.client;
    for key in ["a", "b", "c<&>", "d"] {
        bench.put(key, b"x").await;
    }
    let objects = ["a", "c<&>", "never-was"].map(|key| {
        ObjectIdentifier::builder()
            .key(key)
            .build()
            .expect("identifier")
    });
    let delete = Delete::builder()
        .set_objects(Some(objects.to_vec()))
        .build()
        .expect("delete");
    let done = client
        .delete_objects()
        .bucket("bucket")
        .delete(delete)
        .send()
        .await
        .expect("DeleteObjects");
    let mut deleted: Vec<_> = done
        .deleted()
        .iter()
        .filter_map(|deleted| deleted.key())
        .collect();
    deleted.sort_unstable();
    assert_eq!(deleted, ["a", "c<&>", "never-was"]);
    assert!(done.errors().is_empty());
    let quiet = Delete::builder()
        .objects(
            ObjectIdentifier::builder()
                .key("b")
                .build()
                .expect("identifier"),
        )
        .quiet(true);
    let done = client
        .delete_objects()
        .bucket("bucket")
        .delete(quiet.build().expect("delete"))
        .send()
        .await;
    assert!(done.expect("DeleteObjects").deleted().is_empty());
    let page = client
        .list_objects_v2()
        .bucket("bucket")
        .send()
        .await
        .expect("list");
    assert_eq!(
        page.contents()
            .iter()
            .filter_map(|object| object.key())
            .collect::<Vec<_>>(),
        ["d"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned() {
    let bench = Bench::start("sdk-presigned").await;
    let client = &bench.client;
    let expiry = PresigningConfig::expires_in(Duration::from_secs(300)).expect("config");
    let put = client
        .put_object()
        .bucket("bucket")
        .key("dir/ä +&=.txt")
        .content_type("text/x")
        .presigned(expiry.clone());
    let put = put.await.expect("presign");
    let get = client
        .get_object()
        .bucket("bucket")
        .key("dir/ä +&=.txt")
        .presigned(expiry)
        .await
        .expect("presign");
    let address = bench.server.address();
    let talk = move |request: aws_sdk_s3::presigning::PresignedRequest, body: &'static str| {
        let target = request
            .uri()
            .split_once(&address.to_string())
            .expect("our address")
            .1
            .to_owned();
        let mut head = format!(
            "{} {target} HTTP/1.1\r\nhost: {address}\r\n",
            request.method()
        );
        for (name, value) in request.headers() {
            if !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("host") {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        if request.method() == "PUT" {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut connection = Connection::open(address).expect("connect");
        connection.write(head.as_bytes()).expect("head");
        connection.write(body.as_bytes()).expect("body");
        connection
            .read_response(request.method())
            .expect("response")
    };
    let response = talk(put, "presigned body");
    assert_eq!(response.status, 200, "{response:?}");
    let response = talk(get, "");
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, "presigned body")
    );
    assert_eq!(response.get("content-type"), Some("text/x"));
}

/// 1 GiB in parts of 32 MiB, several at once, every byte compared on the way back.
#[tokio::test(flavor = "multi_thread")]
async fn multipart_of_one_gibibyte() {
    const PART: u64 = 32 << 20;
    let bench = Bench::start("sdk-gibibyte").await;
    let client = &bench.client;
    let content = Content::new(77, 1 << 30);
    let id = client
        .create_multipart_upload()
        .bucket("bucket")
        .key("gib")
        .send()
        .await
        .expect("Create")
        .upload_id;
    let id = id.expect("id");
    let parts = content.len / PART;
    let mut done: Vec<(i32, Option<String>)> = Vec::new();
    for batch in (0..parts).collect::<Vec<_>>().chunks(4) {
        let mut running = tokio::task::JoinSet::new();
        for index in batch.iter().copied() {
            let (client, id) = (client.clone(), id.clone());
            running.spawn(async move {
                let mut bytes = vec![0; PART as usize];
                content.fill(index * PART, &mut bytes);
                let number = index as i32 + 1;
                let part = client
                    .upload_part()
                    .bucket("bucket")
                    .key("gib")
                    .upload_id(id)
                    .part_number(number);
                (
                    number,
                    part.body(ByteStream::from(bytes))
                        .send()
                        .await
                        .expect("UploadPart")
                        .e_tag,
                )
            });
        }
        done.extend(running.join_all().await);
    }
    done.sort();
    let parts = done.into_iter().map(|(number, etag)| {
        CompletedPart::builder()
            .part_number(number)
            .set_e_tag(etag)
            .build()
    });
    let parts = CompletedMultipartUpload::builder()
        .set_parts(Some(parts.collect()))
        .build();
    let complete = client
        .complete_multipart_upload()
        .bucket("bucket")
        .key("gib")
        .upload_id(&id)
        .multipart_upload(parts);
    complete.send().await.expect("Complete");
    let mut got = client
        .get_object()
        .bucket("bucket")
        .key("gib")
        .send()
        .await
        .expect("GetObject");
    assert_eq!(got.content_length(), Some(1 << 30));
    let mut offset = 0;
    while let Some(piece) = got.body.try_next().await.expect("body") {
        assert_eq!(content.mismatch(offset, &piece), None);
        offset += piece.len() as u64;
    }
    assert_eq!(offset, 1 << 30);
    let from = (1 << 30) - 12_345;
    let tail = client
        .get_object()
        .bucket("bucket")
        .key("gib")
        .range(format!("bytes={from}-"))
        .send()
        .await;
    let tail = tail
        .expect("GetObject")
        .body
        .collect()
        .await
        .expect("body")
        .to_vec();
    assert_eq!((tail.len(), content.mismatch(from, &tail)), (12_345, None));
}
