"""A fresh ext4 for the backing directories, in an image file.

What a benchmark finds on a used filesystem depends on what was there before: free space in pieces, and on an ext4 without a
journal even the inode numbers freed within the last minutes, which make creating files many times slower. So all
systems share one new filesystem, with a journal, on blocks that were written before.
"""

import os
import subprocess

from systems import Failed, checked, is_mount

MIB = 1 << 20


class Image:
    """An ext4 in a file, mounted through a loop device that passes its caches by."""

    def __init__(self, work, mib):
        self.file = work / "disk.img"
        self.root = work / "disk"
        self.mib = mib
        self.loop = None

    def mount(self):
        space = os.statvfs(self.file.parent)
        if space.f_bavail * space.f_frsize < (self.mib + 1024) * MIB:
            raise Failed(f"the image needs {self.mib} MiB, which {self.file.parent} does not have (--size makes it less)")
        zeros = bytes(MIB)
        # Written, not only reserved: the first write to reserved blocks costs the filesystem below a change of its own.
        with open(self.file, "wb", buffering=0) as file:
            for _ in range(self.mib):
                file.write(zeros)
            os.fsync(file.fileno())
        # Nothing is left for the filesystem to do in the background later.
        now = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        checked(["mkfs.ext4", "-q", "-F", "-E", now, str(self.file)])
        self.loop = checked(["losetup", "--find", "--show", "--direct-io=on", str(self.file)]).strip()
        self.root.mkdir()
        checked(["mount", "-t", "ext4", self.loop, str(self.root)])
        return self.root

    def close(self):
        if is_mount(self.root):
            subprocess.run(["umount", str(self.root)], check=False)
        if self.loop is not None:
            subprocess.run(["losetup", "--detach", self.loop], check=False)
