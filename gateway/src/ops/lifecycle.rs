//! The lifecycle of a bucket's objects: its rules, and headers that tell when an object or an upload will go. (What goes,
//! goes by `storage-node/src/lifecycle`.)

use axum::body::Body;
use holdfast_placement::directory::Setting;
use holdfast_placement::seams::UnixMillis;
use holdfast_storage_node::lifecycle::{
    DAY_SECS, FilterForm, Lifecycle, MinimumSize, Rule, due, first_to_expire,
};
use holdfast_storage_node::metadata::VersionSummary;
use http::header::HeaderName;
use http::{HeaderMap, StatusCode};

use super::response::{empty, http_date, set, xml};
use super::{Call, Reply, failure};
use crate::error::{Code, S3Error};
use crate::xml::{encode_uri_into, lifecycle};

static MINIMUM: HeaderName =
    HeaderName::from_static("x-amz-transition-default-minimum-object-size");

const MINIMUM_SIZES: [MinimumSize; 2] = [
    MinimumSize::AllStorageClasses128K,
    MinimumSize::VariesByStorageClass,
];

fn name_of(minimum: MinimumSize) -> &'static str {
    match minimum {
        MinimumSize::AllStorageClasses128K => "all_storage_classes_128K",
        MinimumSize::VariesByStorageClass => "varies_by_storage_class",
    }
}

static EXPIRATION: HeaderName = HeaderName::from_static("x-amz-expiration");
static ABORT_DATE: HeaderName = HeaderName::from_static("x-amz-abort-date");
static ABORT_RULE: HeaderName = HeaderName::from_static("x-amz-abort-rule-id");

impl Call<'_> {
    pub(super) async fn get_lifecycle(&self) -> Reply {
        let Some(lifecycle) = self.lifecycle().await? else {
            return Err(S3Error::new(Code::NoSuchLifecycleConfiguration)
                .detail("BucketName", self.bucket().name.clone()));
        };
        let mut response = xml(lifecycle::write(&lifecycle.rules));
        if let Some(minimum) = lifecycle.minimum {
            set(response.headers_mut(), MINIMUM.clone(), name_of(minimum));
        }
        Ok(response)
    }

    pub(super) async fn put_lifecycle(&self, body: Body) -> Reply {
        let minimum = self.minimum_size()?;
        let document = self.document(body, lifecycle::LEN_MAX).await?;
        let mut rules = lifecycle::read(&document)?;
        if !self.gateway.metadata.all_speak(FilterForm::LEVEL) {
            for rule in &mut rules {
                rule.form = rule.form.for_all();
            }
        }
        let lifecycle = Lifecycle { rules, minimum };
        let value = lifecycle.encode();
        let value = value.map_err(|_| S3Error::new(Code::InternalError))?;
        let changed = self.change(Setting::Lifecycle, Some(&value)).await;
        self.gateway.hints.forget(self.bucket().id);
        changed?;
        let mut response = empty(StatusCode::OK);
        if let Some(minimum) = minimum {
            set(response.headers_mut(), MINIMUM.clone(), name_of(minimum));
        }
        Ok(response)
    }

    /// The bucket's lifecycle, as it is now.
    pub(super) async fn lifecycle(&self) -> Result<Option<Lifecycle>, S3Error> {
        let bucket = self.bucket();
        let directory = &self.gateway.directory;
        let found = directory.setting(bucket, Setting::Lifecycle).await;
        let Some(found) = found.map_err(failure::directory)? else {
            return Ok(None);
        };
        let lifecycle = Lifecycle::decode(&found);
        lifecycle.map(Some).ok_or_else(|| {
            tracing::error!(bucket = bucket.name, "a lifecycle is damaged");
            S3Error::new(Code::InternalError)
        })
    }

    /// Which small objects keep their storage class.
    fn minimum_size(&self) -> Result<Option<MinimumSize>, S3Error> {
        let Some(wanted) = self.header(MINIMUM.as_str())? else {
            return Ok(None);
        };
        let mut known = MINIMUM_SIZES.into_iter();
        let found = known.find(|minimum| name_of(*minimum) == wanted);
        found.map(Some).ok_or_else(|| {
            failure::invalid_request(format!(
                "Invalid TransitionDefaultMinimumObjectSize found: {wanted}"
            ))
        })
    }

    pub(super) async fn delete_lifecycle(&self) -> Reply {
        let unset = self.unset(Setting::Lifecycle).await;
        self.gateway.hints.forget(self.bucket().id);
        unset?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// Tells in a response when the object will go, if it will.
    pub(super) async fn show_expiration(
        &self,
        key: &str,
        summary: &VersionSummary,
        tags: &[(String, String)],
        headers: &mut HeaderMap,
    ) {
        if let Some(hint) = self.hint().await {
            show_expiration(&hint.lifecycle.rules, key, summary, tags, headers);
        }
    }

    /// Tells in a response when an upload will be ended if it is not completed. In days of 24 hours, whatever a day is here.
    pub(super) async fn show_abort(
        &self,
        key: &str,
        initiated: UnixMillis,
        headers: &mut HeaderMap,
    ) {
        let Some(hint) = self.hint().await else {
            return;
        };
        let rules = hint.lifecycle.rules.iter();
        let fitting = rules.filter(|rule| rule.enabled && key.starts_with(&rule.filter.prefix));
        let dates = fitting.filter_map(|rule| {
            let date = due(initiated, rule.abort_days?, DAY_SECS);
            Some((rule, date))
        });
        if let Some((rule, date)) = dates.min_by_key(|(_, date)| *date) {
            set(headers, ABORT_DATE.clone(), http_date(date));
            set(headers, ABORT_RULE.clone(), encoded_id(rule));
        }
    }
}

/// Tells when an object will go by `rules`, if it will. In days of 24 hours, whatever a day is here.
pub(super) fn show_expiration(
    rules: &[Rule],
    key: &str,
    summary: &VersionSummary,
    tags: &[(String, String)],
    headers: &mut HeaderMap,
) {
    if rules.is_empty() {
        return;
    }
    let VersionSummary { size, modified, .. } = *summary;
    let first = first_to_expire(rules, key, size, tags, modified, DAY_SECS);
    if let Some((rule, date)) = first {
        let (date, id) = (http_date(date), encoded_id(rule));
        let told = format!("expiry-date=\"{date}\", rule-id=\"{id}\"");
        set(headers, EXPIRATION.clone(), told);
    }
}

/// The id of a rule, as headers can hold it.
fn encoded_id(rule: &Rule) -> String {
    let mut id = Vec::with_capacity(rule.id.len());
    encode_uri_into(&mut id, &rule.id);
    String::from_utf8(id).unwrap_or_default()
}
