//! Giving objects another key (S3 API reference, RenameObject). How groups decide it: `apply_rename.rs`.

use std::borrow::Cow;

use bytes::Bytes;
use holdfast_placement::ids::{BucketId, GroupId, Lane, UploadId};
use holdfast_placement::planted::{Bug, planted};
use holdfast_placement::query::{Ask, States, state_of};
use holdfast_placement::seams::{Index, IndexError, IndexView, Keyspace, UnixMillis, spawn};
use serde::{Deserialize, Serialize};

use super::apply_rename::Intent;
use super::command::{Command, Moved, Outcome, ReceiveRename, Refusal, RenameVerdict};
use super::questions::{InBucket, NotNow, kind};
use super::record::{Body, ChunkedBody, MissedSlot, PartRecord, VersionSummary};
use super::store::{Metadata, MetadataError, Place, WriteError, strange};
use super::values::{self, PartPage};
use super::{keys, raw_bytes};

/// A rename between groups is decided this long after it was begun, or never (ms).
pub const RENAME_AGE_MAX_MS: u64 = 10 * 60 * 1000;

/// How long renames are remembered that were ended (ms): for clients that ask again with the same token, and for who looks
/// for references group by group.
pub const REMEMBERED_MS: u64 = 6 * 3600 * 1000;

/// Times that a rename, a read or a write meets another rename of its key and settles it, at most.
pub(super) const TRIES: usize = 8;

/// Renames of a group that are settled before a listing, or before a bucket is said to be full, at most.
const SETTLED_MAX: usize = 1000;

/// A rename's id: 48 bits of milliseconds since 1970, when it was begun, then chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RenameId(pub [u8; 16]);

impl RenameId {
    /// When it was begun.
    pub fn begun_millis(&self) -> u64 {
        let mut time = [0; 8];
        time[2..].copy_from_slice(&self.0[..6]);
        u64::from_be_bytes(time)
    }
}

/// What must hold of the object at one end of a rename. Persisted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameCondition {
    /// An etag without quotes, or `*`.
    pub if_match: Option<String>,
    pub if_none_match: Option<String>,
    /// Seconds since 1970.
    pub if_modified_since: Option<u64>,
    pub if_unmodified_since: Option<u64>,
}

impl RenameCondition {
    /// Whether it holds of the newest version, if there is one. As in conditional reads etags are stronger than dates (RFC
    /// 9110, section 13.2.2).
    pub(super) fn holds(&self, newest: Option<&VersionSummary>) -> bool {
        let Some(newest) = newest else {
            return self.if_match.is_none() && self.if_modified_since.is_none();
        };
        let is = |etag: &String| etag == "*" || *etag == newest.etag.to_string();
        let modified = newest.modified.secs();
        let unchanged = match &self.if_match {
            Some(etag) => is(etag),
            None => self.if_unmodified_since.is_none_or(|date| modified <= date),
        };
        let changed = match &self.if_none_match {
            Some(etag) => !is(etag),
            None => self.if_modified_since.is_none_or(|date| modified > date),
        };
        unchanged && changed
    }
}

/// A client's token, by which a repeated request is known (API reference, RenameObject, `x-amz-client-token`). Persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenameToken {
    /// Of bucket and token: unique among all.
    pub token: [u8; 16],
    /// Of all that the request says besides.
    pub request: [u8; 16],
}

/// A rename to make.
#[derive(Clone, Debug, Default)]
pub struct Rename {
    pub source: RenameCondition,
    pub destination: RenameCondition,
    pub token: Option<RenameToken>,
}

/// A key that is being renamed, and all that its object is. See [`Metadata::rename`].
#[derive(Serialize, Deserialize)]
pub struct FindRename<'a> {
    #[serde(borrow)]
    pub at: Place<'a>,
}

/// An object on its way to another group.
#[derive(Serialize, Deserialize)]
pub struct OnTheWay {
    intent: Intent,
    #[serde(with = "raw_bytes")]
    value: Bytes,
    #[serde(with = "raw_bytes")]
    inline: Bytes,
    parts: Vec<PartRecord>,
    missed: Vec<(ChunkedBody, Vec<MissedSlot>)>,
}

impl Ask for FindRename<'_> {
    const KIND: u8 = kind::RENAME;
    type Answer = Option<OnTheWay>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        // One view: what is noted and its object go together.
        let view = state_of(states, self.at.group)?.view();
        let group = self.at.group;
        let Some(intent) = view.get(Keyspace::Records, &self.at.intent_key())? else {
            return Ok(None);
        };
        let intent: Intent = values::decode(&intent, "a rename")?;
        let object = self.at.object_key();
        let value = view.get(Keyspace::Objects, &object)?;
        let value = value.ok_or_else(|| values::damaged("an object that is being renamed"))?;
        let (summary, body, _) = values::version_body(&value)?;
        let mut way = OnTheWay {
            intent,
            value: value.clone(),
            inline: Bytes::new(),
            parts: Vec::new(),
            missed: Vec::new(),
        };
        let mut bodies = Vec::new();
        match body {
            Body::Empty => {}
            Body::Inline => {
                let key = keys::inline(&object, summary.version);
                let inline = view.get(Keyspace::Inline, &key)?;
                way.inline = inline.ok_or_else(|| values::damaged("inline bytes"))?;
            }
            Body::Chunked(body) => bodies.push(body),
            Body::Multipart { table, .. } => {
                each(&*view, &keys::pages(group, table), |_, value| {
                    let page: PartPage = values::decode(value, "a part table")?;
                    way.parts.extend(page.parts);
                    Ok(())
                })?;
                bodies.extend(way.parts.iter().filter_map(|part| match part.body {
                    Body::Chunked(body) => Some(body),
                    Body::Empty | Body::Inline | Body::Multipart { .. } => None,
                }));
            }
        }
        for body in bodies {
            let mut missed = Vec::new();
            each(&*view, &keys::repairs_of(group, body.set), |key, _| {
                let id =
                    keys::parse_repair(key).ok_or_else(|| values::damaged("a missed shard"))?;
                missed.push(MissedSlot {
                    chunk: id.chunk,
                    slot: id.slot,
                });
                Ok(())
            })?;
            if !missed.is_empty() {
                way.missed.push((body, missed));
            }
        }
        Ok(Some(way))
    }
}

fn each(
    view: &dyn IndexView,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    let end = keys::successor(prefix).unwrap_or_default();
    let mut cursor = view.cursor(Keyspace::Records, prefix, &end)?;
    cursor.seek(prefix)?;
    while let Some((key, value)) = cursor.entry() {
        visit(key, value)?;
        cursor.next()?;
    }
    Ok(())
}

/// Keys of some of a bucket's lanes that are being renamed.
#[derive(Serialize, Deserialize)]
pub struct FindRenames {
    bucket: BucketId,
    lanes: Vec<(GroupId, Lane)>,
}

impl Ask for FindRenames {
    const KIND: u8 = kind::RENAMES;
    type Answer = Vec<String>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let mut found = Vec::new();
        for (group, lane) in &self.lanes {
            let prefix = keys::rename_intents(*group, self.bucket, *lane);
            let state = state_of(states, *group)?;
            let end = keys::successor(&prefix).unwrap_or_default();
            let mut cursor = state.cursor(Keyspace::Records, &prefix, &end)?;
            cursor.seek(&prefix)?;
            while let Some((key, _)) = cursor.entry()
                && found.len() < SETTLED_MAX
            {
                let key = key.get(prefix.len()..).unwrap_or_default();
                found.push(super::list::text(key)?);
                cursor.next()?;
            }
        }
        Ok(found)
    }
}

/// Keys of a group, in all buckets, whose renames were begun before that time and are half-way yet.
#[derive(Serialize, Deserialize)]
pub struct FindRenamesLeft {
    group: GroupId,
    before: UnixMillis,
}

impl Ask for FindRenamesLeft {
    const KIND: u8 = kind::RENAMES_LEFT;
    /// With the key that each is to become.
    type Answer = Vec<(BucketId, String, String)>;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let mut found = Vec::new();
        let view = state_of(states, self.group)?.view();
        each(
            &*view,
            &keys::all_rename_intents(self.group),
            |key, value| {
                let intent: Intent = values::decode(value, "a rename")?;
                if intent.id.begun_millis() < self.before.0 {
                    let place = keys::parse_rename_intent(key);
                    let (bucket, _, key) = place.ok_or_else(|| values::damaged("a rename"))?;
                    found.push((bucket, key.to_owned(), intent.to));
                }
                Ok(())
            },
        )?;
        Ok(found)
    }
}

/// What a group knows of a rename to one of its keys.
#[derive(Serialize, Deserialize)]
pub struct FindVerdict<'a> {
    group: GroupId,
    id: RenameId,
    token: Option<Cow<'a, [u8; 16]>>,
}

/// See [`FindVerdict`].
#[derive(Serialize, Deserialize)]
pub struct KnownRename {
    verdict: Option<RenameVerdict>,
    /// The request that came with the token.
    request: Option<[u8; 16]>,
}

impl Ask for FindVerdict<'_> {
    const KIND: u8 = kind::RENAME_VERDICT;
    type Answer = KnownRename;

    async fn run(&self, states: &States) -> Result<Self::Answer, IndexError> {
        let state = state_of(states, self.group)?;
        let key = keys::rename_decision(self.group, self.id);
        let verdict = match state.get(Keyspace::Records, &key)? {
            Some(value) => Some(super::apply_rename::verdict_of(&value)?),
            None => None,
        };
        let request = match &self.token {
            Some(token) => {
                let key = keys::rename_token(self.group, token);
                let value = state.get(Keyspace::Records, &key)?;
                let decoded = value.map(|value| values::decode(&value, "a rename's token"));
                decoded.transpose()?
            }
            None => None,
        };
        Ok(KnownRename { verdict, request })
    }
}

impl Place<'_> {
    fn intent_key(&self) -> Vec<u8> {
        let at = self.address;
        keys::rename_intent(self.group, at.bucket, at.lane, at.key)
    }

    /// Whether the key is being renamed to another group's. To be looked at before the object itself: what is read then was
    /// there while no rename was decided.
    pub fn is_being_renamed(&self, state: &dyn Index) -> Result<bool, IndexError> {
        let is_noted = state.get(Keyspace::Records, &self.intent_key())?.is_some();
        Ok(is_noted && !planted(Bug::RenameUnnoted))
    }
}

/// Whether keys of the lanes are being renamed.
pub fn are_renaming(
    states: &States,
    bucket: BucketId,
    lanes: &[(GroupId, Lane)],
) -> Result<bool, IndexError> {
    for (group, lane) in lanes {
        let prefix = keys::rename_intents(*group, bucket, *lane);
        let end = keys::successor(&prefix).unwrap_or_default();
        let mut cursor = state_of(states, *group)?.cursor(Keyspace::Records, &prefix, &end)?;
        cursor.seek(&prefix)?;
        if cursor.entry().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The key is being renamed over and over.
pub(super) fn busy() -> MetadataError {
    MetadataError::Unavailable("the key is being renamed".to_owned())
}

/// An error after a rename was noted: whoever comes by may make it yet.
fn begun(error: MetadataError) -> MetadataError {
    match error {
        MetadataError::Unavailable(reason) => MetadataError::Indeterminate(reason),
        error => error,
    }
}

impl Metadata {
    /// Gives the object `from` the key `to` of the same bucket, in place of what is there; everything else of it stays as
    /// it is. At one moment `from` is gone and `to` is it.
    ///
    /// # Errors
    /// `NoSuchKey` without `from`, `PreconditionFailed`, `KeepsVersions`, `TokenMismatch`, `RenameConflict` if other renames
    /// of these keys come between again and again.
    pub async fn rename(
        &self,
        bucket: BucketId,
        from: &str,
        to: &str,
        rename: &Rename,
    ) -> Result<(), WriteError> {
        let (source, target) = (self.place(bucket, from), self.place(bucket, to));
        for _ in 0..TRIES {
            let id = self.rename_id();
            let outcome = match source.group == target.group {
                true => self.rename_within(id, &source, &target, rename).await?,
                false => self.rename_across(id, &source, &target, rename).await?,
            };
            match outcome {
                Outcome::Renamed(RenameVerdict::Moved | RenameVerdict::DoneBefore) => return Ok(()),
                Outcome::Refused(Refusal::BeingRenamed)
                | Outcome::Renamed(RenameVerdict::Refused(Refusal::BeingRenamed)) => {
                    self.settle_rename(&source).await?;
                    self.settle_rename(&target).await?;
                }
                // The group's clock is far ahead of what was known here of it: now it is known.
                Outcome::Renamed(RenameVerdict::Refused(Refusal::RenameExpired)) => {}
                Outcome::Renamed(RenameVerdict::Refused(refusal)) | Outcome::Refused(refusal) => {
                    return match self.was_renamed(id, &target, rename).await? {
                        Some(outcome) => outcome,
                        None => Err(refusal.into()),
                    };
                }
                other => return Err(strange(&other).into()),
            }
        }
        Err(WriteError::RenameConflict)
    }

    fn rename_id(&self) -> RenameId {
        let mut id = UploadId::random(self.proposer.rng()).0;
        let time = self.proposer.now().millis().0.to_be_bytes();
        id[..6].copy_from_slice(&time[2..]);
        RenameId(id)
    }

    async fn rename_within(
        &self,
        id: RenameId,
        source: &Place<'_>,
        target: &Place<'_>,
        rename: &Rename,
    ) -> Result<Outcome, MetadataError> {
        let command = Command::Rename {
            id,
            from: source.address,
            to: target.address,
            source: rename.source.clone(),
            destination: rename.destination.clone(),
            token: rename.token.clone(),
        };
        Ok(self.decide(source.group, &command, &[]).await?.1)
    }

    async fn rename_across(
        &self,
        id: RenameId,
        source: &Place<'_>,
        target: &Place<'_>,
        rename: &Rename,
    ) -> Result<Outcome, MetadataError> {
        let intent = Intent {
            id,
            to: target.address.key.to_owned(),
            condition: rename.destination.clone(),
            token: rename.token.clone(),
            table: UploadId::random(self.proposer.rng()),
        };
        let command = Command::BeginRename {
            at: source.address,
            condition: rename.source.clone(),
            intent,
        };
        let outcome = self.decide(source.group, &command, &[]).await?.1;
        if outcome != Outcome::Renamed(RenameVerdict::Moved) {
            return Ok(outcome);
        }
        match self.settle_rename(source).await.map_err(begun)? {
            Some((settled, verdict)) if settled == id => return Ok(Outcome::Renamed(verdict)),
            // Somebody else was faster.
            _ => {}
        }
        let group = target.group;
        let token = None;
        let question = FindVerdict { group, id, token };
        let known = self.asker.ask(group, &question).await;
        match known.map_err(|error| begun(error.into()))?.verdict {
            Some(verdict) => Ok(Outcome::Renamed(verdict)),
            None => Ok(Outcome::Refused(Refusal::RenameExpired)),
        }
    }

    /// What a request with the token came to before, if one did.
    async fn was_renamed(
        &self,
        id: RenameId,
        target: &Place<'_>,
        rename: &Rename,
    ) -> Result<Option<Result<(), WriteError>>, MetadataError> {
        let Some(token) = &rename.token else {
            return Ok(None);
        };
        let question = FindVerdict {
            group: target.group,
            id,
            token: Some(Cow::Borrowed(&token.token)),
        };
        let known = self.asker.ask(target.group, &question).await?;
        Ok(known.request.map(|request| match request == token.request {
            true => Ok(()),
            false => Err(WriteError::TokenMismatch),
        }))
    }

    /// Settles the rename that is noted at a key, if one is, and tells how.
    pub(super) async fn settle_rename(
        &self,
        source: &Place<'_>,
    ) -> Result<Option<(RenameId, RenameVerdict)>, MetadataError> {
        let question = FindRename { at: *source };
        let Some(way) = self.asker.ask(source.group, &question).await? else {
            return Ok(None);
        };
        let id = way.intent.id;
        let target = self.place(source.address.bucket, &way.intent.to);
        let verdict = self.receive_rename(source, &way).await?;
        let command = Command::EndRename {
            at: source.address,
            id,
            has_moved: verdict == RenameVerdict::Moved,
        };
        match self.decide(source.group, &command, &[]).await?.1 {
            Outcome::Done => {}
            other => return Err(strange(&other)),
        }
        // Nobody waits for this: without it the destination remembers the rename for longer than it need.
        let (metadata, group) = (self.clone(), target.group);
        spawn(async move {
            let ended = Command::RenameEnded { id };
            if let Err(error) = metadata.decide(group, &ended, &[]).await {
                tracing::debug!(%error, "the end of a rename was not told");
            }
        });
        Ok(Some((id, verdict)))
    }

    /// Has a rename decided where it leads to.
    pub(super) async fn receive_rename(
        &self,
        source: &Place<'_>,
        way: &OnTheWay,
    ) -> Result<RenameVerdict, MetadataError> {
        let target = self.place(source.address.bucket, &way.intent.to);
        let command = Command::ReceiveRename(ReceiveRename {
            id: way.intent.id,
            at: target.address,
            condition: way.intent.condition.clone(),
            token: way.intent.token.clone(),
            object: Moved {
                value: &way.value,
                table: way.intent.table,
                parts: way.parts.clone(),
                missed: way.missed.clone(),
            },
        });
        match self.decide(target.group, &command, &way.inline).await?.1 {
            Outcome::Renamed(verdict) => Ok(verdict),
            other => Err(strange(&other)),
        }
    }

    /// Settles all renames of a bucket's keys that were begun before; how many there were.
    pub(super) async fn settle_renames(&self, bucket: BucketId) -> Result<usize, MetadataError> {
        let question = |lanes| FindRenames { bucket, lanes };
        let keys = self.ask_lanes(bucket, question).await?.concat();
        for key in &keys {
            self.settle_rename(&self.place(bucket, key)).await?;
        }
        Ok(keys.len())
    }

    /// Settles the renames of a group's keys that were begun before that time; how many there were. Whoever comes by does that
    /// too, but nobody may: until then the object keeps its drives, and cannot be encoded anew.
    ///
    /// # Errors
    /// That of the last that could not be settled. Others to the same group are left for the next time then.
    pub async fn settle_renames_left(
        &self,
        group: GroupId,
        before: UnixMillis,
    ) -> Result<usize, MetadataError> {
        let question = FindRenamesLeft { group, before };
        let left = self.asker.ask(group, &question).await?;
        let mut outcome = Ok(left.len());
        let mut unanswered = Vec::new();
        for (bucket, key, to) in left {
            // Each that does not answer is waited for once.
            let target = self.place(bucket, &to).group;
            if unanswered.contains(&target) {
                continue;
            }
            if let Err(error) = self.settle_rename(&self.place(bucket, &key)).await {
                unanswered.push(target);
                outcome = Err(error);
            }
        }
        outcome
    }

    /// As `decide`, of a command about one key: if that is being renamed, it is settled first.
    pub(super) async fn decide_at(
        &self,
        place: &Place<'_>,
        command: &Command<'_>,
        tail: &[u8],
    ) -> Result<Outcome, MetadataError> {
        for _ in 0..TRIES {
            match self.decide(place.group, command, tail).await?.1 {
                Outcome::Refused(Refusal::BeingRenamed) => self.settle_rename(place).await?,
                outcome => return Ok(outcome),
            };
        }
        Err(busy())
    }

    /// Asks a question about a key; if that is being renamed, it is settled first.
    pub(super) async fn ask_at<Q, T>(
        &self,
        place: &Place<'_>,
        question: &Q,
    ) -> Result<T, MetadataError>
    where
        Q: Ask<Answer = InBucket<T>>,
    {
        for _ in 0..TRIES {
            match self.asker.ask(place.group, question).await? {
                Err(NotNow::Renaming) => self.settle_rename(place).await?,
                answer => return Ok(answer?),
            };
        }
        Err(busy())
    }
}
