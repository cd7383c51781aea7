//! Fresh corners of the real stores, named at random and removed at the end.

use adapter_postgres::{Postgres, PostgresSettings};
use sqlx::{Connection, Executor, PgConnection};
use std::time::Duration;

/// A setting of the running stack, e.g. `WEIR__POSTGRES__URL`.
pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: start the stores with `make stack` and load .local/stack.env"))
}

/// Two processes' connections to a new database of the real Postgres, migrated by both at once.
pub struct FreshPostgres {
    pub one: Postgres,
    pub other: Postgres,
    pub url: String,
    name: String,
}

impl FreshPostgres {
    pub async fn create() -> Self {
        let name = format!("test_{}", uuid::Uuid::new_v4().simple());
        administer(&format!("CREATE DATABASE {name}")).await.unwrap();
        let (server, _) =
            setting("WEIR__POSTGRES__URL").rsplit_once('/').map(|(server, name)| (server.to_owned(), name.to_owned())).unwrap();
        let url = format!("{server}/{name}");
        let (one, other) = futures::future::try_join(connect(&url), connect(&url)).await.unwrap();
        futures::future::try_join(one.migrate(), other.migrate()).await.unwrap();
        Self { one, other, url, name }
    }

    pub async fn remove(self) {
        self.one.close().await;
        self.other.close().await;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // An autovacuum worker, which only a superuser may end, leaves by itself soon.
        for _ in 0..50 {
            if administer(&drop).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} could not be dropped", self.name);
    }
}

pub async fn connect(url: &str) -> ports::Result<Postgres> {
    Postgres::connect(&PostgresSettings { url: url.to_owned(), max_connections: 6 }).await
}

/// One statement on the stack's own database, by a connection of its own.
async fn administer(statement: &str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(&setting("WEIR__POSTGRES__URL")).await?;
    // Built from a random name of ours.
    connection.execute(sqlx::AssertSqlSafe(statement)).await?;
    connection.close().await
}
