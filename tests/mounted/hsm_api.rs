//! Volumes whose key comes from a key server: over TLS with a client certificate and a token, from `init` to take-over, with the server away,
//! lying, or one of several.

#[path = "../common/key_server.rs"]
pub(super) mod key_server;
#[path = "../common/server.rs"]
pub(super) mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use tempfile::TempDir;

use super::common::{self, Mount, PROGRAM, run, succeed, text, wait_until, write_key};
use key_server::{Fault, Hsm};
use server::{Authority, Server, closed_port};

const OLD: &str = "i-095af01fb0461e052";
const NEW: &str = "i-0fedcba9876543210";

/// An HSM, its servers' certificates, and what a client of them has in files.
struct World {
    scratch: TempDir,
    authority: Authority,
    hsm: Arc<Hsm>,
}

impl World {
    fn new() -> World {
        common::require_root_and_fuse();
        let (scratch, authority) = (common::scratch(), Authority::new());
        let mut hsm = Hsm::new();
        (hsm.token, hsm.needs_certificate) = (Some("opens-sesame".into()), true);
        let world = World { scratch, authority, hsm: Arc::new(hsm) };
        let (certificate, key) = world.authority.issue("machine");
        world.write("ca", &world.authority.pem);
        world.write("cert", &certificate.pem());
        world.write("key.pem", &key.serialize_pem());
        world.write("token", "opens-sesame\n");
        world.write("signing-key", &world.hsm.pem());
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn dir(&self, name: &str) -> PathBuf {
        fs::create_dir(self.path(name)).unwrap();
        self.path(name)
    }

    fn serve(&self) -> Server {
        self.hsm.serve_tls(&self.authority)
    }

    /// The specification of a provider at these addresses.
    fn spec(&self, urls: &[&str], instance: &str) -> String {
        let (first, others) = urls.split_first().unwrap();
        let others: Vec<String> = others.iter().map(|url| format!("{url}/v1")).collect();
        let path = |name: &str| self.path(name).display().to_string();
        format!(
            "hsm-api:{first}/v1/?instance-id={instance}&signing-key={}&ca-file={}&client-cert={}&client-key={}&token-file={}&timeout=6&fallback={}",
            path("signing-key"),
            path("ca"),
            path("cert"),
            path("key.pem"),
            path("token"),
            others.join("%20"),
        )
    }

    fn init(&self, name: &str, spec: &str) -> PathBuf {
        let backing = self.dir(name);
        succeed(Command::new(PROGRAM).args(["init", "--provider", spec]).arg(&backing));
        backing
    }

    /// Mounts with these arguments at a directory of its own.
    fn mount(&self, backing: &Path, arguments: &[&str]) -> Mount {
        let mountpoint = backing.with_extension("mnt");
        let _ = fs::create_dir(&mountpoint);
        let mut command = Command::new(PROGRAM);
        command.args(["mount", "--foreground"]).args(arguments).arg(backing).arg(&mountpoint);
        Mount::start(command, mountpoint, self.path("log"))
    }

    /// A mount in the background that must fail with this code, in time, and leave nothing behind.
    fn cannot_mount(&self, backing: &Path, arguments: &[&str], code: i32) -> String {
        let mountpoint = backing.with_extension("mnt");
        let _ = fs::create_dir(&mountpoint);
        let start = Instant::now();
        let output = run(Command::new(PROGRAM).arg("mount").args(arguments).arg(backing).arg(&mountpoint));
        // Six seconds for the network, the rest for a machine under load.
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}: {}", start.elapsed(), text(&output));
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!table.contains(mountpoint.to_str().unwrap()), "nothing is mounted");
        text(&output)
    }
}

fn description(backing: &Path) -> Vec<u8> {
    fs::read(backing.join(".envelopefs/volume.toml")).unwrap()
}

#[test]
fn while_the_server_is_away_a_mount_goes_on_another_is_refused_and_another_slot_opens() {
    if !super::volumes() {
        return;
    }
    let world = World::new();
    let server = world.serve();
    let spec = world.spec(&[&server.url()], OLD);
    let backing = world.init("b", &spec);
    write_key(&world.path("key"));
    let key = world.path("key").display().to_string();
    let add = ["key", "add", "--provider", &spec, "--new-key-file", &key];
    succeed(Command::new(PROGRAM).args(add).arg(&backing));

    let mount = world.mount(&backing, &["--provider", &spec]);
    fs::write(mount.path().join("file"), "contents").unwrap();
    drop(server);
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "contents");
    fs::write(mount.path().join("more"), "written without it").unwrap();
    mount.unmount();

    let said = world.cannot_mount(&backing, &["--provider", &spec], 9);
    for part in ["key slot 1 (hsm-api) cannot be opened now", "cannot be reached", "cause:", "remedy:"] {
        assert!(said.contains(part), "{said}");
    }
    // The other slot, whichever credential comes first.
    let both = ["--provider", &spec, "--key-file", &key];
    let mount = world.mount(&backing, &both);
    assert_eq!(fs::read_to_string(mount.path().join("more")).unwrap(), "written without it");
    mount.unmount();

    // It comes back at another address: nothing in the slot is bound to where it was.
    let server = world.serve();
    let mount = world.mount(&backing, &["-o", &format!("provider={}", world.spec(&[&server.url()], OLD))]);
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "contents");
    mount.unmount();
}

/// The line of the provider's document, as mount(8) passes it on.
#[test]
fn a_provider_file_and_the_line_in_fstab_mount_the_volume() {
    if !super::volumes() {
        return;
    }
    let world = World::new();
    let server = world.serve();
    let path = |name: &str| world.path(name).display().to_string();
    let mut file = format!("kind = 'hsm-api'\ntarget = '{0}/v1'\nfallback = '{0}/v1/ {0}/v1'\n", server.url());
    for (name, value) in [
        ("instance-id", OLD),
        ("signing-key", &path("signing-key")),
        ("ca-file", &path("ca")),
        ("client-cert", &path("cert")),
        ("client-key", &path("key.pem")),
        ("token-file", &path("token")),
    ] {
        file += &format!("{name} = '{value}'\n");
    }
    world.write("app.provider.toml", &file);
    let file = path("app.provider.toml");
    let backing = world.init("b", &file);
    let text = String::from_utf8(description(&backing)).unwrap();
    let uuid = text.lines().find_map(|line| line.strip_prefix("uuid = \"")).unwrap().trim_end_matches('"');
    let mountpoint = world.dir("m");
    let options = format!("provider={file},volume_id={uuid},_netdev,nofail,x-systemd.mount-timeout=60");
    succeed(Command::new(PROGRAM).arg(&backing).arg(&mountpoint).args(["-o", &options]));
    fs::write(mountpoint.join("file"), "contents").unwrap();
    succeed(Command::new(PROGRAM).arg("umount").arg(&mountpoint));
}

#[test]
fn what_the_server_gave_stands_nowhere_in_what_is_stored_or_said() {
    if !super::volumes() {
        return;
    }
    let world = World::new();
    let server = world.serve();
    let spec = world.spec(&[&server.url()], OLD);
    let backing = world.init("b", &spec);
    let mount = world.mount(&backing, &["--provider", &spec]);
    fs::write(mount.path().join("file"), "contents").unwrap();
    let process = |name: &str| fs::read(format!("/proc/{}/{name}", mount.pid())).unwrap();
    let mut texts = vec![mount.log_text().into_bytes(), description(&backing), process("cmdline"), process("environ")];
    texts.push(succeed(Command::new(PROGRAM).args(["key", "list"]).arg(&backing)).into_bytes());
    let secrets = world.hsm.secrets();
    assert_eq!(secrets.len(), 3, "made, opened again, opened for the mount");
    for secret in secrets {
        let forms = [
            secret.clone(),
            key_server::hex(&secret).into_bytes(),
            BASE64_STANDARD_NO_PAD.encode(&secret).into_bytes(),
            BASE64_URL_SAFE_NO_PAD.encode(&secret).into_bytes(),
        ];
        for (text, form) in texts.iter().flat_map(|text| forms.iter().map(move |form| (text, form))) {
            assert!(!text.windows(form.len()).any(|window| window == form), "{}", String::from_utf8_lossy(text));
        }
        assert!(!texts.iter().any(|text| text.windows(12).any(|window| window == b"opens-sesame")), "the token");
    }
    mount.unmount();
}

#[test]
fn a_volume_is_taken_over_from_another_instance_when_everything_fits_and_not_before() {
    if !super::volumes() {
        return;
    }
    let world = World::new();
    let server = world.serve();
    let (old, new) = (world.spec(&[&server.url()], OLD), world.spec(&[&server.url()], NEW));
    let backing = world.init("b", &old);
    // Two slots of the old instance, and an older version of the master key.
    succeed(Command::new(PROGRAM).args(["key", "add", "--provider", &old, "--new-provider", &old]).arg(&backing));
    succeed(Command::new(PROGRAM).args(["key", "rotate", "--provider", &old]).arg(&backing));
    let mount = world.mount(&backing, &["--provider", &old]);
    fs::write(mount.path().join("file"), "contents").unwrap();
    mount.unmount();

    let before = description(&backing);
    let takeover = |from: &str, spec: &str, more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        run(command.args(["takeover", "--from", from, "--provider", spec]).args(more).arg(&backing))
    };
    let fails = |from: &str, spec: &str, code: i32, says: &str| {
        let output = takeover(from, spec, &[]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(says), "{}", text(&output));
        assert_eq!(description(&backing), before, "the volume is as it was");
    };
    let said = world.cannot_mount(&backing, &["--provider", &new], 3);
    assert!(said.contains(NEW), "{said}");
    fails("i-nobody", &new, 3, "no key slot of the volume belongs to instance i-nobody");
    fails("not/an/id", &new, 2, "--from");
    fails(OLD, &old, 2, "itself");
    for (operation, fault) in [
        ("convert-secret", Fault::ConvertsOther),
        ("convert-secret", Fault::OtherKey),
        ("decrypt-secret", Fault::OtherNonce),
        ("decrypt-secret", Fault::Status(503)),
    ] {
        world.hsm.misbehave_in(operation, fault);
        let code = if fault == Fault::ConvertsOther { 4 } else { 9 };
        fails(OLD, &new, code, "key slot");
    }
    world.hsm.misbehave(Fault::None);
    let output = takeover(OLD, &new, &["--dry-run"]);
    assert!(output.status.success() && description(&backing) == before, "{}", text(&output));

    let output = takeover(OLD, &new, &["--json"]);
    assert!(output.status.success(), "{}", text(&output));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["slots"], &said["to"]), (&serde_json::json!([1, 2]), &NEW.into()));
    let mount = world.mount(&backing, &["--provider", &new]);
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "contents");
    mount.unmount();
    world.cannot_mount(&backing, &["--provider", &old], 3);
    assert_eq!(takeover(OLD, &new, &[]).status.code(), Some(3));
    let check = run(Command::new(PROGRAM).args(["check", "--provider", &new]).arg(&backing));
    assert!(check.status.success(), "{}", text(&check));
    let log = text(&run(Command::new(PROGRAM).args(["audit", "show"]).arg(&backing)));
    let noted: Vec<&str> = log.lines().filter(|line| line.contains("takeover")).collect();
    let failed = noted.iter().filter(|line| line.contains("FAILED")).count();
    assert_eq!((failed, noted.len() - failed), (4, 2), "{log}");
}

#[test]
fn a_server_that_lies_or_is_slow_gives_a_clear_error_in_time() {
    if !super::volumes() {
        return;
    }
    let world = World::new();
    let server = world.serve();
    let spec = world.spec(&[&server.url()], OLD);
    let backing = world.init("b", &spec);
    for (fault, says) in [
        (Fault::OtherKey, "not by the pinned signing key"),
        (Fault::OtherRsa(2048), "256 bytes instead of the 512"),
        (Fault::NoContext, "context signature"),
        (Fault::Redirect, "status 307"),
        (Fault::Silence, "cannot be reached"),
        (Fault::Drip, "cannot be reached"),
        (Fault::Status(500), "cannot be reached"),
        (Fault::Status(403), "refuses"),
    ] {
        world.hsm.misbehave(fault);
        let said = world.cannot_mount(&backing, &["--provider", &spec], 9);
        assert!(said.contains(says) && said.contains("remedy:"), "{fault:?}: {said}");
    }
    // No volume comes of a secret whose sealed form is another's.
    world.hsm.misbehave(Fault::MixedUp);
    let vacant = world.dir("vacant");
    let output = run(Command::new(PROGRAM).args(["init", "--provider", &spec]).arg(&vacant));
    assert_eq!(output.status.code(), Some(9), "{}", text(&output));
    assert!(text(&output).contains("holds another one"), "{}", text(&output));
    assert!(!vacant.join(".envelopefs/volume.toml").exists());
    world.hsm.misbehave(Fault::None);
    world.mount(&backing, &["--provider", &spec]).unmount();
}

#[test]
fn the_next_server_is_asked_when_one_fails() {
    if !super::volumes() {
        return;
    }
    let world = World::new();
    let good = world.serve();
    let dead = format!("https://localhost:{}", closed_port());
    let silent = Server::tls(&world.authority, |_| server::Reply::Silence);
    let broken = Server::tls(&world.authority, |_| server::Reply::text(503, ""));
    for (at, first) in [dead, silent.url(), broken.url()].iter().enumerate() {
        let spec = world.spec(&[first, &good.url()], OLD);
        let backing = world.init(&format!("b{at}"), &spec);
        world.mount(&backing, &["--provider", &spec]).unmount();
    }
}

#[test]
fn a_lease_outlives_a_server_that_is_away_and_ends_when_it_refuses() {
    if !super::volumes() {
        return;
    }
    let world = World::new();
    let server = world.serve();
    let spec = world.spec(&[&server.url()], OLD);
    let backing = world.init("b", &spec);
    let mount = world.mount(&backing, &["-o", "lease=1", "--provider", &spec]);
    let file = mount.path().join("file");
    fs::write(&file, "contents").unwrap();
    world.hsm.misbehave(Fault::Status(503));
    wait_until("is not asked", || mount.log_text(), || mount.log_text().contains("could not be renewed"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "contents");
    world.hsm.misbehave(Fault::Status(403));
    let lost = || fs::read(&file).is_err_and(|error| error.raw_os_error() == Some(libc::ENOKEY));
    wait_until("the keys are still there", || mount.log_text(), lost);
    mount.unmount();
    world.hsm.misbehave(Fault::None);
    let mount = world.mount(&backing, &["--provider", &spec]);
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "contents");
    mount.unmount();
}

#[test]
fn several_volumes_are_made_and_mounted_at_once() {
    if !super::volumes() {
        return;
    }
    let world = World::new();
    let server = world.serve();
    let spec = world.spec(&[&server.url()], OLD);
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let (world, spec) = (&world, spec.as_str());
            scope.spawn(move || {
                let backing = world.init(name, spec);
                let mount = world.mount(&backing, &["--provider", spec]);
                fs::write(mount.path().join(name), name).unwrap();
                mount.unmount();
            });
        }
    });
}

#[test]
fn the_servers_key_is_compared_with_the_pinned_one() {
    if !super::volumes() {
        return;
    }
    let world = World::new();
    let server = world.serve();
    let check = |spec: &str, more: &[&str]| {
        run(Command::new(PROGRAM).args(["check-server-key", "--provider", spec]).args(more))
    };
    let spec = world.spec(&[&server.url()], OLD);
    let output = check(&spec, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains(&world.hsm.fingerprint()), "{}", text(&output));
    let said: serde_json::Value = serde_json::from_slice(&check(&spec, &["--json"]).stdout).unwrap();
    assert_eq!(said["servers"][0]["pinned"], true);

    // One of two has no key to tell, or another one.
    let dead = format!("https://localhost:{}", closed_port());
    assert_eq!(check(&world.spec(&[&server.url(), &dead], OLD), &[]).status.code(), Some(9));
    world.write("signing-key", &Hsm::new().pem());
    let output = check(&spec, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("NOT the pinned key") && text(&output).contains("remedy:"), "{}", text(&output));
    assert_eq!(check("key-file:/etc/x", &[]).status.code(), Some(2));
}
