//! A volume on disk: `.envelopefs/volume.toml`, its identity, features and key ring.

/// Name of the control directory in the root of a backing directory.
pub const CONTROL_DIR: &str = ".envelopefs";
