//! The workloads: each ends, as all do, without a clean stop.

use envelopefs::store::Rule;

use super::world::{Run, World};

/// A workload by its name.
#[derive(Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    steps: fn(&mut World),
}

impl Workload {
    pub fn record(&self, broken_rule: Option<Rule>) -> Run {
        self.record_in(World::new(broken_rule))
    }

    pub fn record_in(&self, mut world: World) -> Run {
        (self.steps)(&mut world);
        world.finish()
    }
}

pub const ALL: &[Workload] = &[
    Workload { name: "atomic_replace", steps: atomic_replace },
    Workload { name: "message_store", steps: message_store },
    Workload { name: "random_overwrite", steps: random_overwrite },
    Workload { name: "truncate_and_rewrite", steps: truncate_and_rewrite },
    Workload { name: "grow_through_levels", steps: grow_through_levels },
    Workload { name: "shrink", steps: shrink },
    Workload { name: "punch_and_refill", steps: punch_and_refill },
    Workload { name: "directories", steps: directories },
    Workload { name: "renamed_then_synced", steps: renamed_then_synced },
    Workload { name: "long_symlinks", steps: long_symlinks },
    Workload { name: "two_files", steps: two_files },
    Workload { name: "closed_without_fsync", steps: closed_without_fsync },
    Workload { name: "unlink_and_reuse", steps: unlink_and_reuse },
    Workload { name: "many_files", steps: many_files },
    Workload { name: "rotation", steps: rotation },
];

/// Bytes that tell where they belong: seed and place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    crate::random::Rng::new(seed).bytes(len)
}

/// Write a new file beside the old one, fsync, rename over it.
fn atomic_replace(world: &mut World) {
    for round in 0..16u64 {
        let file = world.create("config.new");
        world.write(file, 0, &pattern(round, 700 + 9000 * (round as usize % 3)));
        world.fsync(file);
        world.close(file);
        world.rename("config.new", "config");
        if round % 2 == 1 {
            world.fsync_dir("");
        }
    }
    // And without fsync, as many programs do: the old contents or the new ones.
    for round in 16..28u64 {
        let file = world.create("config.new");
        world.write(file, 0, &pattern(round, 6000));
        world.close(file);
        world.rename("config.new", "config");
    }
}

/// Headers rewrapped while files are written: open ones, closed ones, and ones with images in the journal.
fn rotation(world: &mut World) {
    world.mkdir("settled");
    for n in 0..4u64 {
        let file = world.create(&format!("settled/{n}"));
        world.write(file, 0, &pattern(n, 300 + 4000 * n as usize));
        world.fsync(file);
        world.close(file);
    }
    world.commit_all();
    let log = world.create("log");
    let table = world.create("table");
    world.write(table, 0, &pattern(20, 30_000));
    world.fsync(table);
    for round in 0..6u64 {
        world.write(log, round * 600, &pattern(100 + round, 600));
        world.write(table, 4096 * round, &pattern(200 + round, 5000));
        match round % 3 {
            0 => world.fsync(table),
            1 => world.flush(table),
            _ => world.fdatasync(log),
        }
        if round % 2 == 1 {
            world.rotate(round as u8 + 1);
        }
        let file = world.open(&format!("settled/{}", round % 4));
        world.write(file, 100, &pattern(300 + round, 200));
        if round % 2 == 0 {
            world.fsync(file);
        }
        world.close(file);
        world.rename(&format!("settled/{}", round % 4), "moved");
        world.rename("moved", &format!("settled/{}", round % 4));
    }
    world.close(log);
    world.close(table);
}

/// Appends of 512 bytes, each durable before the next.
fn message_store(world: &mut World) {
    let file = world.create("messages");
    for message in 0..40u64 {
        world.write(file, message * 512, &pattern(message, 512));
        if message % 2 == 0 { world.fsync(file) } else { world.fdatasync(file) }
    }
    world.close(file);
}

fn random_overwrite(world: &mut World) {
    let mut rng = crate::random::Rng::new(3);
    let file = world.create("database");
    world.write(file, 0, &pattern(100, 200_000));
    world.fsync(file);
    for round in 0..30u64 {
        for part in 0..=rng.below(3) {
            let (at, len) = (rng.below(195_000), 1 + rng.below(9000) as usize);
            world.write(file, at, &pattern(1000 + 10 * round + part, len.min(200_000 - at as usize)));
        }
        match rng.below(4) {
            0 => world.flush(file),
            1 => world.fdatasync(file),
            _ => world.fsync(file),
        }
        if round % 10 == 9 {
            world.commit_all();
        }
    }
    world.close(file);
}

fn truncate_and_rewrite(world: &mut World) {
    for round in 0..8u64 {
        let file = if round == 0 { world.create("notes") } else { world.open_truncated("notes") };
        world.write(file, 0, &pattern(round, 3000 + 4000 * (round as usize % 4)));
        if round % 3 != 2 {
            world.fsync(file);
        }
        world.write(file, 1000, &pattern(50 + round, 5000));
        if round % 2 == 0 {
            world.fsync(file);
        }
        world.close(file);
    }
    world.commit_all();
    world.truncate("notes", 0);
    let file = world.open("notes");
    world.write(file, 5000, &pattern(99, 300));
    world.fdatasync(file);
    world.close(file);
}

/// Inline, one, two and three levels of the tree, with holes between.
fn grow_through_levels(world: &mut World) {
    let file = world.create("sparse");
    let places =
        [0, 100, 3700, 3812, 5000, 9000, 100_000, 520_000, 524_288, 900_000, 9 << 20, 64 << 20, (64 << 20) + 5000];
    for (round, at) in places.into_iter().enumerate() {
        world.write(file, at, &pattern(round as u64, 200 + 500 * (round % 3)));
        match round % 3 {
            0 => world.fsync(file),
            1 => world.flush(file),
            _ => world.fdatasync(file),
        }
        if round > 5 {
            world.write(file, 2000 * round as u64, &pattern(70 + round as u64, 5000));
            world.fdatasync(file);
        }
    }
    world.commit_all();
    world.truncate("sparse", 70 << 20);
    world.fsync(file);
    world.close(file);
}

fn shrink(world: &mut World) {
    let file = world.create("log");
    world.write(file, 0, &pattern(1, 620_000));
    world.fsync(file);
    for (round, len) in [600_000, 524_300, 524_288, 400_000, 40_960, 9000, 4096, 3812, 100].into_iter().enumerate() {
        world.truncate("log", len);
        if round % 2 == 0 {
            world.fsync(file);
        }
        // Grown again over what was cut off.
        world.write(file, len, &pattern(10 + round as u64, 6000));
        match round % 3 {
            0 => world.flush(file),
            1 => world.fsync(file),
            _ => {}
        }
    }
    world.commit_all();
    world.truncate("log", 0);
    world.write(file, 0, &pattern(50, 8000));
    world.fsync(file);
    world.close(file);
}

fn punch_and_refill(world: &mut World) {
    let file = world.create("image");
    world.write(file, 0, &pattern(1, 120_000));
    world.fsync(file);
    for round in 0..10u64 {
        let at = 4096 * (2 * round);
        world.punch(file, at, 16_384 + 100 * round);
        if round % 2 == 0 {
            world.fsync(file);
        }
        world.write(file, at + 4096, &pattern(20 + round, 5000));
        match round % 3 {
            0 => world.fdatasync(file),
            1 => world.commit_all(),
            _ => world.flush(file),
        }
        world.zero(file, at + 3000, 8192);
        if round % 4 == 3 {
            world.fsync(file);
        }
    }
    world.zero(file, 110_000, 30_000);
    world.fsync(file);
    world.close(file);
}

/// The same in several places, so that more than one is unfinished at a time.
fn directories(world: &mut World) {
    for top in ["one", "two", "three", "four"] {
        world.mkdir(top);
        work_below(world, top);
    }
}

fn work_below(world: &mut World, top: &str) {
    let below = |path: &str| format!("{top}/{path}");
    let long = "l".repeat(240);
    world.mkdir(&below("a"));
    world.mkdir(&below("a/b"));
    world.mkdir(&below("a/b/c"));
    world.symlink(&below("a/b/link"), "somewhere");
    world.symlink(&below("a/far"), &"target/".repeat(500));
    let file = world.create(&below(&format!("a/b/{long}")));
    world.write(file, 0, &pattern(1, 5000));
    world.fsync(file);
    world.close(file);
    world.fsync_dir(&below("a"));
    world.link(&below(&format!("a/b/{long}")), &below("a/second"));
    world.rename(&below("a/b"), &below("moved"));
    world.fsync_dir(&below("moved"));
    let other = world.create(&below("moved/c/file"));
    world.write(other, 0, &pattern(2, 100));
    world.close(other);
    world.rename(&below("moved/c/file"), &below("a/file"));
    world.mkdir(&below(&long));
    world.rename(&below("a/second"), &below(&format!("{long}/third")));
    world.exchange(&below("a/file"), &below(&format!("moved/{long}")));
    world.rmdir(&below("moved/c"));
    world.commit_all();
    world.unlink(&below("moved/link"));
    let file = world.open(&below("a/file"));
    world.rename(&below(&format!("{long}/third")), &below(&format!("{long}/{}", "m".repeat(200))));
    world.write(file, 4000, &pattern(3, 400));
    world.fsync(file);
    world.close(file);
    world.mkdir(&below("empty"));
    world.rename(&below("moved"), &below("empty"));
    world.fsync_dir(top);
}

/// Renamed and linked while nobody has it open; then an fsync, which covers the names as well.
fn renamed_then_synced(world: &mut World) {
    for round in 0..6u64 {
        let name = format!("file{round}");
        let file = world.create("new");
        world.write(file, 0, &pattern(round, 5000));
        world.fsync(file);
        world.close(file);
        if round % 2 == 0 {
            world.rename("new", &name)
        } else {
            world.link("new", &name)
        }
        let file = world.open(&name);
        if round % 3 == 0 {
            world.write(file, 100, &pattern(10 + round, 2000));
        }
        world.fsync(file);
        world.close(file);
        if round % 2 == 1 {
            world.unlink("new");
        }
    }
}

/// Targets that have files of their own, in another directory.
fn long_symlinks(world: &mut World) {
    let target = |round: u64| format!("{round}/{}", "target/".repeat(500));
    world.mkdir("a");
    let file = world.create("a/file");
    for round in 0..10 {
        world.symlink("a/far", &target(round));
        world.write(file, 2000 * round, &pattern(round, 3000));
        world.symlink(&format!("a/further{round}"), &target(100 + round));
        world.flush(file);
        world.rename("a/far", "near");
        world.write(file, 1000 * round, &pattern(50 + round, 6000));
        if round % 3 == 2 {
            world.fsync(file);
        }
        world.unlink("near");
        if round > 0 {
            world.rename(&format!("a/further{round}"), &format!("a/further{}", round - 1));
        }
    }
    world.close(file);
}

/// Two files written in turn, so that their records mix in the journal.
fn two_files(world: &mut World) {
    let (one, two) = (world.create("one"), world.create("two"));
    world.write(one, 0, &pattern(1, 30_000));
    world.write(two, 0, &pattern(2, 50_000));
    world.fsync(one);
    world.fsync(two);
    for round in 0..14u64 {
        world.write(one, 4096 * (round % 7), &pattern(10 + round, 3000));
        world.write(two, 5000 * (round % 9), &pattern(40 + round, 7000));
        match round % 5 {
            0 => world.fsync(one),
            1 => world.fdatasync(two),
            2 => world.flush(one),
            3 => world.flush(two),
            _ => world.commit_all(),
        }
    }
    world.rename("one", "three");
    world.write(one, 20_000, &pattern(90, 20_000));
    world.fsync(one);
    world.close(one);
    world.close(two);
}

fn closed_without_fsync(world: &mut World) {
    for round in 0..6u64 {
        let name = format!("file{}", round % 4);
        let file = if round < 4 { world.create(&name) } else { world.open(&name) };
        world.write(file, 0, &pattern(round, 2000 + 7000 * round as usize));
        world.close(file);
        if round == 2 {
            world.commit_all();
        }
    }
    for round in 0..8u64 {
        let file = world.open(&format!("file{}", round % 4));
        world.write(file, 3000 * round, &pattern(20 + round, 4500));
        world.close(file);
        if round % 3 == 2 {
            world.commit_all();
        }
    }
}

/// Names, inode numbers and blocks that are used again.
fn unlink_and_reuse(world: &mut World) {
    let keep = world.create("keep");
    world.write(keep, 0, &pattern(1, 10_000));
    world.fsync(keep);
    for round in 0..6u64 {
        let file = world.create("temporary");
        world.write(file, 0, &pattern(10 + round, 9000));
        world.fsync(file);
        world.write(file, 2000, &pattern(20 + round, 4000));
        match round % 3 {
            0 => world.fsync(file),
            1 => world.flush(file),
            _ => {}
        }
        if round % 2 == 0 {
            world.close(file);
            world.unlink("temporary");
        } else {
            world.unlink("temporary");
            world.write(file, 0, &pattern(30 + round, 100));
            world.fsync(file);
            world.close(file);
        }
        world.write(keep, 1000 * round, &pattern(40 + round, 5000));
        world.fdatasync(keep);
    }
    world.close(keep);
}

/// More images than the journal holds: it fills, checkpoints and begins anew.
fn many_files(world: &mut World) {
    let files: Vec<_> = (0..12).map(|n| world.create(&format!("f{n}"))).collect();
    for (n, file) in files.iter().enumerate() {
        world.write(*file, 0, &pattern(n as u64, 300_000));
    }
    world.commit_all();
    for round in 0..5u64 {
        for (n, file) in files.iter().enumerate() {
            let seed = 100 * (round + 1) + n as u64;
            world.write(*file, 4096 * (10 * round + n as u64), &pattern(seed, 120_000));
            match (round + n as u64) % 4 {
                0 => world.fsync(*file),
                1 => world.fdatasync(*file),
                _ => world.flush(*file),
            }
        }
    }
    for file in files {
        world.close(file);
    }
}
