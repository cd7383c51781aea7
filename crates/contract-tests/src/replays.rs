//! What every adapter of `ports::replays` must do.

use crate::customers::start;
use domain::{
    generation::{Generation, ShardState},
    ids::OrgId,
    replay::{Base, Coverage, Difference, Lease, Progress, Replay, Source, Status, Swap, Verdict},
};
use futures::future::join_all;
use ports::replays::{Replaced, Replays, StoredReplay};
use uuid::Uuid;

fn replay() -> Replay {
    Replay::new(Coverage::everything(), Source::Outbox, false, "bootstrap".into(), start())
}

async fn create(store: &dyn Replays) -> StoredReplay {
    store.create(Uuid::now_v7(), &replay()).await.unwrap().expect("none runs")
}

async fn end(store: &dyn Replays, stored: &mut StoredReplay) {
    stored.replay.stop(Status::Cancelled);
    assert_eq!(store.replace(stored).await.unwrap(), Replaced::Done);
}

pub async fn every_field_of_a_replay_is_kept(store: &dyn Replays) {
    let mut stored = create(store).await;
    assert_eq!(store.find(stored.id).await.unwrap().as_ref(), Some(&stored));
    assert_eq!(store.running().await.unwrap().as_ref(), Some(&stored));
    let org = Some(OrgId(Uuid::from_u128(3)));
    let generation = Generation { id: 1, started_at_micros: i64::MAX };
    let state = ShardState { last_seq: 9, digest: u64::MAX, recorded_at_ms: 7 };
    let first = Difference {
        shard: 63,
        seq: 5,
        event_id: Some(domain::ids::EventId(Uuid::from_u128(8))),
        subject: "cell \"x\"\u{1f30a}".into(),
        live: "tokens 1".into(),
        replayed: "none".into(),
    };
    stored.replay = Replay {
        coverage: Coverage::new((None, Some(start())), org, Some("openai".to_owned().try_into().unwrap()), start()).unwrap(),
        status: Status::Different,
        progress: Progress { read: 1, applied: 2, total: 3, rate_per_second: 4 },
        lease: Some(Lease { worker: Uuid::from_u128(4), until: start() }),
        base: Some(Base { generation, states: vec![state; 64] }),
        copied: true,
        verdict: Some(Verdict { compared_with: 1, events: 2, shards: 3, cells: 4, different: 5, first: Some(first) }),
        swap: Some(Swap { by: "user:1".into(), at: start(), reason: Some("why".into()), turning: true }),
        failure: Some("because".into()),
        dropped: true,
        ..stored.replay
    };
    assert_eq!(store.replace(&mut stored).await.unwrap(), Replaced::Done);
    assert_eq!(stored.version, 2);
    assert_eq!(store.find(stored.id).await.unwrap().as_ref(), Some(&stored));
    assert_eq!(store.list(10).await.unwrap(), [stored]);
    assert_eq!(store.running().await.unwrap(), None);
    assert_eq!(store.find(Uuid::from_u128(1)).await.unwrap(), None);
}

pub async fn a_change_of_what_has_changed_since_changes_nothing(store: &dyn Replays) {
    let mut first = create(store).await;
    let mut second = first.clone();
    first.replay.progress.read = 1;
    assert_eq!(store.replace(&mut first).await.unwrap(), Replaced::Done);
    second.replay.progress.read = 2;
    assert_eq!(store.replace(&mut second).await.unwrap(), Replaced::Moved);
    assert_eq!(second.version, 1, "it was not written");
    assert_eq!(store.find(first.id).await.unwrap(), Some(first));
}

pub async fn replays_are_listed_newest_first(store: &dyn Replays) {
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut stored = create(store).await;
        end(store, &mut stored).await;
        ids.push(stored.id);
    }
    ids.reverse();
    let listed = async |limit| store.list(limit).await.unwrap().into_iter().map(|stored| stored.id).collect::<Vec<_>>();
    assert_eq!(listed(10).await, ids);
    assert_eq!(listed(2).await, ids[..2]);
}

pub async fn of_many_that_start_at_once_one_runs_and_no_two_ever_share_a_generation(one: &dyn Replays, other: &dyn Replays) {
    let mut generations = vec![1];
    for _ in 0..3 {
        let new = replay();
        let starts = (0..8).map(|index| if index % 2 == 0 { one } else { other }.create(Uuid::now_v7(), &new));
        let created: Vec<StoredReplay> = join_all(starts).await.into_iter().filter_map(Result::unwrap).collect();
        let [created] = &created[..] else { panic!("{} run", created.len()) };
        assert!(created.generation.started_at_micros > 1_767_225_600_000_000, "later than the first generation");
        generations.push(created.generation.id);
        end(other, &mut created.clone()).await;
    }
    assert!(generations.is_sorted_by(|before, after| before < after), "{generations:?}");
}

pub async fn a_paused_replay_goes_on_only_when_no_other_runs(one: &dyn Replays, other: &dyn Replays) {
    let mut paused = create(one).await;
    paused.replay.pause().unwrap();
    assert_eq!(one.replace(&mut paused).await.unwrap(), Replaced::Done);
    let mut running = create(other).await;
    paused.replay.resume().unwrap();
    assert_eq!(one.replace(&mut paused).await.unwrap(), Replaced::Busy);
    assert_eq!(other.running().await.unwrap().as_ref(), Some(&running));
    end(other, &mut running).await;
    assert_eq!(one.replace(&mut paused).await.unwrap(), Replaced::Done);
    assert_eq!(other.running().await.unwrap(), Some(paused));
}
