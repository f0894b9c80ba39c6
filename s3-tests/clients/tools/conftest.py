"""What the tests of command-line programs share."""

import os
import subprocess

import pytest
from store import pattern

MIB = 1 << 20


@pytest.fixture
def run(tmp_path):
    """Runs a command; its standard output, and when it `fails` all that it prints."""

    def call(*command, environment=None, fails=False, stdin=None, cwd=None, timeout=600):
        base = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "TMPDIR": str(tmp_path)}
        command = [*map(str, command)]
        done = subprocess.run(
            command, env={**base, **(environment or {})}, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True, timeout=timeout, cwd=cwd or tmp_path,
        )
        shown = f"{command}: {done.returncode}\n{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
        assert (done.returncode != 0) == fails, shown
        return (done.stdout + (done.stderr if fails else b"")).decode(errors="replace")

    return call


NAMES = ["plain", "with space", "a+b", "100%", "%2F", "ünï/ключ/🗝", "quo\"te'<&>", "?query=1&x", "#fragment", "[]{}|^`", "n" * 200]


@pytest.fixture
def tree(tmp_path):
    """A directory with files of awkward names and sizes; what is in it."""
    root = tmp_path / "tree"
    for index, name in enumerate(NAMES):
        path = root / "dir" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pattern(index * 77_777, index))
    (root / "large").write_bytes(pattern(21 * MIB + 1))
    (root / "empty").write_bytes(b"")
    for path in root.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return root


@pytest.fixture
def files_of():
    return lambda root: {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
