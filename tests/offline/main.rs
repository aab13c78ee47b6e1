//! Tests that need no mount: the filesystem room against a plain model of a filesystem.

mod model;
