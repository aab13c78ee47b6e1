//! The grammar of the command: one definition, from which help, man pages and completions are made.
//!
//! Parsing checks syntax; what the values mean is decided in [`crate::cmd`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use uuid::Uuid;

/// Keeps a directory encrypted at rest and shows it in plain at a mountpoint.
#[derive(Debug, Parser)]
#[command(
    name = "envelopefs",
    version,
    about,
    long_about = "Keeps a directory encrypted at rest and shows it in plain at a mountpoint.\n\n\
        The backing directory holds names and contents encrypted and authenticated; each file has a key of its own, wrapped by the \
        volume's master key, which is stored only wrapped, in key slots.",
    after_long_help = EXIT_CODES,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Shown at the end of the long help, and part of what scripts may rely on; the numbers are those of [`crate::cmd::Code`].
const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  any other failure
  2  wrong usage
  3  no key slot opens with the credentials given
  4  damage was found: contents, names or the volume's description were changed
  5  the volume is in use, or the mountpoint is busy
  6  the backing directory is not a volume (or, for init, is one already or is not empty)
  7  the volume has a format version or a feature that this program does not know
  8  mounting or unmounting failed
  9  a key provider cannot be reached, refuses, or is not set up
  10 an attestation report is not genuine, or not what was demanded

As a mount helper: envelopefs BACKING MOUNTPOINT -o OPTIONS, or in fstab
  /srv/app.enc /srv/app fuse.envelopefs key_file=/etc/envelopefs/app.key,allow_other,nosuid,nodev 0 0";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an encrypted volume in an empty directory.
    Init(Init),
    /// Show a volume in plain at a mountpoint.
    Mount(Mount),
    /// Unmount a volume and wait until everything is written.
    Umount(Umount),
    /// Tell what a volume says of itself; needs no key.
    Info(Info),
    /// Verify every header, tree node and chunk of a volume that is not mounted.
    Check(Check),
    /// List, add and remove key slots.
    #[command(subcommand)]
    Key(Key),
    /// Take a volume over from another instance, whose key server slots become this one's.
    #[cfg(feature = "hsm-api")]
    Takeover(Takeover),
    /// Compare the signing key that key servers tell with the pinned one.
    #[cfg(feature = "hsm-api")]
    CheckServerKey(CheckServerKey),
    /// Bring a plaintext directory or file into a volume that is not mounted, and compare.
    Import(Import),
    /// Show or verify the log of what was done with a volume's keys.
    #[command(subcommand)]
    Audit(Audit),
    /// Open a volume with its recovery key, or enough shares of it, and add a key slot.
    Recover(Recover),
    /// Fetch an attestation report of this SEV-SNP guest, or read one, and verify it.
    #[cfg(feature = "sev-snp")]
    Attest(Attest),
    /// Write man pages or shell completions into a directory.
    Generate(Generate),
}

/// The credentials that open a key slot. Without any, a passphrase is asked for on the terminal.
#[derive(Debug, Args)]
#[command(next_help_heading = "Credentials")]
pub struct Credentials {
    /// File with the 32 bytes of a key; only its owner may have rights to it.
    #[arg(long, value_name = "PATH")]
    pub key_file: Vec<PathBuf>,
    /// File with a passphrase; one line ending at its end is not part of it.
    #[arg(long, value_name = "PATH")]
    pub passphrase_file: Vec<PathBuf>,
    /// Read a passphrase from this open file descriptor up to its end.
    #[arg(long, value_name = "N")]
    pub passphrase_fd: Option<i32>,
    /// A key provider, as kind:target?name=value&name=value, or the path of a file that says the same in TOML.
    #[arg(long, value_name = "SPEC")]
    pub provider: Vec<String>,
}

/// Costs of Argon2id for a new passphrase slot.
#[derive(Debug, Args)]
#[command(next_help_heading = "Passphrase hashing (Argon2id, RFC 9106)")]
pub struct Argon {
    /// Memory in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub argon2_memory: u32,
    /// Passes over the memory.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub argon2_passes: u32,
    /// Lanes (threads).
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub argon2_lanes: u32,
}

/// `envelopefs init`
#[derive(Debug, Args)]
pub struct Init {
    /// The empty directory that will hold the encrypted files.
    pub backing: PathBuf,
    /// The credentials of the first key slots, each of which opens the volume.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Make the key file named by --key-file; it must not exist yet.
    #[arg(long, requires = "key_file")]
    pub make_key_file: bool,
    /// A name for the key slot, for people.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub label: String,
    /// Make do with key slots that this machine alone can open (sev-snp): its loss is then the loss of the data.
    #[arg(long)]
    pub insecure_no_recovery_slot: bool,
    /// Costs of a passphrase slot.
    #[command(flatten)]
    pub argon: Argon,
}

/// `envelopefs mount`
#[derive(Debug, Args)]
pub struct Mount {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// The empty directory at which the volume is shown.
    pub mountpoint: PathBuf,
    /// The credentials to try.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Mount options, comma-separated: ro, rw, allow_other, allow_root, default_permissions, exec, noexec, suid, nosuid, dev, nodev,
    /// atime, noatime, sync, async, dirsync, nonempty, key_file=PATH, passphrase_file=PATH, provider=SPEC, volume_id=UUID, threads=N, lease=SECONDS, log_file=PATH,
    /// journal_size=MiB, busy_poll=MICROSECONDS.
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',', verbatim_doc_comment)]
    pub options: Vec<OsString>,
    /// Stay in the foreground; messages go to standard error.
    #[arg(short, long)]
    pub foreground: bool,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// Append messages to this file instead of sending them to the system log.
    #[arg(long, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
    /// Open the key slot again every so many seconds; once it is refused, drop the keys: every access then fails with ENOKEY.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub lease: Option<u32>,
    /// As mount(8) passes it; of no effect.
    #[arg(short = 'n', hide = true)]
    pub no_mtab: bool,
    /// As mount(8) passes it; of no effect.
    #[arg(short = 'v', hide = true)]
    pub verbose: bool,
    /// As mount(8) passes it; of no effect.
    #[arg(short = 's', hide = true)]
    pub sloppy: bool,
    /// As mount(8) passes it; of no effect.
    #[arg(short = 't', hide = true, value_name = "TYPE")]
    pub fs_type: Option<String>,
}

/// `envelopefs umount`
#[derive(Debug, Args)]
pub struct Umount {
    /// Where the volume is mounted.
    pub mountpoint: PathBuf,
    /// Take a mount that is in use out of the tree now; it ends with its last user.
    #[arg(short, long)]
    pub lazy: bool,
}

/// `envelopefs info`
#[derive(Debug, Args)]
pub struct Info {
    /// The backing directory of the volume.
    pub backing: PathBuf,
}

/// `envelopefs check`
#[derive(Debug, Args)]
pub struct Check {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// The credentials to try.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// Threads that verify; by default one for each processor.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// No progress bar.
    #[arg(short, long)]
    pub quiet: bool,
}

/// `envelopefs key`
#[derive(Debug, Subcommand)]
pub enum Key {
    /// List key versions and slots; needs no key.
    List(KeyList),
    /// Add a slot, so that a further credential opens the volume.
    Add(KeyAdd),
    /// Remove a slot.
    Remove(KeyRemove),
    /// Put a new master key in force and rewrap every header, mounted or not; no data is encrypted anew.
    Rotate(KeyRotate),
    /// Count headers by the version of the master key that they need.
    Status(KeyStatus),
    /// Make sure that no header needs a version, and note it: its grace period begins.
    Retire(KeyRetire),
    /// Destroy a version that no header needs.
    Destroy(KeyDestroy),
    /// Wrap a slot anew by another credential, or by the same provider in another state, under its number.
    Rebind(KeyRebind),
    /// Ask key providers what they are, and test them: wrap, unwrap, expect refusals; needs no volume.
    Probe(KeyProbe),
}

/// How all headers are walked over.
#[derive(Debug, Args)]
#[command(next_help_heading = "Headers")]
pub struct Walk {
    /// Threads that work on headers; by default one for each processor.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// At most so many headers a second.
    #[arg(long, value_name = "N")]
    pub rate: Option<u64>,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs key rotate`
#[derive(Debug, Args)]
pub struct KeyRotate {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// A credential for each key slot: what opens the old version wraps the new one.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// Make no new version: finish a rotation that was interrupted.
    #[arg(long)]
    pub resume: bool,
    /// Go on although the new version will not have the slots that no credential was given for.
    #[arg(long, conflicts_with = "resume")]
    pub leave_slots_behind: bool,
    /// Leave them behind even if all that go along are bound to this machine.
    #[arg(long, requires = "leave_slots_behind")]
    pub insecure_no_recovery_slot: bool,
    /// Count, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// The walk.
    #[command(flatten)]
    pub walk: Walk,
}

/// `envelopefs key status`
#[derive(Debug, Args)]
pub struct KeyStatus {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// A credential that opens the volume.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// The walk.
    #[command(flatten)]
    pub walk: Walk,
}

/// `envelopefs key retire`
#[derive(Debug, Args)]
pub struct KeyRetire {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// The version, as `key list` shows it.
    pub version: u32,
    /// A credential that opens the volume.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// Note as well that others know this master key, even if headers still need it.
    #[arg(long)]
    pub compromised: bool,
    /// Count, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// The walk.
    #[command(flatten)]
    pub walk: Walk,
}

/// `envelopefs key destroy`
#[derive(Debug, Args)]
pub struct KeyDestroy {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// The version, as `key list` shows it.
    pub version: u32,
    /// A credential that opens the volume.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// Days that must have passed since the version was retired.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub grace_days: u32,
    /// Destroy it although headers need it (crypto-shredding): the files that are named cannot be read any more, ever.
    #[arg(long)]
    pub lose_data: bool,
    /// Count and name what would be lost, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// The walk.
    #[command(flatten)]
    pub walk: Walk,
}

/// `envelopefs key rebind`
#[derive(Debug, Args)]
pub struct KeyRebind {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// Number of the slot, as `key list` shows it.
    pub slot: u32,
    /// A credential that opens the volume now.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// What the slot is to open with from now on.
    #[command(flatten)]
    pub new: NewSlot,
    /// Change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs key probe`
#[derive(Debug, Args)]
pub struct KeyProbe {
    /// What to probe.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs key list`
#[derive(Debug, Args)]
pub struct KeyList {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs key add`
#[derive(Debug, Args)]
pub struct KeyAdd {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// A credential that opens the volume now.
    #[command(flatten)]
    pub credentials: Credentials,
    /// The credential of the new slot.
    #[command(flatten)]
    pub new: NewSlot,
    /// Or a recovery key.
    #[command(flatten)]
    pub recovery: NewRecovery,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// Open the volume and the new credential, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// A recovery key to be made for a new slot.
#[derive(Debug, Args)]
#[command(next_help_heading = "New recovery key")]
pub struct NewRecovery {
    /// Make a recovery key, to be printed and kept: it opens the volume when all else is lost.
    #[arg(long, group = "new")]
    pub new_recovery: bool,
    /// Split it into so many shares, 2 to 255.
    #[arg(long, value_name = "N", requires = "new_recovery", requires = "threshold")]
    pub shares: Option<u8>,
    /// So many of the shares are needed, 2 to all.
    #[arg(long, value_name = "M", requires = "shares")]
    pub threshold: Option<u8>,
    /// Words of a list instead of groups of letters and digits.
    #[arg(long, requires = "new_recovery")]
    pub words: bool,
    /// Write it into files in this directory, one for each share and readable by their owner alone, instead of showing it.
    #[arg(long, value_name = "DIR", requires = "new_recovery")]
    pub output_dir: Option<PathBuf>,
    /// Do not ask whether it was written down.
    #[arg(long, requires = "new_recovery")]
    pub yes: bool,
}

/// `envelopefs import`
#[derive(Debug, Args)]
pub struct Import {
    /// What to bring in: the contents of a directory, or one file.
    pub source: PathBuf,
    /// The backing directory of the volume, which must not be mounted.
    pub backing: PathBuf,
    /// A credential that opens the volume.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// The directory of the volume that it goes into; made if need be.
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub into: PathBuf,
    /// Replace what is in the volume already and differs.
    #[arg(long)]
    pub overwrite: bool,
    /// Remove the originals when all of them were found equal and are on the disk. What the disk held of them may stay on it.
    #[arg(long)]
    pub remove_originals: bool,
    /// Say what would be copied, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    /// No progress bar.
    #[arg(short, long)]
    pub quiet: bool,
}

/// `envelopefs audit`
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Verify the log's chain and MACs, and name the first fault.
    Verify(AuditVerify),
    /// List the events; their chain is verified on the way, their MACs are not.
    Show(AuditShow),
}

/// `envelopefs audit verify`
#[derive(Debug, Args)]
pub struct AuditVerify {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// A credential that opens the volume.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// The head that an earlier verification printed, kept elsewhere: the log must still contain that event.
    #[arg(long, value_name = "NUMBER:SHA256")]
    pub head: Option<crate::audit::Head>,
    /// Verify the chain alone, without a credential: who can write to the backing directory can make one that fits.
    #[arg(long)]
    pub chain_only: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs audit show`
#[derive(Debug, Args)]
pub struct AuditShow {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// Print the lines as they are, JSON objects.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs recover`
#[derive(Debug, Args)]
pub struct Recover {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// File with the recovery key or with shares of it; only its owner may have rights to it. Without any, they are asked for on
    /// the terminal.
    #[arg(long, value_name = "PATH")]
    pub recovery_file: Vec<PathBuf>,
    /// Read the recovery key or the shares, an empty line between two, from this open file descriptor.
    #[arg(long, value_name = "N", conflicts_with = "recovery_file")]
    pub recovery_fd: Option<i32>,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// The credential of the new slot.
    #[command(flatten)]
    pub new: NewSlot,
    /// Or another recovery key.
    #[command(flatten)]
    pub recovery: NewRecovery,
    /// Only see whether the recovery key opens the volume.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// The credential of a slot to be made. Without any, a passphrase is asked for on the terminal.
#[derive(Debug, Args)]
#[command(next_help_heading = "New slot")]
pub struct NewSlot {
    /// File with the 32 bytes of a key.
    #[arg(long, value_name = "PATH", group = "new")]
    pub new_key_file: Option<PathBuf>,
    /// Make the key file named by --new-key-file; it must not exist yet.
    #[arg(long, requires = "new_key_file")]
    pub make_key_file: bool,
    /// File with a passphrase.
    #[arg(long, value_name = "PATH", group = "new")]
    pub new_passphrase_file: Option<PathBuf>,
    /// Read a passphrase from this file descriptor.
    #[arg(long, value_name = "N", group = "new")]
    pub new_passphrase_fd: Option<i32>,
    /// A key provider, as --provider names it.
    #[arg(long, value_name = "SPEC", group = "new")]
    pub new_provider: Option<String>,
    /// A name for the new slot, for people.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub label: String,
    /// Make do with key slots that this machine alone can open (sev-snp): its loss is then the loss of the data.
    #[arg(long)]
    pub insecure_no_recovery_slot: bool,
    /// Costs of a passphrase slot.
    #[command(flatten)]
    pub argon: Argon,
}

/// `envelopefs key remove`
#[derive(Debug, Args)]
pub struct KeyRemove {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// Number of the slot, as `key list` shows it.
    pub slot: u32,
    /// A credential that opens the volume; it may be that of the slot to remove.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// Change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs takeover`
#[cfg(feature = "hsm-api")]
#[derive(Debug, Args)]
pub struct Takeover {
    /// The backing directory of the volume.
    pub backing: PathBuf,
    /// Instance id of the owner until now.
    #[arg(long, value_name = "INSTANCE")]
    pub from: String,
    /// The key server, as the instance that takes over: hsm-api:https://…
    #[arg(long, value_name = "SPEC")]
    pub provider: String,
    /// Refuse any volume but this one.
    #[arg(long, value_name = "UUID")]
    pub volume_id: Option<Uuid>,
    /// Change nothing in the volume. The server is asked all the same, and writes it into its audit log.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs check-server-key`
///
/// Ends with 0 if every server tells a pinned key, with 1 if one tells another, with 9 if one does not answer.
#[cfg(feature = "hsm-api")]
#[derive(Debug, Args)]
#[command(
    after_long_help = "Ends with 0 if every server tells a pinned key, with 1 if one tells another key, with 9 if one tells none."
)]
pub struct CheckServerKey {
    /// The key servers: hsm-api:https://…
    #[arg(long, value_name = "SPEC")]
    pub provider: String,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs attest`
#[cfg(feature = "sev-snp")]
#[derive(Debug, Args)]
pub struct Attest {
    /// Read the report from a file instead of asking this guest's secure processor.
    #[arg(long, value_name = "PATH")]
    pub report: Option<PathBuf>,
    /// What the report must hold as report data, 64 bytes; without it a report that is asked for holds random bytes, and of one from a file
    /// it stays open how old it is.
    #[arg(long, value_name = "HEX")]
    pub nonce: Option<String>,
    /// Write the report to this file before it is verified.
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
    /// Verify as of this time instead of now.
    #[arg(long, value_name = "TIME")]
    pub at: Option<jiff::Timestamp>,
    /// Certificate of the signing key (VCEK or VLEK), in DER or PEM; others in the same file may be its chain.
    #[arg(long, visible_alias = "vcek", value_name = "PATH", help_heading = "Certificates")]
    pub vek: Option<PathBuf>,
    /// Certificates of its authorities (ASK or ASVK, and ARK); for a VCEK AMD's are compiled in.
    #[arg(long, value_name = "PATH", help_heading = "Certificates")]
    pub cert_chain: Option<PathBuf>,
    /// Directory with vcek/CHIP/TCB_vcek.der and, if need be, cert_chain.pem.
    #[arg(long, value_name = "PATH", help_heading = "Certificates")]
    pub cert_dir: Option<PathBuf>,
    /// Fetch the VCEK's certificate from AMD's key distribution server if the directory does not have it, and keep it there. The server
    /// learns which chip it is for.
    #[cfg(feature = "network")]
    #[arg(long, requires = "cert_dir", help_heading = "Certificates")]
    pub fetch: bool,
    /// Another server to fetch from, a mirror say.
    #[cfg(feature = "network")]
    #[arg(long, value_name = "URL", default_value = "https://kdsintf.amd.com", help_heading = "Certificates")]
    pub kds: String,
    /// PEM certificates of the authorities that are trusted for that connection, instead of the system's.
    #[cfg(feature = "network")]
    #[arg(long, value_name = "PATH", help_heading = "Certificates")]
    pub kds_ca_file: Option<PathBuf>,
    /// Table of certificates as the host hands it out, auxblob of configfs-tsm.
    #[arg(long, value_name = "PATH", help_heading = "Certificates")]
    pub cert_table: Option<PathBuf>,
    /// Revocation list in DER. With any, one of them must be the root's and in force, and none may name a certificate of the chain.
    #[arg(long, value_name = "PATH", help_heading = "Certificates")]
    pub crl: Vec<PathBuf>,
    /// Launch measurement that is allowed; with several, one of them.
    #[arg(long, value_name = "HEX", help_heading = "Demands")]
    pub measurement: Vec<String>,
    /// Digest of the author key of the ID block that is allowed; with several, one of them.
    #[arg(long, value_name = "HEX", help_heading = "Demands")]
    pub author_key: Vec<String>,
    /// Least security version of the guest.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Demands")]
    pub minimum_guest_svn: u32,
    /// HOST_DATA.
    #[arg(long, value_name = "HEX", help_heading = "Demands")]
    pub host_data: Option<String>,
    /// Privilege level.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=3), help_heading = "Demands")]
    pub vmpl: u32,
    /// Least firmware versions, reported, committed and at launch: bootloader=3,snp=8,microcode=115.
    #[arg(long, value_name = "VERSIONS", help_heading = "Demands")]
    pub minimum_tcb: Option<crate::attest::verify::MinimumTcb>,
    /// Bits that the guest's policy must have.
    #[arg(long, value_name = "BITS", default_value = "0", value_parser = bits, help_heading = "Demands")]
    pub policy_set: u64,
    /// Bits that it must not have.
    #[arg(long, value_name = "BITS", default_value = "0", value_parser = bits, help_heading = "Demands")]
    pub policy_clear: u64,
    /// Bits that the description of the platform must have.
    #[arg(long, value_name = "BITS", default_value = "0", value_parser = bits, help_heading = "Demands")]
    pub platform_set: u64,
    /// Accept a guest that its host may debug.
    #[arg(long, help_heading = "Demands")]
    pub allow_debug: bool,
    /// Accept a guest that a migration agent may move.
    #[arg(long, help_heading = "Demands")]
    pub allow_migration: bool,
    /// Accept a cloud provider's key (VLEK).
    #[arg(long, help_heading = "Demands")]
    pub allow_vlek: bool,
    /// Accept reports of version 2, which do not say which generation of processor they are from.
    #[arg(long, help_heading = "Demands")]
    pub allow_version_2: bool,
}

/// A number, in hexadecimal digits after 0x.
#[cfg(feature = "sev-snp")]
fn bits(text: &str) -> Result<u64, std::num::ParseIntError> {
    text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16))
}

/// `envelopefs generate`
#[derive(Debug, Args)]
pub struct Generate {
    /// What to write.
    pub what: Generated,
    /// Into which directory.
    pub directory: PathBuf,
}

/// What `generate` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// Manual pages.
    Man,
    /// Completions for bash, zsh and fish.
    Completions,
}

/// Turns a mount helper's call, `envelopefs BACKING MOUNTPOINT …` (fuse(8)), into `envelopefs mount BACKING MOUNTPOINT …`: where
/// the program is called `mount.…`, or what stands in the verb's place is an option or a path. A mistyped verb is neither. A
/// directory that is named like a verb is written `./verb`.
pub fn with_verb(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_helper = arguments.first().is_some_and(|program| {
        Path::new(program).file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"mount."))
    });
    let command = Cli::command();
    let stands_for_verb = arguments.get(1).is_some_and(|first| {
        let is_own = |name: &str| first == name;
        let bytes = first.as_encoded_bytes();
        let known = command.get_subcommands().any(|verb| is_own(verb.get_name()))
            || ["help", "-h", "--help", "-V", "--version"].into_iter().any(is_own);
        !known && (bytes.starts_with(b"-") || bytes.contains(&b'/') || Path::new(first).is_dir())
    });
    if is_helper || (stands_for_verb && arguments.len() > 2) {
        arguments.insert(1, "mount".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(with_verb(line.split(' ').map(OsString::from)))
    }

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_mount_helpers_call_is_a_mount() {
        for line in [
            "envelopefs /b /m -o ro,dev",
            "envelopefs mount /b /m -o ro,dev",
            "/sbin/mount.envelopefs /b /m -n -o ro,dev",
            "envelopefs mount -o ro -o dev /b /m",
            "envelopefs -o ro,dev /b /m",
        ] {
            let Command::Mount(mount) = parse(line).unwrap().command else { panic!("{line}") };
            assert_eq!((mount.backing, mount.mountpoint), ("/b".into(), "/m".into()));
            assert_eq!(mount.options, ["ro", "dev"]);
        }
        assert!(matches!(parse("envelopefs info /b").unwrap().command, Command::Info(_)));
        for mistyped in ["nonsense", "inti /b", "moutn /b /m", "--nonsense"] {
            let error = parse(&format!("envelopefs {mistyped}")).unwrap_err().to_string();
            assert!(error.contains("unrecognized subcommand") || error.contains("unexpected argument"), "{error}");
        }
    }

    #[test]
    fn every_option_has_help() {
        fn walk(command: &clap::Command) {
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}
