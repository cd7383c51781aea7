//! What every adapter of `ports::ledger` must do: decisions, what is stored of them, and what is read back.

mod budgets;
mod concurrency;
mod handles;
mod idempotency;
mod keys_machine;
mod machine;
mod purchases;
mod refunds;
mod usage;

pub use budgets::*;
pub use concurrency::*;
pub use handles::*;
pub use idempotency::*;
pub use keys_machine::*;
pub use machine::*;
pub use purchases::*;
pub use refunds::*;
pub use usage::*;

use crate::customers::*;
use chrono::{TimeDelta, Utc};
use domain::{
    amount::Tokens,
    charge::{ChargeStatus, Metadata},
    ids::{ChargeId, KeyId, Model, Payer, Provider, UserId},
    ledger::{AllowanceChange, Command, LedgerState, Outcome, decide},
    time::Period,
    trace_parent::TraceParent,
};
use ports::ledger::{ChargeQuery, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot, StoredEvent};
use uuid::Uuid;

pub async fn a_batch_is_decided_in_order_and_exactly_what_fits_passes(ledger: &dyn Ledger) {
    let customer = Customer::user();
    let batch = [customer.grant(100), customer.consume(60), customer.consume(60), customer.consume(40), customer.consume(1)];
    let answers = ledger.apply(&batch).await.unwrap();
    let passed: Vec<bool> = answers.iter().map(|answer| !matches!(answer, LedgerAnswer::Decided(Outcome::QuotaExhausted(_)))).collect();
    assert_eq!(passed, [true, true, false, true, false]);
    let LedgerAnswer::Decided(Outcome::QuotaExhausted(refusal)) = &answers[2] else { panic!("{:?}", answers[2]) };
    assert_eq!((refusal.remaining, refusal.requested), (tokens(40), tokens(60)));
    let pool = ledger.find_pool(&customer.pool()).await.unwrap().unwrap();
    assert_eq!((pool.purchased.settled, pool.remaining()), (tokens(100), tokens(0)));
    assert!(ledger.find_charge(charge_id(&batch[2])).await.unwrap().is_none());
    audit(ledger, &customer).await;
}

pub async fn the_answered_charge_is_the_stored_one(ledger: &dyn Ledger) {
    let customer = Customer::org();
    let hold = customer.hold(30);
    let settle = customer.settle(charge_id(&hold), 20);
    let answers = ledger.apply(&[customer.grant(100), hold.clone(), settle]).await.unwrap();
    let LedgerAnswer::Decided(Outcome::Charged { charge, pool, .. }) = &answers[2] else { panic!("{:?}", answers[2]) };
    let stored = ledger.find_charge(charge_id(&hold)).await.unwrap().unwrap();
    assert_eq!(**charge, stored);
    assert!(stored.seq > 0, "the number of the charge's first event");
    assert_eq!((stored.status, stored.held, stored.settled), (ChargeStatus::Settled, tokens(30), tokens(20)));
    assert_eq!(pool.remaining, tokens(80));
    let hold = customer.hold(5);
    assert_eq!(charged(ledger, &hold).await, ledger.find_charge(charge_id(&hold)).await.unwrap().unwrap());
    audit(ledger, &customer).await;
}

pub async fn a_refusal_changes_nothing(ledger: &dyn Ledger) {
    let customer = Customer::user();
    outcome(ledger, &customer.grant(10)).await;
    let before = ledger.snapshot(customer.shard()).await.unwrap();
    let unknown = ChargeId::new(customer.shard(), customer.now);
    let refused =
        [customer.consume(11), customer.hold(11), customer.settle(unknown, 1), customer.release(unknown), customer.expire(unknown)];
    for answer in ledger.apply(&refused).await.unwrap() {
        assert!(matches!(answer, LedgerAnswer::Decided(Outcome::QuotaExhausted(_) | Outcome::ChargeNotFound)), "{answer:?}");
    }
    let overflow = outcome(ledger, &customer.grant(Tokens::MAX.get())).await;
    assert_eq!(overflow, Outcome::BalanceOverflow);
    let change = AllowanceChange { allowance: Some(Tokens::MAX), ..AllowanceChange::default() };
    let allowance = customer.request(Command::SetAllowance { pool: customer.pool(), change });
    assert_eq!(outcome(ledger, &allowance).await, Outcome::AllowanceOverflow);
    let after = ledger.snapshot(customer.shard()).await.unwrap();
    assert_eq!(before.last_seq, after.last_seq);
    assert_eq!(before.pools, after.pools);
    assert_eq!(before.charges, after.charges);
}

pub async fn a_snapshot_after_a_number_has_the_whole_state_and_only_the_events_behind_it(ledger: &dyn Ledger) {
    let customer = Customer::user();
    outcome(ledger, &customer.grant(1_000)).await;
    // Together and one by one: they may share rows or not.
    ledger.apply(&[customer.consume(1), customer.consume(2), customer.hold(3), customer.consume(4)]).await.unwrap();
    for amount in 5..8 {
        outcome(ledger, &customer.consume(amount)).await;
    }
    let whole = ledger.snapshot(customer.shard()).await.unwrap();
    let own = |event: &&StoredEvent| event.event.as_ref().is_ok_and(|event| event.event.payer == customer.payer);
    let numbers: Vec<i64> = whole.events.iter().filter(own).map(|event| event.seq).collect();
    assert_eq!(numbers.len(), 8);
    for after in numbers.iter().copied().chain([0, whole.last_seq]) {
        let later = ledger.snapshot_after(customer.shard(), after).await.unwrap();
        let rows = |snapshot: &ShardSnapshot| {
            let behind = snapshot.events.iter().filter(|event| event.seq > after && event.seq <= whole.last_seq);
            behind.map(|event| (event.seq, event.payload.clone())).collect::<Vec<_>>()
        };
        assert_eq!(rows(&later), rows(&whole));
        assert!(later.events.iter().all(|event| event.seq > after));
        let charges = |snapshot: &ShardSnapshot| {
            let own = snapshot.charges.iter().filter(|charge| charge.spec.payer == customer.payer);
            own.map(|charge| charge.spec.id).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(charges(&later), charges(&whole));
    }
}

pub async fn nothing_to_apply_is_no_error(ledger: &dyn Ledger) {
    assert!(ledger.apply(&[]).await.unwrap().is_empty());
    assert!(ledger.find_answers(&[]).await.unwrap().is_empty());
    ledger.ping().await.unwrap();
}

pub async fn a_hold_ends_once_and_repeating_the_end_changes_nothing(ledger: &dyn Ledger) {
    let customer = Customer::user();
    outcome(ledger, &customer.grant(100)).await;
    let hold = customer.hold(40);
    let id = charge_id(&hold);
    charged(ledger, &hold).await;
    let settled = charged(ledger, &customer.settle(id, 45)).await;
    let last_seq = ledger.snapshot(customer.shard()).await.unwrap().last_seq;
    assert_eq!(charged(ledger, &customer.settle(id, 45)).await, settled);
    assert_eq!(charged(ledger, &customer.later(TimeDelta::hours(1)).expire(id)).await, settled);
    assert_eq!(outcome(ledger, &customer.release(id)).await, Outcome::InvalidTransition { status: ChargeStatus::Settled });
    assert_eq!(outcome(ledger, &customer.settle(id, 44)).await, Outcome::InvalidTransition { status: ChargeStatus::Settled });
    assert_eq!(ledger.snapshot(customer.shard()).await.unwrap().last_seq, last_seq);
    audit(ledger, &customer).await;
}

pub async fn a_late_settle_after_expiry_is_booked_as_debt_where_nothing_is_left(ledger: &dyn Ledger) {
    let customer = Customer::user();
    outcome(ledger, &customer.grant(50)).await;
    let hold = customer.hold(50);
    charged(ledger, &hold).await;
    let later = customer.later(TimeDelta::seconds(60));
    assert_eq!(charged(ledger, &later.expire(charge_id(&hold))).await.status, ChargeStatus::Expired);
    charged(ledger, &later.consume(30)).await;
    let settled = charged(ledger, &later.settle(charge_id(&hold), 50)).await;
    assert!(settled.late);
    assert_eq!(settled.debt, tokens(30));
    let Outcome::QuotaExhausted(refusal) = outcome(ledger, &later.consume(1)).await else { panic!("a pool in debt pays nothing") };
    assert_eq!(refusal.debt, tokens(30));
    outcome(ledger, &later.grant(31)).await;
    charged(ledger, &later.consume(1)).await;
    audit(ledger, &customer).await;
}

pub async fn a_hold_is_settled_in_the_period_in_which_it_was_made(ledger: &dyn Ledger) {
    let customer = Customer::org();
    outcome(ledger, &customer.allowance(100, Period::Day)).await;
    let hold = customer.hold(40);
    charged(ledger, &hold).await;
    let tomorrow = customer.later(TimeDelta::days(1));
    charged(ledger, &tomorrow.consume(1)).await;
    let day_after = customer.later(TimeDelta::days(2));
    charged(ledger, &day_after.settle(charge_id(&hold), 30)).await;
    let snapshot = ledger.snapshot(customer.shard()).await.unwrap();
    let mut past: Vec<_> = snapshot.past_periods.iter().filter(|(key, _)| *key == customer.pool()).map(|(_, period)| *period).collect();
    past.sort_by_key(|period| period.starts_at);
    assert_eq!((past[0].balance.settled, past[0].balance.held), (tokens(30), tokens(0)));
    audit(ledger, &customer).await;
}

pub async fn a_spend_counts_in_the_period_of_its_time_though_the_next_has_begun(ledger: &dyn Ledger) {
    let customer = Customer::org();
    let (tomorrow, day_after) = (customer.later(TimeDelta::days(1)), customer.later(TimeDelta::days(2)));
    ledger.apply(&[customer.allowance(100, Period::Day), tomorrow.consume(1), day_after.consume(2)]).await.unwrap();
    let hold = customer.hold(30);
    charged(ledger, &hold).await;
    charged(ledger, &tomorrow.consume(99)).await;
    let Outcome::QuotaExhausted(refusal) = outcome(ledger, &customer.consume(71)).await else { panic!("only 70 are left of that day") };
    assert_eq!(refusal.remaining, tokens(70));
    assert_eq!(charged(ledger, &day_after.settle(charge_id(&hold), 20)).await.from_allowance, tokens(20));
    charged(ledger, &customer.consume(80)).await;
    let snapshot = ledger.snapshot(customer.shard()).await.unwrap();
    let mut past: Vec<_> = snapshot.past_periods.iter().filter(|(key, _)| *key == customer.pool()).map(|(_, period)| *period).collect();
    past.sort_by_key(|period| period.starts_at);
    let settled: Vec<Tokens> = past.iter().map(|period| period.balance.settled).collect();
    assert_eq!(settled, [tokens(100), tokens(100)]);
    audit(ledger, &customer).await;
}

/// Random stories in random batches: every answer is the one that the rules give in memory.
pub async fn any_story_is_answered_as_the_rules_say(ledger: &dyn Ledger) {
    for seed in 1..=3 {
        let mut random = Random(seed);
        let customers = [Customer::user(), Customer::org(), Customer::user().at("qwen")];
        let mut model = LedgerState::default();
        let mut holds: Vec<(usize, ChargeId)> = Vec::new();
        for step in 0..60 {
            let batch: Vec<LedgerRequest> =
                (0..=random.below(12)).map(|_| random_request(&mut random, &customers, &mut holds, step)).collect();
            let answers = ledger.apply(&batch).await.unwrap();
            for (request, answer) in batch.iter().zip(answers) {
                let expected = decide(&mut model, &request.request).outcome;
                assert_eq!(without_seq(answer), without_seq(LedgerAnswer::Decided(expected)), "seed {seed}, step {step}");
            }
        }
        for customer in &customers {
            audit(ledger, customer).await;
        }
    }
}

fn random_request(random: &mut Random, customers: &[Customer], holds: &mut Vec<(usize, ChargeId)>, step: u64) -> LedgerRequest {
    let index = random.below(3);
    let time = TimeDelta::minutes(i64::try_from(step * 47).unwrap());
    let customer = customers[index].later(time);
    let amount = i64::try_from(random.below(90)).unwrap();
    let held = |random: &mut Random, holds: &[(usize, ChargeId)]| {
        let (index, id) = holds[random.below(holds.len())];
        (customers[index].later(time), id)
    };
    match random.below(12) {
        0 => customer.grant(amount * 3),
        1 => customer.allowance(amount * 5, [Period::Day, Period::Week, Period::Month, Period::None][random.below(4)]),
        2..=4 => customer.consume(amount + 1),
        5 | 6 => {
            let hold = customer.hold(amount + 1);
            holds.push((index, charge_id(&hold)));
            hold
        }
        7 | 8 if !holds.is_empty() => {
            let (customer, id) = held(random, holds);
            customer.settle(id, amount)
        }
        9 if !holds.is_empty() => {
            let (customer, id) = held(random, holds);
            customer.release(id)
        }
        10 if !holds.is_empty() => {
            let (customer, id) = held(random, holds);
            customer.expire(id)
        }
        _ => customer.refusals(amount + 1),
    }
}

/// The rules know no numbers.
fn without_seq(mut answer: LedgerAnswer) -> LedgerAnswer {
    if let LedgerAnswer::Decided(Outcome::Charged { charge, .. }) = &mut answer {
        charge.seq = 0;
    }
    answer
}

/// xorshift64: repeatable, and good enough to mix steps.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}

pub async fn the_largest_and_strangest_values_survive(ledger: &dyn Ledger) {
    let org = Customer::org();
    let customer = Customer { provider: Provider::parse(&"p".repeat(50)).unwrap(), ..org };
    let metadata: Metadata = (0..16).map(|index| (format!("k{index:02}-ключ-🗝"), "\u{0}é\"\\\n🌊".repeat(36))).collect();
    let mut spec = customer.spec();
    spec.metadata = metadata;
    spec.model = Some(Model::parse(&"m".repeat(100)).unwrap());
    spec.key_id = Some(KeyId(Uuid::from_u128(u128::MAX)));
    let time_zone = Some(chrono_tz::Asia::Kathmandu);
    let change = AllowanceChange { allowance: Some(Tokens::MAX), period: Some(Period::Month), time_zone, ..AllowanceChange::default() };
    let traced = LedgerRequest {
        trace_parent: Some(TraceParent::generate()),
        ..customer.request(Command::SetAllowance { pool: customer.pool(), change })
    };
    let mut batch = vec![
        traced,
        customer.at("qwen").grant(Tokens::MAX.get()),
        customer.request(Command::Consume { spec: spec.clone(), tokens: Tokens::MAX }),
    ];
    let key = "~".repeat(255);
    batch[2] = under_key(batch[2].clone(), &key, 0xff, ports::ledger::Claim::Completes);
    ledger.apply(&batch).await.unwrap();
    let stored = ledger.find_charge(spec.id).await.unwrap().unwrap();
    assert_eq!((stored.spec, stored.settled), (spec, Tokens::MAX));
    let pool = ledger.find_pool(&customer.pool()).await.unwrap().unwrap();
    assert_eq!(pool.terms.time_zone, chrono_tz::Asia::Kathmandu);
    assert!(matches!(apply_one(ledger, &batch[2]).await, LedgerAnswer::Replayed(_)));
    audit(ledger, &customer).await;
}

pub async fn charges_come_newest_first_page_by_page(ledger: &dyn Ledger) {
    let customer = Customer::org();
    let other_user = UserId(Uuid::new_v4());
    outcome(ledger, &customer.grant(1_000)).await;
    outcome(ledger, &customer.at("qwen").grant(1_000)).await;
    let mut ids = Vec::new();
    for minute in 0..10 {
        let mut customer = customer.later(TimeDelta::minutes(minute));
        if minute % 2 == 1 {
            customer.user_id = other_user;
        }
        let request = if minute % 3 == 0 { customer.at("qwen").consume(1) } else { customer.consume(1) };
        ids.insert(0, charged(ledger, &request).await.spec.id);
    }
    let all = ChargeQuery { payer: customer.payer, user_id: None, provider: None, from: None, to: None, before: None, limit: 4 };
    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = ledger.charges(&ChargeQuery { before, ..all.clone() }).await.unwrap();
        assert!(page.len() <= 4);
        let Some(last) = page.last() else { break };
        before = Some(last.spec.id);
        paged.extend(page.into_iter().map(|charge| charge.spec.id));
    }
    assert_eq!(paged, ids);
    let all = ChargeQuery { limit: 100, ..all };
    let find =
        async |query: ChargeQuery| ledger.charges(&query).await.unwrap().into_iter().map(|charge| charge.spec.id).collect::<Vec<_>>();
    let every = |step: usize, from: usize| ids.iter().rev().skip(from).step_by(step).rev().copied().collect::<Vec<_>>();
    assert_eq!(find(ChargeQuery { user_id: Some(other_user), ..all.clone() }).await, every(2, 1));
    assert_eq!(find(ChargeQuery { provider: Provider::parse("qwen").ok(), ..all.clone() }).await, every(3, 0));
    let (from, to) = (Some(start() + TimeDelta::minutes(2)), Some(start() + TimeDelta::minutes(5)));
    assert_eq!(find(ChargeQuery { from, to, ..all.clone() }).await, ids[5..8], "from is in the range, to is not");
    assert_eq!(find(ChargeQuery { from, before: Some(ids[3]), ..all.clone() }).await, ids[4..8]);
    assert!(find(ChargeQuery { payer: Payer::User(customer.user_id), ..all }).await.is_empty(), "what an org pays is not the user's");
}

pub async fn charges_of_one_millisecond_are_all_listed(ledger: &dyn Ledger) {
    let customer = Customer::user();
    outcome(ledger, &customer.grant(1_000)).await;
    let batch: Vec<_> = (0..25).map(|_| customer.consume(1)).collect();
    ledger.apply(&batch).await.unwrap();
    let mut seen = Vec::new();
    let mut query = ChargeQuery { payer: customer.payer, user_id: None, provider: None, from: None, to: None, before: None, limit: 7 };
    loop {
        let page = ledger.charges(&query).await.unwrap();
        let Some(last) = page.last() else { break };
        query.before = Some(last.spec.id);
        seen.extend(page.into_iter().map(|charge| charge.spec.id));
    }
    let mut wanted: Vec<_> = batch.iter().map(charge_id).collect();
    wanted.sort();
    seen.sort();
    assert_eq!(seen, wanted);
}

pub async fn pools_come_in_the_order_of_their_keys_page_by_page(ledger: &dyn Ledger) {
    let mut wanted = Vec::new();
    for customer in [Customer::org(), Customer::user(), Customer::org(), Customer::user()] {
        for provider in ["openai", "gemini", "a-b", "a_b"] {
            let customer = customer.at(provider);
            outcome(ledger, &customer.grant(1)).await;
            wanted.push(customer.pool());
        }
    }
    wanted.sort();
    let mut paged = Vec::new();
    loop {
        let page = ledger.pools(None, None, paged.last(), 5).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page.into_iter().map(|pool| pool.key));
    }
    paged.retain(|key| wanted.contains(key));
    assert_eq!(paged, wanted);
    let payer = wanted[0].payer;
    let own: Vec<_> = ledger.pools(Some(payer), None, None, 100).await.unwrap().into_iter().map(|pool| pool.key).collect();
    assert_eq!(own, wanted[..4]);
    let gemini = Provider::parse("gemini").unwrap();
    let of_provider = ledger.pools(Some(payer), Some(&gemini), None, 100).await.unwrap();
    assert!(matches!(&of_provider[..], [pool] if pool.key.provider == gemini && pool.key.payer == payer));
}

pub async fn expired_holds_are_found_oldest_first_until_they_end(ledger: &dyn Ledger) {
    let customer = Customer { now: start() - TimeDelta::days(300), ..Customer::user() };
    outcome(ledger, &customer.grant(100)).await;
    let mut ids = Vec::new();
    for minute in [2, 0, 1] {
        let hold = customer.later(TimeDelta::minutes(minute)).hold(1);
        charged(ledger, &hold).await;
        ids.push((minute, charge_id(&hold)));
    }
    ids.sort();
    let ids: Vec<_> = ids.into_iter().map(|(_, id)| id).collect();
    let deadline_of_the_second = customer.now + TimeDelta::minutes(2);
    let due = async |now| ledger.expired_holds(ANYONE, now, 100).await.unwrap();
    assert_eq!(due(deadline_of_the_second + TimeDelta::milliseconds(1)).await, ids[..2]);
    assert_eq!(ledger.expired_holds(ANYONE, Utc::now(), 1).await.unwrap(), ids[..1]);
    let later = customer.later(TimeDelta::minutes(10));
    charged(ledger, &later.expire(ids[0])).await;
    charged(ledger, &later.settle(ids[1], 1)).await;
    assert_eq!(due(later.now).await, ids[2..]);
}

pub async fn what_does_not_exist_is_none(ledger: &dyn Ledger) {
    let customer = Customer::user();
    assert!(ledger.find_charge(ChargeId::new(customer.shard(), customer.now)).await.unwrap().is_none());
    assert!(ledger.find_charge(ChargeId(Uuid::new_v4())).await.unwrap().is_none(), "an id that names no shard");
    assert!(ledger.find_pool(&customer.pool()).await.unwrap().is_none());
    assert!(ledger.pools(Some(customer.payer), None, None, 10).await.unwrap().is_empty());
}
