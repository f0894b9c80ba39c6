"""What clients of all kinds put on the wire, byte by byte: framings, spellings and combinations that SDKs here do not send."""

import base64
import hashlib
import http.client
import re
import urllib.parse
import zlib
from xml.etree import ElementTree

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from conftest import ACCESS_KEY, SECRET_KEY, pattern

MIB = 1 << 20
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def xml(self):
        return ElementTree.fromstring(self.body)

    @property
    def code(self):
        return self.xml.findtext("Code")


@pytest.fixture
def send(server):
    """Sends one signed request, with just the headers given and those of the signature."""

    def call(method, target, body=b"", framed=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        request = AWSRequest(method, server.endpoint + target, data=body, headers=headers)
        signer = Signer(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1")
        signer.add_auth(request)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in request.headers.items():
                connection.putheader(name, value)
            if framed is None and "content-length" not in headers:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders()
            connection.send(body if framed is None else framed)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    return call


class Signer(S3SigV4Auth):
    """Signs that the payload proves itself where it is framed, and never the length, which HTTP may not say."""

    def payload(self, request):
        framed = "x-amz-decoded-content-length" in request.headers
        return "STREAMING-UNSIGNED-PAYLOAD-TRAILER" if framed else hashlib.sha256(request.body or b"").hexdigest()

    def headers_to_sign(self, request):
        signed = super().headers_to_sign(request)
        del signed["content-length"]
        return signed


def aws_chunked(body, size):
    """The body in chunks of `size`, with a CRC32 behind it."""
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return framed + b"0\r\nx-amz-checksum-crc32:" + base64.b64encode(zlib.crc32(body).to_bytes(4, "big")) + b"\r\n\r\n"


@pytest.mark.parametrize("size", [0, 1, 100_000, 5 * MIB + 1])
def test_aws_chunked_with_and_without_a_length(send, s3, bucket, size):
    body = pattern(size, size)
    framed = aws_chunked(body, 65536)
    headers = {"content_encoding": "aws-chunked", "x_amz_decoded_content_length": str(size), "x_amz_trailer": "x-amz-checksum-crc32"}
    answer = send("PUT", f"/{bucket}/length", framed=framed, content_length=str(len(framed)), **headers)
    assert answer.status == 200, answer.body
    # The same inside HTTP's own chunks, which do not end where those of S3 do.
    pieces = [framed[start : start + 33_333] for start in range(0, len(framed), 33_333)]
    twice = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    answer = send("PUT", f"/{bucket}/chunked", framed=twice, transfer_encoding="chunked", **headers)
    assert answer.status == 200, answer.body
    for key in ("length", "chunked"):
        got = s3.get_object(Bucket=bucket, Key=key)
        assert got["Body"].read() == body
        # What is only framing is not kept.
        assert not got.get("ContentEncoding")


def test_multipart_results_and_a_single_empty_part(send, bucket):
    created = send("POST", f"/{bucket}/empty?uploads")
    assert created.xml.tag == NAMESPACE + "InitiateMultipartUploadResult"
    upload = created.xml.findtext(NAMESPACE + "UploadId")
    part = send("PUT", f"/{bucket}/empty?partNumber=1&uploadId={upload}&x-id=UploadPart")
    assert part.status == 200
    body = f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{part.headers['ETag']}</ETag></Part></CompleteMultipartUpload>".encode()
    refused = send("POST", f"/{bucket}/empty?uploadId={upload}", body, x_amz_mp_object_size="1")
    assert refused.status == 400 and refused.code == "InvalidRequest"
    done = send("POST", f"/{bucket}/empty?uploadId={upload}", body, x_amz_mp_object_size="0")
    assert done.status == 200 and done.xml.tag == NAMESPACE + "CompleteMultipartUploadResult"
    assert done.xml.findtext(NAMESPACE + "ETag").strip('"').endswith("-1")
    assert done.xml.findtext(NAMESPACE + "Key") == "empty" and done.xml.findtext(NAMESPACE + "Bucket") == bucket
    got = send("GET", f"/{bucket}/empty")
    assert got.status == 200 and got.body == b"" and got.headers["Content-Length"] == "0"


def test_delete_objects_is_proved_either_way(send, s3, bucket):
    body = b'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>key</Key></Object></Delete>'
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    sha256 = base64.b64encode(hashlib.sha256(body).digest()).decode()
    crc32 = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    for proof in (
        {"content_md5": md5},
        {"x_amz_checksum_sha256": sha256},
        {"x_amz_checksum_crc32": crc32, "x_amz_sdk_checksum_algorithm": "CRC32"},
        {"content_md5": md5, "x_amz_checksum_crc32": crc32},
    ):
        for target in (f"/{bucket}?delete", f"/{bucket}/?delete=", f"/{bucket}?delete=&x-id=DeleteObjects"):
            s3.put_object(Bucket=bucket, Key="key", Body=b"")
            answer = send("POST", target, body, **proof)
            assert answer.status == 200, answer.body
            assert answer.xml.tag == NAMESPACE + "DeleteResult"
            assert answer.xml.findtext(f"{NAMESPACE}Deleted/{NAMESPACE}Key") == "key"
    # Both have to hold.
    s3.put_object(Bucket=bucket, Key="key", Body=b"")
    wrong = send("POST", f"/{bucket}?delete", body, content_md5=md5, x_amz_checksum_crc32="AAAAAA==")
    assert wrong.status == 400 and wrong.code == "BadDigest"
    wrong = send("POST", f"/{bucket}?delete", body, content_md5=base64.b64encode(bytes(16)).decode(), x_amz_checksum_crc32=crc32)
    assert wrong.status == 400 and wrong.code == "BadDigest"
    assert s3.head_object(Bucket=bucket, Key="key")["ContentLength"] == 0


def test_listings_of_the_first_version_in_the_encoding_of_urls(send, s3, bucket):
    keys = ["a+b c", "dir/x", "dir/ü%", "tab\tend", "z"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    found, marker = [], ""
    while True:
        listed = send("GET", f"/{bucket}/?encoding-type=url&max-keys=2&marker={urllib.parse.quote(marker, safe='')}")
        assert listed.status == 200 and listed.xml.tag == NAMESPACE + "ListBucketResult"
        assert listed.xml.findtext(NAMESPACE + "EncodingType") == "url"
        page = [urllib.parse.unquote_plus(entry.text) for entry in listed.xml.iterfind(f"{NAMESPACE}Contents/{NAMESPACE}Key")]
        found += page
        if listed.xml.findtext(NAMESPACE + "IsTruncated") == "false":
            break
        marker = page[-1]
    assert found == keys
    listed = send("GET", f"/{bucket}?delimiter=%2F&encoding-type=url&prefix=d")
    assert listed.xml.findtext(f"{NAMESPACE}CommonPrefixes/{NAMESPACE}Prefix") == "dir/"


def test_paths_of_buckets_with_and_without_a_slash(send, bucket):
    for path in (f"/{bucket}", f"/{bucket}/"):
        for query in ("", "?list-type=2", "?location", "?uploads", "?x-id=ListObjects", "?unknown=1", "?list-type=2&x-id=ListObjectsV2"):
            answer = send("GET", path + query)
            assert answer.status == 200, (path, query, answer.body)
        assert send("HEAD", path).status == 200
    assert send("PUT", f"/{bucket}-slash/").status == 200
    assert send("DELETE", f"/{bucket}-slash/").status == 204


def test_parameters_that_mean_nothing(send, bucket):
    assert send("PUT", f"/{bucket}/key?x-id=PutObject", b"0123456789").status == 200
    for query in ("?x-id=GetObject", "?versionId=null", "?unknown=1&other", "?versionId=null&x-id=GetObject"):
        assert send("GET", f"/{bucket}/key{query}").body == b"0123456789", query
        assert send("HEAD", f"/{bucket}/key{query}").headers["Content-Length"] == "10"
    assert send("PUT", f"/{bucket}/copy?x-id=CopyObject", x_amz_copy_source=f"/{bucket}/key?versionId=null").status == 200
    assert send("DELETE", f"/{bucket}/copy?versionId=null&x-id=DeleteObject").status == 204
    assert send("GET", f"/{bucket}/copy").code == "NoSuchKey"
    assert send("GET", "/?x-id=ListBuckets").xml.tag == NAMESPACE + "ListAllMyBucketsResult"


def test_ranges_with_conditions(send, s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="key", Body=b"0123456789")["ETag"]
    for given, expected in (("bytes=2-4", b"234"), ("bytes=-3", b"789"), ("bytes=-30", b"0123456789"), ("bytes=7-", b"789"), ("bytes=8-99", b"89")):
        for condition in ({"if_match": etag}, {"if_match": "*"}, {"if_match": etag.strip('"')}, {"if_none_match": '"0"'}):
            answer = send("GET", f"/{bucket}/key", range=given, **condition)
            assert (answer.status, answer.body) == (206, expected)
            assert re.fullmatch(r"bytes \d-9/10|bytes 2-4/10", answer.headers["Content-Range"])
    assert send("GET", f"/{bucket}/key", range="bytes=0-1", if_match='"0"').code == "PreconditionFailed"
    assert send("GET", f"/{bucket}/key", range="bytes=0-1", if_none_match=etag).status == 304
    assert send("GET", f"/{bucket}/key", range="bytes=-0").code == "InvalidRange"
    # What is no range is no reason to refuse.
    assert send("GET", f"/{bucket}/key", range="lines=1-2").body == b"0123456789"


def test_parts_copied_under_a_condition(send, s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="source", Body=pattern(6 * MIB))["ETag"]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="target")["UploadId"]
    target = f"/{bucket}/target?partNumber=1&uploadId={upload}"
    copied = {"x_amz_copy_source": f"{bucket}/source", "x_amz_copy_source_range": f"bytes=0-{5 * MIB - 1}"}
    refused = send("PUT", target, x_amz_copy_source_if_match='"0"', **copied)
    assert refused.status == 412 and refused.code == "PreconditionFailed"
    refused = send("PUT", target, x_amz_copy_source_if_none_match=etag, **copied)
    assert refused.status == 412
    for condition in ({"x_amz_copy_source_if_match": etag}, {"x_amz_copy_source_if_match": etag.strip('"')}, {"x_amz_copy_source_if_none_match": '"0"'}):
        done = send("PUT", target, **condition, **copied)
        assert done.status == 200 and done.xml.tag == NAMESPACE + "CopyPartResult", done.body
    part = done.xml.findtext(NAMESPACE + "ETag")
    s3.complete_multipart_upload(Bucket=bucket, Key="target", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part}]})
    assert s3.get_object(Bucket=bucket, Key="target")["Body"].read() == pattern(6 * MIB)[: 5 * MIB]


@pytest.mark.parametrize("size", [0, 1, 100_000, 5 * MIB + 1])
def test_bodies_in_chunks_of_http(send, s3, bucket, size):
    """As `curl -T -` and streams of Java's HTTP clients send them: without a length."""
    body = pattern(size, seed=size)

    def stream(key, framed):
        # What is signed is the body's hash, as of any other.
        return send("PUT", f"/{bucket}/{key}", body, framed=framed, transfer_encoding="chunked")

    chunks = [body[start : start + 70_000] for start in range(0, size, 70_000)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    assert stream("key", framed + b"0\r\n\r\n").status == 200
    got = s3.get_object(Bucket=bucket, Key="key")
    assert got["Body"].read() == body
    if size:
        # A byte that is not the one that was signed for.
        wrong = framed.replace(chunks[0][:1], bytes([chunks[0][0] ^ 1]), 1) if size == 1 else framed[:-3] + b"!\r\n"
        assert stream("wrong", wrong + b"0\r\n\r\n").code == "XAmzContentSHA256Mismatch"
        with pytest.raises(s3.exceptions.ClientError):
            s3.head_object(Bucket=bucket, Key="wrong")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = stream(f"parts?partNumber=1&uploadId={upload}", framed + b"0\r\n\r\n")
    assert part.status == 200
    parts = [{"PartNumber": 1, "ETag": part.headers["etag"]}]
    s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket=bucket, Key="parts")["Body"].read() == body


def test_header_names_are_in_the_case_of_s3(send, bucket):
    # HTTP asks for none, but htslib 1.16 looks for "ETag" and JetS3t for "Content-Length", "Last-Modified".
    put = send("PUT", f"/{bucket}/key", b"bytes", content_type="text/plain", cache_control="no-store")
    assert {"ETag", "Content-Length", "Server", "Date", "x-amz-request-id"} <= set(put.headers.keys())
    get = send("GET", f"/{bucket}/key", range="bytes=1-2")
    names = "ETag Content-Length Content-Type Content-Range Cache-Control Last-Modified Accept-Ranges Server Date".split()
    assert get.status == 206 and set(names) <= set(get.headers.keys())
    missing = send("GET", f"/{bucket}/other")
    assert missing.code == "NoSuchKey" and "Content-Type" in missing.headers.keys()


def test_an_empty_acl_says_nothing(send, bucket):
    assert send("PUT", f"/{bucket}/key", b"bytes", x_amz_acl="").status == 200
