//! `POST /api/v1/tokens/consume`. Round trips: one to the buckets, one commit shared with whoever else writes now; and with a
//! `prompt` the provider's answer between a hold and its settlement ([`crate::prompted`]).

use crate::{
    buckets::Taken,
    callers::Spender,
    consume_answer::{ConsumeContext, Ended},
    counters, error,
    idempotency::{self, Keyed, Opening, Turn},
    payer::{self, Spend},
    prompted,
    service::{Service, costing, having_seen},
    spend_request::{SpendFields, SpendRequest},
    spending::{Admission, Booked, admit, admit_all, book},
    token_kinds::UsageBody,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use domain::{access::Caller, charge::Metadata, ledger::Command, money::Cost};
use futures::future::join_all;
use ports::ledger::LedgerRequest;
use serde::{Deserialize, Serialize};
use service_kit::{json::StrictJson, problem::Problem, telemetry::TRACE_TARGET};
use std::sync::Arc;
use tracing::Instrument;

/// Names the operation in the scope of its idempotency keys, under both of its paths.
const ENDPOINT: &str = "POST /api/v1/tokens/consume";

/// Fields in alphabetical order: written again, they are the canonical form that fingerprints are made of.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsumeBody {
    /// Of an item in a batch; not part of what is asked for.
    #[serde(skip_serializing)]
    pub idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
}

impl ConsumeBody {
    /// What it asks for, well formed, and the prompt if it has one.
    pub fn parse(self, service: &Service, caller: &Caller) -> Result<(SpendRequest, Option<String>), Problem> {
        let Self { metadata, model, org_id, prompt, provider, tokens, usage, user_id, idempotency_key: _ } = self;
        let fields = SpendFields { user_id, org_id, provider, model, tokens, usage, metadata };
        let request = SpendRequest::parse(fields, caller, &service.settings.current())?;
        Ok((request, prompt.filter(|prompt| !prompt.trim().is_empty())))
    }
}

pub async fn consume(
    State(service): State<Arc<Service>>,
    Spender(caller): Spender,
    headers: HeaderMap,
    StrictJson(body): StrictJson<ConsumeBody>,
) -> Result<Response, Problem> {
    if body.idempotency_key.is_some() {
        return Err(Problem::field("idempotencyKey", "the key of a single consume goes into the header Idempotency-Key"));
    }
    let keyed = idempotency::keyed(&headers, &caller, ENDPOINT, &body)?;
    let (request, prompt) = body.parse(&service, &caller)?;
    let spend = payer::authorise(&service, &caller, request).await?;
    counters::consume_attempted(&spend.provider);
    let span = tracing::info_span!(target: TRACE_TARGET, "consume", provider = spend.provider.as_str());
    let told = Arc::clone(&service);
    let ended = async move {
        match prompt {
            None => service.to_its_end(charge(told, spend, keyed)).await,
            Some(prompt) => service.to_its_end(prompted::charge(told, spend, keyed, prompt)).await,
        }
    };
    ended.instrument(span).await?.respond()
}

/// The story of a consume whose amount is known: charged in one commit.
async fn charge(service: Arc<Service>, spend: Spend, keyed: Option<Keyed>) -> Result<Ended, Problem> {
    match enter(&service, spend, keyed).await? {
        Entry::Done(ended) => Ok(ended),
        Entry::Admitted(admitted) => admitted.charge(&service).await,
    }
}

/// How far a consume comes before the ledger.
pub enum Entry {
    Done(Ended),
    Admitted(Box<Admitted>),
}

/// A consume whose amount is in its buckets.
pub struct Admitted {
    spend: Spend,
    taken: Taken,
    context: ConsumeContext,
    request: LedgerRequest,
    _turn: Option<Turn>,
}

/// One turn under its key, one call to the buckets.
async fn enter(service: &Service, spend: Spend, keyed: Option<Keyed>) -> Result<Entry, Problem> {
    match open(service, spend, keyed).await? {
        Opened::Done(ended) => Ok(Entry::Done(ended)),
        Opened::Ready(ready) => {
            let admission = admit(service, &ready.spend, None, ready.keyed.as_ref()).await?;
            ready.entry(service, admission)
        }
    }
}

/// As [`enter`] for many: a turn under each key, then one call to the buckets for all of them, in their order. The numbers say which is which.
pub async fn enter_all(service: &Service, spends: Vec<(usize, Spend, Option<Keyed>)>) -> Vec<(usize, Result<Entry, Problem>)> {
    let opening = spends.into_iter().map(|(number, spend, keyed)| async move { (number, open(service, spend, keyed).await) });
    let (mut entries, mut ready) = (Vec::new(), Vec::new());
    for (number, opened) in join_all(opening).await {
        match opened {
            Ok(Opened::Ready(own)) => ready.push((number, own)),
            Ok(Opened::Done(ended)) => entries.push((number, Ok(Entry::Done(ended)))),
            Err(problem) => entries.push((number, Err(problem))),
        }
    }
    let asking: Vec<_> = ready.iter().map(|(_, own)| (&own.spend, own.keyed.as_ref())).collect();
    let admissions = admit_all(service, &asking).await;
    for ((number, own), admission) in ready.into_iter().zip(admissions) {
        entries.push((number, admission.and_then(|admission| own.entry(service, admission))));
    }
    entries
}

/// A consume before its buckets.
enum Opened {
    Done(Ended),
    Ready(Box<Ready>),
}

/// Nobody else runs it in this process.
struct Ready {
    spend: Spend,
    keyed: Option<Keyed>,
    cost: Option<Cost>,
    turn: Option<Turn>,
}

async fn open(service: &Service, spend: Spend, keyed: Option<Keyed>) -> Result<Opened, Problem> {
    let cost = spend.cost(service)?;
    match service.open(keyed.as_ref()).await? {
        Opening::Turn(turn) => Ok(Opened::Ready(Box::new(Ready { spend, keyed, cost, turn }))),
        Opening::Done(stored) => Ended::before(stored).map(Opened::Done),
    }
}

impl Ready {
    fn entry(self, service: &Service, admission: Admission) -> Result<Entry, Problem> {
        let Self { spend, keyed, cost, turn } = self;
        let taken = match admission {
            Admission::Admitted(taken) => taken,
            Admission::Done(stored) => return Ended::before(stored).map(Entry::Done),
        };
        let context = ConsumeContext { rate: taken.record.clone(), provider: None };
        let idempotency = match &keyed {
            Some(keyed) => Some(keyed.completes(context.to_bytes()?)),
            None => None,
        };
        let command = Command::Consume { spec: spend.charge(service), tokens: spend.tokens };
        let request = costing(service.request(spend.payer, command, &spend.facts, idempotency), cost);
        let request = having_seen(request, &taken.record, &service.settings.current());
        Ok(Entry::Admitted(Box::new(Admitted { spend, taken, context, request, _turn: turn })))
    }
}

impl Admitted {
    pub async fn charge(self, service: &Service) -> Result<Ended, Problem> {
        match book(service, &self.spend, &self.taken, self.request).await? {
            Booked::New(outcome) => {
                counters::consumed(&self.spend.provider, "allowed");
                Ok(Ended::now(self.context, outcome))
            }
            Booked::Before(stored) => Ended::before(stored),
            // Only a consume with a prompt leaves charges open, and that is another request.
            Booked::LeftOpen(_) => Err(error::idempotency_in_progress()),
        }
    }
}
