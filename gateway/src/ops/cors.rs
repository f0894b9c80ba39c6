//! Cross-origin resource sharing (user guide, "Using cross-origin resource sharing (CORS)"; WHATWG Fetch, "HTTP
//! extensions").

use axum::body::Body;
use holdfast_placement::directory::Setting;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::response::{empty, set, xml};
use super::{Call, Reply, failure, settings};
use crate::error::{Code, S3Error};
use crate::router::Target;
use crate::server::Gateway;
use crate::xml::{XmlWriter, requests};

/// Rules of a bucket at most.
pub const RULES_MAX: usize = 100;

/// Methods that a rule may allow.
pub const METHODS: [&str; 5] = ["GET", "PUT", "HEAD", "POST", "DELETE"];

/// A rule. Persisted: append only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorsRule {
    pub id: Option<String>,
    pub allowed_headers: Vec<String>,
    pub allowed_methods: Vec<String>,
    pub allowed_origins: Vec<String>,
    pub expose_headers: Vec<String>,
    pub max_age_secs: Option<u32>,
}

impl CorsRule {
    /// Judges a rule as S3 does.
    pub fn validate(&self) -> Result<(), S3Error> {
        let refuse = |what: String| Err(S3Error::with(Code::InvalidRequest, what));
        if self.allowed_methods.is_empty() || self.allowed_origins.is_empty() {
            return Err(S3Error::new(Code::MalformedXML));
        }
        if self.id.as_ref().is_some_and(|id| id.chars().count() > 255) {
            return Err(failure::invalid_argument(
                "ID",
                "",
                "The ID of a rule has at most 255 characters.",
            ));
        }
        for method in &self.allowed_methods {
            if !METHODS.contains(&method.as_str()) {
                return refuse(format!(
                    "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
                ));
            }
        }
        let wildcards = |text: &String| text.matches('*').count();
        for (name, values) in [
            ("AllowedOrigin", &self.allowed_origins),
            ("AllowedHeader", &self.allowed_headers),
        ] {
            if let Some(value) = values.iter().find(|value| wildcards(value) > 1) {
                return refuse(format!(
                    "{name} \"{value}\" can not have more than one wildcard."
                ));
            }
        }
        let mut allowed = self.allowed_headers.iter();
        if let Some(value) = allowed.find(|value| !value.bytes().all(is_of_header_name)) {
            return refuse(format!(
                "AllowedHeader \"{value}\" contains invalid character."
            ));
        }
        if let Some(value) = self
            .expose_headers
            .iter()
            .find(|value| wildcards(value) > 0)
        {
            return refuse(format!(
                "ExposeHeader \"{value}\" contains wildcard. We currently do not support wildcard for ExposeHeader."
            ));
        }
        let mut exposed = self.expose_headers.iter();
        if let Some(value) = exposed.find(|value| !value.bytes().all(is_of_header_name)) {
            return refuse(format!(
                "ExposeHeader \"{value}\" contains invalid character."
            ));
        }
        Ok(())
    }

    /// What of the rule a request from `origin` with `method` and `headers` (lower case) fits, if it does.
    fn fits(&self, origin: &str, method: &str, headers: &[String]) -> Option<Allowed<'_>> {
        let allowed = self
            .allowed_origins
            .iter()
            .find(|pattern| matches(pattern, origin))?;
        if !self.allowed_methods.iter().any(|own| own == method) {
            return None;
        }
        let header_fits = |name: &String| {
            let mut patterns = self.allowed_headers.iter();
            patterns.any(|pattern| matches(&pattern.to_ascii_lowercase(), name))
        };
        headers.iter().all(header_fits).then_some(Allowed {
            rule: self,
            is_any_origin: allowed == "*",
        })
    }
}

/// Whether names of headers may hold it (RFC 9110, section 5.6.2).
fn is_of_header_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `text` is `pattern`, in which one `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

/// A rule that lets a request in.
struct Allowed<'a> {
    rule: &'a CorsRule,
    is_any_origin: bool,
}

impl Allowed<'_> {
    /// The headers that tell a browser so.
    fn show(&self, ask: &Ask, headers: &mut HeaderMap) {
        let rule = self.rule;
        if self.is_any_origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ask.origin.clone());
            headers.insert(
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        let methods = rule.allowed_methods.join(", ");
        set(headers, ACCESS_CONTROL_ALLOW_METHODS, methods);
        if !ask.headers.is_empty() {
            set(
                headers,
                ACCESS_CONTROL_ALLOW_HEADERS,
                ask.headers.join(", "),
            );
        }
        if !rule.expose_headers.is_empty() {
            let exposed = rule.expose_headers.join(", ");
            set(headers, ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
        if let Some(secs) = rule.max_age_secs {
            headers.insert(ACCESS_CONTROL_MAX_AGE, secs.into());
        }
        headers.append(
            VARY,
            HeaderValue::from_static(
                "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
            ),
        );
    }
}

/// What a browser asks for: its origin, the method, and, before the request itself, the headers (lower case).
#[derive(Clone, Debug)]
pub struct Ask {
    origin: HeaderValue,
    method: String,
    headers: Vec<String>,
}

impl Ask {
    /// From a request; `None`: it has no `Origin`.
    pub fn of(parts: &Parts) -> Option<Self> {
        let origin = parts.headers.get(ORIGIN)?.clone();
        let method = match parts.headers.get(ACCESS_CONTROL_REQUEST_METHOD) {
            Some(method) => String::from_utf8_lossy(method.as_bytes()).into_owned(),
            None => parts.method.as_str().to_owned(),
        };
        let names = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let names = names.and_then(|names| names.to_str().ok()).unwrap_or("");
        let names = names.split(',').map(str::trim_ascii);
        Some(Self {
            origin,
            method,
            headers: names
                .filter(|name| !name.is_empty())
                .map(str::to_ascii_lowercase)
                .collect(),
        })
    }

    /// The first rule that lets it in.
    fn judge<'a>(&self, rules: &'a [CorsRule]) -> Option<Allowed<'a>> {
        let origin = self.origin.to_str().ok()?;
        rules
            .iter()
            .find_map(|rule| rule.fits(origin, &self.method, &self.headers))
    }

    /// Adds to the response of a request what its browser wants to see, if the bucket's rules say so. A response is
    /// never refused for that: it is the browser that keeps it from a script.
    pub async fn show(&self, gateway: &Gateway, bucket: &str, headers: &mut HeaderMap) {
        let rules = match rules_of(gateway, bucket).await {
            Ok(rules) => rules.unwrap_or_default(),
            Err(error) => {
                tracing::debug!(%error, bucket, "the CORS rules cannot be read");
                return;
            }
        };
        if let Some(allowed) = self.judge(&rules) {
            allowed.show(self, headers);
        }
    }
}

async fn rules_of(gateway: &Gateway, name: &str) -> Result<Option<Vec<CorsRule>>, S3Error> {
    let bucket = gateway.directory.bucket_now(name).await;
    let bucket = bucket
        .map_err(failure::directory)?
        .ok_or_else(|| failure::no_such_bucket(name))?;
    settings::read(&gateway.directory, &bucket, Setting::Cors).await
}

/// OPTIONS: may the request that a browser is about to make be made? Nobody signs that.
pub async fn preflight(gateway: &Gateway, parts: &Parts, target: &Target) -> Reply {
    let (bucket, kind) = match target {
        Target::Service => return Err(Code::MethodNotAllowed.into()),
        Target::Bucket(bucket) => (bucket, "BUCKET"),
        Target::Object(bucket, _) => (bucket, "OBJECT"),
    };
    let refuse = |what: &'static str| S3Error::with(Code::BadRequest, what);
    let ask = Ask::of(parts)
        .ok_or_else(|| refuse("Insufficient information. Origin request header needed."))?;
    let asks_method = parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let forbidden = |what: &'static str| {
        S3Error::with(Code::AccessForbidden, what)
            .detail("Method", ask.method.clone())
            .detail("ResourceType", kind)
    };
    let rules = match rules_of(gateway, bucket).await {
        Err(error) if error.code == Code::NoSuchBucket => {
            return Err(forbidden("CORSResponse: Bucket not found"));
        }
        rules => rules?,
    };
    let rules =
        rules.ok_or_else(|| forbidden("CORSResponse: CORS is not enabled for this bucket."))?;
    if !asks_method || !METHODS.contains(&ask.method.as_str()) {
        let shown = if asks_method { &ask.method } else { "null" };
        return Err(S3Error::with(
            Code::BadRequest,
            format!("Invalid Access-Control-Request-Method: {shown}"),
        ));
    }
    let asked = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
    let is_valid = |byte: u8| is_of_header_name(byte) || b", \t".contains(&byte);
    if let Some(names) = asked
        && !names.as_bytes().iter().copied().all(is_valid)
    {
        let names = String::from_utf8_lossy(names.as_bytes());
        return Err(S3Error::with(
            Code::BadRequest,
            format!("Invalid Access-Control-Request-Headers: {names}"),
        ));
    }
    let allowed = ask.judge(&rules).ok_or_else(|| {
        forbidden(
            "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request \
             method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the \
             resource's CORS spec.",
        )
    })?;
    let mut response = empty(StatusCode::OK);
    allowed.show(&ask, response.headers_mut());
    Ok(response)
}

/// Whether it is a question of a browser rather than a request.
pub fn is_preflight(method: &Method) -> bool {
    *method == Method::OPTIONS
}

impl Call<'_> {
    pub(super) async fn get_cors(&self) -> Reply {
        let rules: Option<Vec<CorsRule>> = self.setting(Setting::Cors).await?;
        let Some(rules) = rules else {
            return Err(S3Error::new(Code::NoSuchCORSConfiguration)
                .detail("BucketName", self.bucket().name.clone()));
        };
        let mut document = XmlWriter::new("CORSConfiguration", 1024);
        for rule in &rules {
            document.open("CORSRule");
            if let Some(id) = &rule.id {
                document.text("ID", id);
            }
            for (name, values) in [
                ("AllowedHeader", &rule.allowed_headers),
                ("AllowedMethod", &rule.allowed_methods),
                ("AllowedOrigin", &rule.allowed_origins),
                ("ExposeHeader", &rule.expose_headers),
            ] {
                for value in values {
                    document.text(name, value);
                }
            }
            if let Some(secs) = rule.max_age_secs {
                document.number("MaxAgeSeconds", u64::from(secs));
            }
            document.close("CORSRule");
        }
        Ok(xml(document.finish("CORSConfiguration")))
    }

    pub(super) async fn put_cors(&self, body: Body) -> Reply {
        let document = self.document(body, requests::SMALL_LEN_MAX).await?;
        let rules = requests::cors(&document)?;
        for rule in &rules {
            rule.validate()?;
        }
        self.set(Setting::Cors, &rules).await?;
        Ok(empty(StatusCode::OK))
    }

    pub(super) async fn delete_cors(&self) -> Reply {
        self.unset(Setting::Cors).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_stands_for_anything() {
        for (pattern, text, fits) in [
            ("a", "a", true),
            ("a", "b", false),
            ("*", "", true),
            ("start*end", "startend", true),
            ("start*end", "start1end", true),
            ("start*end", "0start1end", false),
            ("ab*ba", "aba", false),
            ("*.put", "foo.put", true),
            ("prefix*", "prefix", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn rules_are_judged() {
        let rule = |method: &str, origin: &str, header: &str, expose: &str| {
            let list = |text: &str| match text {
                "" => Vec::new(),
                text => vec![text.to_owned()],
            };
            let rule = CorsRule {
                allowed_methods: list(method),
                allowed_origins: list(origin),
                allowed_headers: list(header),
                expose_headers: list(expose),
                ..CorsRule::default()
            };
            rule.validate().map_err(|error| error.code)
        };
        assert_eq!(rule("GET", "*", "*", "x"), Ok(()));
        assert_eq!(rule("PATCH", "*", "", ""), Err(Code::InvalidRequest));
        assert_eq!(rule("GET", "*a*", "", ""), Err(Code::InvalidRequest));
        assert_eq!(rule("GET", "*", "*a*", ""), Err(Code::InvalidRequest));
        assert_eq!(rule("GET", "*", "", "x-*"), Err(Code::InvalidRequest));
        for header in ["a b", "a:", "ä", "a,b"] {
            assert_eq!(rule("GET", "*", header, ""), Err(Code::InvalidRequest));
        }
        assert_eq!(rule("", "*", "", ""), Err(Code::MalformedXML));
        assert_eq!(rule("GET", "", "", ""), Err(Code::MalformedXML));
    }
}
