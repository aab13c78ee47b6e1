//! Evidence of a simulated chip, right and wrong in each way, against a policy; and AMD's own.

use serde_json::{Value, json};

use super::*;
use crate::api::{Base64, InstanceId, Operation, VolumeName, hex};
use crate::attest::Product;
use crate::attest::simulated::Machine;
use crate::attest::verify::tests::Chip;
use crate::server::policy::Policy;

/// The time of all of it: certificates of the chip and of the fixture are valid.
fn now() -> Timestamp {
    "2026-11-23T00:00:00Z".parse().unwrap()
}

fn demanded(json: &Value) -> Attestation {
    Policy::parse(&json!({ "attestation": json })).unwrap().attestation.unwrap()
}

/// What a guest with this measurement is let in by.
fn measured(machine: &Machine) -> Value {
    json!({"measurements": ["ee".repeat(48), hex(&machine.measurement)]})
}

struct Call {
    instance: InstanceId,
    volume: VolumeName,
}

impl Call {
    fn new() -> Call {
        Call { instance: "i-1".parse().unwrap(), volume: "vol".parse().unwrap() }
    }

    fn attested(&self) -> AttestedCall<'_> {
        AttestedCall {
            operation: Operation::Decrypt,
            instance: &self.instance,
            volume: &self.volume,
            rsa_wrapping_key: b"key",
            encrypted_secret: b"blob",
            source: None,
        }
    }
}

const CHALLENGE: Challenge = Challenge([9; 32]);

fn evidence(chip: &Chip, call: &AttestedCall<'_>) -> Evidence {
    Evidence {
        challenge: CHALLENGE,
        report: Base64(chip.report(&call.report_data(&CHALLENGE))),
        certificates: Base64(chip.certificates()),
    }
}

/// The word that a machine is refused with under a policy.
fn outcome(machine: Machine, policy: &Value) -> Result<(), &'static str> {
    let (chip, call) = (Chip::new(Product::Milan, machine), Call::new());
    let evidence = evidence(&chip, &call.attested());
    check(&demanded(policy), &evidence, &call.attested(), &chip.roots(), now())
        .map(drop)
        .map_err(|refused| refused.code)
}

#[test]
fn a_guest_is_let_in_by_its_measurement_or_by_who_answers_for_it() {
    let with = |change: fn(&mut Machine)| {
        let mut machine = Machine::owned(1);
        change(&mut machine);
        machine
    };
    let good = Machine::owned(1);
    let author = json!({"author_keys": [hex(&good.author_key_digest)], "minimum_guest_svn": 4,
        "family_id": hex(&good.family_id), "image_id": hex(&good.image_id)});
    let strict = |name: &str, value: Value| {
        let mut policy = measured(&good);
        policy[name] = value;
        policy
    };
    for (machine, policy, expected) in [
        (good.clone(), measured(&good), Ok(())),
        (with(|machine| machine.measurement[0] ^= 1), measured(&good), Err("attestation-measurement")),
        (with(|machine| machine.measurement[0] ^= 1), author.clone(), Ok(())),
        (with(|machine| machine.author_key_digest[0] ^= 1), author.clone(), Err("attestation-measurement")),
        (with(|machine| machine.author_key_digest = [0; 48]), author.clone(), Err("attestation-measurement")),
        (with(|machine| machine.guest_svn = 3), author.clone(), Err("attestation-measurement")),
        (with(|machine| machine.family_id[0] ^= 1), author.clone(), Err("attestation-measurement")),
        (with(|machine| machine.image_id[0] ^= 1), author, Err("attestation-measurement")),
        (with(|machine| machine.policy |= 1 << 19), measured(&good), Err("attestation-guest-policy")),
        (with(|machine| machine.policy |= 1 << 19), strict("insecure_debug", json!(true)), Ok(())),
        (with(|machine| machine.policy |= 1 << 18), measured(&good), Err("attestation-guest-policy")),
        (good.clone(), strict("policy_set", json!(1 << 20)), Err("attestation-guest-policy")),
        (good.clone(), strict("policy_clear", json!(1 << 16)), Err("attestation-guest-policy")),
        (good.clone(), strict("platform_set", json!(1_u64 << 62)), Err("attestation-platform")),
        (with(|machine| machine.vmpl = 1), measured(&good), Err("attestation-vmpl")),
        (with(|machine| machine.vmpl = 1), strict("vmpl", json!(1)), Ok(())),
        (good.clone(), strict("host_data", json!("01".repeat(32))), Err("attestation-host-data")),
        (good.clone(), strict("host_data", json!("00".repeat(32))), Ok(())),
        (good.clone(), strict("minimum_tcb", json!({"milan": "bootloader=3,snp=8,microcode=115"})), Ok(())),
        (good.clone(), strict("minimum_tcb", json!({"milan": "microcode=116"})), Err("attestation-tcb")),
        (
            with(|machine| machine.launch_tcb[7] = 114),
            strict("minimum_tcb", json!({"milan": "microcode=115"})),
            Err("attestation-tcb"),
        ),
        (
            with(|machine| machine.committed_tcb[7] = 114),
            strict("minimum_tcb", json!({"milan": "microcode=115"})),
            Err("attestation-tcb"),
        ),
        (good.clone(), strict("minimum_tcb", json!({"turin": "snp=0"})), Err("attestation-generation")),
        (good.clone(), strict("chip_ids", json!([hex(&good.chip_id)])), Ok(())),
        (good.clone(), strict("chip_ids", json!(["77".repeat(64)])), Err("attestation-chip")),
        (with(|machine| machine.chip_key_masked = true), measured(&good), Err("attestation-signer")),
    ] {
        assert_eq!(outcome(machine, &policy), expected, "{policy}");
    }
}

#[test]
fn evidence_counts_for_its_own_call_and_from_a_chip_of_amds_alone() {
    let (chip, call) = (Chip::new(Product::Milan, Machine::owned(1)), Call::new());
    let policy = demanded(&measured(&Machine::owned(1)));
    let right = evidence(&chip, &call.attested());
    let refused = |evidence: &Evidence, call: &AttestedCall<'_>, roots: &Roots| {
        check(&policy, evidence, call, roots, now()).map(drop).unwrap_err()
    };
    check(&policy, &right, &call.attested(), &chip.roots(), now()).unwrap();
    assert_eq!(refused(&right, &call.attested(), &Roots::amd()).code, "attestation-certificates");

    let (other, volume) = ("i-2".parse().unwrap(), "vol-2".parse().unwrap());
    for changed in [
        AttestedCall { operation: Operation::Generate, ..call.attested() },
        AttestedCall { instance: &other, ..call.attested() },
        AttestedCall { volume: &volume, ..call.attested() },
        AttestedCall { rsa_wrapping_key: b"another's key", ..call.attested() },
        AttestedCall { encrypted_secret: b"another blob", ..call.attested() },
        AttestedCall { source: Some(&other), ..call.attested() },
    ] {
        assert_eq!(refused(&right, &changed, &chip.roots()).code, "attestation-report-data", "{changed:?}");
    }
    let replayed = Evidence { challenge: Challenge([8; 32]), ..right.clone() };
    assert_eq!(refused(&replayed, &call.attested(), &chip.roots()).code, "attestation-report-data");

    let mut forged = right.clone();
    // A measurement of one's choice.
    forged.report.0[0x90] ^= 1;
    assert_eq!(refused(&forged, &call.attested(), &chip.roots()).code, "attestation-signature");
    for len in [0, 100, 1183, 1185] {
        let mut cut = right.clone();
        cut.report.0.resize(len, 0);
        assert_eq!(refused(&cut, &call.attested(), &chip.roots()).code, "attestation-report", "{len}");
    }
    let elsewhere = Chip::new(Product::Milan, Machine::owned(2));
    let foreign = Evidence { certificates: Base64(elsewhere.certificates()), ..right.clone() };
    assert_eq!(refused(&foreign, &call.attested(), &chip.roots()).code, "attestation-certificates");
    for certificates in [&b""[..], b"0", b"-----BEGIN CERTIFICATE-----", &[0; 24], &[0x30; 5000]] {
        let bare = Evidence { certificates: Base64(certificates.to_vec()), ..right.clone() };
        assert_eq!(refused(&bare, &call.attested(), &chip.roots()).code, "attestation-certificates");
    }

    // A genuine report of AMD's, which was made for something else, says why it is refused.
    let genuine = Evidence {
        challenge: CHALLENGE,
        report: Base64(include_bytes!("../../../tests/fixtures/sev-snp/milan-report.bin").to_vec()),
        certificates: Base64(include_bytes!("../../../tests/fixtures/sev-snp/milan-vcek.der").to_vec()),
    };
    let refused = refused(&genuine, &call.attested(), &Roots::amd());
    assert_eq!(refused.code, "attestation-demand");
    assert!(refused.cause.unwrap().contains("the report's version is 2"));
}
