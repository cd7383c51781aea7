//! Cuts a body into lines as it comes. Of a line that is too long nothing is kept.

use axum::body::{Body, BodyDataStream, Bytes};
use bytes::{Buf, BytesMut};
use futures::StreamExt;

/// Longest line that is read, bytes: an event with the largest metadata fits several times.
pub const LONGEST_LINE: usize = 256 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Text(Bytes),
    /// Longer than [`LONGEST_LINE`]; it was skipped.
    TooLong,
}

pub struct Lines {
    body: BodyDataStream,
    buffer: BytesMut,
    /// How far the buffer was searched for the end of a line.
    searched: usize,
    /// Inside a line that is too long.
    skipping: bool,
    ended: bool,
    number: u64,
}

impl Lines {
    pub fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), buffer: BytesMut::new(), searched: 0, skipping: false, ended: false, number: 0 }
    }

    /// The next line that is not blank, with its number from 1, waiting for the body; `None` at its end.
    pub async fn next(&mut self) -> Result<Option<(u64, Line)>, axum::Error> {
        loop {
            if let Some(line) = self.next_received() {
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.next().await {
                Some(bytes) => self.buffer.extend_from_slice(&bytes?),
                None => self.ended = true,
            }
        }
    }

    /// The next line that has come completely, without waiting.
    pub fn next_received(&mut self) -> Option<(u64, Line)> {
        while let Some(line) = self.cut() {
            self.number += 1;
            match line {
                Line::Text(text) if text.trim_ascii().is_empty() => {}
                line => return Some((self.number, line)),
            }
        }
        None
    }

    fn cut(&mut self) -> Option<Line> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n').map(|offset| self.searched + offset);
        match found {
            Some(end) => {
                self.searched = 0;
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                Some(self.line(line))
            }
            None if self.ended && (self.skipping || !self.buffer.is_empty()) => {
                self.searched = 0;
                let line = self.buffer.split().freeze();
                Some(self.line(line))
            }
            None => {
                if self.buffer.len() > LONGEST_LINE {
                    self.skipping = true;
                }
                if self.skipping {
                    self.buffer.clear();
                }
                self.searched = self.buffer.len();
                None
            }
        }
    }

    fn line(&mut self, text: Bytes) -> Line {
        let too_long = std::mem::take(&mut self.skipping) || text.len() > LONGEST_LINE;
        if too_long { Line::TooLong } else { Line::Text(text) }
    }
}
