//! Replays on SQLite: a row with a JSON document each.

use crate::{
    Embedded,
    columns::{from_json, to_json},
    database::{Durability, commit, failed},
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
use uuid::Uuid;

#[async_trait]
impl Replays for Embedded {
    async fn create(&self, id: Uuid, replay: &Replay) -> Result<Option<StoredReplay>> {
        let started_at_micros = self.inner.clock.now().timestamp_micros();
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let query = sqlx::query_scalar::<_, i32>(include_str!("../sql/create_replay.sql"));
        let query = query.bind(id).bind(started_at_micros).bind(to_json(replay)?);
        let created = query.fetch_optional(&mut *transaction).await.map_err(failed)?;
        commit(transaction).await?;
        let stored = |generation| StoredReplay {
            id,
            version: 1,
            generation: Generation { id: generation, started_at_micros },
            replay: replay.clone(),
        };
        Ok(created.map(stored))
    }

    async fn find(&self, id: Uuid) -> Result<Option<StoredReplay>> {
        let query = sqlx::query_as::<_, Row>(include_str!("../sql/find_replay.sql")).bind(id);
        query.fetch_optional(self.inner.main.readers()).await.map_err(failed)?.map(Row::into_stored).transpose()
    }

    async fn list(&self, limit: u32) -> Result<Vec<StoredReplay>> {
        let query = sqlx::query_as::<_, Row>(include_str!("../sql/list_replays.sql")).bind(limit);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(Row::into_stored).collect()
    }

    async fn running(&self) -> Result<Option<StoredReplay>> {
        let query = sqlx::query_as::<_, Row>(include_str!("../sql/running_replay.sql"));
        query.fetch_optional(self.inner.main.readers()).await.map_err(failed)?.map(Row::into_stored).transpose()
    }

    async fn replace(&self, changed: &mut StoredReplay) -> Result<Replaced> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let query = sqlx::query(include_str!("../sql/replace_replay.sql"))
            .bind(changed.id)
            .bind(changed.version)
            .bind(changed.replay.status == Status::Running)
            .bind(to_json(&changed.replay)?);
        let done = query.execute(&mut *transaction).await.map_err(failed)?.rows_affected() == 1;
        let version = sqlx::query_scalar::<_, i64>(include_str!("../sql/replay_version.sql")).bind(changed.id);
        let version = version.fetch_optional(&mut *transaction).await.map_err(failed)?;
        commit(transaction).await?;
        if done {
            changed.version += 1;
            return Ok(Replaced::Done);
        }
        Ok(if version == Some(changed.version) { Replaced::Busy } else { Replaced::Moved })
    }
}

#[derive(Debug)]
struct Row {
    id: Uuid,
    version: i64,
    generation: i32,
    started_at_micros: i64,
    document: String,
}

from_row!(Row { id, version, generation, started_at_micros, document });

impl Row {
    fn into_stored(self) -> Result<StoredReplay> {
        let generation = Generation { id: self.generation, started_at_micros: self.started_at_micros };
        Ok(StoredReplay { id: self.id, version: self.version, generation, replay: from_json("replay.document", &self.document)? })
    }
}
