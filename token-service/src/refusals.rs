//! Refused requests are counted, not written one by one: a refused caller must not be able to load the database.
//! One event per second, payer, user, key, provider, model and reason. What a crash loses is at most that second.

use crate::{group_commit::own_key, payer::Spend, service::Service};
use domain::{
    amount::Tokens,
    ids::{KeyId, Model, Payer, Provider, UserId},
    ledger::{Command, Refusals},
};
use futures::future::join_all;
use ports::{accounts::SpendFacts, ledger::LedgerRequest};
use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const EACH: Duration = Duration::from_secs(1);
/// Different refusals kept per second, and writes kept while the ledger is away.
const MOST: usize = 10_000;

pub const RATE_LIMITED: &str = "rate_limited";
pub const QUOTA_EXHAUSTED: &str = "quota_exhausted";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Fold {
    payer: Payer,
    user_id: UserId,
    key_id: Option<KeyId>,
    provider: Provider,
    model: Option<Model>,
    reason: &'static str,
}

#[derive(Default)]
struct State {
    counted: HashMap<Fold, (Tokens, i64)>,
    /// Written under keys of their own, so that trying again after an unknown outcome counts nothing twice.
    unwritten: Vec<LedgerRequest>,
}

#[derive(Default)]
pub struct RefusalFold(Mutex<State>);

impl RefusalFold {
    pub fn count(&self, spend: &Spend, reason: &'static str) {
        let fold = Fold {
            payer: spend.payer,
            user_id: spend.user_id,
            key_id: spend.key_id,
            provider: spend.provider.clone(),
            model: spend.model.clone(),
            reason,
        };
        let mut state = self.lock();
        if state.counted.len() >= MOST && !state.counted.contains_key(&fold) {
            metrics::counter!("refusals_uncounted_total").increment(1);
            return;
        }
        let (tokens, count) = state.counted.entry(fold).or_default();
        *tokens = tokens.checked_add(spend.tokens).unwrap_or(Tokens::MAX);
        *count += 1;
    }

    /// Writes what was counted since the last time; keeps what the ledger did not take.
    pub async fn flush(&self, service: &Service) {
        let requests = self.collect(service);
        let written = join_all(requests.iter().map(|request| service.writer.write(request.clone()))).await;
        let failed = requests.into_iter().zip(written).filter(|(_, written)| written.is_err()).map(|(request, _)| request);
        let mut state = self.lock();
        state.unwritten.extend(failed);
        let dropped = state.unwritten.len().saturating_sub(MOST);
        if dropped > 0 {
            state.unwritten.drain(..dropped);
            metrics::counter!("refusals_uncounted_total").increment(u64::try_from(dropped).unwrap_or(u64::MAX));
        }
    }

    fn collect(&self, service: &Service) -> Vec<LedgerRequest> {
        let mut state = self.lock();
        let mut requests = mem::take(&mut state.unwritten);
        requests.extend(state.counted.drain().map(|(fold, (tokens, count))| {
            let Fold { payer, user_id, key_id, provider, model, reason } = fold;
            let refusals = Refusals { payer, user_id, key_id, provider, model, reason: reason.into(), tokens, count };
            service.request(payer, Command::RecordRefusals(refusals), &SpendFacts::default(), Some(own_key()))
        }));
        requests
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until shutdown; the last flush comes after the last story.
pub async fn flush_each_second(service: &Service, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EACH) => service.refusals.flush(service).await,
        }
    }
}
