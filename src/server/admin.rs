//! What operators and load balancers ask of a node, on a listener of its own that only the host reaches.
//!
//! | request | answer |
//! |---|---|
//! | `PUT /hsm-pin` with `{"pin": TEXT, "force": BOOL?}` | 204; 400 `Missing "pin" in body`, `PIN was not accepted`, `PIN already present`; 500 `Failed to set PIN` |
//! | `PUT /client-key` with the bytes of a key | 204; 400 `CLIENT KEY already present`; 500 `Failed to set the CLIENT KEY` |
//! | `PUT` of anything else | 400 `Incorrect method` |
//! | `GET /healthcheck` | 204; 500 `Unhealthy` |
//! | `GET /readyz` | 200 or 503, JSON: why, and each token |
//! | `GET /metrics` | OpenMetrics text |
//!
//! The texts are those that existing scripts know. A wrong PIN counts at the token: after a refused one, another is only tried with `force`.
//! Both hand-ins are recorded, never with what was handed in; as long as no PIN is there nothing can be signed, so refusals before the first
//! right PIN stand in the node's own log alone.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::audit::Failure;
use super::hsm::{Pin, PinError};
use super::http::desk::{Desk, Said};
use super::service::{Service, told};

/// The desk.
pub struct Admin {
    service: Arc<Service>,
    client_key_file: Option<PathBuf>,
}

/// Body of a PIN's hand-in. The text is wiped by whoever takes it out.
#[derive(Deserialize)]
struct PinBody {
    pin: Option<String>,
    #[serde(default)]
    force: bool,
}

impl Admin {
    /// In front of a service. `client_key_file` is where an HSM's library looks for the key of its TLS connection, if it has one.
    pub fn new(service: Arc<Service>, client_key_file: Option<PathBuf>) -> Admin {
        Admin { service, client_key_file }
    }

    async fn take_pin(&self, from: IpAddr, body: &[u8]) -> Said {
        let missing = || Said::No(400, "Missing \"pin\" in body".into());
        let Ok(PinBody { pin: Some(pin), force }) = serde_json::from_slice(body) else { return missing() };
        let pin = Zeroizing::new(pin);
        let Ok(pin) = Pin::new(pin.as_bytes()) else { return missing() };
        let cluster = Arc::clone(self.service.cluster());
        let outcome = tokio::task::spawn_blocking(move || cluster.log_in(pin, force)).await;
        let (said, failure) = match outcome {
            Ok(Ok(())) => (Said::Done, None),
            Ok(Err(error)) => {
                tracing::warn!(error = told(&error), "a PIN was handed in and is not taken");
                match &error {
                    PinError::Present => (Said::No(400, "PIN already present".into()), Some("PIN already present")),
                    PinError::Refused | PinError::Withheld(_) => {
                        (Said::No(400, "PIN was not accepted".into()), Some("PIN was not accepted"))
                    }
                    PinError::Unreachable(_) | PinError::Unusable(_) => {
                        (Said::No(500, "Failed to set PIN".into()), Some("Failed to set PIN"))
                    }
                }
            }
            Err(_) => (Said::No(500, "Failed to set PIN".into()), Some("Failed to set PIN")),
        };
        if said == Said::Done {
            tracing::info!("the PIN was handed in");
            self.service.probe_now().await;
        }
        self.note("hsm-pin", from, failure).await;
        said
    }

    async fn take_client_key(&self, from: IpAddr, key: &[u8]) -> Said {
        let (said, failure) = match self.client_key_file.as_deref().map(|path| store(path, key)) {
            Some(Ok(true)) => (Said::Done, None),
            Some(Ok(false)) => {
                let text = "CLIENT KEY already present";
                (Said::No(400, text.into()), Some(text))
            }
            outcome => {
                match outcome {
                    Some(Err(error)) => tracing::warn!(%error, "the client key cannot be stored"),
                    _ => tracing::warn!(
                        "a client key was handed in, but admin.client_key_file does not say where it goes"
                    ),
                }
                let text = "Failed to set the CLIENT KEY";
                (Said::No(500, text.into()), Some(text))
            }
        };
        self.note("client-key", from, failure).await;
        said
    }

    async fn note(&self, name: &'static str, from: IpAddr, failure: Option<&'static str>) {
        let result = match failure {
            None => Ok(()),
            Some(reason) => Err(Failure { reason, code: "refused".into() }),
        };
        if !self.service.record_operator(name, &from.to_string(), result).await {
            tracing::warn!(name, "what was handed in could not be recorded");
        }
    }

    fn ready(&self) -> Said {
        let state = self.service.health.state();
        let tokens: Vec<_> = self
            .service
            .cluster()
            .status()
            .into_iter()
            .map(|token| {
                json!({
                    "name": token.name, "healthy": token.healthy, "busy": token.busy, "stuck": token.stuck,
                    "last_error": token.last_error,
                })
            })
            .collect();
        let status = if state.is_ok() { 200 } else { 503 };
        let body = json!({
            "ready": state.is_ok(), "reason": state.err(), "has_pin": self.service.cluster().has_pin(), "tokens": tokens,
        });
        Said::Text(status, "application/json", body.to_string())
    }
}

/// Writes a key where none is; `false` if one is there. Whoever reads it sees all of it or nothing: it comes under its name by a link.
fn store(path: &Path, key: &[u8]) -> std::io::Result<bool> {
    let mut part = path.to_path_buf().into_os_string();
    part.push(format!(".{}", std::process::id()));
    let part = PathBuf::from(part);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    let written = file.write_all(key).and_then(|()| file.sync_all()).and_then(|()| std::fs::hard_link(&part, path));
    std::fs::remove_file(&part)?;
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

impl Desk for Admin {
    async fn put(&self, from: IpAddr, path: &str, body: Zeroizing<Vec<u8>>) -> Said {
        match path {
            "/hsm-pin" => self.take_pin(from, &body).await,
            "/client-key" => self.take_client_key(from, &body).await,
            _ => Said::No(400, "Incorrect method".into()),
        }
    }

    async fn get(&self, path: &str) -> Said {
        match path {
            "/healthcheck" if self.service.health.is_healthy() => Said::Done,
            "/healthcheck" => Said::No(500, "Unhealthy".into()),
            "/readyz" => self.ready(),
            "/metrics" => {
                let text = self.service.metrics_text().await;
                Said::Text(200, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
            }
            _ => Said::No(404, "Not Found".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_stored_whole_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("client.key");
        assert!(store(&path, b"first").unwrap());
        assert!(!store(&path, b"second").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(store(&dir.path().join("none/there"), b"x").is_err());
    }
}
