//! Evidence of a simulated guest, for a fake server that demands it.

use tempfile::{NamedTempFile, TempDir};

use super::*;
use crate::attest::simulated::{self, GET_REPORT, Machine};
use crate::attest::verify::tests::Chip;
use crate::attest::{GuestError, KeyRequest, Product, SnpGuest};
use crate::keys::server::Reply;

/// A guest with the file of its certificates, and a server that lets it in.
struct World {
    chip: Chip,
    certificates: NamedTempFile,
    pem: NamedTempFile,
    hsm: Arc<Hsm>,
}

impl World {
    fn new() -> World {
        let machine = Machine::owned(1);
        let hsm = Arc::new(Hsm::demanding(machine.measurement));
        let [certificates, pem] = [(), ()].map(|()| NamedTempFile::new().unwrap());
        let chip = Chip::new(Product::Milan, machine);
        std::fs::write(certificates.path(), chip.certificates()).unwrap();
        std::fs::write(pem.path(), hsm.pem()).unwrap();
        World { chip, certificates, pem, hsm }
    }

    /// The specification of a provider that brings evidence.
    fn spec(&self, urls: &[&str], instance: &str, more: &str) -> ProviderSpec {
        let (first, others) = urls.split_first().unwrap();
        let others: Vec<String> = others.iter().map(|url| format!("{url}/v1")).collect();
        let timeout = if more.contains("timeout=") { "" } else { "&timeout=30" };
        let spec = format!(
            "hsm-api:{first}/v1?insecure-plain-http=true&instance-id={instance}&signing-key={}&fallback={}&evidence=sev-snp&certificates={}{timeout}{more}",
            self.pem.path().display(),
            others.join("%20"),
            self.certificates.path().display()
        );
        spec.parse().unwrap()
    }

    fn provider(&self, urls: &[&str], instance: &str, more: &str) -> HsmApi {
        HsmApi::in_guest(self.spec(urls, instance, more), self.chip.clone()).unwrap()
    }

    /// What was asked of the server since.
    fn asked(&self) -> Vec<String> {
        let word = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        self.hsm.seen().iter().map(|call| word(&call.path)).collect()
    }

    /// How often the secure processor was asked, and that it was asked rightly.
    fn reports(&self) -> usize {
        let calls = std::mem::take(&mut self.chip.guest.machine().calls);
        assert!(calls.iter().all(|call| *call == (GET_REPORT, 1)), "{calls:?}");
        calls.len()
    }
}

#[test]
fn evidence_goes_with_each_call() {
    let world = World::new();
    let server = world.hsm.serve();
    let old = world.provider(&[&server.url()], OURS, "");
    let master = Secret::random();
    let slot = old.wrap(&master, &PLACE).unwrap();
    assert_eq!(world.asked(), ["challenge", "generate-secret", "challenge", "decrypt-secret"]);
    assert_eq!(world.reports(), 2);
    assert_eq!(unwrap(&old, &slot).unwrap().expose(), master.expose());
    assert_eq!((world.asked().len(), world.reports()), (2, 1));

    let takeover = TakeOver::new(world.provider(&[&server.url()], OTHERS, ""), OURS.parse().unwrap());
    assert_eq!(unwrap(&takeover, &slot).unwrap().expose(), master.expose());
    assert_eq!(world.asked(), ["challenge", "convert-secret", "challenge", "decrypt-secret"]);
    let taken = takeover.wrap(&master, &PLACE).unwrap();
    unwrap(&world.provider(&[&server.url()], OTHERS, ""), &taken).unwrap();
    old.check().unwrap();
}

#[test]
fn the_provider_keeps_the_contract_with_evidence() {
    let world = World::new();
    let server = world.hsm.serve();
    let [ours, same] = [(), ()].map(|()| world.provider(&[&server.url()], OURS, ""));
    contract::keep(&ours, &same, &world.provider(&[&server.url()], OTHERS, ""), &CONTRACT);
}

#[test]
fn where_no_evidence_is_demanded_none_is_made() {
    let world = World::new();
    let hsm = Arc::new(Hsm::new());
    std::fs::write(world.pem.path(), hsm.pem()).unwrap();
    let server = hsm.serve();
    let slot = world.provider(&[&server.url()], OURS, "").wrap(&Secret::random(), &PLACE).unwrap();
    assert!(hsm.seen().iter().all(|call| call.body.get("attestation").is_none()));
    assert_eq!(world.reports(), 0);
    unwrap(&provider(&hsm, &[&server.url()], OURS, ""), &slot).unwrap();
}

#[test]
fn who_brings_none_is_told_what_is_demanded() {
    let world = World::new();
    let server = world.hsm.serve();
    let slot = world.provider(&[&server.url()], OURS, "").wrap(&Secret::random(), &PLACE).unwrap();
    let bare = provider(&world.hsm, &[&server.url()], OURS, "");
    for error in [unwrap(&bare, &slot).unwrap_err(), bare.wrap(&Secret::random(), &PLACE).unwrap_err()] {
        assert!(matches!(error, ProviderError::Refused { .. }), "{error}");
        let (says, remedy) = (error.to_string(), error.remedy().unwrap());
        assert!(says.contains("403") && says.contains("demands evidence") && remedy.contains("evidence=sev-snp"));
    }
    // Who is refused for another reason is not sent to look for evidence.
    world.hsm.misbehave(Fault::Status(403));
    let error = unwrap(&bare, &slot).unwrap_err();
    assert!(!error.to_string().contains("evidence") && error.remedy().unwrap().contains("as this instance"), "{error}");
}

#[test]
fn evidence_that_does_not_do_is_the_servers_refusal() {
    let world = World::new();
    let server = world.hsm.serve();
    let provider = world.provider(&[&server.url()], OURS, "");
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    // Each body that was sent, sent once more.
    let sent: Vec<_> = world.hsm.seen().into_iter().filter(|call| call.body.get("attestation").is_some()).collect();
    assert_eq!(sent.len(), 2);
    for seen in sent {
        let body = serde_json::to_vec(&seen.body).unwrap();
        let headers = Default::default();
        let call = crate::keys::server::Call {
            method: seen.method,
            path: seen.path,
            headers,
            body,
            certified: false,
            number: 0,
        };
        assert!(matches!(world.hsm.answer(call), Reply::Is(403, ..)), "replayed");
    }
    let refused = |provider: &HsmApi| {
        let error = unwrap(provider, &slot).unwrap_err();
        let remedy = error.remedy().unwrap_or_default();
        assert!(matches!(error, ProviderError::Refused { .. }) && remedy.contains("failure_code"), "{error}");
    };
    world.chip.guest.machine().measurement[0] ^= 1;
    refused(&provider);
    world.chip.guest.machine().measurement[0] ^= 1;
    refused(&world.provider(&[&server.url()], OURS, "&vmpl=1"));
    unwrap(&provider, &slot).unwrap();
}

#[test]
fn each_try_has_a_challenge_of_its_server() {
    let world = World::new();
    let good = world.hsm.serve();
    let slot = world.provider(&[&good.url()], OURS, "").wrap(&Secret::random(), &PLACE).unwrap();
    // The call is made, its challenge spent, and its answer lost.
    let (relay, lost) = (world.hsm.clone(), std::sync::atomic::AtomicBool::new(false));
    let lossy = Server::new(move |call| {
        let is_first = call.path.ends_with("/decrypt-secret") && !lost.swap(true, std::sync::atomic::Ordering::SeqCst);
        let answer = relay.answer(call);
        if is_first { Reply::text(502, "") } else { answer }
    });
    world.asked();
    unwrap(&world.provider(&[&lossy.url()], OURS, ""), &slot).unwrap();
    assert_eq!(world.asked(), ["challenge", "decrypt-secret", "challenge", "decrypt-secret"]);

    // A server that gives challenges of its own and then fails; ones that give none.
    let (other, broken) = (Arc::new(Hsm::demanding([0; 48])), closed_port());
    let half = Server::new(move |call| match call.path.ends_with("/challenge") {
        true => other.answer(call),
        false => Reply::text(503, ""),
    });
    let (busy, silent) = (Server::new(|_| Reply::text(503, "")), Server::new(|_| Reply::Silence));
    for first in [half.url(), busy.url(), silent.url(), format!("http://127.0.0.1:{broken}")] {
        let provider = world.provider(&[&first, &good.url()], OURS, "&timeout=4&connect-timeout=0.5");
        unwrap(&provider, &slot).unwrap_or_else(|error| panic!("{first}: {error}"));
    }
}

#[test]
fn a_challenge_that_is_none_ends_the_call() {
    let world = World::new();
    let server = world.hsm.serve();
    let slot = world.provider(&[&server.url()], OURS, "").wrap(&Secret::random(), &PLACE).unwrap();
    let provider = world.provider(&[&server.url()], OURS, HURRIED);
    world.reports();
    for fault in [
        Fault::Body("{}"),
        Fault::Body("{\"challenge\":\"AAAA\",\"expires_at\":\"\"}"),
        Fault::Body("<html>"),
        Fault::Status(418),
        Fault::Oversized,
        Fault::Redirect,
        Fault::Status(401),
        Fault::Status(403),
        Fault::Status(429),
        Fault::Status(500),
        Fault::HangUp,
        Fault::Silence,
        Fault::Drip,
    ] {
        world.hsm.misbehave_in("challenge", fault);
        let start = Instant::now();
        let error = unwrap(&provider, &slot).unwrap_err();
        let right = match fault {
            Fault::Status(401 | 403) => matches!(error, ProviderError::Refused { .. }),
            Fault::Status(429 | 500) | Fault::HangUp | Fault::Silence | Fault::Drip => {
                matches!(error, ProviderError::Unreachable { .. })
            }
            _ => matches!(error, ProviderError::Answer { .. }),
        };
        assert!(right, "{fault:?}: {error}");
        assert!(start.elapsed() < Duration::from_secs(4), "{fault:?} took {:?}", start.elapsed());
    }
    assert_eq!(world.reports(), 0);
}

#[test]
fn what_is_wrong_here_is_said_here_and_is_no_refusal() {
    let world = World::new();
    let server = world.hsm.serve();
    let provider = world.provider(&[&server.url()], OURS, "");
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    let says = |change: &dyn Fn(&mut Machine), expected: &str| {
        let before = world.chip.guest.machine().clone();
        change(&mut world.chip.guest.machine());
        world.asked();
        for error in [unwrap(&provider, &slot).unwrap_err(), provider.check().unwrap_err()] {
            // A mount with a lease goes on.
            assert!(!matches!(error, ProviderError::Refused { .. } | ProviderError::Bound { .. }), "{error:?}");
            assert!(!error.is_damage() && error.remedy().is_some());
            assert!(told(&error).contains(expected), "no {expected:?} in {}", told(&error));
        }
        assert_eq!(world.asked(), ["challenge", "public-signing-key"], "nothing else is asked");
        *world.chip.guest.machine() = before;
    };
    says(&|machine| machine.fault = simulated::Fault::OldReport, "not the one that was asked for");
    says(&|machine| machine.fault = simulated::Fault::Silent, "cannot be right");
    says(&|machine| machine.fault = simulated::Fault::Status(0x27), "0x27");
    says(&|machine| machine.vmpck_lost = true, "VMPCK");
    says(&|machine| machine.vmpl = 1, "VMPL 0 is more privileged");
    says(&|machine| machine.chip_key_masked = true, "no key of the chip signs");
    says(&|machine| machine.vlek = Some([7; 32]), "of this machine's VLEK");
    says(&|machine| machine.chip_id = [9; 64], "says chip");
    says(&|machine| machine.reported_tcb[7] = 116, "says microcode 116, its key's certificate 115");
    says(&|machine| machine.reported_tcb[7] = 116, "https://kdsintf.amd.com/vcek/v1/Milan/");

    // The host's firmware was updated, and the new certificate put in place.
    world.chip.guest.machine().reported_tcb[7] = 116;
    let renewed = Chip::new(Product::Milan, world.chip.guest.machine().clone());
    std::fs::write(world.certificates.path(), renewed.certificates()).unwrap();
    unwrap(&provider, &slot).unwrap();
    std::fs::write(world.certificates.path(), "none").unwrap();
    let error = unwrap(&provider, &slot).unwrap_err();
    assert!(matches!(error, ProviderError::Setup { .. }) && told(&error).contains("no certificate"), "{error}");
}

/// A device that takes as long as it may.
struct Throttled;

impl SnpGuest for Throttled {
    fn report_within(&self, _: &[u8; 64], _: u32, limit: Duration) -> Result<Vec<u8>, GuestError> {
        assert!(limit <= Duration::from_secs(2), "{limit:?}");
        std::thread::sleep(limit);
        Err(GuestError::TimedOut(limit))
    }

    fn derived_key(&self, _: &KeyRequest) -> Result<Secret<32>, GuestError> {
        Err(GuestError::Host)
    }
}

#[test]
fn a_device_that_is_slow_or_missing_is_told_in_time() {
    let world = World::new();
    let server = world.hsm.serve();
    let slot = world.provider(&[&server.url()], OURS, "").wrap(&Secret::random(), &PLACE).unwrap();
    let start = Instant::now();
    let throttled = HsmApi::in_guest(world.spec(&[&server.url()], OURS, "&timeout=2"), Throttled).unwrap();
    let error = unwrap(&throttled, &slot).unwrap_err();
    assert!(matches!(error, ProviderError::Unreachable { .. }) && told(&error).contains("no answer within"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());

    if Path::new("/dev/sev-guest").exists() {
        return;
    }
    let start = Instant::now();
    let error = unwrap(&HsmApi::open(world.spec(&[&server.url()], OURS, "")).unwrap(), &slot).unwrap_err();
    assert!(matches!(error, ProviderError::Setup { .. }) && told(&error).contains("there is no /dev/sev-guest"));
    assert!(error.remedy().unwrap().contains("--device /dev/sev-guest") && start.elapsed() < Duration::from_secs(30));
}

#[test]
fn specifications_of_evidence_are_checked() {
    let (world, dir) = (World::new(), TempDir::new().unwrap());
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let open = |rest: &str| {
        let pem = world.pem.path().display();
        HsmApi::open(format!("hsm-api:https://h/v1?instance-id=i-1&signing-key={pem}{rest}").parse().unwrap())
    };
    let right = file("right", &world.chip.certificates());
    open(&format!("&evidence=sev-snp&certificates={right}&vmpl=3")).unwrap();
    let (text, large) = (file("text", b"none"), file("large", &[b' '; 33 << 10]));
    for (bad, says) in [
        ("&evidence=tdx".into(), "evidence is not sev-snp"),
        ("&evidence=sev-snp".into(), "needs certificates"),
        (format!("&certificates={right}"), "needs evidence beside"),
        ("&vmpl=0".into(), "needs evidence beside"),
        (format!("&evidence=sev-snp&certificates={right}&vmpl=4"), "from 0 to 3"),
        ("&evidence=sev-snp&certificates=/nonexistent".into(), "cannot read"),
        (format!("&evidence=sev-snp&certificates={text}"), "no certificate of a VCEK or VLEK"),
        (format!("&evidence=sev-snp&certificates={large}"), "more than 32768 bytes"),
    ] {
        let error = open(&bad).unwrap_err();
        assert!(matches!(error, ProviderError::Spec(_) | ProviderError::Setup { .. }), "{error}");
        assert!(told(&error).contains(says), "{bad}: {}", told(&error));
    }
}
