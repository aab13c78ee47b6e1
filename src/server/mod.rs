#![doc = include_str!("server.md")]

pub mod admin;
pub mod attestation;
pub mod audit;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod hsm;
pub mod http;
pub mod identity;
pub mod policy;
#[cfg(test)]
#[path = "../../tests/common/random.rs"]
mod random;
pub mod service;
pub mod state;
