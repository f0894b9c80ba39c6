"""restic: backups whose repository is a bucket."""

import json
import signal
import subprocess

import pytest
from store import pattern

MIB = 1 << 20


@pytest.fixture
def environment(store, bucket):
    return {
        "AWS_ACCESS_KEY_ID": store.access_key, "AWS_SECRET_ACCESS_KEY": store.secret_key, "AWS_DEFAULT_REGION": "us-east-1",
        "RESTIC_REPOSITORY": f"s3:{store.endpoint}/{bucket}/repo", "RESTIC_PASSWORD": "secret",
    }


@pytest.fixture
def restic(run, program, environment):
    path = program("restic")
    return lambda *arguments, **more: run(path, *arguments, environment={**environment, **more.pop("environment", {})}, **more)


def test_a_life(restic, tree, tmp_path, files_of):
    restic("init")
    assert "already" in restic("init", fails=True)
    restic("backup", "tree")
    (tree / "more").write_bytes(pattern(9 * MIB, 4))
    again = json.loads(restic("backup", "tree", "--json").splitlines()[-1])
    assert again["files_new"] == 1 and again["files_changed"] == 0
    nothing = json.loads(restic("backup", "tree", "--json").splitlines()[-1])
    assert nothing["files_new"] == 0 and nothing["files_changed"] == 0 and nothing["data_blobs"] == 0
    restic("backup", "--stdin", "--stdin-filename", "stream", stdin=pattern(30 * MIB, 7))
    restic("check", "--read-data")
    restic("restore", "latest", "--path", tmp_path / "tree", "--target", tmp_path / "back")
    (found,) = (tmp_path / "back").rglob("tree")
    assert files_of(found) == files_of(tree)
    restic("forget", "--keep-last", "1", "--prune")
    restic("check", "--read-data")
    assert len(json.loads(restic("snapshots", "--json"))) == 2


def test_an_interrupted_backup_goes_on(restic, environment, program, tree, tmp_path):
    restic("init")
    for index in range(12):
        (tree / f"big-{index}").write_bytes(pattern(10 * MIB, 100 + index))
    process = subprocess.Popen([program("restic"), "backup", "--limit-upload", "20000", "tree"], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **environment}, stdout=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    restic("unlock", "--remove-all")
    restic("backup", "tree")
    restic("check", "--read-data")


def test_errors(restic):
    assert "Is there a repository" in restic("snapshots", fails=True)
    assert "Access Denied" in restic("init", fails=True, environment={"AWS_SECRET_ACCESS_KEY": "wrong" * 8})


def test_it_goes_on_while_nodes_die(restic, tree, dying):
    restic("init")
    with dying() as deaths:
        rounds = 0
        while deaths.kills < 3 and not deaths.failure:
            (tree / "large").write_bytes(pattern(20 * MIB, rounds))
            restic("backup", "tree")
            rounds += 1
    restic("check", "--read-data")
    assert len(json.loads(restic("snapshots", "--json"))) == rounds
