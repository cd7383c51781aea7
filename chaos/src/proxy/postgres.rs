//! PostgreSQL 3.0: a message is a type byte, a length that counts itself, and a body; only the first one of a client has no type.
//!
//! A client's messages up to `Sync`, or one `Query`, are a cycle, and the server ends each cycle with one `ReadyForQuery`.

use super::conversation::{Conversation, Unit, number_at, take};
use anyhow::{Result, bail};
use bytes::BytesMut;
use std::collections::{HashMap, VecDeque};

/// The ledger's one-statement write says so.
const WRITES: &[u8] = b"INSERT INTO charge ";
const ENCRYPTION_REQUESTS: [usize; 2] = [80_877_103, 80_877_104];
const LONGEST_MESSAGE: usize = 1 << 30;

#[derive(Default)]
pub struct Postgres {
    started: bool,
    /// Prepared statements by name: whether they write.
    statements: HashMap<Vec<u8>, bool>,
    /// Whether the cycle that the client is at commits, and what it consists of so far.
    commits: bool,
    request: BytesMut,
    /// Of the cycles that wait for their end.
    pending: VecDeque<bool>,
    /// The answer to a commit, kept until it is complete.
    answer: BytesMut,
    refused: bool,
}

impl Conversation for Postgres {
    fn request(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>> {
        if !self.started {
            return self.first_message(arrived);
        }
        while let Some(message) = message(arrived)? {
            let (kind, body) = (message[0], &message[5..]);
            match kind {
                b'P' => self.prepared(body),
                b'B' => self.commits |= self.statements.get(text(text_and_rest(body).1)).copied().unwrap_or_default(),
                b'Q' => self.commits = text(body).eq_ignore_ascii_case(b"COMMIT"),
                _ => {}
            }
            self.request.unsplit(message);
            if matches!(kind, b'S' | b'Q') {
                let commits = std::mem::take(&mut self.commits);
                self.pending.push_back(commits);
                let bytes = std::mem::take(&mut self.request);
                return Ok(Some(if commits { Unit::marked(bytes) } else { Unit::plain(bytes) }));
            }
            // Whatever is no part of a cycle, and what the server is asked to answer at once, goes on its way.
            if matches!(kind, b'X' | b'H' | b'p' | b'd' | b'c' | b'f') {
                return Ok(Some(Unit::plain(std::mem::take(&mut self.request))));
            }
        }
        Ok(None)
    }

    fn answer(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>> {
        while let Some(message) = message(arrived)? {
            let kind = message[0];
            if self.pending.front() != Some(&true) {
                if kind == b'Z' {
                    self.pending.pop_front();
                }
                return Ok(Some(Unit::plain(message)));
            }
            self.refused |= kind == b'E';
            // Inside a transaction a write is not yet a commit.
            let committed = kind == b'Z' && message.get(5) == Some(&b'I') && !self.refused;
            self.answer.unsplit(message);
            if kind == b'Z' {
                self.pending.pop_front();
                self.refused = false;
                let bytes = std::mem::take(&mut self.answer);
                return Ok(Some(if committed { Unit::marked(bytes) } else { Unit::plain(bytes) }));
            }
        }
        Ok(None)
    }
}

impl Postgres {
    fn first_message(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>> {
        let Some(length) = number_at(arrived, 0) else { return Ok(None) };
        if !(8..=10_000).contains(&length) {
            bail!("a client of PostgreSQL begins with {length} bytes");
        }
        let Some(first) = take(arrived, length) else { return Ok(None) };
        if number_at(&first, 4).is_some_and(|code| ENCRYPTION_REQUESTS.contains(&code)) {
            bail!("the client wants encryption, of which a proxy would see nothing: use sslmode=disable");
        }
        self.started = true;
        Ok(Some(Unit::plain(first)))
    }

    fn prepared(&mut self, body: &[u8]) {
        let (name, rest) = text_and_rest(body);
        let writes = text(rest).windows(WRITES.len()).any(|part| part == WRITES);
        self.statements.insert(name.to_vec(), writes);
    }
}

fn message(arrived: &mut BytesMut) -> Result<Option<BytesMut>> {
    let Some(length) = number_at(arrived, 1) else { return Ok(None) };
    if !(4..=LONGEST_MESSAGE).contains(&length) {
        bail!("a PostgreSQL message of {length} bytes");
    }
    Ok(take(arrived, 1 + length))
}

/// Up to the zero byte that ends it, and what follows.
fn text_and_rest(body: &[u8]) -> (&[u8], &[u8]) {
    let end = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
    (&body[..end], body.get(end + 1..).unwrap_or_default())
}

fn text(body: &[u8]) -> &[u8] {
    text_and_rest(body).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_of(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind], &length[..], body].concat()
    }

    fn startup() -> Vec<u8> {
        [&[0, 0, 0, 8][..], &[0, 3, 0, 0]].concat()
    }

    fn requests(conversation: &mut Postgres, bytes: &[u8], step: usize) -> Vec<(usize, bool)> {
        let (mut arrived, mut units) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            arrived.extend_from_slice(piece);
            while let Some(unit) = conversation.request(&mut arrived).unwrap() {
                units.push((unit.bytes.len(), unit.marked));
            }
        }
        units
    }

    fn answers(conversation: &mut Postgres, bytes: &[u8], step: usize) -> Vec<bool> {
        let (mut arrived, mut marks) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            arrived.extend_from_slice(piece);
            while let Some(unit) = conversation.answer(&mut arrived).unwrap() {
                marks.push(unit.marked);
            }
        }
        marks
    }

    #[test]
    fn a_commit_is_marked_however_its_bytes_arrive() {
        let select = message_of(b'Q', b"SELECT 1\0");
        let commit = message_of(b'Q', b"commit\0");
        let sent = [startup(), select.clone(), commit.clone()].concat();
        let done = message_of(b'C', b"SELECT 1\0");
        let ready = message_of(b'Z', b"I");
        let committed = message_of(b'C', b"COMMIT\0");
        let heard = [message_of(b'R', &[0; 4]), ready.clone(), done, ready.clone(), committed, ready].concat();
        for step in [1, 7, 4096] {
            let mut conversation = Postgres::default();
            let parts = requests(&mut conversation, &sent[..8], step);
            assert_eq!(parts, [(8, false)]);
            // The server greets before anything is asked.
            assert_eq!(answers(&mut conversation, &heard[..15], step), [false, false]);
            let parts = requests(&mut conversation, &sent[8..], step);
            assert_eq!(parts, [(select.len(), false), (commit.len(), true)]);
            assert_eq!(answers(&mut conversation, &heard[15..], step), [false, false, true]);
        }
    }

    #[test]
    fn a_prepared_write_commits_only_outside_of_a_transaction_and_without_an_error() {
        let parse = message_of(b'P', b"s1\0WITH x AS (INSERT INTO charge (id) SELECT 1) SELECT 1\0\0\0");
        let sync = message_of(b'S', b"");
        let run = [message_of(b'B', b"\0s1\0\0\0\0\0\0\0"), message_of(b'E', b"\0\0\0\0\0"), sync.clone()].concat();
        let mut conversation = Postgres::default();
        let sent = [startup(), parse, sync, run.clone(), run.clone(), run].concat();
        let marks: Vec<bool> = requests(&mut conversation, &sent, 11).into_iter().map(|(_, marked)| marked).collect();
        assert_eq!(marks, [false, false, true, true, true]);
        let (idle, inside) = (message_of(b'Z', b"I"), message_of(b'Z', b"T"));
        let done = message_of(b'C', b"SELECT 1\0");
        let heard = [idle.clone(), done.clone(), idle.clone(), done, inside, message_of(b'E', b"\0"), idle].concat();
        assert_eq!(answers(&mut conversation, &heard, 5), [false, true, false, false]);
    }

    #[test]
    fn a_client_that_wants_encryption_is_told_so() {
        let wish = [8u32.to_be_bytes(), 80_877_103u32.to_be_bytes()].concat();
        assert!(Postgres::default().request(&mut BytesMut::from(&wish[..])).is_err());
    }
}
