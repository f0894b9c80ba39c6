//! The rules of a bucket's lifecycle (API reference, `LifecycleRule`), as they are kept.

use holdfast_placement::seams::UnixMillis;
use serde::{Deserialize, Serialize};

/// A day where nothing else is set.
pub const DAY_SECS: u64 = 86_400;

/// Format of rules as a bucket's setting; persisted.
const FORMAT: u8 = 1;

/// Rules as they are kept with the bucket.
pub fn encode_rules(rules: &[Rule]) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(rules, vec![FORMAT])
}

/// Reads them again; `None` if they are damaged.
pub fn decode_rules(bytes: &[u8]) -> Option<Vec<Rule>> {
    match bytes.split_first() {
        Some((&FORMAT, rules)) => postcard::from_bytes(rules).ok(),
        _ => None,
    }
}

/// A rule. Persisted, as are all types here: append only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub id: String,
    pub enabled: bool,
    pub filter: Filter,
    /// How the filter was written, so that it is shown so.
    pub form: FilterForm,
    pub expiration: Option<Expiration>,
    pub noncurrent: Option<Noncurrent>,
    /// Days after which an upload that was not completed is ended.
    pub abort_days: Option<u32>,
}

/// What a rule is about: all of these must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    pub prefix: String,
    pub tags: Vec<(String, String)>,
    /// Only objects of more bytes.
    pub larger_than: Option<u64>,
    /// Only objects of fewer bytes.
    pub smaller_than: Option<u64>,
}

/// How a filter is written in XML.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterForm {
    /// `Prefix` in the rule itself.
    #[default]
    Prefix,
    /// `Filter` with at most one condition.
    Filter,
    /// `Filter` with `And`.
    And,
}

/// When a current version goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiration {
    /// So many days after it was written.
    Days(u32),
    /// From then on.
    Date(UnixMillis),
    /// When it is a delete marker and the only version.
    DeleteMarker,
}

/// When other versions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noncurrent {
    /// Days after the next newer version was written.
    pub days: u32,
    /// Of the versions that are not current, so many of the newest stay.
    pub kept: u32,
}

impl Filter {
    /// Whether an object fits.
    pub fn fits(&self, key: &str, size: u64, tags: &[(String, String)]) -> bool {
        key.starts_with(&self.prefix)
            && self.larger_than.is_none_or(|bytes| size > bytes)
            && self.smaller_than.is_none_or(|bytes| size < bytes)
            && self.tags.iter().all(|tag| tags.contains(tag))
    }

    /// Whether it is about objects, not about keys alone: delete markers and uploads have neither size nor tags.
    pub fn is_about_objects(&self) -> bool {
        !self.tags.is_empty() || self.larger_than.is_some() || self.smaller_than.is_some()
    }
}

/// The end of the `days`th day after `from`: days end at midnight UTC (or at multiples of `day_secs`), and a whole day
/// passes before the first counts.
pub fn due(from: UnixMillis, days: u32, day_secs: u64) -> UnixMillis {
    let day_ms = day_secs.max(1) * 1000;
    let after = from.0.saturating_add(u64::from(days) * day_ms);
    UnixMillis(after.div_ceil(day_ms) * day_ms)
}

impl Rule {
    /// When a current version goes by this rule; `None`: never.
    pub fn expires(
        &self,
        key: &str,
        size: u64,
        tags: &[(String, String)],
        modified: UnixMillis,
        day_secs: u64,
    ) -> Option<UnixMillis> {
        if !self.enabled || !self.filter.fits(key, size, tags) {
            return None;
        }
        match self.expiration? {
            Expiration::Days(days) => Some(due(modified, days, day_secs)),
            Expiration::Date(date) => Some(date),
            Expiration::DeleteMarker => None,
        }
    }
}

/// The first rule by which a current version goes, and when.
pub fn first_to_expire<'a>(
    rules: &'a [Rule],
    key: &str,
    size: u64,
    tags: &[(String, String)],
    modified: UnixMillis,
    day_secs: u64,
) -> Option<(&'a Rule, UnixMillis)> {
    let dates = rules.iter().filter_map(|rule| {
        let date = rule.expires(key, size, tags, modified, day_secs)?;
        Some((rule, date))
    });
    dates.min_by_key(|(_, date)| *date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_ends_at_midnight() {
        let day = DAY_SECS * 1000;
        let noon = UnixMillis(10 * day + day / 2);
        assert_eq!(due(noon, 1, DAY_SECS).0, 12 * day);
        assert_eq!(due(UnixMillis(10 * day), 1, DAY_SECS).0, 11 * day);
        assert_eq!(due(UnixMillis(10 * day + 1), 30, DAY_SECS).0, 41 * day);
        assert_eq!(due(UnixMillis(12_345), 2, 10).0, 40_000);
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rule = |id: &str, prefix: &str, days| Rule {
            id: id.to_owned(),
            enabled: true,
            filter: Filter {
                prefix: prefix.to_owned(),
                larger_than: Some(10),
                ..Filter::default()
            },
            expiration: Some(Expiration::Days(days)),
            ..Rule::default()
        };
        let rules = [rule("a", "x/", 3), rule("b", "x/y", 2), rule("c", "z", 1)];
        let first = |key: &str, size| {
            let first = first_to_expire(&rules, key, size, &[], UnixMillis(0), 1);
            first.map(|(rule, date)| (rule.id.clone(), date.0))
        };
        assert_eq!(first("x/a", 11), Some(("a".to_owned(), 3000)));
        assert_eq!(first("x/y", 11), Some(("b".to_owned(), 2000)));
        assert_eq!(first("x/y", 10), None);
        assert_eq!(first("w", 11), None);
    }
}
