//! The limitador library, as its documentation sets it up: for several processes with counters in Redis, checked and updated in one call,
//! and for one process with counters in its memory.

use super::{AMPLE, Check, Shared, WINDOW_SECS, answer, limit_of};
use anyhow::Result;
use axum::{Json, Router, extract::State, response::Response, routing::post};
use limitador::{
    AsyncRateLimiter, RateLimiter,
    limit::{Condition, Limit},
    storage::redis::AsyncRedisStorage,
};
use std::{collections::HashMap, sync::Arc};

struct Limitador {
    limiter: AsyncRateLimiter,
    /// Namespaces of the usual limits and of races.
    names: [String; 2],
}

pub async fn router(redis: &str, prefix: &str) -> Result<Router> {
    let storage = AsyncRedisStorage::new(redis).await?;
    let limiter = AsyncRateLimiter::new_with_storage(Box::new(storage));
    let names = ["usual", "race"].map(|kind| format!("{prefix}-{kind}"));
    for (race, name) in [false, true].into_iter().zip(&names) {
        for (scope, most) in [("user", AMPLE), ("org", AMPLE), ("provider", limit_of(race))] {
            let conditions: [Condition; 0] = [];
            limiter.add_limit(Limit::new(name.as_str(), most, u64::from(WINDOW_SECS), conditions, [scope]));
        }
    }
    Ok(Router::new().route("/check", post(check)).with_state(Arc::new(Limitador { limiter, names })))
}

async fn check(State(limitador): Shared<Limitador>, Json(check): Json<Check>) -> Response {
    let namespace = limitador.names[usize::from(check.race)].as_str().into();
    let values = HashMap::from([("user", check.user), ("org", check.org), ("provider", check.provider)]);
    let values: HashMap<String, String> = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let checked = limitador.limiter.check_rate_limited_and_update(&namespace, &values, 1, false).await;
    answer(checked.map(|result| !result.limited))
}

/// Distinct counters that are kept; the hot key is one.
const COUNTERS: u64 = 10_000;
const HOT: &str = "hot";

pub fn in_memory_router() -> Router {
    let limiter = RateLimiter::new(COUNTERS);
    let conditions: [Condition; 0] = [];
    limiter.add_limit(Limit::new(HOT, limit_of(false), u64::from(WINDOW_SECS), conditions, ["provider"]));
    Router::new().route("/check", post(check_in_memory)).with_state(Arc::new(limiter))
}

async fn check_in_memory(State(limiter): Shared<RateLimiter>, Json(check): Json<Check>) -> Response {
    let checked = (0..check.times).map(|_| {
        let values = HashMap::from([("provider".to_owned(), check.provider.clone())]);
        limiter.check_rate_limited_and_update(&HOT.into(), &values, 1, false).map(|result| !result.limited)
    });
    answer(checked.reduce(|all, next| Ok(all? && next?)).unwrap_or(Ok(true)))
}
