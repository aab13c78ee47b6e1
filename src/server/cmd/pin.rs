//! Where the PIN comes from, and `envelopefs-keyserver pin`, which hands it to a running server.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use zeroize::Zeroizing;

use super::{Code, Exit, Failure, Result, harden, host, not_set_up};
use crate::crypto::secret::{NoPassphrase, Passphrase};
use crate::keys::secret_file::{self, Access};
use crate::server::cli::PinCommand;
use crate::server::config::Config;
use crate::sys::process::inherited_fd;

/// Longest PIN; tokens have far shorter limits.
const MAX_PIN: usize = 512;

/// The PIN that options name; `None` if they name none.
pub(super) fn named(file: Option<&Path>, fd: Option<i32>) -> Result<Option<Passphrase>> {
    if let Some(path) = file {
        let bytes = secret_file::read("PIN file", path, MAX_PIN, Access::Owner).map_err(not_set_up)?;
        return Passphrase::read_line_from(&bytes[..]).map(Some).map_err(|error| no_pin(&error));
    }
    let Some(number) = fd else { return Ok(None) };
    // The standard input stays open: its number must not go to something else.
    let fd = if number == 0 { std::io::stdin().as_fd().try_clone_to_owned() } else { inherited_fd(number) };
    let fd = fd.map_err(|error| {
        Failure::new(Code::Usage, format!("--pin-fd {number}: there is no such open file")).because(&error)
    })?;
    Passphrase::read_line_from(File::from(fd)).map(Some).map_err(|error| no_pin(&error))
}

/// Asks for it on the terminal.
pub(super) fn asked() -> Result<Passphrase> {
    let typed = rpassword::prompt_password("PIN: ").map(Zeroizing::new).map_err(|error| {
        Failure::new(Code::Failure, "cannot ask for the PIN: there is no terminal")
            .because(&error)
            .remedy("name where it is: --pin-file, --pin-fd, or hsm.pin in the configuration")
    })?;
    Passphrase::new(typed.as_bytes()).map_err(|error| no_pin(&error))
}

pub(super) fn no_pin(error: &NoPassphrase) -> Failure {
    Failure::new(Code::Failure, "there is no usable PIN")
        .because(error)
        .remedy("put the PIN, and nothing else, where it is read from")
}

/// Hands the PIN to the server of this host.
pub(super) fn run(config: &Path, args: PinCommand) -> Result<Exit> {
    harden()?;
    let config = Config::load_unread(config)?;
    let pin = match named(args.pin_file.as_deref(), args.pin_fd)? {
        Some(pin) => pin,
        None => asked()?,
    };
    let pin = std::str::from_utf8(pin.expose()).map_err(|error| {
        Failure::new(Code::Failure, "the PIN is not text").because(&error).remedy("PINs of tokens are UTF-8 (PKCS #11)")
    })?;
    let mut body = Zeroizing::new(Vec::with_capacity(2 * MAX_PIN));
    // The PIN is written straight into the body: a JSON value would be a copy that nobody wipes.
    body.extend_from_slice(b"{\"pin\":");
    serde_json::to_writer(&mut *body, pin)
        .map_err(|error| Failure::new(Code::Failure, "cannot write the PIN down").because(&error))?;
    body.extend_from_slice(if args.force { b",\"force\":true}" } else { b"}" });
    let (status, text) = host::ask(&config.admin.listen, "PUT", "/hsm-pin", &body)?;
    if status == 204 {
        say!("The server has the PIN.");
        return Ok(Exit::SUCCESS);
    }
    let code = if status == 400 { Code::WrongKey } else { Code::Provider };
    let fact = match host::message(&text) {
        Some(message) => format!("the server does not take it: {message}"),
        None => format!("the server does not take it (status {status})"),
    };
    let remedy = match status {
        400 => {
            "a PIN that is there already stays until the server ends; one that was refused is only tried again with --force"
        }
        _ => "its log says more",
    };
    Err(Failure::new(code, fact).remedy(remedy))
}
