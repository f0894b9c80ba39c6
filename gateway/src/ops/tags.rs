//! Object tags (user guide, "Categorizing your objects using tags").

use axum::body::Body;
use bytes::Bytes;
use holdfast_storage_node::metadata::WriteError;
use http::{HeaderMap, StatusCode};

use super::failure;
use super::response::{empty, xml};
use super::{Call, Reply, in_bucket, on_bucket, versions};
use crate::error::{Code, S3Error};
use crate::router::Query;
use crate::xml::{XmlWriter, requests};

const TAGS_MAX: usize = 10;
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

/// Tags of a bucket at most.
const BUCKET_TAGS_MAX: usize = 50;

/// Judges tags as S3 does: how many, how long, which characters, no key twice.
fn validate(tags: &[(String, String)]) -> Result<(), S3Error> {
    if tags.len() > TAGS_MAX {
        return Err(S3Error::with(
            Code::InvalidTag,
            "Object tags cannot be greater than 10",
        ));
    }
    judge(tags, "Your TagKey cannot be prefixed with aws:")
}

/// The same for the tags of a bucket.
pub(super) fn validate_for_bucket(tags: &[(String, String)]) -> Result<(), S3Error> {
    if tags.len() > BUCKET_TAGS_MAX {
        return Err(S3Error::with(
            Code::InvalidTag,
            "Bucket tag count cannot be greater than 50",
        ));
    }
    judge(tags, "System tags cannot be added/updated by requester")
}

fn judge(tags: &[(String, String)], is_system: &'static str) -> Result<(), S3Error> {
    for (at, (key, value)) in tags.iter().enumerate() {
        let wrong = |message: &'static str| {
            Err(S3Error::with(Code::InvalidTag, message).detail("TagKey", key))
        };
        let key_chars = key.chars().count();
        if key_chars == 0 || key_chars > KEY_CHARS_MAX || !key.chars().all(is_allowed) {
            return wrong("The TagKey you have provided is invalid");
        }
        if value.chars().count() > VALUE_CHARS_MAX || !value.chars().all(is_allowed) {
            return wrong("The TagValue you have provided is invalid")
                .map_err(|error: S3Error| error.detail("TagValue", value));
        }
        if key.starts_with("aws:") {
            return wrong(is_system);
        }
        if tags[..at].iter().any(|(other, _)| other == key) {
            return wrong("Cannot provide multiple Tags with the same key");
        }
    }
    Ok(())
}

fn is_allowed(character: char) -> bool {
    character.is_alphanumeric()
        || character == ' '
        || "+-=._:/@".contains(character)
        || (!character.is_ascii() && character.is_whitespace())
}

/// The tags of an `x-amz-tagging` header: `key=value` pairs as in a query.
pub fn from_header(headers: &HeaderMap) -> Result<Vec<(String, String)>, S3Error> {
    let Some(value) = headers.get("x-amz-tagging") else {
        return Ok(Vec::new());
    };
    let wrong = || {
        failure::invalid_argument(
            "x-amz-tagging",
            &String::from_utf8_lossy(value.as_bytes()),
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.",
        )
    };
    let text = value.to_str().map_err(|_| wrong())?;
    if text.split('&').any(|pair| pair.matches('=').count() > 1) {
        return Err(wrong());
    }
    let query = Query::parse(Some(text)).map_err(|_| wrong())?;
    let mut tags: Vec<_> = query
        .iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    // A query has no order that would mean anything.
    tags.sort();
    if tags.iter().any(|(key, _)| key.is_empty()) || tags.windows(2).any(|two| two[0].0 == two[1].0)
    {
        return Err(wrong());
    }
    validate(&tags)?;
    Ok(tags)
}

/// `Tagging`.
pub(super) fn document(tags: &[(String, String)]) -> Bytes {
    let mut document = XmlWriter::new("Tagging", 512);
    document.open("TagSet");
    for (key, value) in tags {
        document.open("Tag");
        document.text("Key", key);
        document.text("Value", value);
        document.close("Tag");
    }
    document.close("TagSet");
    document.finish("Tagging")
}

/// The tags of a `Tagging` document, as a form has them in a field.
pub(super) fn from_document(document: &[u8]) -> Result<Vec<(String, String)>, S3Error> {
    let tags = requests::tagging(document)?;
    validate(&tags)?;
    Ok(tags)
}

impl Call<'_> {
    pub(super) async fn get_tags(&self, key: &str) -> Reply {
        let metadata = &self.gateway.metadata;
        let asked = self.version()?;
        let found = in_bucket!(self, |bucket| metadata.head_version(bucket, key, asked))?;
        let record = self.found(key, asked, found)?;
        let mut response = xml(document(&record.tags));
        versions::show(&record.summary, asked, response.headers_mut());
        Ok(response)
    }

    pub(super) async fn put_tags(&self, key: &str, body: Body) -> Reply {
        let document = self.document(body, requests::SMALL_LEN_MAX).await?;
        let tags = requests::tagging(&document)?;
        validate(&tags)?;
        self.set_tags(key, tags, StatusCode::OK).await
    }

    pub(super) async fn delete_tags(&self, key: &str) -> Reply {
        self.set_tags(key, Vec::new(), StatusCode::NO_CONTENT).await
    }

    async fn set_tags(&self, key: &str, tags: Vec<(String, String)>, status: StatusCode) -> Reply {
        let version = self.version()?;
        let metadata = self.metadata_for_changes();
        let summary = on_bucket!(self, |bucket| metadata.set_version_tags(
            bucket,
            key,
            version,
            tags.clone()
        ))
        .map_err(|error| self.refused(error, key))?;
        let mut response = empty(status);
        versions::show(&summary, version, response.headers_mut());
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn header(value: &str) -> Result<Vec<(String, String)>, Code> {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-tagging", HeaderValue::from_str(value).unwrap());
        from_header(&headers).map_err(|error| error.code)
    }

    #[test]
    fn reads_the_header() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            header("a=1&b&c=%C3%A4+x"),
            Ok(vec![pair("a", "1"), pair("b", ""), pair("c", "ä x")])
        );
        assert_eq!(header("a=b%3Dc"), Ok(vec![pair("a", "b=c")]));
        for wrong in ["a=%zz", "a=1&b=2&a=2", "=1", "a=1&=", "a=b=c", "k=v,k2=v2"] {
            assert_eq!(header(wrong), Err(Code::InvalidArgument), "{wrong}");
        }
        assert_eq!(header("a=%3C"), Err(Code::InvalidTag));
        assert_eq!(header("aws:a=1"), Err(Code::InvalidTag));
        assert_eq!(
            header(&format!("{}=1", "k".repeat(128))).map(|tags| tags.len()),
            Ok(1)
        );
        assert_eq!(
            header(&format!("{}=1", "k".repeat(129))),
            Err(Code::InvalidTag)
        );
        assert_eq!(
            header(&format!("a={}", "v".repeat(257))),
            Err(Code::InvalidTag)
        );
        let eleven: Vec<_> = (0..11).map(|n| format!("k{n}=v")).collect();
        assert_eq!(header(&eleven.join("&")), Err(Code::InvalidTag));
    }
}
