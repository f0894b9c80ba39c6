// minio-go: streams of unknown length, signed chunk by chunk, and what every operation of its core needs.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/url"
	"os"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

func must(err error) {
	if err != nil {
		log.Panic(err)
	}
}

func main() {
	ctx, bucket := context.Background(), os.Args[1]
	endpoint, err := url.Parse(os.Getenv("AWS_ENDPOINT_URL"))
	must(err)
	s3, err := minio.New(endpoint.Host, &minio.Options{Creds: credentials.NewEnvAWS()})
	must(err)
	var keys []string
	must(json.Unmarshal([]byte(os.Getenv("KEYS")), &keys))
	must(s3.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}))

	check := func(key string, body []byte) {
		object, err := s3.GetObject(ctx, bucket, key, minio.GetObjectOptions{})
		must(err)
		found, err := io.ReadAll(object)
		must(err)
		if !bytes.Equal(found, body) {
			log.Panicf("%q: other bytes", key)
		}
	}
	large := bytes.Repeat([]byte("holdfast "), 2_000_000)
	for _, size := range []int64{int64(len(large)), -1} {
		for _, md5 := range []bool{false, true} {
			_, err = s3.PutObject(ctx, bucket, "large", bytes.NewReader(large), size, minio.PutObjectOptions{PartSize: 5 << 20, SendContentMd5: md5})
			must(err)
			check("large", large)
		}
	}
	_, err = s3.PutObject(ctx, bucket, "empty", bytes.NewReader(nil), -1, minio.PutObjectOptions{})
	must(err)
	check("empty", nil)
	for _, key := range keys {
		_, err = s3.PutObject(ctx, bucket, key, bytes.NewReader([]byte(key)), int64(len(key)), minio.PutObjectOptions{UserMetadata: map[string]string{"a": "b"}})
		must(err)
		check(key, []byte(key))
		_, err = s3.CopyObject(ctx, minio.CopyDestOptions{Bucket: bucket, Object: "copy"}, minio.CopySrcOptions{Bucket: bucket, Object: key})
		must(err)
		check("copy", []byte(key))
	}
	_, err = s3.ComposeObject(ctx, minio.CopyDestOptions{Bucket: bucket, Object: "composed"}, minio.CopySrcOptions{Bucket: bucket, Object: "large"}, minio.CopySrcOptions{Bucket: bucket, Object: "large"})
	must(err)
	check("composed", append(append([]byte{}, large...), large...))
	for _, v1 := range []bool{false, true} {
		count := 0
		for entry := range s3.ListObjects(ctx, bucket, minio.ListObjectsOptions{Recursive: true, UseV1: v1, MaxKeys: 7}) {
			must(entry.Err)
			count++
		}
		if count != len(keys)+4 {
			log.Panicf("%d keys are listed", count)
		}
	}
	if _, err := s3.StatObject(ctx, bucket, "missing", minio.StatObjectOptions{}); minio.ToErrorResponse(err).Code != "NoSuchKey" {
		log.Panic(err)
	}
	listed := s3.ListObjects(ctx, bucket, minio.ListObjectsOptions{Recursive: true})
	for failed := range s3.RemoveObjects(ctx, bucket, listed, minio.RemoveObjectsOptions{}) {
		must(failed.Err)
	}
	must(s3.RemoveBucket(ctx, bucket))
}
