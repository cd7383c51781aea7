//! What the proxy has to know of a protocol: where requests and answers begin and end, and which of them write.

use anyhow::Result;
use bytes::{Bytes, BytesMut};

/// Bytes that are forwarded together.
#[derive(Debug, PartialEq)]
pub struct Unit {
    pub bytes: Bytes,
    /// Faults are aimed at it: a request that writes, or the whole answer to one that succeeded.
    pub marked: bool,
}

impl Unit {
    pub fn plain(bytes: BytesMut) -> Self {
        Self { bytes: bytes.freeze(), marked: false }
    }

    pub fn marked(bytes: BytesMut) -> Self {
        Self { bytes: bytes.freeze(), marked: true }
    }
}

/// One connection. Both functions take the next unit out of what has arrived so far, or nothing while it is not complete.
pub trait Conversation: Send {
    /// # Errors
    /// When the bytes are not of the protocol.
    fn request(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>>;

    /// # Errors
    /// When the bytes are not of the protocol.
    fn answer(&mut self, arrived: &mut BytesMut) -> Result<Option<Unit>>;

    /// The latest marked request is about to be sent twice: the client is to hear the later answer only. `false` where no server
    /// could tell the second one from a request of its own.
    fn sent_twice(&mut self) -> bool {
        false
    }
}

/// Four bytes, most significant first, at this place; nothing while they have not arrived.
pub fn number_at(arrived: &[u8], place: usize) -> Option<usize> {
    let bytes = arrived.get(place..place + 4)?;
    Some(usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).unwrap_or(usize::MAX))
}

/// The first `length` bytes once they have all arrived.
pub fn take(arrived: &mut BytesMut, length: usize) -> Option<BytesMut> {
    (arrived.len() >= length).then(|| arrived.split_to(length))
}
