//! Errors of the filesystem and the one errno table.

use crate::file::FileError;
use crate::store::StoreError;

/// Error of a filesystem operation.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// An outcome that POSIX names, by errno: expected, not a fault.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Posix(i32),
    /// The backing filesystem refused.
    #[error("backing directory: {0}")]
    Io(#[from] std::io::Error),
    /// An encrypted file refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journalled store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something other than a file's contents is not what was stored.
    #[error("damaged: {0}")]
    Damaged(&'static str),
}

impl FsError {
    /// The errno that the caller sees.
    pub fn errno(&self) -> i32 {
        match self {
            FsError::Posix(errno) => *errno,
            FsError::Io(error) => error.raw_os_error().unwrap_or(libc::EIO),
            FsError::File(FileError::Io(error)) => error.raw_os_error().unwrap_or(libc::EIO),
            FsError::File(FileError::Damaged(_)) => libc::EIO,
            FsError::File(FileError::NoKey) => libc::ENOKEY,
            FsError::File(FileError::TooLarge) => libc::EFBIG,
            FsError::Store(StoreError::Io(error)) => error.raw_os_error().unwrap_or(libc::EIO),
            FsError::Store(_) | FsError::Damaged(_) => libc::EIO,
        }
    }

    /// True for what an administrator should see: damage, missing keys, a backing filesystem that fails. Outcomes that
    /// POSIX names, a full disk among them, are answers to the program that asked.
    pub fn is_fault(&self) -> bool {
        match self {
            FsError::Posix(_) | FsError::File(FileError::TooLarge) => false,
            FsError::Store(_) | FsError::Damaged(_) | FsError::File(FileError::Damaged(_) | FileError::NoKey) => true,
            FsError::Io(error) | FsError::File(FileError::Io(error)) => {
                error.raw_os_error().is_none_or(|errno| errno == libc::EIO)
            }
        }
    }
}
