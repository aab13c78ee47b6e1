//! Tests on real mounts: what programs see through the kernel. They need root and `/dev/fuse`; `contrib/test` runs them.
//!
//! Most bodies take a directory and nothing else, so that each claim about POSIX can be held against a native filesystem too:
//! with `ENVELOPEFS_TEST_NATIVE=DIR` the bodies run in `DIR` and no volume is mounted. A test that fails there is wrong itself.
//! What needs a volume (damage, kills, remounts) is not run then.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/history.rs"]
mod history;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/softhsm.rs"]
mod softhsm;

mod attributes;
mod conformance;
mod data;
mod directories;
#[cfg(all(feature = "hsm-api", feature = "sev-snp"))]
mod evidence;
mod faults;
#[cfg(feature = "hsm-api")]
mod hsm_api;
mod journal;
mod kill;
mod lease;
mod locks;
mod manifest;
mod names;
mod open;
mod pkcs11;
mod programs;
mod readonly;
mod rotation;
mod secrets;
#[cfg(feature = "sev-snp")]
mod sev_snp;
mod special;
mod stress;
mod tamper;
mod tamper_names;
mod user;

use std::path::{Path, PathBuf};

use common::Volume;

/// The native directory to run in instead of a mount, if one is asked for.
fn native() -> Option<PathBuf> {
    std::env::var_os("ENVELOPEFS_TEST_NATIVE").map(PathBuf::from)
}

/// True where volumes can be mounted; false in a native directory, where a test of damage, kills or remounts has nothing to show.
fn volumes() -> bool {
    if native().is_some() {
        return false;
    }
    common::require_root_and_fuse();
    true
}

/// Runs a body in the root of a fresh mount; afterwards the volume must unmount and verify.
fn on_mount(body: impl FnOnce(&Path)) {
    if let Some(base) = native() {
        let dir = tempfile::tempdir_in(base).expect("directory");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).expect("chmod");
        return body(dir.path());
    }
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = volume.mount();
    body(mount.path());
    mount.unmount();
    volume.assert_clean();
}

/// Like [`on_mount`] with a second body that finds, after unmounting and mounting again, what the first one left.
fn over_remount(before: impl FnOnce(&Path), after: impl FnOnce(&Path)) {
    if native().is_some() {
        return on_mount(|dir| {
            before(dir);
            after(dir);
        });
    }
    common::require_root_and_fuse();
    let volume = Volume::new();
    let mount = volume.mount();
    before(mount.path());
    mount.unmount();
    volume.assert_clean();
    let mount = volume.mount();
    after(mount.path());
    mount.unmount();
    volume.assert_clean();
}

/// The errno of a failed call; `None` if it succeeded.
fn errno<T>(result: rustix::io::Result<T>) -> Option<rustix::io::Errno> {
    result.err()
}
