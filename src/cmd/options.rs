//! The `-o` options of a mount: those of mount(8) and our own.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use super::{Code, Failure, Result};
use crate::cli::Mount;
use crate::fuse::session::SessionOptions;
use crate::store::{JOURNAL_MAX, JOURNAL_MIN};

/// What the options of a mount come to.
pub(super) struct MountOptions {
    pub(super) session: SessionOptions,
    pub(super) non_empty: bool,
    pub(super) key_file: Vec<PathBuf>,
    pub(super) passphrase_file: Vec<PathBuf>,
    pub(super) provider: Vec<String>,
    pub(super) volume_id: Option<Uuid>,
    pub(super) log_file: Option<PathBuf>,
    /// Bytes of the journal.
    pub(super) journal_len: Option<u64>,
    /// How often the key slot must open again.
    pub(super) lease: Option<Duration>,
}

/// Options of mount(8) and systemd that mean nothing to a mounted filesystem, or what is done anyway.
const IGNORED: &[&[u8]] = &[
    b"rw",
    b"default_permissions",
    b"exec",
    b"nosuid",
    b"nodev",
    b"atime",
    b"relatime",
    b"norelatime",
    b"strictatime",
    b"diratime",
    b"async",
    b"auto",
    b"noauto",
    b"user",
    b"nouser",
    b"users",
    b"owner",
    b"group",
    b"nofail",
    b"_netdev",
    b"defaults",
    b"mand",
    b"nomand",
    b"silent",
    b"loud",
];

/// Reads the options in order: of two that contradict each other, the later one counts.
pub(super) fn parse(args: &Mount) -> Result<MountOptions> {
    let mut parsed = MountOptions {
        session: SessionOptions::default(),
        non_empty: false,
        key_file: args.credentials.key_file.clone(),
        passphrase_file: args.credentials.passphrase_file.clone(),
        provider: args.credentials.provider.clone(),
        volume_id: args.volume_id,
        log_file: args.log_file.clone(),
        journal_len: None,
        lease: args.lease.map(|seconds| Duration::from_secs(seconds.into())),
    };
    for option in args.options.iter().filter(|option| !option.is_empty()) {
        parsed.take(option)?;
    }
    Ok(parsed)
}

impl MountOptions {
    fn take(&mut self, option: &OsStr) -> Result<()> {
        let bytes = option.as_bytes();
        let session = &mut self.session;
        if let Some(at) = bytes.iter().position(|&byte| byte == b'=') {
            let (name, value) = (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default());
            return self.take_value(option, name, OsStr::from_bytes(value));
        }
        match bytes {
            b"ro" => session.read_only = true,
            b"rw" => session.read_only = false,
            b"allow_other" => session.allow_other = true,
            b"allow_root" => session.allow_root = true,
            b"suid" => session.suid = true,
            b"nosuid" => session.suid = false,
            b"dev" => session.dev = true,
            b"nodev" => session.dev = false,
            b"exec" => session.no_exec = false,
            b"noexec" => session.no_exec = true,
            b"noatime" => session.no_atime = true,
            b"atime" | b"relatime" => session.no_atime = false,
            b"sync" => session.sync = true,
            b"async" => session.sync = false,
            b"dirsync" => session.dir_sync = true,
            b"nonempty" => self.non_empty = true,
            known if IGNORED.contains(&known) => {}
            extra if extra.starts_with(b"x-") || extra.starts_with(b"X-") || extra.starts_with(b"comment") => {}
            _ => return Err(unknown(option)),
        }
        Ok(())
    }

    fn take_value(&mut self, option: &OsStr, name: &[u8], value: &OsStr) -> Result<()> {
        let text = value.to_str().unwrap_or_default();
        let bad = |expected: &str| {
            let fact = format!("the mount option {:?} does not have {expected} as its value", option.to_string_lossy());
            Failure::new(Code::Usage, fact)
        };
        match name {
            b"key_file" => self.key_file.push(path(value)),
            b"passphrase_file" => self.passphrase_file.push(path(value)),
            b"provider" => self.provider.push(value.to_str().ok_or_else(|| bad("text"))?.into()),
            b"log_file" => self.log_file = Some(path(value)),
            b"volume_id" => self.volume_id = Some(text.parse().map_err(|_| bad("a UUID"))?),
            b"journal_size" => {
                let possible = JOURNAL_MIN >> 20..=JOURNAL_MAX >> 20;
                let mib = text.parse().ok().filter(|mib| possible.contains(mib));
                let expected = format!("a number of MiB from {} to {}", possible.start(), possible.end());
                self.journal_len = Some(mib.ok_or_else(|| bad(&expected))? << 20);
            }
            b"lease" => {
                let seconds = text.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
                self.lease = Some(Duration::from_secs(seconds.ok_or_else(|| bad("a number of seconds up to 86400"))?));
            }
            b"threads" => {
                let threads = text.parse().ok().filter(|n| (1..=64).contains(n));
                self.session.threads = threads.ok_or_else(|| bad("a number from 1 to 64"))?;
            }
            b"busy_poll" => {
                let micros = text.parse().ok().filter(|micros| *micros <= 1000);
                let expected = "a number of microseconds up to 1000, 0 for none,";
                self.session.busy_poll = Some(Duration::from_micros(micros.ok_or_else(|| bad(expected))?));
            }
            extra if extra.starts_with(b"x-") || extra.starts_with(b"X-") || extra == b"comment" => {}
            _ => return Err(unknown(option)),
        }
        Ok(())
    }
}

fn path(value: &OsStr) -> PathBuf {
    OsString::from_vec(value.as_bytes().to_vec()).into()
}

/// Shows the name alone: the value may be a secret that somebody took for one of our options.
fn unknown(option: &OsStr) -> Failure {
    let text = option.to_string_lossy();
    let name = text.split('=').next().unwrap_or_default();
    Failure::new(Code::Usage, format!("unknown mount option {name:?}"))
        .remedy("envelopefs mount --help lists the options")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, with_verb};
    use clap::Parser;

    fn parsed(options: &str) -> Result<MountOptions> {
        let line = ["envelopefs", "/b", "/m", "-o", options].map(OsString::from);
        let Command::Mount(args) = Cli::try_parse_from(with_verb(line)).unwrap().command else { panic!() };
        parse(&args)
    }

    #[test]
    fn the_later_of_two_options_counts() {
        let options = parsed("ro,rw,suid,nosuid,dev,noexec").unwrap().session;
        assert!(!options.read_only && !options.suid && options.dev && options.no_exec);
        let options = parsed("rw,dev,suid,key_file=/etc/a=b,x-systemd.requires=x,_netdev").unwrap();
        assert!(options.session.dev && options.session.suid);
        assert_eq!(options.key_file, [PathBuf::from("/etc/a=b")]);
    }

    #[test]
    fn the_defaults_are_safe() {
        let options = parsed("").unwrap().session;
        assert!(!options.suid && !options.dev && !options.allow_other && !options.allow_root);
    }

    #[test]
    fn what_is_not_known_or_not_meant_is_refused() {
        for bad in [
            "nonsense",
            "allow_others",
            "threads=0",
            "threads=x",
            "busy_poll=1001",
            "busy_poll=-1",
            "volume_id=1",
            "lease=0",
            "journal_size=3",
            "journal_size=9999999",
        ] {
            let failure = parsed(bad).err().expect(bad);
            assert_eq!(failure.code, Code::Usage);
            assert!(failure.fact.contains(bad), "{failure}");
        }
        let failure = parsed("passphrase=secret").err().unwrap();
        assert!(failure.fact.contains("passphrase") && !failure.to_string().contains("secret"), "{failure}");
    }
}
