//! What a store has used so far: the processor time of all its processes, and what it wrote to its log.

use crate::{figures::number, installation::Servers, proc_stat};
use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;
use sqlx::PgPool;

pub enum Meter {
    /// Each node of it; of a Redis without a cluster the only one.
    Redis(Vec<MultiplexedConnection>),
    /// A connection, and the server's first process.
    Postgres { pool: PgPool, postmaster: u32 },
}

/// Since the store was started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    pub cpu_micros: f64,
    pub wal_bytes: f64,
    /// Scripts that Redis ran.
    pub scripts: f64,
}

impl Meter {
    pub async fn of_redis(servers: &Servers) -> Result<Self> {
        let client = redis::Client::open(servers.redis.as_str())?;
        Ok(Self::Redis(vec![client.get_multiplexed_async_connection().await?]))
    }

    pub async fn of_redis_cluster(servers: &Servers) -> Result<Self> {
        let mut nodes = Vec::new();
        for node in servers.cluster_nodes() {
            nodes.push(redis::Client::open(node)?.get_multiplexed_async_connection().await?);
        }
        Ok(Self::Redis(nodes))
    }

    /// The server must run on this machine: its processes are looked up here.
    pub async fn of_postgres(pool: &PgPool) -> Result<Self> {
        let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(pool).await?;
        let backend = proc_stat::of(u32::try_from(backend)?).context("PostgreSQL must run on this machine to be measured")?;
        Ok(Self::Postgres { pool: pool.clone(), postmaster: backend.parent })
    }

    pub async fn read(&self) -> Result<Used> {
        match self {
            Self::Redis(nodes) => {
                let mut used = Used::default();
                for node in nodes {
                    let info: String = redis::cmd("INFO").arg("cpu").arg("commandstats").query_async(&mut node.clone()).await?;
                    used.cpu_micros += redis_cpu_micros(&info).context("redis tells no processor time")?;
                    used.scripts += redis_scripts(&info);
                }
                Ok(used)
            }
            Self::Postgres { pool, postmaster } => {
                let wal_bytes = sqlx::query_scalar(include_str!("sql/wal_bytes.sql")).fetch_one(pool).await?;
                Ok(Used { cpu_micros: number(proc_stat::family_cpu_micros(*postmaster)?), wal_bytes, scripts: 0.0 })
            }
        }
    }
}

impl Used {
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu_micros: self.cpu_micros - before.cpu_micros,
            wal_bytes: self.wal_bytes - before.wal_bytes,
            scripts: self.scripts - before.scripts,
        }
    }
}

fn redis_cpu_micros(info: &str) -> Option<f64> {
    let secs = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    Some((secs("used_cpu_sys:")? + secs("used_cpu_user:")?) * 1_000_000.0)
}

/// Calls of scripts by whatever command; none before the first.
fn redis_scripts(info: &str) -> f64 {
    let calls = |line: &str| {
        let (command, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        ["eval", "evalsha", "fcall"].contains(&command).then(|| rest.split(',').next()?.parse::<f64>().ok())?
    };
    info.lines().filter_map(calls).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_counts_scripts_by_command() {
        let info = "cmdstat_evalsha:calls=12,usec=3\r\ncmdstat_eval:calls=2,usec=1\r\ncmdstat_get:calls=9,usec=1\r\n";
        assert_eq!((redis_scripts(info), redis_scripts("# Commandstats\r\n")), (14.0, 0.0));
    }

    #[test]
    fn redis_tells_user_and_system_time_in_seconds() {
        let info = "# CPU\r\nused_cpu_sys:1.5\r\nused_cpu_user:2.25\r\nused_cpu_sys_children:9.0\r\n";
        assert_eq!(redis_cpu_micros(info), Some(3_750_000.0));
        assert_eq!(redis_cpu_micros("# CPU\r\n"), None);
    }
}
