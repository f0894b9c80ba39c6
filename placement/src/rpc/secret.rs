//! The cluster's secret: who knows it belongs to the cluster.

use std::fmt;
use std::str::FromStr;

use crate::seams::Rng;

/// What a secret's text begins with, so that it is not taken for another key.
const PREFIX: &str = "hf1-";

/// 256 random bits that all nodes of a cluster share. As text (also the join token): `hf1-` and 64 hex digits.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterSecret([u8; 32]);

/// What was given is not a cluster secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a join token: it begins with `{PREFIX}` and 64 hex digits follow; `holdfast admin token --data DIR` on any node prints it"
)]
pub struct ParseSecretError;

impl ClusterSecret {
    /// A fresh secret.
    pub fn random(rng: &dyn Rng) -> Self {
        let mut bytes = [0; 32];
        rng.fill(&mut bytes);
        Self(bytes)
    }

    /// The key for one use.
    pub(super) fn key(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.0)
    }

    /// The text of the secret. Whoever reads it can join.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", hex::encode(self.0))
    }
}

impl FromStr for ClusterSecret {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(ParseSecretError)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| ParseSecretError)?;
        Ok(Self(bytes))
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seams::SeededRng;

    #[test]
    fn a_secret_is_read_as_it_is_written() {
        let secret = ClusterSecret::random(&SeededRng::new(1));
        assert_eq!(secret.reveal().parse(), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "ClusterSecret");
        for text in ["", "hf1-", "hf1-00", &secret.reveal()[4..]] {
            assert_eq!(text.parse::<ClusterSecret>(), Err(ParseSecretError));
        }
    }
}
