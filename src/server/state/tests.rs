use jiff::{SignedDuration, Timestamp};

use super::testing::{Database, each_database};
use super::*;
use crate::api::{InstanceId, Tenant};

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
