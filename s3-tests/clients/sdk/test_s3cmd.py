"""s3cmd, which has a client of its own and signs with either version."""

import os
import subprocess
import sys

import pytest
from store import KEYS, pattern

MIB = 1 << 20


@pytest.fixture(params=["v4", "v2"])
def s3cmd(store, tmp_path, request):
    program = os.path.join(os.path.dirname(sys.executable), "s3cmd")
    config = tmp_path / "s3cfg"
    config.write_text(
        f"[default]\naccess_key = {store.access_key}\nsecret_key = {store.secret_key}\nhost_base = {store.host}\nhost_bucket = {store.host}\n"
        f"use_https = False\nsignature_v2 = {request.param == 'v2'}\nbucket_location = us-east-1\nmax_retries = 1\n"
    )

    def run(*arguments, fails=False, stdin=None):
        command = [program, "-c", str(config), "--no-progress", *map(str, arguments)]
        done = subprocess.run(command, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}, input=stdin, capture_output=True, timeout=300)
        shown = f"{command}: {done.returncode}\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
        assert (done.returncode != 0) == fails, shown
        return (done.stdout + (done.stderr if fails else b"")).decode()

    return run


def test_a_life(s3cmd, bucket, tmp_path):
    s3cmd("mb", f"s3://{bucket}")
    source = tmp_path / "source"
    for index, key in enumerate(key for key in KEYS if len(key) < 100 and "//" not in key and not key.endswith("/")):
        path = source / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pattern(index * 5000, index))
    (source / "large").write_bytes(pattern(17 * MIB + 1))
    files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    assert s3cmd("sync", "--multipart-chunk-size-mb=5", f"{source}/", f"s3://{bucket}/t/").count("upload:") == len(files)
    assert "upload:" not in s3cmd("sync", f"{source}/", f"s3://{bucket}/t/")
    target = tmp_path / "target"
    target.mkdir()
    s3cmd("sync", f"s3://{bucket}/t/", f"{target}/")
    assert {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()} == files
    assert "download:" not in s3cmd("sync", f"s3://{bucket}/t/", f"{target}/")
    s3cmd("cp", f"s3://{bucket}/t/large", f"s3://{bucket}/c o+p/ü")
    s3cmd("mv", f"s3://{bucket}/c o+p/ü", f"s3://{bucket}/moved")
    s3cmd("modify", "--add-header=Cache-Control: max-age=60", f"s3://{bucket}/moved")
    assert str(17 * MIB + 1) in s3cmd("info", f"s3://{bucket}/moved")
    # It looks at all that a bucket may have configured.
    told = s3cmd("info", f"s3://{bucket}")
    assert "Location:" in told and "Policy:    none" in told
    s3cmd("put", "--storage-class=STANDARD_IA", source / "large", f"s3://{bucket}/ia")
    assert "Storage:   STANDARD_IA" in s3cmd("info", f"s3://{bucket}/ia")
    s3cmd("put", "-", f"s3://{bucket}/stream", "--multipart-chunk-size-mb=5", stdin=pattern(11 * MIB))
    s3cmd("get", "--force", f"s3://{bucket}/stream", tmp_path / "stream")
    assert (tmp_path / "stream").read_bytes() == pattern(11 * MIB)
    assert f"s3://{bucket}/stream" in s3cmd("la") and f"s3://{bucket}" in s3cmd("ls")
    assert str(11 * MIB) in s3cmd("du", f"s3://{bucket}/stream")
    assert "BucketNotEmpty" in s3cmd("rb", f"s3://{bucket}", fails=True)
    s3cmd("del", "--recursive", "--force", f"s3://{bucket}")
    s3cmd("rb", f"s3://{bucket}")
    assert "NoSuchBucket" in s3cmd("ls", f"s3://{bucket}", fails=True)
