//! Buckets as websites (user guide, "Hosting a static website using Amazon S3"): what is configured, and what is served at
//! `BUCKET.website-domain` to anybody. A page is an object that its list lets everybody read.

use axum::body::Body;
use holdfast_placement::directory::Setting;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST, HeaderName, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED, LOCATION, RANGE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::cors::{is_preflight, preflight};
use super::response::{empty, set, xml};
use super::{Call, Reply, failure, settings};
use crate::error::{Code, S3Error};
use crate::router::{Query, Target, percent_decode, validate_key};
use crate::server::Gateway;
use crate::xml::{encode_uri_into, website};

/// On objects: where their page leads instead.
pub static REDIRECT_LOCATION: HeaderName =
    HeaderName::from_static("x-amz-website-redirect-location");

/// A website. Persisted, as are all types here: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Website {
    /// Every request leads elsewhere.
    Elsewhere(Host),
    Pages(Pages),
}

/// A host, and `http` or `https`; `None`: that of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub name: Option<String>,
    pub protocol: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// What stands for a directory, without slashes.
    pub index: String,
    /// Key of the page that is shown where there is none.
    pub error: Option<String>,
    pub rules: Vec<RoutingRule>,
}

/// Where some requests lead instead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutingRule {
    pub key_prefix: Option<String>,
    /// Status of the error that would be answered.
    pub error_status: Option<u16>,
    pub host: Host,
    pub status: Option<u16>,
    pub replacement: Option<Replacement>,
}

/// What becomes of the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replacement {
    /// Of the prefix that the rule is about.
    Prefix(String),
    Whole(String),
}

impl RoutingRule {
    fn fits(&self, key: &str, error_status: Option<u16>) -> bool {
        self.error_status == error_status
            && self
                .key_prefix
                .as_ref()
                .is_none_or(|prefix| key.starts_with(prefix))
    }

    fn redirect(&self, parts: &Parts, key: &str) -> Response<Body> {
        let key = match &self.replacement {
            None => key.to_owned(),
            Some(Replacement::Whole(whole)) => whole.clone(),
            Some(Replacement::Prefix(with)) => {
                let prefix = self.key_prefix.as_deref().unwrap_or_default();
                let rest = key.strip_prefix(prefix).unwrap_or(key);
                format!("{with}{rest}")
            }
        };
        let status = self
            .status
            .and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.unwrap_or(StatusCode::MOVED_PERMANENTLY);
        redirect(status, &self.host.url(parts, &key))
    }
}

impl Host {
    /// The URL of a key there, with the query of the request.
    fn url(&self, parts: &Parts, key: &str) -> String {
        let own = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let name = self.name.as_deref().or(own).unwrap_or_default();
        let protocol = self.protocol.as_deref().unwrap_or("http");
        let mut url = format!("{protocol}://{name}/").into_bytes();
        encode_uri_into(&mut url, key);
        if let Some(query) = parts.uri.query() {
            url.push(b'?');
            url.extend_from_slice(query.as_bytes());
        }
        String::from_utf8(url).unwrap_or_default()
    }
}

/// Where a page leads, if its object says so.
fn redirected(page: &Response<Body>) -> Option<Response<Body>> {
    let location = page.headers().get(&REDIRECT_LOCATION)?.to_str().ok()?;
    Some(redirect(StatusCode::MOVED_PERMANENTLY, location))
}

fn redirect(status: StatusCode, location: &str) -> Response<Body> {
    let mut response = empty(status);
    set(response.headers_mut(), LOCATION, location);
    response
}

/// Whether a request to `host` is one for a website.
pub fn is_website(gateway: &Gateway, parts: &Parts) -> Option<String> {
    crate::router::virtual_bucket(parts, gateway.config.website_domain.as_deref())
}

/// Serves a page, a redirect or an error, as a browser wants to see them.
pub async fn serve(gateway: &Gateway, parts: &Parts, bucket: &str) -> Response<Body> {
    match answer(gateway, parts, bucket).await {
        Ok(response) => response,
        Err(error) => error_page(&error, None),
    }
}

async fn answer(gateway: &Gateway, parts: &Parts, name: &str) -> Reply {
    if is_preflight(&parts.method) {
        let target = Target::Object(name.to_owned(), String::new());
        return preflight(gateway, parts, &target).await;
    }
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Err(S3Error::new(Code::MethodNotAllowed));
    }
    let bucket = gateway.directory.bucket_now(name).await;
    let bucket = bucket
        .map_err(failure::directory)?
        .ok_or_else(|| failure::no_such_bucket(name))?;
    let site = settings::read(&gateway.directory, &bucket, Setting::Website).await?;
    let site = site
        .ok_or_else(|| S3Error::new(Code::NoSuchWebsiteConfiguration).detail("BucketName", name))?;
    let path = parts.uri.path();
    let asked = percent_decode(path.strip_prefix('/').unwrap_or(path), false)?;
    validate_key(&asked)?;
    let pages = match site {
        Website::Elsewhere(host) => {
            let url = host.url(parts, &asked);
            return Ok(redirect(StatusCode::MOVED_PERMANENTLY, &url));
        }
        Website::Pages(pages) => pages,
    };
    if let Some(rule) = pages.rules.iter().find(|rule| rule.fits(&asked, None)) {
        return Ok(rule.redirect(parts, &asked));
    }
    let key = match asked.is_empty() || asked.ends_with('/') {
        true => format!("{asked}{}", pages.index),
        false => asked.clone(),
    };
    let error = match fetch(gateway, parts, name, &key).await {
        Ok(mut response) => {
            if let Some(elsewhere) = redirected(&response) {
                return Ok(elsewhere);
            }
            response.headers_mut().remove("x-amz-expiration");
            return Ok(response);
        }
        Err(error) => error,
    };
    if key == asked && ["NoSuchKey", "AccessDenied"].contains(&error.code.as_str()) {
        // It may be a directory.
        let mut look = parts.clone();
        look.method = Method::HEAD;
        forget_conditions(&mut look);
        let index = format!("{asked}/{}", pages.index);
        if fetch(gateway, &look, name, &index).await.is_ok() {
            let mut path = b"/".to_vec();
            encode_uri_into(&mut path, &asked);
            path.push(b'/');
            if let Some(query) = parts.uri.query() {
                path.push(b'?');
                path.extend_from_slice(query.as_bytes());
            }
            let path = String::from_utf8(path).unwrap_or_default();
            return Ok(redirect(StatusCode::FOUND, &path));
        }
    }
    let status = error.status;
    let mut rules = pages.rules.iter();
    if let Some(rule) = rules.find(|rule| rule.fits(&asked, Some(status))) {
        return Ok(rule.redirect(parts, &asked));
    }
    if let (Some(page), 400..=499) = (&pages.error, status) {
        let mut plain = parts.clone();
        forget_conditions(&mut plain);
        let mut response = match fetch(gateway, &plain, name, page).await {
            Ok(response) => response,
            Err(unfound) => return Ok(error_page(&error, Some((page, &unfound)))),
        };
        if let Some(elsewhere) = redirected(&response) {
            return Ok(elsewhere);
        }
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::NOT_FOUND);
        let headers = response.headers_mut();
        // They are the page's own, and the answer is not about it.
        for name in [ACCEPT_RANGES, ETAG, LAST_MODIFIED] {
            headers.remove(name);
        }
        tell_error(&error, headers);
        return Ok(response);
    }
    Err(error)
}

fn forget_conditions(parts: &mut Parts) {
    for name in [
        IF_MATCH,
        IF_MODIFIED_SINCE,
        IF_NONE_MATCH,
        IF_UNMODIFIED_SINCE,
        RANGE,
    ] {
        parts.headers.remove(name);
    }
}

/// An object, as anybody gets it.
async fn fetch(gateway: &Gateway, parts: &Parts, bucket: &str, key: &str) -> Reply {
    validate_key(key)?;
    let auth = gateway.authenticator.anonymous(parts)?;
    let target = Target::Object(bucket.to_owned(), key.to_owned());
    let query = Query::default();
    Box::pin(super::perform(
        gateway,
        parts,
        Body::empty(),
        auth,
        &target,
        query,
    ))
    .await
}

/// What was wrong, for programs.
fn tell_error(error: &S3Error, headers: &mut HeaderMap) {
    let (code, message) = (error.code.as_str(), error.code.message());
    headers.insert("x-amz-error-code", HeaderValue::from_static(code));
    headers.insert("x-amz-error-message", HeaderValue::from_static(message));
    let key = error.details.iter().find(|(name, _)| *name == "Key");
    if let Some((_, key)) = key
        && let Ok(key) = HeaderValue::from_bytes(key.as_bytes())
    {
        headers.insert("x-amz-error-detail-key", key);
    }
}

/// Text that was part of a request, as no browser takes it for anything but text.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A page of our own; `unfound`: the key of the page that there should have been instead, and why it is not shown.
fn error_page(error: &S3Error, unfound: Option<(&str, &S3Error)>) -> Response<Body> {
    let status = StatusCode::from_u16(error.status);
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = empty(status);
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.remove(CONTENT_RANGE);
    if error.code == Code::NotModified {
        return response;
    }
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    tell_error(error, headers);
    // Code and message are of our own making, and no text of a request.
    let (code, message) = (error.code.as_str(), error.code.message());
    let mut page = format!(
        "<html>\n<head><title>{status}</title></head>\n<body>\n<h1>{status}</h1>\n<ul>\n<li>Code: {code}</li>\n\
         <li>Message: {message}</li>\n"
    );
    for (name, value) in &error.details {
        if ["BucketName", "Key"].contains(name) {
            page.push_str(&format!("<li>{name}: {}</li>\n", escaped(value)));
        }
    }
    page.push_str("</ul>\n");
    if let Some((key, reason)) = unfound {
        let reason = reason.code;
        page.push_str(&format!(
            "<h3>An Error Occurred While Attempting to Retrieve a Custom Error Document</h3>\n<ul>\n<li>Code: {}</li>\n\
             <li>Message: {}</li>\n<li>Key: {}</li>\n</ul>\n",
            reason.as_str(),
            reason.message(),
            escaped(key)
        ));
    }
    page.push_str("</body>\n</html>\n");
    *response.body_mut() = Body::from(page);
    response
}

impl Call<'_> {
    pub(super) async fn get_website(&self) -> Reply {
        let site: Option<Website> = self.setting(Setting::Website).await?;
        let Some(site) = site else {
            return Err(S3Error::new(Code::NoSuchWebsiteConfiguration)
                .detail("BucketName", self.bucket().name.clone()));
        };
        Ok(xml(website::write(&site)))
    }

    pub(super) async fn put_website(&self, body: Body) -> Reply {
        let document = self.document(body, website::LEN_MAX).await?;
        let site = website::read(&document)?;
        self.set(Setting::Website, &site).await?;
        Ok(empty(StatusCode::OK))
    }

    pub(super) async fn delete_website(&self) -> Reply {
        self.unset(Setting::Website).await?;
        Ok(empty(StatusCode::NO_CONTENT))
    }
}
