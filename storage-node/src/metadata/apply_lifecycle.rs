//! How a metadata group carries out the rules of lifecycles. A rule is about what a version is: current, one of the others, a
//! delete marker that is left alone, and what tags it has. That was looked at some time ago, and clients go on writing: so it
//! is looked at again here, of the very version. What is called `null` may be another one by now.

use holdfast_placement::ids::BucketId;
use holdfast_placement::seams::{IndexError, Keyspace};

use super::apply::{Change, ObjectGroup};
use super::apply_versions::Placed;
use super::classes::StorageClass;
use super::command::{Address, Refusal};
use super::lifecycle_actions::{KeyActions, Standing};
use super::record::VersionId;
use super::store::Condition;
use super::values;
use super::versioning::BucketVersioning;

/// For each version what came of it, in order.
pub type Verdicts = Vec<Result<(), Refusal>>;

impl ObjectGroup {
    /// Does to versions that have all of `tags` what `actions` say. Keys that are being renamed wait for the next pass.
    pub(super) fn carry_out(
        &mut self,
        change: &mut Change<'_, '_>,
        bucket: BucketId,
        tags: &[(&str, &str)],
        actions: &[KeyActions<'_>],
    ) -> Result<Verdicts, IndexError> {
        change.written = Some(Default::default());
        let mut verdicts = Vec::new();
        for action in actions {
            let at = Address {
                bucket,
                lane: action.lane,
                key: action.key,
            };
            let lane = match self.is_renaming(change, at)? {
                true => Err(Refusal::BeingRenamed),
                false => self.check_open(change, bucket, action.lane)?,
            };
            match lane {
                Ok(lane) => verdicts.extend(change.carry_out(at, &lane, tags, action)?),
                Err(refusal) => verdicts.extend(action.versions.iter().map(|_| Err(refusal))),
            }
        }
        Ok(verdicts)
    }
}

impl Change<'_, '_> {
    fn carry_out(
        &mut self,
        at: Address<'_>,
        lane: &BucketVersioning,
        tags: &[(&str, &str)],
        action: &KeyActions<'_>,
    ) -> Result<Verdicts, IndexError> {
        if let Standing::Noncurrent { above } = &action.standing {
            for newer in above {
                if self.value_of(at, Some(*newer))?.is_none() {
                    let changed = Err(Refusal::PreconditionFailed);
                    return Ok(vec![changed; action.versions.len()]);
                }
            }
        }
        let versions = action.versions.iter();
        versions
            .map(|version| self.act(at, lane, tags, action, *version))
            .collect()
    }

    fn act(
        &mut self,
        at: Address<'_>,
        lane: &BucketVersioning,
        tags: &[(&str, &str)],
        action: &KeyActions<'_>,
        version: VersionId,
    ) -> Result<Result<(), Refusal>, IndexError> {
        let Some(placed) = self.placed(at, version)? else {
            return Ok(Err(Refusal::NoSuchVersion));
        };
        let record = values::version(&placed.found.value)?;
        let has = |tag: &(&str, &str)| {
            let mut own = record.tags.iter();
            own.any(|(key, value)| (&**key, &**value) == *tag)
        };
        if !tags.iter().all(has) || !self.stands(at, &placed, &action.standing)? {
            return Ok(Err(Refusal::PreconditionFailed));
        }
        match action.class {
            Some(class) => {
                let own = StorageClass::of_headers(record.headers.storage_class.as_deref());
                if record.summary.delete_marker || !own.may_become(class) {
                    return Ok(Err(Refusal::PreconditionFailed));
                }
                let (space, key) = match placed.noncurrent {
                    Some(key) => (Keyspace::Records, key),
                    None => (Keyspace::Objects, self.object_key(at)),
                };
                self.write_class(space, key, &placed.found.value, class)?;
                Ok(Ok(()))
            }
            None if action.standing == Standing::Current => {
                let deleted = self.delete_key(at, &Condition::default(), lane)?;
                Ok(deleted.map(|_| ()))
            }
            // None that is newer goes before it, and none is left below one that is alone: nothing becomes current.
            None => Ok(self.remove_placed(at, placed, lane, false)?.map(|_| ())),
        }
    }

    /// Whether a version is what it was. That those above it are there is known.
    fn stands(
        &self,
        at: Address<'_>,
        placed: &Placed,
        standing: &Standing,
    ) -> Result<bool, IndexError> {
        let version = placed.found.summary.version;
        Ok(match standing {
            Standing::Current => placed.noncurrent.is_none(),
            Standing::Noncurrent { above } => {
                let is_below = !above.is_empty() && above.iter().all(|newer| *newer > version);
                is_below && placed.noncurrent.is_some()
            }
            Standing::Alone => placed.found.summary.delete_marker && self.is_alone(at, placed)?,
        })
    }
}
