//! A volume on disk: `.envelopefs/volume.toml`, its identity, features and key ring.
