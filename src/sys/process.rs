//! The process as a daemon: fork, file limits, capabilities, and how it ends.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{ExitCode, Termination};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Resource, Rlimit, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// What a mounted volume's daemon needs as root: to act on any file as its owner could and give it away, to make
/// devices, to pass `security.capability` and `trusted.*` on, to unmount. `IPC_LOCK` stays because all memory to come is locked.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::IPC_LOCK);

/// Calls of foreign libraries under way.
static FOREIGN_CALLS: AtomicUsize = AtomicUsize::new(0);

/// A call of a foreign library that may never return, as long as it lasts.
pub struct ForeignCall(());

impl ForeignCall {
    /// It begins.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        FOREIGN_CALLS.fetch_add(1, Ordering::SeqCst);
        ForeignCall(())
    }
}

impl Drop for ForeignCall {
    fn drop(&mut self) {
        FOREIGN_CALLS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How a program ends: its exit code. Handlers that libraries have registered for the exit (atexit(3), destructors) run as usual, but not while
/// a [`ForeignCall`] is under way: what they free the call still uses, and the process would end by SIGSEGV instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(u8);

impl Exit {
    /// 0.
    pub const SUCCESS: Exit = Exit(0);
}

impl From<u8> for Exit {
    fn from(code: u8) -> Self {
        Exit(code)
    }
}

impl Termination for Exit {
    #[allow(unsafe_code)]
    fn report(self) -> ExitCode {
        if FOREIGN_CALLS.load(Ordering::SeqCst) == 0 {
            return ExitCode::from(self.0);
        }
        let _ = io::stdout().flush();
        // SAFETY: _exit(2) ends the process at once and touches none of its memory. Standard error has no buffer, that of standard output was
        // just written out.
        unsafe { libc::_exit(self.0.into()) }
    }
}

/// One ioctl(2) that writes a buffer and reads it back: the request number says that both have the buffer's size.
///
/// # Errors
/// EINVAL if it says otherwise, else those of the device or filesystem.
#[allow(unsafe_code)]
pub fn exchange<const N: usize>(fd: impl AsFd, request: u32, buffer: &mut [u8; N]) -> io::Result<()> {
    let (direction, size) = (request >> 30, (request >> 16 & 0x3fff) as usize);
    if direction != 3 || size != N {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: ioctl(2) with a request encoded as `_IOWR` (asm-generic/ioctl.h) copies exactly as many bytes from and to the address as
    // the request says, which is the size of the buffer, as was just made sure; the buffer lives and is not aliased during the call. On Linux
    // the request number has 32 bits, whatever type libc gives it.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request as _, buffer.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The two sides of a fork.
pub enum Forked {
    /// The child goes on; it reports through this when it is ready.
    Child(Ready),
    /// The parent waits for it.
    Parent(Waiting),
}

/// The child's end of the pipe to its parent.
pub struct Ready(OwnedFd);

/// The parent's end.
pub struct Waiting {
    child: Pid,
    pipe: OwnedFd,
}

/// Forks, before any thread or key exists.
///
/// # Errors
/// Those of pipe2(2) and fork(2).
#[allow(unsafe_code)]
pub fn fork() -> io::Result<Forked> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    assert_single_threaded()?;
    // SAFETY: fork(2) in a process of one thread leaves the child's memory as consistent as the parent's: no lock is held by
    // a thread that the child lacks. That there is only one was just made sure.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child(Ready(write))),
        child => {
            let child = Pid::from_raw(child).ok_or(io::ErrorKind::Other)?;
            Ok(Forked::Parent(Waiting { child, pipe: read }))
        }
    }
}

fn assert_single_threaded() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        n => Err(io::Error::other(format!("cannot go to the background with {n} threads running"))),
    }
}

impl Ready {
    /// Leaves the terminal and tells the parent that it may go. Errors and logs must have another place by now.
    ///
    /// # Errors
    /// If /dev/null cannot be opened.
    pub fn report(self) -> io::Result<()> {
        // Fails only for a group leader, which a forked child is not.
        let _ = rustix::process::setsid();
        std::env::set_current_dir("/")?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        File::from(self.0).write_all(b"+")
    }
}

impl Waiting {
    /// Waits until the child is ready (`None`) or has ended: then its exit code.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn wait(self) -> io::Result<Option<u8>> {
        let mut answer = [0];
        if matches!(File::from(self.pipe).read(&mut answer), Ok(1)) {
            return Ok(None);
        }
        let status = rustix::process::waitpid(Some(self.child), WaitOptions::empty())?;
        let code = status.and_then(|(_, status)| status.exit_status()).and_then(|code| u8::try_from(code).ok());
        Ok(Some(code.unwrap_or(1)))
    }
}

/// Raises the limit of open files as far as it goes: each open file of the mount costs a descriptor.
pub fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Files that this process may have open (getrlimit(2), `RLIMIT_NOFILE`).
pub fn file_limit() -> usize {
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// How often the calling thread lost its processor to another while it had something to do (getrusage(2): `ru_nivcsw` of `RUSAGE_THREAD`); 0 if
/// that is not known.
#[allow(unsafe_code)]
pub fn preemptions() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to memory of the size that the call fills, ours alone, and the call keeps nothing.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    // SAFETY: integers alone, of which all bytes were zeroed: valid also if the call failed.
    unsafe { usage.assume_init() }.ru_nivcsw
}

/// A number that names the running kernel and is another after each start (proc(5), `random/boot_id`). Where it cannot be read, one
/// that names nothing.
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    uuid::Uuid::parse_str(text.trim()).unwrap_or_else(|_| uuid::Uuid::new_v4()).into_bytes()
}

/// Gives up what a daemon that runs as root does not need, for good. For the calling thread and those it starts.
///
/// # Errors
/// Those of capset(2) and prctl(2).
pub fn drop_privileges() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        // An ordinary user has nothing to give up, and unmounts through a setuid helper that `no_new_privs` would disarm.
        return Ok(());
    }
    let held = rustix::thread::capabilities(None)?;
    let kept = CapabilitySets {
        effective: held.effective & KEPT,
        permitted: held.permitted & KEPT,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_no_new_privs(true)?;
    Ok(rustix::thread::set_capabilities(None, kept)?)
}

/// Takes over a descriptor that a parent process passed by number (`--passphrase-fd 3`).
///
/// # Errors
/// EBADF if it is not open.
#[allow(unsafe_code)]
pub fn inherited_fd(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks about the number; it touches no memory.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is open (just asked), and nothing else in this process owns it: the user named it for this
    // one use, and the command calls this before it opens descriptors of its own. 0 to 2 are owned by the standard
    // streams, which this program neither closes nor reads otherwise once one was named here.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        assert_eq!(inherited_fd(-1).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(inherited_fd(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn no_fork_with_threads() {
        // The test runner has threads.
        let stop = std::sync::Arc::new(std::sync::Barrier::new(2));
        let other = stop.clone();
        let thread = std::thread::spawn(move || other.wait());
        assert!(fork().is_err());
        stop.wait();
        thread.join().unwrap();
    }
}
