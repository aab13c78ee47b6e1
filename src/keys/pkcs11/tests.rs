//! The provider on real SoftHSM tokens, and on a module that fails as ordered. Each test is a process of its own (see
//! tests/common/softhsm.rs).

use std::time::{Duration, Instant};

use super::*;
use crate::keys::contract::{self, Contract, PLACE};
use crate::keys::softhsm::{self, PIN, SoftHsm};

macro_rules! own_process {
    ($(#[$meta:meta])* $name:ident, |$softhsm:ident| $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            softhsm::in_child(concat!("keys::pkcs11::tests::", stringify!($name)), |$softhsm: &SoftHsm| $body);
        }
    };
}

fn open(text: &str) -> Pkcs11Provider {
    Pkcs11Provider::open(text.parse().expect("a specification")).expect("opens")
}

/// Makes the key with a first slot.
fn made(text: &str) -> Pkcs11Provider {
    let provider = open(&format!("{text}&make=true"));
    provider.wrap(&Secret::random(), &PLACE).expect("makes the key");
    provider
}

fn round_trip(wrapping: &Pkcs11Provider, unwrapping: &Pkcs11Provider) {
    let master = Secret::random();
    let slot = wrapping.wrap(&master, &PLACE).expect("wraps");
    assert_eq!(unwrapping.unwrap(&slot, &PLACE).expect("its own").expect("opens").expose(), master.expose());
}

/// The error as a user sees it.
fn error(outcome: Result<impl Sized, ProviderError>) -> String {
    let error = outcome.err().expect("an error");
    let text = format!("{} {}", told(&error), error.remedy().unwrap_or_default());
    assert!(!text.contains(PIN), "{text}");
    text
}

fn mechanism_of(provider: &Pkcs11Provider) -> String {
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    slot.parameters.get("mechanism").unwrap().as_str().unwrap().to_owned()
}

/// The contract suite with keys of one mechanism.
fn keeps_the_contract(softhsm: &SoftHsm, options: &str, mechanism: &str) {
    softhsm.token("hsm");
    let spec = |object: &str| format!("{}{options}", softhsm.spec("hsm", object));
    let (ours, same, other) = (made(&spec("ours")), open(&spec("ours")), made(&spec("other")));
    assert_eq!(mechanism_of(&ours), mechanism);
    let contract = Contract { secrets: &[PIN.as_bytes()], ..Contract::LOCAL };
    contract::keep(&ours, &same, &other, &contract);
}

own_process!(aes_gcm_keeps_the_contract, |softhsm| {
    keeps_the_contract(softhsm, "", "aes-gcm");
});

own_process!(hmac_keeps_the_contract_where_gcm_is_missing, |softhsm| {
    softhsm.configure("CKM_SHA256_HMAC,CKM_GENERIC_SECRET_KEY_GEN,CKM_AES_KEY_GEN,CKM_AES_CBC");
    keeps_the_contract(softhsm, "", "hmac-sha256");
});

own_process!(rsa_keeps_the_contract_where_there_is_no_aes, |softhsm| {
    softhsm.configure("CKM_RSA_PKCS_KEY_PAIR_GEN,CKM_RSA_PKCS_OAEP,CKM_SHA256_RSA_PKCS");
    // SoftHSM's OAEP knows SHA-1 alone, which the self-test finds out.
    keeps_the_contract(softhsm, "", "rsa-oaep-sha1");
});

own_process!(a_mechanism_can_be_chosen_and_one_that_fails_the_self_test_is_refused, |softhsm| {
    softhsm.token("hsm");
    let spec = |object: &str, mechanism: &str| format!("{}&mechanism={mechanism}", softhsm.spec("hsm", object));
    assert_eq!(mechanism_of(&made(&spec("h", "hmac-sha256"))), "hmac-sha256");
    assert_eq!(mechanism_of(&made(&spec("r", "rsa-oaep-sha1"))), "rsa-oaep-sha1");
    let text = error(open(&format!("{}&make=true", spec("s", "rsa-oaep-sha256"))).wrap(&Secret::random(), &PLACE));
    assert!(text.contains("does not pass the self-test"), "{text}");
    // SoftHSM leaves a zeroed nonce as it is: every slot would have the same.
    let text = error(open(&format!("{}&make=true", spec("z", "aes-gcm-token-iv"))).wrap(&Secret::random(), &PLACE));
    assert!(text.contains("nonce zero"), "{text}");
    let text = error(open(&spec("h", "aes-gcm")).check());
    assert!(text.contains("another type"), "{text}");
});

own_process!(keys_of_one_label_are_an_error_and_an_id_tells_them_apart, |softhsm| {
    softhsm.token("hsm");
    for id in ["01", "02"] {
        softhsm.tool("hsm", &["--keygen", "--key-type", "AES:32", "--label", "twin", "--id", id, "--sensitive"]);
    }
    let text = error(open(&softhsm.spec("hsm", "twin")).check());
    assert!(text.contains("2 secret keys") && text.contains("id="), "{text}");
    let (one, two) = (open(&softhsm.spec("hsm", "twin;id=%01")), open(&softhsm.spec("hsm", "twin;id=%02")));
    round_trip(&one, &one);
    let slot = one.wrap(&Secret::random(), &PLACE).unwrap();
    assert!(two.unwrap(&slot, &PLACE).is_none());
    assert!(error(open(&softhsm.spec("hsm", "twin;id=%03")).check()).contains("there is no key"));
    // A secret key and a private key of one label: not guessed either.
    softhsm.tool(
        "hsm",
        &["--keypairgen", "--key-type", "rsa:2048", "--label", "twin", "--id", "01", "--usage-decrypt", "--usage-sign"],
    );
    assert!(error(open(&softhsm.spec("hsm", "twin;id=%01")).check()).contains("type="));
    open(&softhsm.spec("hsm", "twin;id=%01;type=secret-key")).check().unwrap();
    // One RSA key for both purposes, as others make it.
    let private = open(&softhsm.spec("hsm", "twin;type=private"));
    round_trip(&private, &private);
    assert_eq!(mechanism_of(&private), "rsa-oaep-sha1");
});

own_process!(a_key_is_made_once_and_cannot_be_read, |softhsm| {
    softhsm.token("hsm");
    let text = error(open(&softhsm.spec("hsm", "app")).check());
    assert!(text.contains("there is no key \"app\" of token \"hsm\"") && text.contains("make=true"), "{text}");
    // Neither to check nor to open is a reason to make one.
    let maker = open(&format!("{}&make=true", softhsm.spec("hsm", "app")));
    assert!(error(maker.check()).contains("made with the first key slot"));
    let provider = made(&softhsm.spec("hsm", "app"));
    round_trip(&provider, &made(&softhsm.spec("hsm", "app")));
    let facts = provider.facts();
    let fact =
        |name: &str| facts.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str()).unwrap_or_default();
    assert!(fact("module").contains("SoftHSM") && fact("token").contains("\"hsm\""), "{facts:?}");
    assert!(fact("key").contains("AES, 256 bits") && fact("token's mechanisms").contains("CKM_AES_GCM"), "{facts:?}");
    assert!(!format!("{facts:?}").contains(PIN));
    // One that can be read out is refused, unless that is said.
    softhsm.tool("hsm", &["--keygen", "--key-type", "AES:32", "--label", "loose", "--extractable"]);
    let text = error(open(&softhsm.spec("hsm", "loose")).check());
    assert!(text.contains("can be read out"), "{text}");
    open(&format!("{}&insecure-extractable-key=true", softhsm.spec("hsm", "loose"))).check().unwrap();
    softhsm.tool("hsm", &["--keygen", "--key-type", "AES:16", "--label", "short", "--sensitive"]);
    assert!(error(open(&softhsm.spec("hsm", "short")).check()).contains("256 bits"));
});

own_process!(a_wrong_pin_is_sent_once_and_never_again, |softhsm| {
    softhsm.token("hsm");
    drop(made(&softhsm.spec("hsm", "app")));
    let shim = softhsm.shim();
    let wrong = softhsm.pin_file("wrong", "9999-Wrong");
    let spec = softhsm.spec_by(&shim, "hsm", "app");
    let with_wrong = spec.replace(softhsm.dir().join("pin").to_str().unwrap(), wrong.to_str().unwrap());
    // An alternative with the same PIN would spend another try.
    let provider = open(&format!("{with_wrong}&alternative=pkcs11:token=hsm;object=app"));
    let slot = made(&softhsm.spec("hsm", "app")).wrap(&Secret::random(), &PLACE).unwrap();
    let text = error(provider.unwrap(&slot, &PLACE).unwrap());
    assert!(text.contains("the PIN is wrong") && text.contains("not tried again"), "{text}");
    assert!(!text.contains("9999"));
    for _ in 0..3 {
        assert!(error(provider.check()).contains("refused before"));
        assert!(error(provider.unwrap(&slot, &PLACE).unwrap()).contains("refused before"));
    }
    assert_eq!(softhsm.calls("C_Login"), 1);
    // An alternative with a PIN of its own serves.
    let own = spec.split_once('?').unwrap().1.replace('&', "%26");
    let provider = open(&format!("{with_wrong}&alternative=pkcs11:token=hsm;object=app%3F{own}"));
    provider.unwrap(&slot, &PLACE).unwrap().unwrap();
    assert_eq!(softhsm.calls("C_Login"), 3);
    // Neither locked nor near it: SoftHSM only notes that there were wrong ones. What other tokens say is played.
    drop(provider);
    for (code, says) in [("0xa4", "locked"), ("0xa3", "expired"), ("0x102", "no user PIN"), ("0xa2", "wrong")] {
        softhsm.order("C_Login", code);
        let (provider, before) = (open(&spec), softhsm.calls("C_Login"));
        let text = error(provider.check());
        assert!(text.contains(says), "{text}");
        assert!(error(provider.check()).contains("refused before"));
        assert_eq!(softhsm.calls("C_Login"), before + 1, "{code}");
    }
    // Somebody else in this process has logged in: no error.
    softhsm.order("C_Login", "");
    let (first, second) = (open(&spec), open(&spec));
    first.check().unwrap();
    second.check().unwrap();
    let no_pin = spec.split("&pin-source").next().unwrap().to_owned();
    drop((first, second));
    assert!(error(open(&no_pin).check()).contains("wants a PIN"));
});

own_process!(what_is_not_there_is_named, |softhsm| {
    softhsm.token("hsm");
    let text = error(open(&softhsm.spec("other", "app")).check());
    assert!(text.contains("there is no such token; present: \"hsm\""), "{text}");
    let text = error(open(&softhsm.spec("hsm;serial=0000", "app")).check());
    assert!(text.contains("no such token"), "{text}");
    softhsm.token("hsm");
    let text = error(open(&softhsm.spec("hsm", "app")).check());
    assert!(text.contains("2 tokens fit") && text.contains("serial="), "{text}");
});

own_process!(a_module_that_cannot_start_is_told, |softhsm| {
    std::fs::remove_dir(softhsm.tokens()).unwrap();
    let text = error(open(&softhsm.spec("hsm", "app")).check());
    assert!(text.contains("does not start"), "{text}");
    std::fs::create_dir(softhsm.tokens()).unwrap();
    softhsm.token("hsm");
    made(&softhsm.spec("hsm", "app"));
});

own_process!(a_token_that_was_away_is_used_again, |softhsm| {
    let token = softhsm.token("hsm");
    let provider = made(&softhsm.spec("hsm", "app"));
    let master = Secret::random();
    let slot = provider.wrap(&master, &PLACE).unwrap();
    let away = softhsm.dir().join("away");
    std::fs::rename(&token, &away).unwrap();
    let outcome = provider.unwrap(&slot, &PLACE).unwrap();
    assert!(matches!(outcome, Err(ProviderError::Unreachable { .. })), "{outcome:?}");
    std::fs::rename(&away, &token).unwrap();
    assert_eq!(provider.unwrap(&slot, &PLACE).unwrap().unwrap().expose(), master.expose());
    provider.check().unwrap();
});

own_process!(a_key_that_is_taken_away_is_a_refusal, |softhsm| {
    softhsm.token("hsm");
    let provider = made(&softhsm.spec("hsm", "app"));
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    softhsm.tool("hsm", &["--delete-object", "--type", "secrkey", "--label", "app"]);
    let outcome = provider.unwrap(&slot, &PLACE).unwrap();
    assert!(matches!(outcome, Err(ProviderError::Refused { .. })), "a lease ends with it: {outcome:?}");
    // For one who has never seen it, its name may be mistyped.
    assert!(matches!(open(&softhsm.spec("hsm", "app")).check(), Err(ProviderError::Setup { .. })));
});

own_process!(a_lost_session_is_opened_anew_with_one_login, |softhsm| {
    softhsm.token("hsm");
    let provider = made(&softhsm.spec_by(&softhsm.shim(), "hsm", "app"));
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    // - once each: a session that is gone, a device that was removed, a general error
    for code in ["0xb3", "0x32", "0x5", "0x101"] {
        let before = softhsm.calls("C_Login");
        softhsm.order("C_DecryptInit", code);
        let text = error(provider.unwrap(&slot, &PLACE).unwrap());
        softhsm.order("C_DecryptInit", "");
        assert!(softhsm.calls("C_Login") <= before + 1, "{code}");
        assert!(!text.contains("changed"), "the token fails its self-test, so the slot is not to blame: {text}");
        provider.unwrap(&slot, &PLACE).unwrap().unwrap_or_else(|error| panic!("{code}: {error}"));
    }
    assert_eq!(softhsm.calls("C_Logout"), 0);
});

own_process!(a_token_that_lies_is_found_out, |softhsm| {
    softhsm.token("hsm");
    let spec = softhsm.spec_by(&softhsm.shim(), "hsm", "app");
    drop(made(&softhsm.spec("hsm", "app")));
    for (function, order) in
        [("C_Decrypt", "garbage"), ("C_Decrypt", "zero"), ("C_Encrypt", "garbage"), ("C_EncryptInit", "0x70")]
    {
        softhsm.order(function, order);
        let text = error(open(&spec).check());
        assert!(text.contains("self-test") || text.contains("zero"), "{function} {order}: {text}");
        softhsm.order(function, "");
    }
    // After the self-test: zeros never pass for a key.
    let provider = open(&spec);
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    softhsm.order("C_Decrypt", "zero");
    assert!(matches!(provider.unwrap(&slot, &PLACE), Some(Err(ProviderError::ZeroKey))));
});

own_process!(a_module_that_hangs_is_left_behind_within_its_time, |softhsm| {
    softhsm.token("hsm");
    softhsm.token("spare");
    let spec = format!("{}&timeout=2", softhsm.spec_by(&softhsm.shim(), "hsm", "app"));
    let provider = made(&spec);
    let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    for function in ["C_DecryptInit", "C_Decrypt"] {
        let start = Instant::now();
        softhsm.order(function, "hang");
        assert!(error(provider.unwrap(&slot, &PLACE).unwrap()).contains("has not answered within 2s"));
        let late = start.elapsed();
        assert!(late < Duration::from_secs(20), "{late:?}");
        // Others do not even wait.
        assert!(error(provider.check()).contains("has not returned yet"));
        assert!(start.elapsed() < late + Duration::from_millis(1500));
        softhsm.order(function, "");
        let patience = Instant::now() + Duration::from_secs(30);
        while provider.check().is_err() {
            assert!(Instant::now() < patience, "it serves again when the call has returned");
        }
        provider.unwrap(&slot, &PLACE).unwrap().unwrap();
    }
    drop(provider);
    // From the start on, and the end is not waited for. The last call never returns: SoftHSM would crash in it, once this process ends.
    for (hanging, returns) in [("C_Initialize", true), ("C_GetSlotList", true), ("C_Login", false)] {
        softhsm.order(hanging, "hang");
        let start = Instant::now();
        assert!(error(open(&spec).check()).contains("has not answered"), "{hanging}");
        assert!(start.elapsed() < Duration::from_secs(20));
        if returns {
            softhsm.order(hanging, "");
        }
    }
});

own_process!(tokens_are_tried_in_order, |softhsm| {
    let (one, two) = (softhsm.token("one"), softhsm.token("two"));
    // Replicas: the same key with the same id in both.
    let key = softhsm.dir().join("key");
    std::fs::write(&key, Secret::<32>::random().expose()).unwrap();
    for token in ["one", "two"] {
        let object = [
            "--write-object",
            key.to_str().unwrap(),
            "--type",
            "secrkey",
            "--key-type",
            "AES:32",
            "--label",
            "app",
            "--id",
            "0a0b",
        ];
        softhsm.tool(token, &[&object[..], &["--sensitive", "--usage-decrypt"]].concat());
    }
    let both = open(&format!("{}&alternative=pkcs11:token=two;object=app", softhsm.spec("one", "app")));
    let made_by = |provider: &Pkcs11Provider| {
        let slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
        (slot.parameters.get("token").unwrap().as_str().unwrap().to_owned(), slot)
    };
    let (token, slot) = made_by(&both);
    assert_eq!(token, "one");
    let only_two = open(&softhsm.spec("two", "app"));
    only_two.unwrap(&slot, &PLACE).unwrap().unwrap();
    drop((both, only_two));
    // The first is away.
    let away = softhsm.dir().join("away");
    std::fs::rename(&one, &away).unwrap();
    let both = open(&format!("{}&alternative=pkcs11:token=two;object=app", softhsm.spec("one", "app")));
    both.check().unwrap();
    both.unwrap(&slot, &PLACE).unwrap().unwrap();
    let (token, second) = made_by(&both);
    assert_eq!(token, "two");
    assert!(both.facts().iter().any(|(_, value)| value.contains("no such token")));
    // And back; then both are away.
    std::fs::rename(&away, &one).unwrap();
    drop(both);
    let both = open(&format!("{}&alternative=pkcs11:token=two;object=app", softhsm.spec("one", "app")));
    both.unwrap(&second, &PLACE).unwrap().unwrap();
    drop(both);
    for token in [&one, &two] {
        std::fs::rename(token, token.with_extension("gone")).unwrap();
        std::fs::rename(token.with_extension("gone"), softhsm.dir().join(token.file_name().unwrap())).unwrap();
    }
    let both = open(&format!("{}&alternative=pkcs11:token=two;object=app", softhsm.spec("one", "app")));
    let text = error(both.unwrap(&second, &PLACE).unwrap());
    assert!(text.contains("\"one\"") && text.contains("cannot be reached"), "{text}");
});

own_process!(a_key_is_made_in_the_first_place_alone, |softhsm| {
    softhsm.token("two");
    let provider = open(&format!("{}&make=true&alternative=pkcs11:token=two;object=app", softhsm.spec("one", "app")));
    let text = error(provider.wrap(&Secret::random(), &PLACE));
    assert!(text.contains("no such token"), "{text}");
    assert!(error(open(&softhsm.spec("two", "app")).check()).contains("there is no key"));
});

own_process!(a_slot_that_others_made_with_the_public_key_is_refused, |softhsm| {
    softhsm.token("hsm");
    let provider = made(&format!("{}&mechanism=rsa-oaep-sha1", softhsm.spec("hsm", "app")));
    let mut slot = provider.wrap(&Secret::random(), &PLACE).unwrap();
    let parameters: Parameters = slot.parameters.clone().try_into().unwrap();
    // Encrypted rightly, for the right place, without the token: only the signature is missing.
    let forged = provider.tokens[0].worker.call(Duration::from_secs(30), move |token| {
        let aad = parameters.aad(&PLACE);
        let forge = move |connection: &token::Connection| {
            let mechanism::Key::Rsa(key) = &connection.key else { panic!("RSA") };
            let plain = [&[7; 32][..], &crate::crypto::sha256(&aad)].concat();
            Ok(key.decrypt.1.oaep_seal(crate::crypto::rsa::OaepHash::Sha1, &plain).unwrap())
        };
        token.run(false, forge, Token::not_wrapped)
    });
    slot.wrapped.splice(..256, forged.unwrap().unwrap());
    assert!(matches!(provider.unwrap(&slot, &PLACE), Some(Err(ProviderError::Unauthentic(_)))));
});
