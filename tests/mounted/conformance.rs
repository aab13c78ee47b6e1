//! The field's own test suites on a mount: pjdfstest (POSIX semantics, some 400 cases) and fsx (random operations on one file
//! against a model in memory).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{run, scratch, text};
use crate::on_mount;

/// The cases of pjdfstest that cannot run on a FUSE mount, with the reason; any other skip fails the test.
fn excused(case: &str) -> Option<&'static str> {
    if case.contains("erofs_named") || case.contains("erofs_new_file") {
        return Some(
            "they remount with mount(8), which restarts a FUSE filesystem; `readonly` makes the same calls on a read-only mount",
        );
    }
    match case {
        "link::link_count_max" => Some("pathconf(_PC_LINK_MAX) knows no limit for a FUSE filesystem"),
        _ => None,
    }
}

/// A tool that `cargo install` put beside cargo.
pub(crate) fn tool(name: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").map(PathBuf::from).and_then(|cargo| cargo.parent().map(|bin| bin.join(name)));
    let home = std::env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin").join(name));
    let user = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin").join(name));
    let places = [home, user, cargo];
    places.into_iter().flatten().find(|path| path.exists()).unwrap_or_else(|| PathBuf::from(name))
}

/// Terminal colours taken out.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain + rest
}

#[test]
fn pjdfstest() {
    on_mount(|dir| {
        let scratch = scratch();
        let config = scratch.path().join("pjdfstest.toml");
        fs::write(
            &config,
            r#"
            [features]
            posix_fallocate = {}
            rename_ctime = {}
            utime_now = {}
            utimensat = {}
            stat_st_birthtime = {}
            [settings]
            naptime = 0.02
            [dummy_auth]
            entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
            "#,
        )
        .unwrap();
        // Another filesystem, for EXDEV.
        let other = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut command = Command::new(tool("pjdfstest"));
        command.arg("-c").arg(&config).arg("-p").arg(dir).arg("-s").arg(other.path());
        let output = run(&mut command);
        let report = plain(&text(&output));
        let failed: Vec<&str> = report.lines().filter(|line| line.ends_with("FAILED")).collect();
        let skipped: Vec<&str> =
            report.lines().filter_map(|line| line.strip_suffix("skipped")).map(|case| case.trim()).collect();
        for case in &skipped {
            match excused(case) {
                Some(reason) => println!("skipped {case}: {reason}"),
                None => panic!("pjdfstest skips {case} without an excuse\n{report}"),
            }
        }
        let summary = report.lines().find(|line| line.starts_with("Summary")).unwrap_or("no summary");
        println!("pjdfstest {summary}");
        let details: Vec<&str> = failed.iter().flat_map(|case| details(&report, case)).collect();
        assert!(output.status.success() && failed.is_empty(), "{summary}\n{}", details.join("\n"));
        assert!(summary.contains("passed") && !summary.contains(" 0 passed"), "{report}");
    });
}

/// A failed case's line and the two behind it, where the reason stands.
fn details<'a>(report: &'a str, case: &'a str) -> Vec<&'a str> {
    report.lines().skip_while(|line| *line != case).take(4).collect()
}

/// Operations for each seed: `ENVELOPEFS_FSX_OPS`, by default as many as a minute or two allows for all eight.
fn fsx_operations() -> String {
    std::env::var("ENVELOPEFS_FSX_OPS").unwrap_or_else(|_| "8000".to_owned())
}

#[test]
fn fsx_with_eight_seeds_side_by_side() {
    on_mount(|dir| {
        let artifacts = scratch();
        let running: Vec<_> = (1..=8)
            .map(|seed| {
                // Half of the seeds stay within the first leaf of the tree, half cross into the second and third.
                let (length, operation) = if seed % 2 == 1 { (262_144, 65_536) } else { (1_300_000, 131_072) };
                let config = artifacts.path().join(format!("fsx-{seed}.toml"));
                let weights = "close_open = 1\ninvalidate = 1\nmapread = 10\nmapwrite = 10\nread = 10\nwrite = 10\n\
                     truncate = 4\nfsync = 0.2\nfdatasync = 0.2\nposix_fallocate = 2\npunch_hole = 4\nsendfile = 2\n\
                     posix_fadvise = 2\ncopy_file_range = 4\n";
                fs::write(&config, format!("flen = {length}\n[opsize]\nmax = {operation}\n[weights]\n{weights}"))
                    .unwrap();
                let mut command = Command::new(tool("fsx"));
                command.arg("-f").arg(config).args(["-N", &fsx_operations(), "-S", &seed.to_string(), "-P"]);
                command.arg(artifacts.path()).arg(dir.join(format!("fsx-{seed}")));
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                (seed, command.spawn().expect("fsx"))
            })
            .collect();
        let mut broken = Vec::new();
        for (seed, child) in running {
            let output = child.wait_with_output().unwrap();
            if !output.status.success() {
                broken.push(format!("seed {seed}: {}", text(&output)));
            }
        }
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    });
}
