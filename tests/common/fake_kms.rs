//! A fake of AWS KMS (and of STS beside it) in this process: `Encrypt`, `Decrypt`, `DescribeKey` with encryption context, key states and
//! faults that moto has not. It does not check signatures (moto's tests do), only that there is one and whose.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::server::{Call, Reply, Server};

pub const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/11111111-2222-3333-4444-555555555555";
pub const OTHER: &str = "arn:aws:kms:eu-central-1:111122223333:key/99999999-2222-3333-4444-555555555555";
pub const MRK: &str = "arn:aws:kms:eu-central-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";
pub const MRK_REPLICA: &str = "arn:aws:kms:eu-west-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab";
pub const FOREIGN: &str = "arn:aws:kms:eu-central-1:999900001111:key/11111111-0000-3333-4444-555555555555";

/// What happens to the next request instead.
#[derive(Clone)]
pub enum Fault {
    /// An error with this status and code.
    Error(u16, &'static str),
    Garbage,
    Silence,
    HangUp,
    /// The answer, with the name of another key.
    WrongKey,
}

pub struct State {
    keys: BTreeMap<&'static str, [u8; 32]>,
    pub aliases: BTreeMap<String, &'static str>,
    /// States other than "Enabled".
    pub states: BTreeMap<&'static str, &'static str>,
    /// Operations that are not allowed.
    pub denied: Vec<&'static str>,
    /// One for each request, in order.
    pub faults: VecDeque<Fault>,
    /// Every request fails like this.
    pub always: Option<Fault>,
    /// Access key ids and security tokens of the requests.
    pub seen: Vec<(String, String)>,
    /// The encryption context of the last request.
    pub context: Value,
}

#[derive(Clone)]
pub struct FakeKms(Arc<Mutex<State>>);

impl FakeKms {
    pub fn new() -> FakeKms {
        let keys: BTreeMap<_, _> =
            [(KEY, [1; 32]), (OTHER, [2; 32]), (MRK, [3; 32]), (MRK_REPLICA, [3; 32]), (FOREIGN, [4; 32])].into();
        FakeKms(Arc::new(Mutex::new(State {
            keys,
            aliases: BTreeMap::from([("alias/app".into(), KEY)]),
            states: BTreeMap::new(),
            denied: Vec::new(),
            faults: VecDeque::new(),
            always: None,
            seen: Vec::new(),
            context: Value::Null,
        })))
    }

    pub fn serve(&self) -> Server {
        self.serve_on(0)
    }

    pub fn serve_on(&self, port: u16) -> Server {
        let fake = self.clone();
        Server::on(port, move |call| fake.answer(&call))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn answer(&self, call: &Call) -> Reply {
        let mut state = self.state();
        let authorization = call.header("authorization");
        let Some(rest) = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=") else {
            return error(400, "MissingAuthenticationToken");
        };
        let token = call.header("x-amz-security-token").to_owned();
        assert!(token.is_empty() || rest.contains("x-amz-security-token"), "a session token is signed: {rest}");
        assert!(rest.contains("content-type;host;x-amz-date") && rest.contains("x-amz-target"), "{rest}");
        state.seen.push((rest.split('/').next().unwrap_or_default().into(), token));

        let fault = state.always.clone().or_else(|| state.faults.pop_front());
        match fault {
            Some(Fault::Error(status, code)) => return error(status, code),
            Some(Fault::Garbage) => return Reply::text(200, "<html>a login page</html>"),
            Some(Fault::Silence) => return Reply::Silence,
            Some(Fault::HangUp) => return Reply::HangUp,
            Some(Fault::WrongKey) | None => {}
        }
        let body = call.json();
        let operation = call.header("x-amz-target").strip_prefix("TrentService.").unwrap_or_default().to_owned();
        if state.denied.iter().any(|denied| *denied == operation) {
            return error(400, "AccessDeniedException");
        }
        let asked = body["KeyId"].as_str().unwrap_or_default();
        let by_id = |id: &str| state.keys.keys().find(|arn| arn.ends_with(&format!("key/{id}"))).copied();
        let alias = asked.rsplit_once(":alias/").map_or_else(|| asked.to_owned(), |(_, name)| format!("alias/{name}"));
        let arn = state.keys.keys().find(|arn| **arn == asked).copied();
        let Some(arn) = arn.or_else(|| state.aliases.get(&alias).copied()).or_else(|| by_id(asked)) else {
            return error(400, "NotFoundException");
        };
        let key_state = state.states.get(arn).copied().unwrap_or("Enabled");
        if operation == "DescribeKey" {
            let deletion = (key_state == "PendingDeletion").then_some(1_900_000_000.0);
            return Reply::json(
                200,
                json!({ "KeyMetadata": { "Arn": arn, "KeyState": key_state, "DeletionDate": deletion } }),
            );
        }
        match key_state {
            "Enabled" => {}
            "Disabled" => return error(400, "DisabledException"),
            _ => return error(400, "com.amazonaws.kms#KMSInvalidStateException"),
        }
        let named = if matches!(fault, Some(Fault::WrongKey)) { OTHER } else { arn };
        let context = body["EncryptionContext"].clone();
        assert!(context.is_object(), "an encryption context is sent");
        state.context = context.clone();
        // A JSON map of serde_json is sorted, as the context is in KMS.
        let aad = context.to_string();
        let key = RandomizedNonceKey::new(&AES_256_GCM, &state.keys[arn]).unwrap();
        let blob = |name: &str| BASE64_STANDARD.decode(body[name].as_str().unwrap_or_default()).unwrap_or_default();
        match operation.as_str() {
            "Encrypt" => {
                let mut bytes = blob("Plaintext");
                let nonce = key.seal_in_place_append_tag(Aad::from(aad), &mut bytes).unwrap();
                bytes.extend_from_slice(nonce.as_ref());
                Reply::json(200, json!({ "CiphertextBlob": BASE64_STANDARD.encode(bytes), "KeyId": named }))
            }
            "Decrypt" => {
                let mut bytes = blob("CiphertextBlob");
                let Some(at) = bytes.len().checked_sub(12) else { return error(400, "InvalidCiphertextException") };
                let nonce = Nonce::try_assume_unique_for_key(&bytes.split_off(at)).unwrap();
                match key.open_in_place(nonce, Aad::from(aad), &mut bytes) {
                    Ok(plaintext) => {
                        Reply::json(200, json!({ "Plaintext": BASE64_STANDARD.encode(plaintext), "KeyId": named }))
                    }
                    Err(_) => error(400, "InvalidCiphertextException"),
                }
            }
            _ => error(400, "UnknownOperationException"),
        }
    }
}

fn error(status: u16, code: &str) -> Reply {
    Reply::json(status, json!({ "__type": code, "message": "told by the fake" }))
}
