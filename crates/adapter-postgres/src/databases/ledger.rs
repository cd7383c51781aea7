//! `ports::ledger` over several databases. Whoever writes sends the shards of one database at a time ([`Ledger::store_of`]); what comes
//! mixed all the same is divided here, and when only a part of it is known to be done, nothing is claimed.

use super::{
    Databases,
    homes::{away, is_away},
};
use crate::{STORE, error::corrupt};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{
    budget::Budget,
    charge::Charge,
    ids::{ChargeId, Payer, Provider, SagaId, Shard, UserId},
    pool::{Pool, PoolKey},
    saga::Saga,
};
use futures::future::{join_all, try_join_all};
use ports::{
    Result, StoreError,
    ledger::{
        ChargeQuery, ClaimedSaga, IdempotencyKey, KeptAnswer, Ledger, LedgerAnswer, LedgerRequest, ShardSnapshot, StoredAnswer, Sweeper,
    },
    outbox::OutboxRow,
};
use std::{collections::BTreeMap, time::Duration};

#[async_trait]
impl Ledger for Databases {
    async fn apply(&self, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>> {
        let applied = self.apply_as_known(requests).await;
        if !matches!(&applied, Err(error) if is_away(error)) {
            return applied;
        }
        // Nothing was done: a shard was moved, or is being moved.
        self.homes.refresh_now(&self.all).await;
        self.apply_as_known(requests).await
    }

    /// The number of the database; one more than there are for a shard on its way, which holds up nobody else.
    fn store_of(&self, shard: Shard) -> usize {
        self.homes.of(shard).unwrap_or(self.all.len())
    }

    fn stores(&self) -> usize {
        self.all.len() + 1
    }

    async fn find_answers(&self, keys: &[IdempotencyKey]) -> Result<Vec<Option<(StoredAnswer, [u8; 32])>>> {
        // A key does not say whose it is.
        let mut found = vec![None; keys.len()];
        for answers in try_join_all(self.all.iter().map(|database| database.find_answers(keys))).await? {
            for (known, answer) in found.iter_mut().zip(answers) {
                *known = known.take().or(answer);
            }
        }
        Ok(found)
    }

    async fn find_charge(&self, id: ChargeId) -> Result<Option<Charge>> {
        match id.shard() {
            Some(shard) => self.home(shard).await?.find_charge(id).await,
            None => Ok(None),
        }
    }

    async fn charges(&self, query: &ChargeQuery) -> Result<Vec<Charge>> {
        self.home(query.payer.shard()).await?.charges(query).await
    }

    async fn find_saga(&self, id: SagaId) -> Result<Option<Saga>> {
        match id.shard() {
            Some(shard) => self.home(shard).await?.find_saga(id).await,
            None => Ok(None),
        }
    }

    async fn open_sagas(&self, after: Option<SagaId>, limit: u32) -> Result<Vec<Saga>> {
        let pages = try_join_all(self.all.iter().map(|database| database.open_sagas(after, limit))).await?;
        let mut sagas: Vec<Saga> = pages.into_iter().flatten().collect();
        sagas.sort_unstable_by_key(|saga| saga.id);
        sagas.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(sagas)
    }

    async fn claim_sagas(&self, lease: Duration, limit: u32) -> Result<Vec<ClaimedSaga>> {
        let claimed = try_join_all(self.all.iter().map(|database| database.claim_sagas(lease, limit))).await?;
        Ok(claimed.into_iter().flatten().collect())
    }

    async fn find_pool(&self, key: &PoolKey) -> Result<Option<Pool>> {
        self.home(key.payer.shard()).await?.find_pool(key).await
    }

    async fn pools(&self, payer: Option<Payer>, provider: Option<&Provider>, after: Option<&PoolKey>, limit: u32) -> Result<Vec<Pool>> {
        if let Some(payer) = payer {
            return self.home(payer.shard()).await?.pools(Some(payer), provider, after, limit).await;
        }
        let pages = try_join_all(self.all.iter().map(|database| database.pools(None, provider, after, limit))).await?;
        let mut pools: Vec<Pool> = pages.into_iter().flatten().collect();
        pools.sort_unstable_by(|left, right| left.key.cmp(&right.key));
        pools.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(pools)
    }

    async fn budgets(&self, payer: Payer, member: Option<UserId>) -> Result<Vec<Budget>> {
        self.home(payer.shard()).await?.budgets(payer, member).await
    }

    async fn expired_holds(&self, sweeper: Sweeper, now: DateTime<Utc>, limit: u32) -> Result<Vec<ChargeId>> {
        let due = try_join_all(self.all.iter().map(|database| database.due_holds(sweeper, now, limit))).await?;
        let mut due: Vec<(DateTime<Utc>, ChargeId)> = due.into_iter().flatten().collect();
        due.sort_unstable();
        due.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(due.into_iter().map(|(_, id)| id).collect())
    }

    async fn maintain(&self, forget_answers_before: DateTime<Utc>) -> Result<()> {
        try_join_all(self.all.iter().map(|database| database.maintain(forget_answers_before))).await.map(drop)
    }

    async fn snapshot(&self, shard: Shard) -> Result<ShardSnapshot> {
        self.home(shard).await?.snapshot(shard).await
    }

    async fn snapshot_after(&self, shard: Shard, after: i64) -> Result<ShardSnapshot> {
        self.home(shard).await?.snapshot_after(shard, after).await
    }

    async fn scan_answers(&self, visit: &mut (dyn FnMut(KeptAnswer) + Send)) -> Result<()> {
        for database in self.all.iter() {
            database.scan_answers(visit).await?;
        }
        Ok(())
    }

    /// Leases and marks are in the first database.
    async fn bring_back(&self, shard: Shard, lost: &[OutboxRow], holds_expire_at: DateTime<Utc>) -> Result<()> {
        let (home, first) = (self.home(shard).await?, self.first()?);
        home.bring_back(shard, lost, holds_expire_at).await?;
        first.take_lease_back(shard, lost.last().map_or(0, |row| row.seq)).await
    }

    /// The first database is the one that nothing works without.
    async fn ping(&self) -> Result<()> {
        Ledger::ping(self.first()?).await
    }
}

impl Databases {
    async fn apply_as_known(&self, requests: &[LedgerRequest]) -> Result<Vec<LedgerAnswer>> {
        let mut parts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, request) in requests.iter().enumerate() {
            let home = self.homes.of(request.shard).ok_or_else(|| away(request.shard))?;
            parts.entry(home).or_default().push(index);
        }
        if let [(database, _)] = parts.iter().collect::<Vec<_>>()[..] {
            return self.database(*database)?.apply(requests).await;
        }
        let apply = async |database: usize, part: &[usize]| {
            let requests: Vec<LedgerRequest> = part.iter().filter_map(|index| requests.get(*index)).cloned().collect();
            self.database(database)?.apply(&requests).await
        };
        let applied = join_all(parts.iter().map(|(database, part)| apply(*database, part))).await;
        let mut answers: Vec<Option<LedgerAnswer>> = vec![None; requests.len()];
        for (part, answer) in parts.values().zip(together(applied)?) {
            for (index, answer) in part.iter().zip(answer) {
                if let Some(place) = answers.get_mut(*index) {
                    *place = Some(answer);
                }
            }
        }
        answers.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| corrupt("a request without an answer"))
    }

    pub(super) fn database(&self, index: usize) -> Result<&crate::Postgres> {
        self.all.get(index).ok_or_else(|| corrupt("a database that does not exist"))
    }
}

/// What is true of all parts: done, or none of it done, or not known.
fn together(parts: Vec<Result<Vec<LedgerAnswer>>>) -> Result<Vec<Vec<LedgerAnswer>>> {
    let undone = |part: &Result<_>| matches!(part, Err(StoreError::Unavailable { .. } | StoreError::Corrupt { .. }));
    if parts.iter().any(Result::is_ok) || !parts.iter().all(undone) {
        let answers: Result<Vec<_>> = parts.into_iter().collect();
        return answers.map_err(|error| StoreError::outcome_unknown(STORE, error));
    }
    parts.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> Result<Vec<LedgerAnswer>> {
        Ok(Vec::new())
    }

    fn undone() -> Result<Vec<LedgerAnswer>> {
        Err(StoreError::unavailable(STORE, "away"))
    }

    fn unknown() -> Result<Vec<LedgerAnswer>> {
        Err(StoreError::outcome_unknown(STORE, "cut"))
    }

    #[test]
    fn of_a_mixed_batch_only_what_is_true_of_all_parts_is_said() {
        assert!(together(vec![done(), done()]).is_ok());
        assert!(matches!(together(vec![undone(), undone()]), Err(StoreError::Unavailable { .. })));
        for parts in [vec![done(), undone()], vec![undone(), unknown()], vec![unknown(), done()]] {
            assert!(matches!(together(parts), Err(StoreError::OutcomeUnknown { .. })));
        }
    }
}
