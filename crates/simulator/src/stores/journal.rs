//! The ledger and its outbox on maps. One call is one atomic step, as a transaction is.

mod apply;
mod outbox;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    budget::Budget,
    charge::{Charge, ChargeStatus},
    event::{EventType, UsageEvent},
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    ledger::LedgerState,
    pool::{Pool, PoolKey},
    saga::Saga,
};
use ports::{
    Clock, Result,
    ledger::{
        ChargeQuery, ClaimedSaga, IdempotencyKey, KeptAnswer, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot, StoredAnswer,
        StoredEvent, Sweeper,
    },
    outbox::OutboxRow,
};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use uuid::Uuid;

struct StoredClaim {
    fingerprint: [u8; 32],
    /// `None` once the request has ended.
    lease_until: Option<DateTime<Utc>>,
    charge_id: Option<ChargeId>,
    answer: StoredAnswer,
}

#[derive(Default)]
struct ShardRows {
    rows: Vec<OutboxRow>,
    published_through: i64,
    owner: Option<Uuid>,
    lease_until: DateTime<Utc>,
    fencing: i64,
}

#[derive(Default)]
struct Rows {
    state: LedgerState,
    claims: BTreeMap<IdempotencyKey, StoredClaim>,
    shards: BTreeMap<Shard, ShardRows>,
    relays: BTreeMap<Uuid, DateTime<Utc>>,
    sweeper: Option<(Uuid, DateTime<Utc>)>,
    /// Sagas that wait for somebody from then on.
    due: BTreeMap<SagaId, DateTime<Utc>>,
}

pub struct Journal {
    rows: Mutex<Rows>,
    news: Notify,
    clock: Clock,
}

impl Journal {
    /// Of an installation that has no shards but these: looking at empty ones would take most of the time.
    pub fn new(clock: Clock, shards: &[Shard]) -> Self {
        let shards = shards.iter().map(|shard| (*shard, ShardRows::default())).collect();
        Self { rows: Mutex::new(Rows { shards, ..Rows::default() }), news: Notify::new(), clock }
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every charge there is.
    pub fn every_charge(&self) -> Vec<Charge> {
        let mut charges: Vec<Charge> = self.rows().state.charges.values().cloned().collect();
        charges.sort_by_key(|charge| (charge.spec.id.shard(), charge.seq));
        charges
    }

    pub fn every_saga(&self) -> Vec<Saga> {
        self.rows().state.sagas.values().cloned().collect()
    }

    /// Every event of this kind.
    pub fn every_event(&self, kind: EventType) -> Result<Vec<UsageEvent>, String> {
        let rows = self.rows();
        let of_kind = rows.shards.values().flat_map(|shard| &shard.rows).filter(|row| row.kind == kind.as_str());
        of_kind.map(|row| event_codec::decode(&row.payload).map_err(|error| error.to_string())).collect()
    }

    pub fn pool(&self, key: &PoolKey) -> Option<Pool> {
        self.rows().state.pools.get(key).cloned()
    }
}

fn last_seq(shard: &ShardRows) -> i64 {
    i64::try_from(shard.rows.len()).unwrap_or(i64::MAX)
}

fn page<T>(items: Vec<T>, limit: u32) -> Vec<T> {
    items.into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect()
}

#[async_trait]
impl Ledger for Journal {
    async fn apply(&self, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>> {
        let now = self.clock.now();
        let answers = {
            let mut rows = self.rows();
            requests.iter().map(|request| rows.answer(request, now)).collect::<Result<Vec<_>>>()?
        };
        self.news.notify_waiters();
        Ok(answers)
    }

    async fn find_answers(&self, keys: &[IdempotencyKey]) -> Result<Vec<Option<(StoredAnswer, [u8; 32])>>> {
        let rows = self.rows();
        let find = |key| rows.claims.get(key).filter(|claim| claim.lease_until.is_none());
        Ok(keys.iter().map(|key| find(key).map(|claim| (claim.answer.clone(), claim.fingerprint))).collect())
    }

    async fn find_charge(&self, id: ChargeId) -> Result<Option<Charge>> {
        Ok(self.rows().state.charges.get(&id).cloned())
    }

    async fn charges(&self, query: &ChargeQuery) -> Result<Vec<Charge>> {
        let wanted = |charge: &Charge| {
            charge.spec.payer == query.payer
                && query.user_id.is_none_or(|user| charge.spec.user_id == user)
                && query.provider.as_ref().is_none_or(|provider| charge.spec.provider == *provider)
                && query.from.is_none_or(|from| charge.created_at >= from)
                && query.to.is_none_or(|to| charge.created_at < to)
                && query.before.is_none_or(|before| charge.spec.id < before)
        };
        let mut found: Vec<Charge> = self.rows().state.charges.values().filter(|charge| wanted(charge)).cloned().collect();
        found.sort_by_key(|charge| Reverse(charge.spec.id));
        Ok(page(found, query.limit))
    }

    async fn find_saga(&self, id: SagaId) -> Result<Option<Saga>> {
        Ok(self.rows().state.sagas.get(&id).cloned())
    }

    async fn open_sagas(&self, after: Option<SagaId>, limit: u32) -> Result<Vec<Saga>> {
        let rows = self.rows();
        let open = rows.state.sagas.values().filter(|saga| !saga.status().is_end() && after.is_none_or(|after| saga.id > after));
        Ok(page(open.cloned().collect(), limit))
    }

    async fn claim_sagas(&self, lease: Duration, limit: u32) -> Result<Vec<ClaimedSaga>> {
        let now = self.clock.now();
        let mut rows = self.rows();
        let Rows { state, due, .. } = &mut *rows;
        due.retain(|id, _| state.sagas.get(id).is_some_and(|saga| !saga.status().is_end()));
        let seq = |id: &SagaId| state.sagas.get(id).map(|saga| (saga.shard(), saga.seq));
        let waiting = due.iter().filter(|(_, at)| **at <= now);
        let mut waiting: Vec<(DateTime<Utc>, Option<(Shard, i64)>, SagaId)> = waiting.map(|(id, at)| (*at, seq(id), *id)).collect();
        // Not by the ids, which are other ones in each run.
        waiting.sort_unstable();
        let mut claimed = Vec::new();
        for (.., id) in page(waiting, limit) {
            due.insert(id, now + TimeDelta::from_std(lease).unwrap_or_default());
            let claim = state.claims.entry(id).or_default();
            *claim += 1;
            claimed.extend(state.sagas.get(&id).map(|saga| ClaimedSaga { saga: saga.clone(), claim: *claim }));
        }
        Ok(claimed)
    }

    async fn find_pool(&self, key: &PoolKey) -> Result<Option<Pool>> {
        Ok(self.pool(key))
    }

    async fn pools(&self, payer: Option<Payer>, provider: Option<&Provider>, after: Option<&PoolKey>, limit: u32) -> Result<Vec<Pool>> {
        let wanted = |pool: &Pool| {
            payer.is_none_or(|payer| pool.key.payer == payer)
                && provider.is_none_or(|provider| pool.key.provider == *provider)
                && after.is_none_or(|after| pool.key > *after)
        };
        let mut found: Vec<Pool> = self.rows().state.pools.values().filter(|pool| wanted(pool)).cloned().collect();
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(page(found, limit))
    }

    async fn budgets(&self, payer: Payer, member: Option<UserId>) -> Result<Vec<Budget>> {
        let wanted = |budget: &&Budget| budget.key.payer == payer && (budget.key.member.is_none() || budget.key.member == member);
        Ok(self.rows().state.budgets.values().filter(wanted).cloned().collect())
    }

    async fn expired_holds(&self, sweeper: Sweeper, now: DateTime<Utc>, limit: u32) -> Result<Vec<ChargeId>> {
        let mut rows = self.rows();
        let at = self.clock.now();
        if rows.sweeper.is_some_and(|(id, until)| id != sweeper.id && at < until) {
            return Ok(Vec::new());
        }
        rows.sweeper = Some((sweeper.id, at + TimeDelta::from_std(sweeper.lease).unwrap_or_default()));
        let due = |charge: &&Charge| charge.status == ChargeStatus::Held && charge.expires_at.is_some_and(|deadline| deadline <= now);
        let mut due: Vec<(Option<DateTime<Utc>>, i64, ChargeId)> =
            rows.state.charges.values().filter(due).map(|charge| (charge.expires_at, charge.seq, charge.spec.id)).collect();
        due.sort_unstable();
        Ok(page(due.into_iter().map(|(_, _, id)| id).collect(), limit))
    }

    async fn maintain(&self, _: DateTime<Utc>) -> Result<()> {
        Ok(())
    }

    async fn snapshot(&self, shard: Shard) -> Result<ShardSnapshot> {
        let rows = self.rows();
        let of_shard = rows.shards.get(&shard).map_or([].as_slice(), |shard| shard.rows.as_slice());
        let events = of_shard.iter().map(|row| StoredEvent {
            seq: row.seq,
            payload: row.payload.clone(),
            event: event_codec::decode(&row.payload).map_err(|error| error.to_string()),
        });
        let mut charges: Vec<Charge> = rows.state.charges.values().filter(|charge| charge.spec.payer.shard() == shard).cloned().collect();
        charges.sort_by_key(|charge| charge.seq);
        let mut pools: Vec<Pool> = rows.state.pools.values().filter(|pool| pool.key.payer.shard() == shard).cloned().collect();
        pools.sort_by(|one, other| one.key.cmp(&other.key));
        let past = rows.state.past_periods.iter().filter(|((key, _), _)| key.payer.shard() == shard);
        Ok(ShardSnapshot {
            events: events.collect(),
            charges,
            pools,
            past_periods: past.map(|((key, _), period)| (key.clone(), *period)).collect(),
            sagas: rows.state.sagas.values().filter(|saga| saga.shard() == shard).cloned().collect(),
            budgets: rows.state.budgets.values().filter(|budget| budget.key.payer.shard() == shard).cloned().collect(),
            last_seq: i64::try_from(of_shard.len()).unwrap_or(i64::MAX),
            archived_through: 0,
        })
    }

    async fn scan_answers(&self, visit: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<()> {
        let rows = self.rows();
        for (key, claim) in &rows.claims {
            let Some(charge_id) = claim.charge_id else { continue };
            visit(KeptAnswer {
                name: format!("{} {}", key.scope, key.key),
                charge_id,
                charge: rows.state.charges.get(&charge_id).cloned(),
                outcome: Ok(claim.answer.outcome.clone()),
            });
        }
        Ok(())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
