//! Fresh corners of the real stores, named at random and removed at the end.

use adapter_postgres::{Postgres, PostgresSettings};
use sqlx::{Connection, Executor, PgConnection};

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
        administer(&format!("CREATE DATABASE {name}")).await;
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
        administer(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }
}

pub async fn connect(url: &str) -> ports::Result<Postgres> {
    Postgres::connect(&PostgresSettings { url: url.to_owned(), max_connections: 6 }).await
}

/// One statement on the stack's own database, by a connection of its own.
async fn administer(statement: &str) {
    let mut connection = PgConnection::connect(&setting("WEIR__POSTGRES__URL")).await.unwrap();
    // Built from a random name of ours.
    connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    connection.close().await.unwrap();
}
