//! `envelopefs-keyserver serve`: puts the rooms together and serves until it is told to stop.
//!
//! The order matters: what this process will know is protected before the PIN is read; the log of messages is open before anything is told; the audit log
//! closes after the last answer has left, with signed heads.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::installation::{Installation, pin_of, uninitialised};
use super::{Code, Exit, Failure, Result, harden, log, not_set_up};
use crate::server::admin::Admin;
use crate::server::audit::{Audit, AuditSettings};
use crate::server::cli::Serve;
use crate::server::hsm::{Cluster, HsmSettings, KeyId, PinError};
use crate::server::http::Server;
use crate::server::http::desk::AtDesk;
use crate::server::http::routes::Api;
use crate::server::service::{HsmSigner, Service};
use crate::sys::process;

/// What the server says of its own calls.
const OPENAPI: &str = include_str!("../http/openapi.json");

pub(super) async fn run(config: &Path, args: Serve) -> Result<Exit> {
    harden()?;
    process::raise_file_limit();
    let Installation { config, state } = Installation::open(config).await?;
    log::start(&config.log)?;
    for setting in config.insecure() {
        tracing::warn!(setting, "this setting weakens the server");
    }
    let signing = state.signing_key().await?.ok_or_else(uninitialised)?;

    // A PIN that an option names is tried here, so that what the tokens say of it ends this command; without any, the PIN comes later.
    let settings = HsmSettings { pin: None, ..config.hsm.clone() };
    let cluster = Arc::new(Cluster::open(&settings)?);
    match pin_of(&config, args.pin_file.as_deref(), args.pin_fd)? {
        None => {
            tracing::warn!("no PIN is configured: calls are refused until it is handed in (envelopefs-keyserver pin)")
        }
        Some(pin) => match cluster.log_in(pin, false) {
            Ok(()) | Err(PinError::Present) => {}
            // Nobody is there to ask: it starts, is not ready, and goes on as soon as the tokens answer and the PIN is handed in.
            Err(error @ PinError::Unreachable(_)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the PIN could not be tried at any token");
            }
            Err(error) => return Err(error.into()),
        },
    }

    let settings = AuditSettings::from_config(&config.audit).map_err(|error| {
        Failure::new(Code::Usage, "an audit sink cannot be used").because(&error).remedy(
            "look at audit.sinks of the configuration: the directory must exist and belong to the server's user",
        )
    })?;
    let signer = HsmSigner::new(Arc::clone(&cluster), KeyId(signing.id), &signing.spki);
    let audit = Audit::start(state.clone(), Arc::new(signer), settings);
    let service = Service::start(&config, state.clone(), cluster, audit.clone()).await?;
    let api = Api::new(Arc::clone(&service), config.limits.clone(), config.listen.answer_options, OPENAPI);
    let desk = AtDesk(Admin::new(service, config.admin.client_key_file.clone()));
    let server = Server::bind(&config, Arc::new(api), Arc::new(desk)).await.map_err(not_set_up)?;
    let address = server.address().map_err(|error| {
        Failure::new(Code::Failure, "cannot tell on which address this server listens").because(&error)
    })?;
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "serving");
    tell_systemd(b"READY=1");
    let stop = async {
        let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        match signals {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            }
            // Then they end the process at once, which loses nothing that was answered.
            _ => std::future::pending().await,
        }
        tracing::info!("stopping: no new connections, requests under way are answered");
        tell_systemd(b"STOPPING=1");
    };
    server.run(stop).await;
    audit.close(config.limits.drain_time).await;
    state.close().await;
    tracing::info!("stopped");
    Ok(Exit::SUCCESS)
}

/// Tells the service manager how it stands (sd_notify(3)), if one started us and wants to know.
fn tell_systemd(state: &[u8]) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = UnixDatagram::unbound().and_then(|socket| {
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state, &address)
    });
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
