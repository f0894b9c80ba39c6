"""Versions and object lock, with boto3."""

import datetime
import threading
import uuid

import pytest
from botocore.exceptions import ClientError


def code(error):
    return error.value.response["ResponseMetadata"]["HTTPStatusCode"], error.value.response["Error"]["Code"]


def wipe(s3, bucket):
    """Deletes all versions, retained ones too, and the bucket."""
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        entries = page.get("Versions", []) + page.get("DeleteMarkers", [])
        keys = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
        if keys:
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys}, BypassGovernanceRetention=True)
            assert not answer.get("Errors"), answer["Errors"]
    s3.delete_bucket(Bucket=bucket)


@pytest.fixture
def versioned(s3):
    name = "v-" + uuid.uuid4().hex[:20]
    s3.create_bucket(Bucket=name)
    s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    yield name
    wipe(s3, name)


@pytest.fixture
def locked(s3):
    name = "l-" + uuid.uuid4().hex[:20]
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    yield name
    wipe(s3, name)


def test_versions_come_and_go(s3, versioned):
    ids = [s3.put_object(Bucket=versioned, Key="k", Body=f"{n}".encode())["VersionId"] for n in range(5)]
    for n, version in enumerate(ids):
        got = s3.get_object(Bucket=versioned, Key="k", VersionId=version)
        assert (got["Body"].read(), got["VersionId"]) == (f"{n}".encode(), version)
    marker = s3.delete_object(Bucket=versioned, Key="k")
    assert marker["DeleteMarker"]
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=versioned, Key="k")
    assert code(error) == (404, "NoSuchKey")
    headers = error.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amz-delete-marker"] == "true"
    assert headers["x-amz-version-id"] == marker["VersionId"]
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=versioned, Key="k", VersionId=marker["VersionId"])
    assert code(error) == (405, "MethodNotAllowed")
    s3.delete_object(Bucket=versioned, Key="k", VersionId=marker["VersionId"])
    while ids:
        assert s3.head_object(Bucket=versioned, Key="k")["VersionId"] == ids[-1]
        s3.delete_object(Bucket=versioned, Key="k", VersionId=ids.pop())
    assert "Versions" not in s3.list_object_versions(Bucket=versioned)


def test_suspended_versions(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"null")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"one")["VersionId"]
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"null again")
    listed = s3.list_object_versions(Bucket=bucket)["Versions"]
    assert [(entry["VersionId"], entry["IsLatest"]) for entry in listed] == [("null", True), (version, False)]
    assert s3.get_object(Bucket=bucket, Key="k", VersionId="null")["Body"].read() == b"null again"
    assert s3.delete_object(Bucket=bucket, Key="k")["VersionId"] == "null"
    for entry in ("null", version):
        s3.delete_object(Bucket=bucket, Key="k", VersionId=entry)


def test_pages_of_versions(s3, versioned):
    for n in range(7):
        for key in ("a", "b/c", "d"):
            s3.put_object(Bucket=versioned, Key=key, Body=b"x")
            if n % 3 == 0:
                s3.delete_object(Bucket=versioned, Key=key)
    whole = s3.list_object_versions(Bucket=versioned)
    for size in (1, 2, 5, 29):
        pages = s3.get_paginator("list_object_versions")
        pages = list(pages.paginate(Bucket=versioned, PaginationConfig={"PageSize": size}))
        for element in ("Versions", "DeleteMarkers"):
            entries = [entry for page in pages for entry in page.get(element, [])]
            assert entries == whole[element]


def test_large_bodies_of_versions(s3, versioned):
    bodies = [bytes([n]) * (6 << 20) for n in range(2)]
    ids = [s3.put_object(Bucket=versioned, Key="k", Body=body)["VersionId"] for body in bodies]
    copy = s3.copy_object(
        Bucket=versioned, Key="k", CopySource={"Bucket": versioned, "Key": "k", "VersionId": ids[0]}
    )
    assert copy["CopySourceVersionId"] == ids[0]
    for version, body in zip([*ids, copy["VersionId"]], [*bodies, bodies[0]]):
        assert s3.get_object(Bucket=versioned, Key="k", VersionId=version)["Body"].read() == body


def test_one_writer_wins_on_a_versioned_key(s3, versioned):
    won = []

    def write(n):
        try:
            s3.put_object(Bucket=versioned, Key="k", Body=b"%d" % n, IfNoneMatch="*")
            won.append(n)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "PreconditionFailed"

    threads = [threading.Thread(target=write, args=[n]) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(won) == 1
    assert s3.get_object(Bucket=versioned, Key="k")["Body"].read() == b"%d" % won[0]
    assert len(s3.list_object_versions(Bucket=versioned)["Versions"]) == 1


def test_locked_versions_stay(s3, locked):
    until = datetime.datetime(2040, 1, 1, tzinfo=datetime.timezone.utc)
    version = s3.put_object(
        Bucket=locked, Key="k", Body=b"x", ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until
    )["VersionId"]
    head = s3.head_object(Bucket=locked, Key="k")
    assert (head["ObjectLockMode"], head["ObjectLockRetainUntilDate"]) == ("GOVERNANCE", until)
    with pytest.raises(ClientError) as error:
        s3.delete_object(Bucket=locked, Key="k", VersionId=version)
    assert code(error) == (403, "AccessDenied")
    s3.put_object_legal_hold(Bucket=locked, Key="k", LegalHold={"Status": "ON"})
    with pytest.raises(ClientError) as error:
        s3.delete_object(Bucket=locked, Key="k", VersionId=version, BypassGovernanceRetention=True)
    assert code(error) == (403, "AccessDenied")
    with pytest.raises(ClientError) as error:
        s3.put_bucket_versioning(Bucket=locked, VersioningConfiguration={"Status": "Suspended"})
    assert code(error) == (409, "InvalidBucketState")
    with pytest.raises(ClientError) as error:
        s3.delete_bucket(Bucket=locked)
    assert code(error) == (409, "BucketNotEmpty")
    s3.put_object_legal_hold(Bucket=locked, Key="k", LegalHold={"Status": "OFF"})


def test_default_retention(s3, locked):
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}}
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    s3.put_object_lock_configuration(Bucket=locked, ObjectLockConfiguration=configuration)
    assert s3.get_object_lock_configuration(Bucket=locked)["ObjectLockConfiguration"] == configuration
    s3.put_object(Bucket=locked, Key="k", Body=b"x")
    upload = s3.create_multipart_upload(Bucket=locked, Key="m")["UploadId"]
    part = s3.upload_part(Bucket=locked, Key="m", UploadId=upload, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket=locked, Key="m", UploadId=upload, MultipartUpload=parts)
    for key in ("k", "m"):
        retention = s3.get_object_retention(Bucket=locked, Key=key)["Retention"]
        left = retention["RetainUntilDate"] - datetime.datetime.now(datetime.timezone.utc)
        assert retention["Mode"] == "GOVERNANCE"
        assert datetime.timedelta(days=2) < left <= datetime.timedelta(days=3)
