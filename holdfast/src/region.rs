//! The region that a cluster says it is in.

use std::fmt;
use std::str::FromStr;

/// Characters of a name at most.
const LEN_MAX: usize = 63;

/// A region's name, such as `us-east-1`: a part of signatures, and what buckets answer as their location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region(String);

impl FromStr for Region {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let ends_plain = !text.starts_with('-') && !text.ends_with('-');
        match (1..=LEN_MAX).contains(&text.len()) && text.chars().all(is_plain) && ends_plain {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "write a name of at most {LEN_MAX} lower-case letters, digits and hyphens, such as us-east-1 or berlin"
            )),
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Region;

    #[test]
    fn names_are_read_or_explained() {
        for name in ["us-east-1", "eu", "a", &"x".repeat(63)] {
            assert_eq!(name.parse::<Region>().unwrap().to_string(), name);
        }
        let long = "x".repeat(64);
        for text in [
            "", "EU", "eu/west", "eu_west", "-eu", "eu-", "a b", "ü", &long,
        ] {
            let refused = text.parse::<Region>().unwrap_err();
            assert!(refused.contains("us-east-1"), "{text}");
        }
    }
}
