//! The shard as a column.

use crate::error::corrupt;
use domain::ids::Shard;
use ports::Result;

pub(crate) fn shard_column(shard: Shard) -> i16 {
    i16::from(shard.index())
}

pub(crate) fn shard_of(column: i16) -> Result<Shard> {
    u8::try_from(column).ok().and_then(|index| Shard::new(index).ok()).ok_or_else(|| corrupt("a shard that does not exist"))
}
