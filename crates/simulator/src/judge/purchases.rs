//! Whether every purchase came to one of its two ends, with the money and the tokens where they belong.

use crate::{
    people::{DIRECTED, Errand, Wish},
    processes::Stores,
    stores::{Payment, PaymentStatus},
};
use domain::{
    event::{EventType, UsageEvent},
    ids::{SagaId, UserId},
    ledger::granted_by,
    saga::{self, Saga, SagaStatus, SagaSubject},
};
use std::collections::{BTreeMap, HashSet};

/// What the events say of one purchase.
#[derive(Debug, Default)]
struct Told {
    tokens: i128,
    /// An operator had a word in it: steps may repeat, and money that was captured may be given back.
    directed: bool,
}

/// The first thing that is wrong.
pub fn purchases_are_true(stores: &Stores, errands: &[Errand]) -> Result<(), String> {
    let sagas = stores.journal.every_saga();
    let mut told = told_by(&stores.journal.every_event(EventType::PurchaseMoved)?)?;
    let mut payments = stores.bank.every_payment();
    let mut bought: BTreeMap<(Option<UserId>, i64), Vec<&Saga>> = BTreeMap::new();
    for saga in sagas.iter().filter(|saga| matches!(saga.subject, SagaSubject::Purchase { .. })) {
        let (told, payment) = (told.remove(&saga.id).unwrap_or_default(), payments.remove(&saga.id));
        if let Some(what) = wrong_with(saga, &told, payment) {
            return Err(format!("{what}: {saga:?}, {told:?}, {payment:?}"));
        }
        bought.entry((saga.user_id, saga.tokens.get())).or_default().push(saga);
    }
    if let Some(stray) = payments.into_iter().next() {
        return Err(format!("a payment of no purchase: {stray:?}"));
    }
    for errand in errands.iter().filter(|errand| matches!(errand.wish, Wish::Purchase(_))) {
        let own = bought.remove(&(Some(errand.user), errand.tokens)).unwrap_or_default();
        let is_known = |id| own.iter().any(|saga| saga.id.0 == id);
        if own.len() > 1 || !errand.saga_id.is_none_or(is_known) {
            return Err(format!("purchased twice, or acknowledged and lost: {errand:?}, {own:?}"));
        }
    }
    match bought.into_values().next() {
        Some(stray) => Err(format!("a purchase that nobody asked for: {stray:?}")),
        None => Ok(()),
    }
}

fn told_by(events: &[UsageEvent]) -> Result<BTreeMap<SagaId, Told>, String> {
    let mut told: BTreeMap<SagaId, Told> = BTreeMap::new();
    for event in events.iter().map(|event| &event.event) {
        let id = saga::of_event(event).ok_or_else(|| format!("a step of no purchase: {event:?}"))?;
        let told = told.entry(id).or_default();
        told.tokens += granted_by(event);
        told.directed |= event.reason.as_deref() == Some(DIRECTED);
    }
    Ok(told)
}

fn wrong_with(saga: &Saga, told: &Told, payment: Option<Payment>) -> Option<&'static str> {
    let SagaSubject::Purchase { price, .. } = saga.subject else { return None };
    let different: HashSet<SagaStatus> = saga.steps.iter().map(|step| step.status).collect();
    if different.len() != saga.steps.len() && !told.directed {
        return Some("a step of a purchase was taken twice");
    }
    let was_set_aside = payment.filter(|payment| payment.price == Some(price) && payment.status != PaymentStatus::Declined);
    let allocated = saga.steps.iter().find(|step| step.status == SagaStatus::TokensAllocated);
    if allocated.is_some_and(|step| was_set_aside.is_none_or(|payment| payment.first_heard_of > step.at)) {
        return Some("tokens of a purchase before its money was set aside");
    }
    let tokens = i128::from(saga.tokens.get());
    match (saga.status(), payment.map(|payment| payment.status)) {
        (SagaStatus::Completed, Some(PaymentStatus::Captured)) if told.tokens == tokens => None,
        (SagaStatus::Completed, Some(PaymentStatus::Captured)) => Some("money was taken for other tokens"),
        (SagaStatus::Completed, _) => Some("a purchase that nobody paid"),
        (SagaStatus::Failed, _) if told.tokens != 0 => Some("a purchase that failed and left tokens"),
        (SagaStatus::Failed, Some(PaymentStatus::Voided | PaymentStatus::Declined)) => None,
        (SagaStatus::Failed, Some(PaymentStatus::GivenBack)) if told.directed => None,
        (SagaStatus::Failed, Some(PaymentStatus::GivenBack)) => Some("money was taken for a purchase that failed"),
        (SagaStatus::Failed, _) => Some("a purchase that failed and keeps money set aside"),
        _ => Some("a purchase that has not ended"),
    }
}
