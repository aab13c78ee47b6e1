//! What can be wrong with a volume, and what to do about it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use uuid::Uuid;

use super::{CONTROL_DIR, DESCRIPTION_FILE};
use crate::keys::ProviderError;

/// Why a volume could not be made, opened, unlocked or changed. The text is the fact; [`remedy`](Self::remedy) is what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A system call failed.
    #[error("cannot {doing} {}", .path.display())]
    Io {
        /// What was tried: "open", "write".
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// No control directory or no description.
    #[error("{} is not an envelopefs volume: it has no {CONTROL_DIR}/{DESCRIPTION_FILE}", .0.display())]
    NotAVolume(PathBuf),
    /// There is a volume already.
    #[error("{} is an envelopefs volume already", .0.display())]
    AlreadyAVolume(PathBuf),
    /// Something is in the directory.
    #[error("{} is not empty: it holds {}", .path.display(), .entry.display())]
    NotEmpty {
        /// The backing directory.
        path: PathBuf,
        /// The first thing found.
        entry: OsString,
    },
    /// A symlink or another kind of file in the place of one of the format's own.
    #[error("{} is not a {expected}", .path.display())]
    WrongKind {
        /// What it is the place of.
        path: PathBuf,
        /// What belongs there: "directory", "regular file".
        expected: &'static str,
    },
    /// More than any description has.
    #[error("{DESCRIPTION_FILE} is larger than {0} bytes")]
    TooLarge(u64),
    /// Not what this program or any before it wrote.
    #[error("{DESCRIPTION_FILE} is damaged: {0}")]
    Malformed(String),
    /// Another format version.
    #[error("the volume has format version {0}; this envelopefs knows version {known}", known = super::description::FORMAT)]
    UnknownFormat(i64),
    /// A feature this program does not know.
    #[error("the volume uses the feature {0:?}, which this envelopefs does not know")]
    UnknownFeature(String),
    /// Not the volume that was asked for.
    #[error("this is volume {found}, not {expected}")]
    OtherVolume {
        /// The pinned UUID.
        expected: Uuid,
        /// The volume's.
        found: Uuid,
    },
    /// No slot is of a kind that credentials were given for.
    #[error(
        "the volume has no key slot for {}; it has: {}",
        if .given.is_empty() { "no credential at all".into() } else { .given.join(" or ") },
        .present.join(", ")
    )]
    NoSlotFor {
        /// Kinds of the credentials given.
        given: Vec<&'static str>,
        /// Kinds of the volume's slots.
        present: Vec<String>,
    },
    /// There are slots of that kind; they are somebody else's.
    #[error("{}", wrong_credential(.tried))]
    NoneOpens {
        /// Slots tried, with what.
        tried: Vec<(u32, String)>,
    },
    /// The credential is the slot's, and the slot does not open.
    #[error("key slot {slot} ({provider}) is damaged or was tampered with")]
    BrokenSlot {
        /// The slot.
        slot: u32,
        /// Its provider.
        provider: String,
        /// In which way.
        source: ProviderError,
    },
    /// A provider did not do its part, so its slot stays closed.
    #[error("key slot {slot} ({provider}) cannot be opened now")]
    Provider {
        /// The slot.
        slot: u32,
        /// Its provider.
        provider: String,
        /// Why.
        source: ProviderError,
    },
    /// A slot holds a key that is not the one the volume describes.
    #[error("key slot {slot} holds another master key than the volume says: it was tampered with")]
    ForeignKey {
        /// The slot.
        slot: u32,
    },
    /// The MAC does not verify.
    #[error("{DESCRIPTION_FILE} was changed: its MAC does not verify with the key from slot {slot}")]
    Changed {
        /// The slot that was opened.
        slot: u32,
    },
    /// The wrapped volume key does not open.
    #[error("the wrapped volume key was changed")]
    VolumeKey,
    /// A provider could not wrap the key for a new slot.
    #[error("cannot make the key slot")]
    CannotWrap(#[source] ProviderError),
    /// Another process uses the volume.
    #[error("the volume is in use{}", .pid.map_or(String::new(), |pid| format!(" by process {pid}")))]
    InUse {
        /// Who, if it left its process id.
        pid: Option<u32>,
    },
    /// Another process changed the description between reading and writing.
    #[error("{DESCRIPTION_FILE} was changed by another process in the meantime; nothing was written")]
    Raced,
    /// Removing it would lose the volume.
    #[error("key slot {slot} is the last one of master key version {version}; without it the volume is lost")]
    LastSlot {
        /// The slot.
        slot: u32,
        /// The version.
        version: u32,
    },
    /// There is none with this number.
    #[error("the volume has no key slot {0}")]
    NoSuchSlot(u32),
    /// There is no such version of the master key.
    #[error("the volume has no master key version {0}")]
    NoSuchVersion(u32),
    /// The version in force cannot be retired or destroyed.
    #[error("master key version {0} is the active one")]
    Active(u32),
    /// It is gone already.
    #[error("master key version {0} is destroyed")]
    Destroyed(u32),
    /// The next version would not have these slots.
    #[error(
        "no credential given opens {}",
        .slots.iter().map(|(slot, provider)| format!("key slot {slot} ({provider})")).collect::<Vec<_>>().join(", ")
    )]
    SlotsLeft {
        /// Numbers and kinds.
        slots: Vec<(u32, String)>,
    },
    /// A slot cannot be added to a key that is not at hand.
    #[error("master key version {0} is not unlocked by the credentials given")]
    StillLocked(u32),
}

fn wrong_credential(tried: &[(u32, String)]) -> String {
    let mut with: Vec<&str> = tried.iter().map(|(_, with)| with.as_str()).collect();
    with.dedup();
    let slots: Vec<String> = tried.iter().map(|(slot, _)| slot.to_string()).collect();
    format!("wrong {}: it opens none of the key slots of its kind ({})", with.join(" and "), slots.join(", "))
}

impl VolumeError {
    /// What the user can do about it, where there is something.
    pub fn remedy(&self) -> Option<String> {
        let restore = || {
            Some(format!(
                "put back {CONTROL_DIR}/{DESCRIPTION_FILE} from a backup; if you did not change it, treat the backing directory as tampered with"
            ))
        };
        match self {
            VolumeError::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => Some("check the path; the backing directory must exist".into()),
                io::ErrorKind::PermissionDenied => {
                    Some("run the command as the user who owns the backing directory".into())
                }
                _ => None,
            },
            VolumeError::NotAVolume(path) => {
                Some(format!("check the path, or make a volume there: envelopefs init {}", path.display()))
            }
            VolumeError::AlreadyAVolume(path) => Some(format!(
                "mount it (envelopefs mount {} MOUNTPOINT), or choose an empty directory for a new one",
                path.display()
            )),
            VolumeError::NotEmpty { .. } => {
                Some("choose an empty directory, mount the new volume and copy the files in through the mount".into())
            }
            VolumeError::WrongKind { .. } => {
                Some("nothing of the format is ever a symlink; see what put it there".into())
            }
            VolumeError::UnknownFormat(_) | VolumeError::UnknownFeature(_) => {
                Some("use the envelopefs version that made the volume, or a newer one".into())
            }
            VolumeError::OtherVolume { .. } => {
                Some("check the path and the expected id; somebody may have exchanged the backing directory".into())
            }
            VolumeError::NoSlotFor { .. } => Some("give the credential for one of the slots it has".into()),
            VolumeError::NoneOpens { .. } => {
                Some("check the passphrase (keyboard layout, caps lock), the key file or the provider".into())
            }
            VolumeError::TooLarge(_)
            | VolumeError::Malformed(_)
            | VolumeError::BrokenSlot { .. }
            | VolumeError::ForeignKey { .. }
            | VolumeError::Changed { .. }
            | VolumeError::VolumeKey => restore(),
            VolumeError::InUse { .. } => Some("unmount it there first (envelopefs umount MOUNTPOINT)".into()),
            VolumeError::Raced => Some("run the command again".into()),
            VolumeError::LastSlot { .. } => Some("add another slot first (envelopefs key add)".into()),
            VolumeError::NoSuchSlot(_) => Some("list the slots: envelopefs key list".into()),
            VolumeError::NoSuchVersion(_) => Some("list the versions: envelopefs key list".into()),
            VolumeError::Active(_) => Some("rotate first: envelopefs key rotate".into()),
            VolumeError::Destroyed(_) => None,
            VolumeError::SlotsLeft { .. } => Some(
                "give a credential for each slot, or leave them behind with the old version: --leave-slots-behind"
                    .into(),
            ),
            VolumeError::StillLocked(_) => Some("give a credential that opens every master key in use".into()),
            VolumeError::CannotWrap(source) | VolumeError::Provider { source, .. } => source.remedy(),
        }
    }
}
