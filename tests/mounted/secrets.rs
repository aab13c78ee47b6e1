//! What a live daemon lets others see: its log, its command line, its environment, and the memory that a core dump would take.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use crate::common::{Mount, PROGRAM, Volume, run, succeed, text};
use crate::volumes;

/// A secret in the forms in which it could slip out.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let debug = format!("{secret:?}");
    vec![
        secret.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        BASE64_STANDARD.encode(secret).into_bytes(),
        BASE64_URL_SAFE_NO_PAD.encode(secret).into_bytes(),
        debug.trim_matches(['[', ']']).as_bytes().to_vec(),
    ]
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Regions of a process's memory that hold the bytes and would go into a core dump (proc_pid_smaps(5), flag `dd`).
fn exposed(pid: u32, needle: &[u8]) -> Vec<String> {
    let memory = File::open(format!("/proc/{pid}/mem")).expect("mem");
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("smaps");
    let mut found = Vec::new();
    let mut region: Option<(u64, u64, String)> = None;
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let numbers =
            range.and_then(|(from, to)| Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?)));
        if let Some((from, to)) = numbers {
            region = Some((from, to, line.to_owned()));
        }
        let Some(flags) = line.strip_prefix("VmFlags:") else { continue };
        let Some((from, to, name)) = region.take() else { continue };
        if flags.split(' ').any(|flag| flag == "dd") || !name.contains(" r") {
            continue;
        }
        let mut bytes = vec![0; (to - from) as usize];
        // Not all that is mapped can be read ([vvar]).
        if memory.read_exact_at(&mut bytes, from).is_ok() && holds(&bytes, needle) {
            found.push(name);
        }
    }
    found
}

fn assert_hidden(mount: &Mount, log: &str, secret: &[u8]) {
    let pid = mount.pid();
    for form in forms(secret) {
        for file in ["cmdline", "environ"] {
            assert!(!holds(&fs::read(format!("/proc/{pid}/{file}")).unwrap(), &form), "/proc/PID/{file}");
        }
        assert!(!holds(log.as_bytes(), &form), "the log");
        assert_eq!(exposed(pid, &form), [""; 0], "memory that is not kept out of dumps");
    }
}

#[test]
fn a_daemon_shows_no_key_and_no_passphrase() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let passphrase = b"correct horse battery staple 7319";
    let file = volume.dir().join("passphrase");
    fs::write(&file, passphrase).unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut add = Command::new(PROGRAM);
    add.args(["key", "add", "--key-file"]).arg(volume.key()).arg(volume.backing());
    succeed(add.args(["--argon2-memory=1", "--argon2-passes=1", "--new-passphrase-file"]).arg(&file));
    let key = fs::read(volume.key()).unwrap();

    for lease in [false, true] {
        for (option, path, secret) in
            [("key_file", volume.key(), &key[..]), ("passphrase_file", file.clone(), &passphrase[..])]
        {
            let mut command = Command::new(PROGRAM);
            command.args(["mount", "--foreground", "-o"]).arg(format!("{option}={}", path.display()));
            if lease {
                command.args(["-o", "lease=1"]);
            }
            command.arg(volume.backing()).arg(volume.mountpoint()).env("RUST_LOG", "trace");
            let mount = Mount::start(command, volume.mountpoint(), volume.dir().join("daemon.log"));
            fs::write(mount.path().join("file"), vec![1; 20_000]).unwrap();
            assert_eq!(fs::read(mount.path().join("file")).unwrap().len(), 20_000);
            // What looks for secrets must be able to find something: the log's own words are in memory.
            assert!(!exposed(mount.pid(), b"mountpoint").is_empty());
            if lease {
                std::thread::sleep(std::time::Duration::from_millis(1500));
            }
            assert_hidden(&mount, &mount.log_text(), secret);
            mount.unmount();
        }
    }
    // Nor do errors.
    let wrong = volume.dir().join("wrong");
    fs::copy(&file, &wrong).unwrap();
    fs::write(&wrong, b"correct horse battery staple 7318").unwrap();
    let refused = run(Command::new(PROGRAM).arg("check").arg(volume.backing()).arg("--passphrase-file").arg(&wrong));
    assert!(!refused.status.success() && !text(&refused).contains("staple"), "{}", text(&refused));
}
