//! The verdict: does the new generation say what the live one says, at the same number of each shard, and where not first?

use super::{
    Stores,
    build::{Build, states_of},
    desk::Halt,
};
use crate::project::decode;
use chrono::NaiveDate;
use domain::{
    generation::{Generation, ShardState},
    ids::{EventId, Shard},
    replay::{Difference, Verdict},
    rollup::{self, CellKey, CellValue},
};
use futures::TryStreamExt;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
};
use uuid::Uuid;

const ROWS_PER_PAGE: u32 = 2_000;
/// Days of raw events kept while the first event that differs is looked for.
const DAYS_KEPT: usize = 256;

/// Differences so far: how many, and the first in order of shard and number.
#[derive(Default)]
struct Found {
    different: i64,
    first: Option<Difference>,
}

impl Found {
    fn report(&mut self, difference: Difference) {
        self.different += 1;
        if self.first.as_ref().is_none_or(|first| place(&difference) < place(first)) {
            self.first = Some(difference);
        }
    }
}

fn place(difference: &Difference) -> (u8, i64, &str) {
    (difference.shard, difference.seq, &difference.subject)
}

/// A cell that has counted beyond where the shards are compared: the live generation goes on, and so may a replay's earlier worker. Folded on
/// until both are at the same number.
struct Ahead {
    live: CellValue,
    replayed: CellValue,
}

impl Ahead {
    fn through(&self) -> i64 {
        self.live.last_seq.max(self.replayed.last_seq)
    }
}

/// Shards by their digests, then, unless nothing was built, every covered total.
pub async fn compare(build: &mut Build<'_>) -> Result<Verdict, Halt> {
    let live = build.builder.stores.usage.live_generation().await?;
    let (mut found, states) = shards(build, live).await?;
    let cells = if build.builder.plan.dry_run { 0 } else { cells(build, live, &states, &mut found).await? };
    verdict(build, live, &states, cells, found).await
}

/// Shards by their digests alone.
pub async fn digests(build: &mut Build<'_>) -> Result<Verdict, Halt> {
    let live = build.builder.stores.usage.live_generation().await?;
    let (found, states) = shards(build, live).await?;
    verdict(build, live, &states, 0, found).await
}

async fn verdict(
    build: &Build<'_>,
    live: Generation,
    states: &BTreeMap<Shard, ShardState>,
    cells: i64,
    mut found: Found,
) -> Result<Verdict, Halt> {
    if let Some(first) = found.first.as_mut().filter(|first| first.event_id.is_none()) {
        first.event_id = event_id(&build.builder.stores, first).await?;
    }
    Ok(Verdict {
        compared_with: live.id,
        events: states.values().map(|state| state.last_seq).sum(),
        shards: i64::try_from(states.len()).unwrap_or(i64::MAX),
        cells,
        different: found.different,
        first: found.first,
    })
}

async fn event_id(stores: &Stores, difference: &Difference) -> Result<Option<EventId>, Halt> {
    let Ok(shard) = Shard::new(difference.shard) else { return Ok(None) };
    let rows = stores.outbox.read(shard, difference.seq - 1, 1).await?;
    Ok(rows.first().filter(|row| row.seq == difference.seq).map(|row| EventId(row.event_id)))
}

/// Reads each shard up to exactly the number at which the live generation is, so that the digests are of the same events.
async fn shards(build: &mut Build<'_>, live: Generation) -> Result<(Found, BTreeMap<Shard, ShardState>), Halt> {
    let builder = Arc::clone(&build.builder);
    let mut found = Found::default();
    let mut states = BTreeMap::new();
    let live = states_of(&builder.stores, live).await?;
    build.advance(&live).await?;
    for (shard, of_live) in live.into_iter().filter(|(shard, _)| builder.reads(*shard)) {
        let replayed = builder.state_of(shard);
        states.insert(shard, replayed);
        if replayed.last_seq == of_live.last_seq && replayed.digest == of_live.digest {
            continue;
        }
        let difference = match first_unlike(&builder.stores, shard, replayed.last_seq).await? {
            Some(difference) => difference,
            None => Difference {
                shard: shard.index(),
                seq: of_live.last_seq,
                event_id: None,
                subject: "state of the shard".into(),
                live: format!("digest {:016x} through {}", of_live.digest, of_live.last_seq),
                replayed: format!("digest {:016x} through {}", replayed.digest, replayed.last_seq),
            },
        };
        found.report(difference);
    }
    Ok((found, states))
}

/// The first event of the shard that the raw events, which the live generation was made beside, lack or know with another amount.
async fn first_unlike(stores: &Stores, shard: Shard, through: i64) -> Result<Option<Difference>, Halt> {
    let mut days: HashMap<(Uuid, NaiveDate), HashMap<EventId, i64>> = HashMap::new();
    let mut after = 0;
    while after < through {
        let rows = stores.outbox.read(shard, after, ROWS_PER_PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        for row in rows.iter().filter(|row| row.seq <= through) {
            let Ok(event) = decode::event_of_outbox(&row.payload, shard, row.seq) else { continue };
            let key = (event.event.payer.tenant(), event.event.occurred_at.date_naive());
            if days.len() > DAYS_KEPT {
                days.clear();
            }
            let day = match days.entry(key) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => {
                    let raw = stores.usage.raw_day(key.0, shard, key.1).await?;
                    unknown.insert(raw.into_iter().map(|raw| (raw.event.id, raw.event.tokens.get())).collect())
                }
            };
            let stored = day.get(&event.event.id).copied();
            if stored != Some(event.event.tokens.get()) {
                return Ok(Some(Difference {
                    shard: shard.index(),
                    seq: row.seq,
                    event_id: Some(event.event.id),
                    subject: "raw event".into(),
                    live: stored.map_or_else(|| "none".into(), |tokens| format!("tokens {tokens}")),
                    replayed: format!("tokens {}", event.event.tokens.get()),
                }));
            }
        }
    }
    Ok(None)
}

/// Every covered cell of either generation. How many there are.
async fn cells(build: &mut Build<'_>, live: Generation, states: &BTreeMap<Shard, ShardState>, found: &mut Found) -> Result<i64, Halt> {
    let builder = Arc::clone(&build.builder);
    let (stores, coverage, replayed) = (&builder.stores, &builder.plan.coverage, builder.plan.generation);
    let position = |key: &CellKey| states.get(&key.shard).map_or(0, |state| state.last_seq);
    let mut ahead: HashMap<CellKey, Ahead> = HashMap::new();
    let (mut compared, mut in_both) = (0, 0);
    let mut pages = stores.generations.scan_cells(live);
    while let Some(page) = pages.try_next().await? {
        let covered: Vec<(CellKey, CellValue)> = page.into_iter().filter(|(key, _)| coverage.holds_cell(key)).collect();
        let keys: Vec<CellKey> = covered.iter().map(|(key, _)| key.clone()).collect();
        let values = stores.usage.load_cells(replayed, &keys).await?;
        for ((key, live), replayed) in covered.into_iter().zip(values) {
            compared += 1;
            in_both += i64::from(replayed.last_seq > 0);
            if live.last_seq.max(replayed.last_seq) > position(&key) {
                ahead.insert(key, Ahead { live, replayed });
            } else if live != replayed {
                found.report(unlike(&key, live, replayed));
            }
        }
        build.report().await?;
    }
    let missing = missing_in_live(build, live, in_both).await?;
    compared += i64::try_from(missing.len()).unwrap_or(i64::MAX);
    for (key, replayed) in missing {
        found.report(unlike(&key, CellValue::default(), replayed));
    }
    fold_ahead(stores, states, &mut ahead).await?;
    for (key, cell) in ahead.into_iter().filter(|(_, cell)| cell.live != cell.replayed) {
        found.report(unlike(&key, cell.live, cell.replayed));
    }
    Ok(compared)
}

/// Covered cells of the new generation that the live one has not. Looked for only where it has more than were found in both.
async fn missing_in_live(build: &mut Build<'_>, live: Generation, in_both: i64) -> Result<Vec<(CellKey, CellValue)>, Halt> {
    let builder = Arc::clone(&build.builder);
    let (stores, coverage, replayed) = (&builder.stores, &builder.plan.coverage, builder.plan.generation);
    let mut there = 0;
    let mut pages = stores.generations.scan_cells(replayed);
    while let Some(page) = pages.try_next().await? {
        there += page.iter().filter(|(key, value)| value.last_seq > 0 && coverage.holds_cell(key)).count();
        build.report().await?;
    }
    let mut missing = Vec::new();
    if i64::try_from(there).unwrap_or(i64::MAX) == in_both {
        return Ok(missing);
    }
    let mut pages = stores.generations.scan_cells(replayed);
    while let Some(page) = pages.try_next().await? {
        let covered: Vec<(CellKey, CellValue)> = page.into_iter().filter(|(key, _)| coverage.holds_cell(key)).collect();
        let keys: Vec<CellKey> = covered.iter().map(|(key, _)| key.clone()).collect();
        let values = stores.usage.load_cells(live, &keys).await?;
        let lacking = covered.into_iter().zip(values).filter(|((_, replayed), live)| replayed.last_seq > 0 && live.last_seq == 0);
        missing.extend(lacking.map(|(cell, _)| cell));
        build.report().await?;
    }
    Ok(missing)
}

/// Adds to each value what the other one has counted since the shards were compared.
async fn fold_ahead(stores: &Stores, states: &BTreeMap<Shard, ShardState>, ahead: &mut HashMap<CellKey, Ahead>) -> Result<(), Halt> {
    let mut newest: BTreeMap<Shard, i64> = BTreeMap::new();
    for (key, cell) in ahead.iter() {
        let through = newest.entry(key.shard).or_default();
        *through = cell.through().max(*through);
    }
    for (shard, through) in newest {
        let mut after = states.get(&shard).map_or(0, |state| state.last_seq);
        while after < through {
            let rows = stores.outbox.read(shard, after, ROWS_PER_PAGE).await?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            for event in rows.iter().filter_map(|row| decode::event_of_outbox(&row.payload, shard, row.seq).ok()) {
                for key in rollup::cells(&event) {
                    let Some(cell) = ahead.get_mut(&key).filter(|cell| event.seq <= cell.through()) else { continue };
                    for value in [&mut cell.live, &mut cell.replayed] {
                        if value.last_seq < event.seq {
                            value.apply(&event);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn unlike(key: &CellKey, live: CellValue, replayed: CellValue) -> Difference {
    let bucket = key.bucket.format("%Y-%m-%dT%H:%MZ");
    Difference {
        shard: key.shard.index(),
        seq: live.last_seq.max(replayed.last_seq),
        event_id: None,
        subject: format!("cell {}/{}/{bucket}/{}", key.scope.as_text(), key.grain.as_str(), key.dimension.0),
        live: brief(live),
        replayed: brief(replayed),
    }
}

fn brief(cell: CellValue) -> String {
    if cell == CellValue::default() {
        return "none".into();
    }
    let CellValue { tokens, requests, denied, refunded, cost_minor_units, last_seq } = cell;
    format!("tokens {tokens}, requests {requests}, denied {denied}, refunded {refunded}, cost {cost_minor_units}, through {last_seq}")
}
