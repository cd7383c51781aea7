//! A service in other processes: instances in turn, the next one only where a connection could not be made.

use super::UpstreamError;
use crate::routes::Service;
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts},
    response::Response,
};
use domain::access::Caller;
use service_kit::{
    identity::{self, Identity},
    json::read_body,
    problem::Problem,
    request_context,
};
use std::sync::atomic::{AtomicUsize, Ordering};

const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// They speak of one connection, not of the answer (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

#[derive(Debug)]
pub struct Instances {
    /// `http://host:port`, without a slash at the end.
    bases: Vec<String>,
    client: reqwest::Client,
    turn: AtomicUsize,
}

/// What became of one attempt.
enum Failure {
    /// Nobody received anything.
    NotConnected,
    /// Somebody may have received the request.
    NoAnswer,
    TimedOut,
}

impl Instances {
    pub(super) fn new(urls: &[String], client: reqwest::Client) -> Result<Self, UpstreamError> {
        if urls.is_empty() {
            return Err(UpstreamError::NoUrl);
        }
        let bases = urls.iter().map(|url| base(url).ok_or_else(|| UpstreamError::Url { url: url.clone() })).collect::<Result<_, _>>()?;
        Ok(Self { bases, client, turn: AtomicUsize::new(0) })
    }

    pub(super) async fn send(
        &self,
        service: Service,
        identity: &Identity,
        caller: Option<&Caller>,
        request: Request,
    ) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        if comes_in_lines(&parts.headers) {
            return self.send_lines(service, identity, caller, parts, body).await;
        }
        // Whole before it is sent: an instance is not kept waiting by a slow client, and what was not received can be sent to the next.
        let body = read_body(&parts.headers, body).await?;
        let mut headers = parts.headers;
        headers.remove(header::CONTENT_LENGTH);
        add_our_own(&mut headers, service, identity, caller);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failure = Failure::NotConnected;
        for offset in 0..self.bases.len() {
            let base = &self.bases[first.wrapping_add(offset) % self.bases.len()];
            let attempt = self.client.request(parts.method.clone(), format!("{base}{path}")).headers(headers.clone()).body(body.clone());
            match attempt.send().await {
                Ok(answer) => return Ok(pass_on(answer)),
                Err(error) => failure = Failure::of(&error),
            }
            if !failure.may_try_again(&parts.method) {
                break;
            }
        }
        Err(failure.problem(service))
    }

    /// A body that may have no end is passed on as it comes, to one instance, while its answer comes back.
    async fn send_lines(
        &self,
        service: Service,
        identity: &Identity,
        caller: Option<&Caller>,
        parts: Parts,
        body: Body,
    ) -> Result<Response, Problem> {
        let mut headers = parts.headers;
        headers.remove(header::CONTENT_LENGTH);
        add_our_own(&mut headers, service, identity, caller);
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let base = &self.bases[self.turn.fetch_add(1, Ordering::Relaxed) % self.bases.len()];
        let body = reqwest::Body::wrap_stream(body.into_data_stream());
        let sent = self.client.request(parts.method, format!("{base}{path}")).headers(headers).body(body).send().await;
        sent.map(pass_on).map_err(|error| Failure::of(&error).problem(service))
    }
}

fn comes_in_lines(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    ["application/x-ndjson", "application/ndjson", "application/jsonl"].iter().any(|lines| essence.eq_ignore_ascii_case(lines))
}

impl Failure {
    fn of(error: &reqwest::Error) -> Self {
        if error.is_connect() {
            Self::NotConnected
        } else if error.is_timeout() {
            Self::TimedOut
        } else {
            Self::NoAnswer
        }
    }

    /// A request that may have been received is sent again only where that changes nothing.
    fn may_try_again(&self, method: &Method) -> bool {
        match self {
            Self::NotConnected => true,
            Self::NoAnswer => method == Method::GET || method == Method::HEAD,
            Self::TimedOut => false,
        }
    }

    fn problem(&self, service: Service) -> Problem {
        tracing::warn!(service = service.name(), reason = self.reason(), "a service did not answer");
        metrics::counter!("gateway_upstream_failures_total", "service" => service.name(), "reason" => self.reason()).increment(1);
        Problem::unavailable(service.name(), self.reason())
    }

    const fn reason(&self) -> &'static str {
        match self {
            Self::NotConnected => "the service could not be reached",
            Self::NoAnswer => "the service closed the connection without an answer",
            Self::TimedOut => "the service did not answer in time",
        }
    }
}

fn base(url: &str) -> Option<String> {
    let parsed = reqwest::Url::parse(url).ok()?;
    let plain = parsed.path() == "/" && parsed.query().is_none() && parsed.fragment().is_none() && parsed.username().is_empty();
    let usable = plain && matches!(parsed.scheme(), "http" | "https") && parsed.has_host();
    usable.then(|| url.trim_end_matches('/').to_owned())
}

fn add_our_own(headers: &mut HeaderMap, service: Service, identity: &Identity, caller: Option<&Caller>) {
    let context = request_context::current();
    let request_id = context.as_ref().map_or("", |context| &*context.request_id);
    let mut add = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    if let Some(context) = &context {
        add(CORRELATION_ID, request_id);
        add(TRACEPARENT, &context.trace_parent.to_string());
    }
    if let Some(caller) = caller {
        add(identity::HEADER, &identity.sign(caller, service.audience(), request_id));
    }
}

fn pass_on(answer: reqwest::Response) -> Response {
    let (mut parts, body) = axum::http::Response::<reqwest::Body>::from(answer).into_parts();
    let named: Vec<HeaderName> = parts
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        parts.headers.remove(name);
    }
    parts.version = axum::http::Version::HTTP_11;
    Response::from_parts(parts, Body::new(body))
}
