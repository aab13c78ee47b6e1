//! A PostgreSQL of the test run's own: one cluster for each process, reached by a socket, a database for each test.
//!
//! A shell watches over it, which ends it and removes its files when the process is gone, however it went. Needs the Debian package postgresql;
//! run as root, it is the package's user `postgres` who starts it.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Starts the cluster in `$PWD`, and ends it at the end of the input. Without fsync: nobody cuts the power here.
const WATCH: &str = r#"
exec 2>watch.log
trap '' INT TERM HUP
trap 'pg_ctl -D data -m immediate stop >/dev/null 2>&1 || true; rm -rf "$PWD"' EXIT
umask 077
initdb -D data -U postgres -A trust -E UTF8 --no-sync --no-instructions >initdb.log
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout data/server.key -out data/server.crt -days 2 \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE
install -m 644 data/server.crt server.crt
# The user `app` shows a password; on the network there is nothing but TLS.
printf '%s\n' 'local all app scram-sha-256' 'local all all trust' 'hostssl all all 127.0.0.1/32 trust' 'hostssl all all ::1/128 trust' >data/pg_hba.conf
pg_ctl -D data -w -l log -o "-F -k '$PWD' -p $1 -c listen_addresses=localhost -c ssl=on -c max_connections=200" start >/dev/null
echo ready
cat >/dev/null
"#;

struct Cluster {
    dir: PathBuf,
    port: u16,
    // Its input is open as long as this process lives.
    _watch: Child,
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
            .expect("these tests need PostgreSQL: apt install postgresql (contrib/test does)")
            .map(|entry| entry.unwrap().path().join("bin"))
            .filter(|bin| bin.join("initdb").exists())
            .collect();
        versions.sort();
        let programs = versions.pop().expect("PostgreSQL has its server programs");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
        // Short: a socket's path has at most 107 bytes.
        let base = std::env::var_os("ENVELOPEFS_TEST_TMP").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::Builder::new().prefix("pg-").tempdir_in(base).unwrap().keep();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = if rustix::process::geteuid().is_root() {
            assert!(Command::new("chown").arg("postgres:").arg(&dir).status().unwrap().success());
            let mut command = Command::new("/usr/sbin/runuser");
            command.args(["-u", "postgres", "--", "bash"]);
            command
        } else {
            Command::new("bash")
        };
        // Free a moment ago.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        command.args(["-euo", "pipefail", "-c", WATCH, "watch", &port.to_string()]).current_dir(&dir).env("PATH", path);
        let mut watch = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash starts");
        let mut said = String::new();
        BufReader::new(watch.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n", "PostgreSQL did not start");
        Cluster { dir, port, _watch: watch }
    })
}

/// Makes a database, and returns its name.
fn create() -> (String, &'static Cluster) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let cluster = cluster();
    let mut command = Command::new("createdb");
    command.args(["-U", "postgres", "-p", &cluster.port.to_string(), "-h"]).arg(&cluster.dir).arg(&name);
    assert!(command.status().expect("createdb starts").success());
    (name, cluster)
}

/// The address of a new, empty database.
pub fn database() -> String {
    let (name, Cluster { dir, port, .. }) = create();
    format!("postgres://postgres@localhost:{port}/{name}?host={}", dir.display())
}

/// The address of a new, empty database on the network, which only TLS reaches, and the certificate to verify it by.
pub fn database_by_tls() -> (String, PathBuf) {
    let (name, Cluster { dir, port, .. }) = create();
    (format!("postgres://postgres@localhost:{port}/{name}?sslmode=verify-full"), dir.join("server.crt"))
}
