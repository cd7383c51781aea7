//! Moves old events from the outbox into the archive. Every process is ready to; what two do at once comes to the same.

use chrono::{NaiveTime, TimeDelta};
use domain::ids::Shard;
use ports::{
    Clock, Result,
    archive::Archive,
    outbox::{Outbox, ShardHead},
    usage_store::UsageStore,
    webhooks::Webhooks,
};
use service_kit::tasks::Tasks;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

const FIRST_AFTER: Duration = Duration::from_secs(1);
const EACH: Duration = Duration::from_secs(3_600);

/// What is needed to archive, and after how many days it is done.
pub struct OldEvents {
    pub outbox: Arc<dyn Outbox>,
    pub archive: Arc<dyn Archive>,
    pub usage_store: Arc<dyn UsageStore>,
    pub webhooks: Arc<dyn Webhooks>,
    pub clock: Clock,
    pub keep_days: u32,
}

impl OldEvents {
    /// Looks at once and then each hour.
    pub fn start(self, tasks: &Tasks) {
        let shutdown = tasks.token();
        tasks.spawn("token-service.archive", async move {
            // Killed between any two of its steps it loses nothing, so shutdown need not wait for a long one.
            shutdown.run_until_cancelled(self.work()).await;
        });
    }

    async fn work(&self) {
        tokio::time::sleep(FIRST_AFTER).await;
        loop {
            match self.round().await {
                Ok(0) => {}
                Ok(events) => {
                    tracing::info!(events, "old events were archived and have left the outbox");
                    metrics::counter!("events_archived_total").increment(u64::try_from(events).unwrap_or(0));
                }
                Err(error) => {
                    metrics::counter!("archive_failures_total").increment(1);
                    tracing::error!(%error, "old events were not archived and stay in the outbox; it is tried again in an hour");
                }
            }
            tokio::time::sleep(EACH).await;
        }
    }

    async fn round(&self) -> Result<i64> {
        let oldest = self.clock.now() - TimeDelta::days(self.keep_days.into());
        // Whole days: what is done again on the same day makes the same files.
        let before = oldest.date_naive().and_time(NaiveTime::MIN).and_utc();
        ::archive::archive_old(&*self.outbox, &*self.archive, before, &self.released().await?).await
    }

    /// Up to which number of each shard the log has the events, the reports count them and the webhooks were told.
    async fn released(&self) -> Result<HashMap<Shard, i64>> {
        let shards: Vec<Shard> = Shard::all().collect();
        let generation = self.usage_store.live_generation().await?;
        let counted = self.usage_store.shard_states(generation, &shards).await?;
        let counted: HashMap<Shard, i64> = shards.iter().copied().zip(counted.iter().map(|state| state.last_seq)).collect();
        let told: BTreeMap<Shard, i64> = self.webhooks.positions().await?.into_iter().collect();
        let told: Vec<(Shard, i64)> = shards.iter().map(|shard| (*shard, told.get(shard).copied().unwrap_or(0))).collect();
        let untold = self.outbox.read_thresholds(&told, 1).await?;
        let untold: HashMap<Shard, i64> = untold.iter().map(|row| (row.shard, row.seq)).collect();
        let heads = self.outbox.heads().await?;
        let counted = |shard: Shard| counted.get(&shard).copied().unwrap_or(0);
        let released = heads.iter().map(|head| (head.shard, released_of(head, counted(head.shard), untold.get(&head.shard).copied())));
        Ok(released.collect())
    }
}

/// `untold` is the first event that webhooks have still to be told about; without one they know everything.
fn released_of(head: &ShardHead, counted: i64, untold: Option<i64>) -> i64 {
    let told = untold.map_or(i64::MAX, |first| first - 1);
    head.published_through.min(counted).min(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_released_once_log_reports_and_webhooks_have_it() {
        let head = |published_through| ShardHead { shard: Shard::new(3).unwrap(), last_seq: 100, published_through, archived_through: 5 };
        for (published, counted, untold, released) in [
            (90, 80, None, 80),
            (70, 80, None, 70),
            (90, 80, Some(61), 60),
            (90, 80, Some(81), 80),
            (90, 0, None, 0),
            (0, 80, None, 0),
            (90, 80, Some(1), 0),
        ] {
            assert_eq!(released_of(&head(published), counted, untold), released, "{published} {counted} {untold:?}");
        }
    }
}
