//! Random histories of buckets against the domain's rule and against an exact model in whole numbers without bounds.

use super::{bucket, give_back, new_payer, take};
use crate::customers::tokens;
use chrono::TimeDelta;
use domain::{
    amount::Tokens,
    bucket::{Ask, BucketRule, HoldSlot, MAX_CAPACITY, Pace, Reading, Return, State, Wait},
    fixed_point::Thousandths,
};
use ports::{
    Clock,
    rate_limits::{Bucket, GiveBack, RateLimits, Take},
};
use proptest::{prelude::*, test_runner::TestCaseError};
use uuid::Uuid;

const MICRO: i128 = 1_000_000;

#[derive(Clone, Debug)]
pub enum Step {
    Take(Tokens),
    /// Above zero.
    Fill(Tokens),
    /// Of something taken so many milliseconds ago, as the caller believes; and whether the request is undone.
    GiveBack(Tokens, i64, bool),
    /// Of one of the buckets, and from now on.
    ChangeRule(usize, BucketRule),
    Peek,
}

/// Three buckets of one request with their rules, and what happens to them: milliseconds that the clock moves before each step, and the step.
#[derive(Clone, Debug)]
pub struct History {
    rules: [BucketRule; 3],
    steps: Vec<(i64, Step)>,
}

pub fn any_history() -> impl Strategy<Value = History> {
    let steps = prop::collection::vec((any_pause(), any_step()), 1..60);
    (prop::array::uniform3(any_rule()), steps).prop_map(|(rules, steps)| History { rules, steps })
}

pub(super) fn any_rule() -> impl Strategy<Value = BucketRule> {
    let capacity = || prop_oneof![1i64..2_000, 1..=MAX_CAPACITY, Just(MAX_CAPACITY)];
    let rate = prop_oneof![1i64..100_000, 1..=Thousandths::MAX.get(), Just(Thousandths::MAX.get()), Just(1)];
    let secs = || prop_oneof![1i64..100, 1..=31 * 86_400i64, Just(1)];
    prop_oneof![
        2 => (capacity(), rate).prop_map(|(capacity, rate)| BucketRule::draining(capacity, Thousandths::new(rate).unwrap())),
        1 => (capacity(), secs()).prop_map(|(capacity, secs)| BucketRule::fixed_window(capacity, secs)),
        2 => (capacity(), secs()).prop_map(|(capacity, secs)| BucketRule::sliding_window(capacity, secs)),
    ]
}

fn any_amount() -> impl Strategy<Value = Tokens> {
    prop_oneof![5 => 0i64..1_000, 2 => 0..=MAX_CAPACITY, 1 => 0..=Tokens::MAX.get(), 1 => Just(MAX_CAPACITY)].prop_map(tokens)
}

/// Milliseconds to days, or back.
pub(super) fn any_pause() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 0i64..300, 3 => 0i64..5_000, 2 => 0i64..100_000, 1 => 0i64..10 * 86_400_000, 1 => -3_600_000i64..0, 1 => Just(1)]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_amount().prop_map(Step::Take),
        2 => any_amount().prop_map(|amount| Step::Fill(amount.max(tokens(1)))),
        2 => (any_amount(), prop_oneof![Just(0i64), 0i64..10_000, 0i64..10 * 86_400_000], any::<bool>())
            .prop_map(|(amount, ms, undone)| Step::GiveBack(amount, ms, undone)),
        1 => (0usize..3, any_rule()).prop_map(|(which, rule)| Step::ChangeRule(which, rule)),
        1 => Just(Step::Peek),
    ]
}

/// A bucket as a list of amounts and when each was put in, oldest first, in numbers that cannot overflow.
#[derive(Clone, Debug, Default)]
pub(super) struct Exact {
    amounts: Vec<(i128, i128)>,
}

impl Exact {
    /// Drops what has left. A drain and a fixed window know one amount only.
    pub(super) fn move_to(&mut self, pace: Pace, now_ms: i128) {
        let newest_ms = self.amounts.last().map_or(0, |(_, at_ms)| *at_ms);
        match pace {
            Pace::Drain { micro_per_ms } => {
                let left = self.used() - (now_ms - newest_ms).max(0) * i128::from(micro_per_ms);
                self.amounts = vec![(left.max(0), now_ms.max(newest_ms))];
            }
            Pace::FixedWindow { ms } | Pace::SlidingWindow { ms } if now_ms - newest_ms >= i128::from(ms) => {
                self.amounts = vec![(0, now_ms)];
            }
            Pace::SlidingWindow { ms } => self.amounts.retain(|(_, at_ms)| now_ms - at_ms < i128::from(ms)),
            _ => self.amounts = vec![(self.used(), newest_ms)],
        }
    }

    pub(super) fn used(&self) -> i128 {
        self.amounts.iter().map(|(amount, _)| amount).sum()
    }

    pub(super) fn fits(&self, rule: &BucketRule, amount: Tokens) -> bool {
        self.used() + i128::from(amount.get()) * MICRO <= i128::from(rule.capacity()) * MICRO
    }

    pub(super) fn take(&mut self, pace: Pace, amount: Tokens, now_ms: i128) {
        self.put(pace, i128::from(amount.get()) * MICRO, now_ms);
    }

    /// What was used before, as far as there is room.
    pub(super) fn fill(&mut self, rule: &BucketRule, amount: Tokens, now_ms: i128) {
        let room = (i128::from(rule.capacity()) * MICRO - self.used()).max(0);
        self.put(rule.pace(), (i128::from(amount.get()) * MICRO).min(room), now_ms);
    }

    fn put(&mut self, pace: Pace, amount: i128, now_ms: i128) {
        let Some((newest, at_ms)) = self.amounts.last_mut() else { return };
        match pace {
            Pace::SlidingWindow { ms } if amount > 0 => {
                let (part_ms, then_ms) = ((i128::from(ms) / 20).max(1), now_ms.max(*at_ms));
                if *newest == 0 || *at_ms / part_ms == then_ms / part_ms {
                    (*newest, *at_ms) = (*newest + amount, then_ms);
                } else {
                    self.amounts.push((amount, then_ms));
                }
            }
            _ => *newest += amount,
        }
    }

    pub(super) fn give_back(&mut self, pace: Pace, back: &Return, now_ms: i128) {
        let mut amount = i128::from(back.amount.get().min(MAX_CAPACITY)) * MICRO;
        let held_for_ms = i128::from(back.held_for_ms);
        let newest = self.amounts.len() - 1;
        let taken_at_ms = self.amounts[newest].1.max(now_ms) - held_for_ms;
        let own = match pace {
            Pace::Drain { .. } if back.undone => newest,
            Pace::Drain { micro_per_ms } => {
                amount = (amount - held_for_ms * i128::from(micro_per_ms)).max(0);
                newest
            }
            Pace::FixedWindow { .. } if taken_at_ms < self.amounts[newest].1 => return,
            Pace::SlidingWindow { ms } if now_ms - taken_at_ms >= i128::from(ms) => return,
            Pace::SlidingWindow { .. } => self.amounts.iter().position(|(_, at_ms)| *at_ms >= taken_at_ms).unwrap_or(newest),
            _ => newest,
        };
        self.amounts[own].0 = (self.amounts[own].0 - amount).max(0);
    }
}

/// The same three buckets three times: in the store, by the rule, and exact.
struct Played<'a> {
    limits: &'a dyn RateLimits,
    buckets: Vec<Bucket>,
    /// `None`: nobody has taken from it yet.
    states: Vec<Option<State>>,
    exact: Vec<Exact>,
}

/// Plays a history on new buckets; `clock` is the store's.
pub async fn the_store_the_rule_and_an_exact_model_agree(
    limits: &dyn RateLimits,
    clock: &Clock,
    history: History,
) -> Result<(), TestCaseError> {
    let payer = new_payer(limits).await;
    let buckets = history.rules.iter().zip(["a", "b", "c"]).map(|(rule, limit)| bucket(payer, limit, *rule)).collect();
    let mut played = Played { limits, buckets, states: vec![None; 3], exact: vec![Exact::default(); 3] };
    for (pause, step) in history.steps {
        clock.advance(TimeDelta::milliseconds(pause));
        let now_ms = clock.now().timestamp_millis();
        match step {
            Step::Take(amount) => played.take(amount, now_ms).await?,
            Step::Fill(amount) => played.fill(amount, now_ms).await,
            Step::GiveBack(amount, held_for_ms, undone) => {
                played.give_back(Return { amount, hold: None, held_for_ms, undone }, now_ms).await;
            }
            Step::ChangeRule(which, rule) => played.buckets[which].rule = rule,
            Step::Peek => played.peek(now_ms).await?,
        }
    }
    Ok(())
}

impl Played<'_> {
    fn state(&self, i: usize) -> State {
        self.states[i].clone().unwrap_or_else(|| self.buckets[i].rule.empty())
    }

    async fn take(&mut self, amount: Tokens, now_ms: i64) -> Result<(), TestCaseError> {
        let ask = Ask { amount, hold: None };
        let answer = self.limits.take(&[Take { buckets: self.buckets.clone(), ask }]).await.unwrap().remove(0);
        let waits: Vec<Wait> = (0..3).map(|i| self.buckets[i].rule.wait(&self.state(i), &ask, now_ms)).collect();
        let allowed = waits.iter().all(|wait| *wait == Wait::Passes);
        prop_assert_eq!(answer.allowed(), allowed);
        for (i, wait) in waits.into_iter().enumerate() {
            let rule = self.buckets[i].rule;
            let mut exact = self.exact[i].clone();
            exact.move_to(rule.pace(), i128::from(now_ms));
            prop_assert_eq!(exact.fits(&rule, amount), wait == Wait::Passes);
            if allowed {
                exact.take(rule.pace(), amount, i128::from(now_ms));
                self.states[i] = Some(rule.take(self.state(i), &ask, now_ms));
                self.exact[i] = exact.clone();
            }
            prop_assert_eq!(answer.levels[i].wait, wait);
            self.agrees(i, answer.levels[i].reading, &exact, now_ms)?;
            if let Wait::Millis(wait_ms) = wait {
                exact.move_to(rule.pace(), i128::from(now_ms + wait_ms));
                prop_assert!(wait_ms > 0 && exact.fits(&rule, amount), "{wait_ms} ms are not enough");
            }
        }
        Ok(())
    }

    fn agrees(&self, i: usize, shown: Reading, exact: &Exact, now_ms: i64) -> Result<(), TestCaseError> {
        prop_assert_eq!(shown, self.buckets[i].rule.reading(&self.state(i), now_ms));
        prop_assert_eq!(i128::from(shown.used_micro), exact.used());
        let mut later = exact.clone();
        later.move_to(self.buckets[i].rule.pace(), i128::from(now_ms + shown.empty_after_ms));
        prop_assert_eq!(later.used(), 0);
        Ok(())
    }

    async fn fill(&mut self, amount: Tokens, now_ms: i64) {
        let ask = Ask { amount, hold: None };
        self.limits.fill(&[Take { buckets: self.buckets.clone(), ask }]).await.unwrap();
        for i in 0..3 {
            let rule = self.buckets[i].rule;
            self.states[i] = Some(rule.fill(self.state(i), &ask, now_ms));
            self.exact[i].move_to(rule.pace(), i128::from(now_ms));
            self.exact[i].fill(&rule, amount, i128::from(now_ms));
        }
    }

    async fn give_back(&mut self, back: Return, now_ms: i64) {
        self.limits.give_back(&[GiveBack { buckets: self.buckets.clone(), back }]).await.unwrap();
        for i in 0..3 {
            // What was never taken from is not stored, and giving back to it stores nothing.
            let Some(state) = self.states[i].take() else { continue };
            let rule = self.buckets[i].rule;
            self.states[i] = Some(rule.give_back(state, &back, now_ms));
            self.exact[i].move_to(rule.pace(), i128::from(now_ms));
            self.exact[i].give_back(rule.pace(), &back, i128::from(now_ms));
        }
    }

    async fn peek(&self, now_ms: i64) -> Result<(), TestCaseError> {
        let readings = self.limits.peek(&self.buckets).await.unwrap();
        for (i, shown) in readings.into_iter().enumerate() {
            let mut exact = self.exact[i].clone();
            exact.move_to(self.buckets[i].rule.pace(), i128::from(now_ms));
            self.agrees(i, shown, &exact, now_ms)?;
        }
        Ok(())
    }
}

/// Which hold, for how long, and whether it ends instead of beginning.
pub fn any_holds() -> impl Strategy<Value = Vec<(i64, u128, i64, bool)>> {
    prop::collection::vec((0i64..400, 0u128..12, 1i64..2_000, any::<bool>()), 1..60)
}

/// Holds that begin and end in any order, repeated ones too: never more than the capacity run, and a lost one ends by itself.
pub async fn running_holds_never_exceed_their_limit(
    limits: &dyn RateLimits,
    clock: &Clock,
    capacity: i64,
    steps: Vec<(i64, u128, i64, bool)>,
) -> Result<(), TestCaseError> {
    let payer = new_payer(limits).await;
    let buckets =
        [bucket(payer, "slots", BucketRule::slots(capacity)), bucket(payer, "wide", BucketRule::draining(1_000, Thousandths::ONE))];
    let mut running = std::collections::BTreeMap::<u128, i64>::new();
    for (pause, id, ttl_ms, ends) in steps {
        clock.advance(TimeDelta::milliseconds(pause));
        let now_ms = clock.now().timestamp_millis();
        running.retain(|_, deadline| *deadline > now_ms);
        if ends {
            let mut back = give_back(&buckets, 1, 0);
            back.back.hold = Some(Uuid::from_u128(id));
            limits.give_back(&[back]).await.unwrap();
            running.remove(&id);
        } else {
            let mut request = take(&buckets, 0);
            request.ask.hold = Some(HoldSlot { id: Uuid::from_u128(id), ttl_ms });
            let answer = limits.take(&[request]).await.unwrap().remove(0);
            let known = running.contains_key(&id);
            let full = i64::try_from(running.len()).unwrap() >= capacity;
            prop_assert_eq!(answer.allowed(), known || !full);
            if answer.allowed() {
                running.entry(id).or_insert(now_ms + ttl_ms);
            } else {
                let first = running.values().min().unwrap() - now_ms;
                prop_assert_eq!(answer.levels[0].wait, Wait::Millis(first));
            }
            prop_assert_eq!(answer.levels[0].reading.used_micro, i64::try_from(running.len()).unwrap() * 1_000_000);
        }
        let shown = limits.peek(&buckets).await.unwrap()[0];
        let last = running.values().max().map_or(0, |deadline| deadline - now_ms);
        prop_assert_eq!((shown.used_micro, shown.empty_after_ms), (i64::try_from(running.len()).unwrap() * 1_000_000, last));
    }
    Ok(())
}
