//! Locks the shards of a batch and reads the rows that its decisions depend on.

use super::{
    Failure,
    budgets::load_budgets,
    rows::{ChargeRow, PeriodRow, PoolRow, is_org},
    sagas::load_sagas,
};
use crate::{
    databases::homes::away,
    shard::{shard_column, shard_of},
};
use domain::{
    charge::Charge,
    ids::{ChargeId, SagaId, Shard},
    ledger::{Command, LedgerState, PeriodKey},
    pool::PoolKey,
    saga::Saga,
};
use ports::ledger::LedgerRequest;
use sqlx::PgConnection;
use std::collections::{BTreeMap, BTreeSet};

/// Where the numbering of a locked shard stands.
#[derive(Clone, Copy)]
pub(super) struct Head {
    /// The shard's last number when it was read, and after this batch.
    pub was: i64,
    pub last_seq: i64,
    pub epoch: i32,
    /// Some payer of the shard may have a budget.
    pub budgets: bool,
}

/// Takes the lock of every shard of the batch, in ascending order, so that two batches can never wait for each other.
pub(super) async fn lock_shards(connection: &mut PgConnection, shards: BTreeSet<Shard>) -> Result<BTreeMap<Shard, Head>, Failure> {
    let columns: Vec<i16> = shards.iter().copied().map(shard_column).collect();
    let rows: Vec<(i16, i64, i32, bool)> =
        sqlx::query_as(include_str!("../sql/ledger/lock_shards.sql")).bind(&columns).fetch_all(connection).await?;
    let mut heads = BTreeMap::new();
    for (shard, last_seq, epoch, budgets) in rows {
        heads.insert(shard_of(shard)?, Head { was: last_seq, last_seq, epoch, budgets });
    }
    if let Some(shard) = shards.into_iter().find(|shard| !heads.contains_key(shard)) {
        return Err(away(shard).into());
    }
    Ok(heads)
}

/// The state for these requests, with the budgets when there may be any. Charges that a consume or hold is about to make are looked for only when `known` names them.
pub(super) async fn load_state<'a>(
    connection: &mut PgConnection,
    requests: impl Iterator<Item = &'a LedgerRequest> + Clone,
    known: impl Fn(&LedgerRequest) -> bool,
    budgets: bool,
) -> Result<LedgerState, Failure> {
    let mut state = LedgerState::default();
    let ids: BTreeSet<(Shard, ChargeId)> = requests.clone().filter_map(|request| charge_to_read(request, &known)).collect();
    for charge in load_charges(connection, &ids).await? {
        state.charges.insert(charge.spec.id, charge);
    }
    let sagas: BTreeSet<(Shard, SagaId)> =
        requests.clone().filter_map(|request| request.request.command.saga().map(|id| (request.shard, id))).collect();
    load_sagas(connection, &sagas, &mut state).await?;
    let of_commands = requests.clone().filter_map(|request| request.request.command.pool());
    let of_charges = state.charges.values().map(pool_of);
    let pools: BTreeSet<PoolKey> = of_commands.chain(of_charges).chain(state.sagas.values().map(Saga::pool)).collect();
    if !pools.is_empty() {
        load_pools(connection, &pools, &mut state).await?;
    }
    let periods = state.past_moments(requests.clone().map(|request| &request.request));
    if !periods.is_empty() {
        load_periods(connection, &periods, &mut state).await?;
    }
    if budgets {
        load_budgets(connection, requests, &mut state).await?;
    }
    Ok(state)
}

fn pool_of(charge: &Charge) -> PoolKey {
    PoolKey { payer: charge.spec.payer, provider: charge.spec.provider.clone() }
}

fn charge_to_read(request: &LedgerRequest, known: impl Fn(&LedgerRequest) -> bool) -> Option<(Shard, ChargeId)> {
    let makes_it = matches!(request.request.command, Command::Consume { .. } | Command::Hold { .. });
    let id = request.request.command.charge()?;
    (!makes_it || known(request)).then_some((request.shard, id))
}

pub(super) async fn load_charges(connection: &mut PgConnection, ids: &BTreeSet<(Shard, ChargeId)>) -> Result<Vec<Charge>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<ChargeRow> = sqlx::query_as(include_str!("../sql/ledger/load_charges.sql"))
        .bind(ids.iter().map(|(shard, _)| shard_column(*shard)).collect::<Vec<_>>())
        .bind(ids.iter().map(|(_, id)| id.0).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(ChargeRow::charge).collect::<ports::Result<_>>()?)
}

async fn load_pools(connection: &mut PgConnection, keys: &BTreeSet<PoolKey>, state: &mut LedgerState) -> Result<(), Failure> {
    let rows: Vec<PoolRow> = sqlx::query_as(include_str!("../sql/ledger/load_pools.sql"))
        .bind(keys.iter().map(|key| is_org(key.payer)).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.payer.tenant()).collect::<Vec<_>>())
        .bind(keys.iter().map(|key| key.provider.as_str()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    for row in rows {
        let pool = row.pool()?;
        state.pools.insert(pool.key.clone(), pool);
    }
    Ok(())
}

async fn load_periods(connection: &mut PgConnection, keys: &BTreeSet<PeriodKey>, state: &mut LedgerState) -> Result<(), Failure> {
    let rows: Vec<PeriodRow> = sqlx::query_as(include_str!("../sql/ledger/load_periods.sql"))
        .bind(keys.iter().map(|(key, _)| is_org(key.payer)).collect::<Vec<_>>())
        .bind(keys.iter().map(|(key, _)| key.payer.tenant()).collect::<Vec<_>>())
        .bind(keys.iter().map(|(key, _)| key.provider.as_str()).collect::<Vec<_>>())
        .bind(keys.iter().map(|(_, moment)| *moment).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    for row in rows {
        let (key, period) = row.period()?;
        state.past_periods.insert((key, period.starts_at), period);
    }
    Ok(())
}
