//! The store of the buckets as a process reaches it: it answers soon or not at all, and what was given up may still be done.

use crate::{link::Link, network::Effect, stores::Buckets};
use async_trait::async_trait;
use domain::{bucket::Reading, ids::Payer};
use ports::{
    Result,
    rate_limits::{Bucket, GiveBack, RateLimits, Take, TakeAnswer, Use},
};
use std::sync::Arc;

pub struct BucketsLink {
    pub buckets: Arc<Buckets>,
    pub link: Link,
}

impl BucketsLink {
    async fn call<T, W, F>(&self, what: &'static str, effect: Effect, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: Fn(Arc<Buckets>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T>> + Send,
    {
        let buckets = Arc::clone(&self.buckets);
        self.link.call(what, effect, move || work(Arc::clone(&buckets))).await
    }
}

#[async_trait]
impl RateLimits for BucketsLink {
    async fn take(&self, requests: &[Take]) -> Result<Vec<TakeAnswer>> {
        let requests: Arc<[Take]> = requests.into();
        let work = move |buckets: Arc<Buckets>| {
            let requests = Arc::clone(&requests);
            async move { buckets.take(&requests).await }
        };
        self.call("buckets.take", Effect::Hurried, work).await
    }

    async fn restore(&self, payer: Payer, uses: &[Use]) -> Result<()> {
        let uses: Arc<[Use]> = uses.into();
        let work = move |buckets: Arc<Buckets>| {
            let uses = Arc::clone(&uses);
            async move { buckets.restore(payer, &uses).await }
        };
        self.call("buckets.restore", Effect::Hurried, work).await
    }

    async fn fill(&self, requests: &[Take]) -> Result<()> {
        let requests: Arc<[Take]> = requests.into();
        let work = move |buckets: Arc<Buckets>| {
            let requests = Arc::clone(&requests);
            async move { buckets.fill(&requests).await }
        };
        self.call("buckets.fill", Effect::Hurried, work).await
    }

    async fn give_back(&self, requests: &[GiveBack]) -> Result<()> {
        let requests: Arc<[GiveBack]> = requests.into();
        let work = move |buckets: Arc<Buckets>| {
            let requests = Arc::clone(&requests);
            async move { buckets.give_back(&requests).await }
        };
        self.call("buckets.give_back", Effect::Hurried, work).await
    }

    async fn known_since(&self, payer: Payer) -> Result<Option<i64>> {
        self.call("buckets.known_since", Effect::Read, move |buckets| async move { buckets.known_since(payer).await }).await
    }

    async fn forget(&self, payer: Payer) -> Result<()> {
        self.call("buckets.forget", Effect::Hurried, move |buckets| async move { buckets.forget(payer).await }).await
    }

    async fn peek(&self, buckets: &[Bucket]) -> Result<Vec<Reading>> {
        self.buckets.peek(buckets).await
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}
