//! The keyspace and its tables, from the numbered files of the top-level folder `cql/`.

use crate::{away, session::Cassandra};
use ports::Result;
use scylla::statement::Statement;
use std::time::Duration;

/// Cassandra makes one change of a schema after the other, and waits for the disk at each: beside others that migrate, seconds go by.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(120);

const KEYSPACE: &str = include_str!("../../../cql/000_keyspace.cql");
const TABLES: [&str; 5] = [
    include_str!("../../../cql/001_usage_raw.cql"),
    include_str!("../../../cql/002_usage_by_provider.cql"),
    include_str!("../../../cql/003_usage_rollup.cql"),
    include_str!("../../../cql/004_shard_state.cql"),
    include_str!("../../../cql/005_generation_pointer.cql"),
];

impl Cassandra {
    /// Creates what is missing. Safe to repeat and to run from two processes: every statement is `IF NOT EXISTS`, and the driver
    /// waits for schema agreement after each.
    ///
    /// # Errors
    /// When Cassandra is away.
    pub async fn migrate(&self) -> Result<()> {
        let session = self.session().await?;
        let keyspace =
            KEYSPACE.replace("{keyspace}", self.keyspace()).replace("{replication_factor}", &self.replication_factor().to_string());
        session.query_unpaged(change(keyspace), ()).await.map_err(away)?;
        session.use_keyspace(self.keyspace(), false).await.map_err(away)?;
        for table in TABLES {
            session.query_unpaged(change(table), ()).await.map_err(away)?;
        }
        Ok(())
    }

    /// Removes the keyspace with all it holds: for tests, and for taking an installation down.
    ///
    /// # Errors
    /// When Cassandra is away.
    pub async fn drop_keyspace(&self) -> Result<()> {
        let session = self.session().await?;
        // The name is a checked identifier.
        session.query_unpaged(change(format!("DROP KEYSPACE IF EXISTS {}", self.keyspace())), ()).await.map_err(away)?;
        Ok(())
    }
}

fn change(cql: impl Into<String>) -> Statement {
    let mut statement = Statement::new(cql);
    statement.set_request_timeout(Some(CHANGE_TIMEOUT));
    statement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statements::{ALL_STATEMENTS, DROPPING};

    fn without_comments(cql: &str) -> String {
        cql.lines().filter(|line| !line.trim_start().starts_with("--")).collect::<Vec<_>>().join(" ").to_lowercase()
    }

    #[test]
    fn no_statement_counts_conditions_deletes_or_expires_what_must_stay_exact() {
        for statement in ALL_STATEMENTS {
            let cql = without_comments(statement);
            for banned in ["counter", " if ", "delete ", "ttl", "update "] {
                assert!(!cql.contains(banned), "`{banned}` in {cql}");
            }
            let writes = cql.starts_with("insert");
            assert_eq!(writes, cql.contains("using timestamp ?"), "a write without an explicit timestamp: {cql}");
        }
        for statement in DROPPING {
            let cql = without_comments(statement);
            assert!(cql.contains("using timestamp ? where gen = ?"), "what is dropped is a generation: {cql}");
            assert!(!cql.contains("dimension") && !cql.contains("bucket"), "and whole partitions of it: {cql}");
        }
        for table in TABLES {
            let cql = without_comments(table);
            assert!(!cql.contains("counter"), "{cql}");
            assert!(cql.contains("if not exists"), "{cql}");
            let expires = cql.contains("time_to_live");
            assert_eq!(expires, cql.contains("usage_raw") || cql.contains("usage_by_provider"), "{cql}");
        }
    }
}
