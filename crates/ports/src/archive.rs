//! The archive: events that have left the outbox, in segments that are written once and never removed by Weir. What the bytes of a
//! segment mean, and whether they are whole, the adapter need not know.

use crate::Result;
use async_trait::async_trait;
use domain::ids::Shard;
use std::fmt;

/// Named in every error about the archive.
pub const STORE: &str = "archive";

/// The numbers `from ..= to` of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    pub shard: Shard,
    pub from: i64,
    pub to: i64,
}

impl Segment {
    pub fn contains(&self, seq: i64) -> bool {
        (self.from..=self.to).contains(&seq)
    }

    /// How many numbers these are.
    pub const fn count(&self) -> i64 {
        self.to - self.from + 1
    }

    /// The segment that is called so; `None` for a name that [`Segment`]'s `Display` does not give.
    pub fn parse(name: &str) -> Option<Self> {
        let (shard, numbers) = name.strip_prefix("shard-")?.split_once('/')?;
        let (from, to) = numbers.strip_suffix(".segment")?.split_once('-')?;
        let segment = Self { shard: Shard::new(shard.parse().ok()?).ok()?, from: from.parse().ok()?, to: to.parse().ok()? };
        (segment.from >= 1 && segment.from <= segment.to && segment.to_string() == name).then_some(segment)
    }
}

/// `shard-07/0000000000000000001-0000000000000008192.segment`: names in alphabetical order are in the order of the numbers.
impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard-{:02}/{:019}-{:019}.segment", self.shard.index(), self.from, self.to)
    }
}

#[async_trait]
pub trait Archive: Send + Sync {
    /// Durable when it returns. Bytes under the same name are replaced as a whole: a reader, or a crash, finds the old or the new ones.
    async fn put(&self, segment: Segment, bytes: Vec<u8>) -> Result<()>;

    /// All segments of a shard, in the order of their numbers. What was not put to its end is not among them.
    async fn list(&self, shard: Shard) -> Result<Vec<Segment>>;

    /// The bytes as they are now, whole or damaged; `None` where there is no such segment.
    async fn get(&self, segment: Segment) -> Result<Option<Vec<u8>>>;

    /// Where people find it, e.g. the path of its file.
    fn place(&self, segment: Segment) -> String;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_segment_back_and_no_other_spelling_does() {
        let segment = Segment { shard: Shard::new(7).unwrap(), from: 1, to: i64::MAX };
        assert_eq!(segment.to_string(), "shard-07/0000000000000000001-9223372036854775807.segment");
        assert_eq!(Segment::parse(&segment.to_string()), Some(segment));
        for other in ["shard-7/1-2.segment", "shard-64/0000000000000000001-0000000000000000002.segment", "", "shard-07/x-y.segment"] {
            assert_eq!(Segment::parse(other), None, "{other}");
        }
        let backwards = "shard-07/0000000000000000002-0000000000000000001.segment";
        assert_eq!(Segment::parse(backwards), None);
    }
}
