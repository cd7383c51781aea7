//! The payment processor as a process reaches it.

use crate::{link::Link, network::Effect, stores::Bank};
use domain::ids::SagaId;
use futures::FutureExt;
use std::sync::Arc;
use token_service::{Paid, PaymentCall, Payments};

/// One payer in so many cannot pay.
const PAYS_NOT: u64 = 6;

pub fn payments(bank: &Arc<Bank>, link: &Link) -> Payments {
    let (bank, link) = (Arc::clone(bank), link.clone());
    Payments::By(Arc::new(move |saga, call| ask(Arc::clone(&bank), link.clone(), saga, call).boxed()))
}

async fn ask(bank: Arc<Bank>, link: Link, saga: SagaId, call: PaymentCall) -> Paid {
    link.life.runs().await;
    let pays = !link.network.one_in(PAYS_NOT);
    let what = match call {
        PaymentCall::Authorise(_) => "payment.authorise",
        PaymentCall::Capture => "payment.capture",
        PaymentCall::Void => "payment.void",
    };
    let work = move || std::future::ready(Ok(bank.answer(saga, call, pays)));
    // Whatever went wrong, nobody can say whether it was done.
    link.call(what, Effect::Repeatable, work).await.unwrap_or(Paid::Unknown)
}
