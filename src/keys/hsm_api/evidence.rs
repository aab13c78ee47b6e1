//! Evidence of an SEV-SNP guest: a report of its secure processor for one call, and the certificates of the key that signed it.
//!
//! - The report holds what the server computes for the same call ([`AttestedCall::report_data`]): challenge, one-time key and all that is asked.
//! - The secure processor is asked once, by the rules of [`device`](crate::attest::device). Never for the extended report: certificates come from a
//!   file, which is read anew for each call, since they change with the host's firmware.
//! - The server says "Forbidden" and no more, so what can be seen here is looked at here: that the report is the one that was asked for, and the
//!   certificate for this chip and its firmware. Whether signatures are right is the server's matter.
//! - No error is a refusal: that would take the keys from a mount with a lease, and the server has not spoken.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Attester;
use crate::api::canonical::AttestedCall;
use crate::api::{Base64, Challenge, Evidence};
use crate::attest::{DeviceGuest, Endorsement, Report, Signer, SnpGuest, verify};
use crate::keys::secret_file::{self, Access};
use crate::keys::snp::{self, MASKED};
use crate::keys::{Cause, ProviderError, ProviderSpec};

/// Largest file of certificates that fits into a request, in bytes: chains have some 6,000, tables of hosts up to 16,384.
const MAX_CERTIFICATES: usize = 32 << 10;

/// The guest that speaks for itself.
pub(crate) struct SnpEvidence<G = DeviceGuest> {
    guest: G,
    vmpl: u32,
    certificates: PathBuf,
}

impl<G> fmt::Debug for SnpEvidence<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vmpl, certificates) = (&self.vmpl, &self.certificates);
        f.debug_struct("SnpEvidence").field("vmpl", vmpl).field("certificates", certificates).finish_non_exhaustive()
    }
}

impl<G: SnpGuest> SnpEvidence<G> {
    /// Takes `vmpl` and `certificates`, and reads the file. Nothing is asked of the device yet.
    ///
    /// # Errors
    /// [`ProviderError::Spec`] or [`ProviderError::Setup`].
    pub(crate) fn take(guest: G, spec: &mut ProviderSpec) -> Result<Self, ProviderError> {
        let vmpl = snp::take_vmpl(spec)?;
        let path = PathBuf::from(spec.require("certificates")?);
        // Absolute: a daemon changes its directory.
        let certificates = std::path::absolute(&path).unwrap_or(path);
        let evidence = SnpEvidence { guest, vmpl, certificates };
        evidence.certificates()?;
        Ok(evidence)
    }

    /// The certificates as they are sent, and as they are read.
    fn certificates(&self) -> Result<(Vec<u8>, Endorsement), ProviderError> {
        let bytes = secret_file::read("file of certificates", &self.certificates, MAX_CERTIFICATES, Access::AsMounted)?
            .to_vec();
        let endorsement = Endorsement::read(&bytes).map_err(|error| ProviderError::Setup {
            fact: format!("{} holds no certificate of a VCEK or VLEK", self.certificates.display()),
            remedy: "name a file with the certificate of the key that signs this machine's reports, in PEM or DER, or the host's table of them",
            source: Some(error.into()),
        })?;
        Ok((bytes, endorsement))
    }

    /// A report with these data, with certificates that are its own.
    fn report(&self, data: &[u8; 64], limit: Duration) -> Result<(Report, Vec<u8>), ProviderError> {
        let (certificates, endorsement) = self.certificates()?;
        let report = snp::report_of(&self.guest, data, self.vmpl, limit).map_err(not_refused)?;
        let key = match report.signer() {
            Signer::Vcek => "SEV-VCEK",
            Signer::Vlek => "SEV-VLEK",
            Signer::None | Signer::Unknown(_) => {
                let fact = "no key of the chip signs this guest's reports: they are evidence of nothing".into();
                return Err(ProviderError::Setup { fact, remedy: MASKED, source: None });
            }
        };
        if endorsement.key.subject().as_deref() != Some(key) {
            return Err(self.other(&report, None));
        }
        verify::is_of(&endorsement.key, &report).map_err(|error| self.other(&report, Some(error.into())))?;
        Ok((report, certificates))
    }

    /// The certificate in the file is another key's than that which signed.
    fn other(&self, report: &Report, source: Option<Cause>) -> ProviderError {
        let address = report.vcek_address().map(|address| format!("; AMD gives that out at {address}"));
        ProviderError::Setup {
            fact: format!(
                "the certificate in {} is not that of this machine's {} with its present firmware{}",
                self.certificates.display(),
                report.signer(),
                address.unwrap_or_default()
            ),
            remedy: "put the right one in its place; after an update of the host's firmware it is another one",
            source,
        }
    }
}

impl<G: SnpGuest> Attester for SnpEvidence<G> {
    fn evidence(
        &self,
        call: &AttestedCall<'_>,
        challenge: Challenge,
        limit: Duration,
    ) -> Result<Evidence, ProviderError> {
        let (report, certificates) = self.report(&call.report_data(&challenge), limit)?;
        Ok(Evidence { challenge, report: Base64(report.as_bytes().to_vec()), certificates: Base64(certificates) })
    }

    fn check(&self, limit: Duration) -> Result<(), ProviderError> {
        let mut data = [0; 64];
        crate::crypto::random(&mut data);
        self.report(&data, limit).map(drop)
    }
}

/// What the secure processor will not do is no refusal of the server's.
fn not_refused(error: ProviderError) -> ProviderError {
    match error {
        ProviderError::Refused { provider, reason, remedy } => {
            ProviderError::Setup { fact: format!("{provider} refuses: {reason}"), remedy, source: None }
        }
        other => other,
    }
}
