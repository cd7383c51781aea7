//! What every request and every answer of a listener gets: limits on the head, an id, a trace, security headers, problems, metrics.

use super::{matched_route::report_route, route_metrics::RouteMetrics, small_text};
use crate::{
    problem::Problem,
    request_context::{self, RequestContext},
    telemetry::{self, TRACE_TARGET},
};
use axum::{
    Router,
    extract::{MatchedPath, Request},
    response::{IntoResponse, Response},
};
use domain::trace_parent::TraceParent;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::body::Body as HttpBody;
use std::{
    any::Any,
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};
use tower::Service;
use tracing::{Instrument, Span};

pub(crate) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const URI_LIMIT: usize = 8 * 1024;
const HEADER_COUNT_LIMIT: usize = 64;
const HEADER_BYTES_LIMIT: usize = 16 * 1024;
const ID_LIMIT: usize = 64;
/// Route label of what no route matched.
const UNMATCHED: &str = "unmatched";

static SECURITY_HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("permissions-policy"), HeaderValue::from_static("geolocation=(), microphone=(), camera=()")),
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000; includeSubDomains")),
];

/// Wraps a listener's whole router; `service` labels its metrics.
pub fn standard_layers(router: Router, service: &'static str) -> Router {
    let standard = Standard { router: report_route(router), metrics: Arc::new(RouteMetrics::new(service)) };
    Router::new().fallback_service(standard)
}

/// Around the router and not around each of its routes: a layer of axum's is cloned with all that it wraps for each request.
#[derive(Clone)]
struct Standard {
    router: Router,
    metrics: Arc<RouteMetrics>,
}

impl Service<Request> for Standard {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { router, metrics } = self.clone();
        async move { Ok(around(&metrics, request, router).await) }.boxed()
    }
}

async fn around(metrics: &RouteMetrics, request: Request, router: Router) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let (context, span) = context(&request);
    let work = request_context::scope(context.clone(), answer(request, router));
    let mut response = work.instrument(span).await;
    decorate(response.headers_mut(), &context.request_id);
    let route = response.extensions().get::<MatchedPath>().map_or(UNMATCHED, MatchedPath::as_str);
    let (status, took) = (response.status(), started.elapsed());
    metrics.record(route, &method, status, took);
    tracing::debug!(
        correlation_id = &*context.request_id, method = %method, route, status = status.as_u16(), micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        "answered a request"
    );
    response
}

/// Runs the request, turning a panic and what axum answers by itself into problems.
async fn answer(request: Request, mut router: Router) -> Response {
    if let Some(problem) = head_too_large(&request) {
        return problem.into_response();
    }
    let response = match AssertUnwindSafe(router.call(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Err(panic) => return panicked(&*panic).into_response(),
    };
    if is_plain_refusal(&response) { Box::pin(explain(response)).await } else { response }
}

fn context(request: &Request) -> (RequestContext, Span) {
    let headers = request.headers();
    let request_id = headers.get(CORRELATION_ID).and_then(|value| value.to_str().ok()).filter(|id| is_correlation_id(id));
    let request_id = request_id.map_or_else(fresh_id, Arc::from);
    let incoming: Option<TraceParent> = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()?.parse().ok());
    let span = tracing::info_span!(
        target: TRACE_TARGET, "request",
        http.request.method = %request.method(), url.path = request.uri().path(), weir.correlation_id = &*request_id
    );
    if let Some(incoming) = incoming {
        telemetry::set_parent(&span, incoming);
    }
    let trace_parent = telemetry::parent_of(&span).or(incoming).unwrap_or_else(fresh_trace);
    (RequestContext { request_id, path: Arc::from(request.uri().path()), trace_parent }, span)
}

/// `^[A-Za-z0-9_-]{1,64}$`: short enough to store, harmless in a log and a header.
fn is_correlation_id(id: &str) -> bool {
    (1..=ID_LIMIT).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn fresh_id() -> Arc<str> {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
    Arc::from(&*id.hyphenated().encode_lower(&mut text))
}

/// As [`TraceParent::generate`], without asking the operating system for each request's bytes.
fn fresh_trace() -> TraceParent {
    TraceParent { trace_id: rand::random::<u128>().max(1).to_be_bytes(), span_id: rand::random::<u64>().max(1).to_be_bytes(), flags: 0 }
}

fn head_too_large(request: &Request) -> Option<Problem> {
    let uri = request.uri();
    let uri_bytes = uri.path().len() + uri.query().map_or(0, str::len);
    if uri_bytes > URI_LIMIT {
        let problem = Problem::new(StatusCode::URI_TOO_LONG, "uri_too_long", format!("the URI exceeds {URI_LIMIT} bytes"));
        return Some(problem.with("limitBytes", URI_LIMIT));
    }
    let headers = request.headers();
    let too_large = |detail: String| Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail);
    if headers.len() > HEADER_COUNT_LIMIT {
        return Some(too_large(format!("more than {HEADER_COUNT_LIMIT} headers")));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    (bytes > HEADER_BYTES_LIMIT)
        .then(|| too_large(format!("the headers exceed {HEADER_BYTES_LIMIT} bytes")).with("limitBytes", HEADER_BYTES_LIMIT))
}

fn panicked(panic: &(dyn Any + Send)) -> Problem {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let cause = std::io::Error::other(format!("a handler panicked: {}", said.unwrap_or("without a message")));
    Problem::internal(&cause)
}

/// What axum answers by itself (no route, wrong method, unreadable path): nothing, or a line of text.
fn is_plain_refusal(response: &Response) -> bool {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return false;
    }
    let content_type = response.headers().get(header::CONTENT_TYPE);
    content_type.is_none_or(|value| value.as_bytes().starts_with(b"text/plain"))
}

async fn explain(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let text = if body.size_hint().exact().is_some_and(|length| length <= 512) { small_text(body).await } else { String::new() };
    let problem = match parts.status {
        StatusCode::NOT_FOUND => Problem::not_found("there is nothing here"),
        StatusCode::METHOD_NOT_ALLOWED => Problem::new(parts.status, "method_not_allowed", "this method is not allowed here"),
        StatusCode::PAYLOAD_TOO_LARGE => crate::json::too_large(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(parts.status, "unsupported_media_type", "the content type is not accepted"),
        StatusCode::BAD_REQUEST if !text.is_empty() => Problem::field("request", text),
        StatusCode::BAD_REQUEST => Problem::field("request", "the request is invalid"),
        status if status.is_client_error() => Problem::new(status, "validation_failed", "the request is invalid"),
        StatusCode::SERVICE_UNAVAILABLE => Problem::unavailable("weir", "no reason was given"),
        status => Problem::new(status, "internal", "internal error"),
    };
    let mut response = problem.into_response();
    for name in [header::ALLOW, header::RETRY_AFTER, header::WWW_AUTHENTICATE] {
        if let Some(value) = parts.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn decorate(headers: &mut HeaderMap, request_id: &str) {
    for (name, value) in &SECURITY_HEADERS {
        headers.insert(name, value.clone());
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(CORRELATION_ID, id);
    }
}
