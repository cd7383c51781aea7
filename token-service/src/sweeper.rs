//! Ends what was forgotten: holds past their deadline, and answers past their keeping. Every process does it; each step may be
//! repeated by another one without effect.

use crate::{group_commit::Written, service::Service, spending::give_back_unused};
use chrono::TimeDelta;
use domain::{
    charge::ChargeStatus,
    ids::ChargeId,
    ledger::{Command, Outcome, Request},
};
use futures::future::join_all;
use ports::{
    StoreError,
    ledger::{LedgerAnswer, LedgerRequest},
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

const EACH: Duration = Duration::from_secs(1);
/// Holds ended at a time.
const PAGE: u32 = 256;
/// Rounds between two times of upkeep.
const ROUNDS_PER_HOUR: u32 = 3_600;
/// How long an answer is replayed under its key.
const KEEP_ANSWERS: TimeDelta = TimeDelta::hours(48);

pub async fn sweep(service: Arc<Service>, shutdown: CancellationToken) {
    let mut round = 0_u32;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EACH) => {}
        }
        // The writer says once when the ledger is away; here it is only tried again.
        if let Err(error) = expire_holds(&service).await {
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

/// Until a page ends fewer holds than it could: the next round sees the rest.
async fn expire_holds(service: &Service) -> Result<(), StoreError> {
    loop {
        let due = service.ledger.expired_holds(service.clock.now(), PAGE).await?;
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
        give_back_unused(service, charge, *changed, &facts).await;
    }
}

fn expiry(service: &Service, charge_id: ChargeId) -> Option<LedgerRequest> {
    let request = Request { command: Command::Expire { charge_id }, now: service.clock.now(), allowance_cap: None, cost: None };
    Some(LedgerRequest { request, shard: charge_id.shard()?, idempotency: None, trace_parent: None })
}
