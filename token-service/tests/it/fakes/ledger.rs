//! The ledger's rules on maps, with the idempotency table of the port and faults on request.

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    budget::Budget,
    charge::{Charge, ChargeStatus},
    event::NewEvent,
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    ledger::{Command, Decision, LedgerState, Outcome, decide},
    pool::{Pool, PoolKey},
    saga::Saga,
};
use ports::{
    Result, StoreError,
    ledger::{
        CLAIM_LEASE_SECS, ChargeQuery, Claim, ClaimedSaga, IdempotencyKey, KeptAnswer, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot,
        StoredAnswer, Sweeper,
    },
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::RwLock;

/// What happens to one call of `apply`.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Answered as usual; to let a call pass before a fault.
    None,
    /// Nothing is done, and the store says so.
    Unavailable,
    /// Done, but the answer is lost.
    LostAfter,
    /// Not done, and the answer is lost.
    LostBefore,
}

struct StoredClaim {
    fingerprint: [u8; 32],
    lease_until: Option<DateTime<Utc>>,
    charge: Option<ChargeId>,
    answer: StoredAnswer,
}

#[derive(Default)]
pub struct Rows {
    pub state: LedgerState,
    claims: HashMap<IdempotencyKey, StoredClaim>,
    /// Which sagas wait for somebody, and from when.
    due: BTreeMap<SagaId, Instant>,
    pub events: Vec<NewEvent>,
    pub traces: Vec<Option<String>>,
    /// Sizes of the batches, in order.
    pub batches: Vec<usize>,
}

#[derive(Default)]
pub struct FakeLedger {
    pub rows: Mutex<Rows>,
    pub faults: Mutex<VecDeque<Fault>>,
    /// Every call fails while this is set.
    pub away: AtomicBool,
    /// A batch that names this user is damaged data.
    pub poison: Mutex<Option<UserId>>,
    /// Commits wait while a test holds this for writing.
    pub gate: RwLock<()>,
}

impl FakeLedger {
    pub fn events(&self) -> Vec<NewEvent> {
        self.rows.lock().unwrap().events.clone()
    }

    pub fn pool(&self, key: &PoolKey) -> Pool {
        self.rows.lock().unwrap().state.pools[key].clone()
    }

    pub fn charge_count(&self) -> usize {
        self.rows.lock().unwrap().state.charges.len()
    }

    pub fn claim_count(&self) -> usize {
        self.rows.lock().unwrap().claims.len()
    }

    pub fn fail_next(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    fn answer(&self) -> Result<()> {
        if self.away.load(Ordering::SeqCst) { Err(StoreError::unavailable("postgres", "away on request")) } else { Ok(()) }
    }
}

impl Rows {
    fn answer(&mut self, request: &LedgerRequest) -> LedgerAnswer {
        if let Some(answer) = self.earlier(request) {
            return answer;
        }
        let decision = decide(&mut self.state, &request.request);
        let done = !decision.events.is_empty();
        self.due.extend(std::mem::take(&mut self.state.changed.due_sagas).into_iter().map(|id| (id, Instant::now())));
        for event in &decision.events {
            let of_shard = self.events.iter().filter(|known| known.payer.shard() == event.payer.shard()).count();
            self.state.number(event, i64::try_from(of_shard).unwrap() + 1);
            self.events.push(event.clone());
        }
        let decision = Decision { outcome: decision.outcome.numbered(&self.state), ..decision };
        self.traces.extend(decision.events.iter().map(|_| request.trace_parent.map(|trace| trace.to_string())));
        if let Some(own) = &request.idempotency {
            let opened = self.claims.get(&own.key).and_then(|claim| claim.charge);
            let ended = opened.is_some() && own.claim == Claim::Completes && matches!(decision.outcome, Outcome::Charged { .. });
            if done || ended {
                let lease_until = (own.claim == Claim::Opens).then(|| lease(request));
                let answer = StoredAnswer { context: own.context.clone(), outcome: decision.outcome.clone() };
                let charge = opened.or_else(|| request.request.command.charge());
                self.claims.insert(own.key.clone(), StoredClaim { fingerprint: own.fingerprint, lease_until, charge, answer });
            }
        }
        LedgerAnswer::Decided(decision.outcome)
    }

    fn earlier(&mut self, request: &LedgerRequest) -> Option<LedgerAnswer> {
        let own = request.idempotency.as_ref()?;
        let claim = self.claims.get_mut(&own.key)?;
        if claim.fingerprint != own.fingerprint {
            return Some(LedgerAnswer::Mismatch);
        }
        let Some(lease_until) = claim.lease_until else { return Some(LedgerAnswer::Replayed(claim.answer.clone())) };
        if claim.charge == request.request.command.charge() {
            return None;
        }
        if request.request.now < lease_until {
            return Some(LedgerAnswer::InProgress);
        }
        claim.lease_until = Some(lease(request));
        Some(LedgerAnswer::Resumed(claim.answer.clone()))
    }
}

fn lease(request: &LedgerRequest) -> DateTime<Utc> {
    request.request.now + TimeDelta::seconds(CLAIM_LEASE_SECS)
}

fn names(request: &LedgerRequest, user: UserId) -> bool {
    matches!(&request.request.command, Command::Consume { spec, .. } | Command::Hold { spec, .. } if spec.user_id == user)
}

#[async_trait]
impl Ledger for FakeLedger {
    async fn apply(&self, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>> {
        let _open = self.gate.read().await;
        self.answer()?;
        let lost = || StoreError::outcome_unknown("postgres", "the answer was lost on request");
        let fault = self.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::Unavailable => return Err(StoreError::unavailable("postgres", "refused on request")),
            Fault::LostBefore => return Err(lost()),
            Fault::None | Fault::LostAfter => {}
        }
        let mut keys: Vec<_> = requests.iter().filter_map(|request| request.idempotency.as_ref()).map(|own| own.key.clone()).collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all, "one key twice in one batch");
        let poison = *self.poison.lock().unwrap();
        if poison.is_some_and(|user| requests.iter().any(|request| names(request, user))) {
            return Err(StoreError::corrupt("postgres", "damaged on request"));
        }
        let mut rows = self.rows.lock().unwrap();
        rows.batches.push(requests.len());
        let answers = requests.iter().map(|request| rows.answer(request)).collect();
        if matches!(fault, Fault::LostAfter) { Err(lost()) } else { Ok(answers) }
    }

    async fn find_answers(&self, keys: &[IdempotencyKey]) -> Result<Vec<Option<(StoredAnswer, [u8; 32])>>> {
        self.answer()?;
        let rows = self.rows.lock().unwrap();
        let find = |key| rows.claims.get(key).filter(|claim| claim.lease_until.is_none());
        Ok(keys.iter().map(|key| find(key).map(|claim| (claim.answer.clone(), claim.fingerprint))).collect())
    }

    async fn scan_answers(&self, _: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<()> {
        unimplemented!("nobody audits here")
    }

    async fn find_charge(&self, id: ChargeId) -> Result<Option<Charge>> {
        self.answer()?;
        Ok(self.rows.lock().unwrap().state.charges.get(&id).cloned())
    }

    async fn charges(&self, query: &ChargeQuery) -> Result<Vec<Charge>> {
        self.answer()?;
        let rows = self.rows.lock().unwrap();
        let wanted = |charge: &&Charge| {
            charge.spec.payer == query.payer
                && query.user_id.is_none_or(|user| charge.spec.user_id == user)
                && query.provider.as_ref().is_none_or(|provider| charge.spec.provider == *provider)
                && query.from.is_none_or(|from| charge.created_at >= from)
                && query.to.is_none_or(|to| charge.created_at < to)
                && query.before.is_none_or(|before| charge.spec.id < before)
        };
        let mut found: Vec<Charge> = rows.state.charges.values().filter(wanted).cloned().collect();
        found.sort_by_key(|charge| std::cmp::Reverse(charge.spec.id));
        found.truncate(query.limit.try_into().unwrap());
        Ok(found)
    }

    async fn find_saga(&self, id: SagaId) -> Result<Option<Saga>> {
        self.answer()?;
        Ok(self.rows.lock().unwrap().state.sagas.get(&id).cloned())
    }

    async fn open_sagas(&self, after: Option<SagaId>, limit: u32) -> Result<Vec<Saga>> {
        self.answer()?;
        let rows = self.rows.lock().unwrap();
        let open = rows.state.sagas.values().filter(|saga| !saga.status().is_end() && after.is_none_or(|after| saga.id > after));
        Ok(open.take(limit.try_into().unwrap()).cloned().collect())
    }

    /// A lease lasts a hundredth of its time.
    async fn claim_sagas(&self, lease: Duration, limit: u32) -> Result<Vec<ClaimedSaga>> {
        self.answer()?;
        let mut rows = self.rows.lock().unwrap();
        let Rows { state, due, .. } = &mut *rows;
        due.retain(|id, _| !state.sagas[id].status().is_end());
        let mut claimed = Vec::new();
        for (id, at) in due.iter_mut().filter(|(_, at)| **at <= Instant::now()).take(limit.try_into().unwrap()) {
            *at = Instant::now() + lease / 100;
            let claim = state.claims.entry(*id).or_default();
            *claim += 1;
            claimed.push(ClaimedSaga { saga: state.sagas[id].clone(), claim: *claim });
        }
        Ok(claimed)
    }

    async fn find_pool(&self, key: &PoolKey) -> Result<Option<Pool>> {
        self.answer()?;
        Ok(self.rows.lock().unwrap().state.pools.get(key).cloned())
    }

    async fn pools(&self, payer: Option<Payer>, provider: Option<&Provider>, after: Option<&PoolKey>, limit: u32) -> Result<Vec<Pool>> {
        self.answer()?;
        let rows = self.rows.lock().unwrap();
        let wanted = |pool: &&Pool| {
            payer.is_none_or(|payer| pool.key.payer == payer)
                && provider.is_none_or(|provider| pool.key.provider == *provider)
                && after.is_none_or(|after| pool.key > *after)
        };
        let mut found: Vec<Pool> = rows.state.pools.values().filter(wanted).cloned().collect();
        found.sort_by(|one, other| one.key.cmp(&other.key));
        found.truncate(limit.try_into().unwrap());
        Ok(found)
    }

    async fn budgets(&self, payer: Payer, member: Option<UserId>) -> Result<Vec<Budget>> {
        self.answer()?;
        let rows = self.rows.lock().unwrap();
        let wanted = |budget: &&Budget| budget.key.payer == payer && (budget.key.member.is_none() || budget.key.member == member);
        Ok(rows.state.budgets.values().filter(wanted).cloned().collect())
    }

    async fn expired_holds(&self, _: Sweeper, now: DateTime<Utc>, limit: u32) -> Result<Vec<ChargeId>> {
        self.answer()?;
        let rows = self.rows.lock().unwrap();
        let due = |charge: &&Charge| charge.status == ChargeStatus::Held && charge.expires_at.is_some_and(|deadline| deadline <= now);
        Ok(rows.state.charges.values().filter(due).map(|charge| charge.spec.id).take(limit.try_into().unwrap()).collect())
    }

    async fn maintain(&self, _: DateTime<Utc>) -> Result<()> {
        Ok(())
    }

    async fn snapshot(&self, _: Shard) -> Result<ShardSnapshot> {
        unimplemented!()
    }

    async fn ping(&self) -> Result<()> {
        self.answer()
    }
}
