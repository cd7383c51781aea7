//! The least that could answer `limits/take`: axum, and one script of three GCRA buckets.

use super::{Shared, answer};
use anyhow::Result;
use axum::{Json, Router, extract::State, response::Response, routing::post};
use redis::{Script, aio::MultiplexedConnection};
use serde::Deserialize;
use std::sync::Arc;

/// Microseconds until one token has left, and how far ahead a bucket may be.
const INTERVAL_MICROS: i64 = 1;
const BURST_MICROS: i64 = 1_000_000_000;

struct Bare {
    redis: MultiplexedConnection,
    script: Script,
    prefix: String,
}

/// As Weir is asked.
#[derive(Deserialize)]
struct TakeBody {
    limit: Vec<String>,
    key: String,
    amount: i64,
}

pub async fn router(redis: &str, prefix: &str) -> Result<Router> {
    let redis = redis::Client::open(redis)?.get_multiplexed_async_connection().await?;
    let bare = Bare { redis, script: Script::new(include_str!("../lua/gcra.lua")), prefix: prefix.to_owned() };
    Ok(Router::new().route("/take", post(take)).with_state(Arc::new(bare)))
}

async fn take(State(bare): Shared<Bare>, Json(body): Json<TakeBody>) -> Response {
    let mut call = bare.script.prepare_invoke();
    for limit in &body.limit {
        call.key(format!("{}:{{{}}}:{limit}", bare.prefix, body.key));
    }
    call.arg(body.amount).arg(INTERVAL_MICROS).arg(BURST_MICROS);
    let decided = call.invoke_async::<i64>(&mut bare.redis.clone()).await;
    answer(decided.map(|wait_micros| wait_micros == 0))
}
