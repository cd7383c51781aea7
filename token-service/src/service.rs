//! What all handlers share, and the promise that what was begun is told to its end.

use crate::{
    Deps,
    buckets::Buckets,
    group_commit::{GroupCommit, Writer, writer},
    idempotency::Lanes,
    provider_call::Providers,
    purchases::PaymentProcessor,
    quota_stream::Heads,
    rate_record::RateRecord,
    recent_uses::RecentUses,
    refusals::RefusalFold,
    seen::Seen,
    spend_facts::SpendFactsCache,
    webhooks::Networks,
};
use domain::{
    ids::Payer,
    ledger::{Command, Request},
    money::Cost,
    settings::Settings,
};
use ports::{
    Clock,
    accounts::SpendFacts,
    event_log::EventLog,
    ledger::{Idempotency, Ledger, LedgerRequest},
    outbox::Outbox,
    usage_store::UsageStore,
    webhooks::Webhooks,
};
use service_kit::{problem::Problem, request_context, settings::HotSettings};
use std::{future::Future, sync::Arc};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub struct Service {
    pub ledger: Arc<dyn Ledger>,
    pub writer: Writer,
    pub buckets: Buckets,
    pub facts: Arc<SpendFactsCache>,
    pub settings: HotSettings,
    pub clock: Clock,
    pub lanes: Lanes,
    pub providers: Providers,
    pub refusals: RefusalFold,
    pub outbox: Arc<dyn Outbox>,
    pub event_log: Arc<dyn EventLog>,
    pub usage_store: Arc<dyn UsageStore>,
    pub webhooks: Arc<dyn Webhooks>,
    pub networks: Networks,
    pub heads: Arc<Heads>,
    pub payment: PaymentProcessor,
    /// Told when a purchase waits for its next step.
    pub purchases_due: Notify,
    stories: TaskTracker,
}

impl Service {
    pub fn new(deps: Deps, shutdown: CancellationToken) -> (Self, GroupCommit) {
        let (writer, group_commit) = writer(Arc::clone(&deps.ledger), deps.write);
        let facts = Arc::new(SpendFactsCache::new(deps.accounts));
        let recent = RecentUses {
            ledger: Arc::clone(&deps.ledger),
            facts: Arc::clone(&facts),
            settings: deps.settings.clone(),
            clock: deps.clock.clone(),
        };
        let service = Self {
            ledger: deps.ledger,
            writer,
            buckets: Buckets::new(deps.rate_limits, deps.local_rate_limits, recent, deps.clock.clone()),
            facts,
            settings: deps.settings,
            clock: deps.clock,
            lanes: Lanes::default(),
            payment: PaymentProcessor::new(deps.http.clone(), deps.payments),
            purchases_due: Notify::new(),
            providers: Providers::new(deps.http, deps.provider_urls),
            refusals: RefusalFold::default(),
            outbox: deps.outbox,
            event_log: deps.event_log,
            usage_store: deps.usage_store,
            webhooks: deps.webhooks,
            networks: deps.networks,
            heads: Arc::new(Heads::new(shutdown)),
            stories: TaskTracker::new(),
        };
        (service, group_commit)
    }

    /// Runs what changes something as a task of its own: a client that disconnects does not stop it halfway.
    pub async fn to_its_end<T, F>(&self, story: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Problem>> + Send + 'static,
    {
        self.stories.spawn(request_context::carried(story)).await.unwrap_or_else(|panicked| Err(Problem::internal(&panicked)))
    }

    /// After shutdown began: waits for every story in progress.
    pub async fn finish_stories(&self) {
        self.stories.close();
        self.stories.wait().await;
    }

    /// A command as of now, in the trace of the current request. It costs nothing until somebody says what.
    pub fn request(&self, payer: Payer, command: Command, facts: &SpendFacts, idempotency: Option<Idempotency>) -> LedgerRequest {
        let allowance_cap = allowance_cap(&self.settings.current(), payer, facts);
        LedgerRequest {
            request: Request { command, now: self.clock.now(), allowance_cap, cost: None },
            shard: payer.shard(),
            idempotency,
            trace_parent: request_context::current().map(|context| context.trace_parent),
            seen: Vec::new(),
        }
    }
}

/// The request at a cost.
pub fn costing(request: LedgerRequest, cost: Option<Cost>) -> LedgerRequest {
    LedgerRequest { request: Request { cost, ..request.request }, ..request }
}

/// The request with what the limits said of it, for whoever asks later why it was let in.
pub fn having_seen(request: LedgerRequest, rate: &RateRecord, settings: &Settings) -> LedgerRequest {
    LedgerRequest { seen: Seen::of(rate, settings).to_bytes(), ..request }
}

/// What the payer's own tier lets a period grant.
pub fn allowance_cap(settings: &Settings, payer: Payer, facts: &SpendFacts) -> Option<domain::amount::Tokens> {
    let tier = match payer {
        Payer::User(_) => facts.user_tier.as_deref(),
        Payer::Org(_) => facts.org_tier.as_deref(),
    };
    settings.tier(tier).allowance_cap()
}
