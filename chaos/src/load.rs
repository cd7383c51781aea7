//! Clients that spend at a steady rate, each request under a key of its own, repeated until it is answered.

use crate::journal::{Journal, Payer, Ticket};
use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};
use uuid::Uuid;

const PROVIDERS: [&str; 2] = ["openai", "gemini"];
const GRANTED: i64 = 1_000_000_000;
/// Soon spent, also at the limits that everybody has.
const GRANTED_SCARCELY: i64 = 11_000;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Between two requests of a client, and before it repeats one.
const PAUSE: Duration = Duration::from_millis(15);
/// The same while a server starts that needs the processors more.
const LONG_PAUSE: Duration = Duration::from_millis(300);
const PAUSE_BEFORE_REPEAT: Duration = Duration::from_millis(100);
/// After the last fault every request must be answered within this time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);

/// What the payers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// More than the load can spend, and limits that it never reaches.
    Plenty,
    /// The limits that everybody has, and in every second org a pool that runs dry.
    Scarce,
}

/// A front door, and the administrator's key to it.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Api {
    /// # Errors
    /// When there is no HTTP client to be had.
    pub fn new(base: String, key: String) -> Result<Self> {
        // A second installation of the same provider is no harm.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        // A connection kept from before a restart would fail the first request after it.
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).pool_max_idle_per_host(0).build()?;
        Ok(Self { http, base, key })
    }

    /// # Errors
    /// When the answer is not 2xx.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.expect(Method::GET, path, &Value::Null).await
    }

    /// # Errors
    /// When the answer is not 2xx.
    pub async fn expect(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let mut request = self.http.request(method, format!("{}{path}", self.base)).header("x-api-key", &self.key);
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| path.to_owned())?;
        let (status, text) = (response.status(), response.text().await?);
        if !status.is_success() {
            bail!("{path}: {status} {text}");
        }
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Tokens that the org has left at a provider.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn remaining(&self, org: &str, provider: &str) -> Result<i64> {
        let quota = self.get(&format!("/api/v1/tokens/quota/org?orgId={org}&provider={provider}")).await?;
        quota["remainingTokens"].as_i64().with_context(|| format!("a quota without remainingTokens: {quota}"))
    }

    /// # Errors
    /// When an administrator's request is not answered with 2xx.
    pub async fn payers(&self, count: usize, means: Means) -> Result<Vec<Payer>> {
        let wide = json!({"priority": 1, "bucketCapacityMultiplier": 100_000, "bucketLeakRateMultiplier": 1_000_000});
        self.expect(Method::PUT, "/api/v1/admin/tiers/WIDE", &wide).await?;
        let mut payers = Vec::new();
        for number in 0..count {
            let user = Uuid::new_v4().to_string();
            let org = self.expect(Method::POST, "/api/v1/orgs", &json!({"name": format!("Chaos {number}")})).await?;
            let org = org["orgId"].as_str().context("an org without id")?.to_owned();
            self.expect(Method::PUT, &format!("/api/v1/orgs/{org}/members/{user}"), &json!({"role": "MEMBER"})).await?;
            if means == Means::Plenty {
                self.expect(Method::PUT, &format!("/api/v1/admin/orgs/{org}/tier"), &json!({"tier": "WIDE"})).await?;
            }
            self.expect(Method::PUT, &format!("/api/v1/admin/users/{user}/tier"), &json!({"tier": "WIDE"})).await?;
            let mut had = HashMap::new();
            for provider in PROVIDERS {
                let tokens = if means == Means::Scarce && number % 2 == 1 { GRANTED_SCARCELY } else { GRANTED };
                let grant = json!({"orgId": org, "provider": provider, "tokens": tokens, "reason": "load"});
                self.expect(Method::POST, "/api/v1/admin/pools/grant", &grant).await?;
                had.insert(provider, self.remaining(&org, provider).await?);
            }
            payers.push(Payer { user, org, had });
        }
        Ok(payers)
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    gentle: AtomicBool,
    answered: AtomicU64,
    /// Requests that a limit refused, and that found too little in the pool.
    limited: AtomicU64,
    unpaid: AtomicU64,
    /// Attempts that were not answered with 2xx, and should have been.
    failed: AtomicU64,
    /// What the latest of them was told.
    failure: Mutex<String>,
    journal: Mutex<Journal>,
    /// Answers that nobody should ever get.
    wrong: Mutex<Vec<String>>,
}

pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

impl Load {
    pub fn start(api: &Api, payers: &[Payer], count: usize, means: Means) -> Self {
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        for number in 0..count {
            let payer = number % payers.len().max(1);
            let client = Client { api: api.clone(), shared: Arc::clone(&shared), number, payer, means };
            if let Some(paying) = payers.get(payer) {
                clients.spawn(client.spend(paying.clone()));
            }
        }
        Self { shared, clients }
    }

    /// Requests that were answered with 2xx so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Requests that were refused so far, by a limit and for want of tokens.
    pub fn refused(&self) -> (u64, u64) {
        (self.shared.limited.load(Ordering::Relaxed), self.shared.unpaid.load(Ordering::Relaxed))
    }

    /// Attempts that were not answered and should have been.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    pub fn latest_failure(&self) -> String {
        locked(&self.shared.failure).clone()
    }

    /// Runs something with little load beside it.
    pub async fn gently<T>(&self, work: impl Future<Output = T>) -> T {
        self.shared.gentle.store(true, Ordering::Relaxed);
        let done = work.await;
        self.shared.gentle.store(false, Ordering::Relaxed);
        done
    }

    /// Until so many more requests are answered.
    ///
    /// # Errors
    /// When that takes longer than two minutes.
    pub async fn goes_on(&self, requests: u64) -> Result<()> {
        let (began, goal) = (Instant::now(), self.answered() + requests);
        while self.answered() < goal {
            if began.elapsed() > ANSWERED_WITHIN {
                bail!("only {} requests were answered since {} s", requests - (goal - self.answered()), began.elapsed().as_secs());
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Asks again what is unanswered, under the same keys, and nothing new.
    ///
    /// # Errors
    /// When an answer was one that nobody should ever get, or one is still missing after two minutes.
    pub async fn finish(mut self) -> Result<Journal> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let all = async { while self.clients.join_next().await.is_some() {} };
        let late = tokio::time::timeout(ANSWERED_WITHIN, all).await.is_err();
        let wrong = locked(&self.shared.wrong).clone();
        if let Some(first) = wrong.first() {
            bail!("{} answers that nobody should get, the first: {first}", wrong.len());
        }
        let journal = std::mem::take(&mut *locked(&self.shared.journal));
        if late {
            let open = journal.values().filter(|ticket| ticket.charge.is_none()).count();
            bail!("{open} requests have no answer {} s after the last fault", ANSWERED_WITHIN.as_secs());
        }
        Ok(journal)
    }
}

struct Client {
    api: Api,
    shared: Arc<Shared>,
    number: usize,
    payer: usize,
    means: Means,
}

enum Answer {
    Charge(String),
    /// By a limit (429) or for want of tokens (402).
    Refused(u16),
    Again(String),
    Wrong(String),
}

impl Client {
    async fn spend(self, paying: Payer) {
        let mut turn = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            turn += 1;
            let key = format!("{}-{}-{turn}", paying.org, self.number);
            let provider = if turn % 3 == 0 { PROVIDERS[1] } else { PROVIDERS[0] };
            let tokens = 1 + turn % 97;
            let body =
                json!({"userId": paying.user, "orgId": paying.org, "provider": provider, "tokens": tokens, "metadata": {"key": key}});
            let ticket = Ticket { payer: self.payer, provider, tokens, charge: None };
            locked(&self.shared.journal).insert(key.clone(), ticket.clone());
            loop {
                match self.ask(&key, &body).await {
                    Answer::Charge(id) => {
                        locked(&self.shared.journal).insert(key, Ticket { charge: Some(id), ..ticket });
                        self.shared.answered.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    // From now on nobody asked for it: a charge would be one too many.
                    Answer::Refused(status) => {
                        locked(&self.shared.journal).remove(&key);
                        let refused = if status == 402 { &self.shared.unpaid } else { &self.shared.limited };
                        refused.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    Answer::Again(why) => {
                        *locked(&self.shared.failure) = why;
                        self.shared.failed.fetch_add(1, Ordering::Relaxed);
                        sleep(PAUSE_BEFORE_REPEAT).await;
                    }
                    Answer::Wrong(why) => return locked(&self.shared.wrong).push(format!("{key}: {why}")),
                }
            }
            sleep(if self.shared.gentle.load(Ordering::Relaxed) { LONG_PAUSE } else { PAUSE }).await;
        }
    }

    async fn ask(&self, key: &str, body: &Value) -> Answer {
        let request = self.api.http.post(format!("{}/api/v1/tokens/consume", self.api.base)).json(body);
        let response = match request.header("x-api-key", &self.api.key).header("idempotency-key", key).send().await {
            Ok(response) => response,
            Err(error) => return Answer::Again(format!("{:#}", anyhow::Error::from(error))),
        };
        let (status, pause) = (response.status(), response.headers().contains_key("retry-after"));
        let text = match response.text().await {
            Ok(text) => text,
            Err(error) => return Answer::Again(format!("{:#}", anyhow::Error::from(error))),
        };
        if status.is_success() {
            let charge = serde_json::from_str::<Value>(&text).ok().and_then(|body| body["chargeId"].as_str().map(str::to_owned));
            return charge.map_or_else(|| Answer::Wrong(format!("{status} without a charge: {text}")), Answer::Charge);
        }
        match status.as_u16() {
            503 if !pause => Answer::Wrong(format!("503 without Retry-After: {text}")),
            status @ (402 | 429) if self.means == Means::Scarce => Answer::Refused(status),
            409 | 502 | 503 | 504 => Answer::Again(format!("{status} {text}")),
            _ => Answer::Wrong(format!("{status} {text}")),
        }
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
