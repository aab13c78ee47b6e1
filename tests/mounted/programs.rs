//! Real programs: each does its usual work on a mount, verifies it by its own means, and finds it unchanged after a remount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Volume, run, scratch, sh, succeed, text};
use crate::manifest::{assert_same, manifest};
use crate::{common, over_remount, volumes};

/// Makes a tree of some 1,500 small source files, with links, modes and a few large ones, the same each time.
const SOURCE_TREE: &str = "
import os, random
rng = random.Random(7)
words = [''.join(rng.choices('abcdefghijklmnopqrstuvwxyz', k=rng.randrange(2, 9))) for _ in range(2000)]
for d in range(60):
    path = os.path.join('tree', *('dir%d' % (d >> s) for s in (4, 2, 0)))
    os.makedirs(path, exist_ok=True)
    for f in range(25):
        name = os.path.join(path, '%s-%d.c' % (words[d * 25 + f], f))
        with open(name, 'w') as out:
            for line in range(rng.choice([0, 1, 5, 50, 200, 1500])):
                out.write(' '.join(rng.choices(words, k=8)) + '\\n')
        if f == 3: os.chmod(name, 0o755)
        if f == 4: os.symlink(os.path.basename(name), name + '.link')
        if f == 5: os.link(name, name + '.twin')
        os.utime(name, ns=(10**18 + d * 10**9 + f, 10**18 + d * 10**9 + f * 7))
with open('tree/large.bin', 'wb') as out: out.write(rng.randbytes(9_000_000))
";

#[test]
fn a_source_tree_is_unpacked_compared_and_deleted() {
    let outside = scratch();
    common::python::<&str>(outside.path(), SOURCE_TREE, &[]);
    sh(outside.path(), "tar cf tree.tar --acls --xattrs tree");
    let outside = outside.path();
    over_remount(
        |dir| {
            succeed(Command::new("tar").arg("xpf").arg(outside.join("tree.tar")).current_dir(dir));
            assert_same(&manifest(&outside.join("tree")), &manifest(&dir.join("tree")));
        },
        |dir| {
            succeed(
                Command::new("diff").args(["-r", "--no-dereference"]).arg(outside.join("tree")).arg(dir.join("tree")),
            );
            assert_same(&manifest(&outside.join("tree")), &manifest(&dir.join("tree")));
            sh(dir, "tar cf - tree | tar df - && rm -rf tree && test -z \"$(ls -A)\"");
        },
    );
}

#[test]
fn deleting_everything_leaves_nothing_in_the_backing_directory() {
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    // The first mount gives the root its directory id.
    volume.mount().unmount();
    let entries = "find . -not -path './.envelopefs/targets' | sort";
    let empty = sh(volume.backing(), entries);
    let mount = volume.mount();
    common::python::<&str>(mount.path(), SOURCE_TREE, &[]);
    let long = "n".repeat(250);
    sh(
        mount.path(),
        &format!("mkdir -p {long}/{long}; echo x > {long}/{long}/{long}; ln -s $(printf 'x%.0s' {{1..4000}}) far"),
    );
    sh(mount.path(), "rm -rf -- *");
    mount.unmount();
    assert_eq!(sh(volume.backing(), entries), empty);
}

#[test]
fn git_clones_checks_switches_and_collects() {
    let outside = scratch();
    let git =
        "export GIT_AUTHOR_NAME=T GIT_AUTHOR_EMAIL=t@example.org GIT_COMMITTER_NAME=T GIT_COMMITTER_EMAIL=t@example.org
               export GIT_CONFIG_COUNT=3 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
               export GIT_CONFIG_KEY_1=gc.autoDetach GIT_CONFIG_VALUE_1=false
               export GIT_CONFIG_KEY_2=maintenance.autoDetach GIT_CONFIG_VALUE_2=false\n";
    common::python::<&str>(outside.path(), SOURCE_TREE, &[]);
    sh(
        outside.path(),
        &format!(
            "{git} git init -q -b main tree; cd tree; git add .; git commit -qm one
             git switch -qc other; find . -name '*-1?.c' -exec sed -i s/a/A/ {{}} +; git commit -qam two
             git rm -qr dir1; git commit -qm three; git switch -q main; echo more > new; git add .; git commit -qm four"
        ),
    );
    let origin = outside.path().join("tree");
    over_remount(
        |dir| {
            sh(
                dir,
                &format!(
                    "{git} git clone -q {} copy; git clone -q copy linked; cd copy; git fsck --full --strict
                     for branch in other main other main; do git switch -q $branch; git diff --exit-code; done
                     git merge -qm merged origin/other 2>/dev/null || (git merge --abort; false)
                     git gc -q; git fsck --full; git status --porcelain | (! grep .)
                     cd ../linked; git switch -q main; echo x >> new; git stash -q; git stash pop -q; git commit -qam five
                     git push -q origin HEAD:refs/heads/pushed; cd ../copy; git log --oneline pushed | grep five >/dev/null",
                    origin.display()
                ),
            );
        },
        |dir| {
            sh(
                dir,
                &format!(
                    "{git} cd copy; git fsck --full; git status --porcelain | (! grep .); git switch -q --detach origin/main
                     diff -r --no-dereference -x .git . {}; cd ../linked; git fsck --full; git diff --exit-code",
                    origin.display()
                ),
            );
        },
    );
}

#[test]
fn sqlite_with_concurrent_writers_in_both_journal_modes() {
    over_remount(
        |dir| {
            for mode in ["wal", "delete", "truncate", "persist"] {
                sh(
                    dir,
                    &format!(
                        "sqlite3 {mode}.db 'PRAGMA journal_mode={mode}; CREATE TABLE t(writer INT, n INT, body BLOB)' >/dev/null"
                    ),
                );
                let script = format!(
                    "for w in 1 2 3 4; do
                       (for n in $(seq 20); do
                          sqlite3 -cmd '.timeout 60000' {mode}.db \"BEGIN IMMEDIATE; INSERT INTO t VALUES($w, $n, randomblob(3000));
                            UPDATE t SET n = n WHERE writer = $w; COMMIT\"
                        done) &
                     done; wait
                     sqlite3 {mode}.db 'DELETE FROM t WHERE n % 5 = 0; VACUUM; INSERT INTO t VALUES(5, 1, randomblob(100000))'"
                );
                sh(dir, &script);
            }
        },
        |dir| {
            for mode in ["wal", "delete", "truncate", "persist"] {
                let said = sh(
                    dir,
                    &format!("sqlite3 {mode}.db 'PRAGMA integrity_check; SELECT count(*), sum(length(body)) FROM t'"),
                );
                assert_eq!(said, "ok\n65|292000\n", "{mode}");
            }
        },
    );
}

/// The directory of PostgreSQL's server programs, which Debian keeps off the path.
fn postgres_programs() -> PathBuf {
    PathBuf::from(sh(Path::new("/"), "ls -d /usr/lib/postgresql/*/bin | tail -1").trim())
}

/// Runs a script as the user `postgres` in its data directory's parent.
pub(crate) fn as_postgres(dir: &Path, script: &str) -> String {
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", postgres_programs().display());
    let mut command = Command::new("/usr/sbin/runuser");
    command.args(["-u", "postgres", "--", "bash", "-euo", "pipefail", "-c", script]);
    succeed(command.current_dir(dir).env("PATH", path).env("PGHOST", dir).env("PGDATA", dir.join("data")))
}

#[test]
fn postgresql_works_crashes_and_recovers_as_its_own_user() {
    // The socket's path must be short: it stands in the data directory's parent, on the mount.
    let start =
        "pg_ctl -w -s -l log start -o \"-k $PGHOST -c listen_addresses= -c shared_buffers=16MB -c max_connections=20\"";
    over_remount(
        |dir| {
            let home = dir.join("pg");
            fs::create_dir(&home).unwrap();
            succeed(Command::new("chown").arg("postgres:postgres").arg(&home));
            succeed(Command::new("chmod").arg("700").arg(&home));
            as_postgres(&home, "initdb -k --no-instructions >/dev/null");
            as_postgres(
                &home,
                &format!(
                    "{start}; pgbench -q -i -s 2 postgres 2>/dev/null; pgbench -c 4 -t 100 postgres >/dev/null 2>&1
                     pg_ctl -w -s stop -m immediate; {start}; pgbench -n -c 2 -t 50 postgres >/dev/null 2>&1
                     psql -qc 'create table seen as select count(*) from pgbench_history' postgres
                     pg_ctl -w -s stop -m fast; pg_checksums --check >/dev/null"
                ),
            );
        },
        |dir| {
            let home = dir.join("pg");
            as_postgres(&home, "pg_checksums --check >/dev/null");
            let said = as_postgres(
                &home,
                &format!(
                    "{start}; psql -Atc 'select count(*) from pgbench_accounts' postgres
                     psql -Atc 'select * from seen' postgres; pg_ctl -w -s stop -m fast"
                ),
            );
            // An immediate stop may not lose a committed transaction.
            assert_eq!(said, "200000\n500\n");
        },
    );
}

/// Everything that `rsync -aHAXS` carries.
const RSYNC_TREE: &str = "
mkdir -p src/dir/sub src/sticky; cd src
echo text > file; head -c 300000 /dev/urandom > data; ln file hard; ln data dir/hard2; ln -s file link; ln -s /nowhere/at/all dir/dangling
mkfifo fifo; mknod char c 1 3; mknod block b 7 77
truncate -s 50M sparse; printf middle | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
setfattr -n user.colour -v blue file; setfattr -n user.note -v 'on a directory' dir
setfacl -m u:1:rwx,g:12:r file; setfacl -d -m u:2:rx dir
chmod 1777 sticky; chmod 4755 data; chmod 0 dir/sub; chown 1:2 file; chown -h 3:4 link
touch -d '2001-02-03 04:05:06.123456789' file dir/sub; touch -h -d @1.5 link
for name in 'with space' $'new\\nline' $'\\x80\\xff' 'ünïcode' \"$(printf 'n%.0s' {1..240})\"; do echo x > \"$name\"; done
touch -h -d '2011-12-13 14:15:16.171819202' dir/dangling fifo char block sticky
touch -d @86400.000000001 dir .
";

#[test]
fn rsync_there_and_back_keeps_everything() {
    let outside = scratch();
    sh(outside.path(), RSYNC_TREE);
    let rsync = |from: &Path, to: &Path| {
        let mut command = Command::new("rsync");
        succeed(command.args(["-aHAXS", "--itemize-changes"]).arg(format!("{}/", from.display())).arg(to))
    };
    let source = outside.path().join("src");
    over_remount(
        |dir| {
            rsync(&source, &dir.join("there"));
            assert_same(&manifest(&source), &manifest(&dir.join("there")));
            assert_eq!(rsync(&source, &dir.join("there")), "", "nothing is left to copy");
        },
        |dir| {
            assert_same(&manifest(&source), &manifest(&dir.join("there")));
            let back = outside.path().join("back");
            rsync(&dir.join("there"), &back);
            assert_same(&manifest(&source), &manifest(&back));
            let blocks = sh(dir, "stat -c %b there/sparse");
            assert!(blocks.trim().parse::<u64>().unwrap() < 200, "a sparse file stays sparse: {blocks}");
        },
    );
}

#[test]
fn python_dotenv_reads_an_env_file() {
    let python = std::env::var("ENVELOPEFS_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let env = "DATABASE_URL=postgres://app:s3cr3t@db/prod\nexport API_KEY=\"quoted # not a comment\"\nEMPTY=\n";
    let read = |dir: &Path| {
        let script = "import json; from dotenv import dotenv_values; print(json.dumps(dotenv_values('.env')))";
        let output = run(Command::new(&python).args(["-c", script]).current_dir(dir));
        assert!(output.status.success(), "python-dotenv, which contrib/test installs, does not run: {}", text(&output));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            r#"{"DATABASE_URL": "postgres://app:s3cr3t@db/prod", "API_KEY": "quoted # not a comment", "EMPTY": ""}"#
        );
    };
    over_remount(
        |dir| {
            fs::write(dir.join(".env"), env).unwrap();
            read(dir);
        },
        read,
    );
    if !volumes() {
        return;
    }
    let volume = Volume::new();
    let mount = volume.mount();
    fs::write(mount.path().join(".env"), env).unwrap();
    mount.unmount();
    for secret in ["s3cr3t", "API_KEY", "DATABASE_URL", ".env"] {
        let found = run(Command::new("grep").args(["-rlaF", secret]).arg(volume.backing()));
        let named = sh(volume.backing(), &format!("find . -name '{secret}'"));
        assert!(found.stdout.is_empty() && named.is_empty(), "{secret} is readable in the backing directory");
    }
}
