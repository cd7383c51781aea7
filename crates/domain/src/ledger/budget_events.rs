//! Budgets as their events tell them, and back: which budget, on which terms, and which threshold was reached.

use crate::{
    amount::Tokens,
    budget::{Budget, BudgetKey, BudgetTerms, BudgetUnit},
    charge::Metadata,
    event::{EventType, NewEvent},
    ids::{EventId, Payer},
    threshold::Threshold,
    time::Period,
};
use chrono::{DateTime, Utc};

pub(super) fn budget_set(key: &BudgetKey, terms: &BudgetTerms, now: DateTime<Utc>) -> NewEvent {
    let mut metadata = names(key);
    metadata.extend([
        ("timeZone".to_owned(), terms.time_zone.name().to_owned()),
        ("limit".to_owned(), terms.limit.map(|limit| limit.to_string()).unwrap_or_default()),
        ("thresholds".to_owned(), Threshold::join(&terms.thresholds)),
    ]);
    event(key, EventType::BudgetSet, metadata, now)
}

pub(super) fn threshold_reached(budget: &Budget, threshold: Threshold, now: DateTime<Utc>) -> NewEvent {
    let mut metadata = names(&budget.key);
    metadata.extend([
        ("threshold".to_owned(), threshold.to_string()),
        ("limit".to_owned(), budget.terms.limit.map(|limit| limit.to_string()).unwrap_or_default()),
        ("used".to_owned(), budget.current.used.to_string()),
        ("periodStart".to_owned(), budget.current.starts_at.to_rfc3339()),
    ]);
    event(&budget.key, EventType::ThresholdReached, metadata, now)
}

pub(super) fn key_of(event: &NewEvent) -> Option<BudgetKey> {
    let member = match event.metadata.get("member") {
        Some(text) => Some(text.parse().ok()?),
        None => None,
    };
    let unit = BudgetUnit::parse(event.metadata.get("unit")?)?;
    let period = Period::parse(event.metadata.get("period")?)?;
    Some(BudgetKey { payer: event.payer, member, provider: event.provider.clone(), unit, period })
}

pub(super) fn terms_of(event: &NewEvent) -> Option<BudgetTerms> {
    let field = |name: &str| event.metadata.get(name).map(String::as_str);
    let limit = match field("limit")? {
        "" => None,
        text => Some(Tokens::new(text.parse().ok()?).ok()?),
    };
    let thresholds = Threshold::parse_list(field("thresholds")?)?;
    Some(BudgetTerms { limit, time_zone: field("timeZone")?.parse().ok()?, thresholds })
}

pub(super) fn threshold_of(event: &NewEvent) -> Option<Threshold> {
    Threshold::parse(event.metadata.get("threshold")?)
}

fn names(key: &BudgetKey) -> Metadata {
    let member = key.member.map(|member| ("member".to_owned(), member.to_string()));
    let unit = ("unit".to_owned(), key.unit.as_str().to_owned());
    let period = ("period".to_owned(), key.period.as_str().to_owned());
    [unit, period].into_iter().chain(member).collect()
}

fn event(key: &BudgetKey, kind: EventType, metadata: Metadata, now: DateTime<Utc>) -> NewEvent {
    let payer = match key.payer {
        Payer::User(user) => Some(user),
        Payer::Org(_) => None,
    };
    NewEvent {
        id: EventId::generate(),
        kind,
        payer: key.payer,
        user_id: key.member.or(payer),
        key_id: None,
        provider: key.provider.clone(),
        model: None,
        charge_id: None,
        tokens: Tokens::ZERO,
        count: 1,
        cost: None,
        reason: None,
        occurred_at: now,
        metadata,
    }
}
