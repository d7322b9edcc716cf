//! Processes of others that the program starts: engines of this machine, AIPerf. They are supervised, so that they end
//! with the program; they are owned, so that whatever is left of them all the same is found and ended by whoever comes
//! next.
//!
//! ```text
//! owner.rs      a record on disk before the first process, locked while the program lives   -> a token
//! supervise.rs  a process of ours above each of theirs; the token is in their environment
//! log.rs        what they write, within bounds
//! secrets.rs    and without secrets
//! leftovers.rs  records whose program is gone -> processes with that token -> ended
//! who.rs        a process, and whether it still lives
//! ```

pub(crate) mod leftovers;
pub(crate) mod log;
pub mod owner;
pub(crate) mod secrets;
pub(crate) mod supervise;
pub mod who;
