//! The leaky bucket as a meter: a level that drains at a constant rate and may not rise above the capacity.
//! All arithmetic is on whole micro-tokens and milliseconds, so nothing is rounded and no fraction is lost.
//! `adapter-redis/src/lua/take.lua` is this rule again, in one atomic step; a property test holds the two together.

use crate::{amount::Tokens, fixed_point::Thousandths};
use serde::{Deserialize, Serialize};

const MICRO: i64 = 1_000_000;

/// Largest capacity. Its micro-tokens, doubled, still fit the 53 exact bits of a Lua number.
pub const MAX_CAPACITY: i64 = 1_000_000_000;

/// Capacity and drain of one bucket, after the tier's multipliers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakyBucket {
    capacity: i64,
    /// Micro-tokens per millisecond, which is the same number as thousandths of a token per second.
    leak_micro_per_ms: i64,
}

/// What is in a bucket and when that was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Level {
    pub micro_tokens: i64,
    /// Milliseconds since the Unix epoch; never moves backwards.
    pub at_ms: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    Allowed(Level),
    /// The level drains enough for this amount after `wait_ms`.
    Refused {
        wait_ms: i64,
    },
    /// The amount exceeds the capacity: no wait helps.
    Never,
}

impl LeakyBucket {
    /// Clamps to 1 ..= [`MAX_CAPACITY`] tokens and to a leak of at least 0.001 tokens per second.
    pub fn new(capacity: i64, leak_per_second: Thousandths) -> Self {
        Self { capacity: capacity.clamp(1, MAX_CAPACITY), leak_micro_per_ms: leak_per_second.get().max(1) }
    }

    pub const fn capacity(&self) -> i64 {
        self.capacity
    }

    pub const fn capacity_micro(&self) -> i64 {
        self.capacity * MICRO
    }

    pub const fn leak_micro_per_ms(&self) -> i64 {
        self.leak_micro_per_ms
    }

    /// The level at `now_ms`. A clock that went back changes nothing.
    pub fn drain(&self, level: Level, now_ms: i64) -> Level {
        let elapsed = (now_ms - level.at_ms).max(0);
        let at_ms = level.at_ms.max(now_ms);
        // Compared before it is multiplied, so that a long absence cannot overflow.
        if elapsed > level.micro_tokens / self.leak_micro_per_ms {
            return Level { micro_tokens: 0, at_ms };
        }
        Level { micro_tokens: level.micro_tokens - elapsed * self.leak_micro_per_ms, at_ms }
    }

    pub fn take(&self, level: Level, amount: Tokens, now_ms: i64) -> Take {
        if amount.get() > self.capacity {
            return Take::Never;
        }
        let level = self.drain(level, now_ms);
        let needed = amount.get() * MICRO;
        let excess = level.micro_tokens + needed - self.capacity_micro();
        if excess <= 0 {
            return Take::Allowed(Level { micro_tokens: level.micro_tokens + needed, ..level });
        }
        Take::Refused { wait_ms: excess.div_euclid(self.leak_micro_per_ms) + i64::from(excess % self.leak_micro_per_ms != 0) }
    }

    /// Undoes a take that led to nothing. Never below empty.
    pub fn give_back(&self, level: Level, amount: Tokens, now_ms: i64) -> Level {
        let level = self.drain(level, now_ms);
        Level { micro_tokens: (level.micro_tokens - amount.get().min(MAX_CAPACITY) * MICRO).max(0), ..level }
    }

    /// Whole tokens in the bucket, a started token counted as used; never above the capacity.
    pub fn used(&self, level: Level) -> Tokens {
        let used = (level.micro_tokens + MICRO - 1) / MICRO;
        Tokens::new(used.clamp(0, self.capacity)).unwrap_or(Tokens::ZERO)
    }

    pub fn remaining(&self, level: Level) -> Tokens {
        Tokens::new(self.capacity - self.used(level).get()).unwrap_or(Tokens::ZERO)
    }

    /// Time until the bucket is empty, in milliseconds.
    pub fn empty_after_ms(&self, level: Level) -> i64 {
        (level.micro_tokens + self.leak_micro_per_ms - 1) / self.leak_micro_per_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(amount: i64) -> Tokens {
        Tokens::new(amount).unwrap()
    }

    fn bucket(capacity: i64, rate: &str) -> LeakyBucket {
        LeakyBucket::new(capacity, rate.parse().unwrap())
    }

    #[test]
    fn a_call_each_190_ms_still_drains_at_the_full_rate() {
        // The predecessor lost the fraction of each step: 10 tokens/s became 5.3.
        let bucket = bucket(1_000, "10");
        let mut level = Level { micro_tokens: bucket.capacity_micro(), at_ms: 0 };
        for step in 1..=100 {
            level = bucket.drain(level, step * 190);
        }
        assert_eq!(level.micro_tokens, (1_000 - 190) * MICRO);
    }

    #[test]
    fn a_clock_that_steps_back_drains_nothing_twice() {
        let bucket = bucket(100, "10");
        let level = Level { micro_tokens: 50 * MICRO, at_ms: 10_000 };
        let back = bucket.drain(level, 5_000);
        assert_eq!(back, level);
        assert_eq!(bucket.drain(back, 11_000).micro_tokens, 40 * MICRO);
    }

    #[test]
    fn a_request_above_the_capacity_can_never_pass() {
        assert_eq!(bucket(10, "1").take(Level::default(), tokens(11), 0), Take::Never);
        assert_eq!(bucket(10, "1").take(Level::default(), Tokens::MAX, 0), Take::Never);
    }

    #[test]
    fn the_stated_wait_is_exactly_enough() {
        let bucket = bucket(10, "3");
        let Take::Allowed(full) = bucket.take(Level::default(), tokens(10), 0) else { panic!("an empty bucket takes its capacity") };
        let Take::Refused { wait_ms } = bucket.take(full, tokens(4), 0) else { panic!("a full bucket refuses") };
        assert_eq!(wait_ms, 1_334);
        assert!(matches!(bucket.take(full, tokens(4), wait_ms - 1), Take::Refused { .. }));
        assert!(matches!(bucket.take(full, tokens(4), wait_ms), Take::Allowed(_)));
    }

    proptest! {
        /// Whatever the order of calls and clock steps: admitted ≤ capacity + leak × time, and the level equals an exact model.
        #[test]
        fn the_level_equals_an_exact_model(
            capacity in 1i64..=MAX_CAPACITY, rate in 1i64..=1_000_000_000_000,
            steps in prop::collection::vec((-1_000i64..200_000, 0i64..2_000), 1..60),
        ) {
            let bucket = LeakyBucket::new(capacity, Thousandths::new(rate).unwrap());
            let (mut now, mut last) = (1_000_000i64, 1_000_000i64);
            let mut level = Level { micro_tokens: 0, at_ms: now };
            let mut model: i128 = 0;
            for (step, amount) in steps {
                now += step;
                let elapsed = (now - last).max(0);
                last = last.max(now);
                model = (model - i128::from(elapsed) * i128::from(rate)).max(0);
                let needed = i128::from(amount) * 1_000_000;
                let fits = amount <= capacity && model + needed <= i128::from(capacity) * 1_000_000;
                match bucket.take(level, tokens(amount), now) {
                    Take::Allowed(next) => { prop_assert!(fits); level = next; model += needed; }
                    Take::Refused { wait_ms } => { prop_assert!(!fits && wait_ms > 0); level = bucket.drain(level, now); }
                    Take::Never => prop_assert!(amount > capacity),
                }
                prop_assert_eq!(i128::from(bucket.drain(level, now).micro_tokens), model);
            }
        }
    }
}
