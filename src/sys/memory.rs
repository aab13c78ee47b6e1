//! Memory for keys: locked, left out of core dumps and of forked children, wiped when it is given back.
//!
//! Tens of thousands of keys may be alive at once, so each does not get pages of its own: a region of a few
//! pages is mapped and locked as a whole and cut into slots of one size. Regions are never unmapped; a slot given back is
//! zeroed and used again.
//!
//! *Fork.* Regions are `MADV_DONTFORK`: a child does not have them at all. The alternative, `MADV_WIPEONFORK`, would
//! let a child that goes on using its keys encrypt under zeros without a sign; without the pages it dies at the first touch.
//! So a daemon forks before it makes or reads its first key.
//!
//! *Limits.* Where `RLIMIT_MEMLOCK` is exhausted, further regions are unlocked and a warning is logged once. Locked slots
//! are handed out first, and the master and volume keys are the first to be made, so the few that protect
//! everything else are locked even where the many that protect one file each are not.

#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, MlockAllFlags, ProtFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::CapabilitySet;
use zeroize::Zeroize;

/// Bytes of a region: a whole number of pages of any size in use, up to 16 KiB, and not much of the smallest
/// `RLIMIT_MEMLOCK` (64 KiB on older systems).
const REGION: usize = 16 * 1024;

/// Slot sizes. The smallest is half a cache line: most keys have 32 bytes.
const CLASSES: [usize; 4] = [32, 64, 256, 1024];

/// One arena for each of [`CLASSES`].
static ARENAS: [Mutex<Arena>; CLASSES.len()] = [const { Mutex::new(Arena { locked: vec![], unlocked: vec![] }) }; 4];

/// Warns once that memory could not be locked.
static WARN: std::sync::Once = std::sync::Once::new();

/// The class of a length; one that fits none does not compile.
const fn class_of(len: usize) -> usize {
    let mut class = 0;
    while class < CLASSES.len() {
        if len <= CLASSES[class] {
            return class;
        }
        class += 1;
    }
    panic!("no class of slots is as large")
}

/// Slots of one size that are free, all zero.
struct Arena {
    locked: Vec<Slot>,
    unlocked: Vec<Slot>,
}

/// The first byte of a slot.
struct Slot {
    start: NonNull<u8>,
    locked: bool,
}

// SAFETY: a `Slot` is the only pointer to its bytes (see `Arena::take`), which belong to no thread.
unsafe impl Send for Slot {}

impl Arena {
    /// A free slot of `size` bytes. Each slot is in at most one place: in one of the lists, or with the one `LockedBytes` that took it.
    fn take(&mut self, size: usize) -> Slot {
        loop {
            if let Some(slot) = self.locked.pop().or_else(|| self.unlocked.pop()) {
                return slot;
            }
            self.grow(size);
        }
    }

    fn give_back(&mut self, slot: Slot) {
        if slot.locked { self.locked.push(slot) } else { self.unlocked.push(slot) }
    }

    /// Maps a region and cuts it into slots.
    fn grow(&mut self, size: usize) {
        let Ok((start, locked)) = map_region() else {
            // As for any other allocation: without memory for a key there is nothing to go on with.
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; REGION]>());
        };
        let list = if locked { &mut self.locked } else { &mut self.unlocked };
        list.extend((0..REGION / size).rev().map(|n| {
            // SAFETY: `n * size + size <= REGION`, so the pointer and its slot stay inside the region, which is never unmapped.
            let start = unsafe { start.add(n * size) };
            Slot { start, locked }
        }));
    }
}

/// Maps one region of zeros; says whether it could be locked.
fn map_region() -> io::Result<(NonNull<u8>, bool)> {
    // SAFETY: a new anonymous mapping at an address of the kernel's choice replaces no other memory.
    let start = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), REGION, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
    };
    for advice in [Advice::LinuxDontDump, Advice::LinuxDontFork] {
        // SAFETY: the range is the mapping made above, page-aligned, and nothing in it is in use; neither advice changes contents.
        // Failure (a kernel built without it) costs only the protection.
        let _ = unsafe { rustix::mm::madvise(start, REGION, advice) };
    }
    // SAFETY: the range is the mapping made above; locking changes no contents.
    let locked = unsafe { rustix::mm::mlock(start, REGION) }.inspect_err(|errno| {
        WARN.call_once(|| {
            tracing::warn!(
                "cannot lock memory for keys ({errno}): keys could reach swap space; raise RLIMIT_MEMLOCK (ulimit -l)"
            );
        });
    });
    let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    Ok((start, locked.is_ok()))
}

/// `N` bytes in a slot, zero at first, zeroed again when dropped.
pub struct LockedBytes<const N: usize>(Option<Slot>);

// SAFETY: shared access to `LockedBytes` gives only `&[u8; N]`, which any number of threads may read.
unsafe impl<const N: usize> Sync for LockedBytes<N> {}

impl<const N: usize> LockedBytes<N> {
    const CLASS: usize = class_of(N);

    /// Takes a slot.
    pub fn zeroed() -> Self {
        LockedBytes(Some(ARENAS[Self::CLASS].lock().take(CLASSES[Self::CLASS])))
    }

    /// Whether the slot is locked into memory.
    pub fn is_locked(&self) -> bool {
        self.0.as_ref().is_some_and(|slot| slot.locked)
    }

    fn start(&self) -> NonNull<[u8; N]> {
        // Only `drop` takes the slot out.
        self.0.as_ref().expect("a live value has its slot").start.cast()
    }

    /// The bytes.
    pub fn get(&self) -> &[u8; N] {
        // SAFETY: the slot is at least N bytes of a region that is mapped for reading for good, initialised (anonymous memory is zero),
        // `[u8; N]` has no alignment, and nobody writes while `self` is borrowed since the slot is this value's alone.
        unsafe { self.start().as_ref() }
    }

    /// The bytes, to write.
    pub fn get_mut(&mut self) -> &mut [u8; N] {
        // SAFETY: as in `get`; the region is mapped for writing too, and `&mut self` makes the borrow exclusive.
        unsafe { self.start().as_mut() }
    }
}

impl<const N: usize> Drop for LockedBytes<N> {
    fn drop(&mut self) {
        self.get_mut().zeroize();
        if let Some(slot) = self.0.take() {
            ARENAS[Self::CLASS].lock().give_back(slot);
        }
    }
}

/// What [`harden_process`] achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardened {
    /// All memory of the process, present and future, stays out of swap space.
    pub all_memory_locked: bool,
}

/// Keeps what this process knows to itself: no core dumps, no reading of its memory by other processes of the same
/// user (`PR_SET_DUMPABLE` off, `RLIMIT_CORE` 0), and all memory locked where that cannot make a later allocation fail,
/// that is with `CAP_IPC_LOCK` or an unlimited `RLIMIT_MEMLOCK`. Key memory is locked in any case as far as the limit allows.
///
/// To be called once by a process that will hold keys, in the process that will hold them (locks are not inherited by fork).
///
/// # Errors
/// Those of prctl(2) and setrlimit(2): the process is then not fit to hold keys.
pub fn harden_process() -> io::Result<Hardened> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    let unlimited = rustix::process::getrlimit(Resource::Memlock).current.is_none();
    let capable = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    // ONFAULT: locks pages as they come into use, instead of filling every thread's whole stack with memory.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let all_memory_locked = (unlimited || capable) && rustix::mm::mlockall(all).is_ok();
    Ok(Hardened { all_memory_locked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_start_and_end_as_zeros() {
        let mut slots: Vec<_> = (0..3000u32).map(|_| LockedBytes::<32>::zeroed()).collect();
        for (n, slot) in slots.iter_mut().enumerate() {
            assert_eq!(slot.get(), &[0; 32]);
            slot.get_mut()[..8].copy_from_slice(&(n as u64 + 1).to_le_bytes());
            slot.get_mut()[31] = 0xff;
        }
        for (n, slot) in slots.iter().enumerate() {
            assert_eq!(slot.get()[..8], (n as u64 + 1).to_le_bytes());
        }
        slots.truncate(1000);
        let again: Vec<_> = (0..2000).map(|_| LockedBytes::<32>::zeroed()).collect();
        assert!(again.iter().all(|slot| slot.get() == &[0; 32]));
        assert!(slots.iter().enumerate().all(|(n, slot)| slot.get()[..8] == (n as u64 + 1).to_le_bytes()));
    }

    #[test]
    fn a_slot_given_back_is_wiped() {
        // A class of its own, so that no other test takes the slot in between.
        let mut bytes = LockedBytes::<200>::zeroed();
        bytes.get_mut().fill(0xa5);
        let start = bytes.start();
        drop(bytes);
        let again = LockedBytes::<200>::zeroed();
        assert_eq!(again.start(), start);
        assert_eq!(again.get(), &[0; 200]);
    }

    /// The kernel's own account of a region: locked (`lo`), not dumped (`dd`), not forked (`dc`).
    #[test]
    fn key_memory_is_locked_and_left_out_of_dumps_and_forks() {
        let bytes = LockedBytes::<900>::zeroed();
        let address = bytes.start().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let flags = maps
            .lines()
            .find(|line| {
                if let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-'))
                    && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
                {
                    inside = (from..to).contains(&address);
                }
                inside && line.starts_with("VmFlags:")
            })
            .unwrap();
        assert!(flags.contains(" dd"), "{flags}");
        assert!(flags.contains(" dc"), "{flags}");
        assert_eq!(flags.contains(" lo"), bytes.is_locked(), "{flags}");
    }

    /// In a process of its own, since it changes the whole process.
    #[test]
    fn a_hardened_process_keeps_working() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "sys::memory::tests::hardened_child"])
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && output.contains("1 passed"), "{output}");
    }

    #[test]
    #[ignore = "run by a_hardened_process_keeps_working"]
    fn hardened_child() {
        let hardened = harden_process().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let core = rustix::process::getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
        let locked: u64 = locked.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(!hardened.all_memory_locked || locked > 1000, "{locked} KiB");
        // Memory is still to be had, and a process that cannot be dumped still reaches its own descriptors by path.
        let big = vec![1u8; 64 << 20];
        assert_eq!(big.iter().step_by(4096).map(|byte| usize::from(*byte)).sum::<usize>(), big.len() / 4096);
        assert_eq!(LockedBytes::<32>::zeroed().get(), &[0; 32]);
        let dir = std::fs::File::open("/").unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir));
        assert!(std::fs::read_dir(path).unwrap().count() > 0);
    }

    #[test]
    fn threads_share_the_arena() {
        std::thread::scope(|scope| {
            for n in 0..4u8 {
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let mut bytes = LockedBytes::<64>::zeroed();
                        bytes.get_mut().fill(n);
                        assert!(bytes.get().iter().all(|byte| *byte == n));
                    }
                });
            }
        });
    }
}
