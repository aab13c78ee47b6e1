//! An installation of a test's own: a token, certificates, a configuration, and the program run on them.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use serde_json::Value;

use super::softhsm::{MODULE, SoftHsm};

pub(crate) const KEYSERVER: &str = env!("CARGO_BIN_EXE_envelopefs-keyserver");

/// A token `keys`, the authority and server certificate, and a configuration; nothing is initialised.
pub(crate) struct Site {
    pub(crate) softhsm: SoftHsm,
    dir: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Site {
    pub(crate) fn new() -> Site {
        let softhsm = SoftHsm::new();
        softhsm.token("keys");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let site = Site { softhsm, dir: tempfile::tempdir().unwrap(), authority };
        fs::create_dir(site.path("records")).unwrap();
        site.write("ca.pem", &site.authority.pem());
        site.issue("server", "localhost", ExtendedKeyUsagePurpose::ServerAuth);
        site.configure("keyserver.toml", "");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path as an argument.
    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file that only its owner may use.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Writes `NAME.pem` and `NAME-key.pem` for a DNS name.
    pub(crate) fn issue(&self, name: &str, dns: &str, usage: ExtendedKeyUsagePurpose) {
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}-key.pem"), &key.serialize_pem());
    }

    /// The text of a configuration whose state is a file of its name.
    pub(crate) fn configuration(&self, name: &str) -> String {
        let (dir, pin) = (self.dir.path().display(), self.softhsm.dir().join("pin"));
        format!(
            "[listen]\naddress = \"127.0.0.1:0\"\ncertificate = \"{dir}/server.pem\"\nkey = \"{dir}/server-key.pem\"\n\
             [admin]\nlisten = [\"{dir}/admin.sock\"]\n\
             [hsm]\npin = \"{}\"\ninsecure_software_oaep = true\n\
             [[hsm.token]]\nuri = \"pkcs11:token=keys\"\nmodule = \"{MODULE}\"\n\
             [state]\nurl = \"sqlite:{dir}/{name}.sqlite\"\n\
             [audit]\nserver_id = \"test\"\n\
             [[audit.sinks]]\nkind = \"directory\"\nname = \"files\"\npath = \"{dir}/records\"\n",
            pin.display()
        )
    }

    /// Writes a configuration with more at its end.
    pub(crate) fn configure(&self, name: &str, more: &str) {
        self.write(name, &format!("{}{more}", self.configuration(name)));
    }

    pub(crate) fn command(&self, config: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(KEYSERVER);
        command.arg("--config").arg(self.path(config)).args(arguments).envs(self.softhsm.environment());
        command.current_dir(self.dir.path()).stdin(std::process::Stdio::null());
        command
    }

    /// Runs the program to its end with the first configuration.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_with("keyserver.toml", arguments)
    }

    pub(crate) fn run_with(&self, config: &str, arguments: &[&str]) -> Output {
        let output = self.command(config, arguments).output().unwrap();
        let pin = super::softhsm::PIN;
        assert!(
            !text(&output.stdout).contains(pin) && !text(&output.stderr).contains(pin),
            "{arguments:?} tells the PIN"
        );
        output
    }

    /// Runs it to a good end, and gives what it printed.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", output.status, text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let out = self.succeed(&[arguments, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
    }

    /// Runs it to an end with this code, and gives what it said: a fact, and a remedy.
    pub(crate) fn fail(&self, code: i32, arguments: &[&str]) -> String {
        self.fail_with("keyserver.toml", code, arguments)
    }

    pub(crate) fn fail_with(&self, config: &str, code: i32, arguments: &[&str]) -> String {
        let output = self.run_with(config, arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.starts_with("envelopefs-keyserver: ") && said.contains("\n  remedy: "), "{arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    /// An installation with the tenant `acme`, whose instances show certificates.
    pub(crate) fn init(&self) {
        let (ca, pem) = (self.arg("ca.pem"), self.arg("signing.pem"));
        self.succeed(&["init", "--tenant", "acme", "--account-id", "1", "--ca", &ca, "--signing-key", &pem]);
    }

    /// Lets a node's module answer as one whose device was pulled (CKR_DEVICE_REMOVED), until the closure ends: SoftHSM has in memory
    /// what it has once read.
    pub(crate) fn without_device(&self, meanwhile: impl FnOnce()) {
        const CALLS: [&str; 7] =
            ["GetSlotList", "GetTokenInfo", "OpenSession", "FindObjectsInit", "SignInit", "DeriveKey", "UnwrapKey"];
        let order = |order: &str| CALLS.iter().for_each(|call| self.softhsm.order(&format!("C_{call}"), order));
        order("0x32");
        meanwhile();
        order("");
    }

    /// Has a node reach the token by the module that obeys orders.
    pub(crate) fn use_shim(&self, node: &str) {
        let shim = self.softhsm.shim();
        let text = fs::read_to_string(self.path(node)).unwrap();
        self.write(node, &text.replace(MODULE, shim.to_str().unwrap()));
    }

    /// Writes a node's configuration: its own port and admin socket, and this state.
    pub(crate) fn configure_node(&self, node: &str, url: &str) -> u16 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = self.configuration(node);
        let state = text.lines().find(|line| line.starts_with("url = ")).unwrap();
        let text =
            text.replace(state, &format!("url = \"{url}\"")).replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
        let text = text
            .replace("admin.sock", &format!("{node}.sock"))
            .replace("server_id = \"test\"", &format!("server_id = \"{node}\""));
        let more = "[limits]\naddress_requests_per_second = 100000\naddress_burst = 100000\ntenant_requests_per_second = 100000\ntenant_burst = 100000\n";
        self.write(node, &format!("{text}{more}"));
        port
    }

    /// Starts a node and waits until it is ready.
    pub(crate) fn serve(&self, node: &str) -> Node {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.path(&format!("{node}.log"))).unwrap();
        let mut command = self.command(node, &["serve"]);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let node_running = Node(child);
        let ready = self.run_with(node, &["status", "--wait", "60s"]);
        let said = fs::read_to_string(self.path(&format!("{node}.log"))).unwrap();
        assert!(ready.status.success(), "{}\n{said}", text(&ready.stdout));
        node_running
    }

    /// A name below the site exists.
    pub(crate) fn exists(&self, name: &str) -> bool {
        Path::new(&self.path(name)).exists()
    }
}

/// A server that runs.
pub(crate) struct Node(Child);

impl Node {
    /// As an operator does: it ends well.
    pub(crate) fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success(), "the server did not end well");
    }

    /// As a power cut does.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
