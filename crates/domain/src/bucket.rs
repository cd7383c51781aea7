//! A bucket: how much of one limit is used. One rule for every algorithm, on whole micro-tokens and milliseconds: nothing is rounded,
//! no fraction is lost, and a clock that steps back changes nothing.
//! `adapter-redis/src/lua/take.lua` is this rule again, in one atomic step; the histories of `contract-tests` hold the two together.

mod level;
mod slots;

pub use level::{Level, Portion};
pub use slots::Slots;

use crate::{amount::Tokens, fixed_point::Thousandths};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Micro-tokens of one token.
pub const MICRO: i64 = 1_000_000;

/// Largest capacity. Its micro-tokens, doubled, still fit the 53 exact bits of a Lua number.
pub const MAX_CAPACITY: i64 = 1_000_000_000;

/// Longest window, 31 days. Longer spans are balances, which pools keep.
pub const MAX_WINDOW_SECS: i64 = 31 * 86_400;

/// Most holds that may run at once under one limit.
pub const MAX_SLOTS: i64 = 100_000;

/// For how long a process may keep what it took from a bucket ahead of its requests, milliseconds.
pub const LEASE_MS: i64 = 100;

/// A bucket that is empty again within so many leases is not lent: what has to stay free meanwhile would be more than a tenth of it.
const SHORTEST_LENT_WINDOW_MS: i64 = 20 * LEASE_MS;

/// How a bucket gets empty again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pace {
    /// Constantly, in micro-tokens per millisecond, which is the same number as thousandths of a token per second. The leaky bucket;
    /// and the token bucket, whose tokens are the room that is left here: it starts full because this starts empty.
    Drain { micro_per_ms: i64 },
    /// All at once, so many milliseconds after the first take of the window.
    FixedWindow { ms: i64 },
    /// Each amount by itself, so many milliseconds after it was taken: no span of that length ever holds more than the capacity.
    SlidingWindow { ms: i64 },
    /// Each slot when its hold ends or its deadline is over, whichever comes first.
    Slots,
}

/// Capacity and pace of one bucket, after the tier's multipliers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRule {
    capacity: i64,
    pace: Pace,
}

/// What a store keeps of one bucket. A new one is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Amounts(Level),
    Slots(Slots),
}

/// What a request takes from each of its buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub amount: Tokens,
    /// What takes one slot of a limit on running holds; a request that is no hold takes none.
    pub hold: Option<HoldSlot>,
}

/// The slot of one hold: its charge, and when it is free at the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldSlot {
    pub id: Uuid,
    pub ttl_ms: i64,
}

/// What a request that came to less than it took gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Return {
    pub amount: Tokens,
    /// The hold whose slot is free again.
    pub hold: Option<Uuid>,
    /// Time since it was taken, milliseconds: what has left the bucket by itself meanwhile is not returned again.
    pub held_for_ms: i64,
    /// The request led to nothing at once, so all of it is returned to a bucket that drains. What drained meanwhile is then returned too:
    /// at most what one bucket drains in that time, however many requests are undone.
    pub undone: bool,
}

impl Return {
    /// The time for which a bucket of this pace takes what has left by itself from what is returned.
    pub fn age_ms(&self, pace: Pace) -> i64 {
        match pace {
            Pace::Drain { .. } if self.undone => 0,
            _ => self.held_for_ms.max(0),
        }
    }
}

/// When the amount would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    /// Now.
    Passes,
    /// After so many milliseconds, if nobody else takes meanwhile.
    Millis(i64),
    /// It exceeds the capacity: no wait helps.
    Never,
}

/// A bucket as of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Micro-tokens; of a limit on holds, millionths of a slot.
    pub used_micro: i64,
    /// The store's time that this was computed for, milliseconds since the Unix epoch; never before an earlier one of this bucket.
    pub at_ms: i64,
    /// Until nothing is used, if nothing more is taken. Milliseconds.
    pub empty_after_ms: i64,
}

impl BucketRule {
    /// Clamps to 1 ..= [`MAX_CAPACITY`] tokens and to a drain of at least 0.001 tokens per second.
    pub fn draining(capacity: i64, per_second: Thousandths) -> Self {
        Self::new(capacity, Pace::Drain { micro_per_ms: per_second.get().max(1) })
    }

    /// Clamps to 1 ..= [`MAX_CAPACITY`] tokens and 1 ..= [`MAX_WINDOW_SECS`] seconds.
    pub fn fixed_window(capacity: i64, window_secs: i64) -> Self {
        Self::new(capacity, Pace::FixedWindow { ms: window_secs.clamp(1, MAX_WINDOW_SECS) * 1_000 })
    }

    /// Clamps as [`BucketRule::fixed_window`].
    pub fn sliding_window(capacity: i64, window_secs: i64) -> Self {
        Self::new(capacity, Pace::SlidingWindow { ms: window_secs.clamp(1, MAX_WINDOW_SECS) * 1_000 })
    }

    /// Clamps to 1 ..= [`MAX_SLOTS`] running holds.
    pub fn slots(holds: i64) -> Self {
        Self::new(holds.min(MAX_SLOTS), Pace::Slots)
    }

    fn new(capacity: i64, pace: Pace) -> Self {
        Self { capacity: capacity.clamp(1, MAX_CAPACITY), pace }
    }

    /// Tokens, or running holds.
    pub const fn capacity(&self) -> i64 {
        self.capacity
    }

    pub const fn pace(&self) -> Pace {
        self.pace
    }

    const fn capacity_micro(&self) -> i64 {
        self.capacity * MICRO
    }

    /// A bucket that nobody has taken from.
    pub fn empty(&self) -> State {
        match self.pace {
            Pace::Slots => State::Slots(Slots::default()),
            _ => State::Amounts(Level::default()),
        }
    }

    /// Whether this limits running holds instead of amounts.
    pub const fn is_of_slots(&self) -> bool {
        matches!(self.pace, Pace::Slots)
    }

    /// Whether a stored bucket is of this kind: running holds and amounts say nothing of each other.
    pub const fn reads(&self, state: &State) -> bool {
        self.is_of_slots() == matches!(state, State::Slots(_))
    }

    /// Whether the bucket lets the request pass. It passes as a whole when every one of its buckets does.
    pub fn wait(&self, state: &State, ask: &Ask, now_ms: i64) -> Wait {
        match state {
            State::Amounts(_) if ask.amount.get() > self.capacity => Wait::Never,
            State::Amounts(level) => {
                let level = level.as_of(self.pace, now_ms);
                let excess = level.total() + ask.amount.get() * MICRO - self.capacity_micro();
                if excess <= 0 { Wait::Passes } else { Wait::Millis(level.wait(self.pace, excess, now_ms)) }
            }
            State::Slots(slots) => match ask.hold {
                Some(hold) => slots.wait(self.capacity, hold.id, now_ms).map_or(Wait::Passes, Wait::Millis),
                None => Wait::Passes,
            },
        }
    }

    /// The bucket with the request in it, which [`BucketRule::wait`] let pass.
    pub fn take(&self, state: State, ask: &Ask, now_ms: i64) -> State {
        match state {
            State::Amounts(level) => {
                let micro_tokens = ask.amount.get().min(MAX_CAPACITY) * MICRO;
                State::Amounts(level.as_of(self.pace, now_ms).plus(self.pace, micro_tokens, now_ms))
            }
            State::Slots(mut slots) => {
                if let Some(hold) = ask.hold {
                    slots.take(hold, now_ms);
                }
                State::Slots(slots)
            }
        }
    }

    /// As [`BucketRule::take`] for what was used already, whether it fits or not: a bucket never gets fuller than full.
    pub fn fill(&self, state: State, ask: &Ask, now_ms: i64) -> State {
        let State::Amounts(level) = state else { return self.take(state, ask, now_ms) };
        let level = level.as_of(self.pace, now_ms);
        let room = (self.capacity_micro() - level.total()).max(0);
        let micro_tokens = (ask.amount.get().min(MAX_CAPACITY) * MICRO).min(room);
        State::Amounts(level.plus(self.pace, micro_tokens, now_ms))
    }

    /// The bucket without what is returned; never below empty, and never emptier than if it had not been taken at all.
    pub fn give_back(&self, state: State, back: &Return, now_ms: i64) -> State {
        match state {
            State::Amounts(level) => {
                let micro_tokens = back.amount.get().min(MAX_CAPACITY) * MICRO;
                State::Amounts(level.as_of(self.pace, now_ms).minus(self.pace, micro_tokens, back.age_ms(self.pace), now_ms))
            }
            State::Slots(mut slots) => {
                if let Some(id) = back.hold {
                    slots.free(id);
                }
                State::Slots(slots)
            }
        }
    }

    pub fn reading(&self, state: &State, now_ms: i64) -> Reading {
        match state {
            State::Amounts(level) => {
                let level = level.as_of(self.pace, now_ms);
                Reading {
                    used_micro: level.total(),
                    at_ms: level.at_ms().max(now_ms),
                    empty_after_ms: level.empty_after(self.pace, now_ms),
                }
            }
            State::Slots(slots) => Reading {
                used_micro: slots.count(now_ms) * MICRO,
                at_ms: now_ms,
                empty_after_ms: slots.last_deadline().map_or(0, |last| (last - now_ms).max(0)),
            },
        }
    }

    /// What a take of this amount would be answered, from a reading alone. Whether it passes is exact; of a sliding window that refuses,
    /// the wait is surely long enough and may be longer than needed.
    pub fn preview(&self, reading: Reading, amount: Tokens) -> (Wait, Reading) {
        if amount.get() > self.capacity {
            return (Wait::Never, reading);
        }
        let used_micro = reading.used_micro + amount.get() * MICRO;
        let excess = used_micro - self.capacity_micro();
        if excess <= 0 {
            return (Wait::Passes, Reading { used_micro, ..reading });
        }
        let wait_ms = match self.pace {
            Pace::Drain { micro_per_ms } => level::ceil_div(excess, micro_per_ms),
            Pace::FixedWindow { .. } | Pace::SlidingWindow { .. } | Pace::Slots => reading.empty_after_ms,
        };
        (Wait::Millis(wait_ms), reading)
    }

    /// Whole tokens in the bucket, a started token counted as used; never above the capacity.
    pub fn used(&self, reading: Reading) -> Tokens {
        let used = (reading.used_micro + MICRO - 1) / MICRO;
        Tokens::new(used.clamp(0, self.capacity)).unwrap_or(Tokens::ZERO)
    }

    pub fn remaining(&self, reading: Reading) -> Tokens {
        Tokens::new(self.capacity - self.used(reading).get()).unwrap_or(Tokens::ZERO)
    }

    /// Time in which a full bucket gets empty, milliseconds; `None` for slots, which only their holders know.
    pub fn window_ms(&self) -> Option<i64> {
        match self.pace {
            Pace::Drain { micro_per_ms } => Some(level::ceil_div(self.capacity_micro(), micro_per_ms)),
            Pace::FixedWindow { ms } | Pace::SlidingWindow { ms } => Some(ms),
            Pace::Slots => None,
        }
    }

    /// Whether slices of the bucket are lent: a process takes an amount ahead of its requests, spends it by itself, and gives the rest
    /// back after [`LEASE_MS`].
    ///
    /// No bucket is ever above its capacity by that. What a process spends was taken before, so the only way to spend too much is to
    /// spend it late, when it has left the shared bucket already. From one that drains, no more leaves in a lease than drains in that
    /// time, and no more than that again is missing where a rest is given back as a whole; so twice as much stays free as long as
    /// anything is lent. From a fixed window nothing is spent after its end. What is lent from a sliding window is entered at the end
    /// of its lease, so that it stays for a window from whenever it is spent.
    pub fn lends(&self) -> bool {
        self.window_ms().is_some_and(|ms| ms >= SHORTEST_LENT_WINDOW_MS)
    }

    /// This process's share of the limit, when `processes` keep it without knowing of each other: at least one token, one slot and
    /// 0.001 tokens per second.
    #[must_use]
    pub fn share(&self, processes: u32) -> Self {
        let processes = i64::from(processes.max(1));
        let pace = match self.pace {
            Pace::Drain { micro_per_ms } => Pace::Drain { micro_per_ms: (micro_per_ms / processes).max(1) },
            other => other,
        };
        Self { capacity: (self.capacity / processes).max(1), pace }
    }
}

#[cfg(test)]
mod tests;
