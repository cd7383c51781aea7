//! How far behind the projection is.

use super::projector::Projector;
use chrono::{DateTime, Utc};
use domain::ids::Shard;
use ports::{Clock, Result, outbox::Outbox, usage_store::ShardState};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(2);
/// Shards whose oldest waiting event is looked up for the gauge.
const SHARDS_LOOKED_AT: usize = 8;

/// What this process has applied, shared with the gauges. Cheap to clone.
#[derive(Clone, Default)]
pub struct Progress(Arc<Mutex<Applied>>);

#[derive(Default)]
struct Applied {
    states: BTreeMap<Shard, ShardState>,
    stopped: usize,
}

impl Progress {
    pub(super) fn publish(&self, projector: &Projector) {
        let mut applied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        applied.states = projector.states().collect();
        applied.stopped = projector.stopped_shards().count();
    }

    /// Sets the gauges until shutdown.
    pub async fn watch(self, outbox: Arc<dyn Outbox>, clock: Clock, shutdown: CancellationToken) {
        while timeout(EVERY, shutdown.cancelled()).await.is_err() {
            if let Err(error) = self.measure(&*outbox, &clock).await {
                tracing::debug!(error = %error, "the lag of the projection cannot be measured");
            }
        }
    }

    async fn measure(&self, outbox: &dyn Outbox, clock: &Clock) -> Result<()> {
        let heads = outbox.heads().await?;
        let (states, stopped) = {
            let applied = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (applied.states.clone(), applied.stopped)
        };
        let mut behind = Vec::new();
        for head in heads {
            if let Some(state) = states.get(&head.shard)
                && head.last_seq > state.last_seq
            {
                behind.push((head.shard, state.last_seq, head.last_seq - state.last_seq));
            }
        }
        let events: i64 = behind.iter().map(|(_, _, events)| events).sum();
        let mut oldest: Option<DateTime<Utc>> = None;
        for (shard, last_seq, _) in behind.into_iter().take(SHARDS_LOOKED_AT) {
            let next = outbox.read(shard, last_seq, 1).await?.first().map(|row| row.occurred_at);
            oldest = oldest.into_iter().chain(next).min();
        }
        metrics::gauge!("projection_lag_events").set(u32::try_from(events).map_or(f64::MAX, f64::from));
        metrics::gauge!("projection_lag_seconds").set(oldest.map_or(0.0, |oldest| seconds_between(oldest, clock.now())));
        metrics::gauge!("projection_stopped_shards").set(u32::try_from(stopped).map_or(f64::MAX, f64::from));
        Ok(())
    }
}

fn seconds_between(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    (to - from).to_std().unwrap_or_default().as_secs_f64()
}
