//! The admin listener's requests, unpacked for [`admin`](crate::server::admin).

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use zeroize::Zeroizing;

use super::answer::{self, Answer};
use super::routes::{BodyError, body, drain, fold};
use super::{Answering, Handler, Peer};
use crate::api::ErrorBody;

/// Longest body: a private key of 16384 bits, in PEM, has less.
const MOST: usize = 64 << 10;
/// How long a body may take.
const TIME: Duration = Duration::from_secs(10);

/// What is said to somebody at the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Done; there is nothing to say.
    Done,
    /// It is not done, for this reason.
    No(u16, String),
    /// A status and a text of some type.
    Text(u16, &'static str, String),
}

/// What stands behind the admin listener.
pub trait Desk: Send + Sync + 'static {
    /// `PUT path`. What is handed in may be a secret.
    fn put(&self, from: IpAddr, path: &str, body: Zeroizing<Vec<u8>>) -> impl Future<Output = Said> + Send;

    /// `GET path`.
    fn get(&self, path: &str) -> impl Future<Output = Said> + Send;
}

/// The admin listener's handler.
pub struct AtDesk<D>(pub D);

impl<D: Desk> AtDesk<D> {
    async fn said(&self, peer: &Peer, request: &Parts, incoming: &mut Incoming) -> Said {
        // The original refuses all but the host itself; our listeners are bound to loopback, and a Unix socket's peer counts as it.
        if !peer.address.to_canonical().is_loopback() {
            return Said::No(403, "Forbidden".into());
        }
        let path = fold(request.uri.path());
        match request.method {
            Method::GET if request.uri.query().is_none() => self.0.get(&path).await,
            Method::PUT => match body(incoming, MOST, TIME).await {
                Ok(bytes) => self.0.put(peer.address, &path, bytes).await,
                Err(BodyError::TooLarge) => Said::No(413, "Content Too Large".into()),
                Err(BodyError::Slow | BodyError::Broken) => Said::No(400, "Bad parameters".into()),
            },
            Method::GET => Said::No(404, "Not Found".into()),
            _ => Said::No(405, "Method Not Allowed".into()),
        }
    }
}

impl<D: Desk> Handler for AtDesk<D> {
    fn handle(self: Arc<Self>, peer: Peer, request: Request<Incoming>) -> Answering {
        Box::pin(async move {
            // A task of its own: what was begun is ended though the caller hangs up, and a panic ends nothing else.
            let task = async move {
                let (request, mut incoming) = request.into_parts();
                let said = self.said(&peer, &request, &mut incoming).await;
                drain(&mut incoming, &request.headers).await;
                said
            };
            let said = tokio::spawn(task).await;
            told(said.unwrap_or_else(|error| {
                tracing::error!(panicked = error.is_panic(), "a request of the host failed inside");
                Said::No(500, "Internal Server Error".into())
            }))
        })
    }
}

fn told(said: Said) -> Answer {
    let status = |status| StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match said {
        Said::Done => answer::empty(),
        Said::No(code, message) => answer::json(status(code), &ErrorBody { message, code: None }),
        Said::Text(code, kind, text) => answer::typed(status(code), kind, text),
    }
}
