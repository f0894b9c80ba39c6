//! What workers count.

use std::collections::BTreeMap;

use super::args::Kind;
use super::client::Failure;
use super::histogram::Histogram;

/// Requests of one kind that succeeded.
#[derive(Debug, Clone, Default)]
pub struct KindTally {
    /// From before signing to the last byte of the answer, in nanoseconds.
    pub latency: Histogram,
    /// From before signing to the first byte of a body, in nanoseconds; of GETs only.
    pub first_byte: Histogram,
    /// Bytes of objects, or of listings.
    pub bytes: u64,
}

/// Failures of one code.
#[derive(Debug, Clone)]
pub struct ErrorTally {
    pub count: u64,
    /// The first of them, in words.
    pub example: String,
}

/// What one worker, or all of them, did in a phase.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub kinds: BTreeMap<Kind, KindTally>,
    pub errors: BTreeMap<String, ErrorTally>,
    /// How many of the errors are wrong data.
    pub wrong_data: u64,
    /// Keys and common prefixes that listings returned.
    pub listed_keys: u64,
    pub listed_prefixes: u64,
    /// Walks that came to the last page.
    pub walks: u64,
    pub reconnects: u64,
    /// Numbers of the keys whose PUT failed, of phases that write key after key.
    pub failed_puts: Vec<u64>,
    /// Keys beside the numbered ones that were written and not deleted.
    pub left_over: Vec<String>,
}

impl Tally {
    /// Counts a success.
    pub fn success(&mut self, kind: Kind, nanos: u64, bytes: u64) -> &mut KindTally {
        let tally = self.kinds.entry(kind).or_default();
        tally.latency.record(nanos);
        tally.bytes += bytes;
        tally
    }

    /// Counts a failure.
    pub fn failure(&mut self, failure: &Failure) {
        self.wrong_data += u64::from(failure.is_wrong_data());
        if let Some(tally) = self.errors.get_mut(failure.code()) {
            tally.count += 1;
            return;
        }
        let tally = ErrorTally {
            count: 1,
            example: failure.to_string(),
        };
        self.errors.insert(failure.code().to_owned(), tally);
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: Self) {
        for (kind, theirs) in other.kinds {
            let mine = self.kinds.entry(kind).or_default();
            mine.latency.merge(&theirs.latency);
            mine.first_byte.merge(&theirs.first_byte);
            mine.bytes += theirs.bytes;
        }
        for (code, theirs) in other.errors {
            self.errors
                .entry(code)
                .and_modify(|mine| mine.count += theirs.count)
                .or_insert(theirs);
        }
        self.wrong_data += other.wrong_data;
        self.listed_keys += other.listed_keys;
        self.listed_prefixes += other.listed_prefixes;
        self.walks += other.walks;
        self.reconnects += other.reconnects;
        self.failed_puts.extend(other.failed_puts);
        self.left_over.extend(other.left_over);
    }

    /// Requests that succeeded.
    pub fn ops(&self) -> u64 {
        self.kinds.values().map(|kind| kind.latency.count()).sum()
    }

    /// Bytes of the requests that succeeded.
    pub fn bytes(&self) -> u64 {
        self.kinds.values().map(|kind| kind.bytes).sum()
    }

    /// Requests that failed.
    pub fn failures(&self) -> u64 {
        self.errors.values().map(|error| error.count).sum()
    }
}
