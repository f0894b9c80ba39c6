"""A server in a region of its own, as boto3 and `holdfast admin` find it."""

import os
import subprocess

import boto3
import pytest
from botocore.exceptions import ClientError
from conftest import ACCESS_KEY, SECRET_KEY, running

REGION = "eu-west-1"


@pytest.fixture(scope="module")
def elsewhere():
    with running(REGION) as server:
        yield server


def code(call, **arguments):
    with pytest.raises(ClientError) as error:
        call(**arguments)
    return error.value.response["Error"]["Code"]


def test_buckets_are_where_the_server_is(elsewhere):
    s3 = elsewhere.client()
    constraint = {"LocationConstraint": REGION}
    s3.create_bucket(Bucket="named", CreateBucketConfiguration=constraint)
    s3.create_bucket(Bucket="unnamed")
    for bucket in ["named", "unnamed"]:
        assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] == REGION
        assert s3.head_bucket(Bucket=bucket)["BucketRegion"] == REGION
    assert [bucket["Name"] for bucket in s3.list_buckets(BucketRegion=REGION)["Buckets"]] == ["named", "unnamed"]
    assert s3.list_buckets(BucketRegion="us-east-1")["Buckets"] == []
    other = {"LocationConstraint": "eu-central-1"}
    assert code(s3.create_bucket, Bucket="other", CreateBucketConfiguration=other) == "IllegalLocationConstraintException"
    # Only in us-east-1 it is no error.
    assert code(s3.create_bucket, Bucket="named", CreateBucketConfiguration=constraint) == "BucketAlreadyOwnedByYou"


def test_a_client_of_another_region_is_sent_here(elsewhere):
    """boto3 takes the right region from the refusal, and signs again."""
    elsewhere.client().create_bucket(Bucket="found")
    lost = boto3.client(
        "s3",
        endpoint_url=elsewhere.endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-west-2",
    )
    lost.put_object(Bucket="found", Key="key", Body=b"x")
    assert lost.get_object(Bucket="found", Key="key")["Body"].read() == b"x"


def test_admin_finds_the_region_by_itself(elsewhere):
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    command = [os.environ["HOLDFAST_BIN"], "admin", "status", "--endpoint", elsewhere.endpoint]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr


def test_names_that_are_no_regions_are_refused():
    command = [os.environ["HOLDFAST_BIN"], "serve", "--data", "/nonexistent/data", "--region", "EU west"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert told.returncode == 2
    assert "--region" in told.stderr and "us-east-1" in told.stderr
