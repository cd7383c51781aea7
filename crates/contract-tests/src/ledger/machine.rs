//! The ledger as a state machine: random commands through two handles, with lost answers, repetitions, races and the sweeper, compared
//! after each step with a model that knows nothing of the rules' code.

use crate::{customers::*, stories::play_each};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use domain::{charge::ChargeStatus, ids::ChargeId, ledger::Outcome, pool::Balance, time::Period};
use futures::future::join;
use ports::ledger::{Claim, Ledger, LedgerAnswer, LedgerRequest};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CASES: u32 = 24;

#[derive(Clone, Copy, Debug)]
enum Act {
    Grant(i64),
    Consume(i64),
    Hold(i64),
    /// Of the hold with this number, if there are so many.
    Settle(usize, i64),
    Release(usize),
    Expire(usize),
}

/// What goes wrong around a batch.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    /// The caller dies before it sends; another process sends the same again.
    NeverSent,
    /// Done, but the answer is lost; the caller asks again, at another process.
    AnswerLost,
    /// Two processes send the same at once.
    Twice,
}

#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<Act>, Fate, bool),
    Wait(i64),
    /// Both processes find and end what is overdue, at the same time.
    Sweep,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => (1i64..150).prop_map(Act::Grant),
        3 => (1i64..80).prop_map(Act::Consume),
        3 => (1i64..80).prop_map(Act::Hold),
        4 => (0usize..12, prop_oneof![Just(0i64), 1i64..120]).prop_map(|(which, amount)| Act::Settle(which, amount)),
        2 => (0usize..12).prop_map(Act::Release),
        1 => (0usize..12).prop_map(Act::Expire),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![4 => Just(Fate::Answered), 1 => Just(Fate::NeverSent), 2 => Just(Fate::AnswerLost), 2 => Just(Fate::Twice)];
    prop_oneof![
        6 => (prop::collection::vec(any_act(), 1..6), fate, any::<bool>()).prop_map(|(acts, fate, other)| Step::Batch(acts, fate, other)),
        2 => prop_oneof![3 => 1i64..90, 1 => 1i64..130_000].prop_map(Step::Wait),
        1 => Just(Step::Sweep),
    ]
}

/// Whole tokens of one source: granted, settled, held.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Source {
    granted: i64,
    settled: i64,
    held: i64,
}

impl Source {
    fn free(self) -> i64 {
        self.granted - self.settled - self.held
    }

    fn is(self, balance: Balance) -> bool {
        (self.granted, self.settled, self.held) == (balance.granted.get(), balance.settled.get(), balance.held.get())
    }
}

#[derive(Clone, Copy, Debug)]
struct Hold {
    status: ChargeStatus,
    held: i64,
    day: NaiveDate,
    of_day: i64,
    of_purchased: i64,
    settled: i64,
    deadline: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Done, now or before.
    Done,
    Exhausted,
    Contradicts(ChargeStatus),
    NotFound,
}

/// A daily allowance and purchased tokens of one pool, in plain numbers.
#[derive(Clone, Debug)]
struct Model {
    allowance: i64,
    today: NaiveDate,
    days: BTreeMap<NaiveDate, Source>,
    purchased: Source,
    debt: i64,
    holds: BTreeMap<ChargeId, Hold>,
}

impl Model {
    fn new(allowance: i64, now: DateTime<Utc>) -> Self {
        let today = now.date_naive();
        let first = Source { granted: allowance, ..Source::default() };
        Self { allowance, today, days: BTreeMap::from([(today, first)]), purchased: Source::default(), debt: 0, holds: BTreeMap::new() }
    }

    fn day(&mut self, day: NaiveDate) -> &mut Source {
        self.days.entry(day).or_default()
    }

    /// Without an allowance there is nothing to open a day for.
    fn open_day(&mut self, now: DateTime<Utc>) {
        if self.allowance > 0 && now.date_naive() > self.today {
            self.today = now.date_naive();
            let granted = self.allowance;
            *self.day(self.today) = Source { granted, ..Source::default() };
            self.pay();
        }
    }

    fn pay(&mut self) {
        let today = self.today;
        let paid = self.day(today).free().min(self.debt);
        self.day(today).settled += paid;
        self.debt -= paid;
        let paid = self.purchased.free().min(self.debt);
        self.purchased.settled += paid;
        self.debt -= paid;
    }

    /// The amounts from the allowance and from what was purchased, when there is enough and no debt.
    fn reserve(&mut self, amount: i64, now: DateTime<Utc>) -> Option<(i64, i64)> {
        let before = self.clone();
        self.open_day(now);
        let today = self.today;
        let of_day = self.day(today).free().min(amount);
        if self.debt > 0 || amount - of_day > self.purchased.free() {
            *self = before;
            return None;
        }
        Some((of_day, amount - of_day))
    }

    fn put_back(&mut self, hold: Hold) {
        self.day(hold.day).held -= hold.of_day;
        self.purchased.held -= hold.of_purchased;
    }

    fn act(&mut self, act: &Act, id: Option<ChargeId>, now: DateTime<Utc>) -> Told {
        let known = id.and_then(|id| self.holds.get(&id).copied());
        match (*act, id, known) {
            (Act::Grant(amount), ..) => {
                self.open_day(now);
                self.purchased.granted += amount;
                self.pay();
                Told::Done
            }
            (Act::Consume(amount), ..) => {
                let Some((of_day, of_purchased)) = self.reserve(amount, now) else { return Told::Exhausted };
                let today = self.today;
                self.day(today).settled += of_day;
                self.purchased.settled += of_purchased;
                Told::Done
            }
            (Act::Hold(amount), Some(id), _) => {
                let Some((of_day, of_purchased)) = self.reserve(amount, now) else { return Told::Exhausted };
                let day = self.today;
                self.day(day).held += of_day;
                self.purchased.held += of_purchased;
                let deadline = now + TimeDelta::seconds(60);
                self.holds.insert(id, Hold { status: ChargeStatus::Held, held: amount, day, of_day, of_purchased, settled: 0, deadline });
                Told::Done
            }
            (Act::Settle(_, amount), Some(id), Some(hold)) => self.settle(id, hold, amount, now),
            (Act::Release(_), Some(id), Some(hold)) => match hold.status {
                ChargeStatus::Held => self.end(id, hold, ChargeStatus::Released),
                ChargeStatus::Released | ChargeStatus::Expired => Told::Done,
                status => Told::Contradicts(status),
            },
            (Act::Expire(_), Some(id), Some(hold)) => {
                if hold.status == ChargeStatus::Held && hold.deadline <= now {
                    self.end(id, hold, ChargeStatus::Expired)
                } else {
                    Told::Done
                }
            }
            _ => Told::NotFound,
        }
    }

    fn end(&mut self, id: ChargeId, hold: Hold, status: ChargeStatus) -> Told {
        self.put_back(hold);
        self.pay();
        self.holds.insert(id, Hold { status, ..hold });
        Told::Done
    }

    /// In the day of the hold as far as it was held there, then from what was purchased, then as debt; after expiry at the terms of today.
    fn settle(&mut self, id: ChargeId, hold: Hold, amount: i64, now: DateTime<Utc>) -> Told {
        match hold.status {
            ChargeStatus::Settled if hold.settled == amount => return Told::Done,
            ChargeStatus::Held | ChargeStatus::Expired => {}
            status => return Told::Contradicts(status),
        }
        if amount > hold.held || hold.status == ChargeStatus::Expired {
            self.open_day(now);
        }
        let day = if hold.status == ChargeStatus::Held {
            self.put_back(hold);
            hold.day
        } else {
            self.today
        };
        // A day that is over gives no more, also while nobody has opened the next one yet.
        let most = if day == now.date_naive() { amount } else { amount.min(hold.of_day) };
        let of_day = self.day(day).free().min(most);
        self.day(day).settled += of_day;
        let of_purchased = self.purchased.free().min(amount - of_day);
        self.purchased.settled += of_purchased;
        self.debt += amount - of_day - of_purchased;
        self.pay();
        self.holds.insert(id, Hold { status: ChargeStatus::Settled, settled: amount, ..hold });
        Told::Done
    }
}

fn told(answer: &LedgerAnswer) -> Told {
    let outcome = match answer {
        LedgerAnswer::Decided(outcome) => outcome,
        LedgerAnswer::Replayed(stored) => &stored.outcome,
        other => panic!("neither decided nor replayed: {other:?}"),
    };
    match outcome {
        Outcome::Charged { .. } | Outcome::PoolChanged { .. } => Told::Done,
        Outcome::QuotaExhausted(_) => Told::Exhausted,
        Outcome::InvalidTransition { status } => Told::Contradicts(*status),
        Outcome::ChargeNotFound => Told::NotFound,
        other => panic!("an outcome of no such command: {other:?}"),
    }
}

fn tell(answers: &[LedgerAnswer]) -> Vec<Told> {
    answers.iter().map(told).collect()
}

struct Machine<'a> {
    handles: [&'a dyn Ledger; 2],
    customer: Customer,
    model: Model,
    holds: Vec<ChargeId>,
}

impl<'a> Machine<'a> {
    async fn start(handles: [&'a dyn Ledger; 2], allowance: i64) -> Self {
        let customer = Customer::org();
        outcome(handles[0], &customer.allowance(allowance, Period::Day)).await;
        let model = Model::new(allowance, customer.now);
        Self { handles, customer, model, holds: Vec::new() }
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Wait(seconds) => self.customer = self.customer.later(TimeDelta::seconds(*seconds)),
            Step::Sweep => self.sweep().await,
            Step::Batch(acts, fate, other) => self.batch(acts, *fate, usize::from(*other)).await,
        }
        self.compare().await;
    }

    fn request(&mut self, act: &Act) -> LedgerRequest {
        let unknown = ChargeId::new(self.customer.shard(), self.customer.now);
        let hold = |which: usize| self.holds.get(which).copied().unwrap_or(unknown);
        let request = match *act {
            Act::Grant(amount) => self.customer.grant(amount),
            Act::Consume(amount) => self.customer.consume(amount),
            Act::Hold(amount) => self.customer.hold(amount),
            Act::Settle(which, amount) => self.customer.settle(hold(which), amount),
            Act::Release(which) => self.customer.release(hold(which)),
            Act::Expire(which) => self.customer.expire(hold(which)),
        };
        if matches!(act, Act::Hold(_)) {
            self.holds.push(charge_id(&request));
        }
        under_key(request, &fresh_key(), 1, Claim::Completes)
    }

    async fn batch(&mut self, acts: &[Act], fate: Fate, first: usize) {
        let requests: Vec<LedgerRequest> = acts.iter().map(|act| self.request(act)).collect();
        let (one, other) = (self.handles[first], self.handles[1 - first]);
        let expected = self.pass(acts, &requests, None);
        let answers = match fate {
            Fate::Answered => one.apply(&requests).await.unwrap(),
            Fate::NeverSent => other.apply(&requests).await.unwrap(),
            Fate::AnswerLost => {
                drop(one.apply(&requests).await.unwrap());
                let again = self.pass(acts, &requests, Some(&expected));
                assert_eq!(tell(&other.apply(&requests).await.unwrap()), again, "{acts:?} again\n{:#?}", self.model);
                return;
            }
            Fate::Twice => {
                let (answers, others) = join(one.apply(&requests), other.apply(&requests)).await;
                let again = self.pass(acts, &requests, Some(&expected));
                // Each call is one transaction; which came first is open.
                let mut told = [tell(&answers.unwrap()), tell(&others.unwrap())];
                if told[0] != expected {
                    told.reverse();
                }
                assert_eq!(told, [expected, again], "{acts:?} twice\n{:#?}", self.model);
                return;
            }
        };
        assert_eq!(tell(&answers), expected, "{acts:?} with fate {fate:?}\n{:#?}", self.model);
    }

    /// What the model says of each act. What was done before under its key is not done again; what was refused is decided anew.
    fn pass(&mut self, acts: &[Act], requests: &[LedgerRequest], before: Option<&[Told]>) -> Vec<Told> {
        let now = self.customer.now;
        let decide = |(index, act): (usize, &Act)| match before {
            Some(before) if before[index] == Told::Done => Told::Done,
            _ => self.model.act(act, requests[index].request.command.charge(), now),
        };
        acts.iter().enumerate().map(decide).collect()
    }

    async fn sweep(&mut self) {
        let now = self.customer.now;
        let due: Vec<ChargeId> = self
            .model
            .holds
            .iter()
            .filter(|(_, hold)| hold.status == ChargeStatus::Held && hold.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        let mut found = self.handles[0].expired_holds(ANYONE, now, 1_000).await.unwrap();
        found.retain(|id| self.model.holds.contains_key(id));
        found.sort_unstable();
        assert_eq!(found, due);
        let requests: Vec<LedgerRequest> = due.iter().map(|id| self.customer.expire(*id)).collect();
        let (one, other) = join(self.handles[0].apply(&requests), self.handles[1].apply(&requests)).await;
        assert!(one.unwrap().iter().chain(&other.unwrap()).all(|answer| told(answer) == Told::Done));
        for id in due {
            self.model.act(&Act::Expire(0), Some(id), now);
        }
    }

    async fn compare(&self) {
        let pool = self.handles[1].find_pool(&self.customer.pool()).await.unwrap().unwrap();
        let model = &self.model;
        assert!(model.purchased.is(pool.purchased), "{pool:#?}\n{model:#?}");
        assert_eq!(pool.debt.get(), model.debt, "{model:#?}");
        let current = pool.current.unwrap();
        assert_eq!(current.starts_at.date_naive().max(start().date_naive()), model.today);
        assert!(model.days[&model.today].is(current.balance), "{pool:#?}\n{model:#?}");
        for (id, hold) in &model.holds {
            let charge = self.handles[0].find_charge(*id).await.unwrap().unwrap();
            assert_eq!((charge.status, charge.held.get(), charge.settled.get()), (hold.status, hold.held, hold.settled));
        }
    }

    async fn finish(&self) {
        let snapshot = self.handles[0].snapshot(self.customer.shard()).await.unwrap();
        for (key, period) in snapshot.past_periods.iter().filter(|(key, _)| *key == self.customer.pool()) {
            let day = period.starts_at.date_naive().max(start().date_naive());
            assert!(self.model.days[&day].is(period.balance), "{key:?} {period:#?}\n{:#?}", self.model);
        }
        audit(self.handles[0], &self.customer).await;
    }
}

pub async fn any_history_with_lost_answers_races_and_sweeps_is_what_a_simple_model_says(one: &dyn Ledger, other: &dyn Ledger) {
    let stories = (0i64..100, prop::collection::vec(any_step(), 1..40));
    play_each(CASES, &stories, async |(allowance, steps)| {
        let mut machine = Machine::start([one, other], allowance).await;
        for step in &steps {
            machine.step(step).await;
        }
        machine.finish().await;
    });
}
