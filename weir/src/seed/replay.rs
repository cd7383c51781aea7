//! Sends the rows in order of their offsets, at the chosen speed, with a bounded number in flight.

use super::{
    cast::Cast,
    server::{Call, Server},
    trace::{Row, Trace},
};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde::Serialize;
use serde_json::json;
use std::{str::FromStr, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

/// How fast the trace is replayed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many times faster than it was recorded.
    Times(f64),
    /// As fast as the answers come.
    Max,
}

impl FromStr for Pace {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse::<f64>() {
            Ok(times) if (0.001..=1e6).contains(&times) => Ok(Self::Times(times)),
            _ => Err("must be `max` or a number between 0.001 and 1000000"),
        }
    }
}

impl Pace {
    fn due(self, offset_ms: u64) -> Duration {
        match self {
            Self::Times(times) => Duration::from_millis(offset_ms).div_f64(times),
            Self::Max => Duration::ZERO,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub rows_sent: i64,
    pub tokens_sent: i64,
    pub rows_acknowledged: i64,
    pub tokens_acknowledged: i64,
    /// Acknowledged rows that an earlier start had already sent.
    pub replayed: i64,
    /// Requests beyond one per row.
    pub sent_again: i64,
    pub seconds: f64,
    pub rows_per_second: f64,
}

struct Done {
    tokens: i64,
    replayed: bool,
}

/// # Errors
/// The first refusal that no repetition changes. What was acknowledged until then stays; the same command goes on from there.
pub async fn replay(server: &Arc<Server>, cast: Arc<Cast>, trace: &Trace, pace: Pace, concurrency: usize) -> Result<Summary> {
    let bar = progress_bar(trace);
    let in_flight = Arc::new(Semaphore::new(concurrency));
    let (mut tasks, mut summary, start) = (JoinSet::new(), Summary::default(), Instant::now());
    let again_before = server.sent_again();
    for row in &trace.rows {
        tokio::time::sleep_until(start + pace.due(row.offset_ms)).await;
        let permit = Arc::clone(&in_flight).acquire_owned().await?;
        summary.rows_sent += 1;
        summary.tokens_sent += row.tokens;
        let (server, cast, row) = (Arc::clone(server), Arc::clone(&cast), *row);
        tasks.spawn(async move {
            let done = send(&server, &cast, &row).await.with_context(|| format!("row {}", row.number));
            drop(permit);
            done
        });
        while let Some(done) = tasks.try_join_next() {
            count(&mut summary, &bar, &done??);
        }
    }
    while let Some(done) = tasks.join_next().await {
        count(&mut summary, &bar, &done??);
    }
    bar.finish_and_clear();
    summary.sent_again = server.sent_again() - again_before;
    summary.seconds = start.elapsed().as_secs_f64();
    let rows = u32::try_from(summary.rows_acknowledged).map_or(0.0, f64::from);
    summary.rows_per_second = rows / summary.seconds.max(0.001);
    Ok(summary)
}

fn count(summary: &mut Summary, bar: &ProgressBar, done: &Done) {
    summary.rows_acknowledged += 1;
    summary.tokens_acknowledged += done.tokens;
    summary.replayed += i64::from(done.replayed);
    bar.inc(1);
}

async fn send(server: &Server, cast: &Cast, row: &Row) -> Result<Done> {
    let part = cast.part(row).context("nobody plays this row")?;
    let body = json!({
        "userId": part.member.user, "orgId": part.org, "provider": part.provider, "model": part.model, "tokens": row.tokens,
        "metadata": {"run": cast.run, "row": row.number.to_string()},
    });
    let idempotency_key = format!("seed-{}-{}", cast.run, row.number);
    let call = Call { method: Method::POST, path: "/api/v1/tokens/consume", body: Some(&body), idempotency_key: Some(&idempotency_key) };
    let answer = server.call(&part.member.key, &call).await?;
    Ok(Done { tokens: row.tokens, replayed: answer.replayed })
}

/// On stderr, and only when that is a terminal.
fn progress_bar(trace: &Trace) -> ProgressBar {
    let bar = ProgressBar::new(u64::try_from(trace.rows.len()).unwrap_or(0));
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} rows, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_divides_the_offsets_and_nonsense_is_refused() {
        assert_eq!("60".parse::<Pace>().unwrap().due(60_000), Duration::from_secs(1));
        assert_eq!("max".parse::<Pace>().unwrap().due(60_000), Duration::ZERO);
        assert_eq!("0.5".parse::<Pace>().unwrap().due(1_000), Duration::from_secs(2));
        assert!(["0", "-1", "NaN", "inf", "fast", ""].iter().all(|text| text.parse::<Pace>().is_err()));
    }
}
