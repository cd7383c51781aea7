//! News between processes by LISTEN and NOTIFY: new outbox rows and new settings. Hints only: whoever waits also has a timeout.

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, futures::Notified},
    task::JoinHandle,
    time::{sleep, timeout},
};

const OUTBOX_CHANNEL: &str = "weir_outbox";
const SETTINGS_CHANNEL: &str = "weir_settings";
/// At most one NOTIFY per this time and process. It is a statement of its own, because a NOTIFY inside the ledger's transaction
/// would make all commits of the database queue on one lock.
const NOTIFY_EVERY: Duration = Duration::from_millis(5);
const SILENCE: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_AFTER: Duration = Duration::from_millis(500);

/// A bell that is not lost when nobody is listening yet: everyone who waits wakes, else the next one who comes.
#[derive(Default)]
pub(crate) struct Bell(Notify);

impl Bell {
    fn ring(&self) {
        self.0.notify_waiters();
        self.0.notify_one();
    }

    pub async fn wait(&self, at_most: Duration) {
        let _rang_or_not = timeout(at_most, self.0.notified()).await;
    }

    /// The next ring. Once enabled, it hears every ring, also before it is awaited.
    pub fn next(&self) -> Notified<'_> {
        self.0.notified()
    }
}

#[derive(Default)]
pub(crate) struct Bells {
    pub outbox: Bell,
    pub settings: Bell,
}

pub(crate) struct News {
    bells: Arc<Bells>,
    written: Arc<Notify>,
    teller: JoinHandle<()>,
    listener: std::sync::OnceLock<JoinHandle<()>>,
    options: PgConnectOptions,
}

impl News {
    pub fn start(pool: PgPool, options: PgConnectOptions) -> Self {
        let written = Arc::new(Notify::new());
        let teller = tokio::spawn(tell(pool, Arc::clone(&written)));
        Self { bells: Arc::default(), written, teller, listener: std::sync::OnceLock::new(), options }
    }

    /// Tells every process that the outbox has new rows. Returns at once.
    pub fn rows_written(&self) {
        self.written.notify_one();
    }

    /// The bells that ring in this process. The first call begins to listen.
    pub fn bells(&self) -> &Bells {
        self.listener.get_or_init(|| tokio::spawn(listen(self.options.clone(), Arc::clone(&self.bells))));
        &self.bells
    }

    pub fn stop(&self) {
        self.teller.abort();
        if let Some(listener) = self.listener.get() {
            listener.abort();
        }
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn tell(pool: PgPool, written: Arc<Notify>) {
    loop {
        written.notified().await;
        if let Err(error) = sqlx::query(include_str!("sql/outbox/notify.sql")).bind(OUTBOX_CHANNEL).execute(&pool).await {
            tracing::debug!(%error, "readers of the outbox were not woken; they poll");
        }
        sleep(NOTIFY_EVERY).await;
    }
}

async fn listen(options: PgConnectOptions, bells: Arc<Bells>) {
    loop {
        let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None).connect_lazy_with(options.clone());
        if let Err(error) = listen_until_broken(&pool, &bells).await {
            tracing::debug!(%error, "waiting for news from Postgres is interrupted; readers poll");
        }
        sleep(RECONNECT_AFTER).await;
    }
}

async fn listen_until_broken(pool: &PgPool, bells: &Bells) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen_all([OUTBOX_CHANNEL, SETTINGS_CHANNEL]).await?;
    loop {
        // What was told while nobody listened is unknown: ring both.
        bells.outbox.ring();
        bells.settings.ring();
        while let Some(news) = next_news(&mut listener).await? {
            match news.channel() {
                OUTBOX_CHANNEL => bells.outbox.ring(),
                _ => bells.settings.ring(),
            }
        }
    }
}

/// `None` when the connection was lost and made again. A silent connection is tried now and then: it may be dead without a word.
async fn next_news(listener: &mut PgListener) -> sqlx::Result<Option<PgNotification>> {
    loop {
        if let Ok(news) = timeout(SILENCE, listener.try_recv()).await {
            return news;
        }
        let ping = sqlx::query(include_str!("sql/ping.sql")).execute(&mut *listener);
        timeout(PING_TIMEOUT, ping).await.map_err(|_| sqlx::Error::WorkerCrashed)??;
    }
}
