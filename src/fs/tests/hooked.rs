//! A backing directory that calls the test before each call: to make it fail, or to do something in between, as another thread would.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use crate::store::{
    Access, BackingDir, BackingFile, DirEntry, DirStream, RenameHow, SetTime, Stat, VolumeStat, XattrHow,
};

/// Hears of each call: its name and the entry it is about (the directory's own, for calls about the directory). An error becomes
/// the call's.
pub(super) type Hook = dyn Fn(&'static str, &OsStr) -> io::Result<()> + Send + Sync;

#[derive(Clone)]
pub(super) struct Hooked {
    real: Arc<dyn BackingDir>,
    /// The entry it was opened as.
    own: OsString,
    hook: Arc<Hook>,
}

impl Hooked {
    pub(super) fn root(real: Arc<dyn BackingDir>, hook: Arc<Hook>) -> Arc<dyn BackingDir> {
        Arc::new(Hooked { real, own: ".".into(), hook })
    }

    fn peer(dir: &dyn BackingDir) -> &dyn BackingDir {
        &*dir.as_any().downcast_ref::<Hooked>().expect("of the same volume").real
    }
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooked").field("own", &self.own).finish_non_exhaustive()
    }
}

struct HookedStream {
    real: Box<dyn DirStream>,
    dir: Hooked,
}

impl DirStream for HookedStream {
    fn seek(&mut self, offset: i64) -> io::Result<()> {
        self.real.seek(offset)
    }

    fn next(&mut self) -> io::Result<Option<DirEntry>> {
        (self.dir.hook)("next", &self.dir.own)?;
        self.real.next()
    }
}

/// Calls about an entry that go to the real directory as they are.
macro_rules! pass {
    ($($call:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $call(&self, name: &OsStr, $($arg: $type),*) -> io::Result<$result> {
            (self.hook)(stringify!($call), name)?;
            self.real.$call(name, $($arg),*)
        })*
    };
}

impl BackingDir for Hooked {
    pass! {
        stat() -> Stat;
        create_file(mode: u32) -> Arc<dyn BackingFile>;
        open_file(access: Access) -> Arc<dyn BackingFile>;
        pin() -> Arc<dyn BackingFile>;
        make_dir(mode: u32) -> ();
        make_node(mode: u32, rdev: u64) -> ();
        make_symlink(target: &OsStr) -> ();
        read_link() -> OsString;
        unlink() -> ();
        remove_dir() -> ();
        set_mode(mode: u32) -> ();
        set_owner(uid: Option<u32>, gid: Option<u32>) -> ();
        set_times(atime: SetTime, mtime: SetTime) -> ();
        get_xattr(attr: &OsStr) -> Vec<u8>;
        set_xattr(attr: &OsStr, value: &[u8], how: XattrHow) -> ();
        list_xattrs() -> Vec<OsString>;
        remove_xattr(attr: &OsStr) -> ();
    }

    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn BackingDir>> {
        (self.hook)("open_dir", name)?;
        Ok(Arc::new(Hooked { real: self.real.open_dir(name)?, own: name.into(), hook: self.hook.clone() }))
    }

    fn list(&self) -> io::Result<Box<dyn DirStream>> {
        (self.hook)("list", &self.own)?;
        Ok(Box::new(HookedStream { real: self.real.list()?, dir: self.clone() }))
    }

    fn link(&self, name: &OsStr, to: &dyn BackingDir, to_name: &OsStr) -> io::Result<()> {
        (self.hook)("link", name)?;
        self.real.link(name, Hooked::peer(to), to_name)
    }

    fn rename(&self, name: &OsStr, to: &dyn BackingDir, to_name: &OsStr, how: RenameHow) -> io::Result<()> {
        (self.hook)("rename", name)?;
        self.real.rename(name, Hooked::peer(to), to_name, how)
    }

    fn sync(&self) -> io::Result<()> {
        (self.hook)("sync", &self.own)?;
        self.real.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        (self.hook)("sync_all", &self.own)?;
        self.real.sync_all()
    }

    fn stat_volume(&self) -> io::Result<VolumeStat> {
        (self.hook)("stat_volume", &self.own)?;
        self.real.stat_volume()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
