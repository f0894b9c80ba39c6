//! The root key: from the environment, or made at the first start and kept.

use std::io;
use std::path::{Path, PathBuf};

use holdfast_placement::seams::Rng;
use holdfast_storage_node::node::write_durably;
use serde::{Deserialize, Serialize};

/// Name of the file in the data directory, mode 0600.
pub const FILE: &str = "root-credentials.json";

/// An access key and its secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct RootCredentials {
    pub access_key: String,
    pub secret_key: String,
}

/// Why there is no root key.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("{0} is set but {1} is not: set both, or none to have a key made")]
    HalfSet(&'static str, &'static str),
    #[error(
        "HOLDFAST_ROOT_ACCESS_KEY has {0} characters: it needs 3 to 128 letters, digits, `-`, `_` or `.`"
    )]
    AccessKey(usize),
    #[error("HOLDFAST_ROOT_SECRET_KEY has {0} characters: it needs 8 to 256")]
    SecretKey(usize),
    #[error(
        "the cluster has not been told its root key: set HOLDFAST_ROOT_ACCESS_KEY and HOLDFAST_ROOT_SECRET_KEY, or start its first node again"
    )]
    NotKept,
    #[error("{file} cannot be read or written: {1}", file = .0.join(FILE).display())]
    Io(PathBuf, io::Error),
    #[error(
        "{file} is damaged ({1}): restore it, or set HOLDFAST_ROOT_ACCESS_KEY and HOLDFAST_ROOT_SECRET_KEY", file = .0.join(FILE).display()
    )]
    Damaged(PathBuf, serde_json::Error),
}

/// Where the key came from, for what is printed at the start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Environment,
    Made,
    Kept,
}

impl RootCredentials {
    /// From the environment, else from the data directory, else made and kept there.
    pub fn load(
        data: &Path,
        access_key: Option<String>,
        secret_key: Option<String>,
        rng: &dyn Rng,
    ) -> Result<(Self, Source), CredentialsError> {
        if let Some(given) = Self::from_values(access_key, secret_key)? {
            return Ok((given, Source::Environment));
        }
        if let Some(kept) = Self::read(data)? {
            return Ok((kept, Source::Kept));
        }
        let made = Self {
            access_key: format!(
                "HF{}",
                random_text(rng, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 18)
            ),
            secret_key: random_text(
                rng,
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
                40,
            ),
        };
        made.keep(data)?;
        Ok((made, Source::Made))
    }

    /// As given in the environment; `None` if nothing was.
    pub fn from_values(
        access_key: Option<String>,
        secret_key: Option<String>,
    ) -> Result<Option<Self>, CredentialsError> {
        let (known, missing) = match (access_key, secret_key) {
            (Some(access_key), Some(secret_key)) => {
                let root = Self {
                    access_key,
                    secret_key,
                };
                root.validate()?;
                return Ok(Some(root));
            }
            (None, None) => return Ok(None),
            (Some(_), None) => ("HOLDFAST_ROOT_ACCESS_KEY", "HOLDFAST_ROOT_SECRET_KEY"),
            (None, Some(_)) => ("HOLDFAST_ROOT_SECRET_KEY", "HOLDFAST_ROOT_ACCESS_KEY"),
        };
        Err(CredentialsError::HalfSet(known, missing))
    }

    /// Keeps the key in `data`, mode 0600.
    pub fn keep(&self, data: &Path) -> Result<(), CredentialsError> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| CredentialsError::Damaged(data.to_owned(), error))?;
        write_durably(&data.join(FILE), &text)
            .map_err(|error| CredentialsError::Io(data.to_owned(), error))
    }

    /// What an earlier start kept in `data`.
    pub fn read(data: &Path) -> Result<Option<Self>, CredentialsError> {
        match std::fs::read(data.join(FILE)) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| CredentialsError::Damaged(data.to_owned(), error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CredentialsError::Io(data.to_owned(), error)),
        }
    }

    fn validate(&self) -> Result<(), CredentialsError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(3..=128).contains(&self.access_key.len()) || !self.access_key.chars().all(plain) {
            return Err(CredentialsError::AccessKey(self.access_key.chars().count()));
        }
        if !(8..=256).contains(&self.secret_key.len()) {
            return Err(CredentialsError::SecretKey(self.secret_key.len()));
        }
        Ok(())
    }
}

/// `length` characters of `alphabet`, whose length is a power of two so that each is as likely.
pub fn random_text(rng: &dyn Rng, alphabet: &[u8], length: usize) -> String {
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
        .into_iter()
        .map(|byte| alphabet[byte as usize % alphabet.len()] as char)
        .collect()
}

#[cfg(test)]
mod tests {
    use holdfast_placement::seams::SystemRng;

    use super::*;

    #[test]
    fn a_made_key_is_kept_private_and_found_again() {
        use std::os::unix::fs::PermissionsExt;
        let data = tempfile::tempdir().unwrap();
        let (made, source) = RootCredentials::load(data.path(), None, None, &SystemRng).unwrap();
        assert!(source == Source::Made);
        assert_eq!(made.secret_key.len(), 40);
        let mode = std::fs::metadata(data.path().join(FILE))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let (kept, source) = RootCredentials::load(data.path(), None, None, &SystemRng).unwrap();
        assert!(source == Source::Kept);
        assert_eq!(kept.secret_key, made.secret_key);
    }

    #[test]
    fn half_a_key_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let loaded = RootCredentials::load(data.path(), Some("someone".into()), None, &SystemRng);
        assert!(matches!(loaded, Err(CredentialsError::HalfSet(..))));
        assert!(!data.path().join(FILE).exists());
    }
}
