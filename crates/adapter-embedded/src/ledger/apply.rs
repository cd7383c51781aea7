//! One batch between `BEGIN` and `COMMIT`: load what it touches, decide in order, write what changed.

use super::{
    budgets::{BudgetRow, load_budgets},
    claims::Claims,
    numbering::Numbering,
    rows::{ChargeRow, PeriodRef, PeriodRow, PoolRef, PoolRow},
    sagas::{SagaRow, load_sagas},
};
use crate::{
    columns::{corrupt, to_json},
    database::failed,
};
use chrono::{DateTime, Utc};
use domain::{
    charge::Charge,
    ids::{ChargeId, SagaId, Shard},
    ledger::{Decision, LedgerState, PeriodKey, decide},
    pool::{Pool, PoolKey},
    saga::Saga,
};
use ports::{
    Result,
    ledger::{ClaimedSaga, LedgerAnswer, LedgerRequest},
    outbox::OutboxRow,
};
use serde::Serialize;
use sqlx::SqliteConnection;
use std::collections::{BTreeSet, HashSet};

pub(super) struct Batch {
    claims: Claims,
    state: LedgerState,
    numbering: Numbering,
    recorded_at_ms: i64,
}

impl Batch {
    pub(super) async fn load(connection: &mut SqliteConnection, requests: &[LedgerRequest], recorded_at_ms: i64) -> Result<Self> {
        let shards = requests.iter().map(|request| request.shard.index()).collect();
        Ok(Self {
            claims: Claims::load(connection, requests).await?,
            state: load_state(connection, requests).await?,
            numbering: Numbering::load(connection, shards, recorded_at_ms).await?,
            recorded_at_ms,
        })
    }

    /// No requests, but events of this shard that were lost.
    pub(super) async fn bring_back(
        connection: &mut SqliteConnection,
        state: LedgerState,
        (shard, lost): (Shard, &[OutboxRow]),
        (now_ms, holds_expire_at): (i64, DateTime<Utc>),
    ) -> Result<Self> {
        let numbering = Numbering::load(connection, BTreeSet::from([shard.index()]), now_ms).await?;
        let mut batch = Self { claims: Claims::load(connection, &[]).await?, state, numbering, recorded_at_ms: now_ms };
        let mut events = Vec::with_capacity(lost.len());
        for row in lost {
            let event =
                event_codec::decode(&row.payload).map_err(|error| corrupt(format!("event {} of shard {shard}: {error}", row.seq)))?;
            batch.numbering.put_back(row, &event)?;
            events.push(event);
        }
        batch.state.bring_back(events.iter(), holds_expire_at);
        Ok(batch)
    }

    pub(super) fn answer(&mut self, request: &LedgerRequest) -> Result<LedgerAnswer> {
        if let Some(answer) = self.claims.earlier_answer(request)? {
            return Ok(answer);
        }
        let decision = decide(&mut self.state, &request.request);
        for event in &decision.events {
            let seq = self.numbering.number(event.clone(), request)?;
            self.state.number(event, seq);
        }
        let decision = Decision { outcome: decision.outcome.numbered(&self.state), ..decision };
        if let Some(own) = &request.idempotency {
            self.claims.remember(own, &request.request, &decision)?;
        }
        Ok(LedgerAnswer::Decided(decision.outcome))
    }

    pub(super) fn is_unchanged(&self) -> bool {
        self.numbering.events().is_empty() && self.claims.changed().is_empty()
    }

    pub(super) async fn write(&self, connection: &mut SqliteConnection) -> Result<()> {
        let Self { claims, state, numbering, .. } = self;
        let changed = &state.changed;
        let charges = changed.charges.iter().filter_map(|id| state.charges.get(id)).map(ChargeRow::of).collect::<Result<Vec<_>>>()?;
        let pools = changed.pools.iter().filter_map(|key| state.pools.get(key)).map(PoolRow::of).collect::<Result<Vec<_>>>()?;
        let period = |key: &PeriodKey| state.past_periods.get(key).map(|period| PeriodRow::of(&key.0, period));
        let periods: Vec<PeriodRow> = changed.past_periods.iter().filter_map(period).collect();
        let budgets = changed.budgets.iter().filter_map(|key| state.budgets.get(key)).map(BudgetRow::of).collect::<Result<Vec<_>>>()?;
        let due = |id: &SagaId| changed.due_sagas.contains(id).then_some(self.recorded_at_ms);
        let sagas = changed.sagas.iter().filter_map(|id| Some((state.sagas.get(id)?, due(id))));
        let sagas = sagas.map(|(saga, due_at)| SagaRow::of(saga, due_at)).collect::<Result<Vec<_>>>()?;
        put(connection, include_str!("../../sql/insert_events.sql"), numbering.events()).await?;
        put(connection, include_str!("../../sql/raise_heads.sql"), &numbering.changed_heads()).await?;
        put(connection, include_str!("../../sql/put_charges.sql"), &charges).await?;
        put(connection, include_str!("../../sql/put_pools.sql"), &pools).await?;
        put(connection, include_str!("../../sql/put_periods.sql"), &periods).await?;
        put(connection, include_str!("../../sql/put_budgets.sql"), &budgets).await?;
        put(connection, include_str!("../../sql/put_sagas.sql"), &sagas).await?;
        put(connection, include_str!("../../sql/put_idempotency.sql"), claims.changed()).await
    }
}

async fn put(connection: &mut SqliteConnection, sql: &'static str, rows: &[impl Serialize]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(sql).bind(to_json(&rows)?).execute(connection).await.map_err(failed)?;
    Ok(())
}

async fn load_state(connection: &mut SqliteConnection, requests: &[LedgerRequest]) -> Result<LedgerState> {
    let mut state = LedgerState::default();
    let commands = || requests.iter().map(|request| &request.request.command);
    let ids: BTreeSet<ChargeId> = commands().filter_map(|command| command.charge()).collect();
    for charge in load_charges(connection, &ids).await? {
        state.charges.insert(charge.spec.id, charge);
    }
    let sagas: BTreeSet<SagaId> = commands().filter_map(|command| command.saga()).collect();
    for ClaimedSaga { saga, claim } in load_sagas(&mut *connection, &sagas).await? {
        state.claims.insert(saga.id, claim);
        state.sagas.insert(saga.id, saga);
    }
    let pool_of = |charge: &Charge| PoolKey { payer: charge.spec.payer, provider: charge.spec.provider.clone() };
    let known = state.charges.values().map(pool_of).chain(state.sagas.values().map(Saga::pool));
    let keys: HashSet<PoolKey> = commands().filter_map(|command| command.pool()).chain(known).collect();
    for pool in load_pools(connection, &keys).await? {
        state.pools.insert(pool.key.clone(), pool);
    }
    let periods = state.past_moments(requests.iter().map(|request| &request.request));
    for row in load_periods(connection, &periods).await? {
        let (key, period) = row.into_period()?;
        state.past_periods.insert((key, period.starts_at), period);
    }
    let owners = state.budget_owners(requests.iter().map(|request| &request.request));
    state.budgets = load_budgets(&mut *connection, &owners).await?;
    Ok(state)
}

pub(super) async fn load_charges(connection: &mut SqliteConnection, ids: &BTreeSet<ChargeId>) -> Result<Vec<Charge>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let query = sqlx::query_as::<_, ChargeRow>(include_str!("../../sql/load_charges.sql")).bind(to_json(ids)?);
    query.fetch_all(connection).await.map_err(failed)?.into_iter().map(Charge::try_from).collect()
}

async fn load_pools(connection: &mut SqliteConnection, keys: &HashSet<PoolKey>) -> Result<Vec<Pool>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: Vec<PoolRef<'_>> = keys.iter().map(PoolRef::of).collect();
    let query = sqlx::query_as::<_, PoolRow>(include_str!("../../sql/load_pools.sql")).bind(to_json(&wanted)?);
    query.fetch_all(connection).await.map_err(failed)?.into_iter().map(Pool::try_from).collect()
}

async fn load_periods(connection: &mut SqliteConnection, keys: &BTreeSet<PeriodKey>) -> Result<Vec<PeriodRow>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: Vec<PeriodRef<'_>> =
        keys.iter().map(|(key, moment)| PeriodRef { pool: PoolRef::of(key), moment: moment.timestamp_millis() }).collect();
    let query = sqlx::query_as::<_, PeriodRow>(include_str!("../../sql/load_periods.sql")).bind(to_json(&wanted)?);
    query.fetch_all(connection).await.map_err(failed)
}
