//! The running server of this host, asked through its admin listener; and `envelopefs-keyserver status`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Code, Exit, Failure, Result};
use crate::server::cli::Status;
use crate::server::config::{AdminAddress, Config};

/// How long a running server may take: it tries the PIN at every token.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer of the admin listener, in bytes.
const MAX_ANSWER: u64 = 256 << 10;
/// Pause between two questions while `--wait` waits.
const PAUSE: Duration = Duration::from_millis(200);

/// Tells whether the server is ready, and if not, why.
pub(super) fn status(config: &Path, args: Status) -> Result<Exit> {
    let config = Config::load_unread(config)?;
    let end = args.wait.and_then(|wait| Instant::now().checked_add(wait.0.unsigned_abs()));
    loop {
        let asked = ask(&config.admin.listen, "GET", "/readyz", b"");
        let ready = matches!(asked, Ok((200..=299, _)));
        if !ready && end.is_some_and(|end| Instant::now() < end) {
            std::thread::sleep(PAUSE);
            continue;
        }
        let (status, body) = asked?;
        let text: String = String::from_utf8_lossy(&body).chars().filter(|c| *c == '\n' || !c.is_control()).collect();
        if args.output.json || !ready {
            say!("{}", text.trim_end());
        } else {
            say!("The server is ready.");
        }
        if ready {
            return Ok(Exit::SUCCESS);
        }
        return Err(Failure::new(Code::Provider, format!("the server is not ready (status {status})")).remedy(
            "what it says above and its log name the part: a PIN is handed in with envelopefs-keyserver pin, tokens are looked at with envelopefs-keyserver probe",
        ));
    }
}

/// One request to the first admin listener that is there, never repeated: a wrong PIN counts at the token.
pub(super) fn ask(listeners: &[AdminAddress], method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
    let mut failure = Failure::new(Code::Provider, "no server of this host can be reached")
        .remedy("start it with the same configuration: admin.listen says where this command looks for it");
    for listener in listeners {
        let connected: std::io::Result<Box<dyn Stream>> = match listener {
            AdminAddress::Loopback(address) => TcpStream::connect_timeout(address, TIMEOUT).and_then(|stream| {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            }),
            AdminAddress::Unix(path) => UnixStream::connect(path).and_then(|stream| {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            }),
        };
        match connected {
            Ok(mut stream) => {
                return exchange(&mut *stream, method, path, body).map_err(|error| {
                    Failure::new(Code::Provider, format!("the server at {listener} does not answer"))
                        .because(&error)
                        .remedy("its log says more")
                });
            }
            Err(error) => failure.causes.push(format!("{listener}: {error}")),
        }
    }
    Err(failure)
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// HTTP/1.0 (RFC 1945): one request, the connection's end is the answer's.
fn exchange(stream: &mut dyn Stream, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let no_http = || std::io::Error::new(std::io::ErrorKind::InvalidData, "what it says is not HTTP");
    let line = answer.split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let status = line.and_then(|line| line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok());
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(no_http)?;
    Ok((status.ok_or_else(no_http)?, answer.split_off(end + 4)))
}

/// The message of an answer that says no.
pub(super) fn message(body: &[u8]) -> Option<String> {
    let body: crate::api::ErrorBody = serde_json::from_slice(body).ok()?;
    Some(body.message.chars().filter(|c| !c.is_control()).take(500).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scripted {
        answer: std::io::Cursor<Vec<u8>>,
        asked: Vec<u8>,
    }

    impl Read for Scripted {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.answer.read(into)
        }
    }

    impl Write for Scripted {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.asked.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn ask(answer: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
        let mut stream = Scripted { answer: std::io::Cursor::new(answer.to_vec()), asked: Vec::new() };
        let outcome = exchange(&mut stream, "PUT", "/hsm-pin", b"{}");
        assert!(stream.asked.starts_with(b"PUT /hsm-pin HTTP/1.0\r\n") && stream.asked.ends_with(b"\r\n\r\n{}"));
        outcome
    }

    #[test]
    fn answers_are_understood_and_others_are_errors() {
        assert_eq!(ask(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), (204, Vec::new()));
        let (status, body) =
            ask(b"HTTP/1.0 400 x\r\na: b\r\n\r\n{\"message\":\"PIN was\\u001b not accepted\"}").unwrap();
        assert_eq!((status, message(&body).as_deref()), (400, Some("PIN was not accepted")));
        for bad in [&b""[..], b"HTTP/1.1 204", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\r\n\r\n"] {
            assert!(ask(bad).is_err());
        }
        assert_eq!(message(b"<html>"), None);
    }
}
