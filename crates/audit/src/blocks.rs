//! Rows of a shard as digests, by number: blocks of 1,024 numbers that agree are skipped, of the others the rows that differ are named.

use ring::digest::{Context, SHA256};
use xxhash_rust::xxh3::xxh3_64;

/// Numbers that are compared at once, and that share a digest in a seal.
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
    let both = one.len().min(other.len());
    let ((one, one_alone), (other, other_alone)) = (one.split_at(both), other.split_at(both));
    let mut found = Vec::new();
    for (block, (one, other)) in one.chunks(BLOCK).zip(other.chunks(BLOCK)).enumerate() {
        // Nearly every block agrees, and is compared as fast as memory is read.
        if one != other {
            let unlike = one.iter().zip(other).enumerate().filter(|(_, (one, other))| one != other);
            found.extend(unlike.map(|(index, _)| block * BLOCK + index));
        }
    }
    let alone = one_alone.iter().chain(other_alone).enumerate().filter(|(_, row)| **row != ABSENT);
    found.extend(alone.map(|(index, _)| both + index));
    found.into_iter().filter_map(|index| i64::try_from(index + 1).ok()).collect()
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
