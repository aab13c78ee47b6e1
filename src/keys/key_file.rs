//! Provider `key-file`: exactly 32 random bytes in a file that only its owner can read.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::kek::{self, CHECK, Kek, SALT, base64_array};
use super::{KeyProvider, ProviderError, ProviderSpec, SlotContext, SlotData, join};
use crate::crypto::secret::Secret;

/// The provider's word in `volume.toml`.
pub const KIND: &str = "key-file";

/// Bytes of a key file.
pub const LEN: usize = 32;

/// The contents of a key file.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    key: Secret<LEN>,
}

/// Why a file is not taken as a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// A system call failed.
    #[error("cannot {doing} the key file {}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A directory, device, FIFO or socket.
    #[error("the key file {} is not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// Others than the owner have rights.
    #[error("the key file {} can be used by others than its owner (mode {:04o})", .path.display(), .mode)]
    LooseMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else may know it, or change it.
    #[error("the key file {} belongs to user {owner}, who is neither you (user {user}) nor root", .path.display())]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The effective user.
        user: u32,
    },
    /// Not 32 bytes.
    #[error("the key file {} has {found} bytes; a key has exactly {LEN}", .path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// What it has: "31", "more than 32".
        found: String,
    },
    /// All zero.
    #[error("the key file {} holds nothing but zeros, which is no key", .0.display())]
    Zero(PathBuf),
}

impl KeyFileError {
    /// What the user can do about it.
    pub fn remedy(&self) -> Option<String> {
        match self {
            KeyFileError::LooseMode { path, .. } => Some(format!(
                "if nobody else can have read it, take their rights away: chmod 600 {}",
                path.display()
            )),
            KeyFileError::ForeignOwner { path, .. } => {
                Some(format!("make a copy of your own: install -m 600 {} NEW_FILE", path.display()))
            }
            KeyFileError::WrongLength { .. } | KeyFileError::Zero(_) => Some(
                "a key file holds raw bytes, without a line ending; make one with: (umask 077; head -c 32 /dev/urandom > FILE)"
                    .into(),
            ),
            KeyFileError::NotRegular(_) => Some("name a file that holds the 32 bytes of the key".into()),
            KeyFileError::Io { source, path, .. } => match source.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    Some(format!("choose another name: {} could be another volume's key", path.display()))
                }
                std::io::ErrorKind::NotFound => Some(
                    "check the path; a key file is made with: (umask 077; head -c 32 /dev/urandom > FILE)".into(),
                ),
                _ => None,
            },
        }
    }
}

impl KeyFile {
    /// Opens the key file that a specification has as its target: `key-file:/etc/envelopefs/app.key`.
    ///
    /// # Errors
    /// [`ProviderError::Spec`] or [`ProviderError::Setup`].
    pub fn open(spec: ProviderSpec) -> Result<Self, ProviderError> {
        let path = PathBuf::from(&spec.target);
        spec.finish()?;
        Self::read(&path).map_err(|error| ProviderError::Setup {
            fact: error.to_string(),
            remedy: "name a file of exactly 32 bytes that its owner alone may use",
            source: Some(error.into()),
        })
    }

    /// Reads a key file. A symlink is followed: what counts is the file that is read.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let fail = |doing| move |source: std::io::Error| KeyFileError::Io { doing, path: path.into(), source };
        // NONBLOCK: a FIFO in its place must not hang the command.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| fail("open")(errno.into()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| fail("examine")(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(KeyFileError::NotRegular(path.into()));
        }
        let (mode, user) = (stat.st_mode & 0o7777, rustix::process::geteuid().as_raw());
        if mode & 0o077 != 0 {
            return Err(KeyFileError::LooseMode { path: path.into(), mode });
        }
        if stat.st_uid != user && stat.st_uid != 0 {
            return Err(KeyFileError::ForeignOwner { path: path.into(), owner: stat.st_uid, user });
        }
        let mut file = std::fs::File::from(fd);
        let key = Secret::try_fill_with(|key: &mut [u8; LEN]| {
            let mut len = 0;
            while let Some(rest) = key.get_mut(len..).filter(|rest| !rest.is_empty()) {
                match file.read(rest).map_err(fail("read"))? {
                    0 => return Err(KeyFileError::WrongLength { path: path.into(), found: len.to_string() }),
                    n => len += n,
                }
            }
            match file.read(&mut [0]).map_err(fail("read"))? {
                0 => Ok(()),
                _ => Err(KeyFileError::WrongLength { path: path.into(), found: format!("more than {LEN}") }),
            }
        })?;
        if key.is_zero() {
            return Err(KeyFileError::Zero(path.into()));
        }
        Ok(KeyFile { path: path.into(), key })
    }

    /// Makes a new key file with random contents, mode 0600, flushed to disk. An existing file is never replaced.
    ///
    /// # Errors
    /// [`KeyFileError::Io`].
    pub fn create(path: &Path) -> Result<Self, KeyFileError> {
        let fail = |doing| move |source: std::io::Error| KeyFileError::Io { doing, path: path.into(), source };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd =
            rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|errno| fail("create")(errno.into()))?;
        let key = Secret::random();
        let mut file = std::fs::File::from(fd);
        file.write_all(key.expose()).and_then(|()| file.sync_all()).map_err(fail("write"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(fail("flush the directory of"))?;
        Ok(KeyFile { path: path.into(), key })
    }

    fn kek(&self, salt: &[u8; SALT]) -> Result<Kek, ProviderError> {
        Ok(Kek::derive(KIND, &self.key, salt))
    }
}

impl KeyProvider for KeyFile {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn describe(&self) -> String {
        format!("key file {}", self.path.display())
    }

    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
        Kek::make_slot(master, context, |salt| self.kek(salt), |salt, check| Parameters { salt, check })
    }

    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
        Kek::open_slot(slot, context, |parameters: &Parameters| self.kek(&parameters.salt)).transpose()
    }

    fn check(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}

/// A slot's parameters.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    #[serde(with = "base64_array")]
    salt: [u8; SALT],
    #[serde(with = "base64_array")]
    check: [u8; CHECK],
}

impl kek::Parameters for Parameters {
    fn check(&self) -> &[u8; CHECK] {
        &self.check
    }

    fn encode(&self) -> Vec<u8> {
        join(&[&self.salt, &self.check])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_key_file_has_32_bytes_that_are_not_all_zero() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for len in [0, 31, 33, 4096] {
            write(&path, &vec![1; len], 0o600);
            assert!(matches!(KeyFile::read(&path), Err(KeyFileError::WrongLength { .. })), "{len}");
        }
        write(&path, &[0; 32], 0o600);
        assert!(matches!(KeyFile::read(&path), Err(KeyFileError::Zero(_))));
        write(&path, &[1; 32], 0o400);
        KeyFile::read(&path).unwrap();
    }

    #[test]
    fn a_key_file_that_others_could_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for mode in [0o640, 0o604, 0o610, 0o601, 0o620, 0o602, 0o666] {
            write(&path, &[1; 32], mode);
            let error = KeyFile::read(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::LooseMode { mode: found, .. } if found == mode), "{error}");
            assert!(error.remedy().unwrap().contains("chmod 600"));
        }
        if rustix::process::geteuid().is_root() {
            write(&path, &[1; 32], 0o600);
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(matches!(KeyFile::read(&path), Err(KeyFileError::ForeignOwner { owner: 12345, .. })));
        }
    }

    #[test]
    fn a_symlink_is_followed_and_what_is_no_file_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link, fifo) = (dir.path().join("key"), dir.path().join("link"), dir.path().join("fifo"));
        write(&path, &[1; 32], 0o600);
        symlink(&path, &link).unwrap();
        KeyFile::read(&link).unwrap();
        assert!(matches!(KeyFile::read(dir.path()), Err(KeyFileError::NotRegular(_))));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(matches!(KeyFile::read(&fifo), Err(KeyFileError::NotRegular(_))));
        assert!(matches!(KeyFile::read(&dir.path().join("none")), Err(KeyFileError::Io { .. })));
    }

    #[test]
    fn a_new_key_file_is_private_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        KeyFile::create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        KeyFile::read(&path).unwrap();
        assert!(matches!(KeyFile::create(&path), Err(KeyFileError::Io { .. })));
    }
}
