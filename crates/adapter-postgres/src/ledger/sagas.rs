//! Sagas: loaded where a request names one, written when a batch moved some.

use super::{Failure, batch::Batch};
use crate::{error::corrupt, shard::shard_column};
use domain::{
    ids::{SagaId, Shard},
    ledger::LedgerState,
    saga::Saga,
};
use ports::{Result, ledger::ClaimedSaga};
use sqlx::PgConnection;
use std::collections::BTreeSet;

pub(super) fn saga((state,): (String,)) -> Result<Saga> {
    serde_json::from_str(&state).map_err(|error| corrupt(format!("a saga: {error}")))
}

pub(super) fn claimed((state, claim): (String, i64)) -> Result<ClaimedSaga> {
    Ok(ClaimedSaga { saga: saga((state,))?, claim })
}

pub(super) async fn load_sagas(
    connection: &mut PgConnection,
    ids: &BTreeSet<(Shard, SagaId)>,
    state: &mut LedgerState,
) -> Result<(), Failure> {
    if ids.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, i64)> = sqlx::query_as(include_str!("../sql/ledger/load_sagas.sql"))
        .bind(ids.iter().map(|(shard, _)| shard_column(*shard)).collect::<Vec<_>>())
        .bind(ids.iter().map(|(_, id)| id.0).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    for row in rows {
        let ClaimedSaga { saga, claim } = claimed(row)?;
        state.claims.insert(saga.id, claim);
        state.sagas.insert(saga.id, saga);
    }
    Ok(())
}

pub(super) async fn of_shard(connection: &mut PgConnection, shard: i16) -> Result<Vec<Saga>, Failure> {
    let rows = sqlx::query_as(include_str!("../sql/ledger/snapshot_sagas.sql")).bind(shard).fetch_all(connection).await?;
    Ok(rows.into_iter().map(saga).collect::<Result<_>>()?)
}

pub(super) async fn put_sagas(connection: &mut PgConnection, batch: &Batch<'_>) -> Result<(), Failure> {
    let sagas: Vec<&Saga> = batch.state.changed.sagas.iter().filter_map(|id| batch.state.sagas.get(id)).collect();
    if sagas.is_empty() {
        return Ok(());
    }
    let state = |saga: &&Saga| serde_json::to_string(saga).map_err(|error| corrupt(error.to_string()));
    let states = sagas.iter().map(state).collect::<Result<Vec<_>>>()?;
    sqlx::query(include_str!("../sql/ledger/put_sagas.sql"))
        .bind(sagas.iter().map(|saga| shard_column(saga.shard())).collect::<Vec<_>>())
        .bind(sagas.iter().map(|saga| saga.id.0).collect::<Vec<_>>())
        .bind(sagas.iter().map(|saga| saga.status().is_end()).collect::<Vec<_>>())
        .bind(sagas.iter().map(|saga| batch.state.changed.due_sagas.contains(&saga.id)).collect::<Vec<_>>())
        .bind(states)
        .execute(connection)
        .await?;
    Ok(())
}
