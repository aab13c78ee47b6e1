//! Provider `sev-snp`: a key that only this chip's secure processor derives, and only for a guest of this kind.
//!
//! ```text
//! sev-snp:?bind=measurement          the same launch measurement, on this chip
//! sev-snp:?bind=owner                any image signed by the same author key with this family id, and no older one
//! ```
//!
//! The secure processor derives 32 bytes from a secret of the chip, from what it mixes in always (the digest of the ID block's
//! author or ID key, HOST_DATA, the privilege level and the choice of fields) and from the fields that the request chooses. From these 32 bytes,
//! with a random salt, the volume, the key version, the slot number and the slot's parameters, HKDF makes the KEK that wraps the master key. Nothing of a
//! report suffices to compute it: two chips with equal reports have different keys.
//!
//! Invariants:
//! - The mask of fields is one of the two of [`Binding`]; a slot with any other is refused, so that a slot which another guest
//!   of this chip could have made is never opened. The policy is always mixed in, so a guest that the host may debug gets another key.
//! - The TCB version is always mixed in, explicit and recorded: firmware updates go up and old keys can still be had, never the other way round.
//! - A guest that can be debugged or migrated neither wraps nor unwraps, and a VLEK as the root is refused unless the user insists.
//! - One report, then at most one request for a key: the one that the slot records. Nothing is tried out (see
//!   [`device`](crate::attest::device)).
//!
//! What the slot records beside the request (measurement, ids, digests, chip) is only there to say what has changed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::kek::{self, CHECK, SALT, base64_array};
use super::{KeyProvider, ProviderError, ProviderSpec, SlotContext, SlotData, SpecError, join};
use crate::attest::device::{MESSAGE_VERSION, PATIENCE, fields};
use crate::attest::report::{hex, policy, unhex};
use crate::attest::{DeviceGuest, GuestError, KeyRequest, Report, Signer, SnpGuest, Tcb};
use crate::crypto::aead::{self, WrappedSecret};
use crate::crypto::kdf;
use crate::crypto::secret::Secret;

/// The provider's word in `volume.toml`.
pub const KIND: &str = "sev-snp";

/// Names the provider in errors.
const PROVIDER: &str = "the SEV-SNP secure processor";
/// Highest privilege level in number, the least privileged.
const MAX_VMPL: u32 = 3;
/// Domain of the digest of the chip's identity.
const CHIP_DOMAIN: &[u8] = b"envelopefs/v1/snp-chip";

const OTHER_SLOT: &str = "open the volume with another slot (recovery key, HSM, passphrase), then bind this one to the present state: envelopefs key rebind";

/// What a key is bound to beside chip, policy, TCB version and what the firmware always mixes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binding {
    /// The launch measurement: exactly this code.
    Measurement,
    /// The ID block's author key and family id, and a security version of the guest: code by the same owner, not older.
    Owner,
}

impl Binding {
    /// The one mask of fields for it. The author key's digest has no bit: the firmware always mixes it in. The guest's security version is part of
    /// both: without an ID block it is 0.
    const fn fields(self) -> u64 {
        let always = fields::POLICY | fields::GUEST_SVN | fields::TCB_VERSION;
        match self {
            Binding::Measurement => always | fields::MEASUREMENT,
            Binding::Owner => always | fields::FAMILY_ID,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Binding::Measurement => "measurement",
            Binding::Owner => "owner",
        }
    }
}

/// The secure processor of the guest that this process runs in.
#[derive(Debug)]
pub struct Snp<G = DeviceGuest> {
    guest: G,
    /// For new slots; where it was said, also the only one opened.
    bind: Option<Binding>,
    vmpl: u32,
    tcb: Option<Tcb>,
    guest_svn: Option<u32>,
    allow_vlek: bool,
}

impl Snp {
    /// Takes `bind`, `vmpl`, `tcb`, `guest-svn` and `insecure-vlek`. Nothing is asked of the device yet.
    ///
    /// # Errors
    /// [`ProviderError::Spec`].
    pub fn open(spec: ProviderSpec) -> Result<Self, ProviderError> {
        Self::of_guest(DeviceGuest, spec)
    }
}

impl<G: SnpGuest> Snp<G> {
    fn of_guest(guest: G, mut spec: ProviderSpec) -> Result<Self, ProviderError> {
        let wrong = |name: &str, expected| SpecError::Value { name: name.into(), expected };
        let bind = match spec.take("bind").as_deref() {
            None => None,
            Some("measurement") => Some(Binding::Measurement),
            Some("owner") => Some(Binding::Owner),
            Some(_) => return Err(wrong("bind", "measurement or owner").into()),
        };
        let vmpl = take_vmpl(&mut spec)?;
        let tcb =
            match spec.take("tcb").as_deref() {
                None | Some("committed") => None,
                Some(text) => Some(Tcb(unhex(text)
                    .ok_or_else(|| wrong("tcb", "committed, or 16 hexadecimal digits as attest shows them"))?)),
            };
        let guest_svn = spec.take_number("guest-svn")?;
        let allow_vlek = spec.take_switch("insecure-vlek")?;
        if !spec.target.is_empty() {
            return Err(wrong("target", "empty").into());
        }
        spec.finish()?;
        Ok(Snp { guest, bind, vmpl, tcb, guest_svn, allow_vlek })
    }

    /// This guest's report of this moment. It comes from the secure processor through a channel that the host cannot read or change, so its
    /// signature is not what makes it true.
    fn report(&self) -> Result<Report, ProviderError> {
        let mut nonce = [0; 64];
        crate::crypto::random(&mut nonce);
        report_of(&self.guest, &nonce, self.vmpl, PATIENCE)
    }

    /// Whether a guest in this state may have keys at all.
    fn acceptable(&self, report: &Report) -> Result<(), ProviderError> {
        let refused = |reason: &str, remedy| {
            Err(ProviderError::Refused { provider: "this guest's state".into(), reason: reason.into(), remedy })
        };
        if report.policy() & policy::DEBUG != 0 {
            return refused(
                "its policy allows debugging (bit 19): the host can read its memory",
                "launch the guest with a policy without DEBUG",
            );
        }
        if report.policy() & policy::MIGRATE_MA != 0 {
            return refused(
                "its policy allows a migration agent (bit 18) to move it",
                "launch the guest with a policy without MIGRATE_MA",
            );
        }
        match report.signer() {
            _ if report.chip_key_masked() => refused("the host masks the chip's key", MASKED),
            Signer::Vcek => Ok(()),
            Signer::Vlek if self.allow_vlek => Ok(()),
            Signer::Vlek => refused(
                "the root is a VLEK, which the cloud provider has in all its machines, and which changes for good with an update of its firmware",
                "use a key server or a KMS here; or, for a slot that may be lost at any time, add insecure-vlek=true",
            ),
            Signer::None | Signer::Unknown(_) => refused("no key of the chip signs for it", MASKED),
        }
    }

    /// Wraps a master key under a key of a request for it, in the state that `report` shows.
    fn seal(
        &self,
        (bind, request): (Binding, KeyRequest),
        report: &Report,
        master: &Secret<32>,
        context: &SlotContext,
    ) -> Result<SlotData, ProviderError> {
        if master.is_zero() {
            return Err(ProviderError::ZeroKey);
        }
        if !report.committed_tcb().covers(request.tcb) {
            return Err(ProviderError::Setup {
                fact: format!("TCB version {} is not within the committed {}", request.tcb, report.committed_tcb()),
                remedy: "leave tcb= out: the committed version is then taken",
                source: None,
            });
        }
        if request.guest_svn > report.guest_svn() {
            return Err(ProviderError::Setup {
                fact: format!("guest SVN {} is above this guest's {}", request.guest_svn, report.guest_svn()),
                remedy: "leave guest-svn= out: the guest's own is then taken",
                source: None,
            });
        }
        if bind == Binding::Owner && (!report.has_author_key() || report.author_key_digest() == [0; 48]) {
            return Err(ProviderError::Setup {
                fact:
                    "this guest was launched without an ID block that an author key stands behind: no owner to bind to"
                        .into(),
                remedy: "launch it with an ID block and author key, or use bind=measurement",
                source: None,
            });
        }
        let mut salt = [0; SALT];
        crate::crypto::random(&mut salt);
        let derived = self.guest.derived_key(&request).map_err(|error| failed(error, self.vmpl))?;
        let parameters = Parameters {
            check: check(&derived, &salt),
            bind,
            message_version: MESSAGE_VERSION,
            root: ROOT,
            vmpl: request.vmpl,
            fields: request.fields,
            guest_svn: request.guest_svn,
            tcb: Hex(request.tcb.0),
            signer: report.signer().to_string(),
            chip: Hex(chip(report, &salt)),
            policy: Hex(policy_bytes(report)),
            measurement: Hex(report.measurement()),
            host_data: Hex(report.host_data()),
            family_id: Hex(report.family_id()),
            image_id: Hex(report.image_id()),
            image_svn: report.guest_svn(),
            id_key: Hex(report.id_key_digest()),
            author_key: Hex(report.author_key_digest()),
            salt,
        };
        let kek = parameters.kek(&derived, context);
        let wrapped = aead::wrap(&kek, &parameters.aad(context), master).to_bytes().to_vec();
        let parameters = toml::Table::try_from(&parameters).expect("numbers and strings make a table");
        Ok(SlotData { parameters, wrapped })
    }

    fn open_slot(&self, slot: &SlotData, context: &SlotContext) -> Result<Option<Secret<32>>, ProviderError> {
        let parameters: Parameters = kek::parameters(slot)?;
        let request = parameters.request()?;
        if self.bind.is_some_and(|bind| bind != parameters.bind) {
            return Ok(None);
        }
        if request.vmpl != self.vmpl {
            return Err(ProviderError::Setup {
                fact: format!(
                    "the slot is for VMPL {}, and the provider is named with VMPL {}",
                    request.vmpl, self.vmpl
                ),
                remedy: "if that level is meant, name it: sev-snp:?vmpl=N",
                source: None,
            });
        }
        let report = self.report()?;
        self.acceptable(&report)?;
        parameters.compare(&report)?;
        let derived = self.guest.derived_key(&request).map_err(|error| failed(error, self.vmpl))?;
        if check(&derived, &parameters.salt) != parameters.check {
            return Err(ProviderError::Bound {
                changed: "no recorded value differs, the key does: another chip whose identity is masked, a VLEK of another firmware version, or a changed slot".into(),
                remedy: OTHER_SLOT,
            });
        }
        let wrapped = WrappedSecret::from_bytes(&slot.wrapped)
            .ok_or_else(|| ProviderError::Malformed("the wrapped key has a wrong length".into()))?;
        let master = aead::unwrap(&parameters.kek(&derived, context), &parameters.aad(context), &wrapped)?;
        if master.is_zero() { Err(ProviderError::ZeroKey) } else { Ok(Some(master)) }
    }
}

/// A guest's report of this moment with `data` in it, of which it is certain that it is an answer and not what was there before.
pub(super) fn report_of(
    guest: &impl SnpGuest,
    data: &[u8; 64],
    vmpl: u32,
    limit: Duration,
) -> Result<Report, ProviderError> {
    let bytes = guest.report_within(data, vmpl, limit).map_err(|error| failed(error, vmpl))?;
    let report = Report::parse(&bytes).map_err(|error| answer(error.to_string()))?;
    if report.report_data() != *data || report.vmpl() != vmpl {
        return Err(answer("the report is not the one that was asked for".into()));
    }
    Ok(report)
}

/// Takes `vmpl`, 0 where it is not named.
pub(super) fn take_vmpl(spec: &mut ProviderSpec) -> Result<u32, SpecError> {
    let vmpl = spec.take_number("vmpl")?.unwrap_or(0);
    if vmpl > MAX_VMPL {
        return Err(SpecError::Value { name: "vmpl".into(), expected: "a privilege level from 0 to 3" });
    }
    Ok(vmpl)
}

/// What it means that the secure processor, asked at a privilege level, gave no answer.
fn failed(error: GuestError, vmpl: u32) -> ProviderError {
    let refused = |reason: String, remedy| ProviderError::Refused { provider: PROVIDER.into(), reason, remedy };
    match error {
        GuestError::Missing(_) => ProviderError::Setup {
            fact: "this is no SEV-SNP guest, or its kernel or container has no device for it".into(),
            remedy: "load the module sev-guest, pass the device into the container (--device /dev/sev-guest), or open the volume with another slot",
            source: Some(error.into()),
        },
        GuestError::Open(_) => ProviderError::Setup {
            fact: "the SEV-SNP guest device does not open".into(),
            remedy: "run as root, and let the container use the device",
            source: Some(error.into()),
        },
        GuestError::Kernel => refused(
            error.to_string(),
            "see the kernel's log; if it has disabled VMPCK, only a new start of the guest (or loading sev-guest with another vmpck_id) helps",
        ),
        GuestError::Status(GuestError::INVALID_PARAMETER) => refused(
            format!(
                "{error}, invalid parameter: VMPL {vmpl} is more privileged than this guest's kernel, or the TCB version or guest SVN is above what it has"
            ),
            "name the kernel's privilege level (vmpl=), or open the volume with another slot",
        ),
        GuestError::Status(GuestError::INVALID_KEY) => {
            refused(format!("{error}, invalid key: the host masks or disables the chip's key"), MASKED)
        }
        GuestError::Status(_) => {
            refused(error.to_string(), "see the SEV-SNP firmware ABI specification for the status")
        }
        GuestError::Host | GuestError::TimedOut(_) => {
            ProviderError::Unreachable { provider: PROVIDER.into(), source: error.into() }
        }
        GuestError::ZeroKey => answer(error.to_string()),
    }
}

/// What to do where the host keeps the chip's key to itself.
pub(super) const MASKED: &str =
    "this host gives no keys of the chip: run the guest on another, or use another provider";

impl<G: SnpGuest> KeyProvider for Snp<G> {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn describe(&self) -> String {
        match self.bind {
            Some(bind) => format!("SEV-SNP secure processor, bound to the {}", bind.word()),
            None => "SEV-SNP secure processor".into(),
        }
    }

    fn wrap(&self, master: &Secret<32>, context: &SlotContext) -> Result<SlotData, ProviderError> {
        let report = self.report()?;
        self.acceptable(&report)?;
        let bind = self.bind.unwrap_or(Binding::Measurement);
        let request = KeyRequest {
            fields: bind.fields(),
            vmpl: self.vmpl,
            guest_svn: self.guest_svn.unwrap_or(report.guest_svn()),
            tcb: self.tcb.unwrap_or(report.committed_tcb()),
        };
        self.seal((bind, request), &report, master, context)
    }

    /// With the very request of the slot. To move it to the present firmware's TCB version is what `key rebind` is for.
    fn wrap_like(
        &self,
        slot: &SlotData,
        master: &Secret<32>,
        context: &SlotContext,
    ) -> Result<SlotData, ProviderError> {
        let parameters: Parameters = kek::parameters(slot)?;
        let request = parameters.request()?;
        let report = self.report()?;
        self.acceptable(&report)?;
        self.seal((parameters.bind, request), &report, master, context)
    }

    fn unwrap(&self, slot: &SlotData, context: &SlotContext) -> Option<Result<Secret<32>, ProviderError>> {
        self.open_slot(slot, context).transpose()
    }

    fn is_machine_bound(&self) -> bool {
        true
    }

    fn check(&self) -> Result<(), ProviderError> {
        self.acceptable(&self.report()?)
    }
}

fn answer(what: String) -> ProviderError {
    ProviderError::Answer { provider: PROVIDER.into(), what }
}

/// The root's selector: 0 is the chip's key (VCEK), or the VLEK where one is loaded.
const ROOT: u32 = 0;

/// What a slot keeps. All of it is bound.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    #[serde(with = "base64_array")]
    salt: [u8; SALT],
    #[serde(with = "base64_array")]
    check: [u8; CHECK],
    bind: Binding,
    // The request.
    message_version: u32,
    root: u32,
    vmpl: u32,
    fields: u64,
    guest_svn: u32,
    tcb: Hex<8>,
    // The guest at the time of sealing.
    signer: String,
    chip: Hex<32>,
    policy: Hex<8>,
    measurement: Hex<48>,
    host_data: Hex<32>,
    family_id: Hex<16>,
    image_id: Hex<16>,
    image_svn: u32,
    id_key: Hex<48>,
    author_key: Hex<48>,
}

impl Parameters {
    /// The request that the slot records, if it is one that [`Snp`] makes.
    fn request(&self) -> Result<KeyRequest, ProviderError> {
        let malformed = |what: &str| Err(ProviderError::Malformed(what.into()));
        if self.message_version != MESSAGE_VERSION || self.root != ROOT {
            return malformed("message version and root are not those that are ever asked for");
        }
        if self.fields != self.bind.fields() {
            return malformed("the fields are not those of the binding");
        }
        if self.vmpl > MAX_VMPL {
            return malformed("there is no such privilege level");
        }
        Ok(KeyRequest { fields: self.fields, vmpl: self.vmpl, guest_svn: self.guest_svn, tcb: Tcb(self.tcb.0) })
    }

    /// All of them in one encoding.
    fn encode(&self) -> Vec<u8> {
        join(&[
            &self.salt,
            &self.check,
            self.bind.word().as_bytes(),
            &self.message_version.to_le_bytes(),
            &self.root.to_le_bytes(),
            &self.vmpl.to_le_bytes(),
            &self.fields.to_le_bytes(),
            &self.guest_svn.to_le_bytes(),
            &self.tcb.0,
            self.signer.as_bytes(),
            &self.chip.0,
            &self.policy.0,
            &self.measurement.0,
            &self.host_data.0,
            &self.family_id.0,
            &self.image_id.0,
            &self.image_svn.to_le_bytes(),
            &self.id_key.0,
            &self.author_key.0,
        ])
    }

    fn aad(&self, context: &SlotContext) -> Vec<u8> {
        join(&[&context.encode(), KIND.as_bytes(), &self.encode()])
    }

    /// `HKDF-SHA-256[salt, SLOT_KEK ‖ kind, place, parameters](derived key)`.
    fn kek(&self, derived: &Secret<32>, context: &SlotContext) -> Secret<32> {
        let info = join(&[KIND.as_bytes(), &context.encode(), &self.encode()]);
        kdf::derive(derived, &self.salt, &[kdf::SLOT_KEK, &info])
    }

    /// Holds what is recorded against the present. Only what goes into the key counts.
    fn compare(&self, report: &Report) -> Result<(), ProviderError> {
        let mut changed = Vec::new();
        let mut same = |what: &str, then: &[u8], now: &[u8]| {
            if then != now {
                changed.push(format!("{what} was {}, is {}", hex(then), hex(now)));
            }
        };
        same("the guest's policy", &self.policy.0, &policy_bytes(report));
        same("HOST_DATA", &self.host_data.0, &report.host_data());
        // The firmware mixes in the author key's digest, and without one the ID key's.
        let digests = (report.author_key_digest(), report.id_key_digest());
        match (self.author_key.0 == [0; 48], digests.0 == [0; 48]) {
            (true, true) => same("the digest of the ID key", &self.id_key.0, &digests.1),
            _ => same("the digest of the author key", &self.author_key.0, &digests.0),
        }
        match self.bind {
            Binding::Measurement => same("the launch measurement", &self.measurement.0, &report.measurement()),
            Binding::Owner => same("the family id", &self.family_id.0, &report.family_id()),
        }
        if self.signer != report.signer().to_string() {
            changed.push(format!("the root of keys was {}, is {}", self.signer.escape_debug(), report.signer()));
        } else if report.signer() == Signer::Vcek && report.chip_id() != [0; 64] && self.chip.0 != [0; 32] {
            // Either of them may be masked; then the key itself will tell.
            if self.chip.0 != chip(report, &self.salt) {
                changed.push("this is another chip".into());
            }
        }
        if self.guest_svn > report.guest_svn() {
            let (then, now) = (self.guest_svn, report.guest_svn());
            changed.push(format!("the guest's security version was {then}, is {now}: an older image"));
        }
        if !report.committed_tcb().covers(Tcb(self.tcb.0)) {
            let now = report.committed_tcb();
            changed.push(format!(
                "the platform's firmware was at {}, is committed to {now}: an older one",
                Tcb(self.tcb.0)
            ));
        }
        if changed.is_empty() {
            return Ok(());
        }
        Err(ProviderError::Bound { changed: changed.join("; "), remedy: OTHER_SLOT })
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let bound = match self.bind {
            Binding::Measurement => format!("launch measurement {}", hex(&self.measurement.0)),
            Binding::Owner => format!("author key {}, family id {}", hex(&self.author_key.0), hex(&self.family_id.0)),
        };
        let request = format!(
            "VMPL {}, guest SVN {}, TCB {}, fields {:#x}, root {}, message version {}",
            self.vmpl,
            self.guest_svn,
            Tcb(self.tcb.0),
            self.fields,
            self.root,
            self.message_version
        );
        let mut lines = vec![
            ("bound to", bound),
            ("request", request),
            ("root of keys", format!("{} of chip {}", self.signer.escape_debug(), hex(&self.chip.0))),
            ("guest policy", format!("0x{}", hex(&self.policy.0))),
            ("HOST_DATA", hex(&self.host_data.0)),
        ];
        if self.bind == Binding::Owner {
            lines.push(("sealed by", format!("launch measurement {}", hex(&self.measurement.0))));
        }
        if self.id_key.0 != [0; 48] {
            let (family, image) = (hex(&self.family_id.0), hex(&self.image_id.0));
            let keys = format!("ID key {}, author key {}", hex(&self.id_key.0), hex(&self.author_key.0));
            lines.push(("ID block", format!("family {family}, image {image}, SVN {}, {keys}", self.image_svn)));
        }
        lines
    }
}

/// What a slot of this kind is bound to, for people; the slot is not authenticated.
pub(super) fn show(parameters: &toml::Table) -> Vec<(&'static str, String)> {
    let parsed: Result<Parameters, _> = parameters.clone().try_into();
    parsed.map_or_else(|_| vec![("parameters", "damaged".into())], |parameters| parameters.lines())
}

/// Tells "another key" from "this key, damaged slot", as the check value of any slot does.
fn check(derived: &Secret<32>, salt: &[u8; SALT]) -> [u8; CHECK] {
    *kdf::derive(derived, salt, &[kdf::SLOT_CHECK, KIND.as_bytes()]).expose()
}

/// The chip's identity, so that slots on one chip do not show that they are; zero where the host masks it.
fn chip(report: &Report, salt: &[u8; SALT]) -> [u8; 32] {
    match report.chip_id() {
        id if id == [0; 64] => [0; 32],
        id => Sha256::new().chain_update(CHIP_DOMAIN).chain_update(salt).chain_update(id).finalize().into(),
    }
}

/// A guest's policy as people write it: most significant byte first.
fn policy_bytes(report: &Report) -> [u8; 8] {
    let mut bytes = report.policy().to_le_bytes();
    bytes.reverse();
    bytes
}

/// Bytes as hexadecimal digits, which is how everybody else shows these values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = String::deserialize(from)?;
        // One way to write it, as everywhere in a slot.
        unhex(&text)
            .filter(|bytes| hex(bytes) == text)
            .map(Hex)
            .ok_or_else(|| D::Error::custom(format_args!("not {N} bytes in hexadecimal digits")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::contract::{self, Contract, PLACE};
    use super::*;
    use crate::attest::simulated::{Fault, GET_DERIVED_KEY, GET_REPORT, Machine, SimulatedGuest};

    fn provider(guest: &SimulatedGuest, spec: &str) -> Snp<SimulatedGuest> {
        Snp::of_guest(guest.clone(), spec.parse().unwrap()).unwrap()
    }

    /// A volume's slot that `spec` makes on a machine, and its master key.
    struct Sealed {
        slot: SlotData,
        master: Secret<32>,
    }

    fn seal(machine: &Machine, spec: &str) -> Sealed {
        let master = Secret::random();
        let slot = provider(&SimulatedGuest::new(machine.clone()), spec).wrap(&master, &PLACE).unwrap();
        Sealed { slot, master }
    }

    impl Sealed {
        /// Opens it on a machine after a new start.
        fn open(&self, machine: &Machine) -> Result<(), ProviderError> {
            self.open_as(machine, "sev-snp:")
        }

        fn open_as(&self, machine: &Machine, spec: &str) -> Result<(), ProviderError> {
            let guest = SimulatedGuest::new(machine.clone());
            let opened = provider(&guest, spec).unwrap(&self.slot, &PLACE).expect("this provider's");
            let calls = guest.machine().calls.clone();
            assert!(
                calls.len() <= 2 && calls.iter().all(|(_, version)| *version == 1),
                "one report, one key: {calls:?}"
            );
            assert_eq!(guest.machine().vmpck_lost, machine.vmpck_lost);
            opened.map(|opened| assert_eq!(opened.expose(), self.master.expose()))
        }

        #[track_caller]
        fn bound(&self, machine: &Machine, word: &str) {
            match self.open(machine) {
                Err(ProviderError::Bound { changed, remedy }) => {
                    assert!(changed.contains(word), "{changed}");
                    assert!(remedy.contains("another slot") && remedy.contains("rebind"));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    const STRICT: &str = "sev-snp:?bind=measurement";
    const OWNER: &str = "sev-snp:?bind=owner";

    #[test]
    fn the_contract_is_kept() {
        for (spec, machine) in [(STRICT, Machine::new(1)), (OWNER, Machine::owned(1))] {
            let other = SimulatedGuest::new(Machine { chip: [2; 32], ..machine.clone() });
            let guest = SimulatedGuest::new(machine.clone());
            let contract = Contract { knows_its_own: false, secrets: &[&[1; 32]], ..Contract::LOCAL };
            contract::keep(&provider(&guest, spec), &provider(&guest, "sev-snp:"), &provider(&other, spec), &contract);
            assert!(!guest.machine().vmpck_lost);
            assert!(guest.machine().calls.iter().all(|(number, version)| {
                *version == MESSAGE_VERSION && [GET_REPORT, GET_DERIVED_KEY].contains(number)
            }));
        }
    }

    /// The point of it all: who knows every field of a report does not know the key.
    #[test]
    fn two_chips_with_equal_reports_have_different_keys() {
        let here = Machine::owned(1);
        let there = Machine { chip: [2; 32], ..here.clone() };
        let report = |machine: &Machine| SimulatedGuest::new(machine.clone()).report(&[5; 64], 0).unwrap();
        assert_eq!(report(&here), report(&there));
        for spec in [STRICT, OWNER] {
            let sealed = seal(&here, spec);
            sealed.open(&here).unwrap();
            sealed.bound(&there, "no recorded value differs");
        }
    }

    #[test]
    fn another_chip_is_named() {
        for spec in [STRICT, OWNER] {
            let sealed = seal(&Machine::owned(1), spec);
            sealed.bound(&Machine::owned(2), "another chip");
            // A host that masks the identity hides only the reason.
            sealed.bound(&Machine { chip_id: [0; 64], ..Machine::owned(2) }, "no recorded value differs");
            sealed.open(&Machine { chip_id: [0; 64], ..Machine::owned(1) }).unwrap();
        }
    }

    #[test]
    fn a_code_update_is_fatal_to_the_strict_binding_and_nothing_to_the_owners() {
        let before = Machine::owned(1);
        let after = Machine { measurement: [0x4e; 48], image_id: [2; 16], guest_svn: 5, ..before.clone() };
        seal(&before, STRICT).bound(&after, "the launch measurement was 4d4d");
        let sealed = seal(&before, OWNER);
        sealed.open(&after).unwrap();
        // Sealed by the new image, which an older one must not open.
        seal(&after, OWNER).bound(&before, "security version was 5, is 4");
        // Unless the owner says so when sealing.
        seal(&after, "sev-snp:?bind=owner&guest-svn=4").open(&before).unwrap();
        // Another owner, another family, no owner.
        sealed.bound(&Machine { author_key_digest: [0xa1; 48], ..after.clone() }, "author key");
        sealed.bound(&Machine { family_id: [9; 16], ..after.clone() }, "family id");
        sealed.bound(&Machine { author_key_digest: [0; 48], ..after.clone() }, "author key");
        // Another ID key that the same author has certified.
        sealed.open(&Machine { id_key_digest: [0x1e; 48], ..after }).unwrap();
    }

    #[test]
    fn an_id_key_without_an_author_is_part_of_the_strict_binding() {
        let before = Machine { author_key_digest: [0; 48], ..Machine::owned(1) };
        let sealed = seal(&before, STRICT);
        sealed.open(&before).unwrap();
        sealed.bound(&Machine { id_key_digest: [0x1e; 48], ..before }, "ID key");
    }

    #[test]
    fn the_platforms_firmware_goes_up_but_not_back() {
        let before = Machine::owned(1);
        let newer = [4, 0, 0, 0, 0, 0, 9, 200];
        let after = Machine {
            current_tcb: newer,
            committed_tcb: newer,
            reported_tcb: newer,
            launch_tcb: newer,
            ..before.clone()
        };
        for spec in [STRICT, OWNER] {
            let sealed = seal(&before, spec);
            sealed.open(&after).unwrap();
            // Bound anew, and rolled back.
            let anew = seal(&after, spec);
            anew.open(&after).unwrap();
            anew.bound(&before, "firmware was at 0400000000000009c8".get(..20).unwrap());
            // What the host only reports has no part in it.
            sealed.open(&Machine { reported_tcb: [1; 8], ..after.clone() }).unwrap();
            // A component lower, another higher: not covered.
            let mixed = Machine { committed_tcb: [2, 0, 0, 0, 0, 0, 9, 200], ..after.clone() };
            sealed.bound(&mixed, "older one");
        }
        // A lower version may be asked for, a higher one never.
        let low = seal(&after, "sev-snp:?tcb=0300000000000873");
        low.open(&before).unwrap();
        let refused =
            provider(&SimulatedGuest::new(before), "sev-snp:?tcb=04000000000009c8").wrap(&Secret::random(), &PLACE);
        assert!(matches!(refused, Err(ProviderError::Setup { .. })), "{refused:?}");
    }

    #[test]
    fn a_rotation_asks_for_what_the_slot_asks_for() {
        let before = Machine::owned(1);
        let sealed = seal(&before, OWNER);
        let newer = [4, 0, 0, 0, 0, 0, 9, 200];
        let after = Machine { committed_tcb: newer, guest_svn: 9, measurement: [9; 48], ..before.clone() };
        let next = Secret::random();
        let like = provider(&SimulatedGuest::new(after), "sev-snp:").wrap_like(&sealed.slot, &next, &PLACE).unwrap();
        assert_eq!(like.parameters["tcb"], sealed.slot.parameters["tcb"]);
        Sealed { slot: like, master: next }.open(&before).unwrap();
    }

    #[test]
    fn host_data_and_policy_are_part_of_every_key() {
        for spec in [STRICT, OWNER] {
            let sealed = seal(&Machine::owned(1), spec);
            sealed.bound(&Machine { host_data: [1; 32], ..Machine::owned(1) }, "HOST_DATA");
            sealed.bound(&Machine { policy: 0x2_0000, ..Machine::owned(1) }, "policy was 0000000000030000");
        }
    }

    #[test]
    fn a_vlek_is_refused_unless_the_user_insists() {
        let vlek = Machine { vlek: Some([7; 32]), ..Machine::new(1) };
        let refused = provider(&SimulatedGuest::new(vlek.clone()), STRICT).wrap(&Secret::random(), &PLACE);
        assert!(matches!(refused, Err(ProviderError::Refused { .. })), "{refused:?}");
        let spec = "sev-snp:?insecure-vlek=true";
        let sealed = seal(&vlek, spec);
        assert!(matches!(sealed.open(&vlek), Err(ProviderError::Refused { .. })));
        // Shared by the fleet: another chip opens it.
        sealed.open_as(&Machine { chip: [2; 32], ..vlek.clone() }, spec).unwrap();
        // An update of the provider's firmware loses it for good.
        let error = sealed.open_as(&Machine { reported_tcb: [4; 8], ..vlek.clone() }, spec).unwrap_err();
        assert!(matches!(&error, ProviderError::Bound { changed, .. } if changed.contains("VLEK")), "{error}");
        // A VLEK that comes or goes is another root.
        let error = seal(&Machine::new(1), STRICT).open_as(&vlek, spec).unwrap_err();
        assert!(error.to_string().contains("root of keys was VCEK, is VLEK"), "{error}");
    }

    #[test]
    fn a_guest_that_is_not_confidential_gets_nothing() {
        let sealed = seal(&Machine::new(1), STRICT);
        let masked = Machine { chip_key_masked: true, ..Machine::new(1) };
        for bit in [policy::DEBUG, policy::MIGRATE_MA] {
            let open = Machine { policy: 0x3_0000 | bit, ..Machine::new(1) };
            for machine in [&open, &masked] {
                let guest = SimulatedGuest::new(machine.clone());
                let provider = provider(&guest, STRICT);
                assert!(matches!(provider.wrap(&Secret::random(), &PLACE), Err(ProviderError::Refused { .. })));
                assert!(matches!(provider.check(), Err(ProviderError::Refused { .. })));
                assert!(matches!(sealed.open(machine), Err(ProviderError::Refused { .. })));
                assert!(guest.machine().calls.iter().all(|(number, _)| *number == GET_REPORT), "no key was asked for");
            }
        }
    }

    #[test]
    fn privilege_levels_are_explicit() {
        let inner = Machine { vmpl: 2, ..Machine::new(1) };
        let refused = provider(&SimulatedGuest::new(inner.clone()), STRICT).wrap(&Secret::random(), &PLACE);
        assert!(refused.unwrap_err().to_string().contains("VMPL 0 is more privileged"));
        let sealed = seal(&inner, "sev-snp:?vmpl=2");
        sealed.open_as(&inner, "sev-snp:?vmpl=2").unwrap();
        // A slot does not choose the level for the mount, and levels have different keys.
        assert!(matches!(sealed.open_as(&Machine::new(1), "sev-snp:"), Err(ProviderError::Setup { .. })));
        assert!(sealed.open_as(&inner, "sev-snp:?vmpl=3").is_err());
    }

    #[test]
    fn what_the_device_refuses_is_said() {
        let sealed = seal(&Machine::new(1), STRICT);
        let with = |fault| Machine { fault, ..Machine::new(1) };
        let text = |error: ProviderError| format!("{error} {}", error.remedy().unwrap_or_default());
        let disabled = sealed.open(&Machine { vcek_disabled: true, ..Machine::new(1) }).unwrap_err();
        assert!(text(disabled).contains("0x27"));
        let status = |status| text(sealed.open(&with(Fault::Status(status))).unwrap_err());
        assert!(status(0x16).contains("invalid parameter") && status(0x27).contains("invalid key"));
        assert!(status(0x99).contains("0x99"));
        let lost = text(sealed.open(&Machine { vmpck_lost: true, ..Machine::new(1) }).unwrap_err());
        assert!(lost.contains("VMPCK") && lost.contains("new start of the guest"), "{lost}");
        // Success without an answer is none, and neither is an old report.
        for fault in [Fault::Silent, Fault::OldReport] {
            assert!(matches!(sealed.open(&with(fault)), Err(ProviderError::Answer { .. })), "{fault:?}");
        }
    }

    /// A guest whose reports are right and whose keys are not there.
    struct Keyless(SimulatedGuest);

    impl SnpGuest for Keyless {
        fn report_within(&self, data: &[u8; 64], vmpl: u32, limit: Duration) -> Result<Vec<u8>, GuestError> {
            self.0.report_within(data, vmpl, limit)
        }

        fn derived_key(&self, request: &KeyRequest) -> Result<Secret<32>, GuestError> {
            self.0.machine().fault = Fault::Silent;
            let key = self.0.derived_key(request);
            self.0.machine().fault = Fault::None;
            key
        }
    }

    #[test]
    fn a_key_of_zeros_seals_and_opens_nothing() {
        let guest = Keyless(SimulatedGuest::new(Machine::new(1)));
        let keyless = Snp::of_guest(guest, STRICT.parse().unwrap()).unwrap();
        let refused = keyless.wrap(&Secret::random(), &PLACE).unwrap_err();
        assert!(matches!(&refused, ProviderError::Answer { what, .. } if what.contains("zeros")), "{refused}");
        let sealed = seal(&Machine::new(1), STRICT);
        assert!(matches!(keyless.unwrap(&sealed.slot, &PLACE), Some(Err(ProviderError::Answer { .. }))));
    }

    #[test]
    fn a_missing_device_has_a_remedy() {
        let missing = GuestError::Missing(std::io::ErrorKind::NotFound.into());
        let error = failed(missing, 0);
        assert!(
            matches!(&error, ProviderError::Setup { .. })
                && error.remedy().unwrap().contains("--device /dev/sev-guest")
        );
    }

    #[test]
    fn an_owner_must_be_there_to_bind_to() {
        for machine in [Machine::new(1), Machine { author_key_digest: [0; 48], ..Machine::owned(1) }] {
            let refused = provider(&SimulatedGuest::new(machine), OWNER).wrap(&Secret::random(), &PLACE);
            assert!(
                matches!(&refused, Err(ProviderError::Setup { fact, .. }) if fact.contains("ID block")),
                "{refused:?}"
            );
        }
        let high = provider(&SimulatedGuest::new(Machine::owned(1)), "sev-snp:?guest-svn=5");
        assert!(matches!(high.wrap(&Secret::random(), &PLACE), Err(ProviderError::Setup { .. })));
    }

    /// The class of 2025: a volume swapped in with a slot that its maker can open elsewhere.
    #[test]
    fn a_slot_with_a_weaker_mask_is_refused() {
        let guest = SimulatedGuest::new(Machine::owned(1));
        for weaker in [0, fields::TCB_VERSION, Binding::Owner.fields() & !fields::POLICY] {
            let mut sealed = seal(&Machine::owned(1), OWNER);
            sealed.slot.parameters.insert("fields".into(), (weaker as i64).into());
            let refused = provider(&guest, OWNER).unwrap(&sealed.slot, &PLACE);
            assert!(matches!(refused, Some(Err(ProviderError::Malformed(_)))), "{refused:?}");
        }
        // A mount that names its binding passes over slots of the other one.
        let sealed = seal(&Machine::owned(1), OWNER);
        assert!(provider(&guest, STRICT).unwrap(&sealed.slot, &PLACE).is_none());
        assert!(guest.machine().calls.is_empty());
    }

    #[test]
    fn the_slot_says_what_it_is_bound_to() {
        let strict = format!("{:?}", show(&seal(&Machine::new(1), STRICT).slot.parameters));
        assert!(strict.contains(&"4d".repeat(48)) && strict.contains("TCB 0300000000000873"), "{strict}");
        let owner = format!("{:?}", show(&seal(&Machine::owned(1), OWNER).slot.parameters));
        assert!(owner.contains(&"a0".repeat(48)) && owner.contains("guest SVN 4"), "{owner}");
        assert_eq!(show(&toml::Table::new()), [("parameters", "damaged".to_owned())]);
    }

    #[test]
    fn specifications_are_checked() {
        let open = |spec: &str| Snp::open(spec.parse().unwrap());
        assert!(open("sev-snp:").is_ok() && open("sev-snp:?bind=owner&vmpl=3&tcb=committed&guest-svn=1").is_ok());
        for bad in [
            "sev-snp:x",
            "sev-snp:?bind=both",
            "sev-snp:?vmpl=4",
            "sev-snp:?tcb=1",
            "sev-snp:?guest-svn=-1",
            "sev-snp:?insecure-vlek=1",
            "sev-snp:?policy=0",
        ] {
            assert!(matches!(open(bad), Err(ProviderError::Spec(_))), "{bad}");
        }
    }
}
