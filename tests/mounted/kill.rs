//! SIGKILL for the daemon at a random moment: nothing is lost whose fsync or close had returned, and every file reads.
//!
//! Writers remember what they were told and what they were about to do. After the next mount each name is there as the last operation
//! that returned left it, or as the one under way would have; each chunk is the acknowledged one or that of a later write
//! ([`crate::history`]). What was found is where the writers go on from, in the same volume.
//!
//! A failure prints the seed, for `ENVELOPEFS_KILL_SEED`. It repeats the operations and the moments, not the threads' interleaving.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{self, PROGRAM, Volume};
use crate::history::{Bound, Change, History};
use crate::native;
use crate::random::{Rng, number_from, seed_from};

/// Rounds of each test unless `ENVELOPEFS_KILL_ROUNDS` says otherwise.
const ROUNDS: u64 = 16;
const WRITERS: u64 = 3;
/// Largest file: more chunks than one leaf has.
const LARGEST: u64 = 640 << 10;
/// The next volume is a fresh one after so many rounds.
const ROUNDS_OF_A_VOLUME: u64 = 4;

/// What a name is, by path below the writer's directory.
type Tree = BTreeMap<String, Node>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    /// Index among the writer's files.
    File(usize),
}

/// An open file of a writer, and its index.
struct Open {
    file: File,
    id: usize,
}

/// One thread that changes a directory of its own.
struct Writer {
    rng: Rng,
    files: Vec<History>,
    tree: Tree,
    /// The tree once the operation under way has taken effect.
    next: Option<Tree>,
    operations: u64,
    /// An operation failed although nobody had been about to kill the daemon.
    failed: Option<io::Error>,
}

impl Writer {
    fn new(seed: u64) -> Writer {
        Writer { rng: Rng::new(seed), files: Vec::new(), tree: Tree::new(), next: None, operations: 0, failed: None }
    }

    /// Works in `dir` until the daemon is killed.
    fn work(&mut self, dir: &Path, killed: &AtomicBool) {
        let mut session = Session { writer: self, dir, killed, open: BTreeMap::new() };
        loop {
            if let Err(error) = session.step() {
                if !killed.load(Ordering::SeqCst) {
                    session.writer.failed = Some(error);
                }
                return;
            }
            session.writer.operations += 1;
        }
    }

    /// Looks at everything after the next mount and goes on from there.
    fn verify(&mut self, dir: &Path) -> Result<(), String> {
        let found = walk(dir).map_err(|error| error.to_string())?;
        let trees = [Some(&self.tree), self.next.as_ref()];
        let verdicts: Vec<_> = trees.into_iter().flatten().map(|tree| self.matches(tree, &found)).collect();
        if !verdicts.iter().any(Result::is_ok) {
            return Err(format!("{verdicts:?}"));
        }
        self.files.clear();
        self.tree.clear();
        self.next = None;
        for (path, contents) in found {
            let node = match contents {
                None => Node::Dir,
                Some(contents) => {
                    self.files.push(History::of(contents));
                    Node::File(self.files.len() - 1)
                }
            };
            self.tree.insert(path, node);
        }
        Ok(())
    }

    fn matches(&self, tree: &Tree, found: &BTreeMap<String, Option<Vec<u8>>>) -> Result<(), String> {
        if !tree.keys().eq(found.keys()) {
            return Err(format!("names: {:?} instead of {:?}", found.keys(), tree.keys()));
        }
        for ((path, node), contents) in tree.iter().zip(found.values()) {
            match (node, contents) {
                (Node::Dir, None) => {}
                (Node::File(id), Some(contents)) => {
                    let verdict = self.files[*id].judge(contents, Bound::HandedOver);
                    verdict.map_err(|error| format!("{path}: {error}"))?;
                }
                _ => return Err(format!("{path} is of another kind")),
            }
        }
        Ok(())
    }
}

/// Everything below a directory: `None` for a directory, else the contents.
fn walk(dir: &Path) -> io::Result<BTreeMap<String, Option<Vec<u8>>>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![String::new()];
    while let Some(below) = todo.pop() {
        for entry in fs::read_dir(dir.join(&below))? {
            let entry = entry?;
            let path = format!("{below}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                todo.push(format!("{path}/"));
                found.insert(path, None);
            } else {
                let contents = fs::read(entry.path()).map_err(|error| io::Error::other(format!("{path}: {error}")))?;
                found.insert(path, Some(contents));
            }
        }
    }
    Ok(found)
}

/// A writer between two kills.
struct Session<'a> {
    writer: &'a mut Writer,
    dir: &'a Path,
    killed: &'a AtomicBool,
    open: BTreeMap<&'static str, Open>,
}

impl Session<'_> {
    fn step(&mut self) -> io::Result<()> {
        let (name, operation): (_, fn(&mut Self) -> io::Result<()>) = match self.writer.rng.below(16) {
            0..=1 => ("replace_atomically", Self::replace_atomically),
            2..=5 => ("append", Self::append),
            6..=9 => ("overwrite", Self::overwrite),
            10 => ("truncate_and_rewrite", Self::truncate_and_rewrite),
            11 => ("resize", Self::resize),
            12 => ("close_one", Self::close_one),
            13..=14 => ("change_directories", Self::change_directories),
            _ => ("remove", Self::remove),
        };
        operation(self).map_err(|error| io::Error::other(format!("{name}: {error}")))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Runs an operation on names that turns the tree into `after`.
    fn rename_to<T>(&mut self, after: Tree, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.writer.next = Some(after);
        let done = operation()?;
        self.writer.tree = self.writer.next.take().unwrap_or_default();
        Ok(done)
    }

    fn create(&mut self, name: &str) -> io::Result<Open> {
        self.writer.files.push(History::default());
        let id = self.writer.files.len() - 1;
        let mut after = self.writer.tree.clone();
        after.insert(name.into(), Node::File(id));
        let path = self.path(name);
        let file = self.rename_to(after, || OpenOptions::new().read(true).write(true).create_new(true).open(path))?;
        Ok(Open { file, id })
    }

    /// Opens an existing file or creates it.
    fn open(&mut self, name: &str) -> io::Result<Open> {
        match self.writer.tree.get(name) {
            Some(&Node::File(id)) => {
                Ok(Open { file: OpenOptions::new().read(true).write(true).open(self.path(name))?, id })
            }
            _ => self.create(name),
        }
    }

    /// A file that stays open from one operation to the next.
    fn held(&mut self, name: &'static str) -> io::Result<Open> {
        match self.open.remove(name) {
            Some(open) => Ok(open),
            None => self.open(name),
        }
    }

    fn write(&mut self, open: &Open, at: u64, data: Vec<u8>) -> io::Result<()> {
        self.writer.files[open.id].push(Change::Write { at, data: data.clone() });
        open.file.write_all_at(&data, at)
    }

    fn set_len(&mut self, open: &Open, len: u64) -> io::Result<()> {
        self.writer.files[open.id].push(Change::Truncate(len));
        open.file.set_len(len)
    }

    fn sync(&mut self, open: &Open, data_only: bool) -> io::Result<()> {
        if data_only { open.file.sync_data() } else { open.file.sync_all() }?;
        self.writer.files[open.id].durable();
        Ok(())
    }

    /// Closing a `File` hides errors: it counts as done only if nobody had been about to kill the daemon.
    fn close(&mut self, open: Open) -> io::Result<()> {
        drop(open.file);
        if self.killed.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        // As durable as this test asks: the machine stays up.
        self.writer.files[open.id].durable();
        Ok(())
    }

    fn random_data(&mut self) -> Vec<u8> {
        let rng = &mut self.writer.rng;
        let limit = [100, 3_900, 5_000, 70_000, 300_000][rng.below(5) as usize];
        let len = rng.below(limit) as usize;
        rng.bytes(len)
    }

    fn document(&mut self) -> String {
        match self.writer.rng.below(5) {
            4 => format!("long-{}", "n".repeat(200)),
            n => format!("doc-{n}"),
        }
    }

    /// Create, write, fsync, rename over.
    fn replace_atomically(&mut self) -> io::Result<()> {
        let (name, data) = (self.document(), self.random_data());
        // What an earlier kill left of it is taken away.
        self.unlink("temporary")?;
        let open = self.create("temporary")?;
        self.write(&open, 0, data)?;
        self.sync(&open, false)?;
        self.close(open)?;
        self.rename("temporary", &name)
    }

    fn append(&mut self) -> io::Result<()> {
        let open = self.held("log")?;
        let at = self.writer.files[open.id].now().len() as u64;
        if at > LARGEST {
            self.set_len(&open, 0)?;
        }
        let at = self.writer.files[open.id].now().len() as u64;
        let data = self.writer.rng.bytes(512);
        self.write(&open, at, data)?;
        if self.writer.rng.one_in(2) {
            self.sync(&open, true)?;
        }
        self.open.insert("log", open);
        Ok(())
    }

    /// Whole chunks mostly, in a file of many.
    fn overwrite(&mut self) -> io::Result<()> {
        let open = self.held("table")?;
        if self.writer.files[open.id].now().len() < 8192 {
            let data = self.writer.rng.bytes(LARGEST as usize);
            self.write(&open, 0, data)?;
            self.sync(&open, true)?;
        }
        for _ in 0..=self.writer.rng.below(4) {
            let chunks = self.writer.files[open.id].now().len() as u64 / 4096;
            let rng = &mut self.writer.rng;
            let (at, data) = match rng.one_in(4) {
                true => (rng.below(chunks * 4096 - 5000), rng.bytes(3000)),
                false => (rng.below(chunks) * 4096, rng.bytes(4096)),
            };
            self.write(&open, at, data)?;
        }
        if self.writer.rng.one_in(2) {
            self.sync(&open, true)?;
        }
        self.open.insert("table", open);
        Ok(())
    }

    fn truncate_and_rewrite(&mut self) -> io::Result<()> {
        let (name, data) = (self.document(), self.random_data());
        let open = self.open(&name)?;
        self.set_len(&open, 0)?;
        self.write(&open, 0, data)?;
        if self.writer.rng.one_in(3) {
            self.sync(&open, false)?;
        }
        self.close(open)
    }

    /// Shrinks or extends the table, fills what came.
    fn resize(&mut self) -> io::Result<()> {
        let open = self.held("table")?;
        let len = self.writer.rng.below(LARGEST);
        self.set_len(&open, len)?;
        let data = self.random_data();
        let at = self.writer.rng.below(len + 1);
        self.write(&open, at, data)?;
        if self.writer.rng.one_in(2) {
            self.sync(&open, false)?;
        }
        self.open.insert("table", open);
        Ok(())
    }

    /// Closes a held file without fsync.
    fn close_one(&mut self) -> io::Result<()> {
        let name = if self.writer.rng.one_in(2) { "log" } else { "table" };
        self.open.remove(name).map_or(Ok(()), |open| self.close(open))
    }

    fn directory(&mut self) -> String {
        match self.writer.rng.below(4) {
            3 => format!("dir-{}", "n".repeat(190)),
            n => format!("dir-{n}"),
        }
    }

    /// Makes a directory with a file, or moves one that is there.
    fn change_directories(&mut self) -> io::Result<()> {
        let (one, other) = (self.directory(), self.directory());
        if !self.writer.tree.contains_key(&one) {
            let mut after = self.writer.tree.clone();
            after.insert(one.clone(), Node::Dir);
            let path = self.path(&one);
            self.rename_to(after, || fs::create_dir(path))?;
        }
        if !self.writer.tree.contains_key(&other) {
            return self.rename(&one, &other);
        }
        let data = self.random_data();
        let open = self.open(&format!("{one}/file"))?;
        self.write(&open, 0, data)?;
        self.close(open)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let moved = |path: &String| match path.strip_prefix(from) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{to}{rest}"),
            _ => path.clone(),
        };
        let mut after = self.writer.tree.clone();
        after.remove(to);
        let after = after.iter().map(|(path, &node)| (moved(path), node)).collect();
        let (source, target) = (self.path(from), self.path(to));
        self.rename_to(after, || fs::rename(source, target))
    }

    fn unlink(&mut self, name: &str) -> io::Result<()> {
        let mut after = self.writer.tree.clone();
        if after.remove(name).is_none() {
            return Ok(());
        }
        let path = self.path(name);
        self.rename_to(after, || fs::remove_file(path))
    }

    fn remove(&mut self) -> io::Result<()> {
        if self.writer.rng.one_in(2) {
            let name = self.document();
            return self.unlink(&name);
        }
        let name = self.directory();
        self.unlink(&format!("{name}/file"))?;
        let mut after = self.writer.tree.clone();
        if after.remove(&name).is_none() {
            return Ok(());
        }
        let path = self.path(&name);
        self.rename_to(after, || fs::remove_dir(path))
    }
}

/// Starts a mount and kills it `after` some time, whether it has answered by then or not.
fn mount_and_kill(volume: &Volume, options: &str, after: Duration) {
    let mut command = Command::new(PROGRAM);
    command.args(["mount", "--foreground", "--key-file"]).arg(volume.key()).arg(volume.backing());
    if !options.is_empty() {
        command.args(["-o", options]);
    }
    command.arg(volume.mountpoint()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = command.spawn().expect("spawn mount");
    std::thread::sleep(after);
    daemon.kill().expect("kill");
    daemon.wait().expect("wait");
    // Fails if it had not come so far.
    let _ = Command::new("umount").arg("-l").arg(volume.mountpoint()).stderr(Stdio::null()).status();
}

/// Rounds of: writers, a kill, with `recoveries` killed as well, a mount on which everything is compared.
fn rounds(recoveries: bool) {
    if native().is_some() {
        return;
    }
    common::require_root_and_fuse();
    let seed = seed_from("ENVELOPEFS_KILL_SEED");
    eprintln!("seed: ENVELOPEFS_KILL_SEED={seed}");
    let mut rng = Rng::new(seed);
    let (mut volume, mut writers) = (Volume::new(), Vec::new());
    let mut operations = 0;
    for round in 0..number_from("ENVELOPEFS_KILL_ROUNDS").unwrap_or(ROUNDS) {
        // Every other volume with the smallest journal, which is full time and again.
        let options = if (round / ROUNDS_OF_A_VOLUME).is_multiple_of(2) { "journal_size=4" } else { "" };
        if round % ROUNDS_OF_A_VOLUME == 0 {
            volume = Volume::new();
            writers = (0..WRITERS).map(|_| Writer::new(rng.next())).collect();
        }
        let mount = volume.mount_with(options);
        let dirs: Vec<PathBuf> = (0..WRITERS).map(|n| mount.path().join(format!("writer-{n}"))).collect();
        dirs.iter().for_each(|dir| fs::create_dir_all(dir).expect("mkdir"));
        let killed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (writer, dir) in writers.iter_mut().zip(&dirs) {
                scope.spawn(|| writer.work(dir, &killed));
            }
            std::thread::sleep(Duration::from_micros(rng.below(400_000)));
            killed.store(true, Ordering::SeqCst);
            mount.kill();
        });
        if let Some(error) = writers.iter_mut().find_map(|writer: &mut Writer| writer.failed.take()) {
            let log = fs::read_to_string(volume.dir().join("daemon.log")).unwrap_or_default();
            panic!("round {round}, ENVELOPEFS_KILL_SEED={seed}: before the kill, {error}\n{log}");
        }
        if recoveries {
            for _ in 0..=rng.below(3) {
                mount_and_kill(&volume, options, Duration::from_micros(rng.below(60_000)));
            }
        }
        let start = Instant::now();
        let mount = volume.mount_with(options);
        let recovery = start.elapsed();
        for (writer, dir) in writers.iter_mut().zip(&dirs) {
            if let Err(error) = writer.verify(dir) {
                panic!("round {round}, {}, ENVELOPEFS_KILL_SEED={seed}: {error}", dir.display());
            }
        }
        mount.unmount();
        volume.assert_clean();
        operations = writers.iter().map(|writer| writer.operations).sum::<u64>().max(operations);
        eprintln!("round {round}: {operations} operations of this volume so far, mounted again in {recovery:?}");
    }
}

#[test]
fn a_kill_loses_nothing_that_was_synced_or_closed() {
    rounds(false);
}

#[test]
fn a_kill_during_recovery_leaves_it_to_the_next_mount() {
    rounds(true);
}
