//! A replay of the whole log: from the request until every shard of the new generation is at its last event, then its verdict.

use crate::{figures::Sample, installation::Installation, process::Process};
use adapter_cassandra::Cassandra;
use anyhow::{Context, Result, bail};
use domain::ids::Shard;
use ports::usage_store::{Generation, UsageStore};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub const LEG: &str = "replay: Kafka to Cassandra";
pub const LEAST_RATE: f64 = 100_000.0;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// `total` events are in the log and in the live generation.
pub async fn measure(installation: &Installation, store: &Cassandra, total: i64) -> Result<Sample> {
    let process = Process::start(installation, "gateway,auth-service,config-service,analytics", &[])?;
    let url = format!("http://{}/api/v1/admin/replay", process.address);
    let http = reqwest::Client::new();
    let asked = async |request: reqwest::RequestBuilder| -> Result<Value> {
        let answer = request.header("x-api-key", &installation.admin_key).send().await?.error_for_status()?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    };
    let (since, cpu) = (Instant::now(), process.cpu_micros()?);
    let started = asked(http.post(&url).json(&json!({"source": "log"}))).await.context("asking for a replay")?;
    let id = started["generation"].as_i64().and_then(|id| i32::try_from(id).ok()).context("a replay without generation")?;
    let shards: Vec<Shard> = Shard::all().collect();
    let applied = async || -> Result<i64> {
        let states = store.shard_states(Generation { id, started_at_micros: 0 }, &shards).await?;
        Ok(states.iter().map(|state| state.last_seq).sum())
    };
    while applied().await? < total {
        if since.elapsed() > STUCK_AFTER {
            bail!("the replay is not done after {} s", STUCK_AFTER.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (took, cpu) = (since.elapsed(), process.cpu_micros()? - cpu);
    let events = f64::from(u32::try_from(total)?);
    let replay = format!("{url}/{}", started["replayId"].as_str().unwrap_or_default());
    loop {
        let replay = asked(http.get(&replay)).await?;
        match replay["status"].as_str() {
            Some("VERIFIED") => break,
            Some("RUNNING") if since.elapsed() < STUCK_AFTER => tokio::time::sleep(LOOK_EVERY).await,
            _ => bail!("the replay is not verified: {replay}"),
        }
    }
    process.stop().await;
    let cpu_micros_each = Some(f64::from(u32::try_from(cpu)?) / events);
    Ok(Sample { per_second: events / took.as_secs_f64(), cpu_micros_each, ..Sample::new("weir") })
}
