//! Messages to a webhook: one HTTP POST each, over a connection that is kept while there are more.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use holdfast_placement::directory::Webhook;
use holdfast_placement::seams::{Clock, Net, spawn};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

/// How long a message may take, with the connection that it needs.
const POST_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read, so that the connection can be used again.
const ANSWER_LEN_MAX: usize = 64 * 1024;

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookAddress {
    /// `HOST:PORT`, to connect to.
    address: String,
    /// As the URL has it.
    authority: HeaderValue,
    path: String,
}

/// Why something is no address of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookAddressError {
    #[error("write it as http://HOST:PORT/PATH")]
    Malformed,
    #[error(
        "https is not spoken to webhooks: give an http:// address, such as that of a proxy beside the nodes"
    )]
    Https,
    #[error("give the secret as --token, not as part of the address")]
    UserInfo,
}

impl FromStr for WebhookAddress {
    type Err = WebhookAddressError;

    fn from_str(text: &str) -> Result<Self, WebhookAddressError> {
        let malformed = WebhookAddressError::Malformed;
        let uri: Uri = text.parse().map_err(|_| malformed)?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(WebhookAddressError::Https),
            _ => return Err(malformed),
        }
        let authority = uri.authority().ok_or(malformed)?;
        if authority.as_str().contains('@') {
            return Err(WebhookAddressError::UserInfo);
        }
        if authority.host().is_empty() {
            return Err(malformed);
        }
        let port = match authority.as_str().rsplit_once(':') {
            Some((_, port)) if !port.contains(']') => {
                authority.port_u16().filter(|_| !port.is_empty())
            }
            _ => Some(80),
        };
        let port = port.filter(|port| *port > 0).ok_or(malformed)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            address: format!("{}:{port}", authority.host()),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| malformed)?,
            path: match path {
                "" => "/".to_owned(),
                path => path.to_owned(),
            },
        })
    }
}

/// A way to a webhook.
pub struct Line {
    net: Arc<dyn Net>,
    clock: Arc<dyn Clock>,
    address: WebhookAddress,
    authorization: Option<HeaderValue>,
    /// A connection that was used before.
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Line {
    /// A way to `webhook`, or what is wrong with it.
    pub fn new(
        webhook: &Webhook,
        net: Arc<dyn Net>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let address = webhook.url.parse();
        let authorization = webhook.token.as_deref().map(authorization).transpose()?;
        Ok(Self {
            net,
            clock,
            address: address.map_err(|error: WebhookAddressError| error.to_string())?,
            authorization,
            sender: None,
        })
    }

    /// Tells a message, or why it cannot be said that it was told.
    pub async fn post(&mut self, message: Vec<u8>) -> Result<(), String> {
        let clock = self.clock.clone();
        let posting = std::pin::pin!(self.post_now(message.into()));
        match select(posting, clock.sleep(POST_TIMEOUT)).await {
            Either::Left((posted, _)) => posted,
            Either::Right(((), _)) => Err(format!(
                "no answer within {} seconds",
                POST_TIMEOUT.as_secs()
            )),
        }
    }

    async fn post_now(&mut self, message: Bytes) -> Result<(), String> {
        // Taken: a connection on which something went wrong, or was given up, is not used again.
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
            && let Ok(answer) = sender.send_request(self.request(message.clone())).await
        {
            return self.judge(sender, answer).await;
        }
        let mut sender = self.connect().await?;
        let answer = sender.send_request(self.request(message)).await;
        let answer = answer.map_err(|error| format!("{} broke off: {error}", self.address.address));
        self.judge(sender, answer?).await
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let address = &self.address.address;
        let failed =
            |error: &dyn std::fmt::Display| format!("{address} cannot be reached: {error}");
        let connection = self.net.connect(address).await;
        let connection = connection.map_err(|error| failed(&error))?;
        let (sender, driver) = http1::handshake(TokioIo::new(connection))
            .await
            .map_err(|error| failed(&error))?;
        spawn(async move {
            // Ends with the sender, or when the other side does.
            let _ended = driver.await;
        });
        Ok(sender)
    }

    fn request(&self, message: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.address.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(HOST, self.address.authority.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("holdfast"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }

    async fn judge(
        &mut self,
        sender: SendRequest<Full<Bytes>>,
        answer: http::Response<hyper::body::Incoming>,
    ) -> Result<(), String> {
        let (parts, body) = answer.into_parts();
        // What it says besides does not matter, but has to be out of the way of the next answer.
        if Limited::new(body, ANSWER_LEN_MAX).collect().await.is_ok() {
            self.sender = Some(sender);
        }
        match parts.status.is_success() {
            true => Ok(()),
            false => Err(format!(
                "{} answered {}",
                self.address.address, parts.status
            )),
        }
    }
}

/// A token alone is a bearer's; one with a scheme before it is sent as it is.
fn authorization(token: &str) -> Result<HeaderValue, String> {
    let text = match token.trim_ascii().contains(' ') {
        true => token.trim_ascii().to_owned(),
        false => format!("Bearer {}", token.trim_ascii()),
    };
    let mut value = HeaderValue::from_str(&text).map_err(|_| "its token can be no header")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_or_explained() {
        for (text, address, path) in [
            ("http://h", "h:80", "/"),
            ("http://h:8080", "h:8080", "/"),
            ("http://h:8080/a/b?c=d", "h:8080", "/a/b?c=d"),
            ("http://[::1]:9/x", "[::1]:9", "/x"),
            ("http://[::1]/x", "[::1]:80", "/x"),
        ] {
            let read: WebhookAddress = text.parse().unwrap();
            assert_eq!((&*read.address, &*read.path), (address, path), "{text}");
        }
        let error = |text: &str| text.parse::<WebhookAddress>().unwrap_err();
        assert_eq!(error("https://h/"), WebhookAddressError::Https);
        assert_eq!(error("http://u:p@h/"), WebhookAddressError::UserInfo);
        for text in [
            "",
            "h",
            "h:80",
            "ftp://h",
            "http://",
            "http://h:0",
            "http://h:x",
            "http://h:",
            "/p",
        ] {
            assert_eq!(error(text), WebhookAddressError::Malformed, "{text}");
        }
    }

    #[test]
    fn a_token_alone_is_a_bearers() {
        assert_eq!(authorization("abc").unwrap(), "Bearer abc");
        assert_eq!(authorization("Basic abc").unwrap(), "Basic abc");
    }
}
