//! Lines without an end: read, booked and answered as they come, a few at a time. Memory does not grow with the body, because nothing
//! is read before the client has taken the answers to what was read before.

use super::{
    cloud_event::{CloudEvent, Label},
    lines::{LONGEST_LINE, Line, Lines},
    recording::{Recorded, record_all},
};
use crate::service::Service;
use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use domain::access::Caller;
use futures::stream;
use serde::Serialize;
use serde_json::value::RawValue;
use service_kit::{json::body_problem, problem::Problem, request_context, request_context::RequestContext};
use std::{convert::Infallible, sync::Arc};

/// Lines that are booked together.
const MOST_TOGETHER: usize = 256;

#[derive(Default, Serialize)]
struct Summary {
    lines: u64,
    accepted: u64,
    duplicates: u64,
    conflicts: u64,
    refused: u64,
    failed: u64,
}

struct Ingest {
    service: Arc<Service>,
    caller: Arc<Caller>,
    context: Option<RequestContext>,
    lines: Lines,
    summary: Summary,
    ended: bool,
}

/// One line of JSON for each line, and a summary at the end.
pub fn answer(service: Arc<Service>, caller: Arc<Caller>, body: Body) -> Response {
    let ingest =
        Ingest { service, caller, context: request_context::current(), lines: Lines::new(body), summary: Summary::default(), ended: false };
    let answers = stream::unfold(ingest, |ingest| async move {
        if ingest.ended {
            return None;
        }
        // The body of an answer is written outside of its request's task.
        let (text, ingest) = match ingest.context.clone() {
            Some(context) => request_context::scope(context, ingest.next()).await,
            None => ingest.next().await,
        };
        Some((Ok::<Bytes, Infallible>(text), ingest))
    });
    let mut response = Response::new(Body::from_stream(answers));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

impl Ingest {
    /// The answers to what has come, or the end.
    async fn next(mut self) -> (Bytes, Self) {
        let first = match self.lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return self.end(None),
            Err(error) => return self.end(Some(body_problem(&error))),
        };
        let mut lines = vec![first];
        while lines.len() < MOST_TOGETHER
            && let Some(line) = self.lines.next_received()
        {
            lines.push(line);
        }
        let recorded = record(Arc::clone(&self.service), Arc::clone(&self.caller), &lines).await;
        let mut text = Vec::with_capacity(lines.len() * 192);
        for ((number, _), recorded) in lines.iter().zip(&recorded) {
            self.summary.count(recorded);
            write_result(&mut text, *number, &recorded.result());
        }
        // Without the ledger the rest would fail as well; the client sends it again.
        if let Some(failed) = recorded.iter().find(|recorded| recorded.status() == StatusCode::SERVICE_UNAVAILABLE) {
            tracing::debug!(result = failed.result_name(), "an ingest stopped before its end");
            let problem =
                Problem::unavailable("token-service", "stopped before the end of the body: send the failed and the following lines again");
            let (end, ingest) = self.end(Some(problem));
            text.extend_from_slice(&end);
            return (text.into(), ingest);
        }
        (text.into(), self)
    }

    fn end(mut self, problem: Option<Problem>) -> (Bytes, Self) {
        self.ended = true;
        let mut end = serde_json::Map::new();
        end.insert("summary".into(), serde_json::to_value(&self.summary).unwrap_or_default());
        if let Some(problem) = problem {
            end.insert("problem".into(), problem.body());
        }
        let mut text = serde_json::Value::Object(end).to_string();
        text.push('\n');
        (text.into(), self)
    }
}

/// Begun is done, whether or not the client stays to hear of it.
async fn record(service: Arc<Service>, caller: Arc<Caller>, lines: &[(u64, Line)]) -> Vec<Recorded> {
    let events = lines.iter().map(|(_, line)| match line {
        Line::Text(text) => CloudEvent::structured(text),
        Line::TooLong => (Label::default(), Err(too_long())),
    });
    let (told, events) = (Arc::clone(&service), events.collect());
    let story = service.to_its_end(async move { Ok(record_all(&told, &caller, events).await) }).await;
    story.unwrap_or_else(|problem| lines.iter().map(|_| Recorded::refused(problem.clone())).collect())
}

impl Summary {
    fn count(&mut self, recorded: &Recorded) {
        self.lines += 1;
        let counter = match recorded.result_name() {
            "accepted" => &mut self.accepted,
            "duplicate" => &mut self.duplicates,
            "conflict" => &mut self.conflicts,
            "failed" => &mut self.failed,
            _ => &mut self.refused,
        };
        *counter += 1;
    }
}

fn too_long() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", format!("the line exceeds {LONGEST_LINE} bytes"))
        .with("limitBytes", LONGEST_LINE)
}

/// The result with the number of its line in front.
fn write_result(text: &mut Vec<u8>, number: u64, result: &RawValue) {
    text.extend_from_slice(format!("{{\"line\":{number},").as_bytes());
    text.extend_from_slice(result.get().strip_prefix('{').unwrap_or("}").as_bytes());
    text.push(b'\n');
}
