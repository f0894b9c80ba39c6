//! Identifiers. Each is a newtype, persisted, and never reused.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::seams::UnixMillis;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number_id!(
    /// A location with low latency inside.
    SiteId(u16), "site-"
);
number_id!(
    /// A machine (one `holdfast` process with storage).
    NodeId(u64), "node-"
);
number_id!(
    /// An NVMe device or a directory. Also the Raft node id of the replicas that live on it.
    DriveId(u64), "drive-"
);
number_id!(
    /// A Raft group. Group 0 is the placement group, the others hold object metadata.
    GroupId(u32), "group-"
);
number_id!(
    /// A slot list of a site's ring, `0..1024` by default.
    PartitionId(u16), "partition-"
);
number_id!(
    /// A bucket; a name that is deleted and made again gets another id.
    BucketId(u64), "bucket-"
);
number_id!(
    /// One of a bucket's fixed number of slices.
    Lane(u8), "lane-"
);
number_id!(
    /// The version of the cluster map; it only grows.
    Epoch(u64), "epoch-"
);

impl GroupId {
    /// The group that holds the cluster map and the directory.
    pub const PLACEMENT: GroupId = GroupId(0);
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        impl $name {
            /// A fresh id, 128 random bits.
            pub fn random(rng: &dyn crate::seams::Rng) -> Self {
                let mut bytes = [0; 16];
                rng.fill(&mut bytes);
                Self(bytes)
            }
        }
    };
}

random_id!(
    /// The cluster; drives carry it so that they are not mixed up.
    ClusterId
);
random_id!(
    /// The chunks of one body (one PUT or one uploaded part).
    ChunkSetId
);
random_id!(
    /// A multipart upload.
    UploadId
);
random_id!(
    /// Makes a command's retry recognisable: the same token gets the first verdict.
    Token
);

impl ChunkSetId {
    /// A fresh id for a body that begins at `now`: 48 bits of milliseconds, then 80 random bits. What is never committed
    /// is told from what is about to be by its age.
    pub fn begun(now: UnixMillis, rng: &dyn crate::seams::Rng) -> Self {
        let mut id = Self::random(rng);
        id.0[..6].copy_from_slice(&now.0.to_be_bytes()[2..]);
        id
    }

    /// When its body was begun.
    pub fn begun_at(self) -> UnixMillis {
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(&self.0[..6]);
        UnixMillis(u64::from_be_bytes(millis))
    }
}
