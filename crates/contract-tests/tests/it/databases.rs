//! A ledger over two databases: shards move from one to the other while they are written to, and nothing is lost.

use crate::real::FreshDatabases;
use adapter_postgres::{Databases, Postgres};
use contract_tests::customers::*;
use domain::{budget::BudgetUnit, ids::Shard, time::Period};
use futures::future::join_all;
use ports::{
    StoreError,
    ledger::{Claim, Ledger, LedgerAnswer, LedgerRequest},
    outbox::Outbox,
};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    time::Duration,
};

fn shards(range: std::ops::Range<u8>) -> Vec<Shard> {
    range.map(|index| Shard::new(index).unwrap()).collect()
}

async fn of_database(databases: &Databases, number: usize) -> Vec<Shard> {
    databases.shards().await.into_iter().filter(|(_, database)| *database == Some(number)).map(|(shard, _)| shard).collect()
}

async fn count(database: &Postgres, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(database.pool()).await.unwrap()
}

/// A customer in every shard, with holds, settled charges, an open refund, refused requests, answers and open keys.
async fn a_busy_past(ledger: &dyn Ledger) -> (Vec<Customer>, Vec<LedgerRequest>) {
    let customers: Vec<Customer> = Shard::all().map(Customer::in_shard).collect();
    ledger.apply(&customers.iter().map(|customer| customer.grant(100_000)).collect::<Vec<_>>()).await.unwrap();
    let budget = |customer: &Customer| customer.set_budget(&customer.budget_key(BudgetUnit::Tokens, Period::Month), Some(90_000), &[]);
    ledger.apply(&customers.iter().map(budget).collect::<Vec<_>>()).await.unwrap();
    let mut open = Vec::new();
    for customer in &customers {
        let (hold, settled) = (customer.hold(10), customer.hold(5));
        let opened = under_key(customer.hold(7), &fresh_key(), 1, Claim::Opens);
        let consume = under_key(customer.consume(3), &fresh_key(), 2, Claim::Completes);
        let id = charge_id(&settled);
        let batch = [hold, settled, customer.settle(id, 4), opened.clone(), consume, customer.refusals(2), customer.refund(id, Some(1))];
        ledger.apply(&batch).await.unwrap();
        open.push(opened);
    }
    (customers, open)
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_move_while_they_are_written_to_and_nothing_is_lost() {
    let store = FreshDatabases::create_undivided().await;
    let (customers, open) = a_busy_past(&store.one).await;
    let (finished, refused) = (AtomicBool::new(false), AtomicI64::new(0));
    // Two processes; the second one never hears of a move but by being turned away.
    let write = async |ledger: &Databases| {
        let mut spent = vec![0; customers.len()];
        let mut unsure = Vec::new();
        while !finished.load(Ordering::SeqCst) {
            for (customer, spent) in customers.iter().zip(&mut spent) {
                let request = customer.consume(1);
                match ledger.apply(std::slice::from_ref(&request)).await {
                    Ok(_) => *spent += 1,
                    Err(StoreError::Unavailable { .. }) => {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(StoreError::OutcomeUnknown { .. }) => unsure.push(request),
                    Err(error) => panic!("{error}"),
                }
            }
            let everyone: Vec<_> = customers.iter().map(|customer| customer.consume(1)).collect();
            match ledger.apply(&everyone).await {
                Ok(_) => spent.iter_mut().for_each(|spent| *spent += 1),
                Err(StoreError::Unavailable { .. }) => {}
                Err(_) => unsure.extend(everyone),
            }
        }
        (spent, unsure)
    };
    let operate = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let there = store.one.move_shards(&shards(10..40), 1).await.unwrap();
        let back = store.one.move_shards(&shards(20..25), 0).await.unwrap();
        let again = store.one.move_shards(&shards(10..20), 1).await.unwrap();
        finished.store(true, Ordering::SeqCst);
        (there, back, again)
    };
    let ((one, first_unsure), (other, second_unsure), (there, back, again)) =
        futures::join!(write(&store.one), write(&store.other), operate);
    assert_eq!((there.shards, back.shards, again.shards), (30, 5, 0));
    assert!(there.events >= 30 * 8, "{there:?}");
    let expected: BTreeSet<Shard> = shards(10..20).into_iter().chain(shards(25..40)).collect();
    assert_eq!(of_database(&store.other, 1).await.into_iter().collect::<BTreeSet<_>>(), expected);
    // What was not known is asked again, and is then done once.
    for request in first_unsure.iter().chain(&second_unsure) {
        store.one.apply(std::slice::from_ref(request)).await.unwrap();
        store.other.apply(std::slice::from_ref(request)).await.unwrap();
    }
    let of_customer = |customer: &Customer| {
        i64::try_from(first_unsure.iter().chain(&second_unsure).filter(|request| request.shard == customer.shard()).count()).unwrap()
    };
    for (((customer, open), one), other) in customers.iter().zip(&open).zip(one).zip(other) {
        let pool = store.other.find_pool(&customer.pool()).await.unwrap().unwrap();
        assert_eq!(pool.remaining(), tokens(100_000 - 23 - one - other - of_customer(customer)), "shard {}", customer.shard());
        // An open key went along: its charge ends it.
        let settle = under_key(customer.settle(charge_id(open), 7), &open.idempotency.as_ref().unwrap().key.key, 1, Claim::Completes);
        charged(&store.one, &settle).await;
        assert!(matches!(apply_one(&store.other, &settle).await, LedgerAnswer::Replayed(_)));
        audit(&store.other, customer).await;
    }
    for (head, customer) in store.one.heads().await.unwrap().iter().zip(&customers) {
        let rows = store.other.read(customer.shard(), 0, 100_000).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), (1..=head.last_seq).collect::<Vec<_>>());
    }
    // Nothing stays behind.
    for database in [&store.first.one, &store.second.one] {
        for table in ["charge", "outbox", "pool", "saga", "idempotency"] {
            let foreign = format!("SELECT count(*) FROM {table} AS t JOIN outbox_shard AS s ON s.shard = t.shard WHERE NOT s.home");
            let foreign: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(foreign)).fetch_one(database.pool()).await.unwrap();
            assert_eq!(foreign, 0, "{table}");
        }
    }
    store.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_broke_off_while_the_shards_were_paused_is_finished_by_repeating_it() {
    let store = FreshDatabases::create_undivided().await;
    let (customers, _) = a_busy_past(&store.one).await;
    // As a process leaves it that is killed after the pause: the original is whole.
    sqlx::query("UPDATE outbox_shard SET home = false WHERE shard < 8").execute(store.first.one.pool()).await.unwrap();
    assert_eq!(store.one.shards().await.iter().filter(|(_, database)| database.is_none()).count(), 8);
    let paused = store.other.apply(&[customers[3].consume(1)]).await.unwrap_err();
    assert!(matches!(paused, StoreError::Unavailable { .. }), "{paused:?}");
    assert_eq!(store.other.store_of(customers[3].shard()), store.other.stores() - 1, "a queue of its own, so that nobody waits behind it");
    outcome(&store.other, &customers[9].consume(1)).await;
    let moved = store.one.move_shards(&shards(0..8), 1).await.unwrap();
    assert_eq!(moved.shards, 8);
    for customer in &customers[..8] {
        outcome(&store.other, &customer.consume(1)).await;
        audit(&store.other, customer).await;
    }
    assert_eq!(count(&store.first.one, "SELECT count(*) FROM charge WHERE shard < 8").await, 0);
    store.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_a_ledger_of_its_own_is_not_taken_for_a_further_one() {
    let store = FreshDatabases::create_undivided().await;
    let foreign = crate::real::FreshPostgres::create().await;
    let not_joined = Databases::open(store.first.one.clone(), vec![foreign.one.clone()]).await.err().unwrap();
    assert!(matches!(not_joined, StoreError::Corrupt { .. }), "{not_joined:?}");
    outcome(&foreign.one, &Customer::user().grant(1)).await;
    assert!(Databases::join(&foreign.one).await.is_err());
    Databases::join(&store.second.one).await.unwrap();
    foreign.remove().await;
    store.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_move_runs_at_a_time() {
    let store = FreshDatabases::create_undivided().await;
    let moves = [0..4, 4..8, 8..12].map(|range| {
        let databases = store.one.clone();
        async move { databases.move_shards(&shards(range), 1).await }
    });
    let moved = join_all(moves).await;
    assert_eq!(moved.iter().filter(|moved| moved.is_ok()).count(), 1, "{moved:?}");
    assert_eq!(of_database(&store.other, 1).await.len(), 4);
    store.remove().await;
}
