//! Ends what was forgotten: holds past their deadline, and answers past their keeping. Every process is ready to; the holds of a store
//! are ended by the one that has its lease, and by another when that one is gone. Each step may be repeated without effect.

use crate::{group_commit::Written, service::Service, spending::even_out};
use chrono::TimeDelta;
use domain::{
    charge::ChargeStatus,
    ids::ChargeId,
    ledger::{Command, Outcome, Request},
};
use futures::future::join_all;
use ports::{
    StoreError,
    ledger::{LedgerAnswer, LedgerRequest, Sweeper},
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const EACH: Duration = Duration::from_secs(1);
/// Rounds that may be late before another process takes over.
const LEASE: Duration = Duration::from_secs(10);
/// Holds ended at a time.
const PAGE: u32 = 256;
/// Rounds between two times of upkeep.
const ROUNDS_PER_HOUR: u32 = 3_600;
/// How long an answer is replayed under its key.
const KEEP_ANSWERS: TimeDelta = TimeDelta::hours(48);

pub async fn sweep(service: Arc<Service>, shutdown: CancellationToken) {
    let id = Uuid::now_v7();
    let mut round = 0_u32;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return give_up(&service, id).await,
            () = tokio::time::sleep(EACH) => {}
        }
        // The writer says once when the ledger is away; here it is only tried again.
        if let Err(error) = expire_holds(&service, Sweeper { id, lease: LEASE }).await {
            tracing::debug!(%error, "expired holds were not ended in this round");
        }
        if round.is_multiple_of(ROUNDS_PER_HOUR)
            && let Err(error) = service.ledger.maintain(service.clock.now() - KEEP_ANSWERS).await
        {
            tracing::warn!(%error, "the upkeep of the ledger failed; it is tried again in an hour");
        }
        round = round.wrapping_add(1);
    }
}

/// The next one need not wait for the end of the lease.
async fn give_up(service: &Service, id: Uuid) {
    let over = Sweeper { id, lease: Duration::ZERO };
    if let Err(error) = service.ledger.expired_holds(over, service.clock.now(), 0).await {
        tracing::debug!(%error, "the lease of the sweeper was not given up; it ends by itself");
    }
}

/// Until a page ends fewer holds than it could: the next round sees the rest.
async fn expire_holds(service: &Service, sweeper: Sweeper) -> Result<(), StoreError> {
    loop {
        let due = service.ledger.expired_holds(sweeper, service.clock.now(), PAGE).await?;
        let writes = due.iter().filter_map(|id| expiry(service, *id)).map(|request| service.writer.write(request));
        let written = join_all(writes).await;
        join_all(written.iter().map(|written| give_back(service, written))).await;
        let ended = written.iter().filter(|written| has_ended(written)).count();
        metrics::counter!("holds_expired_total").increment(u64::try_from(ended).unwrap_or(0));
        if u32::try_from(ended).unwrap_or(0) < PAGE {
            return Ok(());
        }
    }
}

/// Only what really ended counts: a hold that stays must not keep the sweeper busy for ever.
fn has_ended(written: &Written) -> bool {
    match written {
        Ok(LedgerAnswer::Decided(Outcome::Charged { charge, .. })) => !matches!(charge.status, ChargeStatus::Held),
        _ => false,
    }
}

/// Best effort: the slot of an expired hold is free by itself, and its amount leaves its buckets sooner or later.
async fn give_back(service: &Service, written: &Written) {
    let Ok(LedgerAnswer::Decided(Outcome::Charged { charge, changed, .. })) = written else { return };
    if let Ok(facts) = service.facts.of(charge.spec.user_id, charge.spec.payer.org()).await {
        even_out(service, charge, *changed, &facts).await;
    }
}

fn expiry(service: &Service, charge_id: ChargeId) -> Option<LedgerRequest> {
    let request = Request { command: Command::Expire { charge_id }, now: service.clock.now(), allowance_cap: None, cost: None };
    Some(LedgerRequest { request, shard: charge_id.shard()?, idempotency: None, trace_parent: None, seen: Vec::new() })
}
