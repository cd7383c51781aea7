//! A settings store in memory that can be taken away, or hold what no store should.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::settings::{Settings, SettingsChange, SettingsEffect};
use ports::{
    Result, StoreError,
    settings::{SettingsStore, SettingsVersion},
};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;

#[derive(Default)]
pub struct MemorySettings {
    document: Mutex<Settings>,
    history: Mutex<Vec<SettingsVersion>>,
    news: Notify,
    pub away: AtomicBool,
    pub loads: AtomicUsize,
}

impl MemorySettings {
    /// Puts any document in, by hand.
    pub fn plant(&self, settings: Settings) {
        *self.document.lock().unwrap() = settings;
        self.news.notify_waiters();
    }

    pub fn document(&self) -> Settings {
        self.document.lock().unwrap().clone()
    }

    fn reach(&self) -> Result<()> {
        if self.away.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("postgres", "connection refused to 10.1.2.3"));
        }
        Ok(())
    }
}

#[async_trait]
impl SettingsStore for MemorySettings {
    async fn load(&self) -> Result<Settings> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.reach()?;
        Ok(self.document())
    }

    async fn change(&self, change: SettingsChange, author: &str, now: DateTime<Utc>) -> Result<(SettingsEffect, Settings)> {
        self.reach()?;
        let mut document = self.document.lock().unwrap();
        let effect = document.apply(change.clone());
        if effect.changed() {
            let entry = SettingsVersion { version: document.version, author: author.to_owned(), at: now, change: Some(change) };
            self.history.lock().unwrap().insert(0, entry);
            self.news.notify_waiters();
        }
        Ok((effect, document.clone()))
    }

    async fn history(&self, limit: u32) -> Result<Vec<SettingsVersion>> {
        self.reach()?;
        Ok(self.history.lock().unwrap().iter().take(usize::try_from(limit).unwrap()).cloned().collect())
    }

    async fn wait(&self, version: i64, timeout: Duration) {
        let news = self.news.notified();
        if self.document().version > version {
            return;
        }
        let _ = tokio::time::timeout(timeout, news).await;
    }
}
