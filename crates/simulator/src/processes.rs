//! The real roles, each in a process of its own that can die or be stopped for a while at any call.

use crate::{
    link::{Life, Link},
    links::{BucketsLink, JournalLink, LogLink, ReplaysLink, UsageLink, payments},
    network::Network,
    stores::{Bank, Buckets, Journal, Log, NoWebhooks, Nobody, ReplayRows, Shipped, Usage, settings},
};
use axum::Router;
use domain::{ids::Shard, settings::Settings};
use idempotency::memory::MemoryAnswers;
use service_kit::{config::LedgerWrite, settings::HotSettings, tasks::Tasks};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};
use token_service::{Networks, provider_client, webhook_client};
use uuid::Uuid;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    TokenService,
    Relay,
    Analytics,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::TokenService, Self::Relay, Self::Analytics];

    /// How many run beside each other, those aside that were stopped and wake up.
    pub const fn processes(self) -> usize {
        match self {
            Self::TokenService => 2,
            Self::Relay | Self::Analytics => 1,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::TokenService => "token-service",
            Self::Relay => "relay",
            Self::Analytics => "analytics",
        }
    }
}

/// The stores, which outlive any process.
#[derive(Clone)]
pub struct Stores {
    pub journal: Arc<Journal>,
    pub log: Arc<Log>,
    pub usage: Arc<Usage>,
    pub bank: Arc<Bank>,
    pub buckets: Arc<Buckets>,
    pub replays: Arc<ReplayRows>,
    settings: Arc<Settings>,
    answers: Arc<MemoryAnswers>,
}

pub struct Process {
    pub role: Role,
    pub name: Arc<str>,
    pub life: Arc<Life>,
    /// Of a token-service and of analytics.
    pub router: Option<Router>,
}

/// Nothing is ever sent by them: there are no providers to call and no webhooks. Making them takes longer than a whole simulation.
static HTTP: LazyLock<Option<(reqwest::Client, reqwest::Client)>> = LazyLock::new(|| {
    // A second call finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Some((provider_client().ok()?, webhook_client(Networks::Public).ok()?))
});

impl Stores {
    pub fn new(network: &Network, shards: &[Shard], limited: bool) -> Self {
        let clock = network.clock();
        Self {
            journal: Arc::new(Journal::new(clock.clone(), shards)),
            log: Arc::new(Log::new(clock.clone(), shards)),
            usage: Arc::default(),
            bank: Arc::new(Bank::new(clock.clone())),
            buckets: Arc::new(Buckets::shared(clock.clone())),
            replays: Arc::new(ReplayRows::new(clock)),
            settings: settings(limited),
            answers: Arc::default(),
        }
    }

    /// As they are, with nothing in between.
    pub fn for_audit(&self, network: &Network) -> audit::Stores {
        audit::Stores {
            ledger: Arc::clone(&self.journal) as _,
            outbox: Arc::clone(&self.journal) as _,
            event_log: Arc::clone(&self.log) as _,
            usage_store: Arc::clone(&self.usage) as _,
            rate_limits: Arc::clone(&self.buckets) as _,
            settings: Arc::new(Shipped(Arc::clone(&self.settings))),
            accounts: Arc::new(Nobody(Arc::default())),
            clock: network.clock(),
        }
    }

    fn through(&self, link: &Link) -> audit::Stores {
        let journal = Arc::new(JournalLink { journal: Arc::clone(&self.journal), link: link.clone() });
        audit::Stores {
            ledger: Arc::clone(&journal) as _,
            outbox: journal,
            event_log: Arc::new(LogLink::new(Arc::clone(&self.log), link.clone())),
            usage_store: Arc::new(UsageLink { usage: Arc::clone(&self.usage), link: link.clone() }),
            rate_limits: Arc::new(BucketsLink { buckets: Arc::clone(&self.buckets), link: link.clone() }),
            accounts: Arc::new(Nobody(Arc::clone(&link.life))),
            ..self.for_audit(&link.network)
        }
    }
}

impl Process {
    /// The `number`th process of the simulation.
    pub fn start(role: Role, number: u64, stores: &Stores, network: &Arc<Network>) -> Self {
        let name: Arc<str> = format!("{} {number}", role.name()).into();
        let life = Arc::new(Life::default());
        let link = Link { network: Arc::clone(network), life: Arc::clone(&life), name: Arc::clone(&name) };
        let (reached, clock, tasks) = (stores.through(&link), network.clock(), life.tasks.clone());
        let router = match role {
            Role::TokenService => token_service(reached, stores, &link, clock, &tasks),
            Role::Relay => {
                let owner = Uuid::from_u128(number.into());
                outbox_relay::start(outbox_relay::Deps { outbox: reached.outbox, event_log: reached.event_log, clock, owner }, &tasks);
                None
            }
            Role::Analytics => {
                let accounts = Arc::clone(&reached.accounts);
                // So few that totals are forgotten and read again all the time.
                let limits = analytics::Limits { cached_cells: 24, ..analytics::Limits::default() };
                let replays = Arc::new(ReplaysLink { rows: Arc::clone(&stores.replays), usage: Arc::clone(&stores.usage), link });
                let generations = Arc::clone(&replays);
                let deps = analytics::Deps { stores: reached, generations, replays, accounts, clock, group: "analytics".into(), limits };
                Some(analytics::start(deps, &tasks))
            }
        };
        Self { role, name, life, router }
    }
}

fn token_service(reached: audit::Stores, stores: &Stores, link: &Link, clock: ports::Clock, tasks: &Tasks) -> Option<Router> {
    let (http, webhook_http) = HTTP.clone()?;
    let deps = token_service::Deps {
        ledger: reached.ledger,
        rate_limits: reached.rate_limits,
        local_rate_limits: Arc::new(Buckets::local(clock.clone())),
        accounts: reached.accounts,
        outbox: reached.outbox,
        event_log: reached.event_log,
        usage_store: reached.usage_store,
        webhooks: Arc::new(NoWebhooks(Arc::clone(&link.life))),
        networks: Networks::Public,
        webhook_http,
        answers: Arc::clone(&stores.answers) as _,
        settings: HotSettings::new(Settings::clone(&stores.settings)),
        clock,
        write: LedgerWrite::Grouped,
        provider_urls: BTreeMap::new(),
        payments: payments(&stores.bank, link),
        http,
    };
    Some(token_service::start(deps, tasks))
}
