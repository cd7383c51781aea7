//! The whole of Weir in one thread and in virtual time: the real token-service, relay and projection on stores in memory, among faults
//! at every call, deaths and long stops. After each run the stores are audited and everything that was acknowledged is looked up.
//!
//! ```text
//! network.rs    dice, virtual time, the fate of each call, the story
//! stores/       ledger and outbox, log, usage store: each call one atomic step
//! links/        the ports as a process reaches them, through the network
//! processes.rs  the real roles
//! people.rs     who asks, and what they were told
//! judge.rs      whether all of it is true
//! ```
//! The same seed is the same run: one thread, one source of chance, and no clock but the virtual one.

mod judge;
mod links;
mod network;
mod people;
mod processes;
mod stores;

pub use domain::defect::Defect;
pub use network::{Faults, Machine};

use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    defect::put_back,
    ids::{Payer, Provider, Shard, UserId},
    ledger::{Command, Request},
    pool::PoolKey,
};
use network::Network;
use people::{End, Errand, Town, Wish, living};
use ports::{
    ledger::{Ledger, LedgerRequest},
    outbox::Outbox,
    usage_store::UsageStore,
};
use processes::{Process, Role, Stores};
use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{task::JoinHandle, time::sleep};
use uuid::Uuid;

/// One simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    /// Things that happen: somebody asks, a process dies, one is stopped, time passes.
    pub steps: u64,
    pub faults: Faults,
    /// One step in so many ends a process or stops one for a while; 0: none.
    pub deaths: u64,
    /// What is put back.
    pub defect: Option<Defect>,
    pub machine: Machine,
}

impl Plan {
    pub fn of_seed(seed: u64) -> Self {
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Some runs are calm in one respect, so that one kind of fault does not hide what another would show.
        let rate = |shift: u32, rate: u32| if mixed.rotate_right(32 + shift) & 3 == 0 { 0 } else { rate };
        let faults = Faults {
            refused: rate(0, 200),
            lost: rate(2, 300),
            late: rate(4, 300),
            twice: rate(6, 300),
            slow: rate(8, 300),
            deadly: rate(12, 20),
            holes: rate(10, 100),
        };
        let deaths = if seed.is_multiple_of(5) { 0 } else { 6 };
        Self { seed: mixed, steps: 40, faults, deaths, defect: None, machine: Machine::Quick }
    }
}

/// What a clean run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub errands: usize,
    pub acknowledged: usize,
    pub events: u64,
    /// What happened, in order; every line of a run is the same in every run of its plan.
    pub story: Vec<String>,
}

/// What went wrong, and how it came to that.
#[derive(Clone, Debug)]
pub struct Failure {
    pub plan: Plan,
    pub what: String,
    pub story: Vec<String>,
}

const USERS: u64 = 3;
/// What each has to spend; some errands find too little.
const GRANTED: i64 = 12_000;
/// Longest that the calm after the faults may take until everything is counted.
const DRAIN: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_secs(2);
/// Nothing of the past lands after this: what is late is so by 12 s at most.
const CALM: Duration = Duration::from_secs(14);

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

/// 2026-11-21T23:59:50Z, so that runs go through the end of a day.
fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_305_590, 0).unwrap_or_default()
}

async fn simulate(plan: Plan, network: &Arc<Network>) -> Result<Run, String> {
    let mut world = World::new(network);
    world.grant().await?;
    world.replace();
    for _ in 0..plan.steps {
        world.step(&plan).await;
    }
    let errands = world.errands().await?;
    world.drain().await?;
    let report = audit::run(&world.stores.for_audit(network), &audit::Scope::default(), &|_| {}).await;
    let report = report.map_err(|error| error.to_string())?;
    judge::judge(&world.stores, &errands, &report, &network.lost())?;
    let acknowledged = errands.iter().filter(|errand| errand.charge_id.is_some()).count();
    Ok(Run { errands: errands.len(), acknowledged, events: report.checked_events, story: network.story() })
}

struct World {
    network: Arc<Network>,
    stores: Stores,
    town: Town,
    started: u64,
    under_way: Vec<JoinHandle<Errand>>,
}

impl World {
    fn new(network: &Arc<Network>) -> Self {
        let shards: BTreeSet<Shard> = (0..USERS).map(|number| Payer::User(Self::user(number)).shard()).collect();
        let stores = Stores::new(network, &shards.into_iter().collect::<Vec<_>>());
        Self { network: Arc::clone(network), stores, town: Town::default(), started: 0, under_way: Vec::new() }
    }

    fn user(number: u64) -> UserId {
        UserId(Uuid::from_u128(0x5eed_0000 + u128::from(number)))
    }

    async fn grant(&self) -> Result<(), String> {
        for number in 0..USERS {
            let payer = Payer::User(Self::user(number));
            let provider = Provider::parse("openai").map_err(|error| error.to_string())?;
            let tokens = Tokens::new(GRANTED).map_err(|error| error.to_string())?;
            let command = Command::Grant { pool: PoolKey { payer, provider }, tokens, reason: "simulation".into() };
            let request = Request { command, now: self.network.clock().now(), allowance_cap: None, cost: None };
            let request = LedgerRequest { request, shard: payer.shard(), idempotency: None, trace_parent: None, seen: Vec::new() };
            self.stores.journal.apply(&[request]).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn start(&mut self, role: Role) {
        self.started += 1;
        let process = Process::start(role, self.started, &self.stores, &self.network);
        self.network.tell(|| format!("{} starts", process.name));
        self.town.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(process));
    }

    async fn step(&mut self, plan: &Plan) {
        if plan.deaths > 0 && self.network.one_in(plan.deaths) {
            self.strike();
        } else {
            self.ask();
        }
        sleep(Duration::from_millis(self.network.below(600))).await;
        self.replace();
    }

    /// Ends a process, or stops one for a while; in either case another one takes its place.
    fn strike(&mut self) {
        let processes = living(&self.town);
        let chosen = usize::try_from(self.network.below(u64::try_from(processes.len()).unwrap_or(1))).unwrap_or(0);
        let Some(process) = processes.get(chosen) else { return };
        if self.network.one_in(2) {
            self.network.tell(|| format!("{} dies", process.name));
            process.life.end();
        } else {
            let millis = 1_000 + self.network.below(20_000);
            self.network.tell(|| format!("{} is stopped for {millis} ms", process.name));
            process.life.stop_for(Duration::from_millis(millis));
        }
        self.start(process.role);
    }

    /// Who died at a call has nobody in its place yet.
    fn replace(&mut self) {
        for role in Role::ALL {
            let running = living(&self.town).iter().filter(|process| process.role == role).count();
            (running..role.processes()).for_each(|_| self.start(role));
        }
    }

    fn ask(&mut self) {
        let number = u64::try_from(self.under_way.len()).unwrap_or(u64::MAX);
        let user = Self::user(self.network.below(USERS));
        // Its own amount: the number is in it.
        let amount = i64::try_from(100 * (1 + self.network.below(40)) + number).unwrap_or(i64::MAX);
        let wish = match self.network.below(7) {
            0..=2 => Wish::Consume,
            // Partly, wholly, or more than there is to give back.
            6 => Wish::Refund(i64::try_from(1 + self.network.below(3)).unwrap_or(1) * amount / 2),
            3 => Wish::Hold(End::Release),
            4 => Wish::Hold(End::Abandon),
            // Below, exactly, or above what was held.
            _ => Wish::Hold(End::Settle(i64::try_from(self.network.below(3)).unwrap_or(1) * amount / 2)),
        };
        let errand = Errand::new(user, amount, wish, matches!(wish, Wish::Consume) && self.network.one_in(4));
        self.network.tell(|| format!("errand {number}: {amount} tokens of {user}, {wish:?}"));
        let run = errand.run(number, Arc::clone(&self.town), Arc::clone(&self.network));
        self.under_way.push(tokio::spawn(run));
    }

    async fn errands(&mut self) -> Result<Vec<Errand>, String> {
        let mut errands = Vec::new();
        for errand in std::mem::take(&mut self.under_way) {
            errands.push(errand.await.map_err(|error| error.to_string())?);
        }
        Ok(errands)
    }

    /// No more faults, processes of each role that run, and as much time as it takes until every event is counted.
    async fn drain(&mut self) -> Result<(), String> {
        self.network.set_faults(Faults::default());
        self.network.tell(|| "the faults end".into());
        for process in living(&self.town) {
            process.life.end();
        }
        Role::ALL.into_iter().for_each(|role| self.start(role));
        // Leases of the dead run out, what is late lands, holds expire.
        sleep(CALM).await;
        let mut waited = CALM;
        while let Some(missing) = self.missing().await? {
            if waited > DRAIN {
                return Err(format!("not drained after {} s: {missing}", waited.as_secs()));
            }
            sleep(LOOK).await;
            waited += LOOK;
        }
        Ok(())
    }

    async fn missing(&self) -> Result<Option<String>, String> {
        let heads = self.stores.journal.heads().await.map_err(|error| error.to_string())?;
        let generation = self.stores.usage.live_generation().await.map_err(|error| error.to_string())?;
        for head in heads {
            let states = self.stores.usage.shard_states(generation, &[head.shard]).await.map_err(|error| error.to_string())?;
            let applied = states.first().map_or(0, |state| state.last_seq);
            if head.published_through < head.last_seq || applied < head.last_seq {
                let (shard, last, published) = (head.shard, head.last_seq, head.published_through);
                return Ok(Some(format!("shard {shard} has {last} events, {published} published, {applied} counted")));
            }
        }
        let held = self.stores.journal.every_charge().into_iter().find(|charge| charge.status == domain::charge::ChargeStatus::Held);
        let open = self.stores.journal.open_sagas(None, 1).await.map_err(|error| error.to_string())?;
        let held = held.map(|charge| format!("{} is still held", charge.spec.id));
        Ok(held.or_else(|| open.first().map(|saga| format!("the saga {} has not ended", saga.id))))
    }
}

impl Failure {
    /// The same failure with as little as possible around it: fewer steps, fewer kinds of faults.
    #[must_use]
    pub fn smallest(self) -> Self {
        let mut smallest = self;
        loop {
            let Plan { steps, faults, deaths, .. } = smallest.plan;
            let with = |faults: Faults| Plan { faults, ..smallest.plan };
            let smaller = [
                Plan { steps: steps / 2, ..smallest.plan },
                Plan { steps: steps.saturating_sub(1), ..smallest.plan },
                Plan { deaths: if deaths > 0 { 0 } else { deaths }, ..smallest.plan },
                with(Faults { refused: 0, ..faults }),
                with(Faults { lost: 0, ..faults }),
                with(Faults { late: 0, ..faults }),
                with(Faults { twice: 0, ..faults }),
                with(Faults { slow: 0, ..faults }),
                with(Faults { deadly: 0, ..faults }),
                with(Faults { holes: 0, ..faults }),
            ];
            let fails = |plan: Plan| (plan != smallest.plan).then(|| run(plan).err()).flatten();
            match smaller.into_iter().find_map(fails) {
                Some(failure) => smallest = *failure,
                None => return smallest,
            }
        }
    }
}
