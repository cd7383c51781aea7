//! `POST /api/v1/tokens/consume/batch`: up to 1,000 consumes in one call, each decided and answered by itself, in their order.
//!
//! All of them are read first, then all ask the buckets in one call, then all are queued for the ledger, which takes them in few transactions:
//! where a pool has room for a part of them, the first ones pass.

use crate::{
    callers::Spender,
    consume::{ConsumeBody, Entry, enter_all},
    consume_answer::Ended,
    counters,
    idempotency::Keyed,
    json_answer::json_answer,
    payer::{self, Spend},
    prompted,
    service::Service,
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use domain::access::Caller;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use service_kit::{
    json::{parse_envelope, parse_strict, read_body, require_json},
    problem::Problem,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tokio::sync::Semaphore;

/// Names the operation in the scope of its idempotency keys.
const ENDPOINT: &str = "POST /api/v1/tokens/consume/batch";
const MOST_ITEMS: usize = 1_000;
/// Providers that one batch calls at a time.
const PROVIDER_CALLS: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchBody<'a> {
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Serialize)]
struct BatchAnswer {
    results: Vec<Box<RawValue>>,
}

/// An item that may be asked for.
struct Item {
    spend: Spend,
    prompt: Option<String>,
    keyed: Option<Keyed>,
}

/// What is known of an item so far.
enum Step {
    Asked(Box<Item>),
    Entered(Entry),
    /// Means the same request as an earlier item: has its result.
    SameAs(usize),
    Refused(Problem),
}

pub async fn consume_batch(
    State(service): State<Arc<Service>>,
    Spender(caller): Spender,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    require_json(&headers)?;
    let bytes = read_body(&headers, body).await?;
    let BatchBody { items } = parse_envelope(&bytes)?;
    if items.is_empty() || items.len() > MOST_ITEMS {
        return Err(Problem::field("items", format!("items has {} entries, it takes 1 to {MOST_ITEMS}", items.len())));
    }
    let scope = KeyScope::of(&headers, &caller)?;
    let read = items.iter().enumerate().map(|(index, item)| read(&service, &caller, &scope, index, item.get()));
    let steps = refer_repeated(join_all(read).await);
    let told = Arc::clone(&service);
    let (results, is_final) = service.to_its_end(async move { Ok(tell(&told, steps).await) }).await?;
    let mut response = json_answer(StatusCode::OK, &BatchAnswer { results })?;
    if !is_final {
        response.extensions_mut().insert(idempotency::NotKept);
    }
    Ok(response)
}

/// Whose keys the items have: their own ones, or under a key of the whole batch their places in it.
struct KeyScope {
    scope: String,
    whole_batch: bool,
}

impl KeyScope {
    fn of(headers: &HeaderMap, caller: &Caller) -> Result<Self, Problem> {
        let scope = format!("{}|{ENDPOINT}", caller.principal());
        Ok(match idempotency::of(headers)? {
            None => Self { scope, whole_batch: false },
            Some(key) => Self { scope: format!("{scope}|{key}"), whole_batch: true },
        })
    }

    fn key(&self, index: usize, body: &ConsumeBody) -> Result<Option<Keyed>, Problem> {
        let place = index.to_string();
        let key = match &body.idempotency_key {
            Some(own) => idempotency::check("idempotencyKey", own.as_bytes())?,
            None if self.whole_batch => &place,
            None => return Ok(None),
        };
        Keyed::new(self.scope.clone(), key, body).map(Some)
    }
}

async fn read(service: &Service, caller: &Caller, scope: &KeyScope, index: usize, text: &str) -> Step {
    match asked(service, caller, scope, index, text).await {
        Ok(item) => Step::Asked(Box::new(item)),
        Err(problem) => Step::Refused(problem),
    }
}

async fn asked(service: &Service, caller: &Caller, scope: &KeyScope, index: usize, text: &str) -> Result<Item, Problem> {
    let body: ConsumeBody = parse_strict(text.as_bytes())?;
    let keyed = scope.key(index, &body)?;
    let (request, prompt) = body.parse(service, caller)?;
    let spend = payer::authorise(service, caller, request).await?;
    counters::consume_attempted(&spend.provider);
    Ok(Item { spend, prompt, keyed })
}

/// Of several items under one key the first is done; the others have its result if they ask for the same.
fn refer_repeated(mut steps: Vec<Step>) -> Vec<Step> {
    let mut first: HashMap<ports::ledger::IdempotencyKey, usize> = HashMap::new();
    for index in 0..steps.len() {
        let Step::Asked(item) = &steps[index] else { continue };
        let Some(keyed) = &item.keyed else { continue };
        let earlier = *first.entry(keyed.key.clone()).or_insert(index);
        if earlier == index {
            continue;
        }
        let same = matches!(&steps[earlier], Step::Asked(other) if other.keyed.as_ref().is_some_and(|other| other.is_same_request(keyed)));
        steps[index] = if same { Step::SameAs(earlier) } else { Step::Refused(crate::error::idempotency_mismatch()) };
    }
    steps
}

/// The results in order; and whether they are final: something was done, and nothing failed that may be tried again.
async fn tell(service: &Arc<Service>, steps: Vec<Step>) -> (Vec<Box<RawValue>>, bool) {
    let entered = entered(service, steps).await;
    let calls = Semaphore::new(PROVIDER_CALLS);
    let ended = join_all(entered.into_iter().map(|step| ended(service, &calls, step))).await;
    let mut results: Vec<Box<RawValue>> = Vec::with_capacity(ended.len());
    let (mut done, mut again) = (false, false);
    for end in ended {
        let result = match end {
            End::Told(status, result) => {
                done |= status.is_success();
                again |= status.is_server_error() || status == StatusCode::CONFLICT;
                result
            }
            End::SameAs(earlier) => results[earlier].clone(),
        };
        results.push(result);
    }
    (results, done && !again)
}

/// Items without a prompt take from their buckets; the others do so when it is their turn to be called.
async fn entered(service: &Service, steps: Vec<Step>) -> Vec<Step> {
    let (mut entered, mut asking) = (BTreeMap::new(), Vec::new());
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Asked(item) if item.prompt.is_none() => asking.push((number, item.spend, item.keyed)),
            other => drop(entered.insert(number, other)),
        }
    }
    let step = |entry: Result<Entry, Problem>| entry.map_or_else(Step::Refused, Step::Entered);
    entered.extend(enter_all(service, asking).await.into_iter().map(|(number, entry)| (number, step(entry))));
    entered.into_values().collect()
}

enum End {
    Told(StatusCode, Box<RawValue>),
    SameAs(usize),
}

async fn ended(service: &Arc<Service>, calls: &Semaphore, step: Step) -> End {
    let ended = match step {
        Step::SameAs(earlier) => return End::SameAs(earlier),
        Step::Refused(problem) => Err(problem),
        Step::Entered(Entry::Done(ended)) => Ok(ended),
        Step::Entered(Entry::Admitted(admitted)) => admitted.charge(service).await,
        Step::Asked(item) => call(service, calls, *item).await,
    };
    match ended.and_then(|ended| ended.result()) {
        Ok(result) => End::Told(StatusCode::OK, result),
        Err(problem) => End::Told(problem.status(), refusal(&problem)),
    }
}

async fn call(service: &Arc<Service>, calls: &Semaphore, item: Item) -> Result<Ended, Problem> {
    // Never closed.
    let _call = calls.acquire().await.map_err(|closed| Problem::internal(&closed))?;
    prompted::charge(Arc::clone(service), item.spend, item.keyed, item.prompt.unwrap_or_default()).await
}

fn refusal(problem: &Problem) -> Box<RawValue> {
    to_raw_value(&problem.body()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
