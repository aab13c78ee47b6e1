//! The provider against a fake of its server, well-behaved and otherwise.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::*;
use crate::api::hex;
use crate::keys::contract::{self, Contract, PLACE};
use crate::keys::key_server::{Fault, Hsm, TENANT, aad, kek, seal};
use crate::keys::server::{Authority, Server, closed_port, raw};

const OURS: &str = "i-095af01fb0461e052";
const OTHERS: &str = "i-0fedcba9876543210";

/// For servers that do not answer.
const HURRIED: &str = "&timeout=1.5&connect-timeout=0.5";
/// The server gives its own text for what is not right with a sealed secret, so some damage is a refusal.
const CONTRACT: Contract<'static> = Contract { knows_its_own: true, authenticates: true, ..Contract::REMOTE };

/// A provider with small one-time keys for a server's operator's PEM file.
fn provider(hsm: &Hsm, urls: &[&str], instance: &str, more: &str) -> HsmApi {
    try_provider(hsm, urls, instance, more).unwrap()
}

fn try_provider(hsm: &Hsm, urls: &[&str], instance: &str, more: &str) -> Result<HsmApi, ProviderError> {
    let pem = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(pem.path(), hsm.pem()).unwrap();
    let (first, others) = urls.split_first().unwrap();
    let others: Vec<String> = others.iter().map(|url| format!("{url}/v1")).collect();
    let timeout = if more.contains("timeout=") { "" } else { "&timeout=30" };
    let spec = format!(
        "hsm-api:{first}/v1?insecure-plain-http=true&instance-id={instance}&signing-key={}&fallback={}{timeout}{more}",
        pem.path().display(),
        others.join("%20")
    );
    let mut provider = HsmApi::open(spec.parse().unwrap())?;
    provider.key_size = KeySize::Rsa2048;
    Ok(provider)
}

/// A server and a provider that trusts it.
fn pair(hsm: Hsm) -> (Arc<Hsm>, Server, HsmApi) {
    let hsm = Arc::new(hsm);
    let server = hsm.serve();
    let provider = provider(&hsm, &[&server.url()], OURS, "");
    (hsm, server, provider)
}

fn told(error: &ProviderError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}

fn unwrap(provider: &dyn KeyProvider, slot: &SlotData) -> Result<Secret<32>, ProviderError> {
    provider.unwrap(slot, &PLACE).expect("the slot is this instance's")
}

/// Sections 6.1 and 14 of the wire's specification.
#[test]
fn the_fake_seals_as_published() {
    let bytes = |first: u8| std::array::from_fn::<u8, 32, _>(|at| first + at as u8);
    let aad = aad(OURS, "B59FAD1D-46f7-447c-96c8-c2f9408a00ad");
    assert_eq!(aad, b"AAD:instance_idi-095af01fb0461e052volume_uuidb59fad1d-46f7-447c-96c8-c2f9408a00ad");
    let published = "f21da86a109ab406087a15d196c221ca791afbbd2ab1e20f32a5acf69249a858";
    assert_eq!(hex(&kek(&bytes(0x40), &bytes(0x80))), published);
    let iv = std::array::from_fn(|at| 0xb0 + at as u8);
    let sealed = seal(&bytes(0x40), &aad, &iv, &bytes(0x80), &bytes(0x60));
    let published = "b3f51f0f512637fc4707e239bc4213e0caa00ff005f20a0bd719f217984de6b2e5e0fb623426553684680b8cd450949a";
    assert_eq!((sealed.len(), hex(&sealed[44..]).as_str()), (92, published));
    // An EKT is the same with another parent and associated data.
    let published = "61a6936e4e8f101c1cc1f993b542a0d4e2740e8afad4e4d15d0d661b382eca89";
    assert_eq!(hex(&kek(&bytes(0), &bytes(0x20))), published);
    let iv = std::array::from_fn(|at| 0xa0 + at as u8);
    let sealed = seal(&bytes(0), b"AAD:vpc_idvpc-0a1b2c3d4e5f60718", &iv, &bytes(0x20), &bytes(0x40));
    let published = "69ce0b53ef2dcf589f68045a187f6cfa253e2a4de95ef1c245abd41a4cf1ab9ca4e4d85bde18e6a72de4000e34f87d45";
    assert_eq!(hex(&sealed[44..]), published);
}

#[test]
fn the_provider_keeps_the_contract() {
    let (hsm, server, ours) = pair(Hsm::new());
    let url = server.url();
    let same = provider(&hsm, &[&format!("{url}//")], &OURS.to_uppercase(), "");
    contract::keep(&ours, &same, &provider(&hsm, &[&url], OTHERS, ""), &CONTRACT);
}

#[test]
fn the_provider_keeps_the_contract_with_a_server_like_the_original() {
    let (hsm, server, ours) = pair(Hsm::original());
    let of = |instance| provider(&hsm, &[&server.url()], instance, "");
    contract::keep(&ours, &of(OURS), &of(OTHERS), &CONTRACT);
}

#[test]
fn a_slot_holds_what_is_needed_to_ask_and_not_the_secret() {
    let (hsm, _server, provider) = pair(Hsm::new());
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    let text = |name: &str| slot.parameters[name].as_str().unwrap();
    assert_eq!((text("instance_id"), text("context")), (OURS, &*format!("v1 {TENANT}")));
    assert_eq!(text("volume_uuid"), PLACE.volume.to_string());
    let names: Vec<&str> = slot.parameters.keys().map(String::as_str).collect();
    assert_eq!(names, ["check", "context", "encrypted_secret", "instance_id", "salt", "volume_uuid"]);
    // Nor anything of where the server is.
    assert!(!slot.parameters.to_string().contains("127.0.0.1"));

    let calls = hsm.seen();
    let paths: Vec<&str> = calls.iter().map(|call| call.path.as_str()).collect();
    let base = format!("/v1/encryption/{OURS}");
    assert_eq!(paths, [format!("{base}/generate-secret"), format!("{base}/decrypt-secret")]);
    assert_eq!(calls[1].body["encrypted_secret"].as_str().unwrap().len(), 124);
    // A key of its own for each call, and nothing of identity.
    assert_ne!(calls[0].body["rsa_wrapping_key"], calls[1].body["rsa_wrapping_key"]);
    assert_ne!(calls[0].body["client_nonce"], calls[1].body["client_nonce"]);
    for call in &calls {
        assert_eq!(call.authorization, ["Custom"]);
        assert!(call.body.get("vpc_id").is_none() && call.body.get("client_ip").is_none());
    }
}

#[test]
fn one_time_keys_have_4096_bits_and_openssl_reads_them_and_wraps_for_them() {
    let (hsm, server, _) = pair(Hsm::new());
    let pem = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(pem.path(), hsm.pem()).unwrap();
    let spec = format!(
        "hsm-api:{}/v1/?insecure-plain-http=true&instance-id={OURS}&signing-key={}",
        server.url(),
        pem.path().display()
    );
    HsmApi::open(spec.parse().unwrap()).unwrap().wrap(&Secret::random(), &PLACE).unwrap();
    let sent = hsm.seen()[0].body["rsa_wrapping_key"].clone();
    let der = serde_json::from_value::<Base64>(sent).unwrap().0;

    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &str| {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir.path()).output();
        let output = output.expect("openssl is installed");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    std::fs::write(dir.path().join("sent"), &der).unwrap();
    let text = run("rsa -pubin -inform DER -in sent -noout -text");
    assert!(text.contains("(4096 bit)") && text.contains("65537"), "{text}");

    let key = OneTimeKey::new(KeySize::Rsa4096).unwrap();
    std::fs::write(dir.path().join("key"), &key.public).unwrap();
    let secret = [7; 32];
    std::fs::write(dir.path().join("secret"), secret).unwrap();
    let oaep = "pkeyutl -encrypt -pubin -keyform DER -inkey key -in secret -out wrapped -pkeyopt rsa_padding_mode:oaep";
    run(&format!("{oaep} -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256"));
    let wrapped = std::fs::read(dir.path().join("wrapped")).unwrap();
    assert_eq!(wrapped.len(), 512);
    assert_eq!(key.open(&wrapped).unwrap().expose(), &secret);
    for at in [0, 255, 511] {
        let mut changed = wrapped.clone();
        changed[at] ^= 1;
        assert!(key.open(&changed).is_err());
    }
    // Other hashes than SHA-256 are no answer.
    run(&format!("{oaep} -pkeyopt rsa_oaep_md:sha1"));
    assert!(key.open(&std::fs::read(dir.path().join("wrapped")).unwrap()).is_err());
    run(&format!("{oaep} -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha1"));
    assert!(key.open(&std::fs::read(dir.path().join("wrapped")).unwrap()).is_err());
}

/// Faults of answers, and what is said of them.
const WRONG_ANSWERS: [(Fault, &str); 20] = [
    (Fault::OtherKey, "not by the pinned signing key"),
    (Fault::OtherBytes, "not by the pinned signing key"),
    (Fault::SignsText, "not by the pinned signing key"),
    (Fault::Padded, "not by the pinned signing key"),
    (Fault::Zeros, "all zero"),
    (Fault::Length(31), "31 bytes instead of 32"),
    (Fault::Length(33), "33 bytes instead of 32"),
    (Fault::Length(0), "0 bytes instead of 32"),
    (Fault::OtherRsa(2048), "does not open"),
    (Fault::OtherRsa(4096), "512 bytes instead of the 256 of the modulus"),
    (Fault::ShortWrapped, "255 bytes instead of the 256 of the modulus"),
    (Fault::LooseBase64, "no JSON object of the key API"),
    (Fault::OtherNonce, "context signature"),
    (Fault::OtherOperation, "context signature"),
    (Fault::Missing("wrapped_secret"), "no wrapped_secret"),
    (Fault::Missing("wrapped_secret_signature"), "no wrapped_secret_signature"),
    (Fault::Missing("key_id"), "no key_id"),
    (Fault::Body("{}"), "no wrapped_secret"),
    (Fault::Body("<html>Welcome to the hotel</html>"), "no JSON object of the key API"),
    (Fault::Oversized, "more than"),
];

#[test]
fn an_answer_that_cannot_be_right_is_refused_whole() {
    let (hsm, _server, provider) = pair(Hsm::new());
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    for (fault, says) in WRONG_ANSWERS {
        hsm.misbehave(fault);
        let error = unwrap(&provider, &slot).unwrap_err();
        assert!(matches!(error, ProviderError::Answer { .. }), "{fault:?}: {error}");
        assert!(told(&error).contains(says), "{fault:?}: {error}");
        // In a new slot's first call, and in its second.
        for operation in ["generate-secret", "decrypt-secret"] {
            hsm.misbehave_in(operation, fault);
            let error = provider.wrap(&Secret::random(), &PLACE).unwrap_err();
            assert!(matches!(error, ProviderError::Answer { .. }), "{fault:?} in {operation}: {error}");
        }
    }
    for fault in [Fault::MixedUp, Fault::LongSealed, Fault::Missing("encrypted_secret")] {
        hsm.misbehave_in("generate-secret", fault);
        let error = provider.wrap(&Secret::random(), &PLACE).unwrap_err();
        assert!(matches!(error, ProviderError::Answer { .. }), "{fault:?}: {error}");
    }
    hsm.misbehave(Fault::None);
    unwrap(&provider, &slot).unwrap();
}

#[test]
fn signatures_that_are_no_der_are_taken_from_the_original_alone() {
    let (hsm, server, strict) = pair(Hsm::original());
    let lenient = provider(&hsm, &[&server.url()], OURS, "&original-signatures=true");
    hsm.misbehave(Fault::Padded);
    assert!(matches!(strict.wrap(&Secret::random(), &PLACE), Err(ProviderError::Answer { .. })));
    let slot = lenient.wrap(&Secret::random(), &PLACE).unwrap();
    assert!(unwrap(&strict, &slot).is_err());
    unwrap(&lenient, &slot).unwrap();
    // No other fault passes with it.
    for fault in [Fault::OtherKey, Fault::OtherBytes, Fault::SignsText] {
        hsm.misbehave(fault);
        assert!(unwrap(&lenient, &slot).is_err());
    }
}

#[test]
fn a_context_signature_that_was_there_once_is_insisted_on() {
    let (hsm, server, provider) = pair(Hsm::new());
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    for (fault, says) in [(Fault::NoContext, "known to give"), (Fault::OtherTenant, "for the tenant vpc-other")] {
        hsm.misbehave(fault);
        let error = unwrap(&provider, &slot).unwrap_err();
        assert!(matches!(error, ProviderError::Answer { .. }) && told(&error).contains(says), "{error}");
        hsm.misbehave_in("decrypt-secret", fault);
        assert!(provider.wrap(&Secret::random(), &PLACE).is_err());
    }
    // From the first call on, if the user knows.
    for more in ["&require-context=true".to_owned(), format!("&tenant={TENANT}")] {
        let knowing = self::provider(&hsm, &[&server.url()], OURS, &more);
        hsm.misbehave(Fault::NoContext);
        assert!(matches!(knowing.wrap(&Secret::random(), &PLACE), Err(ProviderError::Answer { .. })));
        hsm.misbehave(Fault::None);
        knowing.wrap(&Secret::random(), &PLACE).unwrap();
    }
    let other = self::provider(&hsm, &[&server.url()], OURS, "&tenant=vpc-other");
    assert!(matches!(unwrap(&other, &slot), Err(ProviderError::Answer { .. })));
}

#[test]
fn what_a_server_refuses_is_told_with_its_remedy() {
    let (hsm, server, provider) = pair(Hsm::new());
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    for (status, says) in [(401, "token-file"), (403, "as this instance")] {
        hsm.misbehave(Fault::Status(status));
        let error = unwrap(&provider, &slot).unwrap_err();
        assert!(matches!(error, ProviderError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("Out of order") && error.remedy().unwrap().contains(says), "{error}");
    }
    // What something between could say is no refusal: it would take the keys from a mount with a lease.
    for fault in [204, 400, 404, 405, 413, 418].map(Fault::Status).into_iter().chain([Fault::Redirect]) {
        hsm.misbehave(fault);
        let error = unwrap(&provider, &slot).unwrap_err();
        assert!(matches!(error, ProviderError::Answer { .. }) && error.remedy().is_some(), "{fault:?}: {error}");
    }
    // Another HSM or tenant, or a blob that was changed: the server does not say which.
    let stranger = Arc::new(Hsm::new());
    let elsewhere = stranger.serve();
    let misled = self::provider(&stranger, &[&elsewhere.url()], OURS, "");
    let error = unwrap(&misled, &slot).unwrap_err();
    assert!(matches!(error, ProviderError::Refused { .. }) && error.to_string().contains("are incorrect"), "{error}");
    hsm.misbehave(Fault::None);
    drop(server);
}

#[test]
fn a_server_that_does_not_answer_is_given_up_in_time() {
    let (hsm, server, mut provider) = pair(Hsm::new());
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    provider = self::provider(&hsm, &[&server.url()], OURS, HURRIED);
    for fault in [
        Fault::Silence,
        Fault::Drip,
        Fault::HangUp,
        Fault::Slow(Duration::from_secs(8)),
        Fault::Status(429),
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Status(504),
    ] {
        hsm.misbehave(fault);
        let start = Instant::now();
        let error = unwrap(&provider, &slot).unwrap_err();
        assert!(matches!(error, ProviderError::Unreachable { .. }), "{fault:?}: {error}");
        assert!(matches!(provider.wrap(&Secret::random(), &PLACE), Err(ProviderError::Unreachable { .. })));
        assert!(provider.check().is_err());
        assert!(start.elapsed() < Duration::from_secs(9), "{fault:?} took {:?}", start.elapsed());
    }
    hsm.misbehave(Fault::None);
    unwrap(&provider, &slot).unwrap();
    // Headers and a hang-up; no HTTP at all; nobody there.
    for url in [
        raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"wrapped"),
        raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
        format!("http://127.0.0.1:{}", closed_port()),
    ] {
        let start = Instant::now();
        let error = unwrap(&self::provider(&hsm, &[&url], OURS, HURRIED), &slot).unwrap_err();
        assert!(matches!(error, ProviderError::Unreachable { .. }), "{url}: {error}");
        assert!(start.elapsed() < Duration::from_secs(4));
    }
}

#[test]
fn when_a_server_fails_the_next_one_is_asked() {
    let (hsm, good, provider) = pair(Hsm::new());
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    let (broken, dead) = (Server::new(|_| crate::keys::server::Reply::text(503, "")), closed_port());
    let silent = Server::new(|_| crate::keys::server::Reply::Silence);
    for first in [broken.url(), format!("http://127.0.0.1:{dead}"), silent.url()] {
        let provider = self::provider(&hsm, &[&first, &good.url()], OURS, HURRIED);
        unwrap(&provider, &slot).unwrap();
        provider.wrap(&Secret::random(), &PLACE).unwrap();
        provider.check().unwrap();
    }
    // One that passes for a while.
    let calls = std::sync::atomic::AtomicUsize::new(0);
    let relay = hsm.clone();
    let flaky = Server::new(move |call| match calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 | 2 => crate::keys::server::Reply::text(503, ""),
        _ => relay.answer(call),
    });
    self::provider(&hsm, &[&flaky.url()], OURS, "").wrap(&Secret::random(), &PLACE).unwrap();
    assert_eq!(flaky.calls(), 4);
}

#[test]
fn credentials_are_shown_and_a_token_is_read_anew_for_each_call() {
    let authority = Authority::new();
    let mut hsm = Hsm::new();
    (hsm.token, hsm.needs_certificate) = (Some("t0p".into()), true);
    let hsm = Arc::new(hsm);
    let server = hsm.serve_tls(&authority);
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str, text: &str| {
        std::fs::write(path(name), text).unwrap();
        std::fs::set_permissions(path(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    let (certificate, key) = authority.issue("client");
    write("ca", &authority.pem);
    write("cert", &certificate.pem());
    write("key", &key.serialize_pem());
    write("token", "t0p\n");
    let trust = format!("&ca-file={}&insecure-plain-http=false", path("ca"));
    let identity = format!("&client-cert={}&client-key={}", path("cert"), path("key"));
    let token = format!("&token-file={}", path("token"));
    let open = |more: &str| {
        let spec = format!(
            "hsm-api:{}/v1?timeout=5&instance-id={OURS}&signing-key-sha256={}&ca-file={}{more}",
            server.url(),
            hsm.fingerprint(),
            path("ca")
        );
        let mut provider = HsmApi::open(spec.parse().unwrap()).unwrap();
        provider.key_size = KeySize::Rsa2048;
        provider
    };
    let both = open(&format!("{identity}{token}"));
    let slot = both.wrap(&Secret::random(), &PLACE).unwrap();
    for missing in [&identity, &token, &String::new()] {
        let error = unwrap(&open(missing), &slot).unwrap_err();
        assert!(matches!(error, ProviderError::Refused { .. }), "{trust}: {error}");
    }
    write("token", "other");
    assert!(matches!(unwrap(&both, &slot), Err(ProviderError::Refused { .. })));
    write("token", "t0p");
    unwrap(&both, &slot).unwrap();
    std::fs::remove_file(path("token")).unwrap();
    assert!(matches!(unwrap(&both, &slot), Err(ProviderError::Setup { .. })));
}

#[test]
fn a_fingerprint_pins_the_key_that_the_server_tells() {
    let hsm = Arc::new(Hsm::new());
    let server = hsm.serve();
    let open = |id: &str| {
        let spec = format!(
            "hsm-api:{}/v1?insecure-plain-http=true&timeout=3&instance-id={OURS}&signing-key-sha256={id}",
            server.url()
        );
        let mut provider = HsmApi::open(spec.parse().unwrap()).unwrap();
        provider.key_size = KeySize::Rsa2048;
        provider
    };
    let right = open(&hsm.fingerprint().to_uppercase());
    right.check().unwrap();
    let slot = right.wrap(&Secret::random(), &PLACE).unwrap();
    let asked = |path: &str| hsm.seen().iter().filter(|call| call.path.ends_with(path)).count();
    assert_eq!(asked("public-signing-key"), 2, "once to check, once to pin");
    unwrap(&right, &slot).unwrap();
    assert_eq!(asked("public-signing-key"), 0);

    let wrong = open(&"ab".repeat(32));
    for error in [wrong.check().unwrap_err(), unwrap(&wrong, &slot).unwrap_err()] {
        assert!(matches!(error, ProviderError::Answer { .. }), "{error}");
        assert!(error.to_string().contains(&hsm.fingerprint()), "{error}");
    }
    assert_eq!(asked("decrypt-secret"), 0, "nothing is asked of a server with another key");
    for fault in [Fault::Body("{}"), Fault::Body("{\"public_key\":\"AAAA\"}"), Fault::Status(418)] {
        hsm.misbehave(fault);
        assert!(matches!(right.check(), Err(ProviderError::Answer { .. })), "{fault:?}");
    }
}

#[test]
fn another_servers_key_is_found_out_by_comparison() {
    let (hsm, stranger) = (Arc::new(Hsm::new()), Arc::new(Hsm::new()));
    let (first, second) = (hsm.serve(), stranger.serve());
    let dead = format!("http://127.0.0.1:{}", closed_port());
    let provider = provider(&hsm, &[&first.url(), &second.url(), &dead], OURS, HURRIED);
    let told = provider.told_keys();
    assert!(provider.is_pinned(told[0].1.as_ref().unwrap()));
    assert!(!provider.is_pinned(told[1].1.as_ref().unwrap()));
    assert!(matches!(told[2].1, Err(ProviderError::Unreachable { .. })));
    assert!(matches!(self::provider(&stranger, &[&first.url()], OURS, "").check(), Err(ProviderError::Answer { .. })));
}

#[test]
fn a_take_over_opens_the_others_slot_and_wraps_with_the_same_secret() {
    let (hsm, server, old) = pair(Hsm::new());
    let master = Secret::random();
    let slot = old.wrap(&master, &PLACE).unwrap();
    let new = || provider(&hsm, &[&server.url()], OTHERS, "");
    assert!(new().unwrap(&slot, &PLACE).is_none());
    let takeover = TakeOver::new(new(), OURS.to_uppercase().parse().unwrap());
    assert_eq!(owner(&slot.parameters), Some(OURS.parse().unwrap()));
    hsm.seen();
    assert_eq!(unwrap(&takeover, &slot).unwrap().expose(), master.expose());
    let taken = takeover.wrap(&master, &PLACE).unwrap();
    let paths: Vec<String> = hsm.seen().into_iter().map(|call| call.path).collect();
    let base = format!("/v1/encryption/{OTHERS}");
    assert_eq!(paths, [format!("{base}/convert-secret"), format!("{base}/decrypt-secret")]);

    assert_eq!(unwrap(&new(), &taken).unwrap().expose(), master.expose());
    assert_eq!(owner(&taken.parameters), Some(OTHERS.parse().unwrap()));
    assert!(takeover.unwrap(&taken, &PLACE).is_none());
    // The old form still opens for the old owner; nobody else opens either.
    unwrap(&old, &slot).unwrap();
    assert!(old.unwrap(&taken, &PLACE).is_none());
    let mut claimed = taken.clone();
    claimed.parameters.insert("instance_id".into(), OURS.into());
    assert!(unwrap(&old, &claimed).is_err());
    // A slot that is not the other's in truth.
    let wrong = TakeOver::new(new(), "i-1".parse().unwrap());
    assert!(wrong.unwrap(&slot, &PLACE).is_none());
    let mut claimed = slot.clone();
    claimed.parameters.insert("instance_id".into(), "i-1".into());
    assert!(matches!(unwrap(&wrong, &claimed), Err(ProviderError::Refused { .. })));
}

#[test]
fn a_take_over_believes_no_answer_more_than_a_mount_does() {
    let (hsm, server, old) = pair(Hsm::new());
    let slot = old.wrap(&Secret::random(), &PLACE).unwrap();
    let new = provider(&hsm, &[&server.url()], OTHERS, "");
    let takeover = TakeOver::new(new, OURS.parse().unwrap());
    for operation in ["convert-secret", "decrypt-secret"] {
        for fault in [
            Fault::OtherKey,
            Fault::OtherBytes,
            Fault::SignsText,
            Fault::Padded,
            Fault::LooseBase64,
            Fault::NoContext,
            Fault::OtherNonce,
            Fault::OtherTenant,
            Fault::Body("{}"),
        ] {
            hsm.misbehave_in(operation, fault);
            let error = unwrap(&takeover, &slot).unwrap_err();
            assert!(matches!(error, ProviderError::Answer { .. }), "{operation} {fault:?}: {error}");
        }
    }
    // What the server's policy forbids is not blamed on the credentials alone.
    hsm.misbehave_in("convert-secret", Fault::Status(403));
    let refused = unwrap(&takeover, &slot).unwrap_err();
    assert!(refused.remedy().unwrap().contains("take over from the other"), "{refused}");
    hsm.misbehave_in("convert-secret", Fault::LongSealed);
    assert!(matches!(unwrap(&takeover, &slot), Err(ProviderError::Answer { .. })));
    // Another secret in the new form opens nothing: the old form is not given up for it.
    hsm.misbehave_in("convert-secret", Fault::ConvertsOther);
    assert!(matches!(unwrap(&takeover, &slot), Err(ProviderError::Unauthentic(_))));
    assert!(takeover.opened.lock().is_empty());
    hsm.misbehave(Fault::None);
    unwrap(&takeover, &slot).unwrap();
}

#[test]
fn many_threads_use_one_provider() {
    let (_hsm, _server, provider) = pair(Hsm::new());
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| unwrap(&provider, &slot).map(drop))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
}

#[test]
fn a_slot_of_another_volume_is_not_even_asked_for() {
    let (hsm, _server, provider) = pair(Hsm::new());
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    hsm.seen();
    let elsewhere = SlotContext { volume: Uuid::from_bytes([9; 16]), ..PLACE };
    assert!(matches!(provider.unwrap(&slot, &elsewhere), Some(Err(ProviderError::Unauthentic(_)))));
    assert!(hsm.seen().is_empty());
}

#[test]
fn the_instance_id_can_come_from_the_metadata_service_in_its_second_version() {
    use crate::keys::server::Reply;
    let hsm = Hsm::new();
    let pem = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(pem.path(), hsm.pem()).unwrap();
    let open = |metadata: &Server| {
        let spec = format!(
            "hsm-api:https://h/v1?instance-id=imds&imds-endpoint={}&signing-key={}",
            metadata.url(),
            pem.path().display()
        );
        HsmApi::open(spec.parse().unwrap())
    };
    let metadata = Server::new(|call| match (call.method.as_str(), call.path.as_str()) {
        ("PUT", "/latest/api/token") if call.header("x-aws-ec2-metadata-token-ttl-seconds") == "60" => {
            Reply::text(200, "session")
        }
        ("GET", "/latest/meta-data/instance-id") if call.header("x-aws-ec2-metadata-token") == "session" => {
            Reply::text(200, OURS)
        }
        _ => Reply::text(401, ""),
    });
    assert_eq!(open(&metadata).unwrap().instance().as_str(), OURS);
    let refusing = Server::new(|_| Reply::text(403, "no"));
    assert!(matches!(open(&refusing), Err(ProviderError::Answer { .. })));
    let odd = Server::new(|_| Reply::text(200, "../other"));
    assert!(matches!(open(&odd), Err(ProviderError::Spec(_))));
}

#[test]
fn specifications_are_checked() {
    let hsm = Hsm::new();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("pem"), hsm.pem()).unwrap();
    std::fs::write(path("bad"), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").unwrap();
    std::fs::write(path("id"), "i-0123\n").unwrap();
    let (pem, id) = (format!("signing-key={}", path("pem")), "ab".repeat(32));
    let open = |rest: &str| HsmApi::open(format!("hsm-api:{rest}").parse().unwrap());
    let right = open(&format!("https://h/v1?instance-id-file={}&{pem}", path("id"))).unwrap();
    assert_eq!(right.describe(), "key server https://h/v1 as instance i-0123");
    assert_eq!(right.pinned(), [hsm.fingerprint()]);
    for (bad, says) in [
        (format!("http://h/v1?instance-id=i-1&{pem}"), "https"),
        (format!("https://h/v1?{pem}"), "instance-id"),
        (format!("https://h/v1?instance-id=i/1&{pem}"), "instance id"),
        (format!("https://h/v1?instance-id=i-1&instance-id-file=/x&{pem}"), "beside instance-id"),
        ("https://h/v1?instance-id=i-1".into(), "signing-key"),
        (format!("https://h/v1?instance-id=i-1&{pem}&signing-key-sha256={id}"), "beside signing-key"),
        ("https://h/v1?instance-id=i-1&signing-key-sha256=ab".into(), "64 hexadecimal"),
        ("https://h/v1?instance-id=i-1&signing-key=/nonexistent".into(), "cannot read"),
        (format!("https://h/v1?instance-id=i-1&signing-key={}", path("bad")), "cannot be used"),
        (format!("https://h/v1?instance-id=i-1&{pem}&tenant=A_B"), "lower-case"),
        (format!("https://h/v1?instance-id=i-1&{pem}&fallback=ftp://x"), "address"),
        (format!("https://h/v1?instance-id=i-1&{pem}&token-file=/nonexistent"), "token file"),
        (format!("https://h/v1?instance-id=i-1&{pem}&sining-key=1"), "sining-key"),
        (format!("https://user:pass@h/v1?instance-id=i-1&{pem}"), "address"),
    ] {
        let error = open(&bad).unwrap_err();
        assert!(matches!(error, ProviderError::Spec(_) | ProviderError::Setup { .. }), "{error}");
        assert!(told(&error).contains(says), "{bad}: {}", told(&error));
    }
}

#[cfg(not(feature = "sev-snp"))]
#[test]
fn evidence_needs_the_feature_sev_snp() {
    let id = "ab".repeat(32);
    let spec = format!("hsm-api:https://h/v1?instance-id=i-1&signing-key-sha256={id}&evidence=sev-snp&certificates=/c");
    let error = HsmApi::open(spec.parse().unwrap()).unwrap_err();
    assert!(matches!(error, ProviderError::Setup { .. }) && error.to_string().contains("cannot ask"), "{error}");
    assert!(error.remedy().unwrap().contains("feature sev-snp"));
}

#[cfg(feature = "sev-snp")]
mod evidence;
