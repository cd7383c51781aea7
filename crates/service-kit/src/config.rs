//! The settings a process starts with: defaults < `weir.toml` < environment (`WEIR__SECTION__KEY`) < flags.

mod names;
mod sources;

use secrecy::SecretString;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Everything that can be set. The table of names, with their kinds, is in `names.rs`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of the listener, `host:port`.
    pub listen: String,
    /// Folder of the embedded stores and of the last known good settings.
    pub data_dir: PathBuf,
    /// Log level or filter, as in `info,analytics=debug`.
    pub log: String,
    pub stores: Stores,
    pub postgres: Postgres,
    pub redis: Redis,
    pub kafka: Kafka,
    pub cassandra: Cassandra,
    pub admin: Admin,
    pub ledger: Ledger,
    pub providers: Providers,
    pub payment: Upstream,
    pub stubs: Stubs,
    pub config_service: ConfigService,
    pub services: Services,
    pub identity: IdentitySecret,
    pub bench: Bench,
    pub webhooks: Webhooks,
    pub audit: Audit,
    pub archive: Archive,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            data_dir: "weir-data".into(),
            log: "info".into(),
            stores: Stores::default(),
            postgres: Postgres::default(),
            redis: Redis::default(),
            kafka: Kafka::default(),
            cassandra: Cassandra::default(),
            admin: Admin::default(),
            ledger: Ledger::default(),
            providers: Providers::default(),
            payment: Upstream::default(),
            stubs: Stubs::default(),
            config_service: ConfigService::default(),
            services: Services::default(),
            identity: IdentitySecret::default(),
            bench: Bench::default(),
            webhooks: Webhooks::default(),
            audit: Audit::default(),
            archive: Archive::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum StoresMode {
    #[default]
    Embedded,
    Distributed,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stores {
    pub mode: StoresMode,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Postgres {
    pub url: Option<SecretString>,
    /// Further databases for shards of the ledger: numbers 1, 2, …; the one of `url` is 0 and keeps everything else.
    pub ledger_urls: Vec<SecretString>,
    /// To each database.
    pub max_connections: u32,
}

impl Default for Postgres {
    fn default() -> Self {
        Self { url: None, ledger_urls: Vec::new(), max_connections: 16 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    pub url: Option<SecretString>,
    /// Before every key.
    pub prefix: String,
    /// What one call to the buckets may take before each limit follows its `onOutage`, in milliseconds.
    pub timeout_ms: u32,
}

impl Default for Redis {
    fn default() -> Self {
        Self { url: None, prefix: "weir".into(), timeout_ms: 50 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, comma separated.
    pub brokers: Option<String>,
    /// Before every topic: `<prefix>.usage`, `<prefix>.dlq`, …
    pub topic_prefix: String,
}

impl Default for Kafka {
    fn default() -> Self {
        Self { brokers: None, topic_prefix: "weir".into() }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cassandra {
    /// `host:port` of the nodes to ask first.
    pub nodes: Vec<String>,
    pub keyspace: String,
}

impl Default for Cassandra {
    fn default() -> Self {
        Self { nodes: Vec::new(), keyspace: "weir".into() }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The bootstrap administrator's key; generated and shown once when absent.
    pub api_key: Option<SecretString>,
}

/// Where deliveries to webhooks may go.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Also to loopback, link-local, private and reserved addresses, and by `http`: for tests and closed networks.
    pub allow_private_networks: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// The secret that reports are signed with, 64 hexadecimal digits; made in the data folder on first use when absent.
    pub signing_key: Option<SecretString>,
}

/// What becomes of old events.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Archive {
    /// Days for which events stay in the outbox before they are archived; 0: for ever.
    pub keep_days: u32,
    /// Folder of the archive; absent: `archive` in the data folder.
    pub dir: Option<PathBuf>,
}

/// How charges reach the ledger.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LedgerWrite {
    /// Many requests share one transaction.
    #[default]
    Grouped,
    /// One transaction each: exists so that the gain can be measured.
    PerRequest,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ledger {
    pub write: LedgerWrite,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Providers {
    pub openai: Upstream,
    pub gemini: Upstream,
    pub qwen: Upstream,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Absent: the stub.
    pub base_url: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stubs {
    pub qwen: Stub,
    pub gemini: Stub,
    pub openai: Stub,
    pub payment: Stub,
}

impl Default for Stubs {
    fn default() -> Self {
        let local = |port: u16| Stub { listen: Some(format!("127.0.0.1:{port}")) };
        Self { qwen: local(8091), gemini: local(8092), openai: local(8093), payment: local(8094) }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stub {
    /// `host:port`; port 0 takes a free one.
    pub listen: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigService {
    pub url: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Services {
    pub auth: Instances,
    pub token: Instances,
    pub analytics: Instances,
    pub config: Instances,
}

/// Where the instances of one service listen; empty: in this process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Instances {
    pub urls: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySecret {
    /// Signs identities between processes, at least 32 bytes; random when absent, which suits a single process only.
    pub secret: Option<SecretString>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bench {
    /// Serve `POST /bench/echo`, the floor that measurements compare with.
    pub echo: bool,
}

/// A setting that cannot be used. Never shows a value: it may be a secret.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{origin}: there is no setting {name}; the nearest known name is {nearest}")]
    Unknown { origin: String, name: String, nearest: String },
    #[error("setting {name} {message}")]
    Invalid { name: String, message: String },
    #[error("the file {path} named by {name} cannot be read")]
    File {
        name: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the settings file {path} cannot be used: {message}")]
    Syntax { path: PathBuf, message: String },
}

impl Config {
    pub fn archive_dir(&self) -> PathBuf {
        self.archive.dir.clone().unwrap_or_else(|| self.data_dir.join("archive"))
    }

    /// Reads the file (`weir.toml` of the working folder when none is named and it exists), this process's environment and the flags,
    /// given as (dotted name, text), for example `("stores.mode", "distributed")`.
    pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Self, ConfigError> {
        let standard = Path::new("weir.toml");
        let file = file.or_else(|| standard.exists().then_some(standard));
        Self::load_from(file, std::env::vars_os(), flags)
    }

    /// As [`Config::load`], with the environment given.
    pub fn load_from<E, N, V>(file: Option<&Path>, environment: E, flags: &[(&str, String)]) -> Result<Self, ConfigError>
    where
        E: IntoIterator<Item = (N, V)>,
        N: Into<std::ffi::OsString>,
        V: Into<std::ffi::OsString>,
    {
        let config = sources::read(file, environment.into_iter().map(|(name, value)| (name.into(), value.into())), flags)?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        use secrecy::ExposeSecret;
        let invalid = |name: &str, message: &str| Err(ConfigError::Invalid { name: name.into(), message: message.into() });
        if self.identity.secret.as_ref().is_some_and(|secret| secret.expose_secret().len() < 32) {
            return invalid("identity.secret", "must have at least 32 bytes");
        }
        let is_key = |secret: &SecretString| {
            let digits = secret.expose_secret().trim();
            digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        };
        if self.audit.signing_key.as_ref().is_some_and(|secret| !is_key(secret)) {
            return invalid("audit.signing_key", "must be 64 hexadecimal digits, as `openssl rand -hex 32` makes them");
        }
        if self.archive.keep_days > 36_500 {
            return invalid("archive.keep_days", "must be at most 36500 days; 0 keeps events for ever");
        }
        if self.postgres.max_connections == 0 {
            return invalid("postgres.max_connections", "must be at least 1");
        }
        if !(1..=60_000).contains(&self.redis.timeout_ms) {
            return invalid("redis.timeout_ms", "must be between 1 and 60000 milliseconds; 50 is the usual value");
        }
        let services = [&self.services.auth, &self.services.token, &self.services.analytics, &self.services.config];
        let split = services.iter().any(|service| !service.urls.is_empty());
        if split && self.identity.secret.is_none() {
            return invalid("identity.secret", "is required, and the same, in every process when services are reached over HTTP");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
