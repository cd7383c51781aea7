//! What every ledger must do after it was restored to an earlier moment. The store that is restored never saw the originals' requests:
//! it is what the events before the restore make of it, and then gets the others.

use crate::customers::*;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    budget::BudgetUnit,
    charge::{Charge, ChargeStatus},
    ids::Shard,
    ledger::Outcome,
    saga::SagaStatus,
    threshold::Threshold,
    time::Period,
};
use ports::{
    StoreError,
    ledger::{Ledger, ShardSnapshot},
    outbox::{Outbox, OutboxRow, ShardHead},
};
use std::time::Duration;
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(600);

fn deadline() -> DateTime<Utc> {
    start() + TimeDelta::hours(2)
}

/// A shard with everything that events tell of: balances, periods, budgets, holds, refunds, purchases.
async fn a_rich_past<S: Ledger + Outbox>(store: &S) -> (Customer, Vec<OutboxRow>) {
    let customer = Customer::org();
    let budget = customer.set_budget(&customer.budget_key(BudgetUnit::Tokens, Period::Month), Some(500), &[Threshold::Amount(tokens(20))]);
    let (open, settled, released) = (customer.hold(10), customer.hold(20), customer.hold(5));
    let (ended, given_back) = (charge_id(&settled), charge_id(&released));
    let first = [customer.allowance(100, Period::Day), customer.grant(200), budget, customer.consume(30), open, settled, released];
    store.apply(&first).await.unwrap();
    store.apply(&[customer.settle(ended, 15), customer.release(given_back), customer.refusals(3), customer.purchase(70)]).await.unwrap();
    let claimed = store.claim_sagas(LONG, 10).await.unwrap().remove(0);
    outcome(store, &customer.move_purchase(&claimed, SagaStatus::PaymentReserved)).await;
    outcome(store, &customer.move_purchase(&claimed, SagaStatus::TokensAllocated)).await;
    outcome(store, &customer.refund(ended, Some(4))).await;
    // The next period of the allowance, and a late use of the one before.
    outcome(store, &customer.later(TimeDelta::days(1)).consume(40)).await;
    let rows = store.read(customer.shard(), 0, 1_000).await.unwrap();
    assert!(rows.len() > 14, "{} events", rows.len());
    (customer, rows)
}

/// Without the deadlines of holds, which no event tells.
fn charges(snapshot: &ShardSnapshot) -> Vec<Charge> {
    let mut charges: Vec<Charge> = snapshot.charges.iter().map(|charge| Charge { expires_at: None, ..charge.clone() }).collect();
    charges.sort_by_key(|charge| charge.spec.id);
    charges
}

async fn head(store: &impl Outbox, shard: Shard) -> ShardHead {
    store.heads().await.unwrap().into_iter().find(|head| head.shard == shard).unwrap()
}

pub async fn what_was_lost_is_brought_back_as_it_was<S: Ledger + Outbox>(original: &S, restored: &S) {
    let (customer, rows) = a_rich_past(original).await;
    let shard = customer.shard();
    let (kept, lost) = rows.split_at(rows.len() / 2);
    restored.bring_back(shard, kept, deadline()).await.unwrap();
    restored.bring_back(shard, lost, deadline()).await.unwrap();
    assert_eq!(restored.read(shard, 0, 1_000).await.unwrap(), rows);
    let (before, after) = (original.snapshot(shard).await.unwrap(), restored.snapshot(shard).await.unwrap());
    assert_state_is_the_fold_of_the_events(&after);
    assert_eq!(charges(&after), charges(&before));
    assert_eq!((&after.pools, &after.past_periods, &after.budgets), (&before.pools, &before.past_periods, &before.budgets));
    assert_eq!((&after.sagas, after.last_seq), (&before.sagas, before.last_seq));
    assert_eq!(head(restored, shard).await.published_through, before.last_seq, "what came from the log is published");
}

pub async fn after_a_restore_numbers_go_on_in_a_later_epoch<S: Ledger + Outbox>(original: &S, restored: &S) {
    let (customer, rows) = a_rich_past(original).await;
    let shard = customer.shard();
    restored.bring_back(shard, &rows, deadline()).await.unwrap();
    let epoch_of_next = async |after: i64| {
        outcome(restored, &customer.later(TimeDelta::days(1)).consume(1)).await;
        let row = restored.read(shard, after, 1).await.unwrap().remove(0);
        assert_eq!((row.seq, event_codec::decode(&row.payload).unwrap().epoch), (after + 1, row.epoch));
        row.epoch
    };
    let last_seq = rows.last().unwrap().seq;
    let first = epoch_of_next(last_seq).await;
    assert!(first > rows.last().unwrap().epoch);
    restored.bring_back(shard, &[], deadline()).await.unwrap();
    assert_eq!(epoch_of_next(last_seq + 1).await, first + 1, "also where nothing was lost");
    audit(restored, &customer).await;
}

pub async fn what_waits_when_it_is_brought_back_goes_on<S: Ledger + Outbox>(original: &S, restored: &S) {
    let (customer, rows) = a_rich_past(original).await;
    restored.bring_back(customer.shard(), &rows, deadline()).await.unwrap();
    let held = original.snapshot(customer.shard()).await.unwrap().charges;
    let held: Vec<_> = held.iter().filter(|charge| charge.status == ChargeStatus::Held).map(|charge| charge.spec.id).collect();
    assert_eq!(held.len(), 1);
    assert!(restored.expired_holds(ANYONE, deadline() - TimeDelta::milliseconds(1), 10).await.unwrap().is_empty());
    assert_eq!(restored.expired_holds(ANYONE, deadline(), 10).await.unwrap(), held);
    let claimed = restored.claim_sagas(LONG, 10).await.unwrap();
    let [purchase] = &claimed[..] else { panic!("only the purchase waits for somebody: {claimed:?}") };
    assert_eq!(purchase.saga.status(), SagaStatus::TokensAllocated);
    let moved = outcome(restored, &customer.move_purchase(purchase, SagaStatus::PaymentCaptured)).await;
    assert!(matches!(moved, Outcome::SagaMoved { .. }), "{moved:?}");
    audit(restored, &customer).await;
}

pub async fn only_what_follows_can_be_brought_back<S: Ledger + Outbox>(original: &S, restored: &S) {
    let (customer, rows) = a_rich_past(original).await;
    let shard = customer.shard();
    restored.bring_back(shard, &rows[..4], deadline()).await.unwrap();
    let before = restored.snapshot(shard).await.unwrap();
    let mut renumbered = rows[4].clone();
    renumbered.seq += 1;
    let mut damaged = rows[4].clone();
    damaged.payload.truncate(20);
    let unfitting = [rows[5..].to_vec(), rows[3..].to_vec(), vec![rows[4].clone(), rows[6].clone()], vec![renumbered], vec![damaged]];
    for lost in unfitting {
        let refused = restored.bring_back(shard, &lost, deadline()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{refused:?}");
    }
    let after = restored.snapshot(shard).await.unwrap();
    assert_eq!((after.last_seq, charges(&after), &after.pools), (before.last_seq, charges(&before), &before.pools));
    restored.bring_back(shard, &rows[4..], deadline()).await.unwrap();
}

pub async fn whoever_published_before_the_restore_marks_nothing_after_it<S: Ledger + Outbox>(original: &S, restored: &S) {
    let (customer, rows) = a_rich_past(original).await;
    let (shard, owner) = (customer.shard(), Uuid::new_v4());
    restored.bring_back(shard, &rows[..4], deadline()).await.unwrap();
    let lease = async || {
        let leases = restored.acquire_leases(owner, LONG).await.unwrap();
        leases.into_iter().find(|lease| lease.shard == shard).unwrap()
    };
    let of_before = lease().await;
    restored.bring_back(shard, &rows[4..], deadline()).await.unwrap();
    assert_eq!(restored.mark_published(&[(of_before, rows.last().unwrap().seq + 9)]).await.unwrap(), [shard]);
    let now = lease().await;
    assert!(now.fencing > of_before.fencing + 1_000, "above every number that was given and forgotten");
    assert_eq!(now.published_through, rows.last().unwrap().seq);
    assert!(restored.mark_published(&[(now, now.published_through)]).await.unwrap().is_empty());
}
