//! The edge: says which service owns a path, authenticates once, and passes requests on with an identity of our own making.

mod authenticate;
mod pages;
mod routes;
mod upstream;

pub use routes::Service;
pub use upstream::{Upstream, UpstreamError, Upstreams};

use authenticate::Authenticator;
use axum::Router;
use service_kit::{health::Health, identity::Identity, tasks::Tasks};
use std::sync::Arc;

pub struct Deps {
    /// Signs what is sent to services in other processes.
    pub identity: Arc<Identity>,
    pub upstreams: Upstreams,
    /// Gets the dependency `auth-service`, without which nobody can be authenticated.
    pub health: Health,
    /// Serve `POST /bench/echo`: authenticated and parsed like everything else, answered at once.
    pub bench_echo: bool,
}

pub(crate) struct Gateway {
    authenticator: Authenticator,
    upstreams: Upstreams,
    identity: Arc<Identity>,
}

/// Starts watching for revoked keys and returns the routes.
pub fn start(deps: Deps, tasks: &Tasks) -> Router {
    let authenticator = Authenticator::new();
    let gateway = Arc::new(Gateway { authenticator, upstreams: deps.upstreams, identity: deps.identity });
    let dependency = deps.health.dependency_required("auth-service");
    tasks.spawn("key revocations", authenticate::watch_revocations(Arc::clone(&gateway), dependency, tasks.token()));
    routes::router(gateway, deps.bench_echo)
}
