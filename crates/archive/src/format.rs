//! The bytes of a segment: a header, the rows compressed, and the SHA-256 of both. Nothing is taken from a segment before all of it is
//! known to be as it was written.
//!
//! ```text
//! magic "weir segment"(12) version(1) shard(1) from(8) to(8) count(4) bytes of the rows(8) bytes compressed(8)   big-endian
//! rows, one after the other in postcard, compressed with DEFLATE (RFC 1951)
//! SHA-256 of everything before(32)
//! ```
//!
//! A row's number is not written: the first is `from`, and there are no gaps.

use chrono::DateTime;
use domain::ids::Shard;
use ports::{archive::Segment, outbox::OutboxRow};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

const MAGIC: &[u8; 12] = b"weir segment";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 12 + 1 + 1 + 8 + 8 + 4 + 8 + 8;
const DIGEST_BYTES: usize = 32;
/// Half the size of the fastest level's files, at a quarter of the best level's time.
const COMPRESSION: u8 = 6;
/// More than any segment that is written here: a header that says more is damaged, whatever its digest.
const MOST_BYTES: u64 = 1 << 31;

/// Why a segment cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Damage {
    #[error("it is no segment of an outbox")]
    Magic,
    #[error("it is of version {0}, this program reads version {VERSION}")]
    Version(u8),
    #[error("it is {found} bytes long instead of {expected}")]
    Length { expected: u64, found: u64 },
    #[error("its bytes are not those that its SHA-256 was made of")]
    Digest,
    #[error("it holds {0}")]
    OtherSegment(String),
    #[error("its rows cannot be read")]
    Rows,
}

/// A row as it is written; borrowed when it is encoded.
#[derive(Serialize, Deserialize)]
struct StoredRow<'a> {
    epoch: i32,
    event_id: [u8; 16],
    kind: &'a str,
    tenant: [u8; 16],
    occurred_at: (i64, u32),
    trace_parent: Option<&'a str>,
    seen: &'a [u8],
    payload: &'a [u8],
}

impl<'a> StoredRow<'a> {
    fn of(row: &'a OutboxRow) -> Self {
        Self {
            epoch: row.epoch,
            event_id: row.event_id.into_bytes(),
            kind: &row.kind,
            tenant: row.tenant.into_bytes(),
            occurred_at: (row.occurred_at.timestamp(), row.occurred_at.timestamp_subsec_nanos()),
            trace_parent: row.trace_parent.as_deref(),
            seen: &row.seen,
            payload: &row.payload,
        }
    }

    fn outbox_row(self, shard: Shard, seq: i64) -> Option<OutboxRow> {
        Some(OutboxRow {
            shard,
            seq,
            epoch: self.epoch,
            event_id: Uuid::from_bytes(self.event_id),
            kind: self.kind.to_owned(),
            tenant: Uuid::from_bytes(self.tenant),
            occurred_at: DateTime::from_timestamp(self.occurred_at.0, self.occurred_at.1)?,
            trace_parent: self.trace_parent.map(str::to_owned),
            seen: self.seen.to_vec(),
            payload: self.payload.to_vec(),
        })
    }
}

/// The segment of these rows and its bytes, always the same for the same rows; `None` unless they are a run of one shard without gaps.
pub fn encode(rows: &[OutboxRow]) -> Option<(Segment, Vec<u8>)> {
    let (first, last) = (rows.first()?, rows.last()?);
    let segment = Segment { shard: first.shard, from: first.seq, to: last.seq };
    let follow = rows.iter().zip(segment.from..).all(|(row, seq)| row.shard == segment.shard && row.seq == seq);
    if !follow || segment.from < 1 {
        return None;
    }
    let mut plain = Vec::new();
    for row in rows {
        plain = postcard::to_extend(&StoredRow::of(row), plain).ok()?;
    }
    let compressed = miniz_oxide::deflate::compress_to_vec(&plain, COMPRESSION);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + compressed.len() + DIGEST_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[VERSION, segment.shard.index()]);
    bytes.extend_from_slice(&segment.from.to_be_bytes());
    bytes.extend_from_slice(&segment.to.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(rows.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(&u64::try_from(plain.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(&u64::try_from(compressed.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(&compressed);
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    Some((segment, bytes))
}

/// The rows of the segment that was asked for.
///
/// # Errors
/// When a single bit is not as it was written, or these are the bytes of another segment.
pub fn decode(segment: Segment, bytes: &[u8]) -> Result<Vec<OutboxRow>, Damage> {
    let header = Header::read(bytes)?;
    let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let expected = header.compressed_bytes.saturating_add((HEADER_BYTES + DIGEST_BYTES) as u64);
    if found != expected {
        return Err(Damage::Length { expected, found });
    }
    let (content, digest) = bytes.split_at(bytes.len() - DIGEST_BYTES);
    if Sha256::digest(content)[..] != *digest {
        return Err(Damage::Digest);
    }
    header.check(segment)?;
    let most = usize::try_from(header.plain_bytes.min(MOST_BYTES)).map_err(|_| Damage::Rows)?;
    let compressed = content.get(HEADER_BYTES..).unwrap_or_default();
    let plain = miniz_oxide::inflate::decompress_to_vec_with_limit(compressed, most).map_err(|_| Damage::Rows)?;
    rows(segment, &plain).ok_or(Damage::Rows)
}

fn rows(segment: Segment, plain: &[u8]) -> Option<Vec<OutboxRow>> {
    let mut rest = plain;
    let mut rows = Vec::with_capacity(usize::try_from(segment.count()).ok()?.min(plain.len()));
    for seq in segment.from..=segment.to {
        let (row, behind) = postcard::take_from_bytes::<StoredRow<'_>>(rest).ok()?;
        rows.push(row.outbox_row(segment.shard, seq)?);
        rest = behind;
    }
    rest.is_empty().then_some(rows)
}

struct Header {
    shard: u8,
    from: i64,
    to: i64,
    count: u32,
    plain_bytes: u64,
    compressed_bytes: u64,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let too_short = || Damage::Length { expected: (HEADER_BYTES + DIGEST_BYTES) as u64, found: bytes.len() as u64 };
        let mut rest = bytes;
        if take::<12>(&mut rest).ok_or_else(too_short)? != *MAGIC {
            return Err(Damage::Magic);
        }
        let [version, shard] = take(&mut rest).ok_or_else(too_short)?;
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let mut number = || take(&mut rest).ok_or_else(too_short);
        let (from, to) = (i64::from_be_bytes(number()?), i64::from_be_bytes(number()?));
        let count = u32::from_be_bytes(take(&mut rest).ok_or_else(too_short)?);
        let mut number = || take(&mut rest).ok_or_else(too_short);
        let (plain_bytes, compressed_bytes) = (u64::from_be_bytes(number()?), u64::from_be_bytes(number()?));
        Ok(Self { shard, from, to, count, plain_bytes, compressed_bytes })
    }

    fn check(&self, segment: Segment) -> Result<(), Damage> {
        let same = (self.shard, self.from, self.to) == (segment.shard.index(), segment.from, segment.to);
        if same && i64::from(self.count) == segment.count() {
            return Ok(());
        }
        let Self { shard, from, to, count, .. } = self;
        Err(Damage::OtherSegment(format!("{count} events, the numbers {from} to {to} of shard {shard}")))
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests;
