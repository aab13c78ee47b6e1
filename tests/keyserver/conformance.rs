//! The compatibility checklist of the wire (src/api.md), with the programs that existing scripts use.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{Answer, INSTANCE, OTHER, STRANGER, TENANT, VOLUME, World, told};

const INCORRECT: &str = "Wrapped secret and/or context are incorrect";

fn generate(world: &World, key: &str, volume: &str) -> Answer {
    world.call(INSTANCE, INSTANCE, "generate", &json!({"rsa_wrapping_key": key, "volume_uuid": volume}))
}

fn decrypt(world: &World, machine: &str, sealed: &str, key: &str, volume: &str) -> Answer {
    let body = json!({"encrypted_secret": sealed, "rsa_wrapping_key": key, "volume_uuid": volume});
    world.call(machine, machine, "decrypt", &body)
}

fn text(answer: &Answer, name: &str) -> String {
    answer.json()[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer:?}")).to_owned()
}

/// Of every answer: JSON of text values, whose characters an unquoted shell leaves alone; no redirect.
fn is_well_formed(answer: &Answer) {
    assert!(!answer.body.contains(['*', '?', '[']), "{answer:?}");
    assert!(answer.json().is_object() && (answer.status == 200 || answer.status >= 400), "{answer:?}");
    assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
    assert!(answer.status == 200 || !answer.message().is_empty(), "{answer:?}");
}

#[test]
fn a_secret_is_made_opened_and_taken_over_as_scripts_do_it() {
    let mut world = World::new();
    world.serve();

    // 3: one line, the same every time, and a PEM made from it as one line loads.
    let public = world.curl(&[], "public-signing-key");
    is_well_formed(&public);
    let key = text(&public, "public_key");
    assert!(key.starts_with("MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE") && key.len() == 160, "{key}");
    assert_eq!(text(&world.curl(&[], "/public-signing-key"), "public_key"), key);
    world.write("built.pem", format!("-----BEGIN PUBLIC KEY-----\n{key}\n-----END PUBLIC KEY-----\n"));
    let loads = world.openssl(&["pkey", "-pubin", "-in", "built.pem", "-noout"]);
    assert!(loads.status.success(), "{}", told(&loads));
    assert!(std::fs::read_to_string(world.path("signing.pem")).unwrap().contains(&key), "what init wrote");

    // 4, 5: signatures and OAEP, with each size of key.
    for bits in [2048, 3072, 4096] {
        let rsa = world.one_time_key("rsa", bits);
        let made = generate(&world, &rsa, "AZERTU-ZERTYUI");
        assert_eq!(made.status, 200, "{made:?}");
        is_well_formed(&made);
        for name in ["encrypted_secret", "wrapped_secret"] {
            let (value, signature) = (made.bytes(name), made.bytes(&format!("{name}_signature")));
            assert!(world.is_signed(&value, &signature), "{name}");
            assert!(!world.is_signed(&value[1..], &signature), "{name}");
        }
        assert_eq!(made.bytes("wrapped_secret").len(), bits as usize / 8);
        let secret = world.open("rsa", &made.bytes("wrapped_secret")).expect("opens");
        assert_eq!(secret.len(), 32);

        // 6: the name of the volume in another case; the same secret under another key of another size.
        let again = world.one_time_key("again", 2048);
        let sealed = text(&made, "encrypted_secret");
        let opened = decrypt(&world, INSTANCE, &sealed, &again, "azertu-zertyui");
        assert_eq!(opened.status, 200, "{opened:?}");
        is_well_formed(&opened);
        assert!(world.is_signed(&opened.bytes("wrapped_secret"), &opened.bytes("wrapped_secret_signature")));
        assert_eq!(world.open("again", &opened.bytes("wrapped_secret")), Some(secret.clone()));

        // 7: to oneself, as the original's functional test does; and to another machine. The old blob stays good for the old one.
        let convert = |machine: &str| {
            let body =
                json!({"encrypted_secret": sealed, "volume_uuid": "AZERTU-ZERTYUI", "source_instance_id": INSTANCE});
            let converted = world.call(machine, machine, "convert", &body);
            assert_eq!(converted.status, 200, "{converted:?}");
            is_well_formed(&converted);
            assert!(
                world.is_signed(&converted.bytes("encrypted_secret"), &converted.bytes("encrypted_secret_signature"))
            );
            text(&converted, "encrypted_secret")
        };
        for machine in [INSTANCE, OTHER] {
            let (blob, key) = (convert(machine), world.one_time_key("new", 2048));
            let opened = decrypt(&world, machine, &blob, &key, "AZERTU-ZERTYUI");
            assert_eq!(world.open("new", &opened.bytes("wrapped_secret")), Some(secret.clone()));
        }
        assert_eq!(decrypt(&world, INSTANCE, &sealed, &again, "AZERTU-ZERTYUI").status, 200);
    }
    assert_eq!(world.curl(&[], "signing-keys").json()["keys"].as_object().unwrap().len(), 1);
    assert!(world.judge() > 20);
    world.stop();
}

#[test]
fn a_blob_that_is_wrong_in_any_way_has_one_answer_and_a_record() {
    let mut world = World::new();
    world.serve();
    let rsa = world.one_time_key("rsa", 2048);
    let made = generate(&world, &rsa, VOLUME);
    let (sealed, blob) = (text(&made, "encrypted_secret"), made.bytes("encrypted_secret"));
    let encode = |bytes: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    let before = world.log_of(TENANT).len();

    let mut wrong = vec![
        decrypt(&world, OTHER, &sealed, &rsa, VOLUME),
        decrypt(&world, INSTANCE, &sealed, &rsa, "another volume"),
        decrypt(&world, INSTANCE, &encode(&blob[..blob.len() - 1]), &rsa, VOLUME),
        decrypt(&world, INSTANCE, "", &rsa, VOLUME),
        decrypt(&world, INSTANCE, &encode(&[7; 92]), &rsa, VOLUME),
    ];
    for at in [0, 4, 8, blob.len() / 2, blob.len() - 1] {
        let mut changed = blob.clone();
        changed[at] ^= 1;
        wrong.push(decrypt(&world, INSTANCE, &encode(&changed), &rsa, VOLUME));
    }
    let other_source = json!({"encrypted_secret": sealed, "volume_uuid": VOLUME, "source_instance_id": OTHER});
    wrong.push(world.call(INSTANCE, INSTANCE, "convert", &other_source));
    let lines = |answer: &Answer| {
        let changing = ["date:", "x-request-id:"];
        let all = answer.head.lines().filter(|line| !changing.iter().any(|name| line.starts_with(name)));
        all.map(str::to_owned).collect::<Vec<_>>()
    };
    for answer in &wrong {
        assert_eq!((answer.status, answer.message().as_str()), (400, INCORRECT), "{answer:?}");
        assert_eq!((&answer.body, lines(answer)), (&wrong[0].body, lines(&wrong[0])), "nothing tells them apart");
    }
    // Another tenant has a key of its own, made when it was added; its machine learns as little.
    let stranger = decrypt(&world, "i-stranger", &sealed, &rsa, VOLUME);
    assert_eq!((stranger.status, stranger.message().as_str()), (400, INCORRECT), "{stranger:?}");

    let log = world.log_of(TENANT);
    let new = &log[before..];
    assert_eq!(new.len(), wrong.len());
    for record in new {
        assert_eq!((&record["result"], &record["failure_reason"]), (&json!("Failed"), &json!(INCORRECT)), "{record}");
    }
    assert_eq!(world.log_of(STRANGER).last().unwrap()["failure_reason"], INCORRECT);
}

#[test]
fn requests_that_are_not_right_have_the_statuses_and_texts_of_the_wire() {
    let mut world = World::new();
    world.serve();
    let rsa = world.one_time_key("rsa", 2048);
    let weak = world.one_time_key("weak", 1024);
    let bare = world.openssl(&["rsa", "-in", "rsa", "-RSAPublicKey_out", "-outform", "DER"]).stdout;
    let bare = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bare);
    let good = json!({"rsa_wrapping_key": rsa, "volume_uuid": VOLUME});
    let path = format!("/encryption/{INSTANCE}/generate-secret");
    let raw = |body: &str| world.curl(&["-d", body], &path);
    let before = world.log_of(TENANT).len();

    // Those that are recorded.
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = good.clone();
        change(&mut body);
        body.to_string()
    };
    let recorded = [
        (with(&|body| drop(body.as_object_mut().unwrap().remove("volume_uuid"))), "Bad parameters"),
        (with(&|body| body["volume_uuid"] = json!(7)), "Bad parameters"),
        (with(&|body| body["volume_uuid"] = json!("a\nb")), "Bad parameters"),
        (with(&|body| body["rsa_wrapping_key"] = json!(&rsa[1..])), "Bad parameters"),
        (with(&|body| body["vpc_id"] = json!(STRANGER)), "Bad parameters"),
        (with(&|body| body["client_ip"] = json!("203.0.113.9")), "Bad parameters"),
        ("not JSON".into(), "Bad parameters"),
        ("[]".into(), "Bad parameters"),
        (String::new(), "Bad parameters"),
        (with(&|body| body["rsa_wrapping_key"] = json!(weak)), "Invalid RSA pub key"),
        (with(&|body| body["rsa_wrapping_key"] = json!(bare)), "Invalid RSA pub key"),
        (with(&|body| body["rsa_wrapping_key"] = json!("AAAA")), "Invalid RSA pub key"),
    ];
    for (body, message) in &recorded {
        let answer = raw(body);
        assert_eq!((answer.status, answer.message().as_str()), (400, *message), "{body}: {answer:?}");
        is_well_formed(&answer);
    }
    let log = world.log_of(TENANT);
    let reasons: Vec<_> = log[before..].iter().map(|record| record["failure_reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, recorded.iter().map(|(_, message)| *message).collect::<Vec<_>>());

    // What is right all the same.
    for body in
        [good.to_string(), with(&|body| body["unknown"] = json!("x")), with(&|body| body["vpc_id"] = json!(TENANT))]
    {
        assert_eq!(raw(&body).status, 200, "{body}");
    }
    // No call, no record.
    let before = world.log_of(TENANT).len();
    for (more, path, status) in [
        (&[][..], "nothing", 404),
        (&[], "public-signing-key?x=y", 404),
        (&["-X", "DELETE"], "public-signing-key", 405),
        (&["-d", "{}"], "public-signing-key", 405),
        (&["-X", "OPTIONS"], "public-signing-key", 405),
        (&["-d", "{}"], "encryption//generate-secret", 404),
        (&["-d", "{}"], "encryption/generate-secret", 404),
        (&["-d", "{}"], "encryption/a%2Fb/generate-secret", 400),
        (&[], "encryption/i-1/generate-secret", 405),
    ] {
        let answer = world.curl(more, path);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        is_well_formed(&answer);
        assert!(status != 405 || answer.head.contains("allow:"), "{answer:?}");
    }
    let large = world.write("large", vec![b'x'; 70_000]);
    let large = format!("@{}", large.display());
    assert_eq!(world.curl(&["--data-binary", &large], &path).status, 413);
    assert!(world.log_of(TENANT).len() <= before + 1, "{:?}", &world.log_of(TENANT)[before..]);
    assert!(world.judge() > 20);
}

#[test]
fn old_and_new_ways_of_speaking_are_understood() {
    let mut world = World::new();
    world.serve();
    let rsa = world.one_time_key("rsa", 2048);
    let body = json!({"rsa_wrapping_key": rsa, "volume_uuid": VOLUME}).to_string();
    let path = format!("encryption/{INSTANCE}/generate-secret");
    let file = world.write("body", &body);
    let file = format!("@{}", file.display());
    for more in [
        &["-d", &body][..],
        &["--http1.0", "-d", &body],
        &["--http2", "-d", &body],
        &["-H", "Expect: 100-continue", "--data-binary", &file],
        &["-H", "Transfer-Encoding: chunked", "--data-binary", &file],
        &["-H", "Authorization: Custom", "-d", &body],
    ] {
        let answer = world.curl(more, &path);
        assert_eq!(answer.status, 200, "{more:?}: {answer:?}");
        assert!(!answer.head.contains("content-encoding"), "{answer:?}");
    }
    // `echo $RES | jq` without quotes, in a directory with files that a pattern would find.
    let answer = world.curl(&["-d", &body], &path);
    let script =
        "cd \"$1\" && echo $RES | python3 -c 'import json,sys; print(json.load(sys.stdin)[\"wrapped_secret\"])'";
    let shell = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(world.path(""))
        .env("RES", &answer.body)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&shell.stdout).trim(), text(&answer, "wrapped_secret"), "{}", told(&shell));
}

#[test]
fn each_record_has_its_number_its_signature_and_its_place() {
    let mut world = World::new();
    world.serve();
    let rsa = world.one_time_key("rsa", 2048);
    assert_eq!(generate(&world, &rsa, VOLUME).status, 200);
    assert_eq!(decrypt(&world, INSTANCE, "AAAA", &rsa, VOLUME).status, 400);
    assert_eq!(world.curl_as("", &["-d", "{}"], &format!("encryption/{INSTANCE}/generate-secret")).status, 401);
    world.stop();
    for tenant in [TENANT, "server"] {
        let log = world.log_of(tenant);
        assert!(!log.is_empty(), "{tenant}");
        for (record, number) in log.iter().zip(1_u64..) {
            assert_eq!(record["vpc_op_seq_num"], number, "{record}");
            assert!(world.records().join(format!("{tenant}/{number:09}.json")).exists());
            let text = envelopefs::api::canonical::audit_text(record.as_object().unwrap());
            let signature = record["signature"].as_str().unwrap();
            let signature = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, signature).unwrap();
            assert!(world.is_signed(text.as_bytes(), &signature), "{record}");
        }
    }
    let first = &world.log_of(TENANT)[0];
    assert_eq!(first["call"]["name"], "generate-secret");
    assert_eq!(
        (&first["caller"]["id"], &first["caller"]["aws_account_id"]),
        (&json!(INSTANCE), &json!("123456789012"))
    );
    assert_eq!(first["call"]["parameters"]["rsa_wrapping_key"], json!(rsa));
    assert!(world.log().lines().all(|line| !line.contains(&rsa[..40])), "no keys in the log");
    // The audit log as a whole, and with one record taken away.
    let records = world.records();
    let key = world.path("signing.pem");
    let verify = ["audit", "verify", records.to_str().unwrap(), "--key", key.to_str().unwrap()];
    world.succeed(&verify);
    std::fs::remove_file(records.join(format!("{TENANT}/000000001.json"))).unwrap();
    let faulty = world.verb(&verify);
    assert!(faulty.status.code() == Some(4) && told(&faulty).contains(TENANT), "{}", told(&faulty));
}

#[test]
fn callers_are_who_their_certificates_say_and_no_others() {
    let mut world = World::new();
    world.serve();
    let rsa = world.one_time_key("rsa", 2048);
    let body = json!({"rsa_wrapping_key": rsa, "volume_uuid": VOLUME});
    let (old, key) = world.authority.issue_with(INSTANCE, |params| {
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    });
    world.write("old.pem", old.pem());
    world.write("old.key", key.serialize_pem());
    let forged = ["-H", "x-amzn-vpc-id: vpc-stranger", "-H", "X-Forwarded-For: 203.0.113.9"];
    for (machine, instance, status, code) in [
        ("", INSTANCE, 401, "nobody"),
        ("old", INSTANCE, 403, "certificate-expired"),
        (OTHER, INSTANCE, 403, "instance"),
        ("i-stranger", INSTANCE, 403, "instance"),
        (INSTANCE, "I-095AF01FB0461E052", 200, ""),
    ] {
        let answer = world.call(machine, instance, "generate", &body);
        assert_eq!(answer.status, status, "{machine} as {instance}: {answer:?}");
        is_well_formed(&answer);
        if status != 200 {
            let log = ["server", TENANT, STRANGER].map(|log| world.log_of(log)).concat();
            let refused: Vec<_> = log.iter().filter(|record| record["call"]["name"] == "refused").collect();
            assert!(refused.iter().any(|record| record["failure_code"] == code), "{code}: {refused:?}");
        }
    }
    // Headers of a gateway that is none change nothing.
    let before = world.log_of(STRANGER).len();
    let answer = world
        .curl(&[&forged[..], &["-d", &body.to_string()]].concat(), &format!("encryption/{INSTANCE}/generate-secret"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let last = world.log_of(TENANT).pop().unwrap();
    assert!(last["caller"]["ip"] != "203.0.113.9" && world.log_of(STRANGER).len() == before, "{last}");
    // A tenant that is disabled is refused at once, and served again afterwards.
    world.succeed(&["tenant", "disable", TENANT]);
    assert_eq!(world.call(INSTANCE, INSTANCE, "generate", &body).status, 403);
    assert_eq!(world.curl(&[], "public-signing-key").status, 403);
    world.succeed(&["tenant", "enable", TENANT]);
    assert_eq!(world.call(INSTANCE, INSTANCE, "generate", &body).status, 200);
}

#[test]
fn the_host_has_its_own_listener() {
    let mut world = World::new();
    world.serve();
    assert_eq!(world.desk(&[], "healthcheck").status, 204);
    let pin = |body: &str| world.desk(&["-X", "PUT", "-d", body], "hsm-pin");
    assert_eq!(pin(r#"{"pin":"5041-Pin"}"#).message(), "PIN already present");
    assert_eq!(pin("{}").message(), "Missing \"pin\" in body");
    assert_eq!(world.desk(&["-X", "PUT", "-d", "x"], "something").message(), "Incorrect method");
    assert_eq!(world.desk(&["-X", "PUT", "-d", "x"], "client-key").message(), "Failed to set the CLIENT KEY");
    let metrics = world.desk(&[], "metrics");
    assert!(metrics.body.contains("envelopefs_keyserver_healthy 1") && metrics.body.contains("# EOF"), "{metrics:?}");
    assert!(world.desk(&[], "readyz").json()["ready"].as_bool().unwrap());
    // Not on the callers' listener.
    for path in ["healthcheck", "metrics", "../metrics", "hsm-pin"] {
        assert!(world.curl(&["--path-as-is"], path).status >= 400);
    }
}

#[test]
fn pin_and_client_key_are_handed_in_once_as_scripts_do_it() {
    let mut world = World::new();
    let text = std::fs::read_to_string(world.path("keyserver.toml")).unwrap();
    let text: String =
        text.lines().filter(|line| !line.starts_with("pin = ")).map(|line| format!("{line}\n")).collect();
    let key = world.path("client.key");
    world.write("keyserver.toml", text.replace("[admin]\n", &format!("[admin]\nclient_key_file = {key:?}\n")));
    world.serve_until(500);
    assert_eq!(world.desk(&[], "healthcheck").message(), "Unhealthy");
    let rsa = world.one_time_key("rsa", 2048);
    let answer = generate(&world, &rsa, VOLUME);
    assert!(answer.status == 503 && answer.head.contains("retry-after:"), "{answer:?}");

    let pin = |body: &str| {
        let answer = world.desk(&["-X", "PUT", "-d", body], "hsm-pin");
        (answer.status, if answer.body.is_empty() { String::new() } else { answer.message() })
    };
    assert_eq!(pin(r#"{"pin":"0000"}"#), (400, "PIN was not accepted".into()));
    // Not sent to the token, though it is right: wrong ones count there.
    let right = std::fs::read_to_string(world.softhsm.dir().join("pin")).unwrap();
    let (unforced, forced) = (json!({"pin": right.trim()}), json!({"pin": right.trim(), "force": true}));
    assert_eq!(pin(&unforced.to_string()), (400, "PIN was not accepted".into()));
    assert_eq!(pin(&forced.to_string()), (204, String::new()));
    assert_eq!(pin(&unforced.to_string()), (400, "PIN already present".into()));
    assert_eq!(world.desk(&[], "healthcheck").status, 204);
    assert_eq!(generate(&world, &rsa, VOLUME).status, 200);

    let file = world.write("handed-in", "a private key in PEM");
    let put = || world.desk(&["-T", file.to_str().unwrap()], "client-key");
    assert_eq!(put().status, 204);
    assert_eq!(std::fs::read(&key).unwrap(), b"a private key in PEM");
    let again = put();
    assert_eq!((again.status, again.message().as_str()), (400, "CLIENT KEY already present"));

    // Both are recorded, without what was handed in.
    let log = world.log_of("server");
    let of = |name: &str| {
        let all = log.iter().filter(|record| record["call"]["name"] == name);
        all.map(|record| record["result"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("hsm-pin").last().map(String::as_str), Some("Failed"), "present already");
    assert!(of("hsm-pin").contains(&"Succeed".to_owned()), "{log:?}");
    assert_eq!(of("client-key"), ["Succeed", "Failed"]);
    let told = format!("{log:?}{}", world.log());
    assert!(!told.contains(right.trim()) && !told.contains("a private key"));
}

#[test]
fn a_token_beside_the_dummy_of_scripts_says_who_the_caller_is() {
    let mut world = World::new();
    world.succeed(&["tenant", "set", TENANT, "--tokens"]);
    let file = world.path("token");
    world.succeed(&["token", "add", TENANT, "--instance", INSTANCE, "--out", file.to_str().unwrap()]);
    let token = std::fs::read_to_string(&file).unwrap();
    world.serve();
    let rsa = world.one_time_key("rsa", 2048);
    let body = json!({"rsa_wrapping_key": rsa, "volume_uuid": VOLUME}).to_string();
    let path = format!("encryption/{INSTANCE}/generate-secret");
    // As ~/.curlrc has it: curl sends the dummy's line too.
    let curlrc = world.write("curlrc", format!("header = \"Authorization: Bearer {}\"\n", token.trim()));
    let with = |more: &[&str]| {
        let config = ["-K", curlrc.to_str().unwrap(), "-d", &body];
        world.curl_as("", &[&config[..], more].concat(), &path).status
    };
    assert_eq!(with(&[]), 200);
    let identity = world.log_of(TENANT).last().unwrap()["caller"]["identity"].as_str().unwrap().to_owned();
    assert!(identity.starts_with("token:"), "{identity}");
    assert_eq!(with(&["-H", "Authorization: Bearer another"]), 403);
    assert_eq!(world.curl_as("", &["-H", "Authorization: Bearer another", "-d", &body], &path).status, 403);
    assert!(!world.log().contains(token.trim()));
}

#[test]
fn evidence_is_demanded_and_a_report_that_was_made_for_something_else_does_not_do() {
    const REPORT: &[u8] = include_bytes!("../fixtures/sev-snp/milan-report.bin");
    const VCEK: &[u8] = include_bytes!("../fixtures/sev-snp/milan-vcek.der");
    let mut world = World::new();
    world.serve();
    let rsa = world.one_time_key("rsa", 2048);
    let challenge = || world.curl(&["-d", ""], &format!("encryption/{INSTANCE}/challenge"));
    assert_eq!(challenge().status, 404, "nobody demands any");

    let measurement = envelopefs::api::hex(&REPORT[0x90..0xC0]);
    let (good, wrong) = (
        json!({"measurements": [measurement], "allow_version_2": true}),
        json!({"measurements": [measurement], "measurement": 1}),
    );
    let demand = |policy: &Value| {
        let file = world.write("attestation.json", policy.to_string());
        world.verb(&["tenant", "set", TENANT, "--attestation", file.to_str().unwrap()]).status.code()
    };
    assert_eq!(demand(&wrong), Some(2));
    assert_eq!(demand(&json!({})), Some(2), "nobody would be let in");
    assert_eq!(demand(&good), Some(0));

    let encode = |bytes: &[u8]| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes);
    let call = |challenge: Option<&str>| {
        let mut body = json!({"rsa_wrapping_key": rsa, "volume_uuid": VOLUME});
        if let Some(challenge) = challenge {
            let (report, certificates) = (encode(REPORT), encode(VCEK));
            body["attestation"] = json!({"challenge": challenge, "report": report, "certificates": certificates});
        }
        let answer = world.call(INSTANCE, INSTANCE, "generate", &body);
        is_well_formed(&answer);
        let code = world.log_of(TENANT).last().unwrap()["failure_code"].as_str().unwrap_or_default().to_owned();
        (answer.status, answer.body, code)
    };
    let given = challenge();
    is_well_formed(&given);
    let given = text(&given, "challenge");
    let (_, forbidden, _) = call(None);
    for (challenge, code) in [
        (None, "attestation-missing"),
        (Some(given.as_str()), "attestation-report-data"),
        (Some(given.as_str()), "attestation-challenge"),
    ] {
        assert_eq!(call(challenge), (403, forbidden.clone(), code.into()));
    }
    let record = world.log_of(TENANT).pop().unwrap();
    assert!(record["caller"]["attestation_sha256"].is_string(), "{record}");
    assert!(world.judge() > 3);
    world.succeed(&["tenant", "set", TENANT, "--attestation", "none"]);
    assert_eq!(call(None).0, 200);
}

#[test]
fn a_flood_is_refused_and_the_server_does_not_grow() {
    const MOST: u64 = 64 << 10;
    let mut world = World::new();
    world.serve();
    let rsa = world.one_time_key("rsa", 2048);
    assert_eq!(generate(&world, &rsa, VOLUME).status, 200);
    let before = world.memory();

    // Half a handshake each, held.
    let hello = |_| {
        let mut stream = TcpStream::connect(("127.0.0.1", world.port())).unwrap();
        stream.write_all(&[22, 3, 1, 2, 0]).unwrap();
        stream
    };
    let held: Vec<TcpStream> = (0..180).map(hello).collect();
    // Bodies without end, requests of nobody, and instances that are none.
    let authority = reqwest::Certificate::from_pem(&std::fs::read(world.path("ca.pem")).unwrap()).unwrap();
    let url = format!("https://localhost:{}/v1/encryption/", world.port());
    let flood = |number: usize| {
        let http = reqwest::blocking::Client::builder().tls_certs_only([authority.clone()]).no_proxy().build().unwrap();
        let mut refused = 0;
        for round in 0..60 {
            let (instance, body) = match (number + round) % 3 {
                0 => ("i-1".to_owned(), vec![b'x'; 4 << 20]),
                1 => (format!("i-{number}-{round}"), vec![b'['; 60_000]),
                _ => ("%00".repeat(3000), Vec::new()),
            };
            let answer = http.post(format!("{url}{instance}/generate-secret")).body(body).send();
            // Who goes on writing to a connection that is closed sees no answer.
            refused += usize::from(answer.is_ok_and(|answer| answer.status().is_client_error()));
        }
        refused
    };
    let refused: usize = std::thread::scope(|scope| {
        let floods: Vec<_> = (0..16)
            .map(|number| {
                let flood = &flood;
                scope.spawn(move || flood(number))
            })
            .collect();
        floods.into_iter().map(|flood| flood.join().unwrap()).sum()
    });
    let grown = world.memory().saturating_sub(before);
    drop(held);
    assert!(refused > 300, "{refused}");
    assert!(grown < MOST, "{grown} KiB more than before");
    // The address has had its share for a while; then it is served as ever.
    let start = Instant::now();
    while generate(&world, &rsa, VOLUME).status != 200 {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(200));
    }
}
