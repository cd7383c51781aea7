//! The truth table of idempotency keys.

use crate::customers::*;
use chrono::{DurationRound, TimeDelta, Utc};
use domain::{charge::ChargeStatus, ledger::Outcome};
use futures::future::join_all;
use ports::ledger::{CLAIM_LEASE_SECS, Claim, Ledger, LedgerAnswer, LedgerRequest};

/// Whoever is told a stored outcome did not do it.
fn told_again(outcome: &Outcome) -> Outcome {
    match outcome.clone() {
        Outcome::Charged { charge, pool, at, .. } => Outcome::Charged { charge, pool, at, changed: false },
        other => other,
    }
}

fn key_of(request: &LedgerRequest) -> ports::ledger::IdempotencyKey {
    request.idempotency.clone().unwrap().key
}

pub async fn the_same_request_again_gets_the_stored_answer(ledger: &dyn Ledger) {
    let (customer, key) = (Customer::user(), fresh_key());
    outcome(ledger, &customer.grant(100)).await;
    let first = outcome(ledger, &under_key(customer.consume(10), &key, 1, Claim::Completes)).await;
    charged(ledger, &customer.consume(5)).await;
    // A client that repeats makes a new charge id; the key decides.
    let again = under_key(customer.later(TimeDelta::hours(1)).consume(10), &key, 1, Claim::Completes);
    let LedgerAnswer::Replayed(stored) = apply_one(ledger, &again).await else { panic!("the key is completed") };
    assert_eq!(stored.outcome, told_again(&first));
    assert_eq!(stored.context, b"context");
    assert_eq!(ledger.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(85));
    let found = ledger.find_answers(&[key_of(&again)]).await.unwrap();
    assert_eq!(found, [Some((stored, [1; 32]))]);
    audit(ledger, &customer).await;
}

pub async fn a_stored_answer_stays_as_it_was_given(ledger: &dyn Ledger) {
    let (customer, key) = (Customer::org(), fresh_key());
    let granted = under_key(customer.grant(100), &fresh_key(), 1, Claim::Completes);
    let grant = outcome(ledger, &granted).await;
    let hold = under_key(customer.hold(10), &key, 1, Claim::Completes);
    let held = outcome(ledger, &hold).await;
    let settle = under_key(customer.later(TimeDelta::seconds(60)).settle(charge_id(&hold), 12), &fresh_key(), 1, Claim::Completes);
    charged(ledger, &customer.later(TimeDelta::seconds(60)).expire(charge_id(&hold))).await;
    let settled = outcome(ledger, &settle).await;
    for (request, first) in [(granted, grant), (hold, held), (settle, settled)] {
        let LedgerAnswer::Replayed(stored) = apply_one(ledger, &request).await else { panic!("the key is completed") };
        assert_eq!(stored.outcome, told_again(&first));
        assert_eq!(ledger.find_answers(&[key_of(&request)]).await.unwrap(), [Some((stored, [1; 32]))]);
    }
}

pub async fn another_request_under_the_key_is_a_mismatch_whether_it_is_open_or_completed(ledger: &dyn Ledger) {
    let (customer, completed, open) = (Customer::user(), fresh_key(), fresh_key());
    outcome(ledger, &customer.grant(100)).await;
    outcome(ledger, &under_key(customer.consume(10), &completed, 1, Claim::Completes)).await;
    outcome(ledger, &under_key(customer.hold(10), &open, 1, Claim::Opens)).await;
    for key in [&completed, &open] {
        let other = under_key(customer.consume(11), key, 2, Claim::Completes);
        assert_eq!(apply_one(ledger, &other).await, LedgerAnswer::Mismatch);
        // Also one that another pool pays, and so another shard.
        let other = under_key(Customer::org().consume(11), key, 2, Claim::Completes);
        assert_eq!(apply_one(ledger, &other).await, LedgerAnswer::Mismatch);
    }
    assert_eq!(ledger.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(80));
}

pub async fn a_refused_request_does_not_take_its_key(ledger: &dyn Ledger) {
    let (customer, key) = (Customer::user(), fresh_key());
    let request = |amount, fingerprint| under_key(customer.consume(amount), &key, fingerprint, Claim::Completes);
    assert!(matches!(outcome(ledger, &request(10, 1)).await, Outcome::QuotaExhausted(_)));
    assert_eq!(ledger.find_answers(&[key_of(&request(10, 1))]).await.unwrap(), [None]);
    outcome(ledger, &customer.grant(100)).await;
    // Not even the fingerprint is remembered.
    assert!(matches!(outcome(ledger, &request(20, 2)).await, Outcome::Charged { .. }));
}

pub async fn an_opened_key_is_in_progress_until_its_charge_completes_it(ledger: &dyn Ledger) {
    let (customer, key) = (Customer::user(), fresh_key());
    outcome(ledger, &customer.grant(100)).await;
    let hold = under_key(customer.hold(10), &key, 1, Claim::Opens);
    outcome(ledger, &hold).await;
    let again = under_key(customer.hold(10), &key, 1, Claim::Opens);
    assert_eq!(apply_one(ledger, &again).await, LedgerAnswer::InProgress);
    assert_eq!(ledger.find_answers(&[key_of(&hold)]).await.unwrap(), [None], "only completed requests have an answer");
    let settle = under_key(customer.settle(charge_id(&hold), 7), &key, 1, Claim::Completes);
    let settled = outcome(ledger, &settle).await;
    assert!(matches!(&settled, Outcome::Charged { charge, .. } if charge.status == ChargeStatus::Settled));
    for repeated in [again, settle] {
        let LedgerAnswer::Replayed(stored) = apply_one(ledger, &repeated).await else { panic!("the key is completed") };
        assert_eq!(stored.outcome, told_again(&settled));
    }
    audit(ledger, &customer).await;
}

pub async fn the_opener_may_ask_again_when_its_answer_was_lost(ledger: &dyn Ledger) {
    let (customer, key) = (Customer::user(), fresh_key());
    outcome(ledger, &customer.grant(100)).await;
    let hold = under_key(customer.hold(10), &key, 1, Claim::Opens);
    let first = charged(ledger, &hold).await;
    assert_eq!(charged(ledger, &hold).await, first, "the same charge: the same request, not a second one");
    assert_eq!(ledger.find_pool(&customer.pool()).await.unwrap().unwrap().held(), tokens(10));
    audit(ledger, &customer).await;
}

pub async fn a_hold_that_ended_by_itself_still_completes_its_key(ledger: &dyn Ledger) {
    let (customer, key) = (Customer::user(), fresh_key());
    outcome(ledger, &customer.grant(100)).await;
    let hold = under_key(customer.hold(10), &key, 1, Claim::Opens);
    outcome(ledger, &hold).await;
    let later = customer.later(TimeDelta::seconds(60));
    charged(ledger, &later.expire(charge_id(&hold))).await;
    let release = under_key(later.release(charge_id(&hold)), &key, 1, Claim::Completes);
    assert_eq!(charged(ledger, &release).await.status, ChargeStatus::Expired);
    assert!(matches!(apply_one(ledger, &release).await, LedgerAnswer::Replayed(_)));
}

pub async fn an_abandoned_key_is_resumed_by_exactly_one_caller_with_a_new_lease(one: &dyn Ledger, other: &dyn Ledger) {
    let (customer, key) = (Customer::user(), fresh_key());
    outcome(one, &customer.grant(100)).await;
    let hold = under_key(customer.hold(10), &key, 1, Claim::Opens);
    let opened = outcome(one, &hold).await;
    let almost = customer.later(TimeDelta::seconds(CLAIM_LEASE_SECS) - TimeDelta::milliseconds(1));
    assert_eq!(apply_one(other, &under_key(almost.hold(10), &key, 1, Claim::Opens)).await, LedgerAnswer::InProgress);
    let over = customer.later(TimeDelta::seconds(CLAIM_LEASE_SECS));
    let callers = (0..16).map(|index| {
        let (ledger, request) = (if index % 2 == 0 { one } else { other }, under_key(over.hold(10), &key, 1, Claim::Opens));
        async move { apply_one(ledger, &request).await }
    });
    let (resumed, rest): (Vec<_>, Vec<_>) =
        join_all(callers).await.into_iter().partition(|answer| matches!(answer, LedgerAnswer::Resumed(_)));
    let [LedgerAnswer::Resumed(stored)] = &resumed[..] else { panic!("{} callers resumed", resumed.len()) };
    assert_eq!((&stored.outcome, &stored.context[..]), (&told_again(&opened), &b"context"[..]));
    assert!(rest.iter().all(|answer| *answer == LedgerAnswer::InProgress));
    let again = over.later(TimeDelta::seconds(CLAIM_LEASE_SECS));
    let next = apply_one(one, &under_key(again.hold(10), &key, 1, Claim::Opens)).await;
    assert!(matches!(next, LedgerAnswer::Resumed(_)), "the new lease ends as well");
    let settle = under_key(again.settle(charge_id(&hold), 3), &key, 1, Claim::Completes);
    charged(one, &settle).await;
    assert!(matches!(apply_one(other, &settle).await, LedgerAnswer::Replayed(_)));
    assert_eq!(one.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(97));
    audit(one, &customer).await;
}

pub async fn of_many_same_requests_at_once_one_is_done(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = Customer::user();
    outcome(one, &customer.grant(1_000)).await;
    for _ in 0..5 {
        let key = fresh_key();
        let callers = (0..16).map(|index| {
            let (ledger, request) = (if index % 2 == 0 { one } else { other }, under_key(customer.consume(10), &key, 1, Claim::Completes));
            async move { apply_one(ledger, &request).await }
        });
        let (done, rest): (Vec<_>, Vec<_>) =
            join_all(callers).await.into_iter().partition(|answer| matches!(answer, LedgerAnswer::Decided(_)));
        let [LedgerAnswer::Decided(decided)] = &done[..] else { panic!("{} were done", done.len()) };
        for answer in rest {
            let LedgerAnswer::Replayed(stored) = answer else { panic!("{answer:?}") };
            assert_eq!(stored.outcome, told_again(decided));
        }
    }
    assert_eq!(one.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(950));
    audit(one, &customer).await;
}

/// The same key for two payers at once: only one of the two charges may be made.
pub async fn a_key_used_in_two_shards_at_once_is_one_request_and_one_mismatch(one: &dyn Ledger, other: &dyn Ledger) {
    let (user, org) = (Customer::user(), Customer::org());
    outcome(one, &user.grant(1_000)).await;
    outcome(one, &org.grant(1_000)).await;
    for _ in 0..10 {
        let key = fresh_key();
        let by_user = under_key(user.consume(1), &key, 1, Claim::Completes);
        let by_org = under_key(org.consume(1), &key, 2, Claim::Completes);
        let answers = futures::join!(apply_one(one, &by_user), apply_one(other, &by_org));
        let mismatches = [&answers.0, &answers.1].into_iter().filter(|answer| **answer == LedgerAnswer::Mismatch).count();
        assert_eq!(mismatches, 1, "{answers:?}");
    }
    audit(one, &user).await;
    audit(one, &org).await;
}

pub async fn answers_are_forgotten_by_whole_days_and_their_keys_are_free_again(ledger: &dyn Ledger) {
    let now = Utc::now().duration_trunc(TimeDelta::milliseconds(1)).unwrap();
    let customer = Customer { now, ..Customer::user() };
    outcome(ledger, &customer.grant(100)).await;
    let request = under_key(customer.consume(1), &fresh_key(), 1, Claim::Completes);
    outcome(ledger, &request).await;
    let keys = [key_of(&request)];
    for _ in 0..2 {
        ledger.maintain(customer.now).await.unwrap();
        assert!(ledger.find_answers(&keys).await.unwrap()[0].is_some(), "its day has not ended before that");
    }
    for _ in 0..2 {
        ledger.maintain(customer.now + TimeDelta::days(2)).await.unwrap();
        assert!(ledger.find_answers(&keys).await.unwrap()[0].is_none());
    }
    let again = under_key(customer.consume(1), &keys[0].key, 1, Claim::Completes);
    charged(ledger, &again).await;
    assert!(ledger.find_answers(&keys).await.unwrap()[0].is_some());
    audit(ledger, &customer).await;
}

pub async fn the_same_charge_again_is_done_once(ledger: &dyn Ledger) {
    let customer = Customer::user();
    outcome(ledger, &customer.grant(100)).await;
    let (consume, hold) = (customer.consume(10), customer.hold(10));
    // Twice in one batch, then again in the company of new ones.
    let first = ledger.apply(&[consume.clone(), hold.clone(), consume.clone()]).await.unwrap();
    assert_eq!(first[0], first[2].clone_with_pool_of(&first[0]));
    let again = ledger.apply(&[customer.consume(1), consume.clone(), hold.clone(), customer.consume(1)]).await.unwrap();
    for answer in &again {
        assert!(matches!(answer, LedgerAnswer::Decided(Outcome::Charged { .. })), "{answer:?}");
    }
    assert_eq!(ledger.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(78));
    audit(ledger, &customer).await;
}

trait Comparable {
    fn clone_with_pool_of(&self, other: &LedgerAnswer) -> LedgerAnswer;
}

impl Comparable for LedgerAnswer {
    /// Later answers show the pool as it is by then; the charge must be the same.
    fn clone_with_pool_of(&self, other: &LedgerAnswer) -> LedgerAnswer {
        match (self, other) {
            (Self::Decided(Outcome::Charged { charge, at, .. }), Self::Decided(Outcome::Charged { pool, changed, .. })) => {
                Self::Decided(Outcome::Charged { charge: charge.clone(), pool: pool.clone(), at: *at, changed: *changed })
            }
            _ => self.clone(),
        }
    }
}
