//! What every adapter of `ports::event_log` must do. Events come from a ledger through its outbox, as they do in life.

use crate::customers::*;
use domain::{ids::Shard, trace_parent::TraceParent};
use ports::{
    event_log::{DeadLetter, EventLog, LetterAct, LetterActKind, LogEvent, LogReader, LogRecord, Start},
    ledger::{Ledger, LedgerRequest},
    outbox::Outbox,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// Longer than any group needs to hand its shards over.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

/// The log under test behind a ledger and its outbox.
pub struct Stores<'a> {
    pub ledger: &'a dyn Ledger,
    pub outbox: &'a dyn Outbox,
    pub log: &'a dyn EventLog,
}

impl Stores<'_> {
    /// Writes `events` grants and publishes everything that is not yet.
    async fn publish(&self, customer: &Customer, events: usize, trace_parent: Option<TraceParent>) {
        let grants: Vec<_> = (0..events).map(|_| LedgerRequest { trace_parent, ..customer.grant(1) }).collect();
        self.ledger.apply(&grants).await.unwrap();
        let owner = Uuid::new_v4();
        let leases = self.outbox.acquire_leases(owner, PATIENCE).await.unwrap();
        let lease = leases.into_iter().find(|lease| lease.shard == customer.shard()).unwrap();
        let rows = self.outbox.read(lease.shard, lease.published_through, 10_000).await.unwrap();
        let through = rows.last().unwrap().seq;
        self.log.append(lease.shard, rows).await.unwrap().await.unwrap();
        assert!(self.outbox.mark_published(&[(lease, through)]).await.unwrap().is_empty());
        self.outbox.release_leases(owner).await.unwrap();
    }

    async fn scanned(&self) -> Vec<LogRecord> {
        let mut records = Vec::new();
        self.log.scan(&mut |record| records.push(record)).await.unwrap();
        records
    }
}

/// Three payers of three shards.
fn three_customers() -> [Customer; 3] {
    [5, 6, 60].map(|index| Customer::in_shard(Shard::new(index).unwrap()))
}

/// Polls until that many records came.
async fn read(reader: &mut dyn LogReader, count: usize) -> Vec<LogRecord> {
    let (mut records, began) = (Vec::new(), Instant::now());
    while records.len() < count {
        if let LogEvent::Records(more) = reader.poll(POLL).await.unwrap() {
            records.extend(more);
        }
        assert!(began.elapsed() < PATIENCE, "{} of {count} records came", records.len());
    }
    records
}

/// Polls until the reader owns every shard.
async fn own_everything(reader: &mut dyn LogReader) {
    let began = Instant::now();
    loop {
        match reader.poll(POLL).await.unwrap() {
            LogEvent::Assigned(shards) if shards.len() == 64 => return,
            LogEvent::Records(_) => panic!("records of shards that are not assigned"),
            LogEvent::Assigned(_) | LogEvent::Idle => assert!(began.elapsed() < PATIENCE, "not every shard was assigned"),
        }
    }
}

fn numbers_by_shard(records: &[LogRecord]) -> BTreeMap<Shard, Vec<i64>> {
    let mut numbers: BTreeMap<Shard, Vec<i64>> = BTreeMap::new();
    records.iter().for_each(|record| numbers.entry(record.shard).or_default().push(record.seq.unwrap()));
    numbers
}

pub async fn every_event_is_read_in_the_order_of_its_shard_with_the_bytes_that_were_written(stores: &Stores<'_>) {
    let trace_parent = TraceParent::generate();
    let customers = three_customers();
    for events in [30, 1, 12] {
        for customer in &customers {
            stores.publish(customer, events, Some(trace_parent)).await;
        }
    }
    let mut reader = stores.log.reader("projection").await.unwrap();
    own_everything(&mut *reader).await;
    let records = read(&mut *reader, 3 * 43).await;
    assert!(numbers_by_shard(&records).values().all(|numbers| numbers.iter().copied().eq(1..=43)));
    for record in &records {
        let event = event_codec::decode(event_codec::unframe(&record.value).unwrap()).unwrap();
        assert_eq!((Some(event.seq), event.shard()), (record.seq, record.shard));
        assert!(customers.iter().any(|customer| customer.payer == event.event.payer));
        assert_eq!(record.trace_parent, Some(trace_parent.to_string()));
        assert!(record.timestamp_ms.is_some());
    }
    assert_eq!(reader.poll(POLL).await.unwrap(), LogEvent::Idle);
}

pub async fn a_reader_goes_on_where_its_group_has_committed(stores: &Stores<'_>) {
    let customer = Customer::user();
    stores.publish(&customer, 40, None).await;
    let mut first = stores.log.reader("projection").await.unwrap();
    let records = read(&mut *first, 40).await;
    let next = records.iter().find(|record| record.seq == Some(26)).unwrap().offset;
    first.commit(&[(customer.shard(), next)]).await.unwrap();
    drop(first);
    stores.publish(&customer, 5, None).await;
    let mut second = stores.log.reader("projection").await.unwrap();
    let numbers: Vec<_> = read(&mut *second, 20).await.iter().map(|record| record.seq.unwrap()).collect();
    assert_eq!(numbers, (26..=45).collect::<Vec<_>>());
    let mut others = stores.log.reader("replay").await.unwrap();
    assert_eq!(read(&mut *others, 45).await.len(), 45);
}

pub async fn a_group_that_has_committed_nothing_starts_at_the_beginning(stores: &Stores<'_>) {
    let customer = Customer::user();
    stores.publish(&customer, 3, None).await;
    for _ in 0..2 {
        let mut reader = stores.log.reader("projection").await.unwrap();
        let numbers: Vec<_> = read(&mut *reader, 3).await.iter().map(|record| record.seq.unwrap()).collect();
        assert_eq!(numbers, [1, 2, 3]);
    }
}

pub async fn a_waiting_reader_gets_what_is_published_meanwhile(stores: &Stores<'_>) {
    let customer = Customer::user();
    let mut reader = stores.log.reader("projection").await.unwrap();
    own_everything(&mut *reader).await;
    let (records, ()) = futures::future::join(read(&mut *reader, 2), stores.publish(&customer, 2, None)).await;
    assert_eq!(numbers_by_shard(&records), BTreeMap::from([(customer.shard(), vec![1, 2])]));
}

pub async fn a_scan_sees_everything_once_up_to_the_present(stores: &Stores<'_>) {
    assert!(stores.scanned().await.is_empty());
    let customers = three_customers();
    for customer in &customers {
        stores.publish(customer, 17, None).await;
    }
    let records = stores.scanned().await;
    assert_eq!(records.len(), 51);
    assert!(numbers_by_shard(&records).values().all(|numbers| numbers.iter().copied().eq(1..=17)));
    let places = |records: &[LogRecord]| records.iter().map(|record| (record.shard, record.offset)).collect::<BTreeSet<_>>();
    assert_eq!(places(&records).len(), 51);
    assert_eq!(places(&stores.scanned().await), places(&records));
}

pub async fn a_record_is_found_by_its_number(stores: &Stores<'_>) {
    let customer = Customer::user();
    let shard = customer.shard();
    assert_eq!(stores.log.find(shard, 1).await.unwrap(), None);
    stores.publish(&customer, 20, None).await;
    // As a relay does that has lost its mark: the same run again, and then on.
    let again = stores.outbox.read(shard, 10, 100).await.unwrap();
    stores.log.append(shard, again).await.unwrap().await.unwrap();
    stores.publish(&customer, 20, None).await;
    let records = stores.scanned().await;
    for seq in [1, 10, 11, 20, 21, 40] {
        let offset = stores.log.find(shard, seq).await.unwrap().unwrap_or_else(|| panic!("number {seq} is not found"));
        assert!(records.iter().any(|record| (record.shard, record.offset, record.seq) == (shard, offset, Some(seq))), "{seq} at {offset}");
    }
    assert_eq!(stores.log.find(shard, 41).await.unwrap(), None);
}

pub async fn a_letter_is_kept_once_however_often_it_is_buried(stores: &Stores<'_>) {
    assert_eq!(stores.log.buried().await.unwrap(), 0);
    let letter = |index, offset| DeadLetter {
        shard: Shard::new(index).unwrap(),
        offset,
        value: vec![0xff, 0, b'{'],
        seq: Some(7),
        reason: "the record does not begin with 0x00".into(),
    };
    stores.log.bury(&[letter(1, 10), letter(1, 11)]).await.unwrap();
    assert_eq!(stores.log.buried().await.unwrap(), 2);
    stores.log.bury(&[letter(1, 11), letter(2, 11)]).await.unwrap();
    assert_eq!(stores.log.buried().await.unwrap(), 3);
    stores.log.bury(&[]).await.unwrap();
    assert_eq!(stores.log.buried().await.unwrap(), 3);
    stores.log.ping().await.unwrap();
}

pub async fn a_reader_of_one_shard_begins_where_it_is_told_and_goes_on_with_what_comes(stores: &Stores<'_>) {
    let customers = three_customers();
    for customer in &customers {
        stores.publish(customer, 20, None).await;
    }
    let shard = customers[1].shard();
    for (after, expected) in [(0, 1..=20), (12, 13..=20), (19, 20..=20)] {
        let mut reader = stores.log.shard_reader(&[Start { shard, after, offset: None }]).await.unwrap();
        let records = read(&mut *reader, usize::try_from(20 - after).unwrap()).await;
        assert_eq!(numbers_by_shard(&records), BTreeMap::from([(shard, expected.collect::<Vec<_>>())]), "after {after}");
        reader.commit(&[(shard, 5)]).await.unwrap();
    }
    let mut reader = stores.log.shard_reader(&[Start { shard, after: 20, offset: None }]).await.unwrap();
    stores.publish(&customers[1], 3, None).await;
    let mut newest = 0;
    // Of an end that is not there yet, a reader may bring what is before it.
    while newest < 23 {
        newest = read(&mut *reader, 1).await.last().unwrap().seq.unwrap();
    }
    assert_eq!(newest, 23);
}

pub async fn a_reader_of_some_shards_begins_in_each_where_it_is_told_by_number_or_offset(stores: &Stores<'_>) {
    let customers = three_customers();
    for customer in &customers {
        stores.publish(customer, 20, None).await;
    }
    let [first, second, third] = customers.each_ref().map(Customer::shard);
    let starts = [(first, 0), (second, 12)].map(|(shard, after)| Start { shard, after, offset: None });
    let mut reader = stores.log.shard_reader(&starts).await.unwrap();
    let records = read(&mut *reader, 28).await;
    assert_eq!(numbers_by_shard(&records), BTreeMap::from([(first, (1..=20).collect()), (second, (13..=20).collect())]));
    let offset_of = |shard, seq| records.iter().find(|record| record.shard == shard && record.seq == Some(seq)).map(|record| record.offset);
    let known = [(first, 6), (second, 17)].map(|(shard, seq)| Start { shard, after: seq - 1, offset: offset_of(shard, seq) });
    let [by_offset, also] = known;
    let mut reader = stores.log.shard_reader(&[by_offset, also, Start { shard: third, after: 19, offset: None }]).await.unwrap();
    let records = read(&mut *reader, 20).await;
    let expected = BTreeMap::from([(first, (6..=20).collect()), (second, (17..=20).collect()), (third, vec![20])]);
    assert_eq!(numbers_by_shard(&records), expected);
}

pub async fn what_is_done_about_a_letter_stays_with_it(stores: &Stores<'_>) {
    let letter = |index, offset| DeadLetter {
        shard: Shard::new(index).unwrap(),
        offset,
        value: vec![0xff, 0, b'{'],
        seq: (offset > 10).then_some(offset),
        reason: "a \"reason\"\u{1f30a}".into(),
    };
    let letters = [letter(1, 10), letter(63, 11), letter(0, 12)];
    assert!(stores.log.letters().await.unwrap().is_empty());
    for letter in &letters {
        stores.log.bury(std::slice::from_ref(letter)).await.unwrap();
        // Letters of one millisecond may come in any order.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stores.log.bury(&letters[1..2]).await.unwrap();
    let kept = stores.log.letters().await.unwrap();
    assert_eq!(kept.iter().map(|kept| kept.letter.clone()).collect::<Vec<_>>(), letters);
    assert!(kept.iter().all(|kept| kept.acts.is_empty() && kept.end().is_none() && kept.edited().is_none()));
    assert!(kept[1].last_seen > kept[1].first_seen && kept[0].last_seen == kept[0].first_seen);

    let act = |kind, reason: Option<&str>, value: Option<Vec<u8>>| LetterAct {
        kind,
        by: "user:1".into(),
        at: start(),
        reason: reason.map(str::to_owned),
        value,
    };
    let acts = [
        act(LetterActKind::Edited, None, Some(vec![1])),
        act(LetterActKind::Edited, None, Some(vec![0, 255])),
        act(LetterActKind::Redriven, None, None),
        act(LetterActKind::Dropped, Some("foreign"), None),
    ];
    for act in &acts {
        stores.log.act_on_letter((letters[1].shard, 11), act).await.unwrap();
    }
    stores.log.act_on_letter((letters[1].shard, 10), &acts[3]).await.unwrap();
    let kept = stores.log.letters().await.unwrap();
    assert_eq!((kept.len(), stores.log.buried().await.unwrap()), (3, 3), "of what was never buried there is no letter");
    assert_eq!(kept[1].acts, acts);
    assert_eq!((kept[1].end(), kept[1].edited()), (Some(LetterActKind::Dropped), Some(&[0, 255][..])));
    assert!(kept[0].acts.is_empty() && kept[2].acts.is_empty());
}

pub async fn a_redriven_event_is_in_the_log_under_its_own_number(stores: &Stores<'_>) {
    let customer = Customer::user();
    stores.publish(&customer, 5, None).await;
    let row = stores.outbox.read(customer.shard(), 1, 1).await.unwrap().remove(0);
    assert!(stores.log.redrive(row.clone()).await.unwrap());
    let records = stores.scanned().await;
    let redriven: Vec<_> = records.iter().filter(|record| record.seq == Some(2)).collect();
    assert!(!redriven.is_empty() && redriven.iter().all(|record| record.value == event_codec::frame(&row.payload)));
    assert_eq!(numbers_by_shard(&records)[&customer.shard()].iter().collect::<BTreeSet<_>>().len(), 5);
}
