// AWS SDK for JavaScript, version 3: endpoint, keys and region from the environment, KEYS as JSON.
import assert from "node:assert/strict";
import { createReadStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import { Readable } from "node:stream";
import {
  CopyObjectCommand, CreateBucketCommand, CreateMultipartUploadCommand, CompleteMultipartUploadCommand, DeleteBucketCommand,
  DeleteObjectCommand, DeleteObjectsCommand, GetObjectAttributesCommand, GetObjectCommand, HeadBucketCommand, HeadObjectCommand,
  ListObjectsV2Command, ListPartsCommand, PutObjectCommand, S3Client, UploadPartCommand, UploadPartCopyCommand,
  paginateListObjectsV2, waitUntilBucketExists, waitUntilObjectNotExists,
} from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";
import { createHash } from "node:crypto";

const MIB = 1 << 20;
const [Bucket, scratch] = process.argv.slice(2);
const keys = JSON.parse(process.env.KEYS);

// Bytes that follow from the seed and do not repeat at a border of parts.
function pattern(size, seed = 0) {
  const block = Buffer.concat(Array.from({ length: 4099 }, (_, n) => createHash("sha256").update(`${seed}/${n}`).digest()));
  return Buffer.alloc(size, block);
}

async function refused(promise, name, status) {
  await assert.rejects(promise, (error) => {
    assert.equal(error.name, name);
    assert.equal(error.$metadata.httpStatusCode, status);
    return true;
  });
}

async function live(s3, Bucket) {
  await s3.send(new CreateBucketCommand({ Bucket }));
  await waitUntilBucketExists({ client: s3, maxWaitTime: 10 }, { Bucket });
  await s3.send(new HeadBucketCommand({ Bucket }));

  const bytes = async (Key, more = {}) => Buffer.from(await (await s3.send(new GetObjectCommand({ Bucket, Key, ...more }))).Body.transformToByteArray());
  for (const Body of ["text", Buffer.alloc(0), pattern(6 * MIB)]) {
    await s3.send(new PutObjectCommand({ Bucket, Key: "key", Body, Metadata: { who: "me" }, ContentType: "text/x-test" }));
    assert.deepEqual(await bytes("key"), Buffer.from(Body));
  }
  const head = await s3.send(new HeadObjectCommand({ Bucket, Key: "key" }));
  assert.equal(head.ContentLength, 6 * MIB);
  assert.deepEqual(head.Metadata, { who: "me" });
  const body = pattern(6 * MIB);
  assert.deepEqual(await bytes("key", { Range: "bytes=100-199" }), body.subarray(100, 200));
  assert.deepEqual(await bytes("key", { Range: "bytes=-7", IfMatch: head.ETag }), body.subarray(-7));

  // A file as a stream; and a stream of unknown length, in parts.
  await writeFile(`${scratch}/file`, body);
  await s3.send(new PutObjectCommand({ Bucket, Key: "file", Body: createReadStream(`${scratch}/file`) }));
  assert.deepEqual(await bytes("file"), body);
  const large = pattern(11 * MIB + 5, 1);
  for (const ChecksumAlgorithm of [undefined, "CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME"]) {
    const upload = new Upload({ client: s3, params: { Bucket, Key: "stream", Body: Readable.from([large.subarray(0, 7 * MIB), large.subarray(7 * MIB)]), ChecksumAlgorithm }, partSize: 5 * MIB });
    await upload.done();
    assert.deepEqual(await bytes("stream", { ChecksumMode: "ENABLED" }), large, ChecksumAlgorithm);
  }
  const attributes = await s3.send(new GetObjectAttributesCommand({ Bucket, Key: "stream", ObjectAttributes: ["ETag", "ObjectSize", "ObjectParts", "Checksum"] }));
  assert.equal(attributes.ObjectSize, large.length);

  await s3.send(new CopyObjectCommand({ Bucket, Key: "copy", CopySource: `${Bucket}/stream` }));
  assert.deepEqual(await bytes("copy"), large);
  const { UploadId } = await s3.send(new CreateMultipartUploadCommand({ Bucket, Key: "parts" }));
  const first = await s3.send(new UploadPartCopyCommand({ Bucket, Key: "parts", UploadId, PartNumber: 1, CopySource: `${Bucket}/stream`, CopySourceRange: `bytes=0-${5 * MIB - 1}` }));
  const second = await s3.send(new UploadPartCommand({ Bucket, Key: "parts", UploadId, PartNumber: 2, Body: "end" }));
  assert.equal((await s3.send(new ListPartsCommand({ Bucket, Key: "parts", UploadId }))).Parts.length, 2);
  const Parts = [{ PartNumber: 1, ETag: first.CopyPartResult.ETag }, { PartNumber: 2, ETag: second.ETag }];
  await s3.send(new CompleteMultipartUploadCommand({ Bucket, Key: "parts", UploadId, MultipartUpload: { Parts } }));
  assert.deepEqual(await bytes("parts"), Buffer.concat([large.subarray(0, 5 * MIB), Buffer.from("end")]));

  for (const Key of keys) await s3.send(new PutObjectCommand({ Bucket, Key, Body: Key }));
  for (const Key of keys) {
    assert.equal((await bytes(Key)).toString(), Key);
    const source = encodeURIComponent(`${Bucket}/${Key}`);
    await s3.send(new CopyObjectCommand({ Bucket, Key: "copied", CopySource: source }));
    assert.equal((await bytes("copied")).toString(), Key);
    const url = await getSignedUrl(s3, new GetObjectCommand({ Bucket, Key }), { expiresIn: 60 });
    assert.equal(await (await fetch(url)).text(), Key);
  }
  const put = await getSignedUrl(s3, new PutObjectCommand({ Bucket, Key: "signed" }), { expiresIn: 60 });
  assert.equal((await fetch(put, { method: "PUT", body: "signed" })).status, 200);

  const listed = [];
  for await (const page of paginateListObjectsV2({ client: s3, pageSize: 7 }, { Bucket })) listed.push(...page.Contents.map((entry) => entry.Key));
  const expected = [...keys, "key", "file", "stream", "copy", "parts", "copied", "signed"].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  assert.deepEqual(listed, expected);
  const folders = await s3.send(new ListObjectsV2Command({ Bucket, Delimiter: "/", EncodingType: "url" }));
  assert.ok(folders.CommonPrefixes.length > 0);

  await s3.send(new PutObjectCommand({ Bucket, Key: "once", Body: "1", IfNoneMatch: "*" }));
  await refused(s3.send(new PutObjectCommand({ Bucket, Key: "once", Body: "2", IfNoneMatch: "*" })), "PreconditionFailed", 412);
  await refused(s3.send(new GetObjectCommand({ Bucket, Key: "missing" })), "NoSuchKey", 404);
  await refused(s3.send(new HeadObjectCommand({ Bucket, Key: "missing" })), "NotFound", 404);
  await refused(s3.send(new PutObjectCommand({ Bucket: `no-${Bucket}`, Key: "missing", Body: "" })), "NoSuchBucket", 404);
  await refused(s3.send(new DeleteBucketCommand({ Bucket })), "BucketNotEmpty", 409);

  await s3.send(new DeleteObjectCommand({ Bucket, Key: "once" }));
  await waitUntilObjectNotExists({ client: s3, maxWaitTime: 10 }, { Bucket, Key: "once" });
  const deleted = await s3.send(new DeleteObjectsCommand({ Bucket, Delete: { Objects: listed.map((Key) => ({ Key })) } }));
  assert.equal(deleted.Errors, undefined);
  await s3.send(new DeleteBucketCommand({ Bucket }));
}

for (const requestChecksumCalculation of ["WHEN_SUPPORTED", "WHEN_REQUIRED"])
  for (const responseChecksumValidation of ["WHEN_SUPPORTED", "WHEN_REQUIRED"])
    await live(new S3Client({ forcePathStyle: true, requestChecksumCalculation, responseChecksumValidation }), Bucket);

const wrong = new S3Client({ forcePathStyle: true, credentials: { accessKeyId: process.env.AWS_ACCESS_KEY_ID, secretAccessKey: "wrong" } });
await refused(wrong.send(new ListObjectsV2Command({ Bucket })), "SignatureDoesNotMatch", 403);
