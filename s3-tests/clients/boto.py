"""One life of a bucket, as boto3 of any age lives it."""

import hashlib

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from store import KEYS, REGION, pattern

MIB = 1 << 20


def client(store, secret_key=None, endpoint_url=None, **config):
    config.setdefault("s3", {"addressing_style": "path"})
    config.setdefault("retries", {"max_attempts": 4, "mode": "standard"})
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url or store.endpoint,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=secret_key or store.secret_key,
        region_name=REGION,
        config=Config(**config),
    )


def code_of(call, *args, **kwargs):
    """Error code, HTTP status and message of a call that must fail."""
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    error, metadata = caught.value.response["Error"], caught.value.response["ResponseMetadata"]
    return error["Code"], metadata["HTTPStatusCode"], error.get("Message", "")


def remove(s3, bucket):
    """Everything in a bucket, and the bucket."""
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        keys = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
        if keys:
            assert not s3.delete_objects(Bucket=bucket, Delete={"Objects": keys}).get("Errors")
    s3.delete_bucket(Bucket=bucket)


def live(s3, bucket, tmp_path):
    """Create, write, read, list, copy, delete, with all that may go wrong in between."""
    s3.create_bucket(Bucket=bucket)
    s3.head_bucket(Bucket=bucket)
    assert bucket in [entry["Name"] for entry in s3.list_buckets()["Buckets"]]

    # Small, empty, overwritten.
    for body in (b"one", b"", b"three"):
        put = s3.put_object(Bucket=bucket, Key="small", Body=body, ContentType="text/plain", Metadata={"who": "me"})
        assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
        got = s3.get_object(Bucket=bucket, Key="small")
        assert got["Body"].read() == body and got["Metadata"] == {"who": "me"} and got["ContentType"] == "text/plain"

    # As much metadata as S3 takes.
    large = {f"name-{index:02}": "v" * 90 for index in range(20)}
    s3.put_object(Bucket=bucket, Key="metadata", Body=b"", Metadata=large)
    assert s3.head_object(Bucket=bucket, Key="metadata")["Metadata"] == large
    code, status, message = code_of(s3.put_object, Bucket=bucket, Key="metadata", Body=b"", Metadata={"k": "v" * 2049})
    assert (code, status) == ("MetadataTooLarge", 400) and message

    # In parts, by the transfer manager, from and to a file; ranges over the borders of the parts.
    body = pattern(19 * MIB + 7, 1)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(body)
    transfer = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB)
    s3.upload_file(str(source), bucket, "large", Config=transfer)
    s3.download_file(bucket, "large", str(target), Config=transfer)
    assert target.read_bytes() == body
    for first, last in ((0, 0), (8 * MIB - 1, 8 * MIB), (5, 16 * MIB + 5), (19 * MIB, 1 << 40)):
        part = s3.get_object(Bucket=bucket, Key="large", Range=f"bytes={first}-{last}")["Body"].read()
        assert part == body[first : last + 1]
    assert s3.get_object(Bucket=bucket, Key="large", Range="bytes=-9")["Body"].read() == body[-9:]
    etag = s3.head_object(Bucket=bucket, Key="large")["ETag"]
    assert etag.endswith('-3"')
    assert s3.get_object(Bucket=bucket, Key="large", Range="bytes=1-2", IfMatch=etag)["Body"].read() == body[1:3]
    code, status, _ = code_of(s3.get_object, Bucket=bucket, Key="large", Range="bytes=1-2", IfMatch='"0"')
    assert (code, status) == ("PreconditionFailed", 412)
    code, status, _ = code_of(s3.get_object, Bucket=bucket, Key="large", Range=f"bytes={len(body)}-")
    assert (code, status) == ("InvalidRange", 416)

    # Copies, whole and in parts.
    s3.copy({"Bucket": bucket, "Key": "large"}, bucket, "copied", Config=transfer)
    assert s3.get_object(Bucket=bucket, Key="copied")["Body"].read() == body
    s3.copy_object(Bucket=bucket, Key="copied", CopySource=f"{bucket}/small", MetadataDirective="REPLACE", Metadata={})
    got = s3.get_object(Bucket=bucket, Key="copied")
    assert got["Body"].read() == b"three" and got["Metadata"] == {}

    # An upload that was broken off goes on where it stood.
    upload = s3.create_multipart_upload(Bucket=bucket, Key="resumed")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="resumed", UploadId=upload, PartNumber=1, Body=body[: 8 * MIB])
    assert upload in [entry["UploadId"] for entry in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]]
    there = s3.list_parts(Bucket=bucket, Key="resumed", UploadId=upload)["Parts"]
    assert [part["Size"] for part in there] == [8 * MIB]
    second = s3.upload_part(Bucket=bucket, Key="resumed", UploadId=upload, PartNumber=2, Body=body[8 * MIB :])
    parts = [{"PartNumber": 1, "ETag": there[0]["ETag"]}, {"PartNumber": 2, "ETag": second["ETag"]}]
    s3.complete_multipart_upload(Bucket=bucket, Key="resumed", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=bucket, Key="resumed")["Body"].read() == body

    # A multipart upload of nothing.
    upload = s3.create_multipart_upload(Bucket=bucket, Key="nothing")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="nothing", UploadId=upload, PartNumber=1, Body=b"")
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    s3.complete_multipart_upload(Bucket=bucket, Key="nothing", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=bucket, Key="nothing")["Body"].read() == b""

    # Keys of all kinds, listed by both operations, in pages.
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key="k/" + key[:1020] if len(key.encode()) < 1000 else key, Body=key.encode())
    written = ["k/" + key if len(key.encode()) < 1000 else key for key in KEYS]
    for key, content in zip(written, KEYS):
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == content.encode(), key
    others = ["small", "metadata", "large", "copied", "resumed", "nothing"]
    everything = sorted(written + others, key=str.encode)
    for operation in ("list_objects_v2", "list_objects"):
        pages = s3.get_paginator(operation).paginate(Bucket=bucket, PaginationConfig={"PageSize": 7})
        assert [entry["Key"] for page in pages for entry in page["Contents"]] == everything
    folders = s3.list_objects_v2(Bucket=bucket, Delimiter="/", Prefix="k/")
    assert [entry["Prefix"] for entry in folders["CommonPrefixes"]] == sorted(
        {key[: key.index("/", 2) + 1] for key in written if "/" in key[2:] and key.startswith("k/")}, key=str.encode
    )

    # What is wrong is said.
    assert code_of(s3.get_object, Bucket=bucket, Key="missing")[:2] == ("NoSuchKey", 404)
    assert code_of(s3.head_object, Bucket=bucket, Key="missing")[:2] == ("404", 404)
    assert code_of(s3.put_object, Bucket="no-" + bucket, Key="key", Body=b"")[:2] == ("NoSuchBucket", 404)
    assert code_of(s3.delete_bucket, Bucket=bucket)[:2] == ("BucketNotEmpty", 409)

    remove(s3, bucket)
    assert code_of(s3.list_objects_v2, Bucket=bucket)[:2] == ("NoSuchBucket", 404)
