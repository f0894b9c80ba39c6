"""Quotas of buckets, set with `holdfast admin quota`."""

import json
import uuid

import pytest
from botocore.exceptions import ClientError
from conftest import ACCESS_KEY, SECRET_KEY
from test_events import admin


@pytest.fixture
def quota(server):
    """Calls `holdfast admin quota`; gives its standard output."""

    def run(*arguments):
        code, out, err = admin(server.endpoint, ACCESS_KEY, SECRET_KEY, "quota", *arguments)
        assert code == 0, err
        return out

    return run


def refused(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 403, answer
    return answer["Error"]["Code"] == "QuotaExceeded"


def used(quota, bucket):
    shown = json.loads(quota("show", bucket, "--json"))
    return shown["used_bytes"], shown["used_objects"]


def test_bytes_are_given_and_given_back(s3, bucket, quota):
    s3.put_object(Bucket=bucket, Key="before", Body=b"x" * 400)
    assert quota("show", bucket).strip() == "no quota"
    quota("set", bucket, "--bytes", "100KiB")
    assert used(quota, bucket) == (400, 1)
    s3.put_object(Bucket=bucket, Key="big", Body=b"x" * 102_000)
    assert refused(s3.put_object, Bucket=bucket, Key="more", Body=b"x" * 1)
    s3.put_object(Bucket=bucket, Key="big", Body=b"x" * 100_000)
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "before"})
    assert refused(s3.copy_object, Bucket=bucket, Key="copy2", CopySource={"Bucket": bucket, "Key": "big"})
    s3.put_object(Bucket=bucket, Key="last", Body=b"x" * 1600)
    assert used(quota, bucket) == (102_400, 4)
    assert refused(s3.put_object, Bucket=bucket, Key="more", Body=b"x")
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    s3.delete_object(Bucket=bucket, Key="copy")
    s3.put_object(Bucket=bucket, Key="more", Body=b"x" * 400)
    assert "102400 of 102400" in quota("show", bucket)
    quota("clear", bucket)
    s3.put_object(Bucket=bucket, Key="huge", Body=b"x" * 200_000)


def test_objects_versions_and_parts_count(s3, quota):
    bucket = "b-" + uuid.uuid4().hex[:20]
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    quota("set", bucket, "--objects", "3", "--bytes", "1MiB")
    versions = [s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"] for _ in range(3)]
    assert refused(s3.put_object, Bucket=bucket, Key="other", Body=b"x")
    # A delete marker counts nothing, and frees nothing.
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    assert used(quota, bucket) == (3, 3)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"x" * 1_000_000)
    assert used(quota, bucket) == (1_000_003, 3)
    arguments = {"Bucket": bucket, "Key": "parts", "UploadId": upload}
    assert refused(s3.upload_part, PartNumber=2, Body=b"x" * 100_000, **arguments)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    assert refused(s3.complete_multipart_upload, MultipartUpload=parts, **arguments)
    s3.delete_object(Bucket=bucket, Key="k", VersionId=versions[0])
    made = s3.complete_multipart_upload(MultipartUpload=parts, **arguments)["VersionId"]
    assert used(quota, bucket) == (1_000_002, 3)
    for key, version in [("k", versions[1]), ("k", versions[2]), ("k", marker), ("parts", made)]:
        s3.delete_object(Bucket=bucket, Key=key, VersionId=version)
    assert used(quota, bucket) == (0, 0)
    s3.delete_bucket(Bucket=bucket)


def test_strange_quotas_are_refused(server, bucket):
    def code(*arguments):
        return admin(server.endpoint, ACCESS_KEY, SECRET_KEY, "quota", *arguments)

    assert code("set", bucket)[0] != 0
    assert code("set", bucket, "--bytes", "some")[0] != 0
    status, _, err = code("set", "no-such-bucket", "--bytes", "1")
    assert status != 0 and "NoSuchBucket" in err
