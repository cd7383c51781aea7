//! What Weir's decisions are compared with, each as a server of its own: `weir-bench --serve NAME` runs it, the legs start and ask it.

mod bare;
mod library;
mod limitador;

use crate::{
    installation::Servers,
    log,
    process::{Process, READY},
};
use anyhow::{Context, Result};
use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::{path::Path, process::Command, sync::Arc};
use tokio::net::TcpListener;

/// What a race for one limit may grant.
pub const RACE_LIMIT: i64 = 2_000;
/// What nobody reaches.
const AMPLE: i64 = 1_000_000_000;
const WINDOW_SECS: u32 = 3_600;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contender {
    /// `limits/take` without Weir: no authentication, one EVALSHA of three GCRA buckets.
    Bare,
    /// Weir's buckets as a library: a user, an org and a provider.
    Library,
    /// The same three limits in the limitador library on the same Redis.
    Limitador,
    /// Weir's buckets as a library in the Redis Cluster: a provider, of which slices are taken ahead.
    Leased,
    /// The same limit in the limitador library, in the memory of its process.
    LimitadorInMemory,
}

/// One spend, as the last two are asked about it.
#[derive(Debug, Deserialize, Serialize)]
pub struct Check {
    pub user: String,
    pub org: String,
    /// Its limit is [`RACE_LIMIT`] if this is a race.
    pub provider: String,
    pub race: bool,
    /// How often one request asks it. A decision in memory takes less time than the HTTP around it, which would be all that is measured.
    pub times: u32,
}

impl Contender {
    /// Starts it as a process. `prefix` keeps its keys apart.
    pub fn start(self, servers: &Servers, prefix: &str, folder: &Path) -> Result<Process> {
        let value = self.to_possible_value().context("a contender without a name")?;
        let name = value.get_name();
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--serve", name, "--prefix", prefix])
            .env("WEIR__REDIS__URL", if self == Self::Leased { &servers.redis_cluster } else { &servers.redis });
        Process::spawn(command, &folder.join(format!("{name}.log"))).with_context(|| format!("the contender {name}"))
    }

    /// Serves until the process is ended.
    pub async fn serve(self, prefix: &str) -> Result<()> {
        let redis = std::env::var("WEIR__REDIS__URL").context("WEIR__REDIS__URL is not set")?;
        let router: Router = match self {
            Self::Bare => bare::router(&redis, prefix).await?,
            Self::Library => library::router(&redis, prefix).await?,
            Self::Limitador => limitador::router(&redis, prefix).await?,
            Self::Leased => library::leased_router(&redis, prefix).await?,
            Self::LimitadorInMemory => limitador::in_memory_router(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("weir-bench{READY}{}", listener.local_addr()?);
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                log::note(&format!("a connection keeps its delays: {error}"));
            }
        });
        axum::serve(listener, router).await?;
        Ok(())
    }
}

/// Rounds of races have providers of their own; everybody else shares one.
fn limit_of(race: bool) -> i64 {
    if race { RACE_LIMIT } else { AMPLE }
}

#[derive(Serialize)]
struct Decision {
    allowed: bool,
}

/// The same answer whoever decided.
fn answer<E: std::fmt::Display>(decided: Result<bool, E>) -> Response {
    match decided {
        Ok(allowed) => {
            let status = if allowed { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
            (status, Json(Decision { allowed })).into_response()
        }
        Err(error) => {
            log::note(&format!("a decision failed: {error:#}"));
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

type Shared<T> = axum::extract::State<Arc<T>>;
