//! What this process knows of the shards that it wrote last, so that a batch of spends needs no reading: one statement, one round trip.
//!
//! Every change in a shard has an event, so as long as a shard's last number is the known one, its known pools are the ones in the
//! database. `write.sql` makes sure of the numbers under the locks of the shards; whoever lost that race reads again.

use super::{batch::Batch, load::Head};
use crate::STORE;
use domain::{
    ids::Shard,
    ledger::{Command, LedgerState},
    pool::{Pool, PoolKey},
};
use ports::{Result, StoreError, ledger::LedgerRequest};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Pools that are kept of one shard; some 20 MB for all shards.
const MOST_POOLS: usize = 1_024;
/// After another process wrote to a shard in between, batches read first for so long.
const CONTENDED: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Known(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    shards: HashMap<Shard, KnownShard>,
    /// Epoch and number of the newest event that each shard is known to have had. Never forgotten.
    newest: HashMap<Shard, (i32, i64)>,
    contended_until: Option<Instant>,
}

struct KnownShard {
    head: Head,
    pools: HashMap<PoolKey, Pool>,
}

impl Known {
    /// Everything that deciding these requests takes, unless some of it has to be read.
    pub(super) fn of(&self, requests: &[LedgerRequest]) -> Option<(LedgerState, BTreeMap<Shard, Head>)> {
        let mut state = LedgerState::default();
        let mut heads = BTreeMap::new();
        let inner = self.lock();
        if inner.contended_until.is_some_and(|end| Instant::now() < end) {
            return None;
        }
        for request in requests {
            let (Command::Consume { spec, .. } | Command::Hold { spec, .. }) = &request.request.command else { return None };
            let shard = inner.shards.get(&request.shard).filter(|shard| !shard.head.budgets)?;
            let key = PoolKey { payer: spec.payer, provider: spec.provider.clone() };
            heads.insert(request.shard, shard.head);
            let pool = shard.pools.get(&key)?;
            state.pools.entry(key).or_insert_with(|| pool.clone());
        }
        drop(inner);
        let reads_periods = !state.past_moments(requests.iter().map(|request| &request.request)).is_empty();
        (!reads_periods).then_some((state, heads))
    }

    /// After the commit: what the batch left behind.
    pub(super) fn learn(&self, mut batch: Batch<'_>) {
        for key in &batch.state.changed.budgets {
            batch.heads.entry(key.payer.shard()).and_modify(|head| head.budgets = true);
        }
        let mut pools: HashMap<Shard, Vec<Pool>> = HashMap::new();
        for pool in batch.state.pools.into_values() {
            pools.entry(pool.key.payer.shard()).or_default().push(pool);
        }
        let mut inner = self.lock();
        for (shard, head) in batch.heads {
            inner.learn(shard, head, pools.remove(&shard).unwrap_or_default());
        }
    }

    /// After a failure of whatever kind: somebody else may have written.
    pub(super) fn forget(&self, requests: &[LedgerRequest], contended: bool) {
        let mut inner = self.lock();
        for request in requests {
            inner.shards.remove(&request.shard);
        }
        if contended {
            inner.contended_until = Some(Instant::now() + CONTENDED);
        }
    }

    /// What the locked rows of the shards say.
    ///
    /// # Errors
    /// `Unavailable` for a shard that ends before an event that it is known to have had, in the same epoch: the database was restored to
    /// an earlier moment, and its next numbers were given before.
    pub(super) fn follows(&self, heads: &BTreeMap<Shard, Head>) -> Result<()> {
        let inner = self.lock();
        let forgotten = |(shard, head): (&Shard, &Head)| {
            let (epoch, newest) = inner.newest.get(shard).copied()?;
            (epoch == head.epoch && head.last_seq < newest).then_some(Restored { shard: *shard, newest, last_seq: head.last_seq })
        };
        heads.iter().find_map(forgotten).map_or(Ok(()), |restored| Err(StoreError::unavailable(STORE, restored)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn learn(&mut self, shard: Shard, head: Head, pools: Vec<Pool>) {
        let newest = self.newest.entry(shard).or_default();
        *newest = (*newest).max((head.epoch, head.last_seq));
        let known = self.shards.entry(shard).or_insert_with(|| KnownShard { head, pools: HashMap::new() });
        if known.head.epoch == head.epoch && known.head.last_seq > head.last_seq {
            // A later batch was heard of first.
            return;
        }
        if known.head.epoch != head.epoch || known.head.last_seq != head.was || known.pools.len() + pools.len() > MOST_POOLS {
            known.pools.clear();
        }
        known.head = Head { was: head.last_seq, ..head };
        known.pools.extend(pools.into_iter().map(|pool| (pool.key.clone(), pool)));
    }
}

/// The ledger lacks events that it had.
#[derive(Debug)]
struct Restored {
    shard: Shard,
    newest: i64,
    last_seq: i64,
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shard, newest, last_seq } = self;
        write!(
            f,
            "shard {shard} had event {newest} and ends at {last_seq}: the database was restored to an earlier moment; run `weir audit --repair`"
        )
    }
}

impl std::error::Error for Restored {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::batch::Batch;
    use chrono::Utc;
    use domain::{
        amount::Tokens,
        charge::{ChargeSpec, Metadata},
        ids::{ChargeId, Payer, Provider, UserId},
        ledger::Request,
    };
    use uuid::Uuid;

    fn pool_of(user: u128) -> Pool {
        let mut state = LedgerState::default();
        let (key, now) =
            (PoolKey { payer: Payer::User(UserId(Uuid::from_u128(user))), provider: Provider::parse("openai").unwrap() }, Utc::now());
        let command = Command::Grant { pool: key.clone(), tokens: Tokens::new(100).unwrap(), reason: "test".into() };
        domain::ledger::decide(&mut state, &Request { command, now, allowance_cap: None, cost: None });
        state.pools.remove(&key).unwrap()
    }

    fn consume(pool: &Pool) -> LedgerRequest {
        let (PoolKey { payer, provider }, now) = (pool.key.clone(), Utc::now());
        let Payer::User(user_id) = payer else { unreachable!() };
        let id = ChargeId::new(payer.shard(), now);
        let spec = ChargeSpec { id, payer, user_id, key_id: None, provider, model: None, metadata: Metadata::new() };
        let command = Command::Consume { spec, tokens: Tokens::new(1).unwrap() };
        let request = Request { command, now, allowance_cap: None, cost: None };
        LedgerRequest { request, shard: payer.shard(), idempotency: None, trace_parent: None, seen: Vec::new() }
    }

    fn batch(pool: &Pool, was: i64, last_seq: i64) -> Batch<'static> {
        batch_of(std::slice::from_ref(pool), was, last_seq)
    }

    /// A batch that found the shard of these pools at `was` and left it at `last_seq`.
    fn batch_of(pools: &[Pool], was: i64, last_seq: i64) -> Batch<'static> {
        let shard = pools[0].key.payer.shard();
        let pools = pools.iter().map(|pool| (pool.key.clone(), pool.clone())).collect();
        let head = Head { was, last_seq, epoch: 1, budgets: false };
        Batch::new(LedgerState { pools, ..LedgerState::default() }, BTreeMap::from([(shard, head)]), Utc::now())
    }

    /// Where the next batch would begin, if this pool needs no reading.
    fn begins_at(known: &Known, pool: &Pool) -> Option<i64> {
        known.of(&[consume(pool)]).map(|(_, heads)| heads[&pool.key.payer.shard()].was)
    }

    fn pools_of_one_shard() -> impl Iterator<Item = Pool> {
        let shard = |user: u128| Payer::User(UserId(Uuid::from_u128(user))).shard();
        (1..).filter(move |user| shard(*user) == shard(1)).map(pool_of)
    }

    #[test]
    fn a_batch_begins_where_the_last_one_ended() {
        let (known, pool) = (Known::default(), pool_of(1));
        assert_eq!(begins_at(&known, &pool), None);
        known.learn(batch(&pool, 3, 5));
        assert_eq!(begins_at(&known, &pool), Some(5));
        known.learn(batch(&pool, 5, 6));
        assert_eq!(begins_at(&known, &pool), Some(6));
    }

    #[test]
    fn a_pool_is_forgotten_when_somebody_else_wrote_to_its_shard_since() {
        let (known, mut pools) = (Known::default(), pools_of_one_shard());
        let (pool, other) = (pools.next().unwrap(), pools.next().unwrap());
        known.learn(batch(&pool, 3, 5));
        known.learn(batch(&other, 5, 6));
        assert_eq!((begins_at(&known, &pool), begins_at(&known, &other)), (Some(6), Some(6)));
        known.learn(batch(&other, 8, 9));
        assert_eq!((begins_at(&known, &pool), begins_at(&known, &other)), (None, Some(9)));
    }

    #[test]
    fn only_so_many_pools_of_a_shard_are_kept_and_then_those_of_the_newest_batch() {
        let (known, pools) = (Known::default(), pools_of_one_shard().take(MOST_POOLS + 1).collect::<Vec<_>>());
        let [first, .., last, beyond] = &pools[..] else { unreachable!() };
        known.learn(batch_of(&pools[..MOST_POOLS - 1], 0, 1));
        known.learn(batch(last, 1, 2));
        assert_eq!((begins_at(&known, first), begins_at(&known, last)), (Some(2), Some(2)));
        known.learn(batch(beyond, 2, 3));
        assert_eq!((begins_at(&known, first), begins_at(&known, last), begins_at(&known, beyond)), (None, None, Some(3)));
    }

    #[test]
    fn late_news_of_an_earlier_batch_changes_nothing() {
        let (known, pool) = (Known::default(), pool_of(1));
        let mut newer = pool.clone();
        newer.purchased.settled = Tokens::new(7).unwrap();
        known.learn(batch(&newer, 5, 6));
        known.learn(batch(&pool, 4, 5));
        let (state, _) = known.of(&[consume(&pool)]).unwrap();
        assert_eq!(state.pools[&pool.key].purchased.settled, Tokens::new(7).unwrap());
    }

    #[test]
    fn a_shard_that_forgot_an_event_is_not_written_to_before_its_epoch_is_raised() {
        let (known, pool) = (Known::default(), pool_of(1));
        let stands = |epoch, last_seq| {
            let mut heads = batch(&pool, last_seq, last_seq).heads;
            heads.values_mut().for_each(|head| head.epoch = epoch);
            known.follows(&heads).is_ok()
        };
        assert!(stands(1, 0), "nothing is known");
        known.learn(batch(&pool, 3, 5));
        known.forget(&[consume(&pool)], true);
        assert!(!stands(1, 4) && stands(1, 5) && stands(1, 6));
        assert!(stands(2, 4), "whoever raised the epoch knows");
        known.learn(batch(&pool, 4, 5));
        assert!(!stands(1, 4));
    }

    #[test]
    fn a_shard_with_budgets_and_one_that_was_fought_over_are_read() {
        let (known, pool) = (Known::default(), pool_of(1));
        let mut with_budgets = batch(&pool, 3, 5);
        with_budgets.heads.values_mut().for_each(|head| head.budgets = true);
        known.learn(with_budgets);
        assert_eq!(begins_at(&known, &pool), None);
        known.learn(batch(&pool, 5, 6));
        known.forget(&[consume(&pool)], false);
        assert_eq!(begins_at(&known, &pool), None);
        known.forget(&[consume(&pool)], true);
        known.learn(batch(&pool, 6, 7));
        assert_eq!(begins_at(&known, &pool), None, "another process is at it");
    }
}
