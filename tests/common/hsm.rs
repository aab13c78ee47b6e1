//! A SoftHSM token with the key server's keys in it, and callers' RSA keys.
//!
//! Stands beside `softhsm.rs`, in one module with it. SoftHSM finds its tokens by the environment, so a cluster is opened in a child of
//! the test ([`in_child`](super::softhsm::in_child)), or by the server that the test starts with [`SoftHsm::environment`].

#![allow(dead_code, unreachable_pub, missing_docs)]

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use envelopefs::server::hsm::{Cluster, HsmSettings, KeyId, Pin};

use super::softhsm::{MODULE, PIN, SoftHsm};

/// The table `[hsm]` for a SoftHSM token, without its head: the PIN from its file, OAEP in software.
pub fn table(softhsm: &SoftHsm, token: &str) -> String {
    let pin = softhsm.dir().join("pin");
    format!(
        "insecure_software_oaep = true\npin = {:?}\ntoken = [{{ uri = \"pkcs11:token={token}\", module = {MODULE:?} }}]\n",
        pin.display().to_string()
    )
}

/// The same, read.
pub fn settings(softhsm: &SoftHsm, token: &str) -> HsmSettings {
    toml::from_str(&table(softhsm, token)).expect("settings")
}

/// A token `hsm` with a domain key and a signing key.
pub struct Hsm {
    pub cluster: Cluster,
    pub domain: KeyId,
    pub signing: KeyId,
}

impl Hsm {
    /// Makes the token and the keys, and opens it. In a child alone.
    pub fn new(softhsm: &SoftHsm) -> Hsm {
        softhsm.token("hsm");
        Hsm::with(&settings(softhsm, "hsm"))
    }

    /// Makes keys in what is configured.
    pub fn with(settings: &HsmSettings) -> Hsm {
        let cluster = Cluster::open(settings).expect("opens");
        if !cluster.has_pin() {
            cluster.log_in(Pin::new(PIN.as_bytes()).unwrap(), false).expect("logs in");
        }
        let (domain, signing) = (KeyId::random(), KeyId::random());
        cluster.make_domain_key(domain).expect("a domain key");
        cluster.make_signing_key(signing).expect("a signing key");
        Hsm { cluster, domain, signing }
    }
}

/// A caller's one-time key.
pub struct Caller {
    pub spki: Vec<u8>,
    key: OaepPrivateDecryptingKey,
}

impl Caller {
    pub fn new(size: KeySize) -> Caller {
        let key = PrivateDecryptingKey::generate(size).unwrap();
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
        Caller { spki: der.as_ref().to_vec(), key: OaepPrivateDecryptingKey::new(key).unwrap() }
    }

    /// Opens a `wrapped_secret`: RSAES-OAEP with SHA-256, no label.
    pub fn open(&self, wrapped: &[u8]) -> Vec<u8> {
        let mut plain = vec![0; self.key.min_output_size()];
        self.key.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut plain, None).expect("opens").to_vec()
    }
}
