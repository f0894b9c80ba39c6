// AWS SDK for JavaScript, version 2, as old applications still carry it.
const assert = require("node:assert/strict");
const { Readable } = require("node:stream");
process.env.AWS_SDK_JS_SUPPRESS_MAINTENANCE_MODE_MESSAGE = "1";
const AWS = require("aws-sdk");

const MIB = 1 << 20;
const [Bucket, , signatureVersion] = process.argv.slice(2);
const keys = JSON.parse(process.env.KEYS);

async function main() {
  const s3 = new AWS.S3({ endpoint: process.env.AWS_ENDPOINT_URL, s3ForcePathStyle: true, signatureVersion });
  await s3.createBucket({ Bucket }).promise();
  const body = Buffer.alloc(12 * MIB + 1, "holdfast ");
  await s3.upload({ Bucket, Key: "large", Body: Readable.from([body]) }, { partSize: 5 * MIB }).promise();
  assert.deepEqual((await s3.getObject({ Bucket, Key: "large" }).promise()).Body, body);
  assert.deepEqual((await s3.getObject({ Bucket, Key: "large", Range: "bytes=-3" }).promise()).Body, body.subarray(-3));
  for (const Key of keys) {
    await s3.putObject({ Bucket, Key, Body: Key, Metadata: { a: "b" } }).promise();
    assert.equal((await s3.getObject({ Bucket, Key }).promise()).Body.toString(), Key);
    const url = s3.getSignedUrl("getObject", { Bucket, Key, Expires: 60 });
    assert.equal(await (await fetch(url)).text(), Key, url);
  }
  await s3.copyObject({ Bucket, Key: "copy", CopySource: `${Bucket}/large` }).promise();
  const listed = (await s3.listObjects({ Bucket }).promise()).Contents.map((entry) => entry.Key);
  assert.equal(listed.length, keys.length + 2);
  await assert.rejects(s3.getObject({ Bucket, Key: "missing" }).promise(), { code: "NoSuchKey", statusCode: 404 });
  assert.deepEqual((await s3.deleteObjects({ Bucket, Delete: { Objects: listed.map((Key) => ({ Key })) } }).promise()).Errors, []);
  await s3.deleteBucket({ Bucket }).promise();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
