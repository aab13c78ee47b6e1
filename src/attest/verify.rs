//! Whether a report is genuine, and whether it meets demands.
//!
//! [`verify`] is the only maker of a [`VerifiedReport`]. In order: the certificates lead from a root that is pinned by its digest, by names,
//! dates and signatures, to the key; the key's certificate says what the report says (generation, firmware version, chip); the key signed the
//! very bytes of the report; the report meets the [`Demands`]. Every default demands the strict thing.
//!
//! The crate sev verifies signatures alone, and those over an encoding of its own; what is here does not rely on it. Signatures are
//! aws-lc-rs's: RSASSA-PSS with SHA-384 (RFC 8017) between certificates, ECDSA P-384 with SHA-384 (FIPS 186-5) over the report. Revocation lists
//! are consulted where the demands bring some.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use jiff::Timestamp;
use sev::certs::snp::builtin;
use sha2::{Digest, Sha256};
use x509_cert::der::asn1::ObjectIdentifier;

use super::certificate::{Certificate, CertificateError, EC, Endorsement, P384, RSA, RSA_PSS, RevocationList};
use super::report::{Product, Report, ReportError, Signer, Tcb, hex, policy, unhex};

/// AMD's root certificates (ARK): SHA-256 of their DER.
const AMD_ROOTS: [(Product, &str); 3] = [
    (Product::Milan, "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
    (Product::Genoa, "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
    (Product::Turin, "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
];

/// The roots that are trusted, each for its generation of processors.
#[derive(Debug, Clone)]
pub struct Roots(Vec<(Product, [u8; 32])>);

impl Roots {
    /// AMD's, and no others.
    pub fn amd() -> Self {
        Roots(AMD_ROOTS.iter().filter_map(|(product, digest)| Some((*product, unhex(digest)?))).collect())
    }

    /// A root of a test's own.
    #[cfg(test)]
    pub(crate) fn of_test(product: Product, root: &Certificate) -> Self {
        Roots(vec![(product, Sha256::digest(&root.der).into())])
    }

    fn has(&self, product: Product, root: &Certificate) -> bool {
        self.0.contains(&(product, Sha256::digest(&root.der).into()))
    }
}

/// AMD's authorities for a generation's own chip keys, as they are compiled in.
pub(super) fn built_in(product: Product) -> Result<Vec<Certificate>, CertificateError> {
    let (ark, ask) = match product {
        Product::Milan => (builtin::milan::ARK, builtin::milan::ASK),
        Product::Genoa => (builtin::genoa::ARK, builtin::genoa::ASK),
        Product::Turin => (builtin::turin::ARK, builtin::turin::ASK),
    };
    let mut all = Certificate::read_all(ark)?;
    all.extend(Certificate::read_all(ask)?);
    Ok(all)
}

/// Least security versions of the firmware; a component that is not named may have any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MinimumTcb(Vec<(String, u8)>);

impl std::str::FromStr for MinimumTcb {
    type Err = String;

    /// `bootloader=3,snp=8,microcode=115`
    fn from_str(text: &str) -> Result<Self, String> {
        let mut minimum = Vec::new();
        for part in text.split(',') {
            let (name, version) = part.split_once('=').ok_or("the form is component=version,component=version")?;
            if !Product::ALL.iter().any(|product| product.components().iter().any(|(known, _)| *known == name)) {
                return Err(format!(
                    "no component {name:?}: there are bootloader, tee, snp, microcode and, on Turin, fmc"
                ));
            }
            minimum.push((name.to_owned(), version.parse().map_err(|_| format!("{version:?} is no version"))?));
        }
        Ok(MinimumTcb(minimum))
    }
}

/// What a report must say.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// What the guest was asked to have in it.
    pub report_data: Option<[u8; 64]>,
    /// Privilege level it was made for; 0 by default.
    pub vmpl: u32,
    /// Accept a guest that its host may debug.
    pub allow_debug: bool,
    /// Accept a guest that a migration agent may move.
    pub allow_migration: bool,
    /// Accept reports of version 2, which do not say which generation of processor they are from.
    pub allow_version_2: bool,
    /// Accept reports signed by a cloud provider's key.
    pub allow_vlek: bool,
    /// Bits that the guest's policy must have.
    pub policy_set: u64,
    /// Bits that it must not have.
    pub policy_clear: u64,
    /// Bits that the description of the platform must have.
    pub platform_set: u64,
    /// Least firmware versions, of those reported, committed and at launch.
    pub minimum_tcb: MinimumTcb,
    /// Launch measurements of which it must have one; empty: any.
    pub measurements: Vec<[u8; 48]>,
    /// Digests of author keys of which it must have one; empty: any, or none.
    pub author_keys: Vec<[u8; 48]>,
    /// Least security version of the guest.
    pub minimum_guest_svn: u32,
    /// HOST_DATA.
    pub host_data: Option<[u8; 32]>,
    /// Lists of revoked certificates. If there are any, one must be the root's and in force, and none may name a certificate of the chain;
    /// without any, nothing is known of revocation.
    pub revocations: Vec<RevocationList>,
}

/// Why a report is not believed or does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is none, or not understood.
    #[error("the report cannot be read")]
    Report(#[from] ReportError),
    /// A certificate is none, or lacks something.
    #[error("a certificate cannot be used")]
    Certificate(#[from] CertificateError),
    /// No certificate of that name is there.
    #[error("there is no certificate of {0}")]
    NoCertificate(String),
    /// A certificate is not what its place in the chain demands.
    #[error("the certificate of {whose} {problem}")]
    #[allow(missing_docs)]
    Chain { whose: String, problem: &'static str },
    /// A revocation list is not there or cannot be believed.
    #[error("the revocation list of {whose} {problem}")]
    #[allow(missing_docs)]
    Revocations { whose: String, problem: &'static str },
    /// The chain ends in a root that is not AMD's.
    #[error("the root certificate {name} (SHA-256 {digest}) is not one of AMD's")]
    #[allow(missing_docs)]
    UntrustedRoot { name: String, digest: String },
    /// A signature does not verify.
    #[error("the signature over {0} is not right")]
    Signature(String),
    /// Report and certificate contradict each other.
    #[error("the report says {what} {report}, its key's certificate {certificate}")]
    #[allow(missing_docs)]
    Contradiction { what: &'static str, report: String, certificate: String },
    /// The report is genuine, or would be, and is not what is demanded.
    #[error("{what} is {found}, demanded is {demanded}")]
    #[allow(missing_docs)]
    Demand { what: &'static str, found: String, demanded: String },
}

/// A report that is genuine and met the demands of its verifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReport {
    report: Report,
    product: Product,
    cloud_provider: Option<String>,
}

impl VerifiedReport {
    /// The report.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Generation of the processor.
    pub fn product(&self) -> Product {
        self.product
    }

    /// Whose VLEK signed, if one did.
    pub fn cloud_provider(&self) -> Option<&str> {
        self.cloud_provider.as_deref()
    }
}

/// Verifies a report as it stands at the time `now`.
///
/// # Errors
/// [`VerifyError`]: the first thing that is not right.
pub fn verify(
    bytes: &[u8],
    endorsement: &Endorsement,
    roots: &Roots,
    now: Timestamp,
    demands: &Demands,
) -> Result<VerifiedReport, VerifyError> {
    let report = Report::parse(bytes)?;
    report.well_formed()?;
    let key = &endorsement.key;
    let (key_name, authority) = match report.signer() {
        Signer::Vcek => ("SEV-VCEK", "SEV-"),
        Signer::Vlek if demands.allow_vlek => ("SEV-VLEK", "SEV-VLEK-"),
        other => return Err(demand("the signing key", &other, &"VCEK")),
    };
    if report.signature_algorithm() != 1 {
        return Err(demand("the signature algorithm", &report.signature_algorithm(), &"1 (ECDSA P-384 with SHA-384)"));
    }

    // From the root to the key.
    let product = key.product()?;
    let (root_name, authority_name) = (format!("ARK-{product}"), format!("{authority}{product}"));
    let find = |name: &str| {
        let found = endorsement.authorities.iter().find(|authority| authority.subject().as_deref() == Some(name));
        found.ok_or_else(|| VerifyError::NoCertificate(name.into()))
    };
    let (root, authority) = (find(&root_name)?, find(&authority_name)?);
    if !roots.has(product, root) {
        return Err(VerifyError::UntrustedRoot { name: root_name, digest: hex(&Sha256::digest(&root.der)) });
    }
    for (certificate, name, issuer, is_authority) in [
        (root, &root_name[..], root, true),
        (authority, &authority_name, root, true),
        (key, key_name, authority, false),
    ] {
        link(certificate, name, issuer, is_authority, now)?;
    }
    if !demands.revocations.is_empty() {
        not_revoked(&demands.revocations, [(root, &root_name), (authority, &authority_name), (key, key_name)], now)?;
    }

    if report.version() == 2 && (!demands.allow_version_2 || product == Product::Turin) {
        return Err(demand("the report's version", &2, &"3 or 5"));
    }
    is_of(key, &report)?;

    // That it signed these bytes.
    let spki = &key.x509.tbs_certificate.subject_public_key_info;
    let curve = spki.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    let point = spki.subject_public_key.as_bytes().filter(|_| spki.algorithm.oid == EC && curve == Some(P384));
    let point = point.ok_or_else(|| chain(key_name, "has no P-384 key"))?;
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
        .verify(report.signed(), &report.signature())
        .map_err(|_| VerifyError::Signature("the report".into()))?;

    demands.met_by(&report, product)?;
    let cloud_provider = (report.signer() == Signer::Vlek).then(|| key.cloud_provider()).flatten();
    Ok(VerifiedReport { report, product, cloud_provider })
}

/// Whether the certificate of a signing key is for what a report is from: generation, firmware version, chip. Whether either is genuine is
/// another matter.
///
/// # Errors
/// [`VerifyError`]: the first value that is another one.
pub fn is_of(key: &Certificate, report: &Report) -> Result<(), VerifyError> {
    let product = key.product()?;
    same("generation", report.product().unwrap_or(product), product)?;
    for (name, _) in product.components() {
        let reported = report.reported_tcb().component(product, name).unwrap_or_default();
        same(name, reported, key.component(name)?)?;
    }
    if report.signer() == Signer::Vcek {
        let id = key.hardware_id()?;
        let (chip, rest) = report
            .chip_id()
            .split_at_checked(id.len())
            .map(|(chip, rest)| (chip.to_vec(), rest.to_vec()))
            .unwrap_or_default();
        if id.len() == 8 && product != Product::Turin {
            return Err(CertificateError::Field("hardware id").into());
        }
        same("chip", hex(&chip), hex(id))?;
        same("chip", hex(&rest), "00".repeat(rest.len()))?;
    }
    Ok(())
}

fn chain(whose: &str, problem: &'static str) -> VerifyError {
    VerifyError::Chain { whose: whose.into(), problem }
}

/// One link: names, kind, dates, signature.
fn link(
    certificate: &Certificate,
    name: &str,
    issuer: &Certificate,
    is_authority: bool,
    now: Timestamp,
) -> Result<(), VerifyError> {
    let (own, above) = (&certificate.x509.tbs_certificate, &issuer.x509.tbs_certificate);
    if certificate.subject().as_deref() != Some(name) {
        return Err(chain(name, "has another name"));
    }
    if own.issuer != above.subject {
        return Err(chain(name, "was issued under another name than its issuer's"));
    }
    if certificate.is_authority() != is_authority {
        return Err(chain(name, if is_authority { "is not an authority's" } else { "is an authority's" }));
    }
    let (from, to) = certificate.validity();
    match u64::try_from(now.as_second()) {
        Ok(now) if now > to => return Err(chain(name, "has expired")),
        Ok(now) if now >= from => {}
        _ => return Err(chain(name, "is not valid yet")),
    }
    if certificate.x509.signature_algorithm.oid != RSA_PSS || own.signature != certificate.x509.signature_algorithm {
        return Err(chain(name, "is not signed with RSASSA-PSS"));
    }
    let key = rsa_key(issuer).ok_or_else(|| chain(name, "has an issuer without an RSA key"))?;
    let signature = certificate.x509.signature.as_bytes().unwrap_or_default();
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key)
        .verify(&certificate.signed()?, signature)
        .map_err(|_| VerifyError::Signature(format!("the certificate of {name}")))
}

fn rsa_key(issuer: &Certificate) -> Option<&[u8]> {
    let spki = &issuer.x509.tbs_certificate.subject_public_key_info;
    spki.subject_public_key.as_bytes().filter(|_| spki.algorithm.oid == RSA)
}

/// Nothing of a chain may be in a list of its issuer's. The root's own list must be there and in force, or an old one would hide what was
/// revoked since; that of an authority counts if there is one. Lists of others say nothing here.
fn not_revoked(
    lists: &[RevocationList],
    [root, authority, key]: [(&Certificate, &str); 3],
    now: Timestamp,
) -> Result<(), VerifyError> {
    let now = u64::try_from(now.as_second()).unwrap_or(0);
    let mut root_is_current = false;
    for ((issuer, issuer_name), subjects) in [(root, [root, authority]), (authority, [key, key])] {
        let (name, problem) = (&issuer.x509.tbs_certificate.subject, |problem| VerifyError::Revocations {
            whose: issuer_name.into(),
            problem,
        });
        for list in lists.iter().filter(|list| list.x509.tbs_cert_list.issuer == *name) {
            let (algorithm, tbs) = (&list.x509.signature_algorithm, &list.x509.tbs_cert_list);
            let key = rsa_key(issuer).filter(|_| algorithm.oid == RSA_PSS && tbs.signature == *algorithm);
            let key = key.ok_or_else(|| problem("is not signed with RSASSA-PSS"))?;
            let signature = list.x509.signature.as_bytes().unwrap_or_default();
            UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, key)
                .verify(&list.signed()?, signature)
                .map_err(|_| VerifyError::Signature(format!("the revocation list of {issuer_name}")))?;
            if list.is_special() {
                return Err(problem("is not a whole one, or has critical extensions that are not known here"));
            }
            // Even by a list that has ended: nothing that was revoked comes back.
            let revoked = |(subject, _): &(&Certificate, &str)| list.names(&subject.x509.tbs_certificate.serial_number);
            if let Some((_, whose)) = subjects.into_iter().find(revoked) {
                return Err(chain(whose, "was revoked"));
            }
            let (from, to) = list.validity();
            root_is_current |= issuer_name == root.1 && (from..=to).contains(&now);
        }
    }
    let missing =
        || VerifyError::Revocations { whose: root.1.into(), problem: "that is in force now is not among those given" };
    if root_is_current { Ok(()) } else { Err(missing()) }
}

fn same<T: PartialEq + std::fmt::Display>(what: &'static str, report: T, certificate: T) -> Result<(), VerifyError> {
    if report == certificate {
        return Ok(());
    }
    Err(VerifyError::Contradiction { what, report: report.to_string(), certificate: certificate.to_string() })
}

fn demand(what: &'static str, found: &dyn std::fmt::Display, demanded: &dyn std::fmt::Display) -> VerifyError {
    VerifyError::Demand { what, found: found.to_string(), demanded: demanded.to_string() }
}

impl Demands {
    fn met_by(&self, report: &Report, product: Product) -> Result<(), VerifyError> {
        if self.report_data.is_some_and(|data| data != report.report_data()) {
            return Err(demand("the report data", &hex(&report.report_data()), &"that which was asked for (nonce)"));
        }
        if report.vmpl() != self.vmpl {
            return Err(demand("the privilege level (VMPL)", &report.vmpl(), &self.vmpl));
        }
        let shown = format!("{:#x}", report.policy());
        let bits = |set: u64, clear: u64, demanded: &str| {
            let met = report.policy() & set == set && report.policy() & clear == 0;
            if met { Ok(()) } else { Err(demand("the guest's policy", &shown, &demanded)) }
        };
        bits(policy::RESERVED_ONE, 0, "one with bit 17 set, as every valid one has")?;
        bits(0, if self.allow_debug { 0 } else { policy::DEBUG }, "one without DEBUG (bit 19)")?;
        bits(0, if self.allow_migration { 0 } else { policy::MIGRATE_MA }, "one without MIGRATE_MA (bit 18)")?;
        let (set, clear) = (self.policy_set, self.policy_clear);
        bits(set, clear, &format!("one with the bits {set:#x} and without {clear:#x}"))?;
        if report.platform_info() & self.platform_set != self.platform_set {
            let found = format!("{:#x}", report.platform_info());
            return Err(demand("the platform", &found, &format!("one with the bits {:#x}", self.platform_set)));
        }
        let versions: [(&'static str, Tcb); 3] = [
            ("the reported firmware", report.reported_tcb()),
            ("the committed firmware", report.committed_tcb()),
            ("the firmware at launch", report.launch_tcb()),
        ];
        for (what, tcb) in versions {
            for (name, least) in &self.minimum_tcb.0 {
                if tcb.component(product, name).is_none_or(|version| version < *least) {
                    return Err(demand(what, &tcb.describe(product), &format!("{name} {least} or later")));
                }
            }
        }
        if !self.measurements.is_empty() && !self.measurements.contains(&report.measurement()) {
            return Err(demand("the launch measurement", &hex(&report.measurement()), &"one of those allowed"));
        }
        let author = report.author_key_digest();
        let is_allowed = report.has_author_key() && self.author_keys.contains(&author);
        if !self.author_keys.is_empty() && !is_allowed {
            return Err(demand("the digest of the author key", &hex(&author), &"one of those allowed"));
        }
        if report.guest_svn() < self.minimum_guest_svn {
            let demanded = format!("{} or later", self.minimum_guest_svn);
            return Err(demand("the guest's security version", &report.guest_svn(), &demanded));
        }
        if self.host_data.is_some_and(|data| data != report.host_data()) {
            return Err(demand("HOST_DATA", &hex(&report.host_data()), &"that which was given"));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
