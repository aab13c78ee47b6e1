//! Deterministic encryption of names: AES-256-SIV (RFC 5297).
//!
//! Deterministic, because a name must be found again by encrypting it; bound to the directory by the
//! associated data, so that equal names in two directories look different and none can be moved.

use aes_siv::KeyInit;
use aes_siv::siv::Aes256Siv;

use super::Unauthentic;
use super::secret::Secret;

/// Encrypts and decrypts names under one key. Cheap to share between threads: each call expands the key anew (AES-NI:
/// well under a microsecond), since the library's cipher is not shareable.
#[derive(Debug)]
pub struct NameCipher(Secret<64>);

impl NameCipher {
    /// Takes the 512-bit key: the CMAC half, then the CTR half.
    pub fn new(key: Secret<64>) -> Self {
        NameCipher(key)
    }

    fn cipher(&self) -> Aes256Siv {
        Aes256Siv::new(self.0.expose().into())
    }

    /// `synthetic IV 16 ‖ ciphertext`, 16 bytes longer than `name`. Empty associated data are one empty component of RFC 5297's vector,
    /// not none.
    pub fn seal(&self, associated: &[u8], name: &[u8]) -> Vec<u8> {
        self.cipher().encrypt([associated], name).expect("one header is far from RFC 5297's 126")
    }

    /// Opens what [`seal`](Self::seal) made.
    ///
    /// # Errors
    /// [`Unauthentic`] for another key, another associated datum or changed bytes.
    pub fn open(&self, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Unauthentic> {
        self.cipher().decrypt([associated], sealed).map_err(|_| Unauthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_and_is_the_same_each_time() {
        let cipher = NameCipher::new(Secret::random());
        for name in [&b""[..], b"a", b".env", &[0xff; 255]] {
            let sealed = cipher.seal(b"directory", name);
            assert_eq!(sealed.len(), name.len() + 16);
            assert_eq!(sealed, cipher.seal(b"directory", name));
            assert_eq!(cipher.open(b"directory", &sealed).unwrap(), name);
        }
    }

    /// Key 00 01 … 3f, encrypted by OpenSSL 3.0 (AES-256-SIV), an implementation of its own. RFC 5297 has
    /// vectors for AES-128 only.
    #[test]
    fn names_are_encrypted_as_openssl_does() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
        };
        let key: Vec<u8> = (0..64).collect();
        let cipher = NameCipher::new(Secret::fill_with(|bytes| bytes.copy_from_slice(&key)));
        let directory: Vec<u8> = (0x60..0x70).collect();
        for (associated, name, sealed) in [
            (&directory[..], &b".env"[..], "b7bf3400d4fbe1580740dcd1a053fb2f7d92484a"),
            (
                &directory,
                b"a name of more than one block, of 47 bytes in a",
                concat!(
                    "24a17810e284155d93401d540b5e0b44f011ba5a9eb62c5eb576f83143d34fe9",
                    "a13e6d627d9c18ef8982f380397c74fdabd894679384c25482dacd85ad3df9"
                ),
            ),
            (b"", b"x", "88c07f717ba671023974b23b3bd47a3b33"),
        ] {
            assert_eq!(cipher.seal(associated, name), hex(sealed));
            assert_eq!(cipher.open(associated, &hex(sealed)).unwrap(), name);
        }
    }

    #[test]
    fn a_name_that_was_changed_or_moved_is_refused() {
        let cipher = NameCipher::new(Secret::random());
        let sealed = cipher.seal(b"directory", b"name");
        assert_ne!(sealed, cipher.seal(b"elsewhere", b"name"));
        assert_eq!(cipher.open(b"elsewhere", &sealed), Err(Unauthentic));
        assert_eq!(NameCipher::new(Secret::random()).open(b"directory", &sealed), Err(Unauthentic));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(cipher.open(b"directory", &changed), Err(Unauthentic));
        }
        for len in 0..sealed.len() {
            assert_eq!(cipher.open(b"directory", &sealed[..len]), Err(Unauthentic));
        }
    }
}
