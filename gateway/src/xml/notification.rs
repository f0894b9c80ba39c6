//! `NotificationConfiguration` (API reference, PutBucketNotificationConfiguration): read strictly, shown as it was given.

use std::collections::HashSet;

use bytes::Bytes;
use holdfast_storage_node::metadata::{EventName, EventRule, RuleForm};

use super::XmlWriter;
use super::reader::{Element, Limits, malformed, parse};
use crate::error::{Code, S3Error};
use crate::router::not_implemented;

/// Rules of a bucket at most.
const RULES_MAX: usize = 100;

/// Bytes of a document at most.
pub const LEN_MAX: usize = 256 * 1024;

/// Bytes of a prefix or suffix at most: those of a key.
const AFFIX_LEN_MAX: usize = 1024;

const ID_CHARS_MAX: usize = 255;

/// What names of webhooks begin with. The second is short of a field, and understood.
const ARN_PREFIXES: [&str; 2] = ["arn:holdfast:webhook:::", "arn:holdfast:webhook::"];

/// Families of events that S3 has and that never happen here.
const NEVER_HAPPEN: &[&str] = &[
    "s3:ReducedRedundancyLostObject",
    "s3:Replication:",
    "s3:ObjectRestore:",
    "s3:LifecycleTransition",
    "s3:IntelligentTiering",
    "s3:ObjectAnnotation:",
];

fn invalid(message: &'static str) -> S3Error {
    S3Error::with(Code::InvalidArgument, message)
}

fn form_of(element: &str) -> Option<(RuleForm, &'static str)> {
    match element {
        "QueueConfiguration" => Some((RuleForm::Queue, "Queue")),
        "TopicConfiguration" => Some((RuleForm::Topic, "Topic")),
        "CloudFunctionConfiguration" => Some((RuleForm::Function, "CloudFunction")),
        _ => None,
    }
}

fn elements_of(form: RuleForm) -> (&'static str, &'static str) {
    match form {
        RuleForm::Queue => ("QueueConfiguration", "Queue"),
        RuleForm::Topic => ("TopicConfiguration", "Topic"),
        RuleForm::Function => ("CloudFunctionConfiguration", "CloudFunction"),
    }
}

/// Reads the rules. Those without an id get one.
pub fn read(document: &[u8]) -> Result<Vec<EventRule>, S3Error> {
    let limits = Limits {
        len_max: LEN_MAX,
        depth_max: 6,
        elements_max: 10_000,
    };
    let root = parse(document, "NotificationConfiguration", limits)?;
    if root.child("EventBridgeConfiguration")?.is_some() {
        return Err(not_implemented("EventBridge"));
    }
    if root.children.len() > RULES_MAX {
        return Err(invalid("There are more than 100 configurations"));
    }
    let mut rules = Vec::with_capacity(root.children.len());
    let mut ids = HashSet::new();
    for element in &root.children {
        let (form, target) = form_of(&element.name).ok_or_else(malformed)?;
        let rule = rule(element, form, target)?;
        if !rule.id.is_empty() && !ids.insert(rule.id.clone()) {
            return Err(invalid(
                "Same ID used for multiple configurations. IDs must be unique",
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

fn rule(element: &Element<'_>, form: RuleForm, target_element: &str) -> Result<EventRule, S3Error> {
    element.expect_only(&["Id", "Event", "Filter", target_element])?;
    let id = element.child_text("Id")?.unwrap_or_default().to_owned();
    if id.chars().count() > ID_CHARS_MAX {
        return Err(invalid("ID length should not exceed allowed limit of 255"));
    }
    let arn = element.child_text(target_element)?.ok_or_else(malformed)?;
    let arn = arn.trim_ascii().to_owned();
    let target = ARN_PREFIXES
        .iter()
        .find_map(|prefix| arn.strip_prefix(prefix))
        .filter(|name| !name.is_empty());
    let target = target.ok_or_else(|| {
        S3Error::with(
            Code::InvalidArgument,
            "The ARN is not well formed: write arn:holdfast:webhook:::NAME, where NAME is a webhook of `holdfast admin webhook list`",
        )
        .detail("ArgumentName", target_element)
        .detail("ArgumentValue", arn.clone())
    })?;
    let target = target.to_owned();
    let mut events = Vec::new();
    for event in element
        .children
        .iter()
        .filter(|child| child.name == "Event")
    {
        if !event.children.is_empty() {
            return Err(malformed());
        }
        let event = event.text.trim_ascii();
        check_event(event)?;
        events.push(event.to_owned());
    }
    if events.is_empty() {
        return Err(malformed());
    }
    let filter = element.child("Filter")?;
    let (prefix, suffix) = filter.map(affixes).transpose()?.unwrap_or_default();
    Ok(EventRule {
        id,
        form,
        arn,
        target,
        events,
        prefix,
        suffix,
    })
}

fn check_event(asked: &str) -> Result<(), S3Error> {
    // All families at once are no event of S3.
    let is_family = asked != "s3:*";
    if is_family && EventName::ALL.iter().any(|name| name.is_meant_by(asked)) {
        return Ok(());
    }
    if NEVER_HAPPEN.iter().any(|family| asked.starts_with(family)) {
        return Err(not_implemented(&format!("The event {asked}")));
    }
    Err(
        invalid("A specified event is not supported for notifications.")
            .detail("ArgumentName", "Event")
            .detail("ArgumentValue", asked),
    )
}

type Affixes = (Option<String>, Option<String>);

fn affixes(filter: &Element<'_>) -> Result<Affixes, S3Error> {
    filter.expect_only(&["S3Key"])?;
    let mut affixes = Affixes::default();
    let Some(keys) = filter.child("S3Key")? else {
        return Ok(affixes);
    };
    keys.expect_only(&["FilterRule"])?;
    for rule in &keys.children {
        rule.expect_only(&["Name", "Value"])?;
        let name = rule.child_text("Name")?.ok_or_else(malformed)?;
        let value = rule.child_text("Value")?.ok_or_else(malformed)?;
        if value.len() > AFFIX_LEN_MAX {
            return Err(invalid(
                "Size of filter rule value cannot exceed 1024 bytes in UTF-8 representation",
            ));
        }
        let (place, twice) = match name.trim_ascii().to_ascii_lowercase().as_str() {
            "prefix" => (
                &mut affixes.0,
                "Cannot specify more than one prefix rule in a filter.",
            ),
            "suffix" => (
                &mut affixes.1,
                "Cannot specify more than one suffix rule in a filter.",
            ),
            _ => return Err(invalid("filter rule name must be either prefix or suffix")),
        };
        if place.replace(value.to_owned()).is_some() {
            return Err(invalid(twice));
        }
    }
    Ok(affixes)
}

/// The rules as a document.
pub fn write(rules: &[EventRule]) -> Bytes {
    let root = "NotificationConfiguration";
    let mut document = XmlWriter::new(root, 256 + 512 * rules.len());
    for rule in rules {
        let (element, target) = elements_of(rule.form);
        document.open(element);
        document.text("Id", &rule.id);
        document.text(target, &rule.arn);
        for event in &rule.events {
            document.text("Event", event);
        }
        if rule.prefix.is_some() || rule.suffix.is_some() {
            document.open("Filter");
            document.open("S3Key");
            for (name, value) in [("prefix", &rule.prefix), ("suffix", &rule.suffix)] {
                if let Some(value) = value {
                    document.open("FilterRule");
                    document.text("Name", name);
                    document.text("Value", value);
                    document.close("FilterRule");
                }
            }
            document.close("S3Key");
            document.close("Filter");
        }
        document.close(element);
    }
    document.finish(root)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::*;

    fn of(rules: &str) -> Result<Vec<EventRule>, Code> {
        let document = format!("<NotificationConfiguration>{rules}</NotificationConfiguration>");
        read(document.as_bytes()).map_err(|error| error.code)
    }

    const ARN: &str = "<Queue>arn:holdfast:webhook:::w</Queue>";
    const EVENT: &str = "<Event>s3:ObjectCreated:*</Event>";

    #[test]
    fn rules_are_shown_as_they_were_given() {
        let all = "<QueueConfiguration><Id>a</Id><Queue>arn:holdfast:webhook:::w-1</Queue><Event>s3:ObjectCreated:*</Event><Event>s3:ObjectRemoved:Delete</Event><Filter><S3Key><FilterRule><Name>prefix</Name><Value>p/</Value></FilterRule><FilterRule><Name>suffix</Name><Value>.x</Value></FilterRule></S3Key></Filter></QueueConfiguration>\
            <TopicConfiguration><Id>b</Id><Topic>arn:holdfast:webhook::w.2</Topic><Event>s3:ObjectTagging:Put</Event></TopicConfiguration>\
            <CloudFunctionConfiguration><Id>c</Id><CloudFunction>arn:holdfast:webhook:::w</CloudFunction><Event>s3:LifecycleExpiration:*</Event></CloudFunctionConfiguration>";
        let rules = of(all).unwrap();
        assert_eq!(rules[0].target, "w-1");
        assert_eq!(rules[1].target, "w.2");
        let shown = String::from_utf8(write(&rules).to_vec()).unwrap();
        let inner = shown.split_once("2006-03-01/\">").unwrap().1;
        assert_eq!(inner, format!("{all}</NotificationConfiguration>"));
        assert_eq!(of(""), Ok(Vec::new()));
    }

    #[test]
    fn strange_rules_are_refused() {
        let rule = |inner: &str| of(&format!("<QueueConfiguration>{inner}</QueueConfiguration>"));
        let filter = |inner: &str| {
            rule(&format!(
                "{ARN}{EVENT}<Filter><S3Key>{inner}</S3Key></Filter>"
            ))
            .err()
        };
        let prefix = "<FilterRule><Name>Prefix</Name><Value>p</Value></FilterRule>";
        assert_eq!(filter(prefix), None);
        assert_eq!(filter(&prefix.repeat(2)), Some(Code::InvalidArgument));
        assert_eq!(
            filter(&prefix.replace("Prefix", "infix")),
            Some(Code::InvalidArgument)
        );
        assert_eq!(rule(EVENT).err(), Some(Code::MalformedXML));
        assert_eq!(rule(ARN).err(), Some(Code::MalformedXML));
        for (event, code) in [
            ("s3:ObjectCreated", Code::InvalidArgument),
            ("s3:*", Code::InvalidArgument),
            ("s3:TestEvent", Code::InvalidArgument),
            ("s3:Replication:*", Code::NotImplemented),
            ("s3:ObjectRestore:Post", Code::NotImplemented),
        ] {
            let refused = rule(&format!("{ARN}<Event>{event}</Event>")).err();
            assert_eq!(refused, Some(code), "{event}");
        }
        for arn in [
            "",
            "w",
            "arn:aws:sqs:us-east-1:1:q",
            "arn:holdfast:webhook:::",
        ] {
            let refused = rule(&format!("<Queue>{arn}</Queue>{EVENT}")).err();
            assert_eq!(refused, Some(Code::InvalidArgument), "{arn}");
        }
        let one = format!("<QueueConfiguration><Id>a</Id>{ARN}{EVENT}</QueueConfiguration>");
        assert_eq!(of(&one.repeat(2)).err(), Some(Code::InvalidArgument));
        assert_eq!(
            of("<EventBridgeConfiguration/>").err(),
            Some(Code::NotImplemented)
        );
        assert_eq!(of("<Other/>").err(), Some(Code::MalformedXML));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }
}
