"""The AWS CLI as people type it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import uuid

import pytest
from conftest import ACCESS_KEY, SECRET_KEY, empty, pattern

MIB = 1 << 20


@pytest.fixture
def aws(server, tmp_path):
    """Runs `aws` with arguments; its standard output. With `fails` it must fail, and what it complains of is added."""
    program = os.path.join(os.path.dirname(sys.executable), "aws")
    program = program if os.path.exists(program) else shutil.which("aws")
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_MAX_ATTEMPTS": "2",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
    }

    def run(*arguments, fails=False, stdin=None):
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, env=environment, input=stdin, capture_output=True, timeout=600)
        shown = f"{command}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        assert (done.returncode != 0) == fails, shown
        return (done.stdout + (done.stderr if fails else b"")).decode()

    return run


def test_a_first_bucket(aws, tmp_path):
    name = "cli-" + uuid.uuid4().hex[:16]
    assert name in aws("s3", "mb", f"s3://{name}")
    assert name in aws("s3", "ls")
    file = tmp_path / "file.txt"
    file.write_bytes(b"hello from the command line")
    aws("s3", "cp", file, f"s3://{name}/dir/file.txt")
    assert "PRE dir/" in aws("s3", "ls", f"s3://{name}")
    assert "27 file.txt" in aws("s3", "ls", f"s3://{name}/dir/")
    assert aws("s3", "cp", f"s3://{name}/dir/file.txt", "-") == "hello from the command line"
    aws("s3", "mv", f"s3://{name}/dir/file.txt", f"s3://{name}/moved.txt")
    assert aws("s3", "ls", f"s3://{name}", "--recursive").split()[-1] == "moved.txt"
    assert "BucketNotEmpty" in aws("s3", "rb", f"s3://{name}", fails=True)
    aws("s3", "rm", f"s3://{name}/moved.txt")
    aws("s3", "rb", f"s3://{name}")
    assert "NoSuchBucket" in aws("s3", "ls", f"s3://{name}", fails=True)


def test_streams(aws, bucket):
    body = pattern(20 * MIB + 1, 1)
    aws("s3", "cp", "-", f"s3://{bucket}/stream", stdin=body)
    head = json.loads(aws("s3api", "head-object", "--bucket", bucket, "--key", "stream"))
    assert head["ContentLength"] == len(body)


def test_sync(aws, bucket, tmp_path):
    source = tmp_path / "source"
    files = {f"d{index % 3}/f {index}+ä.bin": pattern(index * 40_000, index) for index in range(30)}
    files["big.bin"] = pattern(17 * MIB, 99)
    for name, body in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        # Older than the upload, also where times are cut to seconds.
        os.utime(path, (1_700_000_000, 1_700_000_000))
    assert aws("s3", "sync", source, f"s3://{bucket}/tree", "--no-progress").count("upload:") == len(files)
    assert aws("s3", "sync", source, f"s3://{bucket}/tree", "--no-progress") == ""
    (source / "big.bin").unlink()
    (source / "new").write_bytes(b"new")
    changes = aws("s3", "sync", source, f"s3://{bucket}/tree", "--delete", "--no-progress")
    assert sorted(line.split(":")[0] for line in changes.splitlines()) == ["delete", "upload"]
    target = tmp_path / "target"
    aws("s3", "sync", f"s3://{bucket}/tree", target, "--no-progress")
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    del files["big.bin"]
    files["new"] = b"new"
    assert found == files
    aws("s3", "rm", f"s3://{bucket}/tree", "--recursive")
    assert "Contents" not in aws("s3api", "list-objects-v2", "--bucket", bucket)


def test_s3api(aws, bucket, tmp_path):
    file = tmp_path / "body"
    file.write_bytes(b"0123456789")
    put = json.loads(aws("s3api", "put-object", "--bucket", bucket, "--key", "a b/ä", "--body", file, "--metadata", "k=v", "--checksum-algorithm", "SHA256"))
    assert put["ETag"] == f'"{hashlib.md5(b"0123456789").hexdigest()}"'
    out = tmp_path / "out"
    got = json.loads(aws("s3api", "get-object", "--bucket", bucket, "--key", "a b/ä", "--range", "bytes=2-5", out))
    assert out.read_bytes() == b"2345" and got["ContentRange"] == "bytes 2-5/10" and got["Metadata"] == {"k": "v"}
    attributes = json.loads(aws("s3api", "get-object-attributes", "--bucket", bucket, "--key", "a b/ä", "--object-attributes", "ETag", "ObjectSize", "Checksum"))
    assert attributes["ObjectSize"] == 10 and attributes["Checksum"]["ChecksumSHA256"] == put["ChecksumSHA256"]
    listing = json.loads(aws("s3api", "list-objects-v2", "--bucket", bucket, "--prefix", "a b"))
    assert [entry["Key"] for entry in listing["Contents"]] == ["a b/ä"]
    assert "PreconditionFailed" in aws("s3api", "put-object", "--bucket", bucket, "--key", "a b/ä", "--body", file, "--if-none-match", "*", fails=True)
    assert "NoSuchBucketPolicy" in aws("s3api", "get-bucket-policy", "--bucket", bucket, fails=True)
    assert "NotImplemented" in aws("s3api", "get-object-torrent", "--bucket", bucket, "--key", "a b/ä", out, fails=True)
    assert json.loads(aws("s3api", "list-buckets"))["Buckets"]
    aws("s3api", "delete-objects", "--bucket", bucket, "--delete", json.dumps({"Objects": [{"Key": "a b/ä"}]}))
    assert "404" in aws("s3api", "head-object", "--bucket", bucket, "--key", "a b/ä", fails=True)


def test_presign(aws, bucket):
    aws("s3", "cp", "-", f"s3://{bucket}/key", stdin=b"signed")
    # Version 1 of the CLI presigns with Signature Version 2 unless told otherwise.
    aws("configure", "set", "default.s3.signature_version", "s3v4")
    url = aws("s3", "presign", f"s3://{bucket}/key").strip()
    import urllib.request

    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.read() == b"signed"


def test_multipart_of_one_gibibyte(aws, s3, bucket, tmp_path):
    size = 1 << 30
    source, target = tmp_path / "source", tmp_path / "target"
    digest = hashlib.sha256()
    block = pattern(64 * MIB + 4099, 7)
    with source.open("wb") as out:
        left = size
        while left:
            piece = block[: min(left, len(block))]
            out.write(piece)
            digest.update(piece)
            left -= len(piece)
    try:
        aws("s3", "cp", source, f"s3://{bucket}/gib", "--no-progress")
        assert s3.head_object(Bucket=bucket, Key="gib")["ContentLength"] == size
        aws("s3", "cp", f"s3://{bucket}/gib", target, "--no-progress")
        back = hashlib.sha256()
        with target.open("rb") as copy:
            while piece := copy.read(MIB):
                back.update(piece)
        assert back.hexdigest() == digest.hexdigest()
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        empty(s3, bucket)
