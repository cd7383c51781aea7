//! Compares the org reports with the trace, once they have caught up.

use super::{
    cast::Cast,
    server::{Call, Server},
    trace::Trace,
};
use anyhow::{Context, Result};
use chrono::{SecondsFormat, TimeDelta, Utc};
use indicatif::ProgressBar;
use reqwest::Method;
use secrecy::SecretString;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Reports that have not moved for this long have caught up, or never will.
const STILL_FOR: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    pub tokens: i64,
    pub requests: i64,
}

impl Sum {
    pub fn of(trace: &Trace) -> Self {
        Self { tokens: trace.tokens(), requests: i64::try_from(trace.rows.len()).unwrap_or(i64::MAX) }
    }
}

/// The sum of all org reports of the run, as soon as it equals the trace or no longer moves.
pub async fn wait_for_reports(server: &Server, admin: &SecretString, cast: &Cast, trace: &Trace) -> Result<Sum> {
    let expected = Sum::of(trace);
    let bar = ProgressBar::new_spinner();
    let (mut last, mut moved) = (Sum::default(), Instant::now());
    loop {
        let sum = sum_of_reports(server, admin, cast).await?;
        if sum == expected || (sum == last && moved.elapsed() > STILL_FOR) {
            bar.finish_and_clear();
            return Ok(sum);
        }
        if sum != last {
            (last, moved) = (sum, Instant::now());
        }
        bar.set_message(format!("org reports: {} of {} requests", sum.requests, expected.requests));
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn sum_of_reports(server: &Server, admin: &SecretString, cast: &Cast) -> Result<Sum> {
    // A run is replayed now, or was within the year; the last day is not over yet.
    let instant = |days: i64| (Utc::now() + TimeDelta::days(days)).to_rfc3339_opts(SecondsFormat::Secs, true);
    let query = format!("from={}&to={}&grain=day", instant(-365), instant(1));
    let mut sum = Sum::default();
    for org in &cast.orgs {
        let path = format!("/api/v1/analytics/orgs/{org}/report?{query}");
        let answer = server.call(admin, &Call { method: Method::GET, path: &path, body: None, idempotency_key: None }).await?;
        let total =
            |field: &str| answer.body["totals"][field].as_i64().with_context(|| format!("the report of org {org} has no totals.{field}"));
        sum.tokens += total("tokens")?;
        sum.requests += total("requests")?;
    }
    Ok(sum)
}
