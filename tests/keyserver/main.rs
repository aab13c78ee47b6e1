//! The key server as its operators and callers meet it: the installed program, on tokens of SoftHSM, with certificates of an authority made for the test.
//!
//! Needs root, /dev/fuse, the Debian packages softhsm2, opensc, openssl, curl and postgresql, and Python's jsonschema; `contrib/test` sees to it.

// The client in it, too: outages are seen through it, and the demonstration mounts by it.
#![cfg(all(feature = "hsm-api", feature = "key-server"))]

mod commands;
mod conformance;
mod demonstration;
mod outage;
#[path = "../common/postgres.rs"]
mod postgres;
#[path = "../common/server.rs"]
mod server;
mod site;
#[path = "../common/softhsm.rs"]
mod softhsm;
mod world;
