//! `LifecycleConfiguration` (API reference, PutBucketLifecycleConfiguration): read strictly, shown as it was given.

use std::collections::HashSet;

use holdfast_placement::seams::UnixMillis;
use holdfast_storage_node::lifecycle::{Expiration, Filter, FilterForm, Noncurrent, Rule};
use time::format_description::well_known::Iso8601;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::XmlWriter;
use super::reader::{Element, Limits, malformed, parse};
use crate::error::{Code, S3Error};
use crate::router::not_implemented;

/// Rules of a bucket at most.
const RULES_MAX: usize = 1000;

/// Bytes of a document at most.
pub const LEN_MAX: usize = 512 * 1024;

const ID_CHARS_MAX: usize = 255;

fn invalid(message: &'static str) -> S3Error {
    S3Error::with(Code::InvalidArgument, message)
}

fn refused(message: &'static str) -> S3Error {
    S3Error::with(Code::InvalidRequest, message)
}

/// Reads the rules. Those without an id get one.
pub fn read(document: &[u8]) -> Result<Vec<Rule>, S3Error> {
    let limits = Limits {
        len_max: LEN_MAX,
        depth_max: 6,
        elements_max: 60_000,
    };
    let root = parse(document, "LifecycleConfiguration", limits)?;
    root.expect_only(&["Rule"])?;
    if root.children.is_empty() || root.children.len() > RULES_MAX {
        return Err(malformed());
    }
    let mut rules = Vec::with_capacity(root.children.len());
    let mut ids = HashSet::new();
    for element in &root.children {
        let rule = rule(element)?;
        if !rule.id.is_empty() && !ids.insert(rule.id.clone()) {
            return Err(invalid(
                "Rule ID must be unique. Found same ID for more than one rule",
            ));
        }
        rules.push(rule);
    }
    let mut number = 0;
    for rule in rules.iter_mut().filter(|rule| rule.id.is_empty()) {
        while !ids.insert(format!("rule-{number}")) {
            number += 1;
        }
        rule.id = format!("rule-{number}");
    }
    Ok(rules)
}

fn rule(element: &Element<'_>) -> Result<Rule, S3Error> {
    element.expect_only(&[
        "ID",
        "Prefix",
        "Filter",
        "Status",
        "Expiration",
        "NoncurrentVersionExpiration",
        "AbortIncompleteMultipartUpload",
        "Transition",
        "NoncurrentVersionTransition",
    ])?;
    let id = element.child_text("ID")?.unwrap_or_default().to_owned();
    if id.chars().count() > ID_CHARS_MAX {
        return Err(invalid("ID length should not exceed allowed limit of 255"));
    }
    let enabled = match element.child_text("Status")? {
        Some("Enabled") => true,
        Some("Disabled") => false,
        _ => return Err(malformed()),
    };
    let (filter, form) = match (element.child_text("Prefix")?, element.child("Filter")?) {
        (Some(prefix), None) => {
            let filter = Filter {
                prefix: prefix.to_owned(),
                ..Filter::default()
            };
            (filter, FilterForm::Prefix)
        }
        (None, Some(filter)) => read_filter(filter)?,
        _ => return Err(malformed()),
    };
    let expiration = element.child("Expiration")?.map(expiration).transpose()?;
    let noncurrent = element.child("NoncurrentVersionExpiration")?;
    let noncurrent = noncurrent.map(read_noncurrent).transpose()?;
    let abort = element.child("AbortIncompleteMultipartUpload")?;
    let abort_days = match abort {
        Some(abort) => {
            abort.expect_only(&["DaysAfterInitiation"])?;
            Some(days(abort, "DaysAfterInitiation")?.ok_or_else(malformed)?)
        }
        None => None,
    };
    let transitions = element.children.iter().filter(|child| {
        let name = child.name.as_ref();
        name == "Transition" || name == "NoncurrentVersionTransition"
    });
    let mut moves = false;
    for transition in transitions {
        if let Some(text) = transition.child_text("Date")? {
            date(text)?;
        }
        moves = true;
    }
    if moves {
        return Err(not_implemented(
            "Transitions to other storage classes (there is one)",
        ));
    }
    if expiration.is_none() && noncurrent.is_none() && abort_days.is_none() {
        return Err(refused(
            "At least one action needs to be specified in a rule",
        ));
    }
    if filter.is_about_objects() {
        if expiration == Some(Expiration::DeleteMarker) {
            return Err(refused(
                "ExpiredObjectDeleteMarker cannot be specified with a filter by tags or size",
            ));
        }
        if abort_days.is_some() {
            return Err(refused(
                "AbortIncompleteMultipartUpload cannot be specified with a filter by tags or size",
            ));
        }
    }
    Ok(Rule {
        id,
        enabled,
        filter,
        form,
        expiration,
        noncurrent,
        abort_days,
    })
}

fn read_filter(element: &Element<'_>) -> Result<(Filter, FilterForm), S3Error> {
    let conditions = match element.child("And")? {
        Some(and) if element.children.len() == 1 => {
            if and.children.len() < 2 {
                return Err(malformed());
            }
            (and, FilterForm::And)
        }
        Some(_) => return Err(malformed()),
        None if element.children.len() > 1 => return Err(malformed()),
        None => (element, FilterForm::Filter),
    };
    let (conditions, form) = conditions;
    conditions.expect_only(&[
        "Prefix",
        "Tag",
        "ObjectSizeGreaterThan",
        "ObjectSizeLessThan",
    ])?;
    let bytes = |name| match conditions.child_text(name)? {
        Some(text) => text.trim().parse().map(Some).map_err(|_| malformed()),
        None => Ok(None),
    };
    let mut filter = Filter {
        prefix: conditions
            .child_text("Prefix")?
            .unwrap_or_default()
            .to_owned(),
        tags: Vec::new(),
        larger_than: bytes("ObjectSizeGreaterThan")?,
        smaller_than: bytes("ObjectSizeLessThan")?,
    };
    if let (Some(larger), Some(smaller)) = (filter.larger_than, filter.smaller_than)
        && larger >= smaller
    {
        return Err(refused(
            "ObjectSizeLessThan must be greater than ObjectSizeGreaterThan",
        ));
    }
    for tag in conditions
        .children
        .iter()
        .filter(|child| child.name == "Tag")
    {
        tag.expect_only(&["Key", "Value"])?;
        let key = tag.child_text("Key")?.ok_or_else(malformed)?;
        let value = tag.child_text("Value")?.ok_or_else(malformed)?;
        if filter.tags.iter().any(|(other, _)| other == key) {
            return Err(refused("Duplicate Tag Keys are not allowed."));
        }
        filter.tags.push((key.to_owned(), value.to_owned()));
    }
    Ok((filter, form))
}

fn expiration(element: &Element<'_>) -> Result<Expiration, S3Error> {
    element.expect_only(&["Days", "Date", "ExpiredObjectDeleteMarker"])?;
    let marker = match element
        .child_text("ExpiredObjectDeleteMarker")?
        .map(str::trim)
    {
        Some("true") => true,
        Some("false") | None => false,
        Some(_) => return Err(malformed()),
    };
    match (days(element, "Days")?, element.child_text("Date")?, marker) {
        (Some(days), None, false) => Ok(Expiration::Days(days)),
        (None, Some(text), false) => Ok(Expiration::Date(date(text)?)),
        (None, None, true) => Ok(Expiration::DeleteMarker),
        _ => Err(malformed()),
    }
}

fn read_noncurrent(element: &Element<'_>) -> Result<Noncurrent, S3Error> {
    element.expect_only(&["NoncurrentDays", "NewerNoncurrentVersions"])?;
    let kept = match days(element, "NewerNoncurrentVersions")? {
        Some(kept) if kept > 100 => {
            return Err(invalid(
                "'NewerNoncurrentVersions' must be an integer between 1 and 100",
            ));
        }
        Some(kept) => kept,
        None => 0,
    };
    Ok(Noncurrent {
        days: days(element, "NoncurrentDays")?.ok_or_else(malformed)?,
        kept,
    })
}

/// A number of at least 1.
fn days(element: &Element<'_>, name: &str) -> Result<Option<u32>, S3Error> {
    let Some(text) = element.child_text(name)? else {
        return Ok(None);
    };
    match text.trim().parse::<i64>() {
        Ok(days @ 1..=0x7FFF_FFFF) => Ok(Some(days as u32)),
        Ok(_) => Err(S3Error::with(
            Code::InvalidArgument,
            format!("'{name}' must be a positive integer"),
        )
        .detail("ArgumentName", "Days")
        .detail("ArgumentValue", text)),
        Err(_) => Err(malformed()),
    }
}

/// A moment at midnight UTC.
fn date(text: &str) -> Result<UnixMillis, S3Error> {
    let text = text.trim();
    let with_zone = OffsetDateTime::parse(text, &Iso8601::DEFAULT);
    let moment = with_zone.or_else(|_| {
        PrimitiveDateTime::parse(text, &Iso8601::DEFAULT).map(PrimitiveDateTime::assume_utc)
    });
    let secs = match moment {
        Ok(moment) => moment.unix_timestamp(),
        Err(_) => time::Date::parse(text, &Iso8601::DEFAULT)
            .map_err(|_| malformed())?
            .midnight()
            .assume_utc()
            .unix_timestamp(),
    };
    match u64::try_from(secs) {
        Ok(secs) if secs % 86_400 == 0 => Ok(UnixMillis(secs * 1000)),
        _ => Err(invalid("'Date' must be at midnight GMT")),
    }
}

/// Writes the rules.
pub fn write(rules: &[Rule]) -> bytes::Bytes {
    let mut document = XmlWriter::new("LifecycleConfiguration", 256 + 512 * rules.len());
    for rule in rules {
        document.open("Rule");
        document.text("ID", &rule.id);
        write_filter(&mut document, rule);
        document.text("Status", if rule.enabled { "Enabled" } else { "Disabled" });
        if let Some(expiration) = rule.expiration {
            document.open("Expiration");
            match expiration {
                Expiration::Days(days) => document.number("Days", u64::from(days)),
                Expiration::Date(date) => document.time("Date", date),
                Expiration::DeleteMarker => document.boolean("ExpiredObjectDeleteMarker", true),
            }
            document.close("Expiration");
        }
        if let Some(Noncurrent { days, kept }) = rule.noncurrent {
            document.open("NoncurrentVersionExpiration");
            document.number("NoncurrentDays", u64::from(days));
            if kept > 0 {
                document.number("NewerNoncurrentVersions", u64::from(kept));
            }
            document.close("NoncurrentVersionExpiration");
        }
        if let Some(days) = rule.abort_days {
            document.open("AbortIncompleteMultipartUpload");
            document.number("DaysAfterInitiation", u64::from(days));
            document.close("AbortIncompleteMultipartUpload");
        }
        document.close("Rule");
    }
    document.finish("LifecycleConfiguration")
}

fn write_filter(document: &mut XmlWriter, rule: &Rule) {
    let filter = &rule.filter;
    if rule.form == FilterForm::Prefix {
        document.text("Prefix", &filter.prefix);
        return;
    }
    document.open("Filter");
    if rule.form == FilterForm::And {
        document.open("And");
    }
    if !filter.prefix.is_empty() {
        document.text("Prefix", &filter.prefix);
    }
    for (key, value) in &filter.tags {
        document.open("Tag");
        document.text("Key", key);
        document.text("Value", value);
        document.close("Tag");
    }
    if let Some(bytes) = filter.larger_than {
        document.number("ObjectSizeGreaterThan", bytes);
    }
    if let Some(bytes) = filter.smaller_than {
        document.number("ObjectSizeLessThan", bytes);
    }
    if rule.form == FilterForm::And {
        document.close("And");
    }
    document.close("Filter");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn of(rules: &str) -> Result<Vec<Rule>, Code> {
        let document = format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>");
        read(document.as_bytes()).map_err(|error| error.code)
    }

    const DAYS: &str = "<Status>Enabled</Status><Expiration><Days>3</Days></Expiration>";

    #[test]
    fn rules_are_shown_as_they_were_given() {
        let all = "<Rule><ID>a</ID><Prefix>p/</Prefix><Status>Enabled</Status><Expiration><Days>3</Days></Expiration></Rule>\
            <Rule><ID>b</ID><Filter><And><Prefix>p</Prefix><Tag><Key>k</Key><Value>v</Value></Tag><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></And></Filter><Status>Disabled</Status><Expiration><Date>2030-01-02T00:00:00.000Z</Date></Expiration></Rule>\
            <Rule><ID>c</ID><Filter></Filter><Status>Enabled</Status><Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration><NoncurrentVersionExpiration><NoncurrentDays>2</NoncurrentDays><NewerNoncurrentVersions>4</NewerNoncurrentVersions></NoncurrentVersionExpiration><AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>";
        let rules = of(all).unwrap();
        let shown = String::from_utf8(write(&rules).to_vec()).unwrap();
        let inner = shown.split_once("2006-03-01/\">").unwrap().1;
        assert_eq!(inner, format!("{all}</LifecycleConfiguration>"));
    }

    #[test]
    fn ids_are_made_where_there_are_none() {
        let rules = of(&format!(
            "<Rule><Prefix/>{DAYS}</Rule><Rule><ID>rule-0</ID><Prefix/>{DAYS}</Rule><Rule><Prefix/>{DAYS}</Rule>"
        ));
        let ids: Vec<_> = rules.unwrap().into_iter().map(|rule| rule.id).collect();
        assert_eq!(ids, ["rule-1", "rule-0", "rule-2"]);
    }

    #[test]
    fn strange_rules_are_refused() {
        let rule = |inner: &str| of(&format!("<Rule>{inner}</Rule>")).err();
        let id = "a".repeat(256);
        for (inner, code) in [
            (format!("<ID>{id}</ID><Prefix/>{DAYS}"), Code::InvalidArgument),
            (DAYS.to_owned(), Code::MalformedXML),
            (format!("<Prefix/><Filter/>{DAYS}"), Code::MalformedXML),
            (format!("<Prefix/>{}", DAYS.replace("Enabled", "enabled")), Code::MalformedXML),
            (format!("<Prefix/>{}", DAYS.replace('3', "0")), Code::InvalidArgument),
            (format!("<Prefix/>{}", DAYS.replace('3', "x")), Code::MalformedXML),
            ("<Prefix/><Status>Enabled</Status>".to_owned(), Code::InvalidRequest),
            (
                "<Prefix/><Status>Enabled</Status><Expiration><Date>1970-08-22T19:08:21Z</Date></Expiration>".to_owned(),
                Code::InvalidArgument,
            ),
            (
                "<Prefix/><Status>Enabled</Status><Expiration><Date>soon</Date></Expiration>".to_owned(),
                Code::MalformedXML,
            ),
            (
                format!("<Prefix/>{DAYS}<Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition>"),
                Code::NotImplemented,
            ),
            (
                "<Filter><Tag><Key>k</Key><Value>v</Value></Tag></Filter><Status>Enabled</Status><AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation></AbortIncompleteMultipartUpload>".to_owned(),
                Code::InvalidRequest,
            ),
        ] {
            assert_eq!(rule(&inner), Some(code), "{inner}");
        }
        let twice = format!("<Rule><ID>a</ID><Prefix/>{DAYS}</Rule>").repeat(2);
        assert_eq!(of(&twice).err(), Some(Code::InvalidArgument));
        assert_eq!(of("").err(), Some(Code::MalformedXML));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
