//! The amounts in a bucket, and when they leave it.

use super::Pace;

/// Parts that a sliding window is divided into. Amounts taken in the same part leave together, when the last of them is a window old:
/// each stays for one window at least and for one window and a part at most.
const PARTS: i64 = 20;

/// Micro-tokens that were taken at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Portion {
    pub micro_tokens: i64,
    /// Milliseconds since the Unix epoch: of the last drain, of the start of a fixed window, or of the last take of a sliding one's part.
    pub at_ms: i64,
}

/// What is in a bucket. Every algorithm reads what another one has written, so that a changed limit keeps the usage so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    newest: Portion,
    /// Of a sliding window, newest first.
    earlier: Vec<Portion>,
}

impl Level {
    /// From what a store kept, newest first.
    pub const fn stored(newest: Portion, earlier: Vec<Portion>) -> Self {
        Self { newest, earlier }
    }

    /// For a store to keep, newest first.
    pub fn portions(&self) -> impl Iterator<Item = Portion> {
        std::iter::once(self.newest).chain(self.earlier.iter().copied())
    }

    pub(super) fn total(&self) -> i64 {
        self.portions().map(|portion| portion.micro_tokens).sum()
    }

    pub(super) const fn at_ms(&self) -> i64 {
        self.newest.at_ms
    }

    /// Without what has left by then.
    pub(super) fn as_of(&self, pace: Pace, now_ms: i64) -> Self {
        let at_ms = self.newest.at_ms;
        let age_ms = now_ms - at_ms;
        match pace {
            Pace::Drain { micro_per_ms } => {
                let micro_tokens = left_after(self.total(), micro_per_ms, age_ms);
                Portion { micro_tokens, at_ms: at_ms.max(now_ms) }.into()
            }
            Pace::FixedWindow { ms } | Pace::SlidingWindow { ms } if age_ms >= ms => Portion { micro_tokens: 0, at_ms: now_ms }.into(),
            Pace::SlidingWindow { ms } => {
                let earlier = self.earlier.iter().copied().take_while(|portion| now_ms - portion.at_ms < ms).collect();
                Self { newest: self.newest, earlier }
            }
            Pace::FixedWindow { .. } | Pace::Slots => Portion { micro_tokens: self.total(), at_ms }.into(),
        }
    }

    /// Of a level as of `now_ms`: until `excess` micro-tokens have left. They are not more than there are.
    pub(super) fn wait(&self, pace: Pace, excess: i64, now_ms: i64) -> i64 {
        let at_ms = self.newest.at_ms;
        match pace {
            Pace::Drain { micro_per_ms } => (at_ms - now_ms).max(0) + ceil_div(excess, micro_per_ms),
            Pace::SlidingWindow { ms } => {
                let mut left = excess;
                for portion in self.earlier.iter().rev() {
                    left -= portion.micro_tokens;
                    if left <= 0 {
                        return portion.at_ms + ms - now_ms;
                    }
                }
                at_ms + ms - now_ms
            }
            Pace::FixedWindow { ms } => at_ms + ms - now_ms,
            Pace::Slots => 0,
        }
    }

    /// Of a level as of `now_ms`.
    pub(super) fn plus(mut self, pace: Pace, micro_tokens: i64, now_ms: i64) -> Self {
        let Pace::SlidingWindow { ms } = pace else {
            self.newest.micro_tokens += micro_tokens;
            return self;
        };
        if micro_tokens == 0 {
            return self;
        }
        let at_ms = self.newest.at_ms.max(now_ms);
        let part_ms = (ms / PARTS).max(1);
        if self.newest.micro_tokens > 0 && at_ms / part_ms != self.newest.at_ms / part_ms {
            self.earlier.insert(0, self.newest);
            self.newest.micro_tokens = 0;
        }
        self.newest = Portion { micro_tokens: self.newest.micro_tokens + micro_tokens, at_ms };
        self
    }

    /// Of a level as of `now_ms`: without the part of an amount taken `held_for_ms` ago that has not left by itself.
    pub(super) fn minus(mut self, pace: Pace, micro_tokens: i64, held_for_ms: i64, now_ms: i64) -> Self {
        let taken_at_ms = self.newest.at_ms.max(now_ms) - held_for_ms;
        match pace {
            Pace::Drain { micro_per_ms } => {
                let still_there = left_after(micro_tokens, micro_per_ms, held_for_ms);
                self.newest.micro_tokens = (self.newest.micro_tokens - still_there).max(0);
            }
            // Of an earlier window nothing is left.
            Pace::FixedWindow { .. } if taken_at_ms < self.newest.at_ms => {}
            Pace::FixedWindow { .. } | Pace::Slots => self.newest.micro_tokens = (self.newest.micro_tokens - micro_tokens).max(0),
            Pace::SlidingWindow { ms } => {
                if now_ms - taken_at_ms >= ms {
                    return self;
                }
                // A portion carries the time of its last take, so the amount is in the oldest one that is not before it.
                let own = self.earlier.iter_mut().rev().find(|portion| portion.at_ms >= taken_at_ms).unwrap_or(&mut self.newest);
                own.micro_tokens = (own.micro_tokens - micro_tokens).max(0);
            }
        }
        self
    }

    /// Of a level as of `now_ms`.
    pub(super) fn empty_after(&self, pace: Pace, now_ms: i64) -> i64 {
        if self.total() == 0 {
            return 0;
        }
        let at_ms = self.newest.at_ms;
        match pace {
            Pace::Drain { micro_per_ms } => (at_ms - now_ms).max(0) + ceil_div(self.newest.micro_tokens, micro_per_ms),
            Pace::FixedWindow { ms } | Pace::SlidingWindow { ms } => at_ms + ms - now_ms,
            Pace::Slots => 0,
        }
    }
}

impl From<Portion> for Level {
    fn from(newest: Portion) -> Self {
        Self { newest, earlier: Vec::new() }
    }
}

/// Compared before it is multiplied, so that a long absence cannot overflow.
const fn left_after(micro_tokens: i64, micro_per_ms: i64, elapsed_ms: i64) -> i64 {
    if elapsed_ms <= 0 {
        return micro_tokens;
    }
    if elapsed_ms > micro_tokens / micro_per_ms {
        return 0;
    }
    micro_tokens - elapsed_ms * micro_per_ms
}

/// Of numbers that are not negative.
pub(super) const fn ceil_div(amount: i64, divisor: i64) -> i64 {
    amount / divisor + if amount % divisor == 0 { 0 } else { 1 }
}
