//! The relay among failures: what is in the log, in which order, and what is marked.

mod world;

use crate::{Deps, meters, start};
use domain::ids::Shard;
use ports::Clock;
use proptest::prelude::*;
use service_kit::tasks::Tasks;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use world::{Faults, Handle, Producer, SHARDS, World, shard};

/// One process.
struct Process {
    owner: Uuid,
    tasks: Tasks,
}

impl Process {
    fn start(world: &Arc<World>, owner: u128) -> Self {
        let (owner, tasks) = (Uuid::from_u128(owner), Tasks::new());
        let outbox = Arc::clone(world);
        let deps = Deps { outbox, event_log: Arc::new(Handle(Producer::new(world))), clock: Clock::System, owner };
        start(deps, &tasks);
        Self { owner, tasks }
    }

    async fn stop(self) {
        assert!(self.tasks.shutdown(Duration::from_secs(30)).await);
    }
}

/// Virtual time passes until the condition holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        sleep(Duration::from_millis(10)).await;
    }
}

fn once(seqs: &[i64], last: i64) -> bool {
    seqs.iter().copied().eq(1..=last)
}

#[tokio::test(start_paused = true)]
async fn every_row_is_published_once_in_order_and_marked() {
    let world = World::new(1, Faults::default());
    let process = Process::start(&world, 1);
    for _ in 0..20 {
        for index in 0..SHARDS {
            world.write(shard(index), 700);
        }
        sleep(Duration::from_millis(15)).await;
    }
    until("everything marked", || world.all_marked()).await;
    assert!(world.lock().log.values().all(|seqs| once(seqs, 14_000)));
    process.stop().await;
    assert_eq!(world.owned_by(Uuid::from_u128(1)), 0);
}

#[tokio::test(start_paused = true)]
async fn a_row_is_in_the_log_and_marked_within_moments() {
    let world = World::new(1, Faults::default());
    let process = Process::start(&world, 1);
    sleep(Duration::from_secs(1)).await;
    let written = Instant::now();
    world.write(shard(2), 1);
    until("marked", || world.all_marked()).await;
    assert!(written.elapsed() < Duration::from_millis(100), "{:?}", written.elapsed());
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_delivery_stops_the_line_and_goes_on_from_the_acknowledged_prefix() {
    let world = World::new(1, Faults { delivery_fails: 300, acknowledgement_lost: 200, ..Faults::default() });
    let process = Process::start(&world, 1);
    for _ in 0..30 {
        (0..SHARDS).for_each(|index| world.write(shard(index), 100));
        sleep(Duration::from_millis(40)).await;
    }
    world.judge();
    world.lock().faults = Faults::default();
    until("everything marked", || world.all_marked()).await;
    world.judge();
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_taken_by_another_relay_is_left_at_once() {
    let world = World::new(1, Faults::default());
    let process = Process::start(&world, 1);
    until("leases", || world.owned_by(process.owner) == usize::from(SHARDS)).await;
    world.steal(shard(0), Uuid::from_u128(2));
    world.write(shard(0), 50);
    // The first mark is ignored and tells the relay; it never publishes what comes later.
    sleep(Duration::from_millis(500)).await;
    world.write(shard(0), 50);
    world.write(shard(1), 50);
    until("the other shard's rows", || world.lock().marks.get(&shard(1)) == Some(&50)).await;
    sleep(Duration::from_secs(60)).await;
    assert!(world.lock().log[&shard(0)].iter().all(|seq| *seq <= 50));
    assert_eq!(world.lock().marks.get(&shard(0)), None);
    world.judge();
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_beyond_a_gap_and_other_shards_go_on() {
    let world = World::new(1, Faults::default());
    world.lock().gap = Some((shard(3), 31));
    let process = Process::start(&world, 1);
    (0..SHARDS).for_each(|index| world.write(shard(index), 30));
    until("the rows before the gap", || world.all_marked()).await;
    (0..SHARDS).for_each(|index| world.write(shard(index), 30));
    let others = || (0..SHARDS).filter(|index| *index != 3).all(|index| world.lock().marks.get(&shard(index)) == Some(&60));
    until("the other shards", others).await;
    sleep(Duration::from_secs(30)).await;
    assert!(once(&world.lock().log[&shard(3)], 30));
    world.lock().gap = None;
    until("everything marked", || world.all_marked()).await;
    world.judge();
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_fills_a_bounded_memory_and_delays_a_shutdown_by_its_deadline_only() {
    let world = World::new(1, Faults { delivery_hangs: 1_000, ..Faults::default() });
    (0..SHARDS).for_each(|index| world.write(shard(index), 100_000));
    let process = Process::start(&world, 1);
    sleep(Duration::from_millis(900)).await;
    let bound = 65_536 + usize::from(SHARDS);
    assert!(world.lock().appended_rows <= bound, "{}", world.lock().appended_rows);
    let stopping = Instant::now();
    process.stop().await;
    assert!(stopping.elapsed() <= Duration::from_secs(6), "{:?}", stopping.elapsed());
    world.judge();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_marks_what_is_acknowledged_meanwhile() {
    let world = World::new(1, Faults::default());
    let process = Process::start(&world, 1);
    until("leases", || world.owned_by(process.owner) == usize::from(SHARDS)).await;
    world.write(shard(5), 10);
    until("the run in flight", || world.lock().appended_rows == 10).await;
    process.stop().await;
    assert_eq!(world.lock().marks.get(&shard(5)), Some(&10));
}

#[tokio::test(start_paused = true)]
async fn backlog_and_age_count_what_is_not_marked() {
    let world = World::new(1, Faults::default());
    let clock = Clock::manual(chrono::DateTime::from_timestamp_millis(2_500).unwrap());
    assert_eq!(meters::measure(&*world, &clock).await.unwrap(), (0, 0));
    world.write(shard(1), 3);
    world.write(shard(2), 4);
    // The test's rows occurred at the epoch.
    assert_eq!(meters::measure(&*world, &clock).await.unwrap(), (7, 2_500));
}

/// Two relays that fail, hang, lose their leases, wake up again and die, while rows are written.
async fn live_through(seed: u64, faults: Faults, lives: Vec<(u64, u64)>) {
    let world = World::new(seed, faults);
    let mut processes = vec![Process::start(&world, 1), Process::start(&world, 2)];
    for (round, (pause, what)) in (0u32..).zip(lives) {
        let some = shard(u8::try_from(what % u64::from(SHARDS)).unwrap());
        match what / 100 {
            0 => world.write(some, 2_500),
            1 if !world.lock().marks.is_empty() => world.steal(some, processes[1].owner),
            2 => {
                // Dies without a word: its queued runs may land later.
                let dead = processes.remove(0);
                dead.tasks.token().cancel();
                processes.push(Process::start(&world, u128::from(round) + 10));
            }
            _ => Shard::all().take(usize::from(SHARDS)).for_each(|shard| world.write(shard, 40)),
        }
        sleep(Duration::from_millis(pause)).await;
        world.judge();
    }
    world.lock().faults = Faults::default();
    until("everything marked", || world.all_marked()).await;
    world.judge();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_the_log_holds_prefixes_and_the_mark_stays_behind_it(
        seed: u64, lives in prop::collection::vec((0u64..9_000, 0u64..500), 5..40),
        rates in prop::array::uniform5(prop_oneof![Just(0u32), 0u32..50, 0u32..400]),
    ) {
        let [delivery_fails, acknowledgement_lost, delivery_hangs, outbox_fails, mark_unknown] = rates;
        let faults = Faults { delivery_fails, acknowledgement_lost, delivery_hangs, outbox_fails, mark_unknown };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(live_through(seed, faults, lives));
    }
}
