//! Rows of sagas.

use crate::{
    columns::{from_json, to_json},
    database::failed,
};
use domain::{ids::SagaId, saga::Saga};
use ports::{Result, ledger::ClaimedSaga};
use serde::Serialize;
use sqlx::SqliteExecutor;
use std::collections::BTreeSet;
use uuid::Uuid;

#[derive(Debug)]
pub(super) struct StoredSaga {
    state: String,
    claim: i64,
}

from_row!(StoredSaga { state, claim });

impl StoredSaga {
    pub(super) fn saga(self) -> Result<Saga> {
        from_json("saga.state", &self.state)
    }

    pub(super) fn claimed(self) -> Result<ClaimedSaga> {
        let claim = self.claim;
        Ok(ClaimedSaga { saga: self.saga()?, claim })
    }
}

/// A saga to be written.
#[derive(Debug, Serialize)]
pub(super) struct SagaRow {
    id: Uuid,
    shard: u8,
    ended: u8,
    due_at: Option<i64>,
    state: String,
}

impl SagaRow {
    /// `due_at` where it waits for somebody from then on.
    pub(super) fn of(saga: &Saga, due_at: Option<i64>) -> Result<Self> {
        Ok(Self { id: saga.id.0, shard: saga.shard().index(), ended: saga.status().is_end().into(), due_at, state: to_json(saga)? })
    }
}

pub(super) async fn load_sagas(executor: impl SqliteExecutor<'_>, ids: &BTreeSet<SagaId>) -> Result<Vec<ClaimedSaga>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query_as::<_, StoredSaga>(include_str!("../../sql/load_sagas.sql")).bind(to_json(ids)?);
    let rows = query.fetch_all(executor).await.map_err(failed)?;
    rows.into_iter().map(StoredSaga::claimed).collect()
}
