//! The settings document, its versions and the news of a change.

use crate::Result;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::settings::{Settings, SettingsChange, SettingsEffect};
use std::time::Duration;

/// One entry of the history.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingsVersion {
    pub version: i64,
    pub author: String,
    pub at: DateTime<Utc>,
    pub change: Option<SettingsChange>,
}

#[async_trait]
pub trait SettingsStore: Send + Sync {
    /// The newest document; the shipped one is stored as version 1 when there is none.
    async fn load(&self) -> Result<Settings>;

    /// Applies one change to the newest document and stores the result as a new version.
    async fn change(&self, change: SettingsChange, author: &str, now: DateTime<Utc>) -> Result<(SettingsEffect, Settings)>;

    /// Newest first.
    async fn history(&self, limit: u32) -> Result<Vec<SettingsVersion>>;

    /// Returns when there may be a version after `version`, at the latest after `timeout`.
    async fn wait(&self, version: i64, timeout: Duration);
}
