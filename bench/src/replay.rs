//! A replay of the whole log: from the request until every shard of the new generation is at its last event, then its verdict; and one that
//! runs beside something else.

use crate::{figures::Sample, installation::Installation, process::Process};
use adapter_cassandra::Cassandra;
use anyhow::{Context, Result, bail};
use domain::ids::Shard;
use ports::usage_store::{Generation, UsageStore};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

pub const LEG: &str = "replay: Kafka to Cassandra";
pub const LEAST_RATE: f64 = 100_000.0;
const LOOK_EVERY: Duration = Duration::from_millis(20);
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// A replay that was asked for.
pub struct Replay {
    http: reqwest::Client,
    admin_key: String,
    url: String,
    generation: i32,
}

impl Replay {
    /// Of everything in the log.
    pub async fn start(installation: &Installation, address: SocketAddr) -> Result<Self> {
        let (http, admin_key) = (reqwest::Client::new(), installation.admin_key.clone());
        let url = format!("http://{address}/api/v1/admin/replay");
        let started = asked(http.post(&url).json(&json!({"source": "log"})), &admin_key).await.context("asking for a replay")?;
        let generation = started["generation"].as_i64().and_then(|id| i32::try_from(id).ok()).context("a replay without generation")?;
        let url = format!("{url}/{}", started["replayId"].as_str().context("a replay without id")?);
        Ok(Self { http, admin_key, url, generation })
    }

    pub async fn status(&self) -> Result<String> {
        let replay = asked(self.http.get(&self.url), &self.admin_key).await?;
        Ok(replay["status"].as_str().context("a replay without status")?.to_owned())
    }

    pub async fn cancel(&self) -> Result<()> {
        asked(self.http.post(format!("{}/cancel", self.url)).json(&json!({})), &self.admin_key).await.map(drop)
    }
}

async fn asked(request: reqwest::RequestBuilder, admin_key: &str) -> Result<Value> {
    let answer = request.header("x-api-key", admin_key).send().await?.error_for_status()?;
    Ok(serde_json::from_str(&answer.text().await?)?)
}

/// `total` events are in the log and in the live generation.
pub async fn measure(installation: &Installation, store: &Cassandra, total: i64) -> Result<Sample> {
    let process = Process::start(installation, "gateway,auth-service,config-service,analytics", &[])?;
    let (since, cpu) = (Instant::now(), process.cpu_micros()?);
    let replay = Replay::start(installation, process.address).await?;
    let shards: Vec<Shard> = Shard::all().collect();
    let applied = async || -> Result<i64> {
        let states = store.shard_states(Generation { id: replay.generation, started_at_micros: 0 }, &shards).await?;
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
    loop {
        match replay.status().await?.as_str() {
            "VERIFIED" => break,
            "RUNNING" if since.elapsed() < STUCK_AFTER => tokio::time::sleep(LOOK_EVERY).await,
            status => bail!("the replay is not verified: {status}"),
        }
    }
    process.stop().await;
    let cpu_micros_each = Some(f64::from(u32::try_from(cpu)?) / events);
    Ok(Sample { per_second: events / took.as_secs_f64(), cpu_micros_each, ..Sample::new("weir") })
}
