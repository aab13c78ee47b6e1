//! Where the PIN comes from: a file, a descriptor, a systemd credential; never the specification itself.
//!
//! A PIN that a token refused once is not tried again, at any token: tokens count wrong PINs and lock themselves.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use percent_encoding::percent_decode_str;

use crate::crypto::secret::Passphrase;
use crate::keys::secret_file::{self, Access};
use crate::keys::{ProviderError, ProviderSpec, SpecError};
use crate::sys::process::inherited_fd;

/// Longest PIN; tokens have far shorter limits.
const MAX_PIN: usize = 512;

/// A token's user PIN.
#[derive(Debug)]
pub(super) struct Pin {
    pin: Passphrase,
    /// A token said that it is wrong.
    refused: AtomicBool,
}

impl Pin {
    /// Takes `pin-source`, `pin-fd` or `pin-credential` and reads the PIN; `None` if none is named. One line ending is not part of it.
    ///
    /// # Errors
    /// [`ProviderError`].
    pub(super) fn take(spec: &mut ProviderSpec) -> Result<Option<Self>, ProviderError> {
        let sources = (spec.take("pin-source"), spec.take_number::<i32>("pin-fd")?, spec.take("pin-credential"));
        let pin = match sources {
            (None, None, None) => return Ok(None),
            (Some(source), None, None) => in_file(&path_of(&source)?, Access::Owner)?,
            (None, Some(number), None) => from_fd(number)?,
            (None, None, Some(name)) => in_file(&credential(&name)?, Access::AsMounted)?,
            _ => {
                let expected = "alone: a PIN comes from pin-source, pin-fd or pin-credential";
                return Err(SpecError::Value { name: "pin".into(), expected }.into());
            }
        };
        Ok(Some(Pin { pin, refused: AtomicBool::new(false) }))
    }

    /// The PIN, unless it was refused before.
    pub(super) fn expose(&self) -> Option<&[u8]> {
        (!self.refused.load(Ordering::SeqCst)).then(|| self.pin.expose())
    }

    /// Notes that a token refused it.
    pub(super) fn refuse(&self) {
        self.refused.store(true, Ordering::SeqCst);
    }
}

/// The path that `pin-source` names, as a path or as a `file:` URI (RFC 8089) without a host. RFC 7512's `|command` is no path.
fn path_of(source: &str) -> Result<PathBuf, SpecError> {
    let wrong =
        || SpecError::Value { name: "pin-source".into(), expected: "the path of a file from the root, or file:/path" };
    let path = match source.strip_prefix("file:") {
        None => source.to_owned(),
        Some(uri) => {
            let path = uri.strip_prefix("//").unwrap_or(uri);
            percent_decode_str(path).decode_utf8().map_err(|_| wrong())?.into_owned()
        }
    };
    if path.starts_with('/') { Ok(path.into()) } else { Err(wrong()) }
}

/// A credential that systemd put there for this service (systemd.exec(5), LoadCredential=); its directory is the service's alone.
fn credential(name: &str) -> Result<PathBuf, ProviderError> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(
            SpecError::Value { name: "pin-credential".into(), expected: "the name of a systemd credential" }.into()
        );
    }
    let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = directory.ok_or_else(|| ProviderError::Setup {
        fact: format!("there is no systemd credential {name}: $CREDENTIALS_DIRECTORY is not set"),
        remedy: "run it as a systemd service with LoadCredential= or LoadCredentialEncrypted=, or name a file: pin-source",
        source: None,
    })?;
    Ok(directory.join(name))
}

/// The PIN in a file that only its owner may read.
///
/// # Errors
/// [`ProviderError::Setup`].
#[cfg_attr(not(feature = "key-server"), expect(dead_code, reason = "the key server's"))]
pub(crate) fn from_file(path: &Path) -> Result<Passphrase, ProviderError> {
    in_file(path, Access::Owner)
}

/// The PIN in a credential of the systemd service.
///
/// # Errors
/// [`ProviderError`].
#[cfg_attr(not(feature = "key-server"), expect(dead_code, reason = "the key server's"))]
pub(crate) fn from_credential(name: &str) -> Result<Passphrase, ProviderError> {
    in_file(&credential(name)?, Access::AsMounted)
}

fn in_file(path: &Path, access: Access) -> Result<Passphrase, ProviderError> {
    let bytes = secret_file::read("PIN file", path, MAX_PIN, access)?;
    Passphrase::read_line_from(&bytes[..]).map_err(|error| no_pin(&format!("the PIN file {}", path.display()), error))
}

fn from_fd(number: i32) -> Result<Passphrase, ProviderError> {
    let what = format!("descriptor {number} (pin-fd)");
    // The standard input stays open: its number must not go to something else, the FUSE device say.
    let fd = if number == 0 { std::io::stdin().as_fd().try_clone_to_owned() } else { inherited_fd(number) };
    let fd = fd.map_err(|error| no_pin(&what, error))?;
    Passphrase::read_line_from(File::from(fd)).map_err(|error| no_pin(&what, error))
}

fn no_pin(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> ProviderError {
    ProviderError::Setup {
        fact: format!("{what} does not give a PIN"),
        remedy: "put the PIN, and nothing else, where it is read from",
        source: Some(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn take(text: &str) -> Result<Option<Pin>, String> {
        let mut spec: ProviderSpec = text.parse().unwrap();
        Pin::take(&mut spec).map_err(|error| format!("{error} {:?}", error.remedy()))
    }

    #[test]
    fn a_pin_file_is_private_and_holds_one_pin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("the pin");
        let encoded = path.to_str().unwrap().replace(' ', "%2520");
        let plain = format!("pkcs11:object=k?pin-source={}", path.to_str().unwrap().replace(' ', "%20"));
        for (mode, bytes, right) in
            [(0o600, "1234\n", true), (0o400, "1234", true), (0o640, "1234", false), (0o600, "\n", false)]
        {
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            for text in [
                plain.clone(),
                format!("pkcs11:object=k?pin-source=file:{encoded}"),
                format!("pkcs11:object=k?pin-source=file://{encoded}"),
            ] {
                let taken = take(&text);
                assert_eq!(taken.is_ok(), right, "{mode:o} {text} {taken:?}");
                if let Ok(pin) = taken {
                    assert_eq!(pin.unwrap().expose(), Some(&b"1234"[..]));
                }
            }
        }
    }

    #[test]
    fn other_sources_are_refused() {
        for bad in [
            "pkcs11:object=k?pin-source=%7Ccat%20/etc/pin",
            "pkcs11:object=k?pin-source=pin",
            "pkcs11:object=k?pin-source=file:pin",
            "pkcs11:object=k?pin-fd=1000000",
            "pkcs11:object=k?pin-fd=x",
            "pkcs11:object=k?pin-fd=3&pin-source=/x",
            "pkcs11:object=k?pin-credential=../x",
            "pkcs11:object=k?pin-credential=none",
        ] {
            assert!(take(bad).is_err(), "{bad}");
        }
        assert!(take("pkcs11:object=k").unwrap().is_none());
        // The specification itself does not take one.
        assert!("pkcs11:object=k?pin-value=1234".parse::<ProviderSpec>().is_err());
        assert!("pkcs11:object=k?pin=1234".parse::<ProviderSpec>().is_err());
    }

    #[test]
    fn a_refused_pin_is_not_given_out_again() {
        let pin = Pin { pin: Passphrase::new(b"1234").unwrap(), refused: AtomicBool::new(false) };
        assert_eq!(pin.expose(), Some(&b"1234"[..]));
        pin.refuse();
        assert_eq!(pin.expose(), None);
        assert!(!format!("{pin:?}").contains("1234"));
    }
}
