"""boto3 in each of its settings."""

import http.client
import io
import urllib.request

import botocore.session
import pytest
from boto import MIB, client, code_of, live, remove
from boto3.s3.transfer import TransferConfig
from s3transfer import crt
from store import DOMAIN, REGION, pattern

SETTINGS = [
    {"request_checksum_calculation": calculation, "response_checksum_validation": validation, "s3": {"addressing_style": "path", "payload_signing_enabled": signed}}
    for calculation in ("when_supported", "when_required")
    for validation in ("when_supported", "when_required")
    for signed in (True, False, None)
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(str(value) for value in (settings["request_checksum_calculation"], settings["response_checksum_validation"], settings["s3"]["payload_signing_enabled"])))
def test_each_checksum_and_signing_mode(store, bucket, tmp_path, settings):
    live(client(store, **settings), bucket, tmp_path)


@pytest.mark.parametrize("signature", ["s3v4", "s3"])
def test_presigned(store, bucket, signature):
    s3 = client(store, signature_version=signature)
    client(store).create_bucket(Bucket=bucket)
    key = "dir/ä b+c%.txt"

    def send(operation, method, data=None, expect=200, **arguments):
        url = s3.generate_presigned_url(operation, Params={"Bucket": bucket, "Key": key, **arguments}, ExpiresIn=60)
        # Nothing but what the URL says: a Content-Type, which urllib adds, would be part of what V2 signs.
        connection = http.client.HTTPConnection("127.0.0.1", store.port, timeout=60)
        connection.request(method, url.removeprefix(store.endpoint), body=data)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert answer.status == expect, body
        return body, answer.headers

    send("put_object", "PUT", b"signed")
    assert send("get_object", "GET")[0] == b"signed"
    body, headers = send("get_object", "GET", ResponseContentType="text/x-test", ResponseContentDisposition='attachment; filename="a b"')
    assert body == b"signed" and headers["Content-Type"] == "text/x-test"
    assert headers["Content-Disposition"] == 'attachment; filename="a b"'
    send("delete_object", "DELETE", expect=204)
    assert b"<Code>NoSuchKey</Code>" in send("get_object", "GET", expect=404)[0]
    remove(client(store), bucket)


def test_a_wrong_secret(store, bucket):
    code, status, message = code_of(client(store, secret_key="wrong" * 8).list_buckets)
    assert (code, status) == ("SignatureDoesNotMatch", 403)
    assert "Check your key" in message


@pytest.mark.parametrize("size", [1, 5 * MIB, 40 * MIB + 3])
def test_the_common_runtime(store, bucket, tmp_path, size):
    """Transfers by awscrt: other framing, other retries, ranged parallel reads.

    boto3 itself uses it with TLS and AWS's own endpoints only, so it is put together as the AWS CLI does.
    """
    s3 = client(store)
    s3.create_bucket(Bucket=bucket)
    session = botocore.session.Session()
    session.set_credentials(store.access_key, store.secret_key)
    provider = crt.BotocoreCRTCredentialsWrapper(session.get_credentials()).to_crt_credentials_provider()
    serializer = crt.BotocoreCRTRequestSerializer(session, {"region_name": REGION, "endpoint_url": store.endpoint})
    body = pattern(size, size)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(body)
    with crt.CRTTransferManager(crt.create_s3_crt_client(REGION, provider, use_ssl=False), serializer) as transfers:
        for key in ("plain", "dir/ä b+c%"):
            transfers.upload(str(source), bucket, key).result()
            transfers.download(bucket, key, str(target)).result()
            assert target.read_bytes() == body
            transfers.upload(io.BytesIO(body), bucket, key).result()
            out = io.BytesIO()
            transfers.download(bucket, key, out).result()
            assert out.getvalue() == body
            transfers.delete(bucket, key).result()
        with pytest.raises(Exception, match="NoSuchKey|404"):
            transfers.download(bucket, "missing", io.BytesIO()).result()
    remove(s3, bucket)


def test_virtual_hosted_style(store, bucket, monkeypatch):
    """BUCKET.DOMAIN in the Host header; names of the domain resolve to the store for the time of the test."""
    import socket

    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: resolve("127.0.0.1" if str(host).endswith(DOMAIN) else host, *rest, **more))
    s3 = client(store, endpoint_url=f"http://{DOMAIN}:{store.port}", signature_version="s3v4", s3={"addressing_style": "virtual"})
    s3.create_bucket(Bucket=bucket)
    for key in ("key", "dir/ä b+c%", "a//b"):
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
        assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
        url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})
        assert url.startswith(f"http://{bucket}.{DOMAIN}")
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert answer.read() == key.encode()
    assert [entry["Key"] for entry in client(store).list_objects_v2(Bucket=bucket)["Contents"]] == ["a//b", "dir/ä b+c%", "key"]
    remove(s3, bucket)


def test_it_goes_on_while_nodes_die(store, bucket, dying, tmp_path):
    """boto3's own retries, behind a load balancer, are all that it takes."""
    s3 = client(store, retries={"max_attempts": 12, "mode": "standard"}, connect_timeout=5, read_timeout=20)
    s3.create_bucket(Bucket=bucket)
    with dying() as deaths:
        written = 0
        while deaths.kills < 3 and not deaths.failure:
            small, large = pattern(written * 997 % 60_000, written), pattern(9 * MIB + written, written)
            s3.put_object(Bucket=bucket, Key=f"small/{written}", Body=small)
            s3.upload_fileobj(io.BytesIO(large), bucket, f"large/{written % 4}", Config=TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB))
            assert s3.get_object(Bucket=bucket, Key=f"small/{written}")["Body"].read() == small
            assert s3.get_object(Bucket=bucket, Key=f"large/{written % 4}")["Body"].read() == large
            written += 1
            listed = s3.list_objects_v2(Bucket=bucket, Prefix="small/")
            assert listed["KeyCount"] == min(written, 1000)
    for index in range(written):
        assert s3.get_object(Bucket=bucket, Key=f"small/{index}")["Body"].read() == pattern(index * 997 % 60_000, index)
    remove(s3, bucket)
