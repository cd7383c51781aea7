//! Making a flush durable: raw events, totals, states and dead letters, again and again until the stores take them.

use super::{projector::FlushJob, trace};
use ports::{Result, event_log::EventLog, usage_store::UsageStore};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a shutdown waits for stores that are away. What is not flushed is read again from the log.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Writer {
    pub store: Arc<dyn UsageStore>,
    pub log: Arc<dyn EventLog>,
    pub shutdown: CancellationToken,
}

impl Writer {
    /// The job, once it is durable; `None` when a shutdown ended the waiting.
    pub async fn write(self, job: FlushJob) -> Option<FlushJob> {
        let started = Instant::now();
        let events = job.flushes.iter().map(|flush| flush.raw.len()).sum();
        let cells = job.flushes.iter().map(|flush| flush.cells.len()).sum();
        let span = trace::flush_span(&job.traces, events, cells);
        let event_spans = trace::event_spans(&job.traces);
        let done = self.until_durable(&job).instrument(span).await;
        drop(event_spans);
        if !done {
            return None;
        }
        metrics::counter!("projection_applied_total").increment(u64::try_from(events).unwrap_or(u64::MAX));
        metrics::histogram!("projection_flush_seconds").record(started.elapsed());
        Some(job)
    }

    async fn until_durable(&self, job: &FlushJob) -> bool {
        let mut pause = FIRST_PAUSE;
        let mut give_up_at = None;
        let mut outage = false;
        while let Err(error) = self.once(job).await {
            if !outage {
                tracing::warn!(store = error.store(), causes = %causes(&error), "usage cannot be stored; it is kept and tried again");
                outage = true;
            }
            metrics::counter!("projection_flush_failures_total").increment(1);
            if self.shutdown.is_cancelled() && *give_up_at.get_or_insert_with(|| Instant::now() + SHUTDOWN_PATIENCE) <= Instant::now() {
                return false;
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        if outage {
            tracing::info!("usage is stored again");
        }
        true
    }

    /// Everything before this job's offsets is durable when it returns.
    async fn once(&self, job: &FlushJob) -> Result<()> {
        if !job.flushes.is_empty() {
            self.store.write(job.generation, &job.flushes).await?;
        }
        if !job.letters.is_empty() {
            self.log.bury(&job.letters).await?;
        }
        Ok(())
    }
}

pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
