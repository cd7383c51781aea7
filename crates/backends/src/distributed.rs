//! Postgres, Redis, Kafka and Cassandra.

use crate::{Backends, Closing, with_archive};
use adapter_cassandra::Cassandra;
use adapter_embedded::MemoryRateLimits;
use adapter_kafka::{Kafka, KafkaEventLog};
use adapter_postgres::{Databases, Postgres, PostgresSettings};
use adapter_redis::RedisRateLimits;
use anyhow::{Context, Result};
use ports::{Clock, ledger::Ledger, outbox::Outbox};
use secrecy::{ExposeSecret, SecretString};
use service_kit::config::Config;
use std::{future::Future, sync::Arc, time::Duration};

const POSTGRES: &str = "WEIR__POSTGRES__URL";
const FURTHER: &str = "WEIR__POSTGRES__LEDGER_URLS";

pub async fn open(config: &Config, clock: &Clock) -> Result<Backends> {
    let postgres = Postgres::connect(&postgres_settings(config)?).await.context(POSTGRES)?;
    let redis_url = required(config.redis.url.as_ref(), "WEIR__REDIS__URL")?;
    let budget = Duration::from_millis(config.redis.timeout_ms.into());
    let redis = Arc::new(RedisRateLimits::connect(redis_url, &config.redis.prefix, budget).await.context("WEIR__REDIS__URL")?);
    let event_log = KafkaEventLog::connect(kafka(config)?).context("WEIR__KAFKA__BROKERS")?;
    let cassandra = Arc::new(cassandra(config).await?);
    let shared = Arc::new(postgres.clone());
    let (ledger, outbox, close): (Arc<dyn Ledger>, Arc<dyn Outbox>, Close) = if config.postgres.ledger_urls.is_empty() {
        (shared.clone(), shared.clone(), closing(postgres, |postgres| async move { postgres.close().await }))
    } else {
        let databases = open_databases(config, postgres).await?;
        let (ledger, outbox) = (Arc::new(databases.clone()), Arc::new(databases.clone()));
        (ledger, outbox, closing(databases, |databases| async move { databases.close().await }))
    };
    let (archive, outbox) = with_archive(config, outbox);
    Ok(Backends {
        ledger,
        outbox,
        archive,
        settings: shared.clone(),
        accounts: shared.clone(),
        answers: shared.clone(),
        webhooks: shared.clone(),
        replays: shared,
        rate_limits: redis.clone(),
        local_rate_limits: Arc::new(MemoryRateLimits::unrestored(clock.clone())),
        event_log: Arc::new(event_log),
        generations: cassandra.clone(),
        usage_store: cassandra,
        close: after_slices(redis, close),
    })
}

type Close = Arc<dyn Fn() -> Closing + Send + Sync>;

fn closing<S, F>(stores: S, close: fn(S) -> F) -> Close
where
    S: Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    Arc::new(move || Box::pin(close(stores.clone())))
}

/// What this process was lent of the buckets goes back first.
fn after_slices(rate_limits: Arc<RedisRateLimits>, close: Close) -> Close {
    Arc::new(move || {
        let (rate_limits, closing) = (Arc::clone(&rate_limits), close());
        Box::pin(async move {
            rate_limits.close().await;
            closing.await;
        })
    })
}

/// The databases over which the ledger is divided, the first one included.
pub async fn databases(config: &Config) -> Result<Databases> {
    let first = Postgres::connect(&postgres_settings(config)?).await.context(POSTGRES)?;
    open_databases(config, first).await
}

async fn open_databases(config: &Config, first: Postgres) -> Result<Databases> {
    let mut further = Vec::new();
    for settings in further_settings(config) {
        further.push(Postgres::connect(&settings).await.context(FURTHER)?);
    }
    Databases::open(first, further).await.context(FURTHER)
}

pub async fn migrate(config: &Config) -> Result<Vec<String>> {
    let mut steps = vec![format!("postgres: {}", migrate_postgres(&postgres_settings(config)?, POSTGRES).await?)];
    for (number, settings) in (1..).zip(further_settings(config)) {
        let done = migrate_postgres(&settings, FURTHER).await?;
        let further = Postgres::connect(&settings).await.context(FURTHER)?;
        Databases::join(&further).await.context(FURTHER)?;
        further.close().await;
        steps.push(format!("postgres, ledger database {number}: {done}"));
    }
    cassandra(config).await?.migrate().await.context("cassandra")?;
    let kafka = kafka(config)?;
    adapter_kafka::migrate(&kafka).await.context("kafka")?;
    steps.push(format!("cassandra: keyspace {} is up to date", config.cassandra.keyspace));
    steps.push(format!("kafka: topics {} and {} are there", kafka.topics.usage(), kafka.topics.dead_letters()));
    Ok(steps)
}

async fn migrate_postgres(settings: &PostgresSettings, setting: &'static str) -> Result<String> {
    let created = adapter_postgres::create_database(&settings.url).await.context(setting)?;
    let postgres = Postgres::connect(settings).await.context(setting)?;
    postgres.migrate().await.context("postgres")?;
    postgres.close().await;
    Ok(format!("{}the schema is up to date", if created { "the database is created, " } else { "" }))
}

async fn cassandra(config: &Config) -> Result<Cassandra> {
    anyhow::ensure!(!config.cassandra.nodes.is_empty(), missing("WEIR__CASSANDRA__NODES"));
    Cassandra::connect(&config.cassandra.nodes, &config.cassandra.keyspace).await.context("WEIR__CASSANDRA__NODES")
}

fn postgres_settings(config: &Config) -> Result<PostgresSettings> {
    let url = required(config.postgres.url.as_ref(), POSTGRES)?;
    Ok(PostgresSettings { url: url.to_owned(), max_connections: config.postgres.max_connections })
}

fn further_settings(config: &Config) -> impl Iterator<Item = PostgresSettings> {
    let max_connections = config.postgres.max_connections;
    config.postgres.ledger_urls.iter().map(move |url| PostgresSettings { url: url.expose_secret().to_owned(), max_connections })
}

fn kafka(config: &Config) -> Result<Kafka> {
    let brokers = config.kafka.brokers.as_deref().with_context(|| missing("WEIR__KAFKA__BROKERS"))?;
    Ok(Kafka::new(brokers, &config.kafka.topic_prefix))
}

fn required<'a>(secret: Option<&'a SecretString>, name: &str) -> Result<&'a str> {
    secret.map(ExposeSecret::expose_secret).with_context(|| missing(name))
}

fn missing(name: &str) -> String {
    format!("{name} is not set; with `make stack`, load it: set -a; . .local/stack.env; set +a")
}
