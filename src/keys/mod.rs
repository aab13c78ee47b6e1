//! Key providers, key slots and the unlocked key ring.

pub mod ring;

pub use ring::{FileId, KeyId, KeyRing, WrappedDek};
