//! The ledger and its outbox on maps. One call is one atomic step, as a transaction is.

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    budget::Budget,
    charge::{Charge, ChargeStatus},
    event::{NewEvent, UsageEvent},
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    ledger::{Decision, LedgerState, Outcome, decide},
    pool::{Pool, PoolKey},
    saga::Saga,
};
use ports::{
    Clock, Result, StoreError,
    ledger::{
        CLAIM_LEASE_SECS, ChargeQuery, Claim, ClaimedSaga, IdempotencyKey, KeptAnswer, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot,
        StoredAnswer, StoredEvent, Sweeper,
    },
    outbox::{Outbox, OutboxRow, ShardHead, ShardLease},
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

    pub fn pool(&self, key: &PoolKey) -> Option<Pool> {
        self.rows().state.pools.get(key).cloned()
    }
}

impl Rows {
    fn answer(&mut self, request: &LedgerRequest, recorded_at: DateTime<Utc>) -> Result<LedgerAnswer> {
        if let Some(answer) = self.earlier(request) {
            return Ok(answer);
        }
        let decision = decide(&mut self.state, &request.request);
        for event in &decision.events {
            let seq = self.append(event.clone(), request, recorded_at)?;
            self.state.number(event, seq);
        }
        let decision = Decision { outcome: decision.outcome.numbered(&self.state), ..decision };
        self.due.extend(std::mem::take(&mut self.state.changed.due_sagas).into_iter().map(|id| (id, recorded_at)));
        self.remember(request, &decision);
        Ok(LedgerAnswer::Decided(decision.outcome))
    }

    fn earlier(&mut self, request: &LedgerRequest) -> Option<LedgerAnswer> {
        let own = request.idempotency.as_ref()?;
        let claim = self.claims.get_mut(&own.key)?;
        if claim.fingerprint != own.fingerprint {
            return Some(LedgerAnswer::Mismatch);
        }
        let Some(lease_until) = claim.lease_until else { return Some(LedgerAnswer::Replayed(claim.answer.clone())) };
        if claim.charge_id.is_some() && claim.charge_id == request.request.command.charge() {
            return None;
        }
        if request.request.now < lease_until {
            return Some(LedgerAnswer::InProgress);
        }
        claim.lease_until = Some(lease(request));
        Some(LedgerAnswer::Resumed(claim.answer.clone()))
    }

    fn remember(&mut self, request: &LedgerRequest, decision: &Decision) {
        let Some(own) = &request.idempotency else { return };
        let open = self.claims.get(&own.key);
        let done = !decision.events.is_empty() || matches!(decision.outcome, Outcome::Charged { .. });
        if !done || (open.is_some() && own.claim == Claim::Opens) {
            return;
        }
        let claim = StoredClaim {
            fingerprint: own.fingerprint,
            lease_until: (own.claim == Claim::Opens).then(|| lease(request)),
            charge_id: open.and_then(|open| open.charge_id).or_else(|| request.request.command.charge()),
            answer: StoredAnswer { context: own.context.clone(), outcome: decision.outcome.clone() },
        };
        self.claims.insert(own.key.clone(), claim);
    }

    fn append(&mut self, event: NewEvent, request: &LedgerRequest, recorded_at: DateTime<Utc>) -> Result<i64> {
        let shard = event.payer.shard();
        let of_shard = self.shards.entry(shard).or_default();
        let seq = last_seq(of_shard) + 1;
        let event = UsageEvent { event, seq, epoch: 1, recorded_at };
        let payload = event_codec::encode(&event).map_err(|error| StoreError::corrupt("memory", error.to_string()))?;
        of_shard.rows.push(OutboxRow {
            shard,
            seq,
            epoch: 1,
            event_id: event.event.id.0,
            kind: event.event.kind.as_str().into(),
            tenant: event.event.payer.tenant(),
            occurred_at: event.event.occurred_at,
            trace_parent: None,
            seen: if event.event.charge_id.is_some() { request.seen.clone() } else { Vec::new() },
            payload,
        });
        Ok(seq)
    }
}

fn last_seq(shard: &ShardRows) -> i64 {
    i64::try_from(shard.rows.len()).unwrap_or(i64::MAX)
}

fn lease(request: &LedgerRequest) -> DateTime<Utc> {
    request.request.now + TimeDelta::seconds(CLAIM_LEASE_SECS)
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
        let mut waiting: Vec<(DateTime<Utc>, SagaId)> = due.iter().filter(|(_, at)| **at <= now).map(|(id, at)| (*at, *id)).collect();
        waiting.sort_unstable();
        let mut claimed = Vec::new();
        for (_, id) in page(waiting, limit) {
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

#[async_trait]
impl Outbox for Journal {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        let rows = self.rows();
        let of_shard = rows.shards.get(&shard).map_or([].as_slice(), |shard| shard.rows.as_slice());
        let from = usize::try_from(after).unwrap_or(0).min(of_shard.len());
        Ok(of_shard.iter().skip(from).take(usize::try_from(limit).unwrap_or(usize::MAX)).cloned().collect())
    }

    async fn read_thresholds(&self, _: &[(Shard, i64)], _: u32) -> Result<Vec<OutboxRow>> {
        Ok(Vec::new())
    }

    async fn heads(&self) -> Result<Vec<ShardHead>> {
        let rows = self.rows();
        let head = |(shard, of_shard): (&Shard, &ShardRows)| ShardHead {
            shard: *shard,
            last_seq: last_seq(of_shard),
            published_through: of_shard.published_through,
            archived_through: 0,
        };
        Ok(rows.shards.iter().map(head).collect())
    }

    async fn acquire_leases(&self, owner: Uuid, ttl: Duration) -> Result<Vec<ShardLease>> {
        let now = self.clock.now();
        let until = now + TimeDelta::from_std(ttl).unwrap_or_default();
        let mut rows = self.rows();
        rows.relays.insert(owner, until);
        rows.relays.retain(|_, until| *until > now);
        let share = rows.shards.len().div_ceil(rows.relays.len().max(1));
        let mut held = 0;
        for shard in rows.shards.values_mut().filter(|shard| shard.owner == Some(owner)) {
            if held < share {
                held += 1;
                shard.lease_until = until;
            } else {
                shard.owner = None;
            }
        }
        for shard in rows.shards.values_mut() {
            let free = shard.owner.is_none() || (shard.owner != Some(owner) && shard.lease_until <= now);
            if free && held < share {
                held += 1;
                (shard.owner, shard.lease_until) = (Some(owner), until);
                shard.fencing += 1;
            }
        }
        let lease = |(shard, of_shard): (&Shard, &ShardRows)| ShardLease {
            shard: *shard,
            fencing: of_shard.fencing,
            published_through: of_shard.published_through,
        };
        Ok(rows.shards.iter().filter(|(_, shard)| shard.owner == Some(owner)).map(lease).collect())
    }

    async fn release_leases(&self, owner: Uuid) -> Result<()> {
        let mut rows = self.rows();
        rows.relays.remove(&owner);
        rows.shards.values_mut().filter(|shard| shard.owner == Some(owner)).for_each(|shard| shard.owner = None);
        Ok(())
    }

    async fn mark_published(&self, marks: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        let mut rows = self.rows();
        let mut ignored = Vec::new();
        for (lease, through) in marks {
            match rows.shards.get_mut(&lease.shard) {
                Some(shard) if shard.fencing == lease.fencing => shard.published_through = shard.published_through.max(*through),
                _ => ignored.push(lease.shard),
            }
        }
        Ok(ignored)
    }

    async fn wait(&self, timeout: Duration) {
        // Late is as good as woken: the caller looks either way.
        let _ = tokio::time::timeout(timeout, self.news.notified()).await;
    }
}
