//! Several writers at once: nothing is overspent, numbers stay dense, readers never skip, snapshots are of one moment.

use crate::{customers::*, ledger::Random};
use domain::{ids::Shard, ledger::Outcome};
use futures::future::{join, join_all};
use ports::{
    ledger::{Ledger, LedgerAnswer, LedgerRequest, Sweeper},
    outbox::Outbox,
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use uuid::Uuid;

pub async fn two_writers_never_overspend_a_pool(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = Customer::org();
    outcome(one, &customer.grant(500)).await;
    let write = async |ledger: &dyn Ledger, seed: u64| {
        let mut random = Random(seed);
        let mut spent = 0;
        for _ in 0..40 {
            let batch: Vec<_> = (0..=random.below(6)).map(|_| customer.consume(1 + i64::try_from(random.below(9)).unwrap())).collect();
            for answer in ledger.apply(&batch).await.unwrap() {
                if let LedgerAnswer::Decided(Outcome::Charged { charge, .. }) = answer {
                    spent += charge.settled.get();
                }
            }
        }
        spent
    };
    let spent = join_all([write(one, 1), write(other, 2), write(one, 3), write(other, 4)]).await.into_iter().sum::<i64>();
    let pool = one.find_pool(&customer.pool()).await.unwrap().unwrap();
    assert_eq!((spent, pool.debt), (500 - pool.remaining().get(), tokens(0)));
    assert!(pool.remaining() < tokens(10), "the pool was fought over");
    audit(one, &customer).await;
}

/// Two amounts, one of them twice, and a release: the first one ends the hold, and the others agree with it or are refused.
pub async fn of_ends_that_race_one_is_booked_and_told_to_all(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = Customer::org();
    outcome(one, &customer.grant(1_000)).await;
    let mut settled = 0;
    for _ in 0..12 {
        let hold = charged(one, &customer.hold(50)).await.spec.id;
        let ends = [customer.settle(hold, 30), customer.settle(hold, 70), customer.release(hold), customer.settle(hold, 30)];
        let race = ends.iter().enumerate().map(|(number, end)| outcome(if number % 2 == 0 { one } else { other }, end));
        let told = join_all(race).await;
        let ended = one.find_charge(hold).await.unwrap().unwrap();
        let changes = told.iter().filter(|told| matches!(told, Outcome::Charged { changed: true, .. })).count();
        assert_eq!(changes, 1, "{told:?}");
        for told in told {
            match told {
                Outcome::Charged { charge, .. } => assert_eq!((charge.status, charge.settled), (ended.status, ended.settled)),
                refused => assert_eq!(refused, Outcome::InvalidTransition { status: ended.status }),
            }
        }
        settled += ended.settled.get();
    }
    let pool = one.find_pool(&customer.pool()).await.unwrap().unwrap();
    assert_eq!((pool.remaining(), pool.held()), (tokens(1_000 - settled), tokens(0)));
    audit(one, &customer).await;
}

pub async fn overdue_holds_are_shown_to_one_sweeper_until_its_lease_is_over(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = Customer::user();
    let hold = customer.hold(1);
    one.apply(&[customer.grant(1), hold.clone()]).await.unwrap();
    let (now, due) = (customer.later(chrono::TimeDelta::days(1)).now, vec![charge_id(&hold)]);
    let sweeper = |lease| Sweeper { id: Uuid::new_v4(), lease };
    let (first, second) = (sweeper(Duration::from_millis(200)), sweeper(Duration::from_secs(600)));
    assert_eq!(one.expired_holds(first, now, 10).await.unwrap(), due);
    // The first one asks no more, as one that was killed.
    while other.expired_holds(second, now, 10).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(one.expired_holds(first, now, 10).await.unwrap().is_empty(), "the second one has it now");
    assert_eq!(other.expired_holds(second, now, 10).await.unwrap(), due, "and keeps it");
    // Given up: nobody has to wait for its end.
    other.expired_holds(Sweeper { lease: Duration::ZERO, ..second }, now, 0).await.unwrap();
    let many =
        join_all([one, other, one, other].map(async |ledger| ledger.expired_holds(sweeper(Duration::from_secs(600)), now, 10).await));
    assert_eq!(many.await.into_iter().filter(|found| *found.as_ref().unwrap() == due).count(), 1, "of many that ask at once one gets it");
}

/// A reader that follows `seq > after` sees every number of every shard, in order, at the first try.
pub async fn a_reader_never_skips_while_several_write<W: Ledger + Outbox>(writers: &[&W], reader: &W) {
    const BATCHES: usize = 60;
    let customers: Vec<Customer> = (0..24).map(|index| if index % 2 == 0 { Customer::user() } else { Customer::org() }).collect();
    let grants: Vec<LedgerRequest> = customers.iter().map(|customer| customer.grant(100_000)).collect();
    reader.apply(&grants).await.unwrap();
    let finished = AtomicBool::new(false);
    let write = async |ledger: &W, seed: u64| {
        let mut random = Random(seed);
        for _ in 0..BATCHES {
            let size = 1 + random.below(40);
            // Every tenth request is refused: it must not use up a number.
            let request = |random: &mut Random| {
                let customer = &customers[random.below(customers.len())];
                if random.below(10) == 0 { customer.consume(200_000) } else { customer.consume(1) }
            };
            let batch: Vec<_> = (0..size).map(|_| request(&mut random)).collect();
            ledger.apply(&batch).await.unwrap();
        }
    };
    let follow = async {
        let mut next = vec![1; 64];
        loop {
            let last_round = finished.load(Ordering::SeqCst);
            for shard in Shard::all() {
                follow_shard(reader, shard, &mut next[usize::from(shard.index())]).await;
            }
            if last_round {
                return next;
            }
        }
    };
    let write_all = async {
        join_all(writers.iter().zip(11..).map(|(writer, seed)| write(writer, seed))).await;
        finished.store(true, Ordering::SeqCst);
    };
    let ((), next) = join(write_all, follow).await;
    for head in reader.heads().await.unwrap() {
        assert_eq!(head.last_seq + 1, next[usize::from(head.shard.index())], "shard {}", head.shard);
    }
    for customer in &customers {
        audit(reader, customer).await;
    }
}

async fn follow_shard(outbox: &impl Outbox, shard: Shard, next: &mut i64) {
    for row in outbox.read(shard, *next - 1, 500).await.unwrap() {
        assert_eq!(row.seq, *next, "a number of shard {shard} became visible before its predecessor");
        *next += 1;
    }
}

pub async fn a_snapshot_under_load_is_of_one_moment(one: &dyn Ledger, other: &dyn Ledger) {
    let customer = Customer::user();
    outcome(one, &customer.grant(1_000_000)).await;
    let finished = AtomicBool::new(false);
    let write = async {
        for round in 0..60 {
            let hold = customer.hold(5);
            let id = charge_id(&hold);
            one.apply(&[hold, customer.consume(1), customer.grant(1)]).await.unwrap();
            one.apply(&[customer.settle(id, round % 9)]).await.unwrap();
        }
        finished.store(true, Ordering::SeqCst);
    };
    let look = async {
        let mut seen = 0;
        while !finished.load(Ordering::SeqCst) {
            let snapshot = other.snapshot(customer.shard()).await.unwrap();
            assert_state_is_the_fold_of_the_events(&snapshot);
            assert!(snapshot.last_seq >= seen);
            seen = snapshot.last_seq;
        }
        seen
    };
    let ((), seen) = join(write, look).await;
    assert!(seen > 0);
}

/// Opposite orders, overlapping shards: the batches of two writers wait for each other, but never in a circle.
pub async fn overlapping_batches_do_not_deadlock(one: &dyn Ledger, other: &dyn Ledger) {
    let customers: Vec<Customer> = Shard::all().map(Customer::in_shard).collect();
    let grants: Vec<_> = customers.iter().map(|customer| customer.grant(1_000)).collect();
    one.apply(&grants).await.unwrap();
    let forward = async {
        for _ in 0..40 {
            one.apply(&customers.iter().map(|customer| customer.consume(1)).collect::<Vec<_>>()).await.unwrap();
        }
    };
    let backward = async {
        for _ in 0..40 {
            other.apply(&customers.iter().rev().map(|customer| customer.consume(1)).collect::<Vec<_>>()).await.unwrap();
        }
    };
    join(forward, backward).await;
    for customer in &customers {
        assert_eq!(one.find_pool(&customer.pool()).await.unwrap().unwrap().remaining(), tokens(920));
    }
}
