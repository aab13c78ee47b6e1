//! Contents: holes, space, shared mappings, copies inside the filesystem.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::common::python;
use crate::{errno, on_mount, over_remount};

const TIB: u64 = 1 << 40;

#[test]
fn a_shared_mapping_and_read_see_one_file() {
    on_mount(|dir| {
        let script = "
import mmap, os
size = 1 << 20
fd = os.open('map', os.O_RDWR | os.O_CREAT)
os.truncate(fd, size)
one = mmap.mmap(fd, size, mmap.MAP_SHARED)
two = mmap.mmap(os.open('map', os.O_RDWR), size, mmap.MAP_SHARED)
one[100:105] = b'hello'
assert two[100:105] == b'hello'
assert os.pread(fd, 5, 100) == b'hello', 'a store is seen by read at once'
os.pwrite(fd, b'write', 500000)
assert one[500000:500005] == b'write', 'a write is seen in the mapping at once'
one[size - 1] = 0x7a
one.flush()
two[0:4] = b'late'
del one, two
os.close(fd)
with open('map', 'rb') as f:
    data = f.read()
assert data[:4] == b'late' and data[100:105] == b'hello' and data[-1] == 0x7a and len(data) == size
private = mmap.mmap(os.open('map', os.O_RDONLY), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
private[0:4] = b'mine'
assert open('map', 'rb').read(4) == b'late'";
        python::<&str>(dir, script, &[]);
    });
}

#[test]
fn stores_to_a_mapping_survive_a_remount() {
    over_remount(
        |dir| {
            let script = "
import mmap, os
fd = os.open('map', os.O_RDWR | os.O_CREAT)
os.truncate(fd, 3 << 20)
m = mmap.mmap(fd, 3 << 20, mmap.MAP_SHARED)
os.close(fd)
for i in range(0, 3 << 20, 8192): m[i:i + 8] = i.to_bytes(8, 'little')
# neither msync nor munmap: the process just ends
";
            python::<&str>(dir, script, &[]);
        },
        |dir| {
            let data = fs::read(dir.join("map")).unwrap();
            for i in (0..3 << 20).step_by(8192) {
                assert_eq!(data[i..i + 8], (i as u64).to_le_bytes(), "at {i}");
                assert_eq!(data[i + 8..i + 16], [0; 8]);
            }
        },
    );
}

#[test]
fn truncation_zeroes_what_a_later_extension_shows() {
    over_remount(
        |dir| {
            for cut in [0, 1, 100, 3811, 3812, 3813, 4095, 4096, 4097, 8192, 524_287, 524_288, 524_289, 999_999] {
                let path = dir.join(cut.to_string());
                fs::write(&path, vec![0xff; 1_000_000]).unwrap();
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                file.set_len(cut).unwrap();
                file.set_len(1_000_000).unwrap();
                let mut want = vec![0; 1_000_000];
                want[..cut as usize].fill(0xff);
                assert_eq!(fs::read(&path).unwrap(), want, "cut at {cut}");
            }
        },
        |dir| {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let cut: usize = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
                let data = fs::read(&path).unwrap();
                assert!(
                    data[..cut].iter().all(|&byte| byte == 0xff) && data[cut..].iter().all(|&byte| byte == 0),
                    "{cut}"
                );
                assert_eq!(data.len(), 1_000_000);
            }
        },
    );
}

#[test]
fn sizes_around_every_boundary_come_back() {
    let boundaries = [0, 1, 284, 3812, 3813, 4096, 8192, 524_288, 524_288 + 4096, 1 << 20, 128 * 128 * 4096];
    let sizes = || boundaries.iter().flat_map(|&size: &usize| [size.saturating_sub(1), size, size + 1]);
    let contents = |size: usize| -> Vec<u8> {
        (0..size).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
    };
    over_remount(
        |dir| sizes().for_each(|size| fs::write(dir.join(size.to_string()), contents(size)).unwrap()),
        |dir| {
            for size in sizes() {
                let path = dir.join(size.to_string());
                assert_eq!(fs::metadata(&path).unwrap().len(), size as u64);
                assert!(fs::read(&path).unwrap() == contents(size), "contents of {size} bytes");
            }
        },
    );
}

#[test]
fn data_and_holes_are_found_right_after_the_write() {
    on_mount(|dir| {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("sparse")).unwrap();
        let data = |offset| seek(&file, SeekFrom::Data(offset));
        let hole = |offset| seek(&file, SeekFrom::Hole(offset));
        assert_eq!(errno(data(0)), Some(Errno::NXIO), "an empty file has no data");
        file.set_len(64 << 20).unwrap();
        assert_eq!(errno(data(0)), Some(Errno::NXIO));
        assert_eq!(hole(0), Ok(0));
        file.write_all_at(&[1; 8192], 16 << 20).unwrap();
        file.write_all_at(&[1; 100], 40 << 20).unwrap();
        assert_eq!(data(0), Ok(16 << 20));
        assert_eq!(data((16 << 20) + 5000), Ok((16 << 20) + 5000));
        assert_eq!(hole(16 << 20), Ok((16 << 20) + 8192));
        assert_eq!(data((16 << 20) + 8192), Ok(40 << 20));
        assert_eq!(hole(40 << 20), Ok((40 << 20) + 4096));
        assert_eq!(errno(data(41 << 20)), Some(Errno::NXIO));
        assert_eq!(errno(hole(64 << 20)), Some(Errno::NXIO));
        assert_eq!(hole((64 << 20) - 1), Ok((64 << 20) - 1));
        file.sync_all().unwrap();
        assert_eq!(data(0), Ok(16 << 20));
        // A small file is data from end to end, with the implied hole at its end.
        let small = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("small")).unwrap();
        small.write_all_at(b"abc", 0).unwrap();
        assert_eq!(seek(&small, SeekFrom::Data(1)), Ok(1));
        assert_eq!(seek(&small, SeekFrom::Hole(1)), Ok(3));
        assert_eq!(errno(seek(&small, SeekFrom::Data(3))), Some(Errno::NXIO));
    });
}

#[test]
fn allocation_modes() {
    over_remount(
        |dir| {
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(dir.join("file")).unwrap();
            fallocate(&file, FallocateFlags::empty(), 0, 100_000).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 100_000);
            fallocate(&file, FallocateFlags::KEEP_SIZE, 100_000, 1 << 20).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 100_000);
            file.write_all_at(&vec![1; 100_000], 0).unwrap();
            fallocate(&file, FallocateFlags::empty(), 50_000, 10_000).unwrap();
            let mut want = vec![1; 100_000];
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            for (offset, length) in [(5, 10), (4096, 4096), (10_000, 20_000), (99_990, 50)] {
                fallocate(&file, punch, offset, length).unwrap();
                want[offset as usize..((offset + length) as usize).min(100_000)].fill(0);
            }
            fallocate(&file, FallocateFlags::ZERO_RANGE, 60_001, 9_000).unwrap();
            want[60_001..69_001].fill(0);
            fallocate(&file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 90_000, 90_000).unwrap();
            want[90_000..].fill(0);
            assert_eq!(fs::read(dir.join("file")).unwrap(), want);
            fallocate(&file, FallocateFlags::ZERO_RANGE, 90_000, 30_000).unwrap();
            want.resize(120_000, 0);
            assert_eq!(fs::read(dir.join("file")).unwrap(), want);
            if crate::native().is_none() {
                for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
                    assert_eq!(errno(fallocate(&file, mode, 4096, 4096)), Some(Errno::OPNOTSUPP), "{mode:?}");
                }
            }
            let reader = File::open(dir.join("file")).unwrap();
            assert_eq!(errno(fallocate(&reader, FallocateFlags::empty(), 0, 1)), Some(Errno::BADF));
            assert_eq!(errno(fallocate(&file, FallocateFlags::empty(), 0, 0)), Some(Errno::INVAL));
            fs::write(dir.join("want"), want).unwrap();
        },
        |dir| assert_eq!(fs::read(dir.join("file")).unwrap(), fs::read(dir.join("want")).unwrap()),
    );
}

#[test]
fn small_files_take_allocation_modes_too() {
    over_remount(
        |dir| {
            let path = dir.join("small");
            fs::write(&path, [9; 1000]).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 100, 100).unwrap();
            fallocate(&file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 900, 500).unwrap();
            fallocate(&file, FallocateFlags::empty(), 0, 2000).unwrap();
            fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
        },
        |dir| {
            let mut want = [9; 1000].to_vec();
            want[100..200].fill(0);
            want[900..].fill(0);
            want.resize(2000, 0);
            assert_eq!(fs::read(dir.join("small")).unwrap(), want);
        },
    );
}

#[test]
fn punching_gives_space_back() {
    on_mount(|dir| {
        let path = dir.join("file");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.write_all_at(&vec![1; 8 << 20], 0).unwrap();
        file.sync_all().unwrap();
        let full = fs::metadata(&path).unwrap().blocks();
        assert!(full * 512 >= 8 << 20 && full * 512 < 9 << 20, "{full}");
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 1 << 20, 6 << 20).unwrap();
        file.sync_all().unwrap();
        let punched = fs::metadata(&path).unwrap().blocks();
        assert!(punched * 512 < 3 << 20, "{punched}");
        assert_eq!(file.metadata().unwrap().len(), 8 << 20);
    });
}

#[test]
fn copies_inside_the_filesystem() {
    over_remount(
        |dir| {
            let source: Vec<u8> = (0..700_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
            fs::write(dir.join("from"), &source).unwrap();
            let from = File::open(dir.join("from")).unwrap();
            let to = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("to")).unwrap();
            let copy = |mut from_offset: u64, mut to_offset: u64, mut length: usize| {
                while length > 0 {
                    let done =
                        rustix::fs::copy_file_range(&from, Some(&mut from_offset), &to, Some(&mut to_offset), length)
                            .unwrap();
                    if done == 0 {
                        break;
                    }
                    length -= done;
                }
            };
            copy(0, 0, 700_000);
            copy(1000, 700_001, 10_000);
            copy(699_000, 5, 100_000);
            let mut want = source.clone();
            want.push(0);
            want.extend_from_slice(&source[1000..11_000]);
            want[5..1005].copy_from_slice(&source[699_000..]);
            assert!(fs::read(dir.join("to")).unwrap() == want);
            fs::write(dir.join("want"), &want).unwrap();
            // A file onto itself, without and with overlap.
            let mut zero = 0;
            let mut far = 710_001;
            let done = rustix::fs::copy_file_range(&to, Some(&mut zero), &to, Some(&mut far), 1000).unwrap();
            assert!(done > 0);
            to.set_len(710_001).unwrap();
            let (mut zero, mut near) = (0, 100);
            let overlap = rustix::fs::copy_file_range(&to, Some(&mut zero), &to, Some(&mut near), 1000);
            assert_eq!(errno(overlap), Some(Errno::INVAL));
        },
        |dir| assert!(fs::read(dir.join("to")).unwrap() == fs::read(dir.join("want")).unwrap()),
    );
}

#[test]
fn a_sparse_file_of_several_tebibytes() {
    over_remount(
        |dir| {
            let path = dir.join("huge");
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
            file.set_len(4 * TIB).unwrap();
            file.write_all_at(b"middle", 3 * TIB + 12_345).unwrap();
            file.write_all_at(b"end", 4 * TIB + 4093).unwrap();
            file.sync_all().unwrap();
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.len(), 4 * TIB + 4096);
            assert!(metadata.blocks() < 1000, "{} blocks", metadata.blocks());
        },
        |dir| {
            let file = OpenOptions::new().read(true).write(true).open(dir.join("huge")).unwrap();
            let mut buffer = [1; 10];
            file.read_exact_at(&mut buffer, 3 * TIB + 12_341).unwrap();
            assert_eq!(&buffer, b"\0\0\0\0middle");
            file.read_exact_at(&mut buffer, 4 * TIB + 4086).unwrap();
            assert_eq!(&buffer, b"\0\0\0\0\0\0\0end");
            file.read_exact_at(&mut buffer, TIB).unwrap();
            assert_eq!(buffer, [0; 10]);
            assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(3 * TIB + 12_288));
            assert_eq!(seek(&file, SeekFrom::Hole(3 * TIB + 12_288)), Ok(3 * TIB + 16_384));
            assert_eq!(seek(&file, SeekFrom::Data(3 * TIB + 16_384)), Ok(4 * TIB));
            file.set_len(3 * TIB).unwrap();
            file.set_len(4 * TIB).unwrap();
            file.read_exact_at(&mut buffer, 3 * TIB + 12_345).unwrap();
            assert_eq!(buffer, [0; 10]);
        },
    );
}

#[test]
fn a_file_cannot_grow_past_the_limit() {
    on_mount(|dir| {
        let file = File::create(dir.join("file")).unwrap();
        let error = file.set_len(i64::MAX as u64).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::EFBIG | libc::EINVAL)), "{error}");
        file.write_all_at(b"fine", 0).unwrap();
    });
}

#[test]
fn writes_beyond_the_end_leave_zeros_between() {
    over_remount(
        |dir| {
            let file = File::create(dir.join("file")).unwrap();
            file.write_all_at(b"start", 0).unwrap();
            file.write_all_at(b"inline", 1000).unwrap();
            drop(file);
            let file = OpenOptions::new().write(true).open(dir.join("file")).unwrap();
            file.write_all_at(b"far", 5_000_000).unwrap();
        },
        |dir| {
            let mut want = vec![0; 5_000_003];
            want[..5].copy_from_slice(b"start");
            want[1000..1006].copy_from_slice(b"inline");
            want[5_000_000..].copy_from_slice(b"far");
            assert!(fs::read(dir.join("file")).unwrap() == want);
        },
    );
}
