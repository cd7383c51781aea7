//! Outgoing HTTP: one way to make a client, with TLS by ring.

use crate::serve::FAREWELL;
use std::{sync::Once, time::Duration};

/// Time to get a connection; a host that is up answers in a fraction of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Shorter than a server of ours keeps an idle connection, so that none closes while it is picked for a request.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// Chooses the crypto of every TLS connection of this process. To be called before any client is made other than by [`builder`].
pub fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Somebody installed one before: theirs is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// As [`builder`], for services of ours: a connection that lay idle for half of a server's farewell is not picked for a request. It could
/// be one on which nothing came during all of it, and that ends at this moment.
pub fn builder_for_own_services() -> reqwest::ClientBuilder {
    builder().pool_idle_timeout(FAREWELL / 2)
}

/// No proxies, no redirects: a request goes where it was sent.
pub fn builder() -> reqwest::ClientBuilder {
    install_crypto();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE)
        .tcp_nodelay(true)
}
