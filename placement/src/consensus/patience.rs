//! Fewer messages between replicas, and fewer times at which followers apply.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{Fuse, Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;
use parking_lot::Mutex;

use super::raft_types::{LogId, TypeConfig};

/// How long word of a commit waits for entries to go with.
const COMMIT_LINGER: Duration = Duration::from_millis(50);

/// How long a follower may put off to apply what is committed, while more comes; and how many entries.
const BUNCH_TIME: Duration = Duration::from_millis(50);
const BUNCH_ENTRIES: u64 = 32;

/// Messages to a follower, of which those that bring nothing but a later commit wait a while for the next that brings
/// entries: it says the same. Followers answer no reads, so nobody waits for them to apply; and a message that is not sent
/// is not acknowledged either, so no lease grows by it.
pub(crate) struct Patient<S> {
    input: Fuse<S>,
    waiting: Option<(AppendEntriesRequest<TypeConfig>, BoxFuture<'static, ()>)>,
}

impl<S: Stream> Patient<S> {
    pub fn new(input: S) -> Self {
        Self {
            input: input.fuse(),
            waiting: None,
        }
    }
}

impl<S> Stream for Patient<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    type Item = AppendEntriesRequest<TypeConfig>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.input.poll_next_unpin(cx) {
                Poll::Ready(Some(message)) if message.entries.is_empty() => {
                    let timer = match self.waiting.take() {
                        Some((_, timer)) => timer,
                        None => TypeConfig::sleep(COMMIT_LINGER).boxed(),
                    };
                    self.waiting = Some((message, timer));
                }
                Poll::Ready(Some(message)) => {
                    self.waiting = None;
                    return Poll::Ready(Some(message));
                }
                // Nothing will come that it could go with.
                Poll::Ready(None) => {
                    return Poll::Ready(self.waiting.take().map(|(message, _)| message));
                }
                Poll::Pending => {
                    let Some((_, timer)) = &mut self.waiting else {
                        return Poll::Pending;
                    };
                    ready!(timer.poll_unpin(cx));
                    return Poll::Ready(self.waiting.take().map(|(message, _)| message));
                }
            }
        }
    }
}

/// Has a follower apply entries in bunches: a commit that comes with entries is taken for the one before it, until enough are
/// committed to be worth it. Word that comes alone says that no entries follow for now, and is always taken. That less is
/// known to be committed than is can do no harm: followers answer no reads, and one that becomes the leader first applies what
/// its log has.
#[derive(Default)]
pub(crate) struct Bunches {
    /// The newest commit that was taken, and when.
    taken: Mutex<Option<(LogId, InstantOf<TypeConfig>)>>,
}

impl Bunches {
    pub fn take(&self, message: &mut AppendEntriesRequest<TypeConfig>, now: InstantOf<TypeConfig>) {
        let Some(commit) = message.leader_commit else {
            return;
        };
        let mut taken = self.taken.lock();
        if let Some((before, when)) = *taken
            && !message.entries.is_empty()
            && commit.index() < before.index() + BUNCH_ENTRIES
            && now - when < BUNCH_TIME
        {
            message.leader_commit = Some(before.min(commit));
            return;
        }
        *taken = Some((commit, now));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use futures_util::stream::{self, StreamExt};
    use openraft::entry::RaftEntry as _;
    use openraft::raft::AppendEntriesRequest;
    use openraft::type_config::TypeConfigExt;
    use tokio::sync::mpsc;

    use super::{BUNCH_ENTRIES, BUNCH_TIME, Bunches, Patient};
    use crate::consensus::raft_types::{Entry, TypeConfig, Vote, log_id};

    type Message = AppendEntriesRequest<TypeConfig>;

    /// Word of a commit, and entries if there are `entries`.
    fn message(commit: u64, entries: std::ops::Range<u64>) -> Message {
        Message {
            vote: Vote::new_committed(1, 0),
            prev_log_id: None,
            entries: entries
                .map(|index| Entry::new_blank(log_id(1, index)))
                .collect(),
            leader_commit: Some(log_id(1, commit)),
        }
    }

    fn patient() -> (
        mpsc::UnboundedSender<Message>,
        Patient<impl stream::Stream<Item = Message> + Unpin>,
    ) {
        let (send, receive) = mpsc::unbounded_channel();
        let input = stream::unfold(receive, |mut receive| async move {
            Some((receive.recv().await?, receive))
        });
        (send, Patient::new(Box::pin(input)))
    }

    #[tokio::test]
    async fn word_of_a_commit_goes_with_the_next_entries() {
        let (send, mut patient) = patient();
        send.send(message(1, 0..0)).unwrap();
        assert!(patient.next().now_or_never().is_none(), "it waits");
        send.send(message(2, 0..0)).unwrap();
        assert!(patient.next().now_or_never().is_none(), "it waits");
        send.send(message(2, 3..5)).unwrap();
        let sent = patient.next().await.unwrap();
        assert_eq!(
            (sent.entries.len(), sent.leader_commit),
            (2, Some(log_id(1, 2)))
        );
        send.send(message(4, 5..6)).unwrap();
        assert_eq!(
            patient.next().await.unwrap().entries.len(),
            1,
            "entries never wait"
        );
        drop(send);
        assert!(patient.next().await.is_none());
    }

    #[tokio::test]
    async fn word_of_the_last_commit_goes_alone() {
        let (send, mut patient) = patient();
        send.send(message(1, 0..0)).unwrap();
        send.send(message(2, 0..0)).unwrap();
        let sent = patient.next().await.unwrap();
        assert_eq!(sent.leader_commit, Some(log_id(1, 2)), "the newest, once");
        assert!(patient.next().now_or_never().is_none());
        // Nothing can follow where the stream has ended.
        send.send(message(3, 0..0)).unwrap();
        drop(send);
        assert_eq!(
            patient
                .next()
                .now_or_never()
                .unwrap()
                .unwrap()
                .leader_commit,
            Some(log_id(1, 3))
        );
        assert!(patient.next().await.is_none());
    }

    #[test]
    fn commits_are_taken_in_bunches_while_entries_come() {
        let bunches = Bunches::default();
        let start = TypeConfig::now();
        let taken = |mut message: Message, after: Duration| {
            bunches.take(&mut message, start + after);
            message.leader_commit.unwrap().index()
        };
        let mut time = Duration::ZERO;
        assert_eq!(taken(message(5, 6..7), time), 5, "the first");
        assert_eq!(taken(message(6, 7..8), time), 5);
        assert_eq!(taken(message(7, 8..9), time), 5);
        assert_eq!(taken(message(8, 0..0), time), 8, "nothing follows");
        assert_eq!(taken(message(9, 10..11), time), 8);
        time += BUNCH_TIME;
        assert_eq!(taken(message(10, 11..12), time), 10, "it was long");
        let many = 10 + BUNCH_ENTRIES;
        assert_eq!(taken(message(many - 1, many..many + 1), time), 10);
        assert_eq!(taken(message(many, many + 1..many + 2), time), many);
        // A leader that has just begun may know of less.
        assert_eq!(taken(message(3, many..many + 1), time), 3);
    }
}
