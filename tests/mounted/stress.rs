//! Many processes at once, with checksums that tell a torn, stale or exchanged byte.

use crate::common::python;
use crate::{on_mount, over_remount};

#[test]
fn readers_see_each_replaced_file_whole() {
    on_mount(|dir| {
        let script = "
import hashlib, os, random, sys
from multiprocessing import Process
def version(rng):
    body = rng.randbytes(rng.choice([10, 300, 4096, 5000, 70000, 600000]))
    return hashlib.sha256(body).digest() + body
def writer(me):
    rng = random.Random(me)
    for i in range(300):
        temp, name = 'tmp-%d' % me, 'file-%d' % rng.randrange(8)
        with open(temp, 'wb') as f: f.write(version(rng))
        os.rename(temp, name)
def reader(me):
    rng = random.Random(100 + me)
    for i in range(1000):
        try:
            data = open('file-%d' % rng.randrange(8), 'rb').read()
        except FileNotFoundError:
            continue
        assert hashlib.sha256(data[32:]).digest() == data[:32], 'torn'
all = [Process(target=writer, args=(i,)) for i in range(3)] + [Process(target=reader, args=(i,)) for i in range(3)]
for p in all: p.start()
for p in all: p.join()
sys.exit(any(p.exitcode for p in all))";
        python::<&str>(dir, script, &[]);
    });
}

#[test]
fn writers_of_one_file_do_not_disturb_each_other() {
    let verify = "
import hashlib
data = open('shared', 'rb').read()
for slot in range(400):
    s = data[slot * 5000:(slot + 1) * 5000]
    assert len(s) == 5000 and hashlib.sha256(s[32:]).digest() == s[:32], slot";
    over_remount(
        |dir| {
            // 400 slots of 5000 bytes, so that neighbours share chunks; each process owns every fourth slot.
            let script = "
import hashlib, os, random, sys
from multiprocessing import Process
def work(me):
    rng = random.Random(me)
    fd = os.open('shared', os.O_RDWR)
    last = {}
    for i in range(600):
        slot = rng.randrange(100) * 4 + me if i >= 100 else i * 4 + me
        if rng.random() < 0.6 or slot not in last:
            body = rng.randbytes(4968)
            last[slot] = hashlib.sha256(body).digest() + body
            assert os.pwrite(fd, last[slot], slot * 5000) == 5000
        assert os.pread(fd, 5000, slot * 5000) == last[slot], 'slot %d' % slot
        if rng.random() < 0.02: os.fsync(fd)
        if rng.random() < 0.02: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
open('shared', 'wb').close()
all = [Process(target=work, args=(i,)) for i in range(4)]
for p in all: p.start()
for p in all: p.join()
sys.exit(any(p.exitcode for p in all))";
            python::<&str>(dir, script, &[]);
            python::<&str>(dir, verify, &[]);
        },
        |dir| {
            python::<&str>(dir, verify, &[]);
        },
    );
}

#[test]
fn names_stay_consistent_under_random_changes_by_many() {
    on_mount(|dir| {
        let script = "
import errno, os, random, sys
from multiprocessing import Process
EXPECTED = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL}
LONG = 'n' * 200
def path(rng):
    name = rng.choice(['a', 'b', 'c', LONG + 'x', LONG + 'y'])
    return rng.choice([name, 'd1/' + name, 'd2/' + name, 'd1/' + rng.choice(['d3/', 'd4/']) + name, 'd1', 'd2', 'd1/d3'])
def work(me):
    rng = random.Random(me)
    for i in range(1500):
        what = rng.randrange(9)
        try:
            if what == 0:
                with open(path(rng), 'ab') as f: f.write(b'x' * rng.choice([1, 5000]))
            elif what == 1: os.mkdir(path(rng))
            elif what == 2: os.rename(path(rng), path(rng))
            elif what == 3: os.unlink(path(rng))
            elif what == 4: os.rmdir(path(rng))
            elif what == 5: os.link(path(rng), path(rng))
            elif what == 6: os.symlink('target', path(rng))
            elif what == 7: os.listdir(rng.choice(['.', 'd1', 'd2', 'd1/d3']))
            else: os.mkdir(rng.choice(['d1', 'd2', 'd1/d3']))
        except OSError as e:
            # EPERM: hard link to a directory. ELOOP, EACCES and EIO never.
            if e.errno not in EXPECTED and e.errno != errno.EPERM: raise
all = [Process(target=work, args=(i,)) for i in range(4)]
for p in all: p.start()
for p in all: p.join()
assert not any(p.exitcode for p in all)
for root, dirs, files in os.walk('.'):
    for name in dirs + files:
        s = os.lstat(os.path.join(root, name))
        assert s.st_nlink >= 1
    assert sorted(dirs + files) == sorted(os.listdir(root))";
        python::<&str>(dir, script, &[]);
        assert_eq!(crate::common::sh(dir, "rm -rf -- *; ls -A"), "");
    });
}

#[test]
fn readers_of_one_file_run_while_it_is_synced() {
    on_mount(|dir| {
        let script = "
import os, sys, time
from multiprocessing import Process
open('big', 'wb').write(os.urandom(1 << 22) * 4)
want = open('big', 'rb').read()
def read(me):
    fd = os.open('big', os.O_RDONLY)
    for i in range(30):
        assert os.pread(fd, 1 << 20, (me + i) % 12 << 20) == want[((me + i) % 12) << 20:][:1 << 20]
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
def write():
    fd = os.open('big', os.O_RDWR)
    for i in range(100):
        os.pwrite(fd, want[(15 << 20) + i:][:1], (15 << 20) + i); os.fsync(fd)
all = [Process(target=read, args=(i,)) for i in range(3)] + [Process(target=write)]
for p in all: p.start()
for p in all: p.join()
sys.exit(any(p.exitcode for p in all))";
        python::<&str>(dir, script, &[]);
    });
}
