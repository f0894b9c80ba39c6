//! Uploads from a browser's form (API reference, "POST Object"): who may upload what is said by a policy document that
//! somebody with a key has signed.

use std::ops::RangeInclusive;
use std::sync::OnceLock;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use holdfast_storage_node::metadata::{
    ChecksumKind, Condition, Etag, NewVersion, ObjectChecksum, VersionSummary,
};
use http::header::{HOST, HeaderName, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use md5::{Digest, Md5};

use super::policy::Policy;
use super::put_object::BODY_LEN_MAX;
use super::response::{empty, quoted, set, set_etag, xml};
use super::{Call, Reply, Sought, authorise, checksums, failure, object_headers, tags, versions};
use crate::auth::{Authenticated, FormSignature};
use crate::body::ByteSource;
use crate::checksum::{self, Hasher};
use crate::error::{Code, S3Error};
use crate::payload::{ChecksumHeader, Digests, Form, Payload};
use crate::router::{Operation, Query, refuse_unsupported_headers, validate_key};
use crate::server::Gateway;
use crate::xml::{XmlWriter, encode_uri_into};

/// What a form says before its file.
struct Fields {
    /// By lower-case name, in order.
    all: Vec<(String, String)>,
    file_name: Option<String>,
}

impl Fields {
    async fn read(form: &mut Form) -> Result<Self, S3Error> {
        let mut all: Vec<(String, String)> = Vec::new();
        while let Some(part) = form.next_part().await? {
            let name = part.name.to_ascii_lowercase();
            if name == "file" {
                let file_name = part.file_name;
                return Ok(Self { all, file_name });
            }
            let value = form.field().await?;
            all.push((name, value));
        }
        Err(S3Error::with(
            Code::InvalidArgument,
            "POST requires exactly one file upload per request.",
        )
        .detail("ArgumentName", "file")
        .detail("ArgumentValue", "0"))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.all.iter().filter(|(own, _)| own == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The key, with the file's name where it says `${filename}`.
    fn take_key(&mut self) -> Result<String, S3Error> {
        let file_name = &self.file_name;
        let key = self.all.iter_mut().find(|(name, _)| name == "key");
        let (_, key) = key.ok_or_else(|| {
            S3Error::with(
                Code::InvalidArgument,
                "Bucket POST must contain a field named 'key'. If it is specified, please check the order of the fields.",
            )
            .detail("ArgumentName", "key")
            .detail("ArgumentValue", "")
        })?;
        if let Some(file_name) = file_name {
            *key = key.replace("${filename}", file_name);
        }
        if key.is_empty() {
            return Err(failure::invalid_argument(
                "key",
                "",
                "User key must have a length greater than 0.",
            ));
        }
        validate_key(key)?;
        Ok(key.clone())
    }

    /// What is said of the policy's signature.
    fn signature(&self) -> Result<FormSignature<'_>, S3Error> {
        let needed = |name: &'static str| {
            self.get(name).ok_or_else(|| {
                failure::invalid_argument(
                    name,
                    "",
                    format!(
                        "Bucket POST must contain a field named '{name}'. If it is specified, please check the order of the fields."
                    ),
                )
            })
        };
        if self.get("x-amz-signature").is_none() && self.get("x-amz-algorithm").is_none() {
            return Ok(FormSignature::V2 {
                access_key: needed("awsaccesskeyid")?,
                signature: needed("signature")?,
            });
        }
        Ok(FormSignature::V4 {
            algorithm: needed("x-amz-algorithm")?,
            credential: needed("x-amz-credential")?,
            date: needed("x-amz-date")?,
            signature: needed("x-amz-signature")?,
        })
    }

    /// The fields that a PUT would have as headers.
    fn headers(&self) -> Result<HeaderMap, S3Error> {
        const CONTENT: [&str; 7] = [
            "cache-control",
            "content-disposition",
            "content-encoding",
            "content-language",
            "content-md5",
            "content-type",
            "expires",
        ];
        const SIGNATURE: [&str; 5] = [
            "x-amz-algorithm",
            "x-amz-credential",
            "x-amz-date",
            "x-amz-security-token",
            "x-amz-signature",
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in &self.all {
            let name = match name.as_str() {
                "acl" => "x-amz-acl",
                name if CONTENT.contains(&name) => name,
                name if name.starts_with("x-amz-") && !SIGNATURE.contains(&name) => name,
                _ => continue,
            };
            let header = HeaderName::from_bytes(name.as_bytes())
                .ok()
                .zip(HeaderValue::from_bytes(value.trim_ascii().as_bytes()).ok());
            let (name, value) = header.ok_or_else(|| {
                failure::invalid_argument("field", name, "The field can be no header.")
            })?;
            headers.append(name, value);
        }
        Ok(headers)
    }
}

/// PostObject.
pub(super) async fn post(
    gateway: &Gateway,
    parts: &Parts,
    body: Body,
    auth: &Authenticated,
    name: &str,
) -> Reply {
    let digests = Digests {
        checksum_header: ChecksumHeader::Object,
        ..Digests::default()
    };
    if let Some((name, value)) = Query::parse(parts.uri.query())?.iter().next() {
        let message = "Query String Parameters not allowed on POST requests.";
        return Err(failure::invalid_argument(name, value, message));
    }
    let payload = Payload::new(auth, parts, body, digests)?;
    let mut form = Form::new(payload, &parts.headers)?;
    let mut fields = Fields::read(&mut form).await?;
    let key = fields.take_key()?;
    let mut lengths = 0..=BODY_LEN_MAX;
    let signed;
    let mut auth = auth;
    if let Some(text) = fields.get("policy") {
        let signature = fields.signature()?;
        let authenticator = &gateway.authenticator;
        signed = authenticator
            .authenticate_form(text, &signature, &gateway.directory)
            .await?;
        auth = &signed;
        let policy = STANDARD.decode(text.trim_ascii()).map_err(|_| {
            S3Error::with(
                Code::InvalidPolicyDocument,
                "Invalid Policy: it is not Base64.",
            )
        })?;
        let policy = Policy::parse(&policy)?;
        let now = gateway.clock.wall().secs() as i64;
        policy.check(now, name, &fields.all)?;
        let (min, max) = policy.length();
        lengths = min..=max.min(BODY_LEN_MAX);
    }
    let sought = Sought {
        name,
        cached: true,
        identity: &auth.identity,
        operation: Operation::PostObject,
        expected_owner: "x-amz-expected-bucket-owner",
    };
    let (found, permit) = sought.find(gateway, parts).await?;
    let mut as_put = parts.clone();
    as_put.headers = fields.headers()?;
    refuse_unsupported_headers(Operation::PutObject, &as_put.headers)?;
    authorise::check_locks(permit, &as_put.headers)?;
    let call = Call {
        gateway,
        parts: &as_put,
        auth,
        query: &Query::default(),
        operation: Operation::PostObject,
        permit,
        found,
        now: OnceLock::new(),
    };
    let (summary, new) = call.put_form(form, &fields, &key, lengths).await?;
    let mut response = answer(parts, name, &key, &summary.etag, &fields);
    let headers = response.headers_mut();
    versions::show(&summary, None, headers);
    if let Some(checksum) = &new.checksum {
        checksums::show(checksum, None, headers);
    }
    call.show_expiration(&key, &summary, &new.tags, headers)
        .await;
    Ok(response)
}

impl Call<'_> {
    /// Stores the file of a form; what was stored.
    async fn put_form(
        &self,
        form: Form,
        fields: &Fields,
        key: &str,
        lengths: RangeInclusive<u64>,
    ) -> Result<(VersionSummary, NewVersion), S3Error> {
        let headers = &self.parts.headers;
        let tags = match fields.get("tagging") {
            Some(document) => tags::from_document(document.as_bytes())?,
            None => Vec::new(),
        };
        let kept = object_headers::from_request(headers, &self.bucket().owner)?;
        let lock = self.lock_from_headers()?;
        let mut file = FormFile::new(form, headers, lengths)?;
        let bodies = &self.gateway.bodies;
        let inline_len_max = self.gateway.config.inline_len_max;
        let written = bodies.write(&mut file, None, inline_len_max).await?;
        let (md5, checksum) = match file.finish(written.len) {
            Ok(digests) => digests,
            Err(error) => {
                bodies.discard(&written.body);
                return Err(error);
            }
        };
        let new = NewVersion {
            size: written.len,
            etag: Etag::Md5(md5),
            checksum: Some(checksum),
            body: written.body,
            inline: written.inline,
            missed: written.missed,
            headers: kept,
            tags,
            lock,
        };
        let summary = self.commit(key, &new, &Condition::default()).await?;
        Ok((summary, new))
    }
}

/// A form's file as the body of an object: no longer than it may be, its digests computed.
struct FormFile {
    form: Form,
    lengths: RangeInclusive<u64>,
    len: u64,
    md5: Md5,
    hasher: Hasher,
    algorithm: holdfast_storage_node::metadata::ChecksumAlgorithm,
    announced: Option<Vec<u8>>,
    announced_md5: Option<Vec<u8>>,
}

impl FormFile {
    fn new(form: Form, headers: &HeaderMap, lengths: RangeInclusive<u64>) -> Result<Self, S3Error> {
        let (algorithm, announced) = match checksum::from_headers(headers)? {
            Some((algorithm, value)) => (algorithm, Some(value)),
            None => (checksums::DEFAULT, None),
        };
        let announced_md5 = match headers.get("content-md5") {
            Some(value) => {
                let md5 = STANDARD.decode(value.as_bytes()).ok();
                let md5 = md5.filter(|md5| md5.len() == 16);
                Some(md5.ok_or(Code::InvalidDigest)?)
            }
            None => None,
        };
        Ok(Self {
            form,
            lengths,
            len: 0,
            md5: Md5::new(),
            hasher: Hasher::new(algorithm),
            algorithm,
            announced,
            announced_md5,
        })
    }

    /// MD5 and checksum of the whole, if it is what the form says.
    fn finish(self, len: u64) -> Result<([u8; 16], ObjectChecksum), S3Error> {
        if len < *self.lengths.start() {
            return Err(S3Error::new(Code::EntityTooSmall)
                .detail("ProposedSize", len.to_string())
                .detail("MinSizeAllowed", self.lengths.start().to_string()));
        }
        let md5: [u8; 16] = self.md5.finalize().into();
        let value = self.hasher.finish();
        let fits = |announced: &Option<Vec<u8>>, computed: &[u8]| {
            announced.as_ref().is_none_or(|value| value == computed)
        };
        if !fits(&self.announced_md5, &md5) || !fits(&self.announced, &value) {
            return Err(S3Error::new(Code::BadDigest));
        }
        let checksum = ObjectChecksum {
            algorithm: self.algorithm,
            kind: ChecksumKind::FullObject,
            value,
        };
        Ok((md5, checksum))
    }
}

impl ByteSource for FormFile {
    async fn next(&mut self) -> Result<Option<Bytes>, S3Error> {
        let bytes = self.form.file().await?;
        if let Some(bytes) = &bytes {
            self.len += bytes.len() as u64;
            if self.len > *self.lengths.end() {
                return Err(S3Error::new(Code::EntityTooLarge)
                    .detail("ProposedSize", self.len.to_string())
                    .detail("MaxSizeAllowed", self.lengths.end().to_string()));
            }
            self.md5.update(bytes);
            self.hasher.update(bytes);
        }
        Ok(bytes)
    }
}

/// 204, or what `success_action_redirect` and `success_action_status` ask for.
fn answer(
    parts: &Parts,
    bucket: &str,
    key: &str,
    etag: &Etag,
    fields: &Fields,
) -> http::Response<Body> {
    let redirect = fields
        .get("success_action_redirect")
        .or_else(|| fields.get("redirect"))
        .filter(|url| url.starts_with("http://") || url.starts_with("https://"));
    let encoded = |text: &str| {
        let mut buffer = Vec::new();
        encode_uri_into(&mut buffer, text);
        String::from_utf8(buffer).unwrap_or_default()
    };
    if let Some(url) = redirect {
        let separator = if url.contains('?') { '&' } else { '?' };
        let location = format!(
            "{url}{separator}bucket={}&key={}&etag={}",
            encoded(bucket),
            encoded(key),
            encoded(&quoted(etag))
        );
        let mut response = empty(StatusCode::SEE_OTHER);
        set(response.headers_mut(), LOCATION, location);
        set_etag(response.headers_mut(), etag);
        return response;
    }
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let path = parts.uri.path().trim_end_matches('/');
    let location = format!("http://{}{path}/{}", host.unwrap_or_default(), encoded(key));
    let mut response = match fields.get("success_action_status") {
        Some("200") => empty(StatusCode::OK),
        Some("201") => {
            let mut document = XmlWriter::bare(512 + key.len());
            document.open("PostResponse");
            document.text("Location", &location);
            document.text("Bucket", bucket);
            document.text("Key", key);
            document.etag(etag);
            let mut response = xml(document.finish("PostResponse"));
            *response.status_mut() = StatusCode::CREATED;
            response
        }
        _ => empty(StatusCode::NO_CONTENT),
    };
    set(response.headers_mut(), LOCATION, location);
    set_etag(response.headers_mut(), etag);
    response
}
