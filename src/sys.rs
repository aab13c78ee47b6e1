//! The only unsafe code: memory that holds keys, fork, and what no safe wrapper covers.

pub mod memory;
pub mod process;
