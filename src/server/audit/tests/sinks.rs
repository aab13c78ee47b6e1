use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::super::sink::UNFINISHED;
use super::*;

/// Waits until something is so.
async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} does not come about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn copied(audit: &Audit) {
    until("a complete sink", || async { audit.sinks().await.unwrap().iter().all(|sink| sink.behind == 0) }).await;
}

fn settings(sink: &Sink) -> AuditSettings {
    AuditSettings { sinks: vec![sink.clone()], ..AuditSettings::new("node-1") }
}

/// All records below a directory, by their paths relative to it. Not what a writer that lost the race for a name is about to remove.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for log in fs::read_dir(root).unwrap() {
        for file in fs::read_dir(log.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if !path.file_name().unwrap().to_string_lossy().starts_with(UNFINISHED) {
                all.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_directory_gets_every_record_byte_for_byte() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let dir = tempfile::tempdir().unwrap();
        let sink = Sink::directory("files", dir.path()).unwrap();
        let audit = Audit::start(state.clone(), Software::new(1), settings(&sink));
        let calls = (0..150).map(|at| audit.record(entry(["vpc-1", "vpc-2", "server"][at % 3], "1")));
        futures_util::future::try_join_all(calls).await.unwrap();
        copied(&audit).await;
        assert_eq!(files(dir.path()).len(), 150);
        for log in ["vpc-1", "vpc-2", "server"] {
            for (number, record) in lines(&state, log).await {
                assert_eq!(fs::read(dir.path().join(format!("{log}/{number:09}.json"))).unwrap(), record);
            }
        }
        audit.close(Duration::from_secs(10)).await;
        // A second node, with the same sink, has nothing to do but its own.
        let other = Audit::start(state.clone(), Software::new(1), settings(&sink));
        other.record(entry("vpc-1", "1")).await.unwrap();
        copied(&other).await;
        assert_eq!(other.sinks().await.unwrap()[0].error, None);
    });
}

#[test]
fn a_sink_that_was_away_gets_what_it_missed() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("files");
        fs::create_dir(&root).unwrap();
        let sink = Sink::directory("files", &root).unwrap();
        fs::remove_dir(&root).unwrap();
        let audit = Audit::start(state.clone(), Software::new(1), settings(&sink));
        for _ in 0..10 {
            audit.record(entry("vpc-1", "1")).await.unwrap();
        }
        until("an error", || async { audit.sinks().await.unwrap()[0].error.is_some() }).await;
        assert_eq!(audit.sinks().await.unwrap()[0].behind, 10);
        fs::create_dir(&root).unwrap();
        copied(&audit).await;
        until("no error", || async { audit.sinks().await.unwrap()[0].error.is_none() }).await;
        assert_eq!(files(&root).len(), 10);
    });
}

#[test]
fn what_a_sink_holds_is_never_overwritten() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let dir = tempfile::tempdir().unwrap();
        let sink = Sink::directory("files", dir.path()).unwrap();
        let there = dir.path().join("vpc-1/000000002.json");
        fs::create_dir(there.parent().unwrap()).unwrap();
        fs::write(&there, "something else").unwrap();
        let audit = Audit::start(state.clone(), Software::new(1), settings(&sink));
        for log in ["vpc-1", "vpc-1", "vpc-1", "vpc-2"] {
            audit.record(entry(log, "1")).await.unwrap();
        }
        let status = || async { audit.sinks().await.unwrap().remove(0) };
        until("a conflict", || async { status().await.conflict }).await;
        // Another log is not held up.
        until("the other log", || async { dir.path().join("vpc-2/000000001.json").exists() }).await;
        // That it is there is noted after it is.
        until("two records behind", || async { status().await.behind == 2 }).await;
        assert!(status().await.error.unwrap().contains("record 2 of vpc-1"));
        assert_eq!(fs::read(&there).unwrap(), b"something else");
        fs::remove_file(&there).unwrap();
        copied(&audit).await;
        assert_eq!(files(dir.path()).len(), 4);
    });
}

#[test]
fn an_answer_waits_for_a_sink_that_has_to_have_its_record() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("files");
        fs::create_dir(&root).unwrap();
        let sink = Sink::directory("files", &root).unwrap();
        let settings = AuditSettings { before_answer: vec!["files".into()], ..settings(&sink) };
        let audit = Audit::start(state.clone(), Software::new(1), settings);
        for seq in 1..20 {
            assert_eq!(audit.record(entry("vpc-1", "1")).await.unwrap().seq, seq);
            assert!(root.join(format!("vpc-1/{seq:09}.json")).exists());
        }
        let away = parent.path().join("away");
        fs::rename(&root, &away).unwrap();
        let refused = audit.record(entry("vpc-1", "1")).await;
        assert!(matches!(refused, Err(AuditError::Sink(SinkError::Away { .. }))), "{refused:?}");
        fs::rename(&away, &root).unwrap();
        // The record of the refused call stays, and its number.
        assert_eq!(audit.record(entry("vpc-1", "1")).await.unwrap().seq, 21);
        copied(&audit).await;
        assert_eq!(files(&root).len(), 21);
    });
}

#[test]
fn a_lease_has_one_holder() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        assert!(state.lease("l", "a", 60).await.unwrap());
        assert!(state.lease("l", "a", 60).await.unwrap());
        assert!(!state.lease("l", "b", 60).await.unwrap());
        state.release("l", "b").await.unwrap();
        assert!(!state.lease("l", "b", 60).await.unwrap());
        state.release("l", "a").await.unwrap();
        assert!(state.lease("l", "b", 0).await.unwrap());
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(state.lease("l", "a", 60).await.unwrap(), "over");
    });
}

#[test]
fn a_sink_has_to_be_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [&file, &dir.path().join("none")] {
        let error = Sink::directory("files", path).unwrap_err().to_string();
        assert!(error.contains("files") && error.contains(path.to_str().unwrap()), "{error}");
    }
}

/// moto's S3 on a loopback port, with a bucket `audit`; ended when dropped.
pub(super) struct Moto {
    child: Child,
    pub(super) url: String,
    dir: tempfile::TempDir,
}

const BUCKET: &str = r#"
import boto3, sys
s3 = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="id", aws_secret_access_key="secret")
s3.create_bucket(Bucket="audit")
"#;

impl Moto {
    pub(super) fn start() -> Moto {
        let python = std::env::var_os("ENVELOPEFS_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(&python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().expect("Python of contrib/test");
        let mut moto = Moto { child, url: format!("http://127.0.0.1:{port}"), dir };
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = moto.child.try_wait().unwrap().is_some();
            let log = fs::read_to_string(moto.dir.path().join("log")).unwrap();
            assert!(
                !ended && start.elapsed() < Duration::from_secs(120),
                "moto does not start (contrib/test installs it): {log}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        let made = Command::new(&python).args(["-c", BUCKET, &moto.url]).status().unwrap();
        assert!(made.success());
        moto
    }

    pub(super) fn sink(&self, prefix: &str) -> Sink {
        let secret = self.dir.path().join("secret");
        fs::write(&secret, "secret\n").unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "kind = \"s3\"\nname = \"store\"\nbucket = \"audit\"\nprefix = \"{prefix}\"\nendpoint = \"{}\"\naccess_key_id = \"id\"\n\
             secret_access_key = {:?}\ninsecure_plain_http = true\n",
            self.url,
            secret.display().to_string(),
        );
        Sink::open(&toml::from_str(&text).unwrap()).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_store_gets_every_record_and_overwrites_none() {
    let moto = Moto::start();
    block_on(async {
        let database = Database::postgres();
        let state = database.open().await;
        let signer = Software::new(1);
        for prefix in ["", "a/b"] {
            let sink = moto.sink(prefix);
            let log: LogName = "vpc-1".parse().unwrap();
            assert_eq!(sink.get(&log, 1).await.unwrap(), None);
            sink.put(&log, 1, b"one").await.unwrap();
            sink.put(&log, 1, b"one").await.unwrap();
            let other = sink.put(&log, 1, b"other").await;
            assert!(matches!(other, Err(SinkError::Differs { number: 1, .. })), "{other:?}");
            assert_eq!(sink.get(&log, 1).await.unwrap().as_deref(), Some(&b"one"[..]));
            assert_eq!(sink.numbers(&log).await.unwrap(), (vec![1], None));
        }
        let sink = moto.sink("records");
        let audit = Audit::start(state.clone(), signer.clone(), settings(&sink));
        let calls = (0..60).map(|at| audit.record(entry(["vpc-1", "vpc-2"][at % 2], "1")));
        futures_util::future::try_join_all(calls).await.unwrap();
        audit.close(Duration::from_secs(30)).await;
        let source = Source::Sink(sink.clone());
        let keys = signer.key.clone().into();
        let report = crate::server::audit::verify(&source, &keys, None, Some(Duration::from_secs(60))).await.unwrap();
        let counts: Vec<_> = report.iter().map(|log| (log.log.as_str(), log.records)).collect();
        assert_eq!(counts, [("server", 1), ("vpc-1", 31), ("vpc-2", 31)]);
        let shown = Tail::new(source, None, 3).lines().await.unwrap();
        assert_eq!(shown.len(), 1 + 3 + 3);
    });
}

#[test]
fn a_store_that_is_away_is_an_error() {
    let mut moto = Moto::start();
    let sink = moto.sink("");
    moto.child.kill().unwrap();
    moto.child.wait().unwrap();
    block_on(async {
        let start = Instant::now();
        let put = sink.put(&"vpc-1".parse().unwrap(), 1, b"one").await;
        assert!(matches!(put, Err(SinkError::Away { .. })), "{put:?}");
        assert!(start.elapsed() < 2 * Duration::from_secs(20));
    });
}

#[test]
fn what_a_dead_node_left_half_written_is_no_record_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::directory("files", dir.path()).unwrap();
    let log: LogName = "vpc-1".parse().unwrap();
    block_on(async {
        sink.put(&log, 1, b"one").await.unwrap();
        let (old, new) = (dir.path().join("vpc-1/.new-old"), dir.path().join("vpc-1/.new-new"));
        for path in [&old, &new] {
            fs::write(path, "o").unwrap();
        }
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
        fs::File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(sink.numbers(&log).await.unwrap(), (vec![1], None));
        crate::server::audit::sink::sweep(&dir.path().join("vpc-1")).unwrap();
        assert!(!old.exists() && new.exists() && dir.path().join("vpc-1/000000001.json").exists());
    });
}
