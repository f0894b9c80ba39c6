//! The rules of a bucket's lifecycle (API reference, `LifecycleRule`), as they are kept.

use holdfast_placement::seams::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::metadata::StorageClass;

/// A day where nothing else is set.
pub const DAY_SECS: u64 = 86_400;

/// Format of rules as a bucket's setting; persisted.
const FORMAT: u8 = 1;

/// The same where storage classes change. Rules without that are written as before.
const FORMAT_WITH_MOVES: u8 = 2;

/// Bytes that an object has at least, to get another storage class, where [`MinimumSize`] is set and the rule says nothing of
/// sizes.
const MINIMUM_SIZE: u64 = 128 * 1024;

/// The lifecycle of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifecycle {
    pub rules: Vec<Rule>,
    /// `None`: objects of all sizes get other storage classes.
    pub minimum: Option<MinimumSize>,
}

/// Which small objects keep their storage class (`x-amz-transition-default-minimum-object-size`): of the classes that are here
/// both say the same. Persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MinimumSize {
    AllStorageClasses128K,
    VariesByStorageClass,
}

/// What a rule says of storage classes. Persisted.
type Moves = (Vec<Transition>, Vec<NoncurrentTransition>);

impl Lifecycle {
    /// As it is kept with the bucket.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let has_moves = self.minimum.is_some() || self.rules.iter().any(Rule::has_moves);
        if !has_moves {
            return postcard::to_extend(&self.rules, vec![FORMAT]);
        }
        let of_rule = |rule: &Rule| -> Moves {
            let noncurrent = rule.noncurrent_transitions.clone();
            (rule.transitions.clone(), noncurrent)
        };
        let moves: Vec<Moves> = self.rules.iter().map(of_rule).collect();
        let all = (&self.rules, moves, self.minimum);
        postcard::to_extend(&all, vec![FORMAT_WITH_MOVES])
    }

    /// Reads it again; `None` if it is damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, bytes) = bytes.split_first()?;
        match *format {
            FORMAT => Some(Self {
                rules: postcard::from_bytes(bytes).ok()?,
                minimum: None,
            }),
            FORMAT_WITH_MOVES => {
                let (mut rules, moves, minimum): (Vec<Rule>, Vec<Moves>, _) =
                    postcard::from_bytes(bytes).ok()?;
                for (rule, (transitions, noncurrent)) in rules.iter_mut().zip(moves) {
                    rule.transitions = transitions;
                    rule.noncurrent_transitions = noncurrent;
                }
                Some(Self { rules, minimum })
            }
            _ => None,
        }
    }

    /// Whether an object of so many bytes may get another storage class by `rule`.
    pub fn moves(&self, rule: &Rule, size: u64) -> bool {
        let filter = &rule.filter;
        let says_sizes = filter.larger_than.is_some() || filter.smaller_than.is_some();
        self.minimum.is_none() || says_sizes || size >= MINIMUM_SIZE
    }
}

/// A rule. Persisted, as are all types here: append only, and what is skipped lies beside the rules.
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
    /// When a current version gets another storage class.
    #[serde(skip)]
    pub transitions: Vec<Transition>,
    /// When other versions do.
    #[serde(skip)]
    pub noncurrent_transitions: Vec<NoncurrentTransition>,
}

/// When a current version gets a storage class. Persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    pub when: When,
    pub class: StorageClass,
}

/// Persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// So many days after it was written.
    Days(u32),
    /// From then on.
    Date(UnixMillis),
}

/// When a version that is not current gets a storage class. Persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoncurrentTransition {
    pub after: Noncurrent,
    pub class: StorageClass,
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

/// How a filter is written in XML. Persisted: append only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FilterForm {
    /// `Prefix` in the rule itself.
    #[default]
    Prefix,
    /// `Filter` with at most one condition.
    Filter,
    /// `Filter` with `And`.
    And,
    /// `Filter` with a `Prefix` that is empty.
    FilterEmptyPrefix,
    /// `Filter` with `And`, in which there is a `Prefix` that is empty.
    AndEmptyPrefix,
}

impl FilterForm {
    /// From this format level of the cluster on all nodes can read all forms.
    pub const LEVEL: u32 = 4;

    /// A form that means the same to nodes of earlier versions.
    pub fn for_all(self) -> Self {
        match self {
            Self::FilterEmptyPrefix => Self::Filter,
            Self::AndEmptyPrefix => Self::And,
            known => known,
        }
    }
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
    /// Never: a rule may say that delete markers are to stay, as they do anyway.
    Never,
}

/// Which versions that are not current something happens to.
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

impl When {
    /// The moment, for a version that was written at `modified`.
    pub fn of(self, modified: UnixMillis, day_secs: u64) -> UnixMillis {
        match self {
            When::Days(days) => due(modified, days, day_secs),
            When::Date(date) => date,
        }
    }
}

impl Rule {
    /// Whether storage classes change by it.
    pub fn has_moves(&self) -> bool {
        !self.transitions.is_empty() || !self.noncurrent_transitions.is_empty()
    }

    /// How many of a key's noncurrent versions it keeps whatever their age, at most.
    pub fn kept_max(&self) -> u32 {
        let moves = self.noncurrent_transitions.iter();
        let all = self.noncurrent.iter().chain(moves.map(|to| &to.after));
        all.map(|which| which.kept).max().unwrap_or(0)
    }

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
            Expiration::DeleteMarker | Expiration::Never => None,
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

    /// Rules that former versions wrote are read, and rules that they can read are written so that they can.
    #[test]
    fn rules_are_kept_in_two_formats() {
        let mut lifecycle = Lifecycle {
            rules: vec![Rule {
                id: "r".to_owned(),
                enabled: true,
                expiration: Some(Expiration::Days(400)),
                ..Rule::default()
            }],
            minimum: None,
        };
        let written = lifecycle.encode().unwrap();
        // As it was written before there were transitions.
        let before = [1, 1, 1, b'r', 1, 0, 0, 0, 0, 0, 1, 0, 0x90, 3, 0, 0];
        assert_eq!(written, before);
        assert_eq!(Lifecycle::decode(&before), Some(lifecycle.clone()));
        // How the filter was written is the tenth byte.
        let mut as_and = before;
        as_and[9] = 2;
        let form = |written: &[u8]| Lifecycle::decode(written).unwrap().rules[0].form;
        assert_eq!(form(&as_and), FilterForm::And);
        as_and[9] = 4;
        assert_eq!(form(&as_and), FilterForm::AndEmptyPrefix);
        assert_eq!(FilterForm::AndEmptyPrefix.for_all(), FilterForm::And);
        lifecycle.rules[0].transitions.push(Transition {
            when: When::Days(30),
            class: StorageClass::GlacierIr,
        });
        lifecycle.minimum = Some(MinimumSize::VariesByStorageClass);
        let written = lifecycle.encode().unwrap();
        assert_eq!(written[0], FORMAT_WITH_MOVES);
        assert_eq!(Lifecycle::decode(&written), Some(lifecycle));
        assert_eq!(Lifecycle::decode(&[3, 0]), None);
    }

    #[test]
    fn small_objects_keep_their_class_where_that_is_asked() {
        let rule = Rule::default();
        let mut lifecycle = Lifecycle::default();
        assert!(lifecycle.moves(&rule, 0));
        lifecycle.minimum = Some(MinimumSize::AllStorageClasses128K);
        assert!(!lifecycle.moves(&rule, 131_071));
        assert!(lifecycle.moves(&rule, 131_072));
        let mut own = Rule::default();
        own.filter.larger_than = Some(1);
        assert!(lifecycle.moves(&own, 2));
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
