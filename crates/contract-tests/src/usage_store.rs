//! What every adapter of `ports::usage_store` must do. Each claim works in a generation of its own and with payers of its own.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    amount::Tokens,
    event::{EventType, NewEvent, UsageEvent},
    ids::{EventId, KeyId, Model, OrgId, Payer, Provider, Shard, UserId},
    money::Cost,
    rollup::{self, CellKey, CellValue, Dimension, RollupScope},
    time::Grain,
};
use ports::usage_store::{Flush, Generation, RawScope, ShardState, UsageStore};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

fn noon() -> DateTime<Utc> {
    at("2026-11-21T12:00:00Z")
}

pub fn fresh_generation() -> Generation {
    let id = i32::from_be_bytes(Uuid::new_v4().as_bytes()[..4].try_into().expect("four bytes"));
    Generation { id, started_at_micros: 1_780_000_000_000_000 }
}

pub fn fresh_org() -> Payer {
    Payer::Org(OrgId(Uuid::new_v4()))
}

/// A settled charge of 10 × `seq` tokens.
pub fn settled(payer: Payer, seq: i64, occurred_at: DateTime<Utc>) -> UsageEvent {
    let event = NewEvent {
        id: EventId(Uuid::new_v4()),
        kind: EventType::ChargeSettled,
        payer,
        user_id: Some(UserId(Uuid::from_u128(7))),
        key_id: Some(KeyId(Uuid::from_u128(8))),
        provider: Some(Provider::parse("openai").expect("a name")),
        model: Some(Model::parse("gpt-4o").expect("a name")),
        charge_id: None,
        tokens: Tokens::new(10 * seq).expect("an amount"),
        count: 1,
        cost: None,
        reason: None,
        occurred_at,
        metadata: BTreeMap::new(),
    };
    UsageEvent { event, seq, epoch: 0, recorded_at: occurred_at + TimeDelta::milliseconds(3) }
}

/// A flush of the events numbered in `after < seq <= through` of one shard's history: totals are those of the whole prefix.
pub fn flush(history: &[UsageEvent], after: i64, through: i64) -> Flush {
    let mut totals: BTreeMap<CellKey, CellValue> = BTreeMap::new();
    let mut state = ShardState::default();
    for event in history.iter().filter(|event| event.seq <= through) {
        for key in rollup::cells(event) {
            totals.entry(key).or_default().apply(event);
        }
        let digest = state.digest.wrapping_add(rollup::digest(event));
        state = ShardState { last_seq: event.seq, digest, recorded_at_ms: event.recorded_at.timestamp_millis() };
    }
    Flush {
        shard: history.first().expect("a history").shard(),
        raw: history.iter().filter(|event| after < event.seq && event.seq <= through).cloned().collect(),
        cells: totals.into_iter().filter(|(_, value)| value.last_seq > after).collect(),
        state,
    }
}

/// The one by model of [`settled`].
fn rollup_dimension() -> Dimension {
    Dimension("model:openai/gpt-4o".into())
}

fn total_key(payer: Payer, grain: Grain, bucket: DateTime<Utc>) -> CellKey {
    let dimension = rollup_dimension();
    CellKey { scope: RollupScope::Tenant(payer.tenant()), grain, bucket, dimension, shard: payer.shard() }
}

async fn raw_of(store: &dyn UsageStore, payer: Payer, limit: u32) -> Vec<UsageEvent> {
    let (from, to) = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
    store.raw(&RawScope::Tenant(payer.tenant()), from, to, limit).await.expect("raw events")
}

fn ids(events: &[UsageEvent]) -> BTreeSet<EventId> {
    events.iter().map(|event| event.event.id).collect()
}

pub async fn what_is_not_stored_is_zero(store: &dyn UsageStore) {
    let (generation, payer) = (fresh_generation(), fresh_org());
    let shards = [Shard::new(63).expect("a shard"), Shard::new(0).expect("a shard")];
    assert_eq!(store.shard_states(generation, &shards).await.expect("states"), [ShardState::default(); 2]);
    let keys = [total_key(payer, Grain::Hour, noon())];
    assert_eq!(store.load_cells(generation, &keys).await.expect("cells"), [CellValue::default()]);
    assert!(raw_of(store, payer, 10).await.is_empty());
    store.write(generation, &[]).await.expect("an empty write");
    store.ping().await.expect("an answer");
}

pub async fn a_flush_is_read_back_whole_and_cells_come_in_the_order_asked(store: &dyn UsageStore) {
    let (generation, payer) = (fresh_generation(), fresh_org());
    let history: Vec<_> = (1..=5).map(|seq| settled(payer, seq, noon() + TimeDelta::minutes(seq))).collect();
    let written = flush(&history, 0, 5);
    store.write(generation, std::slice::from_ref(&written)).await.expect("a write");
    assert_eq!(store.shard_states(generation, &[payer.shard()]).await.expect("states"), [written.state]);
    let mut cells = written.cells.clone();
    cells.reverse();
    let (mut keys, mut values): (Vec<_>, Vec<_>) = cells.into_iter().unzip();
    keys.insert(1, total_key(fresh_org(), Grain::Day, noon()));
    values.insert(1, CellValue::default());
    assert_eq!(store.load_cells(generation, &keys).await.expect("cells"), values);
    assert_eq!(ids(&raw_of(store, payer, 10).await), ids(&history));
    let other = fresh_generation();
    assert_eq!(store.shard_states(other, &[payer.shard()]).await.expect("states"), [ShardState::default()]);
    assert_eq!(store.load_cells(other, &keys[..1]).await.expect("cells"), [CellValue::default()]);
}

pub async fn a_write_with_a_smaller_number_never_wins(store: &dyn UsageStore) {
    let (generation, payer) = (fresh_generation(), fresh_org());
    let history: Vec<_> = (1..=6).map(|seq| settled(payer, seq, noon())).collect();
    let newest = flush(&history, 0, 6);
    store.write(generation, std::slice::from_ref(&newest)).await.expect("a write");
    for through in [1, 3, 5] {
        store.write(generation, &[flush(&history, 0, through)]).await.expect("a late write");
    }
    let (keys, values): (Vec<_>, Vec<_>) = newest.cells.into_iter().unzip();
    assert_eq!(store.load_cells(generation, &keys).await.expect("cells"), values);
    assert_eq!(store.shard_states(generation, &[payer.shard()]).await.expect("states"), [newest.state]);
}

pub async fn the_same_write_again_changes_nothing(store: &dyn UsageStore) {
    let (generation, payer) = (fresh_generation(), fresh_org());
    let history: Vec<_> = (1..=4).map(|seq| settled(payer, seq, noon())).collect();
    let written = flush(&history, 0, 4);
    for _ in 0..3 {
        store.write(generation, std::slice::from_ref(&written)).await.expect("a write");
    }
    let (keys, values): (Vec<_>, Vec<_>) = written.cells.into_iter().unzip();
    assert_eq!(store.load_cells(generation, &keys).await.expect("cells"), values);
    assert_eq!(raw_of(store, payer, 100).await.len(), 4);
}

/// Flushes of one owner and of zombies that stopped somewhere, doubled and in any order.
pub async fn totals_do_not_depend_on_the_order_of_flushes(store: &dyn UsageStore) {
    let payer = fresh_org();
    let history: Vec<_> = (1..=12).map(|seq| settled(payer, seq, noon() + TimeDelta::minutes(20 * seq))).collect();
    let runs = [(0, 3), (3, 4), (4, 9), (9, 12), (0, 5), (2, 7), (5, 11), (3, 4), (4, 9)];
    let expected = flush(&history, 0, 12);
    let (keys, values): (Vec<_>, Vec<_>) = expected.cells.into_iter().unzip();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[21; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for _ in 0..12 {
        let order = Just(runs.to_vec()).prop_shuffle().new_tree(&mut runner).expect("an order").current();
        let generation = fresh_generation();
        for (after, through) in &order {
            store.write(generation, &[flush(&history, *after, *through)]).await.expect("a write");
        }
        assert_eq!(store.load_cells(generation, &keys).await.expect("cells"), values, "after {order:?}");
        assert_eq!(store.shard_states(generation, &[payer.shard()]).await.expect("states"), [expected.state], "after {order:?}");
        assert_eq!(raw_of(store, payer, 100).await.len(), history.len(), "after {order:?}");
    }
}

pub async fn two_writers_at_once_leave_the_newest_totals(store: &dyn UsageStore) {
    let (generation, payer) = (fresh_generation(), fresh_org());
    let history: Vec<_> = (1..=20).map(|seq| settled(payer, seq, noon())).collect();
    let newest = flush(&history, 0, 20);
    let flushes: Vec<Flush> = (1..=20).map(|through| flush(&history, 0, through)).collect();
    let writes = flushes.iter().map(|flush| store.write(generation, std::slice::from_ref(flush)));
    futures::future::try_join_all(writes).await.expect("all writes");
    let (keys, values): (Vec<_>, Vec<_>) = newest.cells.into_iter().unzip();
    assert_eq!(store.load_cells(generation, &keys).await.expect("cells"), values);
    assert_eq!(store.shard_states(generation, &[payer.shard()]).await.expect("states"), [newest.state]);
}

pub async fn the_platform_is_the_sum_of_its_shards(store: &dyn UsageStore) {
    let generation = fresh_generation();
    let mut payers: BTreeMap<Shard, Payer> = BTreeMap::new();
    while payers.len() < 5 {
        let payer = fresh_org();
        payers.insert(payer.shard(), payer);
    }
    let flushes: Vec<Flush> = payers.values().map(|payer| flush(&[settled(*payer, 1, noon()), settled(*payer, 2, noon())], 0, 2)).collect();
    store.write(generation, &flushes).await.expect("a write");
    let mut platform = CellValue::default();
    for shard in Shard::all() {
        let scope = RollupScope::Platform(shard);
        let cells = store.cells(generation, &scope, Grain::Day, at("2026-11-21T00:00:00Z"), at("2026-11-22T00:00:00Z"), "model:");
        let cells = cells.await.expect("cells");
        assert_eq!(cells.len(), usize::from(payers.contains_key(&shard)));
        cells.iter().for_each(|(_, value)| platform.add(value));
    }
    assert_eq!((platform.tokens, platform.requests), (150, 10));
}

pub async fn ranges_hold_their_start_and_not_their_end(store: &dyn UsageStore) {
    let (generation, payer) = (fresh_generation(), fresh_org());
    let scope = RollupScope::Tenant(payer.tenant());
    // Across the end of a day and of a month: the spans of minutes and of hours.
    let times = ["2026-10-31T22:59:00Z", "2026-10-31T23:59:00Z", "2026-11-01T00:00:00Z", "2026-11-01T00:01:00Z"].map(at);
    let history: Vec<_> = times.iter().zip(1..).map(|(time, seq)| settled(payer, seq, *time)).collect();
    store.write(generation, &[flush(&history, 0, 4)]).await.expect("a write");
    for (grain, from, to, expected) in [
        (Grain::Minute, times[1], times[3], vec![times[1], times[2]]),
        (Grain::Hour, at("2026-10-31T23:00:00Z"), at("2026-11-01T00:00:00Z"), vec![at("2026-10-31T23:00:00Z")]),
        (Grain::Day, at("2026-10-01T00:00:00Z"), at("2026-11-01T00:00:00Z"), vec![at("2026-10-31T00:00:00Z")]),
        (Grain::Day, at("2026-11-01T00:00:00Z"), at("2027-01-01T00:00:00Z"), vec![at("2026-11-01T00:00:00Z")]),
        (Grain::Minute, times[1], times[1], vec![]),
    ] {
        let cells = store.cells(generation, &scope, grain, from, to, "model:").await.expect("cells");
        let mut buckets: Vec<_> = cells.iter().map(|(key, _)| key.bucket).collect();
        buckets.sort_unstable();
        assert_eq!(buckets, expected, "{grain:?}");
        assert!(cells.iter().all(|(key, _)| key.grain == grain && key.scope == scope && key.shard == payer.shard()));
    }
    let raw = store.raw(&RawScope::Tenant(payer.tenant()), times[1], times[3], 10).await.expect("raw events");
    assert_eq!(raw.iter().map(|event| event.seq).collect::<Vec<_>>(), [3, 2]);
    assert!(store.raw(&RawScope::Tenant(payer.tenant()), times[1], times[1], 10).await.expect("raw events").is_empty());
}

pub async fn a_prefix_finds_its_dimensions_and_no_others(store: &dyn UsageStore) {
    let (generation, payer) = (fresh_generation(), fresh_org());
    let scope = RollupScope::Tenant(payer.tenant());
    store.write(generation, &[flush(&[settled(payer, 1, noon())], 0, 1)]).await.expect("a write");
    let mut found = BTreeMap::new();
    for prefix in [
        "model:",
        "model:openai/",
        "model:openai/gpt-4",
        "model:qwen/",
        "user:",
        "user:00000000-0000-0000-0000-000000000007/",
        "payer:",
        "",
    ] {
        let cells = store.cells(generation, &scope, Grain::Hour, noon(), noon() + TimeDelta::hours(1), prefix).await.expect("cells");
        assert!(cells.iter().all(|(key, value)| key.dimension.0.starts_with(prefix) && value.tokens == 10), "{prefix}");
        found.insert(prefix, cells.len());
    }
    let expected = [
        ("", 2),
        ("model:", 1),
        ("model:openai/", 1),
        ("model:openai/gpt-4", 1),
        ("model:qwen/", 0),
        ("payer:", 0),
        ("user:", 1),
        ("user:00000000-0000-0000-0000-000000000007/", 1),
    ];
    assert_eq!(found, BTreeMap::from(expected));
}

/// The predecessor kept one event per provider and millisecond.
pub async fn ten_thousand_events_of_one_millisecond_are_all_kept(store: &dyn UsageStore) {
    let (generation, payer) = (fresh_generation(), fresh_org());
    let history: Vec<_> = (1..=10_000).map(|seq| settled(payer, seq, noon())).collect();
    store.write(generation, &[flush(&history, 0, 10_000)]).await.expect("a write");
    let day = store.raw_day(payer.tenant(), payer.shard(), noon().date_naive()).await.expect("a day");
    assert_eq!(ids(&day), ids(&history));
    assert_eq!(day.len(), history.len());
    let tokens: i64 = day.iter().map(|event| event.event.tokens.get()).sum();
    let total = store.load_cells(generation, &[total_key(payer, Grain::Minute, noon())]).await.expect("cells")[0];
    assert_eq!((total.tokens, total.requests), (tokens, 10_000));
    assert_eq!(raw_of(store, payer, 20_000).await.len(), 10_000);
}

pub async fn raw_events_come_newest_first_and_no_more_than_asked(store: &dyn UsageStore) {
    let generation = fresh_generation();
    let provider = Provider::parse(&format!("p-{}", Uuid::new_v4().simple())).expect("a name");
    let (one, other) = (fresh_org(), fresh_org());
    let mut flushes = Vec::new();
    for payer in [one, other] {
        let history = (1..=30).map(|seq| {
            // Ten days back, several on each, none at midnight.
            let mut event = settled(payer, seq, noon() - TimeDelta::hours(8 * (30 - seq)));
            event.event.provider = Some(provider.clone());
            event
        });
        flushes.push(flush(&history.collect::<Vec<_>>(), 0, 30));
    }
    store.write(generation, &flushes).await.expect("a write");
    let seqs = |events: &[UsageEvent]| events.iter().map(|event| event.seq).collect::<Vec<_>>();
    assert_eq!(seqs(&raw_of(store, one, 4).await), [30, 29, 28, 27]);
    assert_eq!(raw_of(store, one, 1_000).await.len(), 30);
    assert!(raw_of(store, one, 1_000).await.is_sorted_by_key(|event| std::cmp::Reverse(event.event.occurred_at)));
    let (from, to) = (at("2026-11-01T00:00:00Z"), at("2026-12-01T00:00:00Z"));
    let everywhere = RawScope::Provider(provider);
    let everyone = |limit| store.raw(&everywhere, from, to, limit);
    assert_eq!(seqs(&everyone(5).await.expect("raw events"))[..4], [30, 30, 29, 29]);
    assert_eq!(everyone(5).await.expect("raw events").len(), 5);
    let all = everyone(1_000).await.expect("raw events");
    assert_eq!(all.len(), 60);
    assert!(all.is_sorted_by_key(|event| std::cmp::Reverse(event.event.occurred_at)));
}

/// Many payers of one shard in one minute, each also at another provider.
pub async fn the_newest_raw_events_of_a_provider_are_found_among_many_payers(store: &dyn UsageStore) {
    let generation = fresh_generation();
    let provider = || Provider::parse(&format!("p-{}", Uuid::new_v4().simple())).expect("a name");
    let (asked, another) = (provider(), provider());
    let first = fresh_org();
    let payers = std::iter::repeat_with(fresh_org).filter(|payer| payer.shard() == first.shard()).take(9);
    let mut expected = Vec::new();
    let mut flushes = Vec::new();
    for (index, payer) in (0..).zip([first].into_iter().chain(payers)) {
        let history = (1..=8).map(|seq| {
            // Interleaved with the others; the last two fall into the minute before.
            let mut event =
                settled(payer, seq, noon() + TimeDelta::milliseconds(if seq < 7 { seq * 1_000 + index } else { -seq * 1_000 - index }));
            event.event.provider = Some(if seq % 2 == 0 { asked.clone() } else { another.clone() });
            event
        });
        let history: Vec<UsageEvent> = history.collect();
        expected.extend(history.iter().filter(|event| event.event.provider.as_ref() == Some(&asked)).map(|event| event.event.occurred_at));
        flushes.push(flush(&history, 0, 8));
    }
    store.write(generation, &flushes).await.expect("a write");
    expected.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
    let (from, to) = (noon() - TimeDelta::hours(1), noon() + TimeDelta::hours(1));
    for limit in [1, 3, 7, 29, 30, 31, 39, 40, 1_000] {
        let found = store.raw(&RawScope::Provider(asked.clone()), from, to, limit).await.expect("raw events");
        let times: Vec<_> = found.iter().map(|event| event.event.occurred_at).collect();
        assert_eq!(times, expected[..expected.len().min(usize::try_from(limit).expect("small"))], "the newest {limit}");
    }
}

pub async fn a_raw_event_keeps_every_field(store: &dyn UsageStore) {
    let generation = fresh_generation();
    let (user, org) = (Payer::User(UserId(Uuid::new_v4())), fresh_org());
    let mut full = settled(org, 1, noon());
    full.event.charge_id = Some(domain::ids::ChargeId::new(org.shard(), noon()));
    full.event.reason = Some("größer als der Rest ' \" \\ ; --".into());
    full.event.metadata = [("Schlüssel 🔑", "значение\n\t"), ("", ""), ("emoji", "👩‍🚀"), ("rtl", "שלום")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    full.epoch = 3;
    full.event.tokens = Tokens::MAX;
    let mut bare = settled(user, 1, noon());
    bare.event = NewEvent {
        kind: EventType::RequestsRefused,
        user_id: None,
        key_id: None,
        provider: None,
        model: None,
        tokens: Tokens::ZERO,
        count: 41,
        cost: Some(Cost { minor_units: Tokens::MAX, currency: "EUR".parse().unwrap() }),
        ..bare.event
    };
    let flushes = [(org, &full), (user, &bare)].map(|(payer, event)| Flush {
        shard: payer.shard(),
        raw: vec![event.clone()],
        cells: Vec::new(),
        state: ShardState { last_seq: 1, ..ShardState::default() },
    });
    store.write(generation, &flushes).await.expect("a write");
    assert_eq!(raw_of(store, org, 10).await, [full.clone()]);
    assert_eq!(raw_of(store, user, 10).await, [bare.clone()]);
    assert_eq!(store.raw_day(org.tenant(), org.shard(), noon().date_naive()).await.expect("a day"), [full]);
}

/// All digits of a digest and the largest totals survive.
pub async fn extreme_values_survive(store: &dyn UsageStore) {
    let (generation, payer) = (fresh_generation(), fresh_org());
    let key = total_key(payer, Grain::Day, at("2026-11-01T00:00:00Z"));
    let value = CellValue { tokens: i64::MAX, requests: 1, denied: 2, refunded: 3, cost_minor_units: -4, last_seq: 1 << 40 };
    let state = ShardState { last_seq: 1 << 40, digest: u64::MAX - 1, recorded_at_ms: 1_780_000_000_123 };
    let written = Flush { shard: payer.shard(), raw: Vec::new(), cells: vec![(key.clone(), value)], state };
    store.write(generation, &[written]).await.expect("a write");
    assert_eq!(store.load_cells(generation, &[key]).await.expect("cells"), [value]);
    assert_eq!(store.shard_states(generation, &[payer.shard()]).await.expect("states"), [state]);
}

/// Two processes that start at the same time on an empty store.
pub async fn the_first_generation_is_one_for_everybody(one: &dyn UsageStore, other: &dyn UsageStore) {
    let (first, second) = futures::future::join(one.live_generation(), other.live_generation()).await;
    let first = first.expect("a generation");
    assert_eq!(first, second.expect("a generation"));
    assert_eq!(one.live_generation().await.expect("a generation"), first);
}
