//! Brings purchases to their end. A purchase is claimed for a while with a number that rises; every step is written down under that number
//! before the next begins. Whoever is killed, or frozen past the claim, leaves it to the next one, which goes on from what is written:
//! the payment processor knows every call by the saga, and the ledger refuses a step that was taken or is out of order.

use super::payment::{Paid, PaymentCall};
use crate::{error, payer::facts_of_payer, service::Service};
use domain::{
    defect::{Defect, is_back},
    ids::SagaId,
    ledger::{Command, Outcome},
    saga::{PurchaseTask, Saga, SagaStatus, SagaSubject},
};
use futures::future::join_all;
use ports::ledger::{ClaimedSaga, LedgerAnswer};
use std::{convert::identity, iter, sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longer than the calls of one claim; after a failure also the pause until the next try.
const CLAIM: Duration = Duration::from_secs(10);
const EACH: Duration = Duration::from_millis(500);
/// Claimed at once.
const PAGE: u32 = 32;
/// Purchases under way in this process; the others wait in the ledger.
const AT_ONCE: usize = 256;

/// Until shutdown; what was claimed then is brought as far as it goes.
pub async fn work(service: Arc<Service>, shutdown: CancellationToken) {
    // Each for itself: a purchase that comes now does not wait for the calls of those before it.
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = service.purchases_due.notified() => {}
            () = tokio::time::sleep(EACH) => {}
        }
        while !shutdown.is_cancelled() {
            while under_way.try_join_next().is_some() {}
            if under_way.len() >= AT_ONCE {
                under_way.join_next().await;
            }
            match service.ledger.claim_sagas(CLAIM, PAGE).await {
                Ok(claimed) => {
                    let more = u32::try_from(claimed.len()).is_ok_and(|claimed| claimed >= PAGE);
                    claimed.into_iter().for_each(|claimed| drop(under_way.spawn(bring_on(Arc::clone(&service), claimed))));
                    if !more {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no purchases were claimed in this round");
                    break;
                }
            }
        }
    }
    while under_way.join_next().await.is_some() {}
}

/// As far as it goes under this claim.
async fn bring_on(service: Arc<Service>, ClaimedSaga { mut saga, claim }: ClaimedSaga) {
    while let Some(task) = saga.task() {
        let Some((to, reason)) = perform(&service, &saga, task).await else { return };
        // What follows without a call is written with it. The ledger takes the steps in their order only, whatever becomes of the two.
        let next = saga.task_after(to).and_then(PurchaseTask::without_a_call);
        let steps = iter::once((to, reason)).chain(next.map(|to| (to, None)));
        let written = join_all(steps.map(|(to, reason)| write(&service, &saga, claim, to, reason))).await;
        let Some(moved) = written.into_iter().map_while(identity).last() else { return };
        saga = moved;
    }
    metrics::counter!("purchases_total", "outcome" => if saga.status() == SagaStatus::Completed { "completed" } else { "failed" })
        .increment(1);
}

/// What came of the task; `None` where that is not known: it is done again under the next claim.
async fn perform(service: &Service, saga: &Saga, task: PurchaseTask) -> Option<(SagaStatus, Option<&'static str>)> {
    let compensate = |reason| Some((SagaStatus::Compensating, Some(reason)));
    let done = |to| Some((to, None));
    let named_anew = is_back(Defect::PaymentNotNamedBySaga);
    let payment = if named_anew { SagaId::new(saga.shard(), service.clock.now()) } else { saga.id };
    match task {
        PurchaseTask::Authorise => {
            let SagaSubject::Purchase { price, .. } = saga.subject else { return None };
            match service.payment.ask(payment, PaymentCall::Authorise(price)).await {
                Paid::Done => done(SagaStatus::PaymentReserved),
                Paid::Declined => compensate("the payment was declined"),
                Paid::Impossible => compensate("the payment was voided"),
                Paid::Unknown if is_back(Defect::AllocatedUnpaid) => done(SagaStatus::PaymentReserved),
                Paid::Unknown => None,
            }
        }
        PurchaseTask::Capture if is_back(Defect::NeverCaptured) => done(SagaStatus::PaymentCaptured),
        PurchaseTask::Capture => match service.payment.ask(payment, PaymentCall::Capture).await {
            Paid::Done => done(SagaStatus::PaymentCaptured),
            Paid::Declined | Paid::Impossible => compensate("the payment could not be captured"),
            Paid::Unknown if is_back(Defect::LostCaptureTakenForRefusal) => compensate("the payment could not be captured"),
            Paid::Unknown => None,
        },
        PurchaseTask::Void => match service.payment.ask(payment, PaymentCall::Void).await {
            Paid::Done => done(SagaStatus::PaymentVoided),
            Paid::Unknown if is_back(Defect::VoidForgotten) => done(SagaStatus::PaymentVoided),
            Paid::Declined | Paid::Impossible | Paid::Unknown => None,
        },
        PurchaseTask::Allocate | PurchaseTask::Complete | PurchaseTask::TakeBack | PurchaseTask::Fail => {
            task.without_a_call().and_then(done)
        }
    }
}

/// The saga after the step; `None` where somebody else has it now, or the ledger is away.
async fn write(service: &Service, saga: &Saga, claim: i64, to: SagaStatus, reason: Option<&'static str>) -> Option<Saga> {
    let facts = facts_of_payer(service, saga.payer).await.ok()?;
    let command = Command::MovePurchase { saga_id: saga.id, claim, to, reason: reason.map(str::to_owned) };
    match service.writer.write(service.request(saga.payer, command, &facts, None)).await {
        Ok(LedgerAnswer::Decided(Outcome::SagaMoved { saga })) => Some(*saga),
        Ok(LedgerAnswer::Decided(Outcome::BalanceOverflow)) => {
            let reason = Some("the pool cannot count so many tokens");
            Box::pin(write(service, saga, claim, SagaStatus::Compensating, reason)).await
        }
        Ok(other) => {
            tracing::info!(saga = %saga.id, ?other, "a purchase is somebody else's now");
            None
        }
        Err(failure) => {
            tracing::debug!(saga = %saga.id, problem = %error::write(&failure).detail(), "a step of a purchase was not written");
            None
        }
    }
}
