"""boto3 as applications use it."""

import base64
import hashlib
import io
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor

import boto3.s3.transfer
import pytest
from awscrt import checksums as crt
from botocore.exceptions import ClientError
from conftest import ACCESS_KEY, DOMAIN, SECRET_KEY, pattern

MIB = 1 << 20


def code_of(call, *args, **kwargs):
    """Error code and HTTP status of a call that must fail."""
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def encoded(number, size):
    return base64.b64encode(number.to_bytes(size, "big")).decode()


DIGESTS = {
    "CRC32": lambda data: encoded(zlib.crc32(data), 4),
    "CRC32C": lambda data: encoded(crt.crc32c(data), 4),
    "CRC64NVME": lambda data: encoded(crt.crc64nvme(data), 8),
    "SHA1": lambda data: base64.b64encode(hashlib.sha1(data).digest()).decode(),
    "SHA256": lambda data: base64.b64encode(hashlib.sha256(data).digest()).decode(),
}


def test_a_first_bucket(s3, bucket):
    put = s3.put_object(Bucket=bucket, Key="hello.txt", Body=b"hello world", ContentType="text/plain")
    assert put["ETag"] == '"5eb63bbbe01eeed093cb22bb8f5acdc3"'
    got = s3.get_object(Bucket=bucket, Key="hello.txt")
    assert got["Body"].read() == b"hello world"
    assert got["ContentType"] == "text/plain"
    assert got["ETag"] == put["ETag"]
    assert got["AcceptRanges"] == "bytes"
    assert s3.head_object(Bucket=bucket, Key="hello.txt")["ContentLength"] == 11
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["hello.txt"]
    s3.delete_object(Bucket=bucket, Key="hello.txt")
    assert code_of(s3.get_object, Bucket=bucket, Key="hello.txt") == ("NoSuchKey", 404)
    assert code_of(s3.head_object, Bucket=bucket, Key="hello.txt") == ("404", 404)


@pytest.mark.parametrize("size", [0, 1, 32 * 1024, 32 * 1024 + 1, 65536, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 13 * MIB + 5])
def test_sizes_around_every_border(s3, bucket, size):
    body = pattern(size, size)
    put = s3.put_object(Bucket=bucket, Key="key", Body=body)
    assert put["ETag"].strip('"') == hashlib.md5(body).hexdigest()
    assert s3.get_object(Bucket=bucket, Key="key")["Body"].read() == body
    for first, last in [(0, 0), (size // 2, size // 2 + 70_000), (max(size - 3, 0), size + 10), (65535, 65536), (4 * MIB - 1, 4 * MIB)]:
        if first >= size:
            assert code_of(s3.get_object, Bucket=bucket, Key="key", Range=f"bytes={first}-{last}") == ("InvalidRange", 416)
            continue
        part = s3.get_object(Bucket=bucket, Key="key", Range=f"bytes={first}-{last}")
        assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert part["Body"].read() == body[first : last + 1], (first, last)
    if size > 4:
        assert s3.get_object(Bucket=bucket, Key="key", Range="bytes=-5")["Body"].read() == body[-5:]


KEYS = [
    "plain",
    "with space",
    "a+b",
    "100%",
    "%2F",
    "%41",
    "ünïcödé/ключ/鍵/🗝",
    "..",
    "../up",
    "a/../b",
    "./a",
    "a/./b",
    "//",
    "/leading",
    "a//b",
    "trailing/",
    "trailing//",
    "?query=1&x",
    "#fragment",
    "semi;colon,comma",
    "quo\"te'<&>",
    "back\\slash",
    "tab\there",
    "new\nline",
    "\u007f",
    "=",
    "~tilde-._",
    "[]{}|^`",
    "*!()@$:",
    "é" * 512,
    "k" * 1024,
    "a\ufffd",
    "a\U0010ffff",
    "-/ready",
]


def test_keys_are_bytes_never_paths(s3, bucket):
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    for key in KEYS:
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode(), repr(key)
        assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(key.encode())
    listed = [entry["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 5}) for entry in page["Contents"]]
    assert listed == sorted(KEYS, key=str.encode)
    listed = [entry["Key"] for page in s3.get_paginator("list_objects").paginate(Bucket=bucket, PaginationConfig={"PageSize": 3}) for entry in page["Contents"]]
    assert listed == sorted(KEYS, key=str.encode)
    for key in KEYS:
        s3.copy_object(Bucket=bucket, Key="copy of " + key[:500], CopySource={"Bucket": bucket, "Key": key})
        assert s3.get_object(Bucket=bucket, Key="copy of " + key[:500])["Body"].read() == key.encode(), repr(key)
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in KEYS]})
    left = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert all(key.startswith("copy of ") for key in left)


def test_delimiters_and_order(s3, bucket):
    keys = ["a", "a/", "a/1", "a/2", "a/b/3", "a0", "b/1", "b!", "c", "ä/1", "Z"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [entry["Key"] for entry in page["Contents"]] == ["Z", "a", "a0", "b!", "c"]
    assert [entry["Prefix"] for entry in page["CommonPrefixes"]] == ["a/", "b/", "ä/"]
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/", Prefix="a/")
    assert [entry["Key"] for entry in page["Contents"]] == ["a/", "a/1", "a/2"]
    assert [entry["Prefix"] for entry in page["CommonPrefixes"]] == ["a/b/"]
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="1")
    assert [entry["Prefix"] for entry in page["CommonPrefixes"]] == ["a/1", "b/1", "ä/1"]
    page = s3.list_objects_v2(Bucket=bucket, Delimiter="/", StartAfter="a0", EncodingType="url")
    assert [entry["Prefix"] for entry in page["CommonPrefixes"]] == ["b/", "%C3%A4/"]
    assert [entry["Key"] for entry in page["Contents"]] == ["b%21", "c"]
    first = s3.list_objects(Bucket=bucket, Delimiter="/", MaxKeys=3)
    assert first["IsTruncated"] and first["NextMarker"] == "a/"
    second = s3.list_objects(Bucket=bucket, Delimiter="/", Marker=first["NextMarker"])
    assert [entry["Key"] for entry in second["Contents"]] == ["a0", "b!", "c"]
    assert [entry["Prefix"] for entry in second["CommonPrefixes"]] == ["b/", "ä/"]
    entry = s3.list_objects_v2(Bucket=bucket, Prefix="c", FetchOwner=True)["Contents"][0]
    assert entry["Size"] == 0 and entry["StorageClass"] == "STANDARD" and entry["Owner"]["ID"]
    assert entry["ETag"] == '"d41d8cd98f00b204e9800998ecf8427e"'


def test_a_thousand_keys_a_page(s3, bucket):
    keys = [f"{index:05d}" for index in range(2500)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket=bucket, Key=key, Body=b"x"), keys))
    pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket=bucket))
    assert [page["KeyCount"] for page in pages] == [1000, 1000, 500]
    assert [entry["Key"] for page in pages for entry in page["Contents"]] == keys
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)["KeyCount"] == 1000


@pytest.mark.parametrize("algorithm", DIGESTS)
def test_checksums_as_header(s3, bucket, algorithm):
    body = pattern(300_000, 1)
    digest = DIGESTS[algorithm](body)
    field = "Checksum" + algorithm
    put = s3.put_object(Bucket=bucket, Key="key", Body=body, **{field: digest})
    assert put[field] == digest
    assert put["ChecksumType"] == "FULL_OBJECT"
    head = s3.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")
    assert head[field] == digest
    attributes = s3.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["Checksum"])
    assert attributes["Checksum"][field] == digest
    assert field not in s3.head_object(Bucket=bucket, Key="key")
    wrong = DIGESTS[algorithm](b"something else")
    assert code_of(s3.put_object, Bucket=bucket, Key="key", Body=body, **{field: wrong}) == ("BadDigest", 400)
    assert s3.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")[field] == digest


@pytest.mark.parametrize("algorithm", DIGESTS)
def test_checksums_as_trailer(server, bucket, algorithm):
    """boto3 sends aws-chunked bodies with a trailer to HTTPS endpoints only, so it is told of one, and its requests
    go out in the clear."""
    client = server.client(endpoint_url=server.endpoint.replace("http:", "https:"))
    sent = []

    def in_the_clear(request, **_):
        sent.append({name.lower(): value for name, value in request.headers.items()})
        request.url = request.url.replace("https:", "http:")

    client.meta.events.register("before-send.s3", in_the_clear)
    text = lambda value: value.decode() if isinstance(value, bytes) else value
    for size in (0, 1, 5 * MIB + 11):
        body = pattern(size, 2)
        put = client.put_object(Bucket=bucket, Key="key", Body=io.BytesIO(body), ChecksumAlgorithm=algorithm)
        assert text(sent[-1]["x-amz-content-sha256"]) == "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        assert text(sent[-1]["x-amz-trailer"]) == "x-amz-checksum-" + algorithm.lower()
        assert put["Checksum" + algorithm] == DIGESTS[algorithm](body)
        got = client.get_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")
        assert got["Body"].read() == body
        assert got.get("ContentEncoding") is None, "aws-chunked is not a part of the object"
        assert got["ETag"].strip('"') == hashlib.md5(body).hexdigest()


def test_without_the_common_runtime(server, bucket):
    """boto3 signs by itself where awscrt is not installed."""
    script = f"""
import io, boto3
from botocore.config import Config
from botocore.compat import HAS_CRT
assert not HAS_CRT
s3 = boto3.client("s3", endpoint_url={server.endpoint!r}, aws_access_key_id={ACCESS_KEY!r},
    aws_secret_access_key={SECRET_KEY!r}, region_name="us-east-1", config=Config(s3={{"addressing_style": "path"}}))
for key in {KEYS!r}:
    s3.put_object(Bucket={bucket!r}, Key=key, Body=io.BytesIO(b"x" * 100_000), Metadata={{"a": "b  c"}})
    assert len(s3.get_object(Bucket={bucket!r}, Key=key)["Body"].read()) == 100_000
"""
    environment = {**os.environ, "BOTO_DISABLE_CRT": "true"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def multipart(s3, bucket, key, body, part_size, **create):
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key, **create)["UploadId"]
    parts = []
    algorithm = create.get("ChecksumAlgorithm")
    for number, start in enumerate(range(0, len(body), part_size), 1):
        more = {"ChecksumAlgorithm": algorithm} if algorithm else {}
        sent = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=body[start : start + part_size], **more)
        part = {"PartNumber": number, "ETag": sent["ETag"]}
        if algorithm:
            part["Checksum" + algorithm] = sent["Checksum" + algorithm]
        parts.append(part)
    return s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


@pytest.mark.parametrize(
    "algorithm, kind",
    [("CRC32", "COMPOSITE"), ("CRC32", "FULL_OBJECT"), ("CRC32C", "COMPOSITE"), ("CRC32C", "FULL_OBJECT"), ("CRC64NVME", "FULL_OBJECT"), ("SHA1", "COMPOSITE"), ("SHA256", "COMPOSITE")],
)
def test_checksums_of_multipart(s3, bucket, algorithm, kind):
    body = pattern(12 * MIB + 3, 3)
    done = multipart(s3, bucket, "key", body, 5 * MIB, ChecksumAlgorithm=algorithm, ChecksumType=kind)
    digest = DIGESTS[algorithm]
    if kind == "FULL_OBJECT":
        expected = digest(body)
    else:
        parts = [body[start : start + 5 * MIB] for start in range(0, len(body), 5 * MIB)]
        expected = digest(b"".join(base64.b64decode(digest(part)) for part in parts)) + "-3"
    assert done["Checksum" + algorithm] == expected
    assert done["ChecksumType"] == kind
    head = s3.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")
    assert head["Checksum" + algorithm] == expected and head["ChecksumType"] == kind
    md5 = hashlib.md5(b"".join(hashlib.md5(body[start : start + 5 * MIB]).digest() for start in range(0, len(body), 5 * MIB)))
    assert done["ETag"] == f'"{md5.hexdigest()}-3"'
    assert s3.get_object(Bucket=bucket, Key="key")["Body"].read() == body
    attributes = s3.get_object_attributes(Bucket=bucket, Key="key", ObjectAttributes=["ObjectParts", "Checksum", "ObjectSize"])
    assert attributes["ObjectSize"] == len(body)
    assert attributes["ObjectParts"]["TotalPartsCount"] == 3


def test_sha_has_no_full_object_form(s3, bucket):
    assert code_of(s3.create_multipart_upload, Bucket=bucket, Key="key", ChecksumAlgorithm="SHA256", ChecksumType="FULL_OBJECT")[1] == 400


def test_multipart_replaced_parts_and_gaps(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="key")["UploadId"]
    send = lambda number, body: s3.upload_part(Bucket=bucket, Key="key", UploadId=upload, PartNumber=number, Body=body)["ETag"]
    send(7, pattern(5 * MIB, 1))
    seven = send(7, pattern(5 * MIB, 2))
    last = send(10_000, b"end")
    send(500, b"left out")
    done = s3.complete_multipart_upload(
        Bucket=bucket, Key="key", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 7, "ETag": seven}, {"PartNumber": 10_000, "ETag": last}]}
    )
    assert done["ETag"].endswith('-2"')
    assert s3.get_object(Bucket=bucket, Key="key")["Body"].read() == pattern(5 * MIB, 2) + b"end"
    again = s3.complete_multipart_upload
    parts = {"Parts": [{"PartNumber": 7, "ETag": seven}, {"PartNumber": 10_000, "ETag": last}]}
    # Complete may be repeated by a client that lost the answer: success again, or an upload that is gone.
    try:
        assert again(Bucket=bucket, Key="key", UploadId=upload, MultipartUpload=parts)["ETag"] == done["ETag"]
    except ClientError as error:
        assert error.response["Error"]["Code"] == "NoSuchUpload"


def test_the_transfer_manager(s3, bucket, tmp_path):
    body = pattern(40 * MIB + 123, 4)
    source = tmp_path / "source"
    source.write_bytes(body)
    config = boto3.s3.transfer.TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB, max_concurrency=8)
    seen = []
    s3.upload_file(str(source), bucket, "key", Config=config, Callback=seen.append, ExtraArgs={"Metadata": {"a": "b"}})
    assert sum(seen) == len(body)
    head = s3.head_object(Bucket=bucket, Key="key")
    assert head["Metadata"] == {"a": "b"} and head["ETag"].endswith('-6"')
    target = tmp_path / "target"
    s3.download_file(bucket, "key", str(target), Config=config)
    assert target.read_bytes() == body
    s3.copy({"Bucket": bucket, "Key": "key"}, bucket, "copied", Config=config)
    assert s3.get_object(Bucket=bucket, Key="copied")["Body"].read() == body
    stream = io.BytesIO()
    s3.download_fileobj(bucket, "copied", stream, Config=config)
    assert stream.getvalue() == body


@pytest.mark.parametrize("payload_signing", [True, False])
@pytest.mark.parametrize("calculation", ["when_supported", "when_required"])
def test_payload_signing_and_checksum_settings(server, bucket, payload_signing, calculation):
    client = server.client(s3={"addressing_style": "path", "payload_signing_enabled": payload_signing}, request_checksum_calculation=calculation)
    for size in (0, 10, 3 * MIB):
        body = pattern(size, 5)
        client.put_object(Bucket=bucket, Key="key", Body=io.BytesIO(body))
        assert client.get_object(Bucket=bucket, Key="key")["Body"].read() == body


def fetch(url, method="GET", data=None, headers=None):
    request = urllib.request.Request(url, data=data, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("key", ["plain", "dir/ä b+c%.txt", "a//b/../c/"])
def test_presigned(server, bucket, key):
    # Unless told otherwise boto3 presigns with Signature Version 2, which is not supported.
    s3 = server.client(signature_version="s3v4")
    put = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=300)
    assert fetch(put, "PUT", b"presigned")[0] == 200
    get = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key, "ResponseContentType": "text/x"}, ExpiresIn=300)
    assert fetch(get) == (200, b"presigned")
    status, body = fetch(get.replace("X-Amz-Signature=", "X-Amz-Signature=0"))
    assert status == 403 and b"<Code>SignatureDoesNotMatch</Code>" in body
    assert fetch(s3.generate_presigned_url("delete_object", Params={"Bucket": bucket, "Key": key}), "DELETE")[0] == 204
    assert fetch(get)[0] == 404


def test_presigned_by_signature_version_2(s3, bucket):
    """What boto3 does unless told otherwise."""
    s3.put_object(Bucket=bucket, Key="by v2", Body=b"signed")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "by v2"})
    assert "AWSAccessKeyId=" in url
    assert fetch(url) == (200, b"signed")
    status, body = fetch(url.replace("Signature=", "Signature=A"))
    assert status == 403 and b"<Code>SignatureDoesNotMatch</Code>" in body


def test_an_unsigned_request_is_refused(server, bucket):
    status, body = fetch(f"{server.endpoint}/{bucket}/key")
    assert status == 403 and b"<Code>AccessDenied</Code>" in body


def test_virtual_hosted_style(server, s3, bucket):
    """The name of the bucket comes in the Host header; the connection goes to the loopback address."""
    import http.client

    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    def call(method, host, path, body=b""):
        request = AWSRequest(method=method, url=f"http://{host}{path}", data=body, headers={"Host": host})
        S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()

    for host in (f"{bucket}.{DOMAIN}", f"{bucket}.{DOMAIN}:{server.port}"):
        assert call("PUT", host, "/dir/key", b"by host")[0] == 200
        assert call("GET", host, "/dir/key") == (200, b"by host")
        status, listing = call("GET", host, "/?list-type=2")
        assert status == 200 and b"<Key>dir/key</Key>" in listing
        # The first segment of the path belongs to the key, whatever it is called.
        assert call("PUT", host, f"/{bucket}/x", b"y")[0] == 200
        assert s3.get_object(Bucket=bucket, Key=f"{bucket}/x")["Body"].read() == b"y"
    assert call("GET", DOMAIN, f"/{bucket}/dir/key") == (200, b"by host")
    status, buckets = call("GET", DOMAIN, "/")
    assert status == 200 and bucket.encode() in buckets
    assert s3.get_object(Bucket=bucket, Key="dir/key")["Body"].read() == b"by host"


def race(count, work):
    """Runs `work(index)` on `count` threads at the same moment; the results in order."""
    barrier = threading.Barrier(count)

    def run(index):
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def outcome(call, **arguments):
    """'won', or the error code."""
    while True:
        try:
            call(**arguments)
            return "won"
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code != "ConditionalRequestConflict":
                return code


@pytest.mark.parametrize("size", [10, 5 * MIB])
def test_one_of_many_creators_wins(server, s3, bucket, size):
    clients = [server.client(max_pool_connections=2) for _ in range(32)]
    for attempt in range(5 if size < MIB else 2):
        key = f"race-{attempt}"
        results = race(32, lambda index: outcome(clients[index].put_object, Bucket=bucket, Key=key, Body=bytes([index]) * size, IfNoneMatch="*"))
        assert sorted(set(results)) == ["PreconditionFailed", "won"]
        assert results.count("won") == 1
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        assert body == bytes([results.index("won")]) * size


def test_one_of_many_changers_wins(server, s3, bucket):
    clients = [server.client() for _ in range(32)]
    etag = s3.put_object(Bucket=bucket, Key="key", Body=b"start")["ETag"]
    for _ in range(5):
        results = race(32, lambda index: outcome(clients[index].put_object, Bucket=bucket, Key="key", Body=b"%d" % index + etag.encode(), IfMatch=etag))
        assert results.count("won") == 1 and set(results) == {"PreconditionFailed", "won"}
        got = s3.get_object(Bucket=bucket, Key="key")
        assert got["Body"].read() == b"%d" % results.index("won") + etag.encode()
        etag = got["ETag"]


def test_one_of_many_completions_wins(server, s3, bucket):
    clients = [server.client() for _ in range(8)]
    uploads = []
    for index in range(8):
        upload = s3.create_multipart_upload(Bucket=bucket, Key="key")["UploadId"]
        part = s3.upload_part(Bucket=bucket, Key="key", UploadId=upload, PartNumber=1, Body=b"%d" % index)["ETag"]
        uploads.append((upload, part))

    def complete(index):
        upload, etag = uploads[index]
        return outcome(
            clients[index].complete_multipart_upload,
            Bucket=bucket,
            Key="key",
            UploadId=upload,
            IfNoneMatch="*",
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]},
        )

    results = race(8, complete)
    assert results.count("won") == 1 and set(results) == {"PreconditionFailed", "won"}
    assert s3.get_object(Bucket=bucket, Key="key")["Body"].read() == b"%d" % results.index("won")


def test_reads_after_writes_are_never_stale(server, s3, bucket):
    """Each thread overwrites a key and must at once read, head and list what it wrote."""

    def run(index):
        client = server.client()
        for turn in range(20):
            body = b"%d:%d" % (index, turn) * (turn + 1)
            etag = client.put_object(Bucket=bucket, Key=f"key-{index}", Body=body)["ETag"]
            assert client.get_object(Bucket=bucket, Key=f"key-{index}")["Body"].read() == body
            assert client.head_object(Bucket=bucket, Key=f"key-{index}")["ETag"] == etag
            listed = client.list_objects_v2(Bucket=bucket, Prefix=f"key-{index}")["Contents"]
            assert [(entry["Key"], entry["ETag"]) for entry in listed] == [(f"key-{index}", etag)]
            if turn % 5 == 4:
                client.delete_object(Bucket=bucket, Key=f"key-{index}")
                assert "Contents" not in client.list_objects_v2(Bucket=bucket, Prefix=f"key-{index}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))


def test_conditional_copy_and_delete(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="a", Body=b"1")["ETag"]
    s3.copy_object(Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "a"}, IfNoneMatch="*")
    assert code_of(s3.copy_object, Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "a"}, IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert code_of(s3.copy_object, Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "a"}, CopySourceIfNoneMatch=etag) == ("PreconditionFailed", 412)
    assert code_of(s3.delete_object, Bucket=bucket, Key="a", IfMatch='"0"') == ("PreconditionFailed", 412)
    s3.delete_object(Bucket=bucket, Key="a", IfMatch=etag)
    assert code_of(s3.head_object, Bucket=bucket, Key="a") == ("404", 404)


def test_tags(s3, bucket):
    s3.put_object(Bucket=bucket, Key="key", Body=b"x", Tagging="color=blue&size=x%20l")
    tags = s3.get_object_tagging(Bucket=bucket, Key="key")["TagSet"]
    assert tags == [{"Key": "color", "Value": "blue"}, {"Key": "size", "Value": "x l"}]
    etag = s3.head_object(Bucket=bucket, Key="key")["ETag"]
    s3.put_object_tagging(Bucket=bucket, Key="key", Tagging={"TagSet": [{"Key": "ä", "Value": "ö"}]})
    assert s3.get_object_tagging(Bucket=bucket, Key="key")["TagSet"] == [{"Key": "ä", "Value": "ö"}]
    assert s3.head_object(Bucket=bucket, Key="key")["ETag"] == etag
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "key"})
    assert s3.get_object_tagging(Bucket=bucket, Key="copy")["TagSet"] == [{"Key": "ä", "Value": "ö"}]
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "key"}, TaggingDirective="REPLACE", Tagging="a=b")
    assert s3.get_object_tagging(Bucket=bucket, Key="copy")["TagSet"] == [{"Key": "a", "Value": "b"}]
    s3.delete_object_tagging(Bucket=bucket, Key="key")
    assert s3.get_object_tagging(Bucket=bucket, Key="key")["TagSet"] == []


def test_metadata(s3, bucket):
    s3.put_object(Bucket=bucket, Key="key", Body=b"x", Metadata={"a": "1", "UPPER": "Case Kept"}, ContentEncoding="gzip", Expires="Thu, 01 Jan 2037 00:00:00 GMT")
    head = s3.head_object(Bucket=bucket, Key="key")
    assert head["Metadata"] == {"a": "1", "upper": "Case Kept"}
    assert head["ContentEncoding"] == "gzip"
    assert head["ExpiresString"] == "Thu, 01 Jan 2037 00:00:00 GMT"
    assert head["ContentType"] == "binary/octet-stream"
    assert code_of(s3.put_object, Bucket=bucket, Key="key", Body=b"x", Metadata={"a": "x" * 2100}) == ("MetadataTooLarge", 400)


def test_a_body_left_unread_harms_nobody(server, bucket):
    client = server.client()
    client.put_object(Bucket=bucket, Key="big", Body=pattern(30 * MIB, 6))
    for _ in range(20):
        client.get_object(Bucket=bucket, Key="big")["Body"].close()
    assert client.get_object(Bucket=bucket, Key="big")["Body"].read() == pattern(30 * MIB, 6)


def test_many_objects_deleted_at_once(s3, bucket):
    keys = [f"key-{index:04d}" for index in range(1000)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: s3.put_object(Bucket=bucket, Key=key, Body=b"x"), keys))
    done = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert sorted(entry["Key"] for entry in done["Deleted"]) == keys
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_lists_that_were_read_are_put_back(s3, bucket):
    everybody = "http://acs.amazonaws.com/groups/global/AllUsers"
    s3.put_object(Bucket=bucket, Key="key", Body=b"x", GrantRead=f'uri="{everybody}"')
    for get, put, names in [
        (s3.get_bucket_acl, s3.put_bucket_acl, {"Bucket": bucket}),
        (s3.get_object_acl, s3.put_object_acl, {"Bucket": bucket, "Key": "key"}),
    ]:
        put(**names, ACL="public-read")
        read = get(**names)
        assert [grant["Permission"] for grant in read["Grants"]] == ["FULL_CONTROL", "READ"]
        put(**names, ACL="private")
        assert len(get(**names)["Grants"]) == 1
        put(**names, AccessControlPolicy={"Owner": read["Owner"], "Grants": read["Grants"]})
        assert get(**names)["Grants"] == read["Grants"]


def test_what_is_not_there_is_said(s3, bucket):
    s3.put_object(Bucket=bucket, Key="key", Body=b"x")
    for call, arguments in [
        (s3.put_bucket_policy, {"Policy": "{}"}),
        (s3.put_bucket_accelerate_configuration, {"AccelerateConfiguration": {"Status": "Enabled"}}),
        (s3.get_object_torrent, {"Key": "key"}),
        (s3.put_object, {"Key": "key", "Body": b"", "ServerSideEncryption": "aws:kms"}),
        (s3.put_object, {"Key": "key", "Body": b"", "GrantRead": "emailAddress=a@b.c"}),
        (s3.put_object, {"Key": "key", "Body": b"", "ACL": "log-delivery-write"}),
    ]:
        assert code_of(call, Bucket=bucket, **arguments) == ("NotImplemented", 501), (call, arguments)
    assert code_of(s3.get_bucket_policy, Bucket=bucket) == ("NoSuchBucketPolicy", 404)
    assert code_of(s3.get_bucket_replication, Bucket=bucket) == ("ReplicationConfigurationNotFoundError", 404)
