//! Policy documents of browser forms (API reference, "POST Policy").

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;

use crate::error::{Code, S3Error};

/// A condition on a field or on the file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Equal {
        field: String,
        value: String,
    },
    StartsWith {
        field: String,
        prefix: String,
    },
    /// Bytes.
    Length {
        min: u64,
        max: u64,
    },
}

/// What a form may hold, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    expires_secs: i64,
    conditions: Vec<Condition>,
}

/// Fields that no condition needs to name.
const FREE_FIELDS: [&str; 6] = [
    "awsaccesskeyid",
    "file",
    "policy",
    "signature",
    "x-amz-signature",
    "submit",
];

fn malformed(what: impl AsRef<str>) -> S3Error {
    let what = what.as_ref();
    S3Error::with(
        Code::InvalidPolicyDocument,
        format!("Invalid Policy: {what}"),
    )
}

fn refused(what: impl AsRef<str>) -> S3Error {
    let what = what.as_ref();
    S3Error::with(
        Code::AccessDenied,
        format!("Invalid according to Policy: {what}"),
    )
}

impl Policy {
    /// Reads the JSON of a policy.
    pub fn parse(json: &[u8]) -> Result<Self, S3Error> {
        let document: Value =
            serde_json::from_slice(json).map_err(|_| malformed("Invalid JSON."))?;
        let document = document
            .as_object()
            .ok_or_else(|| malformed("Invalid JSON."))?;
        if let Some(name) = document
            .keys()
            .find(|name| !["expiration", "conditions"].contains(&name.as_str()))
        {
            return Err(malformed(format!("Unexpected: '{name}'.")));
        }
        let expiration = document
            .get("expiration")
            .ok_or_else(|| malformed("Policy missing expiration."))?;
        let expires_secs = expiration
            .as_str()
            .and_then(|text| OffsetDateTime::parse(text, &Iso8601::DEFAULT).ok())
            .map(OffsetDateTime::unix_timestamp)
            .ok_or_else(|| malformed(format!("Invalid 'expiration' value: {expiration}")))?;
        let conditions = document
            .get("conditions")
            .ok_or_else(|| malformed("Policy missing conditions."))?
            .as_array()
            .ok_or_else(|| malformed("Conditions must be a List."))?;
        let conditions = conditions.iter().map(condition).collect::<Result<_, _>>()?;
        Ok(Self {
            expires_secs,
            conditions,
        })
    }

    /// Whether a form may be taken: `fields` by lower-case name, `bucket` being that of the request.
    pub fn check(
        &self,
        now_secs: i64,
        bucket: &str,
        fields: &[(String, String)],
    ) -> Result<(), S3Error> {
        if now_secs >= self.expires_secs {
            return Err(refused("Policy expired."));
        }
        let value_of = |wanted: &str| match wanted {
            "bucket" => Some(bucket),
            _ => {
                let mut found = fields.iter().filter(|(name, _)| name == wanted);
                found.next().map(|(_, value)| value.as_str())
            }
        };
        let mut named = Vec::new();
        for condition in &self.conditions {
            let (field, fits, shown) = match condition {
                Condition::Equal { field, value } => (
                    field,
                    value_of(field) == Some(value),
                    format!("[\"eq\", \"${field}\", \"{value}\"]"),
                ),
                Condition::StartsWith { field, prefix } => (
                    field,
                    begins(field, value_of(field), prefix),
                    format!("[\"starts-with\", \"${field}\", \"{prefix}\"]"),
                ),
                Condition::Length { .. } => continue,
            };
            if !fits {
                return Err(refused(format!("Policy Condition failed: {shown}")));
            }
            named.push(field.as_str());
        }
        let mut given = fields.iter().filter(|(name, _)| name == "bucket");
        if given.any(|(_, value)| value != bucket) {
            return Err(refused(
                "Policy Condition failed: the form is for another bucket",
            ));
        }
        // The bucket is a field of every form, whether it is among them or said by the address.
        let fields = fields.iter().map(|(name, _)| name.as_str());
        for name in fields.chain(["bucket"]) {
            // A checksum gives nobody leave to do more.
            let is_free = FREE_FIELDS.contains(&name)
                || name.starts_with("x-ignore-")
                || name.starts_with("x-amz-checksum-");
            if !is_free && !named.contains(&name) {
                return Err(refused(format!("Extra input fields: {name}")));
            }
        }
        Ok(())
    }

    /// Bytes that the file must and may have.
    pub fn length(&self) -> (u64, u64) {
        let ranges = self
            .conditions
            .iter()
            .filter_map(|condition| match condition {
                Condition::Length { min, max } => Some((*min, *max)),
                _ => None,
            });
        ranges.fold((0, u64::MAX), |(least, most), (min, max)| {
            (least.max(min), most.min(max))
        })
    }
}

/// Whether a field's value begins with `prefix`; of a list of content types each has to.
fn begins(field: &str, value: Option<&str>, prefix: &str) -> bool {
    let Some(value) = value else {
        return prefix.is_empty();
    };
    match field {
        "content-type" => value
            .split(',')
            .all(|one| one.trim_ascii().starts_with(prefix)),
        _ => value.starts_with(prefix),
    }
}

fn condition(value: &Value) -> Result<Condition, S3Error> {
    match value {
        Value::Object(pairs) => {
            let mut pairs = pairs.iter();
            match (pairs.next(), pairs.next()) {
                (Some((field, Value::String(value))), None) => Ok(Condition::Equal {
                    field: field.to_ascii_lowercase(),
                    value: value.clone(),
                }),
                (Some((field, _)), None) => Err(malformed(format!(
                    "Invalid Simple-Condition: the value of '{field}' is no text."
                ))),
                _ => Err(malformed(
                    "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.",
                )),
            }
        }
        Value::Array(parts) => {
            let Some(Value::String(operator)) = parts.first() else {
                return Err(malformed("Invalid Condition: it has no operator."));
            };
            let operator = operator.to_ascii_lowercase();
            match (operator.as_str(), parts.as_slice()) {
                ("content-length-range", [_, min, max]) => {
                    let bytes = |value: &Value| match value {
                        Value::Number(number) => number.as_u64(),
                        Value::String(text) => text.parse().ok(),
                        _ => None,
                    };
                    match (bytes(min), bytes(max)) {
                        (Some(min), Some(max)) if min <= max => Ok(Condition::Length { min, max }),
                        _ => Err(malformed(
                            "Invalid content-length-range: it takes two numbers of bytes.",
                        )),
                    }
                }
                ("eq" | "starts-with", [_, Value::String(field), Value::String(value)]) => {
                    // What has no dollar sign is no field, and no form has it.
                    let field = field.strip_prefix('$').ok_or_else(|| {
                        let shown = format!("[\"{operator}\", \"{field}\", \"{value}\"]");
                        refused(format!("Policy Condition failed: {shown}"))
                    })?;
                    let field = field.to_ascii_lowercase();
                    let value = value.clone();
                    Ok(match operator.as_str() {
                        "eq" => Condition::Equal { field, value },
                        _ => Condition::StartsWith {
                            field,
                            prefix: value,
                        },
                    })
                }
                _ => Err(malformed(format!(
                    "Invalid Condition: wrong number or kind of arguments of {operator}."
                ))),
            }
        }
        _ => Err(malformed(
            "Invalid Condition: it is neither an object nor a list.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(conditions: &str) -> Result<Policy, Code> {
        let json = format!(
            "{{\"expiration\": \"2013-08-06T12:00:00.000Z\", \"conditions\": [{conditions}]}}"
        );
        Policy::parse(json.as_bytes()).map_err(|error| error.code)
    }

    /// With conditions on bucket `b` and others.
    fn check(conditions: &str, fields: &[(&str, &str)]) -> Result<(), Code> {
        let comma = if conditions.is_empty() { "" } else { "," };
        check_only(&format!("{{\"bucket\": \"b\"}}{comma}{conditions}"), fields)
    }

    fn check_only(conditions: &str, fields: &[(&str, &str)]) -> Result<(), Code> {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let checked = parse(conditions)?.check(0, "b", &fields);
        checked.map_err(|error| error.code)
    }

    #[test]
    fn conditions_are_checked() {
        let denied = Err(Code::AccessDenied);
        assert_eq!(check("{\"key\": \"k\"}", &[("key", "k")]), Ok(()));
        assert_eq!(check("{\"kEy\": \"k\"}", &[("key", "k")]), Ok(()));
        assert_eq!(check("{\"key\": \"k\"}", &[("key", "l")]), denied);
        assert_eq!(check("{\"key\": \"k\"}", &[]), denied);
        let starts = "[\"Starts-With\", \"$key\", \"us\"]";
        assert_eq!(check(starts, &[("key", "user")]), Ok(()));
        assert_eq!(check(starts, &[("key", "u")]), denied);
        assert_eq!(check(starts, &[]), denied);
        assert_eq!(check("[\"starts-with\", \"$key\", \"\"]", &[]), Ok(()));
        let text = "[\"starts-with\", \"$Content-Type\", \"text/\"]";
        let with = |types| check(text, &[("content-type", types)]);
        assert_eq!(with("text/plain, text/html"), Ok(()));
        assert_eq!(with("text/plain, image/jpeg"), denied);
        assert_eq!(check("[\"eq\", \"key\", \"k\"]", &[("key", "k")]), denied);
        assert_eq!(check("{\"bucket\": \"b\"}", &[]), Ok(()));
        assert_eq!(check("{\"bucket\": \"c\"}", &[]), denied);
        assert_eq!(check("", &[("bucket", "b")]), Ok(()));
        assert_eq!(check("", &[("bucket", "c")]), denied);
        assert_eq!(check("", &[("key", "k")]), denied);
        assert_eq!(check("", &[("x-ignore-a", "k"), ("policy", "p")]), Ok(()));
    }

    #[test]
    fn a_policy_says_for_which_bucket_it_is() {
        let denied = Err(Code::AccessDenied);
        assert_eq!(check_only("", &[]), denied);
        assert_eq!(check_only("", &[("bucket", "b")]), denied);
        let any = "[\"starts-with\", \"$bucket\", \"\"]";
        assert_eq!(check_only(any, &[]), Ok(()));
    }

    #[test]
    fn lengths_narrow_each_other() {
        let both = "[\"content-length-range\", 1, 10], [\"content-length-range\", \"5\", \"20\"]";
        assert_eq!(parse(both).unwrap().length(), (5, 10));
        assert_eq!(parse("").unwrap().length(), (0, u64::MAX));
    }

    #[test]
    fn strange_policies_are_malformed() {
        let malformed = Some(Code::InvalidPolicyDocument);
        for conditions in [
            "{}",
            "{\"a\": \"b\", \"c\": \"d\"}",
            "{\"a\": 1}",
            "1",
            "[]",
            "[\"eq\", \"$key\"]",
            "[\"like\", \"$key\", \"k\"]",
            "[\"content-length-range\", 0]",
            "[\"content-length-range\", -1, 0]",
            "[\"content-length-range\", 2, 1]",
        ] {
            assert_eq!(parse(conditions).err(), malformed, "{conditions}");
        }
        for json in [
            "",
            "[]",
            "{}",
            "{\"expiration\": \"2013-08-06T12:00:00Z\"}",
            "{\"expiration\": \"soon\", \"conditions\": []}",
            "{\"EXPIRATION\": \"2013-08-06T12:00:00Z\", \"conditions\": []}",
            "{\"expiration\": \"2013-08-06T12:00:00Z\", \"CONDITIONS\": []}",
        ] {
            let refused = Policy::parse(json.as_bytes()).err().map(|error| error.code);
            assert_eq!(refused, malformed, "{json}");
        }
    }

    #[test]
    fn a_policy_expires() {
        let policy = parse("{\"bucket\": \"b\"}").unwrap();
        assert!(policy.check(1_375_790_399, "b", &[]).is_ok());
        assert!(policy.check(1_375_790_400, "b", &[]).is_err());
    }
}
