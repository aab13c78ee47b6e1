//! A guest without hardware, for tests: [`SnpGuest`] over the simulated chip of tests/common/firmware.rs.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

#[path = "../../tests/common/firmware.rs"]
mod firmware;

pub(crate) use firmware::{Fault, GET_DERIVED_KEY, GET_REPORT, Machine};

use super::device::{self, GuestError, KeyRequest, MESSAGE_VERSION, SnpGuest};
use crate::crypto::secret::Secret;

/// A guest on a simulated chip. Clones are the same guest.
#[derive(Clone)]
pub(crate) struct SimulatedGuest(Arc<Mutex<Machine>>);

impl SimulatedGuest {
    pub(crate) fn new(machine: Machine) -> Self {
        SimulatedGuest(Arc::new(Mutex::new(machine)))
    }

    /// The machine, to look at or to change.
    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap()
    }

    /// How the crate sev reads an answer.
    fn call(&self, number: u8, request: &[u8]) -> Result<Vec<u8>, GuestError> {
        match self.machine().ioctl(number, MESSAGE_VERSION, request) {
            Err((_, 0 | 0xff)) => Err(GuestError::Kernel),
            Err((_, exitinfo)) => Err(GuestError::Status(exitinfo as u32)),
            Ok(answer) => match u32::from_le_bytes(answer[..4].try_into().unwrap()) {
                0 => Ok(answer[32..].to_vec()),
                status => Err(GuestError::Status(status)),
            },
        }
    }
}

impl SnpGuest for SimulatedGuest {
    fn report_within(&self, data: &[u8; 64], vmpl: u32, _: Duration) -> Result<Vec<u8>, GuestError> {
        let mut request = [0; 96];
        request[..64].copy_from_slice(data);
        request[64..68].copy_from_slice(&vmpl.to_le_bytes());
        self.call(GET_REPORT, &request).map(|answer| answer[..firmware::REPORT_LEN].to_vec())
    }

    fn derived_key(&self, request: &KeyRequest) -> Result<Secret<32>, GuestError> {
        let mut bytes = [0; 32];
        bytes[8..16].copy_from_slice(&request.fields.to_le_bytes());
        bytes[16..20].copy_from_slice(&request.vmpl.to_le_bytes());
        bytes[20..24].copy_from_slice(&request.guest_svn.to_le_bytes());
        bytes[24..32].copy_from_slice(&request.tcb.0);
        let key = self.call(GET_DERIVED_KEY, &bytes)?;
        device::not_zero(Secret::fill_with(|out| out.copy_from_slice(&key)))
    }
}
