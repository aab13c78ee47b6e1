//! SoftHSM tokens for tests, each test with a directory of its own, and a module that stands between to count calls and to fail.
//!
//! SoftHSM finds its tokens by an environment variable, which is the whole process's: a test in this process runs itself again as a
//! child that has it ([`in_child`]); commands get it by [`SoftHsm::environment`]. Needs the Debian packages softhsm2 and build-essential.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub const PIN: &str = "5041-Pin";
pub const SO_PIN: &str = "1234-Officer";

/// Where the child of a test finds its tokens.
const HERE: &str = "ENVELOPEFS_TEST_SOFTHSM";

/// A directory with a SoftHSM configuration and tokens.
pub struct SoftHsm {
    dir: PathBuf,
    // None in a child: the parent removes it.
    _owned: Option<tempfile::TempDir>,
}

impl SoftHsm {
    /// Without tokens.
    pub fn new() -> SoftHsm {
        assert!(Path::new(MODULE).exists(), "these tests need SoftHSM: apt install softhsm2 (contrib/test does)");
        let owned = tempfile::tempdir().unwrap();
        let softhsm = SoftHsm { dir: owned.path().to_owned(), _owned: Some(owned) };
        fs::create_dir(softhsm.tokens()).unwrap();
        softhsm.configure("ALL");
        softhsm.pin_file("pin", PIN);
        softhsm
    }

    /// Writes the configuration with these mechanisms alone, `CKM_SHA256_HMAC,CKM_AES_CBC` say, or `ALL`.
    pub fn configure(&self, mechanisms: &str) {
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.mechanisms = {mechanisms}\n",
            self.tokens().display()
        );
        fs::write(self.configuration(), text).unwrap();
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn tokens(&self) -> PathBuf {
        self.dir.join("tokens")
    }

    fn configuration(&self) -> PathBuf {
        self.dir.join("softhsm2.conf")
    }

    /// What a command needs to find the tokens.
    pub fn environment(&self) -> [(&'static str, OsString); 3] {
        [
            ("SOFTHSM2_CONF", self.configuration().into()),
            ("ENVELOPEFS_TEST_SHIM", self.control().into()),
            (HERE, self.dir.clone().into()),
        ]
    }

    /// Makes a token with the usual PIN and gives its directory, by which it can be taken away and put back.
    pub fn token(&self, label: &str) -> PathBuf {
        let before = self.entries();
        let mut command = Command::new("softhsm2-util");
        command.args(["--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN]);
        run(command.envs(self.environment()));
        self.entries().into_iter().find(|entry| !before.contains(entry)).expect("a new token")
    }

    fn entries(&self) -> Vec<PathBuf> {
        fs::read_dir(self.tokens()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// A file with a PIN that only its owner may read.
    pub fn pin_file(&self, name: &str, pin: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, format!("{pin}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A specification of a key in one of the tokens, with the right PIN.
    pub fn spec(&self, token: &str, object: &str) -> String {
        self.spec_by(Path::new(MODULE), token, object)
    }

    pub fn spec_by(&self, module: &Path, token: &str, object: &str) -> String {
        let (module, pin) = (module.display(), self.dir.join("pin"));
        format!("pkcs11:token={token};object={object}?module-path={module}&pin-source={}", pin.display())
    }

    /// `pkcs11-tool` on a token, logged in.
    pub fn tool(&self, token: &str, arguments: &[&str]) {
        let mut command = Command::new("pkcs11-tool");
        command.args(["--module", MODULE, "--token-label", token, "--login", "--pin", PIN]).args(arguments);
        run(command.envs(self.environment()));
    }

    /// Builds the module that stands between; it does what [`order`](Self::order) says and counts.
    pub fn shim(&self) -> PathBuf {
        self.build_shim("shim", false)
    }

    /// One of several in one process, with orders of its own: [`order_to`](Self::order_to), [`calls_of`](Self::calls_of).
    pub fn shim_called(&self, name: &str) -> PathBuf {
        self.build_shim(name, true)
    }

    fn build_shim(&self, name: &str, own: bool) -> PathBuf {
        let (source, library) = (self.dir.join(format!("{name}.c")), self.dir.join(format!("{name}.so")));
        let control = self.dir.join(name);
        fs::create_dir_all(&control).unwrap();
        fs::write(&source, include_str!("pkcs11_shim.c")).unwrap();
        run(Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-pthread"])
            .arg(format!("-DREAL=\"{MODULE}\""))
            .args(own.then(|| format!("-DCONTROL=\"{}\"", control.display())))
            .arg(&source)
            .args(["-ldl", "-o"])
            .arg(&library));
        fs::set_permissions(&library, fs::Permissions::from_mode(0o755)).unwrap();
        library
    }

    fn control(&self) -> PathBuf {
        self.dir.join("shim")
    }

    /// From now on a function, by its name `C_Decrypt`, does not do its work: `hang`, `slow`, `garbage` (one bit of its output is wrong), `zero` (its
    /// output is), or a return value as a number. An empty order ends it, a hanging call included.
    pub fn order(&self, function: &str, order: &str) {
        self.order_to("shim", function, order);
    }

    pub fn order_to(&self, shim: &str, function: &str, order: &str) {
        let path = self.dir.join(shim).join(function);
        if order.is_empty() { fs::remove_file(path).unwrap() } else { fs::write(path, order).unwrap() }
    }

    /// How often a function was called through the shim.
    pub fn calls(&self, function: &str) -> usize {
        self.calls_of("shim", function)
    }

    pub fn calls_of(&self, shim: &str, function: &str) -> usize {
        let log = fs::read_to_string(self.dir.join(shim).join("log")).unwrap_or_default();
        log.lines().filter(|line| *line == function).count()
    }
}

impl Default for SoftHsm {
    fn default() -> Self {
        SoftHsm::new()
    }
}

/// Runs a test's body in a process of its own that has SoftHSM to itself. `test` is the test's full name; it calls this and nothing else.
pub fn in_child(test: &str, body: impl FnOnce(&SoftHsm)) {
    if let Some(dir) = std::env::var_os(HERE) {
        return body(&SoftHsm { dir: dir.into(), _owned: None });
    }
    let softhsm = SoftHsm::new();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture", "--test-threads", "1"]).envs(softhsm.environment());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("1 passed"),
        "{test} in its own process ({}): {text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{test} in its own process ended badly: {}", output.status);
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
}
