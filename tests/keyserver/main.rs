//! The key server as its operators and callers meet it: the installed program, on tokens of SoftHSM, with certificates of an authority made for the test.
//!
//! Needs the Debian packages softhsm2, opensc, openssl and curl, and Python's jsonschema; `contrib/test` installs them.

#![cfg(feature = "key-server")]

mod commands;
mod conformance;
#[path = "../common/server.rs"]
mod server;
mod site;
#[path = "../common/softhsm.rs"]
mod softhsm;
mod world;
