"""Appending (PutObject with a write offset) and RenameObject, as boto3 sends them."""

import threading

import pytest
from botocore.exceptions import ClientError
from conftest import pattern

MIB = 1 << 20


def code(call, **arguments):
    with pytest.raises(ClientError) as failed:
        call(**arguments)
    return failed.value.response["Error"]["Code"]


def body(s3, bucket, key, **arguments):
    return s3.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED", **arguments)["Body"].read()


def test_a_log_grows(s3, bucket):
    whole = b""
    for index, size in enumerate([10, 1000, 40_000, 10, 6 * MIB, 1, 100_000]):
        data = pattern(size, index)
        added = s3.put_object(Bucket=bucket, Key="log", Body=data, WriteOffsetBytes=len(whole))
        whole += data
        # boto3 verifies the checksum of the whole as it reads.
        assert body(s3, bucket, "log") == whole
        head = s3.head_object(Bucket=bucket, Key="log", ChecksumMode="ENABLED")
        assert head["ContentLength"] == len(whole)
        assert head["ETag"] == added["ETag"]
        assert "ChecksumCRC32" in head
        if index:
            assert added["Size"] == len(whole)
    assert body(s3, bucket, "log", Range="bytes=40000-41100") == whole[40_000:41_101]
    assert body(s3, bucket, "log", Range="bytes=-100001") == whole[-100_001:]
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "log"})
    assert body(s3, bucket, "copy") == whole


def test_a_wrong_offset_changes_nothing(s3, bucket):
    arguments = {"Bucket": bucket, "Key": "log", "Body": b"x"}
    assert code(s3.put_object, WriteOffsetBytes=1, **arguments) == "InvalidWriteOffset"
    s3.put_object(WriteOffsetBytes=0, **arguments)
    for offset in [0, 2]:
        assert code(s3.put_object, WriteOffsetBytes=offset, **arguments) == "InvalidWriteOffset"
    assert body(s3, bucket, "log") == b"x"


def test_of_appends_at_one_offset_one_wins(server, s3, bucket):
    size, won = 0, []
    clients = [server.client() for _ in range(6)]
    for step, length in enumerate([100, 20_000, 50_000, 7, 200_000]):
        outcomes = {}

        def append(worker, client):
            data = pattern(length, 10 * step + worker)
            try:
                client.put_object(Bucket=bucket, Key="log", Body=data, WriteOffsetBytes=size)
                outcomes[worker] = data
            except ClientError as error:
                outcomes[worker] = error.response["Error"]["Code"]

        workers = [threading.Thread(target=append, args=pair) for pair in enumerate(clients)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        winners = [data for data in outcomes.values() if isinstance(data, bytes)]
        assert len(winners) == 1, outcomes
        losers = [data for data in outcomes.values() if isinstance(data, str)]
        assert set(losers) <= {"InvalidWriteOffset"}, losers
        won.append(winners[0])
        size += length
    assert body(s3, bucket, "log") == b"".join(won)


def test_an_object_gets_another_key(s3, bucket):
    for size in [10, 300_000, 9 * MIB]:
        data = pattern(size, 1)
        s3.put_object(Bucket=bucket, Key="a b/ä", Body=data, Metadata={"a": "1"}, ContentType="text/plain")
        before = s3.head_object(Bucket=bucket, Key="a b/ä")
        for number in range(4):
            source = "a%20b/%C3%A4" if number == 0 else f"to/{number - 1}"
            s3.rename_object(Bucket=bucket, Key=f"to/{number}", RenameSource=source)
        listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
        assert [entry["Key"] for entry in listed] == ["to/3"]
        after = s3.head_object(Bucket=bucket, Key="to/3")
        for name in ["ETag", "LastModified", "Metadata", "ContentType", "ContentLength"]:
            assert after[name] == before[name]
        assert body(s3, bucket, "to/3") == data


def test_what_a_rename_refuses(s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"a")
    s3.put_object(Bucket=bucket, Key="b", Body=b"b")
    rename = {"Bucket": bucket, "Key": "b", "RenameSource": "a"}
    assert code(s3.rename_object, DestinationIfNoneMatch="*", **rename) == "PreconditionFailed"
    assert code(s3.rename_object, SourceIfMatch='"other"', **rename) == "PreconditionFailed"
    assert code(s3.rename_object, Bucket=bucket, Key="c", RenameSource="none") == "NoSuchKey"
    s3.rename_object(ClientToken="token", **rename)
    s3.rename_object(ClientToken="token", **rename)
    other = {"Bucket": bucket, "Key": "c", "RenameSource": "a", "ClientToken": "token"}
    assert code(s3.rename_object, **other) == "IdempotencyParameterMismatch"
    assert body(s3, bucket, "b") == b"a"
