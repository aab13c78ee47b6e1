//! Answers: JSON objects, errors in the one form `{"message","code"}`, whatever goes wrong.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::api::{ErrorBody, Refusal};

/// What goes back.
pub type Answer = Response<Full<Bytes>>;

/// An answer of JSON.
pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(bytes) => typed(status, "application/json", bytes),
        Err(_) => error(500),
    }
}

/// An answer of some type.
pub fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // Secrets, though wrapped, and refusals are nothing to keep.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// An answer without a body.
pub fn empty() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// A refusal, with the seconds after which to try again.
pub fn refusal(refusal: Refusal, retry_after: Option<u64>) -> Answer {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = json(status, &refusal.body());
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if refusal == Refusal::Unauthorized {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// An error that the API's own refusals do not have.
pub fn error(status: u16) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (message, code) = words(status.as_u16());
    typed(status, "application/json", body(message, code))
}

/// With another header line.
pub fn with(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

fn words(status: u16) -> (&'static str, &'static str) {
    match status {
        400 => ("Bad Request", "bad-request"),
        408 => ("Request Timeout", "timeout"),
        414 => ("URI Too Long", "uri-too-long"),
        431 => ("Request Header Fields Too Large", "headers-too-large"),
        _ => ("Internal Server Error", "internal"),
    }
}

fn body(message: &str, code: &str) -> Bytes {
    let body = ErrorBody { message: message.into(), code: Some(code.into()) };
    serde_json::to_vec(&body).unwrap_or_default().into()
}

/// A whole HTTP/1.1 answer, for a connection that ends with it.
pub(super) fn bare(status: u16) -> Bytes {
    let (message, code) = words(status);
    plain(status, message, &body(message, code))
}

/// The same, to who speaks HTTP to a port that speaks TLS.
pub(super) fn tls_wanted() -> Bytes {
    plain(400, "Bad Request", &body("This port speaks TLS", "tls-wanted"))
}

fn plain(status: u16, reason: &str, body: &[u8]) -> Bytes {
    let mut text = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    text.extend_from_slice(body);
    text.into()
}

/// What to send in place of bytes that the library answers by itself: an error of HTTP/1, head alone.
pub(super) fn automatic(bytes: &[u8]) -> Option<Bytes> {
    let rest = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?;
    let status: u16 = std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok()?;
    // Each of ours says of what type its body is.
    let typed = bytes.windows(13).any(|window| window.eq_ignore_ascii_case(b"content-type:"));
    ((400..600).contains(&status) && !typed).then(|| bare(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_library_are_exchanged_and_others_are_not() {
        let ours = automatic(b"HTTP/1.1 431 Request Header Fields Too Large\r\n\r\n").unwrap();
        assert!(ours.starts_with(b"HTTP/1.1 431 ") && ours.ends_with(b"\"code\":\"headers-too-large\"}"));
        for other in
            [&b"HTTP/1.1 100 Continue\r\n\r\n"[..], b"HTTP/1.1 200 OK", b"HTTP/1.1 4", b"", b"\x00\x00\x00", &bare(431)]
        {
            assert_eq!(automatic(other), None);
        }
    }

    #[test]
    fn errors_have_their_words_and_nothing_that_a_shell_expands() {
        for status in [400, 408, 414, 431, 500, 599] {
            let text = String::from_utf8(bare(status).to_vec()).unwrap();
            assert!(text.contains("\"message\":") && !text.contains(['*', '?', '[']), "{text}");
            assert!(error(status).status().as_u16() >= 400);
        }
    }
}
