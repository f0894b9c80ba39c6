"""SDKs of other languages: each program here lives the life of a bucket, and fails if anything is not as it must be.

JavaScript's packages are installed by npm (`package-lock.json`), Go's and Ruby's are Debian's.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from store import KEYS

HERE = Path(__file__).parent
GO_SOURCES = Path("/usr/share/gocode")


@pytest.fixture
def run(store, tmp_path):
    """Runs a program of this directory on the store."""

    def call(*command, keys=KEYS, **environment):
        environment = {**store.environment(tmp_path), "KEYS": json.dumps(keys), **environment}
        done = subprocess.run([*map(str, command)], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"

    return call


@pytest.fixture
def node(run, program, bucket, tmp_path):
    modules = os.environ.get("HOLDFAST_TEST_NODE_MODULES", HERE / "js" / "node_modules")
    if not Path(modules).is_dir():
        pytest.skip("the packages of JavaScript are not installed")
    # Node looks for modules beside the program.
    work = tmp_path / "js"
    shutil.copytree(HERE / "js", work, ignore=shutil.ignore_patterns("node_modules"))
    (work / "node_modules").symlink_to(modules)
    return lambda name, *more, **options: run(program("node"), work / name, bucket, tmp_path, *more, **options)


def test_javascript_v3(node):
    node("sdk-v3.js")


@pytest.mark.parametrize("signature", ["v4", "v2"])
def test_javascript_v2(node, signature):
    # It takes `..` and doubled slashes for its own.
    node("sdk-v2.cjs", signature)


def test_javascript_minio(node):
    node("minio.js")


def test_ruby(run, program, bucket, tmp_path):
    ruby = program("ruby")
    if subprocess.run([ruby, "-e", "require 'aws-sdk-s3'"], capture_output=True).returncode:
        pytest.skip("ruby-aws-sdk-s3 is not installed")
    run(ruby, HERE / "ruby" / "life.rb", bucket, tmp_path)


@pytest.fixture(scope="session")
def go(tmp_path_factory):
    """Builds a Go program with the packages of Debian."""

    def build(name, package):
        compiler = shutil.which("go")
        if not compiler or not (GO_SOURCES / "src" / package).is_dir():
            pytest.skip(f"golang-go and the package of {package} are not installed")
        out = tmp_path_factory.mktemp("go") / name
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "go-build"
        environment = {"PATH": os.environ["PATH"], "GOPATH": str(GO_SOURCES), "GO111MODULE": "off", "GOFLAGS": "-p=1", "GOCACHE": str(cache)}
        done = subprocess.run([compiler, "build", "-o", out, HERE / "go" / f"{name}.go"], env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return out

    return build


def test_go_sdk_v2(run, go, bucket):
    run(go("sdk_v2", "github.com/aws/aws-sdk-go-v2/service/s3"), bucket)


def test_go_minio(run, go, bucket):
    # It refuses what is no UTF-8 or above 1024 bytes by itself.
    run(go("minio", "github.com/minio/minio-go/v7"), bucket)
