"""What is measured, with the goals. Every row is a rate: more is better."""

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from systems import Failed, checked

MIB = 1 << 20
TREE_FILES = 6700


@dataclass
class Row:
    """One line of the table."""

    id: str
    title: str
    unit: str
    # What envelopefs is to reach, as (of whom, how many times theirs): "native", "ceiling" or "peer" for the best of them.
    goals: list = field(default_factory=list)
    # Waits for the disk: systems that do not pass fsync on are out of the comparison.
    syncs: bool = False


class Workload:
    """Runs in a directory of a mounted system. `setup` makes, once, what every round needs; `before` readies a round and is not
    timed; `run` gives a rate for each row; `after` removes what a round left."""

    rows = []
    tools = []
    needs_data = False

    def __init__(self, size, work):
        self.size = size
        self.work = work

    @property
    def id(self):
        return self.rows[0].id

    def place(self, system):
        return system.root / self.id

    def setup(self, system):
        pass

    def before(self, system):
        pass

    def run(self, system):
        raise NotImplementedError

    def after(self, system):
        pass

    def remove(self, system):
        """Removes what `setup` made."""
        shutil.rmtree(self.place(system), ignore_errors=True)

    def close(self):
        """Releases what all systems shared."""


@dataclass
class Size:
    """How much each workload does."""

    file: int = 1024 * MIB
    random_file: int = 256 * MIB
    random_bytes: int = 64 * MIB
    sync_writes: int = 2000
    tree_files: int = TREE_FILES
    inserts: int = 2000
    pgbench_scale: int = 10
    pgbench_seconds: int = 20

    @classmethod
    def quick(cls):
        return cls(256 * MIB, 64 * MIB, 16 * MIB, 200, 1000, 200, 2, 4)


def write_file(path, size):
    """A file of random bytes, durable."""
    block = random.Random(size).randbytes(MIB)
    with open(path, "wb", buffering=0) as file:
        left = size
        while left > 0:
            left -= file.write(block[: min(left, MIB)])
        os.fsync(file.fileno())


def fio(path, direction, **options):
    """One fio job on one file, in one thread, by read(2) and write(2). Its run time includes the last fsync. Caches are the
    harness's business: fio leaves them alone. The order of random offsets is the same for every system."""
    settings = {
        "name": "job",
        "filename": str(path),
        "rw": direction,
        "ioengine": "psync",
        "thread": 1,
        "invalidate": 0,
        "fallocate": "none",
        "randrepeat": 1,
        **options,
    }
    command = ["fio", "--output-format=json", *(f"--{key}={value}" for key, value in settings.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(f"fio ended with {done.returncode}: {' / '.join(said[-2:])}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    result = job["write" if "write" in direction else "read"]
    if job["error"] or not result["runtime"]:
        raise Failed(f"fio: error {job['error']}, run time {result['runtime']} ms")
    return result["io_bytes"] / MIB / (result["runtime"] / 1000), result["total_ios"] / (result["runtime"] / 1000)


def timed(action):
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


class OneFile(Workload):
    """Works on one file that is there before."""

    tools = ["fio"]

    def file_size(self):
        return self.size.file

    def file(self, system):
        return self.place(system) / "file"

    def setup(self, system):
        self.place(system).mkdir()
        write_file(self.file(system), self.file_size())


class SequentialReadCached(OneFile):
    rows = [
        Row("read-cached", "sequential read 1 MiB, file in the page cache, reopened", "MiB/s", [("native", 0.90)]),
    ]

    def before(self, system):
        # Twice: at its second use the kernel moves a page to its list of active ones, which is not what is measured.
        read_through(self.file(system))
        read_through(self.file(system))

    def run(self, system):
        return [fio(self.file(system), "read", bs="1M", size=self.file_size())[0]]


def read_through(path):
    buffer = bytearray(MIB)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


class SequentialReadCold(OneFile):
    rows = [
        Row(
            "read-cold",
            "sequential read 1 MiB, page cache cold, backing warm",
            "MiB/s",
            [("ceiling", 0.75), ("peer", 1.3)],
        ),
    ]

    def before(self, system):
        system.restart_cold()

    def run(self, system):
        return [fio(self.file(system), "read", bs="1M", size=self.file_size())[0]]


class SequentialWrite(Workload):
    tools = ["fio"]
    rows = [
        Row(
            "write",
            "sequential write 1 MiB, new file, fsync at end",
            "MiB/s",
            [("native", 0.60), ("peer", 3.0)],
            syncs=True,
        ),
    ]

    def setup(self, system):
        self.place(system).mkdir()

    def run(self, system):
        path = self.place(system) / "new"
        return [fio(path, "write", bs="1M", size=self.size.file, create_on_open=1, end_fsync=1)[0]]

    def after(self, system):
        (self.place(system) / "new").unlink(missing_ok=True)


class RandomFile(OneFile):
    def file_size(self):
        return self.size.random_file


class RandomRead(RandomFile):
    rows = [
        Row("random-read", "random 4 KiB read, page cache cold", "op/s", [("ceiling", 0.75), ("peer", 1.3)]),
    ]

    def before(self, system):
        system.restart_cold()

    def run(self, system):
        size = {"size": self.size.random_file, "io_size": self.size.random_bytes}
        return [fio(self.file(system), "randread", bs="4k", **size)[1]]


class RandomOverwrite(RandomFile):
    rows = [
        Row("random-write", "random 4 KiB overwrite, fsync at end", "op/s", [("peer", 2.0)], syncs=True),
    ]

    def run(self, system):
        size = {"size": self.size.random_file, "io_size": self.size.random_bytes}
        return [fio(self.file(system), "randwrite", bs="4k", end_fsync=1, **size)[1]]


class SyncOverwrite(RandomFile):
    rows = [
        Row("sync-write", "4 KiB overwrite + fdatasync each", "op/s", [("native", 0.75)], syncs=True),
    ]

    def run(self, system):
        size = {"size": self.size.random_file, "io_size": self.size.sync_writes * 4096}
        return [fio(self.file(system), "randwrite", bs="4k", fdatasync=1, **size)[1]]


class SyncAppend(Workload):
    rows = [
        Row("sync-append", "append 512 B + fdatasync each", "op/s", [("native", 0.75)], syncs=True),
    ]

    def setup(self, system):
        self.place(system).mkdir()

    def before(self, system):
        write_file(self.place(system) / "log", MIB)

    def run(self, system):
        record = random.Random(512).randbytes(512)
        fd = os.open(self.place(system) / "log", os.O_WRONLY | os.O_APPEND)
        try:

            def append():
                for _ in range(self.size.sync_writes):
                    os.write(fd, record)
                    os.fdatasync(fd)

            return [self.size.sync_writes / timed(append)]
        finally:
            os.close(fd)

    def after(self, system):
        (self.place(system) / "log").unlink(missing_ok=True)


def make_tree(root, files):
    """A tree like that of a large program's sources: directories of about fifteen files, up to five deep, file sizes
    log-normal with a median of about 3.5 KiB and a mean of about 9. The same at every run."""
    dice = random.Random(files)
    directories = [root]
    root.mkdir(parents=True)
    made = 0
    while made < files:
        parent = dice.choice(directories[-40:])
        if len(parent.relative_to(root).parts) >= 5:
            parent = root
        directory = parent / f"module_{len(directories):04}"
        directory.mkdir()
        directories.append(directory)
        for _ in range(min(files - made, dice.randint(5, 25))):
            size = min(int(dice.lognormvariate(8.2, 1.35)), 512 * 1024)
            (directory / f"source_file_{made:05}.rs").write_bytes(dice.randbytes(size))
            made += 1


class Tree(Workload):
    """One tree, from unpacking to removal."""

    tools = ["tar", "find"]
    rows = [
        Row("tree-unpack", "unpack a tree of {files} small files", "files/s", [("peer", 4.0)]),
        Row("tree-stat", "stat that tree, caches cold", "files/s", [("peer", 2.0)]),
        Row("tree-read", "read that tree, caches cold", "files/s", [("peer", 2.0)]),
        Row("tree-remove", "remove that tree, caches cold", "files/s", [("peer", 2.0)]),
    ]

    def archive(self):
        path = self.work / f"tree-{self.size.tree_files}.tar"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=self.work) as scratch:
                make_tree(Path(scratch) / "tree", self.size.tree_files)
                checked(["tar", "-C", scratch, "-cf", str(path), "tree"])
        return path

    def setup(self, system):
        self.place(system).mkdir()

    def before(self, system):
        read_through(self.archive())

    def run(self, system):
        place, tree = str(self.place(system)), str(self.place(system) / "tree")
        # As an ordinary user unpacks, whoever runs this.
        unpack = ["tar", "--no-same-owner", "--no-same-permissions", "-C", place, "-xf", str(self.archive())]
        # Size and time make find look at each inode, not only at the type that the directory gives.
        steps = [
            unpack,
            ["find", tree, "-printf", "%s %T@\\n"],
            ["find", tree, "-type", "f", "-exec", "cat", "{}", "+"],
            ["rm", "-r", tree],
        ]
        rates = []
        for step in steps:
            if rates:
                system.restart_cold()
            os.sync()
            rates.append(self.size.tree_files / timed(lambda step=step: run_quietly(step)))
        return rates

    def after(self, system):
        shutil.rmtree(self.place(system) / "tree", ignore_errors=True)


def run_quietly(command):
    """Its output goes through a pipe and is thrown away: some programs do nothing at all when it goes to /dev/null."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while process.stdout.read(MIB):
            pass
        said = process.stderr.read().decode(errors="replace").strip().splitlines()
    if process.returncode != 0:
        raise Failed(f"{command[0]} ended with {process.returncode}: {' / '.join(said[-2:])}")


class Sqlite(Workload):
    needs_data = True
    tools = ["sqlite3"]
    rows = [
        Row(
            "sqlite",
            "SQLite, WAL, synchronous=FULL, one insert a transaction",
            "op/s",
            [("native", 0.80)],
            syncs=True,
        ),
    ]

    def setup(self, system):
        self.place(system).mkdir()

    def run(self, system):
        base = str(self.place(system) / "base.db")
        start = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT);"
        checked(["sqlite3", base, start])
        dice = random.Random(1)
        inserts = "".join(f"INSERT INTO t(text) VALUES('{dice.randbytes(50).hex()}');\n" for _ in range(self.size.inserts))
        rate = self.size.inserts / timed(lambda: checked(["sqlite3", base], input="PRAGMA synchronous=FULL;" + inserts))
        verdict = checked(["sqlite3", base, "PRAGMA integrity_check; SELECT count(*) FROM t;"]).split()
        if verdict != ["ok", str(self.size.inserts)]:
            raise Failed(f"the database is damaged: {verdict}")
        return [rate]

    def after(self, system):
        for name in ("base.db", "base.db-wal", "base.db-shm"):
            (self.place(system) / name).unlink(missing_ok=True)


class Pgbench(Workload):
    """A PostgreSQL server of its own with its default configuration, so fsync is on."""

    needs_data = True
    rows = [
        Row("pgbench", "PostgreSQL, pgbench -c 4", "tx/s", [("native", 0.80)], syncs=True),
    ]

    def __init__(self, size, work):
        super().__init__(size, work)
        self.sockets = None

    @staticmethod
    def programs():
        """The directory of the server's programs: Debian keeps them out of PATH."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        on_path = shutil.which("initdb")
        return Path(on_path).parent if on_path else found[-1].parent if found else None

    def postgres(self, program, *args, **options):
        """Runs one of the server's programs as an ordinary user, which it insists on."""
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        path = self.programs() / program
        return checked([*become, str(path if path.exists() else shutil.which(program)), *args], cwd="/", **options)

    def data(self, system):
        return self.place(system) / "data"

    def start(self, system):
        settings = f"-k {self.sockets} -c listen_addresses=''"
        log = str(self.sockets / "log")
        # Its own output would keep our pipe open as long as the server runs.
        self.postgres("pg_ctl", "-D", str(self.data(system)), "-w", "-s", "-l", log, "-o", settings, "start")

    def stop(self, system):
        self.postgres("pg_ctl", "-D", str(self.data(system)), "-w", "-s", "-m", "fast", "stop")

    def pgbench(self, *args):
        return self.postgres("pgbench", "-h", str(self.sockets), *args, "postgres")

    def setup(self, system):
        if self.sockets is None:
            # A socket's path has at most 107 bytes.
            self.sockets = Path(tempfile.mkdtemp(prefix="pgbench-"))
            if os.geteuid() == 0:
                shutil.chown(self.sockets, "postgres")
        self.place(system).mkdir()
        if os.geteuid() == 0:
            shutil.chown(self.place(system), "postgres")
        self.postgres("initdb", "-D", str(self.data(system)), "-A", "trust", "-E", "UTF8", "--locale=C")
        self.start(system)
        try:
            self.pgbench("-i", "-q", "-s", str(self.size.pgbench_scale))
        finally:
            self.stop(system)

    def run(self, system):
        self.start(system)
        try:
            said = self.pgbench("-c", "4", "-j", "2", "-T", str(self.size.pgbench_seconds))
        finally:
            self.stop(system)
        rates = [line.split()[2] for line in said.splitlines() if line.startswith("tps = ")]
        if not rates:
            raise Failed("pgbench gave no rate")
        return [float(rates[0])]

    def remove(self, system):
        if (self.data(system) / "postmaster.pid").exists():
            self.stop(system)
        super().remove(system)

    def close(self):
        if self.sockets is not None:
            shutil.rmtree(self.sockets, ignore_errors=True)


WORKLOADS = [
    SequentialReadCached,
    SequentialReadCold,
    SequentialWrite,
    RandomRead,
    RandomOverwrite,
    SyncOverwrite,
    SyncAppend,
    Tree,
    Sqlite,
    Pgbench,
]


def missing_tools(workload):
    """What a workload needs and this machine lacks."""
    lacking = [tool for tool in workload.tools if shutil.which(tool) is None]
    if workload is Pgbench and (Pgbench.programs() is None or shutil.which("pgbench") is None):
        lacking.append("postgresql")
    return lacking
