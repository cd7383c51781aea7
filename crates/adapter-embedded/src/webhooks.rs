//! `ports::webhooks` on SQLite.

use crate::{
    Embedded,
    columns::{corrupt, instant, payer, shard},
    database::{Durability, commit, failed},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{EventId, Payer, Shard};
use ports::{
    Result,
    webhooks::{Delivery, DeliveryOutcome, DeliveryStatus, Tidings, Webhook, Webhooks},
};
use sqlx::{Sqlite, query::Query, sqlite::SqliteArguments};
use uuid::Uuid;

struct WebhookRow {
    id: Uuid,
    payer_kind: String,
    tenant: Uuid,
    url: String,
    secret: Vec<u8>,
    created_at: i64,
}

from_row!(WebhookRow { id, payer_kind, tenant, url, secret, created_at });

impl WebhookRow {
    fn webhook(self) -> Result<Webhook> {
        let secret = self.secret.try_into().map_err(|_| corrupt("webhook.secret is not 32 bytes"))?;
        let (payer, created_at) = (payer(&self.payer_kind, self.tenant)?, instant(self.created_at)?);
        Ok(Webhook { id: self.id, payer, url: self.url, secret, created_at })
    }
}

struct OutcomeRow {
    event_id: Uuid,
    body: String,
    status: String,
    attempts: i32,
    due_at: i64,
    answered: Option<i32>,
    error: Option<String>,
}

from_row!(OutcomeRow { event_id, body, status, attempts, due_at, answered, error });

impl OutcomeRow {
    fn delivery(self, webhook_id: Uuid, created_at: i64) -> Result<Delivery> {
        let status = DeliveryStatus::parse(&self.status).ok_or_else(|| corrupt(format!("delivery status {:?}", self.status)))?;
        let Self { event_id, body, attempts, answered, error, .. } = self;
        let outcome = DeliveryOutcome { status, attempts, due_at: instant(self.due_at)?, answered, error };
        Ok(Delivery { webhook_id, event_id: EventId(event_id), body, created_at: instant(created_at)?, outcome })
    }
}

struct DeliveryRow {
    webhook_id: Uuid,
    created_at: i64,
    outcome: OutcomeRow,
}

from_row!(DeliveryRow { webhook_id, created_at } with outcome);

struct DueRow {
    webhook: WebhookRow,
    queued_at: i64,
    outcome: OutcomeRow,
}

from_row!(DueRow { queued_at } with webhook, outcome);

#[async_trait]
impl Webhooks for Embedded {
    async fn create(&self, webhook: &Webhook, most: u32) -> Result<bool> {
        let statement = sqlx::query(include_str!("../sql/create_webhook.sql"))
            .bind(webhook.id)
            .bind(webhook.payer.kind())
            .bind(webhook.payer.tenant())
            .bind(webhook.url.as_str())
            .bind(webhook.secret.as_slice())
            .bind(webhook.created_at.timestamp_millis())
            .bind(most);
        Ok(self.change_webhooks(statement).await? == 1)
    }

    async fn webhooks(&self, payer: Payer) -> Result<Vec<Webhook>> {
        let query = sqlx::query_as::<_, WebhookRow>(include_str!("../sql/list_webhooks.sql")).bind(payer.kind()).bind(payer.tenant());
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(WebhookRow::webhook).collect()
    }

    async fn delete(&self, payer: Payer, id: Uuid) -> Result<bool> {
        let statement = sqlx::query(include_str!("../sql/delete_webhook.sql")).bind(payer.kind()).bind(payer.tenant()).bind(id);
        Ok(self.change_webhooks(statement).await? == 1)
    }

    async fn positions(&self) -> Result<Vec<(Shard, i64)>> {
        let query = sqlx::query_as::<_, (i64, i64)>(include_str!("../sql/webhook_positions.sql"));
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(|(index, seq)| Ok((shard(index)?, seq))).collect()
    }

    async fn queue(&self, tidings: &[Tidings], positions: &[(Shard, i64)]) -> Result<()> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        for news in tidings {
            let statement = sqlx::query(include_str!("../sql/queue_delivery.sql"))
                .bind(news.payer.kind())
                .bind(news.payer.tenant())
                .bind(news.event_id.0)
                .bind(news.body.as_str())
                .bind(news.at.timestamp_millis());
            statement.execute(&mut *transaction).await.map_err(failed)?;
        }
        for (shard, seq) in positions {
            let statement = sqlx::query(include_str!("../sql/raise_webhook_position.sql")).bind(shard.index()).bind(*seq);
            statement.execute(&mut *transaction).await.map_err(failed)?;
        }
        commit(transaction).await
    }

    async fn claim_due(&self, now: DateTime<Utc>, until: DateTime<Utc>, limit: u32) -> Result<Vec<(Webhook, Delivery)>> {
        let due = || sqlx::query_as::<_, DueRow>(include_str!("../sql/due_deliveries.sql")).bind(now.timestamp_millis()).bind(limit);
        // Mostly nothing is due: looked at without taking the writer's place.
        if due().fetch_all(self.inner.main.readers()).await.map_err(failed)?.is_empty() {
            return Ok(Vec::new());
        }
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let rows = due().fetch_all(&mut *transaction).await.map_err(failed)?;
        for row in &rows {
            let claim = sqlx::query(include_str!("../sql/claim_delivery.sql"))
                .bind(row.webhook.id)
                .bind(row.outcome.event_id)
                .bind(until.timestamp_millis());
            claim.execute(&mut *transaction).await.map_err(failed)?;
        }
        commit(transaction).await?;
        let claimed = |row: DueRow| {
            let webhook = row.webhook.webhook()?;
            let mut delivery = row.outcome.delivery(webhook.id, row.queued_at)?;
            delivery.outcome.due_at = until;
            Ok((webhook, delivery))
        };
        rows.into_iter().map(claimed).collect()
    }

    async fn record(&self, webhook: Uuid, event: EventId, outcome: &DeliveryOutcome) -> Result<()> {
        let statement = sqlx::query(include_str!("../sql/record_delivery.sql"))
            .bind(webhook)
            .bind(event.0)
            .bind(outcome.status.as_str())
            .bind(outcome.attempts)
            .bind(outcome.due_at.timestamp_millis())
            .bind(outcome.answered)
            .bind(outcome.error.as_deref());
        self.change_webhooks(statement).await.map(drop)
    }

    async fn deliveries(&self, payer: Payer, webhook: Uuid, limit: u32) -> Result<Vec<Delivery>> {
        let query = sqlx::query_as::<_, DeliveryRow>(include_str!("../sql/list_deliveries.sql"))
            .bind(payer.kind())
            .bind(payer.tenant())
            .bind(webhook)
            .bind(limit);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(|row| row.outcome.delivery(row.webhook_id, row.created_at)).collect()
    }

    async fn redeliver(&self, payer: Payer, webhook: Uuid, event: EventId, now: DateTime<Utc>) -> Result<bool> {
        let statement = sqlx::query(include_str!("../sql/redeliver.sql"))
            .bind(payer.kind())
            .bind(payer.tenant())
            .bind(webhook)
            .bind(event.0)
            .bind(now.timestamp_millis());
        Ok(self.change_webhooks(statement).await? == 1)
    }

    async fn forget(&self, before: DateTime<Utc>) -> Result<u64> {
        self.change_webhooks(sqlx::query(include_str!("../sql/forget_deliveries.sql")).bind(before.timestamp_millis())).await
    }
}

impl Embedded {
    async fn change_webhooks(&self, statement: Query<'_, Sqlite, SqliteArguments>) -> Result<u64> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let changed = statement.execute(&mut *transaction).await.map_err(failed)?.rows_affected();
        commit(transaction).await?;
        Ok(changed)
    }
}
