//! What only the real Postgres can get wrong: lost connections, abandoned callers, plans, news between processes.

use crate::real::FreshPostgres;
use adapter_postgres::Postgres;
use contract_tests::customers::*;
use domain::ids::Shard;
use ports::{
    StoreError,
    ledger::{Claim, Ledger, LedgerAnswer, LedgerRequest},
    outbox::Outbox,
};
use sqlx::{Connection, PgConnection};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Kills every connection of one process to the database, from another.
async fn kill_connections(from: &Postgres) -> i64 {
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";
    sqlx::query_scalar(kill).fetch_one(from.pool()).await.unwrap()
}

/// Every answer and every error is compared with what is stored in the end.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_about_a_batch_whose_connection_is_killed_is_true() {
    let store = FreshPostgres::create().await;
    let customers: Vec<Customer> = (0..64).map(|_| Customer::user()).collect();
    store.one.apply(&customers.iter().map(|customer| customer.grant(1_000_000)).collect::<Vec<_>>()).await.unwrap();
    let finished = AtomicBool::new(false);
    let write = async {
        let (mut done, mut undone, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..300 {
            let batch: Vec<LedgerRequest> = customers.iter().map(|customer| customer.consume(1)).collect();
            match store.one.apply(&batch).await {
                Ok(_) => done.push(batch),
                Err(StoreError::Unavailable { .. }) => undone.push(batch),
                Err(StoreError::OutcomeUnknown { .. }) => unknown.push(batch),
                Err(error) => panic!("{error}"),
            }
        }
        finished.store(true, Ordering::SeqCst);
        (done, undone, unknown)
    };
    let kill = async {
        let mut killed = 0;
        while !finished.load(Ordering::SeqCst) {
            killed += kill_connections(&store.other).await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        killed
    };
    let ((done, undone, unknown), killed) = futures::join!(write, kill);
    assert!(killed > 20, "only {killed} connections were killed");
    for (batches, exist) in [(&done, true), (&undone, false)] {
        for request in batches.iter().flatten() {
            assert_eq!(store.other.find_charge(charge_id(request)).await.unwrap().is_some(), exist);
        }
    }
    for batch in &unknown {
        let first = store.other.find_charge(charge_id(&batch[0])).await.unwrap().is_some();
        for request in batch {
            assert_eq!(store.other.find_charge(charge_id(request)).await.unwrap().is_some(), first, "all or nothing");
        }
        // Asking again makes it true, once.
        store.other.apply(batch).await.unwrap();
        store.other.apply(batch).await.unwrap();
    }
    for customer in &customers {
        let spent = i64::try_from(done.len() + unknown.len()).unwrap();
        assert_eq!(store.other.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(1_000_000 - spent));
        audit(&store.other, customer).await;
    }
    store.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_no_transaction_open() {
    let store = FreshPostgres::create().await;
    let customers: Vec<Customer> = (0..32).map(|_| Customer::user()).collect();
    store.one.apply(&customers.iter().map(|customer| customer.grant(1_000_000)).collect::<Vec<_>>()).await.unwrap();
    for round in 0..200u64 {
        let batch: Vec<LedgerRequest> = customers.iter().map(|customer| customer.consume(1)).collect();
        let gone = tokio::time::timeout(Duration::from_micros(round * 37), store.one.apply(&batch)).await;
        drop(gone);
    }
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'
                 AND xact_start < clock_timestamp() - interval '100 ms'";
    tokio::time::timeout(Duration::from_secs(10), async {
        // The last batches are still being written by their own tasks.
        while sqlx::query_scalar::<_, i64>(count).fetch_one(store.other.pool()).await.unwrap() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    // Nothing is locked either.
    store.other.apply(&customers.iter().map(|customer| customer.consume(1)).collect::<Vec<_>>()).await.unwrap();
    for customer in &customers {
        audit(&store.other, customer).await;
    }
    store.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_unavailable() {
    let closed = crate::real::connect("postgres://weir:weir@127.0.0.1:1/weir").await.err().unwrap();
    assert!(matches!(closed, StoreError::Unavailable { store: "postgres", .. }), "{closed:?}");
    let malformed = crate::real::connect("no address").await.err().unwrap();
    assert!(matches!(malformed, StoreError::Unavailable { .. }), "{malformed:?}");
    assert!(!format!("{malformed:?}").contains("no address"), "an address may hold a password");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_is_corrupt_and_not_unavailable() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    outcome(&store.one, &customer.grant(10)).await;
    sqlx::query("UPDATE pool SET time_zone = 'Nowhere/At all'").execute(store.other.pool()).await.unwrap();
    // The handle that wrote the row last does not read it again.
    let error = store.other.apply(&[customer.consume(1)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let error = store.one.find_pool(&customer.pool()).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    store.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_itself_refuses_a_balance_below_zero() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    outcome(&store.one, &customer.grant(10)).await;
    let refused = sqlx::query("UPDATE pool SET purchased_settled = 11").execute(store.other.pool()).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "23514");
    store.remove().await;
}

/// A key that appears between the look and the write, as two shards make possible, is looked up again.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_keys_in_opposite_orders_does_not_deadlock() {
    let store = FreshPostgres::create().await;
    let (user, org) = (Customer::in_shard(Shard::new(1).unwrap()), Customer::in_shard(Shard::new(2).unwrap()));
    store.one.apply(&[user.grant(10_000), org.grant(10_000)]).await.unwrap();
    for _ in 0..20 {
        let keys: Vec<String> = (0..20).map(|_| fresh_key()).collect();
        let batch = |customer: &Customer, fingerprint, keys: &mut dyn Iterator<Item = &String>| -> Vec<LedgerRequest> {
            keys.map(|key| under_key(customer.consume(1), key, fingerprint, Claim::Completes)).collect()
        };
        let (forward, backward) = (batch(&user, 1, &mut keys.iter()), batch(&org, 2, &mut keys.iter().rev()));
        let (left, right) = futures::join!(store.one.apply(&forward), store.other.apply(&backward));
        let answers = left.unwrap().into_iter().chain(right.unwrap());
        let mismatches = answers.filter(|answer| *answer == LedgerAnswer::Mismatch).count();
        assert_eq!(mismatches, 20);
    }
    audit(&store.one, &user).await;
    audit(&store.one, &org).await;
    store.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_in_another_process_is_woken_within_100_ms() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    // Begins to listen.
    store.other.wait(Duration::from_millis(300)).await;
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let head = store.other.heads().await.unwrap()[usize::from(customer.shard().index())].last_seq;
        outcome(&store.one, &customer.grant(1)).await;
        let written = Instant::now();
        while store.other.read(customer.shard(), head, 1).await.unwrap().is_empty() {
            store.other.wait(Duration::from_secs(20)).await;
        }
        store.other.wait(Duration::from_secs(20)).await;
        fastest = fastest.min(written.elapsed());
    }
    assert!(fastest < Duration::from_millis(100), "woken after {fastest:?}");
    store.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_hears_again_after_its_connection_was_killed() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    store.other.wait(Duration::from_millis(300)).await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    assert_eq!(sqlx::query_scalar::<_, i64>(kill).fetch_one(store.one.pool()).await.unwrap(), 1);
    tokio::time::timeout(Duration::from_secs(10), async {
        let listens = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
        while sqlx::query_scalar::<_, i64>(listens).fetch_one(store.one.pool()).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    // The rings of the reconnection.
    while tokio::time::timeout(Duration::from_millis(200), store.other.wait(Duration::from_secs(20))).await.is_ok() {}
    let began = Instant::now();
    outcome(&store.one, &customer.grant(1)).await;
    store.other.wait(Duration::from_secs(20)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "woken after {:?}", began.elapsed());
    store.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_again_changes_nothing() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    outcome(&store.one, &customer.grant(10)).await;
    futures::future::try_join(store.one.migrate(), store.other.migrate()).await.unwrap();
    assert_eq!(store.other.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(10));
    store.remove().await;
}

/// A newer process may migrate while older ones run.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_added_by_a_newer_version_does_not_disturb_a_running_process() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    outcome(&store.one, &customer.grant(100)).await;
    for table in ["charge", "pool", "pool_period", "budget", "outbox", "outbox_shard", "outbox_lease", "idempotency"] {
        let work = async || {
            let hold = under_key(customer.hold(1), &fresh_key(), 1, Claim::Opens);
            charged(&store.one, &hold).await;
            charged(&store.one, &customer.settle(charge_id(&hold), 1)).await;
            audit(&store.one, &customer).await;
            store.one.heads().await.unwrap();
        };
        work().await;
        let add = format!("ALTER TABLE {table} ADD COLUMN of_a_newer_version text");
        sqlx::query(sqlx::AssertSqlSafe(add)).execute(store.other.pool()).await.unwrap();
        work().await;
    }
    store.remove().await;
}

/// What stands in the way is counted where no rollback reaches it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_the_server_rolls_back_each_time_is_given_up_after_four_tries_and_nothing_is_done() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    outcome(&store.one, &customer.grant(10)).await;
    let refuse = "CREATE SEQUENCE tries;
                  CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN PERFORM nextval('tries'); RAISE EXCEPTION 'in the way' USING ERRCODE = 'deadlock_detected'; END $$;
                  CREATE TRIGGER refuse BEFORE INSERT ON charge FOR EACH ROW EXECUTE FUNCTION refuse()";
    sqlx::raw_sql(refuse).execute(store.other.pool()).await.unwrap();
    let request = customer.consume(1);
    let given_up = tokio::time::timeout(Duration::from_secs(30), store.one.apply(std::slice::from_ref(&request))).await.unwrap();
    assert!(matches!(given_up, Err(StoreError::Unavailable { .. })), "{given_up:?}");
    assert_eq!(sqlx::query_scalar::<_, i64>("SELECT last_value FROM tries").fetch_one(store.other.pool()).await.unwrap(), 4);
    assert_eq!(store.one.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(10));
    sqlx::raw_sql("DROP TRIGGER refuse ON charge").execute(store.other.pool()).await.unwrap();
    charged(&store.one, &request).await;
    audit(&store.one, &customer).await;
    store.remove().await;
}

/// Nobody did the upkeep for days, or the clock was set: the write makes what it needs.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_a_partition_for_its_day_makes_it() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    for parent in ["outbox", "idempotency"] {
        sqlx::query("SELECT drop_partitions($1, '9999-01-01')").bind(parent).execute(store.other.pool()).await.unwrap();
    }
    let request = under_key(customer.grant(10), &fresh_key(), 1, Claim::Completes);
    outcome(&store.one, &request).await;
    audit(&store.other, &customer).await;
    store.remove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upkeep_of_several_processes_at_once_holds_up_neither_writers_nor_each_other() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    outcome(&store.one, &customer.grant(1_000)).await;
    let old = "SELECT add_partitions('idempotency', 1, current_date - 30, current_date - 3)";
    assert_eq!(sqlx::query_scalar::<_, i32>(old).fetch_one(store.other.pool()).await.unwrap(), 28);
    let forget = chrono::Utc::now() - chrono::TimeDelta::days(1);
    let upkeep = async |postgres: &Postgres| {
        for _ in 0..10 {
            postgres.maintain(forget).await.unwrap();
        }
    };
    let write = async {
        for _ in 0..100 {
            outcome(&store.one, &under_key(customer.consume(1), &fresh_key(), 1, Claim::Completes)).await;
        }
    };
    futures::join!(upkeep(&store.one), upkeep(&store.other), write);
    let kept = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'idempotency'::regclass";
    assert!(sqlx::query_scalar::<_, i64>(kept).fetch_one(store.other.pool()).await.unwrap() <= 5, "the last day, today and three ahead");
    assert_eq!(store.other.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(900));
    audit(&store.one, &customer).await;
    store.remove().await;
}

/// What lies before the current week is not looked at by who reads on from there, and everything is found by who reads from the beginning.
#[tokio::test(flavor = "multi_thread")]
async fn old_weeks_are_read_only_by_those_who_ask_for_them() {
    let store = FreshPostgres::create().await;
    let customer = Customer::user();
    store.one.apply(&(0..100).map(|_| customer.grant(1)).collect::<Vec<_>>()).await.unwrap();
    for statement in
        ["SELECT add_partitions('outbox', 7, current_date - 30, current_date - 30)", "UPDATE outbox SET day = current_date - 30"]
    {
        sqlx::query(statement).execute(store.other.pool()).await.unwrap();
    }
    store.one.maintain(customer.now).await.unwrap();
    store.one.apply(&(0..100).map(|_| customer.grant(1)).collect::<Vec<_>>()).await.unwrap();
    let closed: i64 = sqlx::query_scalar("SELECT max(closed_seq) FROM outbox_history").fetch_one(store.other.pool()).await.unwrap();
    assert_eq!(closed, 100);
    for after in [0, 37, 99, 100, 101, 163] {
        let rows = store.other.read(customer.shard(), after, 30).await.unwrap();
        let seqs: Vec<i64> = rows.iter().map(|row| row.seq).collect();
        assert_eq!(seqs, (after + 1..=(after + 30).min(200)).collect::<Vec<_>>());
    }
    audit(&store.one, &customer).await;
    store.remove().await;
}

/// Every connection makes its plans while the tables are empty, and keeps them: of a day's new partition for the whole day.
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_of_a_batch_reads_a_table_as_a_whole_when_it_has_grown() {
    let store = FreshPostgres::create().await;
    // A vacuum reads whole ranges for a BRIN index, which the server counts as scans; and no plan shall be the better for its statistics.
    let no_vacuum = "DO $$ DECLARE name regclass; BEGIN
                       FOR name IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
                       LOOP EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', name); END LOOP; END $$";
    sqlx::raw_sql(no_vacuum).execute(store.other.pool()).await.unwrap();
    let customers: Vec<Customer> = (0..50).map(|_| Customer::user()).collect();
    store.one.apply(&customers.iter().map(|customer| customer.grant(1_000_000)).collect::<Vec<_>>()).await.unwrap();
    let under_fresh_keys = |requests: &[LedgerRequest]| -> Vec<LedgerRequest> {
        requests.iter().map(|request| under_key(request.clone(), &fresh_key(), 1, Claim::Completes)).collect()
    };
    for round in 0..60 {
        // Through both, so that some batches know their pools and others read.
        let ledger = if round % 7 == 0 { &store.other } else { &store.one };
        let holds: Vec<LedgerRequest> = customers.iter().map(|customer| customer.hold(5)).collect();
        ledger.apply(&under_fresh_keys(&holds)).await.unwrap();
        let settle = customers.iter().zip(&holds).map(|(customer, hold)| customer.settle(charge_id(hold), 5));
        ledger.apply(&under_fresh_keys(&settle.collect::<Vec<_>>())).await.unwrap();
    }
    // A connection reports what it did at its end.
    store.one.close().await;
    store.other.close().await;
    let mut connection = PgConnection::connect(&store.url).await.unwrap();
    let read_whole = "SELECT relname::text, seq_tup_read FROM pg_stat_user_tables
                      WHERE seq_tup_read > 1000 AND relname ~ '^(charge|pool|idempotency|outbox_[0-9])'";
    let rows: Vec<(String, i64)> = sqlx::query_as(read_whole).fetch_all(&mut connection).await.unwrap();
    assert_eq!(rows, [], "tables and the rows that were read by scans");
    let by_index = "SELECT sum(idx_tup_fetch)::bigint FROM pg_stat_user_tables WHERE relname = 'charge'";
    assert!(sqlx::query_scalar::<_, i64>(by_index).fetch_one(&mut connection).await.unwrap() >= 3_000, "the server counts");
    connection.close().await.unwrap();
    store.remove().await;
}
