//! What every adapter of `ports::outbox` must do.

use crate::customers::*;
use chrono::TimeDelta;
use domain::{
    budget::BudgetUnit, event::EventType, ids::Shard, ledger::Outcome, threshold::Threshold, time::Period, trace_parent::TraceParent,
};
use ports::{
    ledger::{Ledger, LedgerRequest},
    outbox::{Outbox, ShardLease},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(150);

pub async fn a_row_says_what_its_event_says<S: Ledger + Outbox>(store: &S) {
    let customer = Customer::org();
    let trace_parent = Some(TraceParent::generate());
    outcome(store, &LedgerRequest { trace_parent, ..customer.grant(10) }).await;
    let having_seen = LedgerRequest { seen: vec![0, 7, 255], ..customer.consume(4) };
    let Outcome::Charged { charge, .. } = outcome(store, &having_seen).await else { panic!("the pool has enough") };
    let rows = store.read(customer.shard(), 0, 10).await.unwrap();
    let [grant, consume] = &rows[..] else { panic!("{} rows", rows.len()) };
    assert_eq!(grant.trace_parent, trace_parent.map(|trace| trace.to_string()));
    assert_eq!(consume.trace_parent, None);
    assert_eq!((&grant.seen, &consume.seen), (&Vec::new(), &having_seen.seen));
    assert_eq!((grant.seq, consume.seq, charge.seq), (1, 2, 2));
    assert_eq!(consume.kind, EventType::ChargeSettled.as_str());
    let event = event_codec::decode(&consume.payload).unwrap();
    assert_eq!((event.seq, event.epoch, event.shard()), (consume.seq, consume.epoch, consume.shard));
    assert_eq!((event.event.id.0, event.event.payer.tenant()), (consume.event_id, consume.tenant));
    assert_eq!((event.event.occurred_at, event.event.charge_id), (consume.occurred_at, Some(charge.spec.id)));
    assert_eq!(event.event.payer, customer.payer);
}

pub async fn a_shard_is_read_in_order_from_any_number<S: Ledger + Outbox>(store: &S) {
    let customer = Customer::user();
    let batch: Vec<_> = (0..25).map(|_| customer.grant(1)).collect();
    store.apply(&batch).await.unwrap();
    let seqs = async |after, limit| store.read(customer.shard(), after, limit).await.unwrap().iter().map(|row| row.seq).collect::<Vec<_>>();
    assert_eq!(seqs(0, 10).await, (1..=10).collect::<Vec<_>>());
    assert_eq!(seqs(10, 100).await, (11..=25).collect::<Vec<_>>());
    assert!(seqs(25, 10).await.is_empty());
}

pub async fn thresholds_are_found_among_all_other_events<S: Ledger + Outbox>(store: &S) {
    let (low, high) = (Customer::in_shard(Shard::new(3).unwrap()), Customer::in_shard(Shard::new(60).unwrap()));
    for customer in [&low, &high] {
        let key = customer.budget_key(BudgetUnit::Tokens, Period::Day);
        let thresholds = [1, 2, 3].map(|amount| Threshold::Amount(tokens(amount)));
        store.apply(&[customer.grant(100), customer.set_budget(&key, None, &thresholds)]).await.unwrap();
        let later = customer.later(TimeDelta::milliseconds(1));
        store.apply(&[later.consume(1), later.consume(1), later.consume(1), later.consume(1)]).await.unwrap();
    }
    let found = async |positions: &[(Shard, i64)], limit| {
        let rows = store.read_thresholds(positions, limit).await.unwrap();
        assert!(rows.iter().all(|row| row.kind == EventType::ThresholdReached.as_str()));
        rows.into_iter().map(|row| (row.shard, row.seq)).collect::<Vec<_>>()
    };
    let (three, sixty) = (low.shard(), high.shard());
    assert_eq!(found(&[(sixty, 0), (three, 4)], 2).await, [(sixty, 4), (sixty, 6), (three, 6), (three, 8)]);
    assert!(found(&[(three, 8)], 10).await.is_empty());
}

pub async fn several_shards_are_read_at_once_each_from_its_own_number<S: Ledger + Outbox>(store: &S) {
    let (low, high) = (Customer::in_shard(Shard::new(3).unwrap()), Customer::in_shard(Shard::new(60).unwrap()));
    let batch: Vec<_> = (0..5).flat_map(|_| [low.grant(1), high.grant(1)]).collect();
    store.apply(&batch).await.unwrap();
    let positions = [(high.shard(), 1), (Shard::new(0).unwrap(), 0), (low.shard(), 3)];
    let rows = store.read_many(&positions, 3).await.unwrap();
    let read: Vec<_> = rows.iter().map(|row| (row.shard.index(), row.seq)).collect();
    assert_eq!(read, [(60, 2), (60, 3), (60, 4), (3, 4), (3, 5)]);
    assert!(store.read_many(&[], 3).await.unwrap().is_empty());
}

pub async fn heads_name_every_shard_in_order_with_its_newest_number<S: Ledger + Outbox>(store: &S) {
    let customer = Customer::user();
    let before = store.heads().await.unwrap();
    assert_eq!(before.iter().map(|head| head.shard).collect::<Vec<_>>(), Shard::all().collect::<Vec<_>>());
    store.apply(&[customer.grant(1), customer.consume(1), customer.consume(1)]).await.unwrap();
    for (before, after) in before.iter().zip(store.heads().await.unwrap()) {
        let written = if before.shard == customer.shard() { 2 } else { 0 };
        assert_eq!(after.last_seq, before.last_seq + written);
    }
}

/// Keeps asking until the owner holds that many shards.
async fn until_held(outbox: &dyn Outbox, owner: Uuid, count: usize) -> Vec<ShardLease> {
    let began = Instant::now();
    loop {
        let leases = outbox.acquire_leases(owner, LONG).await.unwrap();
        if leases.len() == count {
            return leases;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{} shards after 10 s, not {count}", leases.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn a_single_owner_holds_every_shard_and_renewing_changes_nothing(outbox: &dyn Outbox) {
    let owner = Uuid::new_v4();
    let leases = outbox.acquire_leases(owner, LONG).await.unwrap();
    assert_eq!(leases.iter().map(|lease| lease.shard).collect::<Vec<_>>(), Shard::all().collect::<Vec<_>>());
    assert_eq!(outbox.acquire_leases(owner, LONG).await.unwrap(), leases);
}

pub async fn two_owners_share_evenly_and_no_shard_has_two(outbox: &dyn Outbox) {
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    assert_eq!(outbox.acquire_leases(first, LONG).await.unwrap().len(), 64);
    assert!(outbox.acquire_leases(second, LONG).await.unwrap().is_empty(), "nothing is free yet");
    let kept = until_held(outbox, first, 32).await;
    let taken = until_held(outbox, second, 32).await;
    let mut shards: Vec<Shard> = kept.iter().chain(&taken).map(|lease| lease.shard).collect();
    shards.sort();
    shards.dedup();
    assert_eq!(shards.len(), 64);
    assert_eq!(outbox.acquire_leases(first, LONG).await.unwrap(), kept, "a fair share is left alone");
    outbox.release_leases(second).await.unwrap();
    assert_eq!(until_held(outbox, first, 64).await.len(), 64);
}

pub async fn an_abandoned_shard_is_taken_after_its_time_with_a_higher_fencing(outbox: &dyn Outbox) {
    let (dead, heir) = (Uuid::new_v4(), Uuid::new_v4());
    let lost: BTreeMap<Shard, i64> =
        outbox.acquire_leases(dead, SHORT).await.unwrap().into_iter().map(|lease| (lease.shard, lease.fencing)).collect();
    for lease in until_held(outbox, heir, 64).await {
        assert!(lease.fencing > lost[&lease.shard]);
    }
    assert!(outbox.acquire_leases(dead, LONG).await.unwrap().is_empty(), "what was lost must not be published any more");
}

pub async fn marks_rise_only_and_those_of_an_earlier_owner_are_ignored<S: Ledger + Outbox>(store: &S) {
    let customer = Customer::user();
    let batch: Vec<_> = (0..9).map(|_| customer.grant(1)).collect();
    store.apply(&batch).await.unwrap();
    let (old, new) = (Uuid::new_v4(), Uuid::new_v4());
    let lease_of = |leases: Vec<ShardLease>| leases.into_iter().find(|lease| lease.shard == customer.shard()).unwrap();
    let published = async || store.heads().await.unwrap()[usize::from(customer.shard().index())].published_through;
    let earlier = lease_of(store.acquire_leases(old, LONG).await.unwrap());
    assert_eq!(store.mark_published(&[(earlier, 3)]).await.unwrap(), []);
    assert_eq!(store.mark_published(&[(earlier, 2), (earlier, 5), (earlier, 4)]).await.unwrap(), []);
    assert_eq!(published().await, 5);
    assert_eq!(store.mark_published(&[(earlier, 1)]).await.unwrap(), [], "a repeated mark is not ignored, it is known");
    assert_eq!(published().await, 5);
    store.release_leases(old).await.unwrap();
    let later = lease_of(until_held(store, new, 64).await);
    assert_eq!(later.published_through, 5);
    assert_eq!(store.mark_published(&[(earlier, 9)]).await.unwrap(), [customer.shard()]);
    assert_eq!(published().await, 5);
    assert_eq!(store.mark_published(&[(later, 7)]).await.unwrap(), []);
    assert_eq!(published().await, 7);
    assert_eq!(store.mark_published(&[]).await.unwrap(), []);
}

pub async fn waiting_ends_with_new_rows_or_with_its_time<S: Ledger + Outbox>(store: &S) {
    let customer = Customer::user();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(100) {
        // Earlier news may still be on the way; with nothing new a wait lasts its time.
        store.wait(Duration::from_millis(40)).await;
    }
    let began = Instant::now();
    let write = async {
        tokio::task::yield_now().await;
        outcome(store, &customer.grant(1)).await;
    };
    let woken = async {
        loop {
            store.wait(Duration::from_secs(20)).await;
            if !store.read(customer.shard(), 0, 1).await.unwrap().is_empty() {
                return began.elapsed();
            }
        }
    };
    let ((), after) = futures::join!(write, woken);
    assert!(after < Duration::from_secs(5), "woken after {after:?}");
}
