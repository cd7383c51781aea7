//! What charges say about a bucket, in whole micro-tokens without bounds. Weaker than the bucket's own rule by what clocks may differ:
//! what it demands is true of every bucket whose takes were at most that far from the times in the ledger.

use domain::{
    bucket::{BucketRule, MICRO, Pace, Reading},
    charge::{Charge, ChargeStatus},
    ids::ChargeId,
};
use std::collections::VecDeque;

/// By how much the clocks of a process and of the buckets may differ, and for how long an undone take may have been in a bucket.
pub(super) const SLACK_MS: i64 = 5_000;

/// A charge made from usage that already happened has an id without a time of its own.
const OF_ITS_TIME_MS: i64 = 3_600_000;

/// What a charge has surely taken from its buckets and not given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub charge: ChargeId,
    pub at_ms: i64,
    pub micro_tokens: i128,
    /// Of a running hold: when its slot is free.
    pub deadline_ms: Option<i64>,
}

impl Took {
    /// `None` of a charge that has given everything back, or never asked a bucket.
    pub fn of(charge: &Charge) -> Option<Self> {
        let amount = match charge.status {
            ChargeStatus::Held => charge.held,
            // What came on top of a hold was not asked for.
            ChargeStatus::Settled | ChargeStatus::Refunded if !charge.late => charge.settled.min(charge.held),
            _ => return None,
        };
        let at_ms = charge.created_at.timestamp_millis();
        if (charge.spec.id.made_at_ms() - at_ms).abs() > OF_ITS_TIME_MS {
            return None;
        }
        let deadline = charge.expires_at.filter(|_| charge.status == ChargeStatus::Held);
        Some(Self {
            charge: charge.spec.id,
            at_ms,
            micro_tokens: i128::from(amount.get()) * i128::from(MICRO),
            deadline_ms: deadline.map(|at| at.timestamp_millis()),
        })
    }
}

/// What a bucket lets pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    capacity_micro: i128,
    pace: Pace,
}

impl Terms {
    pub fn of(rule: &BucketRule) -> Self {
        Self { capacity_micro: i128::from(rule.capacity()) * i128::from(MICRO), pace: rule.pace() }
    }

    /// Of one limit for two tiers: what lets more pass. Tiers change no window.
    pub fn wider(self, other: Self) -> Self {
        let pace = match (self.pace, other.pace) {
            (Pace::Drain { micro_per_ms: one }, Pace::Drain { micro_per_ms: other }) => Pace::Drain { micro_per_ms: one.max(other) },
            (own, _) => own,
        };
        Self { capacity_micro: self.capacity_micro.max(other.capacity_micro), pace }
    }

    /// Of a bucket that was lost and restored without what was in flight, which was its capacity at most.
    pub fn over_a_loss(self) -> Self {
        Self { capacity_micro: 2 * self.capacity_micro, ..self }
    }
}

/// What must still be in the bucket, in micro-tokens (millionths of a slot).
pub(super) fn least<'a>(terms: Terms, took: impl Iterator<Item = &'a Took>, reading: &Reading) -> i128 {
    let Terms { capacity_micro: capacity, pace } = terms;
    let now_ms = reading.at_ms + SLACK_MS;
    match pace {
        Pace::Drain { micro_per_ms } => {
            let (mut level, mut at_ms) = (0, i64::MIN);
            for took in took {
                let then_ms = took.at_ms - SLACK_MS;
                level = (drained(level, micro_per_ms, at_ms, then_ms) + took.micro_tokens).min(capacity);
                at_ms = then_ms;
            }
            drained(level, micro_per_ms, at_ms, now_ms)
        }
        // When an empty window began is not known.
        Pace::FixedWindow { .. } if reading.used_micro == 0 => 0,
        Pace::FixedWindow { ms } => {
            let began_ms = reading.at_ms + reading.empty_after_ms - ms;
            sum(took.filter(|took| took.at_ms - SLACK_MS >= began_ms)).min(capacity)
        }
        Pace::SlidingWindow { ms } => sum(took.filter(|took| took.at_ms - SLACK_MS > now_ms - ms)).min(capacity),
        Pace::Slots => {
            let running = took.filter(|took| took.deadline_ms.is_some_and(|deadline| deadline > now_ms));
            running.map(|_| i128::from(MICRO)).sum::<i128>().min(capacity)
        }
    }
}

/// The first charge, oldest first, with which more had passed than the limit lets, the most it lets, and what had passed.
pub(super) fn first_beyond<'a>(terms: Terms, took: impl Iterator<Item = &'a Took>) -> Option<(ChargeId, i128, i128)> {
    let Terms { capacity_micro: capacity, pace } = terms;
    match pace {
        Pace::Drain { micro_per_ms } => {
            let most = capacity + i128::from(micro_per_ms) * i128::from(2 * SLACK_MS);
            let (mut level, mut at_ms) = (0, i64::MIN);
            took.map(|took| {
                level = drained(level, micro_per_ms, at_ms, took.at_ms) + took.micro_tokens;
                at_ms = took.at_ms;
                (took.charge, most, level)
            })
            .find(|(_, most, level)| level > most)
        }
        // Two windows may touch.
        Pace::FixedWindow { ms } => first_beyond_in_span(took, ms, 2 * capacity),
        Pace::SlidingWindow { ms } => first_beyond_in_span(took, ms, capacity),
        Pace::Slots => None,
    }
}

fn first_beyond_in_span<'a>(took: impl Iterator<Item = &'a Took>, ms: i64, most: i128) -> Option<(ChargeId, i128, i128)> {
    let (mut span, mut level) = (VecDeque::new(), 0);
    for took in took {
        while let Some(oldest) = span.front().copied().filter(|oldest: &Took| took.at_ms - oldest.at_ms >= ms - 2 * SLACK_MS) {
            level -= oldest.micro_tokens;
            span.pop_front();
        }
        level += took.micro_tokens;
        span.push_back(*took);
        if level > most {
            return Some((took.charge, most, level));
        }
    }
    None
}

/// Whole tokens, a started one counted.
pub(super) fn shown(micro_tokens: i128) -> i128 {
    (micro_tokens + i128::from(MICRO) - 1) / i128::from(MICRO)
}

fn drained(level: i128, micro_per_ms: i64, from_ms: i64, to_ms: i64) -> i128 {
    let ms = (i128::from(to_ms) - i128::from(from_ms)).max(0);
    (level - ms * i128::from(micro_per_ms)).max(0)
}

fn sum<'a>(took: impl Iterator<Item = &'a Took>) -> i128 {
    took.map(|took| took.micro_tokens).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::{
        amount::Tokens,
        bucket::{Ask, HoldSlot, State, Wait},
        fixed_point::Thousandths,
    };
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    use uuid::Uuid;

    const START_MS: i64 = 1_800_000_000_000;

    fn draining(capacity: i64, thousandths: i64) -> BucketRule {
        BucketRule::draining(capacity, Thousandths::new(thousandths).unwrap())
    }

    fn took(number: u128, at_ms: i64, amount: i64) -> Took {
        let micro_tokens = i128::from(amount) * i128::from(MICRO);
        Took { charge: ChargeId(Uuid::from_u128(number)), at_ms, micro_tokens, deadline_ms: None }
    }

    /// Plays takes by the bucket's own rule, while the ledger's clock is up to the slack away from the bucket's.
    fn play(rule: &BucketRule, rng: &mut StdRng) {
        let (mut state, mut now_ms, mut passed): (State, _, Vec<Took>) = (rule.empty(), START_MS, Vec::new());
        for number in 0..200 {
            now_ms += [0, 5, 400, 9_000, 70_000][rng.random_range(0..5)];
            let amount = rng.random_range(0..40);
            let hold = rule.is_of_slots().then(|| HoldSlot { id: Uuid::from_u128(number), ttl_ms: 30_000 });
            let ask = Ask { amount: Tokens::new(amount).unwrap(), hold };
            if rule.wait(&state, &ask, now_ms) == Wait::Passes {
                state = rule.take(state, &ask, now_ms);
                let at_ms = now_ms + rng.random_range(-SLACK_MS..=SLACK_MS);
                passed.push(Took { deadline_ms: hold.map(|hold| at_ms + hold.ttl_ms), ..took(number, at_ms, amount) });
                passed.sort_by_key(|took| took.at_ms);
            }
            let reading = rule.reading(&state, now_ms);
            let least = least(Terms::of(rule), passed.iter(), &reading);
            assert!(least <= i128::from(reading.used_micro), "{rule:?} after {number}: {least} of {reading:?}");
            assert_eq!(first_beyond(Terms::of(rule), passed.iter()).map(|(charge, ..)| charge), None, "{rule:?}");
        }
    }

    #[test]
    fn a_bucket_that_was_asked_each_time_is_never_too_empty_nor_too_generous() {
        let mut rng = StdRng::seed_from_u64(9);
        for _ in 0..60 {
            play(&draining(rng.random_range(20..300), rng.random_range(1..8_000)), &mut rng);
            play(&BucketRule::fixed_window(rng.random_range(20..300), rng.random_range(12..200)), &mut rng);
            play(&BucketRule::sliding_window(rng.random_range(20..300), rng.random_range(12..200)), &mut rng);
            play(&BucketRule::slots(rng.random_range(1..5)), &mut rng);
        }
    }

    #[test]
    fn what_was_taken_a_moment_ago_is_demanded_up_to_what_may_have_left() {
        let reading = Reading { used_micro: 60 * MICRO, at_ms: START_MS, empty_after_ms: 60_000 };
        let taken = [took(1, START_MS - 30_000, 40), took(2, START_MS, 20)];
        // 30 and 10 seconds at one token per second; nothing of the first is left but its last ten.
        assert_eq!(shown(least(Terms::of(&draining(100, 1_000)), taken.iter(), &reading)), 20);
        assert_eq!(shown(least(Terms::of(&BucketRule::sliding_window(100, 60)), taken.iter(), &reading)), 60);
        assert_eq!(shown(least(Terms::of(&BucketRule::sliding_window(100, 35)), taken.iter(), &reading)), 20);
        assert_eq!(shown(least(Terms::of(&BucketRule::sliding_window(50, 60)), taken.iter(), &reading)), 50, "never fuller than full");
        // It began with the reading's moment plus what is left of it minus its length.
        assert_eq!(shown(least(Terms::of(&BucketRule::fixed_window(100, 120)), taken.iter(), &reading)), 60);
        assert_eq!(shown(least(Terms::of(&BucketRule::fixed_window(100, 70)), taken.iter(), &reading)), 20);
    }

    #[test]
    fn the_first_charge_beyond_what_a_limit_lets_is_named() {
        let burst: Vec<Took> = (1..=30).map(|number| took(number, START_MS + 100 * i64::try_from(number).unwrap(), 10)).collect();
        let first = |rule: &BucketRule| {
            first_beyond(Terms::of(rule), burst.iter()).map(|(charge, most, level)| (charge.0.as_u128(), shown(most), shown(level)))
        };
        // 100, and 10 seconds at one token per second.
        assert_eq!(first(&draining(100, 1_000)), Some((12, 110, 119)));
        assert_eq!(first(&BucketRule::sliding_window(100, 60)), Some((11, 100, 110)));
        assert_eq!(first(&BucketRule::fixed_window(100, 60)), Some((21, 200, 210)));
        assert_eq!(first(&draining(300, 1_000)), None);
        assert_eq!(first(&BucketRule::slots(1)), None);
    }

    #[test]
    fn the_wider_of_two_tiers_counts() {
        let wider = Terms::of(&draining(100, 5_000)).wider(Terms::of(&draining(300, 1_000)));
        let burst = [took(1, START_MS, 340)];
        assert_eq!(first_beyond(wider, burst.iter()).map(|(_, most, _)| shown(most)), None);
        let burst = [took(1, START_MS, 351)];
        assert_eq!(first_beyond(wider, burst.iter()).map(|(_, most, _)| shown(most)), Some(350));
    }
}
