// minio's client for JavaScript.
import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { Client } from "minio";

const MIB = 1 << 20;
const [bucket] = process.argv.slice(2);
const keys = JSON.parse(process.env.KEYS);
const { hostname: endPoint, port } = new URL(process.env.AWS_ENDPOINT_URL);
const s3 = new Client({ endPoint, port: Number(port), useSSL: false, accessKey: process.env.AWS_ACCESS_KEY_ID, secretKey: process.env.AWS_SECRET_ACCESS_KEY });

async function body(stream) {
  return Buffer.concat(await stream.toArray());
}

assert.equal(await s3.bucketExists(bucket), false);
await s3.makeBucket(bucket);
const large = Buffer.alloc(70 * MIB + 1, "holdfast ");
await s3.putObject(bucket, "large", Readable.from([large]));
assert.deepEqual(await body(await s3.getObject(bucket, "large")), large);
assert.deepEqual(await body(await s3.getPartialObject(bucket, "large", 66 * MIB, 10)), large.subarray(66 * MIB, 66 * MIB + 10));
for (const key of keys) {
  await s3.putObject(bucket, key, key, { "X-Amz-Meta-A": "b" });
  assert.equal((await body(await s3.getObject(bucket, key))).toString(), key);
  assert.equal(await (await fetch(await s3.presignedGetObject(bucket, key, 60))).text(), key);
}
assert.equal((await s3.statObject(bucket, "large")).size, large.length);
const listed = (await s3.listObjectsV2(bucket, "", true).toArray()).map((entry) => entry.name);
assert.equal(listed.length, keys.length + 1);
await assert.rejects(s3.statObject(bucket, "missing"), { code: "NotFound" });
await s3.removeObjects(bucket, listed);
await s3.removeBucket(bucket);
