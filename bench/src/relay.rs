//! The relay: a full outbox in Postgres, a real `outbox-relay` process, until Kafka has acknowledged the last row of every shard;
//! in the same rounds the same events through the plain relays.

use crate::{
    Plan,
    events::Generator,
    figures::{Goal, Report, Sample},
    installation::{Installation, on_a_fresh_one},
    log,
    meter::Meter,
    plain_relays::{self, PlainRelay},
    process::Process,
};
use adapter_postgres::{PackedEvent, PackedRows, Postgres};
use anyhow::{Context, Result, bail};
use chrono::Utc;
use domain::event::EventType;
use ports::outbox::OutboxRow;
use std::time::{Duration, Instant};

const LEG: &str = "relay: Postgres to Kafka";
const WEIR: &str = "weir";
const ROWS_PER_INSERT: usize = 5_000;
/// Rarely enough to cost Postgres little beside the relay.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A relay that moves nothing for this long has failed.
const STUCK_AFTER: Duration = Duration::from_secs(30);

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    on_a_fresh_one(plan, async |installation| measure(plan, installation, report).await).await
}

async fn measure(plan: &Plan, installation: &Installation, report: &mut Report) -> Result<()> {
    let postgres = installation.postgres().await?;
    let pool = installation.database().await?;
    log::note(&format!("relay: filling the outboxes with {} rows", plan.relay_events));
    preload(&postgres, plan).await.context("filling the outbox")?;
    plain_relays::fill(&pool, &plan.amounts, plan.relay_events).await.context("filling the plain outbox")?;
    let meter = Meter::of_postgres(&pool).await?;
    for round in 0..plan.rounds {
        sqlx::query(include_str!("sql/reset_leases.sql")).execute(postgres.pool()).await?;
        let process = Process::start(installation, "outbox-relay", &[])?;
        let sample = one_round(&postgres, &meter, &process, plan.relay_events).await?;
        process.stop().await;
        log::note(&format!("relay: round {} of {}: {:.0} events/s", round + 1, plan.rounds, sample.per_second));
        report.add(LEG, sample);
        for relay in [PlainRelay::Cursor, PlainRelay::Delete] {
            report.add(LEG, relay.measure(&pool, installation).await.context(relay.name())?);
        }
    }
    goals(report);
    postgres.close().await;
    Ok(())
}

fn goals(report: &mut Report) {
    let [cursor, delete] = [PlainRelay::Cursor, PlainRelay::Delete].map(PlainRelay::name);
    let per_second = |sample: &Sample| Some(sample.per_second);
    report.figure(LEG, "events/s", WEIR, per_second, Goal::AtLeast(150_000.0));
    report.ratio(LEG, "events/s, weir / bare cursor", [WEIR, cursor], per_second, Goal::AtLeast(0.6));
    report.ratio(LEG, "events/s, weir / SKIP LOCKED + DELETE", [WEIR, delete], per_second, Goal::AtLeast(2.2));
    let postgres = |sample: &Sample| sample.store_cpu_micros_each;
    report.ratio(LEG, "CPU of Postgres per event, weir / SKIP LOCKED + DELETE", [WEIR, delete], postgres, Goal::AtMost(0.25));
    report.figure(LEG, "log of Postgres per event, bytes", WEIR, |sample| sample.wal_bytes_each, Goal::AtMost(2.0));
}

async fn preload(postgres: &Postgres, plan: &Plan) -> Result<()> {
    let mut generator = Generator::new(&plan.amounts);
    let mut left = plan.relay_events;
    while left > 0 {
        let count = left.min(ROWS_PER_INSERT);
        let rows: Vec<OutboxRow> = (0..count).map(|_| generator.next_row(Utc::now())).collect::<Result<_>>()?;
        insert(postgres, &rows).await?;
        left -= count;
    }
    let (shards, heads): (Vec<i16>, Vec<i64>) = generator.heads().map(|(shard, head)| (i16::from(shard.index()), head)).unzip();
    sqlx::query(include_str!("sql/set_heads.sql")).bind(shards).bind(heads).execute(postgres.pool()).await?;
    sqlx::query("VACUUM ANALYZE outbox").execute(postgres.pool()).await?;
    Ok(())
}

async fn insert(postgres: &Postgres, rows: &[OutboxRow]) -> Result<()> {
    let mut packed = PackedRows::default();
    for row in rows {
        let trace_parent = row.trace_parent.as_deref().map(str::parse).transpose()?;
        let event = PackedEvent { trace_parent, seen: row.seen.clone(), payload: row.payload.clone() };
        packed.push(row.shard, row.seq, EventType::ChargeSettled, &event);
    }
    let columns = packed.columns();
    let statement = sqlx::query(include_str!("sql/insert_outbox.sql")).bind(columns.shards).bind(columns.counts);
    statement.bind(columns.seqs).bind(columns.events).execute(postgres.pool()).await?;
    Ok(())
}

/// From the moment at which the process owns shards, so that starting it is not measured, until the last row is acknowledged.
async fn one_round(postgres: &Postgres, meter: &Meter, process: &Process, events: usize) -> Result<Sample> {
    let total = i64::try_from(events)?;
    let (mut owned, mut last, mut moved) = (None, 0, Instant::now());
    loop {
        let leases = sqlx::query_as(include_str!("sql/read_leases.sql")).fetch_one(postgres.pool());
        let (owners, published): (i64, i64) = leases.await?;
        if owners > 0 && owned.is_none() {
            owned = Some((Instant::now(), process.cpu_micros()?, meter.read().await?));
        }
        if published > last {
            (last, moved) = (published, Instant::now());
        }
        if published >= total {
            break;
        }
        if moved.elapsed() > STUCK_AFTER {
            bail!("nothing was published for {} s; {published} of {total} were", STUCK_AFTER.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (since, cpu, before) = owned.context("no process took a shard")?;
    let elapsed = since.elapsed();
    let used = meter.read().await?.since(before);
    let counted = f64::from(u32::try_from(total)?);
    let cpu_micros = f64::from(u32::try_from(process.cpu_micros()? - cpu)?);
    Ok(Sample {
        per_second: counted / elapsed.as_secs_f64(),
        cpu_micros_each: Some(cpu_micros / counted),
        store_cpu_micros_each: Some(used.cpu_micros / counted),
        wal_bytes_each: Some(used.wal_bytes / counted),
        ..Sample::new(WEIR)
    })
}
