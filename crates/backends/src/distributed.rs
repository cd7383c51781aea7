//! Postgres, Redis, Kafka and Cassandra.

use crate::Backends;
use adapter_cassandra::Cassandra;
use adapter_embedded::MemoryRateLimits;
use adapter_kafka::{Kafka, KafkaEventLog};
use adapter_postgres::{Postgres, PostgresSettings};
use adapter_redis::RedisRateLimits;
use anyhow::{Context, Result};
use ports::Clock;
use secrecy::{ExposeSecret, SecretString};
use service_kit::config::Config;
use std::{sync::Arc, time::Duration};

pub async fn open(config: &Config, clock: &Clock) -> Result<Backends> {
    let postgres = Postgres::connect(&postgres_settings(config)?).await.context("WEIR__POSTGRES__URL")?;
    let redis_url = required(config.redis.url.as_ref(), "WEIR__REDIS__URL")?;
    let budget = Duration::from_millis(config.redis.timeout_ms.into());
    let redis = RedisRateLimits::connect(redis_url, &config.redis.prefix, budget).await.context("WEIR__REDIS__URL")?;
    let event_log = KafkaEventLog::connect(kafka(config)?).context("WEIR__KAFKA__BROKERS")?;
    let cassandra = cassandra(config).await?;
    let shared = Arc::new(postgres.clone());
    Ok(Backends {
        ledger: shared.clone(),
        outbox: shared.clone(),
        settings: shared.clone(),
        accounts: shared.clone(),
        answers: shared.clone(),
        webhooks: shared,
        rate_limits: Arc::new(redis),
        local_rate_limits: Arc::new(MemoryRateLimits::unrestored(clock.clone())),
        event_log: Arc::new(event_log),
        usage_store: Arc::new(cassandra),
        close: Arc::new(move || {
            let postgres = postgres.clone();
            Box::pin(async move { postgres.close().await })
        }),
    })
}

pub async fn migrate(config: &Config) -> Result<Vec<String>> {
    let settings = postgres_settings(config)?;
    let created = adapter_postgres::create_database(&settings.url).await.context("WEIR__POSTGRES__URL")?;
    let postgres = Postgres::connect(&settings).await.context("WEIR__POSTGRES__URL")?;
    postgres.migrate().await.context("postgres")?;
    postgres.close().await;
    cassandra(config).await?.migrate().await.context("cassandra")?;
    let kafka = kafka(config)?;
    adapter_kafka::migrate(&kafka).await.context("kafka")?;
    Ok(vec![
        format!("postgres: {}the schema is up to date", if created { "the database is created, " } else { "" }),
        format!("cassandra: keyspace {} is up to date", config.cassandra.keyspace),
        format!("kafka: topics {} and {} are there", kafka.topics.usage(), kafka.topics.dead_letters()),
    ])
}

async fn cassandra(config: &Config) -> Result<Cassandra> {
    anyhow::ensure!(!config.cassandra.nodes.is_empty(), missing("WEIR__CASSANDRA__NODES"));
    Cassandra::connect(&config.cassandra.nodes, &config.cassandra.keyspace).await.context("WEIR__CASSANDRA__NODES")
}

fn postgres_settings(config: &Config) -> Result<PostgresSettings> {
    let url = required(config.postgres.url.as_ref(), "WEIR__POSTGRES__URL")?;
    Ok(PostgresSettings { url: url.to_owned(), max_connections: config.postgres.max_connections })
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
