//! Vault's transit engine against a fake in this process; and, by hand, against a real server.

use std::os::unix::fs::PermissionsExt;

use super::super::contract::{self, Contract, PLACE};
use super::super::fake_vault::{FakeVault, Fault, Key, TOKEN};
use super::super::server::{Authority, Server, closed_port};
use super::*;

/// A directory with a token and other credentials in files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        files.write("token", TOKEN, 0o600);
        files.write("secret-id", "secret-id\n", 0o600);
        files.write("jwt", "eyJ.jwt", 0o644);
        files
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        std::fs::write(self.0.path().join(name), text).unwrap();
        std::fs::set_permissions(self.0.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().into()
    }

    /// `{d}` stands for the directory.
    fn open(&self, url: &str, key: &str, parameters: &str) -> Result<Vault, ProviderError> {
        let parameters = parameters.replace("{d}", self.0.path().to_str().unwrap());
        Vault::open(format!("vault:{url}/v1/transit/keys/{key}?timeout=3&{parameters}").parse()?)
    }

    fn by_token(&self, server: &Server, key: &str) -> Vault {
        self.open(&server.url(), key, "insecure-plain-http=true&token-file={d}/token").unwrap()
    }
}

fn told(error: &ProviderError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}; {}", error.remedy().unwrap_or_default())
}

#[test]
fn the_provider_keeps_the_contract() {
    let (fake, files) = (FakeVault::new(), Files::new());
    let server = fake.serve();
    let terms = Contract {
        samples: 60,
        knows_its_own: true,
        authenticates: true,
        secrets: &[TOKEN.as_bytes()],
        ..Contract::REMOTE
    };
    for key in ["app", "derived"] {
        let ours = || files.by_token(&server, key);
        contract::keep(&ours(), &ours(), &files.by_token(&server, "other"), &terms);
    }
    fake.state().namespace = "team/a";
    let namespaced =
        || files.open(&server.url(), "app", "insecure-plain-http=true&token-file={d}/token&namespace=team/a/").unwrap();
    contract::keep(&namespaced(), &namespaced(), &files.by_token(&server, "app"), &terms);
}

#[test]
fn the_specification_is_checked() {
    let files = Files::new();
    let open = |spec: &str| Vault::open(spec.parse().unwrap());
    let good = format!("vault:https://v.example:8200/v1/team/transit/keys/a.b-c_1?token-file={}", files.path("token"));
    assert_eq!(open(&good).unwrap().path(), "team/transit/a.b-c_1");
    assert_eq!(open(&format!("{good}&also=https://w.example%2Chttps://x.example:1")).unwrap().endpoints.len(), 3);
    for bad in [
        "vault:https://v.example/v1/transit/keys/app",
        "vault:https://v.example/v1/transit/app?token-file=/t",
        "vault:https://v.example/v1/transit/keys/?token-file=/t",
        "vault:https://v.example/v1/transit/keys/a/b?token-file=/t",
        "vault:https://v.example/v1/../keys/a?token-file=/t",
        "vault:https://v.example/v1/tr%20/keys/a?token-file=/t",
        "vault:http://v.example/v1/transit/keys/app?token-file=/t",
        "vault:https://v.example/v1/transit/keys/app?token=hvs.x",
        "vault:https://v.example/v1/transit/keys/app?token-file=/t&namespace=a/../b",
        "vault:https://v.example/v1/transit/keys/app?token-file=/t&also=http://w",
        "vault:https://v.example/v1/transit/keys/app?auth=approle&role-id=x",
        "vault:https://v.example/v1/transit/keys/app?auth=approle&secret-id-file=/x",
        "vault:https://v.example/v1/transit/keys/app?auth=cert",
        "vault:https://v.example/v1/transit/keys/app?auth=userpass",
        "vault:https://v.example/v1/transit/keys/app?auth=kubernetes&role=a&auth-mount=..",
        "vault:https://v.example/v1/transit/keys/app?auth=kubernetes&role=a&token-file=/t",
    ] {
        assert!(matches!(bad.parse().map_err(Into::into).and_then(Vault::open), Err(ProviderError::Spec(_))), "{bad}");
    }
}

#[test]
fn ciphertext_has_one_form() {
    for text in ["vault:v1:AAAA", "vault:v4294967295:/+A="] {
        assert_eq!(text_of(&bytes_of(text).unwrap()).unwrap(), text);
    }
    let long = format!("vault:v1:{}", BASE64_STANDARD.encode([0; MAX_WRAPPED + 1]));
    for bad in [
        "",
        "vault:v1",
        "vault:v0:AAAA",
        "vault:v1:",
        "vault:v1:A",
        "vault:v-1:AAAA",
        "vault:v1:AA==A",
        "x:v1:AAAA",
        &long,
    ] {
        assert!(bytes_of(bad).is_none(), "{bad}");
    }
    for bad in [&[][..], &[1, 0, 0, 0], &[0, 0, 0, 0, 1], &[1; 5000]] {
        assert!(text_of(bad).is_none());
    }
}

#[test]
fn keys_that_bind_nothing_are_refused_and_none_is_made() {
    let (fake, files) = (FakeVault::new(), Files::new());
    let server = fake.serve();
    for (key, says) in [("rsa", "rsa-2048"), ("missing", "no transit key")] {
        let provider = files.by_token(&server, key);
        for error in [provider.wrap(&Secret::random(), &PLACE).unwrap_err(), provider.check().unwrap_err()] {
            assert!(matches!(error, ProviderError::Refused { .. }) && told(&error).contains(says), "{}", told(&error));
        }
    }
    // Without a right to see the key, it is not used blindly.
    fake.state().denied = vec!["keys"];
    let error = files.by_token(&server, "app").wrap(&Secret::random(), &PLACE).unwrap_err();
    assert!(told(&error).contains("read on MOUNT/keys/NAME"), "{}", told(&error));
    files.by_token(&server, "app").check().unwrap();
}

#[test]
fn a_rotated_key_opens_old_slots_until_their_version_is_retired() {
    let (fake, files) = (FakeVault::new(), Files::new());
    let server = fake.serve();
    let provider = files.by_token(&server, "app");
    let master = Secret::random();
    let old = provider.wrap(&master, &PLACE).unwrap();
    fake.state().keys.insert("app".into(), Key { latest: 2, ..Key::new() });
    let new = provider.wrap(&master, &PLACE).unwrap();
    assert_eq!((old.wrapped[0], new.wrapped[0]), (1, 2));
    for slot in [&old, &new] {
        assert_eq!(provider.unwrap(slot, &PLACE).unwrap().unwrap().expose(), master.expose());
    }
    fake.state().keys.insert("app".into(), Key { latest: 2, min_decryption: 2, ..Key::new() });
    let error = provider.unwrap(&old, &PLACE).unwrap().unwrap_err();
    assert!(matches!(error, ProviderError::Refused { .. }), "{error}");
    assert!(told(&error).contains("min_decryption_version"), "{}", told(&error));
    provider.unwrap(&new, &PLACE).unwrap().unwrap();
}

#[test]
fn what_the_server_says_becomes_an_error_with_a_remedy() {
    let (fake, files) = (FakeVault::new(), Files::new());
    let server = fake.serve();
    let provider = files.by_token(&server, "app");
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    let unwrap = || provider.unwrap(&slot, &PLACE).unwrap();

    fake.state().sealed = true;
    for error in [unwrap().unwrap_err(), provider.check().unwrap_err()] {
        assert!(
            matches!(error, ProviderError::Unreachable { .. }) && told(&error).contains("sealed"),
            "{}",
            told(&error)
        );
    }
    fake.state().uninitialised = true;
    for error in [unwrap().unwrap_err(), provider.check().unwrap_err()] {
        assert!(matches!(error, ProviderError::Refused { .. }), "{error}");
        assert!(told(&error).contains("operator init"), "{}", told(&error));
    }
    (fake.state().sealed, fake.state().uninitialised) = (false, false);
    fake.state().standby = true;
    let error = unwrap().unwrap_err();
    assert!(matches!(error, ProviderError::Unreachable { .. }), "a redirect is not followed: {error}");
    fake.state().standby = false;

    fake.state().denied = vec!["decrypt"];
    let error = unwrap().unwrap_err();
    assert!(matches!(error, ProviderError::Refused { .. }) && told(&error).contains("policy"), "{}", told(&error));
    // Who may only add slots can.
    provider.wrap(&Secret::random(), &PLACE).unwrap();
    fake.state().denied.clear();

    fake.state().keys.remove("app");
    let error = unwrap().unwrap_err();
    assert!(
        matches!(error, ProviderError::Refused { .. }) && told(&error).contains("key not found"),
        "{}",
        told(&error)
    );
    fake.state().keys.insert("app".into(), Key::new());

    let elsewhere =
        format!("vault:{}/v1/none/keys/app?insecure-plain-http=true&token-file={}", server.url(), files.path("token"));
    let elsewhere = Vault::open(elsewhere.parse().unwrap()).unwrap();
    let mut moved = slot.clone();
    moved.parameters.insert("key".into(), "none/app".into());
    let error = elsewhere.unwrap(&moved, &PLACE).unwrap().unwrap_err();
    assert!(
        matches!(error, ProviderError::Refused { .. }) && told(&error).contains("secrets list"),
        "{}",
        told(&error)
    );
    unwrap().unwrap();
}

#[test]
fn a_passing_failure_passes_and_a_lasting_one_ends_in_time() {
    let (fake, files) = (FakeVault::new(), Files::new());
    let server = fake.serve();
    let provider = files.by_token(&server, "app");
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    let unwrap = || provider.unwrap(&slot, &PLACE).unwrap();
    fake.state().faults.extend([Fault::Status(429, "rate limit"), Fault::Status(412, "stale"), Fault::HangUp]);
    unwrap().unwrap();
    assert!(fake.state().faults.is_empty());
    for fault in [Fault::Status(500, "internal error"), Fault::Status(429, "rate limit"), Fault::HangUp, Fault::Silence]
    {
        fake.state().always = Some(fault);
        let start = Instant::now();
        let error = unwrap().unwrap_err();
        assert!(matches!(error, ProviderError::Unreachable { .. }), "{}", told(&error));
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    fake.state().always = Some(Fault::Garbage);
    assert!(matches!(unwrap(), Err(ProviderError::Answer { .. })));
    assert!(matches!(provider.check(), Err(ProviderError::Answer { .. })));
    fake.state().always = None;

    // Another server of the cluster takes over.
    let also = format!("insecure-plain-http=true&token-file={{d}}/token&also={}", server.url());
    let dead = format!("http://127.0.0.1:{}", closed_port());
    files.open(&dead, "app", &also).unwrap().unwrap(&slot, &PLACE).unwrap().unwrap();
    drop(server);
    assert!(matches!(unwrap(), Err(ProviderError::Unreachable { .. })));
}

#[test]
fn what_is_decrypted_must_be_a_key() {
    let files = Files::new();
    for bytes in [&b""[..], &[0; 32], &[1; 31], &[1; 33], &[1; 300]] {
        let text = BASE64_STANDARD.encode(bytes);
        let server = Server::new(move |_| {
            let data = serde_json::json!({ "plaintext": text, "ciphertext": "vault:v1:AAAA", "type": "aes256-gcm96", "ttl": 0 });
            super::super::server::Reply::json(200, serde_json::json!({ "data": data }))
        });
        let provider = files.by_token(&server, "app");
        assert!(provider.wrap(&Secret::random(), &PLACE).is_err(), "what does not come back is not stored");
        let parameters = Parameters { key: "transit/app".into(), namespace: None, binding: Binding::AssociatedData };
        let slot = SlotData { parameters: toml::Table::try_from(parameters).unwrap(), wrapped: vec![1, 0, 0, 0, 1] };
        let error = provider.unwrap(&slot, &PLACE).unwrap().unwrap_err();
        assert!(matches!(error, ProviderError::Answer { .. } | ProviderError::ZeroKey), "{error}");
    }
}

#[test]
fn every_way_to_log_in_works_and_a_wrong_credential_is_refused() {
    let (fake, files) = (FakeVault::new(), Files::new());
    let server = fake.serve();
    let open = |parameters: &str| files.open(&server.url(), "app", &format!("insecure-plain-http=true&{parameters}"));
    for (parameters, path) in [
        ("auth=approle&role-id=role&secret-id-file={d}/secret-id", "auth/approle/login"),
        ("auth=kubernetes&role=app&jwt-file={d}/jwt", "auth/kubernetes/login"),
        ("auth=jwt&role=app&jwt-file={d}/jwt&auth-mount=ci", "auth/ci/login"),
    ] {
        let provider = open(parameters).unwrap();
        let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
        provider.unwrap(&slot, &PLACE).unwrap().unwrap();
        let logins = fake.state().log.iter().filter(|line| **line == format!("POST {path}")).count();
        assert_eq!(logins, 1, "one login for all: {path}");
        // Its token is revoked: one more login.
        fake.state().tokens.clear();
        provider.unwrap(&slot, &PLACE).unwrap().unwrap();
    }
    for parameters in [
        "auth=approle&role-id=other&secret-id-file={d}/secret-id",
        "auth=kubernetes&role=other&jwt-file={d}/jwt",
        "auth=jwt&role=app&jwt-file={d}/jwt&auth-mount=nowhere",
        "auth=cert&client-cert=/x&client-key=/y",
    ] {
        let error = open(parameters).and_then(|provider| provider.check()).unwrap_err();
        assert!(matches!(error, ProviderError::Refused { .. } | ProviderError::Setup { .. }), "{error}");
        assert!(!told(&error).contains("secret-id\n") && !told(&error).contains("eyJ"), "{}", told(&error));
    }
    files.write("secret-id", "secret-id", 0o644);
    let error = open("auth=approle&role-id=role&secret-id-file={d}/secret-id").unwrap().check().unwrap_err();
    assert!(error.to_string().contains("can be used by others"), "{error}");
}

#[test]
fn a_client_certificate_logs_in() {
    let (fake, files, authority) = (FakeVault::new(), Files::new(), Authority::new());
    let server = fake.serve_tls(&authority);
    let (certificate, key) = authority.issue("app");
    files.write("ca", &authority.pem, 0o644);
    files.write("cert", &certificate.pem(), 0o644);
    files.write("key", &key.serialize_pem(), 0o600);
    let tls = "ca-file={d}/ca&client-cert={d}/cert&client-key={d}/key&auth=cert";
    for parameters in [tls.to_owned(), format!("{tls}&role=app")] {
        let provider = files.open(&server.url(), "app", &parameters).unwrap();
        let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
        provider.unwrap(&slot, &PLACE).unwrap().unwrap();
    }
    // What is no token is refused, whatever the connection.
    let error = files.open(&server.url(), "app", "ca-file={d}/ca&token-file={d}/wrong");
    files.write("wrong", "hvs.wrong", 0o600);
    assert!(matches!(error.unwrap().check(), Err(ProviderError::Refused { .. })));
}

#[test]
fn tokens_are_renewed_and_read_again() {
    let (fake, files) = (FakeVault::new(), Files::new());
    let server = fake.serve();
    let count = |line: &str| fake.state().log.iter().filter(|logged| *logged == line).count();

    // A token of two seconds is renewed after one.
    fake.state().lease = 2;
    let role = "insecure-plain-http=true&auth=approle&role-id=role&secret-id-file={d}/secret-id";
    let provider = files.open(&server.url(), "app", role).unwrap();
    provider.check().unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    provider.check().unwrap();
    assert!(count("POST auth/token/renew-self") + count("POST auth/approle/login") >= 2);
    let logins = count("POST auth/approle/login");
    provider.check().unwrap();
    assert_eq!(count("POST auth/approle/login"), logins, "a renewed token lasts");

    // An agent replaces the token in the file, and the old one is revoked.
    let provider = files.by_token(&server, "app");
    provider.check().unwrap();
    fake.state().tokens.clear();
    let error = provider.wrap(&Secret::random(), &PLACE).unwrap_err();
    assert!(matches!(error, ProviderError::Refused { .. }), "{error}");
    fake.state().tokens.insert("hvs.next".into(), 0);
    files.write("token", "hvs.next\n", 0o600);
    provider.wrap(&Secret::random(), &PLACE).unwrap();
    files.write("token", "hvs.next", 0o640);
    assert!(matches!(provider.check(), Err(ProviderError::Setup { .. })));
}

/// Against a real server: `VAULT_ADDR`, `VAULT_TOKEN`, and a transit engine at `transit/` with keys `envelopefs-test` and
/// `envelopefs-test-derived` (`derived=true`); `VAULT_CACERT` for its authority.
#[test]
#[ignore = "needs a Vault or OpenBao server in VAULT_ADDR"]
fn a_real_server_keeps_the_contract() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("set {name}"));
    let files = Files::new();
    files.write("token", &variable("VAULT_TOKEN"), 0o600);
    let address = variable("VAULT_ADDR");
    let mut parameters = "token-file={d}/token".to_owned();
    if address.starts_with("http://") {
        parameters += "&insecure-plain-http=true";
    }
    if let Ok(authority) = std::env::var("VAULT_CACERT") {
        parameters += &format!("&ca-file={authority}");
    }
    let open = |key| files.open(address.trim_end_matches('/'), key, &parameters).unwrap();
    let terms = Contract { knows_its_own: true, authenticates: true, ..Contract::REMOTE };
    let (plain, derived) = ("envelopefs-test", "envelopefs-test-derived");
    contract::keep(&open(plain), &open(plain), &open(derived), &terms);
    contract::keep(&open(derived), &open(derived), &open(plain), &terms);
}
