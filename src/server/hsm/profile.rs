//! What a token does in which way: the derivation of key-encryption keys, their wrapping, the encryption to callers.

use std::num::NonZeroUsize;

use cryptoki::error::Error;
use cryptoki::mechanism::ekdf::AesCbcDeriveParams;
use cryptoki::mechanism::kbkdf::{
    Endianness, KbkdfCounterFormat, KbkdfDkmLengthFormat, KbkdfDkmLengthMethod, KbkdfParams, PrfDataParam,
    PrfDataParamType,
};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use serde::Deserialize;

/// How a key-encryption key comes from its parent, an AES-256 key, and 32 bytes that name its purpose. The numbers stand in blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Kdf {
    /// CKM_SP800_108_COUNTER_KDF with HMAC-SHA-256: counter of 32 bits, label, a zero byte, the bytes, length of 32 bits (SP 800-108r1,
    /// 4.1).
    #[serde(rename = "sp800-108-hmac")]
    Sp800108Hmac = 1,
    /// The same with AES-CMAC, for tokens that take no AES key as an HMAC key.
    #[serde(rename = "sp800-108-cmac")]
    Sp800108Cmac = 2,
    /// CKM_AES_CBC_ENCRYPT_DATA with a zero IV: the bytes, encrypted. They are a SHA-256 hash, so that nobody chooses the blocks.
    AesCbc = 3,
}

/// The label in SP 800-108's input.
const LABEL: &[u8] = b"envelopefs-keyserver";

impl Kdf {
    /// In order of preference.
    pub(super) const ALL: [Kdf; 3] = [Kdf::Sp800108Hmac, Kdf::Sp800108Cmac, Kdf::AesCbc];

    /// Its number in a blob.
    pub(super) fn number(self) -> u8 {
        self as u8
    }

    /// The one with a number.
    pub(super) fn of(number: u8) -> Option<Self> {
        Kdf::ALL.into_iter().find(|kdf| kdf.number() == number)
    }

    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Kdf::Sp800108Hmac => "sp800-108-hmac",
            Kdf::Sp800108Cmac => "sp800-108-cmac",
            Kdf::AesCbc => "aes-cbc",
        }
    }

    /// Derives.
    pub(super) fn derive(
        self,
        session: &Session,
        parent: ObjectHandle,
        purpose: &[u8; 32],
        template: &[Attribute],
    ) -> Result<ObjectHandle, Error> {
        let prf = match self {
            Kdf::AesCbc => {
                let mechanism = Mechanism::AesCbcEncryptData(AesCbcDeriveParams::new([0; 16], purpose));
                return session.derive_key(&mechanism, parent, template);
            }
            Kdf::Sp800108Hmac => MechanismType::SHA256_HMAC,
            Kdf::Sp800108Cmac => MechanismType::AES_CMAC,
        };
        const BITS: NonZeroUsize = NonZeroUsize::new(32).unwrap();
        let counter = KbkdfCounterFormat::new(Endianness::Big, BITS);
        let length = KbkdfDkmLengthFormat::new(KbkdfDkmLengthMethod::SumOfKeys, Endianness::Big, BITS);
        let input = [
            PrfDataParam::new(PrfDataParamType::IterationVariable(Some(&counter))),
            PrfDataParam::new(PrfDataParamType::ByteArray(LABEL)),
            PrfDataParam::new(PrfDataParamType::ByteArray(&[0])),
            PrfDataParam::new(PrfDataParamType::ByteArray(purpose)),
            PrfDataParam::new(PrfDataParamType::DkmLength(&length)),
        ];
        let mechanism = Mechanism::KbkdfCounter(KbkdfParams::new(prf, &input, None));
        session.derive_key(&mechanism, parent, template)
    }
}

/// How keys are wrapped under a key-encryption key. The numbers stand in blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wrap {
    /// CKM_AES_KEY_WRAP (RFC 3394, SP 800-38F): 8 bytes longer than the key, authentic by 64 bits.
    AesKeyWrap = 1,
}

impl Wrap {
    /// Its number in a blob.
    pub(super) fn number(self) -> u8 {
        self as u8
    }

    /// The one with a number.
    pub(super) fn of(number: u8) -> Option<Self> {
        (number == Wrap::AesKeyWrap.number()).then_some(Wrap::AesKeyWrap)
    }

    pub(super) fn mechanism(self) -> Mechanism<'static> {
        match self {
            Wrap::AesKeyWrap => Mechanism::AesKeyWrap,
        }
    }
}

/// Where RSAES-OAEP with SHA-256 is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Oaep {
    /// By C_WrapKey.
    Token,
    /// In this process, with the secret in locked memory.
    Software,
}

impl Oaep {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Oaep::Token => "token",
            Oaep::Software => "software",
        }
    }
}
