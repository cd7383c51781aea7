//! Idempotency keys as a state machine: few keys, many requests from two processes, with lost answers, callers that die before or after
//! the ledger, leases that end, doubled clicks and the sweeper. After each step everything is as a model in plain numbers says: one
//! effect for each key, the same answer each time, a mismatch for another body.

use crate::{customers::*, stories::play_each};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{charge::ChargeStatus, ids::ChargeId, ledger::Outcome};
use futures::future::join;
use ports::ledger::{CLAIM_LEASE_SECS, Claim, Idempotency, IdempotencyKey, Ledger, LedgerAnswer, LedgerRequest, StoredAnswer};
use proptest::prelude::*;
use std::collections::BTreeMap;

const CASES: u32 = 24;
const KEYS: usize = 3;

/// What a request asks for; the same body is the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Consume,
    OtherConsume,
    Hold,
    /// A hold that only claims its key, as a consume with a prompt does; [`Step::End`] completes it.
    Open,
}

impl Body {
    const fn fingerprint(self) -> u8 {
        match self {
            Self::Consume => 1,
            Self::OtherConsume => 2,
            Self::Hold => 3,
            Self::Open => 4,
        }
    }

    const fn amount(self) -> i64 {
        match self {
            Self::Consume => 10,
            Self::OtherConsume => 17,
            Self::Hold => 20,
            Self::Open => 30,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    /// The caller dies before it sends.
    NeverSent,
    /// Done, but the answer is lost; the same process asks again with the very same request.
    AnswerLost,
    /// Done, but the caller dies; the client asks another process, which makes a charge id of its own.
    AskedElsewhere,
    /// A doubled click: two processes at once.
    Twice,
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        key: usize,
        body: Body,
        fate: Fate,
        other: bool,
    },
    /// Of what an open key holds: settled so far, or released.
    End {
        key: usize,
        settle: Option<i64>,
        fate: Fate,
        other: bool,
    },
    Wait(i64),
    Sweep,
}

fn any_step() -> impl Strategy<Value = Step> {
    let body = prop_oneof![3 => Just(Body::Consume), 1 => Just(Body::OtherConsume), 2 => Just(Body::Hold), 3 => Just(Body::Open)];
    let fate = || {
        prop_oneof![
            3 => Just(Fate::Answered),
            1 => Just(Fate::NeverSent),
            2 => Just(Fate::AnswerLost),
            2 => Just(Fate::AskedElsewhere),
            2 => Just(Fate::Twice),
        ]
    };
    prop_oneof![
        8 => (0..KEYS, body, fate(), any::<bool>()).prop_map(|(key, body, fate, other)| Step::Ask { key, body, fate, other }),
        3 => (0..KEYS, prop::option::of(0i64..=30), fate(), any::<bool>())
            .prop_map(|(key, settle, fate, other)| Step::End { key, settle, fate, other }),
        2 => prop_oneof![1i64..50, 100i64..140, 1i64..400].prop_map(Step::Wait),
        1 => Just(Step::Sweep),
    ]
}

/// What a caller is told of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    charge: ChargeId,
    status: ChargeStatus,
    settled: i64,
    remaining: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Decided(Told),
    Refused,
    Replayed(Told),
    Mismatch,
    InProgress,
    Resumed(Told),
}

fn said(answer: &LedgerAnswer) -> Said {
    match answer {
        LedgerAnswer::Decided(Outcome::QuotaExhausted(_)) => Said::Refused,
        LedgerAnswer::Decided(outcome) => Said::Decided(told(outcome)),
        LedgerAnswer::Replayed(stored) => Said::Replayed(told_before(stored)),
        LedgerAnswer::Mismatch => Said::Mismatch,
        LedgerAnswer::InProgress => Said::InProgress,
        LedgerAnswer::Resumed(stored) => Said::Resumed(told_before(stored)),
    }
}

fn told(outcome: &Outcome) -> Told {
    let Outcome::Charged { charge, pool, .. } = outcome else { panic!("an outcome of no such request: {outcome:?}") };
    Told { charge: charge.spec.id, status: charge.status, settled: charge.settled.get(), remaining: pool.remaining.get() }
}

fn told_before(stored: &StoredAnswer) -> Told {
    assert_eq!(stored.context, b"context");
    told(&stored.outcome)
}

#[derive(Clone, Debug)]
struct Kept {
    body: Body,
    told: Told,
    /// `None` once completed.
    lease_until: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug)]
struct Charge {
    status: ChargeStatus,
    held: i64,
    settled: i64,
    deadline: DateTime<Utc>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    granted: i64,
    charges: BTreeMap<ChargeId, Charge>,
    keys: BTreeMap<usize, Kept>,
}

fn lease_from(now: DateTime<Utc>) -> DateTime<Utc> {
    now + TimeDelta::seconds(CLAIM_LEASE_SECS)
}

impl Model {
    fn held(&self) -> i64 {
        self.charges.values().filter(|charge| charge.status == ChargeStatus::Held).map(|charge| charge.held).sum()
    }

    fn settled(&self) -> i64 {
        self.charges.values().map(|charge| charge.settled).sum()
    }

    fn remaining(&self) -> i64 {
        self.granted - self.settled() - self.held()
    }

    fn tell(&self, id: ChargeId) -> Told {
        let charge = self.charges[&id];
        Told { charge: id, status: charge.status, settled: charge.settled, remaining: self.remaining() }
    }

    fn ask(&mut self, key: usize, body: Body, id: ChargeId, now: DateTime<Utc>) -> Said {
        if let Some(kept) = self.keys.get_mut(&key) {
            let opener = kept.told.charge == id;
            match kept.lease_until {
                _ if kept.body != body => return Said::Mismatch,
                None => return Said::Replayed(kept.told),
                Some(_) if opener => return Said::Decided(self.tell(id)),
                Some(lease_until) if now < lease_until => return Said::InProgress,
                Some(_) => {
                    kept.lease_until = Some(lease_from(now));
                    return Said::Resumed(kept.told);
                }
            }
        }
        if self.remaining() < body.amount() {
            return Said::Refused;
        }
        let held = matches!(body, Body::Hold | Body::Open);
        let (status, settled) = if held { (ChargeStatus::Held, 0) } else { (ChargeStatus::Settled, body.amount()) };
        let deadline = now + TimeDelta::seconds(60);
        self.charges.insert(id, Charge { status, held: body.amount(), settled, deadline });
        let told = self.tell(id);
        let lease_until = (body == Body::Open).then(|| lease_from(now));
        self.keys.insert(key, Kept { body, told, lease_until });
        Said::Decided(told)
    }

    /// Only of a key that was opened by this charge.
    fn end(&mut self, key: usize, id: ChargeId, settle: Option<i64>) -> Said {
        let kept = &self.keys[&key];
        if kept.lease_until.is_none() {
            return Said::Replayed(kept.told);
        }
        let charge = self.charges.get_mut(&id).unwrap();
        if charge.status == ChargeStatus::Held {
            (charge.status, charge.settled) = settle.map_or((ChargeStatus::Released, 0), |settle| (ChargeStatus::Settled, settle));
        }
        let told = self.tell(id);
        self.keys.insert(key, Kept { body: Body::Open, told, lease_until: None });
        Said::Decided(told)
    }
}

struct Machine<'a> {
    handles: [&'a dyn Ledger; 2],
    customer: Customer,
    keys: [String; KEYS],
    model: Model,
}

impl<'a> Machine<'a> {
    async fn start(handles: [&'a dyn Ledger; 2], granted: i64) -> Self {
        let customer = Customer::org();
        outcome(handles[0], &customer.grant(granted)).await;
        let model = Model { granted, ..Model::default() };
        Self { handles, customer, keys: std::array::from_fn(|_| fresh_key()), model }
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Wait(seconds) => self.customer = self.customer.later(TimeDelta::seconds(seconds)),
            Step::Sweep => self.sweep().await,
            Step::Ask { key, body, fate, other } => {
                let request = || self.request(key, body);
                let requests = [request(), request()];
                let now = self.customer.now;
                let ask = |model: &mut Model, id| model.ask(key, body, id, now);
                self.send(requests, fate, usize::from(other), ask).await;
            }
            Step::End { key, settle, fate, other } => {
                let Some(kept) = self.model.keys.get(&key).filter(|kept| kept.body == Body::Open) else { return };
                let id = kept.told.charge;
                // A settle after expiry books anew; that is another story's.
                let settle = settle.filter(|_| self.model.charges[&id].status != ChargeStatus::Expired);
                let command = settle.map_or_else(|| self.customer.release(id), |amount| self.customer.settle(id, amount));
                let request = under_key(command, &self.keys[key], Body::Open.fingerprint(), Claim::Completes);
                let end = |model: &mut Model, id| model.end(key, id, settle);
                self.send([request.clone(), request], fate, usize::from(other), end).await;
            }
        }
        self.compare().await;
    }

    fn request(&self, key: usize, body: Body) -> LedgerRequest {
        let request = match body {
            Body::Consume | Body::OtherConsume => self.customer.consume(body.amount()),
            Body::Hold | Body::Open => self.customer.hold(body.amount()),
        };
        let claim = if body == Body::Open { Claim::Opens } else { Claim::Completes };
        under_key(request, &self.keys[key], body.fingerprint(), claim)
    }

    /// The second request is the first one made again by somebody else.
    async fn send(&mut self, requests: [LedgerRequest; 2], fate: Fate, first: usize, mut act: impl FnMut(&mut Model, ChargeId) -> Said) {
        let (one, other) = (self.handles[first], self.handles[1 - first]);
        let [id, id_again] = [charge_id(&requests[0]), charge_id(&requests[1])];
        let mut expected = Vec::new();
        let mut answers = Vec::new();
        match fate {
            Fate::NeverSent => {}
            Fate::Answered => {
                expected.push(act(&mut self.model, id));
                answers.push(apply_one(one, &requests[0]).await);
            }
            Fate::AnswerLost => {
                expected.extend([act(&mut self.model, id), act(&mut self.model, id)]);
                answers.extend([apply_one(one, &requests[0]).await, apply_one(one, &requests[0]).await]);
            }
            Fate::AskedElsewhere => {
                expected.extend([act(&mut self.model, id), act(&mut self.model, id_again)]);
                answers.extend([apply_one(one, &requests[0]).await, apply_one(other, &requests[1]).await]);
            }
            Fate::Twice => {
                let (left, right) = join(apply_one(one, &requests[0]), apply_one(other, &requests[1])).await;
                let mut turned = self.model.clone();
                let in_turn = [act(&mut self.model, id), act(&mut self.model, id_again)];
                expected.extend(in_turn);
                answers.extend([left, right]);
                // Which of them came first is open.
                if answers.iter().map(said).ne(expected.iter().cloned()) {
                    let right = act(&mut turned, id_again);
                    let left = act(&mut turned, id);
                    (self.model, expected) = (turned, vec![left, right]);
                }
            }
        }
        let answers: Vec<Said> = answers.iter().map(said).collect();
        assert_eq!(answers, expected, "{:#?}", self.model);
    }

    async fn sweep(&mut self) {
        let now = self.customer.now;
        let due = self.model.charges.iter().filter(|(_, charge)| charge.status == ChargeStatus::Held && charge.deadline <= now);
        let due: Vec<ChargeId> = due.map(|(id, _)| *id).collect();
        for id in due {
            charged(self.handles[0], &self.customer.expire(id)).await;
            self.model.charges.get_mut(&id).unwrap().status = ChargeStatus::Expired;
        }
    }

    async fn compare(&self) {
        let model = &self.model;
        let pool = self.handles[1].find_pool(&self.customer.pool()).await.unwrap().unwrap();
        let stored = (pool.purchased.granted.get(), pool.purchased.settled.get(), pool.purchased.held.get(), pool.debt.get());
        assert_eq!(stored, (model.granted, model.settled(), model.held(), 0), "{model:#?}");
        for (id, charge) in &model.charges {
            let stored = self.handles[0].find_charge(*id).await.unwrap().unwrap();
            assert_eq!((stored.status, stored.settled.get()), (charge.status, charge.settled), "{model:#?}");
        }
        let keys: Vec<IdempotencyKey> = (0..KEYS).map(|key| self.named(key).key).collect();
        for (key, found) in self.handles[1].find_answers(&keys).await.unwrap().into_iter().enumerate() {
            let found = found.map(|(answer, fingerprint)| (told_before(&answer), fingerprint[0]));
            let completed = model.keys.get(&key).filter(|kept| kept.lease_until.is_none());
            assert_eq!(found, completed.map(|kept| (kept.told, kept.body.fingerprint())), "{model:#?}");
        }
    }

    fn named(&self, key: usize) -> Idempotency {
        under_key(self.customer.grant(1), &self.keys[key], 1, Claim::Completes).idempotency.unwrap()
    }

    /// One effect for each key, and every kept answer still true of its charge.
    async fn finish(&self) {
        let snapshot = self.handles[0].snapshot(self.customer.shard()).await.unwrap();
        let made = snapshot.charges.iter().filter(|charge| charge.spec.payer == self.customer.payer).count();
        assert_eq!((made, made), (self.model.keys.len(), self.model.charges.len()), "{:#?}", self.model);
        let mut kept = Vec::new();
        let mut visit = |answer: ports::ledger::KeptAnswer| {
            let Some(charge) = answer.charge.filter(|charge| charge.spec.payer == self.customer.payer) else { return };
            let Ok(Outcome::Charged { charge: told, .. }) = &answer.outcome else { panic!("{:?}", answer.outcome) };
            assert!(charge.follows(told), "{told:?} is told of {charge:?}");
            kept.push(answer.charge_id);
        };
        self.handles[1].scan_answers(&mut visit).await.unwrap();
        kept.sort_unstable();
        assert!(kept.iter().eq(self.model.charges.keys()), "{kept:?}\n{:#?}", self.model);
        audit(self.handles[0], &self.customer).await;
    }
}

pub async fn each_key_has_one_effect_and_one_answer_whatever_is_lost_crashes_or_comes_twice(one: &dyn Ledger, other: &dyn Ledger) {
    let stories = (prop_oneof![3 => Just(1_000i64), 1 => 0i64..60], prop::collection::vec(any_step(), 1..40));
    play_each(CASES, &stories, async |(granted, steps)| {
        let mut machine = Machine::start([one, other], granted).await;
        for step in &steps {
            machine.step(step).await;
        }
        machine.finish().await;
    });
}
