"""polars, whose S3 client is Rust's object_store."""

import polars
import pytest
from pyarrow import fs
from store import REGION


@pytest.fixture
def options(store):
    return {
        "aws_access_key_id": store.access_key, "aws_secret_access_key": store.secret_key, "aws_region": REGION,
        "aws_endpoint_url": store.endpoint, "aws_allow_http": "true",
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


def test_parquet_and_csv(made, options):
    frame = polars.DataFrame({"part": [index % 5 for index in range(200_000)], "value": range(200_000)})
    for _ in range(2):
        frame.write_parquet(f"s3://{made}/a b/frame+ü.parquet", storage_options=options)
        assert polars.read_parquet(f"s3://{made}/a b/frame+ü.parquet", storage_options=options).equals(frame)
    lazy = polars.scan_parquet(f"s3://{made}/a b/frame+ü.parquet", storage_options=options)
    assert lazy.filter(polars.col("part") == 2).select(polars.col("value").sum()).collect().item() == sum(range(2, 200_000, 5))
    for index in range(4):
        frame.slice(index * 50_000, 50_000).write_parquet(f"s3://{made}/many/{index}.parquet", storage_options=options)
    assert polars.scan_parquet(f"s3://{made}/many/*.parquet", storage_options=options).select(polars.len()).collect().item() == 200_000
    lazy.sink_csv(f"s3://{made}/frame.csv", storage_options=options)
    assert polars.scan_csv(f"s3://{made}/frame.csv", storage_options=options).select(polars.len()).collect().item() == 200_000


def test_errors(made, options):
    with pytest.raises(Exception, match="NoSuchBucket|404|not found|no files"):
        polars.read_parquet(f"s3://no-{made}/frame.parquet", storage_options=options)
    with pytest.raises(Exception, match="SignatureDoesNotMatch|403"):
        polars.read_parquet(f"s3://{made}/frame.parquet", storage_options={**options, "aws_secret_access_key": "wrong" * 8})
