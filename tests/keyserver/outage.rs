//! Under load, the HSM goes away and comes back, and a node is killed: callers get an answer or a clean refusal, every answered call stands in the log, and the
//! log has no gap and no number twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};

use super::postgres;
use super::site::Site;

/// How long something may take to happen before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the clients saw.
#[derive(Default)]
struct Seen {
    /// Numbers of the audit records that answers named.
    answered: BTreeSet<u64>,
    /// Statuses, 0 for no answer.
    statuses: BTreeMap<u16, usize>,
    /// The last answer's time.
    last: Option<Instant>,
}

/// Clients that call without pause, each first at another of the ports, until the closure ends.
fn under_load(site: &Site, ports: &[u16], meanwhile: impl FnOnce(&Mutex<Seen>)) -> Seen {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let rsa = BASE64_STANDARD.encode(key.public_key().as_der().unwrap().as_ref());
    let identity = ["machine.pem", "machine-key.pem"].map(|name| std::fs::read(site.path(name)).unwrap()).concat();
    let authority = reqwest::Certificate::from_pem(&std::fs::read(site.path("ca.pem")).unwrap()).unwrap();
    let (seen, stop) = (Mutex::new(Seen::default()), AtomicBool::new(false));
    let client = |number: usize| {
        let http = reqwest::blocking::Client::builder()
            .tls_certs_only([authority.clone()])
            .identity(reqwest::Identity::from_pem(&identity).unwrap())
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .unwrap();
        let mut at = number;
        while !stop.load(Ordering::Relaxed) {
            let url = format!("https://127.0.0.1:{}/v1/encryption/i-1/generate-secret", ports[at % ports.len()]);
            let nonce = BASE64_STANDARD.encode([7; 32]);
            let body =
                json!({"rsa_wrapping_key": rsa, "volume_uuid": format!("volume {number}"), "client_nonce": nonce});
            let answer = http.post(url).header("Content-Type", "application/json").body(body.to_string()).send();
            let answer = answer.and_then(|answer| Ok((answer.status().as_u16(), answer.text()?)));
            let mut seen = seen.lock().unwrap();
            match answer {
                Ok((200, body)) => {
                    let body: Value = serde_json::from_str(&body).unwrap();
                    let number = body["audit_seq"].as_str().unwrap().parse().unwrap();
                    assert!(seen.answered.insert(number), "number {number} was given twice");
                    *seen.statuses.entry(200).or_default() += 1;
                    seen.last = Some(Instant::now());
                }
                Ok((status, _)) => {
                    *seen.statuses.entry(status).or_default() += 1;
                    drop(seen);
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(_) => {
                    *seen.statuses.entry(0).or_default() += 1;
                    at += 1;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        (0..8).for_each(|number| {
            let client = &client;
            scope.spawn(move || client(number));
        });
        // Also if it fails: the clients must end.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&seen)));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    seen.into_inner().unwrap()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The log verifies, in the database and in the sink, and has a successful record for each number that a client was told.
fn assert_recorded(site: &Site, config: &str, seen: &Seen) {
    let key = site.arg("signing.pem");
    for verb in [&["audit", "verify", "--key", &key][..], &["audit", "verify", "--key", &key, "files"]] {
        let output = site.run_with(config, verb);
        assert!(output.status.success(), "{verb:?}: {}", super::site::text(&output.stderr));
    }
    let output = site.run_with(config, &["audit", "tail", "--json", "--tenant", "acme", "-n", "1000000"]);
    let records = super::site::text(&output.stdout);
    let succeeded = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        let right = record["call"]["name"] == "generate-secret" && record["result"] == "Succeed";
        right.then(|| record["vpc_op_seq_num"].as_u64().unwrap())
    };
    let recorded: Vec<u64> = records.lines().filter_map(succeeded).collect();
    let numbers: BTreeSet<u64> = recorded.iter().copied().collect();
    assert_eq!(recorded.len(), numbers.len(), "a number is there twice");
    assert!(seen.answered.is_subset(&numbers), "an answered call is not recorded");
}

#[test]
fn the_hsm_goes_away_and_comes_back_under_load() {
    let site = Site::new();
    site.issue("machine", "i-1", ExtendedKeyUsagePurpose::ClientAuth);
    site.init();
    let url = format!("sqlite:{}", site.arg("keyserver.toml.sqlite"));
    let port = site.configure_node("node", &url);
    site.use_shim("node");
    let node = site.serve("node");
    let seen = under_load(&site, &[port], |seen| {
        let answers = |seen: &Mutex<Seen>| seen.lock().unwrap().answered.len();
        wait_until("the first answers", || answers(seen) > 20);
        site.without_device(|| {
            wait_until("a refusal", || seen.lock().unwrap().statuses.contains_key(&503));
            let before = answers(seen);
            std::thread::sleep(Duration::from_secs(1));
            assert!(answers(seen) <= before + 8, "calls are answered without the HSM");
        });
        let before = answers(seen);
        wait_until("answers after the HSM came back", || answers(seen) > before + 20);
    });
    let other: Vec<_> = seen.statuses.keys().filter(|status| ![200, 503].contains(*status)).collect();
    assert!(other.is_empty(), "besides answers and 503 there was {other:?}");
    node.stop();
    assert_recorded(&site, "node", &seen);
}

#[test]
fn a_node_is_killed_under_load() {
    let site = Site::new();
    site.issue("machine", "i-1", ExtendedKeyUsagePurpose::ClientAuth);
    let url = postgres::database();
    let ports = [site.configure_node("node-a", &url), site.configure_node("node-b", &url)];
    let (ca, pem) = (site.arg("ca.pem"), site.arg("signing.pem"));
    let init = ["init", "--tenant", "acme", "--account-id", "1", "--ca", &ca, "--signing-key", &pem];
    let output = site.run_with("node-a", &init);
    assert!(output.status.success(), "{}", super::site::text(&output.stderr));
    let (a, b) = (site.serve("node-a"), site.serve("node-b"));
    let mut restarted = None;
    let seen = under_load(&site, &ports, |seen| {
        let answers = |seen: &Mutex<Seen>| seen.lock().unwrap().answered.len();
        wait_until("the first answers", || answers(seen) > 40);
        a.kill();
        let before = answers(seen);
        wait_until("answers of the other node", || answers(seen) > before + 40);
        restarted = Some(site.serve("node-a"));
        let before = answers(seen);
        wait_until("answers after the node came back", || answers(seen) > before + 40);
    });
    assert!(seen.statuses[&0] > 0, "nobody noticed the kill");
    assert!(seen.statuses.keys().all(|status| [0, 200, 503].contains(status)), "{:?}", seen.statuses);
    restarted.unwrap().stop();
    b.stop();
    assert_recorded(&site, "node-b", &seen);
}
