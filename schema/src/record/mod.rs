//! What is written to disk. Each container begins with one version byte; each component record inside carries its own.
//!
//! - [`frame`]: one tick: the inputs it processed and what it changed. The unit of atomic commit.
//! - [`entities`]: a list of whole entities: the payload of a chunk, or of an entity that is kept by itself.
//! - [`home`]: how the store keeps the entity list of one chunk or lone entity: whole, or in parts.
//! - [`own`]: the register that says who owns a region and how far the store has got.
//! - [`region`]: what else is kept per region: the lease, and the log of what flushes changed.

pub mod entities;
pub mod frame;
pub mod home;
pub mod own;
pub mod region;

pub use entities::{EntitiesReader, EntitiesWriter, EntityRecord};
pub use frame::{EntityChange, FrameHead, FrameReader, FrameWriter, Home};
pub use home::{HomeHead, HomeRecord, Packing};
pub use own::{IdBlock, OwnRecord};
pub use region::{ChangeRecord, LeaseRecord};
