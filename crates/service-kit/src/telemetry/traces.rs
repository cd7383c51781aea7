//! Spans of the target `weir::trace` as OTLP traces, joined to the W3C `traceparent` that came with a request or an event.

use super::TRACE_TARGET;
use crate::client;
use domain::trace_parent::TraceParent;
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider},
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, Tracer},
};
use std::env;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
use tracing_subscriber::{Layer, filter, registry::LookupSpan};

#[derive(Debug)]
pub(super) struct Exporter(SdkTracerProvider);

impl Exporter {
    pub(super) fn shutdown(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

/// The exporter, when `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` names a collector (OTLP over HTTP).
pub(super) fn exporter<S>(service: &str) -> Option<(Exporter, impl Layer<S> + use<S>)>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let named = |name| env::var(name).is_ok_and(|value| !value.trim().is_empty());
    if !named("OTEL_EXPORTER_OTLP_ENDPOINT") && !named("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        return None;
    }
    client::install_crypto();
    let exporter = match SpanExporter::builder().with_http().build() {
        Ok(exporter) => exporter,
        Err(error) => {
            eprintln!("traces are not exported: {error}");
            return None;
        }
    };
    let resource = Resource::builder().with_service_name(service.to_owned()).build();
    let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build();
    let tracer: Tracer = provider.tracer("weir");
    let layer: OpenTelemetryLayer<S, Tracer> = tracing_opentelemetry::layer().with_tracer(tracer);
    Some((Exporter(provider), layer.with_filter(filter::filter_fn(|metadata| metadata.target() == TRACE_TARGET))))
}

/// Makes a span a child of what the `traceparent` names. Call before the span is entered.
pub fn set_parent(span: &Span, parent: TraceParent) {
    if span.is_disabled() {
        return;
    }
    let remote = SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        TraceFlags::new(parent.flags),
        true,
        TraceState::default(),
    );
    if let Err(error) = span.set_parent(Context::new().with_remote_span_context(remote)) {
        tracing::debug!(%error, "a span did not join its trace");
    }
}

/// The span as the parent of what follows; `None` while nothing is exported.
pub fn parent_of(span: &Span) -> Option<TraceParent> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| TraceParent {
        trace_id: context.trace_id().to_bytes(),
        span_id: context.span_id().to_bytes(),
        flags: context.trace_flags().to_u8(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry;
    use std::{
        io::{Read, Write},
        net::TcpListener,
        process::Command,
        time::Duration,
    };

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// Run by [`a_span_joins_its_trace_and_reaches_the_collector`] in a process of its own, with the collector in its environment.
    #[test]
    #[ignore = "the other half of a test that runs it"]
    fn export_one_span() {
        let guard = telemetry::init("test", "info").unwrap();
        let span = tracing::info_span!(target: TRACE_TARGET, "request");
        let parent: TraceParent = PARENT.parse().unwrap();
        set_parent(&span, parent);
        let own = parent_of(&span).expect("the span is recorded");
        assert_eq!((own.trace_id, own.flags), (parent.trace_id, 1));
        assert_ne!(own.span_id, parent.span_id);
        drop(tracing::info_span!("not ours"));
        drop(span);
        drop(guard);
    }

    #[test]
    fn a_span_joins_its_trace_and_reaches_the_collector() {
        let collector = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", collector.local_addr().unwrap());
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "telemetry::traces::tests::export_one_span", "--ignored", "--nocapture"])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .spawn()
            .unwrap();
        let (mut stream, _) = collector.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let (mut received, mut buffer) = (Vec::new(), [0; 8192]);
        let trace_id = PARENT.parse::<TraceParent>().unwrap().trace_id;
        let contains = |received: &[u8], part: &[u8]| received.windows(part.len()).any(|window| window == part);
        while !contains(&received, &trace_id) {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "the trace did not arrive: {}", String::from_utf8_lossy(&received));
            received.extend_from_slice(&buffer[..count]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        assert!(received.starts_with(b"POST /v1/traces "));
        assert!(contains(&received, b"request") && !contains(&received, b"not ours"));
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn nothing_is_recorded_while_nothing_is_exported() {
        let span = tracing::info_span!(target: TRACE_TARGET, "request");
        set_parent(&span, PARENT.parse().unwrap());
        assert!(parent_of(&span).is_none());
    }
}
