//! The whole of Weir in one thread and in virtual time: the real token-service, relay and projection on stores in memory, among faults
//! at every call, deaths and long stops. After each run the stores are audited and everything that was acknowledged is looked up.
//!
//! ```text
//! plan.rs       what happens how often, from the seed
//! world.rs      the course of a run
//! network.rs    dice, virtual time, the fate of each call, the story
//! link.rs       a process's way to the stores, as long as it lives
//! stores/       ledger and outbox, log, usage store, buckets, replays, the payment processor: each call one atomic step
//! links/        the ports as a process reaches them, through the network
//! processes.rs  the real roles
//! people.rs     who asks, and what they were told
//! judge.rs      whether all of it is true
//! ```
//! The same seed is the same run: one thread, one source of chance, and no clock but the virtual one.

mod judge;
mod link;
mod links;
mod network;
mod people;
mod plan;
mod processes;
mod stores;
mod world;

pub use domain::defect::Defect;
pub use network::{Faults, Machine};
pub use plan::{Failure, Plan};

use chrono::{DateTime, Utc};
use domain::defect::put_back;
use network::Network;
use std::sync::Arc;
use world::World;

/// What a clean run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub errands: usize,
    pub acknowledged: usize,
    pub events: u64,
    /// What happened, in order; every line of a run is the same in every run of its plan.
    pub story: Vec<String>,
}

/// Runs one simulation to its end.
///
/// # Errors
/// The first thing that was wrong.
pub fn run(plan: Plan) -> Result<Run, Box<Failure>> {
    let failed = |what: String, story| Box::new(Failure { plan, what, story });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| failed(error.to_string(), Vec::new()))?;
    put_back(plan.defect);
    let result = runtime.block_on(async {
        let network = Network::new(plan.seed, plan.faults, start(), plan.machine);
        simulate(plan, &network).await.map_err(|what| failed(what, network.story()))
    });
    put_back(None);
    result
}

/// 2026-11-21T23:59:17Z: some seconds after the processes have started, the day ends.
fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_305_557, 0).unwrap_or_default()
}

async fn simulate(plan: Plan, network: &Arc<Network>) -> Result<Run, String> {
    let mut world = World::new(network, plan.limited);
    world.begin().await?;
    world.replace();
    for _ in 0..plan.steps {
        world.step(&plan).await;
    }
    let errands = world.errands().await?;
    world.drain().await?;
    let report = audit::run(&world.stores.for_audit(network), &audit::Scope::default(), &|_| {}).await;
    let report = report.map_err(|error| error.to_string())?;
    judge::judge(&world.stores, &errands, &report, &network.lost())?;
    let acknowledged = errands.iter().filter(|errand| errand.charge_id.or(errand.saga_id).is_some()).count();
    Ok(Run { errands: errands.len(), acknowledged, events: report.checked_events, story: network.story() })
}
