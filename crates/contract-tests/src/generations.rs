//! What every adapter of `ports::generations` must do. Cells come into it through the usage store.

use crate::usage_store::{at, flush, fresh_generation, fresh_org, settled};
use chrono::TimeDelta;
use domain::{
    generation::{Generation, ShardState},
    ids::Payer,
    rollup::{CellKey, CellValue},
};
use futures::TryStreamExt;
use ports::{
    generations::Generations,
    usage_store::{Flush, UsageStore},
};
use std::{collections::BTreeMap, iter};

/// More cells than an adapter reads at once.
const EVENTS: i64 = 2_500;

async fn scanned(store: &dyn Generations, generation: Generation) -> BTreeMap<CellKey, CellValue> {
    let pages: Vec<_> = store.scan_cells(generation).try_collect().await.expect("a scan");
    let cells: Vec<_> = pages.into_iter().flatten().collect();
    let count = cells.len();
    let cells: BTreeMap<_, _> = cells.into_iter().collect();
    assert_eq!(cells.len(), count, "a cell came twice");
    cells
}

fn a_history(events: i64) -> Flush {
    history_of(fresh_org(), events)
}

/// Each event in a minute of its own.
fn history_of(payer: Payer, events: i64) -> Flush {
    let history: Vec<_> = (1..=events).map(|seq| settled(payer, seq, at("2026-10-31T20:00:00Z") + TimeDelta::minutes(seq))).collect();
    flush(&history, 0, events)
}

pub async fn a_scan_brings_every_cell_of_its_generation_once<S: UsageStore + Generations>(store: &S) {
    let (generation, other) = (fresh_generation(), fresh_generation());
    assert!(scanned(store, generation).await.is_empty());
    let large = a_history(EVENTS);
    // Of another shard: two histories of one would be two values of the same totals of the platform.
    let elsewhere = iter::repeat_with(fresh_org).find(|payer| payer.shard() != large.shard).expect("an org");
    let small = history_of(elsewhere, 3);
    store.write(generation, &[large.clone(), small.clone()]).await.expect("a write");
    store.write(other, &[a_history(2)]).await.expect("a write");
    let expected: BTreeMap<_, _> = large.cells.into_iter().chain(small.cells).collect();
    assert!(scanned(store, generation).await == expected);
}

pub async fn the_pointer_turns_to_larger_numbers_only<S: UsageStore + Generations>(store: &S) {
    let first = store.live_generation().await.expect("a generation");
    let generation = |ahead: i32| Generation { id: first.id + ahead, started_at_micros: 1_780_000_000_000_000 - i64::from(ahead) };
    let turns = [(0, 0), (3, 3), (3, 3), (2, 3), (0, 3), (4, 4), (9, 9), (8, 9)];
    for (ahead, live) in turns {
        let live = if live == 0 { first } else { generation(live) };
        let asked = if ahead == 0 { first } else { generation(ahead) };
        assert_eq!(store.make_live(asked).await.expect("a turn"), live);
        assert_eq!(store.live_generation().await.expect("a generation"), live);
    }
    let turns = (10..20).map(|ahead| store.make_live(generation(ahead)));
    futures::future::try_join_all(turns).await.expect("turns at once");
    assert_eq!(store.live_generation().await.expect("a generation"), generation(19));
}

pub async fn a_dropped_generation_is_gone_and_the_others_stay<S: UsageStore + Generations>(store: &S) {
    let (dropped, kept) = (fresh_generation(), fresh_generation());
    let history = a_history(EVENTS);
    for generation in [dropped, kept] {
        store.write(generation, std::slice::from_ref(&history)).await.expect("a write");
    }
    for _ in 0..2 {
        store.drop_generation(dropped.id).await.expect("a drop");
        assert!(scanned(store, dropped).await.is_empty());
        assert_eq!(store.shard_states(dropped, &[history.shard]).await.expect("states"), [ShardState::default()]);
    }
    assert_eq!(scanned(store, kept).await.len(), history.cells.len());
    assert_eq!(store.shard_states(kept, &[history.shard]).await.expect("states"), [history.state]);
}
