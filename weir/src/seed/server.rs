//! The Weir that is seeded: requests that are sent again until they pass, because the server may be killed in the middle.

use anyhow::{Context, Result, anyhow, bail};
use reqwest::{Method, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A server that asks for a longer pause is asked again after this one.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

pub struct Server {
    http: reqwest::Client,
    base: String,
    patience: Duration,
    last_answer: Mutex<Instant>,
    sent_again: AtomicI64,
}

/// One request. The same key with the same body may be sent any number of times.
pub struct Call<'a> {
    pub method: Method,
    pub path: &'a str,
    pub body: Option<&'a Value>,
    pub idempotency_key: Option<&'a str>,
}

pub struct Answer {
    pub body: Value,
    /// The request was done before, and this is its answer from then.
    pub replayed: bool,
}

/// Why a request has to be sent again, and when.
struct Again {
    reason: anyhow::Error,
    after: Option<Duration>,
}

impl Server {
    /// `patience`: how long nothing may succeed before the whole run gives up.
    pub fn new(base: String, connections: usize, patience: Duration) -> Result<Self> {
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(connections)
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(30))
            .build()?;
        Ok(Self { http, base, patience, last_answer: Mutex::new(Instant::now()), sent_again: AtomicI64::new(0) })
    }

    pub fn sent_again(&self) -> i64 {
        self.sent_again.load(Ordering::Relaxed)
    }

    /// Sends until the answer is a success.
    ///
    /// # Errors
    /// A refusal that no repetition changes, or no success anywhere for as long as the patience lasts.
    pub async fn call(&self, key: &SecretString, call: &Call<'_>) -> Result<Answer> {
        let mut pause = FIRST_PAUSE;
        loop {
            let again = match self.send(key, call).await? {
                Ok(answer) => return Ok(answer),
                Err(again) => again,
            };
            if self.since_last_answer() > self.patience {
                let waited = self.patience.as_secs();
                return Err(again.reason.context(format!("{} {}: nothing succeeded for {waited} s", self.base, call.path)));
            }
            self.sent_again.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(again.after.unwrap_or(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn send(&self, key: &SecretString, call: &Call<'_>) -> Result<Result<Answer, Again>> {
        let mut request = self.http.request(call.method.clone(), format!("{}{}", self.base, call.path));
        request = request.header("x-api-key", key.expose_secret());
        if let Some(key) = call.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        match request.send().await {
            Err(error) if error.is_builder() => Err(error).with_context(|| format!("{} is not a usable address", self.base)),
            Err(error) => Ok(Err(Again { reason: error.into(), after: None })),
            Ok(response) => self.judge(call, response).await,
        }
    }

    async fn judge(&self, call: &Call<'_>, response: Response) -> Result<Result<Answer, Again>> {
        let status = response.status();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let replayed = header("idempotent-replayed").as_deref() == Some("true");
        let after = header("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let text = match response.text().await {
            Ok(text) => text,
            Err(error) => return Ok(Err(Again { reason: error.into(), after: None })),
        };
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            *self.last_answer.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            return Ok(Ok(Answer { body, replayed }));
        }
        let message = body["message"].as_str().unwrap_or("the answer has no message");
        let reason = anyhow!("{status}: {message:?}");
        let never = body["never"] == true;
        let passes_later = status.is_server_error() || matches!(status, StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS);
        if never || !passes_later {
            bail!(reason.context(format!("{} refuses {} {}", self.base, call.method, call.path)));
        }
        Ok(Err(Again { reason, after: after.map(|pause| pause.min(LONGEST_RETRY_AFTER)) }))
    }

    fn since_last_answer(&self) -> Duration {
        self.last_answer.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}
