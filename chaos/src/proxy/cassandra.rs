//! CQL 4: nine bytes (version, flags, stream, opcode, length) and a body. Answers come in any order and are found by their stream.

use super::conversation::{Conversation, Unit, number_at, take};
use anyhow::{Result, bail};
use bytes::BytesMut;
use std::collections::HashMap;

const HEADER: usize = 9;
const QUERY: u8 = 0x07;
const RESULT: u8 = 0x08;
const EXECUTE: u8 = 0x0A;
const BATCH: u8 = 0x0D;
/// Compressed bodies cannot be looked into.
const COMPRESSED: u8 = 0x01;
/// A frame is at most 256 MiB.
const LONGEST: usize = 1 << 28;

#[derive(Default)]
pub struct Cassandra {
    /// Streams of statements that wait for their result, with the number of results that are still to be dropped.
    pending: HashMap<[u8; 2], u8>,
    latest: [u8; 2],
}

impl Conversation for Cassandra {
    fn request(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>> {
        let Some(frame) = frame(arrived)? else { return Ok(None) };
        let statement = match frame[4] {
            EXECUTE | BATCH => true,
            QUERY => frame[1] & COMPRESSED == 0 && !frame[HEADER + 4..].starts_with(b"SELECT"),
            _ => false,
        };
        if !statement {
            return Ok(Some(Unit::plain(frame)));
        }
        self.latest = [frame[2], frame[3]];
        self.pending.insert(self.latest, 0);
        Ok(Some(Unit::marked(frame)))
    }

    fn answer(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>> {
        while let Some(frame) = frame(arrived)? {
            let stream = [frame[2], frame[3]];
            match self.pending.get_mut(&stream) {
                Some(more) if *more > 0 => *more -= 1,
                Some(_) => {
                    self.pending.remove(&stream);
                    return Ok(Some(if frame[4] == RESULT { Unit::marked(frame) } else { Unit::plain(frame) }));
                }
                None => return Ok(Some(Unit::plain(frame))),
            }
        }
        Ok(None)
    }

    /// The client may use the stream again after its answer, so it hears only of the later one.
    fn sent_twice(&mut self) -> bool {
        self.pending.insert(self.latest, 1);
        true
    }
}

fn frame(arrived: &mut BytesMut) -> Result<Option<BytesMut>> {
    let Some(version) = arrived.first() else { return Ok(None) };
    if !matches!(version & 0x7F, 3 | 4) {
        bail!("version {} of CQL puts its frames in others, which this proxy does not open", version & 0x7F);
    }
    match number_at(arrived, 5) {
        Some(length) if length > LONGEST => bail!("a CQL frame of {length} bytes"),
        Some(length) => Ok(take(arrived, HEADER + length)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tests::units;

    /// Where a frame has the lower byte of its stream.
    const STREAM: usize = 3;

    fn frame_of(version: u8, stream: u8, opcode: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[version, 0, 0, stream, opcode], &length[..], body].concat()
    }

    #[test]
    fn results_of_statements_are_found_by_stream_in_any_order() {
        let select = frame_of(4, 3, QUERY, b"\0\0\0\x08SELECT 1");
        let insert = frame_of(4, 4, QUERY, b"\0\0\0\x06INSERT");
        let sent = [frame_of(4, 1, 0x05, b""), frame_of(4, 2, EXECUTE, b"x"), select, insert, frame_of(4, 5, BATCH, b"y")].concat();
        let (error, result) = (0x00, RESULT);
        let heard = [(5, result), (1, 0x06), (2, error), (4, result), (3, result)];
        let heard: Vec<u8> = heard.into_iter().flat_map(|(stream, opcode)| frame_of(0x84, stream, opcode, b"zz")).collect();
        for step in [1, 4, 4096] {
            let mut cassandra = Cassandra::default();
            let parts = units(STREAM, |arrived| cassandra.request(arrived), &sent, step);
            assert_eq!(parts, [(1, false), (2, true), (3, false), (4, true), (5, true)]);
            let parts = units(STREAM, |arrived| cassandra.answer(arrived), &heard, step);
            assert_eq!(parts, [(5, true), (1, false), (2, false), (4, true), (3, false)]);
        }
    }

    #[test]
    fn of_a_statement_that_was_sent_twice_the_client_hears_the_later_result() {
        let mut cassandra = Cassandra::default();
        units(STREAM, |arrived| cassandra.request(arrived), &frame_of(4, 7, EXECUTE, b"x"), 4096);
        assert!(cassandra.sent_twice());
        let heard = [frame_of(0x84, 7, RESULT, b"1"), frame_of(0x84, 7, RESULT, b"2")].concat();
        assert_eq!(units(STREAM, |arrived| cassandra.answer(arrived), &heard, 4), [(7, true)]);
    }

    #[test]
    fn a_version_whose_frames_lie_in_others_is_refused() {
        assert!(Cassandra::default().request(&mut BytesMut::from(&frame_of(5, 0, 1, b"")[..])).is_err());
    }
}
