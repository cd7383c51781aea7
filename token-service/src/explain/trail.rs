//! Where the events of a charge have come to: outbox, log, raw usage, totals. Each stage says what it holds, or that it is not there yet.

use crate::{json_answer::Instant, payer::Sight, service::Service};
use chrono::TimeDelta;
use domain::{
    amount::Tokens,
    charge::{Charge, ChargeStatus},
    event::{EventType, UsageEvent},
    ids::{EventId, SagaId, Shard},
    rollup::{self, CellKey, CellValue, Dimension, RollupScope},
    saga::{self, Saga},
    time::Grain,
};
use futures::future::{join, join_all, try_join_all};
use ports::{
    Result,
    outbox::{OutboxRow, ShardHead},
    usage_store::{Generation, RawScope},
};
use serde::Serialize;
use std::time::Duration;

/// Events of a shard that are looked through for the later ones of a charge.
const PAGE: u32 = 500;
const PAGES: usize = 40;
/// Raw events of one payer in one millisecond.
const SAME_MOMENT: u32 = 1_000;
/// Of the log and of the usage store, each.
const PATIENCE: Duration = Duration::from_secs(3);

/// A row of the outbox that is about the charge.
pub struct Found {
    pub row: OutboxRow,
    pub event: UsageEvent,
}

/// The events of a charge in their order, and whether that are all up to its present state.
pub async fn of_charge(service: &Service, charge: &Charge) -> Result<(Vec<Found>, bool)> {
    let (shard, tenant) = (charge.spec.payer.shard(), charge.spec.payer.tenant());
    let mut found = Vec::new();
    let mut after = (charge.seq - 1).max(0);
    // The first one stands where the charge says.
    let mut limit = 1;
    for _ in 0..PAGES {
        let rows = service.outbox.read(shard, after, limit).await?;
        let Some(last) = rows.last() else { break };
        (after, limit) = (last.seq, PAGE);
        for row in rows.into_iter().filter(|row| row.tenant == tenant) {
            let Ok(event) = event_codec::decode(&row.payload) else { continue };
            if event.event.charge_id != Some(charge.spec.id) {
                continue;
            }
            found.push(Found { row, event });
            if is_all(charge, &found) {
                return Ok((found, true));
            }
        }
    }
    Ok((found, false))
}

/// Whether these events lead up to the state of the charge.
fn is_all(charge: &Charge, found: &[Found]) -> bool {
    let of_kind = |kind: EventType| found.iter().map(|found| &found.event.event).filter(move |event| event.kind == kind);
    let end = match charge.status {
        ChargeStatus::Held => EventType::ChargeHeld,
        ChargeStatus::Settled | ChargeStatus::Refunded => EventType::ChargeSettled,
        ChargeStatus::Released => EventType::ChargeReleased,
        ChargeStatus::Expired => EventType::ChargeExpired,
    };
    let refunded: i128 = of_kind(EventType::ChargeRefunded).map(|event| event.tokens).sum();
    of_kind(end).next().is_some() && refunded >= i128::from(charge.refunded.get())
}

/// The sagas of the refunds among these events, in their order.
pub async fn refunds(service: &Service, found: &[Found]) -> Result<Vec<Saga>> {
    let ids = found.iter().filter_map(|found| saga::of_event(&found.event.event));
    let sagas = try_join_all(ids.map(|id| service.ledger.find_saga(id))).await?;
    Ok(sagas.into_iter().flatten().collect())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stages {
    event_id: EventId,
    #[serde(rename = "type")]
    kind: EventType,
    tokens: Tokens,
    /// Of a refund.
    #[serde(skip_serializing_if = "Option::is_none")]
    saga_id: Option<SagaId>,
    occurred_at: Instant,
    recorded_at: Instant,
    outbox: OutboxStage,
    log: LogStage,
    raw: RawStage,
    rollups: RollupStage,
}

#[derive(Serialize)]
struct OutboxStage {
    shard: Shard,
    seq: i64,
    epoch: i32,
    published: bool,
}

#[derive(Serialize)]
#[serde(tag = "status", rename_all = "SCREAMING_SNAKE_CASE")]
enum LogStage {
    Written {
        partition: Shard,
        offset: i64,
    },
    Pending,
    /// Published once, and dropped by the log since.
    Gone,
    Unavailable,
}

#[derive(Serialize)]
#[serde(tag = "status", rename_all = "SCREAMING_SNAKE_CASE")]
enum RawStage {
    Stored,
    Pending,
    Gone,
    Unavailable,
}

#[derive(Serialize)]
#[serde(tag = "status", rename_all = "SCREAMING_SNAKE_CASE")]
enum RollupStage {
    /// The totals as they are now, with this event and all others that count in them.
    Counted {
        generation: i32,
        cells: Vec<Cell>,
    },
    Pending,
    /// Holds and their ends count in no total.
    NotCounted,
    Unavailable,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cell {
    scope: &'static str,
    grain: Grain,
    at: Instant,
    dimension: Dimension,
    #[serde(flatten)]
    value: CellValue,
}

/// Whose totals may be shown besides the charge itself.
#[derive(Clone, Copy)]
pub struct Shown {
    pub sight: Option<Sight>,
    pub platform: bool,
}

impl Shown {
    fn shows(self, cell: &CellKey) -> bool {
        match (&cell.scope, self.sight) {
            (RollupScope::Platform(_), _) => self.platform,
            (RollupScope::Tenant(_), Some(Sight::Everything)) => true,
            (RollupScope::Tenant(_), Some(Sight::Own(user))) => cell.dimension.0.starts_with(&Dimension::of_user(user, None)),
            (RollupScope::Tenant(_), None) => false,
        }
    }
}

pub async fn stages(service: &Service, found: &[Found], shown: Shown) -> Result<Vec<Stages>> {
    let heads = service.outbox.heads().await?;
    Ok(join_all(found.iter().map(|found| stages_of(service, found, &heads, shown))).await)
}

async fn stages_of(service: &Service, Found { row, event }: &Found, heads: &[ShardHead], shown: Shown) -> Stages {
    let published = heads.iter().any(|head| head.shard == row.shard && row.seq <= head.published_through);
    let (log, (raw, rollups)) = join(log(service, row, published), usage(service, event, shown)).await;
    let fact = &event.event;
    Stages {
        event_id: fact.id,
        kind: fact.kind,
        tokens: fact.tokens,
        saga_id: saga::of_event(fact),
        occurred_at: Instant(fact.occurred_at),
        recorded_at: Instant(event.recorded_at),
        outbox: OutboxStage { shard: row.shard, seq: row.seq, epoch: row.epoch, published },
        log,
        raw,
        rollups,
    }
}

async fn log(service: &Service, row: &OutboxRow, published: bool) -> LogStage {
    if !published {
        return LogStage::Pending;
    }
    match tokio::time::timeout(PATIENCE, service.event_log.find(row.shard, row.seq)).await {
        Ok(Ok(Some(offset))) => LogStage::Written { partition: row.shard, offset },
        Ok(Ok(None)) => LogStage::Gone,
        Ok(Err(_)) | Err(_) => LogStage::Unavailable,
    }
}

async fn usage(service: &Service, event: &UsageEvent, shown: Shown) -> (RawStage, RollupStage) {
    match tokio::time::timeout(PATIENCE, read_usage(service, event, shown)).await {
        Ok(Ok(stages)) => stages,
        Ok(Err(_)) | Err(_) => (RawStage::Unavailable, RollupStage::Unavailable),
    }
}

async fn read_usage(service: &Service, event: &UsageEvent, shown: Shown) -> Result<(RawStage, RollupStage)> {
    let (store, fact) = (&service.usage_store, &event.event);
    let generation = store.live_generation().await?;
    let states = store.shard_states(generation, &[event.shard()]).await?;
    let applied = states.first().is_some_and(|state| event.seq <= state.last_seq);
    let moment = (fact.occurred_at, fact.occurred_at + TimeDelta::milliseconds(1));
    let raw = store.raw(&RawScope::Tenant(fact.payer.tenant()), moment.0, moment.1, SAME_MOMENT).await?;
    let raw = match raw.iter().any(|stored| stored.event.id == fact.id) {
        true => RawStage::Stored,
        false if applied => RawStage::Gone,
        false => RawStage::Pending,
    };
    Ok((raw, rollups(service, generation, event, applied, shown).await?))
}

async fn rollups(service: &Service, generation: Generation, event: &UsageEvent, applied: bool, shown: Shown) -> Result<RollupStage> {
    let mut keys = rollup::cells(event);
    if keys.is_empty() {
        return Ok(RollupStage::NotCounted);
    }
    if !applied {
        return Ok(RollupStage::Pending);
    }
    keys.retain(|key| shown.shows(key));
    let values = service.usage_store.load_cells(generation, &keys).await?;
    let cell = |(key, value): (CellKey, CellValue)| Cell {
        scope: if matches!(key.scope, RollupScope::Tenant(_)) { "TENANT" } else { "PLATFORM" },
        grain: key.grain,
        at: Instant(key.bucket),
        dimension: key.dimension,
        value,
    };
    Ok(RollupStage::Counted { generation: generation.id, cells: keys.into_iter().zip(values).map(cell).collect() })
}
