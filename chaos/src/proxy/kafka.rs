//! Kafka: a length, then in a request the API key, its version and a correlation id, which the response repeats.

use super::conversation::{Conversation, Unit, number_at, take};
use anyhow::{Result, bail};
use bytes::BytesMut;
use std::collections::VecDeque;

const PRODUCE: [u8; 2] = [0, 0];
const LONGEST: usize = 1 << 30;

#[derive(Default)]
pub struct Kafka {
    /// A broker answers in order.
    pending: VecDeque<Pending>,
}

struct Pending {
    correlation: [u8; 4],
    produce: bool,
    /// Of a request that was sent twice: answered once more, and then for the client.
    dropped: bool,
}

impl Conversation for Kafka {
    fn request(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>> {
        let Some(request) = framed(arrived, 8)? else { return Ok(None) };
        let produce = request[4..6] == PRODUCE;
        let correlation = [request[8], request[9], request[10], request[11]];
        self.pending.push_back(Pending { correlation, produce, dropped: false });
        Ok(Some(if produce { Unit::marked(request) } else { Unit::plain(request) }))
    }

    fn answer(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>> {
        while let Some(response) = framed(arrived, 4)? {
            let correlation = &response[4..8];
            // Requests before it that nobody answers (a produce with acks=0) are over.
            let Some(place) = self.pending.iter().position(|pending| pending.correlation == correlation) else {
                bail!("a response to no request");
            };
            let pending = self.pending.drain(..=place).next_back();
            match pending {
                Some(Pending { dropped: true, .. }) => {}
                Some(Pending { produce: true, .. }) => return Ok(Some(Unit::marked(response))),
                _ => return Ok(Some(Unit::plain(response))),
            }
        }
        Ok(None)
    }

    /// An idempotent producer numbers its batches, and the broker knows a batch that it has.
    fn sent_twice(&mut self) -> bool {
        if let Some(last) = self.pending.back() {
            let first = Pending { dropped: true, ..*last };
            let place = self.pending.len() - 1;
            self.pending.insert(place, first);
        }
        true
    }
}

fn framed(arrived: &mut BytesMut, least: usize) -> Result<Option<BytesMut>> {
    let Some(length) = number_at(arrived, 0) else { return Ok(None) };
    if !(least..=LONGEST).contains(&length) {
        bail!("a Kafka frame of {length} bytes");
    }
    Ok(take(arrived, 4 + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tests::units;

    /// Where an answer has the last byte of its correlation.
    const CORRELATION: usize = 7;

    fn request(api: u8, correlation: u8) -> Vec<u8> {
        [&11u32.to_be_bytes()[..], &[0, api, 0, 9], &[0, 0, 0, correlation], b"abc"].concat()
    }

    fn response(correlation: u8) -> Vec<u8> {
        [&6u32.to_be_bytes()[..], &[0, 0, 0, correlation], b"ok"].concat()
    }

    #[test]
    fn the_response_to_a_produce_is_found_by_its_correlation_however_it_arrives() {
        let sent = [request(3, 1), request(0, 2), request(1, 3)].concat();
        let heard = [response(1), response(2), response(3)].concat();
        for step in [1, 5, 4096] {
            let mut kafka = Kafka::default();
            let marks: Vec<bool> =
                units(CORRELATION, |arrived| kafka.request(arrived), &sent, step).into_iter().map(|(_, marked)| marked).collect();
            assert_eq!(marks, [false, true, false]);
            assert_eq!(units(CORRELATION, |arrived| kafka.answer(arrived), &heard, step), [(1, false), (2, true), (3, false)]);
        }
    }

    #[test]
    fn of_a_produce_that_was_sent_twice_the_client_hears_once() {
        let mut kafka = Kafka::default();
        units(CORRELATION, |arrived| kafka.request(arrived), &[request(0, 1), request(0, 2)].concat(), 4096);
        assert!(kafka.sent_twice());
        let heard = [response(1), response(2), response(2)].concat();
        assert_eq!(units(CORRELATION, |arrived| kafka.answer(arrived), &heard, 9), [(1, true), (2, true)]);
    }

    #[test]
    fn a_produce_that_nobody_answers_is_passed_over() {
        let mut kafka = Kafka::default();
        units(CORRELATION, |arrived| kafka.request(arrived), &[request(0, 1), request(3, 2)].concat(), 4096);
        assert_eq!(units(CORRELATION, |arrived| kafka.answer(arrived), &response(2), 4096), [(2, false)]);
        assert!(kafka.answer(&mut BytesMut::from(&response(9)[..])).is_err());
    }
}
