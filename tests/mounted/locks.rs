//! Locks between processes: flock(2), fcntl(2) record locks, open file description locks.

use crate::common::python;
use crate::on_mount;

/// What the scripts share: `child(code)` runs code in another process and gives what it prints.
const PRELUDE: &str = "
import fcntl, os, struct, subprocess, sys
def child(code):
    head = 'import fcntl, os, struct\\nfd = os.open(\"file\", os.O_RDWR)\\n'
    return subprocess.run([sys.executable, '-c', head + code], capture_output=True, text=True, timeout=30).stdout.strip()
def lock(kind, start, length):
    return struct.pack('hhqqi4x', kind, os.SEEK_SET, start, length, 0)
fd = os.open('file', os.O_RDWR | os.O_CREAT)
os.truncate(fd, 1000)
TRY_FLOCK = '''
try:
    fcntl.flock(fd, fcntl.LOCK_%s | fcntl.LOCK_NB); print('got')
except BlockingIOError:
    print('busy')
'''
TRY_RECORD = '''
try:
    fcntl.lockf(fd, fcntl.LOCK_%s | fcntl.LOCK_NB, %d, %d); print('got')
except OSError:
    print('busy')
'''
";

fn locks(dir: &std::path::Path, script: &str) {
    python::<&str>(dir, &format!("{PRELUDE}{script}"), &[]);
}

#[test]
fn flock_excludes_other_processes() {
    on_mount(|dir| {
        locks(
            dir,
            "
fcntl.flock(fd, fcntl.LOCK_EX)
assert child(TRY_FLOCK % 'EX') == 'busy'
assert child(TRY_FLOCK % 'SH') == 'busy'
fcntl.flock(fd, fcntl.LOCK_SH)
assert child(TRY_FLOCK % 'SH') == 'got'
assert child(TRY_FLOCK % 'EX') == 'busy'
fcntl.flock(fd, fcntl.LOCK_UN)
assert child(TRY_FLOCK % 'EX') == 'got'
fcntl.flock(fd, fcntl.LOCK_EX)
other = os.open('file', os.O_RDWR)
os.close(other)
assert child(TRY_FLOCK % 'EX') == 'busy', 'belongs to the description, not the file'
os.close(fd)
fd = os.open('file', os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        );
    });
}

#[test]
fn record_locks_exclude_other_processes_by_range() {
    on_mount(|dir| {
        locks(
            dir,
            "
fcntl.lockf(fd, fcntl.LOCK_EX, 100, 200)
assert child(TRY_RECORD % ('EX', 10, 250)) == 'busy'
assert child(TRY_RECORD % ('SH', 1, 200)) == 'busy'
assert child(TRY_RECORD % ('EX', 200, 0)) == 'got'
assert child(TRY_RECORD % ('EX', 0, 300)) == 'got'
asked = fcntl.fcntl(fd, fcntl.F_GETLK, lock(fcntl.F_WRLCK, 0, 0))
assert struct.unpack('hhqqi4x', asked)[0] == fcntl.F_UNLCK, 'own locks do not conflict'
seen = child('''
asked = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
print(*struct.unpack('hhqqi4x', asked))
''')
assert seen == '%d 0 200 100 %d' % (fcntl.F_WRLCK, os.getpid()), seen
fcntl.lockf(fd, fcntl.LOCK_UN, 50, 200)
assert child(TRY_RECORD % ('EX', 50, 200)) == 'got'
assert child(TRY_RECORD % ('EX', 50, 250)) == 'busy'
fcntl.lockf(fd, fcntl.LOCK_SH, 50, 250)
assert child(TRY_RECORD % ('SH', 0, 0)) == 'got'
os.close(os.open('file', os.O_RDONLY))
assert child(TRY_RECORD % ('EX', 0, 0)) == 'got', 'closing any descriptor drops the process locks'",
        );
    });
}

#[test]
fn a_waiting_record_lock_is_granted_when_the_holder_ends() {
    on_mount(|dir| {
        locks(
            dir,
            "
import time
holder = subprocess.Popen([sys.executable, '-c', '''
import fcntl, os, time
fd = os.open(\"file\", os.O_RDWR); fcntl.lockf(fd, fcntl.LOCK_EX); print(\"held\", flush=True); time.sleep(0.5)
'''], stdout=subprocess.PIPE, text=True)
assert holder.stdout.readline() == 'held\\n'
start = time.monotonic()
fcntl.lockf(fd, fcntl.LOCK_EX)
assert 0.2 < time.monotonic() - start < 20",
        );
    });
}

#[test]
fn description_locks_belong_to_the_open_file() {
    on_mount(|dir| {
        locks(
            dir,
            "
F_OFD_SETLK = 37
def take(fd, kind, start, length):
    try:
        fcntl.fcntl(fd, F_OFD_SETLK, lock(kind, start, length)); return True
    except OSError:
        return False
other = os.open('file', os.O_RDWR)
assert take(fd, fcntl.F_WRLCK, 0, 100)
assert not take(other, fcntl.F_WRLCK, 50, 100), 'also within one process'
assert take(other, fcntl.F_WRLCK, 100, 100)
assert child(TRY_RECORD % ('EX', 10, 0)) == 'busy'
os.close(os.open('file', os.O_RDONLY))
assert child(TRY_RECORD % ('EX', 10, 0)) == 'busy', 'not dropped by closing another description'
os.close(fd)
assert child(TRY_RECORD % ('EX', 10, 0)) == 'got'",
        );
    });
}
