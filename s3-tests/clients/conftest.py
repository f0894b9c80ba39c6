"""What the tests of all clients share. Nothing is imported here that is not in every one of their environments."""

import shutil
import uuid

import pytest
from store import NODES, NodesDie, Store


@pytest.fixture(scope="session")
def store():
    running = Store()
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def bucket():
    """A name that nobody has; whoever gets it makes the bucket."""
    return "c-" + uuid.uuid4().hex[:20]


@pytest.fixture
def dying(store):
    """Nodes die and come back for as long as the block runs."""
    if NODES < 3:
        pytest.skip("a node may die only where there are three")
    yield lambda **options: NodesDie(store, **options)
    store.wait_healthy()


@pytest.fixture
def program():
    """The path of a command; skips the test where it is not installed."""

    def find(name):
        path = shutil.which(name)
        if not path:
            pytest.skip(f"{name} is not installed")
        return path

    return find


@pytest.fixture
def make_bucket(store):
    """Makes buckets for clients that cannot."""
    return store.make_bucket
