//! The settings document on SQLite: one row per version.

use crate::{
    Embedded,
    columns::{from_json, instant, to_json},
    database::{Durability, commit, failed},
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::settings::{Settings, SettingsChange, SettingsEffect};
use ports::{
    Result,
    settings::{SettingsStore, SettingsVersion},
};
use sqlx::{SqliteConnection, SqliteExecutor};
use std::{pin::pin, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Who made version 1.
const SHIPPED_BY: &str = "weir";

/// A version written past this process, by an operator's command, is noticed within this time.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[async_trait]
impl SettingsStore for Embedded {
    async fn load(&self) -> Result<Settings> {
        if let Some(settings) = newest(self.inner.main.readers()).await? {
            return Ok(settings);
        }
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let settings = newest_or_shipped(&mut transaction, self.inner.clock.now()).await?;
        commit(transaction).await?;
        Ok(settings)
    }

    async fn change(&self, change: SettingsChange, author: &str, now: DateTime<Utc>) -> Result<(SettingsEffect, Settings)> {
        let mut transaction = self.inner.main.begin(Durability::Now).await?;
        let mut settings = newest_or_shipped(&mut transaction, now).await?;
        let description = to_json(&change)?;
        let effect = settings.apply(change);
        if effect.changed() {
            insert(&mut transaction, &settings, author, now, Some(&description)).await?;
        }
        commit(transaction).await?;
        self.inner.settings_written.notify_waiters();
        Ok((effect, settings))
    }

    async fn history(&self, limit: u32) -> Result<Vec<SettingsVersion>> {
        let query = sqlx::query_as::<_, VersionRow>(include_str!("../sql/settings_history.sql")).bind(limit);
        let rows = query.fetch_all(self.inner.main.readers()).await.map_err(failed)?;
        rows.into_iter().map(VersionRow::into_version).collect()
    }

    async fn wait(&self, version: i64, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        loop {
            // Listening before looking: a change between the two is not missed.
            let mut written = pin!(self.inner.settings_written.notified());
            written.as_mut().enable();
            let newest = sqlx::query_scalar::<_, i64>(include_str!("../sql/newest_settings_version.sql"));
            // A store that cannot be read now may have anything new; the caller's own read says more.
            let Ok(newest) = newest.fetch_one(self.inner.main.readers()).await else {
                tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_EVERY)).await;
                return;
            };
            if newest > version || Instant::now() >= deadline {
                return;
            }
            let _ = timeout_at(deadline.min(Instant::now() + LOOK_EVERY), written).await;
        }
    }
}

async fn newest(executor: impl SqliteExecutor<'_>) -> Result<Option<Settings>> {
    let query = sqlx::query_scalar::<_, String>(include_str!("../sql/newest_settings.sql"));
    let document = query.fetch_optional(executor).await.map_err(failed)?;
    document.map(|document| from_json("settings_version.document", &document)).transpose()
}

async fn newest_or_shipped(connection: &mut SqliteConnection, now: DateTime<Utc>) -> Result<Settings> {
    if let Some(settings) = newest(&mut *connection).await? {
        return Ok(settings);
    }
    let shipped = Settings::default();
    insert(connection, &shipped, SHIPPED_BY, now, None).await?;
    Ok(shipped)
}

async fn insert(
    connection: &mut SqliteConnection,
    settings: &Settings,
    author: &str,
    now: DateTime<Utc>,
    change: Option<&str>,
) -> Result<()> {
    let query = sqlx::query(include_str!("../sql/insert_settings.sql"))
        .bind(settings.version)
        .bind(author)
        .bind(now.timestamp_millis())
        .bind(change)
        .bind(to_json(settings)?);
    query.execute(connection).await.map_err(failed)?;
    Ok(())
}

#[derive(Debug)]
struct VersionRow {
    version: i64,
    author: String,
    at: i64,
    change: Option<String>,
}

from_row!(VersionRow { version, author, at, change });

impl VersionRow {
    fn into_version(self) -> Result<SettingsVersion> {
        let change = self.change.as_deref().map(|change| from_json("settings_version.change", change)).transpose()?;
        Ok(SettingsVersion { version: self.version, author: self.author, at: instant(self.at)?, change })
    }
}
