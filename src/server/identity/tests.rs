//! Callers of every kind against a database: who is let in, who is not, and under which word.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use serde_json::{Value, json};

use super::*;
use crate::server::state::NewToken;
use crate::server::state::testing::Database;

type Der = CertificateDer<'static>;

/// A tenant's authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Der {
        let mut params = CertificateParams::new(vec!["i-1".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(7u64));
        change(&mut params);
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().clone()
    }

    fn crl(&self, serial: u64, until: i32) -> String {
        CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .unwrap()
        .pem()
        .unwrap()
    }

    fn policy(&self, crl: Option<String>) -> Value {
        json!({"identities": [{"certificate": {"ca": self.pem, "crl": crl}}]})
    }
}

fn nothing() -> Presented {
    Presented {
        peer: [192, 0, 2, 7].into(),
        certificates: Arc::default(),
        tokens: Vec::new(),
        gateway_tenants: Vec::new(),
        forwarded_for: Vec::new(),
    }
}

fn certificate(der: &Der) -> Presented {
    Presented { certificates: Arc::new(vec![der.clone()]), ..nothing() }
}

fn tokens(tokens: &[&str]) -> Presented {
    Presented { tokens: tokens.iter().map(|token| Zeroizing::new((*token).to_owned())).collect(), ..nothing() }
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

/// `Ok` with the tenant, or the word with the tenant that it is recorded for.
async fn outcome(identities: &Identities, shown: &Presented, instance: &str) -> Result<String, String> {
    match identities.identify(shown, Some(&instance.parse().unwrap())).await {
        Ok(identity) => Ok(identity.tenant.id.as_str().to_owned()),
        Err(Denied::Nobody) => Err("nobody".into()),
        Err(Denied::Refused { tenant, code, .. }) => {
            Err(format!("{code} of {}", tenant.map_or("-".into(), |tenant| tenant.id.as_str().to_owned())))
        }
        Err(Denied::Unknown(error)) => panic!("{error}"),
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(State) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let database = Database::sqlite();
    runtime.block_on(async { test(database.open().await).await });
}

#[test]
fn certificates_count_for_their_tenant_their_instance_and_their_time() {
    run(|state| async move {
        let (a, b, stranger) = (Authority::new("a"), Authority::new("b"), Authority::new("c"));
        state.add_tenant(&tenant("a"), "1", &a.policy(None)).await.unwrap();
        state.add_tenant(&tenant("b"), "2", &b.policy(None)).await.unwrap();
        let identities = Identities::new(state.clone(), Vec::new());
        let good = certificate(&a.issue(|_| {}));
        let urn = certificate(&a.issue(|params| {
            params.subject_alt_names = vec![SanType::URI("urn:envelopefs:instance:I-2".try_into().unwrap())];
        }));
        let wildcard = certificate(&a.issue(|params| {
            params.subject_alt_names = vec![SanType::DnsName("*.example".try_into().unwrap())];
        }));
        let old = certificate(&a.issue(|params| {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }));
        let early = certificate(&a.issue(|params| params.not_before = date_time_ymd(2200, 1, 1)));
        let server = certificate(&a.issue(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }));
        let foreign_old = certificate(&stranger.issue(|params| {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }));
        for (shown, instance, expected) in [
            (&good, "i-1", Ok("a")),
            (&good, "I-1", Ok("a")),
            (&good, "i-2", Err("instance of a")),
            (&urn, "i-2", Ok("a")),
            (&urn, "i-1", Err("instance of a")),
            (&wildcard, "x.example", Err("instance of a")),
            (&old, "i-1", Err("certificate-expired of a")),
            (&early, "i-1", Err("certificate-not-yet-valid of a")),
            (&server, "i-1", Err("certificate-unknown of -")),
            (&certificate(&b.issue(|_| {})), "i-1", Ok("b")),
            (&certificate(&stranger.issue(|_| {})), "i-1", Err("certificate-unknown of -")),
            (&foreign_old, "i-1", Err("certificate-unknown of -")),
            (&certificate(&Der::from(vec![0x30, 3, 1, 1, 1])), "i-1", Err("certificate-unknown of -")),
            (&nothing(), "i-1", Err("nobody")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(outcome(&identities, shown, instance).await, expected, "{instance}");
        }
        assert!(identities.identify(&good, None).await.is_ok(), "the tenant alone, where no instance is named");

        // At once, though the list of tenants is still fresh.
        state.set_tenant_policy(&tenant("a"), &a.policy(Some(a.crl(7, 2200)))).await.unwrap();
        assert_eq!(outcome(&identities, &good, "i-1").await, Err("certificate-revoked of a".into()));
        state.set_tenant_policy(&tenant("a"), &a.policy(Some(a.crl(8, 2200)))).await.unwrap();
        assert_eq!(outcome(&identities, &good, "i-1").await, Ok("a".into()));
        state.set_tenant_policy(&tenant("a"), &a.policy(Some(a.crl(8, 2021)))).await.unwrap();
        assert_eq!(outcome(&identities, &good, "i-1").await, Err("revocation-list-expired of a".into()));
        state.set_tenant_policy(&tenant("a"), &a.policy(Some(b.crl(8, 2200)))).await.unwrap();
        assert_eq!(outcome(&identities, &good, "i-1").await, Err("revocation-unknown of a".into()));
        state.set_tenant_policy(&tenant("a"), &b.policy(None)).await.unwrap();
        assert_eq!(outcome(&identities, &good, "i-1").await, Err("certificate-unknown of a".into()));
        state.set_tenant_policy(&tenant("a"), &json!({"attestatoin": {}})).await.unwrap();
        assert_eq!(outcome(&identities, &good, "i-1").await, Err("policy-unusable of a".into()));
        state.set_tenant_policy(&tenant("a"), &a.policy(None)).await.unwrap();
        state.set_tenant_active(&tenant("a"), false).await.unwrap();
        assert_eq!(outcome(&identities, &good, "i-1").await, Err("tenant-disabled of a".into()));
    });
}

#[test]
fn a_certificate_of_an_authority_that_two_tenants_name_is_nobodys() {
    run(|state| async move {
        let authority = Authority::new("a");
        for (name, account) in [("a", "1"), ("b", "2")] {
            state.add_tenant(&tenant(name), account, &authority.policy(None)).await.unwrap();
        }
        let good = certificate(&authority.issue(|_| {}));
        // However often: tables of tenants have no order.
        for _ in 0..20 {
            let identities = Identities::new(state.clone(), Vec::new());
            assert_eq!(outcome(&identities, &good, "i-1").await, Err("certificate-ambiguous of -".into()));
        }
        state.set_tenant_policy(&tenant("b"), &json!({"identities": [{"token": {}}]})).await.unwrap();
        let identities = Identities::new(state.clone(), Vec::new());
        assert_eq!(outcome(&identities, &good, "i-1").await, Ok("a".into()));
    });
}

#[test]
fn tokens_count_for_their_instances_until_they_end() {
    run(|state| async move {
        let authority = Authority::new("a");
        let mut both = authority.policy(None);
        both["identities"].as_array_mut().unwrap().push(json!({"token": {}}));
        state.add_tenant(&tenant("a"), "1", &both).await.unwrap();
        state.add_tenant(&tenant("b"), "2", &json!({"identities": [{"token": {}}]})).await.unwrap();
        state.add_tenant(&tenant("c"), "3", &json!({})).await.unwrap();
        let instances = ["i-1".parse().unwrap(), "i-2".parse().unwrap()];
        let past = jiff::Timestamp::from_second(1_000_000_000).unwrap();
        for (token, owner, expires_at) in
            [("ta", "a", None), ("tb", "b", None), ("old", "b", Some(past)), ("tc", "c", None)]
        {
            let (hash, tenant) = (sha256(token.as_bytes()), tenant(owner));
            state.add_token(&NewToken { hash, tenant: &tenant, instances: &instances, expires_at }).await.unwrap();
        }
        let identities = Identities::new(state.clone(), Vec::new());
        let good = certificate(&authority.issue(|_| {}));
        let with = |token: &str| Presented {
            tokens: tokens(&[token]).tokens,
            certificates: Arc::clone(&good.certificates),
            ..nothing()
        };
        for (shown, instance, expected) in [
            (tokens(&["ta"]), "I-2", Ok("a")),
            (tokens(&["tb", "tb"]), "i-1", Ok("b")),
            (tokens(&["ta", "tb"]), "i-1", Err("two-tokens of -")),
            (tokens(&["ta"]), "i-3", Err("instance of a")),
            (tokens(&["old"]), "i-1", Err("token-expired of b")),
            (tokens(&["tc"]), "i-1", Err("token-not-allowed of c")),
            (tokens(&["none"]), "i-1", Err("token-unknown of -")),
            (tokens(&[""]), "i-1", Err("token-unknown of -")),
            (tokens(&[&"x".repeat(5000)]), "i-1", Err("token-unknown of -")),
            (with("ta"), "i-1", Ok("a")),
            (with("ta"), "i-2", Err("instance of a")),
            (with("tb"), "i-1", Err("identities-disagree of -")),
            (with("none"), "i-1", Err("token-unknown of -")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(outcome(&identities, &shown, instance).await, expected, "{shown:?} {instance}");
        }
        state.disable_token(&sha256(b"tb")).await.unwrap();
        assert_eq!(outcome(&identities, &tokens(&["tb"]), "i-1").await, Err("token-disabled of b".into()));
    });
}

#[test]
fn addresses_and_gateways_count_only_where_they_are_trusted() {
    run(|state| async move {
        let map = |cidr: &str| json!({"identities": [{"insecure_address_map": [{"instance": "i-1", "cidr": cidr}]}]});
        state.add_tenant(&tenant("a"), "1", &map("192.0.2.0/24")).await.unwrap();
        state.add_tenant(&tenant("b"), "2", &json!({"identities": [{"gateway": {}}]})).await.unwrap();
        let gateway: Gateway = toml::from_str("address = \"10.0.0.0/8\"").unwrap();
        let identities = Identities::new(state.clone(), vec![gateway]);
        assert_eq!(outcome(&identities, &nothing(), "i-1").await, Ok("a".into()));
        assert_eq!(outcome(&identities, &nothing(), "i-2").await, Err("address of a".into()));
        let elsewhere = Presented { peer: [198, 51, 100, 1].into(), ..nothing() };
        assert_eq!(outcome(&identities, &elsewhere, "i-1").await, Err("nobody".into()));

        let names = |peer: [u8; 4], tenants: &[&str], forwarded: &[&str]| Presented {
            peer: peer.into(),
            gateway_tenants: tenants.iter().map(|text| (*text).to_owned()).collect(),
            forwarded_for: forwarded.iter().map(|text| (*text).to_owned()).collect(),
            ..nothing()
        };
        // From anybody else the headers are nothing.
        let forged = names([192, 0, 2, 7], &["b"], &["203.0.113.9"]);
        assert_eq!(outcome(&identities, &forged, "i-1").await, Ok("a".into()));
        assert_eq!(identities.address(&forged), forged.peer);
        let through = names([10, 0, 0, 1], &["b"], &["203.0.113.66", "203.0.113.9", "10.0.0.2"]);
        assert_eq!(outcome(&identities, &through, "i-9").await, Ok("b".into()));
        assert_eq!(identities.address(&through).to_string(), "203.0.113.9");
        let unreadable = names([10, 0, 0, 1], &["b"], &["203.0.113.9", "x"]);
        assert_eq!(identities.address(&unreadable), unreadable.peer);
        for (tenants, expected) in [
            (&["a"][..], "gateway-not-allowed of a"),
            (&["none"], "tenant-unknown of -"),
            (&["B"], "gateway-tenant of -"),
            (&["b", "a"], "gateway-tenant of -"),
        ] {
            let shown = names([10, 0, 0, 1], tenants, &[]);
            assert_eq!(outcome(&identities, &shown, "i-1").await, Err(expected.into()));
        }

        // A second tenant with the same address: nobody can tell, so neither is believed.
        state.add_tenant(&tenant("c"), "3", &map("192.0.2.7/32")).await.unwrap();
        tokio::time::sleep(FRESH).await;
        assert_eq!(outcome(&identities, &nothing(), "i-1").await, Err("address-ambiguous of -".into()));
    });
}

#[test]
fn a_policy_is_looked_through_before_it_is_stored() {
    let authority = Authority::new("a");
    check(&authority.policy(Some(authority.crl(1, 2200)))).unwrap();
    for wrong in [
        json!({"identities": [{"certificate": {"ca": "-----BEGIN"}}]}),
        json!({"identities": [{"certificate": {"ca": ""}}]}),
        json!({"identities": [{"certificate": {"ca": authority.pem, "crl": "none"}}]}),
        json!({"identities": [{"certificate": {"ca": authority.crl(1, 2200)}}]}),
    ] {
        check(&wrong).unwrap_err();
    }
}
