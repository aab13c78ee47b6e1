//! Files that hold a credential for a provider: a token, a client key, a PIN. They are read as key files are: regular, bounded, and nobody
//! but their owner and root may have rights to them, unless something else than their user puts them there.

use std::io::Read;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use zeroize::Zeroizing;

use super::ProviderError;

/// Who may have rights to such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Its owner alone, who is this user or root.
    Owner,
    /// Everybody may read it; only its owner may change it, for what it says is believed: authorities, a pinned key.
    Believed,
    /// Whoever was given them by what makes the file: tokens that Kubernetes projects into a container are readable by all in it.
    AsMounted,
}

/// Reads a file of at most `max` bytes. `what` names it to people: "token file".
///
/// # Errors
/// [`ProviderError::Setup`].
pub(crate) fn read(what: &str, path: &Path, max: usize, access: Access) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
    let shown = path.display();
    let setup = |fact: String, remedy| ProviderError::Setup { fact, remedy, source: None };
    let io = |error: std::io::Error| ProviderError::Setup {
        fact: format!("cannot read the {what} {shown}"),
        remedy: "check its path and its owner",
        source: Some(error.into()),
    };
    // NONBLOCK: a FIFO in its place must not hang the command.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| io(errno.into()))?;
    let stat = rustix::fs::fstat(&fd).map_err(|errno| io(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(setup(format!("the {what} {shown} is not a regular file"), "name the file itself"));
    }
    if access == Access::Owner {
        let (mode, user) = (stat.st_mode & 0o7777, rustix::process::geteuid().as_raw());
        if mode & 0o077 != 0 {
            let fact = format!("the {what} {shown} can be used by others than its owner (mode {mode:04o})");
            return Err(setup(fact, "if nobody else can have read it, take their rights away: chmod 600"));
        }
        if stat.st_uid != user && stat.st_uid != 0 {
            let owner = stat.st_uid;
            let fact = format!("the {what} {shown} belongs to user {owner}, who is neither you (user {user}) nor root");
            return Err(setup(fact, "make a copy of your own with mode 600"));
        }
    }
    if access == Access::Believed && stat.st_mode & 0o022 != 0 {
        let fact =
            format!("the {what} {shown} can be changed by others than its owner (mode {:04o})", stat.st_mode & 0o7777);
        return Err(setup(fact, "see that it is the right one, and take their write permission away: chmod go-w"));
    }
    // One more than may be there; filled in place, so that no smaller buffer with a part of it is left behind.
    let mut bytes = Zeroizing::new(vec![0; max.saturating_add(1)]);
    let (mut file, mut len) = (std::fs::File::from(fd), 0);
    while let Some(rest) = bytes.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io(error)),
        }
    }
    if len > max {
        return Err(setup(format!("the {what} {shown} has more than {max} bytes"), "name the right file"));
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Reads a file that holds one line of visible ASCII, as tokens and identifiers are; white space around it is not part of it.
///
/// # Errors
/// [`ProviderError::Setup`].
pub(crate) fn read_word(what: &str, path: &Path, access: Access) -> Result<Zeroizing<String>, ProviderError> {
    const MAX: usize = 16 << 10;
    let bytes = read(what, path, MAX, access)?;
    let word = bytes.trim_ascii();
    if word.is_empty() || !word.iter().all(u8::is_ascii_graphic) {
        return Err(ProviderError::Setup {
            fact: format!("the {what} {} does not hold one line of visible ASCII characters", path.display()),
            remedy: "put the bare value into it, without quotes or other lines",
            source: None,
        });
    }
    Ok(Zeroizing::new(word.iter().map(|&byte| char::from(byte)).collect()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(mode: u32, bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn word(mode: u32, bytes: &[u8], access: Access) -> Result<String, String> {
        let read = read_word("token file", file(mode, bytes).path(), access);
        read.map(|word| word.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_line_is_read_without_what_is_around_it() {
        assert_eq!(word(0o600, b"hvs.abc\n", Access::Owner).unwrap(), "hvs.abc");
        assert_eq!(word(0o644, b" abc\r\n", Access::AsMounted).unwrap(), "abc");
        for bad in [&b""[..], b"\n", b"two words", b"two\nlines", b"\xffabc", b"a\0", &[b'x'; 20_000]] {
            assert!(word(0o600, bad, Access::Owner).is_err());
        }
    }

    #[test]
    fn a_file_that_others_could_use_or_that_is_none_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o601] {
            assert!(word(mode, b"x", Access::Owner).unwrap_err().contains("can be used by others"));
        }
        if rustix::process::geteuid().is_root() {
            let foreign = file(0o600, b"x");
            std::os::unix::fs::chown(foreign.path(), Some(12345), None).unwrap();
            let error = read_word("token file", foreign.path(), Access::Owner).unwrap_err();
            assert!(error.to_string().contains("12345"), "{error}");
            read_word("token file", foreign.path(), Access::AsMounted).unwrap();
        }
        for (mode, right) in [(0o644, true), (0o444, true), (0o664, false), (0o646, false)] {
            let read = word(mode, b"x", Access::Believed);
            assert!(
                read.is_ok() == right && !read.is_err_and(|error| !error.contains("changed by others")),
                "{mode:o}"
            );
        }
        for path in ["/dev/zero", "/", "/nonexistent"] {
            assert!(matches!(read("file", Path::new(path), 9, Access::Owner), Err(ProviderError::Setup { .. })));
        }
    }
}
