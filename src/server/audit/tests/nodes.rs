//! Several nodes on one database, one of them killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;
use crate::server::audit::verify;

/// In a child: the database that it works on, and its name.
const NODE: &str = "ENVELOPEFS_TEST_AUDIT_NODE";
/// Calls that the node makes that is not killed, and calls at a time.
const CALLS: usize = 1200;
const ABREAST: usize = 24;

const LOGS: [&str; 3] = ["vpc-1", "vpc-2", "vpc-3"];

/// Makes calls and tells of each that was answered, on standard output.
async fn node(url: &str, name: &str) {
    let state = State::open(&Settings::new(url)).await.unwrap();
    let audit = Audit::start(state, Software::new(1), AuditSettings::new(name));
    println!("\nREADY");
    // Both begin together.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let calls = if name == "node-a" { usize::MAX } else { CALLS };
    let callers = (0..ABREAST).map(|caller| {
        let (audit, name) = (audit.clone(), name.to_owned());
        tokio::spawn(async move {
            for call in (caller..calls).step_by(ABREAST) {
                let (log, request) = (LOGS[call % LOGS.len()], format!("{name}-{call}"));
                let recorded = audit.record(entry(log, &request)).await.unwrap();
                // One write: lines of several threads must not mix.
                let line = format!("ANSWERED {log} {} {request}\n", recorded.seq);
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    audit.close(Duration::from_secs(30)).await;
}

#[test]
fn two_nodes_share_logs_and_one_that_is_killed_leaves_no_gap() {
    if let Some(node) = std::env::var_os(NODE) {
        let node = node.into_string().unwrap();
        let (name, url) = node.split_once(' ').unwrap();
        return block_on(self::node(url, name));
    }
    each_database(|database: Database| async move {
        let start = |name: &str| {
            let test = "server::audit::tests::nodes::two_nodes_share_logs_and_one_that_is_killed_leaves_no_gap";
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args([test, "--exact", "--nocapture"]).env(NODE, format!("{name} {}", database.url));
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            (child, lines)
        };
        // Made first: two processes that make a SQLite file at once may have to wait for each other.
        let state = database.open().await;
        let mut nodes = [start("node-a"), start("node-b")];
        for (_, lines) in &mut nodes {
            assert!(lines.any(|line| line.unwrap() == "READY"));
        }
        for (node, _) in &mut nodes {
            node.stdin.take().unwrap().write_all(b"\n").unwrap();
        }
        let [(mut killed, mut killed_lines), (mut other, other_lines)] = nodes;
        // Whoever does not read would hold the other node up.
        let other_lines = std::thread::spawn(move || other_lines.map(Result::unwrap).collect::<Vec<_>>());
        let mut answered: Vec<String> = killed_lines.by_ref().take(CALLS / 3).map(Result::unwrap).collect();
        killed.kill().unwrap();
        killed.wait().unwrap();
        // What it had written when it died counts; a last line may be cut off.
        answered.extend(killed_lines.map_while(Result::ok));
        assert!(other.wait().unwrap().success());
        answered.extend(other_lines.join().unwrap());

        let mut told = BTreeMap::new();
        for line in &answered {
            if let ["ANSWERED", log, seq, request] = line.split(' ').collect::<Vec<_>>()[..]
                && request.starts_with("node-")
            {
                let seq: u64 = seq.parse().unwrap();
                assert!(told.insert((log.to_owned(), seq), request.to_owned()).is_none(), "{log} {seq} twice");
            }
        }
        let from = |name: &str| told.values().filter(|request| request.starts_with(name)).count();
        assert_eq!(from("node-b"), CALLS);
        assert!(from("node-a") >= CALLS / 3 - 1);

        let keys = Software::new(1).key.clone().into();
        let reports = verify(&Source::State(state.clone()), &keys, None, None).await.unwrap();
        assert_eq!(
            reports.iter().map(|report| report.log.as_str()).collect::<Vec<_>>(),
            ["server", "vpc-1", "vpc-2", "vpc-3"]
        );
        let (mut unanswered, mut nodes) = (0, BTreeSet::new());
        for log in LOGS {
            for (seq, line) in lines(&state, log).await {
                let record = Record::parse(&line).unwrap();
                nodes.insert(record.chain.server_id);
                if record.call.name == HEAD {
                    continue;
                }
                match told.remove(&(log.to_owned(), seq)) {
                    Some(request) => assert_eq!(record.request_id, request),
                    // Committed, and killed before its caller was told: as many as were on the way, at most.
                    None => unanswered += 1,
                }
            }
        }
        assert!(told.is_empty(), "answered without a record: {told:?}");
        assert!(unanswered <= ABREAST, "{unanswered}");
        assert_eq!(nodes.len(), 2);
    });
}

#[test]
fn nodes_share_logs_also_where_transactions_are_serializable_by_default() {
    block_on(async {
        let database = Database::postgres();
        let stricter = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', \
                        current_database()); END $$";
        database.open().await.execute(stricter).await;
        let mut nodes = Vec::new();
        for name in ["node-a", "node-b"] {
            nodes.push(Audit::start(database.open().await, Software::new(1), AuditSettings::new(name)));
        }
        let calls = (0..200).map(|call| {
            let audit = nodes[call % 2].clone();
            tokio::spawn(async move { audit.record(entry("vpc-1", &call.to_string())).await })
        });
        let mut numbers = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            numbers.push(call.await.unwrap().unwrap().seq);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=200).collect::<Vec<_>>());
    });
}
