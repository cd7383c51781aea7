//! Books events and says what became of each.

use super::cloud_event::{CloudEvent, Label, Read};
use crate::{
    error,
    json_answer::json_answer,
    payer::{self, Spend},
    service::{Service, costing},
    spend_request::SpendRequest,
    token_kinds::cost_of,
};
use axum::{http::StatusCode, response::Response};
use domain::{
    access::Caller,
    charge::ChargeSpec,
    ids::ChargeId,
    ledger::{Command, Outcome},
};
use futures::future::join_all;
use ports::ledger::{LedgerAnswer, LedgerRequest};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use service_kit::problem::Problem;

/// What became of one event.
pub struct Recorded {
    label: Label,
    end: Result<(Booking, ChargeId), Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Booking {
    Accepted,
    /// Told before, exactly so.
    Duplicate,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    status: u16,
    result: &'a str,
    id: Option<&'a str>,
    source: Option<&'a str>,
    charge_id: ChargeId,
}

/// In order; what several of them say about one name is decided in that order.
pub async fn record_all(service: &Service, caller: &Caller, events: Vec<Read>) -> Vec<Recorded> {
    let ready = join_all(events.into_iter().map(|(label, event)| async move { (label, ready(service, caller, event).await) })).await;
    let recorded = ready.into_iter().map(|(label, request)| async move {
        let end = match request {
            Ok(request) => book(service, request).await,
            Err(problem) => Err(problem),
        };
        Recorded { label, end }
    });
    let recorded = join_all(recorded).await;
    recorded.iter().for_each(|recorded| metrics::counter!("usage_events_total", "result" => recorded.result_name()).increment(1));
    recorded
}

async fn ready(service: &Service, caller: &Caller, event: Result<CloudEvent, Problem>) -> Result<LedgerRequest, Problem> {
    let mut event = event?;
    event.check_time(service.clock.now())?;
    let request = SpendRequest::parse(event.fields(), caller, &service.settings.current())?;
    let spend = payer::authorise(service, caller, request).await?;
    let spec = ChargeSpec { id: ChargeId::of_usage(spend.payer.shard(), event.name_hash(spend.payer)), ..spend.charge(service) };
    let Spend { payer, tokens, facts, kinds, .. } = spend;
    let cost = cost_of(service, &spec, event.occurred_at.unwrap_or_else(|| service.clock.now()), kinds)?;
    Ok(costing(service.request(payer, Command::Record { spec, tokens, occurred_at: event.occurred_at }, &facts, None), cost))
}

async fn book(service: &Service, request: LedgerRequest) -> Result<(Booking, ChargeId), Problem> {
    match service.writer.write(request).await.map_err(|failure| error::write(&failure))? {
        LedgerAnswer::Decided(Outcome::Charged { charge, .. }) => Ok((Booking::Accepted, charge.spec.id)),
        LedgerAnswer::Decided(Outcome::AlreadyRecorded { charge }) => Ok((Booking::Duplicate, charge.spec.id)),
        LedgerAnswer::Decided(other) => Err(error::outcome(&other)),
        LedgerAnswer::Replayed(_) | LedgerAnswer::Mismatch | LedgerAnswer::InProgress | LedgerAnswer::Resumed(_) => {
            Err(error::idempotency_in_progress())
        }
    }
}

impl Recorded {
    pub const fn refused(problem: Problem) -> Self {
        Self { label: Label { id: None, source: None }, end: Err(problem) }
    }

    pub const fn status(&self) -> StatusCode {
        match &self.end {
            Ok(_) => StatusCode::OK,
            Err(problem) => problem.status(),
        }
    }

    pub fn result_name(&self) -> &'static str {
        match &self.end {
            Ok((Booking::Accepted, _)) => "accepted",
            Ok((Booking::Duplicate, _)) => "duplicate",
            Err(problem) => match problem.status() {
                StatusCode::CONFLICT => "conflict",
                status if status.is_server_error() => "failed",
                _ => "refused",
            },
        }
    }

    /// As the answer to a request of its own.
    pub fn respond(self) -> Result<Response, Problem> {
        let name = self.result_name();
        match &self.end {
            Ok((_, charge_id)) => json_answer(StatusCode::OK, &self.answer(*charge_id)),
            Err(problem) => Err(problem.clone().with("result", name)),
        }
    }

    /// As one of many results.
    pub fn result(&self) -> Box<RawValue> {
        let raw = match &self.end {
            Ok((_, charge_id)) => to_raw_value(&self.answer(*charge_id)),
            Err(problem) => {
                let mut body = problem.clone().with("result", self.result_name());
                if let Some(id) = &self.label.id {
                    body = body.with("id", id.as_str());
                }
                if let Some(source) = &self.label.source {
                    body = body.with("source", source.as_str());
                }
                to_raw_value(&body.body())
            }
        };
        raw.unwrap_or_else(|_| RawValue::NULL.to_owned())
    }

    fn answer(&self, charge_id: ChargeId) -> Answer<'_> {
        let (id, source) = (self.label.id.as_deref(), self.label.source.as_deref());
        Answer { status: StatusCode::OK.as_u16(), result: self.result_name(), id, source, charge_id }
    }
}
