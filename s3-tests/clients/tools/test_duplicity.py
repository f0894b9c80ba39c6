"""duplicity: incremental backups as tar volumes, through boto3 as Debian ships it."""

import subprocess

import pytest
from store import pattern

MIB = 1 << 20


def test_backup_and_restore(store, bucket, make_bucket, program, run, tree, tmp_path, files_of):
    duplicity = program("duplicity")
    make_bucket(bucket)
    # It runs with Debian's Python, whose boto3 is a package of its own that duplicity only recommends.
    if subprocess.run(["/usr/bin/python3", "-c", "import boto3"], capture_output=True).returncode:
        pytest.skip("python3-boto3 is not installed")
    environment = {"AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key}
    flags = ["--no-encryption", "--volsize", "6", "--s3-endpoint-url", store.endpoint, "--archive-dir", tmp_path / "archive"]
    target = f"boto3+s3://{bucket}/backup"
    run(duplicity, *flags, tree, target, environment=environment)
    (tree / "more").write_bytes(pattern(7 * MIB, 3))
    run(duplicity, *flags, tree, target, environment=environment)
    run(duplicity, "verify", "--compare-data", *flags, target, tree, environment=environment)
    run(duplicity, "restore", *flags, target, tmp_path / "back", environment=environment)
    assert files_of(tmp_path / "back") == files_of(tree)
    run(duplicity, "remove-all-but-n-full", "1", "--force", *flags, target, environment=environment)
    assert "Number of contained backup sets" in run(duplicity, "collection-status", *flags, target, environment=environment)
