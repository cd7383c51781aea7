//! What becomes of old events: they are written into the archive, read back, and only then dropped from the outbox; whoever reads the
//! outbox finds them all the same.
//!
//! ```text
//! keep.rs    outbox → format.rs → archive → read back, compared → outbox drops
//! outbox.rs  a reader's numbers: those that were archived from segments.rs, the others from the store
//! ```

mod format;
mod keep;
mod outbox;
mod segments;

pub use format::{Damage, decode, encode};
pub use keep::archive_old;
pub use outbox::ArchivedOutbox;
