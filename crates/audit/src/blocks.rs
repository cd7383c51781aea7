//! Rows of a shard as digests, by number: blocks of 1,024 numbers that agree are skipped, the others are bisected to the rows that differ.

use ring::digest::{Context, SHA256};
use xxhash_rust::xxh3::xxh3_64;

/// Numbers that share a digest.
pub(crate) const BLOCK: usize = 1_024;

/// In place of a digest, where a store has no row under the number.
pub(crate) const ABSENT: u64 = 0;

/// What one row's bytes are compared by.
pub(crate) fn row(payload: &[u8]) -> u64 {
    // Absent is nobody's digest.
    xxh3_64(payload).max(1)
}

/// The numbers, from 1, at which two stores differ. Index `n − 1` is number `n`; what is behind the end of one of them is absent there.
pub(crate) fn differing(one: &[u64], other: &[u64]) -> Vec<i64> {
    let mut found = Vec::new();
    let blocks = one.len().max(other.len()).div_ceil(BLOCK);
    for first in (0..blocks).map(|block| block * BLOCK) {
        let [one, other] = [one, other].map(|rows| padded(rows, first));
        bisect(&one, &other, first, &mut found);
    }
    found
}

fn padded(rows: &[u64], first: usize) -> Vec<u64> {
    let mut block: Vec<u64> = rows.iter().skip(first).take(BLOCK).copied().collect();
    block.resize(BLOCK, ABSENT);
    block
}

fn bisect(one: &[u64], other: &[u64], first: usize, found: &mut Vec<i64>) {
    if digest(one) == digest(other) {
        return;
    }
    let middle = one.len() / 2;
    if middle == 0 {
        return found.extend(i64::try_from(first + 1));
    }
    let ((one_left, one_right), (other_left, other_right)) = (one.split_at(middle), other.split_at(middle));
    bisect(one_left, other_left, first, found);
    bisect(one_right, other_right, first + middle, found);
}

fn digest(rows: &[u64]) -> u64 {
    let bytes: Vec<u8> = rows.iter().flat_map(|row| row.to_be_bytes()).collect();
    xxh3_64(&bytes)
}

/// What nobody can imitate: SHA-256 of each block of payloads, each with its length before it (four bytes, big-endian).
#[derive(Clone)]
pub(crate) struct Sealed {
    block: Context,
    in_block: usize,
    blocks: Vec<u8>,
}

impl Default for Sealed {
    fn default() -> Self {
        Self { block: Context::new(&SHA256), in_block: 0, blocks: Vec::new() }
    }
}

impl Sealed {
    pub fn add(&mut self, payload: &[u8]) {
        self.block.update(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.block.update(payload);
        self.in_block += 1;
        if self.in_block == BLOCK {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        let block = std::mem::replace(&mut self.block, Context::new(&SHA256));
        self.blocks.extend_from_slice(block.finish().as_ref());
        self.in_block = 0;
    }

    /// SHA-256 over the digests of all blocks, the last of which may be shorter, in lower-case hex.
    pub fn seal(mut self) -> String {
        if self.in_block > 0 {
            self.end_block();
        }
        hex::encode(ring::digest::digest(&SHA256, &self.blocks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: u64) -> Vec<u64> {
        (1..=count).collect()
    }

    #[test]
    fn each_row_that_differs_is_found_and_no_other() {
        let length = 3 * BLOCK + 17;
        let sound = rows(u64::try_from(length).unwrap());
        assert_eq!(differing(&sound, &sound), Vec::<i64>::new());
        for index in [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 511, length - 1] {
            let mut damaged = sound.clone();
            damaged[index] ^= 1 << 40;
            assert_eq!(differing(&sound, &damaged), [i64::try_from(index + 1).unwrap()]);
        }
        let mut damaged = sound.clone();
        (damaged[5], damaged[BLOCK + 9], damaged[BLOCK + 10]) = (0, 0, 0);
        let numbers = [6, BLOCK + 10, BLOCK + 11].map(|number| i64::try_from(number).unwrap());
        assert_eq!(differing(&damaged, &sound), numbers);
    }

    #[test]
    fn what_one_store_lacks_at_the_end_differs() {
        let sound = rows(u64::try_from(BLOCK + 3).unwrap());
        let last: Vec<i64> = [2, 3].map(|more| i64::try_from(BLOCK + more).unwrap()).to_vec();
        assert_eq!(differing(&sound, &sound[..BLOCK + 1]), last);
        assert_eq!(differing(&sound[..BLOCK + 1], &sound), last);
        assert_eq!(differing(&[], &[]), Vec::<i64>::new());
    }

    #[test]
    fn a_seal_depends_on_every_byte_and_on_where_one_row_ends() {
        let seal = |payloads: &[&[u8]]| {
            let mut sealed = Sealed::default();
            payloads.iter().for_each(|payload| sealed.add(payload));
            sealed.seal()
        };
        let sound = seal(&[b"ab", b"c"]);
        assert_eq!(sound.len(), 64);
        assert_eq!(sound, seal(&[b"ab", b"c"]));
        for other in [&[b"ab".as_slice(), b"d"][..], &[b"a", b"bc"], &[b"abc"], &[b"ab", b"c", b""]] {
            assert_ne!(sound, seal(other));
        }
        // Of whole blocks and of one row more.
        let many: Vec<&[u8]> = vec![b"x"; BLOCK];
        assert_ne!(seal(&many), seal(&[many.as_slice(), &[b"x"]].concat()));
    }
}
