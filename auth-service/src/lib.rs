//! auth-service: API keys, organisations and their members, tiers of users and orgs; says who the owner of a key is.

pub mod api_key;
mod authenticate;
mod bootstrap;
mod error;
mod keys;
mod member_limits;
mod members;
mod orgs;
mod page;
mod tiers;

pub use bootstrap::{Bootstrap, BootstrapError, bootstrap_admin};

use api_key::KeyHasher;
use axum::{
    Router,
    routing::{get, post, put},
};
use ports::{Clock, Result, accounts::Accounts, answers::Answers, ledger::Ledger};
use service_kit::{settings::HotSettings, tasks::Tasks};
use std::sync::Arc;
use tokio::sync::OnceCell;

pub struct Deps {
    pub accounts: Arc<dyn Accounts>,
    pub answers: Arc<dyn Answers>,
    /// Keeps the members' limits, where they are decided.
    pub ledger: Arc<dyn Ledger>,
    pub settings: HotSettings,
    pub clock: Clock,
}

#[derive(Clone)]
struct Service {
    accounts: Arc<dyn Accounts>,
    ledger: Arc<dyn Ledger>,
    settings: HotSettings,
    clock: Clock,
    /// Made from the installation's pepper when the first key is seen.
    hasher: Arc<OnceCell<KeyHasher>>,
}

impl Service {
    async fn hasher(&self) -> Result<&KeyHasher> {
        self.hasher.get_or_try_init(|| async { Ok(KeyHasher::new(&self.accounts.pepper().await?)) }).await
    }
}

pub fn start(deps: Deps, tasks: &Tasks) -> Router {
    let Deps { accounts, answers, ledger, settings, clock } = deps;
    tasks.spawn("auth-service.answers", idempotency::forget_old(Arc::clone(&answers), clock.clone(), tasks.token()));
    let service = Service { accounts, ledger, settings, clock: clock.clone(), hasher: Arc::default() };
    let routes = Router::new()
        .route("/api/v1/auth/api-keys", post(keys::create).get(keys::list).delete(keys::revoke))
        .route("/api/v1/auth/api-keys/validate", get(authenticate::validate))
        .route("/api/v1/orgs", post(orgs::create).get(orgs::list))
        .route("/api/v1/orgs/{org}", get(orgs::show))
        .route("/api/v1/orgs/{org}/members", get(members::list))
        .route("/api/v1/orgs/{org}/members/{user}", put(members::put).delete(members::remove))
        .route("/api/v1/admin/users/{user}/tier", put(tiers::put_user))
        .route("/api/v1/admin/orgs/{org}/tier", put(tiers::put_org))
        .route("/internal/v1/authenticate", post(authenticate::internal))
        .route("/internal/v1/revision", get(authenticate::revision))
        .with_state(service);
    idempotency::guard(routes, answers, clock, "auth-service")
}
