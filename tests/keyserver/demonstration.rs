//! The demonstration of contrib/keyserver with these programs: a volume behind the server is mounted, refused while the server is away, mounted again, and
//! the log of it verifies.

use std::path::Path;
use std::process::Command;

use super::site::{KEYSERVER, text};

#[test]
fn the_demonstration_shows_what_it_says() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/keyserver/demo");
    let programs = Path::new(KEYSERVER).parent().unwrap();
    let output = Command::new(script).arg(programs).output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("All as it should be."), "{out}");
}
