//! `ports::webhooks` in Postgres.

use crate::{
    Postgres,
    error::{bounded, corrupt},
    ledger::{is_org, payer},
    shard::{shard_column, shard_of},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{EventId, Payer, Shard};
use ports::{
    Result,
    webhooks::{Delivery, DeliveryOutcome, DeliveryStatus, Tidings, Webhook, Webhooks},
};
use sqlx::FromRow;
use uuid::Uuid;

#[derive(FromRow)]
struct WebhookRow {
    id: Uuid,
    payer_is_org: bool,
    payer_id: Uuid,
    url: String,
    secret: Vec<u8>,
    created_at: DateTime<Utc>,
}

impl WebhookRow {
    fn webhook(self) -> Result<Webhook> {
        let payer = payer(self.payer_is_org, self.payer_id);
        let secret = self.secret.try_into().map_err(|_| corrupt("a webhook's secret that is not 32 bytes"))?;
        Ok(Webhook { id: self.id, payer, url: self.url, secret, created_at: self.created_at })
    }
}

#[derive(FromRow)]
struct OutcomeRow {
    event_id: Uuid,
    body: String,
    status: String,
    attempts: i32,
    due_at: DateTime<Utc>,
    answered: Option<i32>,
    error: Option<String>,
}

impl OutcomeRow {
    fn delivery(self, webhook_id: Uuid, created_at: DateTime<Utc>) -> Result<Delivery> {
        let status = DeliveryStatus::parse(&self.status).ok_or_else(|| corrupt("a delivery of unknown status"))?;
        let Self { event_id, body, attempts, due_at, answered, error, .. } = self;
        let outcome = DeliveryOutcome { status, attempts, due_at, answered, error };
        Ok(Delivery { webhook_id, event_id: EventId(event_id), body, created_at, outcome })
    }
}

#[derive(FromRow)]
struct DeliveryRow {
    webhook_id: Uuid,
    created_at: DateTime<Utc>,
    #[sqlx(flatten)]
    outcome: OutcomeRow,
}

#[derive(FromRow)]
struct DueRow {
    #[sqlx(flatten)]
    webhook: WebhookRow,
    queued_at: DateTime<Utc>,
    #[sqlx(flatten)]
    outcome: OutcomeRow,
}

#[async_trait]
impl Webhooks for Postgres {
    async fn create(&self, webhook: &Webhook, most: u32) -> Result<bool> {
        let statement = sqlx::query(include_str!("sql/webhooks/create.sql"))
            .bind(webhook.id)
            .bind(is_org(webhook.payer))
            .bind(webhook.payer.tenant())
            .bind(&webhook.url)
            .bind(webhook.secret.as_slice())
            .bind(webhook.created_at)
            .bind(i64::from(most));
        Ok(bounded(statement.execute(&self.pool)).await?.rows_affected() == 1)
    }

    async fn webhooks(&self, payer: Payer) -> Result<Vec<Webhook>> {
        let statement = sqlx::query_as(include_str!("sql/webhooks/list.sql")).bind(is_org(payer)).bind(payer.tenant());
        let rows: Vec<WebhookRow> = bounded(statement.fetch_all(&self.pool)).await?;
        rows.into_iter().map(WebhookRow::webhook).collect()
    }

    async fn delete(&self, payer: Payer, id: Uuid) -> Result<bool> {
        let statement = sqlx::query(include_str!("sql/webhooks/delete.sql")).bind(is_org(payer)).bind(payer.tenant()).bind(id);
        Ok(bounded(statement.execute(&self.pool)).await?.rows_affected() == 1)
    }

    async fn positions(&self) -> Result<Vec<(Shard, i64)>> {
        let statement = sqlx::query_as(include_str!("sql/webhooks/positions.sql"));
        let rows: Vec<(i16, i64)> = bounded(statement.fetch_all(&self.pool)).await?;
        rows.into_iter().map(|(shard, seq)| Ok((shard_of(shard)?, seq))).collect()
    }

    async fn queue(&self, tidings: &[Tidings], positions: &[(Shard, i64)]) -> Result<()> {
        bounded(async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query(include_str!("sql/webhooks/queue.sql"))
                .bind(tidings.iter().map(|news| is_org(news.payer)).collect::<Vec<_>>())
                .bind(tidings.iter().map(|news| news.payer.tenant()).collect::<Vec<_>>())
                .bind(tidings.iter().map(|news| news.event_id.0).collect::<Vec<_>>())
                .bind(tidings.iter().map(|news| news.body.as_str()).collect::<Vec<_>>())
                .bind(tidings.iter().map(|news| news.at).collect::<Vec<_>>())
                .execute(&mut *transaction)
                .await?;
            sqlx::query(include_str!("sql/webhooks/raise_positions.sql"))
                .bind(positions.iter().map(|(shard, _)| shard_column(*shard)).collect::<Vec<_>>())
                .bind(positions.iter().map(|(_, seq)| *seq).collect::<Vec<_>>())
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        })
        .await
    }

    async fn claim_due(&self, now: DateTime<Utc>, until: DateTime<Utc>, limit: u32) -> Result<Vec<(Webhook, Delivery)>> {
        let statement = sqlx::query_as(include_str!("sql/webhooks/claim_due.sql")).bind(now).bind(until).bind(i64::from(limit));
        let rows: Vec<DueRow> = bounded(statement.fetch_all(&self.pool)).await?;
        let due = |row: DueRow| {
            let webhook = row.webhook.webhook()?;
            let delivery = row.outcome.delivery(webhook.id, row.queued_at)?;
            Ok((webhook, delivery))
        };
        rows.into_iter().map(due).collect()
    }

    async fn record(&self, webhook: Uuid, event: EventId, outcome: &DeliveryOutcome) -> Result<()> {
        let statement = sqlx::query(include_str!("sql/webhooks/record.sql"))
            .bind(webhook)
            .bind(event.0)
            .bind(outcome.status.as_str())
            .bind(outcome.attempts)
            .bind(outcome.due_at)
            .bind(outcome.answered)
            .bind(outcome.error.as_deref());
        bounded(statement.execute(&self.pool)).await.map(drop)
    }

    async fn deliveries(&self, payer: Payer, webhook: Uuid, limit: u32) -> Result<Vec<Delivery>> {
        let statement = sqlx::query_as(include_str!("sql/webhooks/deliveries.sql"))
            .bind(is_org(payer))
            .bind(payer.tenant())
            .bind(webhook)
            .bind(i64::from(limit));
        let rows: Vec<DeliveryRow> = bounded(statement.fetch_all(&self.pool)).await?;
        rows.into_iter().map(|row| row.outcome.delivery(row.webhook_id, row.created_at)).collect()
    }

    async fn redeliver(&self, payer: Payer, webhook: Uuid, event: EventId, now: DateTime<Utc>) -> Result<bool> {
        let statement = sqlx::query(include_str!("sql/webhooks/redeliver.sql"))
            .bind(is_org(payer))
            .bind(payer.tenant())
            .bind(webhook)
            .bind(event.0)
            .bind(now);
        Ok(bounded(statement.execute(&self.pool)).await?.rows_affected() == 1)
    }

    async fn forget(&self, before: DateTime<Utc>) -> Result<u64> {
        let statement = sqlx::query(include_str!("sql/webhooks/forget.sql")).bind(before);
        Ok(bounded(statement.execute(&self.pool)).await?.rows_affected())
    }
}
