"""s3fs, the S3 file system of pandas, dask and the rest, on aiobotocore."""

import pytest
import s3fs
from store import KEYS, pattern

MIB = 1 << 20


@pytest.fixture
def s3(store):
    return s3fs.S3FileSystem(key=store.access_key, secret=store.secret_key, endpoint_url=store.endpoint, use_listings_cache=False, skip_instance_cache=True)


def test_a_life(s3, bucket, tmp_path):
    s3.mkdir(bucket)
    body = pattern(60 * MIB + 3)
    with s3.open(f"{bucket}/dir/large", "wb", block_size=5 * MIB) as out:
        out.write(body)
    assert s3.cat(f"{bucket}/dir/large") == body
    with s3.open(f"{bucket}/dir/large", "rb", block_size=1 * MIB) as file:
        for position in (0, 10 * MIB - 1, len(body) - 5):
            file.seek(position)
            assert file.read(100) == body[position : position + 100]
    assert s3.cat_ranges([f"{bucket}/dir/large"] * 2, [0, 7], [5, 9]) == [body[:5], body[7:9]]
    s3.touch(f"{bucket}/dir/empty")
    assert s3.info(f"{bucket}/dir/empty")["size"] == 0
    with s3.open(f"{bucket}/text", "w") as out:
        out.write("one")
    with s3.open(f"{bucket}/text", "a") as out:
        out.write("+two")
    assert s3.cat(f"{bucket}/text") == b"one+two"
    # Appending to what is large takes it as the first part of the new object.
    with s3.open(f"{bucket}/dir/large", "ab") as out:
        out.write(b"the end")
    assert s3.cat(f"{bucket}/dir/large") == body + b"the end"
    s3.mv(f"{bucket}/dir/large", f"{bucket}/dir/moved")
    assert s3.exists(f"{bucket}/dir/moved") and not s3.exists(f"{bucket}/dir/large")
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    for index in range(20):
        (source / "sub" / f"f {index}").write_bytes(pattern(index * 1000, index))
    s3.put(str(source), f"{bucket}/tree", recursive=True)
    s3.get(f"{bucket}/tree", str(tmp_path / "target"), recursive=True)
    for index in range(20):
        assert (tmp_path / "target" / "sub" / f"f {index}").read_bytes() == pattern(index * 1000, index)
    assert len(s3.find(f"{bucket}/tree")) == 20 and len(s3.glob(f"{bucket}/tree/**/f 1?")) == 10
    assert s3.du(f"{bucket}/tree") == sum(index * 1000 for index in range(20))
    s3.setxattr(f"{bucket}/text", attr="value")
    assert s3.getxattr(f"{bucket}/text", "attr") == "value"
    s3.put_tags(f"{bucket}/text", {"a": "b"})
    assert s3.get_tags(f"{bucket}/text") == {"a": "b"}
    assert s3.checksum(f"{bucket}/text") and s3.modified(f"{bucket}/text")
    # Made only if it is not there.
    with pytest.raises(OSError, match="pre-conditions"):
        s3.pipe_file(f"{bucket}/text", b"", mode="create")
    s3.rm(bucket, recursive=True)
    assert not s3.exists(bucket)


def test_keys(s3, bucket):
    s3.mkdir(bucket)
    keys = [key for key in KEYS if not key.endswith("/") and "?query" not in key and "#" not in key]
    for key in keys:
        s3.pipe_file(f"{bucket}/{key}", key.encode())
    for key in keys:
        assert s3.cat_file(f"{bucket}/{key}") == key.encode()
    assert sorted(path.removeprefix(bucket + "/") for path in s3.find(bucket)) == sorted(keys)
    s3.rm(bucket, recursive=True)


def test_errors(s3, store, bucket):
    with pytest.raises(FileNotFoundError):
        s3.cat(f"{bucket}/missing")
    with pytest.raises(FileNotFoundError, match="bucket"):
        s3.pipe_file(f"{bucket}/key", b"x")
    wrong = s3fs.S3FileSystem(key=store.access_key, secret="wrong" * 8, endpoint_url=store.endpoint, skip_instance_cache=True)
    with pytest.raises(PermissionError):
        wrong.ls("")


def test_it_goes_on_while_nodes_die(s3, bucket, dying):
    s3.retries = 12
    s3.mkdir(bucket)
    with dying() as deaths:
        index = 0
        while deaths.kills < 3 and not deaths.failure:
            body = pattern(6 * MIB + index, index)
            s3.pipe_file(f"{bucket}/f{index % 3}", body)
            assert s3.cat_file(f"{bucket}/f{index % 3}") == body
            index += 1
    s3.rm(bucket, recursive=True)
