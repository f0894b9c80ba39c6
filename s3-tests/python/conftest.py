"""A started server for the tests with boto3 and the AWS CLI.

The binary is HOLDFAST_BIN. Directories are made under HOLDFAST_TEST_DIR, else where pytest makes its own.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

ACCESS_KEY = "HOLDFASTTESTKEY00001"
SECRET_KEY = "a-secret/for+the=tests-of-holdfast-0001"
DOMAIN = "s3.holdfast.test"
READY_DEADLINE_S = 90


@dataclass
class Server:
    """A running server process."""

    process: subprocess.Popen
    endpoint: str
    log: list = field(default_factory=list)
    region: str = "us-east-1"

    @property
    def port(self):
        return int(self.endpoint.rsplit(":", 1)[1])

    def client(self, endpoint_url=None, **config):
        """A boto3 client as a user would make it, path-style unless told otherwise."""
        config.setdefault("s3", {"addressing_style": "path"})
        config.setdefault("retries", {"max_attempts": 1})
        return boto3.client(
            "s3",
            endpoint_url=endpoint_url or self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=self.region,
            config=Config(**config),
        )


def _start(directory, region):
    binary = os.environ.get("HOLDFAST_BIN")
    assert binary, "HOLDFAST_BIN names the binary under test; `make test-python` sets it"
    process = subprocess.Popen(
        [binary, "serve", "--data", str(directory / "data"), "--listen", "127.0.0.1:0", "--domain", DOMAIN],
        env={
            **os.environ,
            "HOLDFAST_ROOT_ACCESS_KEY": ACCESS_KEY,
            "HOLDFAST_ROOT_SECRET_KEY": SECRET_KEY,
            "HOLDFAST_REGION": region,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process, "", region=region)
    found = threading.Event()

    def collect():
        for line in process.stdout:
            server.log.append(line)
            match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if match and not server.endpoint:
                server.endpoint = match.group(0)
                found.set()

    threading.Thread(target=collect, daemon=True).start()
    deadline = time.monotonic() + READY_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        if found.wait(0.05):
            try:
                with urllib.request.urlopen(server.endpoint + "/-/ready", timeout=5) as answer:
                    if answer.status == 200:
                        return server
            except OSError:
                time.sleep(0.02)
    process.kill()
    process.wait()
    pytest.fail("the server did not become ready:\n" + "".join(server.log))


@contextmanager
def running(region="us-east-1"):
    """A server of its own, that must end well."""
    root = os.environ.get("HOLDFAST_TEST_DIR")
    if root:
        Path(root).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="holdfast-python-", dir=root))
    try:
        server = _start(directory, region)
        try:
            yield server
        finally:
            server.process.send_signal(signal.SIGTERM)
            try:
                status = server.process.wait(60)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
                status = "no exit within a minute after SIGTERM"
        assert status == 0, f"the server ended with {status}:\n" + "".join(server.log[-100:])
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def server():
    with running() as server:
        yield server


@pytest.fixture(scope="session")
def s3(server):
    """A client with boto3's own defaults."""
    return server.client()


@pytest.fixture
def bucket(s3):
    """An empty bucket, emptied and deleted afterwards."""
    name = "b-" + uuid.uuid4().hex[:20]
    s3.create_bucket(Bucket=name)
    yield name
    empty(s3, name)
    s3.delete_bucket(Bucket=name)


def empty(s3, bucket):
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        keys = [{"Key": entry["Key"]} for entry in page.get("Contents", [])]
        if keys:
            errors = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True}).get("Errors", [])
            assert not errors


def pattern(size, seed=0):
    """`size` bytes that follow from `seed` and repeat nowhere near a block or chunk border."""
    import random

    block = random.Random(seed).randbytes(min(size, (1 << 20) + 7919))
    if not block:
        return b""
    return (block * (size // len(block) + 1))[:size]
