//! Provider `sev-snp` on real mounts: the shipped program and the crate sev unchanged, the device a library that is loaded before
//! (tests/common/sev_guest.c), the chip and its guest a simulation here (tests/common/firmware.rs). Each process is a new start of the guest.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tempfile::TempDir;

use crate::common::{Mount, PROGRAM, run, scratch, succeed, text, write_key};
use crate::volumes;

#[path = "../common/firmware.rs"]
pub(super) mod firmware;

use firmware::{GET_DERIVED_KEY, GET_REPORT, Machine};

/// A guest with a device, and directories for a volume.
pub(super) struct Guest {
    scratch: TempDir,
    machine: Arc<Mutex<Machine>>,
}

impl Guest {
    pub(super) fn new(machine: Machine) -> Guest {
        let scratch = scratch();
        for name in ["backing", "mnt"] {
            fs::create_dir(scratch.path().join(name)).unwrap();
        }
        write_key(&scratch.path().join("key"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/sev_guest.c");
        let mut compile = Command::new("cc");
        compile.args(["-O1", "-shared", "-fPIC", "-o"]).arg(scratch.path().join("sev.so")).arg(source);
        succeed(compile.arg("-ldl"));
        let machine = Arc::new(Mutex::new(machine));
        let listener = UnixListener::bind(scratch.path().join("device")).unwrap();
        let served = machine.clone();
        std::thread::spawn(move || {
            for caller in listener.incoming() {
                let (Ok(mut caller), served) = (caller, served.clone()) else { return };
                std::thread::spawn(move || while serve(&mut caller, &served).is_ok() {});
            }
        });
        Guest { scratch, machine }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap()
    }

    /// The program on this guest.
    pub(super) fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.env("LD_PRELOAD", self.path("sev.so")).env("ENVELOPEFS_TEST_SEV_GUEST", self.path("device"));
        let word = |argument: &&str| match *argument {
            "BACKING" => self.path("backing").into_os_string(),
            "MNT" => self.path("mnt").into_os_string(),
            "KEY" => self.path("key").into_os_string(),
            other => other.into(),
        };
        command.args(arguments.iter().map(word));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.program(arguments))
    }

    pub(super) fn succeed(&self, arguments: &[&str]) -> String {
        succeed(&mut self.program(arguments))
    }

    /// Fails with the exit code and all of these words.
    pub(super) fn refused(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.run(arguments);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "no {word:?} in {said}"));
    }

    /// Mounts by the secure processor's key and finds what was written.
    fn assert_opens(&self) {
        let mount = self.mount(&["--provider", "sev-snp:"]);
        assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "sealed");
        mount.unmount();
    }

    pub(super) fn mount(&self, credential: &[&str]) -> Mount {
        let command = self.program(&[&["mount", "--foreground"], credential, &["BACKING", "MNT"]].concat());
        Mount::start(command, self.path("mnt"), self.path("daemon.log"))
    }

    /// A volume with a slot of the secure processor and one of a key file, and a file in it.
    fn with_volume(self, spec: &str) -> Guest {
        let said = self.succeed(&["init", "BACKING", "--key-file", "KEY", "--provider", spec]);
        assert!(said.contains("Key slot 2: SEV-SNP secure processor"), "{said}");
        let mount = self.mount(&["--provider", spec]);
        fs::write(mount.path().join("file"), "sealed").unwrap();
        mount.unmount();
        self
    }

    /// What must be true after everything that was called.
    pub(super) fn assert_well_asked(&self) {
        let machine = self.machine();
        assert!(!machine.calls.is_empty() && !machine.vmpck_lost);
        let well = |(number, version): &(u8, u32)| [GET_REPORT, GET_DERIVED_KEY].contains(number) && *version == 1;
        assert!(machine.calls.iter().all(well), "{:?}", machine.calls);
    }
}

/// One call of the library, see there.
fn serve(caller: &mut UnixStream, machine: &Mutex<Machine>) -> io::Result<()> {
    let mut head = [0; 9];
    caller.read_exact(&mut head)?;
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
    let mut request = vec![0; number(5) as usize];
    caller.read_exact(&mut request)?;
    while machine.lock().unwrap().fault == firmware::Fault::Hangs {
        std::thread::sleep(Duration::from_millis(20));
    }
    let answer = machine.lock().unwrap().ioctl(head[0], number(1), &request);
    let (errno, exitinfo, response) = match answer {
        Ok(response) => (0, 0, response),
        Err((errno, exitinfo)) => (errno, exitinfo, Vec::new()),
    };
    caller.write_all(&errno.to_le_bytes())?;
    caller.write_all(&exitinfo.to_le_bytes())?;
    caller.write_all(&(response.len() as u32).to_le_bytes())?;
    caller.write_all(&response)
}

const MOUNT: [&str; 6] = ["mount", "--foreground", "--provider", "sev-snp:", "BACKING", "MNT"];

#[test]
fn a_volume_bound_to_the_measurement_lives_through_starts_and_firmware_updates() {
    if !volumes() {
        return;
    }
    let guest = Guest::new(Machine::new(1)).with_volume("sev-snp:?bind=measurement");
    guest.assert_opens();
    let list = guest.succeed(&["key", "list", "BACKING"]);
    assert!(list.contains(&format!("launch measurement {}", "4d".repeat(48))), "{list}");
    assert!(list.contains("TCB 0300000000000873") && list.contains("VMPL 0"), "{list}");
    guest.succeed(&["check", "BACKING", "--provider", "sev-snp:"]);

    // The platform's firmware goes up, the slot is bound to it, and back again.
    let (old, new) = (guest.machine().committed_tcb, [4, 0, 0, 0, 0, 0, 9, 200]);
    let update = |tcb| {
        let mut machine = guest.machine();
        (machine.committed_tcb, machine.reported_tcb, machine.current_tcb) = (tcb, tcb, tcb);
    };
    update(new);
    guest.assert_opens();
    guest.succeed(&["key", "rebind", "BACKING", "2", "--provider", "sev-snp:", "--new-provider", "sev-snp:"]);
    guest.assert_opens();
    guest.succeed(&["key", "rotate", "BACKING", "--provider", "sev-snp:", "--key-file", "KEY", "--quiet"]);
    guest.assert_opens();
    update(old);
    guest.refused(&MOUNT, 9, &["firmware was at 04000000000009c8", "remedy", "another slot"]);
    update(new);

    // Another image, another chip: said, and the other slot still opens.
    guest.machine().measurement = [0x4e; 48];
    guest.refused(&MOUNT, 9, &["launch measurement was 4d4d", "is 4e4e", "rebind"]);
    guest.machine().measurement = [0x4d; 48];
    (guest.machine().chip, guest.machine().chip_id) = ([2; 32], [2; 64]);
    guest.refused(&MOUNT, 9, &["another chip"]);
    let mount = guest.mount(&["--provider", "sev-snp:", "--key-file", "KEY"]);
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "sealed");
    mount.unmount();
    // Bound to the new chip, by the key file.
    guest.succeed(&["key", "rebind", "BACKING", "2", "--key-file", "KEY", "--new-provider", "sev-snp:"]);
    guest.assert_opens();
    guest.assert_well_asked();
}

#[test]
fn a_volume_bound_to_its_owner_lives_through_code_updates() {
    if !volumes() {
        return;
    }
    let guest = Guest::new(Machine::owned(1)).with_volume("sev-snp:?bind=owner");
    (guest.machine().measurement, guest.machine().guest_svn) = ([0x4e; 48], 5);
    guest.assert_opens();
    guest.machine().guest_svn = 3;
    guest.refused(&MOUNT, 9, &["security version was 4, is 3"]);
    (guest.machine().guest_svn, guest.machine().author_key_digest) = (5, [0xee; 48]);
    guest.refused(&MOUNT, 9, &["digest of the author key was a0a0"]);
    guest.machine().author_key_digest = [0xa0; 48];
    guest.machine().vmpl = 2;
    guest.refused(&MOUNT, 9, &["VMPL 0 is more privileged"]);
    guest.machine().vmpl = 0;
    guest.machine().policy |= 1 << 19;
    guest.refused(&MOUNT, 9, &["debugging"]);
    guest.machine().policy &= !(1 << 19);
    guest.assert_opens();
    guest.assert_well_asked();
}

#[test]
fn a_device_that_is_missing_or_lost_is_said_to_be() {
    if !volumes() {
        return;
    }
    let guest = Guest::new(Machine::new(1)).with_volume("sev-snp:");
    guest.machine().vcek_disabled = true;
    guest.refused(&MOUNT, 9, &["0x27", "invalid key"]);
    guest.machine().vcek_disabled = false;
    guest.machine().fault = firmware::Fault::Silent;
    guest.refused(&MOUNT, 9, &["cannot be right"]);
    guest.machine().fault = firmware::Fault::None;
    guest.assert_well_asked();
    guest.machine().vmpck_lost = true;
    guest.refused(&MOUNT, 9, &["VMPCK", "kernel's log"]);
    guest.machine().vmpck_lost = false;
    let bare = run(guest.program(&MOUNT).env_remove("ENVELOPEFS_TEST_SEV_GUEST"));
    let said = text(&bare);
    assert!(
        bare.status.code() == Some(9) && said.contains("no SEV-SNP guest") && said.contains("--device /dev/sev-guest"),
        "{said}"
    );
    guest.assert_opens();
}

#[test]
fn a_second_slot_of_another_kind_is_demanded() {
    if !volumes() {
        return;
    }
    let guest = Guest::new(Machine::new(1));
    let remedy = "--insecure-no-recovery-slot";
    let other = guest.path("other.key");
    guest.refused(&["init", "BACKING", "--provider", "sev-snp:"], 2, &["bound to this machine", remedy]);
    guest.succeed(&["init", "BACKING", "--provider", "sev-snp:", "--insecure-no-recovery-slot"]);
    let add = ["key", "add", "BACKING", "--provider", "sev-snp:", "--new-provider", "sev-snp:"];
    guest.refused(&add, 2, &["bound to this machine", remedy]);
    guest.succeed(&["key", "add", "BACKING", "--provider", "sev-snp:", "--new-key-file", "KEY"]);
    guest.succeed(&add);
    // Slots 1 and 3 are the secure processor's, 2 the key file.
    let to_the_machine = ["key", "rebind", "BACKING", "2", "--key-file", "KEY", "--new-provider", "sev-snp:"];
    guest.refused(&to_the_machine, 2, &["bound to this machine"]);
    let removed = guest.run(&["key", "remove", "BACKING", "2", "--key-file", "KEY"]);
    assert!(
        removed.status.success() && text(&removed).contains("warning: the slots that are left"),
        "{}",
        text(&removed)
    );
    let removed = guest.run(&["key", "remove", "BACKING", "3", "--provider", "sev-snp:"]);
    assert!(removed.status.success(), "{}", text(&removed));
    // A rotation must not leave the only other one behind.
    let add = ["key", "add", "BACKING", "--provider", "sev-snp:", "--new-key-file", "OTHER", "--make-key-file"];
    guest.succeed(&add.map(|word| if word == "OTHER" { other.to_str().unwrap() } else { word }));
    let rotate = ["key", "rotate", "BACKING", "--provider", "sev-snp:", "--leave-slots-behind"];
    guest.refused(&rotate, 2, &["bound to this machine", remedy]);
    guest.succeed(&[&rotate[..], &[remedy]].concat());
}

#[test]
fn this_guests_report_is_fetched_and_verified() {
    if !volumes() {
        return;
    }
    let guest = Guest::new(Machine { report_version: 2, cpuid: [0; 3], ..Machine::new(1) });
    let fixture = |name: &str| format!("{}/tests/fixtures/sev-snp/{name}", env!("CARGO_MANIFEST_DIR"));
    let (key, output) = (fixture("milan-vcek.der"), guest.path("report"));
    let attest = ["attest", "--allow-version-2", "--at", "2026-11-23T00:00:00Z", "--vcek", &key];
    // No chip of AMD's signed it.
    guest.refused(&[&attest[..], &["--output", output.to_str().unwrap()]].concat(), 10, &["not accepted", "chip"]);
    let report = fs::read(&output).unwrap();
    assert_eq!((report.len(), &report[0x90..0xC0]), (1184, &[0x4d; 48][..]));
    let nonce = "5a".repeat(64);
    guest.refused(&[&attest[..], &["--nonce", &nonce, "--output", output.to_str().unwrap()]].concat(), 10, &[]);
    assert_eq!(fs::read(&output).unwrap()[0x50..0x90], [0x5a; 64]);
    guest.machine().vmpl = 1;
    guest.refused(&attest, 9, &["0x16"]);
    guest.assert_well_asked();
}

#[test]
fn a_genuine_report_is_accepted_from_a_file_and_a_changed_one_is_not() {
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sev-snp").join(name);
    let scratch = scratch();
    let attest = |report: &Path, more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["attest", "--at", "2026-11-23T00:00:00Z", "--report"]).arg(report);
        run(command.arg("--vcek").arg(fixture("milan-vcek.der")).args(more))
    };
    let genuine = fixture("milan-report.bin");
    let shown = attest(&genuine, &["--allow-version-2"]);
    assert!(shown.status.success() && text(&shown).contains("genuine: signed by a VCEK under AMD's root for Milan"));
    assert!(text(&shown).contains("compared with nothing: report data"), "{}", text(&shown));
    let chain = fixture("milan-chain.pem");
    let output = attest(&genuine, &["--allow-version-2", "--json", "--cert-chain", chain.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&json["verified"], &json["product"], &json["vmpl"]), (&true.into(), &"Milan".into(), &0.into()));

    let refused = |output: Output, word: &str| {
        let said = text(&output);
        assert!(output.status.code() == Some(10) && said.contains(word), "no {word:?} in {said}");
    };
    refused(attest(&genuine, &[]), "version");
    let zero = "00".repeat(48);
    refused(attest(&genuine, &["--allow-version-2", "--measurement", &zero]), "launch measurement");
    refused(attest(&genuine, &["--allow-version-2", "--nonce", &"00".repeat(64)]), "report data");
    refused(attest(&genuine, &["--allow-version-2", "--minimum-tcb", "microcode=200"]), "firmware");
    refused(attest(&genuine, &["--allow-version-2", "--policy-clear", "0x10000"]), "policy");
    let mut bytes = fs::read(&genuine).unwrap();
    bytes[0x90] ^= 1;
    let changed = scratch.path().join("report");
    fs::write(&changed, &bytes).unwrap();
    refused(attest(&changed, &["--allow-version-2"]), "signature over the report");
    fs::write(&changed, &bytes[..1183]).unwrap();
    refused(attest(&changed, &["--allow-version-2"]), "1184 bytes");

    // Without its certificate, the address of AMD's server is told; the directory is searched by chip and version.
    let mut bare = Command::new(PROGRAM);
    let said = run(bare.args(["attest", "--report"]).arg(&genuine));
    assert!(
        said.status.code() == Some(1) && text(&said).contains("https://kdsintf.amd.com/vcek/v1/Milan/"),
        "{}",
        text(&said)
    );
    assert!(text(&said).contains("blSPL=03&teeSPL=00&snpSPL=08&ucodeSPL=115"), "{}", text(&said));
    let report = fs::read(&genuine).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let directory = scratch.path().join("vcek").join(hex(&report[0x1A0..0x1E0]));
    fs::create_dir_all(&directory).unwrap();
    let name = format!("{}_vcek.der", hex(&report[0x180..0x188]));
    fs::copy(fixture("milan-vcek.der"), directory.join(name)).unwrap();
    let mut by_directory = Command::new(PROGRAM);
    by_directory.args(["attest", "--allow-version-2", "--at", "2026-11-23T00:00:00Z", "--report"]).arg(&genuine);
    succeed(by_directory.arg("--cert-dir").arg(scratch.path()));
    let usage = attest(&genuine, &["--measurement", "12"]);
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage));
}
