//! The master key of a mounted volume is rotated while programs work on it, and whatever is killed on the way, nothing is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::common::{PROGRAM, Volume, run, scratch, sh, succeed, text};
use crate::conformance::tool;
use crate::programs::as_postgres;
use crate::volumes;

/// `envelopefs key VERB BACKING …` with the volume's key file.
fn key(volume: &Volume, verb: &str, more: &[&str]) -> Output {
    run(Command::new(PROGRAM).args(["key", verb]).arg(volume.backing()).args(more).arg("--key-file").arg(volume.key()))
}

/// The summary of a command that must succeed.
fn summary(volume: &Volume, verb: &str, more: &[&str]) -> Value {
    let output = key(volume, verb, &[more, &["--json"]].concat());
    assert!(output.status.success(), "key {verb}: {}", text(&output));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// Headers by version, as `key status` counts them.
fn headers(volume: &Volume) -> Vec<u64> {
    let status = summary(volume, "status", &[]);
    let versions = status["versions"].as_array().expect("versions").clone();
    versions.iter().map(|version| version["headers"].as_u64().expect("a number")).collect()
}

/// Small files, a large one and one of each other kind.
fn plant(dir: &Path, files: usize) {
    for n in 0..files {
        let below = dir.join(format!("d{}", n % 7));
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(format!("f{n}")), vec![n as u8; 1 + n * 37 % 9000]).unwrap();
    }
    fs::write(dir.join("large"), vec![9; 3_000_000]).unwrap();
    fs::write(dir.join("empty"), b"").unwrap();
    std::os::unix::fs::symlink("large", dir.join("link")).unwrap();
}

fn assert_planted(dir: &Path, files: usize) {
    for n in 0..files {
        let contents = fs::read(dir.join(format!("d{}/f{n}", n % 7))).unwrap();
        assert!(contents == vec![n as u8; 1 + n * 37 % 9000], "f{n}");
    }
    assert!(fs::read(dir.join("link")).unwrap() == vec![9; 3_000_000]);
}

#[test]
fn a_mounted_volume_is_rotated_and_the_old_key_destroyed() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    plant(mount.path(), 300);
    assert_eq!(headers(&volume), [301]);
    let mtime = fs::metadata(mount.path().join("d0/f0")).unwrap().modified().unwrap();
    let foretold = summary(&volume, "rotate", &["--dry-run"]);
    assert_eq!((&foretold["would_rewrap"], headers(&volume).len()), (&Value::from(301), 1));

    let rotated = summary(&volume, "rotate", &[]);
    assert_eq!((&rotated["complete"], &rotated["failed"], &rotated["empty"]), (&true.into(), &0.into(), &1.into()));
    assert_eq!(rotated["retired"], serde_json::json!([1]));
    assert_eq!(headers(&volume), [0, 301]);
    assert_eq!(fs::metadata(mount.path().join("d0/f0")).unwrap().modified().unwrap(), mtime);

    // The grace period is not over, the active version is never destroyed, a mistyped one is not there.
    for (version, more) in [("1", None), ("2", Some("--grace-days=0")), ("9", None)] {
        let refused = key(&volume, "destroy", &[&[version][..], more.as_slice()].concat());
        assert!(!refused.status.success() && text(&refused).contains("remedy"), "{}", text(&refused));
    }
    summary(&volume, "destroy", &["1", "--grace-days", "0"]);
    fs::write(mount.path().join("new"), b"after").unwrap();
    assert_planted(mount.path(), 300);
    mount.unmount();
    volume.assert_clean();
    let mount = volume.mount();
    assert_planted(mount.path(), 300);
    assert_eq!(fs::read(mount.path().join("new")).unwrap(), b"after");
    mount.unmount();
    // And not mounted.
    let verified =
        run(Command::new(PROGRAM).args(["audit", "verify"]).arg(volume.backing()).arg("--key-file").arg(volume.key()));
    assert!(verified.status.success(), "{}", text(&verified));
    let log = succeed(Command::new(PROGRAM).args(["audit", "show"]).arg(volume.backing()));
    for operation in ["init", "mount", "rotate", "retire", "destroy"] {
        assert!(log.contains(operation), "{operation}: {log}");
    }
    assert_eq!(summary(&volume, "rotate", &[])["rewrapped"], 302);
    assert_eq!(headers(&volume), [0, 0, 302]);
}

/// The backing files of all regular files.
fn stored_files(backing: &Path) -> Vec<PathBuf> {
    let find = "find . -name .envelopefs -prune -o -type f -print";
    sh(backing, find).lines().map(|path| backing.join(path)).collect()
}

/// What a version still protects is named before it is lost, and lost only on request.
#[test]
fn a_needed_version_is_destroyed_only_when_the_loss_is_wanted() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    fs::create_dir(mount.path().join("secrets")).unwrap();
    fs::write(mount.path().join("secrets/.env"), b"KEY=1").unwrap();
    mount.unmount();
    // The file comes back from a backup of before the rotation.
    let stored = stored_files(volume.backing());
    let [stored] = &stored[..] else { panic!("one file: {stored:?}") };
    let backup = fs::read(stored).unwrap();
    assert_eq!(summary(&volume, "rotate", &[])["complete"], true);
    fs::write(stored, backup).unwrap();
    assert_eq!(headers(&volume), [1, 0]);
    for refused in [key(&volume, "destroy", &["1", "--grace-days=0"]), key(&volume, "retire", &["1"])] {
        assert!(text(&refused).contains("need master key version 1"), "{}", text(&refused));
    }
    let foretold = summary(&volume, "destroy", &["1", "--lose-data", "--dry-run"]);
    assert_eq!(foretold["lost"], serde_json::json!(["/secrets/.env"]));
    assert_eq!(headers(&volume), [1, 0]);
    summary(&volume, "destroy", &["1", "--lose-data"]);
    let mount = volume.mount();
    let error = fs::read(mount.path().join("secrets/.env")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOKEY));
    mount.unmount();
}

#[test]
fn a_rotation_killed_on_the_way_is_resumed() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    plant(mount.path(), 400);
    // The daemon dies in the middle.
    let mut rotating = Command::new(PROGRAM);
    rotating.args(["key", "rotate", "--quiet", "--rate", "300", "--threads", "1"]).arg(volume.backing());
    let mut rotating =
        rotating.arg("--key-file").arg(volume.key()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    mount.kill();
    assert!(!rotating.wait().unwrap().success());
    let mount = volume.mount();
    assert_planted(mount.path(), 400);
    let [old, new] = headers(&volume)[..] else { panic!("two versions") };
    assert_eq!(old + new, 401);
    assert!(old > 0, "the rotation was in its middle");
    // The command dies; the daemon goes on without it, and another command waits for it or does the rest.
    let mut resuming = Command::new(PROGRAM);
    resuming.args(["key", "rotate", "--resume", "--quiet", "--rate", "300", "--threads", "1"]).arg(volume.backing());
    let mut resuming =
        resuming.arg("--key-file").arg(volume.key()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    resuming.kill().unwrap();
    resuming.wait().unwrap();
    let finished = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        key(&volume, "rotate", &["--resume"]).status.success()
    });
    assert!(finished);
    assert_eq!(headers(&volume), [0, 401]);
    mount.unmount();
    // And the offline command dies.
    let stopped = run(Command::new("timeout")
        .args(["-s", "KILL", "0.6", PROGRAM, "key", "rotate"])
        .arg(volume.backing())
        .args(["--threads=1", "--rate=300", "--key-file"])
        .arg(volume.key()));
    assert!(!stopped.status.success());
    assert_eq!(summary(&volume, "rotate", &["--resume"])["complete"], true);
    assert_eq!(headers(&volume), [0, 0, 401]);
    for version in ["1", "2"] {
        summary(&volume, "destroy", &[version, "--grace-days", "0"]);
    }
    volume.assert_clean();
    let mount = volume.mount();
    assert_planted(mount.path(), 400);
    mount.unmount();
}

/// Three rotations, the daemon killed in one of them, under PostgreSQL and fsx.
#[test]
fn rotations_under_load_disturb_nobody() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount_with("allow_other");
    let artifacts = scratch();
    let home = mount.path().join("pg");
    fs::create_dir(&home).unwrap();
    succeed(Command::new("chown").arg("postgres:postgres").arg(&home));
    succeed(Command::new("chmod").arg("700").arg(&home));
    let start =
        "pg_ctl -w -s -l log start -o \"-k $PGHOST -c listen_addresses= -c shared_buffers=16MB -c max_connections=20\"";
    as_postgres(
        &home,
        &format!("initdb -k --no-instructions >/dev/null; {start}; pgbench -q -i -s 1 postgres 2>/dev/null"),
    );
    let rotated = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let fsx = scope.spawn(|| {
            let mut seed = 0;
            while !rotated.load(Ordering::Relaxed) {
                seed += 1;
                let mut command = Command::new(tool("fsx"));
                command.args(["-N", "300", "-S", &seed.to_string(), "-P"]).arg(artifacts.path());
                succeed(command.arg(mount.path().join(format!("fsx-{seed}"))));
            }
        });
        let bench = scope.spawn(|| {
            while !rotated.load(Ordering::Relaxed) {
                as_postgres(&home, "pgbench -n -c 2 -t 20 postgres >/dev/null 2>&1");
            }
        });
        for _ in 0..2 {
            let summary = summary(&volume, "rotate", &["--rate", "2000"]);
            assert_eq!((&summary["complete"], &summary["failed"]), (&true.into(), &0.into()), "{summary}");
        }
        rotated.store(true, Ordering::Relaxed);
        fsx.join().unwrap();
        bench.join().unwrap();
    });
    summary(&volume, "destroy", &["1", "--grace-days", "0"]);
    // The third one, with the daemon killed under the database.
    as_postgres(&home, "psql -qc 'create table seen as select count(*) from pgbench_history' postgres");
    let server = as_postgres(&home, "head -1 data/postmaster.pid");
    let mut rotating = Command::new(PROGRAM);
    rotating
        .args(["key", "rotate", "--quiet", "--rate", "400"])
        .arg(volume.backing())
        .arg("--key-file")
        .arg(volume.key());
    let mut rotating = rotating.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(600));
    mount.kill();
    rotating.wait().unwrap();
    // Whose files are gone from under it; not the servers of other tests.
    let _ = run(Command::new("pkill").args(["-KILL", "-P", server.trim()]));
    let _ = run(Command::new("kill").args(["-KILL", server.trim()]));
    let mount = volume.mount_with("allow_other");
    assert_eq!(summary(&volume, "rotate", &["--resume"])["complete"], true);
    let said = as_postgres(
        &home,
        &format!(
            "rm -f data/postmaster.pid .s.PGSQL.*; {start} || {{ cat log; exit 1; }}; psql -Atc 'select (select count(*) from pgbench_history) >= (select * from seen)' postgres
             pg_ctl -w -s stop -m fast; pg_checksums --check >/dev/null"
        ),
    );
    assert_eq!(said, "t\n");
    for version in ["2", "3"] {
        summary(&volume, "destroy", &[version, "--grace-days", "0"]);
    }
    mount.unmount();
    volume.assert_clean();
}

/// Says something to the daemon as a user, by the ioctl that is for it; the answer, or the number of the error.
fn ask(mountpoint: &Path, uid: u32, request: &str) -> String {
    let script = "
import fcntl, os, sys
buffer = bytearray(8192)
buffer[:len(sys.argv[2])] = sys.argv[2].encode()
try:
    fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0xe000e501, buffer)
    print(bytes(buffer).rstrip(b'\\0').decode())
except OSError as error:
    print(error.errno)
";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(mountpoint).arg(request).uid(uid).gid(uid).current_dir("/");
    succeed(&mut command).trim().to_owned()
}

/// A walk that was stopped has not seen everything: what it has not counted may need any version.
#[test]
fn a_walk_that_was_stopped_proves_nothing() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    plant(mount.path(), 400);
    let slow = |verb: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["key"]).args(verb).arg(volume.backing()).args(["--rate", "100", "--threads", "1", "--quiet"]);
        let command = command.arg("--key-file").arg(volume.key()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let command = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1200));
        assert!(ask(mount.path(), 0, r#"{"op":"progress"}"#).contains(r#""running":true"#));
        assert!(ask(mount.path(), 0, r#"{"op":"stop"}"#).contains("done"));
        command.wait_with_output().unwrap()
    };
    let stopped = slow(&["rotate"]);
    assert!(!stopped.status.success() && text(&stopped).contains("stopped before its end"), "{}", text(&stopped));
    let listed = succeed(Command::new(PROGRAM).args(["key", "list"]).arg(volume.backing()));
    assert!(listed.contains("deactivated"), "not retired, let alone destroyed: {listed}");
    let status = summary(&volume, "status", &[]);
    assert!(
        status["versions"][0]["headers"].as_u64() > Some(0) && status["versions"][0]["retired"].is_null(),
        "{status}"
    );
    assert_eq!(summary(&volume, "rotate", &["--resume"])["complete"], true);
    mount.unmount();
}

/// Whoever may look at the mount may not on that account give its daemon orders.
#[test]
fn only_root_and_the_daemons_user_reach_the_daemon() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount_with("allow_other");
    fs::set_permissions(mount.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let ask = |uid: u32, request: &str| ask(mount.path(), uid, request);
    assert_eq!(ask(65534, r#"{"op":"progress"}"#), libc::EPERM.to_string());
    assert!(ask(0, r#"{"op":"progress"}"#).contains(r#""running":false"#));
    for nonsense in ["", "{", r#"{"op":"obey"}"#, r#"{"op":"walk"}"#] {
        assert!(ask(0, nonsense).contains("refused"), "{nonsense}");
    }
    let adopt = format!(r#"{{"op":"adopt","key_id":"{}","wrapped":"{}"}}"#, "0".repeat(32), "A".repeat(80));
    assert!(ask(0, &adopt).contains("not this volume's"));
    mount.unmount();
}
