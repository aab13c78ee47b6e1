//! Evidence of callers: SEV-SNP reports that are bound to one call, held against a tenant's policy.
//!
//! ```text
//! POST …/challenge ─▶ nonce, kept in the state for one instance of one tenant until its window ends
//! call with evidence ─▶ nonce taken, once ─▶ report genuine (AMD's roots) ─▶ holds this call's report data ─▶ meets the demands ─▶ guest allowed
//! ```
//!
//! The report data are a hash over the challenge, the caller's one-time key and everything else that is asked
//! ([`AttestedCall`]): a report for one call, key, blob or volume is none for another. Certificates come with the evidence, and count
//! only behind a root that is compiled in; nothing is fetched. The nonce is taken before anything else is looked at, so that a report that was shown
//! once, right or wrong, never counts again.
//!
//! The caller is told no more than that he may not; the word and the sentence are for the record.

use jiff::Timestamp;

use super::policy::{Attestation, Hex};
use crate::api::canonical::AttestedCall;
use crate::api::{Challenge, Evidence};
use crate::attest::{Endorsement, Report, Roots, VerifiedReport, VerifyError, verify};

/// Why evidence is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unattested {
    /// A word, for `failure_code`.
    pub code: &'static str,
    /// A sentence, if there is more to say.
    pub cause: Option<String>,
}

impl Unattested {
    /// With nothing more to say.
    pub fn new(code: &'static str) -> Self {
        Unattested { code, cause: None }
    }
}

impl From<VerifyError> for Unattested {
    fn from(error: VerifyError) -> Self {
        let code = match &error {
            VerifyError::Report(_) => "attestation-report",
            VerifyError::Certificate(_)
            | VerifyError::NoCertificate(_)
            | VerifyError::Chain { .. }
            | VerifyError::Revocations { .. }
            | VerifyError::UntrustedRoot { .. } => "attestation-certificates",
            VerifyError::Signature(_) => "attestation-signature",
            VerifyError::Contradiction { .. } => "attestation-contradiction",
            VerifyError::Demand { what, .. } => match *what {
                "the report data" => "attestation-report-data",
                "the privilege level (VMPL)" => "attestation-vmpl",
                "the guest's policy" => "attestation-guest-policy",
                "the platform" => "attestation-platform",
                "the reported firmware" | "the committed firmware" | "the firmware at launch" => "attestation-tcb",
                "HOST_DATA" => "attestation-host-data",
                "the signing key" => "attestation-signer",
                _ => "attestation-demand",
            },
        };
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Unattested { code, cause: Some(format!("{error}{source}")) }
    }
}

/// Whether evidence shows what a policy demands, for this call, now. The challenge has been taken already.
///
/// # Errors
/// [`Unattested`].
pub fn check(
    demanded: &Attestation,
    evidence: &Evidence,
    call: &AttestedCall<'_>,
    roots: &Roots,
    now: Timestamp,
) -> Result<VerifiedReport, Unattested> {
    let endorsement = Endorsement::read(&evidence.certificates.0).map_err(VerifyError::from)?;
    let product = endorsement.key.product().map_err(VerifyError::from)?;
    let demands = demanded.demands(product, call.report_data(&evidence.challenge));
    let demands = demands.ok_or(Unattested::new("attestation-generation"))?;
    let verified = verify::verify(&evidence.report.0, &endorsement, roots, now, &demands)?;
    let report = verified.report();
    if !is_allowed(demanded, report) {
        let cause = format!("the launch measurement is {}", crate::api::hex(&report.measurement()));
        return Err(Unattested { code: "attestation-measurement", cause: Some(cause) });
    }
    if !demanded.chip_ids.is_empty() && !demanded.chip_ids.contains(&Hex(report.chip_id())) {
        let cause = format!("the chip is {}", crate::api::hex(&report.chip_id()));
        return Err(Unattested { code: "attestation-chip", cause: Some(cause) });
    }
    Ok(verified)
}

/// Whether the guest is one of those that are named: by its measurement, or by who answers for it.
fn is_allowed(demanded: &Attestation, report: &Report) -> bool {
    let author = report.has_author_key() && demanded.author_keys.contains(&Hex(report.author_key_digest()));
    demanded.measurements.contains(&Hex(report.measurement()))
        || author
            && report.guest_svn() >= demanded.minimum_guest_svn
            && demanded.family_id.is_none_or(|Hex(id)| id == report.family_id())
            && demanded.image_id.is_none_or(|Hex(id)| id == report.image_id())
}

/// A challenge that nobody can foresee.
pub fn challenge() -> Challenge {
    let mut bytes = [0; 32];
    crate::crypto::random(&mut bytes);
    Challenge(bytes)
}

#[cfg(test)]
mod tests;
