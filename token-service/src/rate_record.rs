//! What the buckets said, as answers and headers show it. Stored with an idempotent answer, so that a replay shows the same.

use crate::json_answer::Instant;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{bucket::Wait, settings::LimitScope};
use ports::rate_limits::{Bucket, BucketLevel};
use serde::{Deserialize, Serialize};
use serde_json::json;
use service_kit::problem::Problem;
use std::fmt::Write;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_USED: HeaderName = HeaderName::from_static("x-ratelimit-used");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const X_MODE: HeaderName = HeaderName::from_static("x-weir-limit-mode");
const SHOULD_RETRY: HeaderName = crate::error::SHOULD_RETRY;

/// How limits were held while their store was away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutageMode {
    /// This process's own buckets.
    Local,
    /// Not at all.
    Open,
}

impl OutageMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Open => "open",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    pub limit: String,
    pub scope: LimitScope,
    pub capacity: i64,
    pub used: i64,
    /// Time in which a full bucket gets empty; of running holds, whose capacity is no amount, none.
    window_secs: Option<i64>,
    /// Time until this one is empty.
    empty_secs: i64,
    wait: Wait,
}

impl Level {
    fn of(bucket: &Bucket, level: BucketLevel) -> Self {
        let rule = bucket.rule;
        Self {
            limit: bucket.key.limit.to_string(),
            scope: bucket.key.scope,
            capacity: rule.capacity(),
            used: rule.used(level.reading).get(),
            window_secs: rule.window_ms().map(whole_secs),
            empty_secs: whole_secs(level.reading.empty_after_ms),
            wait: level.wait,
        }
    }

    const fn remaining(&self) -> i64 {
        self.capacity - self.used
    }

    /// Larger is stricter: never, then the longest wait, then amounts before holds, then the least that is left.
    const fn strictness(&self) -> (i64, bool, i64) {
        let wait = match self.wait {
            Wait::Passes => 0,
            Wait::Millis(wait_ms) => wait_ms,
            Wait::Never => i64::MAX,
        };
        (wait, self.window_secs.is_some(), -self.remaining())
    }
}

fn whole_secs(millis: i64) -> i64 {
    millis.div_euclid(1_000) + i64::from(millis.rem_euclid(1_000) != 0)
}

/// Every bucket that was asked, and the one that decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateRecord {
    levels: Vec<Level>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<OutageMode>,
}

/// The decisive bucket in the predecessor's words. All absent where no limit applies or none could be asked.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RateFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<i64>,
}

impl RateRecord {
    pub fn of(buckets: &[Bucket], levels: &[BucketLevel], mode: Option<OutageMode>) -> Self {
        Self { levels: buckets.iter().zip(levels).map(|(bucket, level)| Level::of(bucket, *level)).collect(), mode }
    }

    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    pub const fn mode(&self) -> Option<OutageMode> {
        self.mode
    }

    fn decisive(&self) -> Option<&Level> {
        self.levels.iter().max_by_key(|level| level.strictness())
    }

    pub fn fields(&self) -> RateFields {
        let level = self.decisive();
        RateFields {
            capacity: level.map(|level| level.capacity),
            used: level.map(|level| level.used),
            remaining: level.map(Level::remaining),
        }
    }

    /// 429 with everything a client needs to come back at the right moment, or to know that it never will pass.
    pub fn refusal(&self, now: DateTime<Utc>) -> Problem {
        let status = axum::http::StatusCode::TOO_MANY_REQUESTS;
        let Some(level) = self.decisive() else { return Problem::new(status, "rate_limited", "rate limit exceeded") };
        let problem = |message: String| {
            self.on(Problem::new(status, "rate_limited", message)).with_all(json!({
                "allowed": false, "capacity": level.capacity, "used": level.used, "remaining": level.remaining(),
                "scope": level.scope.as_str(), "policy": level.limit, "providerResponse": {},
            }))
        };
        match level.wait {
            Wait::Never => {
                let capacity = level.capacity;
                problem(format!("tokens exceeds the capacity {capacity} of the limit {}; split the request", level.limit))
                    .with_all(json!({"never": true, "waitSeconds": null}))
                    .header(SHOULD_RETRY, "false")
            }
            Wait::Passes | Wait::Millis(_) => {
                let (wait_ms, ..) = level.strictness();
                let wait = whole_secs(wait_ms).max(1);
                let next = Instant(now + TimeDelta::milliseconds(wait_ms));
                problem("rate limit exceeded".into())
                    .with_all(json!({"never": false, "waitSeconds": wait, "nextAccessTime": next.text()}))
                    .header(header::RETRY_AFTER, wait.to_string())
            }
        }
    }

    /// The rate headers on a problem that came after the buckets were asked.
    pub fn on(&self, problem: Problem) -> Problem {
        self.headers().into_iter().fold(problem, |problem, (name, value)| problem.header(name, value))
    }

    pub fn write(&self, headers: &mut HeaderMap) {
        for (name, value) in self.headers() {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }

    /// `RateLimit-Policy` and `RateLimit` name every limit (IETF draft, structured fields); `X-RateLimit-*` the decisive one.
    /// `X-RateLimit-Reset` is the wait in seconds, 0 when allowed.
    fn headers(&self) -> Vec<(HeaderName, String)> {
        let mut headers = Vec::with_capacity(7);
        if let Some(mode) = self.mode {
            headers.push((X_MODE, mode.as_str().to_owned()));
        }
        let Some(decisive) = self.decisive() else { return headers };
        let (mut policies, mut rates) = (String::with_capacity(96), String::with_capacity(64));
        for level in &self.levels {
            let separator = if policies.is_empty() { "" } else { ", " };
            let name = quoted(&level.limit);
            let _ = match level.window_secs {
                Some(secs) => write!(policies, "{separator}{name};q={};w={secs};weir-unit=\"tokens\"", level.capacity),
                None => write!(policies, "{separator}{name};q={};weir-unit=\"holds\"", level.capacity),
            };
            let _ = write!(rates, "{separator}{name};r={};t={}", level.remaining(), level.reset_secs());
        }
        headers.push((POLICY, policies));
        headers.push((RATE_LIMIT, rates));
        headers.push((X_LIMIT, decisive.capacity.to_string()));
        headers.push((X_REMAINING, decisive.remaining().to_string()));
        headers.push((X_USED, decisive.used.to_string()));
        headers.push((X_RESET, if decisive.wait == Wait::Passes { 0 } else { decisive.reset_secs() }.to_string()));
        headers
    }
}

impl Level {
    /// When it is worth asking again: after the wait where it refused, else when it is empty.
    fn reset_secs(&self) -> i64 {
        match self.wait {
            Wait::Millis(wait_ms) => whole_secs(wait_ms),
            Wait::Passes | Wait::Never => self.empty_secs,
        }
    }
}

/// A structured-field string: visible ASCII, `"` and `\` escaped, anything else left out.
fn quoted(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for character in name.chars().filter(|character| (' '..='~').contains(character)) {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
    text
}
