//! What is taken of the records of several shards.

use super::*;
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    charge::Metadata,
    event::{EventType, NewEvent},
    ids::{EventId, OrgId, Payer, Provider},
};
use uuid::Uuid;

fn payer(number: u128) -> Payer {
    Payer::Org(OrgId(Uuid::from_u128(number)))
}

fn record(payer: Payer, seq: i64, offset: i64) -> LogRecord {
    let at: DateTime<Utc> = "2026-11-21T12:00:00Z".parse().unwrap();
    let event = NewEvent {
        id: EventId(Uuid::from_u128(u128::try_from(seq).unwrap())),
        kind: EventType::ChargeSettled,
        payer,
        user_id: None,
        key_id: None,
        provider: Some(Provider::parse("openai").unwrap()),
        model: None,
        charge_id: None,
        tokens: Tokens::new(1).unwrap(),
        count: 1,
        cost: None,
        reason: None,
        occurred_at: at,
        metadata: Metadata::default(),
    };
    let event = UsageEvent { event, seq, epoch: 1, recorded_at: at };
    let value = event_codec::frame(&event_codec::encode(&event).unwrap());
    LogRecord { shard: payer.shard(), offset, value, seq: Some(seq), trace_parent: None, timestamp_ms: None }
}

fn foreign(payer: Payer, offset: i64) -> LogRecord {
    LogRecord { value: b"nothing of ours".to_vec(), seq: None, ..record(payer, 1, offset) }
}

const fn way(last_seq: i64, through: i64) -> Way {
    Way { last_seq, through, next_offset: None }
}

#[tokio::test]
async fn each_shard_is_read_to_its_own_end_and_can_be_read_on_from_there() {
    let [one, other] = [payer(1), payer(2)];
    assert_ne!(one.shard(), other.shard());
    let mut ways = BTreeMap::from([(one.shard(), way(0, 2)), (other.shard(), way(4, 7))]);
    let records = [
        record(one, 1, 10),
        record(other, 4, 3),
        record(other, 5, 4),
        foreign(one, 11),
        record(one, 1, 12),
        record(one, 2, 13),
        record(one, 3, 14),
        record(other, 6, 5),
        foreign(one, 15),
    ];
    let mut in_vain = 0;
    let events = dense(&records, &mut ways, &mut in_vain).await.ok().unwrap();
    let taken: Vec<_> = events.iter().map(|event| (event.shard(), event.seq)).collect();
    assert_eq!(taken, [(one.shard(), 1), (other.shard(), 5), (one.shard(), 2), (other.shard(), 6)]);
    assert_eq!(in_vain, 2, "what is behind the end");
    let next = |payer: Payer| ways[&payer.shard()].next_offset;
    assert_eq!((next(one), next(other)), (Some(14), Some(6)));
    assert!(!ways[&one.shard()].is_open() && ways[&other.shard()].is_open());
}

#[tokio::test]
async fn a_number_that_is_missing_is_named() {
    let mut ways = BTreeMap::from([(payer(1).shard(), way(3, 9))]);
    let Err(Halt::Failed(why)) = dense(&[record(payer(1), 6, 0)], &mut ways, &mut 0).await else { panic!("it was read over") };
    assert!(why.contains(&format!("lacks the numbers 4 to 5 of shard {}", payer(1).shard())), "{why}");
}
