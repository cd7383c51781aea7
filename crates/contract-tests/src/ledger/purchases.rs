//! Purchases: claimed by one at a time, moved under the latest claim only.

use crate::customers::*;
use domain::{
    ledger::{Command, Direction, Outcome},
    saga::SagaStatus,
};
use futures::future::join_all;
use ports::ledger::{ClaimedSaga, Ledger, LedgerRequest};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(600);

async fn status(ledger: &dyn Ledger, request: &LedgerRequest) -> SagaStatus {
    match outcome(ledger, request).await {
        Outcome::SagaMoved { saga } => saga.status(),
        other => panic!("expected a step, not {other:?}"),
    }
}

async fn only_claim(ledger: &dyn Ledger, lease: Duration) -> ClaimedSaga {
    let claimed = ledger.claim_sagas(lease, 10).await.unwrap();
    let [claimed] = claimed.try_into().unwrap();
    claimed
}

pub async fn a_purchase_is_moved_by_whoever_has_the_latest_claim_until_it_has_ended(ledger: &dyn Ledger) {
    use SagaStatus::{Completed, PaymentCaptured, PaymentReserved, Started, TokensAllocated};
    let customer = Customer::org();
    assert_eq!(status(ledger, &customer.purchase(100)).await, Started);
    let stale = only_claim(ledger, Duration::ZERO).await;
    let claimed = only_claim(ledger, LONG).await;
    assert_eq!((claimed.saga.id, claimed.saga.status(), claimed.claim), (stale.saga.id, Started, stale.claim + 1));
    assert!(ledger.claim_sagas(LONG, 10).await.unwrap().is_empty(), "its lease runs");
    assert_eq!(outcome(ledger, &customer.move_purchase(&stale, PaymentReserved)).await, Outcome::SagaTaken);
    for to in [PaymentReserved, TokensAllocated, TokensAllocated, PaymentCaptured, Completed] {
        assert_eq!(status(ledger, &customer.move_purchase(&claimed, to)).await, to);
    }
    let saga = ledger.find_saga(claimed.saga.id).await.unwrap().unwrap();
    assert_eq!(saga.steps.len(), 5);
    assert_eq!(ledger.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(100));
    assert!(ledger.open_sagas(None, 10).await.unwrap().is_empty());
    assert!(ledger.claim_sagas(Duration::ZERO, 10).await.unwrap().is_empty(), "nobody has to move it any more");
    audit(ledger, &customer).await;
}

pub async fn a_purchase_that_is_compensated_takes_its_tokens_back(ledger: &dyn Ledger) {
    use SagaStatus::{Compensating, Failed, PaymentReserved, PaymentVoided, TokensAllocated, TokensTakenBack};
    let customer = Customer::user();
    status(ledger, &customer.purchase(100)).await;
    let claimed = only_claim(ledger, LONG).await;
    status(ledger, &customer.move_purchase(&claimed, PaymentReserved)).await;
    status(ledger, &customer.move_purchase(&claimed, TokensAllocated)).await;
    charged(ledger, &customer.consume(30)).await;
    let direction = Command::DirectPurchase { saga_id: claimed.saga.id, direction: Direction::Compensate, reason: "test".into() };
    assert_eq!(status(ledger, &customer.request(direction)).await, Compensating);
    // At once, and not when the lease is over.
    let again = only_claim(ledger, LONG).await;
    assert_eq!(outcome(ledger, &customer.move_purchase(&claimed, TokensTakenBack)).await, Outcome::SagaTaken);
    let skipped = outcome(ledger, &customer.move_purchase(&again, PaymentVoided)).await;
    assert_eq!(skipped, Outcome::SagaElsewhere { status: Compensating });
    for to in [TokensTakenBack, PaymentVoided, Failed] {
        assert_eq!(status(ledger, &customer.move_purchase(&again, to)).await, to);
    }
    let pool = ledger.find_pool(&customer.pool()).await.unwrap().unwrap();
    assert_eq!((pool.remaining(), pool.debt), (tokens(0), tokens(30)));
    audit(ledger, &customer).await;
}

pub async fn of_many_that_claim_a_purchase_one_gets_it_until_its_lease_is_over(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = Customer::user();
    status(one, &customer.purchase(1)).await;
    // Longer than the four take together on a busy machine: who comes after the lease is over has it rightly.
    let lease = Duration::from_secs(3);
    let claims = join_all([one, other, one, other].map(async |ledger| ledger.claim_sagas(lease, 10).await.unwrap())).await;
    assert_eq!(claims.iter().map(Vec::len).sum::<usize>(), 1, "{claims:?}");
    let first = claims.into_iter().flatten().next().unwrap();
    let second = loop {
        match other.claim_sagas(LONG, 10).await.unwrap().pop() {
            Some(claimed) => break claimed,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(second.claim, first.claim + 1);
    assert_eq!(outcome(one, &customer.move_purchase(&first, SagaStatus::PaymentReserved)).await, Outcome::SagaTaken);
    assert_eq!(status(other, &customer.move_purchase(&second, SagaStatus::PaymentReserved)).await, SagaStatus::PaymentReserved);
    audit(one, &customer).await;
}
