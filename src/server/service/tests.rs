//! Whole calls on SoftHSM and SQLite, without HTTP: answers, refusals with their records, and what becomes of a call when something is away.
//! Each test is a process of its own (tests/common/softhsm.rs).

use std::sync::atomic::Ordering;

use aws_lc_rs::rsa::KeySize;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::*;
use crate::api::canonical::endorsement_text;
use crate::api::signature::{Padding, SigningKeys};
use crate::api::{Asked, Evidence};
use crate::attest::Product;
use crate::attest::simulated::Machine;
use crate::attest::verify::tests::Chip;
use crate::crypto::sha256;
use crate::server::audit::testing::Software;
use crate::server::audit::{AuditSettings, Record};
use crate::server::hsm::softhsm::{self, MODULE, PIN, SoftHsm};
use crate::server::hsm::testing::{self, Caller as OneTimeKey, Hsm};
use crate::server::hsm::{HsmSettings, Pin};
use crate::server::random::Rng;
use crate::server::state::NewToken;
use crate::server::state::testing::{Database, block_on};

macro_rules! own_process {
    ($name:ident, |$softhsm:ident| $body:block) => {
        #[test]
        fn $name() {
            softhsm::in_child(concat!("server::service::tests::", stringify!($name)), |$softhsm: &SoftHsm| {
                block_on(async { $body })
            });
        }
    };
}

/// A server with two tenants. Each has the instances i-1 and i-2, with the tokens `TENANT-1` and `TENANT-2`.
struct World {
    service: Arc<Service>,
    state: State,
    audit: Audit,
    cluster: Arc<Cluster>,
    signing: KeyId,
    keys: SigningKeys,
    key: OneTimeKey,
    _database: Database,
}

impl World {
    async fn new(softhsm: &SoftHsm) -> World {
        softhsm.token("hsm");
        World::with(&testing::settings(softhsm, "hsm")).await
    }

    async fn with(settings: &HsmSettings) -> World {
        World::attested(settings, Roots::amd()).await
    }

    /// Evidence has to lead to these roots.
    async fn attested(settings: &HsmSettings, roots: Roots) -> World {
        let Hsm { cluster, domain, signing } = Hsm::with(settings);
        let (cluster, database) = (Arc::new(cluster), Database::sqlite());
        let state = database.open().await;
        let public = cluster.signing_key(signing).unwrap();
        state.add_domain_key(domain.0).await.unwrap();
        state.add_signing_key(signing.0, public.spki(), None).await.unwrap();
        for name in ["vpc-1", "vpc-2"] {
            let tenant = name.parse().unwrap();
            state.add_tenant(&tenant, "123456789012", &json!({"identities": [{"token": {}}]})).await.unwrap();
            for number in ["1", "2"] {
                let hash = sha256(format!("{name}-{number}").as_bytes());
                let instances = [format!("i-{number}").parse().unwrap()];
                let token = NewToken { hash, tenant: &tenant, instances: &instances, expires_at: None };
                state.add_token(&token).await.unwrap();
            }
        }
        let signer = HsmSigner::current(&state, &cluster).await.unwrap();
        let audit = Audit::start(state.clone(), signer, AuditSettings::new("node-1"));
        let config = format!(
            "[listen]\n[hsm]\n[[hsm.token]]\nuri = \"pkcs11:token=hsm\"\nmodule = {MODULE:?}\n[audit]\nserver_id = \"node-1\"\n"
        );
        let config: Config = toml::from_str(&config).unwrap();
        let service = Service::start_with(&config, state.clone(), Arc::clone(&cluster), audit.clone(), roots);
        let service = service.await.unwrap();
        let keys = SigningKeys::from_pem(&public.to_pem()).unwrap();
        let key = OneTimeKey::new(KeySize::Rsa2048);
        World { service, state, audit, cluster, signing, keys, key, _database: database }
    }

    async fn admit(&self, token: &str, operation: Operation, instance: &str) -> Result<Admitted, Refused> {
        self.service.admit(&shown(&[token]), operation, instance, "request-1").await
    }

    /// A call of instance `i-NUMBER` of a tenant.
    async fn call(&self, who: &str, operation: Operation, body: &Value) -> Result<SecretAnswer, Refused> {
        self.send(who, operation, Ok(body.to_string().into())).await
    }

    async fn send(
        &self,
        who: &str,
        operation: Operation,
        body: Result<Bytes, Refusal>,
    ) -> Result<SecretAnswer, Refused> {
        let (_, number) = who.rsplit_once('-').unwrap();
        let admitted = self.admit(who, operation, &format!("i-{number}")).await?;
        self.service.perform(admitted, body).await
    }

    fn body(&self, volume: &str) -> Value {
        json!({"rsa_wrapping_key": Base64(self.key.spki.clone()), "volume_uuid": volume})
    }

    fn sealed(&self, volume: &str, blob: &[u8]) -> Value {
        let mut body = self.body(volume);
        body["encrypted_secret"] = json!(Base64(blob.to_vec()));
        body
    }

    /// A new secret for `vol`: its blob, and itself.
    async fn generate(&self, who: &str) -> (Vec<u8>, Vec<u8>) {
        let answer = self.call(who, Operation::Generate, &self.body("vol")).await.unwrap();
        (answer.encrypted_secret.unwrap().0, self.key.open(&answer.wrapped_secret.unwrap().0))
    }

    async fn decrypt(&self, who: &str, blob: &[u8]) -> Result<Vec<u8>, Refused> {
        let answer = self.call(who, Operation::Decrypt, &self.sealed("vol", blob)).await?;
        Ok(self.key.open(&answer.wrapped_secret.unwrap().0))
    }

    /// The records of a log, whose signatures are right.
    async fn records(&self, log: &str) -> Vec<Record> {
        let lines = self.state.records(&log.parse().unwrap(), 1, 10_000).await.unwrap();
        let records = lines.iter().map(|(_, line)| Record::parse(line).unwrap());
        let checked = records.inspect(|record| {
            let signature = BASE64_STANDARD.decode(&record.signature).unwrap();
            self.keys.verify(record.canonical().as_bytes(), &signature, Padding::Minimal).unwrap();
        });
        checked.collect()
    }

    async fn last(&self, log: &str) -> Record {
        self.records(log).await.pop().expect("a record")
    }

    async fn policy(&self, change: Value) {
        let mut policy = json!({"identities": [{"token": {}}]});
        policy.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        self.state.set_tenant_policy(&"vpc-1".parse().unwrap(), &policy).await.unwrap();
    }
}

/// What a caller with these tokens shows.
fn shown(tokens: &[&str]) -> Presented {
    Presented {
        peer: [192, 0, 2, 7].into(),
        certificates: Arc::default(),
        tokens: tokens.iter().map(|token| Zeroizing::new((*token).to_owned())).collect(),
        gateway_tenants: Vec::new(),
        forwarded_for: Vec::new(),
    }
}

fn refusal<T>(outcome: Result<T, Refused>) -> Refusal {
    outcome.err().expect("a refusal").refusal
}

own_process!(the_calls_answer_with_signatures_and_are_recorded, |softhsm| {
    let world = World::new(softhsm).await;
    world.policy(json!({"convert": "any"})).await;
    let (first, second): (InstanceId, InstanceId) = ("i-1".parse().unwrap(), "i-2".parse().unwrap());
    let (volume, nonce) = ("vol".parse::<VolumeName>().unwrap(), ClientNonce::random());
    let with_nonce = |mut body: Value| {
        body["client_nonce"] = json!(nonce);
        body
    };
    let asked = Asked {
        operation: Operation::Generate,
        instance: &first,
        volume: &volume,
        nonce: &nonce,
        rsa_wrapping_key: &world.key.spki,
        encrypted_secret: &[],
    };
    let verify = |answer: SecretAnswer, asked: &Asked<'_>| {
        assert!(answer.context_signature.is_some() && answer.tenant.as_ref().unwrap().as_str() == "vpc-1");
        let verified = answer.clone().verify(&world.keys, Padding::Minimal, asked).unwrap();
        let other = Asked { nonce: &ClientNonce::random(), ..*asked };
        answer.clone().verify(&world.keys, Padding::Minimal, &other).unwrap_err();
        let number = answer.audit_seq.as_deref().map(|number| format!("{number}0"));
        let damaged = SecretAnswer { audit_seq: number, ..answer };
        damaged.verify(&world.keys, Padding::Minimal, asked).unwrap_err();
        verified
    };

    let body = with_nonce(world.body("vol"));
    let made = verify(world.call("vpc-1-1", Operation::Generate, &body).await.unwrap(), &asked);
    let secret = world.key.open(made.wrapped_secret());
    assert_eq!(secret.len(), 32);

    let body = with_nonce(world.sealed("vol", made.encrypted_secret()));
    let answer = world.call("vpc-1-1", Operation::Decrypt, &body).await.unwrap();
    assert!(answer.encrypted_secret.is_none());
    let opened = Asked { operation: Operation::Decrypt, encrypted_secret: made.encrypted_secret(), ..asked };
    assert_eq!(world.key.open(verify(answer, &opened).wrapped_secret()), secret);

    let body = json!({"encrypted_secret": Base64(made.encrypted_secret().to_vec()), "volume_uuid": "vol",
        "source_instance_id": "i-1", "client_nonce": nonce});
    let answer = world.call("vpc-1-2", Operation::Convert, &body).await.unwrap();
    assert!(answer.wrapped_secret.is_none());
    let taken = Asked { operation: Operation::Convert, instance: &second, rsa_wrapping_key: &[], ..opened };
    let taken = verify(answer, &taken);
    assert_eq!(world.decrypt("vpc-1-2", taken.encrypted_secret()).await.unwrap(), secret);
    assert_eq!(refusal(world.decrypt("vpc-1-1", taken.encrypted_secret()).await), Refusal::Incorrect);

    // Without a nonce, the original's answer and nothing else.
    let plain = world.call("vpc-1-1", Operation::Generate, &world.body("vol")).await.unwrap();
    let members = serde_json::to_value(&plain).unwrap();
    assert_eq!(members.as_object().unwrap().len(), 4, "{members}");

    let records = world.records("vpc-1").await;
    let calls: Vec<_> = records.iter().map(|record| (record.call.name.as_str(), record.result.as_str())).collect();
    let (generate, decrypt) = (("generate-secret", "Succeed"), ("decrypt-secret", "Succeed"));
    let refused = ("decrypt-secret", "Failed");
    assert_eq!(calls, [generate, decrypt, ("convert-secret", "Succeed"), decrypt, refused, generate]);
    let convert = &records[2];
    let parameter = |name| convert.call.parameters.get(name);
    assert_eq!((parameter("instance_id"), parameter("source_instance_id")), (Some("i-2"), Some("i-1")));
    assert_eq!(parameter("encrypted_secret_sha256"), Some(hex(&sha256(made.encrypted_secret())).as_str()));
    assert_eq!((convert.caller.id.as_str(), convert.caller.ip.as_str()), ("i-2", "192.0.2.7"));
    assert_eq!(convert.caller.identity, Some(format!("token:{}", hex(&sha256(b"vpc-1-2")))));
    assert_eq!(convert.request_id, "request-1");

    // Both answers about signing keys name the key that signed.
    let public = world.service.public_signing_key(&shown(&["vpc-2-1"]), "r").await.unwrap();
    let all = world.service.signing_keys(&shown(&["vpc-2-1"]), "r").await.unwrap();
    let id = hex(&sha256(&public.public_key.0));
    assert_eq!((all["current"].as_str(), plain.key_id), (Some(id.as_str()), None));
    assert_eq!(all["keys"][&id]["public_key"], json!(public.public_key));
    assert_eq!(records[0].chain.key_id, id);
    assert_eq!(refusal(world.service.public_signing_key(&shown(&[]), "r").await), Refusal::Unauthorized);
    let metrics = world.service.metrics_text().await;
    assert!(metrics.contains("\nenvelopefs_keyserver_hsm_token_up{token="), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"));
});

own_process!(bodies_that_ask_for_too_much_are_refused_and_recorded, |softhsm| {
    use Operation::{Convert, Decrypt, Generate};
    let world = World::new(softhsm).await;
    let (mine, secret) = world.generate("vpc-1-1").await;
    let (theirs, _) = world.generate("vpc-2-1").await;
    let with = |mut body: Value, name: &str, value: Value| {
        body[name] = value;
        body.to_string()
    };
    let flipped = |at: usize| {
        let mut blob = mine.clone();
        blob[at] ^= 1;
        world.sealed("vol", &blob).to_string()
    };
    let good = world.body("vol");
    let convert = |from: &str, blob: &[u8]| {
        json!({"encrypted_secret": Base64(blob.to_vec()), "volume_uuid": "vol", "source_instance_id": from}).to_string()
    };
    let twice = format!("{{\"volume_uuid\":\"vol\",{}", &good.to_string()[1..]);
    let ec = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==";
    let small = OneTimeKey::new(KeySize::Rsa2048).spki[..200].to_vec();
    let cases: Vec<(Operation, String, Refusal, &str)> = vec![
        (Generate, String::new(), Refusal::BadParameters, "bad-parameters"),
        (Generate, "[]".into(), Refusal::BadParameters, "bad-parameters"),
        (Generate, "null".into(), Refusal::BadParameters, "bad-parameters"),
        (Generate, "{}".into(), Refusal::BadParameters, "bad-parameters"),
        (Generate, twice, Refusal::BadParameters, "bad-parameters"),
        (Generate, format!("{good} x"), Refusal::BadParameters, "bad-parameters"),
        (Generate, with(good.clone(), "volume_uuid", json!(7)), Refusal::BadParameters, "bad-parameters"),
        (Generate, with(good.clone(), "volume_uuid", json!("")), Refusal::BadParameters, "bad-parameters"),
        (Generate, with(good.clone(), "rsa_wrapping_key", json!("*")), Refusal::BadParameters, "bad-parameters"),
        (Generate, with(good.clone(), "client_nonce", json!("AAAA")), Refusal::BadParameters, "bad-parameters"),
        (Generate, with(good.clone(), "vpc_id", json!("vpc-2")), Refusal::BadParameters, "identity-in-body"),
        (Generate, with(good.clone(), "client_ip", json!("192.0.2.8")), Refusal::BadParameters, "identity-in-body"),
        (Generate, with(good.clone(), "client_ip", json!(null)), Refusal::BadParameters, "identity-in-body"),
        (Generate, with(good.clone(), "rsa_wrapping_key", json!(ec)), Refusal::InvalidRsaKey, "invalid-rsa-key"),
        (
            Generate,
            with(good.clone(), "rsa_wrapping_key", json!(Base64(small))),
            Refusal::InvalidRsaKey,
            "invalid-rsa-key",
        ),
        (Decrypt, good.to_string(), Refusal::BadParameters, "bad-parameters"),
        (Decrypt, world.sealed("other", &mine).to_string(), Refusal::Incorrect, "incorrect"),
        (Decrypt, world.sealed("vol", &theirs).to_string(), Refusal::Incorrect, "incorrect"),
        (Decrypt, world.sealed("vol", &[]).to_string(), Refusal::Incorrect, "incorrect"),
        (Decrypt, world.sealed("vol", &[7; 4000]).to_string(), Refusal::Incorrect, "incorrect"),
        (Decrypt, world.sealed("vol", &mine[..mine.len() - 1]).to_string(), Refusal::Incorrect, "incorrect"),
        (Decrypt, flipped(0), Refusal::Incorrect, "incorrect"),
        (Decrypt, flipped(mine.len() / 2), Refusal::Incorrect, "incorrect"),
        (Decrypt, flipped(mine.len() - 1), Refusal::Incorrect, "incorrect"),
        (Convert, convert("i-2", &mine), Refusal::Forbidden, "convert-not-allowed"),
        (Convert, convert("", &mine), Refusal::BadParameters, "bad-parameters"),
        (Convert, convert("I-1", &theirs), Refusal::Incorrect, "incorrect"),
    ];
    let mut number = world.records("vpc-1").await.len();
    for (operation, body, expected, code) in cases {
        let start = Instant::now();
        let outcome = world.send("vpc-1-1", operation, Ok(body.clone().into())).await;
        assert_eq!(refusal(outcome), expected, "{body}");
        assert!(expected != Refusal::Incorrect || start.elapsed() >= UNIFORM, "{body}");
        let (record, count) = (world.last("vpc-1").await, world.records("vpc-1").await.len());
        number += 1;
        assert_eq!((count, record.result.as_str(), record.call.name.as_str()), (number, "Failed", operation.word()));
        assert_eq!(
            (record.failure_reason.as_deref(), record.failure_code.as_deref()),
            (Some(expected.message()), Some(code))
        );
    }
    // A body that was not even read.
    let outcome = world.send("vpc-1-1", Generate, Err(Refusal::TooLarge)).await;
    assert_eq!(refusal(outcome), Refusal::TooLarge);
    assert_eq!(world.last("vpc-1").await.failure_code.as_deref(), Some("too-large"));
    // What an identity in a body says does no harm if it is right.
    let mut body = world.sealed("vol", &mine);
    (body["vpc_id"], body["client_ip"]) = (json!("vpc-1"), json!("192.0.2.7"));
    world.call("vpc-1-1", Decrypt, &body).await.unwrap();
    assert_eq!(world.decrypt("vpc-1-1", &mine).await.unwrap(), secret);
    // Another instance, with a token of its own, and the other tenant.
    for who in ["vpc-1-2", "vpc-2-1"] {
        assert_eq!(refusal(world.decrypt(who, &mine).await), Refusal::Incorrect, "{who}");
    }
});

own_process!(taking_over_is_as_the_policy_says, |softhsm| {
    let world = World::new(softhsm).await;
    let (blob, secret) = world.generate("vpc-1-1").await;
    let body = json!({"encrypted_secret": Base64(blob.clone()), "volume_uuid": "vol", "source_instance_id": "i-1"});
    let convert = || world.call("vpc-1-2", Operation::Convert, &body);
    assert_eq!(refusal(convert().await), Refusal::Forbidden);
    world.policy(json!({"convert": {"from": ["i-3"]}})).await;
    assert_eq!(refusal(convert().await), Refusal::Forbidden);
    world.policy(json!({"convert": {"from": ["i-1"]}})).await;
    let taken = convert().await.unwrap().encrypted_secret.unwrap().0;
    assert_eq!(world.decrypt("vpc-1-2", &taken).await.unwrap(), secret);
    // The first keeps its own.
    assert_eq!(world.decrypt("vpc-1-1", &blob).await.unwrap(), secret);
});

own_process!(customer_keys_are_made_once_and_old_ones_open_until_erased, |softhsm| {
    let world = Arc::new(World::new(softhsm).await);
    let tenant: Tenant = "vpc-1".parse().unwrap();
    for operation in [Operation::Decrypt, Operation::Convert] {
        let mut body = world.sealed("vol", &[1; 84]);
        body["source_instance_id"] = json!("i-1");
        assert_eq!(refusal(world.call("vpc-1-1", operation, &body).await), Refusal::NoCustomerKey);
    }
    assert!(world.state.customer_keys().await.unwrap().is_empty());
    let first = (0..4).map(|at| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.generate(["vpc-1-1", "vpc-1-2"][at % 2]).await })
    });
    let mut made = Vec::new();
    for call in first.collect::<Vec<_>>() {
        made.push(call.await.unwrap());
    }
    let keys = world.state.customer_keys().await.unwrap();
    assert_eq!(keys.len(), 1);
    for (at, (blob, secret)) in made.iter().enumerate() {
        assert_eq!(world.decrypt(["vpc-1-1", "vpc-1-2"][at % 2], blob).await.unwrap(), *secret);
    }

    let domain = KeyId(keys[0].1.domain);
    let next = world.cluster.make_customer_key(domain, &tenant, 2).unwrap();
    let next = CustomerKeyRecord { version: 2, domain: domain.0, wrapped: next.wrapped };
    world.state.add_customer_key(&tenant, &next).await.unwrap();
    let (new, secret) = world.generate("vpc-1-1").await;
    assert_eq!(Sealed::parse(&new).unwrap().customer_key_version(), 2);
    assert_eq!(world.decrypt("vpc-1-1", &made[0].0).await.unwrap(), made[0].1);
    world.state.remove_customer_key(&tenant, 1).await.unwrap();
    assert_eq!(refusal(world.decrypt("vpc-1-1", &made[0].0).await), Refusal::Incorrect);
    assert_eq!(world.decrypt("vpc-1-1", &new).await.unwrap(), secret);
});

own_process!(nothing_leaves_without_its_record, |softhsm| {
    let world = World::new(softhsm).await;
    let (blob, secret) = world.generate("vpc-1-1").await;
    let before = world.records("vpc-1").await.len();
    let broken = Software::new(1);
    broken.left.store(0, Ordering::SeqCst);
    world.audit.set_signer(broken);
    for (operation, body) in
        [(Operation::Generate, world.body("vol")), (Operation::Decrypt, world.sealed("vol", &blob))]
    {
        let refused = world.call("vpc-1-1", operation, &body).await.unwrap_err();
        assert_eq!((refused.refusal, refused.retry_after.is_some()), (Refusal::Internal, true));
    }
    // A refusal cannot be recorded either, and says no more than that.
    let refused = world.call("vpc-1-1", Operation::Decrypt, &json!({})).await;
    assert_eq!(refusal(refused), Refusal::Internal);
    assert_eq!(world.records("vpc-1").await.len(), before);
    world.audit.set_signer(HsmSigner::current(&world.state, &world.cluster).await.unwrap());
    assert_eq!(world.decrypt("vpc-1-1", &blob).await.unwrap(), secret);

    // The key signs, and the database does not take it.
    let before = world.records("vpc-1").await.len();
    let forbid = "CREATE TRIGGER away BEFORE INSERT ON audit_records BEGIN SELECT RAISE(ABORT, 'away'); END";
    world.state.execute(forbid).await;
    assert_eq!(refusal(world.decrypt("vpc-1-1", &blob).await), Refusal::Internal);
    world.state.execute("DROP TRIGGER away").await;
    assert_eq!(world.records("vpc-1").await.len(), before);
    assert_eq!(world.decrypt("vpc-1-1", &blob).await.unwrap(), secret);
    assert_eq!(world.records("vpc-1").await.len(), before + 1);
    assert!(world.service.metrics_text().await.contains("audit_failures_total 4"));
});

own_process!(without_its_hsm_the_server_says_so_and_comes_back, |softhsm| {
    softhsm.token("hsm");
    let mut settings = testing::settings(softhsm, "hsm");
    settings.tokens[0].module = softhsm.shim();
    settings.timeout = Duration::from_secs(1);
    settings.sessions = 2;
    let world = World::with(&settings).await;
    let (blob, secret) = world.generate("vpc-1-1").await;
    softhsm.order("C_DeriveKey", "0x30");
    // The probe has not noticed yet: the call itself fails, and is recorded, for the key that signs still does.
    let admitted = world.admit("vpc-1-1", Operation::Decrypt, "i-1").await;
    if let Ok(admitted) = admitted {
        let body = world.sealed("vol", &blob).to_string().into();
        assert_eq!(refusal(world.service.perform(admitted, Ok(body)).await), Refusal::Internal);
    }
    world.service.probe_now().await;
    let refused = world.admit("vpc-1-1", Operation::Decrypt, "i-1").await.unwrap_err();
    assert_eq!((refused.refusal, refused.retry_after.is_some()), (Refusal::Unhealthy, true));
    assert!(!world.service.health.is_healthy());
    // Who he is comes first.
    assert_eq!(refusal(world.admit("nobody's", Operation::Decrypt, "i-1").await), Refusal::Forbidden);
    softhsm.order("C_DeriveKey", "");
    let start = Instant::now();
    while !world.service.health.is_healthy() {
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", world.service.health.state());
        // As often as anybody asks: that puts the token's return off no further, and does not make its story longer.
        world.service.probe_now().await;
        assert!(world.cluster.status()[0].last_error.as_ref().is_none_or(|error| error.len() < 1000));
    }
    assert_eq!(world.decrypt("vpc-1-1", &blob).await.unwrap(), secret);
});

own_process!(without_a_pin_the_server_waits_for_one, |softhsm| {
    let made = World::new(softhsm).await;
    let (blob, secret) = made.generate("vpc-1-1").await;
    let mut settings = testing::settings(softhsm, "hsm");
    settings.pin = None;
    let cluster = Arc::new(Cluster::open(&settings).unwrap());
    let config =
        "[listen]\n[hsm]\n[[hsm.token]]\nuri = \"pkcs11:token=hsm\"\nmodule = \"/m\"\n[audit]\nserver_id = \"n\"\n";
    let config: Config = toml::from_str(config).unwrap();
    let audit = Audit::start(
        made.state.clone(),
        HsmSigner::current(&made.state, &cluster).await.unwrap(),
        AuditSettings::new("node-2"),
    );
    let service = Service::start(&config, made.state.clone(), Arc::clone(&cluster), audit.clone()).await.unwrap();
    let world = World { service, audit, cluster, ..made };
    assert_eq!(refusal(world.decrypt("vpc-1-1", &blob).await), Refusal::Unhealthy);
    world.cluster.log_in(Pin::new(PIN.as_bytes()).unwrap(), false).unwrap();
    world.service.probe_now().await;
    assert_eq!(world.service.health.state(), Ok(()));
    assert_eq!(world.decrypt("vpc-1-1", &blob).await.unwrap(), secret);
    assert_eq!(world.last("vpc-1").await.chain.server_id, "node-2");
});

own_process!(refused_callers_are_recorded_within_bounds, |softhsm| {
    let world = World::new(softhsm).await;
    let admit = |tokens: &'static [&'static str], instance: &'static str| {
        let world = &world;
        async move { world.service.admit(&shown(tokens), Operation::Generate, instance, "r").await.map(|_| ()) }
    };
    // No id in the path: nobody is asked for.
    for instance in ["", "i 1", "i/1", &"i".repeat(300)] {
        let outcome = world.service.admit(&shown(&["vpc-1-1"]), Operation::Generate, instance, "r").await;
        assert_eq!(refusal(outcome), Refusal::BadParameters);
    }
    assert_eq!(refusal(admit(&[], "i-1").await), Refusal::Unauthorized);
    assert_eq!(world.last("server").await.failure_code.as_deref(), Some("nobody"));
    assert_eq!(refusal(admit(&["unknown"], "i-1").await), Refusal::Forbidden);
    assert_eq!(world.last("server").await.failure_code.as_deref(), Some("token-unknown"));
    assert_eq!(refusal(admit(&["vpc-1-1", "vpc-2-1"], "i-1").await), Refusal::Forbidden);
    assert_eq!(world.last("server").await.failure_code.as_deref(), Some("two-tokens"));
    // Of a tenant beyond doubt: in its own log.
    assert!(world.records("vpc-1").await.is_empty());
    assert_eq!(refusal(admit(&["vpc-1-1"], "i-2").await), Refusal::Forbidden);
    let record = world.last("vpc-1").await;
    assert_eq!((record.call.name.as_str(), record.failure_code.as_deref()), ("refused", Some("instance")));
    assert_eq!(record.call.parameters.get("operation"), Some("generate-secret"));
    assert_eq!(record.failure_reason.as_deref(), Some("Forbidden"));
    // Disabled, from the next call on.
    let tenant: Tenant = "vpc-1".parse().unwrap();
    admit(&["vpc-1-1"], "i-1").await.unwrap();
    world.state.set_tenant_active(&tenant, false).await.unwrap();
    assert_eq!(refusal(admit(&["vpc-1-1"], "i-1").await), Refusal::Forbidden);
    assert_eq!(world.last("vpc-1").await.failure_code.as_deref(), Some("tenant-disabled"));
    world.state.set_tenant_active(&tenant, true).await.unwrap();
    admit(&["vpc-1-1"], "i-1").await.unwrap();

    // A flood of strangers: a few records, and the rest as a number, in that log alone.
    let (start, before) = (Instant::now(), world.records("server").await.len());
    for _ in 0..200 {
        assert_eq!(refusal(admit(&["unknown"], "i-1").await), Refusal::Forbidden);
    }
    let recorded = world.records("server").await.len() - before;
    let most = 30 + usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    assert!((1..=most).contains(&recorded), "{recorded} of 200 in {:?}", start.elapsed());
    assert_eq!(refusal(admit(&["vpc-1-1"], "i-2").await), Refusal::Forbidden);
    assert_eq!(world.last("vpc-1").await.call.parameters.get("unrecorded"), None);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(refusal(admit(&["unknown"], "i-1").await), Refusal::Forbidden);
    let told: usize = world
        .records("server")
        .await
        .iter()
        .filter_map(|record| record.call.parameters.get("unrecorded"))
        .map(|number| number.parse::<usize>().unwrap())
        .sum();
    assert_eq!(told, 200 - recorded);
    assert!(world.service.metrics_text().await.contains("refusals_total{reason=\"token-unknown\"} 202"));
});

own_process!(tenants_and_addresses_have_their_rates, |softhsm| {
    let world = World::new(softhsm).await;
    world.policy(json!({"requests_per_second": 1, "burst": 2})).await;
    for _ in 0..2 {
        world.admit("vpc-1-1", Operation::Generate, "i-1").await.unwrap();
    }
    let refused = world.admit("vpc-1-2", Operation::Generate, "i-2").await.unwrap_err();
    assert_eq!(refused.refusal, Refusal::TooMany);
    assert!((1..=2).contains(&refused.retry_after.unwrap()));
    // That is the tenant's matter; the other is let in from the same address until that has had enough.
    world.admit("vpc-2-1", Operation::Generate, "i-1").await.unwrap();
    assert_eq!(world.signing, world.service.keys.load().current.as_ref().unwrap().0);
    let mut refused = 0;
    for _ in 0..world.service.limits.address_burst * 2 {
        match world.admit("vpc-2-1", Operation::Generate, "i-1").await {
            Ok(_) => {}
            Err(Refused { refusal: Refusal::TooMany, .. }) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 0);
});

own_process!(a_tenant_that_demands_evidence_has_it_for_each_call, |softhsm| {
    use Operation::{Convert, Decrypt, Generate};
    softhsm.token("hsm");
    let chip = Chip::new(Product::Milan, Machine::owned(1));
    let world = World::attested(&testing::settings(softhsm, "hsm"), chip.roots()).await;
    let (plain, _) = world.generate("vpc-1-1").await;
    let demand =
        |measurement: [u8; 48]| json!({"convert": "any", "attestation": {"measurements": [hex(&measurement)]}});
    world.policy(demand(Machine::owned(1).measurement)).await;
    let ask = |who: &'static str, instance: &'static str| {
        let world = &world;
        async move { world.service.challenge(&shown(&[who]), instance, "r").await.map(|given| given.challenge) }
    };
    // Who is not asked for evidence is given no challenge, and who may not call is given none either.
    assert_eq!(refusal(ask("vpc-2-1", "i-1").await), Refusal::NotFound);
    assert_eq!(refusal(ask("vpc-1-1", "i-2").await), Refusal::Forbidden);
    assert_eq!(refusal(ask("vpc-1-1", "i/1").await), Refusal::BadParameters);
    assert_eq!(refusal(world.service.challenge(&shown(&[]), "i-1", "r").await), Refusal::Unauthorized);

    let (first, second): (InstanceId, InstanceId) = ("i-1".parse().unwrap(), "i-2".parse().unwrap());
    let volume: VolumeName = "vol".parse().unwrap();
    let call = AttestedCall {
        operation: Generate,
        instance: &first,
        volume: &volume,
        rsa_wrapping_key: &world.key.spki,
        encrypted_secret: &[],
        source: None,
    };
    let with = |mut body: Value, call: &AttestedCall<'_>, challenge: crate::api::Challenge| {
        let report = Base64(chip.report(&call.report_data(&challenge)));
        body["attestation"] = json!(Evidence { challenge, report, certificates: Base64(chip.certificates()) });
        body
    };
    let generate = world.body("vol");

    // Without, and as the original's agents call.
    assert_eq!(refusal(world.call("vpc-1-1", Generate, &generate).await), Refusal::Forbidden);
    let record = world.last("vpc-1").await;
    assert_eq!((record.failure_code.as_deref(), record.caller.attestation_sha256), (Some("attestation-missing"), None));
    assert_eq!(record.failure_reason.as_deref(), Some("Forbidden"));

    // As it should be, once.
    let good = with(generate.clone(), &call, ask("vpc-1-1", "I-1").await.unwrap());
    let sealed = world.call("vpc-1-1", Generate, &good).await.unwrap().encrypted_secret.unwrap().0;
    let record = world.last("vpc-1").await;
    let report = BASE64_STANDARD.decode(good["attestation"]["report"].as_str().unwrap()).unwrap();
    assert_eq!(record.caller.attestation_sha256, Some(hex(&sha256(&report))));
    let measured = record.call.parameters.get("attestation_measurement");
    assert_eq!(measured, Some(hex(&Machine::owned(1).measurement).as_str()));
    assert_eq!(refusal(world.call("vpc-1-1", Generate, &good).await), Refusal::Forbidden);
    assert_eq!(world.last("vpc-1").await.failure_code.as_deref(), Some("attestation-challenge"), "replayed");

    let decrypt = AttestedCall { operation: Decrypt, encrypted_secret: &sealed, ..call };
    let body = with(world.sealed("vol", &sealed), &decrypt, ask("vpc-1-1", "i-1").await.unwrap());
    world.call("vpc-1-1", Decrypt, &body).await.unwrap();
    let convert =
        AttestedCall { operation: Convert, instance: &second, rsa_wrapping_key: &[], source: Some(&first), ..decrypt };
    let mut body =
        json!({"encrypted_secret": Base64(sealed.clone()), "volume_uuid": "vol", "source_instance_id": "i-1"});
    assert_eq!(refusal(world.call("vpc-1-2", Convert, &body).await), Refusal::Forbidden);
    body = with(body, &convert, ask("vpc-1-2", "i-2").await.unwrap());
    world.call("vpc-1-2", Convert, &body).await.unwrap();
    // What was sealed before the demand needs evidence, too.
    assert_eq!(refusal(world.decrypt("vpc-1-1", &plain).await), Refusal::Forbidden);

    // Each refusal has its word in the log and one text for the caller; and the challenge is spent.
    let another = OneTimeKey::new(KeySize::Rsa2048);
    let never = crate::api::Challenge([5; 32]);
    let others = ask("vpc-1-2", "i-2").await.unwrap();
    let mine = ask("vpc-1-1", "i-1").await.unwrap();
    let mut stolen = with(generate.clone(), &call, mine);
    stolen["rsa_wrapping_key"] = json!(Base64(another.spki.clone()));
    let mut forged = with(generate.clone(), &call, ask("vpc-1-1", "i-1").await.unwrap());
    forged["attestation"]["certificates"] = json!("AAAA");
    let mut shapeless = generate.clone();
    shapeless["attestation"] = json!({"challenge": "AAAA"});
    for (body, expected, code) in [
        (with(generate.clone(), &call, never), Refusal::Forbidden, "attestation-challenge"),
        (with(generate.clone(), &call, others), Refusal::Forbidden, "attestation-challenge"),
        (stolen, Refusal::Forbidden, "attestation-report-data"),
        (with(generate.clone(), &call, mine), Refusal::Forbidden, "attestation-challenge"),
        (forged, Refusal::Forbidden, "attestation-certificates"),
        (shapeless, Refusal::BadParameters, "bad-parameters"),
    ] {
        assert_eq!(refusal(world.call("vpc-1-1", Generate, &body).await), expected, "{code}");
        let record = world.last("vpc-1").await;
        assert_eq!(record.failure_code.as_deref(), Some(code));
        let told = record.call.parameters.get("attestation_failure").is_some();
        assert_eq!(told, ["attestation-report-data", "attestation-certificates"].contains(&code), "{code}");
    }
    world.policy(demand([0xaa; 48])).await;
    let body = with(generate.clone(), &call, ask("vpc-1-1", "i-1").await.unwrap());
    assert_eq!(refusal(world.call("vpc-1-1", Generate, &body).await), Refusal::Forbidden);
    assert_eq!(world.last("vpc-1").await.failure_code.as_deref(), Some("attestation-measurement"));

    // A challenge ends.
    let mut short = demand(Machine::owned(1).measurement);
    short["attestation"]["window_seconds"] = json!(5);
    world.policy(short).await;
    let body = with(generate.clone(), &call, ask("vpc-1-1", "i-1").await.unwrap());
    tokio::time::sleep(Duration::from_millis(6100)).await;
    assert_eq!(refusal(world.call("vpc-1-1", Generate, &body).await), Refusal::Forbidden);
    assert_eq!(world.last("vpc-1").await.failure_code.as_deref(), Some("attestation-challenge"), "too late");
});

own_process!(a_rotated_signing_key_signs_from_then_on_and_is_endorsed, |softhsm| {
    let world = World::new(softhsm).await;
    let (old, id) = (world.service.current_key().unwrap(), KeyId::random());
    let new = world.cluster.make_signing_key(id).unwrap();
    let text = endorsement_text(new.spki());
    let endorsement = world.cluster.sign(world.signing, text.as_bytes()).unwrap();
    world.state.add_signing_key(id.0, new.spki(), Some((world.signing.0, &endorsement))).await.unwrap();
    // As the next probe does by itself.
    world.service.probe_now().await;

    let public = world.service.public_signing_key(&shown(&["vpc-1-1"]), "r").await.unwrap();
    assert_eq!(public.public_key.0, new.spki());
    let all = world.service.signing_keys(&shown(&["vpc-1-1"]), "r").await.unwrap();
    assert!(!all.to_string().contains(['*', '?', '[']), "{all}");
    let (first, second) = (&all["keys"][old.id()], &all["keys"][new.id()]);
    assert_eq!(
        (&all["current"], &first["state"], &second["state"]),
        (&json!(new.id()), &json!("retired"), &json!("current"))
    );
    assert!(first["retired_at"].is_string() && first.get("endorsement").is_none());
    assert_eq!(second["endorsed_by"], json!(old.id()));
    let endorsement = BASE64_STANDARD.decode(second["endorsement"].as_str().unwrap()).unwrap();
    old.verify(text.as_bytes(), &endorsement, Padding::Minimal).unwrap();

    let mut body = world.body("vol");
    body["client_nonce"] = json!(ClientNonce::random());
    let answer = world.call("vpc-1-1", Operation::Generate, &body).await.unwrap();
    let (value, signature) = (answer.encrypted_secret.unwrap().0, answer.encrypted_secret_signature.unwrap().0);
    new.verify(&value, &signature, Padding::Minimal).unwrap();
    assert_eq!(answer.key_id, Some(new.id()));
    let lines = world.state.records(&"vpc-1".parse().unwrap(), 1, 10).await.unwrap();
    assert_eq!(Record::parse(&lines.last().unwrap().1).unwrap().chain.key_id, new.id());
});

own_process!(hostile_bodies_are_refused_with_a_record_and_fail_nothing_inside, |softhsm| {
    let world = Arc::new(World::new(softhsm).await);
    world.policy(json!({"convert": "any", "requests_per_second": 10_000, "burst": 10_000})).await;
    let (blob, _) = world.generate("vpc-1-1").await;
    let mut convert = world.sealed("vol", &blob);
    convert["source_instance_id"] = json!("i-2");
    let seeds = [
        (Operation::Generate, world.body("vol").to_string()),
        (Operation::Decrypt, world.sealed("vol", &blob).to_string()),
        (Operation::Convert, convert.to_string()),
    ];
    let hostile: [&[u8]; 10] = [
        b"[",
        b"{",
        b"null",
        b"1e999",
        b"\"\\u0000\"",
        b"\"\\ud800\"",
        b"\\",
        b"\xef\xbb\xbf",
        b"\"vpc_id\":\"vpc-2\",",
        b"\"volume_uuid\":[],",
    ];
    let mut random = Rng::new(2);
    let mut bodies = vec![(Operation::Generate, "[".repeat(60_000).into_bytes())];
    bodies.push((Operation::Generate, "{\"a\":".repeat(10_000).into_bytes()));
    for (operation, seed) in seeds.iter().cycle().take(240) {
        bodies.push((*operation, random.damaged(seed.as_bytes(), &hostile)));
    }
    let (before, count) = (world.records("vpc-1").await.len(), bodies.len());
    let calls = bodies.into_iter().map(|(operation, body)| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { (world.send("vpc-1-1", operation, Ok(body.clone().into())).await, body) })
    });
    let mut refused = 0;
    for call in calls.collect::<Vec<_>>() {
        let (outcome, body) = call.await.expect("no panic");
        let Err(Refused { refusal, .. }) = outcome else { continue };
        let expected = [Refusal::BadParameters, Refusal::InvalidRsaKey, Refusal::Incorrect];
        assert!(expected.contains(&refusal), "{refusal:?}: {}", String::from_utf8_lossy(&body));
        refused += 1;
    }
    assert!(refused > count / 2, "{refused} of {count}");
    assert_eq!(world.records("vpc-1").await.len(), before + count, "each has its record");
});

#[cfg(feature = "hsm-api")]
mod evidence;
