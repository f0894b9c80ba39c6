"""pyarrow's S3 file system, on the AWS SDK for C++, and Parquet data sets on it."""

import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
from pyarrow import fs
from store import KEYS, REGION, pattern

MIB = 1 << 20


@pytest.fixture
def s3(store):
    return fs.S3FileSystem(
        access_key=store.access_key, secret_key=store.secret_key, region=REGION, scheme="http", endpoint_override=store.host,
        allow_bucket_creation=True, allow_bucket_deletion=True,
    )


def test_files(s3, bucket):
    s3.create_dir(bucket)
    body = pattern(23 * MIB + 11)
    with s3.open_output_stream(f"{bucket}/dir/large") as out:
        for start in range(0, len(body), 777_777):
            out.write(body[start : start + 777_777])
    with s3.open_input_stream(f"{bucket}/dir/large") as file:
        assert file.read() == body
    with s3.open_input_file(f"{bucket}/dir/large") as file:
        assert file.size() == len(body)
        assert file.read_at(100, 10 * MIB - 50) == body[10 * MIB - 50 :][:100]
        file.seek(len(body) - 3)
        assert file.read(10) == body[-3:]
    # Written and closed without a byte.
    with s3.open_output_stream(f"{bucket}/dir/empty"):
        pass
    assert s3.get_file_info(f"{bucket}/dir/empty").size == 0
    s3.copy_file(f"{bucket}/dir/large", f"{bucket}/dir/copied")
    s3.move(f"{bucket}/dir/copied", f"{bucket}/dir/moved")
    with s3.open_input_stream(f"{bucket}/dir/moved") as file:
        assert file.read() == body
    s3.create_dir(f"{bucket}/made/deep/er", recursive=True)
    assert s3.get_file_info(f"{bucket}/made/deep").type == fs.FileType.Directory
    assert s3.get_file_info(f"{bucket}/missing").type == fs.FileType.NotFound
    found = s3.get_file_info(fs.FileSelector(bucket, recursive=True))
    assert {entry.path.removeprefix(bucket + "/") for entry in found if entry.is_file} == {"dir/large", "dir/empty", "dir/moved"}
    with pytest.raises(OSError):
        s3.open_input_stream(f"{bucket}/missing")
    with pytest.raises(OSError, match="does not exist|NO_SUCH_BUCKET|404"):
        s3.open_output_stream(f"no-{bucket}/key").write(b"x")
    s3.delete_dir(f"{bucket}/made")
    s3.delete_dir_contents(bucket)
    assert s3.get_file_info(fs.FileSelector(bucket)) == []
    s3.delete_dir(bucket)


def test_keys(s3, bucket):
    s3.create_dir(bucket)
    keys = [key for key in KEYS if "//" not in key and not key.endswith("/")]
    for key in keys:
        with s3.open_output_stream(f"{bucket}/{key}") as out:
            out.write(key.encode())
    for key in keys:
        with s3.open_input_stream(f"{bucket}/{key}") as file:
            assert file.read() == key.encode()
    found = s3.get_file_info(fs.FileSelector(bucket, recursive=True))
    assert sorted(entry.path.removeprefix(bucket + "/") for entry in found if entry.is_file) == sorted(keys)
    s3.delete_dir(bucket)


def test_a_data_set(s3, bucket):
    s3.create_dir(bucket)
    table = pyarrow.table({"part": [index % 7 for index in range(100_000)], "value": list(range(100_000))})
    for _ in range(2):
        pyarrow.parquet.write_to_dataset(table, f"{bucket}/set", partition_cols=["part"], filesystem=s3, existing_data_behavior="delete_matching")
        data = pyarrow.dataset.dataset(f"{bucket}/set", filesystem=s3, partitioning="hive")
        assert data.count_rows() == 100_000
        assert data.to_table(filter=pyarrow.dataset.field("part") == 3)["value"].to_pylist() == list(range(3, 100_000, 7))
    s3.delete_dir(bucket)


def test_it_goes_on_while_nodes_die(s3, store, bucket, dying):
    patient = fs.S3FileSystem(
        access_key=store.access_key, secret_key=store.secret_key, region=REGION, scheme="http", endpoint_override=store.host,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=12), request_timeout=20,
    )
    s3.create_dir(bucket)
    with dying() as deaths:
        index = 0
        while deaths.kills < 3 and not deaths.failure:
            body = pattern(6 * MIB + index, index)
            with patient.open_output_stream(f"{bucket}/f{index % 3}") as out:
                out.write(body)
            with patient.open_input_stream(f"{bucket}/f{index % 3}") as file:
                assert file.read() == body
            index += 1
    s3.delete_dir(bucket)
