//! What is written to disk. Each container begins with one version byte; each component record inside carries its own.
//!
//! - [`frame`]: one tick: the inputs it processed and what it changed. The unit of atomic commit.
//! - [`entities`]: a list of whole entities: the payload of a chunk, or of an entity that is kept by itself.
//! - [`own`]: the register that says who owns a region and how far the store has got.

pub mod entities;
pub mod frame;
pub mod own;

pub use entities::{EntitiesReader, EntitiesWriter, EntityRecord};
pub use frame::{EntityChange, FrameHead, FrameReader, FrameWriter, Home};
pub use own::{IdBlock, OwnRecord};
