"""rclone."""

import json

import pytest
from store import pattern

MIB = 1 << 20


@pytest.fixture
def rclone(store, run, program):
    path = program("rclone")
    environment = {
        "RCLONE_CONFIG_S3_TYPE": "s3", "RCLONE_CONFIG_S3_PROVIDER": "Other", "RCLONE_CONFIG_S3_ENDPOINT": store.endpoint,
        "RCLONE_CONFIG_S3_ACCESS_KEY_ID": store.access_key, "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": store.secret_key,
        "RCLONE_CONFIG_S3_REGION": "us-east-1", "RCLONE_RETRIES": "1", "RCLONE_LOW_LEVEL_RETRIES": "2",
    }

    def call(*arguments, **more):
        environment_now = {**environment, **more.pop("environment", {})}
        return run(path, "-q", *arguments, environment=environment_now, **more)

    return call


def test_a_life(rclone, bucket, tree, tmp_path, files_of):
    rclone("mkdir", f"s3:{bucket}")
    rclone("sync", tree, f"s3:{bucket}/t", "--s3-upload-cutoff", "8M", "--s3-chunk-size", "5M")
    # The second has nothing to do.
    before = rclone("lsl", f"s3:{bucket}/t")
    rclone("sync", tree, f"s3:{bucket}/t", "--immutable")
    assert rclone("lsl", f"s3:{bucket}/t") == before
    rclone("check", tree, f"s3:{bucket}/t")
    rclone("check", "--download", tree, f"s3:{bucket}/t")
    listed = json.loads(rclone("lsjson", "-R", "--hash", f"s3:{bucket}/t"))
    assert {entry["Path"] for entry in listed if not entry["IsDir"]} == set(files_of(tree))
    rclone("sync", f"s3:{bucket}/t", tmp_path / "back")
    assert files_of(tmp_path / "back") == files_of(tree)

    (tree / "empty").unlink()
    (tree / "new").write_bytes(b"new")
    rclone("sync", tree, f"s3:{bucket}/t")
    rclone("check", tree, f"s3:{bucket}/t")
    # On the server: copied in one piece and in parts, moved, renamed.
    rclone("copyto", f"s3:{bucket}/t/large", f"s3:{bucket}/copied", "--s3-copy-cutoff", "6M")
    rclone("moveto", f"s3:{bucket}/copied", f"s3:{bucket}/m o+v%e/d", "--s3-copy-cutoff", "6M")
    assert rclone("lsf", f"s3:{bucket}/m o+v%e/") == "d\n"
    assert rclone("cat", "--offset", "1", "--count", "2", f"s3:{bucket}/t/new") == "ew"
    body = pattern(12 * MIB)
    rclone("rcat", f"s3:{bucket}/stream", stdin=body)
    rclone("copyto", f"s3:{bucket}/stream", tmp_path / "stream")
    assert (tmp_path / "stream").read_bytes() == body
    rclone("touch", f"s3:{bucket}/touched")
    rclone("dedupe", "list", f"s3:{bucket}")
    assert "large" in rclone("lsl", f"s3:{bucket}/t", "--max-depth", "1")
    rclone("cleanup", f"s3:{bucket}")
    rclone("purge", f"s3:{bucket}")
    assert "directory not found" in rclone("lsf", f"s3:{bucket}", fails=True)


def test_many_keys(rclone, bucket, tmp_path):
    many = tmp_path / "many"
    for index in range(2500):
        path = many / f"d{index % 3}" / f"{index:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(index).encode())
    rclone("mkdir", f"s3:{bucket}")
    rclone("sync", "--transfers", "16", many, f"s3:{bucket}")
    assert len(rclone("lsf", "-R", "--files-only", f"s3:{bucket}").splitlines()) == 2500
    assert len(rclone("lsf", "-R", "--files-only", "--fast-list", f"s3:{bucket}").splitlines()) == 2500
    rclone("check", "--checkers", "16", many, f"s3:{bucket}")
    rclone("purge", f"s3:{bucket}")


def test_errors(rclone, bucket, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    assert "NoSuchBucket" in rclone("copy", "--s3-no-check-bucket", tmp_path / "file", f"s3:{bucket}", fails=True)
    assert "SignatureDoesNotMatch" in rclone("lsd", "s3:", fails=True, environment={"RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": "wrong" * 8})
    assert "InvalidAccessKeyId" in rclone("lsd", "s3:", fails=True, environment={"RCLONE_CONFIG_S3_ACCESS_KEY_ID": "NOBODY"})


def test_it_goes_on_while_nodes_die(rclone, bucket, tree, dying, tmp_path):
    patient = {"RCLONE_RETRIES": "5", "RCLONE_LOW_LEVEL_RETRIES": "20", "RCLONE_CONTIMEOUT": "5s", "RCLONE_TIMEOUT": "20s"}
    rclone("mkdir", f"s3:{bucket}", environment=patient)
    with dying() as deaths:
        rounds = 0
        while deaths.kills < 3 and not deaths.failure:
            rclone("sync", tree, f"s3:{bucket}/{rounds % 2}", "--s3-upload-cutoff", "8M", environment=patient)
            rclone("check", "--download", tree, f"s3:{bucket}/{rounds % 2}", environment=patient)
            rclone("delete", f"s3:{bucket}/{rounds % 2}", environment=patient)
            rounds += 1
    rclone("purge", f"s3:{bucket}")
