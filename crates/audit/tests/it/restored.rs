//! A ledger, or a log, that is as it was some time ago: what the other one still has is named and put back, and only that.

use crate::world::{World, different};
use audit::{Lost, Scope, Unlogged, bring_back, lost_events, resend, unlogged_events};
use domain::ids::Shard;

/// The ledger's last events of the longest shard are gone; the shard, and its last numbers then and before.
fn restore(world: &World) -> (Shard, i64, i64) {
    let shard = world.data().middle_event().shard();
    let mut data = world.data();
    let data = data.shard(shard);
    let before = data.last_seq;
    data.last_seq = before - 9;
    data.rows.retain(|row| row.seq <= before - 9);
    data.published_through = before - 9;
    (shard, before - 9, before)
}

async fn lost(world: &World) -> Vec<Lost> {
    lost_events(&world.stores().await).await.unwrap()
}

fn numbers(lost: &Lost) -> Vec<i64> {
    lost.rows.iter().map(|row| row.seq).collect()
}

/// Of every shard's outbox.
fn payloads(world: &World) -> Vec<Vec<u8>> {
    world.data().shards.iter().flat_map(|shard| shard.rows.iter().map(|row| row.payload.clone())).collect()
}

#[tokio::test]
async fn what_only_the_log_has_is_brought_back_and_every_shard_told() {
    let world = World::settled(5, 900);
    assert!(lost(&world).await.is_empty());
    let before_the_loss = payloads(&world);
    let (shard, last, before) = restore(&world);
    assert!(!world.audit(Scope::default()).await.clean);

    let found = lost(&world).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].shard, numbers(&found[0]), &found[0].hindrance), (shard, (last + 1..=before).collect(), &None));
    let stores = world.stores().await;
    bring_back(&stores, &found, stores.clock.now()).await.unwrap();

    assert!(payloads(&world) == before_the_loss, "not what was lost was brought back");
    assert_eq!(world.data().told_of_a_restore, Shard::all().collect::<Vec<_>>());
    assert!(lost(&world).await.is_empty());
    let report = world.audit(Scope::default()).await;
    assert!(report.clean, "{:?}", different(&report));
}

#[tokio::test]
async fn records_that_the_log_has_twice_are_brought_back_once() {
    let world = World::settled(5, 900);
    let (shard, last, before) = restore(&world);
    let again = world.data().shard(shard).log.clone();
    world.data().shard(shard).log.extend(again);
    let found = lost(&world).await;
    assert_eq!((found.len(), numbers(&found[0])), (1, (last + 1..=before).collect()));
}

#[tokio::test]
async fn a_number_that_was_given_again_since_hinders() {
    let world = World::settled(5, 900);
    let (shard, last, _) = restore(&world);
    {
        let mut data = world.data();
        let rows = &mut data.shard(shard).rows;
        let other = rows[0].payload.clone();
        rows.last_mut().unwrap().payload = other;
    }
    let found = lost(&world).await;
    let hindrance = found[0].hindrance.as_deref().unwrap();
    assert!(hindrance.contains(&format!("number {last} was given to another event")), "{hindrance}");
    assert!(found[0].rows.is_empty());
}

#[tokio::test]
async fn totals_that_count_more_than_the_log_has_hinder() {
    let world = World::settled(5, 900);
    let (shard, last, before) = restore(&world);
    world.data().shard(shard).log.retain(|record| record.seq.is_some_and(|seq| seq <= last + 4));
    let found = lost(&world).await;
    assert_eq!(numbers(&found[0]), (last + 1..=last + 4).collect::<Vec<_>>());
    let hindrance = found[0].hindrance.as_deref().unwrap();
    assert!(hindrance.contains(&format!("up to {before}")) && hindrance.contains(&format!("after {}", last + 4)), "{hindrance}");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_hinders() {
    let world = World::settled(5, 900);
    let (shard, last, _) = restore(&world);
    for record in world.data().shard(shard).log.iter_mut().filter(|record| record.seq == Some(last + 3)) {
        record.value.truncate(3);
    }
    let found = lost(&world).await;
    assert_eq!(numbers(&found[0]), [last + 1, last + 2]);
    let hindrance = found[0].hindrance.as_deref().unwrap();
    assert!(hindrance.contains(&format!("event {} and does not show it", last + 3)), "{hindrance}");
}

async fn unlogged(world: &World) -> Vec<Unlogged> {
    unlogged_events(&world.stores().await, &|_| {}).await.unwrap()
}

#[tokio::test]
async fn a_log_that_lost_events_gets_everything_from_the_first_of_them_on() {
    let world = World::settled(5, 900);
    assert_eq!(unlogged(&world).await, []);
    let event = world.data().middle_event();
    let (shard, from) = (event.shard(), event.seq);
    let through = world.data().shard(shard).last_seq;
    world.data().shard(shard).log.retain(|record| record.seq != Some(from));
    assert_eq!(unlogged(&world).await, [Unlogged { shard, from, through }]);

    let logged = world.data().shard(shard).log.len();
    resend(&world.stores().await, &unlogged(&world).await).await.unwrap();
    let sent: Vec<Option<i64>> = world.data().shard(shard).log[logged..].iter().map(|record| record.seq).collect();
    assert_eq!(sent, (from..=through).map(Some).collect::<Vec<_>>());
    assert_eq!(unlogged(&world).await, []);
    let report = world.audit(Scope::default()).await;
    assert!(report.clean, "{:?}", different(&report));
}

#[tokio::test]
async fn what_was_archived_or_not_published_yet_the_log_need_not_have() {
    let world = World::settled(5, 900);
    for shard in Shard::all() {
        let mut data = world.data();
        let data = data.shard(shard);
        data.archived_through = data.last_seq / 2;
        data.published_through = data.last_seq - i64::from(data.last_seq > 0);
        let needed = data.archived_through + 1..=data.published_through;
        data.log.retain(|record| record.seq.is_some_and(|seq| needed.contains(&seq)));
    }
    assert_eq!(unlogged(&world).await, []);
}
