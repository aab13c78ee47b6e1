//! The operator's verbs, run as an operator runs them: what they do, what they refuse and with which exit code, and that each change stands in the log.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::site::{KEYSERVER, Site, text};
use super::softhsm::PIN;

fn names(log: &str) -> Vec<String> {
    let record = |line: &str| serde_json::from_str::<Value>(line).unwrap()["call"]["name"].as_str().unwrap().to_owned();
    log.lines().map(record).collect()
}

#[test]
fn init_makes_one_installation_and_no_second() {
    let site = Site::new();
    let said = site.fail(6, &["tenant", "list"]);
    assert!(said.contains("not that of an initialised installation"), "{said}");
    let (ca, pem) = (site.arg("ca.pem"), site.arg("signing.pem"));
    let init = ["init", "--tenant", "acme", "--account-id", "1", "--ca", &ca, "--signing-key", &pem];

    site.write("taken.pem", "here already");
    let taken = site.arg("taken.pem");
    site.fail(1, &["init", "--tenant", "acme", "--account-id", "1", "--ca", &ca, "--signing-key", &taken]);
    let wrong = site.write("wrong", "0000");
    let said = site.fail(3, &[&init[..], &["--pin-file", wrong.to_str().unwrap()]].concat());
    assert!(said.contains("the PIN was refused"), "{said}");
    site.fail(2, &["init", "--tenant", "acme", "--account-id", "1", "--signing-key", &pem]);
    site.succeed(&[&init[..], &["--dry-run"]].concat());
    site.fail(6, &["tenant", "list"]);
    assert!(!site.exists("signing.pem"));

    let made = site.json(&init);
    let keys = site.json(&["key", "list"]);
    assert_eq!(keys["signing_keys"][0]["sha256"], made["signing_key"]["sha256"]);
    assert_eq!(keys["signing_keys"][0]["pem"].as_str().unwrap(), fs::read_to_string(site.path("signing.pem")).unwrap());
    assert_eq!(keys["domain_keys"], json!([{"id": made["domain_key"], "state": "current", "customer_keys": 1}]));
    let openssl = Command::new("openssl").args(["pkey", "-pubin", "-noout", "-in", &pem]).status().unwrap();
    assert!(openssl.success(), "openssl does not read the public signing key");

    let other = site.arg("other.pem");
    let again = ["init", "--tenant", "globex", "--account-id", "1", "--ca", &ca, "--signing-key", &other];
    assert!(site.fail(5, &again).contains("an installation already"));
    assert!(!site.exists("other.pem"));
    assert_eq!(site.json(&["key", "list"]), keys, "a refused init changes nothing");
}

#[test]
fn tenants_come_change_and_are_shut_out() {
    let site = Site::new();
    site.init();
    site.succeed(&["tenant", "add", "globex", "--account-id", "2", "--tokens", "--convert", "i-1,i-2", "--dry-run"]);
    assert_eq!(site.json(&["tenant", "list"]).as_array().unwrap().len(), 1);
    site.succeed(&["tenant", "add", "globex", "--account-id", "2", "--tokens", "--convert", "i-1,i-2"]);
    site.fail(5, &["tenant", "add", "globex", "--account-id", "3", "--tokens"]);
    site.fail(2, &["tenant", "add", "initech", "--account-id", "3"]);
    site.fail(2, &["tenant", "add", "server", "--account-id", "3", "--tokens"]);
    site.fail(1, &["tenant", "show", "initech"]);
    let policy = site.write("policy.json", r#"{"identities": [{"token": {}}], "atestation": {}}"#);
    let said = site.fail(2, &["tenant", "add", "initech", "--account-id", "3", "--policy", policy.to_str().unwrap()]);
    assert!(said.contains("atestation"), "a demand that nobody knows is not passed over: {said}");
    let no_ca = site.write("no-ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    site.fail(2, &["tenant", "set", "acme", "--ca", no_ca.to_str().unwrap()]);

    site.succeed(&["tenant", "set", "globex", "--burst", "5", "--insecure-address", "i-1=127.0.0.0/8"]);
    site.fail(2, &["tenant", "set", "globex", "--burst", "5"]);
    let shown = site.json(&["tenant", "show", "globex"]);
    assert_eq!(
        shown["policy"],
        json!({"burst": 5, "convert": {"from": ["i-1", "i-2"]},
            "identities": [{"token": {}}, {"insecure_address_map": [{"cidr": "127.0.0.0/8", "instance": "i-1"}]}]})
    );
    site.succeed(&["tenant", "disable", "globex"]);
    assert_eq!(site.json(&["tenant", "show", "globex"])["active"], false);
    site.succeed(&["tenant", "enable", "globex"]);
    assert_eq!(site.json(&["tenant", "show", "globex"])["active"], true);

    // Without a token to sign, the tenant is shut out all the same, and that it is not recorded is said.
    let away = site.softhsm.tokens().with_extension("away");
    fs::rename(site.softhsm.tokens(), &away).unwrap();
    let output = site.run(&["tenant", "disable", "globex"]);
    fs::rename(&away, site.softhsm.tokens()).unwrap();
    assert_eq!(output.status.code(), Some(9), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("is disabled, but the audit log does not have it"));
    assert_eq!(site.json(&["tenant", "show", "globex"])["active"], false);

    let log = names(&site.succeed(&["audit", "tail", "--json", "-n", "100"]));
    let expected = ["tenant-add", "init", "tenant-add", "tenant-set", "tenant-disable", "tenant-enable"];
    assert_eq!(log, expected);
}

#[test]
fn a_token_is_written_once_and_only_its_hash_is_kept() {
    let site = Site::new();
    site.init();
    let out = site.arg("token");
    let add = ["token", "add", "acme", "--instance", "i-1", "--instance", "i-2", "--expires-in", "1h", "--out", &out];
    assert!(site.fail(1, &add).contains("does not allow tokens"));
    site.succeed(&["tenant", "set", "acme", "--tokens"]);
    site.succeed(&[&add[..], &["--dry-run"]].concat());
    assert!(!site.exists("token"));
    let output = site.run(&add);
    assert!(output.status.success());
    let token = fs::read_to_string(&out).unwrap();
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!text(&output.stdout).contains(token.trim()), "the token stands in the file alone");
    site.fail(1, &add);

    let listed = site.json(&["token", "list", "acme"]);
    let hash: String = Sha256::digest(token.trim()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(listed[0]["id"], hash);
    assert_eq!(listed[0]["instances"], json!(["i-1", "i-2"]));
    assert_eq!(listed.as_array().unwrap().len(), 1);
    let state = fs::read(site.path("keyserver.toml.sqlite")).unwrap();
    let token = token.trim().as_bytes();
    assert!(!state.windows(token.len()).any(|window| window == token), "the state holds the token");

    site.fail(1, &["token", "disable", "acme", "00000000"]);
    site.fail(1, &["token", "disable", "acme", &hash[..7]]);
    site.succeed(&["token", "disable", "acme", &hash[..8]]);
    assert_eq!(site.json(&["token", "list", "acme"])[0]["disabled"], true);
    let log = names(&site.succeed(&["audit", "tail", "--json", "-n", "100"]));
    assert_eq!(log[log.len() - 2..], ["token-add", "token-disable"]);
}

#[test]
fn keys_are_rotated_retired_and_destroyed() {
    let site = Site::new();
    site.init();
    let before = site.json(&["key", "list"]);
    let old_domain = before["domain_keys"][0]["id"].as_str().unwrap();
    let old_signing = before["signing_keys"][0]["id"].as_str().unwrap();
    site.fail(1, &["key", "destroy", old_domain, "--yes"]);
    site.fail(1, &["key", "destroy", old_signing, "--yes"]);
    site.fail(1, &["key", "destroy", "0123", "--yes"]);
    site.succeed(&["key", "rotate", "domain", "--dry-run"]);
    assert_eq!(site.json(&["key", "list"]), before);

    site.succeed(&["key", "rotate", "customer", "acme"]);
    assert!(site.fail(1, &["key", "retire", "customer", "acme", "2", "--yes"]).contains("the one that seals"));
    site.fail(1, &["key", "retire", "customer", "acme", "7", "--yes"]);
    let rotated = site.json(&["key", "rotate", "domain"]);
    assert_eq!(rotated["customer_keys"], 2, "every version is wrapped anew");
    let keys = site.json(&["key", "list"]);
    assert_eq!(keys["domain_keys"][0], json!({"id": old_domain, "state": "retired", "customer_keys": 0}));
    assert_eq!(keys["domain_keys"][1], json!({"id": rotated["domain_key"], "state": "current", "customer_keys": 2}));
    site.succeed(&["key", "retire", "customer", "acme", "1", "--yes"]);
    assert_eq!(site.json(&["key", "list"])["customer_keys"].as_array().unwrap().len(), 1);

    let pem = site.arg("next.pem");
    let made = site.json(&["key", "rotate", "signing", "--signing-key", &pem]);
    assert_eq!(made["endorsed_by"], old_signing);
    site.succeed(&["key", "destroy", old_domain, "--yes"]);
    site.succeed(&["key", "destroy", old_signing, "--yes"]);
    assert!(site.fail(1, &["key", "destroy", old_domain, "--yes"]).contains("there is no key"));
    site.succeed(&["probe"]);

    // The first key vouches for the second: with either or both pinned the log verifies, signed by the one and then by the other.
    let first = site.arg("signing.pem");
    site.succeed(&["audit", "verify", "--key", &first]);
    site.fail(4, &["audit", "verify", "--key", &pem]);
    let log = names(&site.succeed(&["audit", "tail", "--json", "-n", "100"]));
    let last = ["key-rotate", "key-rotate", "key-retire", "key-rotate", "key-destroy", "key-destroy"];
    assert_eq!(log[log.len() - 6..], last);
}

#[test]
fn a_changed_record_is_found() {
    let site = Site::new();
    site.init();
    let key = site.arg("signing.pem");
    site.succeed(&["tenant", "set", "acme", "--burst", "7"]);
    site.succeed(&["audit", "verify", "--key", &key]);
    let verified = site.json(&["audit", "verify", "--key", &key, "--tenant", "acme"]);
    assert_eq!(verified["verified"], true);
    // Somebody else's key verifies nothing.
    let other = Site::new();
    other.init();
    site.fail(4, &["audit", "verify", "--key", &other.arg("signing.pem")]);
    site.fail(2, &["audit", "verify", "--key", &site.arg("ca.pem")]);
    site.fail(2, &["audit", "verify", "--key", &key, "nowhere"]);

    let state = rusqlite::Connection::open(site.path("keyserver.toml.sqlite")).unwrap();
    let change = "UPDATE audit_records SET record = CAST(replace(CAST(record AS TEXT), 'uid', 'uif') AS BLOB) WHERE log = 'server' AND number = 2";
    assert_eq!(state.execute(change, []).unwrap(), 1);
    let said = site.fail(4, &["audit", "verify", "--key", &key]);
    assert!(said.contains("server") && said.contains('2'), "the first fault is named: {said}");
    let output = site.run(&["audit", "verify", "--key", &key, "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["verified"], false);
}

#[test]
fn a_backup_becomes_an_installation_elsewhere() {
    let site = Site::new();
    site.init();
    site.succeed(&["key", "rotate", "customer", "acme"]);
    let (keys, key) = (site.json(&["key", "list"]), site.arg("signing.pem"));
    let file = site.arg("backup");
    site.succeed(&["backup", &file]);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    site.fail(1, &["backup", &file]);

    site.configure("elsewhere.toml", "");
    site.fail_with("elsewhere.toml", 6, &["key", "list"]);
    let whole = fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(site.path("damaged"), &damaged).unwrap();
    fs::write(site.path("short"), &whole[..whole.len() - 20]).unwrap();
    for name in ["damaged", "short"] {
        site.fail_with("elsewhere.toml", 4, &["restore", &site.arg(name), "--stopped"]);
    }
    let undecided = site.run_with("elsewhere.toml", &["restore", &file]);
    assert_eq!(undecided.status.code(), Some(2), "how the log goes on has to be said");
    let restored = site.run_with("elsewhere.toml", &["restore", &file, "--stopped"]);
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    site.fail_with("elsewhere.toml", 5, &["restore", &file, "--stopped"]);
    site.fail(5, &["restore", &file, "--stopped"]);

    let output = site.run_with("elsewhere.toml", &["key", "list", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), keys);
    for verb in [&["probe"][..], &["tenant", "set", "acme", "--burst", "9"], &["audit", "verify", "--key", &key]] {
        let output = site.run_with("elsewhere.toml", verb);
        assert!(output.status.success(), "{verb:?}: {}", text(&output.stderr));
    }
}

#[test]
fn tokens_that_cannot_serve_are_named() {
    let site = Site::new();
    let probe = |more: &[&str]| site.run(&[&["probe"][..], more].concat());
    // Before init there are no keys to try: that is said, not taken for success.
    assert_eq!(probe(&[]).status.code(), Some(9));
    site.init();
    assert!(text(&probe(&[]).stdout).contains("derives keys by aes-cbc"));
    let described: Value = serde_json::from_slice(&probe(&["--json"]).stdout).unwrap();
    assert_eq!(described["tokens"][0]["oaep"], "software");

    let text_of = site.configuration("keyserver.toml");
    site.write("strict.toml", &text_of.replace("insecure_software_oaep = true\n", ""));
    let said = site.fail_with("strict.toml", 9, &["probe"]);
    assert!(said.contains("RSA-OAEP with SHA-256"), "{said}");
    site.write("other.toml", &text_of.replace("token=keys", "token=none"));
    site.fail_with("other.toml", 9, &["probe"]);
    site.write("module.toml", &text_of.replace("libsofthsm2.so", "libnone.so"));
    site.fail_with("module.toml", 9, &["probe"]);
    let loose = site.write("loose", PIN);
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o644)).unwrap();
    site.fail(1, &["probe", "--pin-file", loose.to_str().unwrap()]);
}

#[test]
fn configurations_that_are_not_right_are_refused_with_the_place() {
    let site = Site::new();
    let right = site.configuration("keyserver.toml");
    for (change, with, said) in [
        ("[hsm]", "[hsm", "line 7"),
        ("server_id", "server_name", "unknown field `server_name`"),
        ("address = \"127.0.0.1:0\"", "address = \"everywhere\"", "line 2"),
        ("server-key.pem", "none.pem", "listen.key"),
        ("uri = \"pkcs11:token=keys\"", "uri = \"keys\"", "hsm"),
        ("url = \"sqlite:", "url = \"mysql:", "state.url"),
        ("server_id = \"test\"", "server_id = \"TEST\"", "audit.server_id"),
        ("server_id = \"test\"", "server_id = \"test\"\nbefore_answer = [\"none\"]", "audit.before_answer"),
        ("name = \"files\"", "name = \"\"", "audit.sinks"),
    ] {
        assert!(right.contains(change), "{change}");
        site.write("wrong.toml", &right.replacen(change, with, 1));
        let said_by = site.fail_with("wrong.toml", 2, &["check-config"]);
        assert!(said_by.contains("wrong.toml") && said_by.contains(said), "{with}: {said_by}");
        site.fail_with("wrong.toml", 2, &["tenant", "list"]);
    }
    site.write("level.toml", &format!("{right}[log]\nlevel = \"=\"\n"));
    site.fail_with("level.toml", 2, &["check-config"]);
    site.fail_with("missing.toml", 2, &["check-config"]);
    fs::set_permissions(site.path("keyserver.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    site.fail(2, &["check-config"]);
    fs::set_permissions(site.path("keyserver.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(site.json(&["check-config"])["insecure"], json!(["hsm.insecure_software_oaep"]));
}

#[test]
fn the_example_configuration_is_right_and_secure() {
    let site = Site::new();
    let example = include_str!("../../contrib/keyserver/keyserver.toml");
    let key = "/etc/envelopefs/tls/server-key.pem";
    assert!(example.contains(key));
    site.write("example.toml", &example.replace(key, &site.arg("server-key.pem")));
    let output = site.run_with("example.toml", &["check-config", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["insecure"], json!([]));
    // What is commented out is the default or possible: with all of it, but for what excludes other lines, it is right too.
    let excluded =
        ["#listen =", "#url =", "#password_file", "#oaep", "#kdf", "#pin", "#secret_access_key", "#access_key_id"];
    let all: Vec<_> = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !line.starts_with("# ") && !excluded.iter().any(|name| line.starts_with(name)) => setting,
            _ => line,
        })
        .collect();
    site.write("all.toml", &all.join("\n").replace(key, &site.arg("server-key.pem")));
    let output = site.run_with("all.toml", &["check-config"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn nobody_answers_where_no_server_runs() {
    let site = Site::new();
    let pin = site.write("pin", PIN);
    assert!(site.fail(9, &["pin", "--pin-file", pin.to_str().unwrap()]).contains("no server of this host"));
    site.fail(9, &["status"]);
}

#[test]
fn man_pages_and_completions_are_those_of_the_grammar() {
    let dir = tempfile::tempdir().unwrap();
    for what in ["man", "completions"] {
        let made = dir.path().join(what);
        let output = Command::new(KEYSERVER).args(["generate", what]).arg(&made).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        for entry in fs::read_dir(&made).unwrap() {
            let name = entry.unwrap().file_name();
            let ours = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(what).join(&name);
            assert!(
                fs::read(made.join(&name)).unwrap() == fs::read(&ours).unwrap_or_default(),
                "{} is out of date: envelopefs-keyserver generate {what} contrib/{what}",
                ours.display()
            );
        }
    }
    assert!(fs::read_to_string(dir.path().join("man/envelopefs-keyserver.1")).unwrap().contains("Exit codes"));
}
