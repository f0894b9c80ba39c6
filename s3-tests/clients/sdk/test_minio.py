"""minio-py."""

import io
from datetime import timedelta

import pytest
import urllib3
from minio import Minio
from minio.commonconfig import ComposeSource, CopySource, Tags
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from store import KEYS, REGION, pattern

MIB = 1 << 20


@pytest.fixture(params=["with region", "without"])
def minio(store, request):
    region = REGION if request.param == "with region" else None
    return Minio(endpoint=store.host, access_key=store.access_key, secret_key=store.secret_key, secure=False, region=region)


def body_of(answer):
    try:
        return answer.read()
    finally:
        answer.close()
        answer.release_conn()


def test_a_life(minio, store, bucket, tmp_path):
    assert not minio.bucket_exists(bucket_name=bucket)
    minio.make_bucket(bucket_name=bucket)
    assert minio.bucket_exists(bucket_name=bucket) and bucket in [entry.name for entry in minio.list_buckets()]

    for body in (b"", b"small", pattern(11 * MIB + 1)):
        minio.put_object(bucket_name=bucket, object_name="key", data=io.BytesIO(body), length=len(body), metadata={"who": "me"})
        assert body_of(minio.get_object(bucket_name=bucket, object_name="key")) == body
        stat = minio.stat_object(bucket_name=bucket, object_name="key")
        assert stat.size == len(body) and stat.metadata["x-amz-meta-who"] == "me"
    assert body_of(minio.get_object(bucket_name=bucket, object_name="key", offset=5 * MIB, length=9)) == body[5 * MIB :][:9]
    # A stream of a length that nobody knows.
    minio.put_object(bucket_name=bucket, object_name="stream", data=io.BytesIO(body), length=-1, part_size=5 * MIB)
    assert body_of(minio.get_object(bucket_name=bucket, object_name="stream")) == body
    minio.put_object(bucket_name=bucket, object_name="stream", data=io.BytesIO(b""), length=-1, part_size=5 * MIB)
    assert body_of(minio.get_object(bucket_name=bucket, object_name="stream")) == b""

    source = tmp_path / "source"
    source.write_bytes(body)
    minio.fput_object(bucket_name=bucket, object_name="file", file_path=str(source))
    minio.fget_object(bucket_name=bucket, object_name="file", file_path=str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == body

    minio.copy_object(bucket_name=bucket, object_name="copy", source=CopySource(bucket_name=bucket, object_name="key"))
    assert body_of(minio.get_object(bucket_name=bucket, object_name="copy")) == body
    sources = [ComposeSource(bucket_name=bucket, object_name=name) for name in ("file", "copy")]
    minio.compose_object(bucket_name=bucket, object_name="both", sources=sources)
    assert body_of(minio.get_object(bucket_name=bucket, object_name="both")) == body + body

    tags = Tags.new_object_tags()
    tags["a"] = "b c"
    minio.set_object_tags(bucket_name=bucket, object_name="key", tags=tags)
    assert minio.get_object_tags(bucket_name=bucket, object_name="key") == {"a": "b c"}
    minio.delete_object_tags(bucket_name=bucket, object_name="key")

    for key in KEYS:
        minio.put_object(bucket_name=bucket, object_name=key, data=io.BytesIO(key.encode()), length=len(key.encode()))
    names = [entry.object_name for entry in minio.list_objects(bucket_name=bucket, recursive=True)]
    assert names == sorted(KEYS + ["key", "stream", "file", "copy", "both"], key=str.encode)
    for v1 in (True, False):
        assert {entry.object_name for entry in minio.list_objects(bucket_name=bucket, use_api_v1=v1) if entry.is_dir} == {name[: name.index("/") + 1] for name in names if "/" in name}
    for key in KEYS:
        assert body_of(minio.get_object(bucket_name=bucket, object_name=key)) == key.encode(), key

    url = minio.presigned_get_object(bucket_name=bucket, object_name="dir/sub/", expires=timedelta(minutes=1))
    assert urllib3.request("GET", url).data == b"dir/sub/"
    url = minio.presigned_put_object(bucket_name=bucket, object_name="ä b+c%", expires=timedelta(minutes=1))
    assert urllib3.request("PUT", url, body=b"put").status == 200
    assert body_of(minio.get_object(bucket_name=bucket, object_name="ä b+c%")) == b"put"

    with pytest.raises(S3Error) as refused:
        minio.remove_bucket(bucket_name=bucket)
    assert refused.value.code == "BucketNotEmpty"
    errors = minio.remove_objects(bucket_name=bucket, delete_object_list=[DeleteObject(name) for name in [*names, "ä b+c%"]])
    assert list(errors) == []
    minio.remove_bucket(bucket_name=bucket)


def test_errors(minio, store, bucket):
    def code(call, **arguments):
        with pytest.raises(S3Error) as refused:
            call(**arguments)
        assert refused.value.message
        return refused.value.code

    assert code(minio.get_object, bucket_name=bucket, object_name="key") == "NoSuchBucket"
    minio.make_bucket(bucket_name=bucket)
    assert code(minio.get_object, bucket_name=bucket, object_name="key") == "NoSuchKey"
    assert code(minio.stat_object, bucket_name=bucket, object_name="key") == "NoSuchKey"
    wrong = Minio(endpoint=store.host, access_key=store.access_key, secret_key="wrong" * 8, secure=False)
    assert code(wrong.get_object, bucket_name=bucket, object_name="key") == "SignatureDoesNotMatch"
    minio.remove_bucket(bucket_name=bucket)
