//! Backlog and age of the outbox. Every relay reports all shards, so that a shard nobody owns is seen as well.

use ports::{Clock, Result, outbox::Outbox};
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(outbox: Arc<dyn Outbox>, clock: Clock, shutdown: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match measure(&*outbox, &clock).await {
            Ok((backlog, age_millis)) => {
                metrics::gauge!("outbox_backlog").set(approximate(backlog));
                metrics::gauge!("outbox_age_seconds").set(approximate(age_millis) / 1_000.0);
            }
            Err(error) => tracing::debug!(%error, "the outbox cannot be measured"),
        }
    }
}

/// Rows that are not marked as published, and how long ago the oldest of them occurred.
pub(crate) async fn measure(outbox: &dyn Outbox, clock: &Clock) -> Result<(i64, i64)> {
    let heads = outbox.heads().await?;
    let behind: Vec<_> = heads.iter().filter(|head| head.last_seq > head.published_through).collect();
    let backlog = behind.iter().map(|head| head.last_seq - head.published_through).sum();
    let positions: Vec<_> = behind.iter().map(|head| (head.shard, head.published_through)).collect();
    let oldest = outbox.read_many(&positions, 1).await?.into_iter().map(|row| row.occurred_at).min();
    let age_millis = oldest.map_or(0, |oldest| (clock.now() - oldest).num_milliseconds().max(0));
    Ok((backlog, age_millis))
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a double; backlogs and ages stay far below 2^53")]
pub(crate) fn approximate(number: i64) -> f64 {
    number as f64
}
