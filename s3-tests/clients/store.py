"""A store under test, as clients find it: one address, behind which are the gateways of a cluster.

HOLDFAST_TEST_NODES says how many nodes it has; they are started with `deploy/local-cluster`.
"""

import datetime
import hashlib
import hmac
import http.client
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "local-cluster"
NODES = int(os.environ.get("HOLDFAST_TEST_NODES", "3"))
# Virtual-hosted-style names are BUCKET.DOMAIN.
DOMAIN = "s3.holdfast.test"
REGION = "us-east-1"
HEALTHY_DEADLINE_S = 120


class Store:
    """A running cluster; nodes count from 1."""

    def __init__(self):
        root = os.environ.get("HOLDFAST_TEST_DIR")
        if root:
            Path(root).mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix="holdfast-clients-", dir=root))
        self.balancer = None

    def start(self):
        self.script("up", "--nodes", str(NODES), "--drives", "1" if NODES == 1 else "2")
        lines = (line.split("=", 1) for line in (self.directory / "cluster" / "cluster.env").read_text().splitlines())
        values = {name: value.strip('"') for name, value in lines}
        self.access_key, self.secret_key = values["AWS_ACCESS_KEY_ID"], values["AWS_SECRET_ACCESS_KEY"]
        self.endpoints = values["ENDPOINTS"].split(" ")
        addresses = [endpoint.removeprefix("http://") for endpoint in self.endpoints]
        command = [sys.executable, str(Path(__file__).with_name("balancer.py")), *addresses]
        self.balancer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self.balancer.stdout.readline())
        self.host = f"127.0.0.1:{self.port}"
        self.endpoint = f"http://{self.host}"

    def stop(self):
        if self.balancer:
            self.balancer.kill()
            self.balancer.wait()
        self.script("down")
        shutil.rmtree(self.directory, ignore_errors=True)

    def script(self, *arguments):
        command = [str(SCRIPT), *arguments, "--dir", str(self.directory / "cluster")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_ROOT_")}
        environment["HOLDFAST_SERVE_ARGS"] = f"--domain {DOMAIN}"
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"

    def wait_healthy(self):
        deadline = time.monotonic() + HEALTHY_DEADLINE_S
        command = [str(SCRIPT), "status", "--dir", str(self.directory / "cluster")]
        while True:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, f"not healthy: {done.stdout}\n{done.stderr}"
            time.sleep(0.3)

    def request(self, method, path, body=b"", query=()):
        """One signed request with nothing but the standard library: status, body."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        path = urllib.parse.quote(path, safe="/~")
        digest = hashlib.sha256(body).hexdigest()
        asked = "&".join(f"{urllib.parse.quote(k, safe='~')}={urllib.parse.quote(v, safe='~')}" for k, v in sorted(query))
        headers = {"host": self.host, "x-amz-content-sha256": digest, "x-amz-date": now}
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        canonical = f"{method}\n{path}\n{asked}\n{lines}\n{names}\n{digest}"
        key = b"AWS4" + self.secret_key.encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path + ("?" + asked if asked else ""), body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def make_bucket(self, bucket):
        assert self.request("PUT", f"/{bucket}")[0] == 200

    def environment(self, home):
        """What AWS's own clients read, and nothing of the caller's configuration."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_PAGER": "",
        }


class NodesDie:
    """Kills one node after the other, and starts each again, until the block ends."""

    def __init__(self, store, pause_s=2.0):
        self.store, self.pause_s = store, pause_s
        self.stop = threading.Event()
        self.kills, self.failure = 0, None

    def __enter__(self):
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def _run(self):
        try:
            for victim in itertools.cycle(range(1, NODES + 1)):
                if self.stop.is_set():
                    return
                self.store.script("kill", str(victim))
                self.kills += 1
                self.stop.wait(self.pause_s)
                self.store.script("start", str(victim))
                self.store.wait_healthy()
        except Exception as failure:
            self.failure = failure

    def __exit__(self, kind, value, trace):
        self.stop.set()
        self.thread.join()
        if self.failure and value is None:
            raise self.failure
        return False


def pattern(size, seed=0):
    """`size` bytes that follow from `seed` and repeat nowhere near a block or chunk border."""
    import random

    block = random.Random(seed).randbytes(min(size, (1 << 20) + 7919))
    if not block:
        return b""
    return (block * (size // len(block) + 1))[:size]


# Keys that clients, shells and URLs like to get wrong.
KEYS = [
    "plain",
    "with space",
    "two  spaces",
    "a+b",
    "100%",
    "%2F",
    "%41",
    "per%cent/and+plus",
    "ünïcödé/ключ/鍵/🗝",
    "e\u0301 decomposed",
    "a//b",
    "dir/sub/",
    "semi;colon,comma",
    "quo\"te'<&>",
    "?query=1&x",
    "#fragment",
    "=eq",
    "~tilde-._",
    "[]{}|^`",
    "*!()@$:",
    "back\\slash",
    "k" * 1024,
    "é" * 512,
]
