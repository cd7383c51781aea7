//! The dice, the virtual time and the story: what becomes of each call is decided here.

use chrono::{DateTime, TimeDelta, Utc};
use domain::ids::Shard;
use ports::Clock;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How often a call goes wrong, in ten thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Nothing is done, and the store says so.
    pub refused: u32,
    /// The connection breaks: done or not done, and nobody says which.
    pub lost: u32,
    /// The answer says lost, and the work is done seconds later, whether or not its process still lives.
    pub late: u32,
    /// Done twice, the second time later. Only of writes that may be repeated.
    pub twice: u32,
    /// Takes a while.
    pub slow: u32,
    /// The process dies at its call, which is done or not.
    pub deadly: u32,
    /// The log loses a record that it acknowledged, as an unclean election of a leader does.
    pub holes: u32,
}

/// What the simulation runs on, which must not be seen in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Machine {
    #[default]
    Quick,
    /// Stands still for some real milliseconds at one call in a hundred, as under load. Whatever has a clock of its own is then found out.
    Halting,
}

/// What a store says of work whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Only looks.
    Read,
    /// May be repeated: the caller is told that the store is away.
    Repeatable,
    /// The caller is told that nobody knows.
    Once,
    /// Is given up at once, and may be done all the same; never done twice.
    Hurried,
}

/// Of a [`Machine::Halting`]; a few of them are longer than what libraries wait between two times of upkeep.
const HALT: Duration = Duration::from_millis(60);

pub enum Fate {
    Pass,
    Slow(Duration),
    Refused,
    LostBefore,
    LostAfter,
    Late(Duration),
    Twice(Duration),
    Dies { done: bool },
}

/// The dice, the virtual time and the story so far; shared by everything in one simulation.
pub struct Network {
    state: Mutex<State>,
    machine: Machine,
    clock: Clock,
    started: Instant,
    start: DateTime<Utc>,
}

struct State {
    dice: StdRng,
    faults: Faults,
    story: Vec<String>,
    /// What the log lost.
    lost: BTreeSet<(Shard, i64)>,
    calls: u64,
}

impl Network {
    pub fn new(seed: u64, faults: Faults, start: DateTime<Utc>, machine: Machine) -> Arc<Self> {
        let state = State { dice: StdRng::seed_from_u64(seed), faults, story: Vec::new(), lost: BTreeSet::new(), calls: 0 };
        Arc::new(Self { state: Mutex::new(state), machine, clock: Clock::manual(start), started: Instant::now(), start })
    }

    /// The clock of every process and store. It is set whenever somebody calls something.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number below `bound`.
    pub fn below(&self, bound: u64) -> u64 {
        self.state().dice.random_range(0..bound.max(1))
    }

    pub fn one_in(&self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    /// Whether something of many parts breaks now.
    pub fn fails(&self) -> bool {
        let mut state = self.state();
        let rate = state.faults.lost;
        state.dice.random_range(0..10_000) < rate
    }

    /// Whether the log loses this record.
    pub fn loses(&self, shard: Shard, seq: i64) -> bool {
        let mut state = self.state();
        let rate = state.faults.holes;
        let loses = rate > 0 && state.dice.random_range(0..10_000) < rate;
        if loses {
            state.lost.insert((shard, seq));
        }
        loses
    }

    /// Everything that the log lost once.
    pub fn lost(&self) -> BTreeSet<(Shard, i64)> {
        self.state().lost.clone()
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Sets the clock to the virtual time.
    pub fn tick(&self) {
        let elapsed = TimeDelta::from_std(self.started.elapsed()).unwrap_or_default();
        let behind = self.start + elapsed - self.clock.now();
        if behind > TimeDelta::zero() {
            self.clock.advance(behind);
        }
    }

    /// Adds a line to the story.
    pub fn tell(&self, line: impl FnOnce() -> String) {
        let millis = self.started.elapsed().as_millis();
        self.state().story.push(format!("{millis:>7} ms  {}", line()));
    }

    pub fn story(&self) -> Vec<String> {
        self.state().story.clone()
    }

    fn halt(&self) {
        if self.machine == Machine::Halting {
            let mut state = self.state();
            state.calls += 1;
            if state.calls.is_multiple_of(100) {
                std::thread::sleep(HALT);
            }
        }
    }

    pub fn fate(&self, effect: Effect) -> Fate {
        self.halt();
        let mut state = self.state();
        let State { dice, faults: Faults { refused, lost, late, twice, slow, deadly, .. }, .. } = &mut *state;
        let drawn = dice.random_range(0..10_000);
        let mut left = Some(drawn);
        // At most one of them: they share the draw.
        let mut falls = |rate: u32| {
            let fallen = left.is_some_and(|left| left < rate);
            left = left.filter(|_| !fallen).map(|left| left - rate.min(left));
            fallen
        };
        let [is_refused, is_lost, is_late, is_twice, is_slow, is_deadly] = [*refused, *lost, *late, *twice, *slow, *deadly].map(&mut falls);
        let mut seconds = |most: u64| Duration::from_millis(dice.random_range(1..most * 1_000));
        match effect {
            _ if is_refused => Fate::Refused,
            _ if is_deadly => Fate::Dies { done: drawn % 2 == 0 },
            Effect::Hurried if is_slow || is_late => Fate::Late(seconds(3)),
            _ if is_slow => Fate::Slow(seconds(3)),
            Effect::Read if is_lost || is_late || is_twice => Fate::Slow(seconds(3)),
            _ if is_lost && drawn % 2 == 0 => Fate::LostBefore,
            _ if is_lost => Fate::LostAfter,
            // A transaction under way holds its rows: for all who ask for them it is as if it had ended at once.
            Effect::Once if is_late => Fate::LostAfter,
            _ if is_late => Fate::Late(seconds(12)),
            Effect::Repeatable if is_twice => Fate::Twice(seconds(12)),
            _ => Fate::Pass,
        }
    }
}
