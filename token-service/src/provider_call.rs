//! One call to a provider: bounded in time and size, and never sent twice.

use crate::{
    dialect::{self, Call, Usage},
    error,
    payer::Spend,
};
use domain::{
    amount::Tokens,
    ids::Provider,
    settings::{Dialect, ProviderSettings, Settings},
};
use ports::ledger::CLAIM_LEASE_SECS;
use reqwest::{Client, Response, Url, redirect};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service_kit::problem::Problem;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Largest answer that is read, bytes.
const LARGEST_ANSWER: usize = 1024 * 1024;
/// Calls in progress in this process; more are answered 503.
const MOST_AT_ONCE: usize = 1_024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A client for providers: no redirects (an answer must not choose our next address) and no proxy from the environment.
///
/// # Errors
/// When no TLS provider is installed or the system's certificates cannot be read.
pub fn provider_client() -> reqwest::Result<Client> {
    Client::builder().redirect(redirect::Policy::none()).no_proxy().connect_timeout(CONNECT_TIMEOUT).build()
}

/// Why there is no answer. Nothing is charged in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ProviderFailure {
    Failed,
    TimedOut,
    /// The process that made the call ended before the answer; whether the provider saw the call is not known.
    Interrupted,
}

impl ProviderFailure {
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Failed => "the provider refused, broke off or answered something unusable; nothing was charged",
            Self::TimedOut => "the provider did not answer in time; nothing was charged",
            Self::Interrupted => "the first attempt under this key was interrupted; nothing was charged; use a new key to try again",
        }
    }
}

pub struct Reply {
    /// The provider's JSON object, as it came.
    pub answer: Box<RawValue>,
    pub usage: Usage,
}

pub struct Providers {
    http: Client,
    urls: BTreeMap<Provider, String>,
    slots: Arc<Semaphore>,
}

/// A call that is ready to be made, with its place among those in progress.
pub struct Prepared {
    call: Call,
    dialect: Dialect,
    declared: Tokens,
    /// For the whole call, the body included.
    pub timeout: Duration,
    http: Client,
    _slot: OwnedSemaphorePermit,
}

impl Providers {
    pub fn new(http: Client, urls: BTreeMap<Provider, String>) -> Self {
        Self { http, urls, slots: Arc::new(Semaphore::new(MOST_AT_ONCE)) }
    }

    /// Everything that can be refused before anything changes.
    pub fn prepare(&self, settings: &Settings, spend: &Spend, prompt: &str) -> Result<Prepared, Problem> {
        let provider = &spend.provider;
        let without_address = || error::provider_without_address(provider);
        let own = settings.providers.get(provider).ok_or_else(without_address)?;
        let base: Url = self.base_url(provider, own).and_then(|url| url.parse().ok()).ok_or_else(without_address)?;
        let model = spend.model.as_ref().or(own.default_model.as_ref());
        let call = dialect::call(own.dialect, &base, provider, model, prompt).ok_or_else(without_address)?;
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot.map_err(|_| Problem::overloaded("token-service", "too many provider calls are in progress"))?;
        Ok(Prepared { call, dialect: own.dialect, declared: spend.tokens, timeout: timeout(own), http: self.http.clone(), _slot: slot })
    }

    fn base_url<'a>(&'a self, provider: &Provider, settings: &'a ProviderSettings) -> Option<&'a str> {
        let stub = match settings.dialect {
            Dialect::Openai => "openai",
            Dialect::Gemini => "gemini",
            Dialect::Qwen => "qwen",
            Dialect::Chat => provider.as_str(),
        };
        let of_stub = || self.urls.iter().find(|(name, _)| name.as_str() == stub).map(|(_, url)| url);
        settings.base_url.as_ref().or_else(|| self.urls.get(provider)).or_else(of_stub).map(String::as_str)
    }
}

/// Short enough that the claim on the idempotency key outlives the call and its settlement: nobody else may take the key over meanwhile.
fn timeout(settings: &ProviderSettings) -> Duration {
    let longest = Duration::from_secs(u64::try_from(CLAIM_LEASE_SECS).unwrap_or(0) * 3 / 4);
    Duration::from_millis(settings.timeout_ms.into()).min(longest)
}

impl Prepared {
    /// Makes the call, once.
    pub async fn make(self, provider: &Provider) -> Result<Reply, ProviderFailure> {
        let started = Instant::now();
        let reply = self.send().await;
        let outcome = match &reply {
            Ok(_) => "answered",
            Err(ProviderFailure::TimedOut) => "timed_out",
            Err(_) => "failed",
        };
        let provider = provider.as_str().to_owned();
        metrics::histogram!("provider_call_seconds", "provider" => provider, "outcome" => outcome).record(started.elapsed().as_secs_f64());
        reply
    }

    async fn send(self) -> Result<Reply, ProviderFailure> {
        let request = self.http.post(self.call.url).json(&self.call.body).timeout(self.timeout);
        let response = request.send().await.map_err(|error| failure(&error))?;
        if !response.status().is_success() {
            tracing::debug!(status = response.status().as_u16(), "a provider refused a call");
            return Err(ProviderFailure::Failed);
        }
        let answer = read(response).await?;
        let usage = dialect::usage(self.dialect, answer.get(), self.declared).map_err(|_| {
            tracing::warn!("a provider reported a usage that cannot be; the call counts as failed");
            ProviderFailure::Failed
        })?;
        Ok(Reply { answer, usage })
    }
}

/// The body, which must be one JSON object of bounded size; nothing at all counts as an empty one.
async fn read(mut response: Response) -> Result<Box<RawValue>, ProviderFailure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(&error))? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            tracing::warn!(limit_bytes = LARGEST_ANSWER, "a provider's answer was too large; the call counts as failed");
            return Err(ProviderFailure::Failed);
        }
        body.extend_from_slice(&chunk);
    }
    let text = String::from_utf8(body).map_err(|_| ProviderFailure::Failed)?;
    let text = if text.trim().is_empty() { "{}" } else { text.trim() };
    let answer = RawValue::from_string(text.to_owned()).map_err(|_| ProviderFailure::Failed)?;
    if answer.get().starts_with('{') { Ok(answer) } else { Err(ProviderFailure::Failed) }
}

/// The URL stays out of the log: it may carry a key.
fn failure(error: &reqwest::Error) -> ProviderFailure {
    tracing::debug!(timeout = error.is_timeout(), connect = error.is_connect(), "a provider call failed");
    if error.is_timeout() { ProviderFailure::TimedOut } else { ProviderFailure::Failed }
}
