//! Object lock: the bucket's configuration, retention and legal holds of versions
//! (user guide, "Locking objects with Object Lock").

use axum::body::Body;
use holdfast_placement::seams::UnixMillis;
use holdfast_storage_node::metadata::{
    BucketVersioning, LockChange, LockConfiguration, LockMode, Retention, RetentionPeriod,
    VersionLock, VersionRecord, Versioning, WriteError,
};
use http::{HeaderMap, HeaderName, StatusCode};

use super::failure::invalid_argument;
use super::response::{empty, set, xml};
use super::{Call, Reply, failure, in_bucket, on_bucket};
use crate::error::{Code, S3Error};
use crate::xml::{XmlWriter, requests, versions};

const MODE: &str = "x-amz-object-lock-mode";
const RETAIN_UNTIL: &str = "x-amz-object-lock-retain-until-date";
const LEGAL_HOLD: &str = "x-amz-object-lock-legal-hold";

fn mode_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => "GOVERNANCE",
        LockMode::Compliance => "COMPLIANCE",
    }
}

/// A mode by its name in S3.
pub fn parse_mode(text: &str) -> Option<LockMode> {
    match text {
        "GOVERNANCE" => Some(LockMode::Governance),
        "COMPLIANCE" => Some(LockMode::Compliance),
        _ => None,
    }
}

/// An ISO 8601 time.
pub fn parse_date(text: &str) -> Option<UnixMillis> {
    let iso = &time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text.trim(), iso).ok()?;
    let millis = time.unix_timestamp_nanos() / 1_000_000;
    Some(UnixMillis(millis.try_into().ok()?))
}

/// What S3 writes as a date; with a fraction of a second, if there is one, so that nothing is over before its date.
fn date(time: UnixMillis) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.0) * 1_000_000);
    let iso = &time::format_description::well_known::Rfc3339;
    time.ok()
        .and_then(|time| time.format(iso).ok())
        .unwrap_or_default()
}

fn in_future(until: UnixMillis, now: UnixMillis) -> Result<UnixMillis, S3Error> {
    match until > now {
        true => Ok(until),
        false => Err(S3Error::with(
            Code::InvalidArgument,
            "The retain until date must be in the future!",
        )),
    }
}

/// Shows a version's lock in a response.
pub(super) fn show(lock: &VersionLock, headers: &mut HeaderMap) {
    if let Some(retention) = lock.retention {
        set(
            headers,
            HeaderName::from_static(MODE),
            mode_name(retention.mode),
        );
        set(
            headers,
            HeaderName::from_static(RETAIN_UNTIL),
            date(retention.until),
        );
    }
    if let Some(hold) = lock.legal_hold {
        set(
            headers,
            HeaderName::from_static(LEGAL_HOLD),
            if hold { "ON" } else { "OFF" },
        );
    }
}

/// Whether a new bucket is to have object lock.
pub(super) fn wanted_for_bucket(headers: &HeaderMap) -> Result<bool, S3Error> {
    let name = "x-amz-bucket-object-lock-enabled";
    match headers
        .get(name)
        .map(|value| value.as_bytes().to_ascii_lowercase())
        .as_deref()
    {
        None | Some(b"false") => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => Err(invalid_argument(name, "", "This header is true or false.")),
    }
}

fn no_configuration(code: Code) -> S3Error {
    S3Error::new(code)
}

impl Call<'_> {
    /// The lock that the request asks for, of the version that it makes.
    pub(super) fn lock_from_headers(&self) -> Result<VersionLock, S3Error> {
        let retention = match (self.header(MODE)?, self.header(RETAIN_UNTIL)?) {
            (None, None) => None,
            (Some(mode), Some(until)) => {
                let mode = parse_mode(mode)
                    .ok_or_else(|| invalid_argument(MODE, mode, "Unknown wormMode directive."))?;
                let parsed = parse_date(until).ok_or_else(|| {
                    let message = "The retain until date must be provided in ISO 8601 format";
                    invalid_argument(RETAIN_UNTIL, until, message)
                })?;
                let until = in_future(parsed, self.now())?;
                Some(Retention { mode, until })
            }
            _ => {
                return Err(S3Error::with(
                    Code::InvalidArgument,
                    "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
                ));
            }
        };
        let legal_hold = match self.header(LEGAL_HOLD)? {
            None => None,
            Some("ON") => Some(true),
            Some("OFF") => Some(false),
            Some(other) => {
                let message = "Legal Hold must be either of 'ON' or 'OFF'";
                return Err(invalid_argument(LEGAL_HOLD, other, message));
            }
        };
        Ok(VersionLock {
            retention,
            legal_hold,
        })
    }

    /// Whether the request gets around retention in governance mode.
    pub(super) fn bypasses_governance(&self) -> bool {
        let header = self.parts.headers.get("x-amz-bypass-governance-retention");
        header.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
    }

    pub(super) async fn get_lock_configuration(&self) -> Reply {
        let lock = self.bucket_versioning().await?.lock.ok_or_else(|| {
            no_configuration(Code::ObjectLockConfigurationNotFoundError)
                .detail("BucketName", &self.bucket().name)
        })?;
        let root = "ObjectLockConfiguration";
        let mut document = XmlWriter::new(root, 512);
        document.text("ObjectLockEnabled", "Enabled");
        if let Some(default) = lock.default {
            document.open("Rule");
            document.open("DefaultRetention");
            document.text("Mode", mode_name(default.mode));
            match default.period {
                RetentionPeriod::Days(days) => document.number("Days", u64::from(days)),
                RetentionPeriod::Years(years) => document.number("Years", u64::from(years)),
            }
            document.close("DefaultRetention");
            document.close("Rule");
        }
        Ok(xml(document.finish(root)))
    }

    pub(super) async fn put_lock_configuration(&self, body: Body) -> Reply {
        let document = self.document(body, requests::SMALL_LEN_MAX).await?;
        let default = versions::object_lock(&document)?;
        self.change_versioning(|old| match old.versioning {
            Versioning::Enabled => Ok(BucketVersioning {
                lock: Some(LockConfiguration { default }),
                ..*old
            }),
            Versioning::Off | Versioning::Suspended => Err(S3Error::with(
                Code::InvalidBucketState,
                "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration",
            )),
        })
        .await?;
        Ok(empty(StatusCode::OK))
    }

    /// The version that the request is about, in a bucket that has object lock.
    async fn lockable(&self, key: &str) -> Result<VersionRecord, S3Error> {
        let version = self.version()?;
        let metadata = &self.gateway.metadata;
        let found = in_bucket!(self, |bucket| metadata.head_version(bucket, key, version))?;
        // Only now is it certain which bucket has the name.
        if self.bucket_versioning().await?.lock.is_none() {
            return Err(failure::not_lockable());
        }
        self.found(key, version, found)
    }

    pub(super) async fn get_retention(&self, key: &str) -> Reply {
        let retention = self.lockable(key).await?.lock.retention;
        let retention = retention.ok_or_else(|| {
            no_configuration(Code::NoSuchObjectLockConfiguration).detail("Key", key)
        })?;
        let mut document = XmlWriter::new("Retention", 256);
        document.text("Mode", mode_name(retention.mode));
        document.text("RetainUntilDate", &date(retention.until));
        Ok(xml(document.finish("Retention")))
    }

    pub(super) async fn put_retention(&self, key: &str, body: Body) -> Reply {
        // None is malformed, here and below, unlike with other operations.
        let document = self.document_if_any(body, requests::SMALL_LEN_MAX).await?;
        let retention = match versions::retention(&document)? {
            Some(Retention { mode, until }) => {
                let until = in_future(until, self.now())?;
                Some(Retention { mode, until })
            }
            None => None,
        };
        self.set_lock(key, LockChange::Retention(retention)).await
    }

    pub(super) async fn get_legal_hold(&self, key: &str) -> Reply {
        let hold = self.lockable(key).await?.lock.legal_hold;
        let hold = hold.ok_or_else(|| {
            no_configuration(Code::NoSuchObjectLockConfiguration).detail("Key", key)
        })?;
        let mut document = XmlWriter::new("LegalHold", 256);
        document.text("Status", if hold { "ON" } else { "OFF" });
        Ok(xml(document.finish("LegalHold")))
    }

    pub(super) async fn put_legal_hold(&self, key: &str, body: Body) -> Reply {
        let document = self.document_if_any(body, requests::SMALL_LEN_MAX).await?;
        let hold = versions::legal_hold(&document)?;
        self.set_lock(key, LockChange::LegalHold(hold)).await
    }

    async fn set_lock(&self, key: &str, change: LockChange) -> Reply {
        let version = self.version()?;
        let bypass = self.bypasses_governance();
        let metadata = &self.gateway.metadata;
        on_bucket!(self, |bucket| metadata
            .set_lock(bucket, key, version, change, bypass))
        .map_err(|error| self.refused(error, key))?;
        Ok(empty(StatusCode::OK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let time = parse_date("2030-01-01T00:00:00Z").unwrap();
        assert_eq!(time, UnixMillis(1_893_456_000_000));
        assert_eq!(
            parse_date("2030-01-01T01:00:00.5+01:00"),
            Some(UnixMillis(time.0 + 500))
        );
        assert_eq!(date(time), "2030-01-01T00:00:00Z");
        assert_eq!(date(UnixMillis(time.0 + 990)), "2030-01-01T00:00:00.99Z");
        assert_eq!(date(UnixMillis(u64::MAX)), "");
        assert_eq!(parse_date("2030-01-01"), None);
        assert_eq!(parse_date("1960-01-01T00:00:00Z"), None);
    }
}
