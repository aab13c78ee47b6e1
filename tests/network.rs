//! Network key providers as their users meet them: on real mounts with the server up, down and up again; and AWS KMS against moto, which
//! checks signatures and permissions.
//!
//! Needs root and /dev/fuse, and for moto the Python that `contrib/test` sets up (`ENVELOPEFS_TEST_PYTHON`).

mod common;
#[path = "common/fake_kms.rs"]
mod fake_kms;
#[path = "common/fake_vault.rs"]
mod fake_vault;
#[path = "common/server.rs"]
mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Mount, PROGRAM, run, scratch, succeed, text};
use envelopefs::crypto::secret::Secret;
use envelopefs::keys::{self, KeyProvider, ProviderError, SlotContext};
use fake_kms::FakeKms;
use fake_vault::{FakeVault, TOKEN};
use server::{Authority, Server, closed_port};
use uuid::Uuid;

/// The documented exit codes that matter here.
const WRONG_KEY: i32 = 3;
const PROVIDER: i32 = 9;

/// Credentials of AWS for the command, and nothing else of AWS's that the tests' own surroundings may have.
const AWS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "AKIDTEST"),
    ("AWS_SECRET_ACCESS_KEY", "geheim"),
    ("AWS_SESSION_TOKEN", "session"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

struct Place {
    _scratch: tempfile::TempDir,
    dir: PathBuf,
}

impl Place {
    fn new() -> Place {
        common::require_root_and_fuse();
        let scratch = scratch();
        let dir = scratch.path().to_owned();
        for name in ["backing", "mnt"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        Place { _scratch: scratch, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> String {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        self.path(name).to_str().unwrap().into()
    }

    /// `envelopefs` with words, of which `{b}`, `{m}` and `{d}` stand for paths.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        for word in words {
            let word = word.replace("{b}", self.path("backing").to_str().unwrap());
            let word = word.replace("{m}", self.path("mnt").to_str().unwrap());
            command.arg(word.replace("{d}", self.dir.to_str().unwrap()));
        }
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(AWS);
        command
    }

    fn mount(&self, credentials: &[&str]) -> Mount {
        let command = self.command(&[&["mount", "--foreground", "{b}", "{m}"], credentials].concat());
        Mount::start(command, self.path("mnt"), self.path("daemon.log"))
    }

    /// A mount that must fail, and what it says.
    fn mount_fails(&self, credentials: &[&str], code: i32) -> String {
        let start = Instant::now();
        let output = run(&mut self.command(&[&["mount", "{b}", "{m}"], credentials].concat()));
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(start.elapsed() < Duration::from_secs(30), "the mount failed only after {:?}", start.elapsed());
        text(&output)
    }
}

/// The life of a volume with a provider of the network. `other` names another key of the same provider, `serve` starts the server on a port,
/// `deny` makes it refuse.
fn live(place: &Place, spec: &str, other: &str, server: Server, serve: &dyn Fn(u16) -> Server, deny: &dyn Fn(bool)) {
    succeed(&mut place.command(&["init", "--provider", spec, "--label", "remote", "{b}"]));
    let contents: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let mount = place.mount(&["--provider", spec]);
    fs::write(mount.path().join("file"), &contents).unwrap();
    mount.unmount();
    let holds = |mount: Mount| {
        assert!(fs::read(mount.path().join("file")).unwrap() == contents);
        mount.unmount();
    };
    holds(place.mount(&["-o", &format!("ro,provider={spec}")]));
    // As mount(8) does for a line of fstab with the type fuse.envelopefs.
    let mut helper = Command::new("/usr/sbin/mount.fuse3");
    let options = format!("provider={spec},_netdev,nosuid,nodev");
    helper.arg(place.path("backing")).arg(place.path("mnt")).args(["-o", &options, "-t", "fuse.envelopefs"]);
    let beside = std::path::Path::new(PROGRAM).parent().unwrap().display();
    succeed(helper.env_clear().env("PATH", format!("{beside}:/usr/bin:/bin")).envs(AWS));
    let read = fs::read(place.path("mnt/file"));
    succeed(&mut place.command(&["umount", "{m}"]));
    assert!(read.unwrap() == contents);
    common::write_key(&place.path("key"));
    succeed(&mut place.command(&["key", "add", "--provider", spec, "--new-key-file", "{d}/key", "{b}"]));

    // The server is down: a clear word in time, and another slot opens.
    let port = server.port();
    let mounted = place.mount(&["--provider", spec]);
    drop(server);
    assert!(fs::read(mounted.path().join("file")).unwrap() == contents, "a mounted volume keeps working");
    mounted.unmount();
    let said = place.mount_fails(&["--provider", spec], PROVIDER);
    assert!(said.contains("cannot be reached") && said.contains("remedy: try again"), "{said}");
    let key_file = format!("key-file:{}", place.path("key").display());
    holds(place.mount(&["--provider", spec, "--provider", &key_file]));

    // Up again.
    let server = serve(port);
    holds(place.mount(&["--provider", spec]));
    let said = place.mount_fails(&["--provider", other], WRONG_KEY);
    assert!(said.contains("key slot") && !said.contains("panicked"), "{said}");
    deny(true);
    let said = place.mount_fails(&["--provider", spec], PROVIDER);
    assert!(said.contains("refuses") && said.contains("remedy: "), "{said}");
    deny(false);
    holds(place.mount(&["--provider", spec]));
    drop(server);

    let log = fs::read_to_string(place.path("daemon.log")).unwrap();
    for secret in [TOKEN, AWS[1].1] {
        assert!(!log.contains(secret), "a credential is in the log");
    }
}

#[test]
fn a_volume_lives_with_vault() {
    let (place, fake, authority) = (Place::new(), FakeVault::new(), Authority::new());
    place.write("ca.pem", &authority.pem, 0o644);
    place.write("token", TOKEN, 0o600);
    let server = fake.serve_tls(&authority);
    let file = |name: &str, key: &str| {
        let text = format!(
            "kind = 'vault'\ntarget = '{}/v1/transit/keys/{key}'\ntoken-file = '{}'\nca-file = '{}'\ntimeout = 10\n",
            server.url(),
            place.path("token").display(),
            place.path("ca.pem").display()
        );
        place.write(name, &text, 0o644)
    };
    let (spec, other) = (file("app.toml", "app"), file("other.toml", "other"));
    let deny = |deny: bool| fake.state().denied = if deny { vec!["decrypt"] } else { vec![] };
    live(&place, &spec, &other, server, &|port| fake.serve_tls_on(port, &authority), &deny);
}

#[test]
fn a_volume_lives_with_aws_kms() {
    let (place, fake) = (Place::new(), FakeKms::new());
    let server = fake.serve();
    let spec = |key: &str| format!("aws-kms:{key}?endpoint={}&insecure-plain-http=true&timeout=10", server.url());
    let (ours, other) = (spec(fake_kms::KEY), spec(fake_kms::OTHER));
    let deny = |deny: bool| {
        let state = if deny { "Disabled" } else { "Enabled" };
        fake.state().states.insert(fake_kms::KEY, state);
    };
    live(&place, &ours, &other, server, &|port| fake.serve_on(port), &deny);
    let seen = fake.state().seen.clone();
    assert!(seen.iter().all(|seen| *seen == ("AKIDTEST".into(), "session".into())), "{seen:?}");
}

#[test]
fn a_server_that_is_silent_does_not_hang_a_mount() {
    let (place, fake) = (Place::new(), FakeKms::new());
    let server = fake.serve();
    let spec = format!("aws-kms:{}?endpoint={}&insecure-plain-http=true&timeout=2", fake_kms::KEY, server.url());
    succeed(&mut place.command(&["init", "--provider", &spec, "{b}"]));
    for _ in 0..3 {
        succeed(&mut place.command(&["key", "add", "--provider", &spec, "--new-provider", &spec, "{b}"]));
    }
    fake.state().always = Some(fake_kms::Fault::Silence);
    let before = server.calls();
    let said = place.mount_fails(&["--provider", &spec], PROVIDER);
    assert!(said.contains("cannot be reached"), "{said}");
    assert_eq!(server.calls(), before + 1, "one slot is enough to find that out");
}

/// A genuine certificate from a stand-in for AMD's server: fetched once, kept, and believed as little as one from a file.
#[cfg(feature = "sev-snp")]
#[test]
fn a_chips_certificate_is_fetched_once_and_kept() {
    use server::Reply;

    let fixture = |name: &str| format!("{}/tests/fixtures/sev-snp/{name}", env!("CARGO_MANIFEST_DIR"));
    let (place, authority) = (scratch(), Authority::new());
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("ca.pem"), &authority.pem).unwrap();
    let (report, vcek) = (fs::read(fixture("milan-report.bin")).unwrap(), fs::read(fixture("milan-vcek.der")).unwrap());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let chip = hex(&report[0x1A0..0x1E0]);
    let right = format!("/vcek/v1/Milan/{chip}?blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115");
    let answers = std::sync::Arc::new(std::sync::Mutex::new(vec![
        Reply::text(404, "no such chip"),
        Reply::text(200, "no certificate"),
        Reply::HangUp,
        Reply::HangUp,
        Reply::HangUp,
        Reply::HangUp,
    ]));
    let left = answers.clone();
    let server = Server::tls(&authority, move |call| {
        let mut left = left.lock().unwrap();
        match left.is_empty() {
            false => left.remove(0),
            true if call.path == right => Reply::Is(200, vec![], vcek.clone()),
            true => Reply::text(404, &call.path),
        }
    });
    let (url, kept) = (server.url(), path(&format!("certificates/vcek/{chip}")));
    let attest = |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args([
            "attest",
            "--allow-version-2",
            "--at",
            "2026-11-23T00:00:00Z",
            "--report",
            &fixture("milan-report.bin"),
        ]);
        run(command.args(["--cert-dir", &path("certificates")]).args(more))
    };
    let fetching = ["--fetch", "--kds", &url, "--kds-ca-file", &path("ca.pem")];
    for (code, says) in [(PROVIDER, "status 404"), (PROVIDER, "cannot be right"), (PROVIDER, "cannot be reached")] {
        let output = attest(&fetching);
        assert!(output.status.code() == Some(code) && text(&output).contains(says), "no {says}: {}", text(&output));
        assert!(!std::path::Path::new(&kept).exists(), "what is no certificate is not kept");
    }
    let output = attest(&fetching[..3]);
    assert!(output.status.code() == Some(PROVIDER) && text(&output).contains("not trusted"), "{}", text(&output));
    assert!(attest(&[]).status.code() == Some(1), "not fetched unless told");
    let output = attest(&fetching);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 1, "and nothing unfinished");
    let calls = server.calls();
    assert!(attest(&fetching).status.success() && attest(&[]).status.success());
    assert_eq!(server.calls(), calls, "it is there");
}

// moto.

/// Makes keys and users, and then has signatures and permissions checked.
const SET_UP: &str = r#"
import boto3, json, sys, urllib.request
endpoint = sys.argv[1]
def client(service):
    return boto3.client(service, endpoint_url=endpoint, region_name="eu-central-1", aws_access_key_id="setup", aws_secret_access_key="setup")
kms, iam = client("kms"), client("iam")
def user(name, actions):
    iam.create_user(UserName=name)
    if actions:
        document = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return [key["AccessKeyId"], key["SecretAccessKey"]]
key, other = [kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
kms.create_alias(AliasName="alias/app", TargetKeyId=key)
out = [key, other] + user("app", ["kms:Encrypt", "kms:Decrypt", "kms:DescribeKey"]) + user("nobody", None)
check = urllib.request.Request(endpoint + "/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST")
urllib.request.urlopen(check).read()
print(json.dumps(out))
"#;

/// moto's server on a loopback port, ended when dropped.
struct Moto {
    child: Child,
    url: String,
    dir: tempfile::TempDir,
    names: Vec<String>,
}

impl Moto {
    fn start() -> Moto {
        let python = std::env::var_os("ENVELOPEFS_TEST_PYTHON").unwrap_or_else(|| "python3".into());
        let (dir, port) = (scratch(), closed_port());
        let log = fs::File::create(dir.path().join("moto.log")).unwrap();
        let mut command = Command::new(&python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().expect("Python of contrib/test");
        let url = format!("http://127.0.0.1:{port}");
        let mut moto = Moto { child, url, dir, names: Vec::new() };
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = moto.child.try_wait().unwrap().is_some();
            assert!(
                !ended && start.elapsed() < Duration::from_secs(120),
                "moto does not start (contrib/test installs it): {}",
                fs::read_to_string(moto.dir.path().join("moto.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        let made: Output = run(Command::new(&python).args(["-c", SET_UP, &moto.url]));
        assert!(made.status.success(), "{}", text(&made));
        moto.names = serde_json::from_slice(&made.stdout).unwrap();
        moto
    }

    /// A provider for a key, with the access key that stands in the set-up's list at `user`, or another secret.
    fn open(&self, key: &str, user: usize, secret: Option<&str>) -> Box<dyn KeyProvider> {
        let path = self.dir.path().join(format!("credentials-{user}-{}", secret.unwrap_or_default()));
        let secret = secret.unwrap_or(&self.names[user + 1]);
        let text = format!("[default]\naws_access_key_id={}\naws_secret_access_key={secret}\n", self.names[user]);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let spec = format!(
            "aws-kms:{key}?endpoint={}&insecure-plain-http=true&region=eu-central-1&credentials-file={}",
            self.url,
            path.display()
        );
        keys::open(spec.parse().unwrap()).unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PLACE: SlotContext = SlotContext { volume: Uuid::from_bytes([7; 16]), key_version: 1, slot: 2 };

#[test]
fn moto_accepts_our_signatures_and_no_others() {
    let moto = Moto::start();
    let (key, other, app, nobody) = (moto.names[0].as_str(), moto.names[1].as_str(), 2, 4);
    let master = Secret::random();
    let provider = moto.open(key, app, None);
    provider.check().unwrap();
    let slot = provider.wrap(&master, &PLACE).unwrap();
    assert_eq!(slot.parameters["key"].as_str(), Some(key));
    for name in [key, "alias/app", key.rsplit('/').next().unwrap()] {
        let opened = moto.open(name, app, None).unwrap(&slot, &PLACE).unwrap();
        assert_eq!(opened.unwrap().expose(), master.expose(), "{name}");
    }
    assert!(moto.open(other, app, None).unwrap(&slot, &PLACE).is_none());

    // Another place, or other bytes.
    for place in [SlotContext { key_version: 2, ..PLACE }, SlotContext { slot: 3, ..PLACE }] {
        assert!(matches!(provider.unwrap(&slot, &place), Some(Err(ProviderError::Unauthentic(_)))));
    }
    for at in 0..slot.wrapped.len() {
        let mut changed = slot.clone();
        changed.wrapped[at] ^= 1;
        assert!(matches!(provider.unwrap(&changed, &PLACE), Some(Err(_))), "byte {at}");
    }

    // A wrong secret, and a user without rights.
    let refused = |provider: Box<dyn KeyProvider>, says: &str| {
        let error = provider.unwrap(&slot, &PLACE).unwrap().unwrap_err();
        assert!(matches!(error, ProviderError::Refused { .. }) && error.to_string().contains(says), "{error}");
    };
    refused(moto.open(key, app, Some("wrong")), "SignatureDoesNotMatch");
    refused(moto.open(key, nobody, None), "AccessDenied");
    provider.unwrap(&slot, &PLACE).unwrap().unwrap();
}
