//! Listeners, TLS, routes and limits. Only this room names hyper.
//!
//! ```text
//! TCP ─▶ connection limits ─▶ TLS ─▶ guard (time limits) ─▶ HTTP/1.0, 1.1, 2 ─▶ routes ─▶ service
//! loopback, Unix socket ───────────▶ guard ───────────────▶ HTTP ─────────────▶ admin
//! ```
//!
//! Routes are matched by hand: runs of slashes count as one, nothing is percent-decoded, nothing redirects, and whatever is wrong has a
//! status of at least 400 with a body of `{"message","code"}`. A request that panics becomes a plain 500; its connection goes on.
//!
//! What grows with the number of peers is bounded: connections, of which each has a head of `limits.header` bytes; requests at a time, of
//! which each has a body of `limits.body`; tables of rates.

pub mod answer;
pub mod desk;
mod guard;
pub mod limits;
pub mod routes;
mod tls;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use self::answer::Answer;
use self::guard::{Guard, Pace};
use self::limits::{Connected, Connections};
use self::tls::Tls;
use super::config::{AdminAddress, Config, Limits};
use crate::keys::ProviderError;

/// How often the certificate's files are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Connections to one admin listener.
const ADMIN_CONNECTIONS: usize = 64;
/// Requests of one HTTP/2 connection at a time.
const STREAMS: u32 = 32;
/// Bytes that are read from who speaks HTTP where TLS is spoken.
const MAX_UNREAD: u64 = 64 << 10;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address; of a Unix socket's peer, loopback.
    pub address: IpAddr,
    /// What it showed in the handshake, which proved that it has the key of the first. Nothing else was looked at.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
}

/// An answer in the making.
pub type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one. Must not panic, and must come to an end: nobody else limits it.
    fn handle(self: Arc<Self>, peer: Peer, request: Request<Incoming>) -> Answering;
}

enum AdminListener {
    Loopback(TcpListener),
    Unix(UnixListener),
}

/// The listeners, bound.
pub struct Server {
    public: TcpListener,
    admin: Vec<AdminListener>,
    tls: Option<Arc<Tls>>,
    limits: Limits,
    api: Arc<dyn Handler>,
    desk: Arc<dyn Handler>,
}

impl Server {
    /// Reads the certificate and binds all listeners, that of callers for `api` and those of the host itself for `desk`; connections wait until
    /// [`run`](Self::run).
    ///
    /// # Errors
    /// [`ProviderError::Setup`].
    pub async fn bind(config: &Config, api: Arc<dyn Handler>, desk: Arc<dyn Handler>) -> Result<Server, ProviderError> {
        let tls = match config.listen.insecure_plain_http {
            true => None,
            false => Some(Arc::new(Tls::open(&config.listen)?)),
        };
        let public = bind(config.listen.address).await?;
        let mut admin = Vec::new();
        for address in &config.admin.listen {
            admin.push(match address {
                AdminAddress::Loopback(address) => AdminListener::Loopback(bind(*address).await?),
                AdminAddress::Unix(path) => AdminListener::Unix(bind_unix(path).await?),
            });
        }
        Ok(Server { public, admin, tls, limits: config.limits.clone(), api, desk })
    }

    /// Where callers are listened to.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.public.local_addr()
    }

    /// Where the first admin listener on a loopback address is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.iter().find_map(|listener| match listener {
            AdminListener::Loopback(listener) => listener.local_addr().ok(),
            AdminListener::Unix(_) => None,
        })
    }

    /// Serves until `stop` is ready; then takes no more connections, lets requests end within `limits.drain_time`, and returns.
    /// Meanwhile the certificate is read again on SIGHUP and when its files change.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let connections = Connections::new(self.limits.connections, self.limits.connections_per_address);
        let public = Door { limits: self.limits.clone(), connections, handler: self.api, tls: self.tls.clone() };
        tasks.spawn(Arc::new(public).tcp(self.public, stopped.clone()));
        for listener in self.admin {
            let connections = Connections::new(ADMIN_CONNECTIONS, ADMIN_CONNECTIONS);
            let limits = self.limits.clone();
            let door = Arc::new(Door { limits, connections, handler: Arc::clone(&self.desk), tls: None });
            match listener {
                AdminListener::Loopback(listener) => tasks.spawn(door.tcp(listener, stopped.clone())),
                AdminListener::Unix(listener) => tasks.spawn(door.unix(listener, stopped.clone())),
            };
        }
        let reload = self.tls.map(|tls| tokio::spawn(watch_certificate(tls)));
        stop.await;
        let _ = stopping.send(true);
        if tokio::time::timeout(self.limits.drain_time, async { while tasks.join_next().await.is_some() {} })
            .await
            .is_err()
        {
            tracing::warn!("requests that did not end in time are dropped");
            tasks.abort_all();
        }
        if let Some(reload) = reload {
            reload.abort();
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ProviderError> {
    TcpListener::bind(address).await.map_err(|error| ProviderError::Setup {
        fact: format!("cannot listen on {address}"),
        remedy: "choose an address of this host and a port that nobody uses",
        source: Some(error.into()),
    })
}

async fn bind_unix(path: &Path) -> Result<UnixListener, ProviderError> {
    let setup = |error: io::Error| ProviderError::Setup {
        fact: format!("cannot listen on the socket {}", path.display()),
        remedy: "choose a path in a directory of the server's own, which nobody listens on",
        source: Some(error.into()),
    };
    // One that a crash left behind is in the way; one that somebody listens on is not ours.
    let socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    if socket && tokio::net::UnixStream::connect(path).await.is_err() {
        std::fs::remove_file(path).map_err(setup)?;
    }
    // Nobody else's from the first moment on: who connects before the mode is set would be served.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let listener = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = listener.map_err(setup)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(setup)?;
    Ok(listener)
}

async fn watch_certificate(tls: Arc<Tls>) {
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok();
    loop {
        let signalled = async {
            match &mut hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signalled => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        let tls = Arc::clone(&tls);
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(Ok(true)) => tracing::info!("the server's certificate was read again"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the server's certificate cannot be read again: the one before stays")
            }
            Ok(Ok(false)) | Err(_) => {}
        }
    }
}

/// One listener's way in.
struct Door {
    limits: Limits,
    connections: Arc<Connections>,
    handler: Arc<dyn Handler>,
    tls: Option<Arc<Tls>>,
}

impl Door {
    async fn tcp(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let stopped = stop.clone();
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.changed() => break,
            };
            while tasks.try_join_next().is_some() {}
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                // No file descriptors, most likely: those who are connected go on.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Some(connected) = self.connections.admit(address.ip()) else {
                tracing::debug!(%address, "a connection beyond the limit is closed");
                continue;
            };
            let _ = stream.set_nodelay(true);
            tasks.spawn(Arc::clone(&self).greet(stream, address.ip(), connected, stopped.clone()));
        }
        drop(listener);
        while tasks.join_next().await.is_some() {}
    }

    async fn unix(self: Arc<Self>, listener: UnixListener, mut stop: watch::Receiver<bool>) {
        let stopped = stop.clone();
        let mut tasks = JoinSet::new();
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.changed() => break,
            };
            while tasks.try_join_next().is_some() {}
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Some(connected) = self.connections.admit(local) else { continue };
            let peer = Peer { address: local, certificates: Arc::default() };
            let (door, stopped) = (Arc::clone(&self), stopped.clone());
            tasks.spawn(async move {
                door.speak(stream, peer, Speech::Either, stopped).await;
                drop(connected);
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn greet(
        self: Arc<Self>,
        mut stream: TcpStream,
        address: IpAddr,
        _one: Connected,
        stop: watch::Receiver<bool>,
    ) {
        let Some(tls) = &self.tls else {
            let peer = Peer { address, certificates: Arc::default() };
            return self.speak(stream, peer, Speech::Either, stop).await;
        };
        let acceptor = TlsAcceptor::from(tls.current());
        let handshake = async {
            let mut first = [0];
            // 22 begins the record of a handshake (RFC 8446, 5.1).
            if stream.peek(&mut first).await? == 1 && first != [22] {
                stream.write_all(&answer::tls_wanted()).await?;
                stream.shutdown().await?;
                // What is unread when a socket is closed takes the answer with it.
                tokio::io::copy(&mut stream.take(MAX_UNREAD), &mut tokio::io::sink()).await?;
                return Ok(None);
            }
            acceptor.accept(stream).await.map(Some)
        };
        let stream = match tokio::time::timeout(self.limits.header_time, handshake).await {
            Ok(Ok(Some(stream))) => stream,
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "no TLS connection"),
        };
        let (_, session) = stream.get_ref();
        let certificates = session.peer_certificates().unwrap_or_default();
        let certificates = certificates.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let speech = if session.alpn_protocol() == Some(b"h2") { Speech::Two } else { Speech::One };
        self.speak(stream, Peer { address, certificates: Arc::new(certificates) }, speech, stop).await;
    }

    async fn speak<S>(&self, stream: S, peer: Peer, speech: Speech, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let pace = Pace::new(self.limits.header_time, self.limits.idle_time);
        let io = TokioIo::new(Guard::new(stream, Arc::clone(&pace)));
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder = match speech {
            Speech::One => builder.http1_only(),
            Speech::Two => builder.http2_only(),
            Speech::Either => builder,
        };
        // The guard keeps time.
        builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(self.limits.header);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(self.limits.header).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS)
            .initial_connection_window_size(Some(1 << 20))
            .initial_stream_window_size(Some(1 << 16));
        let serve = service_fn(|request| {
            let serving = pace.serve();
            let answer = Arc::clone(&self.handler).handle(peer.clone(), request);
            async move {
                let answer = answer.await;
                drop(serving);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut connection = pin!(builder.serve_connection(io, serve));
        let mut stopping = *stop.borrow();
        if stopping {
            connection.as_mut().graceful_shutdown();
        }
        loop {
            tokio::select! {
                outcome = connection.as_mut() => {
                    if let Err(error) = outcome {
                        tracing::debug!(peer = %peer.address, error, "a connection broke");
                    }
                    return;
                }
                _ = stop.changed(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Which versions of HTTP a connection may speak.
#[derive(Clone, Copy)]
enum Speech {
    One,
    Two,
    Either,
}
