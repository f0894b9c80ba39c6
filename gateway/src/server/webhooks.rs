//! `/-/webhooks`: where events can be told, for the root user. GET lists them without their tokens, POST stores one, DELETE
//! takes one away (`?name=`).

use axum::body::Body;
use holdfast_placement::directory::{PutWebhook, Webhook};
use http::request::Parts;
use http::{Method, Response};
use serde::{Deserialize, Serialize};

use super::identities::answer;
use super::{Gateway, ORDER_LEN_MAX};
use crate::error::{Code, S3Error};
use crate::events::{WebhookAddress, WebhookAddressError};
use crate::ops;
use crate::router::Query;

/// A webhook as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    name: String,
    url: String,
    #[serde(default)]
    token: Option<String>,
}

/// A webhook as it is shown.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    arn: String,
    url: &'a str,
    has_token: bool,
}

impl Gateway {
    pub(super) async fn administer_webhooks(
        &self,
        parts: Parts,
        body: Body,
    ) -> Result<Response<Body>, S3Error> {
        let authenticated = self.authenticate_root(&parts)?;
        let invalid = |reason: String| S3Error::with(Code::InvalidRequest, reason);
        match parts.method {
            Method::GET => {
                let found = self.directory.webhooks().await;
                let found = found.map_err(ops::failure::directory)?;
                let shown: Vec<_> = found
                    .iter()
                    .map(|webhook| Shown {
                        name: &webhook.name,
                        arn: format!("arn:holdfast:webhook:::{}", webhook.name),
                        url: &webhook.url,
                        has_token: webhook.token.is_some(),
                    })
                    .collect();
                answer(&shown)
            }
            Method::POST => {
                let given = ops::signed_body(&parts, body, &authenticated, ORDER_LEN_MAX).await?;
                let given: Given = serde_json::from_slice(&given)
                    .map_err(|error| invalid(format!("this is no webhook: {error}")))?;
                let address: Result<WebhookAddress, WebhookAddressError> = given.url.parse();
                if let Err(error) = address {
                    return Err(invalid(format!(
                        "{} is no address of a webhook: {error}",
                        given.url
                    )));
                }
                let stored = self.directory.put_webhook(Webhook {
                    name: given.name,
                    url: given.url,
                    token: given.token,
                });
                match stored.await.map_err(ops::failure::directory)? {
                    PutWebhook::Stored => answer(&serde_json::json!({ "stored": true })),
                    PutWebhook::TooMany => {
                        Err(invalid("there are too many webhooks already".to_owned()))
                    }
                    PutWebhook::Malformed => Err(invalid(
                        "a webhook has a name of at most 64 letters, digits, '-', '_' and '.', and an address and a \
                         token of at most 1024 bytes"
                            .to_owned(),
                    )),
                }
            }
            Method::DELETE => {
                let query = Query::parse(parts.uri.query())?;
                let name = query.get("name").unwrap_or_default();
                let deleted = self.directory.delete_webhook(name).await;
                match deleted.map_err(ops::failure::directory)? {
                    true => answer(&serde_json::json!({ "removed": true })),
                    false => Err(invalid("there is no such webhook".to_owned())),
                }
            }
            _ => Err(S3Error::new(Code::MethodNotAllowed)),
        }
    }
}
