//! Extended attributes: `user.*` encrypted, what kernel and backing filesystem interpret passed through.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::inode::{DefaultAcl, Inode};
use super::namespace::DEFAULT_ACL;
use super::{Caller, Fs, FsError, Ino, Kind, Result, Spot, XattrHow, name, posix};
use crate::crypto::aead::{open_value, seal_value};

/// Namespace of attributes that belong to programs (xattr(7)).
const USER: &[u8] = b"user.";
const ACCESS_ACL: &str = "system.posix_acl_access";
/// File capabilities (capabilities(7)).
const CAPABILITY: &str = "security.capability";

/// What becomes of an attribute.
enum Namespace<'a> {
    /// `user.`: this is the name behind it.
    Encrypted(&'a [u8]),
    /// Interpreted below us.
    PassedThrough,
}

fn namespace(attr: &OsStr) -> Result<Namespace<'_>> {
    let bytes = attr.as_bytes();
    if let Some(plain) = bytes.strip_prefix(USER) {
        return Ok(Namespace::Encrypted(plain));
    }
    if bytes.starts_with(b"security.") || bytes.starts_with(b"trusted.") || attr == ACCESS_ACL || attr == DEFAULT_ACL {
        return Ok(Namespace::PassedThrough);
    }
    Err(posix(libc::EOPNOTSUPP))
}

impl Spot {
    fn get_xattr(&self, attr: &OsStr) -> std::io::Result<Vec<u8>> {
        match self {
            Spot::At(dir, name) => dir.get_xattr(name, attr),
            Spot::Held(file) => file.get_xattr(attr),
        }
    }

    fn set_xattr(&self, attr: &OsStr, value: &[u8], how: XattrHow) -> std::io::Result<()> {
        match self {
            Spot::At(dir, name) => dir.set_xattr(name, attr, value, how),
            Spot::Held(file) => file.set_xattr(attr, value, how),
        }
    }

    fn list_xattrs(&self) -> std::io::Result<Vec<OsString>> {
        match self {
            Spot::At(dir, name) => dir.list_xattrs(name),
            Spot::Held(file) => file.list_xattrs(),
        }
    }

    fn remove_xattr(&self, attr: &OsStr) -> std::io::Result<()> {
        match self {
            Spot::At(dir, name) => dir.remove_xattr(name, attr),
            Spot::Held(file) => file.remove_xattr(attr),
        }
    }
}

impl Fs {
    /// The value of an attribute.
    ///
    /// # Errors
    /// ENODATA if there is none; EOPNOTSUPP for a namespace not served; EIO if a value is not what was stored.
    pub fn getxattr(&self, ino: Ino, attr: &OsStr) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        match namespace(attr)? {
            Namespace::PassedThrough if attr == CAPABILITY && inode.without_capability() => Err(posix(libc::ENODATA)),
            Namespace::PassedThrough => self.at_held(&inode, |spot| spot.get_xattr(attr)),
            Namespace::Encrypted(plain) => {
                // No stored name can be that long: there is none.
                let stored = name::store_xattr(self.ring.xattr_names(), plain).map_err(|_| posix(libc::ENODATA))?;
                let sealed = self.at_held(&inode, |spot| spot.get_xattr(&stored))?;
                open_value(self.ring.xattr_value_key(), plain, &sealed)
                    .map_err(|_| FsError::Damaged("an extended attribute fails authentication"))
            }
        }
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// Those of setxattr(2).
    pub fn setxattr(&self, caller: &Caller, ino: Ino, attr: &OsStr, value: &[u8], how: XattrHow) -> Result<()> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        match namespace(attr)? {
            Namespace::PassedThrough => {
                if attr == CAPABILITY {
                    inode.set_without_capability(false);
                }
                self.spot(&inode)?.set_xattr(attr, value, how)?;
                self.attributes_changed(&inode);
                self.acl_changed(&inode, attr);
                if attr == ACCESS_ACL {
                    self.clear_sgid_of_foreign_group(caller, &inode)?;
                }
                Ok(())
            }
            Namespace::Encrypted(plain) => {
                check_user_attributes(&inode)?;
                let stored = name::store_xattr(self.ring.xattr_names(), plain)?;
                let sealed = seal_value(self.ring.xattr_value_key(), plain, value);
                self.spot(&inode)?.set_xattr(&stored, &sealed, how)?;
                self.attributes_changed(&inode);
                Ok(())
            }
        }
    }

    /// Names of all attributes.
    ///
    /// # Errors
    /// Those of listxattr(2).
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<OsString>> {
        let inode = self.inode(ino)?;
        let stored = self.at_held(&inode, Spot::list_xattrs)?;
        Ok(stored
            .into_iter()
            .filter_map(|attr| {
                if !attr.as_bytes().starts_with(USER) {
                    return namespace(&attr).is_ok().then_some(attr);
                }
                let plain = name::plain_xattr(self.ring.xattr_names(), &attr)?;
                Some(OsString::from_vec([USER, &plain].concat()))
            })
            .collect())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// ENODATA if there is none.
    pub fn removexattr(&self, ino: Ino, attr: &OsStr) -> Result<()> {
        self.check_writable()?;
        let inode = self.inode(ino)?;
        match namespace(attr)? {
            Namespace::PassedThrough => {
                self.spot(&inode)?.remove_xattr(attr)?;
                self.attributes_changed(&inode);
                self.acl_changed(&inode, attr);
                Ok(())
            }
            Namespace::Encrypted(plain) => {
                check_user_attributes(&inode)?;
                let stored = name::store_xattr(self.ring.xattr_names(), plain).map_err(|_| posix(libc::ENODATA))?;
                self.spot(&inode)?.remove_xattr(&stored)?;
                self.attributes_changed(&inode);
                Ok(())
            }
        }
    }

    /// Reads from an inode while others may rename it: the kernel locks an inode against that only to change its attributes. So
    /// what a name leads to is held, and then looked at.
    fn at_held<T>(&self, inode: &Inode, read: impl Fn(&Spot) -> std::io::Result<T>) -> Result<T> {
        let outcome = self.at_own_name(inode, || {
            let spot = match self.spot(inode)? {
                Spot::At(dir, entry) if inode.ino != Ino::ROOT => {
                    let held = dir.pin(&entry)?;
                    if self.ino_of(held.stat()?.ino) != inode.ino {
                        return Ok(None);
                    }
                    Spot::Held(held)
                }
                spot => spot,
            };
            Ok(Some(read(&spot)))
        })?;
        Ok(outcome?)
    }

    fn acl_changed(&self, inode: &Inode, attr: &OsStr) {
        if attr == DEFAULT_ACL {
            inode.set_default_acl(DefaultAcl::Unknown);
        }
    }

    /// An ACL set by somebody outside the file's group clears sgid, as `chmod` would (acl(5), chmod(2)); the kernel leaves
    /// that to us, since the daemon that sets the attribute is privileged.
    fn clear_sgid_of_foreign_group(&self, caller: &Caller, inode: &Inode) -> Result<()> {
        if caller.uid == 0 {
            return Ok(());
        }
        let spot = self.spot(inode)?;
        let stat = spot.stat()?;
        if stat.mode & libc::S_ISGID != 0 && !is_member(caller, stat.gid) {
            spot.set_mode(stat.mode & !libc::S_ISGID)?;
        }
        Ok(())
    }
}

/// `user.*` attributes exist on files and directories only (xattr(7)).
fn check_user_attributes(inode: &Inode) -> Result<()> {
    match inode.kind {
        Kind::File | Kind::Dir => Ok(()),
        _ => Err(posix(libc::EPERM)),
    }
}

/// True if the caller is in a group: its own or a supplementary one (proc(5), `Groups:`). If that cannot be read, not.
fn is_member(caller: &Caller, gid: u32) -> bool {
    if caller.gid == gid {
        return true;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{}/status", caller.pid)) else { return false };
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_ascii_whitespace().any(|group| group.parse() == Ok(gid))
}
