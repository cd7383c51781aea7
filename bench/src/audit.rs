//! The audit: how long `weir audit` takes to prove events that went through everything, and how much longer when one charge differs; across
//! the servers, and of the embedded stores.

use crate::{
    Plan,
    batch::{batches, events_written},
    consume::ROLES,
    endpoint::Endpoint,
    figures::{Goal, Report, Sample, number},
    installation::{Installation, on_a_fresh_one, on_an_embedded_one},
    log,
    process::Process,
    users::Users,
};
use anyhow::{Context, Result, bail};
use domain::ids::Shard;
use ports::usage_store::UsageStore;
use serde_json::Value;
use sqlx::{ConnectOptions, Connection, PgPool, sqlite::SqliteConnectOptions};
use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

const SERVERS: &str = "audit across the four servers";
const EMBEDDED: &str = "audit of the embedded stores";
const CLEAN: &str = "clean";
const DIFFERENT: &str = "one charge differs";
const SINCE_LAST: &str = "since the last one";
/// Ten million events in a minute, and in half of one.
const LEAST_RATE: f64 = 10_000_000.0 / 60.0;
const LEAST_EMBEDDED_RATE: f64 = 10_000_000.0 / 30.0;
const MORE_SECONDS: f64 = 10.0;
const ITEMS: usize = 512;
const CONNECTIONS: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(500);
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// Where a charge is changed by hand.
enum Ledger {
    Postgres(PgPool),
    Sqlite(PathBuf),
}

impl Ledger {
    async fn change_a_charge(&self, by: i64) -> Result<()> {
        let sql = include_str!("sql/change_a_charge.sql");
        match self {
            Self::Postgres(pool) => {
                sqlx::query(sql).bind(by).execute(pool).await?;
            }
            Self::Sqlite(file) => {
                let mut connection = SqliteConnectOptions::new().filename(file).connect().await?;
                sqlx::query(sql).bind(by).execute(&mut connection).await?;
                connection.close().await?;
            }
        }
        Ok(())
    }
}

pub async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    log::note(&format!("audit: starting weir, booking {} events", plan.audit_events));
    let events = on_a_fresh_one(plan, async |installation| across_servers(plan, installation, report).await).await?;
    goals(report, SERVERS, events, LEAST_RATE);
    log::note(&format!("audit: starting an embedded weir, booking {} events", plan.audit_events));
    let events = on_an_embedded_one(plan, async |installation| of_embedded_stores(plan, installation, report).await).await?;
    goals(report, EMBEDDED, events, LEAST_EMBEDDED_RATE);
    Ok(())
}

fn goals(report: &mut Report, leg: &str, events: f64, least_rate: f64) {
    report.figure(leg, "events/s of a clean audit", CLEAN, |sample| Some(sample.per_second), Goal::AtLeast(least_rate));
    report.figure(leg, "events/s of an audit since the last one", SINCE_LAST, |sample| Some(sample.per_second), Goal::None);
    let [clean, different] = [CLEAN, DIFFERENT].map(|mode| report.values(leg, mode, &|sample: &Sample| Some(events / sample.per_second)));
    let more = clean.iter().zip(different).map(|(clean, different)| different - clean).collect();
    report.push(leg, "seconds more to name the charge that differs", more, Goal::AtMost(MORE_SECONDS));
}

/// How many events there are.
async fn across_servers(plan: &Plan, installation: &Installation, report: &mut Report) -> Result<f64> {
    let (process, _) = booked(plan, installation).await?;
    process.stop().await;
    let database = installation.database().await?;
    let events = number(u64::try_from(events_written(&database).await?)?);
    Subject { leg: SERVERS, installation, ledger: Ledger::Postgres(database), events }.measure(plan, report).await?;
    Ok(events)
}

/// How many events there are.
async fn of_embedded_stores(plan: &Plan, installation: &Installation, report: &mut Report) -> Result<f64> {
    let process = Process::start(installation, &every_role(), &[])?;
    let users = Users::make(installation, process.address).await.context("making users")?;
    let endpoint = Endpoint::new(process, batches(plan, &users, ITEMS)?);
    while i64::try_from(endpoint.sent() * ITEMS)? < plan.audit_events {
        endpoint.closed(plan, "booking", CONNECTIONS).await?;
    }
    log::note("booked, waiting for the totals");
    let began = Instant::now();
    let events = loop {
        let found: Value = serde_json::from_slice(&audited(installation, &[], 0).await?)?;
        if found["totals"]["pending"] == 0 {
            break number(found["checkedEvents"].as_u64().context("an audit's report without checkedEvents")?);
        }
        if began.elapsed() > STUCK_AFTER {
            bail!("not counted after {} s: {}", STUCK_AFTER.as_secs(), found["totals"]);
        }
    };
    endpoint.process.stop().await;
    let ledger = Ledger::Sqlite(installation.data.join("weir.db"));
    Subject { leg: EMBEDDED, installation, ledger, events }.measure(plan, report).await?;
    Ok(events)
}

/// What is audited.
struct Subject<'a> {
    leg: &'static str,
    installation: &'a Installation,
    ledger: Ledger,
    events: f64,
}

impl Subject<'_> {
    async fn measure(&self, plan: &Plan, report: &mut Report) -> Result<()> {
        for round in 0..plan.rounds {
            log::note(&format!("{}: round {} of {}", self.leg, round + 1, plan.rounds));
            report.add(self.leg, self.audit(CLEAN, &[]).await?);
            self.ledger.change_a_charge(1).await?;
            let different = self.audit(DIFFERENT, &[]).await;
            self.ledger.change_a_charge(-1).await?;
            report.add(self.leg, different?);
        }
        // The first one takes notes.
        for mode in ["the first of them", SINCE_LAST] {
            report.add(self.leg, self.audit(mode, &["--since-last"]).await?);
        }
        Ok(())
    }

    async fn audit(&self, mode: &str, how: &[&str]) -> Result<Sample> {
        let since = Instant::now();
        audited(self.installation, how, if mode == DIFFERENT { 1 } else { 0 }).await?;
        Ok(Sample { per_second: self.events / since.elapsed().as_secs_f64(), ..Sample::new(mode) })
    }
}
fn every_role() -> String {
    format!("{ROLES},outbox-relay,analytics")
}

/// A process with every role of the pipeline, through which events went until all were counted, and who spent.
pub async fn booked(plan: &Plan, installation: &Installation) -> Result<(Process, Users)> {
    let process = Process::start(installation, &every_role(), &[])?;
    let users = Users::make(installation, process.address).await.context("making users")?;
    let database = installation.database().await?;
    let endpoint = Endpoint::new(process, batches(plan, &users, ITEMS)?);
    while events_written(&database).await? < plan.audit_events {
        endpoint.closed(plan, "booking", CONNECTIONS).await?;
    }
    log::note("booked, waiting for the totals");
    wait_for_totals(installation).await?;
    Ok((endpoint.process, users))
}

/// Until they count what is in the ledger now.
pub async fn wait_for_totals(installation: &Installation) -> Result<()> {
    let written = events_written(&installation.database().await?).await?;
    let store = installation.cassandra().await?;
    let generation = store.live_generation().await?;
    let shards: Vec<Shard> = Shard::all().collect();
    let (mut last, mut moved) = (0, Instant::now());
    while last < written {
        tokio::time::sleep(LOOK_EVERY).await;
        let applied = store.shard_states(generation, &shards).await?.iter().map(|state| state.last_seq).sum();
        if applied > last {
            (last, moved) = (applied, Instant::now());
        }
        if moved.elapsed() > STUCK_AFTER {
            bail!("nothing was counted for {} s; {last} of {written} events were", STUCK_AFTER.as_secs());
        }
    }
    Ok(())
}

/// The report.
async fn audited(installation: &Installation, how: &[&str], exit_code: i32) -> Result<Vec<u8>> {
    let mut command = tokio::process::Command::from(installation.command());
    let output = command.args(["audit", "--json"]).args(how).stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if output.status.code() != Some(exit_code) {
        bail!("weir audit ended with {}: {}", output.status, String::from_utf8_lossy(&output.stdout));
    }
    Ok(output.stdout)
}
