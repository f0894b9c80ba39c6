"""The AWS CLI, with its own transfers and with those of the Common Runtime."""

import os
import subprocess
import sys

import pytest
from store import KEYS, pattern

MIB = 1 << 20


@pytest.fixture(params=["classic", "crt"])
def aws(store, tmp_path, request):
    """Runs `aws`; its standard output, and when it `fails` all that it prints."""
    program = os.path.join(os.path.dirname(sys.executable), "aws")
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "config").write_text(f"[default]\ns3 =\n  preferred_transfer_client = {request.param}\n")
    environment = store.environment(home)

    def run(*arguments, fails=False, stdin=None, **more):
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, env={**environment, **more}, input=stdin, capture_output=True, timeout=600)
        shown = f"{command}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        assert (done.returncode != 0) == fails, shown
        return (done.stdout + (done.stderr if fails else b"")).decode()

    return run


def tree_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_life(aws, bucket, tmp_path):
    aws("s3", "mb", f"s3://{bucket}")
    source = tmp_path / "source"
    keys = [key for key in KEYS if len(key) < 100 and "//" not in key and not key.endswith("/")]
    for index, key in enumerate(keys):
        path = source / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pattern(index * 9973, index))
    (source / "large").write_bytes(pattern(20 * MIB + 1))
    for path in source.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    aws("s3", "sync", source, f"s3://{bucket}/tree", "--no-progress")
    assert aws("s3", "sync", source, f"s3://{bucket}/tree", "--no-progress") == ""
    target = tmp_path / "target"
    aws("s3", "sync", f"s3://{bucket}/tree", target, "--no-progress")
    assert tree_of(target) == tree_of(source)
    assert aws("s3", "sync", f"s3://{bucket}/tree", target, "--no-progress") == ""

    aws("s3", "cp", f"s3://{bucket}/tree/large", f"s3://{bucket}/moved/a b+c")
    aws("s3", "mv", f"s3://{bucket}/moved/a b+c", f"s3://{bucket}/moved/ü")
    assert [line.split()[-1] for line in aws("s3", "ls", f"s3://{bucket}/moved/").splitlines()] == ["ü"]
    # A stream from standard input, of a length that is not known, and back to standard output.
    body = pattern(20 * MIB + 3, 5)
    aws("s3", "cp", "-", f"s3://{bucket}/stream", stdin=body)
    aws("s3", "cp", f"s3://{bucket}/stream", tmp_path / "stream")
    assert (tmp_path / "stream").read_bytes() == body
    aws("s3", "rm", f"s3://{bucket}", "--recursive", "--only-show-errors")
    aws("s3", "rb", f"s3://{bucket}")


def test_errors(aws, bucket, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x")
    assert "NoSuchBucket" in aws("s3", "cp", file, f"s3://{bucket}/key", fails=True)
    assert "NoSuchBucket" in aws("s3", "ls", f"s3://{bucket}", fails=True)
    aws("s3", "mb", f"s3://{bucket}")
    assert "404" in aws("s3", "cp", f"s3://{bucket}/key", file, fails=True)
    assert "SignatureDoesNotMatch" in aws("s3", "ls", fails=True, AWS_SECRET_ACCESS_KEY="wrong" * 8)
    assert "InvalidAccessKeyId" in aws("s3", "ls", fails=True, AWS_ACCESS_KEY_ID="NOBODY")
    aws("s3", "rb", f"s3://{bucket}")
