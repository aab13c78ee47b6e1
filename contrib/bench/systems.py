"""The filesystems that are compared: how each is made, mounted and unmounted.

A daemon runs in the foreground as a child, so that its memory can be read and its end awaited. Passwords and key
files guard throw-away volumes alone.
"""

import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

MOUNT_TIMEOUT = 60
UNMOUNT_TIMEOUT = 120
PASSWORD = "throw-away"


class Failed(Exception):
    """A system could not do what a workload asks of it; the others go on."""


def checked(command, **options):
    """Runs a command to its end; what it said is in the exception if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        said = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise Failed(f"{Path(command[0]).name} ended with {done.returncode}: {said}")
    return done.stdout


class System:
    """A directory that workloads run in. This one is the backing filesystem itself."""

    name = "native"
    package = None
    program = None
    # Whether files hold what was written: databases need that.
    keeps_data = True
    # At most so often is each workload measured on it.
    rounds = 1000
    # Whether fsync reaches the disk: if not, rows that wait for the disk compare nothing.
    syncs = True

    def __init__(self, work):
        self.home = work / self.name
        self.backing = self.home / "backing"
        self.root = self.backing
        self.peak_memory = None

    def missing(self):
        """What must be installed or built first, or None."""
        if self.program is None or shutil.which(self.program):
            return None
        return f"{self.program} is not installed (Debian package {self.package})"

    def version(self):
        return None

    def create(self):
        self.backing.mkdir(parents=True)

    def start(self):
        """Makes `root` usable; nothing is cached by this system itself."""

    def stop(self):
        """Undoes `start`; to be called in any state."""

    def close(self):
        """Ends all that was started, at the end of the run or of a failed one."""
        self.stop()

    def read_memory(self):
        """Keeps the daemon's largest resident size so far, in bytes, in `peak_memory`. There is none here."""

    def warm_backing(self):
        """Brings all that the backing directory holds into the page cache of the backing filesystem."""
        buffer = bytearray(1 << 20)
        for directory, _, names in os.walk(self.backing):
            for name in names:
                path = os.path.join(directory, name)
                if os.path.islink(path):
                    os.readlink(path)
                    continue
                with open(path, "rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass

    def restart_cold(self):
        """Leaves this system's caches cold and the backing filesystem's warm."""
        self.stop()
        os.sync()
        self.warm_backing()
        self.start()


class Mounted(System):
    """A FUSE filesystem."""

    def __init__(self, work):
        super().__init__(work)
        self.root = self.home / "mount"
        self.daemon = None

    def mount_command(self):
        raise NotImplementedError

    def init_command(self):
        """The command that makes the volume, with what it reads, or None."""
        return None

    def stdin(self):
        """What the mounting command reads."""
        return None

    def environment(self):
        return None

    def create(self):
        super().create()
        self.root.mkdir()
        (self.home / "password").write_text(PASSWORD + "\n")
        command = self.init_command()
        if command:
            checked(command, input=self.stdin(), env=self.environment())

    def start(self):
        with open(self.home / "log", "ab") as log:
            self.daemon = subprocess.Popen(
                self.mount_command(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self.environment(),
                # Ctrl-C is for the harness, which then unmounts.
                start_new_session=True,
            )
        try:
            self.daemon.stdin.write((self.stdin() or "").encode())
            self.daemon.stdin.close()
        except BrokenPipeError:
            pass
        deadline = time.monotonic() + MOUNT_TIMEOUT
        while not os.path.ismount(self.root):
            if self.daemon.poll() is not None:
                lines = (self.home / "log").read_text(errors="replace").strip().splitlines()
                raise Failed(f"the mount ended with {self.daemon.returncode}: {' / '.join(lines[-3:])}")
            if time.monotonic() > deadline:
                raise Failed(f"not mounted after {MOUNT_TIMEOUT} s")
            time.sleep(0.01)
        # The first answer, and with it whatever a daemon does once, is not part of any measurement.
        os.statvfs(self.root)
        time.sleep(0.1)

    def read_memory(self):
        if self.daemon is None or self.daemon.poll() is not None:
            return
        for line in Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                self.peak_memory = max(self.peak_memory or 0, int(line.split()[1]) * 1024)

    def stop(self):
        if self.daemon is None:
            return
        try:
            self.read_memory()
        except OSError:
            pass
        unmount = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
        deadline = time.monotonic() + UNMOUNT_TIMEOUT
        while is_mount(self.root) and time.monotonic() < deadline:
            if subprocess.run([*unmount, str(self.root)], stderr=subprocess.DEVNULL, check=False).returncode != 0:
                time.sleep(0.2)
        try:
            self.daemon.wait(max(1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.daemon.send_signal(signal.SIGKILL)
            self.daemon.wait()
        if is_mount(self.root):
            lazily = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
            subprocess.run([*lazily, str(self.root)], stderr=subprocess.DEVNULL, check=False)
        self.daemon = None


def is_mount(path):
    """Like os.path.ismount, and true as well for a mount whose daemon is dead."""
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        return any(line.split(" ", 2)[1] == str(path) for line in mounts)


def allow_other():
    """PostgreSQL runs as a user of its own, and only root may let others in without more ado."""
    return ["-o", "allow_other"] if os.geteuid() == 0 else []


class Envelopefs(Mounted):
    name = "envelopefs"

    def __init__(self, work, program, options=()):
        super().__init__(work)
        self.program = str(program)
        self.options = list(options)

    def missing(self):
        return None if Path(self.program).exists() else f"{self.program} is not built (cargo build --release)"

    def version(self):
        return checked([self.program, "--version"]).strip()

    def init_command(self):
        key = self.home / "key"
        with open(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        return [self.program, "init", "--key-file", str(key), str(self.backing)]

    def mount_command(self):
        options = [arg for option in self.options for arg in ("-o", option)] + allow_other()
        key = str(self.home / "key")
        return [self.program, "mount", "-f", "--key-file", key, *options, str(self.backing), str(self.root)]


class Bare(Mounted):
    """The ceiling: see benches/bare.rs."""

    name = "ceiling"
    keeps_data = False
    syncs = False

    def __init__(self, work, program):
        super().__init__(work)
        self.program = str(program)

    def missing(self):
        built = Path(self.program).exists()
        return None if built else f"{self.program} is not built (cargo build --release --example bare)"

    def mount_command(self):
        return [self.program, *(["--allow-other"] if os.geteuid() == 0 else []), str(self.root)]

    def start(self):
        if self.daemon is None:
            super().start()

    def stop(self):
        """Not before `close`: what the workloads made lives in the daemon's memory."""
        self.read_memory()

    def close(self):
        super().stop()

    def restart_cold(self):
        """A remount makes the kernel drop its dentries, with them its inodes, and with them the page cache."""
        os.sync()
        if os.geteuid() == 0:
            checked(["mount", "-i", "-o", "remount", str(self.root)])


class Gocryptfs(Mounted):
    name = "gocryptfs"
    package = "gocryptfs"
    program = "gocryptfs"

    def version(self):
        return checked(["gocryptfs", "--version"]).split(";")[0].strip()

    def init_command(self):
        # A cheap password hash: mounting is not what is measured.
        return ["gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", str(self.home / "password"), str(self.backing)]

    def mount_command(self):
        other = ["-allow_other"] if os.geteuid() == 0 else []
        passfile = str(self.home / "password")
        return ["gocryptfs", "-q", "-fg", "-nosyslog", *other, "-passfile", passfile, str(self.backing), str(self.root)]


class Securefs(Mounted):
    name = "securefs"
    package = "securefs"
    program = "securefs"

    def version(self):
        lines = checked(["securefs", "version"]).splitlines()
        return lines[0].strip() if lines else None

    def init_command(self):
        cheap = ["--pbkdf", "pkcs5-pbkdf2-hmac-sha256", "-r", "1"]
        return ["securefs", "create", *cheap, "--pass", PASSWORD, str(self.backing)]

    def mount_command(self):
        return ["securefs", "mount", "--pass", PASSWORD, *allow_other(), str(self.backing), str(self.root)]


class Encfs(Mounted):
    name = "encfs"
    package = "encfs"
    program = "encfs"

    def version(self):
        return checked(["encfs", "--version"]).strip()

    def stdin(self):
        return PASSWORD + "\n"

    def mount_command(self):
        # It makes the volume when it first mounts an empty directory.
        other = ["--", *allow_other()] if allow_other() else []
        return ["encfs", "-f", "-S", "--standard", str(self.backing), str(self.root), *other]


class Cryfs(Mounted):
    name = "cryfs"
    package = "cryfs"
    program = "cryfs"
    # It does not pass fsync on to the blocks it writes (and writes them seconds later).
    syncs = False
    # Slow, and no goal looks at it.
    rounds = 1

    def version(self):
        return checked(["cryfs", "--version"], env=self.environment()).splitlines()[0].strip()

    def environment(self):
        return {
            **os.environ,
            "CRYFS_FRONTEND": "noninteractive",
            "CRYFS_NO_UPDATE_CHECK": "true",
            "CRYFS_LOCAL_STATE_DIR": str(self.home / "state"),
        }

    def stdin(self):
        return PASSWORD + "\n"

    def mount_command(self):
        return ["cryfs", "-f", str(self.backing), str(self.root), *allow_other()]


PEERS = [Gocryptfs, Securefs, Encfs, Cryfs]
NAMES = [System.name, Envelopefs.name, Bare.name, *(peer.name for peer in PEERS)]


def all_systems(work, target, options):
    """Every system, in the order of the table."""
    release = target / "release"
    return [
        System(work),
        Envelopefs(work, release / "envelopefs", options),
        Bare(work, release / "examples" / "bare"),
        *(peer(work) for peer in PEERS),
    ]
