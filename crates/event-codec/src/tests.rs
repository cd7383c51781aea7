//! What the bytes promise.

use super::*;
use apache_avro::{
    Schema,
    schema_compatibility::{Compatibility, SchemaCompatibility},
};
use chrono::{DateTime, Utc};
use domain::{
    amount::Tokens,
    event::{EventType, NewEvent},
    ids::{ChargeId, EventId, KeyId, Model, OrgId, Payer, Provider, UserId},
    money::Cost,
};
use proptest::prelude::*;
use std::{collections::BTreeMap, fs, path::Path};
use uuid::Uuid;

const GOLDEN: &str = include_str!("../testdata/usage-event.v1.hex");

fn at(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap()
}

/// Every field set.
fn full_event() -> UsageEvent {
    let event = NewEvent {
        id: EventId(Uuid::from_u128(0x0193_5000_0000_7000_8000_0000_0000_0001)),
        kind: EventType::ChargeSettled,
        payer: Payer::Org(OrgId(Uuid::from_u128(0x6f1f_3c0e_7f53_4a8e_9d5c_0b9a_4f9a_2e11))),
        user_id: Some(UserId(Uuid::from_u128(2))),
        key_id: Some(KeyId(Uuid::from_u128(3))),
        provider: Provider::parse("openai").ok(),
        model: Model::parse("gpt-4o").ok(),
        charge_id: Some(ChargeId(Uuid::from_u128(4))),
        tokens: Tokens::new(1_234).unwrap(),
        count: 1,
        cost: None,
        reason: Some("late".into()),
        occurred_at: at(1_700_000_000_123),
        metadata: BTreeMap::from([("team".to_owned(), "søk".to_owned()), ("a".to_owned(), String::new())]),
    };
    UsageEvent { event, seq: 42, epoch: 1, recorded_at: at(1_700_000_000_456) }
}

/// Nothing optional set.
fn bare_event() -> UsageEvent {
    let full = full_event();
    let event = NewEvent {
        payer: Payer::User(UserId(Uuid::from_u128(9))),
        user_id: None,
        key_id: None,
        provider: None,
        model: None,
        charge_id: None,
        reason: None,
        metadata: BTreeMap::new(),
        ..full.event
    };
    UsageEvent { event, ..full }
}

#[test]
fn the_bytes_of_an_event_never_change() {
    let golden: Vec<&str> = GOLDEN.lines().collect();
    assert_eq!(golden.len(), 2);
    for (event, line) in [full_event(), bare_event()].iter().zip(golden) {
        assert_eq!(hex::encode(encode(event).unwrap()), line);
        assert_eq!(decode(&hex::decode(line).unwrap()).unwrap(), *event);
    }
}

#[test]
fn every_type_is_a_symbol_of_the_schema_at_the_same_place() {
    let schema: serde_json::Value = serde_json::from_str(USAGE_EVENT_SCHEMA).unwrap();
    let symbols = schema["fields"][1]["type"]["symbols"].as_array().unwrap();
    let names: Vec<&str> = EventType::ALL.into_iter().map(EventType::as_str).collect();
    assert_eq!(symbols.iter().map(|symbol| symbol.as_str().unwrap()).collect::<Vec<_>>(), names);
    for (index, kind) in EventType::ALL.into_iter().enumerate() {
        let mut event = full_event();
        event.event.kind = kind;
        let payload = encode(&event).unwrap();
        // A text of 36 bytes behind its length; then the zig-zagged index.
        assert_eq!(usize::from(payload[37]), index * 2);
        assert_eq!(decode(&payload).unwrap(), event);
    }
}

#[test]
fn a_type_that_is_not_in_the_schema_is_refused() {
    let mut payload = encode(&full_event()).unwrap();
    for index in [12, 63, -1_i8] {
        payload[37] = (index << 1 ^ index >> 7).cast_unsigned();
        assert!(matches!(decode(&payload), Err(DecodeError::NotAvro(_))), "{index}");
    }
}

#[test]
fn trailing_bytes_are_refused() {
    let mut payload = encode(&full_event()).unwrap();
    payload.push(0);
    assert!(matches!(decode(&payload), Err(DecodeError::TrailingBytes(1))));
}

#[test]
fn every_shorter_record_is_refused() {
    let payload = encode(&full_event()).unwrap();
    for length in 0..payload.len() {
        assert!(decode(&payload[..length]).is_err(), "{length}");
    }
}

/// The payload with the bytes `from` replaced at their only occurrence.
fn forged(event: &UsageEvent, from: &[u8], to: &[u8]) -> Vec<u8> {
    let payload = encode(event).unwrap();
    let places: Vec<usize> = (0..=payload.len() - from.len()).filter(|&at| payload[at..].starts_with(from)).collect();
    let [at] = places[..] else { panic!("{} places", places.len()) };
    [&payload[..at], to, &payload[at + from.len()..]].concat()
}

#[test]
fn an_event_that_contradicts_itself_is_refused() {
    let event = full_event();
    let field = |payload: Vec<u8>| match decode(&payload) {
        Err(DecodeError::Field { field }) => field,
        other => panic!("{other:?}"),
    };
    let mut foreign_shard = encode(&event).unwrap();
    foreign_shard[38] ^= 2;
    assert_eq!(field(foreign_shard), "shard");
    let mut foreign_tenant = encode(&event).unwrap();
    let tenant = Uuid::from_u128(7);
    let moved = UsageEvent { event: NewEvent { payer: Payer::Org(OrgId(tenant)), ..event.event.clone() }, ..event.clone() };
    foreign_tenant[38] = encode(&moved).unwrap()[38];
    let start = foreign_tenant.windows(36).position(|text| text == event.event.payer.tenant().to_string().as_bytes()).unwrap();
    foreign_tenant[start..start + 36].copy_from_slice(tenant.to_string().as_bytes());
    assert_eq!(field(foreign_tenant), "orgId");
    assert_eq!(field(forged(&event, b"openai", b"open i")), "provider");
    assert_eq!(field(forged(&event, b"gpt-4o", b"gpt 4o")), "model");
    assert_eq!(field(encode(&UsageEvent { seq: 0, ..event.clone() }).unwrap()), "seq");
    let none = UsageEvent { event: NewEvent { count: 0, ..event.event.clone() }, ..event };
    assert_eq!(field(encode(&none).unwrap()), "count");
}

#[test]
fn a_length_beyond_any_record_is_refused_without_allocating_it() {
    // 2^62 bytes of event id.
    let mut payload = vec![0x80; 8];
    payload.extend([0x80, 0x01]);
    let Err(DecodeError::NotAvro(reason)) = decode(&payload) else { panic!("accepted") };
    assert_eq!(reason, "eventId is longer than the record");
}

/// Other writers of Avro may divide a map, and may say how long a block is.
#[test]
fn metadata_in_several_blocks_is_read() {
    let event = full_event();
    let payload = encode(&UsageEvent { event: NewEvent { metadata: BTreeMap::new(), ..event.event.clone() }, ..event.clone() }).unwrap();
    let (end, start) = payload.split_last().unwrap();
    assert_eq!(*end, 0);
    let one_of_three_bytes = [b"\x01\x06\x02a\x00".as_slice(), b"\x02\x08team\x08s\xc3\xb8k", b"\x00"].concat();
    assert_eq!(decode(&[start, &one_of_three_bytes].concat()).unwrap(), event);
    let endless = [start, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x02]].concat();
    assert!(matches!(decode(&endless), Err(DecodeError::NotAvro(_))));
}

#[test]
fn a_foreign_frame_is_refused() {
    let framed = frame(b"datum");
    assert_eq!(unframe(&framed).unwrap(), b"datum");
    assert!(matches!(unframe(&framed[..4]), Err(DecodeError::TooShort)));
    assert!(matches!(unframe(&[1, 0, 0, 0, 1, 9]), Err(DecodeError::NotFramed)));
    assert!(matches!(unframe(&[0, 0, 0, 1, 1, 9]), Err(DecodeError::UnknownSchema(257))));
}

/// `BACKWARD_TRANSITIVE`: the newest schema reads what any older one wrote; files are numbered `usage-event.v1.avsc`, `v2`, …
#[test]
fn every_newer_schema_reads_what_every_older_one_wrote() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas");
    let mut versions: Vec<(u32, Schema)> = fs::read_dir(folder)
        .unwrap()
        .filter_map(|file| {
            let path = file.unwrap().path();
            let version = path.file_name()?.to_str()?.strip_prefix("usage-event.v")?.strip_suffix(".avsc")?.parse().unwrap();
            Some((version, Schema::parse_str(&fs::read_to_string(path).unwrap()).unwrap()))
        })
        .collect();
    versions.sort_by_key(|(version, _)| *version);
    assert!(!versions.is_empty());
    for (index, (writer_version, writer)) in versions.iter().enumerate() {
        assert_eq!(usize::try_from(*writer_version).unwrap(), index + 1, "versions are numbered without gaps");
        for (reader_version, reader) in &versions[index..] {
            let answer = SchemaCompatibility::can_read(writer, reader);
            assert!(matches!(answer, Ok(Compatibility::Full)), "v{reader_version} cannot read v{writer_version}: {answer:?}");
        }
    }
    assert_eq!(Schema::parse_str(USAGE_EVENT_SCHEMA).unwrap(), versions[0].1);
}

#[test]
fn the_compatibility_check_notices_a_field_without_default() {
    let newer = USAGE_EVENT_SCHEMA.replace(r#"{"name": "seq","#, r#"{"name": "added", "type": "long"}, {"name": "seq","#);
    assert_ne!(newer, USAGE_EVENT_SCHEMA);
    let [older, newer] = [USAGE_EVENT_SCHEMA, &newer].map(|text| Schema::parse_str(text).unwrap());
    assert!(SchemaCompatibility::can_read(&older, &newer).is_err());
}

prop_compose! {
    fn any_new_event()(
        ids in prop::array::uniform5(any::<u128>()), present in prop::array::uniform7(any::<bool>()), org in any::<bool>(),
        kind in prop::sample::select(EventType::ALL.to_vec()), provider in "[a-z0-9_-]{1,50}", model in "[a-z0-9._:/@+-]{1,100}",
        tokens in 0..=Tokens::MAX.get(), count in 1..=i64::MAX, reason in ".{0,40}", occurred_at in 0i64..4_102_444_800_000,
        metadata in prop::collection::btree_map(".{0,20}", ".{0,40}", 0..6),
    ) -> NewEvent {
        let [id, payer, user, key, charge] = ids.map(Uuid::from_u128);
        NewEvent {
            id: EventId(id),
            kind,
            payer: if org { Payer::Org(OrgId(payer)) } else { Payer::User(UserId(payer)) },
            user_id: present[0].then_some(UserId(user)),
            key_id: present[1].then_some(KeyId(key)),
            provider: present[2].then(|| Provider::parse(&provider).unwrap()),
            model: present[3].then(|| Model::parse(&model).unwrap()),
            charge_id: present[4].then_some(ChargeId(charge)),
            tokens: Tokens::new(tokens).unwrap(),
            count,
            cost: present[6].then(|| Cost { minor_units: Tokens::new(tokens / 3).unwrap(), currency: "EUR".parse().unwrap() }),
            reason: present[5].then_some(reason),
            occurred_at: at(occurred_at),
            metadata,
        }
    }
}

proptest! {
    #[test]
    fn an_event_survives_its_bytes(event in any_new_event(), seq in 1..=i64::MAX, epoch: i32, recorded_at in 0i64..4_102_444_800_000) {
        let event = UsageEvent { event, seq, epoch, recorded_at: at(recorded_at) };
        let payload = encode(&event).unwrap();
        prop_assert_eq!(decode(unframe(&frame(&payload)).unwrap()).unwrap(), event.clone());
        let NewEvent { id: event_id, kind, occurred_at, payer, .. } = event.event;
        let expected = Header { event_id, kind, seq: event.seq, epoch: event.epoch, occurred_at, tenant: payer.tenant() };
        prop_assert_eq!(header(&payload).unwrap(), expected);
    }

    /// Any other implementation reads the same: the bytes agree with the library's generic, schema-driven decoder.
    #[test]
    fn the_generic_decoder_reads_the_same_event(event in any_new_event()) {
        let event = UsageEvent { event, seq: 7, epoch: 1, recorded_at: at(1) };
        let schema = Schema::parse_str(USAGE_EVENT_SCHEMA).unwrap();
        let payload = encode(&event).unwrap();
        let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
        let value = reader.read_value(&mut payload.as_slice()).unwrap();
        let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&schema).build().unwrap();
        prop_assert!(value.validate(&schema));
        let apache_avro::types::Value::Record(fields) = &value else { panic!("not a record") };
        let metadata_order_is_free = event.event.metadata.len() > 1;
        prop_assert_eq!(fields.len(), 20);
        if !metadata_order_is_free {
            prop_assert_eq!(writer.write_value_to_vec(value).unwrap(), payload);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _refused_or_not = decode(&bytes);
    }

    #[test]
    fn damaged_events_never_panic(event in any_new_event(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut payload = encode(&UsageEvent { event, seq: 1, epoch: 1, recorded_at: DateTime::UNIX_EPOCH }).unwrap();
        let at = at.index(payload.len());
        payload[at] = byte;
        if let Ok(event) = decode(&payload) {
            prop_assert!(event.seq >= 1 && event.event.count >= 1);
        }
    }
}
