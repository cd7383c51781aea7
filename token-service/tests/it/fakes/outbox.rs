//! The events of the fake ledger as an outbox, and webhooks on a list.

use super::FakeLedger;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::{
    event::UsageEvent,
    ids::{EventId, Payer, Shard},
};
use ports::{
    Result,
    outbox::{Outbox, OutboxRow, ShardHead, ShardLease},
    webhooks::{Delivery, DeliveryOutcome, Tidings, Webhook, Webhooks},
};
use std::{sync::Mutex, time::Duration};
use uuid::Uuid;

impl FakeLedger {
    fn rows_of(&self, shard: Shard) -> Vec<OutboxRow> {
        let events = self.events().into_iter().filter(|event| event.payer.shard() == shard);
        let row = |(seq, event): (i64, domain::event::NewEvent)| {
            let event = UsageEvent { recorded_at: event.occurred_at, event, seq, epoch: 1 };
            OutboxRow {
                shard,
                seq,
                epoch: 1,
                event_id: event.event.id.0,
                kind: event.event.kind.as_str().into(),
                tenant: event.event.payer.tenant(),
                occurred_at: event.event.occurred_at,
                trace_parent: None,
                seen: Vec::new(),
                payload: event_codec::encode(&event).unwrap(),
            }
        };
        (1..).zip(events).map(row).collect()
    }
}

#[async_trait]
impl Outbox for FakeLedger {
    async fn read(&self, shard: Shard, after: i64, limit: u32) -> Result<Vec<OutboxRow>> {
        Ok(self.rows_of(shard).into_iter().filter(|row| row.seq > after).take(limit.try_into().unwrap()).collect())
    }
    async fn read_thresholds(&self, _: &[(Shard, i64)], _: u32) -> Result<Vec<OutboxRow>> {
        Ok(Vec::new())
    }
    async fn heads(&self) -> Result<Vec<ShardHead>> {
        let last_seq = |shard| self.rows_of(shard).len().try_into().unwrap();
        let head = |shard| ShardHead { shard, last_seq: last_seq(shard), published_through: 0, archived_through: 0 };
        Ok(Shard::all().map(head).collect())
    }
    async fn acquire_leases(&self, _: Uuid, _: Duration) -> Result<Vec<ShardLease>> {
        unimplemented!("nobody publishes here")
    }
    async fn release_leases(&self, _: Uuid) -> Result<()> {
        unimplemented!("nobody publishes here")
    }
    async fn mark_published(&self, _: &[(ShardLease, i64)]) -> Result<Vec<Shard>> {
        unimplemented!("nobody publishes here")
    }
    async fn wait(&self, _: Duration) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[derive(Default)]
pub struct FakeWebhooks(Mutex<Vec<Webhook>>);

#[async_trait]
impl Webhooks for FakeWebhooks {
    async fn create(&self, webhook: &Webhook, most: u32) -> Result<bool> {
        let mut known = self.0.lock().unwrap();
        let room = known.iter().filter(|known| known.payer == webhook.payer).count() < usize::try_from(most).unwrap();
        known.extend(room.then(|| webhook.clone()));
        Ok(room)
    }
    async fn webhooks(&self, payer: Payer) -> Result<Vec<Webhook>> {
        Ok(self.0.lock().unwrap().iter().filter(|webhook| webhook.payer == payer).cloned().collect())
    }
    async fn delete(&self, payer: Payer, id: Uuid) -> Result<bool> {
        let mut known = self.0.lock().unwrap();
        let before = known.len();
        known.retain(|webhook| (webhook.payer, webhook.id) != (payer, id));
        Ok(known.len() < before)
    }
    async fn positions(&self) -> Result<Vec<(Shard, i64)>> {
        Ok(Vec::new())
    }
    async fn queue(&self, _: &[Tidings], _: &[(Shard, i64)]) -> Result<()> {
        Ok(())
    }
    async fn claim_due(&self, _: DateTime<Utc>, _: DateTime<Utc>, _: u32) -> Result<Vec<(Webhook, Delivery)>> {
        Ok(Vec::new())
    }
    async fn record(&self, _: Uuid, _: EventId, _: &DeliveryOutcome) -> Result<()> {
        Ok(())
    }
    async fn deliveries(&self, _: Payer, _: Uuid, _: u32) -> Result<Vec<Delivery>> {
        Ok(Vec::new())
    }
    async fn redeliver(&self, _: Payer, _: Uuid, _: EventId, _: DateTime<Utc>) -> Result<bool> {
        Ok(false)
    }
    async fn forget(&self, _: DateTime<Utc>) -> Result<u64> {
        Ok(0)
    }
}
