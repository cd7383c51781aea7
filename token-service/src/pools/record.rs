//! A pool as the administrator's answers show it.

use crate::json_answer::Instant;
use domain::{
    amount::Tokens,
    ids::{OrgId, Payer, UserId},
    pool::Pool,
    threshold::Threshold,
    time::Period,
};
use serde::Serialize;
use std::collections::BTreeSet;

/// The terms as set, and the balances as of now.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRecord<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<OrgId>,
    provider: &'a str,
    allowance: Tokens,
    period: Period,
    time_zone: &'static str,
    total_tokens: Tokens,
    remaining_tokens: Tokens,
    /// The running period; `null` before the first one.
    current: Option<Current>,
    purchased: Purchased,
    held: Tokens,
    debt: Tokens,
    #[serde(flatten)]
    marks: MarksPart<'a>,
    updated_at: Instant,
}

/// Where a pool has thresholds: all of them, and those that were told since the use was below them.
#[derive(Serialize)]
pub struct MarksPart<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    thresholds: Option<&'a BTreeSet<Threshold>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<&'a BTreeSet<Threshold>>,
}

impl<'a> MarksPart<'a> {
    pub fn of(pool: &'a Pool) -> Self {
        let marks = Some(&pool.marks).filter(|marks| !marks.is_empty());
        Self { thresholds: marks.map(|marks| &marks.thresholds), reached: marks.map(|marks| &marks.reached) }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Current {
    granted: Tokens,
    remaining: Tokens,
    starts_at: Instant,
    resets_at: Option<Instant>,
}

#[derive(Serialize)]
struct Purchased {
    granted: Tokens,
    remaining: Tokens,
}

impl<'a> PoolRecord<'a> {
    pub fn of(pool: &'a Pool) -> Self {
        let (user_id, org_id) = match pool.key.payer {
            Payer::User(user) => (Some(user), None),
            Payer::Org(org) => (None, Some(org)),
        };
        Self {
            user_id,
            org_id,
            provider: pool.key.provider.as_str(),
            allowance: pool.terms.allowance,
            period: pool.terms.period,
            time_zone: pool.terms.time_zone.name(),
            total_tokens: pool.total(),
            remaining_tokens: if pool.debt.is_zero() { pool.remaining() } else { Tokens::ZERO },
            current: pool.current.map(|period| Current {
                granted: period.balance.granted,
                remaining: period.balance.remaining(),
                starts_at: Instant(period.starts_at),
                resets_at: period.ends_at.map(Instant),
            }),
            purchased: Purchased { granted: pool.purchased.granted, remaining: pool.purchased.remaining() },
            held: pool.held(),
            debt: pool.debt,
            marks: MarksPart::of(pool),
            updated_at: Instant(pool.updated_at),
        }
    }
}
