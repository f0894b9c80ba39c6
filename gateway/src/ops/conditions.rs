//! Conditional requests (user guide, "Conditional requests"; RFC 9110, section 13).

use holdfast_placement::seams::UnixMillis;
use holdfast_storage_node::metadata::{Condition, Etag};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::failure::invalid_argument;
use crate::error::{Code, S3Error};
use crate::router::not_implemented;

/// Names of the four headers: of a read, or of a copy's source.
pub struct ReadConditions {
    pub if_match: HeaderName,
    pub if_none_match: HeaderName,
    pub if_modified_since: HeaderName,
    pub if_unmodified_since: HeaderName,
}

/// What the conditions of a read say, and which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    Go,
    NotModified(&'a HeaderName),
    Failed(&'a HeaderName),
}

/// The headers of GET and HEAD.
pub static READ: ReadConditions = ReadConditions {
    if_match: http::header::IF_MATCH,
    if_none_match: http::header::IF_NONE_MATCH,
    if_modified_since: http::header::IF_MODIFIED_SINCE,
    if_unmodified_since: http::header::IF_UNMODIFIED_SINCE,
};

/// The headers of copies, about their source.
pub static COPY_SOURCE: ReadConditions = ReadConditions {
    if_match: HeaderName::from_static("x-amz-copy-source-if-match"),
    if_none_match: HeaderName::from_static("x-amz-copy-source-if-none-match"),
    if_modified_since: HeaderName::from_static("x-amz-copy-source-if-modified-since"),
    if_unmodified_since: HeaderName::from_static("x-amz-copy-source-if-unmodified-since"),
};

impl ReadConditions {
    /// Judges an object. `If-Match` is stronger than `If-Unmodified-Since`, `If-None-Match` than
    /// `If-Modified-Since` (API reference, GetObject, "Additional considerations about request headers"), of which a date
    /// that is yet to come counts for nothing. (The clock by which an object was dated may be ahead of this gateway's: its own
    /// date is not yet to come.)
    pub fn judge(
        &self,
        headers: &HeaderMap,
        etag: &Etag,
        modified: UnixMillis,
        now: UnixMillis,
    ) -> Verdict<'_> {
        let since = |name: &HeaderName| headers.get(name).and_then(parse_date);
        if let Some(list) = headers.get(&self.if_match) {
            if !etag_list_has(list, etag) {
                return Verdict::Failed(&self.if_match);
            }
        } else if since(&self.if_unmodified_since).is_some_and(|date| modified.secs() > date) {
            return Verdict::Failed(&self.if_unmodified_since);
        }
        if let Some(list) = headers.get(&self.if_none_match) {
            if etag_list_has(list, etag) {
                return Verdict::NotModified(&self.if_none_match);
            }
        } else if since(&self.if_modified_since)
            .is_some_and(|date| modified.secs() <= date && date <= now.max(modified).secs())
        {
            return Verdict::NotModified(&self.if_modified_since);
        }
        Verdict::Go
    }
}

/// Whether a `Range` counts: not if `If-Range` names another version than this (RFC 9110, section 13.1.5). Weak entity tags
/// name none.
pub fn range_counts(headers: &HeaderMap, etag: &Etag, modified: UnixMillis) -> bool {
    let Some(value) = headers.get(http::header::IF_RANGE) else {
        return true;
    };
    if let Some(date) = parse_date(value) {
        return date == modified.secs();
    }
    let text = value.to_str().unwrap_or_default().trim();
    !text.starts_with("W/") && bare_etag(text) == etag.to_string()
}

/// Seconds since 1970 of an HTTP date; a date that is none is ignored.
pub fn parse_date(value: &HeaderValue) -> Option<u64> {
    parse_http_date(value.to_str().ok()?)
}

fn parse_http_date(text: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(text.trim()).ok()?;
    let since_epoch = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(since_epoch.as_secs())
}

/// Whether `etag` is in a list of entity tags: quotes are optional, `W/` is disregarded, `*` is any.
fn etag_list_has(list: &HeaderValue, etag: &Etag) -> bool {
    let Ok(list) = list.to_str() else {
        return false;
    };
    let own = etag.to_string();
    list.split(',').any(|tag| {
        let tag = bare_etag(tag);
        tag == "*" || tag == own
    })
}

/// An entity tag without white space, `W/` and quotes.
pub fn bare_etag(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"')
}

/// The header of a write's condition, where there is no other: which of several did not hold, nobody knows.
pub fn of_failed_write(headers: &HeaderMap) -> Option<&HeaderName> {
    let starts = ["if-", "x-amz-if-", "x-amz-rename-source-if-"];
    let is_condition = |name: &&HeaderName| {
        let mut starts = starts.iter();
        starts.any(|start| name.as_str().starts_with(start))
    };
    let mut found = headers.keys().filter(is_condition);
    let first = found.next();
    first.filter(|_| found.next().is_none())
}

/// The condition of a PUT, a copy or a completion: `If-None-Match` or `If-Match`, with one entity tag or `*`.
pub fn of_write(headers: &HeaderMap) -> Result<Condition, S3Error> {
    for name in [
        http::header::IF_MODIFIED_SINCE,
        http::header::IF_UNMODIFIED_SINCE,
    ] {
        if headers.contains_key(&name) {
            let what = format!("A write on the condition {name}");
            return Err(not_implemented(&what).detail("Header", name.as_str()));
        }
    }
    let if_match = etag_of(headers, &http::header::IF_MATCH)?;
    let if_none_match = etag_of(headers, &http::header::IF_NONE_MATCH)?;
    let condition = match (if_match, if_none_match) {
        (Some(_), Some(_)) => {
            return Err(S3Error::with(
                Code::NotImplemented,
                "If-Match and If-None-Match together are not implemented.",
            ));
        }
        (etag, None) => Condition {
            etag,
            ..Condition::default()
        },
        (None, Some(etag)) => Condition {
            absent: true,
            etag: Some(etag).filter(|etag| etag != "*"),
            ..Condition::default()
        },
    };
    Ok(condition)
}

/// The condition of a DELETE: `If-Match`, `x-amz-if-match-last-modified-time`, `x-amz-if-match-size`.
pub fn of_delete(headers: &HeaderMap) -> Result<Condition, S3Error> {
    let text = |name: &'static str| match headers.get(name) {
        Some(value) => {
            Ok(Some(value.to_str().map_err(|_| {
                invalid_argument(name, "", "The header is not text.")
            })?))
        }
        None => Ok::<_, S3Error>(None),
    };
    if headers.contains_key(http::header::IF_NONE_MATCH) {
        return Err(not_implemented("If-None-Match on a deletion"));
    }
    let mut condition = Condition {
        etag: etag_of(headers, &http::header::IF_MATCH)?,
        ..Condition::default()
    };
    if let Some(date) = text("x-amz-if-match-last-modified-time")? {
        condition.modified_secs = Some(parse_time(date).ok_or_else(|| {
            invalid_argument("x-amz-if-match-last-modified-time", date, "Not a date.")
        })?);
    }
    if let Some(size) = text("x-amz-if-match-size")? {
        condition.size = Some(
            size.parse()
                .map_err(|_| invalid_argument("x-amz-if-match-size", size, "Not a size."))?,
        );
    }
    Ok(condition)
}

/// The one entity tag, or `*`, of a header.
pub fn etag_of(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, S3Error> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    match value.to_str().map(bare_etag) {
        Ok(etag) if !etag.is_empty() && !etag.contains(',') => Ok(Some(etag.to_owned())),
        _ => Err(invalid_argument(
            name.as_str(),
            "",
            "On a write this header takes one entity tag.",
        )),
    }
}

/// Seconds since 1970 of an HTTP date or an ISO 8601 time.
pub fn parse_time(text: &str) -> Option<u64> {
    parse_http_date(text).or_else(|| {
        let iso = &time::format_description::well_known::Rfc3339;
        let time = time::OffsetDateTime::parse(text.trim(), iso).ok()?;
        time.unix_timestamp().try_into().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: Etag = Etag::Md5([0x11; 16]);
    const MODIFIED: UnixMillis = UnixMillis(784_111_777_500);
    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NOW: UnixMillis = UnixMillis(784_111_787_500);
    const TO_COME: &str = "Sun, 06 Nov 1994 08:49:48 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn judge(headers: &[(HeaderName, &str)]) -> Verdict<'static> {
        let pair = |(name, value): &(HeaderName, &str)| {
            (name.clone(), HeaderValue::from_str(value).unwrap())
        };
        let headers: HeaderMap = headers.iter().map(pair).collect();
        READ.judge(&headers, &ETAG, MODIFIED, NOW)
    }

    #[test]
    fn reads_follow_s3s_precedence() {
        use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
        let own = "\"11111111111111111111111111111111\"";
        let bare = "11111111111111111111111111111111";
        let weak = "W/\"11111111111111111111111111111111\"";
        let list = "\"a\", \"11111111111111111111111111111111\"";
        for (headers, verdict) in [
            (&[][..], Verdict::Go),
            (&[(IF_MATCH, own)], Verdict::Go),
            (&[(IF_MATCH, bare)], Verdict::Go),
            (&[(IF_MATCH, list)], Verdict::Go),
            (&[(IF_MATCH, "*")], Verdict::Go),
            (&[(IF_MATCH, "\"a\"")], Verdict::Failed(&IF_MATCH)),
            (
                &[(IF_NONE_MATCH, own)],
                Verdict::NotModified(&IF_NONE_MATCH),
            ),
            (
                &[(IF_NONE_MATCH, weak)],
                Verdict::NotModified(&IF_NONE_MATCH),
            ),
            (
                &[(IF_NONE_MATCH, list)],
                Verdict::NotModified(&IF_NONE_MATCH),
            ),
            (
                &[(IF_NONE_MATCH, "*")],
                Verdict::NotModified(&IF_NONE_MATCH),
            ),
            (&[(IF_NONE_MATCH, "a")], Verdict::Go),
            (
                &[(IF_MODIFIED_SINCE, THEN)],
                Verdict::NotModified(&IF_MODIFIED_SINCE),
            ),
            (&[(IF_MODIFIED_SINCE, BEFORE)], Verdict::Go),
            (&[(IF_MODIFIED_SINCE, TO_COME)], Verdict::Go),
            (&[(IF_MODIFIED_SINCE, "nonsense")], Verdict::Go),
            (&[(IF_UNMODIFIED_SINCE, THEN)], Verdict::Go),
            (
                &[(IF_UNMODIFIED_SINCE, BEFORE)],
                Verdict::Failed(&IF_UNMODIFIED_SINCE),
            ),
            (
                &[(IF_MATCH, own), (IF_UNMODIFIED_SINCE, BEFORE)],
                Verdict::Go,
            ),
            (
                &[(IF_NONE_MATCH, "a"), (IF_MODIFIED_SINCE, THEN)],
                Verdict::Go,
            ),
            (
                &[(IF_MATCH, own), (IF_NONE_MATCH, own)],
                Verdict::NotModified(&IF_NONE_MATCH),
            ),
            (
                &[(IF_MATCH, "a"), (IF_NONE_MATCH, own)],
                Verdict::Failed(&IF_MATCH),
            ),
        ] {
            assert_eq!(judge(headers), verdict, "{headers:?}");
        }
    }

    #[test]
    fn an_objects_own_date_is_not_yet_to_come() {
        let since = headers("if-modified-since", THEN);
        let slow = UnixMillis(MODIFIED.0 - 3000);
        let verdict = READ.judge(&since, &ETAG, MODIFIED, slow);
        assert_eq!(
            verdict,
            Verdict::NotModified(&http::header::IF_MODIFIED_SINCE)
        );
    }

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn writes_take_one_condition() {
        assert!(of_write(&headers("if-none-match", "*")).unwrap().absent);
        let etag = of_write(&headers("if-match", "\"abc\"")).unwrap().etag;
        assert_eq!(etag.as_deref(), Some("abc"));
        let other = of_write(&headers("if-none-match", "\"abc\"")).unwrap();
        assert_eq!((other.absent, other.etag.as_deref()), (true, Some("abc")));
        assert!(of_write(&headers("if-none-match", "a,b")).is_err());
        assert!(of_write(&headers("if-match", "a,b")).is_err());
        assert!(of_write(&headers("if-match", "")).is_err());
        for name in ["if-modified-since", "if-unmodified-since"] {
            let refused = of_write(&headers(name, THEN)).unwrap_err();
            assert_eq!(refused.code, Code::NotImplemented);
        }
    }

    #[test]
    fn deletions_take_more() {
        let on = |name, value| of_delete(&headers(name, value));
        let time = "x-amz-if-match-last-modified-time";
        assert_eq!(on(time, THEN).unwrap().modified_secs, Some(784_111_777));
        assert_eq!(
            on(time, "1994-11-06T08:49:37Z").unwrap().modified_secs,
            Some(784_111_777)
        );
        assert!(on(time, "yesterday").is_err());
        assert_eq!(on("x-amz-if-match-size", "12").unwrap().size, Some(12));
        assert!(on("x-amz-if-match-size", "-1").is_err());
        assert_eq!(on("if-match", "*").unwrap().etag.as_deref(), Some("*"));
    }
}
