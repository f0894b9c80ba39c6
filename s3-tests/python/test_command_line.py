"""What a person who mistypes is told: what was wrong and what to do next, with an exit status that is not 0.

Each case is a command line and what its answer has to say.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from conftest import ACCESS_KEY, SECRET_KEY

CLUSTER = str(Path(__file__).resolve().parents[2] / "deploy" / "local-cluster")
BINARY = os.environ.get("HOLDFAST_BIN", "holdfast")
TOKEN = "hf1-" + "0123456789abcdef" * 4
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

# Flags with one letter wrong: the right one is named.
TYPOS = {
    "serve": ["--data", "--drive", "--rack", "--advertise", "--listen", "--join", "--token", "--domain", "--memory-budget", "--shutdown-grace"],
    "storage-node": ["--data", "--drive", "--rack", "--advertise", "--listen", "--join", "--token"],
    "placement": ["--data", "--listen", "--join", "--token", "--memory-budget"],
    "gateway": ["--listen", "--join", "--token", "--domain", "--memory-budget"],
    "bench put": ["--endpoint", "--access-key", "--secret-key", "--region", "--bucket", "--size", "--concurrency", "--count", "--duration", "--keys", "--prefix", "--payload", "--verify", "--prepare", "--seed", "--timeout", "--max-errors", "--threads", "--settle", "--no-limits", "--json"],
    "admin status": ["--data", "--endpoint", "--json"],
    "admin nodes": ["--data", "--endpoint", "--json"],
    "admin drives": ["--data", "--endpoint", "--json"],
    "admin ring": ["--data", "--endpoint", "--json"],
    "admin groups": ["--data", "--endpoint", "--json"],
    "admin token": ["--data"],
    "admin drain": ["--data", "--endpoint", "--drive", "--node"],
    "admin keep": ["--data", "--endpoint", "--drive", "--node"],
    "admin protection": ["--data", "--endpoint"],
    "admin reencode": ["--data", "--endpoint"],
    "admin simulate": ["--nodes", "--drives-per-node"],
}

# Wrong values: what the answer says, and what to do.
WRONG = [
    (["serv"], ["'serve'"]),
    (["admin", "statuss"], ["'status'"]),
    (["bench", "putt"], ["'put'"]),
    (["serve"], ["--data <DIR>"]),
    (["serve", "--data", "new", "more"], ["'more'"]),
    (["serve", "--data", "new", "--shutdown-grace", "30"], ["--shutdown-grace", "10s"]),
    (["serve", "--data", "new", "--rack", "x"], ["--rack", "whole number"]),
    (["serve", "--data", "new", "--rack", "-1"], ["--rack", "whole number"]),
    (["serve", "--data", "new", "--advertise", "x"], ["host and a port"]),
    (["serve", "--data", "new", "--join", "nowhere"], ["host and a port"]),
    (["serve", "--data", "new", "--listen", "192.0.2.1:9000"], ["192.0.2.1:9000", "Choose another address"]),
    (["serve", "--data", "file", "--listen", "127.0.0.1:0"], ["file", "has to be a directory"]),
    (["serve", "--data", "/proc/none", "--listen", "127.0.0.1:0"], ["/proc/none", "choose another directory"]),
    (["serve", "--data", "new", "--drive", "full", "--listen", "127.0.0.1:0"], ["not empty", "give an empty directory"]),
    (["serve", "--data", "new", "--listen", "127.0.0.1:0", "--join", "127.0.0.1:1"], ["--token", "HOLDFAST_JOIN_TOKEN"]),
    (["serve", "--data", "new", "--listen", "127.0.0.1:0", "--join", "127.0.0.1:1", "--token", "x"], ["hf1-", "holdfast admin token"]),
    (["serve", "--data", "new", "--listen", "127.0.0.1:0", "--join", "127.0.0.1:1", "--token", TOKEN], ["127.0.0.1:1: Connection refused", "--join names nodes that run"]),
    (["gateway", "--listen", "127.0.0.1:0"], ["--join HOST:PORT"]),
    (["gateway", "--listen", "127.0.0.1:0", "--join", "127.0.0.1:1", "--token", TOKEN], ["127.0.0.1:1: Connection refused", "--join names nodes that run"]),
    (["admin", "status"], ["--data", "AWS_ACCESS_KEY_ID"]),
    (["admin", "status", "--data", "none"], ["none is not the data directory of a node"]),
    (["admin", "token", "--data", "none"], ["none"]),
    (["admin", "drain", "--data", "none"], ["--drive", "--node"]),
    (["admin", "drain", "--data", "none", "--node", "x"], ["its number alone"]),
    (["admin", "drain", "--data", "none", "--node", "1", "--drive", "1"], ["cannot be used with"]),
    (["admin", "protection", "--data", "none"], ["<K+M|auto>"]),
    (["admin", "reencode", "now"], ["start, stop"]),
    (["bench", "put", "--size", "5x"], ["5x", "64MiB"]),
    (["bench", "put", "--duration", "5"], ["10s"]),
    (["bench", "put", "--endpoint", "127.0.0.1:1"], ["http://"]),
    (["bench", "put", "--count", "1"], ["AWS_ACCESS_KEY_ID"]),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = tmp_path_factory.mktemp("command-line")
    (work / "file").write_text("x")
    (work / "full").mkdir()
    (work / "full" / "file").write_text("x")
    return work


def told(command, work, **environment):
    """What a command that must fail says."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "AWS_"))}
    done = subprocess.run([*map(str, command)], cwd=work, env={**clean, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    text = done.stdout + done.stderr
    assert done.returncode not in (0, 101) and done.returncode > 0, (command, done.returncode, text)
    assert "panicked" not in text, (command, text)
    return text


def test_a_letter_wrong_in_each_flag(work):
    for command, flags in TYPOS.items():
        for flag in flags:
            # Two letters changed places.
            typo = flag[:3] + flag[4] + flag[3] + flag[5:]
            typo = typo if typo != flag else flag + "x"
            assert flag in told([BINARY, *command.split(), typo, "1"], work), (command, typo)


@pytest.mark.parametrize("arguments, expected", WRONG, ids=lambda value: " ".join(value)[-60:])
def test_wrong_values(work, arguments, expected):
    text = told([BINARY, *arguments], work)
    for words in expected:
        assert words in text, text
    assert (work / "full" / "file").read_text() == (work / "file").read_text() == "x"


def test_wrong_environment(work):
    serve = [BINARY, "serve", "--data", "new", "--listen", "127.0.0.1:0"]
    assert "HOLDFAST_ROOT_SECRET_KEY is not" in told(serve, work, HOLDFAST_ROOT_ACCESS_KEY="abc")
    assert "HOLDFAST_LOG" in told(serve, work, HOLDFAST_LOG="holdfast=loudly")
    # As in a file for systemd that is still to be filled in.
    assert "HOLDFAST_JOIN_TOKEN" in told([*serve, "--join", "127.0.0.1:1"], work, HOLDFAST_JOIN_TOKEN="")


def test_against_a_running_server(server, work):
    text = told([BINARY, "serve", "--data", "other", "--listen", f"127.0.0.1:{server.port}"], work)
    assert "already in use" in text and "Choose another address" in text
    for role in (["serve", "--data", "joins"], ["gateway"]):
        text = told([BINARY, *role, "--listen", "127.0.0.1:0", "--join", f"127.0.0.1:{server.port}", "--token", TOKEN], work)
        assert "does not take our token" in text and "holdfast admin token" in text
    admin = [BINARY, "admin", "status", "--endpoint", server.endpoint]
    for keys in ({**KEYS, "AWS_ACCESS_KEY_ID": "nobody"}, {**KEYS, "AWS_SECRET_ACCESS_KEY": "wrong"}):
        text = told(admin, work, **keys)
        assert "root key" in text and "<" not in text
        assert "access key" in told([BINARY, "bench", "get", "--no-limits", "--count", "1", "--endpoint", server.endpoint], work, **keys)
    here = ["--endpoint", server.endpoint]
    assert "there is no node-77: `holdfast admin nodes`" in told([BINARY, "admin", "drain", "--node", "77", *here], work, **KEYS)
    text = told([BINARY, "admin", "protection", "9+9", *here], work, **KEYS)
    assert '"9+9" is not a protection' in text and "<" not in text
    assert "is the server running" in told([BINARY, "bench", "put", "--no-limits", "--count", "1", "--endpoint", "http://127.0.0.1:1"], work, **KEYS)
    assert "Is the node running" in told([BINARY, "admin", "nodes", "--endpoint", "http://127.0.0.1:1"], work, **KEYS)


def test_a_node_that_says_nothing(work):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = told([BINARY, "admin", "nodes", "--endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}"], work, **KEYS)
    assert "nothing came within 10 s" in text and "Is the node running" in text


def test_orders_answer_machines_in_json(server, work):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "AWS_"))}

    def said(*arguments):
        command = [BINARY, "admin", *arguments, "--endpoint", server.endpoint, "--json"]
        done = subprocess.run(command, env={**clean, **KEYS}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
        return json.loads(done.stdout)

    assert said("scrub", "start") == {"done": "begun"}
    key = said("identity", "add")["access_key"]
    assert said("identity", "remove", key) == {"done": "removed"}
    assert said("webhook", "add", "told", "http://127.0.0.1:1/") == {"arn": "arn:holdfast:webhook:::told"}
    assert said("webhook", "remove", "told") == {"done": "removed"}


def test_each_role_says_what_it_serves(work):
    def greeting(*arguments):
        process = subprocess.Popen([BINARY, *arguments, "--listen", "127.0.0.1:0"], cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines = []
        last = "S3 endpoint" if arguments[0] == "gateway" else "admin status"
        for line in process.stdout:
            lines.append(line)
            if last in line:
                break
        return process, "".join(lines)

    first, text = greeting("storage-node", "--data", "storage", "--token", TOKEN)
    second = None
    try:
        assert "no S3" in text and "S3 endpoint" not in text, text
        address = re.search(r"http://(\S+)", text).group(1)
        assert f"--join:  {address}\n" in text and "holdfast admin status --data storage\n" in text, text
        second, text = greeting("gateway", "--join", address, "--token", TOKEN)
        assert text.startswith("Holdfast is ready.") and "S3 endpoint: http://" in text
    finally:
        for process in filter(None, (second, first)):
            process.kill()
            process.wait()


def test_damaged_files_of_a_node(work):
    data = work / "damaged"
    data.mkdir()
    (data / "node.json").write_text("garbage")
    text = told([BINARY, "serve", "--data", data, "--listen", "127.0.0.1:0"], work)
    assert "node.json" in text and "restore it" in text
    (data / "root-credentials.json").write_text("{")
    text = told([BINARY, "admin", "status", "--data", data], work)
    assert str(data / "root-credentials.json") in text and "restore it" in text


def test_a_directory_of_somebody_else(work):
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    theirs = work / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, 65534, 65534)
    # Root without its privileges is somebody else there, and still reaches the binary.
    plain = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    if subprocess.run([*plain, "true"], capture_output=True).returncode != 0:
        pytest.skip("setpriv cannot take privileges away here")
    text = told([*plain, BINARY, "serve", "--data", theirs, "--listen", "127.0.0.1:0"], work)
    assert "Permission denied" in text and "choose another" in text


def test_a_server_outlives_who_reads_its_log(work):
    """`holdfast serve | head` must not take the server along, nor what it still has to do when it ends."""
    data = work / "unread"
    process = subprocess.Popen([BINARY, "serve", "--data", data, "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not re.search(r"S3 endpoint", process.stdout.readline()):
            assert process.poll() is None
        deadline = time.monotonic() + 60
        while not (data / "endpoint").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.stdout.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert not (data / "endpoint").exists()


def test_local_cluster(work):
    environment = {"HOLDFAST_BIN": BINARY}
    for command, typo in [("up", "--node"), ("up", "--drive"), ("up", "--netn"), ("status", "--drives"), ("down", "--keepp"), ("heal", "1")]:
        assert "usage:" in told([CLUSTER, command, typo, "1"], work, **environment)
    for arguments in (["upp"], [], ["kill"], ["kill", "x"], ["kill", "1", "2"], ["start", "0"], ["up", "--nodes", "0"], ["up", "--nodes", "many"], ["up", "--drives", "17"], ["up", "--nodes"], ["up", "--dir", ""]):
        assert "usage:" in told([CLUSTER, *arguments], work, **environment)
    for arguments in (["kill", "1"], ["status"], ["heal"]):
        assert "there is no cluster in" in told([CLUSTER, *arguments, "--dir", "none"], work, **environment)
    assert "choose another --dir" in told([CLUSTER, "up", "--dir", "full"], work, **environment)
    assert "choose another --dir" in told([CLUSTER, "up", "--dir", "file"], work, **environment)
    assert "HOLDFAST_BIN" in told([CLUSTER, "up", "--dir", "new-cluster"], work, HOLDFAST_BIN="/none")
    # Nodes that do not start leave nothing behind that `down` does not take away.
    text = told([CLUSTER, "up", "--dir", "new-cluster"], work, **environment, HOLDFAST_SERVE_ARGS="--bogus")
    assert "--bogus" in text and "node 1 ended" in text
    done = subprocess.run([CLUSTER, "down", "--dir", "new-cluster"], cwd=work, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not (work / "new-cluster").exists(), done.stdout


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_cluster_whose_start_was_cut_short(work):
    """Whenever `up` is ended, `down` finds what it had begun; and what the nodes are started with is kept."""
    stub = work / "stub"
    stub.write_text("#!/bin/sh\nexec sleep 600\n")
    stub.chmod(0o755)
    directory = work / "cut short"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST_", "AWS_"))}
    clean["HOLDFAST_BIN"] = str(stub)
    pids = []
    # The second one finds a process of the first, and does not let its own run beside it.
    for environment in ({"HOLDFAST_REGION": "berlin", "HOLDFAST_SERVE_ARGS": "--rack 7"}, {}):
        up = subprocess.Popen([CLUSTER, "up", "--dir", directory], env={**clean, **environment}, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            file = directory / "node-1" / "pid"
            pid = int(file.read_text().split()[0]) if file.exists() else None
            if pid and pid not in pids:
                break
            assert time.monotonic() < deadline and up.poll() is None
            time.sleep(0.02)
        assert not any(map(runs, pids))
        pids.append(pid)
        up.terminate()
        up.wait(60)
        state = (directory / "state").read_text()
        assert "region=berlin\n" in state and "serve_args=--rack\\ 7\n" in state
    text = told([CLUSTER, "up", "--dir", directory], work, HOLDFAST_BIN=str(stub), HOLDFAST_REGION="paris")
    assert "region berlin" in text and "HOLDFAST_REGION" in text
    done = subprocess.run([CLUSTER, "down", "--dir", directory], env=clean, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not directory.exists(), done.stdout
    assert not any(map(runs, pids))
