# AWS SDK for Ruby: endpoint and keys from the environment, KEYS as JSON.
require "aws-sdk-s3"
require "json"

bucket, scratch = ARGV
keys = JSON.parse(ENV.fetch("KEYS"))
s3 = Aws::S3::Client.new(endpoint: ENV.fetch("AWS_ENDPOINT_URL"), force_path_style: true)
check = ->(what, good) { good or abort("failed: #{what}") }

s3.create_bucket(bucket: bucket)
body = "holdfast " * 2_000_000
File.binwrite("#{scratch}/file", body)
object = Aws::S3::Resource.new(client: s3).bucket(bucket).object("large")
object.upload_file("#{scratch}/file", multipart_threshold: 5 << 20)
object.download_file("#{scratch}/back")
check.call("a file in parts", File.binread("#{scratch}/back") == body)
check.call("a range", s3.get_object(bucket: bucket, key: "large", range: "bytes=-4").body.read == body[-4..])
object.upload_stream { |out| 12.times { out << "s" * (1 << 20) } }
check.call("a stream", object.reload.content_length == 12 << 20)
keys.each do |key|
  s3.put_object(bucket: bucket, key: key, body: key, metadata: { "a" => "b" })
  check.call(key, s3.get_object(bucket: bucket, key: key).body.read.force_encoding("UTF-8") == key)
  url = URI(Aws::S3::Presigner.new(client: s3).presigned_url(:get_object, bucket: bucket, key: key))
  check.call("presigned #{key}", Net::HTTP.get(url).force_encoding("UTF-8") == key)
end
check.call("listed", s3.list_objects_v2(bucket: bucket, max_keys: 7).flat_map { |page| page.contents.map(&:key) }.sort == (keys + ["large"]).sort)
begin
  s3.get_object(bucket: bucket, key: "missing")
  abort("a missing key was found")
rescue Aws::S3::Errors::NoSuchKey
end
Aws::S3::Resource.new(client: s3).bucket(bucket).clear!
s3.delete_bucket(bucket: bucket)
