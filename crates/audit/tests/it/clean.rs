//! What is right is called clean: idle, half published, half applied, and while everything moves.

use crate::world::{World, different};
use audit::{Progress, Scope};
use std::{collections::HashMap, sync::Mutex};

#[tokio::test]
async fn a_random_workload_is_clean_whether_or_not_it_is_published_and_applied() {
    for seed in 0..20 {
        for world in [World::after(seed, 800), World::settled(seed, 800)] {
            let report = world.audit(Scope::default()).await;
            assert_eq!(different(&report), HashMap::new(), "seed {seed}: {:#?}", report.invariants);
            assert!(report.clean && report.checked_events > 200, "{}", report.checked_events);
            assert!(report.invariants.iter().all(|invariant| invariant.checked > 0 || invariant.id == "I9"), "{:#?}", report.invariants);
            assert_eq!(report.totals.applied + report.totals.pending, report.totals.accepted);
            assert_eq!(report.totals.dead_letters, 3);
        }
    }
}

#[tokio::test]
async fn live_traffic_between_any_two_reads_is_no_difference() {
    for seed in 100..140 {
        let world = World::after(seed, 300);
        world.data().steps_per_read = usize::try_from(seed % 5 + 1).unwrap();
        let report = world.audit(Scope::default()).await;
        assert_eq!(different(&report), HashMap::new(), "seed {seed}: {:#?}", report.invariants);
    }
}

#[tokio::test]
async fn an_empty_installation_is_clean() {
    let report = World::new(1).audit(Scope::default()).await;
    assert!(report.clean);
    assert_eq!(report.checked_events, 0);
}

#[tokio::test]
async fn progress_ends_with_every_shard_and_event() {
    let world = World::settled(3, 300);
    let seen = Mutex::new(Vec::new());
    let note = |progress| seen.lock().unwrap().push(progress);
    let report = audit::run(&world.stores().await, &Scope::default(), &note).await.unwrap();
    let last = seen.lock().unwrap().last().copied();
    assert_eq!(last, Some(Progress::Shards { done: 64, of: 64, events: report.checked_events }));
}

#[tokio::test]
async fn an_audit_can_run_in_a_task_of_its_own() {
    let stores = World::settled(5, 200).stores().await;
    let report = tokio::spawn(async move { audit::run(&stores, &Scope::default(), &|_| {}).await }).await;
    assert!(report.unwrap().unwrap().clean);
}
