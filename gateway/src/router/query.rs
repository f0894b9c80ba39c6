//! Query parameters.

use crate::error::{Code, S3Error};

/// The decoded parameters of a query, in order. Without a query nothing is allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes `raw` (without `?`). `+` is a space, as in forms. Bad escapes and what is not UTF-8 are `InvalidURI`.
    pub fn parse(raw: Option<&str>) -> Result<Self, S3Error> {
        let mut pairs = Vec::new();
        for pair in raw.unwrap_or_default().split('&') {
            if pair.is_empty() {
                continue;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((percent_decode(name, true)?, percent_decode(value, true)?));
        }
        Ok(Self { pairs })
    }

    /// The first value of `name`; empty if it was given without one.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(pair_name, _)| pair_name == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether `name` is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All parameters, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of `name` as an integer from 0 to 2^31-1, else `InvalidArgument`.
    pub fn count(&self, name: &'static str) -> Result<Option<usize>, S3Error> {
        // An empty value is what some clients send for "not given".
        let Some(value) = self.get(name).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        match value.parse::<u32>() {
            Ok(count) if count <= i32::MAX as u32 && !value.starts_with('+') => {
                Ok(Some(count as usize))
            }
            _ => Err(S3Error::with(
                Code::InvalidArgument,
                format!("Provided {name} not an integer or within integer range"),
            )
            .detail("ArgumentName", name)
            .detail("ArgumentValue", value)),
        }
    }
}

/// Decodes percent escapes, and `+` if `plus` says so.
pub fn percent_decode(raw: &str, plus: bool) -> Result<String, S3Error> {
    let bytes = raw.as_bytes();
    if memchr::memchr2(b'%', b'+', bytes).is_none() {
        return Ok(raw.to_owned());
    }
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = match bytes[at] {
            b'%' => {
                let digit = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
                let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
                    return Err(S3Error::new(Code::InvalidURI));
                };
                at += 2;
                (high * 16 + low) as u8
            }
            b'+' if plus => b' ',
            byte => byte,
        };
        decoded.push(byte);
        at += 1;
    }
    String::from_utf8(decoded).map_err(|_| S3Error::new(Code::InvalidURI))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn never_panics(raw in ".{0,60}") {
            let _ = Query::parse(Some(&raw));
        }

        #[test]
        fn what_was_encoded_comes_back(text in any::<String>()) {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(percent_decode(&encoded, true).unwrap(), text);
        }
    }

    #[test]
    fn decodes() {
        let query = Query::parse(Some("a=1&b&c=&d=x%2By+z&&a=2&e==")).unwrap();
        assert_eq!(query.get("a"), Some("1"));
        assert_eq!(query.get("b"), Some(""));
        assert_eq!(query.get("c"), Some(""));
        assert_eq!(query.get("d"), Some("x+y z"));
        assert_eq!(query.get("e"), Some("="));
        assert!(!query.has("f"));
        assert!(Query::parse(Some("a=%f")).is_err());
        assert!(Query::parse(Some("a=%zz")).is_err());
        assert!(Query::parse(Some("a=%ff")).is_err());
        assert_eq!(Query::parse(None).unwrap(), Query::default());
    }

    #[test]
    fn counts() {
        let query = Query::parse(Some("a=12&b=-1&c=x&d=&e=2147483648&f=%2B1&g=0")).unwrap();
        assert_eq!(query.count("a").unwrap(), Some(12));
        assert_eq!(query.count("d").unwrap(), None);
        assert_eq!(query.count("g").unwrap(), Some(0));
        assert_eq!(query.count("absent").unwrap(), None);
        for name in ["b", "c", "e", "f"] {
            assert_eq!(query.count(name).unwrap_err().code, Code::InvalidArgument);
        }
    }
}
