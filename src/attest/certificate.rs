//! AMD's certificates of the keys that sign reports: reading them, with bounds, from files and from a host's table.
//!
//! Nothing here is believed yet; [`verify`](super::verify) does that.

use der::asn1::ObjectIdentifier;
use der::{Decode, DecodePem, Encode};
use x509_cert::crl::CertificateList;
use x509_cert::der;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::BasicConstraints;
use x509_cert::serial_number::SerialNumber;

use super::report::Product;

/// Largest file or table of certificates: a chain has some 5 KB, a table at most 4 pages of the kernel's.
pub const MAX_INPUT: usize = 64 << 10;
/// Most certificates in one file or table.
const MAX_CERTIFICATES: usize = 16;
/// Bytes of an entry of the table: GUID, offset, length.
const ENTRY: usize = 24;

/// AMD's arc.
const ARC: &str = "1.3.6.1.4.1.3704.1";
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
/// id-RSASSA-PSS (RFC 8017).
pub(super) const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// rsaEncryption (RFC 8017).
pub(super) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// id-ecPublicKey (RFC 5480).
pub(super) const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// secp384r1 (RFC 5480).
pub(super) const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// Why bytes are no certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// More than there can be.
    #[error("more than {MAX_INPUT} bytes, or more than {MAX_CERTIFICATES} certificates")]
    TooLarge,
    /// Nothing there.
    #[error("there is no certificate")]
    Empty,
    /// Not in the form of one.
    #[error("not a certificate in DER or PEM: {0}")]
    Malformed(String),
    /// Not in the form of a revocation list.
    #[error("not a revocation list in DER: {0}")]
    List(String),
    /// Not in the one encoding that DER has, so what is signed would be in doubt.
    #[error("it is not encoded as DER demands")]
    Encoding,
    /// Something that must be there once is not, or twice, or of another form.
    #[error("the certificate's {0} is missing, there twice or malformed")]
    Field(&'static str),
    /// The table of certificates points outside itself.
    #[error("the table of certificates is malformed at byte {0}")]
    Table(usize),
}

fn malformed(error: der::Error) -> CertificateError {
    CertificateError::Malformed(error.to_string())
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub(super) der: Vec<u8>,
    pub(super) x509: x509_cert::Certificate,
}

impl Certificate {
    /// Takes DER.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_INPUT {
            return Err(CertificateError::TooLarge);
        }
        let x509 = x509_cert::Certificate::from_der(bytes).map_err(malformed)?;
        // The signature is verified over an encoding of what was read: there must be one only.
        if x509.to_der().map_err(malformed)? != bytes {
            return Err(CertificateError::Encoding);
        }
        Ok(Certificate { der: bytes.to_vec(), x509 })
    }

    /// Takes one certificate in DER, or one or more in PEM (RFC 7468).
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn read_all(bytes: &[u8]) -> Result<Vec<Self>, CertificateError> {
        const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
        const END: &str = "-----END CERTIFICATE-----";
        if bytes.len() > MAX_INPUT {
            return Err(CertificateError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.contains(BEGIN));
        let Some(mut text) = text else { return Ok(vec![Self::from_der(bytes)?]) };
        let mut all = Vec::new();
        while let Some((_, rest)) = text.split_once(BEGIN) {
            let (body, rest) = rest.split_once(END).ok_or(CertificateError::Empty)?;
            if all.len() == MAX_CERTIFICATES {
                return Err(CertificateError::TooLarge);
            }
            let block = format!("{BEGIN}\n{}\n{END}\n", body.trim());
            let x509 = x509_cert::Certificate::from_pem(block).map_err(malformed)?;
            all.push(Self::from_der(&x509.to_der().map_err(malformed)?)?);
            text = rest;
        }
        Ok(all)
    }

    /// As it was read.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// What is signed.
    pub(super) fn signed(&self) -> Result<Vec<u8>, CertificateError> {
        self.x509.tbs_certificate.to_der().map_err(malformed)
    }

    /// Common name of the subject.
    pub fn subject(&self) -> Option<String> {
        common_name(&self.x509.tbs_certificate.subject)
    }

    /// Common name of the issuer.
    pub fn issuer(&self) -> Option<String> {
        common_name(&self.x509.tbs_certificate.issuer)
    }

    /// Seconds since 1970 between which it is valid, both included.
    pub fn validity(&self) -> (u64, u64) {
        let validity = &self.x509.tbs_certificate.validity;
        (validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs())
    }

    fn extension(&self, oid: ObjectIdentifier) -> Option<&[u8]> {
        let extensions = self.x509.tbs_certificate.extensions.as_deref().unwrap_or_default();
        let mut found = extensions.iter().filter(|extension| extension.extn_id == oid);
        let first = found.next()?;
        // Twice is as good as not there.
        found.next().is_none().then(|| first.extn_value.as_bytes())
    }

    /// An extension of AMD's.
    fn amd(&self, arc: &str) -> Option<&[u8]> {
        self.extension(ObjectIdentifier::new(&format!("{ARC}.{arc}")).ok()?)
    }

    /// Whether it may sign certificates.
    pub(super) fn is_authority(&self) -> bool {
        let constraints = self.extension(BASIC_CONSTRAINTS).and_then(|bytes| BasicConstraints::from_der(bytes).ok());
        constraints.is_some_and(|constraints| constraints.ca)
    }

    /// Generation of processors that AMD made it for: "Milan-B0" is Milan, and the smaller dies of a generation go with it.
    ///
    /// # Errors
    /// [`CertificateError::Field`].
    pub fn product(&self) -> Result<Product, CertificateError> {
        let name = self.amd("2").and_then(|bytes| der::asn1::Ia5StringRef::from_der(bytes).ok());
        let name = name.as_ref().map(|name| name.as_str()).and_then(|name| name.split('-').next());
        match name {
            Some("Milan") => Ok(Product::Milan),
            Some("Genoa" | "Bergamo" | "Siena") => Ok(Product::Genoa),
            Some("Turin") => Ok(Product::Turin),
            _ => Err(CertificateError::Field("product name")),
        }
    }

    /// A component of the firmware version that the key stands for.
    ///
    /// # Errors
    /// [`CertificateError::Field`].
    pub fn component(&self, name: &'static str) -> Result<u8, CertificateError> {
        let arc = match name {
            "bootloader" => "3.1",
            "tee" => "3.2",
            "snp" => "3.3",
            "microcode" => "3.8",
            "fmc" => "3.9",
            _ => return Err(CertificateError::Field(name)),
        };
        self.amd(arc).and_then(|bytes| u8::from_der(bytes).ok()).ok_or(CertificateError::Field(name))
    }

    /// Hardware id: 64 bytes, on Turin 8. AMD has written it raw, and as a DER OCTET STRING; the length tells, since raw bytes may begin
    /// with the tag of one.
    ///
    /// # Errors
    /// [`CertificateError::Field`].
    pub fn hardware_id(&self) -> Result<&[u8], CertificateError> {
        match self.amd("4") {
            Some(raw) if raw.len() == 64 || raw.len() == 8 => Ok(raw),
            Some([0x04, 64, id @ ..]) if id.len() == 64 => Ok(id),
            Some([0x04, 8, id @ ..]) if id.len() == 8 => Ok(id),
            _ => Err(CertificateError::Field("hardware id")),
        }
    }

    /// Which cloud provider a VLEK was made for.
    pub fn cloud_provider(&self) -> Option<String> {
        der::asn1::Ia5StringRef::from_der(self.amd("5")?).ok().map(|id| id.as_str().to_owned())
    }
}

/// A list of revoked certificates (CRL, RFC 5280, section 5), as AMD's key distribution server has one of each root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    pub(super) x509: CertificateList,
}

impl RevocationList {
    /// Takes DER.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_INPUT {
            return Err(CertificateError::TooLarge);
        }
        let x509 = CertificateList::from_der(bytes).map_err(|error| CertificateError::List(error.to_string()))?;
        // As of certificates: the signature is verified over an encoding of what was read.
        if x509.to_der().map_err(malformed)? != bytes {
            return Err(CertificateError::Encoding);
        }
        Ok(RevocationList { x509 })
    }

    /// What is signed.
    pub(super) fn signed(&self) -> Result<Vec<u8>, CertificateError> {
        self.x509.tbs_cert_list.to_der().map_err(malformed)
    }

    /// Seconds since 1970 between which it is in force. A list without an end is never: it may be of any age.
    pub(super) fn validity(&self) -> (u64, u64) {
        let list = &self.x509.tbs_cert_list;
        let seconds = |time: &x509_cert::time::Time| time.to_unix_duration().as_secs();
        (seconds(&list.this_update), list.next_update.as_ref().map_or(0, seconds))
    }

    pub(super) fn names(&self, serial: &SerialNumber) -> bool {
        self.x509.tbs_cert_list.revoked_certificates.iter().flatten().any(|entry| entry.serial_number == *serial)
    }

    /// Whether it is a part of a list, a change to one, or somebody else's entries are in it: all of these say so by an extension that
    /// is critical, and none of those is known here.
    pub(super) fn is_special(&self) -> bool {
        let list = &self.x509.tbs_cert_list;
        let entries =
            list.revoked_certificates.iter().flatten().filter_map(|entry| entry.crl_entry_extensions.as_ref());
        let mut all = entries.chain(&list.crl_extensions).flatten();
        all.any(|extension: &Extension| extension.critical)
    }
}

/// The one common name in a name.
fn common_name(name: &x509_cert::name::Name) -> Option<String> {
    let mut found = name.0.iter().flat_map(|part| part.0.iter()).filter(|attribute| attribute.oid == COMMON_NAME);
    let value = &found.next()?.value;
    let text = std::str::from_utf8(value.value()).ok()?.to_owned();
    found.next().is_none().then_some(text)
}

/// The certificates that endorse a report: the signing key's own, and its authorities'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsement {
    /// Of the VCEK or VLEK.
    pub key: Certificate,
    /// Whatever else was there; those needed are found by name.
    pub authorities: Vec<Certificate>,
}

impl Endorsement {
    /// The certificate of the signing key, and those of its authorities; where there are none, those compiled in for AMD's own keys
    /// (VCEK). AMD's authority for VLEKs is not among them.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn new(key: Certificate, mut authorities: Vec<Certificate>) -> Result<Self, CertificateError> {
        if authorities.is_empty() {
            authorities = super::verify::built_in(key.product()?)?;
        }
        Ok(Endorsement { key, authorities })
    }

    /// Reads certificates as guests have them: files of AMD's, or the host's table.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn read(bytes: &[u8]) -> Result<Self, CertificateError> {
        Self::among(Certificate::read_all(bytes).or_else(|error| read_table(bytes).map_err(|_| error))?)
    }

    /// Finds the signing key's certificate among several, as in a host's table or a bundle.
    ///
    /// # Errors
    /// [`CertificateError::Empty`] if there is none.
    pub fn among(all: Vec<Certificate>) -> Result<Self, CertificateError> {
        let is_key =
            |certificate: &Certificate| matches!(certificate.subject().as_deref(), Some("SEV-VCEK" | "SEV-VLEK"));
        let (keys, authorities): (Vec<_>, Vec<_>) = all.into_iter().partition(is_key);
        let key = keys.into_iter().next().ok_or(CertificateError::Empty)?;
        Self::new(key, authorities)
    }
}

/// Reads a certificate table as a host hands it out (GHCB specification, SNP extended guest request): entries of GUID, offset and length
/// (u32, little-endian) up to one of zeros, then the certificates. Entries that are no certificates in DER, revocation lists say, are
/// passed over.
///
/// # Errors
/// [`CertificateError`] for a table without an end, or an entry that points outside or into the entries.
pub fn read_table(table: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
    if table.len() > MAX_INPUT {
        return Err(CertificateError::TooLarge);
    }
    let mut places = Vec::new();
    let mut at = 0;
    loop {
        let (guid, rest) = table
            .get(at..at + ENTRY)
            .and_then(|entry| entry.split_at_checked(16))
            .ok_or(CertificateError::Table(at))?;
        let numbers = rest.split_at_checked(4).map(|(offset, len)| (le(offset), le(len)));
        let (offset, len) = numbers.ok_or(CertificateError::Table(at))?;
        if guid.iter().all(|byte| *byte == 0) {
            break;
        }
        if places.len() == MAX_CERTIFICATES {
            return Err(CertificateError::TooLarge);
        }
        places.push((at, offset, len));
        at += ENTRY;
    }
    let data = at + ENTRY;
    let mut all = Vec::new();
    for (entry, offset, len) in places {
        let end = offset.checked_add(len).filter(|_| offset >= data);
        let bytes = end.and_then(|end| table.get(offset..end)).ok_or(CertificateError::Table(entry))?;
        all.extend(Certificate::from_der(bytes).ok());
    }
    if all.is_empty() { Err(CertificateError::Empty) } else { Ok(all) }
}

fn le(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILAN: &[u8] = include_bytes!("../../tests/fixtures/sev-snp/milan-vcek.der");
    const TURIN: &[u8] = include_bytes!("../../tests/fixtures/sev-snp/turin-vcek.der");
    const CHAIN: &[u8] = include_bytes!("../../tests/fixtures/sev-snp/milan-chain.pem");

    /// A table of one entry with the certificate behind it.
    fn table(entries: &[(u32, u32)], data: &[u8]) -> Vec<u8> {
        let mut table = Vec::new();
        for (offset, len) in entries {
            table.extend([0x63; 16]);
            table.extend(offset.to_le_bytes());
            table.extend(len.to_le_bytes());
        }
        table.extend([0; ENTRY]);
        table.extend(data);
        table
    }

    #[test]
    fn amds_certificates_say_what_they_are_for() {
        let milan = Certificate::from_der(MILAN).unwrap();
        assert_eq!((milan.subject().as_deref(), milan.issuer().as_deref()), (Some("SEV-VCEK"), Some("SEV-Milan")));
        assert_eq!((milan.product(), milan.hardware_id().unwrap().len()), (Ok(Product::Milan), 64));
        assert_eq!((milan.component("snp"), milan.component("microcode")), (Ok(8), Ok(115)));
        assert_eq!(milan.component("fmc"), Err(CertificateError::Field("fmc")));
        assert!(!milan.is_authority() && milan.cloud_provider().is_none());
        let turin = Certificate::from_der(TURIN).unwrap();
        assert_eq!((turin.product(), turin.hardware_id().unwrap().len()), (Ok(Product::Turin), 8));
        assert!(turin.component("fmc").is_ok());
        let chain = Certificate::read_all(CHAIN).unwrap();
        let names: Vec<_> = chain.iter().flat_map(Certificate::subject).collect();
        assert_eq!(names, ["SEV-Milan", "ARK-Milan"]);
        assert!(chain.iter().all(Certificate::is_authority));
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for len in [0, 1, 100, MILAN.len() - 1] {
            assert!(Certificate::read_all(&MILAN[..len]).is_err());
        }
        assert!(Certificate::from_der(&[MILAN, &[0]].concat()).is_err());
        assert_eq!(Certificate::read_all(&vec![0x30; MAX_INPUT + 1]), Err(CertificateError::TooLarge));
        assert!(Certificate::read_all(b"-----BEGIN CERTIFICATE-----\nAAAA").is_err());
        let many = [CHAIN; 9].concat();
        assert_eq!(Certificate::read_all(&many), Err(CertificateError::TooLarge));
        let authorities = Certificate::read_all(CHAIN).unwrap();
        assert_eq!(Endorsement::among(authorities), Err(CertificateError::Empty));
    }

    #[test]
    fn a_table_is_read_within_its_bounds() {
        let (start, len) = (2 * ENTRY as u32, MILAN.len() as u32);
        assert_eq!(read_table(&table(&[(start, len)], MILAN)).unwrap(), [Certificate::from_der(MILAN).unwrap()]);
        let size = start + len;
        // The table that kills the crate's own reader, and its relatives.
        for (offset, len) in [
            (0xffff_f000, 0x1000),
            (size, 1),
            (start, len + 1),
            (start - 1, len),
            (0, len),
            (u32::MAX, u32::MAX),
            (start, u32::MAX),
        ] {
            let refused = read_table(&table(&[(offset, len)], MILAN));
            assert_eq!(refused, Err(CertificateError::Table(0)), "{offset:#x} {len:#x}");
        }
        // No end; too many; nothing.
        assert!(matches!(read_table(&[0x63; 100]), Err(CertificateError::Table(_))));
        assert_eq!(read_table(&[0x63; 50_000]), Err(CertificateError::TooLarge));
        assert_eq!(read_table(&table(&[], &[])), Err(CertificateError::Empty));
        assert!(matches!(read_table(&[]), Err(CertificateError::Table(0))));
        // Entries may share bytes, and a list of revocations is not in the way.
        let overlapping = table(&[(start + 24, len), (start + 24, 5)], MILAN);
        assert_eq!(read_table(&overlapping).unwrap().len(), 1);
    }

    #[test]
    fn a_hardware_id_may_be_an_octet_string() {
        use der::asn1::OctetString;
        let mut certificate = Certificate::from_der(MILAN).unwrap();
        let mut with = |value: Vec<u8>| {
            let extensions = certificate.x509.tbs_certificate.extensions.as_mut().unwrap();
            extensions.last_mut().unwrap().extn_value = OctetString::new(value).unwrap();
            certificate.hardware_id().map(<[u8]>::to_vec)
        };
        assert_eq!(with([&[4, 64][..], &[7; 64]].concat()), Ok(vec![7; 64]));
        // Raw bytes that begin like one.
        let raw = [&[4, 62][..], &[7; 62]].concat();
        assert_eq!(with(raw.clone()), Ok(raw));
        for bad in [vec![], vec![7; 63], [&[4, 63][..], &[7; 64]].concat()] {
            assert_eq!(with(bad), Err(CertificateError::Field("hardware id")));
        }
    }

    proptest! {
        #[test]
        fn damaged_certificates_do_no_harm(at in 0..MILAN.len(), flip in 1..=255u8, cut in 0..MILAN.len()) {
            let mut bytes = MILAN.to_vec();
            bytes[at] ^= flip;
            if let Ok(certificate) = Certificate::from_der(&bytes) {
                let _ = (certificate.product(), certificate.hardware_id(), certificate.component("snp"), certificate.validity());
                let _ = (certificate.subject(), certificate.cloud_provider(), certificate.is_authority());
            }
            let _ = Certificate::read_all(&bytes[..cut]);
        }

        #[test]
        fn any_text_is_read_as_pem_without_harm(body in "[A-Za-z0-9+/=\n -]{0,200}") {
            let _ = Certificate::read_all(format!("-----BEGIN CERTIFICATE-----{body}-----END CERTIFICATE-----").as_bytes());
            let _ = Certificate::read_all(format!("{body}-----BEGIN CERTIFICATE-----{body}").as_bytes());
        }

        #[test]
        fn any_table_is_read_without_harm(
            entries in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..20),
            small in proptest::collection::vec((0..300u32, 0..300u32), 0..6),
            data in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = read_table(&table(&entries, &data));
            let _ = read_table(&table(&small, &data));
            let _ = read_table(&data);
            let _ = RevocationList::from_der(&data);
        }
    }
}
