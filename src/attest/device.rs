//! The secure processor's guest device, `/dev/sev-guest`, through the crate sev.
//!
//! The rules of asking, each of which has cost somebody a machine's keys or attestation:
//! - The message version is always 1, and said. The kernel hands the firmware a request of version 1; on a version that the firmware
//!   refuses the kernel destroys its message key (VMPCK), after which every call fails until the guest starts anew. So no version is tried out,
//!   and the crate's default, 2, is never used.
//! - The privilege level is always said: the crate's default for reports is 1.
//! - `get_ext_report` is not called (clippy.toml forbids it): the crate walks the host's table of certificates without bounds.
//! - A status other than zero, and a key of zeros, is an error: firmware and kernel leave the answer's key zero when they refuse.
//! - One call for one answer. Nothing is asked again with other parameters.

use std::sync::mpsc;
use std::time::Duration;

use sev::error::{FirmwareError, UserApiError};
use sev::firmware::guest::{DerivedKey, Firmware, GuestFieldSelect};
use zeroize::Zeroizing;

use super::report::Tcb;
use crate::crypto::secret::Secret;

/// The one message version that is ever sent.
pub const MESSAGE_VERSION: u32 = 1;

/// Longest wait for the device where nobody says less. The kernel itself waits up to 60 s while the host throttles a guest.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Fields of a guest that can be mixed into a derived key: bits of GUEST_FIELD_SELECT (MSG_KEY_REQ).
pub mod fields {
    /// The guest's policy.
    pub const POLICY: u64 = 1;
    /// Image id of the ID block.
    pub const IMAGE_ID: u64 = 1 << 1;
    /// Family id of the ID block.
    pub const FAMILY_ID: u64 = 1 << 2;
    /// Launch measurement.
    pub const MEASUREMENT: u64 = 1 << 3;
    /// The security version that the request names, at most the guest's.
    pub const GUEST_SVN: u64 = 1 << 4;
    /// The TCB version that the request names, at most the committed one.
    pub const TCB_VERSION: u64 = 1 << 5;
}

/// A request for a derived key. The root is always the chip's endorsement key (or, where the host has loaded one, the VLEK); the other
/// one, VMRK, is random at each launch without a migration agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRequest {
    /// What to mix in, see [`fields`].
    pub fields: u64,
    /// Privilege level, at least the caller's own (in number).
    pub vmpl: u32,
    /// Security version of the guest.
    pub guest_svn: u32,
    /// TCB version.
    pub tcb: Tcb,
}

/// What a guest can ask its secure processor.
pub trait SnpGuest: Send + Sync {
    /// A report with `data` in it, for a privilege level.
    ///
    /// # Errors
    /// [`GuestError`].
    fn report(&self, data: &[u8; 64], vmpl: u32) -> Result<Vec<u8>, GuestError> {
        self.report_within(data, vmpl, PATIENCE)
    }

    /// The same, for callers who have less time.
    ///
    /// # Errors
    /// [`GuestError`].
    fn report_within(&self, data: &[u8; 64], vmpl: u32, limit: Duration) -> Result<Vec<u8>, GuestError>;

    /// A derived key. Never one of zeros.
    ///
    /// # Errors
    /// [`GuestError`].
    fn derived_key(&self, request: &KeyRequest) -> Result<Secret<32>, GuestError>;
}

/// Why the secure processor gave no answer of use.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// There is no device.
    #[error("there is no /dev/sev-guest")]
    Missing(#[source] std::io::Error),
    /// It is there and does not open.
    #[error("/dev/sev-guest cannot be opened")]
    Open(#[source] std::io::Error),
    /// The call failed and no status of the firmware came back: among others what happens when the kernel has no message key any more.
    #[error("the call failed in the kernel, which may have disabled its message key (VMPCK)")]
    Kernel,
    /// The firmware refused: 0x16 is an invalid parameter, 0x27 that no key may be used.
    #[error("the secure processor refuses with status {0:#x}")]
    Status(u32),
    /// The host's monitor refused or throttles.
    #[error("the host's virtual machine monitor refuses the call")]
    Host,
    /// No answer in time.
    #[error("no answer within {:.1} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// Success without a key.
    #[error("the secure processor gave a key of zeros")]
    ZeroKey,
}

impl GuestError {
    /// Status: a parameter is out of bounds or not allowed to this caller.
    pub const INVALID_PARAMETER: u32 = 0x16;
    /// Status: the key that would be the root may not be used.
    pub const INVALID_KEY: u32 = 0x27;
}

/// The guest that this process runs in.
#[derive(Debug, Clone, Copy)]
pub struct DeviceGuest;

impl SnpGuest for DeviceGuest {
    fn report_within(&self, data: &[u8; 64], vmpl: u32, limit: Duration) -> Result<Vec<u8>, GuestError> {
        let (data, limit) = (*data, limit.min(PATIENCE));
        in_time(limit, move || {
            open()?.get_report(Some(MESSAGE_VERSION), Some(data), Some(vmpl)).map_err(GuestError::from)
        })
    }

    fn derived_key(&self, request: &KeyRequest) -> Result<Secret<32>, GuestError> {
        let KeyRequest { fields, vmpl, guest_svn, tcb } = *request;
        in_time(PATIENCE, move || {
            let fields = GuestFieldSelect(fields);
            let request = DerivedKey::new(false, fields, vmpl, guest_svn, u64::from_le_bytes(tcb.0), None);
            let key = open()?.get_derived_key(Some(MESSAGE_VERSION), request).map(Zeroizing::new)?;
            not_zero(Secret::fill_with(|out| out.copy_from_slice(&*key)))
        })
    }
}

/// Refuses a key of zeros.
pub(super) fn not_zero(key: Secret<32>) -> Result<Secret<32>, GuestError> {
    if key.is_zero() { Err(GuestError::ZeroKey) } else { Ok(key) }
}

/// The device is opened for each call: a kernel that takes its driver out and in again (with another VMPCK) is then no matter.
fn open() -> Result<Firmware, GuestError> {
    Firmware::open().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => GuestError::Missing(error),
        _ => GuestError::Open(error),
    })
}

/// Makes a call in a thread of its own, so that a device that does not answer is an error and no hang.
fn in_time<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> Result<T, GuestError> + Send + 'static,
) -> Result<T, GuestError> {
    let (to, from) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("sev-guest".into());
    let thread = thread.spawn(move || drop(to.send(call()))).map_err(GuestError::Open)?;
    let answer = from.recv_timeout(limit).map_err(|_| GuestError::TimedOut(limit))?;
    // It has answered and is about to end.
    let _ = thread.join();
    answer
}

impl From<UserApiError> for GuestError {
    fn from(error: UserApiError) -> Self {
        match error {
            UserApiError::FirmwareError(FirmwareError::KnownSevError(status)) => GuestError::Status(status as u32),
            // The crate drops errno; what is left is the status that the kernel starts with, or none.
            UserApiError::FirmwareError(FirmwareError::UnknownSevError(0 | 0xff) | FirmwareError::IoError(_)) => {
                GuestError::Kernel
            }
            UserApiError::FirmwareError(FirmwareError::UnknownSevError(status)) => GuestError::Status(status),
            UserApiError::VmmError(_) => GuestError::Host,
            _ => GuestError::Kernel,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_said_to_be_missing() {
        if std::path::Path::new("/dev/sev-guest").exists() {
            return;
        }
        assert!(matches!(DeviceGuest.report(&[0; 64], 0), Err(GuestError::Missing(_))));
        let request = KeyRequest { fields: fields::MEASUREMENT, vmpl: 0, guest_svn: 0, tcb: Tcb([0; 8]) };
        assert!(matches!(DeviceGuest.derived_key(&request), Err(GuestError::Missing(_))));
    }

    #[test]
    fn a_device_that_does_not_answer_is_given_up_in_time() {
        let (limit, start) = (Duration::from_millis(50), std::time::Instant::now());
        let (release, released) = mpsc::channel::<()>();
        let given_up = in_time(limit, move || {
            let _ = released.recv();
            Ok(())
        });
        assert!(matches!(&given_up, Err(GuestError::TimedOut(found)) if *found == limit), "{given_up:?}");
        assert!(start.elapsed() < Duration::from_secs(5));
        drop(release);
    }

    #[test]
    fn statuses_keep_their_numbers() {
        for status in [0x16, 0x27, 0x22, 0x30, 0x1000] {
            let error = GuestError::from(UserApiError::from(FirmwareError::from(status)));
            match (status, error) {
                (_, GuestError::Status(found)) => assert_eq!(found, status),
                other => panic!("{other:?}"),
            }
        }
        for status in [0, 0xff] {
            let error = GuestError::from(UserApiError::from(FirmwareError::UnknownSevError(status)));
            assert!(matches!(error, GuestError::Kernel) && error.to_string().contains("VMPCK"));
        }
        let throttled = sev::error::VmmError::RateLimitRetryRequest;
        assert!(matches!(GuestError::from(UserApiError::from(throttled)), GuestError::Host));
    }

    #[test]
    fn a_key_of_zeros_is_none() {
        assert!(matches!(not_zero(Secret::fill_with(|_| ())), Err(GuestError::ZeroKey)));
        assert!(not_zero(Secret::fill_with(|key| key[31] = 1)).is_ok());
    }
}
