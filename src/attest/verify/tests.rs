//! Verification shown on a genuine report of AMD's, and on reports and certificates made here, each field wrong in turn.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PSS_SHA384, RsaKeyPair};
use x509_cert::certificate::{TbsCertificate, Version};
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::der::asn1::{Any, BitString, Ia5StringRef, OctetString, UtcTime};
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Encode, EncodePem, asn1::Null};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};

use super::*;
use crate::attest::report::LEN;
use crate::attest::simulated::{Machine, SimulatedGuest};
use crate::attest::{GuestError, KeyRequest, SnpGuest};
use crate::crypto::secret::Secret;

const REPORT: &[u8] = include_bytes!("../../../tests/fixtures/sev-snp/milan-report.bin");
const MILAN: &[u8] = include_bytes!("../../../tests/fixtures/sev-snp/milan-vcek.der");
const TURIN: &[u8] = include_bytes!("../../../tests/fixtures/sev-snp/turin-vcek.der");
const CHAIN: &[u8] = include_bytes!("../../../tests/fixtures/sev-snp/milan-chain.pem");

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A time at which all of AMD's certificates in the fixtures are valid.
fn now() -> Timestamp {
    at("2026-11-23T00:00:00Z")
}

fn genuine() -> Endorsement {
    Endorsement::new(Certificate::from_der(MILAN).unwrap(), Vec::new()).unwrap()
}

/// The genuine report is of version 2.
fn version_2() -> Demands {
    Demands { allow_version_2: true, ..Demands::default() }
}

fn check(bytes: &[u8], demands: &Demands) -> Result<VerifiedReport, VerifyError> {
    verify(bytes, &genuine(), &Roots::amd(), now(), demands)
}

#[test]
fn the_pinned_roots_are_those_compiled_in() {
    for product in Product::ALL {
        let root = &built_in(product).unwrap()[0];
        assert!(Roots::amd().has(product, root), "{product}");
        assert_eq!(Product::ALL.iter().filter(|other| Roots::amd().has(**other, root)).count(), 1);
    }
    assert_eq!(Roots::amd().0.len(), 3);
}

#[test]
fn a_genuine_report_verifies() {
    let verified = check(REPORT, &version_2()).unwrap();
    assert_eq!((verified.product(), verified.cloud_provider()), (Product::Milan, None));
    assert_eq!(verified.report().as_bytes().as_slice(), REPORT);
    // With the chain from a file, in either order, and from a bundle.
    let mut chain = Certificate::read_all(CHAIN).unwrap();
    chain.reverse();
    chain.push(Certificate::from_der(MILAN).unwrap());
    let bundle = Endorsement::among(chain).unwrap();
    verify(REPORT, &bundle, &Roots::amd(), now(), &version_2()).unwrap();
    let refused = check(REPORT, &Demands::default()).unwrap_err();
    assert!(matches!(refused, VerifyError::Demand { what: "the report's version", .. }), "{refused}");
}

#[test]
fn no_byte_of_a_genuine_report_can_be_changed() {
    for at in 0..LEN {
        for flip in [0x01, 0x80] {
            let mut bytes = REPORT.to_vec();
            bytes[at] ^= flip;
            // Whatever else it demands, the verifier looks at the signature.
            let lenient = Demands {
                allow_debug: true,
                allow_migration: true,
                allow_vlek: true,
                vmpl: Report::parse(&bytes).map_or(0, |report| report.vmpl()),
                ..version_2()
            };
            let refused = check(&bytes, &lenient);
            assert!(refused.is_err(), "byte {at:#x} with {flip:#x}");
            let is_read_back = matches!(at, 0..4 | 0x34..0x38 | 0x48..0x50 | 0x180..0x1E0 | 0x1EB | 0x1EF | 0x1F8..);
            if !is_read_back {
                let expected = VerifyError::Signature("the report".into());
                assert_eq!(refused, Err(expected), "byte {at:#x} with {flip:#x}");
            }
        }
    }
    for len in [0, LEN - 1, LEN + 1] {
        let mut bytes = REPORT.to_vec();
        bytes.resize(len, 0);
        assert_eq!(check(&bytes, &version_2()), Err(ReportError::Length(len).into()));
    }
}

#[test]
fn a_certificate_is_valid_between_its_dates() {
    let with = |now| verify(REPORT, &genuine(), &Roots::amd(), at(now), &version_2());
    with("2023-04-03T19:23:43Z").unwrap();
    with("2030-04-03T19:23:43Z").unwrap();
    let problem = |now| match with(now) {
        Err(VerifyError::Chain { whose, problem }) => (whose, problem),
        other => panic!("{other:?}"),
    };
    assert_eq!(problem("2023-04-03T19:23:42Z"), ("SEV-VCEK".into(), "is not valid yet"));
    assert_eq!(problem("2030-04-03T19:23:44Z"), ("SEV-VCEK".into(), "has expired"));
    assert_eq!(problem("2020-01-01T00:00:00Z"), ("ARK-Milan".into(), "is not valid yet"));
    assert_eq!(problem("1960-01-01T00:00:00Z").1, "is not valid yet");
}

#[test]
fn no_byte_of_a_genuine_certificate_can_be_changed() {
    let authorities = built_in(Product::Milan).unwrap();
    for at in 0..MILAN.len() {
        let mut bytes = MILAN.to_vec();
        bytes[at] ^= 1;
        let Ok(key) = Certificate::from_der(&bytes) else { continue };
        let endorsement = Endorsement { key, authorities: authorities.clone() };
        assert!(verify(REPORT, &endorsement, &Roots::amd(), now(), &version_2()).is_err(), "byte {at}");
    }
}

#[test]
fn another_generations_key_does_not_endorse() {
    let turin = Endorsement::new(Certificate::from_der(TURIN).unwrap(), Vec::new()).unwrap();
    let refused = verify(REPORT, &turin, &Roots::amd(), now(), &version_2());
    assert!(refused.is_err(), "{refused:?}");
    let mixed = Endorsement { key: genuine().key, authorities: turin.authorities };
    let refused = verify(REPORT, &mixed, &Roots::amd(), now(), &version_2());
    assert_eq!(refused, Err(VerifyError::NoCertificate("ARK-Milan".into())));
}

#[test]
fn demands_on_a_genuine_report() {
    let report = Report::parse(REPORT).unwrap();
    let met = [
        Demands { report_data: Some(report.report_data()), ..version_2() },
        Demands { measurements: vec![[0; 48], report.measurement()], ..version_2() },
        Demands { minimum_tcb: "bootloader=3,tee=0,snp=8,microcode=115".parse().unwrap(), ..version_2() },
        Demands { policy_set: 1 << 16, policy_clear: 1 << 20, host_data: Some([0; 32]), ..version_2() },
    ];
    for demands in met {
        check(REPORT, &demands).unwrap_or_else(|error| panic!("{demands:?}: {error}"));
    }
    let unmet = [
        ("report data", Demands { report_data: Some([1; 64]), ..version_2() }),
        ("VMPL", Demands { vmpl: 1, ..version_2() }),
        ("measurement", Demands { measurements: vec![[0; 48]], ..version_2() }),
        ("author key", Demands { author_keys: vec![[0; 48]], ..version_2() }),
        ("security version", Demands { minimum_guest_svn: 1, ..version_2() }),
        ("HOST_DATA", Demands { host_data: Some([1; 32]), ..version_2() }),
        ("policy", Demands { policy_set: 1 << 24, ..version_2() }),
        ("policy", Demands { policy_clear: 1 << 16, ..version_2() }),
        ("platform", Demands { platform_set: 1 << 63, ..version_2() }),
        ("firmware", Demands { minimum_tcb: "microcode=116".parse().unwrap(), ..version_2() }),
        ("firmware", Demands { minimum_tcb: "snp=9".parse().unwrap(), ..version_2() }),
        ("firmware", Demands { minimum_tcb: "fmc=0".parse().unwrap(), ..version_2() }),
    ];
    for (what, demands) in unmet {
        let error = check(REPORT, &demands).unwrap_err();
        assert!(matches!(error, VerifyError::Demand { .. }) && error.to_string().contains(what), "{error}");
    }
    for bad in ["", "microcode", "microcode=256", "ucode=1", "snp=1,,tee=1"] {
        assert!(MinimumTcb::from_str(bad).is_err(), "{bad}");
    }
}

/// A vendor of chips of our own: what AMD's root, authority and chip keys are.
#[derive(Clone)]
struct Vendor {
    product: Product,
    vlek: bool,
    root: Arc<RsaKeyPair>,
    authority: Arc<RsaKeyPair>,
    key: Arc<EcdsaKeyPair>,
}

/// A certificate to be made, with what a test may want wrong.
#[derive(Clone)]
struct Draft {
    subject: String,
    issuer: String,
    authority: bool,
    /// Seconds since 1970.
    valid: (u64, u64),
    extensions: Vec<(&'static str, Vec<u8>)>,
}

fn integer(n: u8) -> Vec<u8> {
    n.to_der().unwrap()
}

impl Vendor {
    fn new(product: Product, vlek: bool) -> Vendor {
        let rsa = || Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
        let key = Arc::new(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap());
        Vendor { product, vlek, root: rsa(), authority: rsa(), key }
    }

    /// Drafts of root, authority and key for a machine.
    fn drafts(&self, machine: &Machine) -> [Draft; 3] {
        let (product, middle) = (self.product, if self.vlek { "SEV-VLEK-" } else { "SEV-" });
        let draft = |subject: String, issuer: String, authority| Draft {
            subject,
            issuer,
            authority,
            valid: (1_700_000_000, 1_900_000_000),
            extensions: Vec::new(),
        };
        let (root, authority) = (format!("ARK-{product}"), format!("{middle}{product}"));
        let mut key = draft((if self.vlek { "SEV-VLEK" } else { "SEV-VCEK" }).into(), authority.clone(), false);
        key.extensions.push(("2", Ia5StringRef::new(product.name()).unwrap().to_der().unwrap()));
        for (name, at) in product.components() {
            let arc = match *name {
                "bootloader" => "3.1",
                "tee" => "3.2",
                "snp" => "3.3",
                "microcode" => "3.8",
                _ => "3.9",
            };
            key.extensions.push((arc, integer(machine.reported_tcb[*at])));
        }
        if self.vlek {
            key.extensions.push(("5", Ia5StringRef::new("CN=cloud.example").unwrap().to_der().unwrap()));
        } else {
            let len = if product == Product::Turin { 8 } else { 64 };
            key.extensions.push(("4", machine.chip_id[..len].to_vec()));
        }
        [draft(root.clone(), root.clone(), true), draft(authority, root, true), key]
    }

    fn certify(&self, [root, authority, key]: &[Draft; 3]) -> Endorsement {
        let rsa = |pair: &RsaKeyPair| {
            let null = Some(Any::encode_from(&Null).unwrap());
            (AlgorithmIdentifierOwned { oid: RSA, parameters: null }, pair.public_key().as_ref().to_vec())
        };
        let point = AlgorithmIdentifierOwned { oid: EC, parameters: Some(Any::encode_from(&P384).unwrap()) };
        let root = sign(root, rsa(&self.root), &self.root);
        let authority = sign(authority, rsa(&self.authority), &self.root);
        let key = sign(key, (point, self.key.public_key().as_ref().to_vec()), &self.authority);
        Endorsement { key, authorities: vec![root, authority] }
    }

    fn report(&self, machine: &Machine) -> Vec<u8> {
        let guest = SimulatedGuest::new(machine.clone());
        self.signed(guest.report(&[5; 64], machine.vmpl).unwrap())
    }

    fn signed(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let signature = self.key.sign(&SystemRandom::new(), &bytes[..0x2A0]).unwrap();
        for (from, to) in [(0, 0x2A0), (48, 0x2A0 + 72)] {
            let mut number = signature.as_ref()[from..from + 48].to_vec();
            number.reverse();
            bytes[to..to + 48].copy_from_slice(&number);
        }
        bytes
    }
}

/// Makes a certificate in AMD's manner.
fn sign(draft: &Draft, (algorithm, key): (AlgorithmIdentifierOwned, Vec<u8>), by: &RsaKeyPair) -> Certificate {
    let pss = Certificate::from_der(MILAN).unwrap().x509.signature_algorithm;
    let name = |cn: &str| Name::from_str(&format!("CN={cn},O=Advanced Micro Devices")).unwrap();
    let time = |seconds| Time::UtcTime(UtcTime::from_unix_duration(Duration::from_secs(seconds)).unwrap());
    let extension = |oid: String, value: Vec<u8>| Extension {
        extn_id: ObjectIdentifier::new(&oid).unwrap(),
        critical: false,
        extn_value: OctetString::new(value).unwrap(),
    };
    let mut extensions: Vec<_> = draft
        .extensions
        .iter()
        .map(|(arc, value)| extension(format!("1.3.6.1.4.1.3704.1.{arc}"), value.clone()))
        .collect();
    if draft.authority {
        let constraints = BasicConstraints { ca: true, path_len_constraint: None };
        extensions.push(extension("2.5.29.19".into(), constraints.to_der().unwrap()));
    }
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(&[0]).unwrap(),
        signature: pss.clone(),
        issuer: name(&draft.issuer),
        validity: Validity { not_before: time(draft.valid.0), not_after: time(draft.valid.1) },
        subject: name(&draft.subject),
        subject_public_key_info: SubjectPublicKeyInfoOwned {
            algorithm,
            subject_public_key: BitString::from_bytes(&key).unwrap(),
        },
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: (!extensions.is_empty()).then_some(extensions),
    };
    let mut signature = vec![0; by.public_modulus_len()];
    by.sign(&RSA_PSS_SHA384, &SystemRandom::new(), &tbs_certificate.to_der().unwrap(), &mut signature).unwrap();
    let signature = BitString::from_bytes(&signature).unwrap();
    let x509 = x509_cert::Certificate { tbs_certificate, signature_algorithm: pss, signature };
    Certificate::from_der(&x509.to_der().unwrap()).unwrap()
}

/// A chip with a guest, and the certificates of its vendor, for tests of those to whom reports are shown. Clones are the same guest.
#[derive(Clone)]
#[allow(dead_code, reason = "those are features for themselves")]
pub(crate) struct Chip {
    vendor: Vendor,
    /// The guest, whose reports nobody has signed yet.
    pub(crate) guest: SimulatedGuest,
    endorsement: Endorsement,
}

impl SnpGuest for Chip {
    fn report_within(&self, data: &[u8; 64], vmpl: u32, limit: Duration) -> Result<Vec<u8>, GuestError> {
        self.guest.report_within(data, vmpl, limit).map(|report| self.vendor.signed(report))
    }

    fn derived_key(&self, request: &KeyRequest) -> Result<Secret<32>, GuestError> {
        self.guest.derived_key(request)
    }
}

#[allow(dead_code, reason = "as above")]
impl Chip {
    pub(crate) fn new(product: Product, machine: Machine) -> Chip {
        let vendor = Vendor::new(product, false);
        let endorsement = vendor.certify(&vendor.drafts(&machine));
        Chip { vendor, guest: SimulatedGuest::new(machine), endorsement }
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::of_test(self.vendor.product, &self.endorsement.authorities[0])
    }

    /// A report with these data.
    pub(crate) fn report(&self, data: &[u8; 64]) -> Vec<u8> {
        let vmpl = self.guest.machine().vmpl;
        SnpGuest::report(self, data, vmpl).unwrap()
    }

    /// All certificates, as PEM.
    pub(crate) fn certificates(&self) -> Vec<u8> {
        let all = self.endorsement.authorities.iter().chain([&self.endorsement.key]);
        let pem = all.map(|certificate| certificate.x509.to_pem(LineEnding::LF).unwrap());
        pem.collect::<String>().into_bytes()
    }
}

/// A machine of each generation.
fn machine(product: Product) -> Machine {
    let (cpuid, report_version) = match product {
        Product::Milan => ([0x19, 0x01, 1], 3),
        Product::Genoa => ([0x19, 0x11, 1], 3),
        Product::Turin => ([0x1A, 0x02, 1], 5),
    };
    let mut machine = Machine { cpuid, report_version, ..Machine::owned(1) };
    if product == Product::Turin {
        machine.chip_id[8..].fill(0);
        let tcb = [1, 3, 0, 8, 0, 0, 0, 150];
        (machine.reported_tcb, machine.committed_tcb, machine.current_tcb, machine.launch_tcb) = (tcb, tcb, tcb, tcb);
    }
    machine
}

/// Vendor, machine and drafts that are all right, to spoil.
#[derive(Clone)]
struct Case {
    vendor: Vendor,
    machine: Machine,
    drafts: [Draft; 3],
}

impl Case {
    fn new(product: Product, vlek: bool) -> Case {
        let (vendor, mut machine) = (Vendor::new(product, vlek), machine(product));
        machine.vlek = vlek.then_some([7; 32]);
        let drafts = vendor.drafts(&machine);
        Case { vendor, machine, drafts }
    }

    fn verify_with(&self, demands: &Demands) -> Result<VerifiedReport, VerifyError> {
        self.verify_bytes(&self.vendor.report(&self.machine), demands)
    }

    fn verify_bytes(&self, bytes: &[u8], demands: &Demands) -> Result<VerifiedReport, VerifyError> {
        let endorsement = self.vendor.certify(&self.drafts);
        let roots = Roots::of_test(self.vendor.product, &endorsement.authorities[0]);
        verify(bytes, &endorsement, &roots, now(), demands)
    }

    fn verify(&self) -> Result<VerifiedReport, VerifyError> {
        self.verify_with(&Demands::default())
    }
}

#[test]
fn reports_of_each_generation_verify_under_its_own_root_alone() {
    for product in Product::ALL {
        let case = Case::new(product, false);
        assert_eq!(case.verify().unwrap().product(), product);
        let endorsement = case.vendor.certify(&case.drafts);
        let bytes = case.vendor.report(&case.machine);
        let refused = verify(&bytes, &endorsement, &Roots::amd(), now(), &Demands::default());
        assert!(matches!(refused, Err(VerifyError::UntrustedRoot { .. })), "{refused:?}");
        // The root of another generation.
        let other = Product::ALL[(Product::ALL.iter().position(|p| *p == product).unwrap() + 1) % 3];
        let roots = Roots::of_test(other, &endorsement.authorities[0]);
        let refused = verify(&bytes, &endorsement, &roots, now(), &Demands::default());
        assert!(matches!(refused, Err(VerifyError::UntrustedRoot { .. })), "{refused:?}");
    }
}

#[test]
fn a_vlek_is_believed_only_where_it_is_allowed() {
    let case = Case::new(Product::Milan, true);
    let refused = case.verify().unwrap_err();
    assert!(matches!(refused, VerifyError::Demand { what: "the signing key", .. }), "{refused}");
    let allowed = Demands { allow_vlek: true, ..Demands::default() };
    let verified = case.verify_with(&allowed).unwrap();
    assert_eq!(verified.cloud_provider(), Some("CN=cloud.example"));
    // A report that says VCEK under the chain of a VLEK, and the other way round.
    let mut crossed = Case::new(Product::Milan, true);
    crossed.machine.vlek = None;
    assert_eq!(crossed.verify_with(&allowed), Err(VerifyError::NoCertificate("SEV-Milan".into())));
    let mut crossed = Case::new(Product::Milan, false);
    crossed.machine.vlek = Some([7; 32]);
    assert_eq!(crossed.verify_with(&allowed), Err(VerifyError::NoCertificate("SEV-VLEK-Milan".into())));
    // Nobody signs where the host masks the key.
    let mut masked = Case::new(Product::Milan, false);
    masked.machine.chip_key_masked = true;
    assert!(matches!(masked.verify_with(&allowed), Err(VerifyError::Demand { what: "the signing key", .. })));
}

/// What `Chain::verify` of the crate sev lets through.
#[test]
fn every_link_of_the_chain_is_looked_at() {
    type Spoil = fn(&mut [Draft; 3]);
    let spoilt: [(&str, Spoil); 12] = [
        ("has expired", |drafts| drafts[2].valid.1 = 1_700_000_001),
        ("has expired", |drafts| drafts[1].valid.1 = 1_700_000_001),
        ("has expired", |drafts| drafts[0].valid.1 = 1_700_000_001),
        ("is not valid yet", |drafts| drafts[1].valid.0 = 1_899_999_999),
        ("issued under another name", |drafts| drafts[2].issuer = "SEV-Genoa".into()),
        ("issued under another name", |drafts| drafts[1].issuer = "ARK-Genoa".into()),
        ("has another name", |drafts| drafts[2].subject = "SEV-VLEK".into()),
        ("no certificate of SEV-Milan", |drafts| drafts[1].subject = "SEV-Genoa".into()),
        ("is an authority's", |drafts| drafts[2].authority = true),
        ("is not an authority's", |drafts| drafts[1].authority = false),
        ("is not an authority's", |drafts| drafts[0].authority = false),
        ("no certificate of ARK-Milan", |drafts| drafts[0].subject = "SEV-Milan".into()),
    ];
    let right = Case::new(Product::Milan, false);
    for (problem, spoil) in spoilt {
        let mut case = right.clone();
        spoil(&mut case.drafts);
        let error = case.verify().unwrap_err();
        assert!(error.to_string().contains(problem), "{problem}: {error}");
    }
    // Right names, wrong signatures: each key replaced by a stranger's.
    let case = Case::new(Product::Milan, false);
    let stranger = Vendor::new(Product::Milan, false);
    let (ours, theirs) = (case.vendor.certify(&case.drafts), stranger.certify(&case.drafts));
    let bytes = case.vendor.report(&case.machine);
    let roots = Roots::of_test(Product::Milan, &ours.authorities[0]);
    let with = |key: &Endorsement, root: &Endorsement, authority: &Endorsement| {
        let authorities = vec![root.authorities[0].clone(), authority.authorities[1].clone()];
        verify(&bytes, &Endorsement { key: key.key.clone(), authorities }, &roots, now(), &Demands::default())
    };
    with(&ours, &ours, &ours).unwrap();
    let signature = |what: &str| Err(VerifyError::Signature(what.into()));
    assert_eq!(with(&ours, &ours, &theirs), signature("the certificate of SEV-Milan"));
    assert_eq!(with(&theirs, &ours, &ours), signature("the certificate of SEV-VCEK"));
    assert!(matches!(with(&ours, &theirs, &ours), Err(VerifyError::UntrustedRoot { .. })));
    // Another chip's key with the same names and values did not sign this report.
    let mut twin = Case::new(Product::Milan, false);
    (twin.vendor.root, twin.vendor.authority) = (case.vendor.root.clone(), case.vendor.authority.clone());
    assert_eq!(twin.verify_bytes(&bytes, &Demands::default()), signature("the report"));
}

/// A list of revoked serial numbers, to be made.
#[derive(Clone)]
struct List<'a> {
    issuer: &'a str,
    by: &'a RsaKeyPair,
    serials: &'a [u8],
    /// Seconds since 1970.
    valid: (u64, Option<u64>),
    critical: bool,
}

impl List<'_> {
    fn make(&self) -> RevocationList {
        let pss = Certificate::from_der(MILAN).unwrap().x509.signature_algorithm;
        let time = |seconds| Time::UtcTime(UtcTime::from_unix_duration(Duration::from_secs(seconds)).unwrap());
        let entry = |serial: &u8| RevokedCert {
            serial_number: SerialNumber::new(&[*serial]).unwrap(),
            revocation_date: time(self.valid.0),
            crl_entry_extensions: None,
        };
        // Its number (RFC 5280, 5.2.3), which is not critical in an ordinary list.
        let number = Extension {
            extn_id: ObjectIdentifier::new_unwrap("2.5.29.20"),
            critical: self.critical,
            extn_value: OctetString::new(integer(1)).unwrap(),
        };
        let tbs_cert_list = TbsCertList {
            version: Version::V2,
            signature: pss.clone(),
            issuer: Name::from_str(&format!("CN={},O=Advanced Micro Devices", self.issuer)).unwrap(),
            this_update: time(self.valid.0),
            next_update: self.valid.1.map(time),
            revoked_certificates: (!self.serials.is_empty()).then(|| self.serials.iter().map(entry).collect()),
            crl_extensions: Some(vec![number]),
        };
        let mut signature = vec![0; self.by.public_modulus_len()];
        let tbs = tbs_cert_list.to_der().unwrap();
        self.by.sign(&RSA_PSS_SHA384, &SystemRandom::new(), &tbs, &mut signature).unwrap();
        let signature = BitString::from_bytes(&signature).unwrap();
        let list = CertificateList { tbs_cert_list, signature_algorithm: pss, signature };
        RevocationList::from_der(&list.to_der().unwrap()).unwrap()
    }
}

/// All certificates made here have the serial number 0, as AMD's VCEKs have.
#[test]
fn what_was_revoked_is_refused() {
    let case = Case::new(Product::Milan, false);
    let with = |lists: &[List<'_>]| {
        let revocations = lists.iter().map(List::make).collect();
        case.verify_with(&Demands { revocations, ..Demands::default() })
    };
    let problem = |lists: &[List<'_>]| with(lists).unwrap_err().to_string();
    let right = List {
        issuer: "ARK-Milan",
        by: &case.vendor.root,
        serials: &[7],
        valid: (1_750_000_000, Some(1_850_000_000)),
        critical: false,
    };
    with(std::slice::from_ref(&right)).unwrap();
    with(&[List { serials: &[], ..right.clone() }]).unwrap();
    // Lists of others say nothing, however wrong.
    let other = List { issuer: "ARK-Genoa", serials: &[0], critical: true, ..right.clone() };
    with(&[other.clone(), right.clone()]).unwrap();

    assert!(problem(&[List { serials: &[7, 0], ..right.clone() }]).contains("was revoked"));
    let of_authority = List { issuer: "SEV-Milan", by: &case.vendor.authority, serials: &[0], ..right.clone() };
    assert_eq!(problem(&[right.clone(), of_authority]), "the certificate of SEV-VCEK was revoked");
    // Revoked once is revoked for ever.
    let ended = List { valid: (1_700_000_000, Some(1_700_000_001)), ..right.clone() };
    assert!(problem(&[List { serials: &[0], ..ended.clone() }, right.clone()]).contains("was revoked"));
    with(&[ended.clone(), right.clone()]).unwrap();

    let to_come = List { valid: (1_850_000_000, Some(1_860_000_000)), ..right.clone() };
    for not_in_force in [ended, to_come, List { valid: (1_750_000_000, None), ..right.clone() }, other] {
        assert!(problem(&[not_in_force]).contains("of ARK-Milan that is in force now is not among those given"));
    }
    assert!(problem(&[List { critical: true, ..right.clone() }]).contains("not a whole one"));
    assert!(
        problem(&[List { by: &case.vendor.authority, ..right.clone() }]).contains("signature over the revocation list")
    );
    // No byte of it can be changed.
    let list = right.make();
    let der = list.x509.to_der().unwrap();
    for at in 0..der.len() {
        let mut bytes = der.clone();
        bytes[at] ^= 1;
        let Ok(changed) = RevocationList::from_der(&bytes) else { continue };
        let refused = case.verify_with(&Demands { revocations: vec![changed], ..Demands::default() });
        assert!(refused.is_err(), "byte {at}");
    }
    assert!(RevocationList::from_der(&[&der[..], &[0]].concat()).is_err());
    assert!(RevocationList::from_der(&vec![0x30; 100_000]).is_err());
}

#[test]
fn the_certificate_must_say_what_the_report_says() {
    for product in Product::ALL {
        let case = Case::new(product, false);
        for at in 0..case.drafts[2].extensions.len() {
            // Another value, and none.
            let mut other = case.clone();
            let value = &mut other.drafts[2].extensions[at].1;
            let last = value.len() - 1;
            value[last] ^= 1;
            assert!(other.verify().is_err(), "{product} {}", other.drafts[2].extensions[at].0);
            let mut none = case.clone();
            let (arc, _) = none.drafts[2].extensions.remove(at);
            let refused = none.verify();
            assert!(matches!(refused, Err(VerifyError::Certificate(CertificateError::Field(_)))), "{arc}: {refused:?}");
            let mut twice = case.clone();
            let again = twice.drafts[2].extensions[at].clone();
            twice.drafts[2].extensions.push(again);
            assert!(matches!(twice.verify(), Err(VerifyError::Certificate(CertificateError::Field(_)))), "{arc} twice");
        }
        // A machine whose firmware or chip is not the certificate's.
        for component in product.components() {
            let mut updated = case.clone();
            updated.machine.reported_tcb[component.1] += 1;
            let refused = updated.verify();
            assert!(
                matches!(refused, Err(VerifyError::Contradiction { what, .. }) if what == component.0),
                "{refused:?}"
            );
        }
        for at in [0, 7, 8, 63] {
            let mut moved = case.clone();
            moved.machine.chip_id[at] ^= 1;
            let refused = moved.verify();
            assert!(
                matches!(refused, Err(VerifyError::Contradiction { what: "chip", .. })),
                "{product} {at}: {refused:?}"
            );
        }
        let mut elsewhere = case.clone();
        elsewhere.machine.cpuid = if product == Product::Turin { [0x19, 0x01, 0] } else { [0x1A, 0x02, 0] };
        let refused = elsewhere.verify();
        assert!(matches!(refused, Err(VerifyError::Contradiction { what: "generation", .. })), "{refused:?}");
    }
}

#[test]
fn what_a_genuine_key_signs_can_still_be_refused() {
    let right = Case::new(Product::Milan, false);
    let demand = |machine: Machine| {
        let case = Case { machine, ..right.clone() };
        match case.verify() {
            Err(VerifyError::Demand { what, demanded, .. }) => format!("{what}: {demanded}"),
            other => panic!("{other:?}"),
        }
    };
    let machine = || machine(Product::Milan);
    assert!(demand(Machine { policy: 0xb_0000, ..machine() }).contains("DEBUG"));
    assert!(demand(Machine { policy: 0x7_0000, ..machine() }).contains("MIGRATE_MA"));
    assert!(demand(Machine { policy: 0x1_0000, ..machine() }).contains("bit 17"));
    assert!(demand(Machine { vmpl: 1, ..machine() }).contains("VMPL"));
    // Firmware: reported is enough, committed or launched is not.
    let minimum = Demands { minimum_tcb: "microcode=115".parse().unwrap(), ..Demands::default() };
    let old = [3, 0, 0, 0, 0, 0, 8, 114];
    right.clone().verify_with(&minimum).unwrap();
    for machine in [Machine { committed_tcb: old, ..machine() }, Machine { launch_tcb: old, ..machine() }] {
        let case = Case { machine, ..right.clone() };
        assert!(matches!(case.verify_with(&minimum), Err(VerifyError::Demand { .. })));
    }
    // The owner's key, where one is demanded.
    let owner = Demands { author_keys: vec![[0xa0; 48]], minimum_guest_svn: 4, ..Demands::default() };
    right.clone().verify_with(&owner).unwrap();
    let unowned = Machine { author_key_digest: [0; 48], ..machine() };
    assert!(Case { machine: unowned, ..right.clone() }.verify_with(&owner).is_err());
}

#[test]
fn other_algorithms_and_forms_of_report_are_refused() {
    let case = Case::new(Product::Milan, false);
    let with = |at: usize, byte: u8| {
        let mut bytes = case.vendor.report(&case.machine);
        bytes[at] = byte;
        case.verify_bytes(&case.vendor.signed(bytes), &Demands::default())
    };
    with(0, 3).unwrap();
    for version in [4, 6, 7] {
        assert_eq!(with(0, version), Err(ReportError::Version(version.into()).into()));
    }
    assert!(matches!(with(0x34, 2), Err(VerifyError::Demand { what: "the signature algorithm", .. })));
    assert_eq!(with(0x1EB, 1), Err(ReportError::Reserved(0x1EB).into()));
    assert!(matches!(with(0x48, 3 << 2), Err(VerifyError::Demand { what: "the signing key", .. })));
}
