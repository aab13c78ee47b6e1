//! The listeners on real sockets, with a service behind them that only echoes: what is on the wire in each case.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::routes::{Api, Calls, Refused};
use super::*;
use crate::api::{Base64, ChallengeAnswer, Operation, PublicSigningKey, Refusal, SecretAnswer};
use crate::server::identity::Presented;
use crate::server::random::Rng;

/// Echoes bodies; the instance says what else to do.
#[derive(Default)]
struct Echo {
    serving: AtomicI64,
}

impl Calls for Arc<Echo> {
    type Admitted = ();

    async fn admit(&self, shown: &Presented, _: Operation, instance: &str, _: &str) -> Result<(), Refused> {
        match instance {
            "panics" => panic!("the secret reason"),
            "waits" => tokio::time::sleep(Duration::from_millis(2500)).await,
            "refused" => return Err(Refusal::Forbidden.into()),
            "certified" if shown.certificates.is_empty() => return Err(Refusal::Unauthorized.into()),
            "bearer" if shown.tokens.len() != 1 => return Err(Refusal::Unauthorized.into()),
            _ => {}
        }
        Ok(())
    }

    async fn perform(&self, (): (), body: Result<Bytes, Refusal>) -> Result<SecretAnswer, Refused> {
        Ok(SecretAnswer { encrypted_secret: Some(Base64(body?.to_vec())), ..SecretAnswer::default() })
    }

    async fn challenge(&self, _: &Presented, _: &str, _: &str) -> Result<ChallengeAnswer, Refused> {
        Err(Refusal::NotFound.into())
    }

    async fn public_signing_key(&self, _: &Presented, _: &str) -> Result<PublicSigningKey, Refused> {
        Ok(PublicSigningKey { public_key: Base64(vec![1, 2, 3]) })
    }

    async fn signing_keys(&self, _: &Presented, _: &str) -> Result<serde_json::Value, Refused> {
        Err(Refusal::Unhealthy.into())
    }

    fn in_flight(&self, more: i64) {
        self.serving.fetch_add(more, Ordering::SeqCst);
    }

    fn answered(&self, _: &'static str, _: u16, _: Duration) {}
}

struct Running {
    address: SocketAddr,
    echo: Arc<Echo>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<()>,
}

/// A server with these lines in `[listen]` and `[limits]`.
async fn start(listen: &str, limits: &str) -> Running {
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n{listen}\n[admin]\nlisten = [\"127.0.0.1:0\"]\n[hsm]\n[[hsm.token]]\nuri = \"pkcs11:token=t\"\nmodule = \"/m.so\"\n[audit]\nserver_id = \"n\"\n[limits]\n{limits}\n"
    );
    let config = Config::parse(&text, Path::new("/test")).unwrap();
    let echo = Arc::new(Echo::default());
    let api = Api::new(Arc::clone(&echo), config.limits.clone(), config.listen.answer_options, "{}");
    let api: Arc<dyn Handler> = Arc::new(api);
    let server = Server::bind(&config, Arc::clone(&api), api).await.unwrap();
    let address = server.address().unwrap();
    assert!(server.admin_address().is_some_and(|admin| admin != address));
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(server.run(async { drop(stopped.await) }));
    Running { address, echo, stop: Some(stop), ended }
}

async fn plain(limits: &str) -> Running {
    start("insecure_plain_http = true", limits).await
}

/// Sends and reads to the end.
async fn say(address: SocketAddr, text: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_ref()).await.unwrap();
    rest(stream).await
}

async fn rest(mut stream: impl AsyncRead + Unpin) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    read.expect("the connection ends").ok();
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status, after a look that the form is right.
fn status(answer: &str) -> u16 {
    let status =
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"));
    if status >= 400 {
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let body: crate::api::ErrorBody = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
        assert!(body.code.is_some() && !body.message.is_empty());
        assert!(!body.message.contains(['*', '?', '[']) && !answer.contains("secret reason"), "{answer}");
    }
    assert!(!(300..400).contains(&status));
    status
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

const PATH: &str = "/v1/encryption/i-1/generate-secret";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_has_its_answer_in_its_form() {
    let server = plain("body = 4096\nheader = 8192").await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let head = |line: &str| format!("{line}\r\nHost: x\r\nConnection: close\r\n\r\n");
    for (request, expected) in [
        (get("/v1/public-signing-key"), 200),
        (get("//v1///public-signing-key"), 200),
        (get("/v1/openapi.json"), 200),
        (get("http://x/v1/public-signing-key"), 200),
        ("GET /v1/public-signing-key HTTP/1.0\r\n\r\n".into(), 200),
        (get("/v1/signing-keys"), 503),
        (get("/v1/public-signing-key?x=y"), 404),
        (get("/v1/public-signing-key/"), 404),
        (get("/"), 404),
        (get("/v1/encryption//generate-secret"), 404),
        (get("/v1/encryption/%69-1/generate-secret"), 405),
        (get("/v1/encryption/i-1/challenge"), 405),
        (post("/v1/encryption/i-1/challenge", "{}"), 404),
        (post("/v1/public-signing-key", "{}"), 405),
        (head("DELETE /v1/public-signing-key HTTP/1.1"), 405),
        (head("OPTIONS /v1/public-signing-key HTTP/1.1"), 405),
        (head("BREW /v1/public-signing-key HTTP/1.1"), 405),
        (post(PATH, "abc"), 200),
        (post("/v1//encryption///i-1//generate-secret", "abc"), 200),
        (post("/v1/encryption/refused/generate-secret", "abc"), 403),
        (post("/v1/encryption/certified/generate-secret", "abc"), 401),
        (post("/v1/encryption/panics/generate-secret", "abc"), 500),
        (post(PATH, &"x".repeat(4096)), 200),
        (post(PATH, &"x".repeat(4097)), 413),
        (post(PATH, &"x".repeat(600_000)), 413),
        (format!("POST {PATH} HTTP/1.0\r\n\r\n"), 200),
        (
            format!(
                "POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ),
            200,
        ),
        (
            format!(
                "POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n"
            ),
            400,
        ),
        (format!("POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: -1\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000)), 431),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(70_000)), 431),
        ("nonsense\r\n\r\n".into(), 400),
        ("\u{0}\u{1}\u{2}\r\n\r\n".into(), 400),
    ] {
        let answer = say(server.address, &request).await;
        assert_eq!(status(&answer), expected, "{}\n{answer}", &request[..request.len().min(200)]);
        assert_eq!(answer.contains("\r\nallow: "), expected == 405, "{answer}");
        assert_eq!(answer.contains("\r\nretry-after: "), expected == 503, "{answer}");
        assert_eq!(answer.contains("\r\nwww-authenticate: "), expected == 401, "{answer}");
    }
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert!(interim.starts_with(b"HTTP/1.1 100 Continue"));
    stream.write_all(b"abcd").await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.ends_with(&format!("{{\"encrypted_secret\":\"{}\"}}", BASE64_STANDARD.encode("abcd"))), "{answer}");

    // What follows a request without a pause is no HTTP: that is said in our words, too.
    let followed = say(server.address, post(PATH, "abc").replace("close", "keep-alive") + "nonsense\r\n\r\n").await;
    let followed: Vec<_> = answers(&followed).into_iter().map(status).collect();
    assert_eq!(followed, [200, 400]);
    // Pipelined requests, one of them refused: each answer is its own.
    let two = format!(
        "{}{}",
        post("/v1/encryption/refused/generate-secret", "").replace("close", "keep-alive"),
        post(PATH, "z")
    );
    let answer = say(server.address, two).await;
    assert!(answer.contains("\"code\":\"forbidden\"") && answer.contains("HTTP/1.1 200 OK"), "{answer}");
    let lines = "Authorization: Bearer x\r\nAuthorization: osef\r\nConnection: close";
    let answer =
        say(server.address, post("/v1/encryption/bearer/generate-secret", "").replace("Connection: close", lines))
            .await;
    assert_eq!(status(&answer), 200);
    assert_eq!(server.echo.serving.load(Ordering::SeqCst), 0, "each is counted off, the panicked too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_are_answered_where_that_is_configured() {
    let server = start("insecure_plain_http = true\nanswer_options = true", "").await;
    let answer = say(server.address, format!("OPTIONS {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
    assert!(status(&answer) == 200 && answer.contains("access-control-allow-methods: OPTIONS,POST"), "{answer}");
    assert!(
        say(server.address, "GET /v1/encryption/i/decrypt-secret HTTP/1.0\r\n\r\n")
            .await
            .contains("allow: POST, OPTIONS")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stalls_is_told_and_let_go() {
    let server = plain("header_time = \"300ms\"\nidle_time = \"600ms\"\nrequest_time = \"1s\"").await;
    for begun in ["", "GET /v1/pub", "POST"] {
        let answer = say(server.address, begun).await;
        assert_eq!(status(&answer), 408, "{begun:?}");
    }
    let answer = say(server.address, format!("POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")).await;
    assert_eq!(status(&answer), 408, "a body that does not come");
    // Bytes that trickle do not buy time.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let begun = Instant::now();
    for byte in b"GET /v1/public-signing-key HTTP/1.1\r\n".iter().cycle() {
        if begun.elapsed() > Duration::from_secs(5) || stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // An idle connection may stay longer than a head may take, and ends without a word.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = "GET /v1/public-signing-key HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(450)).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let answers = rest(stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2);
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{answers}");
    let answer = say(server.address, post("/v1/encryption/waits/generate-secret", "")).await;
    assert_eq!(status(&answer), 503, "a request that takes too long");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_refused_and_the_rest_is_served() {
    let server = plain("in_flight = 2\nconnections_per_address = 3").await;
    let wait = post("/v1/encryption/waits/generate-secret", "");
    let (first, second) = (tokio::spawn(say(server.address, wait.clone())), tokio::spawn(say(server.address, wait)));
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(server.echo.serving.load(Ordering::SeqCst), 2);
    let third = say(server.address, post(PATH, "")).await;
    assert!(status(&third) == 503 && third.contains("retry-after: 1"), "{third}");
    // Its place is given back a moment after its answer.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let held = TcpStream::connect(server.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(say(server.address, "").await, "", "a fourth connection of one address");
    drop(held);
    assert_eq!((status(&first.await.unwrap()), status(&second.await.unwrap())), (200, 200));
    assert_eq!(status(&say(server.address, post(PATH, "")).await), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_being_served_at_the_end_gets_his_answer() {
    let mut server = plain("").await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    let call = tokio::spawn(say(server.address, post("/v1/encryption/waits/generate-secret", "")));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    server.stop.take().unwrap().send(()).unwrap();
    assert_eq!(status(&call.await.unwrap()), 200);
    drop(idle);
    server.ended.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens any more");
}

/// The answers of one connection, each with its body.
fn answers(mut text: &str) -> Vec<&str> {
    let mut all = Vec::new();
    while let Some((head, _)) = text.split_once("\r\n\r\n") {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let end = head.len() + 4 + length.map_or(0, |length| length.parse::<usize>().unwrap());
        let (answer, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        all.push(answer);
        text = rest;
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_requests_are_refused_and_harm_nobody() {
    let server = plain("header_time = \"300ms\"\nidle_time = \"300ms\"").await;
    let chunked = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
    let get = "GET /v1/public-signing-key HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let seeds = [post(PATH, "{\"volume_uuid\":\"x\"}"), chunked, get.to_owned()];
    let hostile: [&[u8]; 6] = [b"\r\n", b"\0", b": ", b"Transfer-Encoding: chunked\r\n", b"//", b"\xff\xfe"];
    let (mut random, mut answered) = (Rng::new(1), 0);
    for _ in 0..40 {
        let round = seeds.iter().cycle().take(12).map(|seed| {
            let (bytes, address) = (random.damaged(seed.as_bytes(), &hostile), server.address);
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                (rest(stream).await, bytes)
            })
        });
        for call in round.collect::<Vec<_>>() {
            let (answer, bytes) = call.await.unwrap();
            // Nothing at all to who hung up in the middle; several to who sent what may be several.
            for answer in answers(&answer) {
                assert!(status(answer) != 500, "{}\n{answer}", String::from_utf8_lossy(&bytes));
                answered += 1;
            }
        }
    }
    assert!(answered > 200, "{answered}");
    assert_eq!(status(&say(server.address, post(PATH, "abc")).await), 200);
    assert_eq!(server.echo.serving.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_of_the_host_is_its_users_alone_and_outlives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let ask = || async {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET /v1/public-signing-key HTTP/1.0\r\n\r\n").await.unwrap();
        status(&rest(stream).await)
    };
    // Left behind by a process that is gone.
    drop(UnixListener::bind(&path).unwrap());
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\ninsecure_plain_http = true\n[admin]\nlisten = [{path:?}]\n[hsm]\n[[hsm.token]]\nuri = \"pkcs11:token=t\"\nmodule = \"/m.so\"\n[audit]\nserver_id = \"n\"\n"
    );
    let config = Config::parse(&text, Path::new("/test")).unwrap();
    let api: Arc<dyn Handler> = Arc::new(Api::new(Arc::new(Echo::default()), config.limits.clone(), false, "{}"));
    let server = Server::bind(&config, Arc::clone(&api), Arc::clone(&api)).await.unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let serving = tokio::spawn(server.run(std::future::pending()));
    assert_eq!(ask().await, 200);
    // One that somebody listens on stays his.
    let second = Server::bind(&config, Arc::clone(&api), api).await;
    assert!(second.is_err_and(|error| error.to_string().contains("cannot listen on the socket")));
    assert_eq!(ask().await, 200);
    serving.abort();
}

/// A certificate that nobody vouches for, and its key.
fn certificate(name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap(), key)
}

/// A client that takes any server, since what it meets is the test.
#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.verify_tls12_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A request over TLS with a client certificate of this key; gives the answer and the server's certificate.
async fn over_tls(
    address: SocketAddr,
    client: Option<(&rcgen::Certificate, &KeyPair)>,
    request: &str,
) -> io::Result<(String, Vec<u8>)> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            let signer = provider.key_provider.load_private_key(key).unwrap();
            // Not checked against each other, as an attacker's would not be.
            let chain = vec![certificate.der().clone()];
            let certified = Arc::new(rustls::sign::CertifiedKey::new(chain, signer));
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let server = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok((String::from_utf8_lossy(&answer).into_owned(), server))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_are_taken_with_their_key_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let store = |(certificate, pair): &(rcgen::Certificate, KeyPair)| {
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&cert, certificate.pem()).unwrap();
    };
    let ours = certificate("localhost");
    store(&ours);
    let server = start(&format!("certificate = {cert:?}\nkey = {key:?}"), "header_time = \"2s\"").await;
    let certified = post("/v1/encryption/certified/generate-secret", "");
    let (client, other) = (certificate("i-1"), certificate("i-1"));
    let (answer, shown) = over_tls(server.address, Some((&client.0, &client.1)), &certified).await.unwrap();
    assert_eq!(status(&answer), 200);
    assert_eq!(shown, ours.0.der().to_vec());
    let (answer, _) = over_tls(server.address, None, &certified).await.unwrap();
    assert_eq!(status(&answer), 401);
    let stolen = over_tls(server.address, Some((&client.0, &other.1)), &certified).await;
    assert!(stolen.as_ref().map_or(true, |(answer, _)| answer.is_empty()), "a certificate without its key: {stolen:?}");

    // To who forgot the s of https, an answer too; and who says nothing is not waited for.
    let answer = say(server.address, "GET / HTTP/1.1\r\n\r\n").await;
    assert!(status(&answer) == 400 && answer.contains("tls-wanted"), "{answer}");
    assert_eq!(say(server.address, "").await, "");
}

#[test]
fn a_changed_certificate_is_taken_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let write = |(certificate, pair): &(rcgen::Certificate, KeyPair)| {
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&cert, certificate.pem()).unwrap();
    };
    write(&certificate("a"));
    let text = format!(
        "[listen]\ncertificate = {cert:?}\nkey = {key:?}\n[hsm]\n[[hsm.token]]\nuri = \"pkcs11:token=t\"\nmodule = \"/m.so\"\n[audit]\nserver_id = \"n\"\n"
    );
    let tls = Tls::open(&Config::parse(&text, Path::new("/test")).unwrap().listen).unwrap();
    let before = tls.current();
    assert!(!tls.reload().unwrap());
    std::fs::write(&cert, certificate("b").0.pem()).unwrap();
    tls.reload().unwrap_err();
    assert!(Arc::ptr_eq(&tls.current(), &before), "the one before stays");
    write(&certificate("c"));
    assert!(tls.reload().unwrap());
    assert!(!Arc::ptr_eq(&tls.current(), &before));
}
