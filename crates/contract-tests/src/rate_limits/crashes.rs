//! Buckets beside a ledger, with crashes: callers die between the two, the store loses everything or is told to forget a payer, limits
//! change, clocks step back. Whatever happens, each bucket is to the last micro-token what an exact model says, and what is restored is
//! what the ledger remembers.

use super::{
    bucket, give_back,
    histories::{Exact, any_pause, any_rule},
    take, unknown_payer,
};
use crate::customers::tokens;
use chrono::TimeDelta;
use domain::{
    bucket::{Ask, BucketRule, Wait},
    ids::Payer,
};
use ports::{
    Clock,
    rate_limits::{Bucket, RateLimits, Use, Verdict},
};
use proptest::{prelude::*, test_runner::TestCaseError};

/// What becomes of a request after its buckets let it pass.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Booked,
    /// The ledger refuses; the caller gives everything back.
    Refused,
    /// The caller dies before the ledger: nobody gives anything back.
    CallerDies,
}

#[derive(Clone, Debug)]
pub enum Step {
    Spend(i64, Fate),
    /// The charge with this number, if there are so many, ends with a part of what it took; or its caller dies before it is given back.
    End(usize, i64, Fate),
    ChangeRule(usize, BucketRule),
    /// A restart without memory, or a failover: another epoch.
    StoreIsLost,
    Forget,
}

pub type Story = ([BucketRule; 3], Vec<(i64, Step)>);

pub fn any_story() -> impl Strategy<Value = Story> {
    let fate = || prop_oneof![6 => Just(Fate::Booked), 1 => Just(Fate::Refused), 2 => Just(Fate::CallerDies)];
    let amount = || prop_oneof![5 => 0i64..1_000, 1 => 0i64..1_000_000_000];
    let step = prop_oneof![
        12 => (amount(), fate()).prop_map(|(amount, fate)| Step::Spend(amount, fate)),
        4 => (0usize..10, amount(), fate()).prop_map(|(which, amount, fate)| Step::End(which, amount, fate)),
        1 => (0usize..3, any_rule()).prop_map(|(which, rule)| Step::ChangeRule(which, rule)),
        1 => Just(Step::StoreIsLost),
        1 => Just(Step::Forget),
    ];
    (prop::array::uniform3(any_rule()), prop::collection::vec((any_pause(), step), 1..50))
}

/// A charge as the ledger keeps it.
struct Booked {
    at_ms: i64,
    amount: i64,
    open: bool,
}

struct Machine<'a, S> {
    /// An empty store.
    new_store: S,
    store: Box<dyn RateLimits>,
    clock: &'a Clock,
    payer: Payer,
    buckets: Vec<Bucket>,
    /// `None`: nothing is stored.
    exact: Vec<Option<Exact>>,
    known: bool,
    ledger: Vec<Booked>,
}

pub async fn buckets_are_what_was_taken_and_after_a_loss_what_was_booked<S>(
    new_store: S,
    clock: &Clock,
    (rules, steps): Story,
) -> Result<(), TestCaseError>
where
    S: AsyncFn() -> Box<dyn RateLimits>,
{
    let payer = unknown_payer();
    let buckets = rules.iter().zip(["a", "b", "c"]).map(|(rule, limit)| bucket(payer, limit, *rule)).collect();
    let store = new_store().await;
    let exact = vec![None; 3];
    let mut machine = Machine { new_store, store, clock, payer, buckets, exact, known: false, ledger: Vec::new() };
    for (pause, step) in steps {
        clock.advance(TimeDelta::milliseconds(pause));
        machine.step(step).await?;
        machine.compare().await?;
    }
    Ok(())
}

impl<S: AsyncFn() -> Box<dyn RateLimits>> Machine<'_, S> {
    fn now_ms(&self) -> i64 {
        self.clock.now().timestamp_millis()
    }

    async fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Spend(amount, fate) => self.spend(amount, fate).await?,
            Step::End(which, used, fate) => self.end(which, used, fate).await,
            Step::ChangeRule(which, rule) => self.buckets[which].rule = rule,
            Step::StoreIsLost => {
                self.store = (self.new_store)().await;
                (self.exact, self.known) = (vec![None; 3], false);
            }
            Step::Forget => {
                self.store.forget(self.payer).await.unwrap();
                self.known = false;
            }
        }
        prop_assert_eq!(self.store.known_since(self.payer).await.unwrap().is_some(), self.known);
        Ok(())
    }

    async fn spend(&mut self, amount: i64, fate: Fate) -> Result<(), TestCaseError> {
        let request = [take(&self.buckets, amount)];
        let mut answer = self.store.take(&request).await.unwrap().remove(0);
        prop_assert_eq!(answer.verdict == Verdict::Forgotten, !self.known);
        if !self.known {
            self.restore().await;
            answer = self.store.take(&request).await.unwrap().remove(0);
        }
        let now_ms = i128::from(self.now_ms());
        let mut exact: Vec<Exact> = self.exact.iter().map(|exact| exact.clone().unwrap_or_default()).collect();
        let fits: Vec<bool> = exact
            .iter_mut()
            .zip(&self.buckets)
            .map(|(exact, bucket)| {
                exact.move_to(bucket.rule.pace(), now_ms);
                exact.fits(&bucket.rule, tokens(amount))
            })
            .collect();
        let passing: Vec<bool> = answer.levels.iter().map(|level| level.wait == Wait::Passes).collect();
        prop_assert_eq!(&passing, &fits);
        prop_assert_eq!(answer.allowed(), fits.iter().all(|fits| *fits));
        if !answer.allowed() {
            return Ok(());
        }
        exact.iter_mut().zip(&self.buckets).for_each(|(exact, bucket)| exact.take(bucket.rule.pace(), tokens(amount), now_ms));
        self.exact = exact.into_iter().map(Some).collect();
        match fate {
            Fate::Booked => self.ledger.push(Booked { at_ms: self.now_ms(), amount, open: true }),
            Fate::Refused => self.return_to_buckets(amount, 0, true).await,
            Fate::CallerDies => {}
        }
        Ok(())
    }

    /// The ledger has it first; what is given back afterwards may be lost.
    async fn end(&mut self, which: usize, used: i64, fate: Fate) {
        let now_ms = self.now_ms();
        let Some(booked) = self.ledger.get_mut(which).filter(|booked| booked.open) else { return };
        let used = used.min(booked.amount);
        let (rest, held_for_ms) = (booked.amount - used, (now_ms - booked.at_ms).max(0));
        (booked.amount, booked.open) = (used, false);
        if matches!(fate, Fate::Booked | Fate::Refused) {
            self.return_to_buckets(rest, held_for_ms, false).await;
        }
    }

    async fn return_to_buckets(&mut self, amount: i64, held_for_ms: i64, undone: bool) {
        let mut request = give_back(&self.buckets, amount, held_for_ms);
        request.back.undone = undone;
        let now_ms = i128::from(self.now_ms());
        for (exact, bucket) in self.exact.iter_mut().zip(&self.buckets) {
            if let Some(exact) = exact {
                exact.move_to(bucket.rule.pace(), now_ms);
                exact.give_back(bucket.rule.pace(), &request.back, now_ms);
            }
        }
        self.store.give_back(&[request]).await.unwrap();
    }

    /// As a service does it, from what the ledger remembers.
    async fn restore(&mut self) {
        let now_ms = self.now_ms();
        let of_ledger = |booked: &Booked| Use {
            buckets: self.buckets.clone(),
            ask: Ask { amount: tokens(booked.amount), hold: None },
            age_ms: (now_ms - booked.at_ms).max(0),
        };
        let uses: Vec<Use> = self.ledger.iter().map(of_ledger).collect();
        self.store.restore(self.payer, &uses).await.unwrap();
        self.known = true;
        if uses.is_empty() {
            return;
        }
        for (exact, bucket) in self.exact.iter_mut().zip(&self.buckets) {
            let mut restored = Exact::default();
            for used in &uses {
                let then_ms = i128::from(now_ms - used.age_ms);
                restored.move_to(bucket.rule.pace(), then_ms);
                restored.fill(&bucket.rule, used.ask.amount, then_ms);
            }
            *exact = Some(restored);
        }
    }

    async fn compare(&self) -> Result<(), TestCaseError> {
        let now_ms = i128::from(self.now_ms());
        let readings = self.store.peek(&self.buckets).await.unwrap();
        for ((exact, bucket), reading) in self.exact.iter().zip(&self.buckets).zip(readings) {
            let mut exact = exact.clone().unwrap_or_default();
            exact.move_to(bucket.rule.pace(), now_ms);
            prop_assert_eq!(i128::from(reading.used_micro), exact.used());
        }
        Ok(())
    }
}
