"""Delta tables: each commit is a PUT with If-None-Match, so of racing writers one wins and the others try again."""

from concurrent.futures import ThreadPoolExecutor

import pyarrow
import pytest
from deltalake import DeltaTable, write_deltalake
from pyarrow import fs
from store import REGION

WRITERS, COMMITS = 6, 8


@pytest.fixture
def options(store):
    return {
        "aws_access_key_id": store.access_key, "aws_secret_access_key": store.secret_key, "aws_region": REGION,
        "aws_endpoint_url": store.endpoint, "aws_allow_http": "true", "aws_conditional_put": "etag",
    }


@pytest.fixture
def made(store, bucket):
    s3 = fs.S3FileSystem(
        access_key=store.access_key, secret_key=store.secret_key, region=REGION, scheme="http", endpoint_override=store.host,
        allow_bucket_creation=True, allow_bucket_deletion=True,
    )
    s3.create_dir(bucket)
    yield bucket
    s3.delete_dir(bucket)


def rows(writer, commit):
    return pyarrow.table({"writer": [writer] * 10, "commit": [commit] * 10, "row": list(range(10))})


def append_all(table, options):
    """All writers append all their commits; each goes on trying until its commit is in."""

    def write(writer):
        for commit in range(COMMITS):
            write_deltalake(table, rows(writer, commit), mode="append", storage_options=options)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))


def test_concurrent_writers_lose_no_commit(made, options):
    table = f"s3://{made}/tables/one"
    write_deltalake(table, rows(-1, -1), storage_options=options)
    append_all(table, options)
    read = DeltaTable(table, storage_options=options)
    assert read.version() == WRITERS * COMMITS
    found = read.to_pyarrow_table().to_pylist()
    expected = [(-1, -1, row) for row in range(10)]
    expected += [(writer, commit, row) for writer in range(WRITERS) for commit in range(COMMITS) for row in range(10)]
    assert sorted((row["writer"], row["commit"], row["row"]) for row in found) == expected
    assert len(read.history()) == WRITERS * COMMITS + 1
    # Old versions stay, files are rewritten and swept.
    assert DeltaTable(table, version=0, storage_options=options).to_pyarrow_table().num_rows == 10
    read.delete("writer = 0")
    read.optimize.compact()
    read.create_checkpoint()
    read.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert DeltaTable(table, storage_options=options).to_pyarrow_table().num_rows == 10 + (WRITERS - 1) * COMMITS * 10


def test_concurrent_writers_while_nodes_die(made, options, dying):
    """A commit whose answer was lost may be in: the client tells by the file that it finds. None is lost."""
    table = f"s3://{made}/tables/two"
    write_deltalake(table, rows(-1, -1), storage_options=options)
    with dying() as deaths:
        rounds = 0
        while deaths.kills < 3 and not deaths.failure:
            append_all(table, options)
            rounds += 1
    read = DeltaTable(table, storage_options=options)
    found = sorted((row["writer"], row["commit"], row["row"]) for row in read.to_pyarrow_table().to_pylist())
    least = [(writer, commit, row) for writer in range(WRITERS) for commit in range(COMMITS) for row in range(10)]
    for entry in set(least):
        assert found.count(entry) >= rounds, entry
    assert len(found) % 10 == 0
