mod nodes;
mod sinks;
mod verify;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::record;
use super::record::is_digest;
use super::testing::{Software, entry};
use super::*;
use crate::api::signature::Padding;
use crate::api::{ClientNonce, Operation, Refusal, hex};
use crate::crypto::sha256;
use crate::server::state::testing::{Database, block_on, each_database};
use crate::server::state::{LogName, Settings, State};

async fn lines(state: &State, log: &str) -> Vec<(u64, Vec<u8>)> {
    state.records(&log.parse().unwrap(), 1, 100_000).await.unwrap()
}

/// The chain, the numbers and the signatures of a log, from its bytes alone.
fn check(lines: &[(u64, Vec<u8>)], signer: &Software) -> Vec<Record> {
    let mut previous = [0; 32];
    let mut records = Vec::new();
    for ((number, line), expected) in lines.iter().zip(1_u64..) {
        let record = Record::parse(line).unwrap();
        assert_eq!((*number, record.vpc_op_seq_num), (expected, expected));
        assert_eq!(record.chain.previous_sha256, hex(&previous));
        let text = record.canonical();
        let signature = BASE64_STANDARD.decode(&record.signature).unwrap();
        signer.key.verify(text.as_bytes(), &signature, Padding::Minimal).unwrap();
        previous = sha256(text.as_bytes());
        records.push(record);
    }
    records
}

#[test]
fn calls_are_recorded_in_a_chain_before_they_go_on() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let signer = Software::new(1);
        let audit = Audit::start(state.clone(), signer.clone(), AuditSettings::new("node-1"));
        let calls = (0..300).map(|at| {
            let (audit, log) = (audit.clone(), ["vpc-1", "vpc-2", "server"][at % 3]);
            tokio::spawn(async move { (log, audit.record(entry(log, &at.to_string())).await.unwrap().seq) })
        });
        let mut given = BTreeSet::new();
        for call in calls.collect::<Vec<_>>() {
            assert!(given.insert(call.await.unwrap()));
        }
        for log in ["vpc-1", "vpc-2", "server"] {
            let lines = lines(&state, log).await;
            assert_eq!(lines.len(), 100);
            check(&lines, &signer);
            assert!(lines.iter().all(|(number, _)| given.contains(&(log, *number))));
        }
    });
}

#[test]
fn a_record_has_the_published_form() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let signer = Software::new(1);
        let audit = Audit::start(state.clone(), signer.clone(), AuditSettings::new("node-1"));
        let mut call = entry("vpc-1", "req-1");
        call.op_start = "2026-01-02T03:04:05Z".parse().unwrap();
        call.op_end = "2026-01-02T03:04:06.000002999Z".parse().unwrap();
        call.parameters.volume_uuid = Some("a\nb\\é".into());
        call.parameters.encrypted_secret = Some(vec![1]);
        call.parameters.more = vec![("volume_uuid".into(), "other".into()), ("note".into(), "x".repeat(10_000))];
        call.result = Err(Refusal::Incorrect.into());
        audit.record(call).await.unwrap();
        let lines = lines(&state, "vpc-1").await;
        let text = String::from_utf8(lines[0].1.clone()).unwrap();
        let begins = r#"{"event_version": 2, "vpc_op_seq_num": 1, "vpc_id": "vpc-1", "op_start": "2026-01-02T03:04:05.000000Z", "op_end": "2026-01-02T03:04:06.000002Z", "caller": {"type": "INSTANCE", "id": "i-0A", "ip": "10.0.0.7", "aws_account_id": "123456789012", "identity": "token:ab", "attestation_sha256": ""#;
        assert!(text.starts_with(begins), "{text}");
        let call = r#""call": {"name": "generate-secret", "parameters": {"instance_id": "i-0A", "volume_uuid": "a\\u{a}b\\\\\\u{e9}", "rsa_wrapping_key": "MIIBAgM=", "rsa_wrapping_key_sha256": ""#;
        assert!(text.contains(call), "{text}");
        let failed = r#""result": "Failed", "failure_reason": "Wrapped secret and/or context are incorrect", "failure_code": "incorrect", "request_id": "req-1", "chain": {"previous_sha256": "0000"#;
        assert!(text.contains(failed), "{text}");
        assert!(text.is_ascii() && text.len() < 4096 && !text.contains('\n'));
        let record = &check(&lines, &signer)[0];
        assert!(is_digest(&record.chain.exact_sha256));
        assert!(record.call.parameters.get("note").unwrap().ends_with("\\..."));
    });
}

#[test]
fn a_context_signature_names_its_record() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let signer = Software::new(1);
        let audit = Audit::start(state.clone(), signer.clone(), AuditSettings::new("node-1"));
        let context = Context {
            operation: Operation::Generate,
            tenant: "vpc-1".parse().unwrap(),
            instance: "i-0A".parse().unwrap(),
            volume: "Volume 1".parse().unwrap(),
            nonce: ClientNonce([3; 32]),
            rsa_wrapping_key: vec![1],
            encrypted_secret: vec![2],
            wrapped_secret: vec![3],
        };
        for expected in 1..4 {
            let with = Entry { context: Some(context.clone()), ..entry("vpc-1", "1") };
            let (with, without) = tokio::join!(audit.record(with), audit.record(entry("vpc-2", "2")));
            let (with, without) = (with.unwrap(), without.unwrap());
            assert_eq!((with.seq, &*with.key_id, without.context_signature), (expected, signer.key_id(), None));
            let text = context.text(expected, &with.signed_at);
            let signature = with.context_signature.unwrap();
            signer.key.verify(text.as_bytes(), &signature, Padding::Minimal).unwrap();
            let other = context.text(expected + 1, &with.signed_at);
            signer.key.verify(other.as_bytes(), &signature, Padding::Minimal).unwrap_err();
        }
    });
}

#[test]
fn a_batch_that_cannot_be_signed_leaves_nothing() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let signer = Software::new(1);
        let audit = Audit::start(state.clone(), signer.clone(), AuditSettings::new("node-1"));
        audit.record(entry("vpc-1", "before")).await.unwrap();
        signer.left.store(7, Ordering::SeqCst);
        let entries = (0..20).map(|at| entry("vpc-1", &at.to_string())).collect();
        let signer_ref: Arc<dyn Signer> = signer.clone();
        let error = commit::commit(&state, &signer_ref, "node-1", entries).await.unwrap_err();
        assert!(matches!(error, AuditError::Sign(_)), "{error:?}");
        assert!(matches!(audit.record(entry("vpc-1", "refused")).await, Err(AuditError::Sign(_))));
        assert_eq!(lines(&state, "vpc-1").await.len(), 1);
        signer.left.store(usize::MAX, Ordering::SeqCst);
        assert_eq!(audit.record(entry("vpc-1", "after")).await.unwrap().seq, 2);
        check(&lines(&state, "vpc-1").await, &signer);
    });
}

#[test]
fn a_record_is_read_strictly() {
    let head = crate::server::state::Head::EMPTY;
    let signer = Software::new(1);
    let record = entry("vpc-1", "1").record(&head, "node-1", &*signer);
    let line = record.line();
    assert_eq!(Record::parse(line.as_bytes()).unwrap(), record);
    let bad = |from: &str, to: &str| {
        assert!(line.contains(from), "{from}");
        Record::parse(line.replacen(from, to, 1).as_bytes()).unwrap_err()
    };
    assert_eq!(bad("\"event_version\": 2", "\"event_version\": 3"), NoRecord::Version(3));
    assert_eq!(bad("\": ", "\":"), NoRecord::Spelling);
    assert_eq!(bad("vpc-1", "vpc\\u002d1"), NoRecord::Spelling);
    assert_eq!(bad("i-0A", "i-0a"), NoRecord::Hash("chain.exact_sha256"));
    assert_eq!(bad("MIIB", "MIiB"), NoRecord::Hash("rsa_wrapping_key_sha256"));
    assert!(matches!(bad("\"vpc_op_seq_num\": 1", "\"vpc_op_seq_num\": \"1\""), NoRecord::Form(_)));
    assert!(matches!(bad("\"event_version\"", "\"more\": [1], \"event_version\""), NoRecord::Form(_)));
    assert!(matches!(bad("\"volume_uuid\"", "\"instance_id\""), NoRecord::Form(_)));
    assert_eq!(bad("Succeed", "succeed"), NoRecord::Member("result"));
    assert_eq!(Record::parse(&vec![b' '; record::MAX_RECORD + 1]), Err(NoRecord::TooLong));
    for end in 0..line.len() {
        assert!(Record::parse(&line.as_bytes()[..end]).is_err());
    }
}

#[test]
fn a_text_from_outside_stays_one_text() {
    assert_eq!(safe_text("plain \"text\""), "plain \"text\"");
    assert_eq!(safe_text("a\u{a}\\u{a}é\u{1f511}"), "a\\u{a}\\\\u{a}\\u{e9}\\u{1f511}");
    assert_eq!(safe_text(&"\u{10ffff}".repeat(1000)).len() / 100, 5);
    assert_eq!(LogName::server().as_str(), "server");
}

/// A trigger that makes every commit fail which adds a record.
fn commits_fail(state: &State) -> &'static str {
    if state.is_shared() {
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no commit'; END $$;
         CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON audit_records DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION fail();"
    } else {
        "CREATE TABLE none_such (id BIGINT PRIMARY KEY);
         CREATE TABLE wrong (id BIGINT REFERENCES none_such (id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER fail AFTER INSERT ON audit_records BEGIN INSERT INTO wrong VALUES (1); END;"
    }
}

#[test]
fn a_commit_that_fails_leaves_nothing() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let signer = Software::new(1);
        let audit = Audit::start(state.clone(), signer.clone(), AuditSettings::new("node-1"));
        audit.record(entry("vpc-1", "before")).await.unwrap();
        state.execute(commits_fail(&state)).await;
        let calls = (0..10).map(|at| audit.record(entry("vpc-1", if at % 2 == 0 { "a" } else { "b" })));
        for answer in futures_util::future::join_all(calls).await {
            assert!(matches!(answer, Err(AuditError::State(_))), "{answer:?}");
        }
        let undo = if state.is_shared() { "DROP TRIGGER fail ON audit_records" } else { "DROP TRIGGER fail" };
        state.execute(undo).await;
        assert_eq!(audit.record(entry("vpc-1", "after")).await.unwrap().seq, 2);
        check(&lines(&state, "vpc-1").await, &signer);
    });
}

#[test]
fn a_full_disk_leaves_nothing_and_is_told() {
    block_on(async {
        let database = Database::sqlite();
        // The limit is a connection's.
        let settings = Settings { connections: 1, ..Settings::new(&database.url) };
        let state = State::open(&settings).await.unwrap();
        let signer = Software::new(1);
        let audit = Audit::start(state.clone(), signer.clone(), AuditSettings::new("node-1"));
        audit.record(entry("vpc-1", "before")).await.unwrap();
        state.execute("PRAGMA max_page_count = 60").await;
        let mut stored = 1;
        let error = loop {
            match audit.record(entry("vpc-1", "more")).await {
                Ok(recorded) => stored = recorded.seq,
                Err(error) => break error,
            }
            assert!(stored < 1000);
        };
        assert!(matches!(&error, AuditError::State(why) if matches!(**why, StateError::Full(_))), "{error:?}");
        assert_eq!(lines(&state, "vpc-1").await.len() as u64, stored);
        state.execute("PRAGMA max_page_count = 100000").await;
        assert_eq!(audit.record(entry("vpc-1", "after")).await.unwrap().seq, stored + 1);
        check(&lines(&state, "vpc-1").await, &signer);
    });
}

#[test]
fn connections_that_break_come_back() {
    block_on(async {
        let database = Database::postgres();
        let state = database.open().await;
        let signer = Software::new(1);
        let audit = Audit::start(state.clone(), signer.clone(), AuditSettings::new("node-1"));
        for round in 0..3 {
            for seq in 1..=5 {
                assert_eq!(audit.record(entry("vpc-1", "1")).await.unwrap().seq, round * 5 + seq);
            }
            let other = database.open().await;
            other
                .execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()",
                )
                .await;
            other.close().await;
        }
        check(&lines(&state, "vpc-1").await, &signer);
    });
}

#[test]
fn another_key_signs_from_the_next_batch_on() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let (old, new) = (Software::new(1), Software::new(2));
        let audit = Audit::start(state.clone(), old.clone(), AuditSettings::new("node-1"));
        let first = audit.record(entry("vpc-1", "1")).await.unwrap();
        audit.set_signer(new.clone());
        let second = audit.record(entry("vpc-1", "2")).await.unwrap();
        assert_eq!((&*first.key_id, &*second.key_id), (old.key_id(), new.key_id()));
    });
}

#[test]
fn a_log_that_was_closed_takes_nothing_more() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let audit = Audit::start(state.clone(), Software::new(1), AuditSettings::new("node-1"));
        audit.record(entry("vpc-1", "1")).await.unwrap();
        audit.close(Duration::from_secs(10)).await;
        assert!(matches!(audit.record(entry("vpc-1", "2")).await, Err(AuditError::Closed)));
        // The record and its head; and in the server's log the list of where the other ended.
        assert_eq!(lines(&state, "vpc-1").await.len(), 2);
        let server = Record::parse(&lines(&state, "server").await[0].1).unwrap();
        assert_eq!((&*server.call.name, server.call.parameters.0.len()), (HEAD, 1));
        assert!(server.call.parameters.get("vpc-1").unwrap().starts_with("2 "));
    });
}

/// A token that takes its time.
struct Slow(Arc<Software>, std::sync::Mutex<Duration>);

impl Signer for Slow {
    fn key_id(&self) -> &str {
        self.0.key_id()
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, SignError> {
        let delay = *self.1.lock().unwrap();
        std::thread::sleep(delay);
        self.0.sign(text)
    }

    fn parallel(&self) -> usize {
        2
    }
}

#[test]
fn a_token_that_hangs_leaves_nothing_and_holds_nobody_up() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let signer = Software::new(1);
        let slow = Arc::new(Slow(signer.clone(), std::sync::Mutex::new(Duration::from_secs(5))));
        let settings = AuditSettings { timeout: Duration::from_millis(300), ..AuditSettings::new("node-1") };
        let audit = Audit::start(state.clone(), slow.clone(), settings);
        let start = std::time::Instant::now();
        let refused = audit.record(entry("vpc-1", "1")).await;
        assert!(matches!(refused, Err(AuditError::Slow(_))), "{refused:?}");
        // The database is free again, also for another node.
        let other = Audit::start(state.clone(), signer.clone(), AuditSettings::new("node-2"));
        assert_eq!(other.record(entry("vpc-1", "2")).await.unwrap().seq, 1);
        assert!(start.elapsed() < Duration::from_secs(4));
        *slow.1.lock().unwrap() = Duration::ZERO;
        assert_eq!(audit.record(entry("vpc-1", "3")).await.unwrap().seq, 2);
        check(&lines(&state, "vpc-1").await, &signer);
    });
}

#[test]
fn heads_follow_records_after_a_number_and_after_a_time() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let signer = Software::new(1);
        let entries = |settings: AuditSettings| Audit::start(state.clone(), signer.clone(), settings);
        // By number: looked at every ten seconds, so here by hand.
        let audit = entries(AuditSettings { head_records: 3, ..AuditSettings::new("node-1") });
        for log in ["vpc-1", "vpc-1", "vpc-1", "vpc-2"] {
            audit.record(entry(log, "1")).await.unwrap();
        }
        heads::write(&state, &audit.0.settings, &audit.0.entries, 3, false).await.unwrap();
        assert_eq!((lines(&state, "vpc-1").await.len(), lines(&state, "vpc-2").await.len()), (4, 1));
        assert!(lines(&state, "server").await.is_empty());
        // By time.
        let _timed = entries(AuditSettings { head_time: Duration::from_millis(50), ..AuditSettings::new("node-2") });
        let start = std::time::Instant::now();
        while lines(&state, "server").await.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(30), "no head comes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let server = Record::parse(&lines(&state, "server").await[0].1).unwrap();
        let listed: Vec<_> = server.call.parameters.0.iter().map(|(log, end)| (&**log, &end[..2])).collect();
        assert_eq!(listed, [("vpc-1", "4 "), ("vpc-2", "2 ")]);
        // Nothing new, no new heads.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!((lines(&state, "vpc-2").await.len(), lines(&state, "server").await.len()), (2, 1));
        verify(&Source::State(state.clone()), &signer.key.clone().into(), None, None).await.unwrap();
    });
}

/// `cargo test --lib records_per_second -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a test"]
fn records_per_second() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let audit = Audit::start(state.clone(), Software::new(1), AuditSettings::new("node-1"));
        let sign = std::time::Instant::now();
        for _ in 0..200 {
            Software::new(1).sign(b"text").unwrap();
        }
        let sign = sign.elapsed() / 200;
        for abreast in [1, 16, 256] {
            let (start, total) = (std::time::Instant::now(), abreast * 16);
            let callers = (0..abreast).map(|_| async {
                for _ in 0..16 {
                    audit.record(entry("vpc-1", "1")).await.unwrap();
                }
            });
            futures_util::future::join_all(callers).await;
            let rate = f64::from(total) / start.elapsed().as_secs_f64();
            println!(
                "shared {}, {abreast} callers: {rate:.0} records/s; one signature takes {sign:?}",
                state.is_shared()
            );
        }
    });
}
