//! What one handle remembers of a shard never outlives what another one wrote: two processes share every store.

use crate::customers::*;
use chrono::TimeDelta;
use domain::{budget::BudgetUnit, ledger::Outcome, time::Period};
use ports::ledger::{Claim, Ledger, LedgerAnswer, LedgerRequest};

/// Each handle spends once and knows the pool from then on.
async fn known_to_both(one: &dyn Ledger, other: &dyn Ledger, granted: i64) -> Customer {
    let customer = Customer::user();
    outcome(one, &customer.grant(granted + 2)).await;
    for handle in [one, other] {
        charged(handle, &customer.consume(1)).await;
    }
    customer
}

pub async fn what_another_handle_granted_can_be_spent(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = known_to_both(one, other, 0).await;
    for round in 1..=5 {
        outcome(other, &customer.grant(round)).await;
        assert_eq!(charged(one, &customer.consume(round)).await.settled, tokens(round));
    }
    audit(one, &customer).await;
}

pub async fn what_another_handle_spent_cannot_be_spent_again(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = known_to_both(one, other, 100).await;
    for (handle, amount) in [(one, 40), (other, 30), (one, 25), (other, 5)] {
        charged(handle, &customer.consume(amount)).await;
    }
    for handle in [one, other] {
        assert!(matches!(outcome(handle, &customer.consume(1)).await, Outcome::QuotaExhausted(_)));
    }
    audit(one, &customer).await;
}

pub async fn a_hold_of_another_handle_is_known(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = known_to_both(one, other, 10).await;
    let hold = customer.hold(10);
    charged(one, &hold).await;
    assert!(matches!(outcome(other, &customer.consume(1)).await, Outcome::QuotaExhausted(_)));
    charged(other, &customer.settle(charge_id(&hold), 4)).await;
    charged(one, &customer.consume(6)).await;
    audit(one, &customer).await;
}

pub async fn a_budget_set_by_another_handle_binds(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = known_to_both(one, other, 100).await;
    outcome(other, &customer.set_budget(&customer.budget_key(BudgetUnit::Tokens, Period::Day), Some(10), &[])).await;
    let customer = customer.later(TimeDelta::milliseconds(1));
    for (handle, amount) in [(one, 6), (other, 4)] {
        charged(handle, &customer.consume(amount)).await;
    }
    for handle in [one, other] {
        assert!(matches!(outcome(handle, &customer.consume(1)).await, Outcome::BudgetExhausted(_)));
    }
    audit(one, &customer).await;
}

pub async fn a_key_used_by_another_handle_is_known(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = known_to_both(one, other, 100).await;
    let key = fresh_key();
    let request = |amount| under_key(customer.consume(amount), &key, 1, Claim::Completes);
    assert!(matches!(apply_one(one, &request(10)).await, LedgerAnswer::Decided(Outcome::Charged { .. })));
    assert!(matches!(apply_one(other, &request(10)).await, LedgerAnswer::Replayed(_)));
    assert!(matches!(apply_one(one, &request(10)).await, LedgerAnswer::Replayed(_)));
    let mismatch = under_key(customer.consume(10), &key, 2, Claim::Completes);
    assert!(matches!(apply_one(other, &mismatch).await, LedgerAnswer::Mismatch));
    // In one batch with a new one, which is not refused for it.
    let batch: [LedgerRequest; 2] = [request(10), customer.consume(5)];
    let answers = one.apply(&batch).await.unwrap();
    assert!(matches!(answers[..], [LedgerAnswer::Replayed(_), LedgerAnswer::Decided(Outcome::Charged { .. })]), "{answers:?}");
    assert_eq!(one.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(85));
    audit(one, &customer).await;
}

/// A period begins between two consumes: the earlier one is kept as it was.
pub async fn a_period_that_began_at_another_handle_is_known(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = Customer::user();
    outcome(one, &customer.allowance(10, Period::Day)).await;
    for handle in [one, other] {
        charged(handle, &customer.consume(5)).await;
    }
    let tomorrow = customer.later(TimeDelta::days(1));
    charged(other, &tomorrow.consume(7)).await;
    charged(one, &tomorrow.consume(3)).await;
    assert!(matches!(outcome(other, &tomorrow.consume(1)).await, Outcome::QuotaExhausted(_)));
    let next = customer.later(TimeDelta::days(2));
    charged(one, &next.consume(10)).await;
    audit(one, &customer).await;
}
