//! AWS KMS and its credentials against fakes in this process. What moto can show (signatures, real context checks) is in
//! `tests/network.rs`.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::super::contract::{self, Contract, PLACE};
use super::super::fake_kms::{FOREIGN, FakeKms, Fault, KEY, MRK, MRK_REPLICA, OTHER};
use super::super::server::{Reply, Server, closed_port};
use super::*;

const STATIC: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "AKIDENV"), ("AWS_SECRET_ACCESS_KEY", "geheim")];

fn open(server: &Server, key: &str, more: &str, environment: &[(&str, &str)]) -> AwsKms {
    let url = server.url();
    let spec = format!("aws-kms:{key}?endpoint={url}&sts-endpoint={url}&insecure-plain-http=true&timeout=3{more}");
    AwsKms::open_in(spec.parse().unwrap(), Environment::of(environment)).unwrap()
}

fn told(error: &ProviderError) -> String {
    format!("{error}; {}", error.remedy().unwrap_or_default())
}

#[test]
fn the_provider_keeps_the_contract() {
    let fake = FakeKms::new();
    let server = fake.serve();
    let terms =
        Contract { samples: 60, knows_its_own: true, authenticates: true, secrets: &[b"geheim"], ..Contract::REMOTE };
    let provider = |key| open(&server, key, "", STATIC);
    contract::keep(&provider(KEY), &provider(KEY), &provider(OTHER), &terms);
    // A volume of the attacker's, with a slot of his own key.
    contract::keep(&provider(FOREIGN), &provider(FOREIGN), &provider(KEY), &terms);
    for name in [&KEY[KEY.len() - 36..], "alias/app"] {
        let named = || open(&server, name, "&region=eu-central-1", STATIC);
        contract::keep(&named(), &provider(KEY), &provider(OTHER), &terms);
        contract::keep(&provider(KEY), &named(), &provider(OTHER), &terms);
    }
}

#[test]
fn the_context_says_where_the_key_belongs_and_nothing_else() {
    let fake = FakeKms::new();
    let server = fake.serve();
    open(&server, KEY, "", STATIC).wrap(&Secret::random(), &PLACE).unwrap();
    let expected = serde_json::json!({
        "envelopefs-volume": Uuid::from_bytes([7; 16]).to_string(), "envelopefs-key-version": "1", "envelopefs-slot": "2",
    });
    assert_eq!(fake.state().context, expected);
}

#[test]
fn a_key_is_named_by_arn_id_or_alias() {
    for good in [
        KEY,
        MRK,
        "arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-1",
        "arn:aws:kms:eu-central-1:111122223333:alias/a/b_c-d",
        "alias/app",
        "1234abcd-12ab-34cd-56ef-1234567890ab",
    ] {
        assert!(KeyName::parse(good).is_some(), "{good}");
    }
    for bad in [
        "",
        "alias/",
        "arn:aws:s3:eu-central-1:111122223333:key/a",
        "arn:aws:kms:eu-central-1:111122223333:key/",
        "arn:aws:kms:evil.example/:111122223333:key/a",
        "arn:aws:kms:eu-central-1:1:key/a:b",
        "key/abc",
        "a b",
        "alias/a\"b",
    ] {
        assert!(KeyName::parse(bad).is_none(), "{bad}");
    }
    let open = |spec: &str| AwsKms::open_in(spec.parse().unwrap(), Environment::of(&[]));
    assert_eq!(open(&format!("aws-kms:{KEY}")).unwrap().endpoint.to_string(), "https://kms.eu-central-1.amazonaws.com");
    let fips = open("aws-kms:alias/a?region=us-gov-west-1&fips=true").unwrap();
    assert_eq!(fips.endpoint.to_string(), "https://kms-fips.us-gov-west-1.amazonaws.com");
    let china = open("aws-kms:alias/a?region=cn-north-1").unwrap();
    assert_eq!(china.endpoint.to_string(), "https://kms.cn-north-1.amazonaws.com.cn");
    for bad in ["alias/a", "alias/a?region=a.b", "alias/a?region=x&profil=y", &format!("{KEY}?region=us-east-1")] {
        assert!(open(&format!("aws-kms:{bad}")).is_err(), "{bad}");
    }
    let by_environment = Environment::of(&[("AWS_REGION", "eu-west-3")]);
    assert_eq!(AwsKms::open_in("aws-kms:alias/a".parse().unwrap(), by_environment).unwrap().region, "eu-west-3");
}

#[test]
fn a_slot_is_opened_with_the_keys_that_the_specification_means() {
    let fake = FakeKms::new();
    let server = fake.serve();
    let wrap = |key| open(&server, key, "", STATIC).wrap(&Secret::random(), &PLACE).unwrap();
    let opens = |key: &str, more: &str, slot: &SlotData| {
        open(&server, key, more, STATIC).unwrap(slot, &PLACE).map(|found| found.is_ok())
    };

    // A related multi-Region key opens, an unrelated key of the region does not even try.
    assert_eq!(opens(MRK_REPLICA, "", &wrap(MRK)), Some(true));
    assert_eq!(opens(MRK_REPLICA, "", &wrap(KEY)), None);
    let alias_elsewhere = "arn:aws:kms:eu-west-1:111122223333:alias/replica";
    fake.state().aliases.insert("alias/replica".into(), MRK_REPLICA);
    assert_eq!(opens(alias_elsewhere, "", &wrap(MRK)), Some(true));
    assert_eq!(opens(alias_elsewhere, "", &wrap(KEY)), None);

    // An alias that has moved on still opens what its former key wrapped, but never another account's key.
    let (slot, region) = (wrap(KEY), "&region=eu-central-1");
    fake.state().aliases.insert("alias/app".into(), OTHER);
    assert_eq!(opens("alias/app", region, &slot), Some(true));
    let before = server.calls();
    let foreign = wrap(FOREIGN);
    assert_eq!(opens("alias/app", region, &foreign), None);
    assert_eq!(server.calls(), before + 3, "encrypt, decrypt, and a description only");

    // Parameters of another key: KMS decides by the one it is asked with.
    let mut mixed = wrap(OTHER);
    mixed.parameters.insert("key".into(), KEY.into());
    assert_eq!(opens(KEY, "", &mixed), Some(false));
}

#[test]
fn what_kms_says_becomes_an_error_with_a_remedy() {
    let fake = FakeKms::new();
    let server = fake.serve();
    let provider = open(&server, KEY, "", STATIC);
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    let unwrap = || provider.unwrap(&slot, &PLACE).unwrap();

    for (state, code, remedy) in
        [("Disabled", "DisabledException", "enable-key"), ("PendingDeletion", "KMSInvalidState", "cancel-key-deletion")]
    {
        fake.state().states.insert(KEY, state);
        let error = unwrap().unwrap_err();
        assert!(matches!(error, ProviderError::Refused { .. }), "{error}");
        assert!(told(&error).contains(code) && told(&error).contains(remedy), "{}", told(&error));
        let error = provider.check().unwrap_err();
        assert!(matches!(error, ProviderError::Refused { .. }) && told(&error).contains(remedy), "{}", told(&error));
    }
    fake.state().states.clear();
    unwrap().unwrap();

    for (status, code, says) in [
        (400, "AccessDeniedException", "kms:Decrypt"),
        (400, "NotFoundException", "ARN"),
        (403, "SignatureDoesNotMatch", "clock"),
        (400, "ExpiredTokenException", "credentials"),
        (400, "SomethingNewException", "SomethingNewException"),
    ] {
        fake.state().always = Some(Fault::Error(status, code));
        let error = unwrap().unwrap_err();
        assert!(matches!(error, ProviderError::Refused { .. }) && !error.is_damage(), "{code}: {error}");
        assert!(told(&error).contains(code) && told(&error).contains(says), "{}", told(&error));
    }
    for code in ["InvalidCiphertextException", "com.amazonaws.kms#IncorrectKeyException"] {
        fake.state().always = Some(Fault::Error(400, code));
        assert!(matches!(unwrap(), Err(ProviderError::Unauthentic(_))), "{code}");
    }
    fake.state().always = Some(Fault::Error(418, ""));
    assert!(matches!(unwrap(), Err(ProviderError::Answer { .. })));
}

#[test]
fn a_passing_failure_passes_and_a_lasting_one_ends_in_time() {
    let fake = FakeKms::new();
    let server = fake.serve();
    let provider = open(&server, KEY, "", STATIC);
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    let unwrap = || provider.unwrap(&slot, &PLACE).unwrap();

    let passing = [Fault::Error(400, "ThrottlingException"), Fault::HangUp, Fault::Error(500, "KMSInternalException")];
    fake.state().faults.extend(passing);
    unwrap().unwrap();
    assert!(fake.state().faults.is_empty());

    let lasting = [
        Fault::Error(400, "ThrottlingException"),
        Fault::Error(503, "DependencyTimeoutException"),
        Fault::HangUp,
        Fault::Silence,
    ];
    for fault in lasting {
        fake.state().always = Some(fault);
        let start = Instant::now();
        let error = unwrap().unwrap_err();
        assert!(matches!(error, ProviderError::Unreachable { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(15));
    }
    for fault in [Fault::Garbage, Fault::WrongKey] {
        fake.state().always = Some(fault);
        assert!(matches!(unwrap(), Err(ProviderError::Answer { .. })));
        assert!(matches!(provider.wrap(&Secret::random(), &PLACE), Err(ProviderError::Answer { .. })));
    }
    fake.state().always = None;
    drop(server);
    assert!(matches!(unwrap(), Err(ProviderError::Unreachable { .. })));
    assert!(matches!(provider.check(), Err(ProviderError::Unreachable { .. })));
}

#[test]
fn permissions_may_be_as_narrow_as_the_task() {
    let fake = FakeKms::new();
    let server = fake.serve();
    // To add slots needs no right to open them, to open them none to add or describe.
    fake.state().denied = vec!["Decrypt", "DescribeKey"];
    let slot = open(&server, KEY, "", STATIC).wrap(&Secret::random(), &PLACE).unwrap();
    fake.state().denied = vec!["Encrypt", "DescribeKey"];
    let provider = open(&server, KEY, "", STATIC);
    provider.unwrap(&slot, &PLACE).unwrap().unwrap();
    provider.check().unwrap();
    // An alias has to be looked up.
    let alias = open(&server, "alias/app", "&region=eu-central-1", STATIC);
    let error = alias.unwrap(&slot, &PLACE).unwrap().unwrap_err();
    assert!(told(&error).contains("kms:DescribeKey"), "{}", told(&error));
}

#[test]
fn many_threads_may_use_it_at_once() {
    let fake = FakeKms::new();
    let server = fake.serve();
    let provider = open(&server, KEY, "&connect-timeout=3", STATIC);
    std::thread::scope(|scope| {
        for slot in 0..8 {
            let provider = &provider;
            scope.spawn(move || {
                let (master, context) = (Secret::random(), SlotContext { slot, ..PLACE });
                let data = provider.wrap(&master, &context).unwrap();
                assert_eq!(provider.unwrap(&data, &context).unwrap().unwrap().expose(), master.expose());
            });
        }
    });
}

#[test]
fn a_slot_that_is_too_long_or_no_key_is_refused() {
    let fake = FakeKms::new();
    let server = fake.serve();
    let provider = open(&server, KEY, "", STATIC);
    let mut slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    slot.wrapped.resize(MAX_WRAPPED + 1, 0);
    assert!(matches!(provider.unwrap(&slot, &PLACE), Some(Err(ProviderError::Malformed(_)))));
    // A KMS that decrypts to something else.
    for bytes in [&b""[..], &[0; 32], &[1; 31], &[1; 33], &[1; 300]] {
        let plaintext = BASE64_STANDARD.encode(bytes);
        let server = Server::new(move |_| {
            Reply::json(200, serde_json::json!({ "Plaintext": plaintext, "KeyId": KEY, "CiphertextBlob": "AAAA" }))
        });
        let provider = open(&server, KEY, "", STATIC);
        slot.wrapped = vec![1; 60];
        let error = provider.unwrap(&slot, &PLACE).unwrap().unwrap_err();
        assert!(matches!(error, ProviderError::Answer { .. } | ProviderError::ZeroKey), "{error}");
        assert!(provider.wrap(&Secret::random(), &PLACE).is_err(), "what does not come back is not stored");
    }
}

// Where credentials come from.

/// The access key id and token that KMS saw.
fn seen(environment: &[(&str, &str)], more: &str) -> Result<(String, String), ProviderError> {
    let fake = FakeKms::new();
    let server = fake.serve();
    let url = server.url();
    let spec = format!("aws-kms:{KEY}?endpoint={url}&insecure-plain-http=true&timeout=3{more}");
    AwsKms::open_in(spec.parse().unwrap(), Environment::of(environment)).unwrap().check()?;
    let state = fake.state();
    Ok(state.seen.last().unwrap().clone())
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str, mode: u32) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn credentials_come_from_the_environment_with_their_session_token_signed() {
    assert_eq!(seen(STATIC, "").unwrap(), ("AKIDENV".into(), String::new()));
    let session = [STATIC[0], STATIC[1], ("AWS_SESSION_TOKEN", "session")];
    assert_eq!(seen(&session, "").unwrap(), ("AKIDENV".into(), "session".into()));
}

#[test]
fn credentials_come_from_profiles() {
    let dir = tempfile::tempdir().unwrap();
    let text = "# keys\n[default]\naws_access_key_id = AKIDDEF\naws_secret_access_key=a=b\n\n[app]\naws_access_key_id=AKIDAPP\n\
                aws_secret_access_key = s\naws_session_token = t\ns3 =\n  region = nested\n";
    let credentials = file(&dir, "credentials", text, 0o600);
    let config = file(
        &dir,
        "config",
        "[profile  app]\nregion = eu-north-1\n[profile bare]\nregion=x\n[profile sso]\nsso_session = s\n",
        0o644,
    );
    let files = [("AWS_SHARED_CREDENTIALS_FILE", &*credentials), ("AWS_CONFIG_FILE", &*config)];
    assert_eq!(seen(&files, "").unwrap().0, "AKIDDEF");
    assert_eq!(seen(&[files[0], files[1], ("AWS_PROFILE", "app")], "").unwrap(), ("AKIDAPP".into(), "t".into()));
    // A named profile or file is the only place, whatever the environment says.
    let both = [files[0], files[1], STATIC[0], STATIC[1]];
    assert_eq!(seen(&both, "").unwrap().0, "AKIDENV");
    assert_eq!(seen(&both, "&profile=app").unwrap().0, "AKIDAPP");
    assert_eq!(seen(STATIC, &format!("&credentials-file={credentials}")).unwrap().0, "AKIDDEF");
    let by_profile = AwsKms::open_in("aws-kms:alias/a?profile=app".parse().unwrap(), Environment::of(&both)).unwrap();
    assert_eq!(by_profile.region, "eu-north-1");

    for (profile, says) in [("none", "no AWS profile"), ("bare", "has no credentials"), ("sso", "sso_session")] {
        let error = seen(&both, &format!("&profile={profile}")).unwrap_err();
        assert!(matches!(error, ProviderError::Setup { .. }) && error.to_string().contains(says), "{error}");
    }
    let loose = file(&dir, "loose", text, 0o640);
    let error = seen(&[], &format!("&credentials-file={loose}")).unwrap_err();
    assert!(error.to_string().contains("can be used by others"), "{error}");
}

fn document(id: &str, end: &str) -> Reply {
    Reply::json(
        200,
        serde_json::json!({ "Code": "Success", "AccessKeyId": id, "SecretAccessKey": "s", "Token": "tok", "Expiration": end }),
    )
}

#[test]
fn credentials_come_from_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let token = file(&dir, "token", "agent-token\n", 0o644);
    let agent = Server::new(|call| match (call.path.as_str(), call.header("authorization")) {
        ("/v1/credentials", "agent-token") => document("AKIDECS", "2099-01-01T00:00:00Z"),
        _ => Reply::text(401, "no"),
    });
    let uri = format!("{}/v1/credentials", agent.url());
    let by_file = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*uri), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &*token)];
    assert_eq!(seen(&by_file, "").unwrap(), ("AKIDECS".into(), "tok".into()));
    let direct = [by_file[0], ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "agent-token")];
    assert_eq!(seen(&direct, "").unwrap().0, "AKIDECS");
    assert!(matches!(seen(&by_file[..1], ""), Err(ProviderError::Refused { .. })));
    // Never in the clear to another machine.
    let far = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://credentials.example/v1")];
    assert!(matches!(seen(&far, ""), Err(ProviderError::Setup { .. })));
}

#[test]
fn credentials_come_from_the_instance_by_version_2_alone() {
    let imds = Server::new(|call| {
        let token = call.header("x-aws-ec2-metadata-token");
        match (call.method.as_str(), call.path.as_str()) {
            ("PUT", "/latest/api/token") if call.header("x-aws-ec2-metadata-token-ttl-seconds") == "300" => {
                Reply::text(200, "imds-token")
            }
            ("GET", "/latest/meta-data/iam/security-credentials/") if token == "imds-token" => {
                Reply::text(200, "app-role")
            }
            ("GET", "/latest/meta-data/iam/security-credentials/app-role") if token == "imds-token" => {
                document("AKIDEC2", "2099-01-01T00:00:00Z")
            }
            _ => Reply::text(401, "version 2 wants a token"),
        }
    });
    let at = |url: &str| vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.to_owned())];
    let from = |url: &str, more: &[(&str, &str)]| {
        let variables = at(url);
        let mut environment: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        environment.extend_from_slice(more);
        seen(&environment, "")
    };
    assert_eq!(from(&imds.url(), &[]).unwrap(), ("AKIDEC2".into(), "tok".into()));

    // A service that knows version 1 only gets one question, and it is not for keys.
    let old = Server::new(|call| match call.method.as_str() {
        "PUT" => Reply::text(405, ""),
        _ => document("AKIDOLD", "2099-01-01T00:00:00Z"),
    });
    assert!(matches!(from(&old.url(), &[]), Err(ProviderError::Refused { .. })));
    assert_eq!(old.calls(), 1);
    // A role with a name that leads elsewhere.
    let odd = Server::new(|call| Reply::text(200, if call.method == "PUT" { "t" } else { "../../user-data" }));
    assert!(matches!(from(&odd.url(), &[]), Err(ProviderError::Refused { .. })));
    // No service at all: told, with everything that was tried.
    let gone = format!("http://127.0.0.1:{}", closed_port());
    for more in [&[][..], &[("AWS_EC2_METADATA_DISABLED", "TRUE")]] {
        let error = from(&gone, more).unwrap_err();
        assert!(matches!(error, ProviderError::Setup { .. }), "{error}");
        assert!(told(&error).contains("hop-limit") && told(&error).contains("no AWS credentials"), "{}", told(&error));
    }
    let before = imds.calls();
    assert!(from(&imds.url(), &[("AWS_EC2_METADATA_DISABLED", "true")]).is_err());
    assert_eq!(imds.calls(), before);
}

/// What STS says; `end` is when the credentials end.
fn sts(end: &str) -> Reply {
    Reply::text(
        200,
        &format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
             <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/app/x</Arn></AssumedRoleUser><Credentials>\n  <AccessKeyId>ASIAWEB\
             </AccessKeyId>\n<SecretAccessKey>a/b+c=</SecretAccessKey><SessionToken>web-token</SessionToken><Expiration>{end}</Expiration>\
             </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        ),
    )
}

#[test]
fn credentials_come_from_a_web_identity() {
    let dir = tempfile::tempdir().unwrap();
    let token = file(&dir, "token", "eyJ.jwt.sig", 0o644);
    let service = Server::new(|call| {
        let body = String::from_utf8(call.body).unwrap();
        let expected = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fapp&\
                        RoleSessionName=envelopefs&WebIdentityToken=eyJ%2Ejwt%2Esig";
        if body != expected || call.headers.contains_key("authorization") {
            return Reply::text(403, "<ErrorResponse><Error><Code>InvalidIdentityToken</Code></Error></ErrorResponse>");
        }
        sts("2099-01-01T00:00:00Z")
    });
    let role = ("AWS_ROLE_ARN", "arn:aws:iam::1:role/app");
    let environment = [role, ("AWS_WEB_IDENTITY_TOKEN_FILE", &*token)];
    let more = format!("&sts-endpoint={}", service.url());
    assert_eq!(seen(&environment, &more).unwrap(), ("ASIAWEB".into(), "web-token".into()));
    let profile = format!("[profile web]\nrole_arn = {}\nweb_identity_token_file = {token}\n", role.1);
    let config = file(&dir, "config", &profile, 0o600);
    let by_profile = [("AWS_CONFIG_FILE", &*config)];
    assert_eq!(seen(&by_profile, &format!("{more}&profile=web")).unwrap().0, "ASIAWEB");

    let wrong = file(&dir, "wrong", "other.jwt", 0o644);
    let error = seen(&[role, ("AWS_WEB_IDENTITY_TOKEN_FILE", &*wrong)], &more).unwrap_err();
    assert!(
        matches!(error, ProviderError::Refused { .. }) && error.to_string().contains("InvalidIdentityToken"),
        "{error}"
    );
    for bad in ["", "<Credentials><AccessKeyId>A</AccessKeyId></Credentials>", "<AccessKeyId>&lt;</AccessKeyId>"] {
        let service = Server::new(move |_| Reply::text(200, bad));
        let error = seen(&environment, &format!("&sts-endpoint={}", service.url())).unwrap_err();
        assert!(matches!(error, ProviderError::Answer { .. }), "{error}");
    }
}

#[test]
fn credentials_that_end_are_renewed() {
    let fake = FakeKms::new();
    let server = fake.serve();
    // Each set ends within the margin, so that each use fetches another.
    let agent = Server::new(|call| {
        let end = jiff::Timestamp::now() + Duration::from_secs(60);
        document(&format!("AKID{}", call.number), &end.to_string())
    });
    let uri = format!("{}/c", agent.url());
    let provider = open(&server, KEY, "", &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)]);
    provider.check().unwrap();
    provider.check().unwrap();
    let ids = |fake: &FakeKms| fake.state().seen.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&fake), ["AKID0", "AKID1"]);
    // The agent is gone: the last set is still good.
    drop(agent);
    provider.check().unwrap();
    assert_eq!(ids(&fake).last().unwrap(), "AKID1");

    // Long-lived ones are kept, until KMS says that they have ended.
    let fake = FakeKms::new();
    let server = fake.serve();
    let agent = Server::new(|call| document(&format!("AKID{}", call.number), "2099-01-01T00:00:00Z"));
    let uri = format!("{}/c", agent.url());
    let provider = open(&server, KEY, "", &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)]);
    provider.check().unwrap();
    provider.check().unwrap();
    fake.state().faults.push_back(Fault::Error(400, "ExpiredTokenException"));
    provider.check().unwrap();
    assert_eq!(ids(&fake), ["AKID0", "AKID0", "AKID0", "AKID1"]);
}

#[test]
fn secrets_do_not_show_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[default]\naws_access_key_id = AKIDDEF\naws_secret_access_key = bad\u{7f}geheim\naws_session_token = geheim\u{1}\n";
    let credentials = file(&dir, "credentials", text, 0o600);
    let error = seen(&[], &format!("&credentials-file={credentials}")).unwrap_err();
    assert!(!format!("{error:?} {}", told(&error)).contains("geheim"), "{error:?}");
}

#[test]
fn secrets_do_not_show_in_the_most_talkative_log() {
    let fake = FakeKms::new();
    let server = fake.serve();
    let provider = open(&server, KEY, "", &[STATIC[0], STATIC[1], ("AWS_SESSION_TOKEN", "session-geheim")]);
    let log = tempfile::NamedTempFile::new().unwrap();
    let writer = std::sync::Mutex::new(log.reopen().unwrap());
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(writer).finish();
    let master = Secret::random();
    tracing::subscriber::with_default(subscriber, || {
        tracing::trace!("heard");
        let slot = provider.wrap(&master, &PLACE).unwrap();
        provider.unwrap(&slot, &PLACE).unwrap().unwrap();
    });
    let heard = std::fs::read_to_string(log.path()).unwrap();
    assert!(heard.contains("heard"));
    assert!(!heard.contains("geheim") && !heard.contains(&BASE64_STANDARD.encode(master.expose())), "{heard}");
}
