//! Completes refunds. A refund is counted as soon as the totals have applied its event, which their store says itself: the number up to
//! which a shard is applied is written after the totals. So nothing has to be told back, nothing can be told twice, and after an outage
//! of the log or of the store of the totals every refund goes on by itself. Any number of processes may do this at once.

use crate::{group_commit::WriteError, service::Service};
use domain::{
    defect::{Defect, is_back},
    ids::{SagaId, Shard},
    ledger::{Command, Request},
    saga::{Saga, SagaSubject},
};
use futures::future::join_all;
use ports::{StoreError, ledger::LedgerRequest};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const EACH: Duration = Duration::from_millis(500);
/// Sagas looked at in one step.
const PAGE: u32 = 256;

/// Until shutdown.
pub async fn complete(service: Arc<Service>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EACH) => {}
        }
        if is_back(Defect::RefundsNotCompleted) {
            continue;
        }
        match complete_counted(&service).await {
            Ok(()) => {}
            // Whoever is away is said to be so by those who need it; here it is only tried again.
            Err(error) => tracing::debug!(%error, "refunds were not completed in this round"),
        }
    }
}

/// Of all that are open; says how many sagas are, and for how long the one has not moved that moved last.
async fn complete_counted(service: &Service) -> Result<(), StoreError> {
    let (mut after, mut idle, mut applied) = (None, Idle::default(), BTreeMap::<Shard, i64>::new());
    loop {
        let open = service.ledger.open_sagas(after, PAGE).await?;
        let Some(last) = open.last() else {
            idle.say();
            return Ok(());
        };
        after = Some(last.id);
        idle.add(service, &open);
        let refunds: Vec<&Saga> = open.iter().filter(|saga| matches!(saga.subject, SagaSubject::Refund { .. })).collect();
        if refunds.is_empty() {
            continue;
        }
        // Each shard once for all pages: what is counted meanwhile is completed in the next round.
        let shards: BTreeSet<Shard> = refunds.iter().map(|saga| saga.shard()).filter(|shard| !applied.contains_key(shard)).collect();
        if !shards.is_empty() {
            applied.extend(applied_through(service, shards.into_iter().collect()).await?);
        }
        let is_counted = |saga: &&Saga| applied.get(&saga.shard()).is_some_and(|through| saga.seq <= *through);
        let counted = refunds.into_iter().filter(is_counted);
        let written = join_all(counted.map(|saga| service.writer.write(completion(service, saga.id, saga.shard())))).await;
        let completed = written.iter().filter(|written| written.is_ok()).count();
        metrics::counter!("refunds_completed_total").increment(u64::try_from(completed).unwrap_or(0));
        if let Some(error) = written.into_iter().find_map(Result::err) {
            return Err(unwritten(&error));
        }
    }
}

/// What has not ended, by kind.
#[derive(Default)]
struct Idle([(u32, i64); 2]);

impl Idle {
    fn add(&mut self, service: &Service, sagas: &[Saga]) {
        let now = service.clock.now();
        for saga in sagas {
            let Self([refunds, purchases]) = self;
            let (open, longest) = if matches!(saga.subject, SagaSubject::Refund { .. }) { refunds } else { purchases };
            *open += 1;
            *longest = saga.steps.last().map_or(0, |step| (now - step.at).num_seconds()).max(*longest);
        }
    }

    fn say(&self) {
        for ((open, longest), kind) in self.0.iter().zip(["refund", "purchase"]) {
            metrics::gauge!("sagas_open", "kind" => kind).set(f64::from(*open));
            metrics::gauge!("saga_idle_seconds", "kind" => kind).set(f64::from(u32::try_from(*longest).unwrap_or(u32::MAX)));
        }
    }
}

/// Up to which number the totals that reports show have counted each of these shards.
async fn applied_through(service: &Service, shards: Vec<Shard>) -> Result<impl Iterator<Item = (Shard, i64)>, StoreError> {
    let generation = service.usage_store.live_generation().await?;
    let states = service.usage_store.shard_states(generation, &shards).await?;
    Ok(shards.into_iter().zip(states.into_iter().map(|state| state.last_seq)))
}

fn completion(service: &Service, saga_id: SagaId, shard: Shard) -> LedgerRequest {
    let request = Request { command: Command::CompleteRefund { saga_id }, now: service.clock.now(), allowance_cap: None, cost: None };
    LedgerRequest { request, shard, idempotency: None, trace_parent: None, seen: Vec::new() }
}

fn unwritten(error: &WriteError) -> StoreError {
    StoreError::unavailable("ledger", error.clone())
}
