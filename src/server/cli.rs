//! The grammar of `envelopefs-keyserver`: one definition, from which help, man pages and completions are made.
//!
//! Parsing checks syntax; what the values mean is decided in [`server::cmd`](super::cmd).

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::config::DEFAULT_PATH;
use crate::api::{InstanceId, Tenant};

/// Gives machines the secrets that unlock their volumes, from HSMs, with a signed record of every call.
#[derive(Debug, Parser)]
#[command(
    name = "envelopefs-keyserver",
    version,
    about,
    long_about = "Gives machines the secrets that unlock their volumes.\n\n\
        Long-lived keys stay inside an HSM, which is spoken to over PKCS#11; a secret leaves it only wrapped for a caller's one-time key. \
        Callers show a certificate or a token. Every call leaves a signed record, numbered without gaps.\n\n\
        The operator's manual is contrib/keyserver/README.md.",
    after_long_help = EXIT_CODES,
    arg_required_else_help = true
)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH, global = true)]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Shown at the end of the long help, and part of what scripts may rely on; the numbers are those of [`crate::cmd::Code`].
const EXIT_CODES: &str = "\
Exit codes, with the meaning that they have for envelopefs:
  0  success
  1  any other failure, the state's database among them
  2  wrong usage, or a configuration that is not right
  3  a PIN was refused
  4  damage was found: a record, the chain of records, a stored key or a backup was changed
  5  there is one already: an installation, a tenant, a running server
  6  the state is not that of an initialised installation
  7  the state or a backup was written by a later version
  9  a token cannot be reached, refuses, or cannot do what is needed; a running server cannot be reached";

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an installation: keys in the token, the state, and the first tenant.
    Init(Init),
    /// Serve until SIGTERM or SIGINT; SIGHUP reads certificates again.
    Serve(Serve),
    /// Tell whether the running server of this host is ready, and if not, why.
    Status(Status),
    /// Add, list, show, change, disable and enable tenants.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Add, list and disable bearer tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// List, rotate, retire and destroy keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Verify and show the audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Write the state into a file, also while servers run. Keys of tokens are not in it: they are backed up by their vendor's means.
    Backup(Backup),
    /// Make the state of a backup. The state named by the configuration must be empty.
    Restore(Restore),
    /// Hand the PIN to a running server, through its admin listener.
    Pin(PinCommand),
    /// Tell what the tokens can do, and try it.
    Probe(Probe),
    /// Read the configuration and everything that it names, and tell what is wrong.
    CheckConfig(CheckConfig),
    /// Write man pages or shell completions into a directory.
    Generate(Generate),
}

/// Where the tokens' PIN is read from. Without any: hsm.pin of the configuration, else it is asked for on the terminal.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "PIN")]
pub struct PinSource {
    /// File with the PIN, which only its owner may read.
    #[arg(long, value_name = "PATH", conflicts_with = "pin_fd")]
    pub pin_file: Option<PathBuf>,
    /// Read the PIN from this open file descriptor, up to its end.
    #[arg(long, value_name = "N")]
    pub pin_fd: Option<i32>,
}

/// How output looks.
#[derive(Debug, Args)]
pub struct Output {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How a change is made and told.
#[derive(Debug, Args)]
pub struct Change {
    /// Tell what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs-keyserver init`
#[derive(Debug, Args)]
pub struct Init {
    /// The first tenant.
    #[arg(long, value_name = "ID")]
    pub tenant: Tenant,
    /// Account id of the first tenant, which its audit records carry.
    #[arg(long, value_name = "ID")]
    pub account_id: AccountId,
    /// What the first tenant allows.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Where to write the public signing key, which clients pin, as PEM; it must not exist yet.
    #[arg(long, value_name = "PATH")]
    pub signing_key: PathBuf,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// `envelopefs-keyserver serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// File with the PIN, which only its owner may read. Without any, hsm.pin of the configuration; without that too, calls are refused
    /// until the PIN is handed in: envelopefs-keyserver pin.
    #[arg(long, value_name = "PATH", conflicts_with = "pin_fd")]
    pub pin_file: Option<PathBuf>,
    /// Read the PIN from this open file descriptor, up to its end.
    #[arg(long, value_name = "N")]
    pub pin_fd: Option<i32>,
}

/// `envelopefs-keyserver status`
#[derive(Debug, Args)]
pub struct Status {
    /// Wait so long for it to become ready: 30s, 5m.
    #[arg(long, value_name = "TIME")]
    pub wait: Option<Lifetime>,
    /// JSON.
    #[command(flatten)]
    pub output: Output,
}

/// `envelopefs-keyserver tenant`
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Add a tenant, and make its customer key.
    Add(TenantAdd),
    /// List the tenants.
    List(Output),
    /// Show a tenant and its policy.
    Show(TenantShow),
    /// Change what a tenant allows. What is not named stays.
    Set(TenantSet),
    /// Refuse a tenant's calls from now on, on open connections too.
    Disable(TenantSwitch),
    /// Answer a tenant's calls again.
    Enable(TenantSwitch),
}

/// `envelopefs-keyserver tenant add`
#[derive(Debug, Args)]
pub struct TenantAdd {
    /// The tenant: 1 to 64 lower-case letters, digits and hyphens. It cannot be changed later.
    pub tenant: Tenant,
    /// Its account id, which its audit records carry: 1 to 64 lower-case letters, digits and hyphens.
    #[arg(long, value_name = "ID")]
    pub account_id: AccountId,
    /// What it allows.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// `envelopefs-keyserver tenant show`
#[derive(Debug, Args)]
pub struct TenantShow {
    /// The tenant.
    pub tenant: Tenant,
    /// JSON.
    #[command(flatten)]
    pub output: Output,
}

/// `envelopefs-keyserver tenant set`
#[derive(Debug, Args)]
pub struct TenantSet {
    /// The tenant.
    pub tenant: Tenant,
    /// What it allows from now on.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The PIN, with which the change's audit record is signed.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// `envelopefs-keyserver tenant disable` and `enable`
#[derive(Debug, Args)]
pub struct TenantSwitch {
    /// The tenant.
    pub tenant: Tenant,
    /// The PIN, with which the change's audit record is signed.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// What a tenant allows, as options.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Policy")]
pub struct PolicyArgs {
    /// The whole policy, as a JSON file; the other options then change what it says.
    #[arg(long, value_name = "PATH")]
    pub policy: Option<PathBuf>,
    /// PEM file with the CA whose certificates the tenant's instances show.
    #[arg(long, value_name = "PATH")]
    pub ca: Option<PathBuf>,
    /// PEM file with that CA's revocation lists.
    #[arg(long, value_name = "PATH")]
    pub crl: Option<PathBuf>,
    /// Let instances show bearer tokens (envelopefs-keyserver token add).
    #[arg(long)]
    pub tokens: bool,
    /// Believe configured gateways which instance calls.
    #[arg(long)]
    pub gateway: bool,
    /// Take whoever calls from this network for this instance. Weak: for tests on one machine.
    #[arg(long, value_name = "INSTANCE=CIDR")]
    pub insecure_address: Vec<AddressRule>,
    /// Who may take over another instance's secrets (convert): off (default), any, or the instances that may be taken over, comma-separated.
    #[arg(long, value_name = "off|any|INSTANCES")]
    pub convert: Option<Convert>,
    /// Requests a second (default: limits.tenant_requests_per_second of the configuration).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub requests_per_second: Option<u32>,
    /// Requests that may come at once after a pause (default: limits.tenant_burst of the configuration).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub burst: Option<u32>,
    /// What attestation reports must show, as a JSON file; "none" demands no reports any more.
    #[arg(long, value_name = "PATH")]
    pub attestation: Option<PathBuf>,
}

/// An account id: 1 to 64 lower-case letters, digits and hyphens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountId(pub String);

impl FromStr for AccountId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text.parse::<Tenant>() {
            Ok(_) => Ok(AccountId(text.to_owned())),
            Err(_) => Err("an account id has 1 to 64 lower-case letters, digits and hyphens"),
        }
    }
}

/// `INSTANCE=CIDR`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRule {
    /// Whom callers are taken for.
    pub instance: InstanceId,
    /// Where they call from.
    pub network: IpNet,
}

impl FromStr for AddressRule {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "write INSTANCE=NETWORK, i-1=127.0.0.0/8 say";
        let (instance, network) = text.split_once('=').ok_or(EXPECTED)?;
        let network = match network.parse::<IpNet>() {
            Ok(network) => network,
            Err(_) => network.parse::<std::net::IpAddr>().map_err(|_| EXPECTED)?.into(),
        };
        Ok(AddressRule { instance: instance.parse().map_err(|_| EXPECTED)?, network })
    }
}

/// Who may be taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Convert {
    /// Nobody.
    Off,
    /// Every instance of the tenant.
    Any,
    /// These.
    From(Vec<InstanceId>),
}

impl FromStr for Convert {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "off" => Ok(Convert::Off),
            "any" => Ok(Convert::Any),
            list => {
                let instances = list.split(',').map(str::parse).collect::<Result<_, _>>();
                instances.map(Convert::From).map_err(|_| "write off, any, or instance ids with commas between")
            }
        }
    }
}

/// `envelopefs-keyserver token`
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a bearer token and write it into a new file. The server keeps a hash of it, and nobody can read it again.
    Add(TokenAdd),
    /// List a tenant's tokens, by their ids.
    List(TokenList),
    /// Refuse a token from now on.
    Disable(TokenDisable),
}

/// `envelopefs-keyserver token add`
#[derive(Debug, Args)]
pub struct TokenAdd {
    /// The tenant, whose policy must allow tokens.
    pub tenant: Tenant,
    /// Instances that the bearer may be.
    #[arg(long, value_name = "ID", required = true)]
    pub instance: Vec<InstanceId>,
    /// How long it is good for: 90d, 12h.
    #[arg(long, value_name = "TIME", default_value = "90d")]
    pub expires_in: Lifetime,
    /// Where to write it; the file must not exist yet, and gets mode 600.
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// The PIN, with which the audit record is signed.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// A time from a second to ten years, as `90d`, `12h`, `30m` or `10s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(pub jiff::SignedDuration);

impl FromStr for Lifetime {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const EXPECTED: &str = "a time from 1s to 3650d, as 90d, 12h, 30m or 10s";
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(EXPECTED)?;
        let seconds = match unit {
            "d" => 86_400,
            "h" => 3_600,
            "m" => 60,
            "s" => 1,
            _ => return Err(EXPECTED),
        };
        let number: i64 = number.parse().map_err(|_| EXPECTED)?;
        let seconds = number.checked_mul(seconds).filter(|all| (1..=3650 * 86_400).contains(all)).ok_or(EXPECTED)?;
        Ok(Lifetime(jiff::SignedDuration::from_secs(seconds)))
    }
}

/// `envelopefs-keyserver token list`
#[derive(Debug, Args)]
pub struct TokenList {
    /// The tenant.
    pub tenant: Tenant,
    /// JSON.
    #[command(flatten)]
    pub output: Output,
}

/// `envelopefs-keyserver token disable`
#[derive(Debug, Args)]
pub struct TokenDisable {
    /// The tenant.
    pub tenant: Tenant,
    /// The token's id, as `token list` tells it.
    pub id: String,
    /// The PIN, with which the audit record is signed.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// `envelopefs-keyserver key`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List domain keys, signing keys and customer keys.
    List(Output),
    /// Make a new key of a kind and use it from now on.
    #[command(subcommand)]
    Rotate(RotateCommand),
    /// Stop using an old key.
    #[command(subcommand)]
    Retire(RetireCommand),
    /// Destroy a retired domain or signing key in the tokens, for good. Of a signing key only the private half: it goes on verifying.
    Destroy(KeyDestroy),
}

/// `envelopefs-keyserver key rotate`
#[derive(Debug, Subcommand)]
pub enum RotateCommand {
    /// A new domain key, under which every customer key is wrapped anew. Clients notice nothing. May be run again after an interruption.
    Domain(Rotate),
    /// A new version of a tenant's customer key, which seals from now on. Old blobs open until the old version is retired.
    Customer(RotateCustomer),
    /// A new signing key, signed by the old one. Clients that pin the old key refuse every answer until they pin the new one.
    Signing(RotateSigning),
}

/// `envelopefs-keyserver key rotate domain`
#[derive(Debug, Args)]
pub struct Rotate {
    /// The PIN.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// `envelopefs-keyserver key rotate customer`
#[derive(Debug, Args)]
pub struct RotateCustomer {
    /// The tenant.
    pub tenant: Tenant,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// `envelopefs-keyserver key rotate signing`
#[derive(Debug, Args)]
pub struct RotateSigning {
    /// Where to write the new public signing key, as PEM; it must not exist yet.
    #[arg(long, value_name = "PATH")]
    pub signing_key: PathBuf,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// `envelopefs-keyserver key retire`
#[derive(Debug, Subcommand)]
pub enum RetireCommand {
    /// An old version of a tenant's customer key: what was sealed under it opens never again, and its wrapped form is erased.
    Customer(RetireCustomer),
}

/// `envelopefs-keyserver key retire customer`
#[derive(Debug, Args)]
pub struct RetireCustomer {
    /// The tenant.
    pub tenant: Tenant,
    /// The version, as `key list` tells it.
    pub version: u32,
    /// Say that blobs of this version may become useless.
    #[arg(long, required_unless_present = "dry_run")]
    pub yes: bool,
    /// The PIN, with which the audit record is signed.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// `envelopefs-keyserver key destroy`
#[derive(Debug, Args)]
pub struct KeyDestroy {
    /// The key's id, as `key list` tells it.
    pub id: String,
    /// Say that it cannot be brought back.
    #[arg(long, required_unless_present = "dry_run")]
    pub yes: bool,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinSource,
    /// Dry run, JSON.
    #[command(flatten)]
    pub change: Change,
}

/// `envelopefs-keyserver audit`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Verify signatures, numbers and the chain of records, and name the first fault.
    Verify(AuditVerify),
    /// Show records, for people.
    Tail(AuditTail),
}

/// `envelopefs-keyserver audit verify`
#[derive(Debug, Args)]
pub struct AuditVerify {
    /// A directory of records, with a slash in its path, or the name of a sink of the configuration. Default: the database of the configuration.
    pub source: Option<String>,
    /// PEM file with the signing keys to believe; may be given several times. The copy that was made at init, not the server's word, is evidence.
    #[arg(long, value_name = "PATH", required = true)]
    pub key: Vec<PathBuf>,
    /// This tenant's records alone. Default: all.
    #[arg(long, value_name = "ID")]
    pub tenant: Option<Tenant>,
    /// Records after the last signed head that are older than this are a fault: 2h. For a server that runs; give more than its audit.head_time.
    #[arg(long, value_name = "TIME")]
    pub max_age: Option<Lifetime>,
    /// JSON.
    #[command(flatten)]
    pub output: Output,
}

/// `envelopefs-keyserver audit tail`
#[derive(Debug, Args)]
pub struct AuditTail {
    /// This tenant's records. Default: all.
    #[arg(long, value_name = "ID")]
    pub tenant: Option<Tenant>,
    /// How many of the last records.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub lines: u32,
    /// Go on with new records until interrupted.
    #[arg(short, long)]
    pub follow: bool,
    /// Print the records themselves, one a line.
    #[arg(long)]
    pub json: bool,
}

/// `envelopefs-keyserver backup`
#[derive(Debug, Args)]
pub struct Backup {
    /// The file to write; it must not exist yet, and gets mode 600.
    pub file: PathBuf,
    /// JSON.
    #[command(flatten)]
    pub output: Output,
}

/// `envelopefs-keyserver restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// The file that backup wrote.
    pub file: PathBuf,
    /// The audit log goes on where the backup ends: servers were stopped before the backup, and have not run since.
    #[arg(long, required_unless_present_any = ["after", "above"], conflicts_with_all = ["after", "above"])]
    pub stopped: bool,
    /// Bring in the records that are newer than the backup from these copies: a directory, with a slash in its path, or the name of a sink of the
    /// configuration. They are verified.
    #[arg(long, value_name = "SOURCE", requires = "key", conflicts_with = "above")]
    pub after: Vec<String>,
    /// PEM file with the signing keys to believe in copies; may be given several times.
    #[arg(long, value_name = "PATH")]
    pub key: Vec<PathBuf>,
    /// Nobody knows what was recorded after the backup, but no log went beyond this number: go on above it. Verification names the gap.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    pub above: Option<u64>,
    /// JSON.
    #[command(flatten)]
    pub output: Output,
}

/// `envelopefs-keyserver pin`
#[derive(Debug, Args)]
pub struct PinCommand {
    /// File with the PIN, which only its owner may read. Without any, the PIN is asked for on the terminal.
    #[arg(long, value_name = "PATH", conflicts_with = "pin_fd")]
    pub pin_file: Option<PathBuf>,
    /// Read the PIN from this open file descriptor, up to its end.
    #[arg(long, value_name = "N")]
    pub pin_fd: Option<i32>,
    /// Try although a PIN was refused before: each wrong one brings the token nearer to locking itself.
    #[arg(long)]
    pub force: bool,
}

/// `envelopefs-keyserver probe`
#[derive(Debug, Args)]
pub struct Probe {
    /// The PIN.
    #[command(flatten)]
    pub pin: PinSource,
    /// JSON.
    #[command(flatten)]
    pub output: Output,
}

/// `envelopefs-keyserver check-config`
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// JSON.
    #[command(flatten)]
    pub output: Output,
}

/// `envelopefs-keyserver generate`
#[derive(Debug, Args)]
pub struct Generate {
    /// What to write.
    pub what: Generated,
    /// The directory to write into; made if it is missing.
    pub directory: PathBuf,
}

/// What is made from the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// Manual pages, one a verb.
    Man,
    /// Completions for bash, zsh and fish.
    Completions,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_and_option_is_explained() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} is not explained", command.get_name());
            for argument in
                command.get_arguments().filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
            {
                assert!(argument.get_help().is_some(), "{} {} is not explained", command.get_name(), argument.get_id());
            }
            command.get_subcommands().filter(|verb| verb.get_name() != "help").for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn no_option_takes_a_secret() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id().as_str();
                assert!(!["pin", "password", "secret", "bearer"].contains(&name), "{} {name}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn values_are_parsed_strictly() {
        assert_eq!("90d".parse::<Lifetime>().unwrap().0.as_hours(), 90 * 24);
        for bad in ["", "d", "90", "0m", "-1d", "9999d", "1w", "1é", "99999999999999999999d"] {
            assert!(bad.parse::<Lifetime>().is_err(), "{bad}");
        }
        assert_eq!("any".parse(), Ok(Convert::Any));
        assert!(matches!("i-1,i-2".parse(), Ok(Convert::From(list)) if list.len() == 2));
        for bad in ["", "i-1,", "a b"] {
            assert!(bad.parse::<Convert>().is_err(), "{bad}");
        }
        assert_eq!("i-1=127.0.0.1".parse::<AddressRule>().unwrap().network.prefix_len(), 32);
        for bad in ["i-1", "=127.0.0.1", "i-1=", "i-1=127.0.0.0/40"] {
            assert!(bad.parse::<AddressRule>().is_err(), "{bad}");
        }
        assert!("Acme".parse::<AccountId>().is_err());
    }
}
