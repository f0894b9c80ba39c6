//! `LifecycleConfiguration` (API reference, PutBucketLifecycleConfiguration): read strictly, shown as it was given.

use std::borrow::Cow;
use std::collections::HashSet;

use holdfast_placement::seams::UnixMillis;
use holdfast_storage_node::lifecycle::{
    Expiration, Filter, FilterForm, Noncurrent, NoncurrentTransition, Rule, Transition, When,
};
use holdfast_storage_node::metadata::StorageClass;
use time::format_description::well_known::Iso8601;
use time::{OffsetDateTime, PrimitiveDateTime};

use super::XmlWriter;
use super::reader::{Element, Limits, malformed, parse};
use crate::error::{Code, S3Error};
use crate::router::{KEY_LEN_MAX, not_implemented};

/// Rules of a bucket at most.
const RULES_MAX: usize = 1000;

/// Bytes of a document at most.
pub const LEN_MAX: usize = 512 * 1024;

const ID_CHARS_MAX: usize = 255;

/// Days that an object has to be kept in `STANDARD` before it may go to one of the classes for infrequent access, and in one of
/// these before it may go on.
const INFREQUENT_DAYS_MIN: u32 = 30;

fn invalid(message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with(Code::InvalidArgument, message)
}

fn refused(message: impl Into<Cow<'static, str>>) -> S3Error {
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
    if filter.prefix.len() > KEY_LEN_MAX {
        return Err(refused("The maximum size of a prefix is 1024."));
    }
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
    let all = |name: &'static str| {
        element
            .children
            .iter()
            .filter(move |child| child.name == name)
    };
    let transitions: Result<Vec<_>, _> = all("Transition").map(transition).collect();
    let noncurrent_transitions: Result<Vec<_>, _> = all("NoncurrentVersionTransition")
        .map(noncurrent_transition)
        .collect();
    let rule = Rule {
        id,
        enabled,
        filter,
        form,
        expiration,
        noncurrent,
        abort_days,
        transitions: transitions?,
        noncurrent_transitions: noncurrent_transitions?,
    };
    let expires = rule.expiration.is_some() || rule.noncurrent.is_some();
    if !expires && rule.abort_days.is_none() && !rule.has_moves() {
        return Err(refused(
            "At least one action needs to be specified in a rule",
        ));
    }
    if rule.filter.is_about_objects() {
        if rule.expiration == Some(Expiration::DeleteMarker) {
            return Err(refused(
                "ExpiredObjectDeleteMarker cannot be specified with a filter by tags or size",
            ));
        }
        if rule.abort_days.is_some() {
            return Err(refused(
                "AbortIncompleteMultipartUpload cannot be specified with a filter by tags or size",
            ));
        }
    }
    check_transitions(&rule)?;
    Ok(rule)
}

/// The storage class of a transition (API reference, `Transition`).
fn class_of(element: &Element<'_>) -> Result<StorageClass, S3Error> {
    let name = element.child_text("StorageClass")?.ok_or_else(malformed)?;
    match name.trim() {
        archive @ ("GLACIER" | "DEEP_ARCHIVE") => Err(not_implemented(&format!(
            "A transition to {archive}, from where objects have to be restored,"
        ))),
        name => StorageClass::named(name)
            .filter(|class| StorageClass::Standard.may_become(*class))
            .ok_or_else(malformed),
    }
}

fn transition(element: &Element<'_>) -> Result<Transition, S3Error> {
    element.expect_only(&["Days", "Date", "StorageClass"])?;
    let days = days_from(element, "Days", 0)?;
    let when = match (days, element.child_text("Date")?) {
        (Some(days), None) => When::Days(days),
        (None, Some(text)) => When::Date(date(text)?),
        _ => return Err(malformed()),
    };
    let class = class_of(element)?;
    Ok(Transition { when, class })
}

fn noncurrent_transition(element: &Element<'_>) -> Result<NoncurrentTransition, S3Error> {
    element.expect_only(&["NoncurrentDays", "NewerNoncurrentVersions", "StorageClass"])?;
    let days = days_from(element, "NoncurrentDays", 0)?.ok_or_else(malformed)?;
    let kept = newer_noncurrent(element)?;
    let class = class_of(element)?;
    Ok(NoncurrentTransition {
        after: Noncurrent { days, kept },
        class,
    })
}

/// One kind of transitions of a rule, as it is called.
struct Kind {
    action: &'static str,
    days: &'static str,
    expiration: &'static str,
}

/// Whether the transitions of a rule can happen one after the other, and before the expiration (user guide, "Lifecycle
/// transition general considerations").
fn check_transitions(rule: &Rule) -> Result<(), S3Error> {
    let prefix = &rule.filter.prefix;
    let kind = Kind {
        action: "Transition",
        days: "Days",
        expiration: "Expiration",
    };
    let (mut by_days, mut by_date) = (Vec::new(), Vec::new());
    for to in &rule.transitions {
        match to.when {
            When::Days(days) => by_days.push((days, to.class)),
            When::Date(date) => by_date.push((date, to.class)),
        }
    }
    let expires_by_date = matches!(rule.expiration, Some(Expiration::Date(_)));
    let expires_by_days = matches!(rule.expiration, Some(Expiration::Days(_)));
    if (!by_days.is_empty() || expires_by_days) && (!by_date.is_empty() || expires_by_date) {
        return Err(refused(format!(
            "Found mixed 'Date' and 'Days' based Expiration and Transition actions in lifecycle rule for prefix '{prefix}'"
        )));
    }
    check_order(&kind, prefix, &by_days)?;
    check_order(&kind, prefix, &by_date)?;
    check_days(&kind, &by_days, prefix)?;
    let too_late = match rule.expiration {
        Some(Expiration::Days(days)) => by_days.iter().any(|(after, _)| *after >= days),
        Some(Expiration::Date(date)) => by_date.iter().any(|(at, _)| *at >= date),
        Some(Expiration::DeleteMarker | Expiration::Never) | None => false,
    };
    if too_late {
        return Err(never_gone(&kind, prefix));
    }

    let kind = Kind {
        action: "NoncurrentVersionTransition",
        days: "NoncurrentDays",
        expiration: "NoncurrentVersionExpiration",
    };
    let steps = rule.noncurrent_transitions.iter();
    let steps: Vec<_> = steps.map(|to| (to.after.days, to.class)).collect();
    check_order(&kind, prefix, &steps)?;
    check_days(&kind, &steps, prefix)?;
    match rule.noncurrent {
        Some(gone) if steps.iter().any(|(after, _)| *after >= gone.days) => {
            Err(never_gone(&kind, prefix))
        }
        _ => Ok(()),
    }
}

fn never_gone(kind: &Kind, prefix: &str) -> S3Error {
    let Kind {
        action,
        days,
        expiration,
    } = kind;
    invalid(format!(
        "'{days}' in the {expiration} action for prefix '{prefix}' must be greater than '{days}' in the {action} action"
    ))
}

/// Each class once, and later ones after earlier ones.
fn check_order<T: Ord + Copy>(
    kind: &Kind,
    prefix: &str,
    steps: &[(T, StorageClass)],
) -> Result<(), S3Error> {
    let Kind { action, days, .. } = kind;
    let mut steps = steps.to_vec();
    steps.sort_by_key(|(_, class)| *class);
    for pair in steps.windows(2) {
        let ((first_at, first), (then_at, then)) = (pair[0], pair[1]);
        if first == then {
            return Err(refused(format!(
                "'StorageClass' must be different for '{action}' actions in same 'Rule' with prefix '{prefix}'"
            )));
        }
        let (first_name, then_name) = (first.name(), then.name());
        if !first.may_become(then) {
            return Err(refused(format!(
                "Objects cannot go from StorageClass '{first_name}' to '{then_name}' in the '{action}' actions for prefix '{prefix}'"
            )));
        }
        if then_at <= first_at {
            return Err(invalid(format!(
                "'{days}' in the '{action}' action with StorageClass '{then_name}' for prefix '{prefix}' must be greater than '{days}' in the '{action}' action with StorageClass '{first_name}'"
            )));
        }
    }
    Ok(())
}

fn check_days(kind: &Kind, steps: &[(u32, StorageClass)], prefix: &str) -> Result<(), S3Error> {
    let Kind { action, days, .. } = kind;
    let is_infrequent = |class| matches!(class, StorageClass::StandardIa | StorageClass::OnezoneIa);
    for (after, class) in steps.iter().filter(|(_, class)| is_infrequent(*class)) {
        let name = class.name();
        if *after < INFREQUENT_DAYS_MIN {
            return Err(invalid(format!(
                "'{days}' in {action} action must be greater than or equal to {INFREQUENT_DAYS_MIN} for storageClass '{name}'"
            )));
        }
        let mut later = steps.iter().filter(|(_, other)| other > class);
        if let Some((_, then)) =
            later.find(|(then, _)| *then < after.saturating_add(INFREQUENT_DAYS_MIN))
        {
            let then = then.name();
            return Err(invalid(format!(
                "'{days}' in the '{action}' action with StorageClass '{then}' for prefix '{prefix}' must be {INFREQUENT_DAYS_MIN} days more than '{days}' in the '{action}' action with StorageClass '{name}'"
            )));
        }
    }
    Ok(())
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
    let (conditions, mut form) = conditions;
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
    let prefix = conditions.child_text("Prefix")?;
    if prefix == Some("") {
        form = match form {
            FilterForm::And => FilterForm::AndEmptyPrefix,
            _ => FilterForm::FilterEmptyPrefix,
        };
    }
    let mut filter = Filter {
        prefix: prefix.unwrap_or_default().to_owned(),
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
        if !(1..=128).contains(&key.chars().count()) {
            return Err(refused("A Tag's Key must be a length between 1 and 128."));
        }
        if value.chars().count() > 256 {
            return Err(refused("A Tag's Value must be a length between 0 and 256."));
        }
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
        Some("true") => Some(true),
        Some("false") => Some(false),
        None => None,
        Some(_) => return Err(malformed()),
    };
    match (days(element, "Days")?, element.child_text("Date")?, marker) {
        (Some(days), None, None | Some(false)) => Ok(Expiration::Days(days)),
        (None, Some(text), None | Some(false)) => Ok(Expiration::Date(date(text)?)),
        (None, None, Some(true)) => Ok(Expiration::DeleteMarker),
        // What Terraform makes of an empty block.
        (None, None, Some(false)) => Ok(Expiration::Never),
        _ => Err(malformed()),
    }
}

fn read_noncurrent(element: &Element<'_>) -> Result<Noncurrent, S3Error> {
    element.expect_only(&["NoncurrentDays", "NewerNoncurrentVersions"])?;
    let kept = newer_noncurrent(element)?;
    Ok(Noncurrent {
        days: days(element, "NoncurrentDays")?.ok_or_else(malformed)?,
        kept,
    })
}

/// How many of the newest noncurrent versions stay as they are.
fn newer_noncurrent(element: &Element<'_>) -> Result<u32, S3Error> {
    match days(element, "NewerNoncurrentVersions")? {
        Some(kept) if kept > 100 => Err(invalid(
            "'NewerNoncurrentVersions' must be an integer between 1 and 100",
        )),
        kept => Ok(kept.unwrap_or(0)),
    }
}

/// A number of at least 1.
fn days(element: &Element<'_>, name: &str) -> Result<Option<u32>, S3Error> {
    days_from(element, name, 1)
}

/// A number of at least `min`.
fn days_from(element: &Element<'_>, name: &str, min: u32) -> Result<Option<u32>, S3Error> {
    let Some(text) = element.child_text(name)? else {
        return Ok(None);
    };
    match text.trim().parse::<i64>() {
        Ok(days) if (i64::from(min)..=0x7FFF_FFFF).contains(&days) => Ok(Some(days as u32)),
        Ok(_) => {
            let what = match min {
                0 => "nonnegative",
                _ => "positive",
            };
            let message = format!("'{name}' must be a {what} integer");
            Err(invalid(message)
                .detail("ArgumentName", "Days")
                .detail("ArgumentValue", text))
        }
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
        for Transition { when, class } in &rule.transitions {
            document.open("Transition");
            match when {
                When::Days(days) => document.number("Days", u64::from(*days)),
                When::Date(date) => document.time("Date", *date),
            }
            document.text("StorageClass", class.name());
            document.close("Transition");
        }
        if let Some(expiration) = rule.expiration {
            document.open("Expiration");
            match expiration {
                Expiration::Days(days) => document.number("Days", u64::from(days)),
                Expiration::Date(date) => document.time("Date", date),
                Expiration::DeleteMarker => document.boolean("ExpiredObjectDeleteMarker", true),
                Expiration::Never => document.boolean("ExpiredObjectDeleteMarker", false),
            }
            document.close("Expiration");
        }
        for NoncurrentTransition { after, class } in &rule.noncurrent_transitions {
            document.open("NoncurrentVersionTransition");
            write_noncurrent(&mut document, *after);
            document.text("StorageClass", class.name());
            document.close("NoncurrentVersionTransition");
        }
        if let Some(noncurrent) = rule.noncurrent {
            document.open("NoncurrentVersionExpiration");
            write_noncurrent(&mut document, noncurrent);
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

fn write_noncurrent(document: &mut XmlWriter, Noncurrent { days, kept }: Noncurrent) {
    document.number("NoncurrentDays", u64::from(days));
    if kept > 0 {
        document.number("NewerNoncurrentVersions", u64::from(kept));
    }
}

fn write_filter(document: &mut XmlWriter, rule: &Rule) {
    let filter = &rule.filter;
    if rule.form == FilterForm::Prefix {
        document.text("Prefix", &filter.prefix);
        return;
    }
    let (has_and, has_prefix) = match rule.form {
        FilterForm::Prefix | FilterForm::Filter => (false, !filter.prefix.is_empty()),
        FilterForm::And => (true, !filter.prefix.is_empty()),
        FilterForm::FilterEmptyPrefix => (false, true),
        FilterForm::AndEmptyPrefix => (true, true),
    };
    document.open("Filter");
    if has_and {
        document.open("And");
    }
    if has_prefix {
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
    if has_and {
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
            <Rule><ID>c</ID><Filter></Filter><Status>Enabled</Status><Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration><NoncurrentVersionExpiration><NoncurrentDays>2</NoncurrentDays><NewerNoncurrentVersions>4</NewerNoncurrentVersions></NoncurrentVersionExpiration><AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>\
            <Rule><ID>e</ID><Filter><Prefix></Prefix></Filter><Status>Enabled</Status><Expiration><Days>3</Days></Expiration></Rule>\
            <Rule><ID>g</ID><Filter></Filter><Status>Enabled</Status><Expiration><ExpiredObjectDeleteMarker>false</ExpiredObjectDeleteMarker></Expiration></Rule>\
            <Rule><ID>f</ID><Filter><And><Prefix></Prefix><ObjectSizeLessThan>9</ObjectSizeLessThan></And></Filter><Status>Enabled</Status><Expiration><Days>3</Days></Expiration></Rule>\
            <Rule><ID>d</ID><Prefix></Prefix><Status>Enabled</Status><Transition><Days>0</Days><StorageClass>INTELLIGENT_TIERING</StorageClass></Transition><Transition><Days>9</Days><StorageClass>GLACIER_IR</StorageClass></Transition><NoncurrentVersionTransition><NoncurrentDays>30</NoncurrentDays><NewerNoncurrentVersions>2</NewerNoncurrentVersions><StorageClass>STANDARD_IA</StorageClass></NoncurrentVersionTransition></Rule>";
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
                format!("<Prefix/>{DAYS}<Transition><Days>1</Days><StorageClass>STANDARD</StorageClass></Transition>"),
                Code::MalformedXML,
            ),
            (
                format!("<Prefix/>{DAYS}<Transition><Days>1</Days></Transition>"),
                Code::MalformedXML,
            ),
            (format!("<Prefix>{}</Prefix>{DAYS}", "p".repeat(1025)), Code::InvalidRequest),
            (
                format!("<Filter><Tag><Key/><Value>v</Value></Tag></Filter>{DAYS}"),
                Code::InvalidRequest,
            ),
            (
                format!("<Filter><Tag><Key>k</Key><Value>{}</Value></Tag></Filter>{DAYS}", "v".repeat(257)),
                Code::InvalidRequest,
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

    /// Transitions `(days, class)` and noncurrent ones of a rule with that expiration.
    fn moves(current: &[(&str, &str)], noncurrent: &[(&str, &str)], more: &str) -> Option<Code> {
        let element = |name, days, (after, class): &(&str, &str)| {
            format!("<{name}><{days}>{after}</{days}><StorageClass>{class}</StorageClass></{name}>")
        };
        let current = current.iter().map(|step| match step.0.contains('T') {
            true => element("Transition", "Date", step),
            false => element("Transition", "Days", step),
        });
        let noncurrent = noncurrent
            .iter()
            .map(|step| element("NoncurrentVersionTransition", "NoncurrentDays", step));
        let all: String = current.chain(noncurrent).collect();
        of(&format!(
            "<Rule><ID>a</ID><Prefix/><Status>Enabled</Status>{all}{more}</Rule>"
        ))
        .err()
    }

    #[test]
    fn transitions_come_in_order_and_before_the_end() {
        let days = |days: u32| format!("<Expiration><Days>{days}</Days></Expiration>");
        let steps = [("30", "STANDARD_IA"), ("60", "GLACIER_IR")];
        assert_eq!(moves(&steps, &steps, &days(61)), None);
        assert_eq!(moves(&steps, &[], &days(60)), Some(Code::InvalidArgument));
        let noncurrent = "<NoncurrentVersionExpiration><NoncurrentDays>60</NoncurrentDays></NoncurrentVersionExpiration>";
        assert_eq!(moves(&[], &steps, noncurrent), Some(Code::InvalidArgument));
        assert_eq!(moves(&[("0", "INTELLIGENT_TIERING")], &[], ""), None);
        assert_eq!(moves(&[], &[("0", "GLACIER_IR")], ""), None);
        for (wrong, code) in [
            (&[("29", "STANDARD_IA")][..], Code::InvalidArgument),
            (&[("29", "ONEZONE_IA")], Code::InvalidArgument),
            (&[("-1", "GLACIER_IR")], Code::InvalidArgument),
            (
                &[("30", "STANDARD_IA"), ("59", "GLACIER_IR")],
                Code::InvalidArgument,
            ),
            (
                &[("9", "INTELLIGENT_TIERING"), ("9", "GLACIER_IR")],
                Code::InvalidArgument,
            ),
            (
                &[("9", "GLACIER_IR"), ("10", "GLACIER_IR")],
                Code::InvalidRequest,
            ),
            (
                &[("30", "ONEZONE_IA"), ("90", "GLACIER_IR")],
                Code::InvalidRequest,
            ),
        ] {
            assert_eq!(moves(wrong, &[], ""), Some(code), "{wrong:?}");
            assert_eq!(moves(&[], wrong, ""), Some(code), "noncurrent {wrong:?}");
        }
        let date = ("2030-01-02T00:00:00Z", "GLACIER_IR");
        assert_eq!(moves(&[date], &[], ""), None);
        assert_eq!(moves(&[date], &[], &days(900)), Some(Code::InvalidRequest));
        assert_eq!(
            moves(&[date, steps[0]], &[], ""),
            Some(Code::InvalidRequest)
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
