//! The k+m choices.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `k` data shards and `m` parity shards a chunk; any `k` of the `k+m` make it whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Protection {
    pub data: u8,
    pub parity: u8,
}

impl Protection {
    /// One copy: no redundancy.
    pub const NONE: Protection = Protection { data: 1, parity: 0 };

    /// Shards a chunk.
    pub fn slots(self) -> usize {
        self.data as usize + self.parity as usize
    }

    /// `auto` for one host with `drives` drives (1 to 16): survive two drives where they allow it, at the least
    /// overhead: 1: 1+0, 2: 1+1, 3: 1+2, 4: 2+2, 5: 3+2, 6: 4+2 ... at most 12+2; more than 14 drives stay 12+2.
    pub fn auto(drives: usize) -> Protection {
        match drives {
            0 | 1 => Protection::NONE,
            2 => Protection { data: 1, parity: 1 },
            n => Protection {
                data: (n.min(14) - 2) as u8,
                parity: 2,
            },
        }
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.data, self.parity)
    }
}

/// What was given is not a protection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a protection: write it as K+M, such as 4+2, with K from 1 to 12 and M from 0 to 4"
)]
pub struct ParseProtectionError(pub String);

impl FromStr for Protection {
    type Err = ParseProtectionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseProtectionError(text.to_owned());
        let (data, parity) = text.split_once('+').ok_or_else(wrong)?;
        let data: u8 = data.parse().map_err(|_| wrong())?;
        let parity: u8 = parity.parse().map_err(|_| wrong())?;
        if !(1..=12).contains(&data) || parity > 4 {
            return Err(wrong());
        }
        Ok(Protection { data, parity })
    }
}
