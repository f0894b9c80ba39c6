//! Whether what clients saw of one key can be told as one story: some order of the operations, each at one moment
//! between its call and its answer, in which every answer is right.
//!
//! The search is that of Wing and Gong (Testing and verifying concurrent objects, 1993) with the memory of Lowe
//! (Testing for linearizability, 2017): a set of operations that led to the same state before need not be tried again.
//! Operations whose answer never came may have happened at any time after their call, or never.

use std::collections::{HashMap, HashSet};
use std::fmt;

/// What a write wrote; no two writes write the same.
pub type Value = u64;

/// Stands for every value that was written without an answer and that nobody ever saw: they need not be told apart.
const UNSEEN: Value = u64::MAX;

/// Dead ends to remember before the search is given up: some 2 GiB.
const MEMORY_MAX: usize = 8_000_000;

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Put(Value),
    /// `If-None-Match: *`
    PutIfAbsent(Value),
    /// `If-Match` with the ETag of `expected`.
    PutIfMatch {
        expected: Value,
        value: Value,
    },
    Delete,
    /// A deletion on the condition that it is this value.
    Take(Value),
    /// GET, HEAD, or what a LIST says of this key.
    Read,
    /// Whether it is this value: sees the value if so, else nothing.
    Is(Value),
}

/// What it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A write succeeded.
    Done,
    /// 412: the condition did not hold.
    ConditionFailed,
    /// 404 to a write that expects a value.
    NothingThere,
    /// A read found this value, or nothing.
    Saw(Option<Value>),
    /// No answer, or one that does not say whether it happened. Reads that failed do not belong into a history.
    Unknown,
}

/// One operation on the key. Times count from any moment, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: u64,
    pub action: Action,
    pub outcome: Outcome,
    pub called: u64,
    /// Without meaning if the outcome is unknown.
    pub returned: u64,
}

/// Why a history is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No order explains it. The operation at which every attempt ends at the latest, and those that overlap it.
    Impossible {
        stuck_at: Operation,
        around: Vec<Operation>,
    },
    /// Too many operations overlap to decide it.
    TooHard,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::TooHard => write!(f, "not decided: too many operations overlap"),
            Verdict::Impossible { stuck_at, around } => {
                writeln!(
                    f,
                    "not linearizable: nothing explains {stuck_at:?}; around it:"
                )?;
                for operation in around {
                    writeln!(f, "  {operation:?}")?;
                }
                Ok(())
            }
        }
    }
}

/// Checks the history of a key that held nothing in the beginning.
pub fn check(history: &[Operation]) -> Result<(), Verdict> {
    Search::new(history).run()
}

/// The state after `operation` on `state`; `None` if its answer would be wrong.
fn step(
    state: Option<Value>,
    Operation {
        action, outcome, ..
    }: &Operation,
) -> Option<Option<Value>> {
    let holds = match *action {
        Action::PutIfAbsent(_) => state.is_none(),
        Action::PutIfMatch { expected, .. } | Action::Take(expected) => state == Some(expected),
        Action::Put(_) | Action::Delete | Action::Read | Action::Is(_) => true,
    };
    let after = match *action {
        Action::Put(value) | Action::PutIfAbsent(value) | Action::PutIfMatch { value, .. } => {
            Some(value)
        }
        Action::Delete | Action::Take(_) => None,
        Action::Read | Action::Is(_) => state,
    };
    let visible = match *action {
        Action::Is(value) => state.filter(|state| *state == value),
        _ => state,
    };
    let is_right = match *outcome {
        Outcome::Unknown => return Some(if holds { after } else { state }),
        Outcome::Done => holds,
        Outcome::Saw(seen) => seen == visible,
        Outcome::ConditionFailed => return (!holds && state.is_some()).then_some(state),
        Outcome::NothingThere => return (!holds && state.is_none()).then_some(state),
    };
    is_right.then_some(after)
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

/// A set of operations.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Taken(Box<[u64]>);

impl Taken {
    fn has(&self, operation: usize) -> bool {
        self.0[operation / 64] >> (operation % 64) & 1 == 1
    }

    fn flip(&mut self, operation: usize) {
        self.0[operation / 64] ^= 1 << (operation % 64);
    }
}

struct Search<'a> {
    history: &'a [Operation],
    operations: Vec<Operation>,
    /// In order of time. The events of operations that were taken are not linked.
    events: Vec<Event>,
    /// Event after and before each; the last index is the one before the first and after the last.
    next: Vec<usize>,
    previous: Vec<usize>,
    call_of: Vec<usize>,
    return_of: Vec<Option<usize>>,
    /// Of operations that nothing tells apart and that have no answer, the one called before: to take them in the
    /// order of their calls is enough.
    same_before: Vec<Option<usize>>,
}

impl<'a> Search<'a> {
    fn new(history: &'a [Operation]) -> Self {
        let seen: HashSet<Value> = history.iter().flat_map(values_known).collect();
        let mut operations = history.to_vec();
        for operation in &mut operations {
            if let Action::Put(value)
            | Action::PutIfAbsent(value)
            | Action::PutIfMatch { value, .. } = &mut operation.action
                && operation.outcome == Outcome::Unknown
                && !seen.contains(value)
            {
                *value = UNSEEN;
            }
        }
        operations.sort_by_key(|operation| operation.called);
        let mut latest: HashMap<Action, usize> = HashMap::new();
        let mut same_before = vec![None; operations.len()];
        let mut events: Vec<(u64, bool, Event)> = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            // At the same moment calls come first: then the two overlap, which assumes nothing.
            events.push((operation.called, false, Event::Call(index)));
            if operation.outcome == Outcome::Unknown {
                same_before[index] = latest.insert(operation.action, index);
            } else {
                events.push((operation.returned, true, Event::Return(index)));
            }
        }
        events.sort_by_key(|(time, is_return, _)| (*time, *is_return));
        let events: Vec<Event> = events.into_iter().map(|(_, _, event)| event).collect();
        let count = events.len();
        let mut call_of = vec![0; operations.len()];
        let mut return_of = vec![None; operations.len()];
        for (index, event) in events.iter().enumerate() {
            match event {
                Event::Call(operation) => call_of[*operation] = index,
                Event::Return(operation) => return_of[*operation] = Some(index),
            }
        }
        Self {
            history,
            operations,
            events,
            next: (0..=count).map(|index| (index + 1) % (count + 1)).collect(),
            previous: (0..=count)
                .map(|index| (index + count) % (count + 1))
                .collect(),
            call_of,
            return_of,
            same_before,
        }
    }

    fn run(mut self) -> Result<(), Verdict> {
        let end = self.events.len();
        let mut answered = self.return_of.iter().flatten().count();
        let mut taken = Taken(vec![0; self.operations.len().div_ceil(64)].into());
        let mut dead_ends: HashSet<(Taken, Option<Value>, bool)> = HashSet::new();
        let mut order: Vec<(usize, Option<Value>, bool)> = Vec::new();
        let mut state = None;
        // Whether the operation that was taken last has no answer.
        let mut is_loose = false;
        let mut stuck_at = 0;
        let mut at = self.next[end];
        while answered > 0 {
            if let Event::Call(operation) = self.events[at] {
                if let Some(after) = self.worth_taking(operation, &taken, state, is_loose) {
                    let loose_after = self.return_of[operation].is_none();
                    taken.flip(operation);
                    if dead_ends.insert((taken.clone(), after, loose_after)) {
                        if dead_ends.len() > MEMORY_MAX {
                            return Err(Verdict::TooHard);
                        }
                        order.push((operation, state, is_loose));
                        (state, is_loose) = (after, loose_after);
                        self.unlink(operation);
                        answered -= usize::from(!loose_after);
                        at = self.next[end];
                        continue;
                    }
                    taken.flip(operation);
                }
                at = self.next[at];
                continue;
            }
            // An answer came here, and nothing was found that explains it.
            stuck_at = stuck_at.max(at);
            let Some((operation, state_before, loose_before)) = order.pop() else {
                return Err(self.impossible(stuck_at));
            };
            (state, is_loose) = (state_before, loose_before);
            taken.flip(operation);
            self.link(operation);
            answered += usize::from(self.return_of[operation].is_some());
            at = self.next[self.call_of[operation]];
        }
        Ok(())
    }

    /// The state after `operation`, if it may come next and to take it can lead to anything that leaving it cannot.
    fn worth_taking(
        &self,
        operation: usize,
        taken: &Taken,
        state: Option<Value>,
        is_loose: bool,
    ) -> Option<Option<Value>> {
        if self.same_before[operation].is_some_and(|before| !taken.has(before)) {
            return None;
        }
        let after = step(state, &self.operations[operation])?;
        let has_answer = self.return_of[operation].is_some();
        // Without an answer it need not have happened: not if it changed nothing, and not if the next one made its
        // change unseen.
        let is_blind = matches!(
            self.operations[operation].action,
            Action::Put(_) | Action::Delete
        );
        let is_needless = !has_answer && after == state || is_loose && is_blind;
        (!is_needless).then_some(after)
    }

    fn unlink(&mut self, operation: usize) {
        for event in [Some(self.call_of[operation]), self.return_of[operation]]
            .into_iter()
            .flatten()
        {
            let (next, previous) = (self.next[event], self.previous[event]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
    }

    /// Undoes the latest `unlink`.
    fn link(&mut self, operation: usize) {
        for event in [self.return_of[operation], Some(self.call_of[operation])]
            .into_iter()
            .flatten()
        {
            let (next, previous) = (self.next[event], self.previous[event]);
            self.next[previous] = event;
            self.previous[next] = event;
        }
    }

    fn impossible(&self, stuck_at: usize) -> Verdict {
        let (Event::Call(index) | Event::Return(index)) = self.events[stuck_at];
        let stuck = self.operations[index];
        let end = |operation: &Operation| match operation.outcome {
            Outcome::Unknown => u64::MAX,
            _ => operation.returned,
        };
        let mut around: Vec<Operation> = self
            .history
            .iter()
            .filter(|operation| {
                operation.called <= stuck.returned && end(operation) >= stuck.called
            })
            .copied()
            .collect();
        // What was settled just before tells the reader what should have been seen.
        let mut before: Vec<Operation> = self
            .history
            .iter()
            .filter(|operation| end(operation) < stuck.called)
            .copied()
            .collect();
        before.sort_by_key(end);
        around.extend(before.iter().rev().take(12));
        around.sort_by_key(|operation| operation.called);
        Verdict::Impossible {
            stuck_at: stuck,
            around,
        }
    }
}

/// Values that an operation names which some client has seen or was told to be written.
fn values_known(operation: &Operation) -> Vec<Value> {
    let mut values = Vec::new();
    if let Outcome::Saw(Some(value)) = operation.outcome {
        values.push(value);
    }
    match operation.action {
        Action::PutIfMatch { expected, value } => {
            values.push(expected);
            if operation.outcome == Outcome::Done {
                values.push(value);
            }
        }
        Action::Put(value) | Action::PutIfAbsent(value) if operation.outcome == Outcome::Done => {
            values.push(value);
        }
        Action::Take(value) | Action::Is(value) => values.push(value),
        _ => {}
    }
    values
}

#[cfg(test)]
mod tests {
    use super::{Action, Operation, Outcome, Verdict, check};
    use crate::content::Seed;

    fn operation(action: Action, outcome: Outcome, called: u64, returned: u64) -> Operation {
        Operation {
            client: 0,
            action,
            outcome,
            called,
            returned,
        }
    }

    fn put(value: u64, called: u64, returned: u64) -> Operation {
        operation(Action::Put(value), Outcome::Done, called, returned)
    }

    fn read(seen: Option<u64>, called: u64, returned: u64) -> Operation {
        operation(Action::Read, Outcome::Saw(seen), called, returned)
    }

    fn unknown(action: Action, called: u64) -> Operation {
        operation(action, Outcome::Unknown, called, 0)
    }

    fn is_refused(history: &[Operation]) -> bool {
        matches!(check(history), Err(Verdict::Impossible { .. }))
    }

    #[test]
    fn a_stale_read_is_refused() {
        assert_eq!(check(&[put(1, 0, 1), read(Some(1), 2, 3)]), Ok(()));
        assert!(is_refused(&[put(1, 0, 1), read(None, 2, 3)]));
        assert!(is_refused(&[
            put(1, 0, 1),
            put(2, 2, 3),
            read(Some(1), 4, 5)
        ]));
    }

    #[test]
    fn overlapping_reads_may_see_either_but_not_go_back() {
        let write = put(2, 10, 20);
        let first = put(1, 0, 1);
        assert_eq!(check(&[first, write, read(Some(1), 12, 13)]), Ok(()));
        assert_eq!(check(&[first, write, read(Some(2), 12, 13)]), Ok(()));
        assert!(is_refused(&[
            first,
            write,
            read(Some(2), 12, 13),
            read(Some(1), 14, 15)
        ]));
    }

    #[test]
    fn a_value_that_nobody_wrote_is_refused() {
        assert!(is_refused(&[put(1, 0, 1), read(Some(7), 0, 3)]));
    }

    #[test]
    fn two_winners_of_one_race_are_refused() {
        let win = |value, called, returned| {
            operation(Action::PutIfAbsent(value), Outcome::Done, called, returned)
        };
        assert_eq!(check(&[win(1, 0, 10)]), Ok(()));
        assert!(is_refused(&[win(1, 0, 10), win(2, 0, 10)]));
        let delete = operation(Action::Delete, Outcome::Done, 0, 10);
        assert_eq!(check(&[win(1, 0, 10), delete, win(2, 0, 10)]), Ok(()));
    }

    #[test]
    fn a_refusal_needs_its_reason() {
        let refused = |outcome| operation(Action::PutIfAbsent(2), outcome, 2, 3);
        assert!(is_refused(&[refused(Outcome::ConditionFailed)]));
        assert_eq!(
            check(&[put(1, 0, 1), refused(Outcome::ConditionFailed)]),
            Ok(())
        );
        let swap = |outcome| {
            operation(
                Action::PutIfMatch {
                    expected: 1,
                    value: 2,
                },
                outcome,
                2,
                3,
            )
        };
        assert!(is_refused(&[put(1, 0, 1), swap(Outcome::ConditionFailed)]));
        assert!(is_refused(&[put(1, 0, 1), swap(Outcome::NothingThere)]));
        assert_eq!(check(&[swap(Outcome::NothingThere)]), Ok(()));
        assert!(is_refused(&[swap(Outcome::Done)]));
        assert!(is_refused(&[
            put(1, 0, 1),
            swap(Outcome::Done),
            read(Some(1), 4, 5)
        ]));
    }

    #[test]
    fn what_is_taken_was_there_and_is_gone() {
        let take = |outcome, called| operation(Action::Take(1), outcome, called, called + 1);
        let first = put(1, 0, 1);
        assert_eq!(
            check(&[first, take(Outcome::Done, 2), read(None, 4, 5)]),
            Ok(())
        );
        assert!(is_refused(&[
            first,
            take(Outcome::Done, 2),
            read(Some(1), 4, 5)
        ]));
        assert!(is_refused(&[
            first,
            take(Outcome::Done, 2),
            take(Outcome::Done, 4)
        ]));
        assert!(is_refused(&[first, take(Outcome::ConditionFailed, 2)]));
        assert!(is_refused(&[first, take(Outcome::NothingThere, 2)]));
        assert_eq!(check(&[take(Outcome::NothingThere, 2)]), Ok(()));
    }

    #[test]
    fn a_look_for_one_value_tells_of_that_alone() {
        let look = |value, seen, called| {
            operation(Action::Is(value), Outcome::Saw(seen), called, called + 1)
        };
        let first = put(1, 0, 1);
        assert_eq!(
            check(&[first, look(1, Some(1), 2), look(2, None, 2)]),
            Ok(())
        );
        assert!(is_refused(&[first, look(1, None, 2)]));
        assert!(is_refused(&[first, look(2, Some(2), 2)]));
        // Neither here nor there, while nothing moves it.
        let moved = operation(
            Action::PutIfMatch {
                expected: 1,
                value: 2,
            },
            Outcome::Done,
            2,
            9,
        );
        assert_eq!(
            check(&[first, moved, look(2, None, 3), look(1, Some(1), 5)]),
            Ok(())
        );
        assert!(is_refused(&[
            first,
            moved,
            look(1, None, 3),
            look(2, None, 5)
        ]));
        assert!(is_refused(&[
            first,
            moved,
            look(2, Some(2), 3),
            look(1, Some(1), 5)
        ]));
    }

    /// A gateway that repeats a write whose answer it lost, and forgets that it was the first that won.
    #[test]
    fn one_that_is_refused_because_of_itself_is_refused() {
        let own = operation(Action::PutIfAbsent(1), Outcome::ConditionFailed, 0, 5);
        assert!(is_refused(&[own, read(Some(1), 6, 7)]));
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened_or_not_or_late() {
        let lost = unknown(Action::Put(2), 2);
        let first = put(1, 0, 1);
        assert_eq!(check(&[first, lost, read(Some(1), 4, 5)]), Ok(()));
        assert_eq!(check(&[first, lost, read(Some(2), 4, 5)]), Ok(()));
        let late = [
            first,
            lost,
            read(Some(1), 4, 5),
            read(Some(2), 6, 7),
            read(Some(2), 8, 9),
        ];
        assert_eq!(check(&late), Ok(()));
        // But not before it was called, and not twice.
        assert!(is_refused(&[
            first,
            read(Some(2), 1, 2),
            unknown(Action::Put(2), 3)
        ]));
        let twice = [
            first,
            lost,
            read(Some(2), 4, 5),
            put(3, 6, 7),
            read(Some(2), 8, 9),
        ];
        assert!(is_refused(&twice));
    }

    #[test]
    fn a_lost_delete_explains_nothing_but_an_absence() {
        let lost = unknown(Action::Delete, 2);
        assert_eq!(check(&[put(1, 0, 1), lost, read(None, 4, 5)]), Ok(()));
        assert!(is_refused(&[
            put(1, 0, 1),
            lost,
            read(None, 4, 5),
            read(Some(1), 6, 7)
        ]));
    }

    #[test]
    fn an_unseen_write_explains_a_refusal() {
        let refused = operation(Action::PutIfAbsent(9), Outcome::ConditionFailed, 4, 5);
        assert!(is_refused(&[refused]));
        assert_eq!(check(&[unknown(Action::Put(1), 0), refused]), Ok(()));
        assert!(is_refused(&[unknown(Action::Put(1), 6), refused]));
    }

    #[test]
    fn many_writes_without_answers_are_no_trouble() {
        let mut history = vec![put(1, 0, 1)];
        for index in 0..60 {
            history.push(unknown(Action::Put(1000 + index), 2 + index));
            history.push(unknown(Action::Delete, 2 + index));
            history.push(read(Some(1), 2 + index, 3 + index));
        }
        assert_eq!(check(&history), Ok(()));
        history.push(read(Some(7), 500, 501));
        assert!(is_refused(&history));
    }

    /// Histories made by running operations at one moment each within their time are accepted, and most of them no
    /// longer once a single answer is changed.
    #[test]
    fn made_histories_are_accepted_and_planted_lies_are_found() {
        let mut seed = Seed::for_test("made-histories");
        let (mut lies, mut found) = (0, 0);
        for _ in 0..300 {
            let history = made(&mut seed, 120, 8);
            assert_eq!(check(&history), Ok(()), "{history:#?}");
            let mut bent = history.clone();
            let reads: Vec<usize> = (0..bent.len())
                .filter(|index| matches!(bent[*index].outcome, Outcome::Saw(_)))
                .collect();
            let at = *seed.choose(&reads);
            let written: Vec<Option<u64>> = history
                .iter()
                .filter_map(|operation| match operation.action {
                    Action::Put(value)
                        if operation.outcome == Outcome::Done
                            && operation.returned < bent[at].called =>
                    {
                        Some(Some(value))
                    }
                    _ => None,
                })
                .collect();
            // Something old: what was there before the last few writes.
            if written.len() > 12 {
                bent[at].outcome = Outcome::Saw(written[written.len() - 12]);
                lies += 1;
                found += u64::from(check(&bent).is_err());
            }
        }
        assert!(lies > 100 && found * 100 >= lies * 95, "{found} of {lies}");
    }

    /// A history of `count` operations by `clients` clients on a right register; one in ten has no answer.
    fn made(seed: &mut Seed, count: u64, clients: u64) -> Vec<Operation> {
        let mut free_at = vec![0; clients as usize];
        let mut drawn: Vec<(u64, Operation)> = (0..count)
            .map(|index| {
                let client = seed.within(0..clients);
                let called = free_at[client as usize] + seed.within(1..20);
                let returned = called + seed.within(2..60);
                free_at[client as usize] = returned;
                let action = match seed.within(0..10) {
                    0..4 => Action::Put(index),
                    4 => Action::PutIfAbsent(index),
                    5 => Action::Delete,
                    _ => Action::Read,
                };
                let moment = seed.within(called..returned);
                let operation = Operation {
                    client,
                    action,
                    outcome: Outcome::Done,
                    called,
                    returned,
                };
                (moment, operation)
            })
            .collect();
        drawn.sort_by_key(|(moment, _)| *moment);
        let mut state = None;
        for (_, operation) in &mut drawn {
            let loses_answer = seed.chance(10) && operation.action != Action::Read;
            let happens = !loses_answer || seed.chance(50);
            operation.outcome = match operation.action {
                Action::Read => Outcome::Saw(state),
                Action::PutIfAbsent(_) if state.is_some() => Outcome::ConditionFailed,
                Action::Put(value) | Action::PutIfAbsent(value) => {
                    if happens {
                        state = Some(value);
                    }
                    Outcome::Done
                }
                _ => {
                    if happens {
                        state = None;
                    }
                    Outcome::Done
                }
            };
            if loses_answer {
                operation.outcome = Outcome::Unknown;
            }
        }
        drawn.into_iter().map(|(_, operation)| operation).collect()
    }
}
