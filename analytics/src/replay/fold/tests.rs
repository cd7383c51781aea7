//! However little is kept, however often it is written and wherever a worker dies, the totals are those of all events, each once.

use super::*;
use adapter_embedded::Embedded;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    amount::Tokens,
    charge::Metadata,
    event::{EventType, NewEvent},
    ids::{EventId, Model, OrgId, Payer, Provider, UserId},
};
use futures::TryStreamExt;
use ports::generations::Generations;
use uuid::Uuid;

const EVENTS: usize = 60;
const PAGE: usize = 7;
const GENERATION: Generation = Generation { id: 7, started_at_micros: 1 };

/// Of payers in several shards, with two providers, over some minutes, numbered densely in each shard.
fn events() -> Vec<UsageEvent> {
    let mut last_seqs: HashMap<Shard, i64> = HashMap::new();
    let begins: DateTime<Utc> = "2026-11-21T23:58:30Z".parse().unwrap();
    let event = |index: usize| {
        let number = u128::try_from(index).unwrap();
        let kinds = [EventType::ChargeSettled, EventType::ChargeSettled, EventType::RequestsRefused, EventType::ChargeHeld];
        let occurred_at = begins + TimeDelta::seconds(5 * i64::try_from(index).unwrap());
        let event = NewEvent {
            id: EventId(Uuid::from_u128(1_000 + number)),
            kind: kinds[index % kinds.len()],
            payer: Payer::Org(OrgId(Uuid::from_u128(number % 3))),
            user_id: Some(UserId(Uuid::from_u128(10 + number % 2))),
            key_id: None,
            provider: Some(Provider::parse(["openai", "qwen"][index % 2]).unwrap()),
            model: index.is_multiple_of(5).then(|| Model::parse("gpt-4o").unwrap()),
            charge_id: None,
            tokens: Tokens::new(1 + i64::try_from(index).unwrap()).unwrap(),
            count: 1,
            cost: None,
            reason: None,
            occurred_at,
            metadata: Metadata::default(),
        };
        let seq = last_seqs.entry(event.payer.shard()).or_default();
        *seq += 1;
        UsageEvent { seq: *seq, event, epoch: 1, recorded_at: occurred_at }
    };
    (0..EVENTS).map(event).collect()
}

/// A worker that begins at the stored states; `first` knows that there is nothing else either.
async fn begin(stores: &Embedded, bounds: Bounds, first: bool) -> Fold {
    let shards: Vec<Shard> = Shard::all().collect();
    let states = stores.shard_states(GENERATION, &shards).await.unwrap();
    let part = |(shard, state): (Shard, ShardState)| (shard, Part { state, copied_through: 0, fresh: first && state.last_seq == 0 });
    let plan = Plan { generation: GENERATION, coverage: Coverage::everything(), dry_run: false, bounds };
    Fold::new(Arc::new(stores.clone()), plan, shards.into_iter().zip(states).map(part).collect())
}

async fn add(fold: &mut Fold, events: &[UsageEvent]) {
    let states: HashMap<Shard, ShardState> = fold.states().collect();
    let newer: Vec<UsageEvent> = events.iter().filter(|event| event.seq > states[&event.shard()].last_seq).cloned().collect();
    for page in newer.chunks(PAGE) {
        assert!(fold.add(page).await.is_ok());
    }
}

#[tokio::test]
async fn the_totals_are_those_of_all_events_whatever_is_kept_and_wherever_a_worker_dies() {
    let events = events();
    let mut expected: BTreeMap<CellKey, CellValue> = BTreeMap::new();
    let mut digests: BTreeMap<Shard, (i64, u64)> = BTreeMap::new();
    for event in &events {
        rollup::cells(event).into_iter().for_each(|key| expected.entry(key).or_default().apply(event));
        let (last_seq, digest) = digests.entry(event.shard()).or_default();
        (*last_seq, *digest) = (event.seq, digest.wrapping_add(rollup::digest(event)));
    }
    assert!(digests.len() > 1);
    for (events_per_flush, cells_per_flush, cells_kept) in [(1, 1, 0), (11, 1_000, 5), (1_000, 9, 1_000), (1_000, 1_000, 1_000)] {
        for dies_after in [0, 1, 13, 40, EVENTS] {
            let bounds = Bounds { events_per_flush, cells_per_flush, cells_kept };
            let stores = Embedded::in_temp().await.unwrap();
            add(&mut begin(&stores, bounds, true).await, &events[..dies_after]).await;
            let mut fold = begin(&stores, bounds, dies_after == 0).await;
            add(&mut fold, &events).await;
            assert!(fold.flush().await.is_ok());
            let pages: Vec<_> = stores.scan_cells(GENERATION).try_collect().await.unwrap();
            let stored: BTreeMap<CellKey, CellValue> = pages.into_iter().flatten().collect();
            assert!(stored == expected, "{bounds:?}, died after {dies_after}");
            let shards: Vec<Shard> = digests.keys().copied().collect();
            let states = stores.shard_states(GENERATION, &shards).await.unwrap();
            let stored = shards.into_iter().zip(states).map(|(shard, state)| (shard, (state.last_seq, state.digest)));
            assert_eq!(stored.collect::<BTreeMap<_, _>>(), digests, "{bounds:?}, died after {dies_after}");
        }
    }
}
