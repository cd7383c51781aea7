//! The outbox read as the log.

use crate::story::{consume, grant, payer};
use adapter_embedded::Embedded;
use domain::ids::Shard;
use ports::{
    event_log::{EventLog, LogEvent, LogReader},
    ledger::Ledger,
    outbox::Outbox,
};
use std::time::Duration;
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(10);
const NOW: Duration = Duration::ZERO;

async fn publish_all(embedded: &Embedded) {
    let leases = embedded.acquire_leases(Uuid::from_u128(1), SOON).await.unwrap();
    let heads = embedded.heads().await.unwrap();
    let marks: Vec<_> = leases.into_iter().zip(heads).map(|(lease, head)| (lease, head.last_seq)).collect();
    assert_eq!(embedded.mark_published(&marks).await.unwrap(), []);
}

async fn read_all(reader: &mut dyn LogReader) -> Vec<(Shard, i64)> {
    let mut read = Vec::new();
    loop {
        match reader.poll(NOW).await.unwrap() {
            LogEvent::Records(records) => read.extend(records.iter().map(|record| (record.shard, record.offset))),
            LogEvent::Assigned(_) => {}
            LogEvent::Idle => return read,
        }
    }
}

#[tokio::test]
async fn a_reader_sees_only_what_is_published_and_wakes_when_it_is() {
    let embedded = Embedded::in_temp().await.unwrap();
    let payer = payer(1);
    embedded.apply(&[grant(payer, 10), consume(payer, 1)]).await.unwrap();
    let mut reader = embedded.reader("test").await.unwrap();
    assert_eq!(read_all(&mut *reader).await, []);
    let waiting = tokio::spawn(async move { (reader.poll(SOON).await.unwrap(), reader) });
    tokio::task::yield_now().await;
    publish_all(&embedded).await;
    let (LogEvent::Records(records), _) = waiting.await.unwrap() else { panic!("published records were not read") };
    assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [1, 2]);
    let event = event_codec::decode(event_codec::unframe(&records[1].value).unwrap()).unwrap();
    assert_eq!((event.seq, event.event.payer), (2, payer));
}

#[tokio::test]
async fn a_long_backlog_is_read_in_order_once_and_again_from_the_committed_offset() {
    let embedded = Embedded::in_temp().await.unwrap();
    let payer = payer(1);
    let batch: Vec<_> = (0..1_500).map(|_| grant(payer, 1)).collect();
    embedded.apply(&batch).await.unwrap();
    publish_all(&embedded).await;
    let mut reader = embedded.reader("test").await.unwrap();
    let expected: Vec<_> = (1..=1_500).map(|offset| (payer.shard(), offset)).collect();
    assert_eq!(read_all(&mut *reader).await, expected);
    reader.commit(&[(payer.shard(), 1_001)]).await.unwrap();
    drop(reader);
    let mut reader = embedded.reader("test").await.unwrap();
    assert_eq!(read_all(&mut *reader).await, expected[1_000..]);
    let mut scanned = Vec::new();
    embedded.scan(&mut |record| scanned.push((record.shard, record.offset))).await.unwrap();
    assert_eq!(scanned, expected);
}

#[tokio::test]
async fn a_commit_for_a_shard_that_changed_hands_is_ignored() {
    let embedded = Embedded::in_temp().await.unwrap();
    let mut first = embedded.reader("test").await.unwrap();
    assert_eq!(read_all(&mut *first).await, []);
    let mut second = embedded.reader("test").await.unwrap();
    let LogEvent::Assigned(kept) = first.poll(SOON).await.unwrap() else { panic!("half of the shards go to the new reader") };
    let LogEvent::Assigned(taken) = second.poll(SOON).await.unwrap() else { panic!("the new reader gets half of the shards") };
    assert_eq!((kept.len(), taken.len()), (32, 32));
    let lost = taken[0];
    second.commit(&[(lost, 5)]).await.unwrap();
    first.commit(&[(lost, 9)]).await.unwrap();
    drop((first, second));
    embedded.apply(&(0..200).flat_map(|number| (0..8).map(move |_| grant(payer(number), 1))).collect::<Vec<_>>()).await.unwrap();
    publish_all(&embedded).await;
    let mut third = embedded.reader("test").await.unwrap();
    let read = read_all(&mut *third).await;
    assert_eq!(read.iter().find(|(shard, _)| *shard == lost), Some(&(lost, 5)));
}
