//! `/-/identities`: who has a key, for the root user. GET lists them without their secrets, POST stores one, DELETE takes
//! one away (`?access-key=`).

use axum::body::Body;
use holdfast_placement::directory::{Identity, PutIdentity};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::{Gateway, ORDER_LEN_MAX, reply};
use crate::error::{Code, S3Error};
use crate::ops;
use crate::router::Query;

/// An identity as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    access_key: String,
    secret_key: String,
    owner_id: String,
    #[serde(default)]
    display_name: String,
}

/// An identity as it is shown.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    access_key: &'a str,
    owner_id: &'a str,
    display_name: &'a str,
}

impl Gateway {
    pub(super) async fn administer_identities(
        &self,
        parts: Parts,
        body: Body,
    ) -> Result<Response<Body>, S3Error> {
        let authenticated = self.authenticate_root(&parts)?;
        let invalid = |reason: &str| S3Error::with(Code::InvalidRequest, reason.to_owned());
        match parts.method {
            Method::GET => {
                let found = self.directory.identities().await;
                let found = found.map_err(ops::failure::directory)?;
                let shown: Vec<_> = found
                    .iter()
                    .map(|identity| Shown {
                        access_key: &identity.access_key,
                        owner_id: &identity.owner_id,
                        display_name: &identity.display_name,
                    })
                    .collect();
                answer(&shown)
            }
            Method::POST => {
                let given = ops::signed_body(&parts, body, &authenticated, ORDER_LEN_MAX).await?;
                let given: Given = serde_json::from_slice(&given)
                    .map_err(|error| invalid(&format!("this is no identity: {error}")))?;
                if given.owner_id == authenticated.identity.owner_id {
                    return Err(invalid(
                        "the root user has the key that the nodes are started with, and no other",
                    ));
                }
                let stored = self.directory.put_identity(Identity {
                    access_key: given.access_key,
                    secret_key: given.secret_key,
                    owner_id: given.owner_id,
                    display_name: given.display_name,
                });
                match stored.await.map_err(ops::failure::directory)? {
                    PutIdentity::Stored => answer(&serde_json::json!({ "stored": true })),
                    PutIdentity::TooMany => Err(invalid("there are too many identities already")),
                    PutIdentity::Malformed => Err(invalid(
                        "an identity needs an access key and a secret key of at most 256 bytes, and an owner id of 64 \
                         lower-case hex digits",
                    )),
                }
            }
            Method::DELETE => {
                let query = Query::parse(parts.uri.query())?;
                let access_key = query.get("access-key").unwrap_or_default();
                if access_key == authenticated.identity.access_key {
                    return Err(invalid("the root user's key is not taken away"));
                }
                let deleted = self.directory.delete_identity(access_key).await;
                match deleted.map_err(ops::failure::directory)? {
                    true => answer(&serde_json::json!({ "removed": true })),
                    false => Err(invalid("there is no such identity")),
                }
            }
            _ => Err(S3Error::new(Code::MethodNotAllowed)),
        }
    }
}

/// An answer of JSON.
pub(super) fn answer<T: Serialize>(value: &T) -> Result<Response<Body>, S3Error> {
    let json = serde_json::to_vec_pretty(value).map_err(|_| S3Error::new(Code::InternalError))?;
    Ok(reply::plain(StatusCode::OK, "application/json", json))
}
