//! Object lock: what keeps a version from being removed (S3 user guide, "Locking objects with Object Lock").

use holdfast_placement::seams::UnixMillis;
use serde::{Deserialize, Serialize};

use super::command::Refusal;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Days of a year of retention.
const YEAR_DAYS: u64 = 365;

/// How strictly a version is retained. The order of variants is persisted: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockMode {
    /// Those who may, and say so, get around it.
    Governance,
    /// Nobody gets around it.
    Compliance,
}

/// Until when a version is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Retention {
    pub mode: LockMode,
    pub until: UnixMillis,
}

/// What keeps a version. Persisted: the order of fields is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VersionLock {
    pub retention: Option<Retention>,
    /// `None`: never set; shown as nothing, and means the same as `Some(false)`.
    pub legal_hold: Option<bool>,
}

/// How long new versions are kept if their writers do not say. The order of variants is persisted: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RetentionPeriod {
    Days(u32),
    Years(u32),
}

/// The retention of new versions whose writers do not ask for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DefaultRetention {
    pub mode: LockMode,
    pub period: RetentionPeriod,
}

/// A bucket's object lock, where it is on. It is never turned off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LockConfiguration {
    pub default: Option<DefaultRetention>,
}

impl DefaultRetention {
    /// The retention of a version that is written `now`.
    fn from(&self, now: UnixMillis) -> Retention {
        let days = match self.period {
            RetentionPeriod::Days(days) => u64::from(days),
            RetentionPeriod::Years(years) => u64::from(years) * YEAR_DAYS,
        };
        Retention {
            mode: self.mode,
            until: UnixMillis(now.0.saturating_add(days.saturating_mul(DAY_MS))),
        }
    }
}

/// A change of a version's lock. In commands: the order of variants is persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockChange {
    /// `None` ends the retention.
    Retention(Option<Retention>),
    LegalHold(bool),
}

impl VersionLock {
    /// Whether there is nothing to remember.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The lock of a version that is written `now` to a bucket of that configuration; refused where there is none.
    pub(super) fn of_new(
        self,
        configuration: Option<&LockConfiguration>,
        now: UnixMillis,
    ) -> Result<Self, Refusal> {
        let Some(configuration) = configuration else {
            return match self.is_none() {
                true => Ok(self),
                false => Err(Refusal::NotLockable),
            };
        };
        let default = configuration.default.map(|default| default.from(now));
        Ok(Self {
            retention: self.retention.or(default),
            ..self
        })
    }

    /// Whether the version may be removed `now`.
    pub(super) fn allows_removal(&self, now: UnixMillis, bypass: bool) -> Result<(), Refusal> {
        let held = self.legal_hold == Some(true);
        let retained = self.retention.is_some_and(|retention| {
            let open = retention.mode == LockMode::Governance && bypass;
            retention.until > now && !open
        });
        match held || retained {
            true => Err(Refusal::Locked),
            false => Ok(()),
        }
    }

    /// The lock after a change that is made `now`. A retention that has not ended may only grow, unless it is of
    /// governance and the caller gets around it.
    pub(super) fn changed(
        &self,
        change: LockChange,
        now: UnixMillis,
        bypass: bool,
    ) -> Result<Self, Refusal> {
        let new = match change {
            LockChange::LegalHold(hold) => {
                return Ok(Self {
                    legal_hold: Some(hold),
                    ..*self
                });
            }
            LockChange::Retention(new) => new,
        };
        if let Some(old) = self.retention.filter(|old| old.until > now) {
            let open = old.mode == LockMode::Governance && bypass;
            let grows = new.is_some_and(|new| new.mode == old.mode && new.until >= old.until);
            if !open && !grows {
                return Err(Refusal::Locked);
            }
        }
        Ok(Self {
            retention: new,
            ..*self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_000_000);

    fn retained(mode: LockMode, until: u64) -> Option<Retention> {
        Some(Retention {
            mode,
            until: UnixMillis(until),
        })
    }

    #[test]
    fn retention_ends_and_legal_holds_do_not() {
        use LockMode::{Compliance, Governance};
        for (retention, legal_hold, bypass, removable) in [
            (None, None, false, true),
            (None, Some(false), false, true),
            (None, Some(true), true, false),
            (retained(Governance, NOW.0 + 1), None, false, false),
            (retained(Governance, NOW.0 + 1), None, true, true),
            (retained(Governance, NOW.0 + 1), Some(true), true, false),
            (retained(Governance, NOW.0), None, false, true),
            (retained(Compliance, NOW.0 + 1), None, true, false),
            (retained(Compliance, NOW.0), None, false, true),
        ] {
            let lock = VersionLock {
                retention,
                legal_hold,
            };
            let allowed = lock.allows_removal(NOW, bypass).is_ok();
            assert_eq!(allowed, removable, "{lock:?} {bypass}");
        }
    }

    #[test]
    fn retention_grows_unless_it_is_got_around() {
        use LockMode::{Compliance, Governance};
        let at = |offset: u64| NOW.0 + offset;
        for (old, new, bypass, allowed) in [
            (None, retained(Compliance, at(5)), false, true),
            (
                retained(Governance, at(5)),
                retained(Governance, at(5)),
                false,
                true,
            ),
            (
                retained(Governance, at(5)),
                retained(Governance, at(6)),
                false,
                true,
            ),
            (
                retained(Governance, at(5)),
                retained(Governance, at(4)),
                false,
                false,
            ),
            (
                retained(Governance, at(5)),
                retained(Governance, at(4)),
                true,
                true,
            ),
            (
                retained(Governance, at(5)),
                retained(Compliance, at(6)),
                false,
                false,
            ),
            (
                retained(Governance, at(5)),
                retained(Compliance, at(6)),
                true,
                true,
            ),
            (retained(Governance, at(5)), None, false, false),
            (retained(Governance, at(5)), None, true, true),
            (
                retained(Compliance, at(5)),
                retained(Compliance, at(6)),
                false,
                true,
            ),
            (
                retained(Compliance, at(5)),
                retained(Compliance, at(4)),
                true,
                false,
            ),
            (
                retained(Compliance, at(5)),
                retained(Governance, at(6)),
                true,
                false,
            ),
            (retained(Compliance, at(5)), None, true, false),
            (retained(Compliance, at(0)), None, false, true),
        ] {
            let lock = VersionLock {
                retention: old,
                legal_hold: Some(true),
            };
            let changed = lock.changed(LockChange::Retention(new), NOW, bypass);
            assert_eq!(changed.is_ok(), allowed, "{old:?} {new:?} {bypass}");
            if let Ok(changed) = changed {
                assert_eq!((changed.retention, changed.legal_hold), (new, Some(true)));
            }
        }
    }

    #[test]
    fn defaults_count_from_the_write() {
        let configuration = LockConfiguration {
            default: Some(DefaultRetention {
                mode: LockMode::Governance,
                period: RetentionPeriod::Years(1),
            }),
        };
        let lock = VersionLock::default().of_new(Some(&configuration), NOW);
        let until = NOW.0 + 365 * 86_400_000;
        assert_eq!(
            lock.unwrap().retention,
            retained(LockMode::Governance, until)
        );
        let own = VersionLock {
            retention: retained(LockMode::Compliance, 7),
            legal_hold: None,
        };
        assert_eq!(own.of_new(Some(&configuration), NOW), Ok(own));
        assert_eq!(own.of_new(None, NOW), Err(Refusal::NotLockable));
    }
}
