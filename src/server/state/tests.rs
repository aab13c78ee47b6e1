use jiff::{SignedDuration, Timestamp};

use std::sync::Arc;

use super::testing::{Database, block_on, each_database};
use super::*;
use crate::api::signature::SigningKeys;
use crate::api::{InstanceId, Tenant};
use crate::server::audit::testing::{Software, entry};
use crate::server::audit::{Audit, AuditSettings, Sink, Source, verify};

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

#[test]
fn tenants_come_back_as_they_were_added() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let policy = serde_json::json!({"convert": "off", "identities": [{"token": {}}], "text": "é\u{0}"});
        state.add_tenant(&tenant("b"), "1", &policy).await.unwrap();
        state.add_tenant(&tenant("a"), "2", &serde_json::json!({})).await.unwrap();
        let again = state.add_tenant(&tenant("a"), "2", &policy).await;
        assert!(matches!(again, Err(StateError::Exists(_))));
        assert!(matches!(state.add_tenant(&tenant("server"), "1", &policy).await, Err(StateError::Refused(_))));
        assert!(matches!(state.add_tenant(&tenant("c"), "A\n", &policy).await, Err(StateError::Refused(_))));
        state.set_tenant_active(&tenant("b"), false).await.unwrap();
        state.set_tenant_policy(&tenant("a"), &policy).await.unwrap();
        assert!(matches!(state.set_tenant_active(&tenant("c"), false).await, Err(StateError::Missing(_))));
        let all = state.tenants().await.unwrap();
        assert_eq!(all.iter().map(|t| (t.id.as_str(), t.active)).collect::<Vec<_>>(), [("a", true), ("b", false)]);
        assert_eq!(all[0].policy, policy);
        assert_eq!(state.tenant(&tenant("b")).await.unwrap().as_ref(), Some(&all[1]));
        assert_eq!(state.tenant(&tenant("c")).await.unwrap(), None);
        // A later start finds all of it.
        state.close().await;
        assert_eq!(database.open().await.tenants().await.unwrap(), all);
    });
}

#[test]
fn of_many_first_customer_keys_one_wins() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        state.add_domain_key([1; 16]).await.unwrap();
        state.add_tenant(&tenant("a"), "1", &serde_json::json!({})).await.unwrap();
        assert_eq!(state.customer_key(&tenant("a")).await.unwrap(), None);
        let makers = (0..20_u8).map(|at| {
            let state = state.clone();
            tokio::spawn(
                async move { state.insert_first_customer_key(&tenant("a"), [1; 16], &[at; 80]).await.unwrap() },
            )
        });
        let mut seen = Vec::new();
        for maker in makers.collect::<Vec<_>>() {
            seen.push(maker.await.unwrap());
        }
        assert!(seen.iter().all(|key| *key == seen[0] && key.version == 1));
        let unknown = state.insert_first_customer_key(&tenant("b"), [1; 16], &[1]).await;
        assert!(matches!(unknown, Err(StateError::Database(_))), "{unknown:?}");
    });
}

#[test]
fn customer_keys_have_versions_and_are_rewrapped_only_from_what_they_are() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let a = tenant("a");
        state.add_domain_key([1; 16]).await.unwrap();
        state.add_tenant(&a, "1", &serde_json::json!({})).await.unwrap();
        let key = |version, wrapped| CustomerKeyRecord { version, domain: [1; 16], wrapped: vec![wrapped] };
        assert!(matches!(state.add_customer_key(&a, &key(1, 0)).await, Err(StateError::Missing(_))));
        let first = state.insert_first_customer_key(&a, [1; 16], &[1]).await.unwrap();
        assert!(matches!(state.add_customer_key(&a, &key(3, 3)).await, Err(StateError::Missing(_))));
        state.add_customer_key(&a, &key(2, 2)).await.unwrap();
        assert!(state.add_customer_key(&a, &key(2, 3)).await.is_err());
        assert_eq!(state.customer_key(&a).await.unwrap(), Some(key(2, 2)));
        assert_eq!(state.customer_key_version(&a, 1).await.unwrap(), Some(first.clone()));

        state.add_domain_key([2; 16]).await.unwrap();
        assert_eq!(state.domain_key().await.unwrap(), Some([2; 16]));
        assert!(matches!(state.remove_domain_key([1; 16]).await, Err(StateError::Missing(_))));
        for (tenant, old) in state.customer_keys_under([1; 16], 10).await.unwrap() {
            state.replace_customer_key(&tenant, &old, [2; 16], &[9]).await.unwrap();
            let again = state.replace_customer_key(&tenant, &old, [2; 16], &[8]).await;
            assert!(matches!(again, Err(StateError::Missing(_))));
        }
        let expected = CustomerKeyRecord { version: 1, domain: [2; 16], wrapped: vec![9] };
        assert_eq!(state.customer_key_version(&a, 1).await.unwrap(), Some(expected));
        let keys = state.domain_keys().await.unwrap();
        assert_eq!(keys, [([1; 16], KeyState::Retired, 0), ([2; 16], KeyState::Current, 2)]);
        state.remove_domain_key([1; 16]).await.unwrap();
        assert!(matches!(state.remove_domain_key([2; 16]).await, Err(StateError::Missing(_))));

        let versions: Vec<_> = state.customer_keys().await.unwrap().into_iter().map(|(_, key)| key.version).collect();
        assert_eq!(versions, [1, 2]);
        assert!(matches!(state.remove_customer_key(&a, 2).await, Err(StateError::Missing(_))), "the newest seals");
        state.remove_customer_key(&a, 1).await.unwrap();
        assert!(matches!(state.remove_customer_key(&a, 1).await, Err(StateError::Missing(_))));
        assert_eq!(state.customer_key_version(&a, 1).await.unwrap(), None);
        assert_eq!(state.customer_keys().await.unwrap().len(), 1);
    });
}

#[test]
fn signing_keys_follow_each_other() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        assert_eq!(state.signing_key().await.unwrap(), None);
        assert!(matches!(
            state.add_signing_key([1; 16], b"1", Some(([0; 16], b"e"))).await,
            Err(StateError::Missing(_))
        ));
        state.add_signing_key([1; 16], b"1", None).await.unwrap();
        assert!(matches!(state.add_signing_key([2; 16], b"2", None).await, Err(StateError::Missing(_))));
        assert!(matches!(
            state.add_signing_key([1; 16], b"2", Some(([1; 16], b"e"))).await,
            Err(StateError::Exists(_))
        ));
        state.add_signing_key([2; 16], b"2", Some(([1; 16], b"e"))).await.unwrap();
        let keys = state.signing_keys().await.unwrap();
        assert_eq!(keys.iter().map(|key| key.id[0]).collect::<Vec<_>>(), [1, 2]);
        assert!(keys[0].retired_at.is_some() && keys[0].state == KeyState::Retired && keys[0].endorsement.is_none());
        assert_eq!(keys[1].endorsement, Some(([1; 16], b"e".to_vec())));
        assert_eq!(state.signing_key().await.unwrap().as_ref(), Some(&keys[1]));
    });
}

#[test]
fn tokens_are_found_by_their_hash_and_can_be_taken_back() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let (a, instances) = (tenant("a"), ["i-1", "I-2"].map(|id| id.parse::<InstanceId>().unwrap()));
        state.add_tenant(&a, "1", &serde_json::json!({})).await.unwrap();
        let expires_at = Some(Timestamp::from_second(2_000_000_000).unwrap());
        let new = NewToken { hash: [1; 32], tenant: &a, instances: &instances, expires_at };
        state.add_token(&new).await.unwrap();
        assert!(matches!(state.add_token(&new).await, Err(StateError::Exists(_))));
        state.add_token(&NewToken { hash: [2; 32], expires_at: None, ..new }).await.unwrap();
        let token = state.token(&[1; 32]).await.unwrap().unwrap();
        assert_eq!((token.expires_at, token.disabled, &token.instances[..]), (expires_at, false, &instances[..]));
        state.disable_token(&[1; 32]).await.unwrap();
        assert!(state.token(&[1; 32]).await.unwrap().unwrap().disabled);
        assert_eq!(state.token(&[3; 32]).await.unwrap(), None);
        assert!(matches!(state.disable_token(&[3; 32]).await, Err(StateError::Missing(_))));
        assert_eq!(state.tokens(&a).await.unwrap().len(), 2);
    });
}

#[test]
fn a_challenge_is_taken_once_in_time_and_by_whom_it_is_for() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        let (a, b) = (tenant("a"), tenant("b"));
        let (one, other) = ("i-1".parse().unwrap(), "i-2".parse().unwrap());
        let soon = Timestamp::now() + SignedDuration::from_secs(60);
        let challenge = |nonce, expires_at| Challenge { nonce: [nonce; 32], tenant: &a, instance: &one, expires_at };
        state.put_challenge(&challenge(1, soon)).await.unwrap();
        state.put_challenge(&challenge(2, Timestamp::now() - SignedDuration::from_secs(10))).await.unwrap();
        assert!(!state.take_challenge(&[2; 32], &a, &one).await.unwrap(), "over");
        assert!(!state.take_challenge(&[1; 32], &b, &one).await.unwrap(), "another tenant");
        assert!(!state.take_challenge(&[1; 32], &a, &other).await.unwrap(), "another instance");
        assert!(!state.take_challenge(&[3; 32], &a, &one).await.unwrap(), "never given");
        let takers = (0..10).map(|_| {
            let (state, a) = (state.clone(), a.clone());
            tokio::spawn(async move { state.take_challenge(&[1; 32], &a, &"I-1".parse().unwrap()).await.unwrap() })
        });
        let mut taken = 0;
        for taker in takers.collect::<Vec<_>>() {
            taken += usize::from(taker.await.unwrap());
        }
        assert_eq!(taken, 1);
        // The newest ones stay.
        for at in 10..60 {
            state.put_challenge(&challenge(at, soon + SignedDuration::from_secs(i64::from(at)))).await.unwrap();
        }
        assert!(!state.take_challenge(&[43; 32], &a, &one).await.unwrap());
        assert!(state.take_challenge(&[44; 32], &a, &one).await.unwrap());
    });
}

#[test]
fn a_newer_database_is_refused() {
    each_database(|database: Database| async move {
        let state = database.open().await;
        sqlx::query("INSERT INTO state_version (version) VALUES (99)").execute(&state.pool).await.unwrap();
        state.close().await;
        let error = State::open(&Settings::new(&database.url)).await.unwrap_err();
        assert!(matches!(error, StateError::Newer { found: 99, .. }), "{error}");
        assert!(error.to_string().contains("version 99"));
    });
}

#[test]
fn an_address_that_is_not_safe_is_refused_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let open = std::fs::File::create(dir.path().join("open")).unwrap();
    open.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (open, none) = (dir.path().join("open"), dir.path().join("none/state"));
    block_on(async {
        for (url, fact) in [
            ("mysql://host/db", "neither sqlite"),
            ("sqlite:state", "no absolute path"),
            (&format!("sqlite:{}", open.display()), "accessible to others (mode 644)"),
            (&format!("sqlite:{}", none.display()), "cannot be opened"),
            ("postgres://user:hunter2@localhost/db", "password"),
            ("postgres://user@localhost/db?password=hunter2", "password"),
            ("postgres://user@db.example/db", "not be verified"),
            ("postgres://user@db.example/db?sslmode=require", "not be verified"),
            ("postgres://user@localhost/db?host=db.example", "not be verified"),
            ("postgres://user@db.example/db?sslmode=verify-full", "sslrootcert"),
            ("postgres://[::bad/db", "cannot be parsed"),
        ] {
            let error = State::open(&Settings::new(url)).await.unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, StateError::Setup { .. }) && text.contains(fact), "{url}: {text}");
            assert!(!text.contains("hunter2"));
        }
        let url = "postgres://user@localhost/db?host=/nowhere";
        for (name, text, mode) in [("open", "secret", 0o644), ("empty", "\n", 0o600)] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            let error = State::open(&Settings { password_file: Some(path), ..Settings::new(url) }).await.unwrap_err();
            assert!(matches!(error, StateError::Setup { .. }) && !error.to_string().contains("secret"), "{error}");
        }
    });
}

#[test]
fn the_password_comes_from_its_file() {
    block_on(async {
        let database = Database::postgres();
        let state = database.open().await;
        state.execute("DROP ROLE IF EXISTS app; CREATE ROLE app LOGIN SUPERUSER PASSWORD 'p@ss:word/?'").await;
        let dir = tempfile::tempdir().unwrap();
        let url = database.url.replace("postgres@", "app@");
        for (text, right) in [("p@ss:word/?\n", true), ("p@ss\n", false)] {
            let path = dir.path().join("password");
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            let opened = State::open(&Settings { password_file: Some(path), ..Settings::new(&url) }).await;
            match opened {
                Ok(_) => assert!(right),
                Err(error) => assert!(!right && matches!(error, StateError::Setup { .. }), "{error:?}"),
            }
        }
    });
}

#[test]
fn a_database_on_the_network_is_reached_by_tls_that_is_verified() {
    block_on(async {
        let (url, certificate) = testing::postgres::database_by_tls();
        let with = |root: &std::path::Path| Settings::new(&format!("{url}&sslrootcert={}", root.display()));
        let state = State::open(&with(&certificate)).await.unwrap();
        let row =
            sqlx::query("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetch_one(&state.pool).await;
        assert!(sqlx::Row::get::<String, _>(&row.unwrap(), 0).starts_with("TLSv1."));
        // Another authority.
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("ca.pem");
        std::fs::write(&other, rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem())
            .unwrap();
        let error = State::open(&with(&other)).await.unwrap_err();
        assert!(matches!(error, StateError::Away(_)), "{error:?}");
    });
}

#[test]
fn a_database_that_is_away_is_an_error_soon() {
    block_on(async {
        // Takes connections, and says nothing.
        let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let start = std::time::Instant::now();
        for url in [format!("postgres://u@127.0.0.1:{port}/db"), "postgres://u@localhost/db?host=/nowhere".into()] {
            let timeout = std::time::Duration::from_secs(1);
            let error = State::open(&Settings { timeout, ..Settings::new(&url) }).await.unwrap_err();
            assert!(matches!(error, StateError::Away(_)), "{error:?}");
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(10));
    });
}

#[test]
fn the_file_of_the_state_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    block_on(async {
        let database = Database::sqlite();
        let state = database.open().await;
        state.add_tenant(&tenant("a"), "1", &serde_json::json!({})).await.unwrap();
        let file = std::path::PathBuf::from(database.url.strip_prefix("sqlite:").unwrap());
        for entry in std::fs::read_dir(file.parent().unwrap()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
        // What a commit promises is only as good as these.
        let row = sqlx::query("PRAGMA synchronous").fetch_one(&state.pool).await.unwrap();
        assert_eq!(sqlx::Row::get::<i64, _>(&row, 0), 2);
        let row = sqlx::query("PRAGMA journal_mode").fetch_one(&state.pool).await.unwrap();
        assert_eq!(sqlx::Row::get::<String, _>(&row, 0), "wal");
    });
}

/// Something of everything; and copies of the log, beyond the backup by `later` records.
async fn filled(state: &State, copies: &std::path::Path) -> (Arc<Software>, Audit) {
    let (a, one) = (tenant("a"), ["i-1".parse::<InstanceId>().unwrap()]);
    state.add_tenant(&a, "1", &serde_json::json!({"text": "é"})).await.unwrap();
    state.add_domain_key([1; 16]).await.unwrap();
    state.add_signing_key([1; 16], b"1", None).await.unwrap();
    state.add_signing_key([2; 16], b"2", Some(([1; 16], b"e"))).await.unwrap();
    state.insert_first_customer_key(&a, [1; 16], &[0xff; 80]).await.unwrap();
    state.add_token(&NewToken { hash: [1; 32], tenant: &a, instances: &one, expires_at: None }).await.unwrap();
    let signer = Software::new(1);
    let sinks = vec![Sink::directory("files", copies).unwrap()];
    let before_answer = vec!["files".into()];
    let settings = AuditSettings { sinks, before_answer, ..AuditSettings::new("node-1") };
    let audit = Audit::start(state.clone(), signer.clone(), settings);
    for at in 0..1100_u32 {
        // More than a page.
        if at % 100 == 0 {
            let calls = (0..100).map(|_| audit.record(entry("a", "1")));
            futures_util::future::try_join_all(calls).await.unwrap();
        }
    }
    audit.record(entry("b", "1")).await.unwrap();
    (signer, audit)
}

#[test]
fn a_backup_moves_everything_to_either_database() {
    each_database(|database: Database| async move {
        let dir = tempfile::tempdir().unwrap();
        let state = database.open().await;
        let (signer, audit) = filled(&state, dir.path()).await;
        audit.close(std::time::Duration::from_secs(30)).await;
        let file = tempfile::tempdir().unwrap();
        let path = file.path().join("backup");
        let rows = state.backup(&path).await.unwrap().rows;
        assert!(rows > 1100);
        assert!(matches!(state.backup(&path).await, Err(ExportError::File { .. })), "never overwritten");
        let keys = signer.key.clone().into();
        for other in [Database::sqlite(), Database::postgres()] {
            let restored = other.open().await;
            assert_eq!(restored.restore(&path, &Continue::Here).await.unwrap().rows, rows);
            let again = restored.restore(&path, &Continue::Here).await;
            assert!(matches!(again, Err(ExportError::NotEmpty("tenants"))), "{again:?}");
            assert_eq!(restored.tenants().await.unwrap(), state.tenants().await.unwrap());
            assert_eq!(restored.signing_keys().await.unwrap(), state.signing_keys().await.unwrap());
            assert_eq!(restored.heads().await.unwrap(), state.heads().await.unwrap());
            assert_eq!(restored.tokens(&tenant("a")).await.unwrap(), state.tokens(&tenant("a")).await.unwrap());
            let report = verify(&Source::State(restored.clone()), &keys, None, None).await.unwrap();
            assert_eq!(report, verify(&Source::State(state.clone()), &keys, None, None).await.unwrap());
            // The same file comes out again, but for the time.
            let second = file.path().join(if restored.is_shared() { "p" } else { "s" });
            restored.backup(&second).await.unwrap();
            let body = |path: &std::path::Path| {
                let text = std::fs::read_to_string(path).unwrap();
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.pop();
                lines.remove(0);
                lines
            };
            assert!(body(&second) == body(&path));
            assert!(restored.behind("files").await.unwrap().is_empty());
        }
    });
}

#[test]
fn after_an_older_backup_no_number_is_given_out_again() {
    each_database(|database: Database| async move {
        let dir = tempfile::tempdir().unwrap();
        let state = database.open().await;
        let (signer, audit) = filled(&state, dir.path()).await;
        let file = tempfile::tempdir().unwrap();
        let path = file.path().join("backup");
        state.backup(&path).await.unwrap();
        for log in ["a", "a", "a", "c"] {
            audit.record(entry(log, "later")).await.unwrap();
        }
        let keys: SigningKeys = signer.key.clone().into();
        let copies = || Source::Sink(Sink::directory("files", dir.path()).unwrap());

        let database = Database::sqlite();
        let restored = database.open().await;
        let moved = restored.restore(&path, &Continue::After(vec![copies()], keys.clone())).await.unwrap();
        let brought: Vec<_> = moved.brought_in.iter().map(|(log, count)| (log.as_str(), *count)).collect();
        assert_eq!(brought, [("a", 3), ("c", 1)]);
        assert_eq!(restored.heads().await.unwrap(), state.heads().await.unwrap());
        let after = Audit::start(restored.clone(), signer.clone(), AuditSettings::new("node-2"));
        assert_eq!(after.record(entry("a", "after")).await.unwrap().seq, 1104);
        verify(&Source::State(restored), &keys, None, None).await.unwrap();

        // Without copies: a gap, which is told.
        let database = Database::sqlite();
        let restored = database.open().await;
        restored.restore(&path, &Continue::Above(2000)).await.unwrap();
        let sink = tempfile::tempdir().unwrap();
        let sinks = vec![Sink::directory("files", sink.path()).unwrap()];
        let after =
            Audit::start(restored.clone(), signer.clone(), AuditSettings { sinks, ..AuditSettings::new("node-2") });
        assert_eq!(after.record(entry("a", "after")).await.unwrap().seq, 2001);
        let error = verify(&Source::State(restored.clone()), &keys, None, None).await.unwrap_err().to_string();
        assert_eq!(error, "log a: records 1101 to 2000 are missing");
        let start = std::time::Instant::now();
        while !restored.behind("files").await.unwrap().iter().all(|(log, ..)| log.as_str() != "a") {
            assert!(start.elapsed() < std::time::Duration::from_secs(20), "what follows the gap is copied");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(sink.path().join("a/000002001.json").exists());

        // Copies that are not right, or of another key, restore nothing.
        let copy = dir.path().join("a/000001102.json");
        std::fs::write(&copy, std::fs::read_to_string(&copy).unwrap().replace("later", "Later")).unwrap();
        let other: SigningKeys = Software::new(2).key.clone().into();
        for keys in [keys, other] {
            let database = Database::sqlite();
            let restored = database.open().await;
            let refused = restored.restore(&path, &Continue::After(vec![copies()], keys)).await;
            assert!(matches!(refused, Err(ExportError::Copies(_))), "{refused:?}");
            assert!(restored.tenants().await.unwrap().is_empty() && restored.heads().await.unwrap().is_empty());
        }
    });
}

#[test]
fn a_damaged_backup_restores_nothing() {
    block_on(async {
        let database = Database::sqlite();
        let state = database.open().await;
        state.add_tenant(&tenant("a"), "1", &serde_json::json!({})).await.unwrap();
        state.add_domain_key([1; 16]).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("backup");
        state.backup(&path).await.unwrap();
        let whole = std::fs::read(&path).unwrap();
        let database = Database::sqlite();
        let restored = database.open().await;
        let mut cases: Vec<Vec<u8>> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            cases.push(changed);
        }
        cases.push([&whole[..], b"\n"].concat());
        cases.push(vec![b' '; 5 << 20]);
        for case in cases {
            std::fs::write(&path, &case).unwrap();
            let error = restored.restore(&path, &Continue::Here).await;
            assert!(matches!(error, Err(ExportError::Damaged { .. })), "{error:?} {}", String::from_utf8_lossy(&case));
        }
        assert!(restored.tenants().await.unwrap().is_empty());
        std::fs::write(&path, &whole).unwrap();
        restored.restore(&path, &Continue::Here).await.unwrap();
    });
}
