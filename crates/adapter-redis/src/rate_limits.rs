//! `RateLimits` on Redis: one round trip per call and server, however many requests it decides.

use crate::{
    arguments::Coder, clock::LocalClock, connection::ConnectError, presence::Presence, servers::Servers, slices::Slices, store::Store,
    together::Together,
};
use async_trait::async_trait;
use domain::{
    bucket::{LEASE_MS, Reading},
    ids::Payer,
};
use ports::{
    Clock, Result,
    rate_limits::{Bucket, GiveBack, RateLimits, Take, TakeAnswer, Use},
};
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{task::AbortHandle, time::sleep};

/// Buckets of all processes that use the same servers and prefix.
pub struct RedisRateLimits {
    store: Arc<Store>,
    /// Of one server; in a Cluster each request goes by itself to the places of its buckets.
    together: Option<Together>,
    presence: OnceLock<Presence>,
    returner: AbortHandle,
}

impl RedisRateLimits {
    /// Connects in the background, now and after each failure. `url` names one server or nodes of a Cluster; `prefix` keeps
    /// installations on one server apart; `budget` is what a caller may lose to a silent server before it follows each limit's
    /// `on_outage`.
    ///
    /// # Errors
    /// When the URL or the prefix is not valid; an unreachable server is no error here, calls answer `Unavailable`.
    pub async fn connect(url: &str, prefix: &str, budget: Duration) -> Result<Self, ConnectError> {
        Self::open(url, prefix, budget, None).await
    }

    /// Decides at this clock's time instead of the server's, for histories that jump through time. Production never does.
    ///
    /// # Errors
    /// As [`RedisRateLimits::connect`].
    pub async fn connect_on_clock(url: &str, prefix: &str, budget: Duration, clock: Clock) -> Result<Self, ConnectError> {
        Self::open(url, prefix, budget, Some(clock)).await
    }

    async fn open(url: &str, prefix: &str, budget: Duration, clock: Option<Clock>) -> Result<Self, ConnectError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(allowed) {
            return Err(ConnectError::Prefix);
        }
        let servers = Arc::new(Servers::open(url, budget)?);
        let slices = Slices::new(clock.clone().map_or_else(|| LocalClock::Steady(Instant::now()), LocalClock::Manual));
        let coder = Coder { prefix: prefix.to_owned(), divided: servers.divided(), clock };
        let store = Arc::new(Store { servers, coder, slices });
        let returner = tokio::spawn(return_what_is_left(Arc::clone(&store))).abort_handle();
        let together = (!store.servers.divided()).then(|| Together::over(Arc::clone(&store), budget));
        let limits = Self { store, together, presence: OnceLock::new(), returner };
        // The first request should not pay for the first connection.
        if let Err(error) = limits.ping().await {
            tracing::warn!(%error, "redis does not answer yet");
        }
        Ok(limits)
    }

    /// Gives back what this process was lent, before it ends. Who ends without loses it; it leaves the buckets by itself.
    pub async fn close(&self) {
        self.returner.abort();
        self.store.give_back_rests(self.store.slices.ended(true)).await;
    }
}

impl Drop for RedisRateLimits {
    fn drop(&mut self) {
        self.returner.abort();
    }
}

/// Soon after each lease.
async fn return_what_is_left(store: Arc<Store>) {
    let pause = Duration::from_millis(LEASE_MS.unsigned_abs() / 2);
    loop {
        sleep(pause).await;
        store.give_back_rests(store.slices.ended(false)).await;
    }
}

#[async_trait]
impl RateLimits for RedisRateLimits {
    async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
        match (&self.together, requests) {
            (Some(together), [take]) if !take.buckets.is_empty() => Ok(vec![together.take(take.clone()).await?]),
            _ => self.store.take(requests).await,
        }
    }

    async fn fill(&self, requests: &[Take]) -> Result<()> {
        let entries = requests.iter().flat_map(|request| request.buckets.iter().map(move |bucket| (bucket, request.ask.amount)));
        self.store.fill(&entries.collect::<Vec<_>>()).await
    }

    async fn give_back(&self, requests: &[GiveBack]) -> Result<()> {
        let entries = requests.iter().flat_map(|request| request.buckets.iter().map(move |bucket| (bucket, &request.back)));
        self.store.give_back(&entries.collect::<Vec<_>>()).await
    }

    async fn restore(&self, payer: Payer, uses: &[Use]) -> Result<()> {
        self.store.restore(payer, uses).await
    }

    async fn known_since(&self, payer: Payer) -> Result<Option<i64>> {
        self.store.known_since(payer).await
    }

    async fn forget(&self, payer: Payer) -> Result<()> {
        self.store.forget(payer).await
    }

    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Reading>> {
        self.store.peek(buckets, self.store.servers.deadline()).await
    }

    fn join(&self) {
        self.presence.get_or_init(|| Presence::announce(Arc::clone(&self.store.servers), &self.store.coder.prefix));
    }

    fn processes(&self) -> u32 {
        self.presence.get().map_or(1, Presence::processes)
    }

    async fn ping(&self) -> Result<()> {
        self.store.servers.ping().await
    }
}
