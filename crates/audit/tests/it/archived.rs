//! A history whose beginning has left the outbox for the archive.

use crate::world::{World, different};
use audit::{Notebook, Plan, Scope};
use domain::ids::Shard;

/// The older half of each shard is in the archive, and the log has forgotten it.
fn archive(world: &World) {
    for shard in Shard::all() {
        let mut data = world.data();
        let data = data.shard(shard);
        data.archived_through = data.last_seq / 2;
        let through = data.archived_through;
        data.log.retain(|record| record.seq.is_some_and(|seq| seq > through));
    }
}

#[tokio::test]
async fn archived_events_are_folded_and_compared_as_if_they_had_never_left() {
    let world = World::settled(7, 900);
    let whole = world.audit(Scope::default()).await;
    archive(&world);
    let report = world.audit(Scope::default()).await;
    assert!(report.clean, "{:?}", different(&report));
    assert_eq!((report.checked_events, report.totals), (whole.checked_events, whole.totals));
}

#[tokio::test]
async fn a_number_that_is_missing_in_the_archive_is_named() {
    let world = World::settled(42, 900);
    let event = world.data().middle_event();
    let gone = |data: &mut crate::world::Data| {
        let shard = data.shard(event.shard());
        shard.archived_through = shard.last_seq - 1;
        shard.rows.retain(|row| row.seq != event.seq);
    };
    gone(&mut world.data());
    let report = world.audit(Scope::default()).await;
    let i3 = report.invariants.iter().find(|invariant| invariant.id == "I3").unwrap();
    let first = i3.differences.first().unwrap();
    assert_eq!((first.seq, first.found.as_str()), (Some(event.seq), "no row"), "{first:#?}");
}

#[tokio::test]
async fn a_log_that_lacks_what_was_not_archived_is_named() {
    let world = World::settled(42, 900);
    archive(&world);
    let event = world.data().middle_event();
    let through = event.seq - 1;
    world.data().shard(event.shard()).archived_through = through;
    world.data().shard(event.shard()).log.retain(|record| record.seq.is_some_and(|seq| seq > event.seq));
    let report = world.audit(Scope::default()).await;
    assert_eq!(different(&report).into_keys().collect::<Vec<_>>(), ["I4"]);
    let i4 = report.invariants.iter().find(|invariant| invariant.id == "I4").unwrap();
    assert_eq!((i4.differences.len(), i4.differences[0].seq), (1, Some(event.seq)));
}

#[tokio::test]
async fn an_audit_since_the_last_one_goes_on_after_events_were_archived() {
    let world = World::settled(3, 600);
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan { notes: Some(Notebook::at(folder.path().join("notes"))), since_last: true, ..Plan::default() };
    assert!(world.audit_as(&plan).await.unwrap().clean);
    archive(&world);
    world.data().traffic(100);
    Shard::all().for_each(|shard| world.data().catch_up(shard));
    let report = world.audit_as(&plan).await.unwrap();
    assert!(report.clean, "{:?}", different(&report));
    assert!(report.shards.iter().any(|shard| shard.proved_before.is_some()));
}
