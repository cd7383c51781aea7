//! Buckets as they are, without taking anything.

use crate::{
    answers::parse_level,
    arguments::{Coder, content},
    connection::Server,
    keys::Content,
    servers::{Place, Servers},
};
use domain::bucket::{MICRO, Reading, State};
use ports::{Result, rate_limits::Bucket};
use redis::{RedisResult, aio::MultiplexedConnection};
use tokio::time::Instant;

/// Of one place, in order. Amounts in one round trip; slots need the server's time and take a second one.
pub(crate) async fn read(servers: &Servers, coder: &Coder, place: Place, deadline: Instant, buckets: &[&Bucket]) -> Result<Vec<Reading>> {
    let names = |wanted| buckets.iter().filter(move |bucket| content(bucket) == wanted).map(|bucket| coder.name(bucket));
    let (amounts, slots): (Vec<String>, Vec<String>) = (names(Content::Amounts).collect(), names(Content::Slots).collect());
    let (now_ms, levels) = servers.run(place, deadline, |server| read_levels(server, amounts.clone())).await?;
    let now_ms = coder.now_ms().unwrap_or(now_ms);
    let running = match slots.is_empty() {
        true => Vec::new(),
        false => servers.run(place, deadline, |server| read_slots(server.connection, slots.clone(), now_ms)).await?,
    };
    let (mut levels, mut running) = (levels.into_iter(), running.into_iter());
    let read = |bucket: &&Bucket| match content(bucket) {
        Content::Amounts => {
            let level = parse_level(levels.next().flatten().as_deref());
            bucket.rule.reading(&State::Amounts(level), now_ms)
        }
        Content::Slots => running.next().unwrap_or_default(),
    };
    Ok(buckets.iter().map(read).collect())
}

/// The time of the server that keeps a place, milliseconds since the Unix epoch.
pub(crate) async fn time_of(servers: &Servers, place: Place, deadline: Instant) -> Result<i64> {
    servers.run(place, deadline, |server| read_levels(server, Vec::new())).await.map(|(now_ms, _)| now_ms)
}

/// The server's time in milliseconds, and the stored texts.
async fn read_levels(mut server: Server, names: Vec<String>) -> RedisResult<(i64, Vec<Option<String>>)> {
    let mut commands = redis::pipe();
    commands.cmd("TIME");
    let ((secs, micros), texts): ((i64, i64), Vec<Option<String>>) = if names.is_empty() {
        let (time,): ((i64, i64),) = commands.query_async(&mut server.connection).await?;
        (time, Vec::new())
    } else {
        commands.cmd("MGET").arg(names).query_async(&mut server.connection).await?
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
