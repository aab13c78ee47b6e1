//! Volumes whose key is in a token: SoftHSM, through the installed command and real mounts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Mount, PROGRAM, run, scratch, succeed, text};
use crate::softhsm::{PIN, SoftHsm};
use crate::volumes;

/// A key provider cannot be reached, refuses, or is not set up.
const PROVIDER: Option<i32> = Some(9);

/// Tokens, and a volume beside them that is not made yet.
struct Bench {
    softhsm: SoftHsm,
    _scratch: tempfile::TempDir,
    backing: PathBuf,
    mountpoint: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let (softhsm, scratch) = (SoftHsm::new(), scratch());
        let (backing, mountpoint) = (scratch.path().join("backing"), scratch.path().join("mnt"));
        fs::create_dir(&backing).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        Bench { softhsm, _scratch: scratch, backing, mountpoint }
    }

    /// `envelopefs` with the tokens in reach.
    fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).envs(self.softhsm.environment()).stdin(Stdio::null());
        command
    }

    fn init(&self, spec: &str) -> Output {
        run(self.command(["init", "--provider", spec]).arg(&self.backing))
    }

    fn mount(&self, spec: &str) -> Mount {
        let mut command = self.command(["mount", "--foreground", "-o"]);
        command.arg(format!("provider={spec}")).arg(&self.backing).arg(&self.mountpoint);
        Mount::start(command, self.mountpoint.clone(), self.softhsm.dir().join("daemon.log"))
    }

    /// A mount that must be refused: its exit code and words. It goes to the background as fstab's do.
    fn refused(&self, spec: &str) -> (Option<i32>, String) {
        let output = run(self.command(["mount", "--provider", spec]).arg(&self.backing).arg(&self.mountpoint));
        assert!(!output.status.success(), "{spec} mounts");
        let said = text(&output);
        assert!(!said.contains(PIN), "{said}");
        (output.status.code(), said)
    }
}

#[test]
fn a_volume_lives_with_a_key_that_never_leaves_its_token() {
    if !volumes() {
        return;
    }
    let bench = Bench::new();
    bench.softhsm.token("hsm");
    let spec = bench.softhsm.spec("hsm", "app");
    let output = bench.init(&format!("{spec}&make=true"));
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("key \"app\" of token \"hsm\""), "{}", text(&output));

    let mount = bench.mount(&spec);
    fs::write(mount.path().join("secret"), "kept").unwrap();
    // Nothing of the PIN where others can look, and the module is not in use any more.
    let proc = PathBuf::from(format!("/proc/{}", mount.pid()));
    for file in ["environ", "cmdline"] {
        let bytes = fs::read(proc.join(file)).unwrap();
        assert!(!bytes.windows(PIN.len()).any(|window| window == PIN.as_bytes()), "{file}");
    }
    let threads = fs::read_dir(proc.join("task"))
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    assert!(!threads.into_iter().any(|name| name.starts_with("pkcs11")), "no thread of the provider is left");
    assert!(!mount.log_text().contains(PIN));
    mount.unmount();

    let mount = bench.mount(&spec);
    assert_eq!(fs::read_to_string(mount.path().join("secret")).unwrap(), "kept");
    mount.unmount();
    // A new master key, wrapped by the same key of the token.
    succeed(bench.command(["key", "rotate", "--quiet", "--provider", &spec]).arg(&bench.backing));
    let listed = succeed(bench.command(["key", "list"]).arg(&bench.backing));
    assert!(listed.contains("pkcs11"), "{listed}");
    let mount = bench.mount(&spec);
    assert_eq!(fs::read_to_string(mount.path().join("secret")).unwrap(), "kept");
    mount.unmount();
}

#[test]
fn another_token_key_or_pin_does_not_mount() {
    if !volumes() {
        return;
    }
    let bench = Bench::new();
    let away = bench.softhsm.token("hsm");
    bench.softhsm.token("other");
    let spec = bench.softhsm.spec("hsm", "app");
    assert!(bench.init(&format!("{spec}&make=true")).status.success());
    for (token, object) in [("other", "app"), ("hsm", "another")] {
        let made = format!("{}&make=true", bench.softhsm.spec(token, object));
        succeed(&mut bench.command(["key", "probe", "--provider", &made]));
        let (code, said) = bench.refused(&bench.softhsm.spec(token, object));
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("none of") || said.contains("opens"), "{said}");
    }
    let (code, said) = bench.refused(&bench.softhsm.spec("hsm", "missing"));
    assert_eq!(code, PROVIDER, "{said}");
    assert!(said.contains("there is no key \"missing\""), "{said}");

    let wrong = bench.softhsm.pin_file("wrong", "0000");
    let with_wrong = spec.replace(bench.softhsm.dir().join("pin").to_str().unwrap(), wrong.to_str().unwrap());
    let (code, said) = bench.refused(&with_wrong);
    assert_eq!(code, PROVIDER, "{said}");
    assert!(said.contains("the PIN is wrong") && said.contains("not tried again"), "{said}");
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o644)).unwrap();
    let (_, said) = bench.refused(&with_wrong);
    assert!(said.contains("can be used by others"), "{said}");

    fs::rename(&away, bench.softhsm.dir().join("away")).unwrap();
    let (code, said) = bench.refused(&spec);
    assert_eq!(code, PROVIDER, "{said}");
    assert!(said.contains("cannot be reached") && said.contains("present: \"other\""), "{said}");
}

#[test]
fn the_pin_comes_by_descriptor_or_systemd_credential_as_well() {
    if !volumes() {
        return;
    }
    let bench = Bench::new();
    bench.softhsm.token("hsm");
    let spec = bench.softhsm.spec("hsm", "app");
    assert!(bench.init(&format!("{spec}&make=true")).status.success());
    let bare = spec.split("&pin-source").next().unwrap();
    let (_, said) = bench.refused(bare);
    assert!(said.contains("wants a PIN") && said.contains("pin-source"), "{said}");

    let by_fd = format!("{bare}&pin-fd=3");
    let line =
        ["exec \"$0\" check --quiet --provider \"$1\" \"$2\" 3<", bench.softhsm.dir().join("pin").to_str().unwrap()]
            .concat();
    let mut shell = Command::new("sh");
    shell.args(["-c", &line, PROGRAM, &by_fd]).arg(&bench.backing).envs(bench.softhsm.environment());
    succeed(&mut shell);

    let credentials = bench.softhsm.dir().join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("hsm-pin"), PIN).unwrap();
    // systemd's are readable by the group where an ACL gives them to the service's user.
    fs::set_permissions(credentials.join("hsm-pin"), fs::Permissions::from_mode(0o440)).unwrap();
    let mut by_credential =
        bench.command(["check", "--quiet", "--provider", &format!("{bare}&pin-credential=hsm-pin")]);
    succeed(by_credential.arg(&bench.backing).env("CREDENTIALS_DIRECTORY", &credentials));

    // A provider file, as a mount's configuration names it.
    let file = bench.softhsm.dir().join("app.provider.toml");
    let lines = [
        "kind = 'pkcs11'",
        "target = 'token=gone;object=app'",
        "[[alternative]]",
        "kind = 'pkcs11'",
        "target = 'token=hsm;object=app'",
    ];
    let pin = bench.softhsm.dir().join("pin");
    let more = format!("module-path = '{}'\npin-source = '{}'\n", crate::softhsm::MODULE, pin.display());
    fs::write(&file, [&lines[..2].join("\n"), "\n", &more, &lines[2..].join("\n"), "\n"].concat()).unwrap();
    bench.mount(file.to_str().unwrap()).unmount();
}

#[test]
fn a_module_that_hangs_does_not_hang_the_mount() {
    if !volumes() {
        return;
    }
    let bench = Bench::new();
    bench.softhsm.token("hsm");
    assert!(bench.init(&format!("{}&make=true", bench.softhsm.spec("hsm", "app"))).status.success());
    let shim = bench.softhsm.shim();
    let spec = format!("{}&timeout=3", bench.softhsm.spec_by(&shim, "hsm", "app"));
    for function in ["C_Initialize", "C_Login", "C_Decrypt"] {
        bench.softhsm.order(function, "hang");
        let start = Instant::now();
        let (code, said) = bench.refused(&spec);
        assert!(start.elapsed() < Duration::from_secs(30), "{function}: {:?}", start.elapsed());
        assert_eq!(code, PROVIDER, "{said}");
        assert!(said.contains("has not answered within 3s"), "{said}");
        bench.softhsm.order(function, "");
    }
    assert_eq!(bench.softhsm.calls("exit beside a call"), 0);
    bench.mount(&spec).unmount();
}

#[test]
fn a_provider_is_probed_without_a_volume() {
    if !volumes() {
        return;
    }
    let bench = Bench::new();
    bench.softhsm.token("hsm");
    let spec = format!("{}&make=true", bench.softhsm.spec("hsm", "app"));
    let said = succeed(&mut bench.command(["key", "probe", "--provider", &spec]));
    for part in ["pkcs11: ", "SoftHSM", "serial ", "mechanism: aes-gcm", "CKM_AES_GCM", "self-test: passed"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let key = bench.softhsm.dir().join("key");
    crate::common::write_key(&key);
    let output = run(bench.command(["key", "probe", "--json", "--provider", &spec, "--key-file"]).arg(&key));
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let providers = report["providers"].as_array().unwrap();
    assert_eq!(
        providers.iter().map(|provider| provider["kind"].as_str().unwrap()).collect::<Vec<_>>(),
        ["key-file", "pkcs11"]
    );
    assert!(providers.iter().all(|provider| provider["failure"].is_null()), "{report}");
    let missing = bench.softhsm.spec("none", "app");
    let output = run(&mut bench.command(["key", "probe", "--provider", &missing]));
    assert_eq!(output.status.code(), PROVIDER);
    assert!(
        text(&output).contains("self-test: failed") && text(&output).contains("no such token"),
        "{}",
        text(&output)
    );
    assert!(!Path::new(&bench.backing).join(".envelopefs").exists());
}
