//! A simulated SEV-SNP chip and guest, as `/dev/sev-guest` of Linux shows them: the semantics of derived keys that AMD's firmware
//! source (Genoa, 1.55.25) and the Linux driver (6.13) have.
//!
//! What counts here: which values go into a key and which do not; that keys of older TCB versions can be had and those of newer
//! ones cannot; what is refused, and how; that a message version which the firmware refuses costs the kernel its message key. The key derivation
//! itself is not AMD's, only as one-way.

#![allow(dead_code, unreachable_pub, missing_docs)]

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// ioctl numbers within group `S`.
pub const GET_REPORT: u8 = 0;
pub const GET_DERIVED_KEY: u8 = 1;
pub const GET_EXT_REPORT: u8 = 2;

pub const REPORT_LEN: usize = 1184;

const EIO: i32 = 5;
const ENOTTY: i32 = 25;
const EINVAL: i32 = 22;

const INVALID_PARAMETER: u32 = 0x16;
const INVALID_KEY: u32 = 0x27;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The call succeeds and nothing is written: the answer stays zero.
    Silent,
    /// Nothing comes back until this is over; a matter of those who pass calls on.
    Hangs,
    /// Every call is answered with this status.
    Status(u32),
    /// The report is another's: it does not hold what was asked for.
    OldReport,
}

/// A chip, what its host has set, and a guest launched on it.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The chip's secret.
    pub chip: [u8; 32],
    pub chip_id: [u8; 64],
    pub current_tcb: [u8; 8],
    pub committed_tcb: [u8; 8],
    pub reported_tcb: [u8; 8],
    pub launch_tcb: [u8; 8],
    /// A VLEK that the host has loaded.
    pub vlek: Option<[u8; 32]>,
    pub chip_key_masked: bool,
    pub vcek_disabled: bool,
    pub policy: u64,
    pub measurement: [u8; 48],
    pub family_id: [u8; 16],
    pub image_id: [u8; 16],
    pub guest_svn: u32,
    pub host_data: [u8; 32],
    pub id_key_digest: [u8; 48],
    pub author_key_digest: [u8; 48],
    /// The caller's privilege level.
    pub vmpl: u32,
    pub report_version: u32,
    pub cpuid: [u8; 3],
    pub fault: Fault,
    /// The kernel has destroyed its message key.
    pub vmpck_lost: bool,
    /// Message versions and numbers of all calls so far.
    pub calls: Vec<(u8, u32)>,
}

impl Machine {
    /// A Milan chip made from a seed, with a guest that has no ID block.
    pub fn new(seed: u8) -> Machine {
        let tcb = [3, 0, 0, 0, 0, 0, 8, 115];
        Machine {
            chip: [seed; 32],
            chip_id: [seed; 64],
            current_tcb: tcb,
            committed_tcb: tcb,
            reported_tcb: tcb,
            launch_tcb: tcb,
            vlek: None,
            chip_key_masked: false,
            vcek_disabled: false,
            policy: 0x3_0000,
            measurement: [0x4d; 48],
            family_id: [0; 16],
            image_id: [0; 16],
            guest_svn: 0,
            host_data: [0; 32],
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
            vmpl: 0,
            report_version: 3,
            cpuid: [0x19, 0x01, 0x01],
            fault: Fault::None,
            vmpck_lost: false,
            calls: Vec::new(),
        }
    }

    /// The same with an ID block that an author key stands behind.
    pub fn owned(seed: u8) -> Machine {
        Machine {
            family_id: *b"envelopefs test ",
            image_id: [1; 16],
            guest_svn: 4,
            id_key_digest: [0x1d; 48],
            author_key_digest: [0xa0; 48],
            ..Machine::new(seed)
        }
    }

    /// One ioctl: message version and request in, response out, or errno and `exitinfo2`.
    pub fn ioctl(&mut self, number: u8, version: u32, request: &[u8]) -> Result<Vec<u8>, (i32, u64)> {
        self.calls.push((number, version));
        if self.vmpck_lost {
            return Err((ENOTTY, 0));
        }
        if version == 0 {
            return Err((EINVAL, 0xff));
        }
        if version > 1 {
            self.vmpck_lost = true;
            return Err((EIO, u64::from(INVALID_PARAMETER)));
        }
        let mut answer = match number {
            GET_REPORT => vec![0; 4000],
            GET_DERIVED_KEY => vec![0; 64],
            _ => return Err((ENOTTY, 0xff)),
        };
        let outcome = match (self.fault, number) {
            (Fault::Silent, _) => return Ok(answer),
            (Fault::Status(status), _) => Err(status),
            (_, GET_REPORT) => self.report(request).map(|report| {
                answer[4..8].copy_from_slice(&(REPORT_LEN as u32).to_le_bytes());
                answer[32..32 + REPORT_LEN].copy_from_slice(&report);
            }),
            _ => self.key(request).map(|key| answer[32..64].copy_from_slice(&key)),
        };
        if let Err(status) = outcome {
            answer[..4].copy_from_slice(&status.to_le_bytes());
        }
        Ok(answer)
    }

    fn report(&self, request: &[u8]) -> Result<[u8; REPORT_LEN], u32> {
        let vmpl = number(request, 64);
        if vmpl < self.vmpl || vmpl > 3 || request[68..96] != [0; 28] {
            return Err(INVALID_PARAMETER);
        }
        let mut report = [0; REPORT_LEN];
        let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
        let signer = if self.chip_key_masked { 7 } else { u32::from(self.vlek.is_some()) };
        let key_info =
            u32::from(self.author_key_digest != [0; 48]) | u32::from(self.chip_key_masked) << 1 | signer << 2;
        put(0x000, &self.report_version.to_le_bytes());
        put(0x004, &self.guest_svn.to_le_bytes());
        put(0x008, &self.policy.to_le_bytes());
        put(0x010, &self.family_id);
        put(0x020, &self.image_id);
        put(0x030, &vmpl.to_le_bytes());
        put(0x034, &1u32.to_le_bytes());
        put(0x038, &self.current_tcb);
        put(0x048, &key_info.to_le_bytes());
        put(0x050, if self.fault == Fault::OldReport { &[0x0d; 64] } else { &request[..64] });
        put(0x090, &self.measurement);
        put(0x0C0, &self.host_data);
        put(0x0E0, &self.id_key_digest);
        put(0x110, &self.author_key_digest);
        put(0x180, &self.reported_tcb);
        if self.report_version >= 3 {
            put(0x188, &self.cpuid);
        }
        put(0x1A0, if self.vlek.is_some() { &[0; 64] } else { &self.chip_id });
        put(0x1E0, &self.committed_tcb);
        put(0x1F0, &self.launch_tcb);
        Ok(report)
    }

    fn key(&self, request: &[u8]) -> Result<[u8; 32], u32> {
        // The kernel copies 32 bytes, whatever the caller's structure has.
        let request = &request[..32];
        let (select, vmpl, svn) = (number(request, 0), number(request, 16), number(request, 20));
        let fields = u64::from_le_bytes(request[8..16].try_into().unwrap());
        let tcb: [u8; 8] = request[24..32].try_into().unwrap();
        let too_new = tcb.iter().zip(self.committed_tcb).any(|(want, have)| *want > have);
        if select > 1 || vmpl < self.vmpl || vmpl > 3 || fields >> 6 != 0 || svn > self.guest_svn || too_new {
            return Err(INVALID_PARAMETER);
        }
        let root = match (select, self.vlek) {
            (1, _) => return Err(INVALID_KEY),
            (_, Some(vlek)) => hmac(&vlek, &[&self.reported_tcb]),
            _ if self.chip_key_masked || self.vcek_disabled => return Err(INVALID_KEY),
            _ => self.vcek(if fields & 1 << 5 != 0 { tcb } else { self.reported_tcb }),
        };
        let (kind, digest): (u8, _) = match (self.id_key_digest, self.author_key_digest) {
            ([0, ..], [0, ..]) => (0, [0; 48]),
            (id, [0, ..]) => (1, id),
            (_, author) => (2, author),
        };
        let mut mixed = vec![kind, vmpl as u8, select as u8];
        mixed.extend(fields.to_le_bytes());
        mixed.extend(&digest[..32]);
        mixed.extend(self.host_data);
        let mut mix = |bit: u64, bytes: &[u8]| {
            let chosen = fields & 1 << bit != 0;
            mixed.extend(bytes.iter().map(|byte| if chosen { *byte } else { 0 }));
        };
        mix(0, &self.policy.to_le_bytes());
        mix(1, &self.image_id);
        mix(2, &self.family_id);
        mix(3, &self.measurement[..32]);
        mix(4, &svn.to_le_bytes());
        mix(5, &tcb);
        Ok(hmac(&root, &[b"gmsg-keyreq", &mixed]))
    }

    /// One-way chains that run from newer to older versions, a chain for each component.
    fn vcek(&self, tcb: [u8; 8]) -> [u8; 32] {
        let ends: Vec<[u8; 32]> = (0u8..)
            .zip(tcb)
            .map(|(component, version)| {
                let newest = hmac(&self.chip, &[&[component]]);
                (version..255).fold(newest, |link, _| Sha256::digest(link).into())
            })
            .collect();
        hmac(&[0; 32], &ends.iter().map(|end| &end[..]).collect::<Vec<_>>())
    }
}

fn number(request: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(request[at..at + 4].try_into().unwrap())
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}
