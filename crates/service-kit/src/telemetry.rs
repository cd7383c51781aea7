//! Logs as JSON lines, Prometheus metrics, and traces over OTLP when an endpoint is configured.

mod log_line;
mod traces;

pub use traces::{parent_of, set_parent};

use crate::config::ConfigError;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::{sync::OnceLock, time::Duration};
use tracing_subscriber::{Layer, filter, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

pub use domain::trace_parent::TRACE_TARGET;

/// Upper bounds of the histograms of durations, seconds.
const SECONDS: [f64; 16] = [0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upper bounds of the histograms of sizes (rows of a commit, events of a batch).
const SIZES: [f64; 14] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Sends what is left of the traces when dropped.
#[derive(Debug)]
pub struct Guard {
    traces: Option<traces::Exporter>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(exporter) = self.traces.take() {
            exporter.shutdown();
        }
    }
}

/// Sets up logs, metrics and traces of this process, once, with the levels of the settings (`log`).
pub fn init(service: &str, log: &str) -> Result<Guard, ConfigError> {
    let filter: Targets = log.parse().map_err(|error| ConfigError::Invalid {
        name: "log".into(),
        message: format!("is no log filter such as info or weir=debug: {error}"),
    })?;
    init_metrics();
    let lines = tracing_subscriber::fmt::layer()
        .event_format(log_line::LogLine)
        .with_writer(std::io::stderr)
        .with_filter(filter)
        // Spans go to the traces only: a request costs the log nothing until something happens.
        .with_filter(filter::filter_fn(|metadata| metadata.is_event()));
    let (exporter, layer) = traces::exporter(service).map_or((None, None), |(exporter, layer)| (Some(exporter), Some(layer)));
    // A second call, as tests make, keeps the first subscriber.
    let _ = tracing_subscriber::registry().with(lines).with(layer).try_init();
    Ok(Guard { traces: exporter })
}

/// Installs the recorder behind the `metrics` macros; later calls change nothing.
pub fn init_metrics() {
    METRICS.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        let recorder = builder
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZES))
            .unwrap_or_default()
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder was installed first; /metrics stays empty");
        }
        keep_up(handle.clone());
        handle
    });
}

/// Samples wait in memory until somebody reads them; without this they would pile up while nobody scrapes.
fn keep_up(handle: PrometheusHandle) {
    let upkeep = move || {
        loop {
            std::thread::sleep(Duration::from_secs(5));
            handle.run_upkeep();
        }
    };
    if let Err(error) = std::thread::Builder::new().name("metrics-upkeep".into()).spawn(upkeep) {
        tracing::error!(%error, "the metrics upkeep did not start; memory grows with each sample until /metrics is read");
    }
}

/// The Prometheus text of every metric; empty before [`init`].
pub fn render_metrics() -> String {
    METRICS.get().map(PrometheusHandle::render).unwrap_or_default()
}
