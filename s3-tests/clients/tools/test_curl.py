"""curl, which signs by itself (--aws-sigv4)."""

import pytest
from store import DOMAIN, pattern

MIB = 1 << 20


@pytest.fixture
def curl(store, run, program):
    path = program("curl")
    common = ["-sS", "--fail-with-body", "--aws-sigv4", "aws:amz:us-east-1:s3", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "--user", f"{store.access_key}:{store.secret_key}"]
    return lambda *arguments, **more: run(path, *common, *arguments, **more)


def test_a_life(curl, store, bucket, tmp_path):
    url = f"{store.endpoint}/{bucket}"
    curl("-X", "PUT", url)
    curl("-X", "PUT", "--data-binary", "hello", f"{url}/key")
    assert curl(f"{url}/key") == "hello"
    assert curl("-r", "1-2", f"{url}/key") == "el"
    assert "<Key>key</Key>" in curl(f"{url}")
    assert "<Code>NoSuchKey</Code>" in curl(f"{url}/missing", fails=True)
    assert "HTTP/1.1 200" in curl("-I", f"{url}/key")
    curl("-X", "DELETE", f"{url}/key")
    curl("-X", "DELETE", url + "/")


def test_a_stream_of_unknown_length(curl, store, bucket, tmp_path):
    """From a pipe curl sends chunks of HTTP, and no length."""
    url = f"{store.endpoint}/{bucket}"
    curl("-X", "PUT", url)
    body = pattern(9 * MIB + 1)
    curl("-T", "-", f"{url}/stream", stdin=body)
    curl("-o", tmp_path / "stream", f"{url}/stream")
    assert (tmp_path / "stream").read_bytes() == body
    curl("-X", "DELETE", f"{url}/stream")
    curl("-X", "DELETE", url + "/")


def test_virtual_hosted_style(curl, store, bucket):
    url = f"http://{bucket}.{DOMAIN}:{store.port}"
    resolve = ["--resolve", f"{bucket}.{DOMAIN}:{store.port}:127.0.0.1"]
    curl(*resolve, "-X", "PUT", url)
    curl(*resolve, "-X", "PUT", "--data-binary", "hello", f"{url}/a/key")
    assert curl(*resolve, f"{url}/a/key") == "hello"
    assert curl(f"{store.endpoint}/{bucket}/a/key") == "hello"
    curl(*resolve, "-X", "DELETE", f"{url}/a/key")
    curl(*resolve, "-X", "DELETE", f"{url}/")
