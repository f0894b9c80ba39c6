//! Documents about versions and their locks.

use holdfast_storage_node::metadata::{DefaultRetention, Retention, RetentionPeriod};

use super::reader::{Element, malformed, parse};
use super::requests::SMALL;
use crate::error::{Code, S3Error};
use crate::ops::object_lock::{parse_date, parse_mode};
use crate::router::not_implemented;

/// Retention at most: a hundred years.
const DAYS_MAX: i64 = 36_500;
const YEARS_MAX: i64 = 100;

/// `VersioningConfiguration`: whether versioning is to be enabled, or suspended.
pub fn versioning(document: &[u8]) -> Result<bool, S3Error> {
    let root = parse(document, "VersioningConfiguration", SMALL)?;
    root.expect_only(&["Status", "MfaDelete"])?;
    match root.child_text("MfaDelete")?.map(str::trim) {
        None | Some("" | "Disabled") => {}
        Some("Enabled") => return Err(not_implemented("MFA delete")),
        Some(_) => return Err(malformed()),
    }
    match root.child_text("Status")?.map(str::trim) {
        Some("Enabled") => Ok(true),
        Some("Suspended") => Ok(false),
        Some(_) => Err(malformed()),
        None => Err(S3Error::new(Code::IllegalVersioningConfigurationException)),
    }
}

/// `ObjectLockConfiguration`: the default retention, if there is to be one.
pub fn object_lock(document: &[u8]) -> Result<Option<DefaultRetention>, S3Error> {
    let root = parse(document, "ObjectLockConfiguration", SMALL)?;
    root.expect_only(&["ObjectLockEnabled", "Rule"])?;
    if root.child_text("ObjectLockEnabled")?.map(str::trim) != Some("Enabled") {
        return Err(malformed());
    }
    let Some(rule) = root.child("Rule")? else {
        return Ok(None);
    };
    rule.expect_only(&["DefaultRetention"])?;
    let retention = rule.child("DefaultRetention")?.ok_or_else(malformed)?;
    retention.expect_only(&["Mode", "Days", "Years"])?;
    let mode = retention.child_text("Mode")?.ok_or_else(malformed)?;
    let mode = parse_mode(mode.trim()).ok_or_else(malformed)?;
    let days = number(retention, "Days")?;
    let years = number(retention, "Years")?;
    let period = match (days, years) {
        (Some(days), None) => RetentionPeriod::Days(period(days, DAYS_MAX)?),
        (None, Some(years)) => RetentionPeriod::Years(period(years, YEARS_MAX)?),
        _ => return Err(malformed()),
    };
    Ok(Some(DefaultRetention { mode, period }))
}

fn number(element: &Element<'_>, name: &str) -> Result<Option<i64>, S3Error> {
    let text = element.child_text(name)?;
    text.map(|text| text.trim().parse().map_err(|_| malformed()))
        .transpose()
}

fn period(count: i64, max: i64) -> Result<u32, S3Error> {
    let message = match count {
        1.. if count <= max => return u32::try_from(count).map_err(|_| malformed()),
        1.. => "Default retention period too large",
        _ => "Default retention period must be a positive integer value.",
    };
    Err(S3Error::with(Code::InvalidRetentionPeriod, message))
}

/// `Retention`; `None`: there is to be none.
pub fn retention(document: &[u8]) -> Result<Option<Retention>, S3Error> {
    let root = parse(document, "Retention", SMALL)?;
    root.expect_only(&["Mode", "RetainUntilDate"])?;
    match (
        root.child_text("Mode")?,
        root.child_text("RetainUntilDate")?,
    ) {
        (None, None) => Ok(None),
        (Some(mode), Some(until)) => Ok(Some(Retention {
            mode: parse_mode(mode.trim()).ok_or_else(malformed)?,
            until: parse_date(until).ok_or_else(malformed)?,
        })),
        _ => Err(malformed()),
    }
}

/// `LegalHold`: whether it holds.
pub fn legal_hold(document: &[u8]) -> Result<bool, S3Error> {
    let root = parse(document, "LegalHold", SMALL)?;
    root.expect_only(&["Status"])?;
    match root.child_text("Status")?.map(str::trim) {
        Some("ON") => Ok(true),
        Some("OFF") => Ok(false),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_storage_node::metadata::LockMode;
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn code<T>(result: Result<T, S3Error>) -> Result<T, Code> {
        result.map_err(|error| error.code)
    }

    #[test]
    fn reads_versioning() {
        let read = |inner: &str| {
            let document = format!("<VersioningConfiguration>{inner}</VersioningConfiguration>");
            code(versioning(document.as_bytes()))
        };
        assert_eq!(read("<Status>Enabled</Status>"), Ok(true));
        assert_eq!(
            read("<MfaDelete>Disabled</MfaDelete><Status>Suspended</Status>"),
            Ok(false)
        );
        assert_eq!(read(""), Err(Code::IllegalVersioningConfigurationException));
        assert_eq!(read("<Status>enabled</Status>"), Err(Code::MalformedXML));
        let mfa = "<Status>Enabled</Status><MfaDelete>Enabled</MfaDelete>";
        assert_eq!(read(mfa), Err(Code::NotImplemented));
    }

    #[test]
    fn reads_lock_configurations() {
        let read = |inner: &str| {
            let document = format!(
                "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled>{inner}</ObjectLockConfiguration>"
            );
            code(object_lock(document.as_bytes()))
        };
        let rule =
            |inner: &str| format!("<Rule><DefaultRetention>{inner}</DefaultRetention></Rule>");
        assert_eq!(read(""), Ok(None));
        let found = read(&rule("<Mode>COMPLIANCE</Mode><Years>2</Years>"));
        let mode = LockMode::Compliance;
        let period = RetentionPeriod::Years(2);
        assert_eq!(found, Ok(Some(DefaultRetention { mode, period })));
        for (inner, expected) in [
            (
                "<Mode>GOVERNANCE</Mode><Days>0</Days>",
                Code::InvalidRetentionPeriod,
            ),
            (
                "<Mode>GOVERNANCE</Mode><Years>-1</Years>",
                Code::InvalidRetentionPeriod,
            ),
            (
                "<Mode>GOVERNANCE</Mode><Days>36501</Days>",
                Code::InvalidRetentionPeriod,
            ),
            ("<Mode>governance</Mode><Days>1</Days>", Code::MalformedXML),
            (
                "<Mode>GOVERNANCE</Mode><Days>1</Days><Years>1</Years>",
                Code::MalformedXML,
            ),
            ("<Mode>GOVERNANCE</Mode>", Code::MalformedXML),
            ("<Days>1</Days>", Code::MalformedXML),
        ] {
            assert_eq!(read(&rule(inner)), Err(expected), "{inner}");
        }
        let off = b"<ObjectLockConfiguration><ObjectLockEnabled>Off</ObjectLockEnabled></ObjectLockConfiguration>";
        assert_eq!(code(object_lock(off)), Err(Code::MalformedXML));
    }

    #[test]
    fn reads_locks() {
        let read = b"<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2030-01-01T00:00:00Z</RetainUntilDate></Retention>";
        assert!(retention(read).unwrap().is_some());
        assert_eq!(code(retention(b"<Retention/>")), Ok(None));
        assert!(retention(b"<Retention><Mode>GOVERNANCE</Mode></Retention>").is_err());
        assert_eq!(
            code(legal_hold(b"<LegalHold><Status>ON</Status></LegalHold>")),
            Ok(true)
        );
        assert_eq!(
            code(legal_hold(b"<LegalHold><Status>OFF</Status></LegalHold>")),
            Ok(false)
        );
        assert!(legal_hold(b"<LegalHold><Status>abc</Status></LegalHold>").is_err());
    }

    proptest! {
        #[test]
        fn never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = versioning(&bytes);
            let _ = object_lock(&bytes);
            let _ = retention(&bytes);
            let _ = legal_hold(&bytes);
        }
    }
}
