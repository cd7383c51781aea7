//! What was written comes back, and nothing else does.

use super::*;
use proptest::prelude::*;

fn shard() -> Shard {
    Shard::new(7).unwrap()
}

fn row(seq: i64, payload: Vec<u8>, trace_parent: Option<String>, millis: i64) -> OutboxRow {
    OutboxRow {
        shard: shard(),
        seq,
        epoch: 1,
        event_id: Uuid::from_u128(u128::try_from(seq).unwrap() * 0x1234_5678_9abc_def1),
        kind: "CHARGE_SETTLED".into(),
        tenant: Uuid::from_u128(9),
        occurred_at: DateTime::from_timestamp_millis(millis).unwrap(),
        trace_parent,
        seen: payload.iter().rev().copied().collect(),
        payload,
    }
}

fn some_rows() -> (Segment, Vec<OutboxRow>, Vec<u8>) {
    let rows: Vec<OutboxRow> = (41..=43).map(|seq| row(seq, format!("event {seq} of openai").into_bytes(), None, seq * 1_000)).collect();
    let (segment, bytes) = encode(&rows).unwrap();
    (segment, rows, bytes)
}

proptest! {
    #[test]
    fn rows_come_back_as_they_were(
        from in 1_i64..1_000_000_000_000,
        parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), prop::option::of("[-0-9a-f]{0,55}"), -4_000_000_000_000_i64..4_000_000_000_000), 1..60),
    ) {
        let rows: Vec<OutboxRow> = (from..).zip(parts).map(|(seq, (payload, trace, millis))| row(seq, payload, trace, millis)).collect();
        let (segment, bytes) = encode(&rows).unwrap();
        prop_assert_eq!((segment.from, segment.to), (from, rows.last().unwrap().seq));
        prop_assert_eq!(&encode(&rows).unwrap().1, &bytes, "the same rows make the same file");
        prop_assert_eq!(decode(segment, &bytes).unwrap(), rows);
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), magic in any::<bool>()) {
        let bytes = if magic { [&MAGIC[..], &[VERSION, 7], &bytes].concat() } else { bytes };
        let refused = decode(Segment { shard: shard(), from: 1, to: 2 }, &bytes).is_err();
        prop_assert!(refused);
    }
}

#[test]
fn every_shorter_length_and_one_byte_more_is_refused() {
    let (segment, _, bytes) = some_rows();
    for length in 0..bytes.len() {
        let cut = decode(segment, &bytes[..length]);
        assert!(matches!(cut, Err(Damage::Length { .. })), "{length} bytes: {cut:?}");
    }
    let expected = u64::try_from(bytes.len()).unwrap();
    let longer = decode(segment, &[&bytes[..], &[0]].concat());
    assert_eq!(longer, Err(Damage::Length { expected, found: expected + 1 }));
}

#[test]
fn every_flipped_bit_is_refused() {
    let (segment, rows, bytes) = some_rows();
    assert_eq!(decode(segment, &bytes).unwrap(), rows);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(segment, &flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn the_file_of_other_numbers_is_refused_under_this_name() {
    let (segment, _, bytes) = some_rows();
    let other = Segment { from: segment.from + 1, to: segment.to + 1, ..segment };
    let refused = decode(other, &bytes).unwrap_err();
    assert_eq!(refused.to_string(), "it holds 3 events, the numbers 41 to 43 of shard 7");
}

#[test]
fn only_a_run_without_gaps_makes_a_segment() {
    let (_, rows, _) = some_rows();
    assert!(encode(&[]).is_none());
    assert!(encode(&[rows[0].clone(), rows[2].clone()]).is_none());
    assert!(encode(&[rows[1].clone(), rows[0].clone()]).is_none());
}

#[test]
fn events_take_a_fraction_of_their_size() {
    let payload = |seq: i64| {
        format!("{}|6f1f3c0e-7f53-4a8e-9d5c-0b9a4f9a2e11|openai|gpt-4o|{seq}", Uuid::from_u128(u128::try_from(seq).unwrap())).into_bytes()
    };
    let rows: Vec<OutboxRow> = (1..=1_000).map(|seq| row(seq, payload(seq), None, seq)).collect();
    let (_, bytes) = encode(&rows).unwrap();
    let plain: usize = rows.iter().map(|row| row.payload.len() + row.seen.len() + 60).sum();
    assert!(bytes.len() * 4 < plain, "{} of {plain} bytes", bytes.len());
}
