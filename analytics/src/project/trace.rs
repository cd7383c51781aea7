//! The events' traces go on to the store: one span per sampled event around the write, and links from the flush to all of them.

use domain::trace_parent::{TRACE_TARGET, TraceParent};
use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Sampled events whose traces one flush continues; of the others the flush still holds the data.
pub const LINKS_PER_FLUSH: usize = 32;

/// The trace of an event that somebody collects.
pub fn sampled(text: &str) -> Option<TraceParent> {
    text.parse::<TraceParent>().ok().filter(|parent| parent.flags & 1 == 1)
}

fn span_context(parent: &TraceParent) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id),
        SpanId::from_bytes(parent.span_id),
        TraceFlags::new(parent.flags),
        true,
        TraceState::default(),
    )
}

/// The span of a whole flush.
pub fn flush_span(traces: &[TraceParent], events: usize, cells: usize) -> Span {
    let span = tracing::info_span!(target: TRACE_TARGET, "analytics.flush", events, cells);
    for parent in traces {
        span.add_link(span_context(parent));
    }
    span
}

/// One span in each event's own trace; they end when they are dropped, after the write.
pub fn event_spans(traces: &[TraceParent]) -> Vec<Span> {
    let span_of = |parent: &TraceParent| {
        let span = tracing::info_span!(target: TRACE_TARGET, parent: None, "analytics.store_usage");
        // Without an exporter there is nothing to attach to.
        let _ = span.set_parent(Context::new().with_remote_span_context(span_context(parent)));
        span
    };
    traces.iter().map(span_of).collect()
}
