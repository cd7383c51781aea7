//! `RateLimits` on Redis: one round trip per call, however many requests it decides.

use crate::{
    connection::{ConnectError, Connection, ping},
    keys::{Content, bucket_name, mark_name},
    presence::Presence,
    scripts::{Arguments, GIVE_BACK, RESTORE, Source, TAKE},
};
use async_trait::async_trait;
use domain::{
    bucket::{Level, MAX_CAPACITY, MICRO, Pace, Portion, Reading, State, Wait},
    ids::Payer,
};
use futures::future::try_join_all;
use ports::{
    Clock, Result, StoreError,
    rate_limits::{Bucket, BucketLevel, GiveBack, RateLimits, Take, TakeAnswer, Use, Verdict, restored},
};
use redis::{AsyncCommands, RedisResult, aio::MultiplexedConnection};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Requests that one script call decides. Bounds how long the server does nothing else, to about a millisecond.
const REQUESTS_PER_CALL: usize = 64;

/// For how long a payer stays known; after it, its next request looks at the ledger once more.
const KNOWN_MS: i64 = 7 * 86_400_000;

/// As in `lua/take.lua`.
const SLACK_MS: i64 = 60_000;

/// Buckets of all processes that use the same server and prefix.
pub struct RedisRateLimits {
    connection: Arc<Connection>,
    presence: Presence,
    prefix: String,
    clock: Option<Clock>,
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
        let connection = Arc::new(Connection::open(url, budget)?);
        let presence = Presence::announce(Arc::clone(&connection), prefix).await;
        let limits = Self { connection, presence, prefix: prefix.to_owned(), clock: None };
        // The first request should not pay for the first connection.
        if let Err(error) = limits.ping().await {
            tracing::warn!(%error, "redis does not answer yet");
        }
        Ok(limits)
    }

    /// Decides at this clock's time instead of the server's, for histories that jump through time. Production never does.
    #[must_use]
    pub fn on_clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// All calls in one round trip, run in order.
    async fn call(&self, script: &Source, calls: impl FnOnce(&str) -> Vec<Arguments>) -> Result<Vec<Vec<i64>>> {
        self.connection
            .run(|server| {
                let calls = calls(&server.epoch);
                async move { try_join_all(calls.iter().map(|call| run(script, server.connection.clone(), call))).await }
            })
            .await
    }

    fn arguments(&self) -> Arguments {
        Arguments { now_ms: self.clock.as_ref().map(|clock| clock.now().timestamp_millis()), ..Arguments::default() }
    }

    fn take_arguments(&self, requests: &[Take], epoch: &str) -> Arguments {
        let mut arguments = self.arguments();
        let mut places: HashMap<String, i64> = HashMap::new();
        for request in requests {
            arguments.push(request.ask.amount.get());
            let mark = request.payer().map(|payer| mark_name(&self.prefix, payer, epoch));
            let mark = mark.map_or(0, |mark| place(&mut places, &mut arguments.keys, mark));
            arguments.push(mark);
            arguments.push(count(request.buckets.len()));
            for bucket in &request.buckets {
                let place = place(&mut places, &mut arguments.keys, self.name(bucket));
                arguments.push(place);
                arguments.push(bucket.rule.capacity());
                let (kind, pace) = coded(bucket.rule.pace());
                arguments.push(kind);
                match (bucket.rule.pace(), request.ask.hold) {
                    (Pace::Slots, hold) => {
                        arguments.push(hold.map_or(0, |hold| hold.ttl_ms));
                        arguments.push_text(hold.map_or_else(String::new, |hold| hold.id.to_string()));
                    }
                    _ => arguments.push(pace),
                }
            }
        }
        arguments
    }

    fn give_back_arguments(&self, requests: &[GiveBack]) -> Arguments {
        let mut arguments = self.arguments();
        for (request, bucket) in requests.iter().flat_map(|request| request.buckets.iter().map(move |bucket| (request, bucket))) {
            arguments.keys.push(self.name(bucket));
            let (kind, pace) = coded(bucket.rule.pace());
            for number in [kind, pace, request.back.amount.get().min(MAX_CAPACITY), request.back.age_ms(bucket.rule.pace())] {
                arguments.push(number);
            }
            arguments.push_text(request.back.hold.map_or_else(String::new, |id| id.to_string()));
        }
        arguments
    }

    /// The payer's buckets as they are now, by the server's time.
    fn restore_arguments(&self, payer: Payer, uses: &[Use], epoch: &str, now_ms: i64) -> Arguments {
        let mut arguments = self.arguments();
        arguments.keys.push(mark_name(&self.prefix, payer, epoch));
        arguments.push(KNOWN_MS);
        for (key, (rule, state)) in restored(uses, now_ms) {
            arguments.push(rule.reading(&state, now_ms).empty_after_ms + SLACK_MS);
            match state {
                State::Amounts(level) => {
                    arguments.keys.push(bucket_name(&self.prefix, Content::Amounts, &key));
                    arguments.push(-1);
                    let portions = level.portions().map(|portion| format!("{}:{}", portion.micro_tokens, portion.at_ms));
                    arguments.push_text(portions.collect::<Vec<_>>().join(","));
                }
                State::Slots(slots) => {
                    arguments.keys.push(bucket_name(&self.prefix, Content::Slots, &key));
                    arguments.push(count(slots.running().len()));
                    for (id, deadline) in slots.running() {
                        arguments.push(deadline);
                        arguments.push_text(id.to_string());
                    }
                }
            }
        }
        arguments
    }

    fn name(&self, bucket: &Bucket) -> String {
        bucket_name(&self.prefix, content(bucket), &bucket.key)
    }

    /// Amounts in one round trip; slots need the server's time and take a second one.
    async fn read(&self, buckets: &[Bucket]) -> Result<Vec<Reading>> {
        let amounts: Vec<String> = of_content(buckets, Content::Amounts).map(|bucket| self.name(bucket)).collect();
        let slots: Vec<String> = of_content(buckets, Content::Slots).map(|bucket| self.name(bucket)).collect();
        let (now_ms, levels) = self.connection.run(|server| read_levels(server.connection, amounts)).await?;
        let now_ms = self.arguments().now_ms.unwrap_or(now_ms);
        let running = self.connection.run(|server| read_slots(server.connection, slots, now_ms)).await?;
        let (mut levels, mut running) = (levels.into_iter(), running.into_iter());
        let read = |bucket: &Bucket| match content(bucket) {
            Content::Amounts => {
                let level = parse_level(levels.next().flatten().as_deref());
                bucket.rule.reading(&State::Amounts(level), now_ms)
            }
            Content::Slots => running.next().unwrap_or_default(),
        };
        Ok(buckets.iter().map(read).collect())
    }
}

#[async_trait]
impl RateLimits for RedisRateLimits {
    async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
        let calls = |epoch: &str| requests.chunks(REQUESTS_PER_CALL).map(|chunk| self.take_arguments(chunk, epoch)).collect();
        let flat = self.call(&TAKE, calls).await?;
        read_answers(requests, &flat.concat())
    }

    async fn give_back(&self, requests: &[GiveBack]) -> Result<()> {
        let calls = |_: &str| requests.chunks(REQUESTS_PER_CALL).map(|chunk| self.give_back_arguments(chunk)).collect();
        self.call(&GIVE_BACK, calls).await.map(drop)
    }

    async fn restore(&self, payer: Payer, uses: &[Use]) -> Result<()> {
        let (now_ms, _) = self.connection.run(|server| read_levels(server.connection, Vec::new())).await?;
        let now_ms = self.arguments().now_ms.unwrap_or(now_ms);
        self.call(&RESTORE, |epoch| vec![self.restore_arguments(payer, uses, epoch, now_ms)]).await.map(drop)
    }

    async fn known_since(&self, payer: Payer) -> Result<Option<i64>> {
        self.connection.run(|mut server| async move { server.connection.get(mark_name(&self.prefix, payer, &server.epoch)).await }).await
    }

    async fn forget(&self, payer: Payer) -> Result<()> {
        self.connection.run(|mut server| async move { server.connection.unlink(mark_name(&self.prefix, payer, &server.epoch)).await }).await
    }

    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Reading>> {
        if buckets.is_empty() {
            return Ok(Vec::new());
        }
        self.read(buckets).await
    }

    fn processes(&self) -> u32 {
        self.presence.processes()
    }

    async fn ping(&self) -> Result<()> {
        self.connection.run(|server| ping(server.connection)).await
    }
}

async fn run(script: &Source, mut connection: MultiplexedConnection, arguments: &Arguments) -> RedisResult<Vec<i64>> {
    // Requests without buckets need no server.
    if arguments.keys.is_empty() {
        return Ok(vec![1; arguments.values.len() / 3]);
    }
    script.call(&mut connection, arguments).await
}

/// The server's time in milliseconds, and the stored texts.
async fn read_levels(mut connection: MultiplexedConnection, names: Vec<String>) -> RedisResult<(i64, Vec<Option<String>>)> {
    let mut commands = redis::pipe();
    commands.cmd("TIME");
    let ((secs, micros), texts): ((i64, i64), Vec<Option<String>>) = if names.is_empty() {
        let (time,): ((i64, i64),) = commands.query_async(&mut connection).await?;
        (time, Vec::new())
    } else {
        commands.cmd("MGET").arg(names).query_async(&mut connection).await?
    };
    Ok((secs * 1_000 + micros / 1_000, texts))
}

/// Running holds of each name, and until the last of them is over.
async fn read_slots(mut connection: MultiplexedConnection, names: Vec<String>, now_ms: i64) -> RedisResult<Vec<Reading>> {
    let mut readings = Vec::with_capacity(names.len());
    for name in names {
        let mut commands = redis::pipe();
        commands.cmd("ZCOUNT").arg(&name).arg(format!("({now_ms}")).arg("+inf");
        commands.cmd("ZRANGE").arg(&name).arg(-1).arg(-1).arg("WITHSCORES");
        let (running, last): (i64, Vec<(String, i64)>) = commands.query_async(&mut connection).await?;
        let empty_after_ms = last.first().map_or(0, |(_, deadline)| (deadline - now_ms).max(0));
        readings.push(Reading { used_micro: running * MICRO, at_ms: now_ms, empty_after_ms });
    }
    Ok(readings)
}

/// As the script reads it: what is not a level is an empty bucket.
fn parse_level(stored: Option<&str>) -> Level {
    let portion = |text: &str| {
        let (micro_tokens, at_ms) = text.split_once(':')?;
        Some(Portion { micro_tokens: micro_tokens.parse().ok()?, at_ms: at_ms.parse().ok()? })
    };
    let mut portions = stored.unwrap_or_default().split(',').map_while(portion);
    let newest = portions.next().unwrap_or_default();
    Level::stored(newest, portions.collect())
}

/// Takes the script's flat integers apart, see `lua/take.lua`.
fn read_answers(requests: &[Take], flat: &[i64]) -> Result<Vec<TakeAnswer>> {
    let mut rest = flat;
    let answers: Option<Vec<TakeAnswer>> = requests
        .iter()
        .map(|request| {
            let (verdict, after) = rest.split_first()?;
            let (verdict, answered) = match verdict {
                1 => (Verdict::Allowed, request.buckets.len()),
                0 => (Verdict::Refused, request.buckets.len()),
                _ => (Verdict::Forgotten, 0),
            };
            let (levels, after) = after.split_at_checked(4 * answered)?;
            rest = after;
            Some(TakeAnswer { verdict, levels: levels.as_chunks().0.iter().map(bucket_level).collect() })
        })
        .collect();
    answers.filter(|_| rest.is_empty()).ok_or_else(|| StoreError::corrupt("redis", "an answer of another length than the script's"))
}

fn bucket_level([used_micro, at_ms, empty_after_ms, wait_ms]: &[i64; 4]) -> BucketLevel {
    let reading = Reading { used_micro: *used_micro, at_ms: *at_ms, empty_after_ms: *empty_after_ms };
    let wait = match wait_ms {
        0 => Wait::Passes,
        wait_ms if *wait_ms < 0 => Wait::Never,
        wait_ms => Wait::Millis(*wait_ms),
    };
    BucketLevel { reading, wait }
}

/// Kind and pace as the scripts take them; the pace of slots is the hold's own.
const fn coded(pace: Pace) -> (i64, i64) {
    match pace {
        Pace::Drain { micro_per_ms } => (1, micro_per_ms),
        Pace::FixedWindow { ms } => (2, ms),
        Pace::SlidingWindow { ms } => (3, ms),
        Pace::Slots => (4, 0),
    }
}

fn content(bucket: &Bucket) -> Content {
    if bucket.rule.is_of_slots() { Content::Slots } else { Content::Amounts }
}

fn of_content(buckets: &[Bucket], wanted: Content) -> impl Iterator<Item = &Bucket> {
    buckets.iter().filter(move |bucket| content(bucket) == wanted)
}

/// Place of a name among the keys, from 1; each name stands there once.
fn place(places: &mut HashMap<String, i64>, keys: &mut Vec<String>, name: String) -> i64 {
    *places.entry(name).or_insert_with_key(|name| {
        keys.push(name.clone());
        count(keys.len())
    })
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
