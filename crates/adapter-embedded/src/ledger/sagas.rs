//! Rows of sagas.

use crate::{
    columns::{from_json, to_json},
    database::failed,
};
use domain::{ids::SagaId, saga::Saga};
use ports::Result;
use serde::Serialize;
use sqlx::{FromRow, SqliteExecutor};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

#[derive(Debug, FromRow)]
pub(super) struct StoredSaga {
    state: String,
}

impl StoredSaga {
    pub(super) fn saga(self) -> Result<Saga> {
        from_json("saga.state", &self.state)
    }
}

/// A saga to be written.
#[derive(Debug, Serialize)]
pub(super) struct SagaRow {
    id: Uuid,
    shard: u8,
    ended: u8,
    state: String,
}

impl SagaRow {
    pub(super) fn of(saga: &Saga) -> Result<Self> {
        Ok(Self { id: saga.id.0, shard: saga.shard().index(), ended: saga.status().is_end().into(), state: to_json(saga)? })
    }
}

pub(super) async fn load_sagas(executor: impl SqliteExecutor<'_>, ids: &BTreeSet<SagaId>) -> Result<BTreeMap<SagaId, Saga>> {
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let query = sqlx::query_as::<_, StoredSaga>(include_str!("../../sql/load_sagas.sql")).bind(to_json(ids)?);
    let rows = query.fetch_all(executor).await.map_err(failed)?;
    rows.into_iter().map(|row| row.saga().map(|saga| (saga.id, saga))).collect()
}
