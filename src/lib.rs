//! envelopefs: a FUSE filesystem that keeps a directory encrypted at rest.
//!
//! The map. A request crosses each room once, and no room names one to its left:
//!
//! ```text
//! cmd ──> fuse ──> fs ──> file ──> crypto
//!  │                │       └────> store ──> sys
//!  └──> volume ──> keys ──> crypto ──> sys
//! ```
//!
//! - [`cli`] is the grammar of the command; [`cmd`] holds its verbs and composes the rooms.
//! - [`fuse`] unpacks a kernel request, makes one call to [`fs`] and replies. It alone names the FUSE library. Orders from the command
//!   to a mounted volume's daemon come the same way ([`fuse::control`]).
//! - [`fs`] is the filesystem: inodes, names, handles, attributes. It sees neither stored bytes nor FUSE types.
//! - [`file`](mod@file) is one encrypted file: header, tree of nonces and tags, chunks. It never sees a path.
//! - [`store`] is the backing directory: names and blocks, atomically. It never sees plaintext.
//! - [`crypto`] is the only room that names an AEAD; [`keys`] turns providers' key slots into an unlocked
//!   [`keys::KeyRing`]; [`volume`] is the description of a volume on disk.
//! - [`api`] is the messages of the remote key API, for its client in [`keys`] and a server.
//! - [`audit`] notes what is done with a volume's keys; [`cmd`] calls it.
//! - `attest` (feature `sev-snp`) asks the AMD secure processor for reports and keys, and verifies reports; [`keys`] and [`cmd`] use it.
//! - [`import`] brings a plaintext tree into a volume through [`fs`]; [`cmd`] calls it.
//! - `server` (feature `key-server`) is the second program, the key server: it speaks [`api`] and drives HSMs, and never sees a volume.
//! - [`sys`] has the only `unsafe` code.

// So that files which the tests share name the library as its users do.
#[cfg(test)]
extern crate self as envelopefs;

#[cfg(any(feature = "hsm-api", feature = "key-server"))]
pub mod api;
#[cfg(feature = "sev-snp")]
pub mod attest;
pub mod audit;
pub mod cli;
pub mod cmd;
pub mod crypto;
pub mod file;
pub mod fs;
pub mod fuse;
pub mod import;
pub mod keys;
#[cfg(feature = "key-server")]
pub mod server;
pub mod store;
pub mod sys;
pub mod volume;
