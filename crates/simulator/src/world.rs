//! The course of a run: who asks for what and when, who dies, and what has to come to its end before anything is judged.

use crate::{
    Faults, Plan,
    network::Network,
    people::{End, Errand, Part, Town, Wish, Word, living},
    processes::{Process, Role, Stores},
};
use domain::{
    amount::Tokens,
    ids::{Payer, Provider, Shard, UserId},
    ledger::{Command, Request},
    pool::PoolKey,
};
use ports::{
    ledger::{Ledger, LedgerRequest},
    outbox::Outbox,
    rate_limits::RateLimits,
    usage_store::UsageStore,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{task::JoinHandle, time::sleep};
use uuid::Uuid;

const USERS: u64 = 3;
/// What each has to spend; some errands find too little.
const GRANTED: i64 = 6_000;
/// Longest that the calm after the faults may take until everything is counted.
const DRAIN: Duration = Duration::from_secs(240);
/// Longer than what the audit allows a request to take from its buckets to the ledger: so it says something of each.
const BEFORE: Duration = Duration::from_secs(40);
/// Milliseconds, less one second. What stands between its buckets and the ledger for longer than 5 s the audit takes for younger than it is.
const LONGEST_STOP: u64 = 20_000;
const LONGEST_STOP_IF_LIMITED: u64 = 3_000;
const LOOK: Duration = Duration::from_secs(2);
/// Nothing of the past lands after this: what is late is so by 12 s at most.
const CALM: Duration = Duration::from_secs(14);

pub struct World {
    pub stores: Stores,
    network: Arc<Network>,
    town: Town,
    started: u64,
    under_way: Vec<JoinHandle<Errand>>,
}

impl World {
    pub fn new(network: &Arc<Network>, limited: bool) -> Self {
        let shards: BTreeSet<Shard> = (0..USERS).map(|number| Payer::User(Self::user(number)).shard()).collect();
        let stores = Stores::new(network, &shards.into_iter().collect::<Vec<_>>(), limited);
        Self { network: Arc::clone(network), stores, town: Town::default(), started: 0, under_way: Vec::new() }
    }

    fn user(number: u64) -> UserId {
        UserId(Uuid::from_u128(0x5eed_0000 + u128::from(number)))
    }

    /// Everybody has tokens, and buckets that were known for long.
    pub async fn begin(&self) -> Result<(), String> {
        for number in 0..USERS {
            let payer = Payer::User(Self::user(number));
            let provider = Provider::parse("openai").map_err(|error| error.to_string())?;
            let tokens = Tokens::new(GRANTED).map_err(|error| error.to_string())?;
            let command = Command::Grant { pool: PoolKey { payer, provider }, tokens, reason: "simulation".into() };
            let request = Request { command, now: self.network.clock().now(), allowance_cap: None, cost: None };
            let request = LedgerRequest { request, shard: payer.shard(), idempotency: None, trace_parent: None, seen: Vec::new() };
            self.stores.journal.apply(&[request]).await.map_err(|error| error.to_string())?;
            self.stores.buckets.restore(payer, &[]).await.map_err(|error| error.to_string())?;
        }
        sleep(BEFORE).await;
        self.network.tick();
        Ok(())
    }

    fn start(&mut self, role: Role) {
        self.started += 1;
        let process = Process::start(role, self.started, &self.stores, &self.network);
        self.network.tell(|| format!("{} starts", process.name));
        let mut town = self.town.lock().unwrap_or_else(PoisonError::into_inner);
        town.retain(|process| !process.life.is_over());
        town.push(Arc::new(process));
    }

    pub async fn step(&mut self, plan: &Plan) {
        if plan.limited && plan.deaths > 0 && self.network.one_in(4 * plan.deaths) {
            self.network.tell(|| "the store of the buckets is replaced by an empty one".into());
            self.stores.buckets.lose_everything();
        } else if plan.deaths > 0 && self.network.one_in(plan.deaths) {
            self.strike(plan);
        } else {
            self.ask(plan);
        }
        sleep(Duration::from_millis(self.network.below(500))).await;
        self.replace();
    }

    /// Ends a process, or stops one for a while; in either case another one takes its place.
    fn strike(&mut self, plan: &Plan) {
        let processes = living(&self.town);
        let chosen = usize::try_from(self.network.below(u64::try_from(processes.len()).unwrap_or(1))).unwrap_or(0);
        let Some(process) = processes.get(chosen) else { return };
        if self.network.one_in(2) {
            self.network.tell(|| format!("{} dies", process.name));
            process.life.end();
        } else {
            let longest = if plan.limited { LONGEST_STOP_IF_LIMITED } else { LONGEST_STOP };
            let millis = 1_000 + self.network.below(longest);
            self.network.tell(|| format!("{} is stopped for {millis} ms", process.name));
            process.life.stop_for(Duration::from_millis(millis));
        }
        self.start(process.role);
    }

    /// Who died at a call has nobody in its place yet.
    pub fn replace(&mut self) {
        for role in Role::ALL {
            let running = living(&self.town).iter().filter(|process| process.role == role).count();
            (running..role.processes()).for_each(|_| self.start(role));
        }
    }

    fn ask(&mut self, plan: &Plan) {
        let number = u64::try_from(self.under_way.len()).unwrap_or(u64::MAX);
        let user = Self::user(self.network.below(USERS));
        // Its own amount: the number is in it.
        let amount = i64::try_from(100 * (1 + self.network.below(40)) + number).unwrap_or(i64::MAX);
        let wish = match self.network.below(9) {
            _ if plan.replayed && self.network.one_in(6) => Wish::Replay(match self.network.below(3) {
                0 => Part::Everything,
                1 => Part::EverythingFromTheLog,
                _ => Part::FirstDay,
            }),
            0..=2 => Wish::Consume,
            // Partly, wholly, or more than there is to give back.
            6 => Wish::Refund(i64::try_from(1 + self.network.below(3)).unwrap_or(1) * amount / 2),
            7 => Wish::Purchase(Word::Nothing),
            8 if self.network.one_in(3) => Wish::Purchase(Word::Resume),
            8 => Wish::Purchase(Word::Compensate),
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

    pub async fn errands(&mut self) -> Result<Vec<Errand>, String> {
        let mut errands = Vec::new();
        for errand in std::mem::take(&mut self.under_way) {
            errands.push(errand.await.map_err(|error| error.to_string())?);
        }
        Ok(errands)
    }

    /// No more faults, processes of each role that run, and as much time as it takes until every event is counted.
    pub async fn drain(&mut self) -> Result<(), String> {
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
        let replay = self.stores.replays.running().map(|stored| format!("the replay {} has not ended", stored.id));
        Ok(held.or(replay).or_else(|| open.first().map(|saga| format!("the saga {} has not ended", saga.id))))
    }
}
