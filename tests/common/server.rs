//! A small HTTP server in this process, for fakes of the services that key providers speak with: hyper on a thread of its own, on a
//! loopback port, with or without TLS. It ends with its value.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

/// A request as a handler sees it.
#[derive(Debug)]
pub struct Call {
    pub method: String,
    /// Path and query; the whole address where we are the proxy.
    pub path: String,
    pub headers: hyper::HeaderMap,
    pub body: Vec<u8>,
    /// Whether a client certificate was shown and verified.
    pub certified: bool,
    /// Counts from 0.
    pub number: usize,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap_or_default())
    }

    /// The body as JSON, or null.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What a handler makes of it.
pub enum Reply {
    /// An answer.
    Is(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The connection is closed without an answer.
    HangUp,
    /// Nothing is ever said.
    Silence,
    /// An answer that begins at once and never ends, a byte at a time.
    Drip,
}

impl Reply {
    pub fn json(status: u16, value: serde_json::Value) -> Reply {
        Reply::Is(status, vec![("content-type", "application/json".into())], value.to_string().into_bytes())
    }

    pub fn text(status: u16, text: &str) -> Reply {
        Reply::Is(status, Vec::new(), text.as_bytes().to_vec())
    }

    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Reply {
        if let Reply::Is(_, headers, _) = &mut self {
            headers.push((name, value.into()));
        }
        self
    }
}

type Handler = dyn Fn(Call) -> Reply + Send + Sync;

/// A running server.
pub struct Server {
    address: SocketAddr,
    tls: bool,
    calls: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Plain HTTP on a free port.
    pub fn new(handler: impl Fn(Call) -> Reply + Send + Sync + 'static) -> Server {
        Server::start(0, None, Arc::new(handler))
    }

    /// Plain HTTP on this port.
    pub fn on(port: u16, handler: impl Fn(Call) -> Reply + Send + Sync + 'static) -> Server {
        Server::start(port, None, Arc::new(handler))
    }

    /// HTTPS on a free port.
    pub fn tls(authority: &Authority, handler: impl Fn(Call) -> Reply + Send + Sync + 'static) -> Server {
        Server::start(0, Some(authority.server_config()), Arc::new(handler))
    }

    /// HTTPS on this port.
    pub fn tls_on(port: u16, authority: &Authority, handler: impl Fn(Call) -> Reply + Send + Sync + 'static) -> Server {
        Server::start(port, Some(authority.server_config()), Arc::new(handler))
    }

    fn start(port: u16, tls: Option<rustls::ServerConfig>, handler: Arc<Handler>) -> Server {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("address");
        let calls = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let (counter, with_tls) = (calls.clone(), tls.is_some());
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
                tokio::select! {
                    () = accept(listener, acceptor, handler, counter) => (),
                    _ = stopped => (),
                }
            });
            // Without waiting for what is silent on purpose.
            runtime.shutdown_background();
        });
        Server { address, tls: with_tls, calls, stop: Some(stop), thread: Some(thread) }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `http://127.0.0.1:PORT`, or `https://localhost:PORT`.
    pub fn url(&self) -> String {
        if self.tls { format!("https://localhost:{}", self.port()) } else { format!("http://{}", self.address) }
    }

    /// Requests that came so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    acceptor: Option<TlsAcceptor>,
    handler: Arc<Handler>,
    calls: Arc<AtomicUsize>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (acceptor, handler, calls) = (acceptor.clone(), handler.clone(), calls.clone());
        tokio::spawn(async move {
            match acceptor {
                None => serve(stream, false, handler, calls).await,
                Some(acceptor) => {
                    // A client that does not trust us, or that we do not trust, ends here.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let certified = stream.get_ref().1.peer_certificates().is_some();
                    serve(stream, certified, handler, calls).await;
                }
            }
        });
    }
}

async fn serve<S>(stream: S, certified: bool, handler: Arc<Handler>, calls: Arc<AtomicUsize>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (handler, calls) = (handler.clone(), calls.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
            let call = Call {
                method: parts.method.to_string(),
                path: parts.uri.to_string(),
                headers: parts.headers,
                body,
                certified,
                number: calls.fetch_add(1, Ordering::SeqCst),
            };
            // Handlers may sleep or ask others: off the runtime's only thread.
            match tokio::task::spawn_blocking(move || handler(call)).await.expect("the handler panicked") {
                Reply::Is(status, headers, body) => {
                    let mut response = hyper::Response::builder().status(status);
                    for (name, value) in headers {
                        response = response.header(name, value);
                    }
                    Ok(response.body(Full::new(Bytes::from(body)).boxed()).expect("response"))
                }
                Reply::HangUp => Err(std::io::Error::other("hang up")),
                Reply::Silence => std::future::pending().await,
                Reply::Drip => Ok(hyper::Response::new(Drip(tokio::time::interval(Duration::from_millis(20))).boxed())),
            }
        }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// A body that never ends.
struct Drip(tokio::time::Interval);

impl hyper::body::Body for Drip {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        self.0.poll_tick(context).map(|_| Some(Ok(hyper::body::Frame::data(Bytes::from_static(b" ")))))
    }
}

/// A listener that answers every connection with these bytes, which need not be HTTP, and closes it. It lives as long as the process.
pub fn raw(bytes: &'static [u8]) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.set_nonblocking(true).expect("nonblocking");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
            loop {
                let Ok((mut stream, _)) = listener.accept().await else { continue };
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(bytes).await;
            }
        });
    });
    format!("http://{address}")
}

/// A port on the loopback device that nobody listens at.
pub fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port()
}

/// A certificate authority of the test's own.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    /// Its certificate.
    pub pem: String,
    certificate: rustls::pki_types::CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let key = rcgen::KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("certificate");
        Authority {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    /// A certificate for a name, and its key.
    pub fn issue(&self, name: &str) -> (rcgen::Certificate, rcgen::KeyPair) {
        self.issue_with(name, |_| {})
    }

    /// The same, otherwise than usual.
    pub fn issue_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().expect("key");
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        (params.signed_by(&key, &self.issuer).expect("certificate"), key)
    }

    /// For `localhost`; client certificates of this authority are verified where they are shown.
    fn server_config(&self) -> rustls::ServerConfig {
        let (certificate, key) = self.issue("localhost");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("root");
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .expect("verifier");
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("key");
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("certificate")
    }
}
