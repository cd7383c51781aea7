//! Refunds: decided under the lock of their shard, stored as sagas, found until they have ended.

use crate::customers::*;
use chrono::TimeDelta;
use domain::{
    amount::Tokens,
    budget::BudgetUnit,
    charge::ChargeStatus,
    ids::SagaId,
    ledger::Outcome,
    saga::{Saga, SagaStatus},
    time::Period,
};
use futures::future::{join, join_all};
use ports::ledger::{Claim, Ledger, LedgerAnswer, LedgerRequest};

async fn refunded(ledger: &dyn Ledger, request: &LedgerRequest) -> Saga {
    match outcome(ledger, request).await {
        Outcome::SagaMoved { saga } => *saga,
        other => panic!("expected a refund, not {other:?}"),
    }
}

async fn is_open(ledger: &dyn Ledger, id: SagaId) -> bool {
    let (mut open, mut after) = (Vec::new(), None);
    loop {
        let page = ledger.open_sagas(after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        open.extend(page.into_iter().map(|saga| saga.id));
    }
    assert!(open.is_sorted(), "in the order of their ids");
    open.contains(&id)
}

pub async fn a_refund_gives_back_in_parts_and_never_more_than_was_settled(ledger: &dyn Ledger) {
    let customer = Customer::org();
    let spend = customer.consume(60);
    let id = charge_id(&spend);
    let batch = [customer.grant(100), spend, customer.refund(id, Some(25)), customer.refund(id, Some(36)), customer.refund(id, Some(35))];
    let answers = ledger.apply(&batch).await.unwrap();
    assert!(matches!(&answers[3], LedgerAnswer::Decided(Outcome::AmountExceedsRest { rest }) if *rest == tokens(35)), "{answers:?}");
    assert_eq!(outcome(ledger, &customer.refund(id, None)).await, Outcome::InvalidTransition { status: ChargeStatus::Refunded });
    let charge = ledger.find_charge(id).await.unwrap().unwrap();
    assert_eq!((charge.status, charge.settled, charge.refunded), (ChargeStatus::Refunded, tokens(60), tokens(60)));
    assert_eq!(ledger.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(100));
    let hold = customer.hold(5);
    charged(ledger, &hold).await;
    let refused = outcome(ledger, &customer.refund(charge_id(&hold), None)).await;
    assert_eq!(refused, Outcome::InvalidTransition { status: ChargeStatus::Held });
    assert_eq!(outcome(ledger, &customer.refund(charge_id(&customer.consume(1)), None)).await, Outcome::ChargeNotFound);
    audit(ledger, &customer).await;
}

pub async fn a_refund_is_a_saga_that_is_open_until_it_is_completed(ledger: &dyn Ledger) {
    let customers: Vec<Customer> = (0..3).flat_map(|_| [Customer::user(), Customer::org()]).collect();
    let mut sagas = Vec::new();
    for customer in &customers {
        let spend = customer.consume(10);
        let id = charge_id(&spend);
        ledger.apply(&[customer.grant(10), spend]).await.unwrap();
        sagas.push(refunded(ledger, &customer.refund(id, Some(4))).await);
    }
    for (customer, saga) in customers.iter().zip(&sagas) {
        assert_eq!(ledger.find_saga(saga.id).await.unwrap().as_ref(), Some(saga));
        let last_seq = ledger.snapshot(customer.shard()).await.unwrap().last_seq;
        assert!(0 < saga.seq && saga.seq <= last_seq && is_open(ledger, saga.id).await);
    }
    let (customer, saga) = (customers[3].later(TimeDelta::minutes(5)), &sagas[3]);
    let completed = refunded(ledger, &customer.complete_refund(saga.id)).await;
    assert_eq!((completed.status(), completed.steps.last().unwrap().at), (SagaStatus::Completed, customer.now));
    assert!(completed.seq > saga.seq && !is_open(ledger, saga.id).await && is_open(ledger, sagas[4].id).await);
    // Again, by another process: found done.
    assert_eq!(refunded(ledger, &customer.later(TimeDelta::minutes(1)).complete_refund(saga.id)).await, completed);
    assert_eq!(ledger.find_saga(saga.id).await.unwrap(), Some(completed));
    let unknown = SagaId::new(customer.shard(), customer.now);
    assert_eq!(outcome(ledger, &customer.complete_refund(unknown)).await, Outcome::SagaNotFound);
    assert_eq!(ledger.find_saga(unknown).await.unwrap(), None);
    for customer in &customers {
        audit(ledger, customer).await;
    }
}

pub async fn a_refund_restores_the_period_in_which_was_spent_and_the_budget_that_counted_it(ledger: &dyn Ledger) {
    let customer = Customer::org();
    let key = customer.budget_key(BudgetUnit::Money, Period::Month);
    ledger.apply(&[customer.allowance(100, Period::Day), customer.set_budget(&key, Some(1_000), &[])]).await.unwrap();
    let customer = customer.later(TimeDelta::milliseconds(1));
    let spend = customer.costing(90, customer.consume(30));
    charged(ledger, &spend).await;
    let days_later = customer.later(TimeDelta::days(2));
    charged(ledger, &customer.later(TimeDelta::days(1)).consume(1)).await;
    charged(ledger, &days_later.consume(1)).await;
    refunded(ledger, &days_later.refund(charge_id(&spend), Some(10))).await;
    let snapshot = ledger.snapshot(customer.shard()).await.unwrap();
    let mut past: Vec<_> = snapshot.past_periods.iter().filter(|(key, _)| *key == customer.pool()).map(|(_, period)| *period).collect();
    past.sort_by_key(|period| period.starts_at);
    assert_eq!(past.iter().map(|period| period.balance.settled).collect::<Vec<_>>(), [tokens(20), tokens(1)]);
    let pool = ledger.find_pool(&customer.pool()).await.unwrap().unwrap();
    assert_eq!(pool.current.unwrap().balance.settled, tokens(1), "the present allowance is what it was");
    let budgets = ledger.budgets(customer.payer, None).await.unwrap();
    assert_eq!(budgets[0].current.used, tokens(60));
    let event = snapshot.events.last().unwrap().event.as_ref().unwrap();
    assert_eq!((event.event.occurred_at, event.event.cost.unwrap().minor_units), (customer.now, tokens(30)));
    audit(ledger, &customer).await;
}

pub async fn the_same_refund_again_is_done_once(ledger: &dyn Ledger) {
    let customer = Customer::user();
    let spend = customer.consume(60);
    ledger.apply(&[customer.grant(100), spend.clone()]).await.unwrap();
    // As after a lost answer: the same saga.
    let request = customer.refund(charge_id(&spend), Some(10));
    let first = refunded(ledger, &request).await;
    assert_eq!(refunded(ledger, &request).await, first);
    // As a client repeats it: a new saga under the same key.
    let key = fresh_key();
    let keyed = |request| under_key(request, &key, 1, Claim::Completes);
    let second = refunded(ledger, &keyed(customer.refund(charge_id(&spend), Some(20)))).await;
    ledger.apply(&[customer.complete_refund(second.id), customer.refund(charge_id(&spend), None)]).await.unwrap();
    match apply_one(ledger, &keyed(customer.refund(charge_id(&spend), Some(20)))).await {
        LedgerAnswer::Replayed(stored) => assert_eq!(stored.outcome, Outcome::SagaMoved { saga: Box::new(second) }, "as it was told"),
        other => panic!("expected the stored answer, not {other:?}"),
    }
    assert_eq!(ledger.find_charge(charge_id(&spend)).await.unwrap().unwrap().refunded, tokens(60));
    audit(ledger, &customer).await;
}

pub async fn of_refunds_that_race_with_spends_nothing_is_lost_or_given_twice(one: &dyn Ledger, other: &dyn Ledger) {
    const SPENT: i64 = 90;
    let customer = Customer::org();
    outcome(one, &customer.grant(1_000)).await;
    let spends: Vec<LedgerRequest> = (0..4).map(|_| customer.consume(SPENT)).collect();
    one.apply(&spends).await.unwrap();
    // Each charge is refunded by both handles, in sevens: more than there is.
    let refund = async |ledger: &dyn Ledger, charge: &LedgerRequest| {
        let mut given = Tokens::ZERO;
        for _ in 0..10 {
            if let Outcome::SagaMoved { saga } = outcome(ledger, &customer.refund(charge_id(charge), Some(7))).await {
                given = given.checked_add(saga.tokens).unwrap();
            }
        }
        given.get()
    };
    let spend = async |ledger: &dyn Ledger| {
        let mut spent = 0;
        for _ in 0..30 {
            if matches!(outcome(ledger, &customer.consume(13)).await, Outcome::Charged { .. }) {
                spent += 13;
            }
        }
        spent
    };
    let refunds = join_all(spends.iter().flat_map(|charge| [refund(one, charge), refund(other, charge)]));
    let (given, spent) = join(refunds, join_all([spend(one), spend(other)])).await;
    let (given, spent): (i64, i64) = (given.into_iter().sum(), spent.into_iter().sum());
    let rest = SPENT % 7;
    assert_eq!(given, 4 * (SPENT - rest), "each charge to the last seven");
    for charge in &spends {
        assert_eq!(one.find_charge(charge_id(charge)).await.unwrap().unwrap().net(), tokens(rest));
    }
    let pool = other.find_pool(&customer.pool()).await.unwrap().unwrap();
    assert_eq!(pool.remaining(), tokens(1_000 - 4 * SPENT + given - spent));
    audit(one, &customer).await;
}
