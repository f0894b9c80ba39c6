"""Docker's registry with its blobs in a bucket; skopeo pushes to it and pulls from it."""

import json
import socket
import subprocess
import time
import urllib.request

import pytest
from store import pattern

MIB = 1 << 20

CONFIG = """
version: 0.1
log:
  level: warn
storage:
  delete:
    enabled: true
  redirect:
    disable: {no_redirect}
  cache:
    blobdescriptor: inmemory
  s3:
    accesskey: {store.access_key}
    secretkey: {store.secret_key}
    region: us-east-1
    regionendpoint: {store.endpoint}
    bucket: {bucket}
    rootdirectory: /registry root
    secure: false
    v4auth: true
    chunksize: 5242880
http:
  addr: 127.0.0.1:{port}
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(params=["redirects to presigned URLs", "passes blobs on"])
def registry(store, bucket, make_bucket, program, tmp_path, request):
    make_bucket(bucket)
    port = free_port()
    config = tmp_path / "registry.yml"
    config.write_text(CONFIG.format(store=store, bucket=bucket, port=port, no_redirect=str(request.param.startswith("passes")).lower()))
    log = (tmp_path / "registry.log").open("w")
    process = subprocess.Popen([program("docker-registry"), "serve", str(config)], env={"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "registry.log").read_text()
                time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def image(run, program, tmp_path):
    """A container image of two layers, in a directory."""
    umoci = program("umoci")
    run(umoci, "init", "--layout", "image")
    run(umoci, "new", "--image", "image:one")
    for index, size in enumerate((1000, 23 * MIB)):
        layer = tmp_path / f"layer-{index}"
        layer.mkdir()
        (layer / "file").write_bytes(pattern(size, index))
        run(umoci, "insert", "--rootless", "--image", "image:one", layer, f"/data/{index}")
    return tmp_path / "image"


def test_push_and_pull(registry, image, run, program, tmp_path):
    skopeo = program("skopeo")
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    copy = [skopeo, "--policy", policy, "copy", "--quiet"]
    there = f"docker://{registry}/team/image:one"
    for _ in range(2):
        run(*copy, "--dest-tls-verify=false", "oci:image:one", there)
    inspected = json.loads(run(skopeo, "inspect", "--tls-verify=false", there))
    assert inspected["RepoTags"] == ["one"] and len(inspected["Layers"]) == 2
    run(*copy, "--src-tls-verify=false", there, "oci:back:one")
    blobs = {path.name for path in (tmp_path / "back" / "blobs" / "sha256").iterdir()}
    pushed = json.loads((image / "index.json").read_text())["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((image / "blobs" / "sha256" / pushed).read_text())
    assert {manifest["config"]["digest"][7:], *(layer["digest"][7:] for layer in manifest["layers"])} <= blobs
    for layer in manifest["layers"]:
        name = layer["digest"][7:]
        assert (tmp_path / "back" / "blobs" / "sha256" / name).read_bytes() == (image / "blobs" / "sha256" / name).read_bytes()
    # From one name to another, within the registry.
    run(*copy, "--src-tls-verify=false", "--dest-tls-verify=false", there, f"docker://{registry}/other/copy:two")
    assert json.loads(run(skopeo, "list-tags", "--tls-verify=false", f"docker://{registry}/other/copy"))["Tags"] == ["two"]
    run(skopeo, "delete", "--tls-verify=false", there)
    run(skopeo, "inspect", "--tls-verify=false", there, fails=True)
