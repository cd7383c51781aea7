//! An installation of Weir on the harness's servers: a database, topics and a keyspace of its own, and the audit of all that.

use crate::{process::Setup, stack::Stack};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::time::sleep;
use uuid::Uuid;

/// For the totals to follow after the last fault.
const DRAINED_WITHIN: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(500);

pub struct Installation {
    weir: PathBuf,
    pub env: Vec<(String, String)>,
    pub admin_key: String,
    data: PathBuf,
    pub logs: PathBuf,
}

impl Installation {
    /// Creates everything with `weir migrate`, on the stack's servers but for those that are named.
    ///
    /// # Errors
    /// With the words of `weir migrate`.
    pub async fn create(weir: &Path, stack: &Stack, elsewhere: &[(&str, &str)]) -> Result<Self> {
        let (name, folder) = place(stack)?;
        let postgres = stack.setting("WEIR__POSTGRES__URL")?;
        let (server, _) = postgres.rsplit_once('/').context("WEIR__POSTGRES__URL names no database")?;
        let admin_key = admin_key();
        let env = [
            ("WEIR__STORES__MODE", "distributed".to_owned()),
            ("WEIR__POSTGRES__URL", format!("{server}/{name}")),
            ("WEIR__REDIS__URL", stack.setting("WEIR__REDIS__URL")?.to_owned()),
            ("WEIR__REDIS__PREFIX", name.clone()),
            ("WEIR__KAFKA__BROKERS", stack.setting("WEIR__KAFKA__BROKERS")?.to_owned()),
            ("WEIR__KAFKA__TOPIC_PREFIX", name.clone()),
            ("WEIR__CASSANDRA__NODES", stack.setting("WEIR__CASSANDRA__NODES")?.to_owned()),
            ("WEIR__CASSANDRA__KEYSPACE", name.clone()),
            ("WEIR__ADMIN__API_KEY", admin_key.clone()),
            ("WEIR__IDENTITY__SECRET", stack.setting("WEIR__IDENTITY__SECRET")?.to_owned()),
            ("WEIR__LOG", "warn".to_owned()),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut installation = Self { weir: weir.to_owned(), env, admin_key, data: folder.clone(), logs: folder };
        for (name, value) in elsewhere {
            installation.env.retain(|(known, _)| known != name);
            installation.env.push(((*name).to_owned(), (*value).to_owned()));
        }
        installation.migrate().await?;
        Ok(installation)
    }

    /// On SQLite and memory, in its own folder or in the one that is given.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn embedded(weir: &Path, stack: &Stack, data: Option<PathBuf>) -> Result<Self> {
        let (_, logs) = place(stack)?;
        let admin_key = admin_key();
        let env = [("WEIR__STORES__MODE", "embedded"), ("WEIR__ADMIN__API_KEY", &admin_key), ("WEIR__LOG", "warn")];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Self { weir: weir.to_owned(), env, admin_key, data: data.unwrap_or_else(|| logs.clone()), logs })
    }

    /// # Errors
    /// With the words of `weir migrate`.
    pub async fn migrate(&self) -> Result<()> {
        let output = self.setup("").command().arg("migrate").output().await.context("weir cannot be started")?;
        if !output.status.success() {
            bail!("weir migrate failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    pub fn setting(&self, name: &str) -> &str {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// The same setting with another server.
    ///
    /// # Errors
    /// When the setting is no URL with a server.
    pub fn through(&self, name: &str, server: SocketAddr) -> Result<String> {
        let url = self.setting(name);
        let (user, behind) = url.rsplit_once('@').with_context(|| format!("{name} names no server"))?;
        let (_, database) = behind.split_once('/').with_context(|| format!("{name} names no database"))?;
        Ok(format!("{user}@{server}/{database}"))
    }

    /// How a process with these roles is started.
    pub fn setup(&self, roles: &'static str) -> Setup {
        let listen = format!("127.0.0.1:{}", own_redis::free_port());
        Setup { weir: self.weir.clone(), roles, listen, env: self.env.clone(), data: self.data.clone(), logs: self.logs.clone() }
    }

    /// `weir audit`, past all proxies, when the totals have followed: the number of events that it checked.
    ///
    /// # Errors
    /// With what it found when it is not clean. The report is kept beside the logs.
    pub async fn audit(&self) -> Result<u64> {
        let report = self.drained().await?;
        if report["clean"] != true {
            let kept = self.logs.join(format!("audit-{}.json", Uuid::new_v4().simple()));
            std::fs::write(&kept, format!("{report:#}"))?;
            bail!("weir audit is not clean, see {}: {}", kept.display(), failed(&report));
        }
        report["checkedEvents"].as_u64().context("a report without checkedEvents")
    }

    /// What `weir audit` says when the totals have every event of the ledger.
    ///
    /// # Errors
    /// When they have not in time.
    pub async fn drained(&self) -> Result<Value> {
        let began = Instant::now();
        loop {
            let report = self.report().await;
            let pending = report.as_ref().ok().and_then(|report| report["totals"]["pending"].as_i64());
            if pending == Some(0) {
                return report;
            }
            if began.elapsed() > DRAINED_WITHIN {
                bail!("the totals have not followed {} s after the last fault: {}", DRAINED_WITHIN.as_secs(), describe(&report, pending));
            }
            sleep(LOOK).await;
        }
    }

    /// What `weir audit` says, clean or not.
    ///
    /// # Errors
    /// When it could not check.
    pub async fn report(&self) -> Result<Value> {
        let output = self.setup("").command().args(["audit", "--json"]).output().await.context("weir cannot be started")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let report: Value = serde_json::from_str(&said)
            .with_context(|| format!("weir audit: {}, {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))?;
        // The code is what scripts go by.
        ensure!(output.status.code() == Some(i32::from(report["clean"] != true)), "weir audit ended with {}: {report}", output.status);
        Ok(report)
    }

    /// What a command says that must end with this code.
    ///
    /// # Errors
    /// When it ends with another one.
    pub async fn weir(&self, arguments: &[&str], code: i32) -> Result<String> {
        let output = self.setup("").command().args(arguments).output().await.context("weir cannot be started")?;
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        ensure!(output.status.code() == Some(code), "weir {} ended with {}: {said}", arguments.join(" "), output.status);
        Ok(said)
    }
}

/// A name that is nobody else's, and a folder of this name.
fn place(stack: &Stack) -> Result<(String, PathBuf)> {
    let name = format!("chaos{}", &Uuid::new_v4().simple().to_string()[..12]);
    let folder = stack.folder.join("installations").join(&name);
    std::fs::create_dir_all(&folder)?;
    Ok((name, folder))
}

fn admin_key() -> String {
    format!("weir_chaos_{}", Uuid::new_v4().simple())
}

fn describe(report: &Result<Value>, pending: Option<i64>) -> String {
    match report {
        Ok(_) => format!("{pending:?} events are pending"),
        Err(error) => format!("{error:#}"),
    }
}

/// The invariants that do not hold, with the first difference of each.
fn failed(report: &Value) -> String {
    let invariants = report["invariants"].as_array().into_iter().flatten();
    let failed = invariants.filter(|invariant| invariant["different"] != 0);
    let texts =
        failed.map(|invariant| format!("{} {} different, first {}", invariant["id"], invariant["different"], invariant["differences"][0]));
    texts.collect::<Vec<_>>().join("; ")
}
