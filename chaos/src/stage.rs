//! What a scenario plays on: servers, an installation, and in each trial processes under load whose every answer is compared in the end.

use crate::{
    fleet::{Detour, Fleet, Sizes},
    installation::Installation,
    journal::{self, Payer},
    load::{Api, Load, Means},
    proxy::Proxy,
    scenarios::Scenario,
    stack::Stack,
    table::Row,
};
use anyhow::{Context, Result, bail};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::time::sleep;

const PAYERS: usize = 4;
/// Answered before the first fault, so that everything is warm.
const REQUESTS_BEFORE: u64 = 60;
/// And after the last one.
const REQUESTS_AFTER: u64 = 60;
/// For as many faults as are ordered to happen.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(20);

pub struct Stage {
    pub stack: Stack,
    weir: PathBuf,
    installation: Option<Installation>,
    random: StdRng,
    how: How,
}

/// What somebody who runs it may choose.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Of the pauses between faults.
    pub seed: u64,
    /// Who spend at once.
    pub clients: usize,
    /// How long a server that is killed stays away, instead of the scenario's own time.
    pub away: Option<Duration>,
}

impl Default for How {
    fn default() -> Self {
        Self { seed: 1, clients: 8, away: None }
    }
}

/// What came of a scenario in which everything held.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// Faults that happened.
    pub faults: u64,
    /// Requests that were answered with 2xx.
    pub answered: usize,
    /// Attempts that were not.
    pub failed: u64,
    /// Events that the audit checked.
    pub events: u64,
}

/// Processes under load.
pub struct Trial {
    pub fleet: Fleet,
    pub load: Load,
    pub api: Api,
    pub payers: Vec<Payer>,
}

impl Stage {
    pub fn new(stack: Stack, weir: &Path, how: How) -> Self {
        Self { stack, weir: weir.to_owned(), installation: None, random: StdRng::seed_from_u64(how.seed), how }
    }

    /// What is there serves for one trial after the other, until one fails: its traces are not the next one's doing.
    ///
    /// # Errors
    /// When `weir migrate` fails.
    pub async fn installation(&mut self) -> Result<&Installation> {
        if self.installation.is_none() {
            self.installation = Some(Installation::create(&self.weir, &self.stack, &[]).await?);
        }
        self.installation.as_ref().context("no installation")
    }

    /// One of its own, with another server instead of the stack's: for the next trial.
    ///
    /// # Errors
    /// When `weir migrate` fails.
    pub async fn enter_installation_on(&mut self, setting: &str, server: &str) -> Result<()> {
        self.installation = Some(Installation::create(&self.weir, &self.stack, &[(setting, server)]).await?);
        Ok(())
    }

    /// Embedded, in a folder of its own or in this one: for the next trial.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn enter_embedded(&mut self, data: Option<PathBuf>) -> Result<()> {
        self.installation = Some(Installation::embedded(&self.weir, &self.stack, data)?);
        Ok(())
    }

    /// The next trial gets an installation of its own.
    pub fn leave_installation(&mut self) -> Option<Installation> {
        self.installation.take()
    }

    /// Says what happens, and what came of it.
    pub async fn play(&mut self, scenario: &Scenario, times: u64) -> Row {
        eprintln!("chaos: {} ({}), {times} times: {}", scenario.name, scenario.row, scenario.fault);
        let began = Instant::now();
        let result = (scenario.play)(self, times).await;
        let took = began.elapsed();
        match &result {
            Ok(proof) => eprintln!("chaos:   held in {:.0} s: {proof:?}", took.as_secs_f64()),
            Err(error) => {
                let installation = self.leave_installation();
                let place = installation.map(|installation| installation.logs.display().to_string()).unwrap_or_default();
                eprintln!("chaos:   {error:#} (logs in {place})");
            }
        }
        Row::new(scenario, result, took)
    }

    /// # Errors
    /// When a process does not start or the first requests are not answered.
    pub async fn begin(&mut self, sizes: Sizes, detours: &[Detour]) -> Result<Trial> {
        let fleet = Fleet::start(self.installation().await?, sizes, detours).await?;
        self.begin_with(fleet, Means::Plenty).await
    }

    /// # Errors
    /// When the first requests are not answered.
    pub async fn begin_with(&mut self, fleet: Fleet, means: Means) -> Result<Trial> {
        let installation = self.installation().await?;
        let api = Api::new(fleet.url(), installation.admin_key.clone())?;
        let payers = api.payers(PAYERS, means).await.context("preparing the payers")?;
        let load = Load::start(&api, &payers, self.how.clients, means);
        load.goes_on(REQUESTS_BEFORE).await.context("before the first fault")?;
        Ok(Trial { fleet, load, api, payers })
    }

    /// Ends the load, asks again what is unanswered, waits until the totals have followed, and proves every figure.
    ///
    /// # Errors
    /// With the first thing that is not as it must be.
    pub async fn prove(&mut self, trial: Trial, faults: u64) -> Result<Proof> {
        trial.load.goes_on(REQUESTS_AFTER).await.context("after the last fault")?;
        let failed = trial.load.failed();
        if failed > 0 {
            eprintln!("chaos:   {failed} attempts failed, the latest with: {}", trial.load.latest_failure());
        }
        let journal = trial.load.finish().await?;
        journal::holds(&journal, &trial.payers, &trial.api).await?;
        let events = self.installation().await?.audit().await?;
        trial.fleet.stop().await?;
        Ok(Proof { faults, answered: journal.len(), failed, events })
    }

    /// A server stays away for this long, or as it was asked for.
    pub async fn away(&self, usually: Duration) {
        sleep(self.how.away.unwrap_or(usually)).await;
    }

    /// A moment within these milliseconds, by the seed.
    pub async fn pause(&mut self, millis: Range<u64>) {
        let pause = self.random.random_range(millis);
        sleep(Duration::from_millis(pause)).await;
    }
}

/// Until the proxy has done what it was armed for.
///
/// # Errors
/// When too little passes through it.
pub async fn struck(proxy: &Proxy, times: u64) -> Result<()> {
    let began = Instant::now();
    while proxy.done() < times {
        if began.elapsed() > PATIENCE {
            bail!("only {} of {times} faults could be made in {} s", proxy.done(), PATIENCE.as_secs());
        }
        sleep(LOOK).await;
    }
    Ok(())
}
