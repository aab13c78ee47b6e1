//! How a provider is named by people: on a command line or in fstab as one word, or in a file.
//!
//! ```text
//! vault:https://vault.example:8200/transit/app?token-file=/etc/envelopefs/token
//! /etc/envelopefs/app.provider.toml
//! ```
//!
//! The word is `kind:target?name=value&name=value`; what target and names mean is the provider's. Values are percent-encoded as in any
//! URI (RFC 3986), the target is not decoded here. A word that begins with `/`, `./` or `../` is the path of a file with the same in TOML:
//! `kind`, `target`, and a key for each name. A secret is never a value, only a reference to one: a file or a descriptor.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

/// Largest provider file: more is none.
const MAX_FILE: u64 = 64 << 10;
/// Parts within parts are refused beyond this.
const MAX_DEPTH: usize = 4;
/// Names whose value would be a secret.
const SECRETS: [&str; 6] = ["pin", "pin-value", "token", "password", "passphrase", "secret"];

/// A provider as its user names it. A provider takes what it knows and then calls [`finish`](Self::finish), which refuses the rest: a
/// mistyped name must not silently weaken anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderSpec {
    /// The provider's word: `pkcs11`.
    pub kind: String,
    /// What stands between the kind and the question mark: an address, a path, a token; may be empty.
    pub target: String,
    /// Named values, not yet taken.
    parameters: BTreeMap<String, String>,
    /// Providers that are needed together, of the kind `all-of`.
    pub parts: Vec<ProviderSpec>,
    /// Other places of the same key, in the order in which they are tried; for the kinds that know such.
    pub alternatives: Vec<ProviderSpec>,
}

/// Why text or a file does not name a provider.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// No kind, or not in the form of one.
    #[error("{0:?} does not name a provider: it has the form kind:target?name=value")]
    Form(String),
    /// A value is there twice, in no known encoding, or not of its kind.
    #[error("the provider's {name} is not {expected}")]
    #[allow(missing_docs)]
    Value { name: String, expected: &'static str },
    /// A name that the provider does not know.
    #[error("a provider of kind {kind} has no {}", .names.join(", "))]
    #[allow(missing_docs)]
    Unknown { kind: String, names: Vec<String> },
    /// A name that it must have.
    #[error("a provider of kind {kind} needs {name}")]
    #[allow(missing_docs)]
    Missing { kind: String, name: &'static str },
    /// The value would be a secret, for everybody to see.
    #[error("{0} would put a secret where others can read it")]
    Secret(String),
    /// The file cannot be read.
    #[error("cannot read the provider file {}", .path.display())]
    #[allow(missing_docs)]
    Io { path: PathBuf, source: std::io::Error },
    /// The file is not such a file.
    #[error("the provider file {} is not right: {reason}", .path.display())]
    #[allow(missing_docs)]
    File { path: PathBuf, reason: String },
}

impl SpecError {
    /// What to do about it.
    pub fn remedy(&self) -> Option<String> {
        match self {
            SpecError::Form(_) => Some("for example: key-file:/etc/envelopefs/app.key".into()),
            SpecError::Secret(name) => Some(format!("put it into a file of your own and name that: {name}-file=PATH")),
            _ => None,
        }
    }
}

impl FromStr for ProviderSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        if ["/", "./", "../"].iter().any(|start| text.starts_with(start)) {
            return Self::read(Path::new(text));
        }
        Self::parse(text, 0)
    }
}

impl ProviderSpec {
    fn parse(text: &str, depth: usize) -> Result<Self, SpecError> {
        let form = || SpecError::Form(text.into());
        let (kind, rest) = text.split_once(':').ok_or_else(form)?;
        let (target, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut spec = Self::new(kind, target).ok_or_else(form)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(form)?;
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| SpecError::Value { name: name.into(), expected: "percent-encoded UTF-8" })?;
            if name == "part" && depth < MAX_DEPTH {
                spec.parts.push(Self::parse(&value, depth + 1)?);
            } else if name == "alternative" && depth < MAX_DEPTH {
                spec.alternatives.push(Self::parse(&value, depth + 1)?);
            } else {
                spec.put(name, value.into_owned())?;
            }
        }
        Ok(spec)
    }

    /// A provider without named values; `None` if the kind is not a word.
    fn new(kind: &str, target: &str) -> Option<Self> {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (!kind.is_empty() && kind.len() <= 32 && kind.chars().all(word)).then(|| ProviderSpec {
            kind: kind.into(),
            target: target.into(),
            parameters: BTreeMap::new(),
            parts: Vec::new(),
            alternatives: Vec::new(),
        })
    }

    fn put(&mut self, name: &str, value: String) -> Result<(), SpecError> {
        if SECRETS.contains(&name) {
            return Err(SpecError::Secret(name.into()));
        }
        match self.parameters.insert(name.into(), value) {
            None => Ok(()),
            Some(_) => Err(SpecError::Value { name: name.into(), expected: "there once" }),
        }
    }

    /// Reads a provider file.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        let io = |source| SpecError::Io { path: path.into(), source };
        let metadata = std::fs::metadata(path).map_err(io)?;
        let wrong = |reason: String| SpecError::File { path: path.into(), reason };
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return Err(wrong(format!("no regular file of at most {MAX_FILE} bytes")));
        }
        // It says which servers and libraries are trusted with the master key.
        if metadata.mode() & 0o022 != 0 {
            let mode = metadata.mode() & 0o7777;
            return Err(wrong(format!("others than its owner can change it (mode {mode:04o}): chmod go-w")));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(error.message().into()))?;
        Self::from_table(table, 0).map_err(|error| wrong(error.to_string()))
    }

    fn from_table(mut table: toml::Table, depth: usize) -> Result<Self, SpecError> {
        let text = |value: Option<toml::Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        let kind = text(table.remove("kind")).unwrap_or_default();
        let target = match table.remove("target") {
            None => String::new(),
            found => text(found).ok_or_else(|| SpecError::Value { name: "target".into(), expected: "text" })?,
        };
        let mut spec = Self::new(&kind, &target).ok_or_else(|| SpecError::Form(kind.clone()))?;
        for (name, value) in table {
            let expected = "text, a number or true or false";
            match value {
                toml::Value::String(value) => spec.put(&name, value)?,
                toml::Value::Integer(value) => spec.put(&name, value.to_string())?,
                toml::Value::Boolean(value) => spec.put(&name, value.to_string())?,
                toml::Value::Array(parts) if matches!(&*name, "part" | "alternative") && depth < MAX_DEPTH => {
                    for part in parts {
                        let toml::Value::Table(part) = part else {
                            return Err(SpecError::Value { name, expected: "a list of tables" });
                        };
                        let part = Self::from_table(part, depth + 1)?;
                        if name == "part" { spec.parts.push(part) } else { spec.alternatives.push(part) }
                    }
                }
                _ => return Err(SpecError::Value { name, expected }),
            }
        }
        Ok(spec)
    }

    /// Takes a named value.
    pub fn take(&mut self, name: &str) -> Option<String> {
        self.parameters.remove(name)
    }

    /// Takes a named value that must be there.
    ///
    /// # Errors
    /// [`SpecError::Missing`].
    pub fn require(&mut self, name: &'static str) -> Result<String, SpecError> {
        self.take(name).ok_or_else(|| SpecError::Missing { kind: self.kind.clone(), name })
    }

    /// Takes a path.
    pub fn take_path(&mut self, name: &str) -> Option<PathBuf> {
        self.take(name).map(PathBuf::from)
    }

    /// Takes a number.
    ///
    /// # Errors
    /// [`SpecError::Value`] if it is none.
    pub fn take_number<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, SpecError> {
        let wrong = || SpecError::Value { name: name.into(), expected: "a number in range" };
        self.take(name).map(|value| value.parse().map_err(|_| wrong())).transpose()
    }

    /// Takes a switch, off where it is not named.
    ///
    /// # Errors
    /// [`SpecError::Value`] if it is neither `true` nor `false`.
    pub fn take_switch(&mut self, name: &str) -> Result<bool, SpecError> {
        match self.take(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(SpecError::Value { name: name.into(), expected: "true or false" }),
        }
    }

    /// Takes a number of seconds, up to an hour; fractions are possible.
    ///
    /// # Errors
    /// [`SpecError::Value`] if it is none.
    pub fn take_seconds(&mut self, name: &str) -> Result<Option<Duration>, SpecError> {
        let seconds = self.take_number::<f64>(name)?;
        let possible = |seconds: &f64| *seconds > 0.0 && *seconds <= 3600.0;
        match seconds {
            None => Ok(None),
            Some(seconds) if possible(&seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
            Some(_) => Err(SpecError::Value { name: name.into(), expected: "a number of seconds up to 3600" }),
        }
    }

    /// The end of taking: what is left is unknown.
    ///
    /// # Errors
    /// [`SpecError::Unknown`].
    pub fn finish(self) -> Result<(), SpecError> {
        let mut names: Vec<String> = self.parameters.into_keys().collect();
        if !self.parts.is_empty() && self.kind != "all-of" {
            names.push("part".into());
        }
        if !self.alternatives.is_empty() {
            names.push("alternative".into());
        }
        if names.is_empty() { Ok(()) } else { Err(SpecError::Unknown { kind: self.kind, names }) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_word_has_kind_target_and_named_values() {
        let mut spec: ProviderSpec =
            "vault:https://h:8200/transit/k?token-file=/a%2Cb&timeout=2.5&quick=true".parse().unwrap();
        assert_eq!((spec.kind.as_str(), spec.target.as_str()), ("vault", "https://h:8200/transit/k"));
        assert_eq!(spec.take_path("token-file"), Some("/a,b".into()));
        assert_eq!(spec.take_seconds("timeout").unwrap(), Some(Duration::from_millis(2500)));
        assert!(spec.take_switch("quick").unwrap() && !spec.take_switch("slow").unwrap());
        assert!(spec.finish().is_ok());
    }

    #[test]
    fn a_file_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        let text = "kind = 'all-of'\n[[part]]\nkind = 'key-file'\ntarget = '/k'\n[[part]]\nkind = 'vault'\ntarget = 'https://h'\ntimeout = 3\n";
        std::fs::write(&path, text).unwrap();
        let from_file: ProviderSpec = path.to_str().unwrap().parse().unwrap();
        let word = "all-of:?part=key-file:/k&part=vault:https://h%3Ftimeout=3";
        assert_eq!(from_file, word.parse().unwrap());
        assert_eq!(from_file.parts.len(), 2);
        assert!(from_file.finish().is_ok());
    }

    #[test]
    fn what_is_not_right_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in [
            "",
            "vault",
            ":x",
            "Vault:x",
            "vault:x?a",
            "vault:x?a=1&a=2",
            "vault:x?a=%ff",
            "vault:x?token=s.1",
            "./none",
        ] {
            assert!(bad.parse::<ProviderSpec>().is_err(), "{bad}");
        }
        for bad in ["", "kind = 1", "kind = 'a'\nb = [1]", "kind = 'a'\npart = [1]", "kind = 'a'\npin = '1'", "{"] {
            let path = dir.path().join("p.toml");
            std::fs::write(&path, bad).unwrap();
            assert!(ProviderSpec::read(&path).is_err(), "{bad}");
        }
        let path = dir.path().join("q.toml");
        std::fs::write(&path, "kind = 'a'").unwrap();
        for (mode, right) in [(0o644, true), (0o664, false), (0o646, false)] {
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(ProviderSpec::read(&path).is_ok(), right, "{mode:o}");
        }
        assert!(ProviderSpec::read(dir.path()).is_err());
        assert!(ProviderSpec::read(Path::new("/dev/zero")).is_err());
        let mut spec: ProviderSpec = "vault:x?tiemout=1&switch=yes&number=x&seconds=0".parse().unwrap();
        assert!(spec.take_switch("switch").is_err());
        assert!(spec.take_number::<u32>("number").is_err());
        assert!(spec.take_seconds("seconds").is_err());
        assert!(matches!(spec.require("address"), Err(SpecError::Missing { .. })));
        let error = spec.finish().unwrap_err();
        assert!(error.to_string().contains("tiemout"), "{error}");
        let parts: ProviderSpec = "vault:x?part=key-file:/k".parse().unwrap();
        assert!(parts.finish().is_err());
        let alternatives: ProviderSpec = "vault:x?alternative=vault:y&alternative=vault:z".parse().unwrap();
        assert_eq!(alternatives.alternatives.len(), 2);
        assert!(alternatives.finish().is_err());
    }

    #[test]
    fn a_secret_in_a_value_is_not_shown() {
        let error = "vault:x?token=hvs.geheim".parse::<ProviderSpec>().unwrap_err();
        assert!(!error.to_string().contains("geheim") && error.remedy().unwrap().contains("token-file"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in "\\PC{0,80}") {
            if !text.starts_with('/') && !text.starts_with('.') {
                let _ = text.parse::<ProviderSpec>();
            }
        }
    }
}
