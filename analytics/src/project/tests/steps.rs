//! Single steps that the schedules only reach by chance.

use super::fakes::{FakeOutbox, FakeStore, GENERATION, event, payer_of, payers_of_one_shard, record};
use crate::project::projector::{Projector, lane_of};
use domain::{
    amount::Tokens,
    event::{NewEvent, UsageEvent},
    ids::Shard,
};
use ports::{
    event_log::LogRecord,
    outbox::Outbox,
    usage_store::{Generation, UsageStore},
};
use std::sync::Arc;

struct Bench {
    shard: Shard,
    events: Vec<UsageEvent>,
    outbox: Arc<FakeOutbox>,
    store: Arc<FakeStore>,
    projector: Projector,
}

/// Ten events in the outbox, which may have lost some.
async fn bench(lost: &[i64]) -> Bench {
    let (shard, payers) = payers_of_one_shard();
    let events: Vec<UsageEvent> = (1..=10).map(|seq| event(payers[0], seq)).collect();
    let mut outbox = FakeOutbox::new(events.clone(), 1);
    lost.iter().for_each(|seq| outbox.lose(*seq));
    let (outbox, store) = (Arc::new(outbox), Arc::new(FakeStore::new(1)));
    let mut projector = Projector::new(store.clone(), outbox.clone(), GENERATION, 1_000);
    projector.assign(&[shard]).await.unwrap();
    Bench { shard, events, outbox, store, projector }
}

impl Bench {
    fn records(&self, seqs: &[i64]) -> Vec<LogRecord> {
        let event = |seq: i64| &self.events[usize::try_from(seq - 1).unwrap()];
        seqs.iter().enumerate().map(|(offset, seq)| record(event(*seq), i64::try_from(offset).unwrap())).collect()
    }

    fn last_seq(&self) -> i64 {
        self.projector.states().next().unwrap().1.last_seq
    }
}

#[tokio::test]
async fn numbers_that_the_log_lacks_come_from_the_outbox() {
    let mut bench = bench(&[]).await;
    bench.projector.take(bench.records(&[1, 2, 6, 7])).await.unwrap();
    assert_eq!(bench.last_seq(), 7);
    let job = bench.projector.begin_flush(lane_of(bench.shard)).unwrap();
    assert_eq!(job.flushes[0].raw.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(job.offsets, [(bench.shard, 4)]);
}

#[tokio::test]
async fn a_number_that_exists_nowhere_stops_the_shard_before_it_and_holds_its_offset() {
    let mut bench = bench(&[4]).await;
    bench.projector.take(bench.records(&[1, 2, 6, 7])).await.unwrap();
    assert!(bench.projector.has_gaps());
    assert_eq!(bench.last_seq(), 3);
    let job = bench.projector.begin_flush(lane_of(bench.shard)).unwrap();
    assert_eq!(job.offsets, []);
    assert!(!bench.projector.heal().await.unwrap());
    assert_eq!(bench.last_seq(), 3);
}

#[tokio::test]
async fn a_stopped_shard_goes_on_when_the_outbox_answers_again() {
    let mut bench = bench(&[]).await;
    *bench.outbox.failing.lock().unwrap() = 1;
    bench.projector.take(bench.records(&[1, 3, 4, 4, 5])).await.unwrap();
    assert!(bench.projector.has_gaps());
    assert_eq!(bench.last_seq(), 1);
    *bench.outbox.failing.lock().unwrap() = 0;
    assert!(bench.projector.heal().await.unwrap());
    assert_eq!(bench.last_seq(), 5);
    assert_eq!(bench.projector.begin_flush(lane_of(bench.shard)).unwrap().offsets, [(bench.shard, 5)]);
}

#[tokio::test]
async fn an_unreadable_record_is_buried_with_its_place_and_its_event_comes_from_the_outbox() {
    let mut bench = bench(&[]).await;
    let mut records = bench.records(&[1, 2, 3]);
    records[1].value = b"garbage".to_vec();
    records[2].value = vec![0, 0, 0, 0, 200, 1, 2];
    bench.projector.take(records).await.unwrap();
    assert_eq!(bench.last_seq(), 3, "also at the end of the log, where no later number reveals the hole");
    let job = bench.projector.begin_flush(lane_of(bench.shard)).unwrap();
    let letters: Vec<_> = job.letters.iter().map(|letter| (letter.offset, letter.seq, letter.reason.as_str())).collect();
    assert_eq!(letters, [(1, Some(2), "the record does not begin with 0x00"), (2, Some(3), "schema id 200 is unknown")]);
    assert_eq!(job.letters[0].value, b"garbage");
    assert_eq!(job.offsets, [(bench.shard, 3)]);
}

#[tokio::test]
async fn a_foreign_record_with_a_huge_number_stops_nothing() {
    let mut bench = bench(&[]).await;
    let mut records = bench.records(&[1, 2]);
    records[0] = LogRecord { value: b"foreign".to_vec(), seq: Some(1 << 60), ..records[0].clone() };
    records[1] = LogRecord { value: b"foreign".to_vec(), seq: None, ..records[1].clone() };
    bench.projector.take(records).await.unwrap();
    assert!(!bench.projector.has_gaps());
    assert_eq!(bench.last_seq(), 10, "what the outbox has is applied, what was only claimed is not waited for");
}

#[tokio::test]
async fn an_event_of_another_shard_or_under_another_header_is_no_event_here() {
    let mut bench = bench(&[]).await;
    let mut records = bench.records(&[1, 2]);
    records[0].seq = Some(7);
    let job = {
        bench.projector.take(records[..1].to_vec()).await.unwrap();
        bench.projector.begin_flush(lane_of(bench.shard)).unwrap()
    };
    assert_eq!(job.letters[0].reason, "the header says number 7, the event 1");
    let elsewhere = Shard::all().find(|shard| *shard != bench.shard).unwrap();
    bench.projector.assign(&[elsewhere]).await.unwrap();
    bench.projector.take(vec![LogRecord { shard: elsewhere, ..records[1].clone() }]).await.unwrap();
    assert!(bench.projector.begin_flush(lane_of(elsewhere)).unwrap().letters[0].reason.contains("in partition"));
}

#[tokio::test]
async fn what_a_relay_sends_that_slept_through_a_restore_is_set_aside_and_the_ledgers_event_applied() {
    let mut bench = bench(&[]).await;
    let after_the_restore = UsageEvent { epoch: 1, ..bench.events[2].clone() };
    let of_before = UsageEvent {
        event: NewEvent { tokens: Tokens::new(1_000_000).unwrap(), ..bench.events[3].event.clone() },
        ..bench.events[3].clone()
    };
    let mut records = bench.records(&[1, 2]);
    records.extend([record(&after_the_restore, 2), record(&of_before, 3)]);
    bench.projector.take(records).await.unwrap();
    assert_eq!(bench.last_seq(), 4);
    let job = bench.projector.begin_flush(lane_of(bench.shard)).unwrap();
    assert_eq!(job.flushes[0].raw.last(), Some(&bench.events[3]));
    assert_eq!(job.letters[0].reason, "event 4 is of epoch 0, from before the ledger was restored");
    bench.projector.take(bench.records(&[1])).await.unwrap();
    assert!(
        bench.projector.begin_flush(lane_of(bench.shard)).is_none_or(|job| job.letters.is_empty()),
        "one that was counted is a duplicate"
    );
}

#[tokio::test]
async fn the_lost_end_of_the_log_is_found_by_the_relays_mark() {
    let mut bench = bench(&[]).await;
    bench.projector.take(bench.records(&[1, 2])).await.unwrap();
    *bench.outbox.published_through.lock().unwrap() = 8;
    let heads = bench.outbox.heads().await.unwrap();
    bench.projector.check_tails(&heads).await.unwrap();
    assert_eq!(bench.last_seq(), 2, "they may be on their way");
    bench.projector.check_tails(&heads).await.unwrap();
    assert_eq!(bench.last_seq(), 8);
}

#[tokio::test]
async fn memory_stays_within_its_limit_and_forgotten_totals_come_back() {
    let mut bench = bench(&[]).await;
    bench.projector = Projector::new(bench.store.clone(), bench.outbox.clone(), GENERATION, 5);
    bench.projector.assign(&[bench.shard]).await.unwrap();
    for record in bench.records(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]) {
        bench.projector.take(vec![record]).await.unwrap();
        let job = bench.projector.begin_flush(lane_of(bench.shard)).unwrap();
        bench.store.write(GENERATION, &job.flushes).await.unwrap();
        bench.projector.finish_flush(&job);
        assert!(bench.projector.known_cells() <= 5);
    }
    assert_eq!(bench.store.totals(), FakeStore::expected(&bench.events));
}

#[tokio::test]
async fn a_total_on_its_way_to_the_store_is_not_forgotten_when_another_lane_ends() {
    let mut bench = bench(&[]).await;
    let own = lane_of(bench.shard);
    let other = Shard::all().find(|shard| lane_of(*shard) != own).unwrap();
    let elsewhere = payer_of(other);
    bench.projector = Projector::new(bench.store.clone(), bench.outbox.clone(), GENERATION, 0);
    bench.projector.assign(&[bench.shard, other]).await.unwrap();
    bench.projector.take(bench.records(&[1])).await.unwrap();
    let slow = bench.projector.begin_flush(own).unwrap();
    bench.projector.take(vec![record(&event(elsewhere, 1), 0)]).await.unwrap();
    let quick = bench.projector.begin_flush(lane_of(other)).unwrap();
    assert_eq!(quick.offsets, [(other, 1)]);
    bench.store.write(GENERATION, &quick.flushes).await.unwrap();
    bench.projector.finish_flush(&quick);
    // The eighth event falls into the first one's minute.
    bench.projector.take(bench.records(&[1, 2, 3, 4, 5, 6, 7, 8])).await.unwrap();
    let next = bench.projector.begin_flush(own).unwrap();
    bench.store.write(GENERATION, &slow.flushes).await.unwrap();
    bench.store.write(GENERATION, &next.flushes).await.unwrap();
    let events = [&bench.events[..8], &[event(elsewhere, 1)]].concat();
    assert_eq!(bench.store.totals(), FakeStore::expected(&events));
}

#[tokio::test]
async fn a_shard_that_somebody_else_moved_on_starts_from_the_stored_state() {
    let mut bench = bench(&[]).await;
    let mut other = Projector::new(bench.store.clone(), bench.outbox.clone(), GENERATION, 1_000);
    other.assign(&[bench.shard]).await.unwrap();
    bench.projector.take(bench.records(&[1, 2])).await.unwrap();
    other.take(bench.records(&[1, 2, 3, 4, 5])).await.unwrap();
    bench.store.write(GENERATION, &other.begin_flush(lane_of(bench.shard)).unwrap().flushes).await.unwrap();
    // The log goes on behind what the other one committed; nothing of it has to come from the outbox.
    *bench.outbox.failing.lock().unwrap() = 1;
    bench.projector.assign(&[bench.shard]).await.unwrap();
    bench.projector.take(bench.records(&[6, 7])).await.unwrap();
    assert_eq!(bench.last_seq(), 7);
    let mut fresh = Projector::new(bench.store.clone(), bench.outbox.clone(), GENERATION, 1_000);
    fresh.assign(&[bench.shard]).await.unwrap();
    assert_eq!(fresh.states().next().unwrap().1.last_seq, 5);
    // Behind the store, one's own state is kept: it is ahead.
    bench.projector.assign(&[bench.shard]).await.unwrap();
    assert_eq!(bench.last_seq(), 7);
}

#[test]
fn only_records_that_lay_in_the_log_for_long_are_a_backlog() {
    let now = chrono::Utc::now();
    let read = |ages_ms: &[i64]| {
        let aged =
            |age: &i64| LogRecord { timestamp_ms: Some(now.timestamp_millis() - age), ..record(&event(payers_of_one_shard().1[0], 1), 0) };
        crate::project::is_backlog(&ages_ms.iter().map(aged).collect::<Vec<_>>(), now)
    };
    assert!(read(&[9_000, 8_000]));
    // The newest is read soon after it came, however many came with it and whatever clock the log has.
    assert!(!read(&[9_000, 500]));
    assert!(!read(&[-60_000]));
    assert!(!read(&[]));
}

#[tokio::test]
async fn in_another_generation_the_shard_goes_on_where_that_one_stands_and_stores_every_raw_event() {
    let mut bench = bench(&[]).await;
    let lane = lane_of(bench.shard);
    bench.projector.take(bench.records(&[1, 2, 3, 4, 5])).await.unwrap();
    let job = bench.projector.begin_flush(lane).unwrap();
    bench.store.write(job.generation, &job.flushes).await.unwrap();
    bench.projector.finish_flush(&job);
    // In memory only: their raw events are stored nowhere.
    bench.projector.take(bench.records(&[1, 2, 3, 4, 5, 6, 7])).await.unwrap();
    // The other generation was built up to the third event.
    let other = Generation { id: 2, ..GENERATION };
    let replayed: Vec<_> = bench.events[..3].to_vec();
    bench.store.stand_at(bench.shard, &replayed);
    bench.projector.follow(other).await.unwrap();
    assert_eq!(bench.last_seq(), 3);
    assert!(bench.projector.begin_flush(lane).is_none(), "no offset is committed before the events are there again");
    bench.projector.take(bench.records(&[1, 2, 3, 4, 5, 6, 7, 8])[7..].to_vec()).await.unwrap();
    assert!(bench.projector.heal().await.unwrap());
    assert_eq!((bench.last_seq(), bench.projector.has_gaps()), (8, false));
    let job = bench.projector.begin_flush(lane).unwrap();
    assert_eq!(job.generation, other);
    assert_eq!(job.flushes[0].raw.iter().map(|event| event.seq).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
    assert_eq!(job.offsets, [(bench.shard, 8)]);
    let expected = FakeStore::expected(&bench.events[..8]);
    let changed: Vec<_> = job.flushes[0].cells.iter().collect();
    assert!(!changed.is_empty() && changed.iter().all(|(key, value)| expected.get(key) == Some(value)));
}

#[tokio::test]
async fn a_generation_that_stands_as_far_needs_nothing_from_the_outbox() {
    let mut bench = bench(&[]).await;
    bench.projector.take(bench.records(&[1, 2])).await.unwrap();
    bench.store.stand_at(bench.shard, &bench.events[..2]);
    bench.projector.follow(Generation { id: 2, ..GENERATION }).await.unwrap();
    assert!(!bench.projector.has_gaps());
    bench.projector.take(bench.records(&[1, 2, 3])).await.unwrap();
    assert_eq!(bench.last_seq(), 3);
}

#[tokio::test]
async fn a_number_that_the_outbox_has_lost_is_taken_from_the_log_when_it_is_redriven() {
    let mut bench = bench(&[4]).await;
    bench.projector.take(bench.records(&[1, 2, 6, 7])).await.unwrap();
    assert_eq!((bench.last_seq(), bench.projector.has_gaps()), (3, true));
    let redriven = LogRecord { offset: 4, ..bench.records(&[4])[0].clone() };
    bench.projector.take(vec![redriven]).await.unwrap();
    assert!(bench.projector.heal().await.unwrap());
    assert_eq!((bench.last_seq(), bench.projector.has_gaps()), (7, false));
    let job = bench.projector.begin_flush(lane_of(bench.shard)).unwrap();
    assert_eq!(job.flushes[0].raw.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(job.offsets, [(bench.shard, 5)]);
}
