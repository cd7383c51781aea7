//! How a row of the outbox holds its events: a run of consecutive numbers of one shard, in few bytes that give the same events back.
//!
//! A row costs some 180 bytes of log for its headers and its place in the index, whatever is in it; so the events of a transaction
//! share rows. Two thirds of an event are ids as text: they are kept as 16 bytes, and as one or two when the row has them already.
//!
//! ```text
//! row     = event*                                  count and the last number are columns
//! event   = trace seen text*                        until an end
//! trace   = 0 | 1 trace-id(16) span-id(8) flags(1) | 2 (that of the event before)
//! seen    = length literal(length)
//! text    = length literal(length) next
//! next    = 0 (end of the event) | 1 id(16) | n >= 2 (the row's id number n - 2)
//! ```
//!
//! Numbers are unsigned LEB128.

use crate::{error::corrupt, shard::shard_column};
use domain::{event::EventType, ids::Shard, trace_parent::TraceParent};
use ports::Result;
use std::collections::HashMap;
use uuid::Uuid;

/// An event as the ledger encoded it: Avro without framing, the trace it belongs to, and what its request had seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedEvent {
    pub trace_parent: Option<TraceParent>,
    pub seen: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Rows end at about this size: larger ones would be moved out of the table in pieces, which costs more than a new row.
const ROW_BYTES: usize = 1_900;
/// Most events of a row; a reader that wants a number looks no further than this behind it.
pub(crate) const ROW_EVENTS: i16 = 64;

const UUID_TEXT: usize = 36;
const NO_TRACE: u8 = 0;
const OWN_TRACE: u8 = 1;
const SAME_TRACE: u8 = 2;
const END: usize = 0;
const NEW_ID: usize = 1;
const FIRST_KNOWN: usize = 2;

/// The events of a transaction on their way into the outbox, divided into rows.
#[derive(Default)]
pub struct PackedRows {
    rows: Vec<PackedRow>,
    /// The row of each shard that may have room.
    open: HashMap<Shard, usize>,
}

struct PackedRow {
    shard: Shard,
    /// Number of the last event.
    seq: i64,
    /// One of the events says that a threshold was reached.
    thresholds: bool,
    events: RowWriter,
}

impl PackedRows {
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds the next event of a shard. Its number follows the shard's last one.
    pub fn push(&mut self, shard: Shard, seq: i64, kind: EventType, event: &PackedEvent) {
        let thresholds = kind == EventType::ThresholdReached;
        let open = self.open.get(&shard).and_then(|index| self.rows.get_mut(*index));
        if let Some(row) = open
            && row.events.push(event)
        {
            row.seq = seq;
            row.thresholds |= thresholds;
            return;
        }
        let mut events = RowWriter::default();
        events.push(event);
        self.open.insert(shard, self.rows.len());
        self.rows.push(PackedRow { shard, seq, thresholds, events });
    }

    pub fn columns(&self) -> Columns<'_> {
        let mut columns = Columns::default();
        for row in &self.rows {
            columns.shards.push(shard_column(row.shard));
            columns.counts.push(row.events.count);
            columns.seqs.push(row.seq);
            columns.events.push(&row.events.bytes);
            columns.thresholds.push(row.thresholds);
        }
        columns
    }
}

/// The columns `shard`, `count`, `seq`, `events` and `thresholds` of some rows.
#[derive(Default)]
pub struct Columns<'a> {
    pub shards: Vec<i16>,
    pub counts: Vec<i16>,
    pub seqs: Vec<i64>,
    pub events: Vec<&'a [u8]>,
    pub thresholds: Vec<bool>,
}

/// A row being filled.
#[derive(Default)]
struct RowWriter {
    bytes: Vec<u8>,
    ids: Vec<Uuid>,
    trace: Option<TraceParent>,
    count: i16,
}

impl RowWriter {
    /// Adds the event, unless the row has some and is full.
    fn push(&mut self, event: &PackedEvent) -> bool {
        let before = (self.bytes.len(), self.ids.len(), self.trace);
        self.put_trace(event.trace_parent);
        put_number(&mut self.bytes, event.seen.len());
        self.bytes.extend_from_slice(&event.seen);
        self.put_payload(&event.payload);
        let full = self.bytes.len() > ROW_BYTES || self.count >= ROW_EVENTS;
        if full && self.count > 0 {
            self.bytes.truncate(before.0);
            self.ids.truncate(before.1);
            self.trace = before.2;
            return false;
        }
        self.count += 1;
        true
    }

    fn put_trace(&mut self, trace_parent: Option<TraceParent>) {
        match trace_parent {
            None => self.bytes.push(NO_TRACE),
            Some(trace) if self.trace == Some(trace) => self.bytes.push(SAME_TRACE),
            Some(trace) => {
                self.bytes.push(OWN_TRACE);
                self.bytes.extend_from_slice(&trace.trace_id);
                self.bytes.extend_from_slice(&trace.span_id);
                self.bytes.push(trace.flags);
                self.trace = Some(trace);
            }
        }
    }

    fn put_payload(&mut self, payload: &[u8]) {
        let mut rest = payload;
        loop {
            let id = next_id(rest);
            let (literal, behind) = rest.split_at(id.map_or(rest.len(), |(at, _)| at));
            put_number(&mut self.bytes, literal.len());
            self.bytes.extend_from_slice(literal);
            let Some((_, id)) = id else {
                put_number(&mut self.bytes, END);
                return;
            };
            self.put_id(id);
            rest = behind.get(UUID_TEXT..).unwrap_or_default();
        }
    }

    fn put_id(&mut self, id: Uuid) {
        match self.ids.iter().position(|known| *known == id) {
            Some(position) => put_number(&mut self.bytes, FIRST_KNOWN + position),
            None => {
                put_number(&mut self.bytes, NEW_ID);
                self.bytes.extend_from_slice(id.as_bytes());
                self.ids.push(id);
            }
        }
    }
}

/// Where the next id begins that its bytes give back letter for letter.
fn next_id(bytes: &[u8]) -> Option<(usize, Uuid)> {
    // The first hyphen stands eight letters behind the beginning.
    let mut from = 8;
    while let Some(hyphen) = bytes.get(from..)?.iter().position(|byte| *byte == b'-') {
        let at = from + hyphen - 8;
        if let Some(id) = bytes.get(at..at + UUID_TEXT).and_then(id_of_text) {
            return Some((at, id));
        }
        from += hyphen + 1;
    }
    None
}

fn id_of_text(text: &[u8]) -> Option<Uuid> {
    let hyphens = [8, 13, 18, 23].iter().all(|at| text.get(*at) == Some(&b'-'));
    let id = hyphens.then(|| Uuid::try_parse_ascii(text).ok())??;
    // Capital letters would come back as small ones.
    let mut canonical = [0; UUID_TEXT];
    id.hyphenated().encode_lower(&mut canonical);
    (canonical == text).then_some(id)
}

fn put_number(bytes: &mut Vec<u8>, number: usize) {
    let mut rest = number;
    while rest >= 0x80 {
        bytes.push(u8::try_from(rest & 0x7f).unwrap_or(0) | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap_or(0));
}

/// The events of a row with their numbers; `last` is the number of the last.
pub(crate) fn numbered(bytes: &[u8], count: i16, last: i64) -> Result<Vec<(i64, PackedEvent)>> {
    let first = last - i64::from(count) + 1;
    Ok((first..).zip(unpack(bytes, count)?).collect())
}

/// The events of a row, in order.
///
/// # Errors
/// `Corrupt` when the bytes are not a row of that many events.
fn unpack(bytes: &[u8], count: i16) -> Result<Vec<PackedEvent>> {
    let mut reader = RowReader { rest: bytes, ids: Vec::new(), trace: None };
    let events = (0..count).map(|_| reader.event()).collect::<Option<Vec<_>>>();
    events.filter(|_| reader.rest.is_empty()).ok_or_else(|| corrupt("a row of the outbox that cannot be read"))
}

struct RowReader<'a> {
    rest: &'a [u8],
    ids: Vec<Uuid>,
    trace: Option<TraceParent>,
}

impl<'a> RowReader<'a> {
    fn event(&mut self) -> Option<PackedEvent> {
        let trace_parent = self.trace()?;
        let seen = self.number()?;
        let seen = self.take(seen)?.to_vec();
        let mut payload = Vec::with_capacity(320);
        loop {
            let literal = self.number()?;
            payload.extend_from_slice(self.take(literal)?);
            let id = match self.number()? {
                END => return Some(PackedEvent { trace_parent, seen, payload }),
                NEW_ID => {
                    let id = Uuid::from_slice(self.take(16)?).ok()?;
                    self.ids.push(id);
                    id
                }
                known => *self.ids.get(known - FIRST_KNOWN)?,
            };
            let mut text = [0; UUID_TEXT];
            payload.extend_from_slice(id.hyphenated().encode_lower(&mut text).as_bytes());
        }
    }

    fn trace(&mut self) -> Option<Option<TraceParent>> {
        match self.take(1)? {
            [NO_TRACE] => Some(None),
            [OWN_TRACE] => {
                let trace_id = self.take(16)?.try_into().ok()?;
                let span_id = self.take(8)?.try_into().ok()?;
                let [flags] = *self.take(1)? else { return None };
                self.trace = Some(TraceParent { trace_id, span_id, flags });
                Some(self.trace)
            }
            [SAME_TRACE] => Some(Some(self.trace?)),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in (0..28).step_by(7) {
            let [byte] = *self.take(1)? else { return None };
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pack(events: &[PackedEvent]) -> Vec<(i16, Vec<u8>)> {
        let mut rows = PackedRows::default();
        for (seq, event) in (1..).zip(events) {
            rows.push(Shard::new(7).unwrap(), seq, EventType::ChargeSettled, event);
        }
        let Columns { counts, seqs, events: bytes, .. } = rows.columns();
        let ends: Vec<i64> = counts
            .iter()
            .scan(0, |end, count| {
                *end += i64::from(*count);
                Some(*end)
            })
            .collect();
        assert_eq!(seqs, ends, "runs without gaps");
        counts.into_iter().zip(bytes.into_iter().map(<[u8]>::to_vec)).collect()
    }

    fn unpack_all(rows: &[(i16, Vec<u8>)]) -> Vec<PackedEvent> {
        rows.iter().flat_map(|(count, bytes)| unpack(bytes, *count).unwrap()).collect()
    }

    /// Ids and what looks like ids, among text, hyphens and any bytes.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let id = prop_oneof![Just(7_u128), any::<u128>()].prop_map(Uuid::from_u128);
        prop_oneof![
            id.clone().prop_map(|id| id.to_string().into_bytes()),
            id.clone().prop_map(|id| id.to_string().to_uppercase().into_bytes()),
            id.prop_map(|id| id.to_string().as_bytes()[..35].to_vec()),
            "[-0-9a-f]{0,50}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..300),
        ]
    }

    fn event() -> impl Strategy<Value = PackedEvent> {
        let trace = prop_oneof![Just(9_u8), any::<u8>()];
        let trace = prop::option::of(trace.prop_map(|byte| TraceParent { trace_id: [byte; 16], span_id: [byte; 8], flags: byte }));
        (trace, prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(piece(), 0..8))
            .prop_map(|(trace_parent, seen, pieces)| PackedEvent { trace_parent, seen, payload: pieces.concat() })
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back_byte_for_byte(events in prop::collection::vec(event(), 0..90)) {
            let rows = pack(&events);
            prop_assert!(rows.iter().all(|(count, bytes)| *count == 1 || bytes.len() <= ROW_BYTES));
            prop_assert_eq!(unpack_all(&rows), events);
        }

        #[test]
        fn any_bytes_are_a_row_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), count in 0_i16..9) {
            let _ = unpack(&bytes, count);
        }
    }

    #[test]
    fn the_ids_of_a_payer_are_kept_once_in_a_row() {
        let (tenant, key) = (Uuid::new_v4(), Uuid::new_v4());
        let payload = |own: Uuid| format!("{own}x{tenant}x{tenant}x{key}xopenai").into_bytes();
        let events: Vec<PackedEvent> =
            (0..20).map(|_| PackedEvent { trace_parent: None, seen: Vec::new(), payload: payload(Uuid::new_v4()) }).collect();
        let rows = pack(&events);
        let bytes: usize = rows.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes < 20 * 50, "{bytes} bytes for 20 events of {} bytes", events[0].payload.len());
        assert_eq!(unpack_all(&rows), events);
    }

    #[test]
    fn a_row_that_was_cut_or_has_more_than_it_says_is_refused() {
        let payload = Uuid::new_v4().to_string().into_bytes();
        let event = PackedEvent { trace_parent: Some(TraceParent::generate()), seen: vec![7; 3], payload };
        let (count, bytes) = pack(&[event]).remove(0);
        for length in 0..bytes.len() {
            assert!(unpack(&bytes[..length], count).is_err(), "{length} bytes");
        }
        assert!(unpack(&[bytes, vec![0]].concat(), count).is_err());
    }
}
