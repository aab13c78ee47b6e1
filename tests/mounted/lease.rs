//! A mount that must go on asking for its keys loses them when they are refused: nothing can be read any more, and nothing is lost.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::{PROGRAM, Volume, run, succeed, wait_until, write_key};
use crate::volumes;

#[test]
fn a_removed_slot_takes_the_keys_from_a_mount_with_a_lease() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let second = volume.dir().join("second");
    write_key(&second);
    let key = |verb: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["key", verb]).arg(volume.backing());
        command
    };
    succeed(key("add").arg("--key-file").arg(volume.key()).arg("--new-key-file").arg(&second));
    let mount = volume.mount_with("lease=1");
    let dir = mount.path();
    fs::write(dir.join("seen"), b"in the page cache").unwrap();
    fs::write(dir.join("unseen"), vec![7; 100_000]).unwrap();
    let open = OpenOptions::new().read(true).write(true).open(dir.join("seen")).unwrap();
    // A page that only this program and the page cache know of.
    fs::write(dir.join("mapped"), vec![0; 4096]).unwrap();
    let mut mapper = Command::new("python3");
    mapper.args(["-c", "import mmap, sys, time\nf = open(sys.argv[1], 'r+b')\nm = mmap.mmap(f.fileno(), 4096)\nm[:5] = b'dirty'\nprint('ok', flush=True)\ntime.sleep(600)"]);
    let mut mapper = mapper.arg(dir.join("mapped")).stdout(Stdio::piped()).spawn().unwrap();
    mapper.stdout.take().unwrap().read_exact(&mut [0; 3]).unwrap();
    // It lasts while the slot opens.
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(fs::read(dir.join("seen")).unwrap(), b"in the page cache");

    succeed(key("remove").arg("1").arg("--key-file").arg(&second));
    let errno = |result: std::io::Result<usize>| result.err().and_then(|error| error.raw_os_error());
    wait_until("the keys are still there", String::new, || {
        errno(fs::read(dir.join("unseen")).map(|_| 0)) == Some(libc::ENOKEY)
    });
    // Neither an open file nor the page cache nor a write gets anywhere.
    assert_eq!(errno(open.read_at(&mut [0; 10], 0)), Some(libc::ENOKEY));
    assert_eq!(errno(open.write_at(b"x", 0)), Some(libc::ENOKEY));
    assert_eq!(errno(fs::write(dir.join("new"), b"x").map(|()| 0)), Some(libc::ENOKEY));
    assert_eq!(errno(fs::read_dir(dir).map(|_| 0)), Some(libc::ENOKEY));
    assert!(mount.log_text().contains("the lease was refused"));
    mapper.kill().unwrap();
    mapper.wait().unwrap();
    drop(open);
    mount.unmount();

    let refused = run(Command::new(PROGRAM).arg("check").arg(volume.backing()).arg("--key-file").arg(volume.key()));
    assert!(!refused.status.success());
    fs::copy(&second, volume.key()).unwrap();
    volume.assert_clean();
    let mount = volume.mount();
    assert_eq!(fs::read(mount.path().join("seen")).unwrap(), b"in the page cache");
    assert_eq!(fs::read(mount.path().join("unseen")).unwrap(), vec![7; 100_000]);
    assert_eq!(&fs::read(mount.path().join("mapped")).unwrap()[..5], b"dirty");
    mount.unmount();
}
