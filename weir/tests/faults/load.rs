//! Clients that spend at a steady rate and keep a journal of what they were told.

use crate::harness::Client;
use reqwest::Method;
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use uuid::Uuid;

const CLIENTS: u64 = 12;

/// One request as the client remembers it.
#[derive(Clone, Debug, Default)]
pub struct Ticket {
    /// Set when a 2xx was received.
    pub charge_id: Option<String>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    failures: AtomicU64,
    /// Requests that are being sent or sent again.
    unanswered: AtomicU64,
    tickets: Mutex<HashMap<String, Ticket>>,
}

pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

impl Load {
    pub fn start(admin: &Client, payers: &[(Uuid, String)]) -> Self {
        let shared = Arc::new(Shared::default());
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let index = usize::try_from(number).unwrap() % payers.len();
            let (user, org) = payers[index].clone();
            clients.spawn(spend(admin.clone(), Arc::clone(&shared), number, user, org));
        }
        Self { shared, clients }
    }

    pub async fn runs_for(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Waits until requests are answered again without failures.
    pub async fn settles(&self, within: Duration) {
        let started = Instant::now();
        let mut calm_since = Instant::now();
        let mut failures = self.failures();
        while calm_since.elapsed() < Duration::from_secs(2) {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if self.failures() != failures {
                (failures, calm_since) = (self.failures(), Instant::now());
            }
            assert!(started.elapsed() < within, "requests still fail after {within:?}");
        }
    }

    /// Answers that were not 2xx, and broken connections, so far.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    pub async fn stop(mut self) -> HashMap<String, Ticket> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        std::mem::take(&mut *self.shared.tickets.lock().unwrap())
    }
}

async fn spend(client: Client, shared: Arc<Shared>, number: u64, user: Uuid, org: String) {
    let providers = ["openai", "gemini", "openai"];
    let mut turn = 0u64;
    while !shared.stop.load(Ordering::Relaxed) {
        turn += 1;
        let name = format!("{number}-{turn}");
        let provider = providers[usize::try_from(turn % 3).unwrap()];
        let body = json!({"userId": user, "orgId": org, "provider": provider, "tokens": 1 + turn % 97, "metadata": {"n": name}});
        shared.tickets.lock().unwrap().insert(name.clone(), Ticket::default());
        // Every fourth request has no key and is sent once: it may be lost, it may not be doubled.
        let keyed = !turn.is_multiple_of(4);
        let key = format!("load-{name}");
        let headers: Vec<(&str, &str)> = if keyed { vec![("idempotency-key", key.as_str())] } else { Vec::new() };
        shared.unanswered.fetch_add(1, Ordering::Relaxed);
        loop {
            let answer = client.try_send(Method::POST, "/api/v1/tokens/consume", Some(&body), &headers).await;
            match answer {
                Ok(answer) if answer.status.is_success() => {
                    let charge_id = answer.body["chargeId"].as_str().map(str::to_owned);
                    shared.tickets.lock().unwrap().insert(name.clone(), Ticket { charge_id });
                    break;
                }
                Ok(answer) => {
                    let expected = matches!(answer.status.as_u16(), 409 | 502 | 503);
                    assert!(expected, "request {name}: {} {:#}", answer.status, answer.body);
                    assert!(
                        answer.status != 503 || !answer.header("retry-after").is_empty(),
                        "a 503 without Retry-After: {:#}",
                        answer.body
                    );
                }
                Err(error) => assert!(!error.is_builder(), "{error}"),
            }
            shared.failures.fetch_add(1, Ordering::Relaxed);
            if !keyed {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        shared.unanswered.fetch_sub(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}
