//! An installation of Weir for one measurement: its own database, topics and keyspace on the real servers, or its own folder, gone afterwards.

use crate::{Plan, log};
use adapter_cassandra::Cassandra;
use adapter_kafka::Kafka;
use adapter_postgres::{Postgres, PostgresSettings};
use anyhow::{Context, Result, bail};
use sqlx::{AssertSqlSafe, Executor, PgPool, postgres::PgPoolOptions};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::time::sleep;
use uuid::Uuid;

/// Behind the name of a database, of the one that the ledger is divided with.
const FURTHER: &str = "_further";
/// A second apart, after the first.
const DROP_TRIES: usize = 20;

/// Where the real servers are.
#[derive(Clone)]
pub struct Servers {
    /// Up to the last slash; the database's name follows it.
    postgres: String,
    postgres_url: String,
    pub redis: String,
    /// Seeds of a Redis Cluster.
    pub redis_cluster: String,
    brokers: String,
    cassandra: String,
}

impl Servers {
    pub fn from_environment() -> Result<Self> {
        let read = |name: &str| {
            std::env::var(name).with_context(|| format!("{name} is not set: start the servers with `make stack` and load .local/stack.env"))
        };
        let postgres_url = read("WEIR__POSTGRES__URL")?;
        let (postgres, _) = postgres_url.rsplit_once('/').context("WEIR__POSTGRES__URL names no database")?;
        Ok(Self {
            postgres: postgres.to_owned(),
            postgres_url: postgres_url.clone(),
            redis: read("WEIR__REDIS__URL")?,
            redis_cluster: read("WEIR_TEST_REDIS_CLUSTER_URL")?,
            brokers: read("WEIR__KAFKA__BROKERS")?,
            cassandra: read("WEIR__CASSANDRA__NODES")?,
        })
    }

    /// Each as a Redis of its own, to be asked what it has used.
    pub fn cluster_nodes(&self) -> impl Iterator<Item = String> {
        let seeds = self.redis_cluster.trim_start_matches("redis+cluster://");
        let (user, nodes) = seeds.rsplit_once('@').map_or(("", seeds), |(user, nodes)| (user, nodes));
        let at = if user.is_empty() { "" } else { "@" };
        nodes.split(',').map(move |node| format!("redis://{user}{at}{node}"))
    }
}

pub struct Installation {
    /// Of the database, the keyspace, the topics and the keys.
    pub name: String,
    servers: Servers,
    weir: PathBuf,
    /// Settings of every process of it.
    pub env: Vec<(String, String)>,
    pub admin_key: String,
    pub data: PathBuf,
    /// Nothing of it is on the servers.
    is_embedded: bool,
}

impl Installation {
    /// Creates everything with `weir migrate`.
    pub fn create(weir: &Path, servers: &Servers) -> Result<Self> {
        let mut installation = Self::embedded(weir, servers)?;
        let name = installation.name.clone();
        let stores = [
            ("WEIR__STORES__MODE", "distributed".to_owned()),
            ("WEIR__POSTGRES__URL", installation.database_url()),
            ("WEIR__REDIS__URL", servers.redis.clone()),
            ("WEIR__REDIS__PREFIX", name.clone()),
            ("WEIR__KAFKA__BROKERS", servers.brokers.clone()),
            ("WEIR__KAFKA__TOPIC_PREFIX", name.clone()),
            ("WEIR__CASSANDRA__NODES", servers.cassandra.clone()),
            ("WEIR__CASSANDRA__KEYSPACE", name),
        ];
        installation.env.extend(stores.map(|(name, value)| (name.to_owned(), value)));
        installation.is_embedded = false;
        installation.run(&["migrate"])?;
        Ok(installation)
    }

    /// Of nothing but a folder.
    fn embedded(weir: &Path, servers: &Servers) -> Result<Self> {
        let name = format!("bench{}", &Uuid::new_v4().simple().to_string()[..16]);
        let data = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&data)?;
        let admin_key = format!("weir_bench_{}", Uuid::new_v4().simple());
        let env = [
            ("WEIR__ADMIN__API_KEY", admin_key.clone()),
            ("WEIR__IDENTITY__SECRET", format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())),
            ("WEIR__DATA_DIR", data.to_string_lossy().into_owned()),
            ("WEIR__LOG", "warn".to_owned()),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Self { name, servers: servers.clone(), weir: weir.to_owned(), env, admin_key, data, is_embedded: true })
    }

    /// Moves the upper half of the shards to a further database on the same server.
    pub fn divide(&mut self) -> Result<()> {
        self.env.push(("WEIR__POSTGRES__LEDGER_URLS".into(), format!("{}{FURTHER}", self.database_url())));
        self.run(&["migrate"])?;
        self.run(&["ledger", "move", "--shards", "32-63", "--to", "1"])
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let output = self.command().args(args).stdin(Stdio::null()).output().context("weir cannot be started")?;
        if !output.status.success() {
            bail!("weir {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    /// A `weir` command with these settings and nothing else of ours from the environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.weir);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIR__") || name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(&self.data);
        command
    }

    pub fn kafka(&self) -> Kafka {
        Kafka::new(&self.servers.brokers, &self.name)
    }

    pub async fn cassandra(&self) -> Result<Cassandra> {
        let nodes: Vec<String> = self.servers.cassandra.split(',').map(|node| node.trim().to_owned()).collect();
        Ok(Cassandra::connect(&nodes, &self.name).await?)
    }

    pub fn database_url(&self) -> String {
        format!("{}/{}", self.servers.postgres, self.name)
    }

    pub async fn postgres(&self) -> Result<Postgres> {
        self.connect(self.database_url()).await
    }

    /// Connections without Weir's limits on how long a statement may take.
    pub async fn database(&self) -> Result<PgPool> {
        Ok(PgPoolOptions::new().max_connections(8).connect(&self.database_url()).await?)
    }

    async fn connect(&self, url: String) -> Result<Postgres> {
        Ok(Postgres::connect(&PostgresSettings { url, max_connections: 4 }).await?)
    }

    /// Removes what was created. What fails is said and left: a measurement does not fail for it.
    pub async fn remove(self) {
        let mut removals = vec![("folder", std::fs::remove_dir_all(&self.data).map_err(Into::into))];
        if !self.is_embedded {
            removals.push(("database", self.drop_database().await));
            removals.push(("keyspace", self.drop_keyspace().await));
            removals.push(("topics", adapter_kafka::delete(&self.kafka()).await.map_err(Into::into)));
        }
        for (what, removed) in removals {
            if let Err(error) = removed {
                log::note(&format!("the {what} of {} stays: {error:#}", self.name));
            }
        }
    }

    async fn drop_database(&self) -> Result<()> {
        let server = self.connect(self.servers.postgres_url.clone()).await?;
        let mut dropped = Ok(());
        for suffix in ["", FURTHER] {
            dropped = dropped.and(drop_patiently(server.pool(), &format!("{}{suffix}", self.name)).await);
        }
        server.close().await;
        dropped
    }

    async fn drop_keyspace(&self) -> Result<()> {
        Ok(self.cassandra().await?.drop_keyspace().await?)
    }
}

/// The server's own vacuum may be at work in it, which only the server may end.
async fn drop_patiently(server: &PgPool, database: &str) -> Result<()> {
    let mut failures = 0;
    loop {
        // The name is ours: letters, digits and the suffix.
        match server.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))).await {
            Err(_) if failures < DROP_TRIES => failures += 1,
            end => return end.map(drop).map_err(Into::into),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Measures on an installation of its own, which is removed in the end, also after a failure or an interruption.
pub async fn on_a_fresh_one<T>(plan: &Plan, measure: impl AsyncFnOnce(&Installation) -> Result<T>) -> Result<T> {
    on(Installation::create(&plan.weir, &plan.servers)?, measure).await
}

/// The same on the embedded stores.
pub async fn on_an_embedded_one<T>(plan: &Plan, measure: impl AsyncFnOnce(&Installation) -> Result<T>) -> Result<T> {
    on(Installation::embedded(&plan.weir, &plan.servers)?, measure).await
}

async fn on<T>(installation: Installation, measure: impl AsyncFnOnce(&Installation) -> Result<T>) -> Result<T> {
    let measured = unless_interrupted(measure(&installation)).await;
    installation.remove().await;
    measured
}

/// The same on two, which are compared.
pub async fn on_two_fresh_ones<T>(plan: &Plan, measure: impl AsyncFnOnce(&mut [Installation; 2]) -> Result<T>) -> Result<T> {
    let first = Installation::create(&plan.weir, &plan.servers)?;
    let mut both = [first, Installation::create(&plan.weir, &plan.servers)?];
    let measured = unless_interrupted(measure(&mut both)).await;
    for installation in both {
        installation.remove().await;
    }
    measured
}

/// What Ctrl-C ends the work with.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Ends the work at Ctrl-C, so that its installation is removed as after an error. Processes end when they are dropped.
pub async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(Interrupted.into()),
    }
}
