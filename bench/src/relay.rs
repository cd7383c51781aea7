//! The relay: a full outbox in Postgres, a real `outbox-relay` process, until Kafka has acknowledged the last row of every shard.

use crate::{
    Plan,
    events::Generator,
    figures::{Goal, Report, Sample},
    installation::{Installation, unless_interrupted},
    log,
    process::Process,
};
use adapter_postgres::{PackedRows, Postgres};
use anyhow::{Context, Result, bail};
use chrono::Utc;
use domain::event::EventType;
use ports::outbox::OutboxRow;
use std::time::{Duration, Instant};

const LEG: &str = "relay: Postgres to Kafka";
const ROWS_PER_INSERT: usize = 5_000;
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A relay that moves nothing for this long has failed.
const STUCK_AFTER: Duration = Duration::from_secs(30);

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let installation = Installation::create(&plan.weir, &plan.servers)?;
    let measured = unless_interrupted(measure(plan, &installation, report)).await;
    installation.remove().await;
    measured
}

async fn measure(plan: &Plan, installation: &Installation, report: &mut Report) -> Result<()> {
    let postgres = installation.postgres().await?;
    log::note(&format!("relay: filling the outbox with {} rows", plan.relay_events));
    preload(&postgres, plan).await.context("filling the outbox")?;
    for round in 0..plan.rounds {
        sqlx::query("UPDATE outbox_lease SET owner = NULL, lease_until = '-infinity', published_through = 0")
            .execute(postgres.pool())
            .await?;
        let process = Process::start(installation, "outbox-relay", &[])?;
        let sample = one_round(&postgres, &process, plan.relay_events).await?;
        log::note(&format!("relay: round {} of {}: {:.0} events/s", round + 1, plan.rounds, sample.per_second));
        report.add(LEG, sample);
        process.stop().await;
    }
    report.figure(LEG, "events/s", "weir", |sample| Some(sample.per_second), Goal::AtLeast(150_000.0));
    postgres.close().await;
    Ok(())
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
        packed.push(row.shard, row.seq, EventType::ChargeSettled, trace_parent, &row.payload);
    }
    let columns = packed.columns();
    let statement = sqlx::query(include_str!("sql/insert_outbox.sql")).bind(columns.shards).bind(columns.counts);
    statement.bind(columns.seqs).bind(columns.events).execute(postgres.pool()).await?;
    Ok(())
}

/// From the moment at which the process owns shards, so that starting it is not measured, until the last row is acknowledged.
async fn one_round(postgres: &Postgres, process: &Process, events: usize) -> Result<Sample> {
    let total = i64::try_from(events)?;
    let (mut owned, mut last, mut moved) = (None, 0, Instant::now());
    loop {
        let leases = sqlx::query_as(include_str!("sql/read_leases.sql")).fetch_one(postgres.pool());
        let (owners, published): (i64, i64) = leases.await?;
        if owners > 0 && owned.is_none() {
            owned = Some((Instant::now(), process.cpu_micros()?));
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
    let (since, cpu) = owned.context("no process took a shard")?;
    let counted = f64::from(u32::try_from(total)?);
    let cpu_micros = f64::from(u32::try_from(process.cpu_micros()? - cpu)?);
    Ok(Sample { per_second: counted / since.elapsed().as_secs_f64(), cpu_micros_each: Some(cpu_micros / counted), ..Sample::new("weir") })
}
