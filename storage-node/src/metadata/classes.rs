//! Storage classes: names that an object has, and that mean nothing for how it is kept (user guide, "Understanding and
//! managing Amazon S3 storage classes"). A version's class is among its details; listings tell it, lifecycles change it.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use holdfast_placement::ids::{BucketId, GroupId, Lane};
use holdfast_placement::query::{Ask, States};
use holdfast_placement::seams::{IndexError, Keyspace};
use serde::{Deserialize, Serialize};

use super::apply::{Change, details_with};
use super::command::{Address, Command, Outcome};
use super::list::{ListLanes, PartPage};
use super::list_versions::ListVersionLanes;
use super::questions::kind;
use super::record::VersionId;
use super::store::{ListPage, Metadata, MetadataError, VersionsPage, strange};
use super::values;

/// The format level from which on nodes know the questions and commands here.
pub(super) const LEVEL: u32 = 2;

/// A storage class, in the order in which lifecycles may change them. On the wire, persisted in rules and commands: the
/// order of variants is kept.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum StorageClass {
    #[default]
    Standard,
    ReducedRedundancy,
    StandardIa,
    IntelligentTiering,
    OnezoneIa,
    GlacierIr,
}

impl StorageClass {
    pub const ALL: [Self; 6] = [
        Self::Standard,
        Self::ReducedRedundancy,
        Self::StandardIa,
        Self::IntelligentTiering,
        Self::OnezoneIa,
        Self::GlacierIr,
    ];

    /// S3's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "STANDARD",
            Self::ReducedRedundancy => "REDUCED_REDUNDANCY",
            Self::StandardIa => "STANDARD_IA",
            Self::IntelligentTiering => "INTELLIGENT_TIERING",
            Self::OnezoneIa => "ONEZONE_IA",
            Self::GlacierIr => "GLACIER_IR",
        }
    }

    /// The class of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.name() == name)
    }

    /// As an object's headers keep it: `None` is `STANDARD`.
    pub fn of_headers(kept: Option<&str>) -> Self {
        kept.and_then(Self::named).unwrap_or_default()
    }

    /// What an object's headers keep.
    pub fn kept(self) -> Option<String> {
        (self != Self::Standard).then(|| self.name().to_owned())
    }

    /// Whether a lifecycle may change it to `other` (user guide, "Supported transitions").
    pub fn may_become(self, other: Self) -> bool {
        match (self, other) {
            (_, Self::Standard | Self::ReducedRedundancy) => false,
            (Self::OnezoneIa, Self::GlacierIr) => false,
            _ => self < other,
        }
    }
}

/// A version that is to get another storage class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassChange {
    pub key: String,
    pub version: VersionId,
    /// Whether it must be the key's newest, and an object; else it must not be.
    pub latest: bool,
    pub class: StorageClass,
}

/// The same in a command: the order of fields is persisted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetClass<'a> {
    pub lane: Lane,
    pub key: &'a str,
    pub version: VersionId,
    pub latest: bool,
    pub class: StorageClass,
}

impl Change<'_, '_> {
    /// Gives a version another storage class; says whether it was there.
    pub fn set_class(&mut self, at: Address<'_>, set: &SetClass<'_>) -> Result<bool, IndexError> {
        let Some((space, key, value)) = self.value_of(at, Some(set.version))? else {
            return Ok(false);
        };
        let (summary, _) = values::version_summary(&value)?;
        if summary.delete_marker || (space == Keyspace::Objects) != set.latest {
            return Ok(false);
        }
        self.write_class(space, key, &value, set.class)?;
        Ok(true)
    }

    /// Writes the version that is there with another storage class.
    pub(super) fn write_class(
        &mut self,
        space: Keyspace,
        key: Vec<u8>,
        value: &[u8],
        class: StorageClass,
    ) -> Result<(), IndexError> {
        let (summary, body, details) = values::version_body(value)?;
        let (mut details, lock) =
            values::split_details(details).ok_or_else(|| values::damaged("an object version"))?;
        details.headers.storage_class = class.kept();
        let details = details_with(&details, &lock)?;
        let value = values::encode_version(&summary, &body, &details)?;
        self.write(space, key, value);
        Ok(())
    }
}

/// A page whose entries have classes, with which they are not sent.
pub trait Entries {
    /// Of each entry, in order.
    fn classes(&mut self) -> impl Iterator<Item = &mut StorageClass>;
}

impl Entries for ListPage {
    fn classes(&mut self) -> impl Iterator<Item = &mut StorageClass> {
        self.entries.iter_mut().map(|entry| &mut entry.class)
    }
}

impl Entries for VersionsPage {
    fn classes(&mut self) -> impl Iterator<Item = &mut StorageClass> {
        self.entries.iter_mut().map(|entry| &mut entry.class)
    }
}

/// A part of a listing, and the classes of its entries beside it. On the wire.
#[derive(Serialize, Deserialize)]
pub struct Classed<P> {
    part: PartPage<P>,
    /// Of the entries that are not `STANDARD`, by their place; ascending.
    classes: Vec<(u32, StorageClass)>,
}

impl<P: Entries> Classed<P> {
    fn of(mut part: PartPage<P>) -> Self {
        let others = part.page.classes().zip(0..);
        let others = others.filter(|(class, _)| **class != StorageClass::Standard);
        let classes = others.map(|(class, place)| (place, *class)).collect();
        Self { part, classes }
    }

    fn put_together(self) -> PartPage<P> {
        let mut part = self.part;
        let mut known = self.classes.into_iter().peekable();
        for (class, place) in part.page.classes().zip(0..) {
            if let Some((_, told)) = known.next_if(|(own, _)| *own == place) {
                *class = told;
            }
        }
        part
    }
}

/// As [`ListLanes`], with classes.
#[derive(Serialize, Deserialize)]
pub struct ListClassedLanes<'a>(ListLanes<'a>);

impl Ask for ListClassedLanes<'_> {
    const KIND: u8 = kind::LIST_CLASSED;
    type Answer = Classed<ListPage>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        self.0.run(states).await.map(Classed::of)
    }
}

/// As [`ListVersionLanes`], with classes.
#[derive(Serialize, Deserialize)]
pub struct ListClassedVersionLanes<'a>(ListVersionLanes<'a>);

impl Ask for ListClassedVersionLanes<'_> {
    const KIND: u8 = kind::LIST_CLASSED_VERSIONS;
    type Answer = Classed<VersionsPage>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        self.0.run(states).await.map(Classed::of)
    }
}

fn put_together<P: Entries>(parts: Vec<Classed<P>>) -> Vec<PartPage<P>> {
    parts.into_iter().map(Classed::put_together).collect()
}

impl Metadata {
    /// Whether all nodes know the formats of that level.
    pub fn all_speak(&self, level: u32) -> bool {
        self.map.load().all_speak(level)
    }

    /// Whether all nodes know storage classes as more than a header of the object.
    pub fn knows_classes(&self) -> bool {
        self.map.load().all_speak(LEVEL)
    }

    /// The parts of a listing; entries tell their classes once all nodes know that question.
    pub(super) async fn parts_of_list<'q>(
        &self,
        bucket: BucketId,
        question: impl Fn(Vec<(GroupId, Lane)>) -> ListLanes<'q>,
    ) -> Result<Vec<PartPage<ListPage>>, MetadataError> {
        if !self.knows_classes() {
            return self.ask_lanes(bucket, question).await;
        }
        let question = |lanes| ListClassedLanes(question(lanes));
        self.ask_lanes(bucket, question).await.map(put_together)
    }

    /// As `parts_of_list`, of versions.
    pub(super) async fn parts_of_versions<'q>(
        &self,
        bucket: BucketId,
        question: impl Fn(Vec<(GroupId, Lane)>) -> ListVersionLanes<'q>,
    ) -> Result<Vec<PartPage<VersionsPage>>, MetadataError> {
        if !self.knows_classes() {
            return self.ask_lanes(bucket, question).await;
        }
        let question = |lanes| ListClassedVersionLanes(question(lanes));
        self.ask_lanes(bucket, question).await.map(put_together)
    }

    /// Gives versions other storage classes: one command a group, groups in parallel. Whether each was there, in the order
    /// of `changes`. Nothing else of them changes, and locks do not matter.
    pub async fn set_classes(
        &self,
        bucket: BucketId,
        changes: &[ClassChange],
    ) -> Vec<Result<bool, MetadataError>> {
        let mut by_group: BTreeMap<GroupId, (Vec<usize>, Vec<SetClass<'_>>)> = BTreeMap::new();
        for (position, change) in changes.iter().enumerate() {
            let place = self.place(bucket, &change.key);
            let (positions, of_group) = by_group.entry(place.group).or_default();
            positions.push(position);
            of_group.push(SetClass {
                lane: place.address.lane,
                key: &change.key,
                version: change.version,
                latest: change.latest,
                class: change.class,
            });
        }
        let answers = by_group
            .into_iter()
            .map(|(group, (positions, changes))| async move {
                let command = Command::SetClasses { bucket, changes };
                let answer = match self.decide(group, &command, &[]).await {
                    Ok((_, Outcome::ClassesSet(done))) if done.len() == positions.len() => Ok(done),
                    Ok((_, other)) => Err(strange(&other)),
                    Err(error) => Err(error),
                };
                (positions, answer)
            });
        let mut outcomes: Vec<_> = changes.iter().map(|_| Ok(false)).collect();
        for (positions, answer) in join_all(answers).await {
            for (index, position) in positions.into_iter().enumerate() {
                outcomes[position] = answer.clone().map(|done| done[index]);
            }
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_change_in_one_direction() {
        use StorageClass as C;
        for class in C::ALL {
            assert_eq!(C::named(class.name()), Some(class));
            assert_eq!(C::of_headers(class.kept().as_deref()), class);
            assert!(!class.may_become(class));
            assert!(!class.may_become(C::Standard));
            assert!(!class.may_become(C::ReducedRedundancy));
        }
        assert!(C::Standard.may_become(C::StandardIa));
        assert!(C::ReducedRedundancy.may_become(C::GlacierIr));
        assert!(C::StandardIa.may_become(C::IntelligentTiering));
        assert!(!C::IntelligentTiering.may_become(C::StandardIa));
        assert!(C::IntelligentTiering.may_become(C::GlacierIr));
        assert!(!C::OnezoneIa.may_become(C::GlacierIr));
        assert_eq!(C::named("standard"), None);
    }
}
