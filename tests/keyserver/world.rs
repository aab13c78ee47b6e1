//! An installation of a test's own: a token, a state, a configuration, two tenants, and the program that serves them.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::server::{Authority, closed_port};
use crate::softhsm::{MODULE, SoftHsm};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_envelopefs-keyserver");
/// The first tenant, and its machine whose certificate [`World::curl`] shows.
pub(crate) const TENANT: &str = "vpc-0b1e8a8e776a87423";
pub(crate) const INSTANCE: &str = "i-095af01fb0461e052";
/// Another machine of that tenant.
pub(crate) const OTHER: &str = "i-0fedcba9876543210";
/// Another tenant.
pub(crate) const STRANGER: &str = "vpc-stranger";
pub(crate) const VOLUME: &str = "b59fad1d-46f7-447c-96c8-c2f9408a00ad";

/// Longest wait for the program.
const PATIENCE: Duration = Duration::from_secs(60);

/// An installation.
pub(crate) struct World {
    pub(crate) softhsm: SoftHsm,
    pub(crate) authority: Authority,
    pub(crate) strangers: Authority,
    dir: tempfile::TempDir,
    port: u16,
    pub(crate) admin: u16,
    process: Option<Child>,
    /// Method, path, status and body of each call, to be held against the server's own description.
    seen: RefCell<Vec<Value>>,
}

/// Holds what was seen against the OpenAPI document. Its schemas are JSON Schema of 2020-12, as OpenAPI 3.1 says.
const JUDGE: &str = r##"
import json, re, sys
from jsonschema import Draft202012Validator
document, seen = (json.load(open(name)) for name in sys.argv[1:3])
judged = 0
for call in seen:
    path = re.sub("/+", "/", call["path"])
    for template, methods in document["paths"].items():
        if re.fullmatch(re.sub(r"\{[^}]*\}", "[^/]+", template), path):
            break
    else:
        assert call["status"] == 404, call
        continue
    responses = next(about for method, about in methods.items() if method in ("get", "post"))["responses"]
    response = responses.get(str(call["status"]), responses.get("default"))
    assert response, f"not described: {call}"
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    schema = dict(response["content"]["application/json"]["schema"], components=document["components"])
    Draft202012Validator(schema).validate(json.loads(call["body"]))
    judged += 1
print(judged)
"##;

/// What curl brought.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The member of the answer, decoded.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let value = self.json();
        let text = value[name].as_str().unwrap_or_else(|| panic!("no {name}: {self:?}"));
        BASE64_STANDARD.decode(text).expect("strict base64")
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

impl World {
    /// Initialised, with both tenants, not yet serving.
    pub(crate) fn new() -> World {
        World::with("")
    }

    /// With further lines at the end of the configuration.
    pub(crate) fn with(more: &str) -> World {
        let dir = tempfile::tempdir().unwrap();
        let softhsm = SoftHsm::new();
        softhsm.token("keys");
        let (authority, strangers) = (Authority::new(), Authority::new());
        let world = World {
            softhsm,
            authority,
            strangers,
            dir,
            port: closed_port(),
            admin: closed_port(),
            process: None,
            seen: RefCell::default(),
        };
        world.certificate(&world.authority, "localhost", "server");
        world.write("ca.pem", &world.authority.pem);
        world.write("strangers.pem", &world.strangers.pem);
        for (authority, instance) in
            [(&world.authority, INSTANCE), (&world.authority, OTHER), (&world.strangers, "i-stranger")]
        {
            world.certificate(authority, instance, instance);
        }
        world.configure(more);
        let (pem, ca, strangers) = (world.path("signing.pem"), world.path("ca.pem"), world.path("strangers.pem"));
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        world.succeed(&[
            "init",
            "--tenant",
            TENANT,
            "--account-id",
            "123456789012",
            "--ca",
            &text(&ca),
            "--convert",
            "any",
            "--signing-key",
            &text(&pem),
        ]);
        world.succeed(&["tenant", "add", STRANGER, "--account-id", "210987654321", "--ca", &text(&strangers)]);
        world
    }

    fn configure(&self, more: &str) {
        let (port, admin) = (self.port, self.admin);
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        let (state, records, pin) = (self.path("state.sqlite"), self.path("records"), self.softhsm.dir().join("pin"));
        fs::create_dir_all(&records).unwrap();
        self.write(
            "keyserver.toml",
            format!(
                "[listen]\naddress = \"127.0.0.1:{port}\"\ncertificate = {certificate:?}\nkey = {key:?}\n\
                 [admin]\nlisten = [\"127.0.0.1:{admin}\"]\n\
                 [hsm]\ninsecure_software_oaep = true\npin = {pin:?}\n[[hsm.token]]\nuri = \"pkcs11:token=keys\"\nmodule = {MODULE:?}\n\
                 [state]\nurl = \"sqlite:{}\"\n\
                 [audit]\nserver_id = \"node-a\"\nbefore_answer = [\"archive\"]\n[[audit.sinks]]\nkind = \"directory\"\nname = \"archive\"\npath = {records:?}\n\
                 {more}\n",
                state.display()
            ),
        );
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where audit records are copied to.
    pub(crate) fn records(&self) -> PathBuf {
        self.path("records")
    }

    /// A file that only its owner may read.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// `FILE.pem` and `FILE.key` of a name.
    pub(crate) fn certificate(&self, authority: &Authority, name: &str, file: &str) {
        let (certificate, key) = authority.issue(name);
        self.write(&format!("{file}.pem"), certificate.pem());
        self.write(&format!("{file}.key"), key.serialize_pem());
    }

    /// A verb of the program.
    pub(crate) fn verb(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(self.path("keyserver.toml")).args(arguments);
        command.envs(self.softhsm.environment()).stdin(Stdio::null()).output().expect("the program runs")
    }

    /// A verb that works, and what it says.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.verb(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Serves until [`stop`](Self::stop).
    pub(crate) fn serve(&mut self) {
        self.serve_until(204);
    }

    /// The same, and waits until the server says this of its health.
    pub(crate) fn serve_until(&mut self, health: u16) {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.path("log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(self.path("keyserver.toml")).arg("serve").envs(self.softhsm.environment());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().expect("the program runs"));
        let start = Instant::now();
        while self.desk(&[], "healthcheck").status != health {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "{ended:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the server wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Asks it to end, and sees that it does so well.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        rustix::process::kill_process(rustix::process::Pid::from_child(&process), rustix::process::Signal::TERM)
            .unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = process.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Where callers are listened to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Memory that the server has, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let process = self.process.as_ref().expect("it runs").id();
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Base address, as the original's installer prints it: with a slash at its end.
    pub(crate) fn base(&self) -> String {
        format!("https://localhost:{}/v1/", self.port)
    }

    /// curl as [`INSTANCE`], `more` in front of the path.
    pub(crate) fn curl(&self, more: &[&str], path: &str) -> Answer {
        self.curl_as(INSTANCE, more, path)
    }

    /// curl with the certificate of a machine, if it has one, and with the dummy that scripts send.
    pub(crate) fn curl_as(&self, machine: &str, more: &[&str], path: &str) -> Answer {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "-i", "--max-time", "60", "-H", "Authorization: osef"])
            .arg("--cacert")
            .arg(self.path("ca.pem"));
        if !machine.is_empty() {
            command.arg("--cert").arg(self.path(&format!("{machine}.pem")));
            command.arg("--key").arg(self.path(&format!("{machine}.key")));
        }
        let answer = run_curl(command.args(more).arg(format!("{}{path}", self.base())));
        self.seen
            .borrow_mut()
            .push(json!({"path": format!("/v1/{path}"), "status": answer.status, "body": answer.body}));
        answer
    }

    /// Holds all that was answered so far against the server's OpenAPI document, and says how much that was.
    pub(crate) fn judge(&self) -> usize {
        self.write("openapi.json", &self.curl_as("", &[], "openapi.json").body);
        self.write("seen.json", Value::from(self.seen.take()).to_string());
        let python = std::env::var_os("ENVELOPEFS_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let mut command = Command::new(python);
        let output =
            command.args(["-c", JUDGE]).args([self.path("openapi.json"), self.path("seen.json")]).output().unwrap();
        assert!(output.status.success(), "needs Python's jsonschema (contrib/test installs it): {}", told(&output));
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }

    /// POSTs JSON.
    pub(crate) fn post(&self, machine: &str, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        self.curl_as(machine, &["-H", "Content-Type: application/json", "-d", &body], path)
    }

    /// One of the three calls.
    pub(crate) fn call(&self, machine: &str, instance: &str, operation: &str, body: &Value) -> Answer {
        // As scripts join it, which gives two slashes.
        self.post(machine, &format!("/encryption/{instance}/{operation}-secret"), body)
    }

    /// The admin listener.
    pub(crate) fn desk(&self, more: &[&str], path: &str) -> Answer {
        let mut command = Command::new("curl");
        command.args(["-sS", "-i", "--max-time", "60"]).args(more);
        let output =
            command.arg(format!("http://localhost:{}/{path}", self.admin)).output().expect("curl is installed");
        parsed(&output).unwrap_or(Answer { status: 0, head: String::new(), body: told(&output) })
    }

    /// `openssl`, in this directory.
    pub(crate) fn openssl(&self, arguments: &[&str]) -> Output {
        Command::new("openssl").args(arguments).current_dir(self.dir.path()).output().expect("openssl is installed")
    }

    /// A new one-time key, as agents make it: its file, and the public half as they send it.
    pub(crate) fn one_time_key(&self, name: &str, bits: u32) -> String {
        let done = self.openssl(&["genrsa", "-out", name, &bits.to_string()]);
        assert!(done.status.success(), "{}", told(&done));
        let public = self.openssl(&["rsa", "-in", name, "-pubout", "-outform", "DER"]);
        BASE64_STANDARD.encode(public.stdout)
    }

    /// Opens a `wrapped_secret` as agents do.
    pub(crate) fn open(&self, key: &str, wrapped: &[u8]) -> Option<Vec<u8>> {
        self.write("wrapped", wrapped);
        let arguments = ["pkeyutl", "-decrypt", "-inkey", key, "-in", "wrapped", "-pkeyopt", "rsa_padding_mode:oaep"];
        let digests = ["-pkeyopt", "rsa_oaep_md:sha256", "-pkeyopt", "rsa_mgf1_md:sha256"];
        let done = self.openssl(&[&arguments[..], &digests].concat());
        done.status.success().then_some(done.stdout)
    }

    /// Whether a signature is the server's, in openssl's opinion.
    pub(crate) fn is_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        self.write("signed", bytes);
        self.write("signature", signature);
        let done = self.openssl(&["dgst", "-sha256", "-verify", "signing.pem", "-signature", "signature", "signed"]);
        done.status.success() && String::from_utf8_lossy(&done.stdout).trim() == "Verified OK"
    }

    /// The records of a log as they were copied, in order.
    pub(crate) fn log_of(&self, tenant: &str) -> Vec<Value> {
        let mut files: Vec<PathBuf> = match fs::read_dir(self.records().join(tenant)) {
            Ok(files) => files.map(|file| file.unwrap().path()).collect(),
            Err(_) => Vec::new(),
        };
        files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        files.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub(crate) fn told(output: &Output) -> String {
    format!("{} {} {}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run_curl(command: &mut Command) -> Answer {
    let output = command.output().expect("curl is installed");
    parsed(&output).unwrap_or_else(|| panic!("no answer to {command:?}: {}", told(&output)))
}

/// Status, head and body of the last answer in curl's output; those before are `100 Continue`.
fn parsed(output: &Output) -> Option<Answer> {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    loop {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        if status >= 200 {
            return Some(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() });
        }
        text = body.to_owned();
    }
}
