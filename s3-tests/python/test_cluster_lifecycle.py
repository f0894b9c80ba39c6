"""Lifecycles on a cluster with days of a few seconds, while each node dies: what is due goes, and nothing else."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from test_cluster import NODES, SCRIPT, Cluster

DAY_S = 4

# How long things may take to go that are due, while nodes are killed and started on a busy machine.
PATIENCE_S = 180


@pytest.fixture(scope="module")
def cluster():
    root = os.environ.get("HOLDFAST_TEST_DIR")
    if root:
        Path(root).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="holdfast-python-lifecycle-", dir=root))
    before = os.environ.get("HOLDFAST_SERVE_ARGS")
    os.environ["HOLDFAST_SERVE_ARGS"] = f"--lifecycle-day-secs {DAY_S}"
    try:
        yield Cluster(directory / "cluster")
    finally:
        os.environ.pop("HOLDFAST_SERVE_ARGS")
        if before is not None:
            os.environ["HOLDFAST_SERVE_ARGS"] = before
        subprocess.run([str(SCRIPT), "down", "--dir", str(directory / "cluster")], check=True, timeout=120)
        shutil.rmtree(directory, ignore_errors=True)


def patiently(cluster, call):
    """What `call` gives with the client of a node, of the next if one fails."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for node in range(1, NODES + 1):
            try:
                return call(cluster.client(node))
            except (BotoCoreError, ClientError) as error:
                response = getattr(error, "response", None) or {}
                status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 503)
                assert status >= 500 and time.monotonic() < deadline, error
        time.sleep(0.2)


def wait_for(cluster, what, seen, expected):
    """Until `seen` of a client is `expected`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = patiently(cluster, seen)
        if found == expected:
            return
        assert time.monotonic() < deadline, f"{what}: {found}, not {expected}"
        time.sleep(0.5)


def versions(bucket):
    def seen(client):
        page = client.list_object_versions(Bucket=bucket)
        entries = [(entry["Key"], entry["VersionId"]) for entry in page.get("Versions", [])]
        return sorted(entries), sorted(entry["Key"] for entry in page.get("DeleteMarkers", []))

    return seen


def uploads(bucket):
    def seen(client):
        page = client.list_multipart_uploads(Bucket=bucket)
        return sorted(upload["Key"] for upload in page.get("Uploads", []))

    return seen


@pytest.mark.skipif(NODES < 3, reason="a node may die only where there are three")
def test_what_is_due_goes_while_nodes_die(cluster):
    client = cluster.client(1)
    for name in ["plain", "versioned"]:
        client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    kept = []
    for index in range(30):
        for prefix in ["old/", "keep/"]:
            client.put_object(Bucket="plain", Key=f"{prefix}{index:02}", Body=b"x" * (100 if index % 3 else 50_000))
        key = f"old/{index:02}"
        client.put_object(Bucket="versioned", Key=key, Body=b"first")
        last = client.put_object(Bucket="versioned", Key=key, Body=b"last")
        kept.append((key, last["VersionId"]))
    client.put_object(Bucket="versioned", Key="gone", Body=b"x")
    client.delete_object(Bucket="versioned", Key="gone")
    for key in ["old/upload", "keep/upload"]:
        client.create_multipart_upload(Bucket="plain", Key=key)
    old = {"Status": "Enabled", "Filter": {"Prefix": "old/"}}
    moved = {"Status": "Enabled", "Filter": {"Prefix": "keep/"}}
    everything = {"Status": "Enabled", "Filter": {"Prefix": ""}}
    rules = [
        {"ID": "days", "Expiration": {"Days": 1}, **old},
        {"ID": "uploads", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}, **old},
        {"ID": "classes", "Transitions": [{"Days": 1, "StorageClass": "GLACIER_IR"}], **moved},
    ]
    client.put_bucket_lifecycle_configuration(Bucket="plain", LifecycleConfiguration={"Rules": rules})
    rules = [
        {"ID": "noncurrent", "NoncurrentVersionExpiration": {"NoncurrentDays": 1}, **everything},
        {"ID": "markers", "Expiration": {"ExpiredObjectDeleteMarker": True}, **everything},
    ]
    client.put_bucket_lifecycle_configuration(Bucket="versioned", LifecycleConfiguration={"Rules": rules})
    # Whoever looks after either bucket dies once.
    for victim in range(1, NODES + 1):
        cluster.run("kill", str(victim))
        time.sleep(DAY_S / 2)
        cluster.run("start", str(victim))
        cluster.wait_healthy()

    def keys(client):
        return [entry["Key"] for entry in client.list_objects_v2(Bucket="plain").get("Contents", [])]

    def classes(client):
        listed = client.list_objects_v2(Bucket="plain", Prefix="keep/").get("Contents", [])
        return [entry["StorageClass"] for entry in listed]

    wait_for(cluster, "objects", keys, [f"keep/{index:02}" for index in range(30)])
    wait_for(cluster, "uploads", uploads("plain"), ["keep/upload"])
    wait_for(cluster, "classes", classes, ["GLACIER_IR"] * 30)
    wait_for(cluster, "versions", versions("versioned"), (sorted(kept), []))
    # What stays is whole, and stays for more days.
    time.sleep(2 * DAY_S)
    for key, version in kept:
        got = patiently(cluster, lambda client: client.get_object(Bucket="versioned", Key=key, VersionId=version))
        assert got["Body"].read() == b"last"
    assert patiently(cluster, keys) == [f"keep/{index:02}" for index in range(30)]
    assert patiently(cluster, versions("versioned")) == (sorted(kept), [])
