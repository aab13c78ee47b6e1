//! An installation of a test's own: a token, certificates, a configuration, and the program run on them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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

    /// A name below the site exists.
    pub(crate) fn exists(&self, name: &str) -> bool {
        Path::new(&self.path(name)).exists()
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
