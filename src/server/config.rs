//! The configuration file, parsed into checked types.
