"""obstore: Rust's object_store as it is, with all of its operations."""

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import S3Store
from pyarrow import fs
from store import KEYS, REGION, pattern

MIB = 1 << 20


@pytest.fixture
def s3(store, bucket):
    arrow = fs.S3FileSystem(
        access_key=store.access_key, secret_key=store.secret_key, region=REGION, scheme="http", endpoint_override=store.host,
        allow_bucket_creation=True, allow_bucket_deletion=True,
    )
    arrow.create_dir(bucket)
    yield S3Store(
        bucket, endpoint=store.endpoint, access_key_id=store.access_key, secret_access_key=store.secret_key, region=REGION,
        client_options={"allow_http": True}, checksum_algorithm="SHA256",
    )
    arrow.delete_dir(bucket)


def test_a_life(s3):
    body = pattern(17 * MIB + 1)
    obstore.put(s3, "large", body, chunk_size=5 * MIB)
    assert bytes(obstore.get(s3, "large").bytes()) == body
    assert bytes(obstore.get_range(s3, "large", start=5 * MIB - 1, length=3)) == body[5 * MIB - 1 :][:3]
    ranges = obstore.get_ranges(s3, "large", starts=[0, 9 * MIB], lengths=[10, 20])
    assert [bytes(piece) for piece in ranges] == [body[:10], body[9 * MIB :][:20]]
    obstore.put(s3, "once", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(s3, "once", b"second", mode="create")
    meta = obstore.head(s3, "once")
    obstore.put(s3, "once", b"third", mode={"e_tag": meta["e_tag"]})
    with pytest.raises(PreconditionError):
        obstore.put(s3, "once", b"fourth", mode={"e_tag": meta["e_tag"]})
    assert bytes(obstore.get(s3, "once").bytes()) == b"third"
    obstore.put(s3, "empty", b"")
    assert obstore.head(s3, "empty")["size"] == 0
    obstore.copy(s3, "large", "copied")
    obstore.rename(s3, "copied", "renamed")
    assert bytes(obstore.get(s3, "renamed").bytes()) == body
    assert {entry["path"] for page in obstore.list(s3) for entry in page} == {"large", "once", "empty", "renamed"}
    with pytest.raises(FileNotFoundError):
        obstore.get(s3, "copied")
    with obstore.open_writer(s3, "stream", buffer_size=5 * MIB) as out:
        for start in range(0, len(body), MIB):
            out.write(body[start : start + MIB])
    assert bytes(obstore.get(s3, "stream").bytes()) == body


def test_keys(s3):
    # object_store has its own opinion of what a path is.
    keys = [key for key in KEYS if "//" not in key and not key.endswith("/")]
    for key in keys:
        obstore.put(s3, key, key.encode())
    listed = [entry["path"] for page in obstore.list(s3) for entry in page]
    assert len(listed) == len(keys)
    for key in keys:
        assert bytes(obstore.get(s3, key).bytes()) == key.encode()
    obstore.delete(s3, listed)
    assert not [entry for page in obstore.list(s3) for entry in page]
