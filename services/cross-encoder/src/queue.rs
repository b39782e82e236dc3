//! What waits to be computed, and what is computed next. Pure: time is an argument.
//!
//! **Which call's turn it is.** Calls get compute time in rounds: a call moves on by a round for each [`ROUND_TOKENS`] that it was
//! given, and the calls of the earliest round come first, among them the earliest deadline. A call that comes joins the round that is
//! being served. So of many calls none waits for more than a batch of each other one, however many passages they have
//! (start-time fair queueing, Goyal, Vin and Cheng 1996, with deadlines inside a round). A window over a long passage is a pair like any
//! other, so a call pays for its long passages.
//!
//! **What is in a batch.** The first waiting pair of the call whose turn it is, for it is the one that the caller wants most; then, while
//! there is room, whatever is nearest to it in length among the next [`LOOK_AHEAD`] pairs of each call. A pair that would cost more
//! padding than a run of its own is left for later.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use inference::Pair;

/// Tokens of a batch, padding included; one longer pair is a batch of its own.
pub(crate) const BATCH_TOKENS: usize = 256;
/// Compute that a call gets before it is the turn of the others.
const ROUND_TOKENS: u64 = BATCH_TOKENS as u64;
/// How far from its place in the caller's order a pair may be taken for its length.
pub(crate) const LOOK_AHEAD: usize = 8;
/// Padding tokens that are cheaper than a run of their own: what a run costs whatever is in it, too.
pub(crate) const WORTHWHILE_PADDING_TOKENS: usize = 10;

/// Names a call; the later one has the greater number.
pub(crate) type CallId = u64;

/// Pairs that are computed together.
pub(crate) type Batch = Vec<Taken>;

/// A pair that has left the queue.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) call: CallId,
    /// Of its passage among those of the call.
    pub(crate) index: usize,
    pub(crate) pair: Pair,
}

/// The waiting pairs of all calls.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    calls: BTreeMap<CallId, Waiting>,
    next_id: CallId,
    tokens: usize,
    /// The round that is being served.
    round: u64,
}

#[derive(Debug)]
struct Waiting {
    /// In the caller's order, with the places of their passages.
    pairs: VecDeque<(usize, Pair)>,
    /// None of its pairs has been pushed yet.
    is_unread: bool,
    deadline: Option<Instant>,
    /// Tokens that it was given, counted from those of the round in which it came.
    given_tokens: u64,
}

/// Where a pair waits.
#[derive(Debug, Clone, Copy)]
struct Place {
    call: CallId,
    position: usize,
    tokens: usize,
}

/// What a batch costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchSize {
    pub(crate) tokens: usize,
    /// That bring the shorter pairs to the length of the longest: they are computed like any other.
    pub(crate) padding_tokens: usize,
}

impl BatchSize {
    pub(crate) fn of(batch: &[Taken]) -> Self {
        let lengths = || batch.iter().map(|taken| taken.pair.tokens());
        let tokens = lengths().sum();
        Self {
            tokens,
            padding_tokens: lengths().max().unwrap_or(0) * batch.len() - tokens,
        }
    }
}

impl Queue {
    /// Of all pairs that wait.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens that are computed before the first pair of a call that comes now, at most: a round of each other call. Of one whose pairs
    /// are not known yet it is a whole round.
    pub(crate) fn tokens_before_newcomer(&self) -> usize {
        let rounds = self.calls.values().map(Waiting::tokens_of_round);
        rounds.sum()
    }

    /// A call whose pairs will be pushed.
    pub(crate) fn enter(&mut self, deadline: Option<Instant>) -> CallId {
        let id = self.next_id;
        self.next_id += 1;
        let waiting = Waiting {
            pairs: VecDeque::new(),
            is_unread: true,
            deadline,
            given_tokens: self.round * ROUND_TOKENS,
        };
        self.calls.insert(id, waiting);
        id
    }

    /// Adds a call's next pairs, behind those that it has. False: the call has left.
    pub(crate) fn push(
        &mut self,
        call: CallId,
        pairs: impl IntoIterator<Item = (usize, Pair)>,
    ) -> bool {
        let Some(waiting) = self.calls.get_mut(&call) else {
            return false;
        };
        waiting.is_unread = false;
        for (index, pair) in pairs {
            self.tokens += pair.tokens();
            waiting.pairs.push_back((index, pair));
        }
        true
    }

    /// Removes a call and tells how many pairs nobody needs any more.
    pub(crate) fn leave(&mut self, call: CallId) -> usize {
        let Some(waiting) = self.calls.remove(&call) else {
            return 0;
        };
        self.tokens -= waiting
            .pairs
            .iter()
            .map(|(_, pair)| pair.tokens())
            .sum::<usize>();
        waiting.pairs.len()
    }

    /// When a call's time is over, if ever.
    pub(crate) fn deadline(&self, call: CallId) -> Option<Instant> {
        self.calls.get(&call)?.deadline
    }

    /// The calls whose time is over.
    pub(crate) fn expired(&self, now: Instant) -> Vec<CallId> {
        let is_over = |waiting: &Waiting| waiting.deadline.is_some_and(|deadline| deadline <= now);
        let calls = self.calls.iter().filter(|(_, waiting)| is_over(waiting));
        calls.map(|(&id, _)| id).collect()
    }

    /// What is to be computed next by one of so many threads; nothing where nothing waits.
    pub(crate) fn take(&mut self, threads: usize) -> Batch {
        let Some((first, round)) = self.next_turn() else {
            return Batch::new();
        };
        self.round = round;
        // What is left is shared by all threads: none is idle while another one has two batches. A share has room for the padding that
        // is cheaper than a run of its own.
        let share = self.tokens.div_ceil(threads) + WORTHWHILE_PADDING_TOKENS;
        let room = BATCH_TOKENS.min(share);
        let mut longest = first.tokens;
        let mut batch = Batch::from_iter(self.remove(first));
        while let Some((next, padding)) = self.nearest(first, longest, batch.len()) {
            let longest_with = longest.max(next.tokens);
            if padding > WORTHWHILE_PADDING_TOKENS || (batch.len() + 1) * longest_with > room {
                break;
            }
            longest = longest_with;
            batch.extend(self.remove(next));
        }
        batch
    }

    /// The first pair of the call whose turn it is, and that call's round.
    fn next_turn(&self) -> Option<(Place, u64)> {
        let with_pairs = self.calls.iter().filter_map(|(&call, waiting)| {
            let (_, pair) = waiting.pairs.front()?;
            let place = Place {
                call,
                position: 0,
                tokens: pair.tokens(),
            };
            Some((waiting.turn(call), place))
        });
        let (turn, place) = with_pairs.min_by_key(|(turn, _)| *turn)?;
        Some((place, turn.0))
    }

    /// The pair that adds least padding to a batch of `count` pairs up to `longest` tokens; of equal ones the first of the call
    /// whose turn it is, then of the call that came first.
    fn nearest(&self, first: Place, longest: usize, count: usize) -> Option<(Place, usize)> {
        let padding =
            |tokens: usize| tokens.saturating_sub(longest) * count + longest.saturating_sub(tokens);
        let ahead = self
            .calls
            .iter()
            .flat_map(|(&call, waiting)| waiting.ahead(call));
        ahead
            .map(|place| (place, padding(place.tokens)))
            .min_by_key(|(place, padding)| {
                (
                    *padding,
                    place.call != first.call,
                    place.call,
                    place.position,
                )
            })
    }

    fn remove(&mut self, place: Place) -> Option<Taken> {
        let waiting = self.calls.get_mut(&place.call)?;
        let (index, pair) = waiting.pairs.remove(place.position)?;
        waiting.given_tokens += pair.tokens() as u64;
        self.tokens -= pair.tokens();
        Some(Taken {
            call: place.call,
            index,
            pair,
        })
    }
}

impl Waiting {
    /// Calls are served in this order: by round, by deadline (none is the latest), by arrival.
    fn turn(&self, id: CallId) -> (u64, bool, Option<Instant>, CallId) {
        let round = self.given_tokens / ROUND_TOKENS;
        (round, self.deadline.is_none(), self.deadline, id)
    }

    /// What it is given before another call's turn, at most.
    fn tokens_of_round(&self) -> usize {
        if self.is_unread {
            return BATCH_TOKENS;
        }
        let lengths = self.pairs.iter().map(|(_, pair)| pair.tokens());
        // A batch of one pair may be longer than a round: of that nothing is known before it is taken.
        let mut tokens = 0;
        for length in lengths {
            tokens += length;
            if tokens >= BATCH_TOKENS {
                return BATCH_TOKENS;
            }
        }
        tokens
    }

    /// The pairs that may be taken for their length.
    fn ahead(&self, call: CallId) -> impl Iterator<Item = Place> {
        let pairs = self.pairs.iter().take(LOOK_AHEAD).enumerate();
        pairs.map(move |(position, (_, pair))| Place {
            call,
            position,
            tokens: pair.tokens(),
        })
    }
}

#[cfg(test)]
mod tests;
