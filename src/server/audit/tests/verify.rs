use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::api::canonical::endorsement_text;
use crate::api::signature::{SigningKey, SigningKeys};
use crate::server::audit::{Fault, Unendorsed, VerifyError, What, trusted_keys, verify};
use crate::server::state::{KeyState, SigningKeyRecord};

/// Two logs of six records, and the server's, in a directory; signed heads at the end of each.
async fn logs(state: &State, signer: &Arc<Software>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::directory("files", dir.path()).unwrap();
    let settings = AuditSettings { sinks: vec![sink], ..AuditSettings::new("node-1") };
    let audit = Audit::start(state.clone(), signer.clone(), settings);
    for at in 0..6 {
        for log in ["vpc-1", "vpc-2"] {
            let mut call = entry(log, &at.to_string());
            call.parameters.encrypted_secret = Some(vec![at]);
            if at % 2 == 1 {
                call.result = Err(Refusal::Incorrect.into());
            }
            audit.record(call).await.unwrap();
        }
    }
    audit.close(Duration::from_secs(30)).await;
    dir
}

fn directory(path: &Path) -> Source {
    Source::Sink(Sink::directory("files", path).unwrap())
}

async fn fault(path: &Path, keys: &SigningKeys) -> Fault {
    match verify(&directory(path), keys, None, None).await {
        Err(VerifyError::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

fn file(root: &Path, log: &str, number: u64) -> std::path::PathBuf {
    root.join(format!("{log}/{number:09}.json"))
}

/// A record, changed and signed anew: as somebody would who has a key.
fn signed_anew(line: &[u8], signer: &Software, change: impl FnOnce(&mut Record)) -> String {
    let mut record = Record::parse(line).unwrap();
    change(&mut record);
    record.chain.exact_sha256 = record.exact_sha256();
    record.signature = BASE64_STANDARD.encode(signer.sign(record.canonical().as_bytes()).unwrap());
    record.line()
}

#[test]
fn whole_logs_are_right_in_every_source() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let signer = Software::new(1);
        let dir = logs(&state, &signer).await;
        let keys = signer.key.clone().into();
        for source in [Source::State(state.clone()), directory(dir.path())] {
            let reports = verify(&source, &keys, None, Some(Duration::from_secs(600))).await.unwrap();
            let counts: Vec<_> = reports.iter().map(|log| (log.log.as_str(), log.records, log.head)).collect();
            assert_eq!(counts, [("server", 1, 1), ("vpc-1", 7, 7), ("vpc-2", 7, 7)]);
            let one = verify(&source, &keys, Some(&"vpc-2".parse().unwrap()), None).await.unwrap();
            assert_eq!(one.len(), 2);
            let other = Software::new(2).key.clone().into();
            let error = verify(&source, &other, None, None).await.unwrap_err();
            assert!(matches!(error, VerifyError::Fault(Fault { number: Some(1), what: What::Key(_), .. })), "{error}");
        }
    });
}

#[test]
fn the_database_cannot_lose_or_change_records_unseen() {
    each_database(|database: Database| async move {
        let signer = Software::new(1);
        let keys = signer.key.clone().into();
        let cases: [(&'static str, &str); 4] = [
            ("DELETE FROM audit_records WHERE log = 'vpc-1' AND number = 3", "log vpc-1: records 3 to 3 are missing"),
            ("DELETE FROM audit_records WHERE log = 'vpc-1' AND number > 5", "log vpc-1: its end is missing: it had 7 records"),
            (
                "DELETE FROM audit_records WHERE log = 'vpc-2' AND number = 7;
                 UPDATE audit_heads SET next = 7 WHERE log = 'vpc-2'",
                "log vpc-2: its end is missing",
            ),
            (
                "UPDATE audit_records SET record = (SELECT record FROM audit_records WHERE log = 'vpc-1' AND number = 2)
                 WHERE log = 'vpc-1' AND number = 4",
                "log vpc-1, record 4: it is record 2",
            ),
        ];
        let state = database.open().await;
        logs(&state, &signer).await;
        for (damage, expected) in cases {
            state
                .execute(
                    "CREATE TABLE kept AS SELECT * FROM audit_records; CREATE TABLE ends AS SELECT * FROM audit_heads",
                )
                .await;
            state.execute(damage).await;
            let error = verify(&Source::State(state.clone()), &keys, None, None).await.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            state
                .execute(
                    "DELETE FROM audit_records; UPDATE audit_heads SET next = (SELECT ends.next FROM ends WHERE ends.log = audit_heads.log);
                     INSERT INTO audit_records SELECT * FROM kept; DROP TABLE kept; DROP TABLE ends",
                )
                .await;
            verify(&Source::State(state.clone()), &keys, None, None).await.unwrap();
        }
    });
}

#[test]
fn every_member_that_is_changed_is_found() {
    block_on(async {
        let database = Database::sqlite();
        let state = database.open().await;
        let (signer, thief) = (Software::new(1), Software::new(2));
        let dir = logs(&state, &signer).await;
        let keys = signer.key.clone().into();
        let path = file(dir.path(), "vpc-1", 4);
        let line = fs::read_to_string(&path).unwrap();
        // Every character, changed to its neighbour, and letters to the other case.
        let mut changed = 0;
        // One in three: each is three logs to verify.
        for (at, byte) in line.bytes().enumerate().step_by(3) {
            for other in [byte ^ 1, byte ^ 0x20] {
                let mut bytes = line.clone().into_bytes();
                bytes[at] = other;
                fs::write(&path, &bytes).unwrap();
                // The last bits of base64 that stand for nothing are an error as well.
                let fault = fault(dir.path(), &keys).await;
                assert_eq!((&*fault.log, fault.number), ("vpc-1", Some(4)), "at {at} of {line}");
                changed += 1;
            }
        }
        assert!(changed > 700);
        // With another key, said or not; and with the right one.
        let with = |key: &Software, change: &dyn Fn(&mut Record)| signed_anew(line.as_bytes(), key, change);
        type Change = (&'static str, fn(&mut Record), fn(&What) -> bool);
        let cases: [Change; 5] = [
            ("number", |record| record.vpc_op_seq_num = 5, |what| matches!(what, What::Number(5))),
            ("log", |record| record.vpc_id = "vpc-2".into(), |what| matches!(what, What::Log(log) if log == "vpc-2")),
            ("chain", |record| record.chain.previous_sha256 = "0".repeat(64), |what| matches!(what, What::Chain)),
            ("version", |record| record.event_version = 3, |what| matches!(what, What::Form(NoRecord::Version(3)))),
            (
                "time",
                |record| record.op_end = "2026-01-01T00:00:00Z".into(),
                |what| matches!(what, What::Form(NoRecord::Member("op_end"))),
            ),
        ];
        for (name, change, expected) in cases {
            fs::write(&path, with(&signer, &change)).unwrap();
            let fault = fault(dir.path(), &keys).await;
            assert!(fault.number == Some(4) && expected(&fault.what), "{name}: {fault}");
        }
        fs::write(&path, with(&thief, &|_| ())).unwrap();
        assert_eq!(fault(dir.path(), &keys).await.what, What::Signature);
        fs::write(&path, with(&thief, &|record| record.chain.key_id = thief.key_id().into())).unwrap();
        assert_eq!(fault(dir.path(), &keys).await.what, What::Key(thief.key_id().into()));
        // Rewritten by the key's owner: the next record does not follow.
        fs::write(&path, with(&signer, &|record| record.request_id = "other".into())).unwrap();
        let found = fault(dir.path(), &keys).await;
        assert_eq!((found.number, found.what), (Some(5), What::Chain));
        fs::write(&path, &line).unwrap();
        verify(&directory(dir.path()), &keys, None, None).await.unwrap();
    });
}

#[test]
fn records_that_are_taken_out_moved_or_put_in_are_found() {
    block_on(async {
        let database = Database::sqlite();
        let state = database.open().await;
        let signer = Software::new(1);
        let kept = logs(&state, &signer).await;
        let keys: SigningKeys = signer.key.clone().into();
        type Damage = (fn(&Path), &'static str);
        let cases: [Damage; 11] = [
            (|root| fs::remove_file(file(root, "vpc-1", 3)).unwrap(), "log vpc-1: records 3 to 3 are missing"),
            (|root| fs::remove_file(file(root, "vpc-1", 1)).unwrap(), "log vpc-1: records 1 to 1 are missing"),
            (
                |root| fs::remove_file(file(root, "vpc-1", 7)).unwrap(),
                "log vpc-1: its end is missing: it had 7 records, as record 1 of log server says",
            ),
            (|root| fs::remove_dir_all(root.join("vpc-2")).unwrap(), "log vpc-2: its end is missing: it had 7 records"),
            (
                |root| {
                    fs::rename(file(root, "vpc-1", 2), root.join("vpc-1/x")).unwrap();
                    fs::rename(file(root, "vpc-1", 3), file(root, "vpc-1", 2)).unwrap();
                    fs::rename(root.join("vpc-1/x"), file(root, "vpc-1", 3)).unwrap();
                },
                "log vpc-1, record 2: it is record 3",
            ),
            (
                |root| _ = fs::copy(file(root, "vpc-1", 7), file(root, "vpc-1", 8)).unwrap(),
                "log vpc-1, record 8: it is record 7",
            ),
            (
                |root| _ = fs::copy(file(root, "vpc-2", 4), file(root, "vpc-1", 4)).unwrap(),
                "log vpc-1, record 4: it belongs to log vpc-2",
            ),
            (
                |root| _ = fs::copy(file(root, "vpc-1", 4), root.join("vpc-1/4.json")).unwrap(),
                "log vpc-1: \"4.json\" is not the name of a record",
            ),
            (|root| fs::write(root.join("Notes"), "").unwrap(), "log Notes: \"Notes\" is not the name of a record"),
            (|root| fs::write(file(root, "vpc-1", 5), "").unwrap(), "log vpc-1, record 5: it is no record"),
            (
                |root| fs::write(file(root, "vpc-1", 5), vec![b' '; 300_000]).unwrap(),
                "log vpc-1, record 5: it is longer",
            ),
        ];
        for (damage, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            let copied = Command::new("cp").arg("-a").arg(kept.path()).arg(dir.path().join("copy")).status().unwrap();
            assert!(copied.success());
            let root = dir.path().join("copy");
            verify(&directory(&root), &keys, None, None).await.unwrap();
            damage(&root);
            let fault = fault(&root, &keys).await.to_string();
            assert!(fault.starts_with(expected), "{fault}, not {expected}");
        }
        // The end of the server's own log, which nothing lists: time tells.
        let server = file(kept.path(), "server", 1);
        fs::remove_file(&server).unwrap();
        fs::remove_file(file(kept.path(), "vpc-1", 7)).unwrap();
        verify(&directory(kept.path()), &keys, None, None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let stale = verify(&directory(kept.path()), &keys, None, Some(Duration::from_millis(10))).await.unwrap_err();
        assert!(stale.to_string().contains("a newer signed head is missing"), "{stale}");
    });
}

#[test]
fn a_listed_key_is_trusted_through_the_key_before_it() {
    let keys: Vec<_> = (1..5).map(Software::new).collect();
    let record = |at: usize, by: Option<usize>| SigningKeyRecord {
        id: [at as u8; 16],
        state: KeyState::Retired,
        spki: keys[at].key.spki().to_vec(),
        endorsement: by.map(|by| {
            let text = endorsement_text(keys[at].key.spki());
            ([by as u8; 16], keys[by].sign(text.as_bytes()).unwrap())
        }),
        created_at: String::new(),
        retired_at: None,
    };
    let pinned: SigningKeys = keys[0].key.clone().into();
    let listed = [record(0, None), record(1, Some(0)), record(2, Some(1)), record(3, None)];
    let trusted = trusted_keys(&pinned, &listed).unwrap();
    assert_eq!(
        trusted.iter().map(SigningKey::id).collect::<Vec<_>>(),
        keys[..3].iter().map(|key| key.key.id()).collect::<Vec<_>>()
    );
    // The chain counts from where it is pinned on.
    let later: SigningKeys = keys[2].key.clone().into();
    assert_eq!(trusted_keys(&later, &listed).unwrap().iter().count(), 1);
    let mut wrong = listed.clone();
    wrong[1].endorsement.as_mut().unwrap().1 = keys[0].sign(b"something else").unwrap();
    assert!(matches!(trusted_keys(&pinned, &wrong), Err(Unendorsed::Endorsement(_))));
    let mut wrong = listed.clone();
    wrong[1].endorsement.as_mut().unwrap().0 = [2; 16];
    assert_eq!(trusted_keys(&pinned, &wrong).unwrap().iter().count(), 1);
    let mut wrong = listed;
    wrong[3].spki.pop();
    assert!(matches!(trusted_keys(&pinned, &wrong), Err(Unendorsed::Key(_))));
}

/// As sections 9.3 and 9.5 of the wire's specification say, in another language.
const EXTRACT: &str = r#"
import base64, json, sys
path = sys.argv[1]
record = json.load(open(path))
signature = record.pop("signature")
def flatten(prefix, members):
    for name, value in members.items():
        if value is None: yield f"{prefix}{name}="
        elif isinstance(value, (bool, int)): yield f"{prefix}{name}={value}"
        elif isinstance(value, str): yield f"{prefix}{name}={value.lower()}"
        elif isinstance(value, dict): yield from flatten(f"{prefix}{name}.", value)
open(path + ".serialized", "w").write("\n".join(sorted(flatten("", record))))
open(path + ".serialized.sig", "wb").write(base64.b64decode(signature))
"#;

#[test]
fn the_originals_tools_verify_records() {
    block_on(async {
        let database = Database::sqlite();
        let state = database.open().await;
        let signer = Software::new(1);
        let dir = logs(&state, &signer).await;
        let pem = dir.path().join("api_public_key.pem");
        fs::write(&pem, signer.key.to_pem()).unwrap();
        for (log, number) in [("vpc-1", 1), ("vpc-1", 2), ("vpc-1", 7), ("server", 1)] {
            let path = file(dir.path(), log, number);
            let extracted =
                Command::new("python3").args(["-c", EXTRACT]).arg(&path).status().expect("Python is installed");
            assert!(extracted.success());
            let with = |end: &str| format!("{}.serialized{end}", path.display());
            let openssl = |text: String| {
                let mut command = Command::new("openssl");
                command.args(["dgst", "-sha256", "-verify"]).arg(&pem).args(["-signature", &with(".sig"), &text]);
                let output = command.output().expect("openssl is installed");
                (output.status.success(), String::from_utf8(output.stdout).unwrap())
            };
            assert_eq!(openssl(with("")), (true, "Verified OK\n".into()));
            fs::write(with(".changed"), fs::read_to_string(with("")).unwrap().replace("vpc-1", "vpc-2")).unwrap();
            assert!(!openssl(with(".changed")).0);
        }
    });
}

#[test]
fn the_newest_records_are_shown_and_followed() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let signer = Software::new(1);
        let dir = logs(&state, &signer).await;
        for source in [Source::State(state.clone()), directory(dir.path())] {
            let mut tail = Tail::new(source, Some("vpc-1".parse().unwrap()), 3);
            let shown = tail.lines().await.unwrap();
            assert_eq!(shown.len(), 3);
            let failed = " vpc-1 #6 generate-secret i-0A@10.0.0.7 volume_uuid=Volume 1 Failed: Wrapped secret and/or context are incorrect (incorrect) [node-1]";
            assert!(shown[1].ends_with(failed), "{}", shown[1]);
            assert!(tail.lines().await.unwrap().is_empty());
        }
        let mut tail = Tail::new(Source::State(state.clone()), None, 0);
        assert!(tail.lines().await.unwrap().is_empty());
        let audit = Audit::start(state.clone(), signer.clone(), AuditSettings::new("node-2"));
        audit.record(entry("vpc-1", "1")).await.unwrap();
        audit.record(entry("vpc-9", "1")).await.unwrap();
        let shown = tail.lines().await.unwrap();
        assert!(shown.len() == 2 && shown[0].contains("vpc-1 #8 ") && shown[1].contains("vpc-9 #1 "), "{shown:?}");
        // Damage is shown as such.
        let path = file(dir.path(), "vpc-2", 7);
        let line = fs::read_to_string(&path).unwrap();
        fs::write(&path, line.replace("node-1", "Node-1")).unwrap();
        let shown = Tail::new(directory(dir.path()), Some("vpc-2".parse().unwrap()), 1).lines().await.unwrap();
        assert!(shown[0].contains("tampered"), "{shown:?}");
    });
}
