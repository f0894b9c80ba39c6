//! A group's state on its way to a replica that lacks it.
//!
//! The source reads a view of its state chunk by chunk into a short queue; the target stages the chunks beside its
//! own state, before its replica hears of it. When all are there the replica is told to install: an *installing*
//! record is made durable, and from then on the image replaces the state, where a crash in the middle only makes
//! the rest happen at the next start. A crash or a broken transfer before the record leaves the old state as it
//! was, and staged keys that the next start or transfer removes.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{self, Either};
use tokio::sync::{mpsc, oneshot};

use super::STATE_KEYSPACES;
use super::keys;
use super::log_store::GroupLog;
use super::raft_types::{LogId, SnapshotMeta, StoredMembership};
use crate::ids::GroupId;
use crate::seams::{
    Batch, Durability, Index, IndexError, IndexView, Keyspace, is_single_threaded, spawn,
};

#[cfg(test)]
mod tests;

/// Bytes a chunk holds, about.
const CHUNK_BYTES: usize = 1 << 20;

/// Chunks under way between source and target.
const CHUNKS_QUEUED: usize = 4;

/// A piece of an image, or its end: a queue that ends without is an image that broke off.
pub(crate) enum Piece {
    Chunk(Vec<(Keyspace, Bytes, Bytes)>),
    End,
}

/// A piece, or why there are no more.
type Sent = Result<Piece, IndexError>;

/// An image as it arrives.
pub(crate) type Pieces = mpsc::Receiver<Sent>;

/// A group's state: where it can be read, or beside the state that it is to replace.
pub(crate) enum Image {
    Here {
        state: Arc<dyn Index>,
        group: GroupId,
    },
    Staged,
}

/// What a state is the outcome of.
pub(crate) struct Head {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
}

impl Head {
    /// Reads the head of a group's state.
    pub fn read(state: &dyn IndexView, group: GroupId) -> Result<Self, IndexError> {
        let applied = state
            .get(Keyspace::Records, &keys::applied_key(group))?
            .map(|value| keys::parse_log_id(&value))
            .transpose()?;
        let membership = state
            .get(Keyspace::Records, &keys::membership_key(group))?
            .map(|value| keys::parse_membership(&value))
            .transpose()?
            .unwrap_or_default();
        Ok(Self {
            applied,
            membership,
        })
    }

    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }
}

impl Image {
    /// Opens a view of the state, and gives what it is the outcome of (later commands than a snapshot's that was
    /// asked for before, perhaps) and the image itself.
    pub async fn open(self) -> Result<(SnapshotMeta, Pieces), IndexError> {
        let Image::Here { state, group } = self else {
            return Err(IndexError::Io("a staged image cannot be sent on".into()));
        };
        let (head_tx, head_rx) = oneshot::channel();
        let (chunks_tx, chunks_rx) = mpsc::channel(CHUNKS_QUEUED);
        let reading = move |send: &mut dyn FnMut(Sent) -> bool| {
            let view = state.view();
            let head = Head::read(view.as_ref(), group);
            let go_on = head.is_ok();
            if head_tx.send(head).is_err() || !go_on {
                return;
            }
            let end = send_chunks(view.as_ref(), group, send);
            // A target that has gone away needs no end.
            let _gone = send(end.map(|()| Piece::End));
        };
        if is_single_threaded() {
            let mut pieces = Vec::new();
            reading(&mut |piece| {
                pieces.push(piece);
                true
            });
            spawn(async move {
                for piece in pieces {
                    if chunks_tx.send(piece).await.is_err() {
                        return;
                    }
                }
            });
        } else {
            tokio::task::spawn_blocking(move || {
                reading(&mut |piece| chunks_tx.blocking_send(piece).is_ok());
            });
        }
        let head = head_rx
            .await
            .map_err(|_| IndexError::Io("the reader of the image has ended".into()))??;
        Ok((head.meta(), chunks_rx))
    }
}

fn send_chunks(
    view: &dyn IndexView,
    group: GroupId,
    send: &mut dyn FnMut(Sent) -> bool,
) -> Result<(), IndexError> {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for space in STATE_KEYSPACES {
        let (from, until) = keys::state_range(group, space == Keyspace::Records);
        let mut cursor = view.scan(space, &from, &until)?;
        cursor.seek(&from)?;
        while let Some((key, value)) = cursor.entry() {
            bytes += key.len() + value.len();
            chunk.push((
                space,
                Bytes::copy_from_slice(key),
                Bytes::copy_from_slice(value),
            ));
            if bytes >= CHUNK_BYTES {
                bytes = 0;
                let full = std::mem::take(&mut chunk);
                if !send(Ok(Piece::Chunk(full))) {
                    return Ok(());
                }
            }
            cursor.next()?;
        }
    }
    let _gone = send(Ok(Piece::Chunk(chunk)));
    Ok(())
}

/// Stages what arrives, while the replica runs. Nothing of the group's state has changed when this fails.
pub(crate) async fn stage(
    state: &dyn Index,
    replica: &GroupLog,
    mut pieces: Pieces,
) -> Result<(), IndexError> {
    state.write(unstage(replica.group()), Durability::Unsynced)?;
    loop {
        let piece = match future::select(pin!(replica.stopping()), pin!(pieces.recv())).await {
            Either::Left((reason, _)) => return Err(IndexError::Io(reason.to_owned())),
            Either::Right((piece, _)) => piece,
        };
        match piece {
            Some(Ok(Piece::Chunk(entries))) => {
                let mut batch = Batch::new();
                for (space, key, value) in entries {
                    batch.put(space, keys::staged_key(&key), value);
                }
                state.write(batch, Durability::Unsynced)?;
            }
            Some(Ok(Piece::End)) => return Ok(()),
            Some(Err(error)) => return Err(error),
            None => return Err(IndexError::Io("the image broke off".into())),
        }
    }
}

/// Replaces the group's state by the staged image. Durable when it returns.
pub(crate) fn replace(
    state: &dyn Index,
    group: GroupId,
    applied: &LogId,
    membership: &StoredMembership,
) -> Result<(), IndexError> {
    let mut batch = Batch::new();
    batch.put(
        Keyspace::Records,
        keys::installing_key(group),
        keys::installing_value(applied, membership),
    );
    // Writes are durable in order: the record is never there without the whole image.
    state.write(batch, Durability::Synced)?;
    finish(state, group, applied, membership)
}

/// Ends what a crash has interrupted. Gives the log id that the state is the outcome of if an image was just put in
/// its place: the log up to there is void.
pub(crate) fn recover(state: &dyn Index, group: GroupId) -> Result<Option<LogId>, IndexError> {
    let view: &dyn IndexView = state;
    match view.get(Keyspace::Records, &keys::installing_key(group))? {
        Some(value) => {
            let (applied, membership) = keys::parse_installing(&value)?;
            tracing::info!(%group, "goes on with the installation of a snapshot");
            finish(state, group, &applied, &membership)?;
            Ok(Some(applied))
        }
        None => {
            if has_staged(view, group)? {
                state.write(unstage(group), Durability::Unsynced)?;
            }
            Ok(None)
        }
    }
}

fn finish(
    state: &dyn Index,
    group: GroupId,
    applied: &LogId,
    membership: &StoredMembership,
) -> Result<(), IndexError> {
    let mut batch = Batch::new();
    clear(&mut batch, group);
    state.write(batch, Durability::Unsynced)?;

    let view = state.view();
    let (from, until) = keys::staged_range(group);
    for space in STATE_KEYSPACES {
        let mut cursor = view.scan(space, &from, &until)?;
        cursor.seek(&from)?;
        let mut batch = Batch::new();
        let mut bytes = 0;
        while let Some((key, value)) = cursor.entry() {
            bytes += key.len() + value.len();
            batch.put(
                space,
                Bytes::copy_from_slice(keys::unstaged(key)),
                Bytes::copy_from_slice(value),
            );
            if bytes >= CHUNK_BYTES {
                bytes = 0;
                state.write(std::mem::take(&mut batch), Durability::Unsynced)?;
            }
            cursor.next()?;
        }
        state.write(batch, Durability::Unsynced)?;
    }

    let mut batch = unstage(group);
    batch.put(
        Keyspace::Records,
        keys::applied_key(group),
        keys::log_id_value(applied),
    );
    batch.put(
        Keyspace::Records,
        keys::membership_key(group),
        keys::membership_value(membership),
    );
    batch.delete(Keyspace::Records, keys::installing_key(group));
    state.write(batch, Durability::Synced)
}

/// Removes all that a group has in a state index.
pub(crate) fn erase(state: &dyn Index, group: GroupId) -> Result<(), IndexError> {
    let mut batch = unstage(group);
    // First of all what says that there is a state: a part of one must not be taken for one.
    batch.delete(Keyspace::Records, keys::applied_key(group));
    batch.delete(Keyspace::Records, keys::membership_key(group));
    batch.delete(Keyspace::Records, keys::installing_key(group));
    clear(&mut batch, group);
    state.write(batch, Durability::Synced)
}

fn clear(batch: &mut Batch, group: GroupId) {
    for space in STATE_KEYSPACES {
        let (from, to) = keys::state_range(group, space == Keyspace::Records);
        batch.delete_range(space, from, to);
    }
}

fn unstage(group: GroupId) -> Batch {
    let mut batch = Batch::new();
    for space in STATE_KEYSPACES {
        let (from, to) = keys::staged_range(group);
        batch.delete_range(space, from, to);
    }
    batch
}

fn has_staged(view: &dyn IndexView, group: GroupId) -> Result<bool, IndexError> {
    let (from, to) = keys::staged_range(group);
    for space in STATE_KEYSPACES {
        let mut cursor = view.cursor(space, &from, &to)?;
        cursor.seek(&from)?;
        if cursor.entry().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}
