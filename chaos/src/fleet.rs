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
            give_stubs_free_ports(&mut setup);
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

    /// Everything in one process, with these settings too.
    ///
    /// # Errors
    /// With the log of the process when it does not serve.
    pub async fn of_one(installation: &Installation, settings: &[(&str, String)]) -> Result<Self> {
        let mut setup = installation.setup("");
        give_stubs_free_ports(&mut setup);
        for (name, value) in settings {
            setup.set(name, value);
        }
        Ok(Self { front: Process::start(setup).await?, tokens: Vec::new(), relays: Vec::new(), analytics: Vec::new() })
    }

    pub fn url(&self) -> String {
        self.front.setup.url()
    }

    /// Asks all of them to end, the front first, so that what follows finds no lease and no member of a consumer group left.
    ///
    /// # Errors
    /// When one does not end by itself, or has panicked at any time.
    pub async fn stop(mut self) -> Result<()> {
        self.front.stop().await?;
        let others = self.tokens.iter_mut().chain(&mut self.relays).chain(&mut self.analytics);
        futures::future::try_join_all(others.map(Process::stop)).await?;
        let mut all = std::iter::once(&self.front).chain(&self.tokens).chain(&self.relays).chain(&self.analytics);
        all.try_for_each(Process::never_panicked)
    }
}

fn give_stubs_free_ports(setup: &mut Setup) {
    for stub in ["OPENAI", "GEMINI", "QWEN", "PAYMENT"] {
        setup.set(&format!("WEIR__STUBS__{stub}__LISTEN"), &format!("127.0.0.1:{}", own_redis::free_port()));
    }
}
