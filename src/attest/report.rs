//! The SEV-SNP attestation report: 1184 bytes, little-endian (AMD publication 56860, "SEV Secure Nested Paging Firmware ABI
//! Specification", table ATTESTATION_REPORT).
//!
//! [`Report`] gives names to bytes and believes nothing: what it says is true only of a [`VerifiedReport`](super::VerifiedReport). All
//! fields read here have had their place since version 2; that a version is known and its reserved bytes are zero is
//! [`Report::well_formed`]'s matter, so that a newer firmware, which writes newer reports, does not keep a guest from reading its own.

use std::fmt;

/// Bytes of a report.
pub const LEN: usize = 0x4A0;
/// Bytes that the signature covers.
pub(super) const SIGNED: usize = 0x2A0;
/// Bytes of each of the signature's two numbers, little-endian.
const SCALAR: usize = 72;

/// A report as it came, with nothing verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    bytes: Box<[u8; LEN]>,
}

/// Why bytes are no report, or one that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Not the length of one.
    #[error("an attestation report has {LEN} bytes, not {0}")]
    Length(usize),
    /// Before the first with these fields, or not one whose fields are known.
    #[error("the report has version {0}, which is not known here")]
    Version(u32),
    /// Nobody knows what they mean.
    #[error("reserved bytes at {0:#x} are not zero")]
    Reserved(usize),
}

/// Generation of the processor, which decides how a TCB version is laid out and which root signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// All of them.
    pub const ALL: [Product; 3] = [Product::Milan, Product::Genoa, Product::Turin];

    /// AMD's word, as it stands in certificates.
    pub fn name(self) -> &'static str {
        match self {
            Product::Milan => "Milan",
            Product::Genoa => "Genoa",
            Product::Turin => "Turin",
        }
    }

    /// By CPUID family and model.
    fn of_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0F) => Some(Product::Milan),
            (0x19, 0x10..=0x1F | 0xA0..=0xAF) => Some(Product::Genoa),
            (0x1A, 0x00..=0x11) => Some(Product::Turin),
            _ => None,
        }
    }

    /// Names of the components of a TCB version, and where in its 8 bytes each stands.
    pub fn components(self) -> &'static [(&'static str, usize)] {
        match self {
            Product::Milan | Product::Genoa => &[("bootloader", 0), ("tee", 1), ("snp", 6), ("microcode", 7)],
            Product::Turin => &[("fmc", 0), ("bootloader", 1), ("tee", 2), ("snp", 3), ("microcode", 7)],
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The key that signs reports, and at the same time the root of derived keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer {
    /// The chip's own key, for its firmware version.
    Vcek,
    /// A key that a cloud provider has loaded into many chips.
    Vlek,
    /// None: the host masks the chip's key, and the report is not signed.
    None,
    /// A number without a meaning yet.
    Unknown(u8),
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signer::Vcek => f.write_str("VCEK"),
            Signer::Vlek => f.write_str("VLEK"),
            Signer::None => f.write_str("none"),
            Signer::Unknown(number) => write!(f, "unknown ({number})"),
        }
    }
}

/// A version of the trusted computing base: a security version for each part of the platform's firmware. Versions are compared component
/// by component, so of two of them neither may be the older one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tcb(pub [u8; 8]);

impl Tcb {
    /// Whether no component is lower than the other's. A byte that is reserved counts as a component: it is zero in every known version.
    pub fn covers(self, other: Tcb) -> bool {
        self.0.iter().zip(other.0).all(|(have, need)| *have >= need)
    }

    /// A component by its name.
    pub fn component(self, product: Product, name: &str) -> Option<u8> {
        let (_, at) = product.components().iter().find(|(have, _)| *have == name)?;
        self.0.get(*at).copied()
    }

    /// With the components' names.
    pub fn describe(self, product: Product) -> String {
        let parts = product.components().iter();
        let parts: Vec<_> =
            parts.map(|(name, at)| format!("{name} {}", self.0.get(*at).copied().unwrap_or_default())).collect();
        parts.join(", ")
    }
}

impl fmt::Display for Tcb {
    /// The 8 bytes in hexadecimal digits, in the order of the report.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tcb({self})")
    }
}

/// Bits of a guest policy that this program speaks of.
pub mod policy {
    /// A migration agent may move the guest.
    pub const MIGRATE_MA: u64 = 1 << 18;
    /// The host may read and write the guest's memory.
    pub const DEBUG: u64 = 1 << 19;
    /// Must be one.
    pub const RESERVED_ONE: u64 = 1 << 17;
}

impl Report {
    /// Takes bytes for a report.
    ///
    /// # Errors
    /// [`ReportError`] for another length, or a version before 2.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let bytes = <[u8; LEN]>::try_from(bytes).map_err(|_| ReportError::Length(bytes.len()))?;
        let report = Report { bytes: Box::new(bytes) };
        if report.version() < 2 { Err(ReportError::Version(report.version())) } else { Ok(report) }
    }

    /// Whether every byte has a known meaning: versions 2, 3 and 5 (4 was never published), reserved bytes zero.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn well_formed(&self) -> Result<(), ReportError> {
        let by_version: &[(usize, usize)] = match self.version() {
            2 => &[(0x188, 0x1A0), (0x1F8, SIGNED)],
            3 => &[(0x18B, 0x1A0), (0x1F8, SIGNED)],
            5 => &[(0x18B, 0x1A0), (0x208, SIGNED)],
            other => return Err(ReportError::Version(other)),
        };
        let always = [
            (0x04C, 0x050),
            (0x1EB, 0x1EC),
            (0x1EF, 0x1F0),
            // A number of 384 bits leaves the rest of its field empty, and nothing follows the two.
            (SIGNED + 48, SIGNED + SCALAR),
            (SIGNED + SCALAR + 48, LEN),
        ];
        for (from, to) in always.iter().chain(by_version) {
            let at = (*from..*to).find(|at| self.bytes.get(*at).is_none_or(|byte| *byte != 0));
            if let Some(at) = at {
                return Err(ReportError::Reserved(at));
            }
        }
        if self.key_info() >> 5 != 0 { Err(ReportError::Reserved(0x048)) } else { Ok(()) }
    }

    fn field<const AT: usize, const N: usize>(&self) -> [u8; N] {
        const { assert!(AT + N <= LEN, "within the report") };
        let mut field = [0; N];
        field.copy_from_slice(&self.bytes[AT..AT + N]);
        field
    }

    fn number<const AT: usize>(&self) -> u32 {
        u32::from_le_bytes(self.field::<AT, 4>())
    }

    /// All of it.
    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.bytes
    }

    /// What the signature is over.
    pub(super) fn signed(&self) -> &[u8] {
        &self.bytes[..SIGNED]
    }

    /// The signature's r and s, each 48 bytes, big-endian.
    pub(super) fn signature(&self) -> [u8; 96] {
        let (mut r, mut s) = (self.field::<SIGNED, 48>(), self.field::<{ SIGNED + SCALAR }, 48>());
        r.reverse();
        s.reverse();
        let mut both = [0; 96];
        both[..48].copy_from_slice(&r);
        both[48..].copy_from_slice(&s);
        both
    }

    /// Version of the report's form.
    pub fn version(&self) -> u32 {
        self.number::<0x000>()
    }

    /// Security version that the ID block gives the guest; 0 without one.
    pub fn guest_svn(&self) -> u32 {
        self.number::<0x004>()
    }

    /// The guest's policy, see [`policy`].
    pub fn policy(&self) -> u64 {
        u64::from_le_bytes(self.field::<0x008, 8>())
    }

    /// Family id of the ID block.
    pub fn family_id(&self) -> [u8; 16] {
        self.field::<0x010, 16>()
    }

    /// Image id of the ID block.
    pub fn image_id(&self) -> [u8; 16] {
        self.field::<0x020, 16>()
    }

    /// Privilege level that the report was asked for.
    pub fn vmpl(&self) -> u32 {
        self.number::<0x030>()
    }

    /// Algorithm of the signature: 1 is ECDSA P-384 with SHA-384.
    pub fn signature_algorithm(&self) -> u32 {
        self.number::<0x034>()
    }

    /// The firmware that runs.
    pub fn current_tcb(&self) -> Tcb {
        Tcb(self.field::<0x038, 8>())
    }

    /// Bits that describe the platform.
    pub fn platform_info(&self) -> u64 {
        u64::from_le_bytes(self.field::<0x040, 8>())
    }

    fn key_info(&self) -> u32 {
        self.number::<0x048>()
    }

    /// Whether an author key certified the ID key of the ID block.
    pub fn has_author_key(&self) -> bool {
        self.key_info() & 1 != 0
    }

    /// Whether the host keeps the chip's key from being used.
    pub fn chip_key_masked(&self) -> bool {
        self.key_info() & 2 != 0
    }

    /// Who signs.
    pub fn signer(&self) -> Signer {
        match self.key_info() >> 2 & 7 {
            0 => Signer::Vcek,
            1 => Signer::Vlek,
            7 => Signer::None,
            other => Signer::Unknown(other as u8),
        }
    }

    /// What the guest asked to have in the report.
    pub fn report_data(&self) -> [u8; 64] {
        self.field::<0x050, 64>()
    }

    /// SHA-384 of what was launched.
    pub fn measurement(&self) -> [u8; 48] {
        self.field::<0x090, 48>()
    }

    /// What the host gave at launch.
    pub fn host_data(&self) -> [u8; 32] {
        self.field::<0x0C0, 32>()
    }

    /// Digest of the key that signed the ID block; zero without one.
    pub fn id_key_digest(&self) -> [u8; 48] {
        self.field::<0x0E0, 48>()
    }

    /// Digest of the key that certified the ID key; zero without one.
    pub fn author_key_digest(&self) -> [u8; 48] {
        self.field::<0x110, 48>()
    }

    /// Identity of this launch of the guest.
    pub fn report_id(&self) -> [u8; 32] {
        self.field::<0x140, 32>()
    }

    /// The firmware that the signing key stands for.
    pub fn reported_tcb(&self) -> Tcb {
        Tcb(self.field::<0x180, 8>())
    }

    /// CPUID family, model and stepping; reports of version 2 do not say.
    pub fn cpuid(&self) -> Option<[u8; 3]> {
        (self.version() >= 3).then(|| self.field::<0x188, 3>())
    }

    /// The processor's generation; `None` if the report does not say, or names one that is not known.
    pub fn product(&self) -> Option<Product> {
        let [family, model, _] = self.cpuid()?;
        Product::of_cpuid(family, model)
    }

    /// Identity of the chip; zero where the host masks it.
    pub fn chip_id(&self) -> [u8; 64] {
        self.field::<0x1A0, 64>()
    }

    /// The same, borrowed.
    pub fn chip_id_bytes(&self) -> &[u8] {
        &self.bytes[0x1A0..0x1E0]
    }

    /// How AMD names the chip in certificates and addresses: on Turin by 8 bytes.
    pub fn hardware_id(&self) -> &[u8] {
        let chip = self.chip_id_bytes();
        if self.product() == Some(Product::Turin) { chip.get(..8).unwrap_or(chip) } else { chip }
    }

    /// Where AMD's key distribution server has the certificate of a VCEK. Nothing is fetched unless told: the address names the chip.
    pub fn vcek_address(&self) -> Option<String> {
        self.vcek_path().map(|path| format!("https://kdsintf.amd.com/{path}"))
    }

    /// Path and query of a VCEK's certificate there (AMD publication 57230).
    pub fn vcek_path(&self) -> Option<String> {
        let product = self.product().unwrap_or(Product::Milan);
        if self.signer() != Signer::Vcek || self.chip_id() == [0; 64] {
            return None;
        }
        let levels = product.components().iter().map(|(name, _)| {
            let level = self.reported_tcb().component(product, name).unwrap_or_default();
            let short = match *name {
                "bootloader" => "bl",
                "microcode" => "ucode",
                other => other,
            };
            format!("{short}SPL={level:02}")
        });
        let levels: Vec<_> = levels.collect();
        Some(format!("vcek/v1/{product}/{}?{}", hex(self.hardware_id()), levels.join("&")))
    }

    /// The firmware below which the platform cannot go back any more.
    pub fn committed_tcb(&self) -> Tcb {
        Tcb(self.field::<0x1E0, 8>())
    }

    /// The firmware that ran when the guest was launched.
    pub fn launch_tcb(&self) -> Tcb {
        Tcb(self.field::<0x1F0, 8>())
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Report");
        shown.field("version", &self.version()).field("measurement", &hex(&self.measurement()));
        shown.field("vmpl", &self.vmpl()).field("reported_tcb", &self.reported_tcb()).finish_non_exhaustive()
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `N` bytes from hexadecimal digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() == 2 * N)?;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sev::firmware::guest::AttestationReport;
    use sev::parser::ByteParser;

    use super::*;

    const MILAN: &[u8] = include_bytes!("../../tests/fixtures/sev-snp/milan-report.bin");

    /// The crate's own decoder is the second opinion on where each field is.
    #[test]
    fn fields_are_where_another_decoder_has_them() {
        // Every byte different from its neighbours, within what both accept.
        for (version, cpuid) in [(2u8, [0, 0, 0]), (3, [0x19, 0x11, 1]), (5, [0x1A, 0x02, 1])] {
            let mut bytes = MILAN.to_vec();
            (4..0x48).chain(0x50..0x188).chain(0x1A0..0x1EB).chain(0x1EC..0x1EF).chain(0x1F0..0x1F8).for_each(|at| {
                bytes[at] = (at * 7 + at / 251) as u8;
            });
            for tcb in [0x38, 0x180, 0x1E0, 0x1F0] {
                // Reserved components.
                let zero = if version == 5 { 4..7 } else { 2..6 };
                bytes[tcb + zero.start..tcb + zero.end].fill(0);
            }
            bytes[0] = version;
            bytes[0x188..0x18B].copy_from_slice(&cpuid);
            let (ours, theirs) = (Report::parse(&bytes).unwrap(), AttestationReport::from_bytes(&bytes).unwrap());
            ours.well_formed().unwrap();
            assert_eq!(ours.version(), theirs.version);
            assert_eq!(ours.guest_svn(), theirs.guest_svn);
            assert_eq!(ours.policy(), u64::from(theirs.policy));
            assert_eq!(ours.family_id().as_slice(), theirs.family_id.as_ref());
            assert_eq!(ours.image_id().as_slice(), theirs.image_id.as_ref());
            assert_eq!(ours.vmpl(), theirs.vmpl);
            assert_eq!(ours.signature_algorithm(), theirs.sig_algo);
            assert_eq!(ours.report_data().as_slice(), theirs.report_data.as_ref());
            assert_eq!(ours.measurement().as_slice(), theirs.measurement.as_ref());
            assert_eq!(ours.host_data().as_slice(), theirs.host_data.as_ref());
            assert_eq!(ours.id_key_digest().as_slice(), theirs.id_key_digest.as_ref());
            assert_eq!(ours.author_key_digest().as_slice(), theirs.author_key_digest.as_ref());
            assert_eq!(ours.report_id().as_slice(), theirs.report_id.as_ref());
            assert_eq!(ours.chip_id().as_slice(), theirs.chip_id.as_ref());
            assert_eq!(ours.cpuid().map(|id| id[0]), theirs.cpuid_fam_id);
            let product = if version == 5 { Product::Turin } else { Product::Genoa };
            for (ours, theirs) in [
                (ours.current_tcb(), theirs.current_tcb),
                (ours.reported_tcb(), theirs.reported_tcb),
                (ours.committed_tcb(), theirs.committed_tcb),
                (ours.launch_tcb(), theirs.launch_tcb),
            ] {
                assert_eq!(ours.component(product, "bootloader"), Some(theirs.bootloader));
                assert_eq!(ours.component(product, "tee"), Some(theirs.tee));
                assert_eq!(ours.component(product, "snp"), Some(theirs.snp));
                assert_eq!(ours.component(product, "microcode"), Some(theirs.microcode));
                assert_eq!(ours.component(product, "fmc"), theirs.fmc);
            }
        }
    }

    #[test]
    fn other_lengths_and_versions_and_reserved_bytes_are_refused() {
        for len in [0, 1, LEN - 1, LEN + 1, 4000] {
            assert_eq!(Report::parse(&vec![2; len]), Err(ReportError::Length(len)));
        }
        for version in [0u8, 1] {
            let mut bytes = MILAN.to_vec();
            bytes[0] = version;
            assert_eq!(Report::parse(&bytes), Err(ReportError::Version(version.into())));
        }
        for version in [4u8, 6, 255] {
            let mut bytes = MILAN.to_vec();
            bytes[0] = version;
            let report = Report::parse(&bytes).unwrap();
            assert_eq!(report.well_formed(), Err(ReportError::Version(version.into())), "read, not believed");
        }
        Report::parse(MILAN).unwrap().well_formed().unwrap();
        for at in [0x04C, 0x18B, 0x1EB, 0x1EF, 0x1F8, 0x29F, 0x2A0 + 48, 0x2A0 + 71, 0x2A0 + 72 + 48, LEN - 1] {
            let mut bytes = MILAN.to_vec();
            bytes[at] = 1;
            assert_eq!(Report::parse(&bytes).unwrap().well_formed(), Err(ReportError::Reserved(at)));
        }
    }

    #[test]
    fn tcb_versions_are_compared_by_component() {
        let tcb = |bootloader, microcode| Tcb([bootloader, 0, 0, 0, 0, 0, 8, microcode]);
        assert!(tcb(3, 115).covers(tcb(3, 115)) && tcb(4, 115).covers(tcb(3, 115)));
        // As a number the first is the larger one.
        assert!(!tcb(2, 200).covers(tcb(3, 115)) && !tcb(3, 115).covers(tcb(2, 200)));
        assert_eq!(tcb(3, 115).describe(Product::Milan), "bootloader 3, tee 0, snp 8, microcode 115");
        assert_eq!(Tcb([1, 2, 3, 4, 0, 0, 0, 5]).component(Product::Turin, "fmc"), Some(1));
        assert_eq!(Tcb([1; 8]).component(Product::Genoa, "fmc"), None);
    }

    #[test]
    fn hexadecimal_digits_are_read_back() {
        assert_eq!(unhex::<3>(&hex(&[0, 0xab, 0xff])), Some([0, 0xab, 0xff]));
        for bad in ["", "0", "00ab", "00abfg", "00abff0", "€€"] {
            assert_eq!(unhex::<3>(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), LEN), version in 0u8..8) {
            bytes[0] = version;
            bytes[1..4].fill(0);
            if let Ok(report) = Report::parse(&bytes) {
                let _ = (report.well_formed(), report.product(), report.signer().to_string(), report.signature());
                let _ = format!("{report:?} {}", report.committed_tcb().describe(Product::Turin));
            }
        }
    }
}
