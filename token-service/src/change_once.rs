//! A change of the ledger that is answered with what became of it: once under its key, and for ever the same.

use crate::{
    error,
    idempotency::{Keyed, Opening},
    json_answer::mark_replayed,
    payer::facts_of_payer,
    service::Service,
};
use axum::response::Response;
use domain::{
    ids::Payer,
    ledger::{Command, Outcome},
};
use ports::ledger::{Idempotency, LedgerAnswer};
use service_kit::problem::Problem;
use std::sync::Arc;

/// `answer` tells what was decided, now or before under the same key; the latter is marked as a replay.
pub async fn change_once(
    service: Arc<Service>,
    keyed: Option<Keyed>,
    command: Command,
    payer: Payer,
    answer: impl Fn(&Outcome) -> Result<Response, Problem> + Send + Sync,
) -> Result<Response, Problem> {
    let replay = |outcome: &Outcome| {
        let mut response = answer(outcome)?;
        mark_replayed(&mut response);
        Ok(response)
    };
    let _turn = match service.open(keyed.as_ref()).await? {
        Opening::Turn(turn) => turn,
        Opening::Done(stored) => return replay(&stored.outcome),
    };
    let idempotency = keyed.as_ref().map(|keyed| keyed.completes(Vec::new()));
    match write(&service, command, payer, idempotency).await? {
        (outcome, false) => answer(&outcome),
        (outcome, true) => replay(&outcome),
    }
}

/// The outcome, and whether it is an earlier one.
pub async fn write(
    service: &Service,
    command: Command,
    payer: Payer,
    idempotency: Option<Idempotency>,
) -> Result<(Outcome, bool), Problem> {
    let facts = facts_of_payer(service, payer).await?;
    let request = service.request(payer, command, &facts, idempotency);
    match service.writer.write(request).await.map_err(|failure| error::write(&failure))? {
        LedgerAnswer::Decided(outcome) => Ok((outcome, false)),
        LedgerAnswer::Replayed(stored) => Ok((stored.outcome, true)),
        LedgerAnswer::Mismatch => Err(error::idempotency_mismatch()),
        LedgerAnswer::InProgress | LedgerAnswer::Resumed(_) => Err(error::idempotency_in_progress()),
    }
}
