"""Event notifications, told to a webhook of the test's own."""

import http.server
import json
import os
import subprocess
import threading
import time
import urllib.parse
import uuid
from collections import defaultdict

import pytest
from botocore.exceptions import ClientError
from conftest import ACCESS_KEY, SECRET_KEY, empty

PATIENCE_S = 60
ALL_EVENTS = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*"]


class Hook:
    """A webhook: keeps what it is told, in the order in which that comes; answers 503 while it is `failing`."""

    def __init__(self, port=0):
        hook = self
        self.messages, self.headers = [], []
        self.failing = 0
        self.refused = 0
        self.lock = threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with hook.lock:
                    failing = hook.failing > 0
                    if failing:
                        hook.failing -= 1
                        hook.refused += 1
                    else:
                        hook.messages.append(json.loads(body))
                        hook.headers.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(503 if failing else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def records(self, bucket=None):
        with self.lock:
            records = [record for message in self.messages for record in message.get("Records", [])]
        return [record for record in records if bucket in (None, record["s3"]["bucket"]["name"])]

    def wait(self, enough, what):
        """Until `enough` says of the records that they are."""
        deadline = time.monotonic() + PATIENCE_S
        while not enough(self.records()):
            assert time.monotonic() < deadline, f"{what}: {len(self.records())} records, {self.records()[-5:]}"
            time.sleep(0.05)


def names_of(records):
    """What was told of each key, in order, each event once: it may come again."""
    names, seen = defaultdict(list), set()
    for record in records:
        described = record["s3"]["object"]
        mark = (described["key"], described["sequencer"])
        if mark not in seen:
            seen.add(mark)
            names[urllib.parse.unquote_plus(described["key"])].append(record["eventName"])
    return names


def admin(endpoint, access_key, secret_key, *arguments):
    command = [os.environ["HOLDFAST_BIN"], "admin", *arguments, "--endpoint", endpoint]
    environment = {**os.environ, "HOLDFAST_ROOT_ACCESS_KEY": access_key, "HOLDFAST_ROOT_SECRET_KEY": secret_key}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def hook(server):
    """A webhook that the server knows, with its name and what calls `holdfast admin webhook`."""
    hook = Hook()
    hook.name = "w-" + uuid.uuid4().hex[:12]
    hook.arn = f"arn:holdfast:webhook:::{hook.name}"
    hook.admin = lambda *arguments: admin(server.endpoint, ACCESS_KEY, SECRET_KEY, "webhook", *arguments)
    code, out, err = hook.admin("add", hook.name, f"http://127.0.0.1:{hook.port}/events?x=1", "--token", "open-sesame")
    assert code == 0, err
    assert out.strip() == hook.arn
    yield hook
    hook.admin("remove", hook.name)
    hook.close()


def configure(s3, bucket, arn, events=ALL_EVENTS, rules=None):
    configuration = {"QueueArn": arn, "Events": events}
    if rules:
        configuration["Filter"] = {"Key": {"FilterRules": [{"Name": n, "Value": v} for n, v in rules]}}
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [configuration]}
    )


def code_of(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def test_every_change_comes_as_s3_tells_it(s3, bucket, hook):
    configure(s3, bucket, hook.arn)
    s3.put_object(Bucket=bucket, Key="a b/ü+.txt", Body=b"hello")
    s3.put_object_tagging(Bucket=bucket, Key="a b/ü+.txt", Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    s3.delete_object_tagging(Bucket=bucket, Key="a b/ü+.txt")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a b/ü+.txt"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"x" * 100_000)
    s3.complete_multipart_upload(
        Bucket=bucket,
        Key="parts",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    s3.delete_object(Bucket=bucket, Key="copy")
    s3.delete_object(Bucket=bucket, Key="copy")
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "parts"}, {"Key": "nothing"}]})
    expected = {
        "a b/ü+.txt": ["ObjectCreated:Put", "ObjectTagging:Put", "ObjectTagging:Delete"],
        "copy": ["ObjectCreated:Copy", "ObjectRemoved:Delete"],
        "parts": ["ObjectCreated:CompleteMultipartUpload", "ObjectRemoved:Delete"],
    }
    hook.wait(lambda records: names_of(records) == expected, expected)
    first = next(record for record in hook.records() if record["eventName"] == "ObjectCreated:Put")
    assert first["eventVersion"] == "2.2" and first["eventSource"] == "aws:s3"
    assert first["s3"]["bucket"]["name"] == bucket
    described = first["s3"]["object"]
    assert described["key"] == "a+b/%C3%BC%2B.txt"
    assert described["size"] == 5 and described["eTag"] == "5d41402abc4b2a76b9719d911017c592"
    assert "versionId" not in described
    tests = [message for message in hook.messages if message.get("Event") == "s3:TestEvent"]
    assert [test["Bucket"] for test in tests] == [bucket]
    assert {headers["authorization"] for headers in hook.headers} == {"Bearer open-sesame"}
    assert {headers["content-type"] for headers in hook.headers} == {"application/json"}


def test_versions_are_told(s3, hook):
    bucket = "b-" + uuid.uuid4().hex[:20]
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    configure(s3, bucket, hook.arn)
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    s3.delete_object(Bucket=bucket, Key="k", VersionId=version)
    s3.delete_object(Bucket=bucket, Key="k", VersionId=marker)
    expected = [
        ("ObjectCreated:Put", version),
        ("ObjectRemoved:DeleteMarkerCreated", marker),
        ("ObjectRemoved:Delete", version),
        ("ObjectRemoved:Delete", marker),
    ]

    def told(records):
        return [(record["eventName"], record["s3"]["object"]["versionId"]) for record in records]

    hook.wait(lambda records: told(records) == expected, expected)
    sequencers = [record["s3"]["object"]["sequencer"] for record in hook.records()]
    assert sequencers == sorted(set(sequencers))
    s3.delete_bucket(Bucket=bucket)


def test_filters_and_changes_of_the_configuration(s3, bucket, hook):
    configure(s3, bucket, hook.arn, ["s3:ObjectCreated:Put"], [("prefix", "in/"), ("suffix", ".jpg")])
    shown = s3.get_bucket_notification_configuration(Bucket=bucket)["QueueConfigurations"]
    assert shown[0]["QueueArn"] == hook.arn
    assert shown[0]["Filter"]["Key"]["FilterRules"] == [
        {"Name": "prefix", "Value": "in/"},
        {"Name": "suffix", "Value": ".jpg"},
    ]
    for key in ["in/a.jpg", "in/a.png", "out/a.jpg", "in/b.jpg"]:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    s3.delete_object(Bucket=bucket, Key="in/a.jpg")
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    shown = s3.get_bucket_notification_configuration(Bucket=bucket)
    assert "QueueConfigurations" not in shown
    s3.put_object(Bucket=bucket, Key="in/late.jpg", Body=b"x")
    configure(s3, bucket, hook.arn, ["s3:ObjectCreated:*"])
    s3.put_object(Bucket=bucket, Key="last", Body=b"x")
    put = ["ObjectCreated:Put"]
    expected = {"in/a.jpg": put, "in/b.jpg": put, "last": put}
    hook.wait(lambda records: names_of(records) == expected, expected)


def test_what_fails_is_told_later_and_in_order(s3, bucket, hook):
    configure(s3, bucket, hook.arn)
    hook.failing = 12
    expected = {}
    for round in range(6):
        for key in ["a", "b", "c", "d", "e"]:
            if round % 2 == 0:
                s3.put_object(Bucket=bucket, Key=key, Body=str(round).encode())
                expected.setdefault(key, []).append("ObjectCreated:Put")
            else:
                s3.delete_object(Bucket=bucket, Key=key)
                expected.setdefault(key, []).append("ObjectRemoved:Delete")
    hook.wait(lambda records: names_of(records) == expected, expected)
    assert hook.refused > 0


def test_one_webhook_that_is_down_holds_up_no_other(s3, bucket, hook):
    down = Hook()
    port, name = down.port, "down-" + uuid.uuid4().hex[:8]
    down.close()
    assert hook.admin("add", name, f"http://127.0.0.1:{port}/")[0] == 0
    configurations = [
        {"QueueArn": arn, "Events": ALL_EVENTS} for arn in [hook.arn, f"arn:holdfast:webhook:::{name}"]
    ]
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": configurations}
    )
    keys = [f"k{number}" for number in range(20)]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    expected = {key: ["ObjectCreated:Put"] for key in keys}
    hook.wait(lambda records: names_of(records) == expected, expected)

    # The status tells of it.
    deadline = time.monotonic() + PATIENCE_S
    while True:
        code, out, err = admin(s3.meta.endpoint_url, ACCESS_KEY, SECRET_KEY, "status")
        assert code == 0, err
        if f"webhook {name} is not told" in out:
            break
        assert time.monotonic() < deadline, out
        time.sleep(0.2)

    up = Hook(port)
    try:
        up.wait(lambda records: names_of(records) == expected, expected)
    finally:
        hook.admin("remove", name)
        up.close()


def test_strange_configurations_and_webhooks_are_refused(s3, bucket, hook):
    def put(configuration):
        return code_of(
            s3.put_bucket_notification_configuration, Bucket=bucket, NotificationConfiguration=configuration
        )

    def queue(**arguments):
        rule = {"QueueArn": hook.arn, "Events": ["s3:ObjectCreated:*"], **arguments}
        return put({"QueueConfigurations": [rule]})

    assert queue(QueueArn="arn:holdfast:webhook:::nobody") == "InvalidArgument"
    assert queue(QueueArn="arn:aws:sqs:us-east-1:1:q") == "InvalidArgument"
    assert queue(Events=["s3:Nothing"]) == "InvalidArgument"
    assert queue(Events=["s3:Replication:*"]) == "NotImplemented"
    assert put({"EventBridgeConfiguration": {}}) == "NotImplemented"
    code, _, err = hook.admin("add", "secure", "https://127.0.0.1/")
    assert code != 0 and "https is not spoken" in err
    code, _, err = hook.admin("add", "a/b", "http://127.0.0.1/")
    assert code != 0 and "letters" in err
    code, out, _ = hook.admin("list")
    assert code == 0 and hook.arn in out and "open-sesame" not in out
