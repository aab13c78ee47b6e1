//! A fake of the transit engine of Vault and OpenBao in this process, written from their API and handlers: AES-256-GCM for each key version,
//! rules for associated data and derived keys, login, tokens and their renewal, seal and standby. No real server was at hand for it.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::server::{Authority, Call, Reply, Server};

pub const TOKEN: &str = "hvs.root-token";

#[derive(Clone)]
pub struct Key {
    pub kind: &'static str,
    pub derived: bool,
    pub exportable: bool,
    pub latest: u32,
    pub min_decryption: u32,
}

impl Key {
    pub fn new() -> Key {
        Key { kind: "aes256-gcm96", derived: false, exportable: false, latest: 1, min_decryption: 1 }
    }
}

/// What happens to the next request instead.
#[derive(Clone)]
pub enum Fault {
    Status(u16, &'static str),
    Garbage,
    Silence,
    HangUp,
}

pub struct State {
    pub keys: BTreeMap<String, Key>,
    /// Tokens and the seconds they last, of which nothing is counted down.
    pub tokens: BTreeMap<String, u64>,
    /// `decrypt`, `encrypt`, `keys`: paths that the policy does not allow.
    pub denied: Vec<&'static str>,
    pub sealed: bool,
    pub uninitialised: bool,
    pub standby: bool,
    pub namespace: &'static str,
    pub faults: VecDeque<Fault>,
    pub always: Option<Fault>,
    /// Requests, as "POST auth/approle/login".
    pub log: Vec<String>,
    pub lease: u64,
    logins: u32,
}

#[derive(Clone)]
pub struct FakeVault(Arc<Mutex<State>>);

impl FakeVault {
    pub fn new() -> FakeVault {
        let derived = Key { derived: true, ..Key::new() };
        let rsa = Key { kind: "rsa-2048", ..Key::new() };
        FakeVault(Arc::new(Mutex::new(State {
            keys: [("app", Key::new()), ("other", Key::new()), ("derived", derived), ("rsa", rsa)]
                .map(|(name, key)| (name.into(), key))
                .into(),
            tokens: BTreeMap::from([(TOKEN.into(), 0)]),
            denied: Vec::new(),
            sealed: false,
            uninitialised: false,
            standby: false,
            namespace: "",
            faults: VecDeque::new(),
            always: None,
            log: Vec::new(),
            lease: 3600,
            logins: 0,
        })))
    }

    pub fn serve(&self) -> Server {
        self.serve_on(0)
    }

    pub fn serve_on(&self, port: u16) -> Server {
        let fake = self.clone();
        Server::on(port, move |call| fake.answer(&call))
    }

    pub fn serve_tls(&self, authority: &Authority) -> Server {
        self.serve_tls_on(0, authority)
    }

    pub fn serve_tls_on(&self, port: u16, authority: &Authority) -> Server {
        let fake = self.clone();
        Server::tls_on(port, authority, move |call| fake.answer(&call))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn answer(&self, call: &Call) -> Reply {
        let mut state = self.state();
        let Some(path) = call.path.strip_prefix("/v1/") else { return errors(404, "") };
        let path = path.split('?').next().unwrap_or_default();
        state.log.push(format!("{} {path}", call.method));
        let fault = state.always.clone().or_else(|| state.faults.pop_front());
        match fault {
            Some(Fault::Status(status, text)) if path != "sys/health" => return errors(status, text),
            Some(Fault::Garbage) => return Reply::text(200, "<html>a login page</html>"),
            Some(Fault::Silence) => return Reply::Silence,
            Some(Fault::HangUp) => return Reply::HangUp,
            Some(Fault::Status(..)) | None => {}
        }
        if path == "sys/health" {
            let asked = call.path.contains("sealedcode=200") && call.path.contains("uninitcode=200");
            let status = match (state.uninitialised, state.sealed) {
                _ if asked => 200,
                (true, _) => 501,
                (_, true) => 503,
                _ => 200,
            };
            let (initialized, sealed, standby) = (!state.uninitialised, state.sealed, state.standby);
            return Reply::json(status, json!({ "initialized": initialized, "sealed": sealed, "standby": standby }));
        }
        if state.sealed || state.uninitialised {
            return errors(503, "Vault is sealed");
        }
        if state.standby {
            return Reply::text(307, "").header("location", "https://active.invalid:8200/v1/");
        }
        assert_eq!(call.header("x-vault-request"), "true");
        if call.header("x-vault-namespace") != state.namespace {
            return errors(403, "permission denied");
        }
        if let Some(method) = path.strip_prefix("auth/").and_then(|path| path.strip_suffix("/login")) {
            return log_in(&mut state, method, call);
        }
        let token = call.header("x-vault-token").to_owned();
        let Some(ttl) = state.tokens.get(&token).copied() else { return errors(403, "permission denied") };
        match path {
            "auth/token/lookup-self" => {
                return Reply::json(200, json!({ "data": { "ttl": ttl, "renewable": ttl > 0 } }));
            }
            "auth/token/renew-self" => return auth(&token, 3600),
            _ => {}
        }
        let Some(rest) = path.strip_prefix("transit/") else {
            return errors(404, "no handler for route");
        };
        let Some((operation, name)) = rest.split_once('/') else { return errors(404, "") };
        if state.denied.contains(&operation) {
            return errors(403, "1 error occurred:\n\t* permission denied\n\n");
        }
        let key = state.keys.get(name).cloned();
        match (call.method.as_str(), operation, key) {
            ("GET", "keys", Some(key)) => Reply::json(
                200,
                json!({ "data": {
                    "name": name, "type": key.kind, "derived": key.derived, "exportable": key.exportable,
                    "allow_plaintext_backup": false, "latest_version": key.latest, "min_decryption_version": key.min_decryption,
                } }),
            ),
            ("GET", "keys", None) => errors(404, ""),
            ("POST", "encrypt", None) => panic!("encrypt makes a key that is not there"),
            ("POST", "encrypt", Some(key)) => encrypt(name, &key, &call.json()),
            ("POST", "decrypt", None) => errors(400, "encryption key not found"),
            ("POST", "decrypt", Some(key)) => decrypt(name, &key, &call.json()),
            _ => errors(405, "unsupported operation"),
        }
    }
}

fn log_in(state: &mut State, method: &str, call: &Call) -> Reply {
    let body = call.json();
    let good = match method {
        "approle" => body == json!({ "role_id": "role", "secret_id": "secret-id" }),
        "kubernetes" | "ci" => body == json!({ "role": "app", "jwt": "eyJ.jwt" }),
        "cert" => call.certified && (body == json!({}) || body == json!({ "name": "app" })),
        _ => return errors(403, "permission denied"),
    };
    if !good {
        return errors(400, "invalid role or secret ID");
    }
    state.logins += 1;
    let (token, lease) = (format!("hvs.login-{}", state.logins), state.lease);
    state.tokens.insert(token.clone(), lease);
    auth(&token, lease)
}

fn auth(token: &str, lease: u64) -> Reply {
    Reply::json(200, json!({ "auth": { "client_token": token, "lease_duration": lease, "renewable": true } }))
}

fn errors(status: u16, text: &str) -> Reply {
    let errors: Vec<&str> = if text.is_empty() { vec![] } else { vec![text] };
    Reply::json(status, json!({ "errors": errors }))
}

/// The key of a version, derived from `context` where the key says so, and what the request binds; or the server's words.
fn material(name: &str, key: &Key, version: u32, body: &Value) -> Result<(RandomizedNonceKey, Vec<u8>), &'static str> {
    for field in body.as_object().expect("an object").keys() {
        let known = ["plaintext", "ciphertext", "context", "associated_data"];
        assert!(known.contains(&field.as_str()), "transit has no {field}");
    }
    let bytes = |field: &str| BASE64_STANDARD.decode(body[field].as_str().unwrap_or_default()).expect("base64");
    if key.derived && body.get("context").is_none() {
        return Err("missing 'context' for key derivation; the key was created using a derived key");
    }
    // On keys that are not derived it counts for nothing, as in the server.
    let context = if key.derived { bytes("context") } else { Vec::new() };
    let root = hmac::Key::new(hmac::HMAC_SHA256, format!("{name} {version}").as_bytes());
    let secret = hmac::sign(&root, &context);
    Ok((RandomizedNonceKey::new(&AES_256_GCM, secret.as_ref()).expect("key"), bytes("associated_data")))
}

fn encrypt(name: &str, key: &Key, body: &Value) -> Reply {
    let (aead, aad) = match material(name, key, key.latest, body) {
        Ok(material) => material,
        Err(text) => return errors(400, text),
    };
    let mut bytes = BASE64_STANDARD.decode(body["plaintext"].as_str().unwrap_or_default()).expect("base64");
    let nonce = aead.seal_in_place_append_tag(Aad::from(aad), &mut bytes).expect("seal");
    let bytes = [&nonce.as_ref()[..], &bytes].concat();
    let ciphertext = format!("vault:v{}:{}", key.latest, BASE64_STANDARD.encode(bytes));
    Reply::json(200, json!({ "data": { "ciphertext": ciphertext, "key_version": key.latest } }))
}

fn decrypt(name: &str, key: &Key, body: &Value) -> Reply {
    let text = body["ciphertext"].as_str().unwrap_or_default();
    let Some((version, bytes)) = text.strip_prefix("vault:v").and_then(|rest| rest.split_once(':')) else {
        return errors(400, "invalid ciphertext: no prefix");
    };
    let Ok(version) = version.parse::<u32>() else {
        return errors(400, "invalid ciphertext: version number could not be decoded");
    };
    if version > key.latest {
        return errors(400, "invalid ciphertext: version is too new");
    }
    if version < key.min_decryption {
        return errors(400, "ciphertext or signature version is disallowed by policy (too old)");
    }
    let Ok(mut bytes) = BASE64_STANDARD.decode(bytes) else {
        return errors(400, "invalid ciphertext: could not decode base64");
    };
    if bytes.len() < 12 {
        return errors(400, "invalid ciphertext length");
    }
    let (aead, aad) = match material(name, key, version, body) {
        Ok(material) => material,
        Err(text) => return errors(400, text),
    };
    let mut rest = bytes.split_off(12);
    let nonce = Nonce::try_assume_unique_for_key(&bytes).expect("12 bytes");
    match aead.open_in_place(nonce, Aad::from(aad), &mut rest) {
        Ok(plaintext) => Reply::json(200, json!({ "data": { "plaintext": BASE64_STANDARD.encode(plaintext) } })),
        Err(_) => errors(400, "cipher: message authentication failed"),
    }
}
