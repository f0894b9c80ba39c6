"""DuckDB reads and writes S3 by its httpfs extension, which the Python package of the same name brings."""

from pathlib import Path

import duckdb
import duckdb_extension_httpfs
import pytest


@pytest.fixture
def db(store):
    (extension,) = Path(duckdb_extension_httpfs.__file__).parent.rglob("httpfs.duckdb_extension")
    db = duckdb.connect()
    db.execute(f"LOAD '{extension}'")
    db.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{store.access_key}', SECRET '{store.secret_key}', REGION 'us-east-1', "
        f"ENDPOINT '{store.host}', URL_STYLE 'path', USE_SSL false)"
    )
    return db


def test_parquet_and_csv(db, store, bucket, make_bucket):
    make_bucket(bucket)
    db.execute("CREATE TABLE t AS SELECT i, i % 7 AS part, hash(i) AS h FROM range(1500000) r(i)")
    for _ in range(2):
        db.execute(f"COPY t TO 's3://{bucket}/a b/t+ü.parquet'")
        assert db.execute(f"SELECT count(*), sum(i) FROM 's3://{bucket}/a b/t+ü.parquet'").fetchone() == (1500000, 1500000 * 1499999 // 2)
    assert db.execute(f"SELECT count(*) FROM 's3://{bucket}/a b/t+ü.parquet' WHERE part = 3 AND i > 1000000").fetchone()[0] == 71429
    db.execute(f"COPY (SELECT * FROM t WHERE i < 70000) TO 's3://{bucket}/parts' (FORMAT parquet, PARTITION_BY part)")
    assert db.execute(f"SELECT count(DISTINCT part), count(*) FROM read_parquet('s3://{bucket}/parts/*/*.parquet', hive_partitioning = true)").fetchone() == (7, 70000)
    db.execute(f"COPY (SELECT * FROM t WHERE i < 1000) TO 's3://{bucket}/t.csv' (HEADER)")
    assert db.execute(f"SELECT count(*) FROM 's3://{bucket}/t.csv'").fetchone()[0] == 1000
    with pytest.raises(duckdb.Error, match="404|not found|No files|NoSuchKey"):
        db.execute(f"SELECT * FROM 's3://{bucket}/missing.parquet'")
    with pytest.raises(duckdb.Error, match="404|NoSuchBucket"):
        db.execute(f"COPY t TO 's3://no-{bucket}/t.parquet'")
