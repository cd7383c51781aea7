//! Weir's own buckets behind the same axum server as its rivals: user and org of a payer, and the provider that all payers share; or the
//! provider alone, in a Redis Cluster, where slices of what no payer owns are taken ahead.

use super::{AMPLE, Check, Shared, WINDOW_SECS, answer, limit_of};
use adapter_redis::RedisRateLimits;
use anyhow::{Context, Result};
use axum::{Json, Router, extract::State, response::Response, routing::post};
use domain::{
    amount::Tokens,
    bucket::{Ask, BucketRule},
    ids::{OrgId, Payer, Provider},
    settings::{LimitScope, OnOutage},
};
use ports::rate_limits::{Bucket, BucketKey, Group, RateLimits, Take, TakeAnswer, Verdict};
use std::{slice, sync::Arc, time::Duration};

/// As Weir's own.
const BUDGET: Duration = Duration::from_millis(50);

pub async fn router(redis: &str, prefix: &str) -> Result<Router> {
    let limits = RedisRateLimits::connect(redis, prefix, BUDGET).await?;
    Ok(Router::new().route("/check", post(check)).with_state(Arc::new(limits)))
}

pub async fn leased_router(redis_cluster: &str, prefix: &str) -> Result<Router> {
    let limits = RedisRateLimits::connect(redis_cluster, prefix, BUDGET).await?;
    Ok(Router::new().route("/check", post(check_provider)).with_state(Arc::new(limits)))
}

async fn check_provider(State(limits): Shared<RedisRateLimits>, Json(check): Json<Check>) -> Response {
    answer(decide_provider_often(&limits, &check).await)
}

async fn decide_provider_often(limits: &RedisRateLimits, check: &Check) -> Result<bool> {
    for _ in 0..check.times {
        if !decide_provider(limits, check).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn decide_provider(limits: &RedisRateLimits, check: &Check) -> Result<bool> {
    let provider = Provider::parse(&check.provider)?;
    let take = Take { buckets: vec![shared(&provider, check.race)], ask: ask()? };
    known(limits, &take).await?.context("a bucket that no payer owns was forgotten")
}

async fn check(State(limits): Shared<RedisRateLimits>, Json(check): Json<Check>) -> Response {
    answer(decide(&limits, check).await)
}

/// As a consume does it: a payer that Redis does not know is restored first, here to nothing.
async fn decide(limits: &RedisRateLimits, check: Check) -> Result<bool> {
    let payer = Payer::Org(OrgId(check.org.parse()?));
    let take = take(payer, check)?;
    if let Some(allowed) = known(limits, &take).await? {
        return Ok(allowed);
    }
    limits.restore(payer, &[]).await?;
    known(limits, &take).await?.context("a payer forgotten as soon as restored")
}

async fn known(limits: &RedisRateLimits, take: &Take) -> Result<Option<bool>> {
    let answers = limits.take(slice::from_ref(take)).await?;
    let TakeAnswer { verdict, .. } = answers.first().context("no answer")?;
    Ok(match verdict {
        Verdict::Allowed => Some(true),
        Verdict::Refused => Some(false),
        Verdict::Forgotten => None,
    })
}

fn take(payer: Payer, Check { user, org, provider, race, .. }: Check) -> Result<Take> {
    let provider = Provider::parse(&provider)?;
    let buckets = vec![
        bucket(&provider, Group::Payer(payer), LimitScope::User, user, AMPLE),
        bucket(&provider, Group::Payer(payer), LimitScope::Org, org, AMPLE),
        shared(&provider, race),
    ];
    Ok(Take { buckets, ask: ask()? })
}

fn ask() -> Result<Ask> {
    Ok(Ask { amount: Tokens::new(1)?, hold: None })
}

fn shared(provider: &Provider, race: bool) -> Bucket {
    bucket(provider, Group::Shared, LimitScope::Provider, String::new(), limit_of(race))
}

fn bucket(provider: &Provider, group: Group, scope: LimitScope, owner: String, capacity: i64) -> Bucket {
    Bucket {
        key: BucketKey { group, limit: "bench".into(), scope, owner: owner.into(), provider: Some(provider.clone()), model: None },
        rule: BucketRule::fixed_window(capacity, i64::from(WINDOW_SECS)),
        on_outage: OnOutage::Closed,
    }
}
