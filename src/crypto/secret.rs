//! Key bytes in memory: locked, left out of core dumps, wiped on drop, never printed, cloned or compared by accident.
//!
//! The memory and its behaviour under fork are described in [`sys::memory`](crate::sys::memory): a secret does not survive
//! a fork into the child.

use std::io::Read;

use crate::sys::memory::LockedBytes;

/// `N` secret bytes, at most 1024.
pub struct Secret<const N: usize>(LockedBytes<N>);

impl<const N: usize> Secret<N> {
    /// Makes a secret by filling it in place, so that no copy stays behind on the stack.
    pub fn fill_with(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Secret(LockedBytes::zeroed());
        fill(secret.0.get_mut());
        secret
    }

    /// As [`fill_with`](Self::fill_with), where filling may fail.
    ///
    /// # Errors
    /// That of `fill`.
    pub fn try_fill_with<E>(fill: impl FnOnce(&mut [u8; N]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Secret(LockedBytes::zeroed());
        fill(secret.0.get_mut())?;
        Ok(secret)
    }

    /// Makes a random secret.
    pub fn random() -> Self {
        Self::fill_with(|bytes| super::random(bytes))
    }

    /// The bytes. Each use is short and says by its place what they are for.
    pub fn expose(&self) -> &[u8; N] {
        self.0.get()
    }

    /// Whether every byte is zero: what a source that failed silently would give.
    pub fn is_zero(&self) -> bool {
        self.expose().iter().fold(0, |any, byte| any | byte) == 0
    }
}

/// Longest passphrase, in bytes.
pub const MAX_PASSPHRASE: usize = 1024;

/// A passphrase: 1 to [`MAX_PASSPHRASE`] bytes, any bytes.
pub struct Passphrase {
    bytes: Secret<MAX_PASSPHRASE>,
    len: usize,
}

/// Why bytes are no passphrase.
#[derive(Debug, thiserror::Error)]
pub enum NoPassphrase {
    /// Nothing there.
    #[error("the passphrase is empty")]
    Empty,
    /// Too long.
    #[error("the passphrase is longer than {MAX_PASSPHRASE} bytes")]
    TooLong,
    /// It could not be read.
    #[error("cannot read the passphrase")]
    Io(#[from] std::io::Error),
}

impl Passphrase {
    /// Copies a passphrase; wiping `bytes` is the caller's business.
    ///
    /// # Errors
    /// [`NoPassphrase`].
    pub fn new(bytes: &[u8]) -> Result<Self, NoPassphrase> {
        Self::read_from(bytes)
    }

    /// Reads a passphrase up to the end of file, without one line ending (`\n` or `\r\n`) there, straight into locked memory.
    /// Unbuffered readers leave no copy behind.
    ///
    /// # Errors
    /// [`NoPassphrase`].
    pub fn read_line_from(reader: impl Read) -> Result<Self, NoPassphrase> {
        let mut read = Self::read_from(reader)?;
        for ending in [b'\n', b'\r'] {
            if read.expose().last() == Some(&ending) {
                read.len -= 1;
            } else {
                break;
            }
        }
        if read.len == 0 { Err(NoPassphrase::Empty) } else { Ok(read) }
    }

    fn read_from(mut reader: impl Read) -> Result<Self, NoPassphrase> {
        let mut len = 0;
        let bytes = Secret::try_fill_with(|buf: &mut [u8; MAX_PASSPHRASE]| {
            while let Some(rest) = buf.get_mut(len..).filter(|rest| !rest.is_empty()) {
                match reader.read(rest) {
                    Ok(0) => return if len == 0 { Err(NoPassphrase::Empty) } else { Ok(()) },
                    Ok(n) => len += n,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
            // Full: whatever comes now is too much.
            match reader.read(&mut [0])? {
                0 => Ok(()),
                _ => Err(NoPassphrase::TooLong),
            }
        })?;
        Ok(Passphrase { bytes, len })
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        self.bytes.expose().get(..self.len).unwrap_or_default()
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

impl<const N: usize> std::fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret<{N}>(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::<4>::fill_with(|b| b.copy_from_slice(&[171, 205, 171, 205]));
        assert_eq!(format!("{secret:?}"), "Secret<4>(..)");
        assert_eq!(secret.expose(), &[171, 205, 171, 205]);
    }

    #[test]
    fn a_passphrase_is_read_without_its_line_ending() {
        let read = |bytes: &[u8]| Passphrase::read_line_from(bytes).map(|p| p.expose().to_vec());
        assert_eq!(read(b"open sesame\n").unwrap(), b"open sesame");
        assert_eq!(read(b"open sesame\r\n").unwrap(), b"open sesame");
        assert_eq!(read(b"open sesame").unwrap(), b"open sesame");
        assert_eq!(read(b" two\nlines \n\n").unwrap(), b" two\nlines \n");
        assert_eq!(read(&[b'x'; MAX_PASSPHRASE]).unwrap().len(), MAX_PASSPHRASE);
        assert!(matches!(read(&[b'x'; MAX_PASSPHRASE + 1]), Err(NoPassphrase::TooLong)));
        assert!(matches!(read(b"\n"), Err(NoPassphrase::Empty)));
        assert!(matches!(read(b""), Err(NoPassphrase::Empty)));
        assert_eq!(format!("{:?}", Passphrase::new(b"secret").unwrap()), "Passphrase(..)");
    }

    #[test]
    fn random_secrets_differ() {
        assert_ne!(Secret::<32>::random().expose(), Secret::<32>::random().expose());
    }
}
