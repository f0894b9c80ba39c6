"""What boto3 and browsers do beside plain requests: Signature Version 2, forms, other origins, tags of buckets."""

import json
import urllib.error
import urllib.parse
import urllib.request
import uuid

import pytest
from botocore.exceptions import ClientError


def fetch(url, method="GET", data=None, **headers):
    """Status, headers and body, whatever the status."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    opener = urllib.request.build_opener(NoRedirect)
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args):
        return None


def form(fields, file, name="file.txt"):
    edge = uuid.uuid4().hex
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        for field, value in fields.items()
    ]
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = b"".join(parts) + head.encode() + file + f"\r\n--{edge}--\r\n".encode()
    return body, f"multipart/form-data; boundary={edge}"


@pytest.fixture
def v2(server):
    return server.client(signature_version="s3")


def test_signature_version_2_in_headers(v2, bucket):
    key = "a b/ä+c"
    v2.put_object(Bucket=bucket, Key=key, Body=b"x", Metadata={"a": "b"}, ContentType="text/plain")
    got = v2.get_object(Bucket=bucket, Key=key, ResponseContentType="text/css")
    assert got["Body"].read() == b"x"
    assert got["ContentType"] == "text/css"
    assert [entry["Key"] for entry in v2.list_objects_v2(Bucket=bucket, Prefix="a b")["Contents"]] == [key]
    upload = v2.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = v2.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"part")
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    v2.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    assert v2.get_object(Bucket=bucket, Key="parts")["Body"].read() == b"part"


def test_presigned_urls_of_both_versions(server, s3, bucket):
    for version in ("s3", "s3v4", "s3-query", "s3v4-query"):
        client = server.client(signature_version=version)
        key = f"key of {version}"
        extra = {"ContentType": "text/plain", "Metadata": {"a": "b"}}
        put = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": key, **extra})
        headers = {"Content-Type": "text/plain", "x-amz-meta-a": "b"}
        assert fetch(put, "PUT", b"body", **headers)[0] == 200, version
        got = s3.get_object(Bucket=bucket, Key=key)
        assert (got["Metadata"], got["ContentType"]) == ({"a": "b"}, "text/plain")
        get = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})
        assert fetch(get)[::2] == (200, b"body"), version
        other = urllib.parse.urlsplit(get)
        other = other._replace(path=other.path + "x").geturl()
        assert fetch(other)[0] == 403, version
    old = server.client(signature_version="s3")
    gone = old.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=-5)
    assert fetch(gone)[0] == 403


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_forms_of_both_versions(server, s3, bucket, version):
    client = server.client(signature_version=version)
    post = client.generate_presigned_post(
        bucket,
        "up/${filename}",
        Fields={"Content-Type": "text/plain", "success_action_status": "201"},
        Conditions=[
            ["starts-with", "$Content-Type", "text/"],
            {"success_action_status": "201"},
            ["content-length-range", 1, 3_000_000],
        ],
    )
    for size in (1, 40_000, 3_000_000):
        file = bytes(range(256)) * (size // 256 + 1)
        body, kind = form(post["fields"], file[:size])
        status, _, answer = fetch(post["url"], "POST", body, Content_Type=kind)
        assert status == 201, answer
        got = s3.get_object(Bucket=bucket, Key="up/file.txt")
        assert got["Body"].read() == file[:size]
        assert got["ContentType"] == "text/plain"
    for size, code in ((0, b"EntityTooSmall"), (3_000_001, b"EntityTooLarge")):
        body, kind = form(post["fields"], bytes(size))
        status, _, answer = fetch(post["url"], "POST", body, Content_Type=kind)
        assert status == 400 and code in answer
    changed = {**post["fields"], "key": "elsewhere"}
    body, kind = form(changed, b"x")
    assert fetch(post["url"], "POST", body, Content_Type=kind)[0] == 403
    unsigned = {"key": "k"}
    body, kind = form(unsigned, b"x")
    assert fetch(post["url"], "POST", body, Content_Type=kind)[0] == 403


def test_other_origins(server, s3, bucket):
    with pytest.raises(ClientError) as error:
        s3.get_bucket_cors(Bucket=bucket)
    assert error.value.response["Error"]["Code"] == "NoSuchCORSConfiguration"
    rule = {
        "AllowedMethods": ["GET"],
        "AllowedOrigins": ["http://*.test"],
        "AllowedHeaders": ["*"],
        "ExposeHeaders": ["ETag"],
        "MaxAgeSeconds": 10,
    }
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == [rule]
    url = f"{server.endpoint}/{bucket}/key"
    asked = {"Origin": "http://a.test", "Access_Control_Request_Method": "GET"}
    status, headers, _ = fetch(url, "OPTIONS", **asked)
    assert status == 200
    assert headers["Access-Control-Allow-Origin"] == "http://a.test"
    assert headers["Access-Control-Max-Age"] == "10"
    assert fetch(url, "OPTIONS", **{**asked, "Origin": "http://a.other"})[0] == 403
    assert fetch(url, "OPTIONS")[0] == 400
    status, headers, _ = fetch(url, Origin="http://a.test")
    assert (status, headers["Access-Control-Allow-Origin"]) == (403, "http://a.test")
    s3.delete_bucket_cors(Bucket=bucket)
    assert fetch(url, "OPTIONS", **asked)[0] == 403


def test_tags_of_buckets(s3, bucket):
    tags = [{"Key": "a", "Value": "1"}, {"Key": "b c", "Value": ""}]
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags
    s3.delete_bucket_tagging(Bucket=bucket)
    with pytest.raises(ClientError) as error:
        s3.get_bucket_tagging(Bucket=bucket)
    assert error.value.response["Error"]["Code"] == "NoSuchTagSet"


def test_canned_lists_of_buckets(server, s3):
    name = "b-" + uuid.uuid4().hex[:20]
    s3.create_bucket(Bucket=name, ACL="public-read")
    try:
        url = f"{server.endpoint}/{name}"
        assert fetch(url)[0] == 200
        assert fetch(f"{url}/none")[0] == 404
        assert fetch(f"{url}/none", "PUT", b"x")[0] == 403
        s3.put_bucket_acl(Bucket=name, ACL="private")
        assert fetch(url)[0] == 403
        grants = s3.get_bucket_acl(Bucket=name)["Grants"]
        assert [grant["Permission"] for grant in grants] == ["FULL_CONTROL"]
    finally:
        s3.delete_bucket(Bucket=name)


def test_canned_lists_of_objects(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="key", Body=b"x", ACL="public-read")
    url = f"{server.endpoint}/{bucket}/key"
    assert fetch(url)[::2] == (200, b"x")
    s3.put_object_acl(Bucket=bucket, Key="key", ACL="private")
    assert fetch(url)[0] == 403
    grants = s3.get_object_acl(Bucket=bucket, Key="key")["Grants"]
    assert [grant["Permission"] for grant in grants] == ["FULL_CONTROL"]


def test_lifecycle_rules(s3, bucket):
    rules = [
        {"ID": "a", "Filter": {"Prefix": "a/"}, "Status": "Enabled", "Expiration": {"Days": 2}},
        {
            "ID": "b",
            "Filter": {"And": {"Prefix": "b/", "Tags": [{"Key": "k", "Value": "v"}]}},
            "Status": "Disabled",
            "NoncurrentVersionExpiration": {"NoncurrentDays": 3, "NewerNoncurrentVersions": 4},
        },
    ]
    rules.append(
        {
            "ID": "c",
            "Filter": {"Prefix": "c/"},
            "Status": "Enabled",
            "Transitions": [
                {"Days": 30, "StorageClass": "STANDARD_IA"},
                {"Days": 90, "StorageClass": "GLACIER_IR"},
            ],
            "NoncurrentVersionTransitions": [
                {"NoncurrentDays": 0, "NewerNoncurrentVersions": 2, "StorageClass": "INTELLIGENT_TIERING"}
            ],
        }
    )
    smallest = "all_storage_classes_128K"
    s3.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": rules}, TransitionDefaultMinimumObjectSize=smallest
    )
    kept = s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    assert kept["Rules"] == rules
    assert kept["TransitionDefaultMinimumObjectSize"] == smallest
    assert 'rule-id="a"' in s3.put_object(Bucket=bucket, Key="a/key", Body=b"x")["Expiration"]
    assert "Expiration" not in s3.put_object(Bucket=bucket, Key="b/key", Body=b"x")
    s3.delete_bucket_lifecycle(Bucket=bucket)


def test_websites_are_kept(s3, bucket):
    site = {
        "IndexDocument": {"Suffix": "index.html"},
        "ErrorDocument": {"Key": "error.html"},
        "RoutingRules": [
            {"Condition": {"KeyPrefixEquals": "a/"}, "Redirect": {"ReplaceKeyPrefixWith": "b/", "HttpRedirectCode": "302"}}
        ],
    }
    s3.put_bucket_website(Bucket=bucket, WebsiteConfiguration=site)
    got = s3.get_bucket_website(Bucket=bucket)
    assert {name: got[name] for name in site} == site
    s3.delete_bucket_website(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="key", Body=b"", WebsiteRedirectLocation="/b")
    assert s3.head_object(Bucket=bucket, Key="key")["WebsiteRedirectLocation"] == "/b"


def test_other_services_are_refused_at_once(server):
    """Suites and tools send requests of IAM to the same address."""
    import boto3

    from conftest import ACCESS_KEY, SECRET_KEY

    iam = boto3.client(
        "iam",
        endpoint_url=server.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
    )
    with pytest.raises(ClientError) as error:
        iam.list_roles()
    status = error.value.response["ResponseMetadata"]
    assert 400 <= status["HTTPStatusCode"] < 500 and status["RetryAttempts"] == 0, json.dumps(status)


def test_what_a_bucket_has_not_is_told_as_s3_does(s3, bucket):
    """Terraform and s3cmd ask for all of it."""

    def code(call):
        with pytest.raises(ClientError) as error:
            call(Bucket=bucket)
        return error.value.response["Error"]["Code"]

    assert code(s3.get_bucket_policy) == "NoSuchBucketPolicy"
    assert code(s3.get_bucket_policy_status) == "NoSuchBucketPolicy"
    assert code(s3.get_bucket_encryption) == "ServerSideEncryptionConfigurationNotFoundError"
    assert code(s3.get_public_access_block) == "NoSuchPublicAccessBlockConfiguration"
    assert code(s3.get_bucket_ownership_controls) == "OwnershipControlsNotFoundError"
    assert code(s3.get_bucket_replication) == "ReplicationConfigurationNotFoundError"
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)
    assert "Status" not in s3.get_bucket_accelerate_configuration(Bucket=bucket)
    for call in [
        s3.list_bucket_analytics_configurations,
        s3.list_bucket_intelligent_tiering_configurations,
        s3.list_bucket_inventory_configurations,
        s3.list_bucket_metrics_configurations,
    ]:
        assert call(Bucket=bucket)["IsTruncated"] is False
    s3.delete_bucket_policy(Bucket=bucket)
    s3.delete_public_access_block(Bucket=bucket)


@pytest.mark.parametrize("storage_class", ["REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"])
def test_storage_classes_are_shown(s3, bucket, storage_class):
    s3.put_object(Bucket=bucket, Key="key", Body=b"x", StorageClass=storage_class)
    assert s3.head_object(Bucket=bucket, Key="key")["StorageClass"] == storage_class
    assert s3.get_object(Bucket=bucket, Key="key")["StorageClass"] == storage_class
    for listed in [
        s3.list_objects(Bucket=bucket)["Contents"],
        s3.list_objects_v2(Bucket=bucket)["Contents"],
        s3.list_object_versions(Bucket=bucket)["Versions"],
    ]:
        assert [entry["StorageClass"] for entry in listed] == [storage_class]
    # Onto itself with another class, as `aws s3 cp --storage-class` does.
    s3.copy_object(Bucket=bucket, Key="key", CopySource=f"{bucket}/key", StorageClass="STANDARD")
    assert "StorageClass" not in s3.head_object(Bucket=bucket, Key="key")
