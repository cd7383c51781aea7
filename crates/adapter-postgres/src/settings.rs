//! `ports::settings` in Postgres: one row per version of the document, changed under a lock, told by NOTIFY.

use crate::{
    Postgres,
    error::{bounded, corrupt},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::settings::{Settings, SettingsChange, SettingsEffect};
use ports::{
    Clock, Result,
    settings::{SettingsStore, SettingsVersion},
};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{FromRow, PgConnection};
use std::{pin::pin, time::Duration};
use tokio::time::{Instant, timeout_at};

#[derive(FromRow)]
struct VersionRow {
    version: i64,
    author: String,
    at: DateTime<Utc>,
    change: Option<String>,
}

#[async_trait]
impl SettingsStore for Postgres {
    async fn load(&self) -> Result<Settings> {
        if let Some(stored) = newest(&self.pool).await? {
            return Ok(stored);
        }
        let shipped = Settings::default();
        let statement = sqlx::query(include_str!("sql/settings/insert_first.sql"))
            .bind(shipped.version)
            .bind(Clock::System.now())
            .bind(json(&shipped)?);
        bounded(statement.execute(&self.pool)).await?;
        // Another process may have been first, and may even have changed it since.
        newest(&self.pool).await?.ok_or_else(|| corrupt("no settings after they were stored"))
    }

    async fn change(&self, change: SettingsChange, author: &str, now: DateTime<Utc>) -> Result<(SettingsEffect, Settings)> {
        self.load().await?;
        let mut transaction = bounded(self.pool.begin()).await?;
        bounded(sqlx::query(include_str!("sql/settings/lock.sql")).execute(&mut *transaction)).await?;
        let mut settings = newest(&mut *transaction).await?.ok_or_else(|| corrupt("settings that vanished"))?;
        let stored_change = json(&change)?;
        let effect = settings.apply(change);
        if effect.changed() {
            let version = VersionRow { version: settings.version, author: author.to_owned(), at: now, change: Some(stored_change) };
            store(&mut transaction, version, json(&settings)?).await?;
            bounded(transaction.commit()).await?;
        }
        Ok((effect, settings))
    }

    async fn history(&self, limit: u32) -> Result<Vec<SettingsVersion>> {
        let statement = sqlx::query_as(include_str!("sql/settings/history.sql")).bind(i64::from(limit));
        let rows: Vec<VersionRow> = bounded(statement.fetch_all(&self.pool)).await?;
        rows.into_iter().map(VersionRow::version).collect()
    }

    async fn wait(&self, version: i64, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        loop {
            // Listens before it looks, so a change between the look and the wait is heard.
            let mut news = pin!(self.news.bells().settings.next());
            news.as_mut().enable();
            if self.has_newer(version).await || timeout_at(deadline, news).await.is_err() {
                return;
            }
        }
    }
}

impl Postgres {
    /// An unanswered question counts as no: the caller waits and asks again.
    async fn has_newer(&self, version: i64) -> bool {
        let newest: Result<i64> = bounded(sqlx::query_scalar(include_str!("sql/settings/newest_version.sql")).fetch_one(&self.pool)).await;
        newest.is_ok_and(|newest| newest > version)
    }
}

impl VersionRow {
    fn version(self) -> Result<SettingsVersion> {
        let change = self.change.as_deref().map(from_json).transpose()?;
        Ok(SettingsVersion { version: self.version, author: self.author, at: self.at, change })
    }
}

async fn newest(executor: impl sqlx::PgExecutor<'_>) -> Result<Option<Settings>> {
    let document: Option<String> = bounded(sqlx::query_scalar(include_str!("sql/settings/newest.sql")).fetch_optional(executor)).await?;
    document.as_deref().map(from_json).transpose()
}

async fn store(connection: &mut PgConnection, row: VersionRow, document: String) -> Result<()> {
    let statement = sqlx::query(include_str!("sql/settings/insert.sql"))
        .bind(row.version)
        .bind(row.author)
        .bind(row.at)
        .bind(row.change)
        .bind(document);
    bounded(statement.execute(connection)).await.map(drop)
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| corrupt(format!("settings that are no JSON: {error}")))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt(format!("stored settings: {error}")))
}
