//! Fresh corners of the real stores, named at random and removed at the end.

use adapter_postgres::{Databases, Postgres, PostgresSettings};
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

/// Two processes' connections to a ledger of two new databases, each of which keeps half of the shards.
pub struct FreshDatabases {
    pub one: Databases,
    pub other: Databases,
    pub first: FreshPostgres,
    pub second: FreshPostgres,
}

impl FreshDatabases {
    pub async fn create() -> Self {
        let store = Self::create_undivided().await;
        for (database, home) in [(&store.first, "shard % 2 = 0"), (&store.second, "shard % 2 = 1")] {
            let divide = format!("UPDATE outbox_shard SET home = {home}");
            sqlx::query(sqlx::AssertSqlSafe(divide)).execute(database.one.pool()).await.unwrap();
        }
        store.one.shards().await;
        store.other.shards().await;
        store
    }

    /// All shards are in the first database.
    pub async fn create_undivided() -> Self {
        let (first, second) = futures::join!(FreshPostgres::create(), FreshPostgres::create());
        Databases::join(&second.one).await.unwrap();
        let open = async |first: &Postgres, second: &Postgres| Databases::open(first.clone(), vec![second.clone()]).await.unwrap();
        let one = open(&first.one, &second.one).await;
        let other = open(&first.other, &second.other).await;
        Self { one, other, first, second }
    }

    pub async fn remove(self) {
        futures::join!(self.first.remove(), self.second.remove());
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
