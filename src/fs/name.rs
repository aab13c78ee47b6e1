//! Plain names and stored names: section 1 of the backing format.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::{FsError, Result, posix};
use crate::crypto::aead::{VALUE_OVERHEAD, open_value, seal_value};
use crate::crypto::names::NameCipher;
use crate::crypto::secret::Secret;

/// Every name of the format's own begins with this; no stored name of a short plain name does.
const FORMAT_PREFIX: &[u8] = b".envelopefs";
/// Entry of a plain name whose encrypted form is too long for a name.
const LONG_PREFIX: &[u8] = b".envelopefs.long.";
/// Symlink beside such an entry that holds the encrypted form.
const SIDE_PREFIX: &[u8] = b".envelopefs.name.";
/// Symlink in each directory whose target is the directory's id.
pub(super) const DIR_ID: &str = ".envelopefs.dir";
/// The control directory in the root of the backing directory.
pub(super) const CONTROL_DIR: &str = crate::volume::CONTROL_DIR;

/// Longest plain name (`NAME_MAX`).
const PLAIN_MAX: usize = 255;
/// Longest plain name whose stored form fits into a name: (175 + 16) * 4 / 3 <= 255.
const SHORT_MAX: usize = 175;
/// Longest plain symlink target (`PATH_MAX` without its NUL).
const TARGET_MAX: usize = 4095;
/// Longest symlink target that the backing filesystem takes.
const STORED_TARGET_MAX: usize = 4095;
/// Length of a stored target that names a file in the control directory: `~<22 characters>~~`. Base64 text never has this
/// length, 4n + 1.
const SIDE_TARGET_LEN: usize = 25;
/// Associated data of symlink targets.
const TARGET_DOMAIN: &[u8] = b"envelopefs symlink v1";
/// Stored form of `user.*` attribute names.
const XATTR_PREFIX: &[u8] = b"user.envelopefs.";
/// Longest plain attribute name behind `user.`: its stored form has at most 255 bytes.
const XATTR_MAX: usize = 163;

/// Random id of a directory, which binds the names in it to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DirId([u8; 16]);

impl DirId {
    pub(super) fn random() -> Self {
        let mut id = [0; 16];
        crate::crypto::random(&mut id);
        DirId(id)
    }

    /// The text that the directory's symlink holds.
    pub(super) fn to_text(self) -> OsString {
        encode(&self.0)
    }

    /// Parses that text; `None` for anything else.
    pub(super) fn from_text(text: &OsStr) -> Option<Self> {
        Some(DirId(decode(text)?.try_into().ok()?))
    }
}

/// The stored form of a plain name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredName {
    /// Name of the entry.
    pub(super) entry: OsString,
    /// For a long name: the side link's target.
    pub(super) side_target: Option<OsString>,
}

/// What a stored entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decoded {
    /// An entry with this plain name.
    Plain(OsString),
    /// One of the format's own, not shown.
    Own,
    /// Not a name of this directory: changed, moved here, or foreign.
    Damaged,
}

/// Encrypts a plain name.
///
/// # Errors
/// ENAMETOOLONG beyond 255 bytes, ENOENT for an empty one.
pub(super) fn store(cipher: &NameCipher, dir: &DirId, plain: &OsStr) -> Result<StoredName> {
    match plain.len() {
        0 => return Err(posix(libc::ENOENT)),
        1..=PLAIN_MAX => {}
        _ => return Err(posix(libc::ENAMETOOLONG)),
    }
    let sealed = cipher.seal(&dir.0, plain.as_bytes());
    if plain.len() <= SHORT_MAX {
        return Ok(StoredName { entry: encode(&sealed), side_target: None });
    }
    let mut entry = LONG_PREFIX.to_vec();
    entry.extend_from_slice(encode(&Sha256::digest(&sealed)).as_bytes());
    Ok(StoredName { entry: OsString::from_vec(entry), side_target: Some(encode(&sealed)) })
}

/// Decrypts a stored name; `read_side` reads the side link of a long one.
pub(super) fn plain(
    cipher: &NameCipher,
    dir: &DirId,
    stored: &OsStr,
    read_side: impl FnOnce(&OsStr) -> std::io::Result<OsString>,
) -> Decoded {
    let opened = if let Some(side) = side_of(stored) {
        let Ok(target) = read_side(&side) else { return Decoded::Damaged };
        let Some(sealed) = decode(&target) else { return Decoded::Damaged };
        if stored.as_bytes().strip_prefix(LONG_PREFIX) != Some(encode(&Sha256::digest(&sealed)).as_bytes()) {
            return Decoded::Damaged;
        }
        cipher.open(&dir.0, &sealed).ok().filter(|plain| (SHORT_MAX + 1..=PLAIN_MAX).contains(&plain.len()))
    } else if stored.as_bytes().starts_with(FORMAT_PREFIX) {
        return Decoded::Own;
    } else {
        let Some(sealed) = decode(stored) else { return Decoded::Damaged };
        cipher.open(&dir.0, &sealed).ok().filter(|plain| (1..=SHORT_MAX).contains(&plain.len()))
    };
    // A name is what the kernel could have asked for, or it is not ours.
    match opened.filter(|p| !p.contains(&b'/') && !p.contains(&0) && p != b"." && p != b"..") {
        Some(plain) => Decoded::Plain(OsString::from_vec(plain)),
        None => Decoded::Damaged,
    }
}

/// The side link's name for the entry of a long name; `None` for any other entry.
pub(super) fn side_of(entry: &OsStr) -> Option<OsString> {
    let hash = entry.as_bytes().strip_prefix(LONG_PREFIX)?;
    Some(OsString::from_vec([SIDE_PREFIX, hash].concat()))
}

/// The entry whose side link this is; `None` for any other name.
pub(super) fn entry_of_side(name: &OsStr) -> Option<OsString> {
    let hash = name.as_bytes().strip_prefix(SIDE_PREFIX)?;
    Some(OsString::from_vec([LONG_PREFIX, hash].concat()))
}

/// A symlink's target as it is stored.
#[derive(Debug)]
pub(super) enum StoredTarget {
    /// The text of the backing symlink.
    Inline(OsString),
    /// Too long for that: the text, the name of a file in the control directory, and that file's contents.
    Side { text: OsString, file: OsString, contents: Vec<u8> },
}

/// Encrypts a symlink target.
///
/// # Errors
/// ENOENT for an empty target, ENAMETOOLONG beyond 4095 bytes (symlink(2)).
pub(super) fn store_target(key: &Secret<32>, plain: &OsStr) -> Result<StoredTarget> {
    match plain.len() {
        0 => return Err(posix(libc::ENOENT)),
        1..=TARGET_MAX => {}
        _ => return Err(posix(libc::ENAMETOOLONG)),
    }
    let contents = seal_value(key, TARGET_DOMAIN, plain.as_bytes());
    let text = encode(&contents);
    if text.len() <= STORED_TARGET_MAX {
        return Ok(StoredTarget::Inline(text));
    }
    let mut id = [0; 16];
    crate::crypto::random(&mut id);
    let file = encode(&id);
    let text = OsString::from_vec([b"~", file.as_bytes(), b"~~"].concat());
    Ok(StoredTarget::Side { text, file, contents })
}

/// Name of the file in the control directory that holds this stored target, if it is held in one.
pub(super) fn target_file(text: &OsStr) -> Option<OsString> {
    let id = text.as_bytes().strip_prefix(b"~")?.strip_suffix(b"~~")?;
    let id = OsStr::from_bytes(id);
    (decode(id)?.len() == 16).then(|| id.to_os_string())
}

/// True if a backing symlink of this length keeps its target in the control directory.
pub(super) fn is_side_target(stored_len: u64) -> bool {
    stored_len == SIDE_TARGET_LEN as u64
}

/// Plain length of an inline target from its stored length; for a side target, from the file's length.
pub(super) fn target_len(sealed_len: u64) -> u64 {
    sealed_len.saturating_sub(VALUE_OVERHEAD as u64)
}

/// Bytes that base64 text of this length stands for.
pub(super) fn text_bytes(text_len: u64) -> u64 {
    text_len * 3 / 4
}

/// Decrypts a target from the bytes that its text (or its file) stands for.
///
/// # Errors
/// [`FsError::Damaged`].
pub(super) fn open_target(key: &Secret<32>, sealed: &[u8]) -> Result<Vec<u8>> {
    open_value(key, TARGET_DOMAIN, sealed).map_err(|_| FsError::Damaged("the symlink's target fails authentication"))
}

/// The bytes of an inline stored target.
///
/// # Errors
/// [`FsError::Damaged`] if it is not base64url.
pub(super) fn inline_target(text: &OsStr) -> Result<Vec<u8>> {
    decode(text).ok_or(FsError::Damaged("the symlink's target is not base64url"))
}

/// Stored name of an attribute `user.<plain>`.
///
/// # Errors
/// ERANGE (setxattr(2): name too long) beyond 163 bytes.
pub(super) fn store_xattr(cipher: &NameCipher, plain: &[u8]) -> Result<OsString> {
    if plain.is_empty() {
        return Err(posix(libc::EINVAL));
    }
    if plain.len() > XATTR_MAX {
        return Err(posix(libc::ERANGE));
    }
    let sealed = cipher.seal(b"", plain);
    Ok(OsString::from_vec([XATTR_PREFIX, encode(&sealed).as_bytes()].concat()))
}

/// Plain name behind `user.` of a stored attribute; `None` if it is not one of ours.
pub(super) fn plain_xattr(cipher: &NameCipher, stored: &OsStr) -> Option<Vec<u8>> {
    let text = stored.as_bytes().strip_prefix(XATTR_PREFIX)?;
    cipher.open(b"", &decode(OsStr::from_bytes(text))?).ok()
}

fn encode(bytes: &[u8]) -> OsString {
    URL_SAFE_NO_PAD.encode(bytes).into()
}

/// Strict base64url: what decodes encodes to the same text, so no two stored names stand for one plain name.
fn decode(text: &OsStr) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cipher() -> NameCipher {
        NameCipher::new(Secret::random())
    }

    proptest! {
        #[test]
        fn any_name_comes_back(name in prop::collection::vec(any::<u8>().prop_filter("no / or NUL", |b| *b != b'/' && *b != 0), 1..=255)) {
            prop_assume!(name != b"." && name != b"..");
            let (cipher, dir) = (cipher(), DirId::random());
            let plain_name = OsStr::from_bytes(&name);
            let stored = store(&cipher, &dir, plain_name).unwrap();
            prop_assert!(stored.entry.len() <= 255);
            prop_assert_eq!(stored.side_target.is_some(), name.len() > SHORT_MAX);
            let read = |side: &OsStr| {
                assert_eq!(entry_of_side(side).unwrap(), stored.entry);
                Ok(stored.side_target.clone().unwrap())
            };
            prop_assert_eq!(plain(&cipher, &dir, &stored.entry, read), Decoded::Plain(plain_name.to_os_string()));
            let elsewhere = plain(&cipher, &DirId::random(), &stored.entry, |_| Ok(stored.side_target.clone().unwrap()));
            prop_assert_eq!(elsewhere, Decoded::Damaged);
        }

        #[test]
        fn any_stored_bytes_are_a_name_or_refused(stored in prop::collection::vec(any::<u8>(), 0..300), side in prop::collection::vec(any::<u8>(), 0..400)) {
            let decoded = plain(&cipher(), &DirId::random(), OsStr::from_bytes(&stored), |_| Ok(OsString::from_vec(side)));
            prop_assert!(!matches!(decoded, Decoded::Plain(_)));
        }
    }

    #[test]
    fn the_formats_own_names_are_told_apart() {
        let (cipher, dir) = (cipher(), DirId::random());
        for own in [DIR_ID, CONTROL_DIR, ".envelopefs.name.abc", ".envelopefs.anything"] {
            assert_eq!(plain(&cipher, &dir, OsStr::new(own), |_| unreachable!()), Decoded::Own);
        }
        let stored = store(&cipher, &dir, OsStr::new(DIR_ID)).unwrap();
        assert!(!stored.entry.as_bytes().starts_with(FORMAT_PREFIX), "a plain name may look like the format's own");
    }

    #[test]
    fn names_at_the_limits() {
        let (cipher, dir) = (cipher(), DirId::random());
        let name = |n: usize| OsString::from("x".repeat(n));
        assert_eq!(store(&cipher, &dir, &name(175)).unwrap().entry.len(), 255);
        assert_eq!(store(&cipher, &dir, &name(176)).unwrap().entry.len(), 17 + 43);
        assert_eq!(store(&cipher, &dir, &name(256)).unwrap_err().errno(), libc::ENAMETOOLONG);
        assert_eq!(store(&cipher, &dir, &name(0)).unwrap_err().errno(), libc::ENOENT);
    }

    #[test]
    fn targets_of_every_length() {
        let key = Secret::random();
        for len in [1, 2, 100, 3043, 3044, 4095] {
            let target = OsString::from("t".repeat(len));
            match store_target(&key, &target).unwrap() {
                StoredTarget::Inline(text) => {
                    assert!(len <= 3043 && text.len() <= 4095 && !is_side_target(text.len() as u64));
                    assert_eq!(target_len(text_bytes(text.len() as u64)), len as u64);
                    assert_eq!(open_target(&key, &inline_target(&text).unwrap()).unwrap(), target.as_bytes());
                    assert_eq!(target_file(&text), None);
                }
                StoredTarget::Side { text, file, contents } => {
                    assert!(len > 3043 && is_side_target(text.len() as u64));
                    assert_eq!(target_file(&text).unwrap(), file);
                    assert_eq!(target_len(contents.len() as u64), len as u64);
                    assert_eq!(open_target(&key, &contents).unwrap(), target.as_bytes());
                    assert!(open_target(&key, &contents[1..]).is_err());
                }
            }
        }
        assert_eq!(store_target(&key, &OsString::from("t".repeat(4096))).unwrap_err().errno(), libc::ENAMETOOLONG);
        assert_eq!(store_target(&key, OsStr::new("")).unwrap_err().errno(), libc::ENOENT);
    }

    #[test]
    fn xattr_names_at_the_limits() {
        let cipher = cipher();
        for len in [1, 50, 163] {
            let stored = store_xattr(&cipher, &vec![b'a'; len]).unwrap();
            assert!(stored.len() <= 255);
            assert_eq!(plain_xattr(&cipher, &stored).unwrap(), vec![b'a'; len]);
        }
        assert_eq!(store_xattr(&cipher, &[b'a'; 164]).unwrap_err().errno(), libc::ERANGE);
        assert_eq!(plain_xattr(&cipher, OsStr::new("user.foreign")), None);
        assert_eq!(plain_xattr(&cipher, OsStr::new("user.envelopefs.AAAA")), None);
    }

    #[test]
    fn a_directory_id_is_sixteen_bytes_of_text_and_nothing_else() {
        let id = DirId::random();
        assert_eq!(DirId::from_text(&id.to_text()), Some(id));
        for bad in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAA=", "../../../../etc/passwd"] {
            assert_eq!(DirId::from_text(OsStr::new(bad)), None);
        }
    }
}
