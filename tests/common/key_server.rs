//! A fake of the remote HSM key API, written from its wire specification and not from our client: its HSM is this process, its cryptography
//! other libraries' than the client's where there are others. It answers all four calls, and misbehaves on demand.
//!
//! What it keeps to of the specification: paths with folded slashes, statuses and texts, sealing (the 92 bytes of the Proteccio profile),
//! OAEP, signatures, the context signature, bearer tokens beside a dummy `Authorization`, client certificates, challenges and what evidence is bound
//! to. No audit log, and it believes every report: whether one is genuine is tried with the real server.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aes::cipher::{BlockCipherEncrypt, KeyInit as _};
use aes_gcm::aead::{Aead, Payload};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use p384::ecdsa::signature::hazmat::PrehashSigner;
use p384::pkcs8::EncodePublicKey;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256, Sha512};

use super::server::{Authority, Call, Reply, Server};

/// How the server misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Signs with a key of its own.
    OtherKey,
    /// Signs other bytes.
    OtherBytes,
    /// Signs the text of the base64 instead of the bytes.
    SignsText,
    /// Generate returns two forms of two secrets (fault 3b of the original).
    MixedUp,
    /// Convert seals another secret.
    ConvertsOther,
    /// Secrets are zeros.
    Zeros,
    /// Secrets have this many bytes.
    Length(usize),
    /// `wrapped_secret` is for another RSA key, of this many bits.
    OtherRsa(usize),
    /// `wrapped_secret` is cut.
    ShortWrapped,
    /// `encrypted_secret` has 5000 bytes.
    LongSealed,
    /// Signatures as the original encodes them, none minimal.
    Padded,
    /// Base64 with a line break.
    LooseBase64,
    /// The context signature is left out.
    NoContext,
    /// The context signature is over another nonce.
    OtherNonce,
    /// The context signature is over another operation.
    OtherOperation,
    /// Another tenant, rightly signed.
    OtherTenant,
    /// A field of the answer is missing.
    Missing(&'static str),
    /// Status 200 with this body.
    Body(&'static str),
    /// This status with a message.
    Status(u16),
    /// A redirect to another address.
    Redirect,
    /// More than any answer has.
    Oversized,
    /// Answers after this time.
    Slow(Duration),
    Silence,
    Drip,
    HangUp,
}

/// What one key server would have in its HSM and its database. Outlives the servers that serve it.
pub struct Hsm {
    tenant: String,
    customer_key: [u8; 32],
    signing_key: p384::ecdsa::SigningKey,
    other_key: p384::ecdsa::SigningKey,
    pub token: Option<String>,
    pub needs_certificate: bool,
    /// Whether it knows the context signature.
    pub context: bool,
    /// The launch measurement that evidence must show, if any is demanded.
    pub measurement: Option<[u8; 48]>,
    /// Challenges that are open, and for whom.
    challenges: Mutex<Vec<(Vec<u8>, String)>>,
    /// Instances that the caller may be, if not all.
    pub instances: Option<Vec<String>>,
    fault: Mutex<Fault>,
    /// The fault is for this operation alone.
    only: Mutex<Option<&'static str>>,
    audit: AtomicU64,
    seen: Mutex<Vec<Seen>>,
    secrets: Mutex<Vec<Vec<u8>>>,
}

/// A call that came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub authorization: Vec<String>,
    pub body: Value,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("random");
    bytes
}

fn key_pair() -> p384::ecdsa::SigningKey {
    p384::ecdsa::SigningKey::from_slice(&random::<48>()).expect("almost every number is a key")
}

pub const TENANT: &str = "vpc-0b1e8a8e776a87423";

impl Hsm {
    /// One that speaks as ours do, to whoever asks.
    pub fn new() -> Hsm {
        Hsm {
            tenant: TENANT.into(),
            customer_key: random(),
            signing_key: key_pair(),
            other_key: key_pair(),
            token: None,
            needs_certificate: false,
            context: true,
            measurement: None,
            challenges: Mutex::default(),
            instances: None,
            fault: Mutex::new(Fault::None),
            only: Mutex::new(None),
            audit: AtomicU64::new(1),
            seen: Mutex::new(Vec::new()),
            secrets: Mutex::new(Vec::new()),
        }
    }

    /// One like the original, which knows no context signature.
    pub fn original() -> Hsm {
        Hsm { context: false, ..Hsm::new() }
    }

    /// One that demands evidence of a guest with this launch measurement.
    pub fn demanding(measurement: [u8; 48]) -> Hsm {
        Hsm { measurement: Some(measurement), ..Hsm::new() }
    }

    pub fn serve(self: &Arc<Self>) -> Server {
        let hsm = self.clone();
        Server::new(move |call| hsm.answer(call))
    }

    pub fn serve_on(self: &Arc<Self>, port: u16) -> Server {
        let hsm = self.clone();
        Server::on(port, move |call| hsm.answer(call))
    }

    pub fn serve_tls(self: &Arc<Self>, authority: &Authority) -> Server {
        let hsm = self.clone();
        Server::tls(authority, move |call| hsm.answer(call))
    }

    /// Misbehaves from now on.
    pub fn misbehave(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
        *self.only.lock().unwrap() = None;
    }

    /// Misbehaves in one operation.
    pub fn misbehave_in(&self, operation: &'static str, fault: Fault) {
        self.misbehave(fault);
        *self.only.lock().unwrap() = Some(operation);
    }

    /// The calls that came since this was asked last.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// All secrets that it ever gave out.
    pub fn secrets(&self) -> Vec<Vec<u8>> {
        self.secrets.lock().unwrap().clone()
    }

    fn spki(&self) -> Vec<u8> {
        p384::PublicKey::from(self.signing_key.verifying_key()).to_public_key_der().unwrap().into_vec()
    }

    /// The signing key, as its operator hands it out.
    pub fn pem(&self) -> String {
        let body = BASE64_STANDARD.encode(self.spki());
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    pub fn fingerprint(&self) -> String {
        hex(&Sha256::digest(self.spki()))
    }

    /// Handles one request.
    pub fn answer(&self, call: Call) -> Reply {
        let authorization: Vec<String> = call
            .headers
            .get_all("authorization")
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        self.seen.lock().unwrap().push(Seen {
            method: call.method.clone(),
            path: call.path.clone(),
            authorization: authorization.clone(),
            body: call.json(),
        });
        let segments: Vec<&str> = call.path.split('/').filter(|segment| !segment.is_empty()).collect();
        let operation = segments.last().copied().unwrap_or_default();
        let only = *self.only.lock().unwrap();
        let fault = Some(*self.fault.lock().unwrap())
            .filter(|_| only.is_none_or(|only| only == operation))
            .unwrap_or(Fault::None);
        match fault {
            Fault::Body(text) => return Reply::text(200, text),
            Fault::Status(status) => return Reply::json(status, json!({"message": "Out of order"})),
            Fault::Redirect => return Reply::text(307, "").header("location", "http://127.0.0.1:9/v1"),
            Fault::Oversized => return Reply::text(200, &" ".repeat(70_000)),
            Fault::Slow(time) => std::thread::sleep(time),
            Fault::Silence => return Reply::Silence,
            Fault::Drip => return Reply::Drip,
            Fault::HangUp => return Reply::HangUp,
            _ => {}
        }
        let bearer = authorization.iter().filter_map(|line| line.strip_prefix("Bearer ")).collect::<Vec<_>>();
        if self.token.as_deref().is_some_and(|token| bearer != [token]) || (self.needs_certificate && !call.certified) {
            return refusal(401, "Unauthorized");
        }
        let reply = match (call.method.as_str(), &segments[..]) {
            ("GET", ["v1", "public-signing-key"]) => {
                return Reply::json(200, json!({"public_key": BASE64_STANDARD.encode(self.spki())}));
            }
            ("POST", ["v1", "encryption", instance, operation]) => self.operate(instance, operation, &call, fault),
            _ => return refusal(404, "Not Found"),
        };
        match reply {
            Ok(answer) => Reply::json(200, Value::Object(answer)),
            Err((status, text)) => refusal(status, text),
        }
    }

    fn operate(
        &self,
        instance: &str,
        operation: &str,
        call: &Call,
        fault: Fault,
    ) -> Result<Map<String, Value>, (u16, &'static str)> {
        if self.instances.as_ref().is_some_and(|instances| !instances.iter().any(|known| known == instance)) {
            return Err((403, "Forbidden"));
        }
        let bad = (400, "Bad parameters");
        let body = call.json();
        if operation == "challenge" {
            self.measurement.ok_or((404, "Not Found"))?;
            let challenge = random::<32>();
            self.challenges.lock().unwrap().push((challenge.to_vec(), instance.to_owned()));
            let given =
                json!({"challenge": BASE64_STANDARD.encode(challenge), "expires_at": "2026-01-02T03:06:05.678901Z"});
            return Ok(given.as_object().unwrap().clone());
        }
        let text = |name: &str| body.get(name).and_then(Value::as_str).ok_or(bad);
        let bytes = |name: &str| BASE64_STANDARD.decode(text(name)?).map_err(|_| bad);
        if !self.is_evident(instance, operation, &body) {
            return Err((403, "Forbidden"));
        }
        let volume = text("volume_uuid")?;
        let key = match operation {
            "convert-secret" => Vec::new(),
            _ => bytes("rsa_wrapping_key")?,
        };
        let rsa = match operation {
            "convert-secret" => None,
            _ => Some(PublicEncryptingKey::from_der(&key).map_err(|_| (400, "Invalid RSA pub key"))?),
        };
        let incorrect = (400, "Wrapped secret and/or context are incorrect");

        let seal = |secret: &[u8]| seal(&self.customer_key, &aad(instance, volume), &random(), &random(), secret);
        let (mut sealed, mut secret) = match operation {
            "generate-secret" => {
                let secret = match fault {
                    Fault::Zeros => vec![0; 32],
                    Fault::Length(len) => vec![7; len],
                    _ => random::<32>().to_vec(),
                };
                (seal(&secret), secret)
            }
            "decrypt-secret" => {
                let sealed = bytes("encrypted_secret")?;
                let mut secret = unseal(&self.customer_key, &aad(instance, volume), &sealed).ok_or(incorrect)?;
                match fault {
                    Fault::Zeros => secret.fill(0),
                    Fault::Length(len) => secret.resize(len, 7),
                    _ => {}
                }
                (sealed, secret)
            }
            "convert-secret" => {
                let source = aad(text("source_instance_id")?, volume);
                let old = unseal(&self.customer_key, &source, &bytes("encrypted_secret")?).ok_or(incorrect)?;
                let kept = if fault == Fault::ConvertsOther { random::<32>().to_vec() } else { old };
                (seal(&kept), Vec::new())
            }
            _ => return Err((404, "Not Found")),
        };
        if fault == Fault::LongSealed && operation != "decrypt-secret" {
            sealed.resize(5000, 0);
        }
        if fault == Fault::MixedUp && operation == "generate-secret" {
            secret = random::<32>().to_vec();
        }
        self.secrets.lock().unwrap().push(secret.clone());
        let wrapped = rsa.map_or_else(Vec::new, |rsa| match fault {
            Fault::OtherRsa(bits) => wrap(other_rsa(bits), &secret),
            Fault::ShortWrapped => wrap(rsa, &secret)[1..].to_vec(),
            _ => wrap(rsa, &secret),
        });

        let mut answer = Map::new();
        if operation != "decrypt-secret" {
            self.put(&mut answer, "encrypted_secret", &sealed, fault);
        }
        if operation != "convert-secret" {
            self.put(&mut answer, "wrapped_secret", &wrapped, fault);
        }
        if self.context && fault != Fault::NoContext && body.get("client_nonce").is_some() {
            let nonce = bytes("client_nonce")?;
            let nonce = if fault == Fault::OtherNonce { vec![0; 32] } else { nonce };
            let operation = if fault == Fault::OtherOperation { "health-check" } else { operation };
            let tenant = if fault == Fault::OtherTenant { "vpc-other" } else { &self.tenant };
            let (number, now) = (self.audit.fetch_add(1, Ordering::SeqCst), "2026-01-02T03:04:05.678901Z");
            let hash = |bytes: &[u8]| if bytes.is_empty() { String::new() } else { hex(&Sha256::digest(bytes)) };
            let context = [
                "domain=envelopefs-keyserver/response/v1".to_owned(),
                format!("operation={operation}"),
                format!("tenant={}", hex(tenant.as_bytes())),
                format!("instance_id={}", hex(instance.as_bytes())),
                format!("volume_uuid={}", hex(volume.to_lowercase().as_bytes())),
                format!("client_nonce={}", hex(&nonce)),
                format!("rsa_wrapping_key_sha256={}", hash(&key)),
                format!("encrypted_secret_sha256={}", hash(&sealed)),
                format!("wrapped_secret_sha256={}", hash(&wrapped)),
                format!("audit_seq={number}"),
                format!("signed_at={}", hex(now.as_bytes())),
            ];
            let signature = self.sign(context.join("\n").as_bytes(), fault);
            answer.insert("tenant".into(), tenant.into());
            answer.insert("signed_at".into(), now.into());
            answer.insert("audit_seq".into(), number.to_string().into());
            answer.insert("key_id".into(), self.fingerprint().into());
            answer.insert("context_signature".into(), BASE64_STANDARD.encode(signature).into());
        }
        if let Fault::Missing(name) = fault {
            answer.remove(name);
        }
        Ok(answer)
    }

    /// Whether a request has evidence of its own, if any is demanded. Its challenge is spent in any case.
    fn is_evident(&self, instance: &str, operation: &str, body: &Value) -> bool {
        let Some(measurement) = self.measurement else { return true };
        let bytes = |value: &Value| BASE64_STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default();
        let evidence = &body["attestation"];
        let (challenge, report) = (bytes(&evidence["challenge"]), bytes(&evidence["report"]));
        let mut open = self.challenges.lock().unwrap();
        let Some(at) = open.iter().position(|known| *known == (challenge.clone(), instance.to_owned())) else {
            return false;
        };
        open.remove(at);
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        let hash = |name: &str| match bytes(&body[name]) {
            bytes if bytes.is_empty() => String::new(),
            bytes => hex(&Sha256::digest(bytes)),
        };
        let bound = [
            "domain=envelopefs-keyserver/attestation/v1".to_owned(),
            format!("operation={operation}"),
            format!("instance_id={}", hex(instance.as_bytes())),
            format!("volume_uuid={}", hex(text("volume_uuid").to_lowercase().as_bytes())),
            format!("challenge={}", hex(&challenge)),
            format!("rsa_wrapping_key_sha256={}", hash("rsa_wrapping_key")),
            format!("encrypted_secret_sha256={}", hash("encrypted_secret")),
            format!("source_instance_id={}", hex(text("source_instance_id").as_bytes())),
        ];
        report.len() == 1184
            && report[0x30..0x34] == [0; 4]
            && report[0x50..0x90] == Sha512::digest(bound.join("\n"))[..]
            && report[0x90..0xC0] == measurement
            && !bytes(&evidence["certificates"]).is_empty()
    }

    /// Puts a value and its signature into an answer.
    fn put(&self, answer: &mut Map<String, Value>, name: &str, bytes: &[u8], fault: Fault) {
        let mut text = BASE64_STANDARD.encode(bytes);
        let signature = match fault {
            Fault::OtherBytes => self.sign(b"other bytes", fault),
            Fault::SignsText => self.sign(text.as_bytes(), fault),
            _ => self.sign(bytes, fault),
        };
        if fault == Fault::LooseBase64 {
            text.insert(64, '\n');
        }
        answer.insert(name.into(), text.into());
        answer.insert(format!("{name}_signature"), BASE64_STANDARD.encode(signature).into());
    }

    fn sign(&self, bytes: &[u8], fault: Fault) -> Vec<u8> {
        let key = if fault == Fault::OtherKey { &self.other_key } else { &self.signing_key };
        let signature: p384::ecdsa::Signature = key.sign_prehash(&Sha256::digest(bytes)).unwrap();
        if fault != Fault::Padded {
            return signature.to_der().as_bytes().to_vec();
        }
        // -s is as good as s: the one without its first bit set is never 49 bytes long, unless it is padded.
        let low = signature.normalize_s().unwrap_or(signature).to_bytes();
        let (r, s) = low.split_at(48);
        let sign = usize::from(r[0] & 0x80 != 0);
        [&[0x30, (101 + sign) as u8, 2, (48 + sign) as u8], &[0][..sign], r, &[2, 49, 0], s].concat()
    }
}

fn refusal(status: u16, text: &str) -> Reply {
    Reply::json(status, json!({"message": text}))
}

/// Section 6.1: names and values in a row, lower-cased.
pub fn aad(instance: &str, volume: &str) -> Vec<u8> {
    format!("AAD:instance_id{}volume_uuid{}", instance.to_lowercase(), volume.to_lowercase()).into_bytes()
}

/// Section 6, Proteccio profile: KEK = AES-256-ECB(parent, nonce).
pub fn kek(parent: &[u8; 32], nonce: &[u8; 32]) -> [u8; 32] {
    let (cipher, mut kek) = (aes::Aes256::new(parent.into()), *nonce);
    for block in kek.chunks_exact_mut(16) {
        cipher.encrypt_block(block.try_into().unwrap());
    }
    kek
}

/// Section 6: IV ‖ nonce ‖ ciphertext ‖ tag.
pub fn seal(parent: &[u8; 32], aad: &[u8], iv: &[u8; 12], nonce: &[u8; 32], secret: &[u8]) -> Vec<u8> {
    let cipher = aes_gcm::Aes256Gcm::new((&kek(parent, nonce)).into());
    let sealed = cipher.encrypt(iv.into(), Payload { msg: secret, aad }).unwrap();
    [&iv[..], nonce, &sealed].concat()
}

fn unseal(parent: &[u8; 32], aad: &[u8], blob: &[u8]) -> Option<Vec<u8>> {
    let (iv, rest) = blob.split_first_chunk::<12>()?;
    let (nonce, sealed) = rest.split_first_chunk::<32>()?;
    let cipher = aes_gcm::Aes256Gcm::new((&kek(parent, nonce)).into());
    cipher.decrypt(iv.into(), Payload { msg: sealed, aad }).ok()
}

fn wrap(key: PublicEncryptingKey, secret: &[u8]) -> Vec<u8> {
    let key = OaepPublicEncryptingKey::new(key).unwrap();
    let mut out = vec![0; key.ciphertext_size()];
    key.encrypt(&OAEP_SHA256_MGF1SHA256, secret, &mut out, None).unwrap().to_vec()
}

fn other_rsa(bits: usize) -> PublicEncryptingKey {
    use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
    let size = if bits == 2048 { KeySize::Rsa2048 } else { KeySize::Rsa4096 };
    PrivateDecryptingKey::generate(size).unwrap().public_key()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
