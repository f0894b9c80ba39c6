//! Bucket and key of a request.

use http::request::Parts;

use super::query::percent_decode;
use crate::error::{Code, S3Error};

/// Bytes of a key at most (user guide, "Naming Amazon S3 objects").
pub const KEY_LEN_MAX: usize = 1024;

/// What a request is about: the service, a bucket, or a key in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Service,
    Bucket(String),
    Object(String, String),
}

impl Target {
    /// Reads bucket and key from the raw path and, where `domain` is set, from `Host: bucket.domain`.
    /// Keys are bytes: nothing of a path is normalised.
    pub fn parse(parts: &Parts, domain: Option<&str>) -> Result<Self, S3Error> {
        let path = parts.uri.path();
        let path = path
            .strip_prefix('/')
            .ok_or_else(|| S3Error::new(Code::InvalidURI))?;
        if let Some(bucket) = virtual_bucket(parts, domain) {
            return Self::of(bucket, path);
        }
        if path.is_empty() {
            return Ok(Target::Service);
        }
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        Self::of(percent_decode(bucket, false)?, key)
    }

    fn of(bucket: String, raw_key: &str) -> Result<Self, S3Error> {
        validate_bucket_name(&bucket)?;
        if raw_key.is_empty() {
            return Ok(Target::Bucket(bucket));
        }
        let key = percent_decode(raw_key, false)?;
        validate_key(&key)?;
        Ok(Target::Object(bucket, key))
    }

    /// The bucket, if it is about one.
    pub fn bucket(&self) -> Option<&str> {
        match self {
            Target::Service => None,
            Target::Bucket(bucket) | Target::Object(bucket, _) => Some(bucket),
        }
    }

    /// Path-style `/bucket/key`, for the `Resource` of errors.
    pub fn resource(&self) -> String {
        match self {
            Target::Service => "/".to_owned(),
            Target::Bucket(bucket) => format!("/{bucket}"),
            Target::Object(bucket, key) => format!("/{bucket}/{key}"),
        }
    }
}

/// Refuses keys that are too long.
pub fn validate_key(key: &str) -> Result<(), S3Error> {
    if key.len() > KEY_LEN_MAX {
        return Err(S3Error::new(Code::KeyTooLongError)
            .detail("Size", key.len().to_string())
            .detail("MaxSizeAllowed", KEY_LEN_MAX.to_string()));
    }
    Ok(())
}

/// The bucket in the host name, if the request is virtual-hosted-style.
pub fn virtual_bucket(parts: &Parts, domain: Option<&str>) -> Option<String> {
    let domain = domain?;
    let host = match parts.uri.host() {
        Some(host) => host,
        None => {
            let host = parts.headers.get(http::header::HOST)?.to_str().ok()?;
            host.rsplit_once(':').map_or(host, |(name, port)| {
                if port.bytes().all(|b| b.is_ascii_digit()) {
                    name
                } else {
                    host
                }
            })
        }
    };
    let at = host.len().checked_sub(domain.len())?;
    if !host.is_char_boundary(at) || !host[at..].eq_ignore_ascii_case(domain) {
        return None;
    }
    let bucket = host[..at].strip_suffix('.')?;
    (!bucket.is_empty()).then(|| bucket.to_ascii_lowercase())
}

/// The rules of general purpose buckets (user guide, "General purpose bucket naming rules").
pub fn validate_bucket_name(name: &str) -> Result<(), S3Error> {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let label_is_right = |label: &str| {
        let bytes = label.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(first, last)| alphanumeric(*first) && alphanumeric(*last))
            && bytes
                .iter()
                .all(|byte| alphanumeric(*byte) || *byte == b'-')
    };
    let reserved_start = ["xn--", "sthree-"];
    let reserved_end = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
    let right = (3..=63).contains(&name.len())
        && name.split('.').all(label_is_right)
        && name.parse::<std::net::Ipv4Addr>().is_err()
        && !reserved_start.iter().any(|start| name.starts_with(start))
        && !reserved_end.iter().any(|end| name.ends_with(end));
    if right {
        Ok(())
    } else {
        Err(S3Error::new(Code::InvalidBucketName).detail("BucketName", name))
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::proptest;

    use super::*;

    proptest! {
        #[test]
        fn never_panics(path in "/[!-~]{0,60}", host in "[ -~]{0,40}", name in ".{0,70}") {
            let request = Request::builder().uri(path).header("host", host).body(());
            if let Ok(request) = request {
                let _ = Target::parse(&request.into_parts().0, Some("s3.local"));
            }
            let _ = validate_bucket_name(&name);
        }
    }

    fn target(uri: &str, host: &str, domain: Option<&str>) -> Result<Target, Code> {
        let request = Request::builder().uri(uri).header("host", host).body(());
        let (parts, ()) = request.unwrap().into_parts();
        Target::parse(&parts, domain).map_err(|error| error.code)
    }

    fn object(bucket: &str, key: &str) -> Result<Target, Code> {
        Ok(Target::Object(bucket.to_owned(), key.to_owned()))
    }

    #[test]
    fn keys_are_bytes() {
        let path_style = |path: &str| target(path, "localhost:9000", Some("s3.local"));
        assert_eq!(path_style("/"), Ok(Target::Service));
        assert_eq!(path_style("/bucket"), Ok(Target::Bucket("bucket".into())));
        assert_eq!(path_style("/bucket/"), Ok(Target::Bucket("bucket".into())));
        assert_eq!(path_style("/bucket/a/../b"), object("bucket", "a/../b"));
        assert_eq!(path_style("/bucket//a//"), object("bucket", "/a//"));
        assert_eq!(path_style("/bucket/.."), object("bucket", ".."));
        assert_eq!(
            path_style("/bucket/a%2Fb%00+c%20"),
            object("bucket", "a/b\0+c ")
        );
        assert_eq!(path_style("/bucket/%E2%82%AC"), object("bucket", "€"));
        assert_eq!(path_style("/bucket/%ff"), Err(Code::InvalidURI));
        assert_eq!(path_style("/bucket/%f"), Err(Code::InvalidURI));
        assert_eq!(path_style("/bucket/%gg"), Err(Code::InvalidURI));
        assert_eq!(path_style("//key"), Err(Code::InvalidBucketName));
        assert_eq!(path_style("/Bucket/key"), Err(Code::InvalidBucketName));
        let longest = "x".repeat(1024);
        assert_eq!(
            path_style(&format!("/bucket/{longest}")),
            object("bucket", &longest)
        );
        assert_eq!(
            path_style(&format!("/bucket/{longest}x")),
            Err(Code::KeyTooLongError)
        );
        let euros = "%E2%82%AC".repeat(342);
        assert_eq!(
            path_style(&format!("/bucket/{euros}")),
            Err(Code::KeyTooLongError)
        );
    }

    #[test]
    fn buckets_in_the_host() {
        let hosted = |host: &str, path: &str| target(path, host, Some("s3.local"));
        assert_eq!(
            hosted("bucket.s3.local", "/"),
            Ok(Target::Bucket("bucket".into()))
        );
        assert_eq!(
            hosted("bucket.s3.local:9000", "/a/b"),
            object("bucket", "a/b")
        );
        assert_eq!(hosted("a.b.S3.LOCAL", "//k"), object("a.b", "/k"));
        assert_eq!(hosted("s3.local:9000", "/bucket/k"), object("bucket", "k"));
        assert_eq!(hosted("other", "/bucket/k"), object("bucket", "k"));
        assert_eq!(hosted("xs3.local", "/bucket/k"), object("bucket", "k"));
        assert_eq!(hosted("-.s3.local", "/k"), Err(Code::InvalidBucketName));
        assert_eq!(
            target("/bucket/k", "b.s3.local", None),
            object("bucket", "k")
        );
    }

    #[test]
    fn bucket_names() {
        for name in ["abc", "a-b.c-d", "123", "1.2.3", &"a".repeat(63)] {
            assert!(validate_bucket_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "ab",
            &"a".repeat(64),
            "Abc",
            "a_b",
            "-abc",
            "abc-",
            ".abc",
            "abc.",
            "a..b",
            "a.-b",
            "a-.b",
            "192.168.0.1",
            "xn--abc",
            "sthree-abc",
            "abc-s3alias",
            "abc--ol-s3",
            "abc.mrap",
            "abc--x-s3",
            "abc--table-s3",
            "äbc",
            "a b",
            "a/b",
        ] {
            assert!(validate_bucket_name(name).is_err(), "{name}");
        }
    }
}
