//! RESP: a request is an array of strings; each request has one reply, in order. What is pushed to the client is no reply.

use super::conversation::{Conversation, Unit};
use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use std::collections::VecDeque;

const SCRIPTS: [&[u8]; 4] = [b"EVALSHA", b"EVAL", b"FCALL", b"FCALL_RO"];
/// Of values in values; Redis itself answers with a handful.
const DEEPEST: usize = 32;

#[derive(Default)]
pub struct Redis {
    /// Requests without a reply: whether each is a call of a script.
    pending: VecDeque<bool>,
}

impl Conversation for Redis {
    fn request(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>> {
        let Some(length) = value_end(arrived, 0, DEEPEST)? else { return Ok(None) };
        let request = arrived.split_to(length);
        let script = command(&request).is_some_and(|command| SCRIPTS.iter().any(|name| name.eq_ignore_ascii_case(command)));
        self.pending.push_back(script);
        Ok(Some(if script { Unit::marked(request) } else { Unit::plain(request) }))
    }

    fn answer(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>> {
        let Some(length) = value_end(arrived, 0, DEEPEST)? else { return Ok(None) };
        let reply = arrived.split_to(length);
        if reply[0] == b'>' {
            return Ok(Some(Unit::plain(reply)));
        }
        // A script that the server does not know has not run.
        let ran = self.pending.pop_front().unwrap_or_default() && reply[0] != b'-';
        Ok(Some(if ran { Unit::marked(reply) } else { Unit::plain(reply) }))
    }
}

/// The first string of an array of strings.
fn command(request: &[u8]) -> Option<&[u8]> {
    let (_, strings) = line(request, 0)?;
    let (header, text) = line(request, strings)?;
    let length: usize = std::str::from_utf8(header.strip_prefix(b"$")?).ok()?.parse().ok()?;
    request.get(text..text + length)
}

/// The line that begins here without its end, and where the next one begins.
fn line(bytes: &[u8], start: usize) -> Option<(&[u8], usize)> {
    let end = start + bytes.get(start..)?.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&bytes[start..end], end + 2))
}

/// Where the value that begins here ends; nothing while it is not complete.
fn value_end(bytes: &[u8], start: usize, depth: usize) -> Result<Option<usize>> {
    let Some((header, next)) = line(bytes, start) else { return Ok(None) };
    let Some(depth) = depth.checked_sub(1) else { bail!("RESP values lie deeper in each other than {DEEPEST}") };
    let (kind, rest) = header.split_first().context("an empty line of RESP")?;
    let number = || -> Result<usize> {
        let number: i64 = std::str::from_utf8(rest)?.parse().context("a length of RESP")?;
        // Minus one stands for nothing at all.
        Ok(usize::try_from(number).unwrap_or_default())
    };
    let values = match kind {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => return Ok(Some(next)),
        b'$' | b'!' | b'=' if rest == b"-1" => return Ok(Some(next)),
        b'$' | b'!' | b'=' => {
            let end = next + number()? + 2;
            return Ok((bytes.len() >= end).then_some(end));
        }
        b'*' | b'~' | b'>' => number()?,
        b'%' => number()? * 2,
        other => bail!("RESP knows no value that begins with byte {other}"),
    };
    let mut end = next;
    for _ in 0..values {
        let Some(after) = value_end(bytes, end, depth)? else { return Ok(None) };
        end = after;
    }
    Ok(Some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(mut next: impl FnMut(&mut BytesMut) -> Result<Option<Unit>>, bytes: &[u8], step: usize) -> Vec<bool> {
        let (mut arrived, mut marks) = (BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step) {
            arrived.extend_from_slice(piece);
            while let Some(unit) = next(&mut arrived).unwrap() {
                marks.push(unit.marked);
            }
        }
        assert!(arrived.is_empty());
        marks
    }

    #[test]
    fn replies_to_scripts_are_found_among_others_however_they_arrive() {
        let sent = b"*1\r\n$4\r\nPING\r\n*3\r\n$7\r\nevalsha\r\n$2\r\nab\r\n$1\r\n0\r\n*2\r\n$3\r\nGET\r\n$1\r\nx\r\n*3\r\n$4\r\nEVAL\r\n$6\r\nreturn\r\n$1\r\n0\r\n";
        let heard = b"+PONG\r\n*3\r\n:1\r\n*2\r\n$-1\r\n$2\r\n\r\n\r\n:-7\r\n>2\r\n+a\r\n+b\r\n$-1\r\n-NOSCRIPT no\r\n";
        for step in [1, 3, 10, 4096] {
            let mut redis = Redis::default();
            assert_eq!(marks(|arrived| redis.request(arrived), sent, step), [false, true, false, true]);
            assert_eq!(marks(|arrived| redis.answer(arrived), heard, step), [false, true, false, false, false]);
        }
    }

    #[test]
    fn what_is_no_resp_is_an_error() {
        assert!(Redis::default().request(&mut BytesMut::from("GET / HTTP/1.1\r\n")).is_err());
        let deep = "*1\r\n".repeat(DEEPEST + 1);
        assert!(Redis::default().answer(&mut BytesMut::from(deep.as_str())).is_err());
    }
}
