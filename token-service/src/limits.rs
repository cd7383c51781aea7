//! `POST /api/v1/limits/take`: named limits on whatever the caller names, for request rates and for whoever needs a limiter without a
//! ledger. One call to the buckets and nothing durable.

use crate::{
    buckets::Asked,
    callers::Taker,
    error,
    json_answer::{Instant, json_answer},
    rate_record::{RateFields, RateRecord},
    service::Service,
    spend_request::{amount, required},
};
use axum::{extract::State, http::StatusCode, response::Response};
use domain::{
    access::Caller,
    bucket::Ask,
    settings::{Algorithm, Settings, Tier},
};
use ports::rate_limits::{Bucket, BucketKey, Group};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, SeqAccess, Visitor},
};
use service_kit::{json::StrictJson, problem::Problem};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// Limits of one call.
const MOST_LIMITS: usize = 16;
/// Of a key, UTF-8.
const KEY_BYTES: usize = 255;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TakeBody {
    limit: Option<Names>,
    key: Option<String>,
    amount: Option<i64>,
}

/// One name, or a list of them.
#[derive(Debug)]
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a limit or a list of names")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Names, E> {
                Ok(Names(vec![name.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Names, A::Error> {
                let mut all = Vec::new();
                while let Some(name) = names.next_element()? {
                    all.push(name);
                }
                Ok(Names(all))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TakenAnswer {
    allowed: bool,
    #[serde(flatten)]
    rate: RateFields,
    wait_seconds: i64,
    timestamp: Instant,
}

pub async fn take(
    State(service): State<Arc<Service>>,
    Taker(caller): Taker,
    StrictJson(body): StrictJson<TakeBody>,
) -> Result<Response, Problem> {
    let settings = service.settings.current();
    let (buckets, ask) = parse(body, &caller, &settings)?;
    let record = match service.buckets.take(buckets, ask).await {
        Asked::Allowed(taken) => taken.record,
        Asked::Refused(record) => return Err(refused(&record, &service)),
        Asked::Closed { store } => return Err(counted("closed", error::limits_closed(store))),
    };
    count("allowed");
    let answer = TakenAnswer { allowed: true, rate: record.fields(), wait_seconds: 0, timestamp: Instant(service.clock.now()) };
    let mut response = json_answer(StatusCode::OK, &answer)?;
    record.write(response.headers_mut());
    Ok(response)
}

fn refused(record: &RateRecord, service: &Service) -> Problem {
    counted("rate_limited", record.refusal(service.clock.now()))
}

fn counted(outcome: &'static str, problem: Problem) -> Problem {
    count(outcome);
    problem
}

/// `allowed`, `rate_limited`, `closed`.
fn count(outcome: &'static str) {
    metrics::counter!("limits_take_total", "outcome" => outcome).increment(1);
}

/// One bucket for each named limit, under the caller's own name for whom it limits: two principals never share one.
fn parse(body: TakeBody, caller: &Caller, settings: &Settings) -> Result<(Vec<Bucket>, Ask), Problem> {
    let Names(names) = body.limit.ok_or_else(|| Problem::field("limit", "limit is required"))?;
    let key = required("key", body.key.as_deref())?;
    if key.len() > KEY_BYTES {
        return Err(Problem::field("key", format!("key must be at most {KEY_BYTES} bytes")));
    }
    let asked = body.amount.unwrap_or(1);
    if asked < 1 {
        return Err(Problem::field("amount", "amount must be positive"));
    }
    if names.is_empty() || names.len() > MOST_LIMITS {
        return Err(Problem::field("limit", format!("limit must name 1 to {MOST_LIMITS} limits")));
    }
    if names.iter().collect::<BTreeSet<_>>().len() < names.len() {
        return Err(Problem::field("limit", "limit names one limit twice"));
    }
    let ask = Ask { amount: amount("amount", asked)?, hold: None };
    let (group, owner) = (Group::Principal(caller.principal().into()), Arc::from(key));
    let buckets = names.into_iter().map(|name| bucket(name, &group, &owner, settings)).collect::<Result<_, _>>()?;
    Ok((buckets, ask))
}

fn bucket(name: String, group: &Group, owner: &Arc<str>, settings: &Settings) -> Result<Bucket, Problem> {
    let Some(limit) = settings.limits.get(&name) else {
        let allowed = settings.limits.keys().cloned().collect();
        return Err(Problem::field_allowed("limit", "limit is unknown", allowed));
    };
    if limit.algorithm == Algorithm::Concurrency {
        return Err(Problem::field("limit", format!("the limit {name} counts running holds; only a reserve takes from it")));
    }
    let key =
        BucketKey { group: group.clone(), limit: name.into(), scope: limit.scope, owner: Arc::clone(owner), provider: None, model: None };
    Ok(Bucket { key, rule: limit.bucket(&Tier::NEUTRAL), on_outage: limit.on_outage })
}
