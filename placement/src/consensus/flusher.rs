//! The one writer of a drive's log: takes what all groups on the drive want written, writes it as one batch
//! with one flush, and then answers in order.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use super::keys;
use super::log_store::GroupLog;
use super::raft_types::{Entry, LogId, TypeConfig, Vote};
use crate::ids::{DriveId, GroupId};
use crate::planted::{Bug, planted};
use crate::seams::{Batch, Durability, Index, IndexError, Keyspace, flush, spawn};

/// What a group wants written.
pub(super) enum Change {
    Append(Vec<Entry>),
    Vote(Vote),
    /// Drops the entries `from..`.
    Truncate {
        from: u64,
    },
    /// Drops the entries up to `upto`, from `from` on.
    Purge {
        from: u64,
        upto: LogId,
    },
    /// The drive has a replica of the group from now on.
    Host,
    /// The drive's replica of the group is gone, but for its vote and the memory of how far its log went.
    Erase,
}

/// Who is told once it is durable.
pub(super) enum Done {
    Nobody,
    Appended(IOFlushed<TypeConfig>),
    Reply(oneshot::Sender<Result<(), IndexError>>),
}

pub(super) struct Job {
    pub log: Arc<GroupLog>,
    pub change: Change,
    pub done: Done,
}

/// A drive's log: its index and the thread that writes it, or in a simulation the task.
pub(crate) struct DriveLog {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    drive: DriveId,
    index: Arc<dyn Index>,
    queue: Mutex<Queue>,
    /// For the writer, thread or task.
    wake: Condvar,
    wake_task: Notify,
    /// Why nothing is written any more, and whether the drive can still be read.
    failed: OnceLock<(String, bool)>,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    idle: bool,
    closed: bool,
}

impl DriveLog {
    /// Starts the writer of the drive.
    pub fn open(drive: DriveId, index: Arc<dyn Index>) -> io::Result<Arc<Self>> {
        // What a process wrote that was killed is read from now on, and counted on: so it must be durable.
        index.sync().map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            drive,
            index,
            queue: Mutex::default(),
            wake: Condvar::new(),
            wake_task: Notify::new(),
            failed: OnceLock::new(),
        });
        let writer = shared.clone();
        let thread = if shared.index.flush_time().is_some() {
            spawn(writer.run_on_the_runtime());
            None
        } else {
            let thread = std::thread::Builder::new().name(format!("log-{}", drive.0));
            Some(thread.spawn(move || writer.run())?)
        };
        Ok(Arc::new(Self {
            shared,
            thread: Mutex::new(thread),
        }))
    }

    pub fn drive(&self) -> DriveId {
        self.shared.drive
    }

    /// Where what was written can be read.
    pub fn index(&self) -> &Arc<dyn Index> {
        &self.shared.index
    }

    /// Puts a change in the queue. Changes are written in the order they were submitted.
    pub(super) fn submit(&self, job: Job) {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            drop(queue);
            job.finish(Err(closed()));
            return;
        }
        queue.jobs.push(job);
        if queue.idle {
            queue.idle = false;
            drop(queue);
            self.shared.wake();
        }
    }

    /// Writes `change` and waits until it is durable.
    pub(super) async fn write(
        &self,
        log: &Arc<GroupLog>,
        change: Change,
    ) -> Result<(), IndexError> {
        let (tx, rx) = oneshot::channel();
        self.submit(Job {
            log: log.clone(),
            change,
            done: Done::Reply(tx),
        });
        rx.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Writes what is queued and ends the thread. Blocks.
    pub fn close(&self) {
        self.shared.close();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(drive = %self.shared.drive, "the log's writer panicked");
        }
    }

    /// Refuses everything from now on, what is queued included.
    pub fn abandon(&self) {
        self.fail("it was abandoned");
        self.shared.close();
    }

    /// Refuses everything from now on that has not been written. The first reason stays.
    pub fn fail(&self, reason: &str) {
        let _first = self.shared.failed.set((reason.to_owned(), false));
    }

    /// Why nothing is written any more, if that is so: the drive has to be given up. Not if it only had no room.
    pub fn failed(&self) -> Option<&str> {
        let failed = self.shared.failed.get();
        failed.and_then(|(reason, is_readable)| (!is_readable).then_some(reason.as_str()))
    }
}

impl Drop for DriveLog {
    fn drop(&mut self) {
        self.shared.close();
    }
}

fn closed() -> IndexError {
    IndexError::Io("the log was closed".into())
}

impl Shared {
    fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.idle = false;
        drop(queue);
        self.wake();
    }

    fn wake(&self) {
        self.wake.notify_one();
        self.wake_task.notify_one();
    }

    /// As [`run`](Self::run), where no call may block.
    async fn run_on_the_runtime(self: Arc<Self>) {
        loop {
            let jobs = {
                let mut queue = self.queue.lock();
                if queue.jobs.is_empty() && queue.closed {
                    return;
                }
                queue.idle = queue.jobs.is_empty();
                std::mem::take(&mut queue.jobs)
            };
            if jobs.is_empty() {
                self.wake_task.notified().await;
                continue;
            }
            let mut result = self.write(&jobs, Durability::Unsynced);
            if result.is_ok() && durability_of(&jobs) == Durability::Synced {
                result = flush(&self.index).await;
            }
            self.finish(jobs, result);
        }
    }

    fn run(&self) {
        let mut jobs = Vec::new();
        loop {
            {
                let mut queue = self.queue.lock();
                while queue.jobs.is_empty() {
                    if queue.closed {
                        return;
                    }
                    queue.idle = true;
                    self.wake.wait(&mut queue);
                }
                queue.idle = false;
                std::mem::swap(&mut queue.jobs, &mut jobs);
            }
            let result = self.write(&jobs, durability_of(&jobs));
            self.finish(jobs.drain(..), result);
        }
    }

    fn finish(&self, jobs: impl IntoIterator<Item = Job>, result: Result<(), IndexError>) {
        if let Err(error) = &result
            && self
                .failed
                .set((
                    format!("its log: {error}"),
                    matches!(error, IndexError::Full),
                ))
                .is_ok()
        {
            tracing::error!(drive = %self.drive, %error, "the log cannot be written");
        }
        for job in jobs {
            job.finish(result.clone());
        }
    }

    fn write(&self, jobs: &[Job], durability: Durability) -> Result<(), IndexError> {
        if let Some((reason, _)) = self.failed.get() {
            return Err(IndexError::Io(format!("it has failed before: {reason}")));
        }
        self.index.write(batch_of(jobs), durability)
    }
}

fn durability_of(jobs: &[Job]) -> Durability {
    // Purges alone need no flush: losing one costs nothing but space.
    let purges = |job: &Job| matches!(job.change, Change::Purge { .. });
    match planted(Bug::SkipLogFlush) || jobs.iter().all(purges) {
        true => Durability::Unsynced,
        false => Durability::Synced,
    }
}

impl Job {
    fn finish(self, result: Result<(), IndexError>) {
        match &result {
            Ok(()) => match &self.change {
                Change::Append(entries) => {
                    if let Some(last) = entries.last() {
                        self.log.appended(last.log_id.index());
                    }
                }
                Change::Truncate { from } => self.log.truncated(*from),
                _ => {}
            },
            // Before anybody hears of it: no read may count on this replica any more.
            Err(error) => self.log.stop(&error.to_string()),
        }
        match self.done {
            Done::Nobody => {}
            Done::Appended(callback) => callback.io_completed(result.map_err(io::Error::other)),
            // A caller that is gone needs no answer.
            Done::Reply(reply) => drop(reply.send(result)),
        }
    }
}

/// One batch for all jobs. Keys and values of entries lie in one buffer: two allocations a batch, not four an
/// entry.
fn batch_of(jobs: &[Job]) -> Batch {
    let mut batch = Batch::new();
    let (mut count, mut bytes) = (0, 0);
    for job in jobs {
        if let Change::Append(entries) = &job.change {
            count += entries.len();
            bytes += entries
                .iter()
                .map(|entry| keys::ENTRY_KEY_BYTES + keys::entry_bytes(entry))
                .sum::<usize>();
        }
    }
    batch.ops.reserve(count + jobs.len());
    let mut buffer = BytesMut::with_capacity(bytes);
    for job in jobs {
        let group = job.log.group();
        match &job.change {
            Change::Append(entries) => {
                for entry in entries {
                    buffer.put_slice(&keys::entry_key(group, entry.log_id.index()));
                    let key = buffer.split().freeze();
                    keys::put_entry(entry, &mut buffer);
                    batch.put(Keyspace::Log, key, buffer.split().freeze());
                }
            }
            Change::Vote(vote) => {
                batch.put(Keyspace::Log, keys::vote_key(group), keys::vote_value(vote));
            }
            Change::Truncate { from } => drop_entries(&mut batch, group, *from, u64::MAX),
            Change::Purge { from, upto } => {
                batch.put(
                    Keyspace::Log,
                    keys::purged_key(group),
                    keys::log_id_value(upto),
                );
                drop_entries(&mut batch, group, *from, upto.index().saturating_add(1));
            }
            Change::Host => {
                batch.put(Keyspace::Log, keys::hosted_key(group), keys::hosted_value());
            }
            Change::Erase => {
                if let Some(newest) = job.log.newest_ever() {
                    let key = keys::forgotten_key(group);
                    batch.put(Keyspace::Log, key, keys::log_id_value(&newest));
                }
                batch.delete(Keyspace::Log, keys::hosted_key(group));
                batch.delete(Keyspace::Log, keys::purged_key(group));
                drop_entries(&mut batch, group, 0, u64::MAX);
            }
        }
    }
    batch
}

fn drop_entries(batch: &mut Batch, group: GroupId, from: u64, to: u64) {
    let bound = |index| Bytes::copy_from_slice(&keys::entry_key(group, index));
    batch.delete_range(Keyspace::Log, bound(from), bound(to));
}
