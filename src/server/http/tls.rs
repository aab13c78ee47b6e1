//! TLS of the listener for callers: versions 1.2 and 1.3, and client certificates of which only possession is proved here.
//!
//! Whose certificate counts is [`identity`](crate::server::identity)'s to say, per request: see there. So the verifier here takes any certificate whose key
//! signed this handshake, and none at all.
//!
//! Sessions are not resumed: each connection proves anew that its peer has the key.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::keys::ProviderError;
use crate::server::config::Listen;

/// Longest certificate file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Most certificates that a client may show.
const MAX_CHAIN: usize = 8;

/// The certificate and key of the listener, as they are now.
pub(super) struct Tls {
    listen: Listen,
    current: ArcSwap<ServerConfig>,
    /// SHA-256 of what the files had.
    seen: parking_lot::Mutex<[u8; 32]>,
}

impl Tls {
    /// Reads both files.
    pub(super) fn open(listen: &Listen) -> Result<Tls, ProviderError> {
        let (config, seen) = read(listen)?;
        Ok(Tls { listen: listen.clone(), current: ArcSwap::new(config), seen: seen.into() })
    }

    /// For the next connection.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again; true if they changed. If they are not right, what was there stays.
    pub(super) fn reload(&self) -> Result<bool, ProviderError> {
        let (config, now) = read(&self.listen)?;
        let mut seen = self.seen.lock();
        if *seen == now {
            return Ok(false);
        }
        self.current.store(config);
        *seen = now;
        Ok(true)
    }
}

fn read(listen: &Listen) -> Result<(Arc<ServerConfig>, [u8; 32]), ProviderError> {
    let setup = |fact: String, source: Option<Box<dyn std::error::Error + Send + Sync>>| ProviderError::Setup {
        fact,
        remedy: "name a PEM file with the server's certificate and its chain, and one with its key",
        source,
    };
    let (Some(path), Some(key)) = (&listen.certificate, &listen.key) else {
        return Err(setup("listen.certificate or listen.key is not set".into(), None));
    };
    let unreadable = |error: std::io::Error| {
        setup(format!("the server's certificate {} cannot be read", path.display()), Some(error.into()))
    };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE {
        return Err(setup(format!("the server's certificate {} has more than 1 MiB", path.display()), None));
    }
    let pem = std::fs::read(path).map_err(unreadable)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| setup(format!("there is no certificate in {}", path.display()), None))?;
    let key_pem = key.read("TLS key")?;
    let seen = crate::crypto::sha256(&[crate::crypto::sha256(&pem), crate::crypto::sha256(&key_pem)].concat());
    let key = PrivateKeyDer::from_pem_slice(&key_pem)
        .map_err(|_| setup("there is no private key in the file that listen.key names".into(), None))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Possession(provider.signature_verification_algorithms));
    let config = server(provider, verifier, chain, key)
        .map_err(|error| setup("the server's certificate and key cannot be used".into(), Some(error.into())))?;
    Ok((Arc::new(config), seen))
}

fn server(
    provider: Arc<CryptoProvider>,
    verifier: Arc<Possession>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Asks for a certificate, takes none too, and has the signature of the handshake verified: the peer has the key.
struct Possession(WebPkiSupportedAlgorithms);

impl fmt::Debug for Possession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Possession")
    }
}

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A list would tell everybody who the tenants are.
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // The chain is walked for each request.
        if intermediates.len() >= MAX_CHAIN {
            return Err(rustls::Error::General("the client shows too many certificates".into()));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
