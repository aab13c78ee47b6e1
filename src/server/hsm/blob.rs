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
