//! Puts services on stores: the only place where both sides meet. Reads top to bottom as a start does.

use crate::roles::{Role, Roles};
use anyhow::{Context, Result, bail};
use audit::Behind;
use auth_service::Bootstrap;
use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
    response::IntoResponse,
};
use backends::Backends;
use domain::ids::Provider;
use gateway::{Upstream, Upstreams};
use ports::Clock;
use service_kit::{
    config::Config,
    health::Health,
    identity::{self, Identity},
    serve,
    settings::HotSettings,
    tasks::Tasks,
};
use std::{collections::BTreeMap, future::Future, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, time::timeout};
use tower::ServiceExt;
use uuid::Uuid;

const HEALTH_INTERVAL: Duration = Duration::from_secs(2);

/// For the question at a start how far the totals are.
const TOTALS_WITHIN: Duration = Duration::from_secs(5);

/// The stores that an audit compares.
pub fn audited(backends: &Backends, clock: Clock) -> audit::Stores {
    audit::Stores {
        ledger: Arc::clone(&backends.ledger),
        outbox: Arc::clone(&backends.outbox),
        event_log: Arc::clone(&backends.event_log),
        usage_store: Arc::clone(&backends.usage_store),
        rate_limits: Arc::clone(&backends.rate_limits),
        settings: Arc::clone(&backends.settings),
        accounts: Arc::clone(&backends.accounts),
        clock,
    }
}

/// The roles of this process, running.
pub struct Platform {
    roles: Roles,
    tasks: Tasks,
    health: Health,
    backends: Option<Backends>,
    bootstrap: Option<Bootstrap>,
    identity: Arc<Identity>,
    front: Option<Router>,
    services: Services,
}

/// What each role of this process serves; `None` for a role that runs elsewhere.
#[derive(Default)]
struct Services {
    auth: Option<Router>,
    token: Option<Router>,
    analytics: Option<Router>,
    config: Option<Router>,
}

/// What starting needs at every step.
struct Start {
    config: Config,
    roles: Roles,
    clock: Clock,
    tasks: Tasks,
    health: Health,
    hot: HotSettings,
    identity: Arc<Identity>,
}

impl Platform {
    pub async fn start(config: Config, roles: Roles) -> Result<Self> {
        let identity = Arc::new(config.identity.secret.as_ref().map_or_else(Identity::random, Identity::new));
        let hot = HotSettings::new(config_service::feed::before_the_first_document());
        // Until the first document arrives.
        hot.set_stale(true);
        let start = Start { config, roles, clock: Clock::System, tasks: Tasks::new(), health: Health::new(), hot, identity };
        let provider_urls = start.provider_stubs().await?;
        let payment_url = start.payment_url().await?;
        let backends = start.stores().await?;
        start.ledger_is_whole(backends.as_ref()).await?;
        let bootstrap = start.bootstrap(backends.as_ref()).await?;
        let services = match &backends {
            Some(backends) => start.services(backends, provider_urls, payment_url)?,
            None => Services::default(),
        };
        let front = start.gateway(&services)?;
        let Start { roles, tasks, health, identity, .. } = start;
        tracing::info!(roles = roles.names(), "started");
        Ok(Self { roles, tasks, health, backends, bootstrap, identity, front, services })
    }

    pub const fn bootstrap(&self) -> Option<&Bootstrap> {
        self.bootstrap.as_ref()
    }

    /// Returns once everything that this process cannot do without has answered.
    pub async fn ready(&self) {
        self.health.ready().await;
    }

    /// What the listener serves: the gateway, or the services of a process without one, which then ask for signed identities.
    pub fn router(&self) -> Router {
        let guarded = |router: &Option<Router>, audience| {
            router.clone().map(|router| identity::require(router, Arc::clone(&self.identity), audience))
        };
        let routers = match &self.front {
            Some(front) => vec![self.beside_followers(front.clone())],
            None => [
                guarded(&self.services.auth, "auth"),
                guarded(&self.services.token, "token"),
                guarded(&self.services.analytics, "analytics"),
                guarded(&self.services.config, "config"),
            ]
            .into_iter()
            .flatten()
            .collect(),
        };
        let merged = routers.into_iter().fold(self.health.routes(), Router::merge);
        serve::standard_layers(merged, self.roles.first().as_str())
    }

    /// Processes that follow the settings of a config-service behind this listener come with a signed identity instead of a key.
    fn beside_followers(&self, front: Router) -> Router {
        let Some(config) = self.services.config.clone() else { return front };
        let config = identity::require(config, Arc::clone(&self.identity), "config");
        front.layer(middleware::from_fn(move |request: Request, next: Next| {
            let config = config.clone();
            async move {
                let follows = request.uri().path().starts_with("/config/") && request.headers().contains_key(identity::HEADER);
                if follows { config.oneshot(unrouted(request)).await.into_response() } else { next.run(request).await }
            }
        }))
    }

    /// Ends background work, then the stores; `false` when something did not finish in time.
    pub async fn stop(self, deadline: Duration) -> bool {
        let finished = self.tasks.shutdown(deadline).await;
        if let Some(backends) = self.backends {
            backends.close().await;
        }
        finished
    }
}

impl Start {
    /// Binds the stubs of providers without a real address; answers where each provider is reached.
    async fn provider_stubs(&self) -> Result<BTreeMap<Provider, String>> {
        let (providers, stubs) = (&self.config.providers, &self.config.stubs);
        let known = [
            ("openai", &providers.openai, &stubs.openai, provider_stubs::openai as fn() -> Router),
            ("gemini", &providers.gemini, &stubs.gemini, provider_stubs::gemini),
            ("qwen", &providers.qwen, &stubs.qwen, provider_stubs::qwen),
        ];
        let mut urls = BTreeMap::new();
        for (name, real, stub, router) in known {
            let provider = Provider::parse(name)?;
            // Asked for by name, the stubs stand beside whatever is real.
            if let Some(url) = &real.base_url
                && (self.roles.is_everything() || !self.roles.has(Role::ProviderStubs))
            {
                urls.insert(provider, url.trim_end_matches('/').to_owned());
                continue;
            }
            let Some(address) = &stub.listen else { continue };
            urls.insert(provider, self.stub(name, address, router).await?);
        }
        Ok(urls)
    }

    /// Where the stub is reached; it is served here where this process plays the stubs.
    async fn stub(&self, name: &str, address: &str, router: fn() -> Router) -> Result<String> {
        if !self.roles.has(Role::ProviderStubs) {
            return Ok(format!("http://{address}"));
        }
        let variable = format!("WEIR__STUBS__{}__LISTEN", name.to_uppercase());
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("the {name} stub cannot listen on {address}; set {variable}"))?;
        let url = format!("http://{}", listener.local_addr()?);
        let serving = serve::serve(listener, router(), self.tasks.token());
        self.tasks.spawn("provider-stub", async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "a stub stopped");
            }
        });
        Ok(url)
    }

    /// As with the providers: the real processor, or the stub.
    async fn payment_url(&self) -> Result<Option<String>> {
        let (real, stub) = (&self.config.payment, &self.config.stubs.payment);
        match (&real.base_url, &stub.listen) {
            (Some(url), _) if self.roles.is_everything() || !self.roles.has(Role::ProviderStubs) => Ok(Some(url.clone())),
            (_, Some(address)) => self.stub("payment", address, provider_stubs::payment).await.map(Some),
            (real, None) => Ok(real.clone()),
        }
    }

    async fn stores(&self) -> Result<Option<Backends>> {
        let with_stores = [Role::AuthService, Role::TokenService, Role::Analytics, Role::ConfigService, Role::OutboxRelay];
        if !self.roles.has_any(&with_stores) {
            return Ok(None);
        }
        let backends = Backends::open(&self.config, &self.clock).await?;
        self.watch_stores(&backends);
        Ok(Some(backends))
    }

    /// Only the ledger is required: without buckets, log or usage store this process still does its work, or waits for them.
    fn watch_stores(&self, backends: &Backends) {
        let (ledger, rate_limits) = (Arc::clone(&backends.ledger), Arc::clone(&backends.rate_limits));
        let (event_log, usage_store) = (Arc::clone(&backends.event_log), Arc::clone(&backends.usage_store));
        self.watch("ledger", true, move || {
            let ledger = Arc::clone(&ledger);
            async move { ledger.ping().await }
        });
        if self.roles.has(Role::TokenService) {
            self.watch("rate-limits", false, move || {
                let rate_limits = Arc::clone(&rate_limits);
                async move { rate_limits.ping().await }
            });
        }
        if self.roles.has_any(&[Role::OutboxRelay, Role::Analytics]) {
            self.watch("event-log", false, move || {
                let event_log = Arc::clone(&event_log);
                async move { event_log.ping().await }
            });
        }
        if self.roles.has(Role::Analytics) {
            self.watch("usage-store", false, move || {
                let usage_store = Arc::clone(&usage_store);
                async move { usage_store.ping().await }
            });
        }
        let hot = self.hot.clone();
        self.watch("settings", false, move || {
            let stale = hot.is_stale();
            async move { if stale { Err("stale: config-service has not answered yet, the last known settings are in force") } else { Ok(()) } }
        });
    }

    fn watch<P, F, E>(&self, name: &str, required: bool, ping: P)
    where
        P: Fn() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send,
        E: std::fmt::Display + Send,
    {
        self.health.watch(&self.tasks, name, required, HEALTH_INTERVAL, ping);
    }

    /// A ledger that was restored to an earlier moment would give numbers anew that the totals have counted: whoever would write to it or
    /// publish it does not start. Where the totals cannot be asked, requests come first.
    async fn ledger_is_whole(&self, backends: Option<&Backends>) -> Result<()> {
        let Some(backends) = backends.filter(|_| self.roles.has_any(&[Role::TokenService, Role::OutboxRelay])) else { return Ok(()) };
        let behind = timeout(TOTALS_WITHIN, audit::behind(&audited(backends, self.clock.clone()))).await;
        match behind.context("no answer in time").and_then(|behind| Ok(behind?)) {
            Ok(behind) => match behind.first() {
                None => Ok(()),
                Some(Behind { shard, last_seq, applied }) => bail!(
                    "the ledger was restored to an earlier moment: shard {shard} ends at event {last_seq}, and its totals count {applied}; \
                     `weir audit` names what is lost, `weir audit --repair` brings it back"
                ),
            },
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "it is not known whether the ledger has everything that the totals count");
                Ok(())
            }
        }
    }

    async fn bootstrap(&self, backends: Option<&Backends>) -> Result<Option<Bootstrap>> {
        match backends {
            Some(backends) if self.roles.has(Role::AuthService) => {
                let key = self.config.admin.api_key.clone();
                Ok(Some(auth_service::bootstrap_admin(backends.accounts.as_ref(), key, self.clock.now()).await?))
            }
            _ => Ok(None),
        }
    }

    fn services(&self, backends: &Backends, provider_urls: BTreeMap<Provider, String>, payment_url: Option<String>) -> Result<Services> {
        self.settings_feed();
        let role = |role| self.roles.has(role);
        let services = Services {
            config: role(Role::ConfigService).then(|| self.config_service(backends)),
            auth: role(Role::AuthService).then(|| self.auth_service(backends)),
            token: role(Role::TokenService).then(|| self.token_service(backends, provider_urls, payment_url)).transpose()?,
            analytics: role(Role::Analytics).then(|| self.analytics(backends)),
        };
        if role(Role::OutboxRelay) {
            let (outbox, event_log) = (Arc::clone(&backends.outbox), Arc::clone(&backends.event_log));
            outbox_relay::start(outbox_relay::Deps { outbox, event_log, clock: self.clock.clone(), owner: Uuid::now_v7() }, &self.tasks);
        }
        Ok(services)
    }

    /// config-service feeds its own process from the store; every other process is fed by config-service.
    fn settings_feed(&self) {
        if self.roles.has(Role::ConfigService) {
            return;
        }
        let urls = self.config_urls();
        let feed = config_service::feed::feed_from_url(
            urls,
            self.hot.clone(),
            Arc::clone(&self.identity),
            Some(self.last_known_good()),
            self.tasks.token(),
        );
        self.tasks.spawn("settings-feed", feed);
    }

    fn config_urls(&self) -> Vec<String> {
        let config = &self.config;
        let named = config.config_service.url.iter().chain(&config.services.config.urls).cloned().collect::<Vec<_>>();
        if named.is_empty() { vec![format!("http://{}", Role::ConfigService.default_listen())] } else { named }
    }

    fn last_known_good(&self) -> PathBuf {
        self.config.data_dir.join("last-known-settings.json")
    }

    fn config_service(&self, backends: &Backends) -> Router {
        let deps = config_service::Deps {
            store: Arc::clone(&backends.settings),
            answers: Arc::clone(&backends.answers),
            settings: self.hot.clone(),
            clock: self.clock.clone(),
            last_known_good: Some(self.last_known_good()),
            usage_topic: format!("{}.usage", self.config.kafka.topic_prefix),
        };
        config_service::start(deps, &self.tasks)
    }

    fn auth_service(&self, backends: &Backends) -> Router {
        let deps = auth_service::Deps {
            accounts: Arc::clone(&backends.accounts),
            answers: Arc::clone(&backends.answers),
            ledger: Arc::clone(&backends.ledger),
            settings: self.hot.clone(),
            clock: self.clock.clone(),
        };
        auth_service::start(deps, &self.tasks)
    }

    fn token_service(&self, backends: &Backends, provider_urls: BTreeMap<Provider, String>, payment_url: Option<String>) -> Result<Router> {
        let allowed = self.config.webhooks.allow_private_networks;
        let networks = if allowed { token_service::Networks::Any } else { token_service::Networks::Public };
        let deps = token_service::Deps {
            ledger: Arc::clone(&backends.ledger),
            rate_limits: Arc::clone(&backends.rate_limits),
            local_rate_limits: Arc::clone(&backends.local_rate_limits),
            accounts: Arc::clone(&backends.accounts),
            answers: Arc::clone(&backends.answers),
            outbox: Arc::clone(&backends.outbox),
            event_log: Arc::clone(&backends.event_log),
            usage_store: Arc::clone(&backends.usage_store),
            webhooks: Arc::clone(&backends.webhooks),
            networks,
            webhook_http: token_service::webhook_client(networks).context("the HTTP client of the webhooks")?,
            settings: self.hot.clone(),
            clock: self.clock.clone(),
            write: self.config.ledger.write,
            provider_urls,
            http: token_service::provider_client().context("the HTTP client of the providers")?,
            payments: payment_url.map_or(token_service::Payments::Nowhere, token_service::Payments::At),
        };
        self.archive_old_events(backends);
        Ok(token_service::start(deps, &self.tasks))
    }

    /// Only where the settings say for how long the outbox keeps events.
    fn archive_old_events(&self, backends: &Backends) {
        let keep_days = self.config.archive.keep_days;
        if keep_days == 0 {
            return;
        }
        let old_events = token_service::OldEvents {
            outbox: Arc::clone(&backends.outbox),
            archive: Arc::clone(&backends.archive),
            usage_store: Arc::clone(&backends.usage_store),
            webhooks: Arc::clone(&backends.webhooks),
            clock: self.clock.clone(),
            keep_days,
        };
        old_events.start(&self.tasks);
    }

    fn analytics(&self, backends: &Backends) -> Router {
        let deps = analytics::Deps {
            stores: audited(backends, self.clock.clone()),
            generations: Arc::clone(&backends.generations),
            replays: Arc::clone(&backends.replays),
            accounts: Arc::clone(&backends.accounts),
            clock: self.clock.clone(),
            group: "weir-analytics".into(),
            limits: analytics::Limits::default(),
        };
        analytics::start(deps, &self.tasks)
    }

    fn gateway(&self, services: &Services) -> Result<Option<Router>> {
        if !self.roles.has(Role::Gateway) {
            return Ok(None);
        }
        let urls = &self.config.services;
        let client = service_kit::client::builder_for_own_services().build().context("the HTTP client of the gateway")?;
        let upstream = |router: &Option<Router>, configured: &[String], role: Role| match router {
            Some(router) => Ok(Upstream::in_process(router.clone())),
            None if configured.is_empty() => Upstream::http(&[format!("http://{}", role.default_listen())], client.clone()),
            None => Upstream::http(configured, client.clone()),
        };
        let upstreams = Upstreams {
            auth: upstream(&services.auth, &urls.auth.urls, Role::AuthService)?,
            token: upstream(&services.token, &urls.token.urls, Role::TokenService)?,
            analytics: upstream(&services.analytics, &urls.analytics.urls, Role::Analytics)?,
            config: upstream(&services.config, &self.config_urls(), Role::ConfigService)?,
        };
        let (identity, health) = (Arc::clone(&self.identity), self.health.clone());
        let deps = gateway::Deps { identity, upstreams, health, bench_echo: self.config.bench.echo };
        Ok(Some(gateway::start(deps, &self.tasks)))
    }
}

/// The request as it came in, without what a router noted about its path.
fn unrouted(request: Request) -> Request {
    let (parts, body) = request.into_parts();
    let mut fresh = Request::new(body);
    (*fresh.method_mut(), *fresh.uri_mut(), *fresh.headers_mut()) = (parts.method, parts.uri, parts.headers);
    fresh
}

/// Gives a user some tokens and spends a few of them, in one line to paste.
pub fn curl_line(address: SocketAddr, key: &str) -> String {
    let user = Uuid::now_v7();
    let call = |path: &str, body: &str| {
        format!("curl -fsS http://{address}{path} -H 'X-Api-Key: {key}' -H 'Content-Type: application/json' -d '{body}'")
    };
    let grant =
        call("/api/v1/admin/pools/grant", &format!(r#"{{"userId":"{user}","provider":"openai","tokens":100000,"reason":"first tokens"}}"#));
    let consume = call("/api/v1/tokens/consume", &format!(r#"{{"userId":"{user}","provider":"openai","tokens":250}}"#));
    format!("{grant} && {consume}")
}
