//! Loaded PKCS#11 modules, one of each in a process.
//!
//! C_Initialize and C_Finalize are for the whole process, so users of a module are counted: the first initialises, the last finalises, which ends
//! sessions, logins and the module's threads. No call may be under way in a module that is finalised (PKCS#11 3.1, section 5.4: the behaviour is
//! undefined; SoftHSM frees what a C_CloseSession still works on), so those who call from several threads hold [leases](Lease), and a restart
//! waits for none of them: it is refused. A library is never unloaded: many leave handlers behind that run at exit. Nothing may be
//! loaded before a fork: a child has no right to the module's state (PKCS#11, section 5.4).

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use parking_lot::Mutex;

use crate::keys::ProviderError;

/// Modules by their canonical path. The lock is held over C_Initialize and C_Finalize, which must not meet.
static MODULES: Mutex<BTreeMap<PathBuf, Loaded>> = Mutex::new(BTreeMap::new());

/// How many may be calling a module at any time. Locked for the time of a restart, so after [`MODULES`], and by whoever begins or ends, who needs
/// nothing else: one module that hangs holds up no other.
type Leases = Arc<Mutex<usize>>;

struct Loaded {
    pkcs11: Pkcs11,
    users: usize,
    leases: Leases,
    /// We initialised it, so we may finalise it.
    ours: bool,
}

/// A module in use.
pub(crate) struct Module {
    path: PathBuf,
    pkcs11: Pkcs11,
    leases: Leases,
}

/// Leave to call a module: it is not restarted before this is dropped, which comes after the last call and the end of every session.
#[cfg(feature = "key-server")]
pub(crate) struct Lease(Leases);

#[cfg(feature = "key-server")]
impl Drop for Lease {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
    }
}

impl Module {
    /// Loads and initialises the library, unless that is done.
    ///
    /// # Errors
    /// [`ProviderError::Setup`].
    pub(crate) fn open(path: &Path) -> Result<Self, ProviderError> {
        let setup =
            |fact: String, remedy, source: Option<crate::keys::Cause>| ProviderError::Setup { fact, remedy, source };
        let cannot_load = |error: Error| {
            let fact = format!("cannot load the PKCS#11 module {}", path.display());
            setup(
                fact,
                "check that it is a PKCS#11 library of this machine's architecture and that what it needs is installed",
                Some(error.into()),
            )
        };
        let canonical = trusted(path)?;
        let mut modules = MODULES.lock();
        if !modules.contains_key(&canonical) {
            let pkcs11 = Pkcs11::new(&canonical).map_err(cannot_load)?;
            modules.insert(canonical.clone(), Loaded { pkcs11, users: 0, leases: Leases::default(), ours: false });
        }
        let loaded = modules.get_mut(&canonical).ok_or_else(|| cannot_load(Error::InvalidValue))?;
        if loaded.users == 0 {
            loaded.ours = match loaded.pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
                Ok(()) => true,
                Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => false,
                Err(error) => {
                    let fact = format!("the PKCS#11 module {} does not start", path.display());
                    return Err(setup(
                        fact,
                        "check the module's own configuration and its environment variables",
                        Some(error.into()),
                    ));
                }
            };
        }
        loaded.users += 1;
        Ok(Module { path: canonical, pkcs11: loaded.pkcs11.clone(), leases: loaded.leases.clone() })
    }

    pub(crate) fn pkcs11(&self) -> &Pkcs11 {
        &self.pkcs11
    }

    /// Waits while the module is being restarted.
    #[cfg(feature = "key-server")]
    pub(crate) fn lease(&self) -> Lease {
        *self.leases.lock() += 1;
        Lease(self.leases.clone())
    }

    /// Finalises and initialises it anew, for modules that find a returned token no other way; not while others use it. Whoever calls
    /// has no session any more, and no lease. Says whether it was done.
    pub(crate) fn restart(&self) -> bool {
        let mut modules = MODULES.lock();
        let alone = |loaded: &&mut Loaded| loaded.users == 1 && loaded.ours;
        let Some(loaded) = modules.get_mut(&self.path).filter(alone) else { return false };
        let leases = self.leases.lock();
        if *leases > 0 {
            return false;
        }
        let _ = loaded.pkcs11.clone().finalize();
        let args = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        if let Err(error) = loaded.pkcs11.initialize(args) {
            tracing::warn!(module = %self.path.display(), %error, "the PKCS#11 module does not start again");
        }
        true
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let mut modules = MODULES.lock();
        let Some(loaded) = modules.get_mut(&self.path) else { return };
        loaded.users -= 1;
        if loaded.users == 0 && loaded.ours {
            match loaded.pkcs11.clone().finalize() {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiNotInitialized, Function::Finalize)) => {}
                Err(error) => tracing::debug!(module = %self.path.display(), %error, "C_Finalize"),
            }
        }
    }
}

/// The file's canonical path, if nobody but root and this user could have put code into it: it will run in this process.
fn trusted(path: &Path) -> Result<PathBuf, ProviderError> {
    let setup = |fact: String, remedy, source: Option<std::io::Error>| ProviderError::Setup {
        fact,
        remedy,
        source: source.map(Into::into),
    };
    let shown = path.display();
    let there = path.canonicalize().and_then(|path| Ok((path.metadata()?, path)));
    let (metadata, canonical) = there.map_err(|error| {
        let fact = format!("there is no PKCS#11 module {shown}");
        setup(fact, "install the vendor's library and name its file in module-path", Some(error))
    })?;
    if !metadata.is_file() {
        return Err(setup(
            format!("the PKCS#11 module {shown} is not a regular file"),
            "name the library itself",
            None,
        ));
    }
    let user = rustix::process::geteuid().as_raw();
    if metadata.mode() & 0o022 != 0 || (metadata.uid() != user && metadata.uid() != 0) {
        let fact = format!("the PKCS#11 module {shown} can be changed by others than root and you");
        return Err(setup(fact, "give it to root and take write permission away: chown root, chmod go-w", None));
    }
    Ok(canonical)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_library_that_others_cannot_change_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("module.so");
        let fact = |path: &Path| match Module::open(path) {
            Err(ProviderError::Setup { fact, .. }) => fact,
            other => panic!("{:?}", other.map(drop)),
        };
        assert!(fact(&path).contains("there is no"));
        assert!(fact(dir.path()).contains("regular file"));
        std::fs::write(&path, "not a library").unwrap();
        for mode in [0o775, 0o757, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(fact(&path).contains("changed by others"), "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(fact(&path).contains("cannot load"));
    }
}
