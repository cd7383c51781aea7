//! The flags that every command which reads settings takes.

use anyhow::{Context, Result};
use service_kit::config::Config;
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct SettingsArgs {
    /// Settings file (TOML); without it `weir.toml` of the working folder, if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the embedded stores and of the last known settings
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Which stores: `embedded` (SQLite and memory) or `distributed` (Postgres, Redis, Kafka, Cassandra)
    #[arg(long, value_name = "MODE")]
    stores: Option<String>,
}

impl SettingsArgs {
    /// Defaults < file < environment (`WEIR__SECTION__KEY`) < these flags and `more`.
    pub fn load(&self, more: &[(&'static str, String)]) -> Result<Config> {
        let mut flags: Vec<(&str, String)> = Vec::new();
        if let Some(data) = &self.data {
            let data = data.to_str().context("--data must be valid UTF-8")?;
            flags.push(("data_dir", data.to_owned()));
        }
        if let Some(stores) = &self.stores {
            flags.push(("stores.mode", stores.clone()));
        }
        flags.extend(more.iter().cloned());
        Ok(Config::load(self.config.as_deref(), &flags)?)
    }
}
