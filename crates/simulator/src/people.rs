//! Those who ask: each wants one thing done, asks again under the same key until somebody answers, and remembers what was said.

mod operators;

pub use operators::DIRECTED;

use crate::{
    network::Network,
    processes::{Process, Role},
};
use axum::body::Body;
use domain::{
    access::{Caller, Scope},
    ids::UserId,
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use uuid::Uuid;

const CONSUME: &str = "tokens/consume";
const REFUND: &str = "tokens/refund";
const ADMIN: &str = "admin/";
const REPLAY: &str = "admin/replay";
/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(12);
/// Times that somebody asks before giving up, and an operator, who has to decide anew.
const ATTEMPTS: u64 = 12;
const OPERATORS_ATTEMPTS: u64 = 4;
/// In the reason of a 503 that promises it.
const NOTHING_CHANGED: &str = "nothing was changed";
/// Of a hold, seconds; some end later.
const TTL_SECONDS: i64 = 8;

/// What becomes of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Settle(i64),
    Release,
    /// Nobody ends it.
    Abandon,
}

#[derive(Clone, Copy, Debug)]
pub enum Wish {
    Consume,
    Hold(End),
    /// A consume that is refunded, twice as much as is said here if so much is left.
    Refund(i64),
    Purchase(Word),
    /// Asked for by an operator, who wants the new generation to become the live one.
    Replay(Part),
}

/// What a replay is asked to read, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Everything,
    EverythingFromTheLog,
    /// Up to the midnight in the middle of the run.
    FirstDay,
}

/// What an operator says of a purchase that has been accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Nothing,
    Resume,
    Compensate,
}

/// One wish, and what its owner was told of it. No two errands are of the same amount, which tells their charges apart.
#[derive(Clone, Debug)]
pub struct Errand {
    pub user: UserId,
    pub tokens: i64,
    pub wish: Wish,
    /// Acknowledged by a 2xx.
    pub charge_id: Option<Uuid>,
    /// A purchase, acknowledged by a 202.
    pub saga_id: Option<Uuid>,
    /// The end of a hold was acknowledged.
    pub ended: bool,
    /// Acknowledged, in tokens.
    pub refunded: i64,
    /// Asked for and never answered, in tokens.
    pub maybe_refunded: i64,
    /// Answered with a refusal: nothing may have been done.
    pub refused: bool,
    /// Asks without a key, and so only once.
    pub keyless: bool,
    /// An answer that nobody should get.
    pub astonished: Option<String>,
}

/// Where the routers of the living processes are.
pub type Town = Arc<Mutex<Vec<Arc<Process>>>>;

pub fn living(town: &Town) -> Vec<Arc<Process>> {
    let processes = town.lock().unwrap_or_else(PoisonError::into_inner);
    processes.iter().filter(|process| !process.life.is_over()).cloned().collect()
}

enum Told {
    Done(Value),
    Refused,
    Astonished(String),
    /// Asked as often as somebody asks.
    Nothing,
}

impl Errand {
    pub fn new(user: UserId, tokens: i64, wish: Wish, keyless: bool) -> Self {
        Self {
            user,
            tokens,
            wish,
            charge_id: None,
            saga_id: None,
            ended: false,
            refunded: 0,
            maybe_refunded: 0,
            refused: false,
            keyless,
            astonished: None,
        }
    }

    /// From the first question to the last answer.
    pub async fn run(mut self, number: u64, town: Town, network: Arc<Network>) -> Self {
        let told = match self.wish {
            Wish::Consume | Wish::Refund(_) => {
                let body = json!({"provider": "openai", "tokens": self.tokens});
                let key = format!("consume-{number}");
                ask(&town, &network, self.user, (!self.keyless).then_some(&key), CONSUME, &body).await
            }
            Wish::Purchase(word) => {
                self.purchase(number, word, &town, &network).await;
                return self;
            }
            Wish::Replay(part) => {
                self.replay(number, part, &town, &network).await;
                return self;
            }
            Wish::Hold(_) => {
                let body = json!({"provider": "openai", "tokens": self.tokens, "ttlSeconds": TTL_SECONDS});
                ask(&town, &network, self.user, Some(&format!("hold-{number}")), "tokens/reserve", &body).await
            }
        };
        let Some(charge) = self.note(told).and_then(|answer| answer["chargeId"].as_str().and_then(|id| id.parse::<Uuid>().ok())) else {
            return self;
        };
        self.charge_id = Some(charge);
        let end = match self.wish {
            Wish::Consume | Wish::Purchase(_) | Wish::Replay(_) => return self,
            Wish::Refund(tokens) => {
                self.refund(number, charge, tokens, &town, &network).await;
                return self;
            }
            Wish::Hold(end) => end,
        };
        let (what, body) = match end {
            End::Abandon => return self,
            End::Settle(tokens) => ("tokens/settle", json!({"chargeId": charge, "tokens": tokens})),
            End::Release => ("tokens/release", json!({"chargeId": charge})),
        };
        // Once, or again under another key, sometimes after the hold has expired.
        for time in 0..1 + network.below(2) {
            let millis = match network.below(8) {
                0 => network.below(12_000),
                // With the sweeper, which looks each second.
                1 => 1_000 * TTL_SECONDS.unsigned_abs() + network.below(3_000),
                _ => network.below(4_000),
            };
            sleep(Duration::from_millis(millis)).await;
            let told = ask(&town, &network, self.user, Some(&format!("{what}-{number}-{time}")), what, &body).await;
            self.ended |= self.note(told).is_some();
        }
        self
    }

    async fn refund(&mut self, number: u64, charge: Uuid, tokens: i64, town: &Town, network: &Arc<Network>) {
        let body = json!({"chargeId": charge, "tokens": tokens});
        for time in 0..2 {
            sleep(Duration::from_millis(network.below(4_000))).await;
            let key = (!network.one_in(3)).then(|| format!("refund-{number}-{time}"));
            match ask(town, network, self.user, key.as_ref(), REFUND, &body).await {
                Told::Done(_) => self.refunded += tokens,
                // Too little is left, or nothing any more.
                Told::Refused => {}
                Told::Nothing => self.maybe_refunded += tokens,
                Told::Astonished(what) => self.astonished = Some(what),
            }
        }
    }

    fn note(&mut self, told: Told) -> Option<Value> {
        match told {
            Told::Done(answer) => return Some(answer),
            Told::Refused => self.refused = true,
            Told::Astonished(what) => self.astonished = Some(what),
            Told::Nothing => {}
        }
        None
    }
}

async fn ask(town: &Town, network: &Network, user: UserId, key: Option<&String>, what: &str, body: &Value) -> Told {
    let role = if what.starts_with(REPLAY) { Role::Analytics } else { Role::TokenService };
    let attempts = match key {
        None => 1,
        Some(_) if what.starts_with(ADMIN) => OPERATORS_ATTEMPTS,
        Some(_) => ATTEMPTS,
    };
    for attempt in 0..attempts {
        let processes: Vec<Arc<Process>> = living(town).into_iter().filter(|process| process.role == role).collect();
        let chosen = usize::try_from(network.below(u64::try_from(processes.len()).unwrap_or(1))).unwrap_or(0);
        if let Some(process) = processes.get(chosen) {
            network.tick();
            if let Some((status, answer)) = answer_of(process, post(process, user, key, what, body)).await {
                match status {
                    200..300 => return Told::Done(answer),
                    402 | 429 if attempt == 0 => return Told::Refused,
                    // What is refused once stays refused: nothing is ever left again.
                    422 if what == REFUND || what.starts_with(ADMIN) => return Told::Refused,
                    // An earlier attempt may still be on its way to the ledger.
                    402 | 429 => return Told::Nothing,
                    503 if key.is_none() && answer["reason"].as_str().is_some_and(|reason| reason.contains(NOTHING_CHANGED)) => {
                        return Told::Refused;
                    }
                    // In progress, overloaded, away or unknown: the same key asks again.
                    409 | 500..600 => {}
                    _ => return Told::Astonished(format!("{what} of {key:?} was answered {status}: {answer}")),
                }
            }
        }
        sleep(Duration::from_millis(200 + network.below(3_000))).await;
    }
    Told::Nothing
}

/// What is said in time; nothing by a process that dies meanwhile.
async fn answer_of<T>(process: &Process, answer: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::select! {
        biased;
        answer = timeout(PATIENCE, answer) => answer.ok().flatten(),
        () = process.life.ended() => None,
    }
}

async fn post(process: &Process, user: UserId, key: Option<&String>, what: &str, body: &Value) -> Option<(u16, Value)> {
    let scopes = if what.starts_with(ADMIN) { Scope::ALL.into() } else { Scope::DEFAULT.into() };
    let caller = Caller { user_id: Some(user), key_id: None, scopes, providers: BTreeSet::new(), org_ids: BTreeSet::new() };
    let request = axum::http::Request::post(format!("/api/v1/{what}")).header("content-type", "application/json");
    let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
    let request =
        request.extension(Arc::new(caller)).body(if body.is_null() { Body::empty() } else { Body::from(body.to_string()) }).ok()?;
    let response = process.router.clone()?.oneshot(request).await.ok()?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
}
