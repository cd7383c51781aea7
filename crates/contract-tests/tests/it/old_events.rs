//! Old events leave each store for the archive.

use crate::real::{FreshDatabases, FreshPostgres};
use ::archive::{ArchivedOutbox, archive_old};
use adapter_embedded::{Embedded, MemoryArchive};
use adapter_postgres::Postgres;
use chrono::{DateTime, TimeDelta, Utc};
use contract_tests::{customers::*, old_events as suite};
use ports::{ledger::Ledger, outbox::Outbox};
use std::{collections::HashMap, sync::Arc};

/// All of it lies in the partition of a week that ended long ago.
async fn age(postgres: &Postgres) -> DateTime<Utc> {
    for statement in [
        "SELECT add_partitions('outbox', 7, current_date - 30, current_date - 30)",
        "UPDATE outbox AS o SET day = current_date - 30 FROM outbox_history AS h WHERE h.shard = o.shard AND o.seq > h.archived_through",
    ] {
        sqlx::query(statement).execute(postgres.pool()).await.unwrap();
    }
    Utc::now() - TimeDelta::days(10)
}

macro_rules! on_each {
    ($($claim:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let store = super::Embedded::in_temp().await.unwrap();
                super::suite::$claim(&store, &store.clone(), async || super::Utc::now() + super::TimeDelta::days(1)).await;
            })*
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let store = super::FreshPostgres::create().await;
                super::suite::$claim(&store.one, &store.other, async || super::age(&store.one).await).await;
                store.remove().await;
            })*
        }

        mod two_databases {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                let store = super::FreshDatabases::create().await;
                let age = async || {
                    super::age(&store.first.one).await;
                    super::age(&store.second.one).await
                };
                super::suite::$claim(&store.one, &store.other, age).await;
                store.remove().await;
            })*
        }
    };
}

on_each! {
    what_was_archived_is_read_as_before,
    what_is_still_needed_or_young_stays,
    killed_anywhere_and_done_again_it_makes_the_same_files,
    of_two_at_once_one_drops_and_both_are_content,
    a_damaged_or_missing_file_is_named_and_nothing_of_it_is_used,
}

async fn partitions(postgres: &Postgres) -> i64 {
    let count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox'::regclass";
    sqlx::query_scalar(count).fetch_one(postgres.pool()).await.unwrap()
}

/// A transaction that began before midnight took its number after one that began later.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_of_the_next_partition_between_those_of_the_old_one_is_read_once() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    for _ in 0..12 {
        store.one.apply(&[customer.grant(1)]).await.unwrap();
    }
    let all = store.one.read(customer.shard(), 0, 100).await.unwrap();
    let partitions_before = partitions(&store.one).await;
    for statement in [
        "SELECT add_partitions('outbox', 7, current_date - 30, current_date - 30)",
        "UPDATE outbox SET day = current_date - 30 WHERE seq <= 9 OR seq = 11",
    ] {
        sqlx::query(statement).execute(store.other.pool()).await.unwrap();
    }
    let archive = Arc::new(MemoryArchive::default());
    let outbox = ArchivedOutbox::new(Arc::new(store.one.clone()), archive.clone());
    let released = HashMap::from([(customer.shard(), 12)]);
    let before = Utc::now() - TimeDelta::days(10);
    assert_eq!(archive_old(&outbox, &*archive, before, &released).await.unwrap(), 11);
    assert_eq!(partitions(&store.one).await, partitions_before);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(store.other.pool()).await.unwrap();
    assert_eq!(left, 2, "numbers 10 and 12");
    for after in 0..12 {
        assert_eq!(outbox.read(customer.shard(), after, 100).await.unwrap(), all[usize::try_from(after).unwrap()..]);
    }
    let snapshot = store.one.snapshot(customer.shard()).await.unwrap();
    assert_eq!(snapshot.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [12]);
    store.remove().await;
}

/// Who reads the table holds up the drop, and the drop nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_being_read_is_dropped_another_time() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    store.one.apply(&[customer.grant(1)]).await.unwrap();
    let before = age(&store.one).await;
    let archive = MemoryArchive::default();
    let released = HashMap::from([(customer.shard(), 1)]);
    let mut reading = store.other.pool().begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM outbox").execute(&mut *reading).await.unwrap();
    assert_eq!(archive_old(&store.one, &archive, before, &released).await.unwrap(), 0);
    assert_eq!(store.one.read(customer.shard(), 0, 10).await.unwrap().len(), 1);
    reading.rollback().await.unwrap();
    assert_eq!(archive_old(&store.one, &archive, before, &released).await.unwrap(), 1);
    store.remove().await;
}

/// A shard that moves takes along how far it was archived.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_whose_beginning_was_archived_moves() {
    let store = FreshDatabases::create_undivided().await;
    let customer = Customer::user();
    for _ in 0..5 {
        store.one.apply(&[customer.grant(1)]).await.unwrap();
    }
    let all = store.one.read(customer.shard(), 0, 100).await.unwrap();
    let before = age(&store.first.one).await;
    let archive = Arc::new(MemoryArchive::default());
    let outbox = ArchivedOutbox::new(Arc::new(store.one.clone()), archive.clone());
    let released = HashMap::from([(customer.shard(), 9)]);
    assert_eq!(archive_old(&outbox, &*archive, before, &released).await.unwrap(), 5);
    store.one.apply(&[customer.grant(1)]).await.unwrap();
    store.one.move_shards(&[customer.shard()], 1).await.unwrap();
    store.one.apply(&[customer.grant(1)]).await.unwrap();
    let read = outbox.read(customer.shard(), 0, 100).await.unwrap();
    assert_eq!((read.len(), &read[..5]), (7, &all[..]));
    let snapshot = store.one.snapshot(customer.shard()).await.unwrap();
    assert_eq!((snapshot.archived_through, snapshot.last_seq, snapshot.events.len()), (5, 7, 2));
    store.remove().await;
}
