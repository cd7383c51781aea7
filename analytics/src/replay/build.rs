//! Building the new generation: what the coverage leaves out is copied, the rest is read, shard by shard, up to where the live one is.

use super::{
    Stores,
    desk::{Desk, Halt},
    fold::{Bounds, Fold, Part, Plan},
    pace::Pace,
    source::{Events, Way},
};
use domain::{
    defect::{Defect, is_back},
    generation::{Generation, ShardState},
    ids::Shard,
    replay::{Base, Source},
    rollup::{CellKey, CellValue},
};
use futures::TryStreamExt;
use ports::usage_store::Flush;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinSet, time::timeout};

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A build in the hands of its worker.
pub struct Build<'a> {
    pub desk: &'a mut Desk,
    pub builder: Arc<Builder>,
}

/// What the shards share while they are built side by side.
pub struct Builder {
    pub stores: Stores,
    pub plan: Plan,
    source: Source,
    base: Base,
    /// This attempt is the first: the store holds nothing of the generation that this attempt has not written.
    first_attempt: bool,
    /// How far each shard is, as this attempt knows it; of a dry run it is stored nowhere.
    reached: Mutex<BTreeMap<Shard, Reached>>,
    read: AtomicI64,
    covered: AtomicI64,
}

#[derive(Clone, Copy, Default)]
struct Reached {
    state: ShardState,
    /// Where the log goes on, once this attempt has read it up to the state.
    next_offset: Option<i64>,
}

impl From<ShardState> for Reached {
    fn from(state: ShardState) -> Self {
        Self { state, next_offset: None }
    }
}

impl<'a> Build<'a> {
    /// Notes where the live generation stands, unless an earlier attempt has.
    pub async fn begin(stores: &Stores, desk: &'a mut Desk) -> Result<Self, Halt> {
        let replay = desk.replay();
        let plan = Plan {
            generation: desk.stored().generation,
            coverage: replay.coverage.clone(),
            dry_run: replay.dry_run,
            bounds: Bounds::default(),
        };
        let (source, covered) = (replay.source, replay.progress.applied);
        let (base, first_attempt) = match replay.base.clone() {
            Some(base) => (base, false),
            None => {
                let generation = stores.usage.live_generation().await?;
                let base = Base { generation, states: states_of(stores, generation).await?.into_values().collect() };
                desk.put(|replay| replay.base = Some(base.clone())).await?;
                (base, true)
            }
        };
        let builder = Builder {
            stores: stores.clone(),
            plan,
            source,
            base,
            first_attempt,
            reached: Mutex::default(),
            read: AtomicI64::new(0),
            covered: AtomicI64::new(covered),
        };
        if !builder.plan.dry_run {
            let states = states_of(stores, builder.plan.generation).await?;
            builder.read.store(builder.sum(&states), Ordering::Relaxed);
            builder.reached().extend(states.into_iter().map(|(shard, state)| (shard, state.into())));
        }
        Ok(Self { desk, builder: Arc::new(builder) })
    }

    /// What was copied and compared belongs to the generation that was live at the beginning.
    pub async fn is_still_beside_its_base(&self) -> Result<(), Halt> {
        let (base, generation) = (self.builder.base.generation.id, self.builder.plan.generation.id);
        let live = self.builder.stores.usage.live_generation().await?.id;
        if live != base {
            return Err(Halt::Failed(format!("generation {live} is live now, and the replay began beside {base}; make a new replay")));
        }
        if live >= generation {
            // Another replay was swapped in before this one began, or the control database was put back to an earlier time.
            return Err(Halt::Failed(format!("generation {live} is live now, and {generation} could not follow it; make a new replay")));
        }
        Ok(())
    }

    /// The first attempt is at its end and no event was in the coverage.
    pub fn has_read_nothing(&self) -> bool {
        self.builder.first_attempt && self.builder.covered.load(Ordering::Relaxed) == 0
    }

    /// The live generation knew no event when this began, so that there was nothing to be built up to.
    pub fn base_is_empty(&self) -> bool {
        self.builder.base.states.iter().all(|state| state.last_seq == 0)
    }

    /// Tells how far it is, and learns whether to go on.
    pub async fn report(&mut self) -> Result<(), Halt> {
        let (read, applied) = (self.builder.read.load(Ordering::Relaxed), self.builder.covered.load(Ordering::Relaxed));
        self.desk.note(|replay| {
            replay.progress.read = read;
            replay.progress.applied = applied;
        });
        self.desk.report().await
    }

    /// Totals that are not built from events, as the live generation has them, and the shards that hold nothing else. A total is copied with
    /// at least the events up to the base; those after it are added to it like to any other, each once.
    pub async fn copy_the_rest(&mut self) -> Result<(), Halt> {
        let builder = Arc::clone(&self.builder);
        let Builder { stores, plan, .. } = &*builder;
        if plan.coverage.is_everything() || plan.dry_run || self.desk.replay().copied || is_back(Defect::RestNotCopied) {
            return Ok(());
        }
        let mut pages = stores.generations.scan_cells(builder.base.generation);
        while let Some(page) = pages.try_next().await? {
            let mut by_shard: BTreeMap<Shard, Vec<(CellKey, CellValue)>> = BTreeMap::new();
            for (key, value) in page.into_iter().filter(|(key, _)| !plan.coverage.holds_cell(key)) {
                by_shard.entry(key.shard).or_default().push((key, value));
            }
            let flush = |(shard, cells)| Flush { shard, raw: Vec::new(), cells, state: ShardState::default() };
            let flushes: Vec<Flush> = by_shard.into_iter().map(flush).collect();
            stores.usage.write(plan.generation, &flushes).await?;
            self.desk.report().await?;
        }
        let left_out = Shard::all().filter(|shard| !plan.coverage.holds_shard(*shard));
        let state = |shard| Flush { shard, raw: Vec::new(), cells: Vec::new(), state: builder.base_of(shard) };
        let states: Vec<Flush> = left_out.map(state).collect();
        stores.usage.write(plan.generation, &states).await?;
        builder.reached().extend(states.into_iter().map(|flush| (flush.shard, flush.state.into())));
        self.desk.put(|replay| replay.copied = true).await
    }

    /// Every shard up to where the live generation is now.
    pub async fn catch_up(&mut self) -> Result<(), Halt> {
        let stores = &self.builder.stores;
        let live = stores.usage.live_generation().await?;
        let mut states = states_of(stores, live).await?;
        if is_back(Defect::ReplayedBeyondLive) {
            stores.outbox.heads().await?.into_iter().for_each(|head| {
                states.entry(head.shard).and_modify(|state| state.last_seq = head.last_seq);
            });
        }
        self.advance(&states).await
    }

    /// Every shard up to exactly where it is in these states.
    pub async fn advance(&mut self, states: &BTreeMap<Shard, ShardState>) -> Result<(), Halt> {
        let total = self.builder.sum(states);
        self.desk.note(|replay| replay.progress.total = total);
        let (builder, states) = (Arc::clone(&self.builder), states.clone());
        // Dropped with this call, it ends what is under way.
        let mut advancing = JoinSet::new();
        advancing.spawn(async move { builder.advance(&states).await });
        loop {
            let ended = timeout(LOOK_EVERY, advancing.join_next()).await;
            self.report().await?;
            if let Ok(Some(ended)) = ended {
                return ended.map_err(|panicked| Halt::Failed(format!("a defect: {panicked}")))?;
            }
        }
    }
}

impl Builder {
    /// All shards in one task and through one reader: more would only take the processor from those who serve, and what a reader costs to
    /// begin with, a shard is not worth.
    async fn advance(&self, states: &BTreeMap<Shard, ShardState>) -> Result<(), Halt> {
        let (mut ways, mut parts) = (BTreeMap::new(), BTreeMap::new());
        for (shard, through) in states.iter().map(|(shard, state)| (*shard, state.last_seq)).filter(|(shard, _)| self.reads(*shard)) {
            let Reached { state, next_offset } = self.reached().get(&shard).copied().unwrap_or_default();
            if state.last_seq < through {
                let copied_through = if self.plan.coverage.is_everything() { 0 } else { self.base_of(shard).last_seq };
                parts.insert(shard, Part { state, copied_through, fresh: self.first_attempt && state.last_seq == 0 });
                ways.insert(shard, Way { last_seq: state.last_seq, through, next_offset });
            }
        }
        if ways.is_empty() {
            return Ok(());
        }
        let mut fold = Fold::new(Arc::clone(&self.stores.usage), self.plan.clone(), parts);
        let mut events = Events::open(&self.stores, self.source, ways).await?;
        let mut pace = Pace::begin(Arc::clone(&self.stores.outbox)).await;
        let mut page = events.page().await?;
        while !page.is_empty() {
            // The next page is fetched while this one is added up.
            let (next, added) = tokio::join!(events.page(), fold.add(&page));
            added?;
            self.read.fetch_add(i64::try_from(page.len()).unwrap_or(i64::MAX), Ordering::Relaxed);
            self.covered.fetch_add(fold.take_covered(), Ordering::Relaxed);
            page = next?;
            pace.keep().await;
        }
        fold.flush().await?;
        let mut reached = self.reached();
        fold.states().for_each(|(shard, state)| reached.entry(shard).or_default().state = state);
        events.next_offsets().for_each(|(shard, offset)| reached.entry(shard).or_default().next_offset = Some(offset));
        Ok(())
    }

    /// Where this attempt is in a shard.
    pub fn state_of(&self, shard: Shard) -> ShardState {
        self.reached().get(&shard).map_or_else(ShardState::default, |reached| reached.state)
    }

    fn reached(&self) -> MutexGuard<'_, BTreeMap<Shard, Reached>> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A dry run looks at what it covers; a whole generation needs every shard.
    pub fn reads(&self, shard: Shard) -> bool {
        !self.plan.dry_run || self.plan.coverage.holds_shard(shard)
    }

    fn base_of(&self, shard: Shard) -> ShardState {
        self.base.states.get(usize::from(shard.index())).copied().unwrap_or_default()
    }

    /// Events up to these states, over all shards that are read, from where reading begins.
    fn sum(&self, states: &BTreeMap<Shard, ShardState>) -> i64 {
        let begins = |shard| if self.plan.coverage.holds_shard(shard) { 0 } else { self.base_of(shard).last_seq };
        let read = states.iter().filter(|(shard, _)| self.reads(**shard));
        read.map(|(shard, state)| (state.last_seq - begins(*shard)).max(0)).sum()
    }
}

/// Of all shards, in their order.
pub async fn states_of(stores: &Stores, generation: Generation) -> Result<BTreeMap<Shard, ShardState>, Halt> {
    let shards: Vec<Shard> = Shard::all().collect();
    let states = stores.usage.shard_states(generation, &shards).await?;
    Ok(shards.into_iter().zip(states).collect())
}
