//! The ledger's rules on a map, for the limits of members.

use chrono::{DateTime, Utc};
use domain::{
    budget::Budget,
    charge::Charge,
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    ledger::{LedgerState, decide},
    pool::{Pool, PoolKey},
    saga::Saga,
};
use ports::{
    Result,
    ledger::{
        ChargeQuery, ClaimedSaga, IdempotencyKey, KeptAnswer, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot, StoredAnswer, Sweeper,
    },
};
use std::{sync::Mutex, time::Duration};

#[derive(Default)]
pub struct MemoryLedger(Mutex<LedgerState>);

#[async_trait::async_trait]
impl Ledger for MemoryLedger {
    async fn apply(&self, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>> {
        let mut state = self.0.lock().unwrap();
        Ok(requests.iter().map(|request| LedgerAnswer::Decided(decide(&mut state, &request.request).outcome)).collect())
    }
    async fn budgets(&self, payer: Payer, member: Option<UserId>) -> Result<Vec<Budget>> {
        let wanted = |budget: &&Budget| budget.key.payer == payer && (budget.key.member.is_none() || budget.key.member == member);
        Ok(self.0.lock().unwrap().budgets.values().filter(wanted).cloned().collect())
    }
    async fn find_answers(&self, _: &[IdempotencyKey]) -> Result<Vec<Option<(StoredAnswer, [u8; 32])>>> {
        unimplemented!("nothing here is keyed")
    }
    async fn scan_answers(&self, _: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<()> {
        unimplemented!("nobody audits here")
    }
    async fn find_charge(&self, _: ChargeId) -> Result<Option<Charge>> {
        unimplemented!("nothing here is charged")
    }
    async fn charges(&self, _: &ChargeQuery) -> Result<Vec<Charge>> {
        unimplemented!("nothing here is charged")
    }
    async fn find_saga(&self, _: SagaId) -> Result<Option<Saga>> {
        unimplemented!("nothing here is refunded")
    }
    async fn open_sagas(&self, _: Option<SagaId>, _: u32) -> Result<Vec<Saga>> {
        unimplemented!("nothing here is refunded")
    }
    async fn claim_sagas(&self, _: Duration, _: u32) -> Result<Vec<ClaimedSaga>> {
        unimplemented!("nothing here is purchased")
    }
    async fn find_pool(&self, _: &PoolKey) -> Result<Option<Pool>> {
        unimplemented!("nothing here is charged")
    }
    async fn pools(&self, _: Option<Payer>, _: Option<&Provider>, _: Option<&PoolKey>, _: u32) -> Result<Vec<Pool>> {
        unimplemented!("nothing here is charged")
    }
    async fn expired_holds(&self, _: Sweeper, _: DateTime<Utc>, _: u32) -> Result<Vec<ChargeId>> {
        unimplemented!("nothing here is held")
    }
    async fn maintain(&self, _: DateTime<Utc>) -> Result<()> {
        unimplemented!("nothing here is keyed")
    }
    async fn snapshot(&self, _: Shard) -> Result<ShardSnapshot> {
        unimplemented!("nobody audits here")
    }
    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
