//! The AMD secure processor as a guest sees it: reports, derived keys, and what a report proves.
//!
//! - [`device`]: a guest's two questions, for a report and for a key. It alone asks the device.
//! - [`report`]: what the bytes of a report say.
//! - [`certificate`]: AMD's certificates, and the bounded reading of the table in which a host hands them out.
//! - [`verify`]: whether a report is genuine and meets demands. Only it makes a [`VerifiedReport`].
//!
//! The host is the adversary here: whatever it supplies (certificates, the report's way to us, HOST_DATA) is read with bounds and believed
//! only behind a signature that leads to a root compiled in.

pub mod certificate;
pub mod device;
pub mod report;
#[cfg(test)]
pub(crate) mod simulated;
pub mod verify;

pub use certificate::{CertificateError, Endorsement, RevocationList};
pub use device::{DeviceGuest, GuestError, KeyRequest, SnpGuest};
pub use report::{Product, Report, ReportError, Signer, Tcb};
pub use verify::{Demands, Roots, VerifiedReport, VerifyError};
