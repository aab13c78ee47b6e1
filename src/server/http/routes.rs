//! The calls: from a request to the service and back. What a request shows of its caller is collected here, and judged elsewhere.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::answer::{self, Answer};
use super::{Answering, Handler, Peer};
use crate::api::{ChallengeAnswer, Operation, PublicSigningKey, Refusal, SecretAnswer};
use crate::server::config::Limits;
use crate::server::identity::Presented;

/// Most lines of one header that are looked at.
const MAX_LINES: usize = 32;
/// How much of a body that nobody wants is read for politeness' sake, in bytes, and for how long.
const MAX_DROPPED: usize = 1 << 20;
const DRAIN: Duration = Duration::from_secs(2);
/// When to come again to a node that is not well, in seconds.
const LATER: u64 = 5;

/// A refusal, and after how many seconds another try may do better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// What the caller is told.
    pub refusal: Refusal,
    /// For `Retry-After`.
    pub retry_after: Option<u64>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let later = matches!(refusal, Refusal::Unhealthy | Refusal::Internal);
        Refused { refusal, retry_after: later.then_some(LATER) }
    }
}

/// What stands behind the routes. `id` is the request's own, for records and messages.
pub trait Calls: Send + Sync + 'static {
    /// A caller who may make a call, as far as can be told without its body.
    type Admitted: Send;

    /// Whether this call may be made, before its body is read: identity, rates, health. The instance is as it came.
    fn admit(
        &self,
        shown: &Presented,
        operation: Operation,
        instance: &str,
        id: &str,
    ) -> impl Future<Output = Result<Self::Admitted, Refused>> + Send;

    /// Makes the call, or records that its body could not be read.
    fn perform(
        &self,
        admitted: Self::Admitted,
        body: Result<Bytes, Refusal>,
    ) -> impl Future<Output = Result<SecretAnswer, Refused>> + Send;

    /// Answers `POST encryption/{instance}/challenge`. The instance is as it came.
    fn challenge(
        &self,
        shown: &Presented,
        instance: &str,
        id: &str,
    ) -> impl Future<Output = Result<ChallengeAnswer, Refused>> + Send;

    /// Answers `GET public-signing-key`.
    fn public_signing_key(
        &self,
        shown: &Presented,
        id: &str,
    ) -> impl Future<Output = Result<PublicSigningKey, Refused>> + Send;

    /// Answers `GET signing-keys`.
    fn signing_keys(
        &self,
        shown: &Presented,
        id: &str,
    ) -> impl Future<Output = Result<serde_json::Value, Refused>> + Send;

    /// A request is being served (1), or no longer (-1).
    fn in_flight(&self, more: i64);

    /// A request was answered.
    fn answered(&self, route: &'static str, status: u16, time: Duration);
}

/// The API.
pub struct Api<C> {
    calls: C,
    limits: Limits,
    options: bool,
    document: &'static str,
    in_flight: Arc<Semaphore>,
}

/// Where a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// `GET /v1/public-signing-key`
    PublicSigningKey,
    /// `GET /v1/signing-keys`
    SigningKeys,
    /// `GET /v1/openapi.json`
    OpenApi,
    /// `POST /v1/encryption/{instance}/{operation}`, the instance as it came.
    Call(Operation, &'a str),
    /// `POST /v1/encryption/{instance}/challenge`, the instance as it came.
    Challenge(&'a str),
}

impl Route<'_> {
    /// The method that it takes.
    pub fn method(self) -> &'static str {
        match self {
            Route::Call(..) | Route::Challenge(_) => "POST",
            _ => "GET",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Route::PublicSigningKey => "public-signing-key",
            Route::SigningKeys => "signing-keys",
            Route::OpenApi => "openapi.json",
            Route::Call(operation, _) => operation.word(),
            Route::Challenge(_) => "challenge",
        }
    }
}

/// A path with each run of slashes as one: clients join a base address that ends in a slash with paths that begin with one.
pub fn fold(path: &str) -> String {
    let mut folded = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !folded.ends_with('/') {
            folded.push(character);
        }
    }
    folded
}

/// Where a folded path leads, if anywhere. Nothing is percent-decoded: no name of a route or instance needs it.
pub fn route(path: &str) -> Option<Route<'_>> {
    let rest = path.strip_prefix("/v1/")?;
    match rest {
        "public-signing-key" => return Some(Route::PublicSigningKey),
        "signing-keys" => return Some(Route::SigningKeys),
        "openapi.json" => return Some(Route::OpenApi),
        _ => {}
    }
    let (instance, word) = rest.strip_prefix("encryption/")?.split_once('/')?;
    if word == "challenge" {
        return Some(Route::Challenge(instance));
    }
    let operation = [Operation::Generate, Operation::Decrypt, Operation::Convert];
    let operation = operation.into_iter().find(|operation| operation.word() == word)?;
    Some(Route::Call(operation, instance))
}

/// Values of a header, each line of it, as far as they are text.
fn lines<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok();
    let values = name.map(|name| headers.get_all(name));
    values.into_iter().flatten().take(MAX_LINES).filter_map(|value| value.to_str().ok())
}

/// What a request's headers show of its caller.
pub fn presented(peer: &Peer, headers: &HeaderMap) -> Presented {
    let tokens = lines(headers, "authorization").filter_map(|line| {
        let (scheme, token) = line.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| Zeroizing::new(token.trim().to_owned()))
    });
    let forwarded = lines(headers, "x-forwarded-for").flat_map(|line| line.split(','));
    Presented {
        peer: peer.address,
        certificates: Arc::clone(&peer.certificates),
        tokens: tokens.collect(),
        gateway_tenants: lines(headers, "x-amzn-vpc-id").map(str::to_owned).collect(),
        forwarded_for: forwarded.map(|text| text.trim().to_owned()).take(MAX_LINES).collect(),
    }
}

/// A body, within its limits of size and time.
///
/// # Errors
/// [`BodyError`].
pub async fn body(body: &mut Incoming, most: usize, time: Duration) -> Result<Zeroizing<Vec<u8>>, BodyError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > most {
        return Err(BodyError::TooLarge);
    }
    // All of what is announced at once: growth would leave copies behind, and a body may hold a PIN.
    let mut collected = Zeroizing::new(Vec::with_capacity(announced));
    let collect = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
            if collected.len() + data.len() > most {
                return Err(BodyError::TooLarge);
            }
            collected.extend_from_slice(&data);
        }
        Ok(())
    };
    let outcome = tokio::time::timeout(time, collect).await;
    outcome.unwrap_or(Err(BodyError::Slow)).map(|()| collected)
}

/// Reads some of what is left of a body and drops it, within limits: who still writes would not see the answer when the stream is
/// reset or the connection closed. Not for a client that waits to be told whether to send it at all (RFC 9110, section 10.1.1).
pub async fn drain(body: &mut Incoming, headers: &HeaderMap) {
    if body.is_end_stream() || headers.contains_key(header::EXPECT) {
        return;
    }
    let read = async {
        let mut dropped = 0;
        while let Some(Ok(frame)) = body.frame().await {
            dropped += frame.data_ref().map_or(0, Bytes::len);
            if dropped > MAX_DROPPED {
                break;
            }
        }
    };
    // Late: then it is closed all the same.
    let _ = tokio::time::timeout(DRAIN, read).await;
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// It is larger than allowed.
    TooLarge,
    /// It did not come in time.
    Slow,
    /// It is not framed as it should be, or ended early.
    Broken,
}

impl<C: Calls> Api<C> {
    /// The routes in front of `calls`, of which `document` is the OpenAPI description; OPTIONS is answered if `options` says so.
    pub fn new(calls: C, limits: Limits, options: bool, document: &'static str) -> Api<C> {
        let in_flight = Arc::new(Semaphore::new(limits.in_flight));
        Api { calls, limits, options, document, in_flight }
    }

    async fn answer(&self, peer: &Peer, request: &Parts, incoming: &mut Incoming, id: &str) -> Answer {
        let path = fold(request.uri.path());
        let route = route(&path).filter(|_| request.uri.query().is_none());
        let Some(route) = route else { return answer::refusal(Refusal::NotFound, None) };
        let method = &request.method;
        if self.options && method == Method::OPTIONS {
            return options(route);
        }
        if method.as_str() != route.method() {
            let answer = answer::refusal(Refusal::Method, None);
            let allowed = if self.options { format!("{}, OPTIONS", route.method()) } else { route.method().to_owned() };
            return answer::with(answer, header::ALLOW, &allowed);
        }
        let shown = presented(peer, &request.headers);
        let outcome = match route {
            Route::OpenApi => return answer::typed(StatusCode::OK, "application/json", self.document),
            Route::PublicSigningKey => {
                self.calls.public_signing_key(&shown, id).await.map(|key| answer::json(StatusCode::OK, &key))
            }
            Route::SigningKeys => {
                self.calls.signing_keys(&shown, id).await.map(|keys| answer::json(StatusCode::OK, &keys))
            }
            Route::Challenge(instance) => {
                self.calls.challenge(&shown, instance, id).await.map(|given| answer::json(StatusCode::OK, &given))
            }
            Route::Call(operation, instance) => self.call(&shown, operation, instance, incoming, id).await,
        };
        outcome.unwrap_or_else(|refused| answer::refusal(refused.refusal, refused.retry_after))
    }

    async fn call(
        &self,
        shown: &Presented,
        operation: Operation,
        instance: &str,
        incoming: &mut Incoming,
        id: &str,
    ) -> Result<Answer, Refused> {
        let admitted = self.calls.admit(shown, operation, instance, id).await?;
        let bytes = body(incoming, self.limits.body, self.limits.header_time).await;
        let slow = matches!(bytes, Err(BodyError::Slow));
        let bytes = bytes.map(|mut bytes| Bytes::from(std::mem::take(&mut *bytes))).map_err(|error| match error {
            BodyError::TooLarge => Refusal::TooLarge,
            BodyError::Slow | BodyError::Broken => Refusal::BadParameters,
        });
        match self.calls.perform(admitted, bytes).await {
            // The API's own refusals have no word for it; its record says the same as of any body that is none.
            Err(_) if slow => Ok(answer::error(408)),
            outcome => outcome.map(|secret| answer::json(StatusCode::OK, &secret)),
        }
    }
}

/// Counts a request as long as it lives, however it ends.
struct InFlight<C: Calls>(Arc<Api<C>>);

impl<C: Calls> InFlight<C> {
    fn new(api: &Arc<Api<C>>) -> Self {
        api.calls.in_flight(1);
        InFlight(Arc::clone(api))
    }
}

impl<C: Calls> Drop for InFlight<C> {
    fn drop(&mut self) {
        self.0.calls.in_flight(-1);
    }
}

impl<C: Calls> Handler for Api<C> {
    fn handle(self: Arc<Self>, peer: Peer, request: Request<Incoming>) -> Answering {
        Box::pin(async move {
            let start = Instant::now();
            let id = uuid::Uuid::new_v4().simple().to_string();
            let route = route(&fold(request.uri().path())).map_or("none", Route::name);
            let Ok(permit) = Arc::clone(&self.in_flight).try_acquire_owned() else {
                let answer = answer::refusal(Refusal::Unhealthy, Some(1));
                self.calls.answered(route, answer.status().as_u16(), start.elapsed());
                return answer;
            };
            let address = peer.address;
            // A task of its own: a panic ends it and nothing else, and what was begun is ended and recorded though the caller hangs up.
            let (api, of_task, counted) = (Arc::clone(&self), id.clone(), InFlight::new(&self));
            let task = tokio::spawn(async move {
                let _while_it_lives = (permit, counted);
                let (request, mut incoming) = request.into_parts();
                let answer = api.answer(&peer, &request, &mut incoming, &of_task).await;
                // Who was slow has had his time.
                if answer.status() != StatusCode::REQUEST_TIMEOUT {
                    drain(&mut incoming, &request.headers).await;
                }
                answer
            });
            let answer = match tokio::time::timeout(self.limits.request_time, task).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    tracing::error!(request_id = id, route, panicked = error.is_panic(), "a request failed inside");
                    answer::error(500)
                }
                Err(_) => {
                    tracing::warn!(request_id = id, route, "a request took too long");
                    answer::refusal(Refusal::Internal, Some(5))
                }
            };
            let (status, time) = (answer.status().as_u16(), start.elapsed());
            self.calls.answered(route, status, time);
            let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(request_id = id, %address, route, status, milliseconds, "answered");
            answer::with(answer, HeaderName::from_static("x-request-id"), &id)
        })
    }
}

/// As the original's gateway answers browsers.
fn options(route: Route<'_>) -> Answer {
    let mut answer = answer::typed(StatusCode::OK, "application/json", "{}");
    let methods = format!("OPTIONS,{}", route.method());
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods.as_str()),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type,Authorization"),
    ] {
        answer = answer::with(answer, name, value);
    }
    answer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_of_slashes_count_as_one_and_nothing_else_is_changed() {
        for (path, folded) in [("/v1//a", "/v1/a"), ("///", "/"), ("", ""), ("a%2F%2fb//", "a%2F%2fb/")] {
            assert_eq!(fold(path), folded);
        }
        let call = |path| route(path).map(|route| (route.method(), route.name()));
        assert_eq!(call("/v1/public-signing-key"), Some(("GET", "public-signing-key")));
        assert_eq!(route("/v1/encryption/i-1/convert-secret"), Some(Route::Call(Operation::Convert, "i-1")));
        assert_eq!(call("/v1/encryption/i-1/challenge"), Some(("POST", "challenge")));
        for path in [
            "/",
            "",
            "/v1",
            "/v1/",
            "/v1/public-signing-key/",
            "/v2/public-signing-key",
            "/v1/encryption/generate-secret",
            "/v1/encryption/challenge",
            "/v1/encryption/i-1/generate-secret/",
            "/v1/encryption/a/b/generate-secret",
            "/V1/signing-keys",
        ] {
            assert_eq!(route(path), None, "{path}");
        }
    }

    #[test]
    fn each_authorization_line_is_looked_at() {
        let peer = Peer { address: [127, 0, 0, 1].into(), certificates: Arc::default() };
        let mut headers = HeaderMap::new();
        for line in ["Bearer abc", "osef", "Custom x", "bearer  def ", "Bearer", "Basic YTpi"] {
            headers.append("authorization", line.parse().unwrap());
        }
        headers.append("x-forwarded-for", "192.0.2.1, 10.0.0.1".parse().unwrap());
        headers.append("x-forwarded-for", "10.0.0.2".parse().unwrap());
        let shown = presented(&peer, &headers);
        assert_eq!(shown.tokens.iter().map(|token| token.as_str()).collect::<Vec<_>>(), ["abc", "def"]);
        assert_eq!(shown.forwarded_for, ["192.0.2.1", "10.0.0.1", "10.0.0.2"]);
    }

    proptest! {
        #[test]
        fn any_path_is_matched_without_harm(path: String) {
            let folded = fold(&path);
            prop_assert!(!folded.contains("//"));
            let _ = route(&folded);
        }
    }
}
