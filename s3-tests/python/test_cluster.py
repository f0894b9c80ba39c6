"""The AWS CLI and boto3 against a cluster whose nodes die.

HOLDFAST_TEST_NODES says how many nodes it has.
"""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from conftest import pattern
from test_events import Hook, admin, names_of

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "local-cluster"
NODES = int(os.environ.get("HOLDFAST_TEST_NODES", "3"))
MIB = 1 << 20

# How long a client goes on trying, with all nodes but one alive.
PATIENCE_S = 60


class Cluster:
    """A cluster of `deploy/local-cluster`; nodes count from 1."""

    def __init__(self, directory):
        self.directory = directory
        self.run("up", "--nodes", str(NODES))
        text = (directory / "cluster.env").read_text()
        lines = (line.split("=", 1) for line in text.splitlines())
        self.environment = {name: value.strip('"') for name, value in lines}
        self.endpoints = self.environment["ENDPOINTS"].split(" ")

    def run(self, *arguments):
        command = [str(SCRIPT), *arguments, "--dir", str(self.directory)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_ROOT_")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"

    def client(self, node, read_timeout=15):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoints[node - 1],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"}, retries={"max_attempts": 0}, connect_timeout=3, read_timeout=read_timeout
            ),
        )

    def wait_healthy(self):
        """Until the script, as a person would use it, finds nothing wrong."""
        deadline = time.monotonic() + 120
        command = [str(SCRIPT), "status", "--dir", str(self.directory)]
        while True:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, f"not healthy: {done.stdout}\n{done.stderr}"
            time.sleep(0.3)


@pytest.fixture(scope="module")
def cluster():
    root = os.environ.get("HOLDFAST_TEST_DIR")
    if root:
        Path(root).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="holdfast-python-cluster-", dir=root))
    try:
        yield Cluster(directory / "cluster")
    finally:
        subprocess.run([str(SCRIPT), "down", "--dir", str(directory / "cluster")], check=True, timeout=120)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def aws(cluster, tmp_path):
    """Runs `aws` against one node; its standard output."""
    program = os.path.join(os.path.dirname(sys.executable), "aws")
    program = program if os.path.exists(program) else shutil.which("aws")

    def run(node, *arguments, stdin=None):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": cluster.environment["AWS_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": cluster.environment["AWS_SECRET_ACCESS_KEY"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": cluster.endpoints[node - 1],
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "8",
            "AWS_RETRY_MODE": "standard",
            "AWS_PAGER": "",
        }
        command = [program, *map(str, arguments)]
        done = subprocess.run(command, env=environment, input=stdin, capture_output=True, timeout=600)
        assert done.returncode == 0, f"{command}: {done.stdout.decode()}\n{done.stderr.decode()}"
        return done.stdout.decode()

    return run


def test_what_the_cli_wrote_through_one_node_is_read_through_all(cluster, aws, tmp_path):
    source = tmp_path / "source"
    files = {f"d{index % 3}/f{index:02}": pattern(index * 50_000, index) for index in range(20)}
    files["big"] = pattern(17 * MIB + 5, 99)
    for name, body in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    aws(1, "s3", "mb", "s3://tree")
    aws(1, "s3", "sync", source, "s3://tree/t", "--no-progress")
    for node in range(1, NODES + 1):
        target = tmp_path / f"target{node}"
        aws(node, "s3", "sync", "s3://tree/t", target, "--no-progress")
        found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
        assert found == files
        assert aws(node, "s3", "sync", source, "s3://tree/t", "--no-progress") == ""


@pytest.mark.skipif(NODES < 3, reason="a node may die only where there are three")
def test_cli_and_sdk_go_on_while_each_node_dies(cluster, aws, tmp_path):
    cluster.client(1).create_bucket(Bucket="alive")
    stop = threading.Event()
    acknowledged, failures = {}, []
    longest = [0.0]

    def write(worker):
        """Puts objects and reads each again, at the next node whenever one fails."""
        nodes = itertools.cycle(cluster.client(node) for node in range(1, NODES + 1))
        client = next(nodes)
        for index in itertools.count():
            if stop.is_set():
                return
            key, body = f"{worker}/{index:05}", pattern(1 + index * 7919 % 200_000, index)
            began = time.monotonic()
            while True:
                try:
                    client.put_object(Bucket="alive", Key=key, Body=body)
                    assert client.get_object(Bucket="alive", Key=key)["Body"].read() == body
                    break
                except (BotoCoreError, ClientError) as error:
                    # A connection that a dying node closed leaves an error whose `response` is None.
                    response = getattr(error, "response", None) or {}
                    code = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 503)
                    if code < 500 or time.monotonic() - began > PATIENCE_S:
                        failures.append((key, error))
                        return
                    client = next(nodes)
                except AssertionError as error:
                    failures.append((key, error))
                    return
            acknowledged[key] = body
            longest[0] = max(longest[0], time.monotonic() - began)

    workers = [threading.Thread(target=write, args=(worker,)) for worker in range(3)]
    for worker in workers:
        worker.start()
    file, copy = tmp_path / "file", tmp_path / "copy"
    try:
        for victim in range(1, NODES + 1):
            other = victim % NODES + 1
            cluster.run("kill", str(victim))
            body = pattern(9 * MIB + victim, victim)
            file.write_bytes(body)
            aws(other, "s3", "cp", file, f"s3://alive/cli-{victim}", "--no-progress")
            aws(other, "s3", "cp", f"s3://alive/cli-{victim}", copy, "--no-progress")
            assert copy.read_bytes() == body
            cluster.run("start", str(victim))
            cluster.wait_healthy()
            aws(victim, "s3", "cp", f"s3://alive/cli-{victim}", copy, "--no-progress")
            assert copy.read_bytes() == body
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert not failures
    assert acknowledged
    print(f"{len(acknowledged)} objects; longest wait for a write and its read {longest[0]:.2f} s")
    readers = itertools.cycle(cluster.client(node) for node in range(1, NODES + 1))
    for key, body in acknowledged.items():
        assert next(readers).get_object(Bucket="alive", Key=key)["Body"].read() == body, key


@pytest.mark.skipif(NODES < 3, reason="a node may die only where there are three")
def test_an_object_on_its_way_is_in_one_place_while_nodes_die(cluster):
    """One object goes from key to key; readers at other nodes follow it, and never find it gone, or where it was."""
    cluster.client(1).create_bucket(Bucket="moving")
    cluster.client(1).put_object(Bucket="moving", Key="at/0000", Body=b"here")
    stop, enough, failures = threading.Event(), threading.Event(), []
    # The object is on its way to, or at, this key at most.
    begun = [0]

    def patiently(nodes, call):
        """What `call` gives with the client of a node, the next if one fails; `None`: no such key."""
        began = time.monotonic()
        while True:
            try:
                return call(nodes[0])
            except (BotoCoreError, ClientError) as error:
                response = getattr(error, "response", None) or {}
                if response.get("ResponseMetadata", {}).get("HTTPStatusCode", 503) == 404:
                    return None
                assert time.monotonic() - began < PATIENCE_S, error
                nodes.append(nodes.pop(0))

    def clients(first):
        nodes = [cluster.client(node) for node in range(1, NODES + 1)]
        return nodes[first:] + nodes[:first]

    def key(step):
        return f"at/{step:04}"

    def move():
        nodes = clients(0)
        for step in range(1, 10_000):
            if enough.is_set() or stop.is_set():
                return
            begun[0] = step
            rename = {"Bucket": "moving", "Key": key(step), "RenameSource": key(step - 1), "ClientToken": f"t{step}"}
            moved = patiently(nodes, lambda client: client.rename_object(**rename))
            assert moved is not None, f"step {step} found nothing to rename"

    def follow(first):
        nodes, at = clients(first), 0
        while not stop.is_set():
            get = {"Bucket": "moving", "Key": key(at)}
            if patiently(nodes, lambda client: client.get_object(**get)["Body"].read()) is None:
                at += 1
                assert at <= begun[0], f"the object is nowhere: past {at - 1}"
                continue
            listed = patiently(nodes, lambda client: client.list_objects_v2(Bucket="moving"))
            found = [entry["Key"] for entry in listed.get("Contents", [])]
            assert not [name for name in found if name < key(at)], f"seen at {at}, then listed as {found}"

    def guarded(work, *arguments):
        try:
            work(*arguments)
        except BaseException as error:
            failures.append(error)
            stop.set()

    readers = [threading.Thread(target=guarded, args=(follow, first)) for first in range(NODES)]
    mover = threading.Thread(target=guarded, args=(move,))
    for thread in [*readers, mover]:
        thread.start()
    try:
        for victim in range(1, NODES + 1):
            cluster.run("kill", str(victim))
            before = begun[0]
            # It goes on without the node.
            deadline = time.monotonic() + PATIENCE_S
            while begun[0] < before + 5 and mover.is_alive() and time.monotonic() < deadline:
                time.sleep(0.1)
            cluster.run("start", str(victim))
            cluster.wait_healthy()
        enough.set()
        mover.join(timeout=300)
    finally:
        stop.set()
        for thread in [*readers, mover]:
            thread.join()
    assert not failures, failures
    listed = cluster.client(2).list_objects_v2(Bucket="moving")["Contents"]
    assert [entry["Key"] for entry in listed] == [key(begun[0])]
    print(f"{begun[0]} renames")


@pytest.mark.skipif(NODES < 3, reason="a node may die only where there are three")
def test_events_survive_the_node_that_was_to_tell_them(cluster):
    hook = Hook()
    port = hook.port
    # Nothing is told before the node is dead.
    hook.close()
    url = f"http://127.0.0.1:{port}/"
    environment = cluster.environment
    access, secret = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    code, out, err = admin(cluster.endpoints[0], access, secret, "webhook", "add", "survivor", url)
    assert code == 0, err
    s3 = cluster.client(1)
    s3.create_bucket(Bucket="told")
    rule = {"QueueArn": out.strip(), "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(
        Bucket="told", NotificationConfiguration={"QueueConfigurations": [rule]}
    )
    expected = {}
    for number in range(60):
        node = 1 + number % NODES
        key = f"k{number % 20}"
        s3 = cluster.client(node)
        if number < 40:
            s3.put_object(Bucket="told", Key=key, Body=b"x")
            expected.setdefault(key, []).append("ObjectCreated:Put")
        else:
            s3.delete_object(Bucket="told", Key=key)
            expected.setdefault(key, []).append("ObjectRemoved:Delete")
    # Each node leads some groups, and some have events queued.
    cluster.run("kill", "2")
    back = Hook(port)
    try:
        back.wait(lambda records: names_of(records) == expected, expected)
    finally:
        back.close()
        cluster.run("start", "2")
    cluster.wait_healthy()


@pytest.mark.skipif(NODES < 3, reason="three gateways race")
def test_a_quota_holds_for_all_gateways_together(cluster):
    environment = cluster.environment
    access, secret = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]

    def quota(*arguments):
        code, out, err = admin(cluster.endpoints[0], access, secret, "quota", *arguments)
        assert code == 0, err
        return out

    size, limit = 700, 100_000
    cluster.client(1).create_bucket(Bucket="bounded")
    quota("set", "bounded", "--bytes", str(limit))
    written, strange = [], []

    def write(writer):
        # Patient: many wait for the same room.
        s3 = cluster.client(1 + writer % 3, read_timeout=120)
        for number in range(20):
            key = f"{writer}-{number}"
            try:
                s3.put_object(Bucket="bounded", Key=key, Body=b"x" * size)
                written.append(key)
            except ClientError as error:
                if error.response["Error"]["Code"] != "QuotaExceeded":
                    strange.append(str(error))

    writers = [threading.Thread(target=write, args=[writer]) for writer in range(12)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not strange
    listed = [
        entry["Key"]
        for page in cluster.client(2).get_paginator("list_objects_v2").paginate(Bucket="bounded")
        for entry in page["Contents"]
    ]
    assert sorted(listed) == sorted(written)
    # As many as fit, none more, though all were refused something.
    assert len(listed) == limit // size
    rest = limit - len(listed) * size
    with pytest.raises(ClientError, match="QuotaExceeded"):
        cluster.client(3).put_object(Bucket="bounded", Key="too-much", Body=b"x" * (rest + 1))
    cluster.client(3).put_object(Bucket="bounded", Key="last", Body=b"x" * rest)
    assert f"{limit} of {limit}" in quota("show", "bounded")
