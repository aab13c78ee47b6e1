#![doc = include_str!("blob.md")]

use super::profile::{Kdf, Wrap};
use super::{HsmError, KeyId, Owner};
use crate::api::Tenant;
use crate::{crypto, keys};

/// The first bytes of each blob.
const MAGIC: [u8; 4] = *b"EfKs";
/// The layout.
const VERSION: u8 = 1;
/// Bytes of a nonce.
const NONCE: usize = 32;
/// Bytes of a wrapped key of 32 bytes.
const WRAPPED: usize = 40;
/// Bytes in front of the nonce of a sealed secret.
const SECRET_HEAD: usize = 12;
/// Bytes in front of the nonce of a customer key: the same, then the domain key's id.
const CUSTOMER_HEAD: usize = SECRET_HEAD + 16;
/// Bytes of a sealed secret.
pub const SEALED_SECRET: usize = SECRET_HEAD + NONCE + WRAPPED;
/// Bytes of a wrapped customer key.
pub const WRAPPED_CUSTOMER_KEY: usize = CUSTOMER_HEAD + NONCE + WRAPPED;

/// What a blob holds; its number stands in the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Secret = 1,
    CustomerKey = 2,
}

/// What stands in front: how the rest was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    kind: Kind,
    kdf: Kdf,
    wrap: Wrap,
    version: u32,
}

impl Head {
    fn encode(self) -> [u8; SECRET_HEAD] {
        let [m0, m1, m2, m3] = MAGIC;
        let [v0, v1, v2, v3] = self.version.to_le_bytes();
        [m0, m1, m2, m3, VERSION, self.kind as u8, self.kdf.number(), self.wrap.number(), v0, v1, v2, v3]
    }

    /// Reads a head of one kind and gives what follows it.
    fn parse(bytes: &[u8], kind: Kind) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<SECRET_HEAD>()?;
        let [magic @ .., VERSION, found, kdf, wrap, v0, v1, v2, v3] = *head else { return None };
        let version = u32::from_le_bytes([v0, v1, v2, v3]);
        let right = magic == MAGIC && found == kind as u8;
        let head = Head { kind, kdf: Kdf::of(kdf)?, wrap: Wrap::of(wrap)?, version };
        right.then_some((head, rest))
    }
}

/// A nonce and what was wrapped with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) kdf: Kdf,
    pub(super) wrap: Wrap,
    /// What the key-encryption key is derived from its parent by.
    pub(super) purpose: [u8; 32],
    pub(super) wrapped: Vec<u8>,
}

/// A blob about to be made: what its key-encryption key is derived by, and the bytes that go before what is wrapped.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) kdf: Kdf,
    pub(super) wrap: Wrap,
    pub(super) purpose: [u8; 32],
    front: Vec<u8>,
}

impl Draft {
    /// A secret's, with a nonce of its own.
    pub(super) fn secret(kdf: Kdf, version: u32, owner: &Owner<'_>) -> Self {
        let head = Head { kind: Kind::Secret, kdf, wrap: Wrap::AesKeyWrap, version }.encode();
        Self::of(kdf, head.to_vec(), |nonce| secret_purpose(&head, nonce, owner))
    }

    /// A customer key's, with a nonce of its own.
    pub(super) fn customer_key(kdf: Kdf, version: u32, domain: KeyId, tenant: &Tenant) -> Self {
        let head = Head { kind: Kind::CustomerKey, kdf, wrap: Wrap::AesKeyWrap, version }.encode();
        let front = [&head[..], &domain.0].concat();
        Self::of(kdf, front, |nonce| customer_purpose(&head, domain, nonce, tenant))
    }

    fn of(kdf: Kdf, mut front: Vec<u8>, purpose: impl FnOnce(&[u8; NONCE]) -> [u8; 32]) -> Self {
        let mut nonce = [0; NONCE];
        crypto::random(&mut nonce);
        front.extend_from_slice(&nonce);
        Draft { kdf, wrap: Wrap::AesKeyWrap, purpose: purpose(&nonce), front }
    }

    /// The blob, with what the token has wrapped; `None` if that has not the length which it must have.
    pub(super) fn finish(&self, wrapped: &[u8]) -> Option<Vec<u8>> {
        (wrapped.len() == WRAPPED).then(|| [&self.front, wrapped].concat())
    }
}

/// A sealed secret as it came from outside: of the right form. Whose it is comes out when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    head: Head,
    nonce: [u8; NONCE],
    wrapped: [u8; WRAPPED],
}

impl Sealed {
    /// Reads what [`Cluster::generate`](super::Cluster::generate) made.
    ///
    /// # Errors
    /// [`HsmError::WrongContext`] for anything else: garbage is not told apart from another owner's secret.
    pub fn parse(bytes: &[u8]) -> Result<Sealed, HsmError> {
        let parsed = || {
            let (head, rest) = Head::parse(bytes, Kind::Secret)?;
            let (nonce, rest) = rest.split_first_chunk::<NONCE>()?;
            Some(Sealed { head, nonce: *nonce, wrapped: rest.try_into().ok()? })
        };
        parsed().ok_or(HsmError::WrongContext)
    }

    /// Which version of its tenant's key it is sealed under; says nothing about whether that is so.
    pub fn customer_key_version(&self) -> u32 {
        self.head.version
    }

    /// What opens it, if it is this owner's.
    pub(super) fn body(&self, owner: &Owner<'_>) -> Body {
        let purpose = secret_purpose(&self.head.encode(), &self.nonce, owner);
        Body { kdf: self.head.kdf, wrap: self.head.wrap, purpose, wrapped: self.wrapped.to_vec() }
    }
}

/// Reads a wrapped customer key, which must be of this version and under this domain key.
///
/// # Errors
/// [`HsmError::WrongContext`].
pub(super) fn customer_key(bytes: &[u8], version: u32, domain: KeyId, tenant: &Tenant) -> Result<Body, HsmError> {
    let parsed = || {
        let (head, rest) = Head::parse(bytes, Kind::CustomerKey)?;
        let (id, rest) = rest.split_first_chunk::<16>()?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>()?;
        let purpose = customer_purpose(&head.encode(), domain, nonce, tenant);
        let body = Body { kdf: head.kdf, wrap: head.wrap, purpose, wrapped: rest.to_vec() };
        (head.version == version && *id == domain.0 && rest.len() == WRAPPED).then_some(body)
    };
    parsed().ok_or(HsmError::WrongContext)
}

/// Every field with its length in front, so that no two owners have one context.
fn secret_purpose(head: &[u8], nonce: &[u8; NONCE], owner: &Owner<'_>) -> [u8; 32] {
    let instance = owner.instance.as_str().to_ascii_lowercase();
    let volume = owner.volume.as_str().to_ascii_lowercase();
    let tenant = owner.tenant.as_str();
    crypto::sha256(&keys::join(&[
        b"envelopefs-keyserver/secret/v1",
        head,
        tenant.as_bytes(),
        instance.as_bytes(),
        volume.as_bytes(),
        nonce,
    ]))
}

fn customer_purpose(head: &[u8], domain: KeyId, nonce: &[u8; NONCE], tenant: &Tenant) -> [u8; 32] {
    let label = b"envelopefs-keyserver/customer-key/v1";
    crypto::sha256(&keys::join(&[label, head, &domain.0, tenant.as_str().as_bytes(), nonce]))
}

#[cfg(test)]
mod tests {
    use aes::cipher::BlockCipherEncrypt;
    use aes_gcm::aead::{Aead, Payload};
    use aes_gcm::{Aes256Gcm, KeyInit};
    use proptest::prelude::*;

    use super::*;

    fn draft(names: (&str, &str, &str), version: u32) -> Draft {
        let (tenant, instance, volume) = (names.0.parse().unwrap(), names.1.parse().unwrap(), names.2.parse().unwrap());
        Draft::secret(Kdf::AesCbc, version, &Owner { tenant: &tenant, instance: &instance, volume: &volume })
    }

    /// What a blob's key-encryption key is derived by, for an owner.
    fn purpose(blob: &[u8], names: (&str, &str, &str)) -> [u8; 32] {
        let (tenant, instance, volume) = (names.0.parse().unwrap(), names.1.parse().unwrap(), names.2.parse().unwrap());
        Sealed::parse(blob).unwrap().body(&Owner { tenant: &tenant, instance: &instance, volume: &volume }).purpose
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let draft = draft(("t", "i-1", "v"), 0x0403_0201);
        let blob = draft.finish(&[7; WRAPPED]).unwrap();
        assert_eq!((blob.len(), SEALED_SECRET), (84, 84));
        assert_eq!(blob[..12], *b"EfKs\x01\x01\x03\x01\x01\x02\x03\x04");
        assert_eq!(blob[44..], [7; 40]);
        let sealed = Sealed::parse(&blob).unwrap();
        assert_eq!(sealed.customer_key_version(), 0x0403_0201);
        // The context, written out.
        let mut text = Vec::new();
        for field in [&b"envelopefs-keyserver/secret/v1"[..], &blob[..12], b"t", b"i-1", b"v", &blob[12..44]] {
            text.extend_from_slice(&(field.len() as u32).to_le_bytes());
            text.extend_from_slice(field);
        }
        assert_eq!(purpose(&blob, ("t", "i-1", "v")), crypto::sha256(&text));
        assert_eq!(draft.purpose, crypto::sha256(&text));
        assert!(draft.finish(&[7; 32]).is_none());

        let (tenant, domain) = ("t".parse().unwrap(), KeyId([9; 16]));
        let draft = Draft::customer_key(Kdf::Sp800108Hmac, 5, domain, &tenant);
        let blob = draft.finish(&[7; WRAPPED]).unwrap();
        assert_eq!((blob.len(), WRAPPED_CUSTOMER_KEY), (100, 100));
        assert_eq!(blob[..28], [&b"EfKs\x01\x02\x01\x01\x05\0\0\0"[..], &[9; 16]].concat());
        let body = customer_key(&blob, 5, domain, &tenant).unwrap();
        assert_eq!((body.purpose, &body.wrapped[..]), (draft.purpose, &[7; 40][..]));
        assert!(customer_key(&blob, 6, domain, &tenant).is_err());
        assert!(customer_key(&blob, 5, KeyId([8; 16]), &tenant).is_err());
        assert!(Sealed::parse(&blob).is_err());
    }

    #[test]
    fn each_name_is_bound_for_itself() {
        let names = ("tenant", "i-ab", "vol-1");
        let blob = draft(names, 1).finish(&[7; WRAPPED]).unwrap();
        let right = purpose(&blob, names);
        assert_eq!(purpose(&blob, ("tenant", "I-AB", "VOL-1")), right, "case of instance and volume does not count");
        for other in [
            ("tenan", "i-ab", "vol-1"),
            ("tenant", "i-a", "bvol-1"),
            ("tenant", "i-abv", "ol-1"),
            ("tenant", "i-ab", "vol-2"),
        ] {
            assert_ne!(purpose(&blob, other), right, "{other:?}");
        }
        for at in 0..44 {
            let mut changed = blob.clone();
            changed[at] ^= 3;
            if Sealed::parse(&changed).is_ok() {
                assert_ne!(purpose(&changed, names), right, "byte {at}");
            }
        }
        assert_ne!(draft(names, 1).purpose, draft(names, 1).purpose, "a nonce of its own");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), headed: bool) {
            if headed && bytes.len() >= 12 {
                bytes[..8].copy_from_slice(b"EfKs\x01\x01\x03\x01");
            }
            match Sealed::parse(&bytes) {
                Ok(sealed) => prop_assert_eq!(sealed.body(&Owner {
                    tenant: &"t".parse().unwrap(),
                    instance: &"i".parse().unwrap(),
                    volume: &"v".parse().unwrap(),
                }).wrapped, &bytes[44..]),
                Err(error) => prop_assert!(matches!(error, HsmError::WrongContext)),
            }
            let _ = customer_key(&bytes, 1, KeyId([0; 16]), &"t".parse().unwrap());
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn run(from: u8) -> [u8; 32] {
        std::array::from_fn(|at| from + u8::try_from(at).unwrap())
    }

    /// The original's form, by the published vectors: AES-256-ECB of the nonce is the key-encryption key, then AES-256-GCM.
    #[test]
    fn the_originals_form_is_as_described() {
        let vectors = [
            (
                (0x00, 0x20, 0xa0, 0x40),
                "AAD:vpc_idvpc-0a1b2c3d4e5f60718",
                "61a6936e4e8f101c1cc1f993b542a0d4e2740e8afad4e4d15d0d661b382eca89",
                "69ce0b53ef2dcf589f68045a187f6cfa253e2a4de95ef1c245abd41a4cf1ab9ca4e4d85bde18e6a72de4000e34f87d45",
            ),
            (
                (0x40, 0x80, 0xb0, 0x60),
                "AAD:instance_idi-095af01fb0461e052volume_uuidb59fad1d-46f7-447c-96c8-c2f9408a00ad",
                "f21da86a109ab406087a15d196c221ca791afbbd2ab1e20f32a5acf69249a858",
                "b3f51f0f512637fc4707e239bc4213e0caa00ff005f20a0bd719f217984de6b2e5e0fb623426553684680b8cd450949a",
            ),
        ];
        for ((parent, start, iv, key), aad, kek, sealed) in vectors {
            let parent = aes::Aes256::new(&run(parent).into());
            let mut derived = Vec::new();
            for block in run(start).chunks(16) {
                let mut block: aes::Block = <[u8; 16]>::try_from(block).unwrap().into();
                parent.encrypt_block(&mut block);
                derived.extend_from_slice(&block);
            }
            assert_eq!(hex(&derived), kek);
            let (cipher, iv) = (Aes256Gcm::new_from_slice(&derived).unwrap(), &run(iv)[..12]);
            let nonce = aes_gcm::Nonce::try_from(iv).unwrap();
            let text = cipher.encrypt(&nonce, Payload { msg: &run(key), aad: aad.as_bytes() }).unwrap();
            assert_eq!(hex(&text), sealed);
            let blob = [iv, &run(start), &text].concat();
            assert_eq!(blob.len(), 92);
            assert!(Sealed::parse(&blob).is_err(), "not opened here");
            let mut changed = text.clone();
            changed[0] ^= 1;
            assert!(cipher.decrypt(&nonce, Payload { msg: &changed, aad: aad.as_bytes() }).is_err());
        }
    }
}
