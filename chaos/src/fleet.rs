//! The processes of a trial: a front that stays, and token-services, relays and analytics to which something happens.

use crate::{
    installation::Installation,
    process::{Process, Setup},
};
use anyhow::Result;

/// How many of each.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub tokens: usize,
    pub relays: usize,
    pub analytics: usize,
}

pub const ONE_OF_EACH: Sizes = Sizes { tokens: 1, relays: 1, analytics: 1 };
pub const TWO_OF_EACH: Sizes = Sizes { tokens: 2, relays: 2, analytics: 2 };

/// A setting that only the processes of one role get: the address of a proxy.
pub struct Detour {
    pub role: &'static str,
    pub setting: &'static str,
    pub value: String,
}

pub struct Fleet {
    pub front: Process,
    pub tokens: Vec<Process>,
    pub relays: Vec<Process>,
    pub analytics: Vec<Process>,
}

impl Fleet {
    /// Returns when all of them serve.
    ///
    /// # Errors
    /// With the log of the one that does not.
    pub async fn start(installation: &Installation, sizes: Sizes, detours: &[Detour]) -> Result<Self> {
        let setups = |role: &'static str, count: usize| -> Vec<Setup> { (0..count).map(|_| installation.setup(role)).collect() };
        let tokens = setups("token-service", sizes.tokens);
        let relays = setups("outbox-relay", sizes.relays);
        let analytics = setups("analytics", sizes.analytics);
        let front = installation.setup("gateway,auth-service,config-service,provider-stubs");
        let urls = |setups: &[Setup]| setups.iter().map(Setup::url).collect::<Vec<_>>().join(",");
        let (config, token_urls, analytics_urls) = (front.url(), urls(&tokens), urls(&analytics));
        let wired = |mut setup: Setup| {
            setup.set("WEIR__CONFIG_SERVICE__URL", &config);
            setup.set("WEIR__SERVICES__TOKEN__URLS", &token_urls);
            setup.set("WEIR__SERVICES__ANALYTICS__URLS", &analytics_urls);
            for stub in ["OPENAI", "GEMINI", "QWEN", "PAYMENT"] {
                setup.set(&format!("WEIR__STUBS__{stub}__LISTEN"), &format!("127.0.0.1:{}", own_redis::free_port()));
            }
            let roles = setup.roles;
            for detour in detours.iter().filter(|detour| detour.role == roles) {
                setup.set(detour.setting, &detour.value);
            }
            setup
        };
        let front = Process::start(wired(front)).await?;
        let all = |setups: Vec<Setup>| futures::future::try_join_all(setups.into_iter().map(|setup| Process::start(wired(setup))));
        let (tokens, relays, analytics) = futures::future::try_join3(all(tokens), all(relays), all(analytics)).await?;
        Ok(Self { front, tokens, relays, analytics })
    }

    pub fn url(&self) -> String {
        self.front.setup.url()
    }

    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        std::iter::once(&self.front).chain(&self.tokens).chain(&self.relays).chain(&self.analytics)
    }
}
