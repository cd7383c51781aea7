//! The events of charges, pools and refusals, before the ledger has numbered them.

use super::command::Refusals;
use crate::{
    amount::Tokens,
    charge::{ChargeSpec, Metadata},
    event::{EventType, NewEvent},
    ids::{EventId, Payer},
    pool::PoolKey,
};
use chrono::{DateTime, Utc};

pub(super) fn charge_event(spec: &ChargeSpec, kind: EventType, tokens: Tokens, now: DateTime<Utc>) -> NewEvent {
    NewEvent {
        id: EventId::generate(),
        kind,
        payer: spec.payer,
        user_id: Some(spec.user_id),
        key_id: spec.key_id,
        provider: Some(spec.provider.clone()),
        model: spec.model.clone(),
        charge_id: Some(spec.id),
        tokens,
        count: 1,
        cost: None,
        reason: None,
        occurred_at: now,
        metadata: spec.metadata.clone(),
    }
}

pub(super) fn pool_event(key: &PoolKey, kind: EventType, tokens: Tokens, metadata: Metadata, now: DateTime<Utc>) -> NewEvent {
    NewEvent {
        id: EventId::generate(),
        kind,
        payer: key.payer,
        user_id: match key.payer {
            Payer::User(user) => Some(user),
            Payer::Org(_) => None,
        },
        key_id: None,
        provider: Some(key.provider.clone()),
        model: None,
        charge_id: None,
        tokens,
        count: 1,
        cost: None,
        reason: None,
        occurred_at: now,
        metadata,
    }
}

pub(super) fn refusals_event(refusals: &Refusals, now: DateTime<Utc>) -> NewEvent {
    NewEvent {
        id: EventId::generate(),
        kind: EventType::RequestsRefused,
        payer: refusals.payer,
        user_id: Some(refusals.user_id),
        key_id: refusals.key_id,
        provider: Some(refusals.provider.clone()),
        model: refusals.model.clone(),
        charge_id: None,
        tokens: refusals.tokens,
        count: refusals.count,
        cost: None,
        reason: Some(refusals.reason.clone()),
        occurred_at: now,
        metadata: Metadata::new(),
    }
}
