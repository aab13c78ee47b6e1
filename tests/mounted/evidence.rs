//! Volumes behind a key server that demands evidence: the shipped program in a simulated guest (`sev_snp`), a fake of the server (`hsm_api`) that knows
//! what each report must be bound to.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{PROGRAM, run, text, wait_until};
use crate::hsm_api::key_server::Hsm;
use crate::hsm_api::server::Server;
use crate::sev_snp::Guest;
use crate::sev_snp::firmware::{Fault, Machine};
use crate::volumes;

const OLD: &str = "i-095af01fb0461e052";
const NEW: &str = "i-0fedcba9876543210";

/// A guest on the chip of AMD's certificate in the fixtures, and a server for it.
struct World {
    guest: Guest,
    server: Server,
}

impl World {
    fn new() -> World {
        let fixture = |name: &str| format!("{}/tests/fixtures/sev-snp/{name}", env!("CARGO_MANIFEST_DIR"));
        let genuine = fs::read(fixture("milan-report.bin")).unwrap();
        let machine = Machine { chip_id: genuine[0x1A0..0x1E0].try_into().unwrap(), ..Machine::owned(1) };
        let hsm = Arc::new(Hsm::demanding(machine.measurement));
        let guest = Guest::new(machine);
        fs::copy(fixture("milan-vcek.der"), guest.path("vcek")).unwrap();
        fs::write(guest.path("signing-key"), hsm.pem()).unwrap();
        World { server: hsm.serve(), guest }
    }

    /// The specification of a provider without evidence.
    fn bare(&self, instance: &str) -> String {
        let (url, key) = (self.server.url(), self.guest.path("signing-key"));
        let key = key.display();
        format!("hsm-api:{url}/v1?insecure-plain-http=true&timeout=6&instance-id={instance}&signing-key={key}")
    }

    fn spec(&self, instance: &str) -> String {
        format!("{}&evidence=sev-snp&certificates={}", self.bare(instance), self.guest.path("vcek").display())
    }

    fn init(&self) -> String {
        let spec = self.spec(OLD);
        self.guest.succeed(&["init", "BACKING", "--provider", &spec]);
        spec
    }
}

#[test]
fn a_guest_opens_its_volume_and_takes_another_over_by_its_reports() {
    if !volumes() {
        return;
    }
    let world = World::new();
    let (old, new) = (world.init(), world.spec(NEW));
    let mount = world.guest.mount(&["--provider", &old]);
    fs::write(mount.path().join("file"), "attested").unwrap();
    mount.unmount();
    world.guest.succeed(&["takeover", "--from", OLD, "--provider", &new, "BACKING"]);
    let mount = world.guest.mount(&["--provider", &new]);
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "attested");
    mount.unmount();
    world.guest.succeed(&["key", "probe", "--provider", &new]);
    world.guest.assert_well_asked();

    let mount = |spec: &str| ["mount", "--foreground", "--provider", spec, "BACKING", "MNT"].map(str::to_owned);
    let refused = |spec: &str, words: &[&str]| {
        world.guest.refused(&mount(spec).each_ref().map(String::as_str), 9, words);
    };
    refused(&world.bare(NEW), &["demands evidence", "remedy", "evidence=sev-snp and certificates=PATH"]);
    world.guest.machine().measurement[0] ^= 1;
    refused(&new, &["403", "evidence", "failure_code"]);
    world.guest.machine().measurement[0] ^= 1;
    world.guest.machine().reported_tcb[7] += 1;
    refused(&new, &["says microcode 116", "certificate 115", "kdsintf.amd.com", "remedy"]);
    world.guest.machine().reported_tcb[7] -= 1;
    refused(&format!("{new}&vmpl=1"), &["403", "failure_code"]);
}

#[test]
fn a_device_that_is_missing_or_silent_is_told_in_time() {
    if !volumes() {
        return;
    }
    let world = World::new();
    let spec = world.init();
    let mount = ["mount", "--foreground", "--provider", &spec, "BACKING", "MNT"];
    let start = Instant::now();
    let said = run(world.guest.program(&mount).env_remove("ENVELOPEFS_TEST_SEV_GUEST"));
    assert_eq!(said.status.code(), Some(9), "{}", text(&said));
    for word in ["no SEV-SNP guest", "there is no /dev/sev-guest", "--device /dev/sev-guest"] {
        assert!(text(&said).contains(word), "no {word:?} in {}", text(&said));
    }
    world.guest.machine().fault = Fault::Hangs;
    world.guest.refused(&mount, 9, &["SEV-SNP secure processor cannot be reached", "no answer within"]);
    // Six seconds of the specification, the rest for a machine under load.
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    world.guest.machine().fault = Fault::None;
    world.guest.mount(&["--provider", &spec]).unmount();
    let usage = run(Command::new(PROGRAM).args(["key", "probe", "--provider"]).arg(world.bare(OLD) + "&evidence=tdx"));
    assert!(text(&usage).contains("evidence is not sev-snp"), "{}", text(&usage));
}

#[test]
fn a_lease_outlives_a_device_that_fails_and_ends_when_the_server_refuses() {
    if !volumes() {
        return;
    }
    let world = World::new();
    let spec = world.init();
    let mount = world.guest.mount(&["-o", "lease=1", "--provider", &spec]);
    let file = mount.path().join("file");
    fs::write(&file, "contents").unwrap();
    world.guest.machine().vmpck_lost = true;
    wait_until("is not asked", || mount.log_text(), || mount.log_text().contains("could not be renewed"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "contents");
    // Another image in the place of this one: the reports are right, and not what is demanded.
    {
        let mut machine = world.guest.machine();
        (machine.vmpck_lost, machine.measurement) = (false, [0x66; 48]);
    }
    let lost = || fs::read(&file).is_err_and(|error| error.raw_os_error() == Some(libc::ENOKEY));
    wait_until("the keys are still there", || mount.log_text(), lost);
    mount.unmount();
}
