//! `ports::replays` in Postgres: a row with a JSON document each.

use crate::{
    Postgres,
    error::{bounded, corrupt, sqlstate},
};
use async_trait::async_trait;
use domain::{
    generation::Generation,
    replay::{Replay, Status},
};
use ports::{
    Result,
    replays::{Replaced, Replays, StoredReplay},
};
use sqlx::FromRow;
use uuid::Uuid;

const UNIQUE_VIOLATION: &str = "23505";

#[derive(FromRow)]
struct Row {
    id: Uuid,
    version: i64,
    generation: i32,
    started_at_micros: i64,
    document: String,
}

impl Row {
    fn stored(self) -> Result<StoredReplay> {
        let replay = serde_json::from_str(&self.document).map_err(|error| corrupt(format!("a stored replay: {error}")))?;
        let generation = Generation { id: self.generation, started_at_micros: self.started_at_micros };
        Ok(StoredReplay { id: self.id, version: self.version, generation, replay })
    }
}

#[async_trait]
impl Replays for Postgres {
    async fn create(&self, id: Uuid, replay: &Replay) -> Result<Option<StoredReplay>> {
        let statement = sqlx::query_as::<_, (i32, i64)>(include_str!("sql/replays/create.sql")).bind(id).bind(json(replay)?);
        let created = bounded(statement.fetch_optional(&self.pool)).await?;
        let stored = |(generation, started_at_micros)| StoredReplay {
            id,
            version: 1,
            generation: Generation { id: generation, started_at_micros },
            replay: replay.clone(),
        };
        Ok(created.map(stored))
    }

    async fn find(&self, id: Uuid) -> Result<Option<StoredReplay>> {
        let statement = sqlx::query_as::<_, Row>(include_str!("sql/replays/find.sql")).bind(id);
        bounded(statement.fetch_optional(&self.pool)).await?.map(Row::stored).transpose()
    }

    async fn list(&self, limit: u32) -> Result<Vec<StoredReplay>> {
        let statement = sqlx::query_as::<_, Row>(include_str!("sql/replays/list.sql")).bind(i64::from(limit));
        bounded(statement.fetch_all(&self.pool)).await?.into_iter().map(Row::stored).collect()
    }

    async fn running(&self) -> Result<Option<StoredReplay>> {
        let statement = sqlx::query_as::<_, Row>(include_str!("sql/replays/running.sql"));
        bounded(statement.fetch_optional(&self.pool)).await?.map(Row::stored).transpose()
    }

    async fn replace(&self, changed: &mut StoredReplay) -> Result<Replaced> {
        let statement = sqlx::query(include_str!("sql/replays/replace.sql"))
            .bind(changed.id)
            .bind(changed.version)
            .bind(changed.replay.status == Status::Running)
            .bind(json(&changed.replay)?);
        let replaced = bounded(async {
            match statement.execute(&self.pool).await {
                Err(error) if sqlstate(&error).as_deref() == Some(UNIQUE_VIOLATION) => Ok(Replaced::Busy),
                Ok(done) if done.rows_affected() == 1 => Ok(Replaced::Done),
                Ok(_) => Ok(Replaced::Moved),
                Err(error) => Err(error),
            }
        });
        let replaced = replaced.await?;
        if replaced == Replaced::Done {
            changed.version += 1;
        }
        Ok(replaced)
    }
}

fn json(replay: &Replay) -> Result<String> {
    serde_json::to_string(replay).map_err(|error| corrupt(format!("a replay that is no JSON: {error}")))
}
