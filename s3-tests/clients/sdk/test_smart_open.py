"""smart_open: files on S3, written as a stream and read with seeks."""

import boto
import pytest
import smart_open
from store import pattern

MIB = 1 << 20


def test_streams(store, bucket):
    s3 = boto.client(store)
    s3.create_bucket(Bucket=bucket)
    parameters = {"client": s3}
    body = pattern(13 * MIB + 3)
    with smart_open.open(f"s3://{bucket}/a b/ü.bin", "wb", transport_params=parameters) as out:
        for start in range(0, len(body), 100_000):
            out.write(body[start : start + 100_000])
    with smart_open.open(f"s3://{bucket}/a b/ü.bin", "rb", transport_params=parameters) as file:
        assert file.read() == body
        for position in (0, 7 * MIB + 1, len(body) - 2):
            file.seek(position)
            assert file.read(1000) == body[position : position + 1000]
    with smart_open.open(f"s3://{bucket}/text.gz", "w", transport_params=parameters) as out:
        out.writelines(f"line {number}\n" for number in range(1000))
    with smart_open.open(f"s3://{bucket}/text.gz", "r", transport_params=parameters) as file:
        assert sum(1 for _ in file) == 1000
    with smart_open.open(f"s3://{bucket}/empty", "wb", transport_params=parameters):
        pass
    assert s3.head_object(Bucket=bucket, Key="empty")["ContentLength"] == 0
    with pytest.raises(OSError, match="missing"):
        smart_open.open(f"s3://{bucket}/missing", "rb", transport_params=parameters)
    boto.remove(s3, bucket)
