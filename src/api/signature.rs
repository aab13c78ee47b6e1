//! Signatures of the key API: ECDSA on P-384 with **SHA-256** (FIPS 186-5), as DER `SEQUENCE { INTEGER r, INTEGER s }`.
//!
//! DER has one encoding for a number, the shortest; the original sends each number with 48 or 49 bytes whatever it is, so that of its
//! signatures one in 256 is no DER. Those are read only where [`Padding::Original`] is asked for.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P384_SHA256_ASN1, ParsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

use super::hex;

/// Bytes of one number of a signature.
const NUMBER: usize = 48;
/// Longest signature: two numbers with a zero byte in front, three headers.
const MAX_SIGNATURE: usize = 2 + 2 * (2 + NUMBER + 1);
/// Bytes of a SubjectPublicKeyInfo of this kind.
pub const SPKI: usize = 120;
/// What stands before the point's two coordinates in each (RFC 5480: id-ecPublicKey, secp384r1, uncompressed).
const SPKI_HEAD: [u8; 24] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22, 0x03, 0x62, 0x00, 0x04,
];
/// Most keys that can be pinned together.
const MAX_KEYS: usize = 16;

/// Which zero bytes before a number are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// Those of DER: one, where the number would otherwise be negative.
    #[default]
    Minimal,
    /// Also those of the original server, which encodes all 48 bytes of a number.
    Original,
}

/// A signature is not this key's over these bytes, or no signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not right")]
pub struct BadSignature;

/// Encodes the numbers r and s, 48 bytes each, big-endian, as an HSM gives them (PKCS#11, CKM_ECDSA).
pub fn to_der(numbers: &[u8; 2 * NUMBER]) -> Vec<u8> {
    let mut body = Vec::with_capacity(MAX_SIGNATURE);
    for number in numbers.chunks_exact(NUMBER) {
        let zeros = number.iter().take_while(|byte| **byte == 0).count().min(NUMBER - 1);
        let digits = number.get(zeros..).unwrap_or_default();
        let sign = usize::from(digits.first().is_some_and(|byte| byte & 0x80 != 0));
        // At most 49, so one byte of length.
        body.extend_from_slice(&[0x02, u8::try_from(sign + digits.len()).unwrap_or(u8::MAX)]);
        body.extend_from_slice(&[0][..sign]);
        body.extend_from_slice(digits);
    }
    let mut der = vec![0x30, u8::try_from(body.len()).unwrap_or(u8::MAX)];
    der.append(&mut body);
    der
}

/// Decodes what [`to_der`] gives, and with [`Padding::Original`] what the original gives.
///
/// # Errors
/// [`BadSignature`] for anything else: other lengths, negative numbers, numbers of more than 48 bytes, bytes before or behind.
pub fn from_der(der: &[u8], padding: Padding) -> Result<[u8; 2 * NUMBER], BadSignature> {
    let body = match der {
        [0x30, len, body @ ..] if body.len() == usize::from(*len) && der.len() <= MAX_SIGNATURE => body,
        _ => return Err(BadSignature),
    };
    let mut numbers = [0; 2 * NUMBER];
    let (r, s) = numbers.split_at_mut(NUMBER);
    let rest = number(body, padding, r)?;
    let rest = number(rest, padding, s)?;
    if rest.is_empty() { Ok(numbers) } else { Err(BadSignature) }
}

/// Reads one INTEGER into its 48 bytes and returns what follows it.
fn number<'a>(der: &'a [u8], padding: Padding, out: &mut [u8]) -> Result<&'a [u8], BadSignature> {
    let [0x02, len, rest @ ..] = der else { return Err(BadSignature) };
    let (digits, rest) = rest.split_at_checked(usize::from(*len)).ok_or(BadSignature)?;
    let significant = match digits {
        [0, digits @ ..] if digits.first().is_some_and(|byte| byte & 0x80 != 0) => digits,
        [0, _, ..] if padding == Padding::Minimal => return Err(BadSignature),
        [0, digits @ ..] if !digits.is_empty() => digits,
        [first, ..] if first & 0x80 == 0 => digits,
        _ => return Err(BadSignature),
    };
    let start = out.len().checked_sub(significant.len()).ok_or(BadSignature)?;
    out.get_mut(start..).ok_or(BadSignature)?.copy_from_slice(significant);
    Ok(rest)
}

/// A public key of the server.
#[derive(Clone)]
pub struct SigningKey {
    spki: [u8; SPKI],
    key: ParsedPublicKey,
}

/// Bytes or text are no such key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoSigningKey {
    /// Not of this kind.
    #[error("not an ECDSA public key on P-384 (SubjectPublicKeyInfo with an uncompressed point)")]
    Key,
    /// No PEM block, or a block that is cut off or not base64.
    #[error("not a PEM file of public keys")]
    Pem,
    /// More than anybody pins.
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

impl SigningKey {
    /// Reads DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`NoSigningKey::Key`], also for a point that is not on the curve.
    pub fn from_spki(der: &[u8]) -> Result<Self, NoSigningKey> {
        let spki = <[u8; SPKI]>::try_from(der).map_err(|_| NoSigningKey::Key)?;
        if !spki.starts_with(&SPKI_HEAD) {
            return Err(NoSigningKey::Key);
        }
        let key = ParsedPublicKey::new(&ECDSA_P384_SHA256_ASN1, spki).map_err(|_| NoSigningKey::Key)?;
        Ok(SigningKey { spki, key })
    }

    /// DER SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8; SPKI] {
        &self.spki
    }

    /// SHA-256 of the DER SubjectPublicKeyInfo, in 64 lower-case hexadecimal digits.
    pub fn id(&self) -> String {
        hex(&Sha256::digest(self.spki))
    }

    /// The key as PEM, with its base64 in one line, as the agents of the original want it.
    pub fn to_pem(&self) -> String {
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", BASE64_STANDARD.encode(self.spki))
    }

    /// Verifies a signature over bytes.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(&self, bytes: &[u8], signature: &[u8], padding: Padding) -> Result<(), BadSignature> {
        let der = to_der(&from_der(signature, padding)?);
        self.key.verify_sig(bytes, &der).map_err(|_| BadSignature)
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for SigningKey {}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id())
    }
}

/// The keys that a client believes: one, or several while the server changes from one to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeys(Vec<SigningKey>);

impl SigningKeys {
    /// Reads `PUBLIC KEY` blocks of PEM (RFC 7468), at least one. Their base64 may stand in one line or in several.
    ///
    /// # Errors
    /// [`NoSigningKey`].
    pub fn from_pem(text: &str) -> Result<Self, NoSigningKey> {
        let mut keys = Vec::new();
        let mut block: Option<String> = None;
        for line in text.lines().map(str::trim_end) {
            match (&mut block, line) {
                (None, "-----BEGIN PUBLIC KEY-----") => block = Some(String::new()),
                (Some(body), "-----END PUBLIC KEY-----") => {
                    let der = BASE64_STANDARD.decode(body.as_bytes()).map_err(|_| NoSigningKey::Pem)?;
                    keys.push(SigningKey::from_spki(&der)?);
                    block = None;
                }
                (Some(body), line) if !line.starts_with('-') => body.push_str(line),
                // Text around blocks is allowed; blocks of another kind are a mistake.
                (None, line) if !line.starts_with('-') => {}
                _ => return Err(NoSigningKey::Pem),
            }
            if keys.len() > MAX_KEYS {
                return Err(NoSigningKey::TooMany);
            }
        }
        if block.is_some() || keys.is_empty() { Err(NoSigningKey::Pem) } else { Ok(SigningKeys(keys)) }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &SigningKey> {
        self.0.iter()
    }

    /// The key with this [id](SigningKey::id).
    pub fn by_id(&self, id: &str) -> Option<&SigningKey> {
        self.0.iter().find(|key| key.id() == id)
    }

    /// Verifies a signature over bytes with any of the keys.
    ///
    /// # Errors
    /// [`BadSignature`] if it is none of theirs.
    pub fn verify(&self, bytes: &[u8], signature: &[u8], padding: Padding) -> Result<(), BadSignature> {
        let verified = self.0.iter().any(|key| key.verify(bytes, signature, padding).is_ok());
        if verified { Ok(()) } else { Err(BadSignature) }
    }
}

impl From<SigningKey> for SigningKeys {
    fn from(key: SigningKey) -> Self {
        SigningKeys(vec![key])
    }
}

#[cfg(test)]
mod tests {
    use p384::ecdsa::signature::hazmat::PrehashSigner;
    use p384::pkcs8::EncodePublicKey;
    use proptest::prelude::*;

    use super::*;

    /// Another implementation's key pair.
    fn pair() -> (p384::ecdsa::SigningKey, SigningKey) {
        let mut bytes = [0; NUMBER];
        crate::crypto::random(&mut bytes);
        let pair = p384::ecdsa::SigningKey::from_slice(&bytes).unwrap();
        let spki = p384::PublicKey::from(pair.verifying_key()).to_public_key_der().unwrap();
        let key = SigningKey::from_spki(spki.as_bytes()).unwrap();
        (pair, key)
    }

    fn sign(pair: &p384::ecdsa::SigningKey, bytes: &[u8]) -> [u8; 2 * NUMBER] {
        let signature: p384::ecdsa::Signature = pair.sign_prehash(&Sha256::digest(bytes)).unwrap();
        signature.to_bytes()[..].try_into().unwrap()
    }

    /// As the original encodes: all 48 bytes, and a zero if the first bit is set.
    fn padded(numbers: &[u8; 2 * NUMBER]) -> Vec<u8> {
        let mut body = Vec::new();
        for number in numbers.chunks(NUMBER) {
            let sign = usize::from(number[0] & 0x80 != 0);
            body.extend_from_slice(&[2, (NUMBER + sign) as u8]);
            body.extend_from_slice(&[0][..sign]);
            body.extend_from_slice(number);
        }
        [&[0x30, body.len() as u8], &body[..]].concat()
    }

    /// Section 14 of the wire's specification.
    #[test]
    fn numbers_have_the_published_encoding() {
        let mut numbers = [0; 96];
        numbers[1] = 0x7f;
        (2..48).for_each(|at| numbers[at] = (at - 1) as u8);
        numbers[48] = 0x80;
        (49..96).for_each(|at| numbers[at] = (at - 48) as u8);
        let right = to_der(&numbers);
        assert_eq!(right[..6], [0x30, 0x64, 0x02, 0x2f, 0x7f, 0x01]);
        assert_eq!(right[51..56], [0x02, 0x31, 0x00, 0x80, 0x01]);
        assert_eq!((right.len(), right[50], right[101]), (102, 0x2e, 0x2f));
        assert_eq!(from_der(&right, Padding::Minimal), Ok(numbers));
        assert_eq!(from_der(&right, Padding::Original), Ok(numbers));
        let wrong = padded(&numbers);
        assert_eq!(wrong[..6], [0x30, 0x65, 0x02, 0x30, 0x00, 0x7f]);
        assert_eq!(from_der(&wrong, Padding::Minimal), Err(BadSignature));
        assert_eq!(from_der(&wrong, Padding::Original), Ok(numbers));
    }

    #[test]
    fn a_signature_is_bound_to_its_key_and_bytes() {
        let ((pair, key), (_, other)) = (self::pair(), self::pair());
        let numbers = sign(&pair, b"bytes");
        let der = to_der(&numbers);
        assert_eq!(key.verify(b"bytes", &der, Padding::Minimal), Ok(()));
        assert_eq!(key.verify(b"Bytes", &der, Padding::Minimal), Err(BadSignature));
        assert_eq!(other.verify(b"bytes", &der, Padding::Minimal), Err(BadSignature));
        for at in 0..der.len() * 8 {
            let mut changed = der.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(key.verify(b"bytes", &changed, Padding::Original).is_err(), "bit {at}");
        }
        for len in 0..der.len() {
            assert!(key.verify(b"bytes", &der[..len], Padding::Original).is_err());
        }
        assert!(key.verify(b"bytes", &[&der[..], &[0]].concat(), Padding::Original).is_err());
        let keys = SigningKeys(vec![other.clone(), key.clone()]);
        assert_eq!(keys.verify(b"bytes", &der, Padding::Minimal), Ok(()));
        assert_eq!(SigningKeys::from(other).verify(b"bytes", &der, Padding::Minimal), Err(BadSignature));
    }

    #[test]
    fn a_padded_signature_counts_only_where_it_is_asked_for() {
        let (pair, key) = pair();
        let (numbers, text) = (0_u32..)
            .map(|n| (sign(&pair, &n.to_le_bytes()), n.to_le_bytes()))
            .find(|(numbers, _)| padded(numbers) != to_der(numbers))
            .unwrap();
        assert_eq!(key.verify(&text, &to_der(&numbers), Padding::Minimal), Ok(()));
        assert_eq!(key.verify(&text, &padded(&numbers), Padding::Minimal), Err(BadSignature));
        assert_eq!(key.verify(&text, &padded(&numbers), Padding::Original), Ok(()));
    }

    #[test]
    fn keys_are_read_from_pem_in_one_line_or_several() {
        let ((_, first), (_, second)) = (pair(), pair());
        let pem = first.to_pem();
        assert!(pem.lines().nth(1).unwrap().starts_with("MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE"));
        assert_eq!(pem.lines().nth(1).unwrap().len(), 160);
        let body = BASE64_STANDARD.encode(second.spki());
        let folded = format!(
            "# second\n-----BEGIN PUBLIC KEY-----\r\n{}\r\n{}\r\n-----END PUBLIC KEY-----\r\n",
            &body[..64],
            &body[64..]
        );
        let keys = SigningKeys::from_pem(&(pem.clone() + &folded)).unwrap();
        assert_eq!(keys.iter().collect::<Vec<_>>(), [&first, &second]);
        assert_eq!(keys.by_id(&second.id()), Some(&second));
        assert!(keys.by_id("").is_none());
        for bad in [
            String::new(),
            pem.replace("PUBLIC", "PRIVATE"),
            pem.replace("-----END PUBLIC KEY-----", ""),
            pem.replace("MHYw", "MHY*"),
            pem.replace("MHYw", "MHYx"),
            pem.clone() + "-----BEGIN PUBLIC KEY-----\n",
            pem.clone() + "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            pem.repeat(MAX_KEYS + 1),
        ] {
            assert!(SigningKeys::from_pem(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_of_another_kind_or_off_the_curve_is_refused() {
        let (_, key) = pair();
        let spki = *key.spki();
        let mut off = spki;
        off[SPKI - 1] ^= 1;
        let p256 = [&[0x30, 0x59][..], &[0; 89]].concat();
        for bad in [&off[..], &spki[..SPKI - 1], &spki[23..], &p256, b""] {
            assert!(SigningKey::from_spki(bad).is_err());
        }
    }

    #[test]
    fn openssl_makes_signatures_that_verify_and_verifies_those_that_are_encoded_here() {
        let dir = tempfile::tempdir().unwrap();
        let run = |arguments: &str| {
            let output = std::process::Command::new("openssl")
                .args(arguments.split(' '))
                .current_dir(dir.path())
                .output()
                .expect("openssl is installed");
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        std::fs::write(dir.path().join("text"), b"some bytes").unwrap();
        run("ecparam -name secp384r1 -genkey -noout -out key");
        run("ec -in key -pubout -out theirs");
        run("dgst -sha256 -sign key -out sig text");
        let theirs = SigningKeys::from_pem(&std::fs::read_to_string(dir.path().join("theirs")).unwrap()).unwrap();
        let signature = std::fs::read(dir.path().join("sig")).unwrap();
        assert_eq!(theirs.verify(b"some bytes", &signature, Padding::Minimal), Ok(()));

        let (pair, ours) = pair();
        std::fs::write(dir.path().join("ours"), ours.to_pem()).unwrap();
        std::fs::write(dir.path().join("sig"), to_der(&sign(&pair, b"some bytes"))).unwrap();
        run("dgst -sha256 -verify ours -signature sig text");
    }

    proptest! {
        #[test]
        fn numbers_come_back(mut numbers in proptest::collection::vec(any::<u8>(), 96), zeros in (0..48_usize, 0..48_usize)) {
            numbers[..zeros.0].fill(0);
            numbers[48..48 + zeros.1].fill(0);
            let numbers = <[u8; 96]>::try_from(numbers).unwrap();
            let der = to_der(&numbers);
            prop_assert!(der.len() <= MAX_SIGNATURE);
            prop_assert_eq!(from_der(&der, Padding::Minimal), Ok(numbers));
            prop_assert_eq!(from_der(&padded(&numbers), Padding::Original), Ok(numbers));
        }

        #[test]
        fn what_is_read_strictly_is_what_would_be_written(der in proptest::collection::vec(any::<u8>(), 0..110)) {
            if let Ok(numbers) = from_der(&der, Padding::Minimal) {
                prop_assert_eq!(to_der(&numbers), der);
            }
        }
    }
}
