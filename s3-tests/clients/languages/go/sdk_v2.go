// AWS SDK for Go, version 2, with its upload and download managers.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

func must(err error) {
	if err != nil {
		log.Panic(err)
	}
}

func main() {
	ctx, bucket := context.Background(), aws.String(os.Args[1])
	settings, err := config.LoadDefaultConfig(ctx)
	must(err)
	client := s3.NewFromConfig(settings, func(options *s3.Options) {
		options.UsePathStyle = true
		options.EndpointResolver = s3.EndpointResolverFromURL(os.Getenv("AWS_ENDPOINT_URL"))
	})
	var keys []string
	must(json.Unmarshal([]byte(os.Getenv("KEYS")), &keys))
	_, err = client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: bucket})
	must(err)

	large := bytes.Repeat([]byte("holdfast "), 2_000_000)
	uploader := manager.NewUploader(client)
	// Not a Seeker: of unknown length.
	_, err = uploader.Upload(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String("large"), Body: io.MultiReader(bytes.NewReader(large)), ChecksumAlgorithm: types.ChecksumAlgorithmSha256})
	must(err)
	buffer := manager.NewWriteAtBuffer(nil)
	_, err = manager.NewDownloader(client).Download(ctx, buffer, &s3.GetObjectInput{Bucket: bucket, Key: aws.String("large")})
	must(err)
	if !bytes.Equal(buffer.Bytes(), large) {
		log.Panic("other bytes")
	}
	presigner := s3.NewPresignClient(client)
	for _, key := range keys {
		_, err = client.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: aws.String(key), Body: bytes.NewReader([]byte(key))})
		must(err)
		signed, err := presigner.PresignGetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: aws.String(key)})
		must(err)
		answer, err := http.Get(signed.URL)
		must(err)
		found, err := io.ReadAll(answer.Body)
		must(err)
		if string(found) != key {
			log.Panicf("%q: %s", key, found)
		}
	}
	count := 0
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: bucket, MaxKeys: 7})
	var entries []types.ObjectIdentifier
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		must(err)
		count += len(page.Contents)
		for _, entry := range page.Contents {
			entries = append(entries, types.ObjectIdentifier{Key: entry.Key})
		}
	}
	if count != len(keys)+1 {
		log.Panicf("%d keys are listed", count)
	}
	var missing *types.NoSuchKey
	if _, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: aws.String("missing")}); !errors.As(err, &missing) {
		log.Panic(err)
	}
	deleted, err := client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: bucket, Delete: &types.Delete{Objects: entries}})
	must(err)
	if len(deleted.Errors) != 0 {
		log.Panic(deleted.Errors)
	}
	_, err = client.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: bucket})
	must(err)
}
