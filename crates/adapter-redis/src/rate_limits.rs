//! `RateLimits` on Redis: one round trip per call, however many requests it decides.

use crate::{
    connection::{ConnectError, Connection},
    keys::bucket_name,
    scripts::{Arguments, GIVE_BACK, Source, TAKE},
};
use async_trait::async_trait;
use domain::leaky_bucket::{Level, MAX_CAPACITY};
use futures::future::try_join_all;
use ports::{
    Result, StoreError,
    rate_limits::{Bucket, BucketLevel, RateLimits, Take, TakeAnswer},
};
use redis::{RedisResult, aio::MultiplexedConnection};
use std::{collections::HashMap, time::Duration};

/// Requests that one script call decides. Bounds how long the server does nothing else, to about a millisecond.
const REQUESTS_PER_CALL: usize = 64;

/// Buckets of all processes that use the same server and prefix.
pub struct RedisRateLimits {
    connection: Connection,
    prefix: String,
}

impl RedisRateLimits {
    /// Connects in the background, now and after each failure. `prefix` keeps installations on one server apart; `budget` is what a
    /// caller may lose to a silent server before it follows each limit's `on_outage`.
    ///
    /// # Errors
    /// When the URL or the prefix is not valid; an unreachable server is no error here, calls answer `Unavailable`.
    pub async fn connect(url: &str, prefix: &str, budget: Duration) -> Result<Self, ConnectError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(allowed) {
            return Err(ConnectError::Prefix);
        }
        let limits = Self { connection: Connection::open(url, budget)?, prefix: prefix.to_owned() };
        // The first request should not pay for the first connection.
        if let Err(error) = limits.ping().await {
            tracing::warn!(%error, "redis does not answer yet");
        }
        Ok(limits)
    }

    /// Decides at the given time instead of the server's; for tests of the script.
    pub(crate) async fn take_at(&self, requests: &[Take], now_ms: Option<i64>) -> Result<Vec<TakeAnswer>> {
        let calls: Vec<Arguments> = requests.chunks(REQUESTS_PER_CALL).map(|chunk| self.take_arguments(chunk, now_ms)).collect();
        let flat = self.call(&TAKE, &calls).await?;
        read_answers(requests, &flat.concat())
    }

    pub(crate) async fn give_back_at(&self, requests: &[Take], now_ms: Option<i64>) -> Result<()> {
        let calls: Vec<Arguments> = requests.chunks(REQUESTS_PER_CALL).map(|chunk| self.give_back_arguments(chunk, now_ms)).collect();
        self.call(&GIVE_BACK, &calls).await.map(drop)
    }

    /// All calls in one round trip, run in order.
    async fn call(&self, script: &Source, calls: &[Arguments]) -> Result<Vec<Vec<i64>>> {
        self.connection.run(|connection| try_join_all(calls.iter().map(|call| run(script, connection.clone(), call)))).await
    }

    fn take_arguments(&self, requests: &[Take], now_ms: Option<i64>) -> Arguments {
        let mut arguments = Arguments { now_ms, ..Arguments::default() };
        let mut places: HashMap<String, i64> = HashMap::new();
        for request in requests {
            arguments.values.push(request.amount.get());
            arguments.values.push(count(request.buckets.len()));
            for bucket in &request.buckets {
                let name = bucket_name(&self.prefix, &bucket.key);
                let place = *places.entry(name).or_insert_with_key(|name| {
                    arguments.keys.push(name.clone());
                    count(arguments.keys.len())
                });
                arguments.values.extend([place, bucket.rule.capacity(), bucket.rule.leak_micro_per_ms()]);
            }
        }
        arguments
    }

    fn give_back_arguments(&self, requests: &[Take], now_ms: Option<i64>) -> Arguments {
        let mut arguments = Arguments { now_ms, ..Arguments::default() };
        for (request, bucket) in requests.iter().flat_map(|request| request.buckets.iter().map(move |bucket| (request, bucket))) {
            arguments.keys.push(bucket_name(&self.prefix, &bucket.key));
            arguments.values.extend([request.amount.get().min(MAX_CAPACITY), bucket.rule.leak_micro_per_ms()]);
        }
        arguments
    }
}

#[async_trait]
impl RateLimits for RedisRateLimits {
    async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
        self.take_at(requests, None).await
    }

    async fn give_back(&self, requests: &[Take]) -> Result<()> {
        self.give_back_at(requests, None).await
    }

    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Level>> {
        if buckets.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<String> = buckets.iter().map(|bucket| bucket_name(&self.prefix, &bucket.key)).collect();
        let ((secs, micros), stored) = self.connection.run(|connection| read(connection, names)).await?;
        let now_ms = secs * 1_000 + micros / 1_000;
        Ok(buckets.iter().zip(stored).map(|(bucket, text)| bucket.rule.drain(parse_level(text.as_deref()), now_ms)).collect())
    }

    async fn ping(&self) -> Result<()> {
        self.connection.run(ping).await
    }
}

async fn run(script: &Source, mut connection: MultiplexedConnection, arguments: &Arguments) -> RedisResult<Vec<i64>> {
    // Requests without buckets need no server.
    if arguments.keys.is_empty() {
        return Ok(vec![1; arguments.values.len() / 2]);
    }
    script.call(&mut connection, arguments).await
}

async fn ping(mut connection: MultiplexedConnection) -> RedisResult<()> {
    redis::cmd("PING").query_async(&mut connection).await
}

/// The server's time in seconds and microseconds, and the stored texts.
async fn read(mut connection: MultiplexedConnection, names: Vec<String>) -> RedisResult<((i64, i64), Vec<Option<String>>)> {
    redis::pipe().cmd("TIME").cmd("MGET").arg(names).query_async(&mut connection).await
}

/// As the script reads it: what is not a level is an empty bucket.
fn parse_level(stored: Option<&str>) -> Level {
    let level = stored.and_then(|text| {
        let (micro_tokens, at_ms) = text.split_once(':')?;
        Some(Level { micro_tokens: micro_tokens.parse().ok()?, at_ms: at_ms.parse().ok()? })
    });
    level.unwrap_or_default()
}

/// Takes the script's flat integers apart, see `lua/take.lua`.
fn read_answers(requests: &[Take], flat: &[i64]) -> Result<Vec<TakeAnswer>> {
    let mut rest = flat;
    let answers: Option<Vec<TakeAnswer>> = requests
        .iter()
        .map(|request| {
            let (verdict, after) = rest.split_first()?;
            let (levels, after) = after.split_at_checked(3 * request.buckets.len())?;
            rest = after;
            Some(TakeAnswer { allowed: *verdict == 1, levels: levels.as_chunks().0.iter().map(bucket_level).collect() })
        })
        .collect();
    answers.filter(|_| rest.is_empty()).ok_or_else(|| StoreError::corrupt("redis", "an answer of another length than the script's"))
}

fn bucket_level([micro_tokens, at_ms, wait_ms]: &[i64; 3]) -> BucketLevel {
    let level = Level { micro_tokens: *micro_tokens, at_ms: *at_ms };
    BucketLevel { level, wait_ms: (*wait_ms >= 0).then_some(*wait_ms) }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
