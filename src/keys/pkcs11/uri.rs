//! From a specification to places where the key is: the path of an RFC 7512 URI, its module, its PIN.
//!
//! The path says which token and object are meant, attribute by attribute; each one that is named must agree. An attribute that is not known is
//! refused, where RFC 7512 would let it match nothing: a mistyped one is then not taken for an empty token.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cryptoki::slot::{Slot, TokenInfo};
use percent_encoding::percent_decode_str;

use super::mechanism::Choice;
use super::pin::Pin;
use crate::keys::{ProviderError, ProviderSpec, SpecError};

/// Seconds that one call may take unless the specification says otherwise: hardware may make an RSA key meanwhile.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Most alternatives.
const MAX_ALTERNATIVES: usize = 16;

/// What a specification says.
#[derive(Debug)]
pub(super) struct Settings {
    /// Where the key is, in the order in which they are tried; at least one.
    pub(super) places: Vec<Place>,
    /// `timeout`: seconds that one call may take.
    pub(super) timeout: Duration,
    /// How keys are looked for, made and used; the same in all places.
    pub(super) rules: Rules,
}

/// What holds in every place.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    /// `mechanism`.
    pub(super) mechanism: Option<Choice>,
    /// `make`: make the key with the first slot if it is not there.
    pub(super) make: bool,
    /// `insecure-extractable-key`: take a key that can be read out of its token.
    pub(super) extractable: bool,
}

/// One place of the key.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Token and object.
    pub(super) uri: Uri,
    /// `module-path`.
    pub(super) module: PathBuf,
    /// The PIN, and whether it was refused once. Alternatives without one of their own share it.
    pub(super) pin: Option<Arc<Pin>>,
}

/// The path attributes of RFC 7512, section 2.3, that are of use here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Uri {
    pub(super) token: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) manufacturer: Option<String>,
    pub(super) model: Option<String>,
    pub(super) slot_id: Option<u64>,
    /// CKA_LABEL.
    pub(super) object: Option<String>,
    /// CKA_ID: any bytes.
    pub(super) id: Option<Vec<u8>>,
    /// Class of the object.
    pub(super) class: Option<Class>,
}

/// Classes of objects that can be a wrapping key: `type=secret-key`, `type=private`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    SecretKey,
    PrivateKey,
}

impl Settings {
    /// Takes a specification apart and reads its PINs.
    ///
    /// # Errors
    /// [`ProviderError::Spec`], or [`ProviderError::Setup`] for a PIN that cannot be read.
    pub(super) fn of(mut spec: ProviderSpec) -> Result<Self, ProviderError> {
        let alternatives = std::mem::take(&mut spec.alternatives);
        if alternatives.len() > MAX_ALTERNATIVES {
            return Err(wrong("alternative", "there at most 16 times").into());
        }
        let mechanism = match spec.take("mechanism") {
            None => None,
            Some(word) => Some(Choice::of(&word).ok_or_else(|| wrong("mechanism", Choice::WORDS))?),
        };
        let rules = Rules {
            mechanism,
            make: spec.take_switch("make")?,
            extractable: spec.take_switch("insecure-extractable-key")?,
        };
        let timeout = spec.take_seconds("timeout")?.unwrap_or(TIMEOUT);
        let first = Place::take(spec, None)?;
        let mut places = vec![first.clone()];
        for alternative in alternatives {
            if alternative.kind != super::KIND {
                return Err(wrong("alternative", "a provider of kind pkcs11").into());
            }
            places.push(Place::take(alternative, Some(&first))?);
        }
        Ok(Settings { places, timeout, rules })
    }
}

impl Place {
    /// What an alternative does not say is as in the `first` place: module and PIN.
    fn take(mut spec: ProviderSpec, first: Option<&Place>) -> Result<Self, ProviderError> {
        let uri = Uri::parse(&spec.target)?;
        let module = match (spec.take_path("module-path"), first) {
            (Some(path), _) if path.is_absolute() => path,
            (Some(_), _) => return Err(wrong("module-path", "a path from the root, /usr/lib/… say").into()),
            (None, Some(first)) => first.module.clone(),
            (None, None) => return Err(SpecError::Missing { kind: spec.kind, name: "module-path" }.into()),
        };
        let pin = Pin::take(&mut spec)?.map(Arc::new).or_else(|| first.and_then(|first| first.pin.clone()));
        spec.finish()?;
        Ok(Place { uri, module, pin })
    }
}

impl Uri {
    /// Parses `token=NAME;object=LABEL;…`, each value percent-encoded.
    ///
    /// # Errors
    /// [`SpecError`]; one too if the key is named neither by label nor by id.
    pub(super) fn parse(path: &str) -> Result<Self, SpecError> {
        let uri = Uri::attributes(path)?;
        if uri.object.is_none() && uri.id.is_none() {
            return Err(SpecError::Missing { kind: super::KIND.into(), name: "object=LABEL or id=… in its target" });
        }
        Ok(uri)
    }

    /// Parses `token=NAME;…`, which names a token and no object in it.
    ///
    /// # Errors
    /// [`SpecError`].
    #[cfg_attr(not(feature = "key-server"), expect(dead_code, reason = "the key server's"))]
    pub(crate) fn parse_token(path: &str) -> Result<Self, SpecError> {
        let uri = Uri::attributes(path)?;
        if uri.object.is_some() || uri.id.is_some() || uri.class.is_some() {
            return Err(wrong("target", "the name of a token alone, without object, id and type"));
        }
        Ok(uri)
    }

    fn attributes(path: &str) -> Result<Self, SpecError> {
        let mut uri = Uri::default();
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            let (name, value) =
                attribute.split_once('=').ok_or_else(|| wrong("target", "of the form token=…;object=…"))?;
            let bytes: Vec<u8> = percent_decode_str(value).collect();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| wrong(name, "percent-encoded UTF-8"));
            let twice = match name {
                "token" => uri.token.replace(text(bytes)?).is_some(),
                "serial" => uri.serial.replace(text(bytes)?).is_some(),
                "manufacturer" => uri.manufacturer.replace(text(bytes)?).is_some(),
                "model" => uri.model.replace(text(bytes)?).is_some(),
                "object" => uri.object.replace(text(bytes)?).is_some(),
                "id" => uri.id.replace(bytes).is_some(),
                "slot-id" => uri.slot_id.replace(text(bytes)?.parse().map_err(|_| wrong(name, "a number"))?).is_some(),
                "type" => {
                    let class = match &*bytes {
                        b"secret-key" => Class::SecretKey,
                        b"private" => Class::PrivateKey,
                        _ => return Err(wrong(name, "secret-key or private")),
                    };
                    uri.class.replace(class).is_some()
                }
                _ => return Err(SpecError::Unknown { kind: super::KIND.into(), names: vec![name.into()] }),
            };
            if twice {
                return Err(wrong(name, "there once"));
            }
        }
        let empty = |value: &Option<Vec<u8>>| value.as_ref().is_some_and(Vec::is_empty);
        if empty(&uri.id) || uri.object.as_ref().is_some_and(String::is_empty) {
            return Err(wrong("object or id", "something: it is empty"));
        }
        Ok(uri)
    }
}

/// For people: `key "app" of token "hsm"`.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("key")?;
        if let Some(object) = &self.object {
            write!(f, " {object:?}")?;
        }
        if let Some(id) = &self.id {
            write!(f, " with id {}", hex(id))?;
        }
        f.write_str(" of ")?;
        self.token_name().fmt(f)
    }
}

impl Uri {
    /// Whether a token has all the attributes that are named.
    pub(crate) fn fits(&self, slot: Slot, info: &TokenInfo) -> bool {
        let agrees = |named: &Option<String>, found: &str| named.as_deref().is_none_or(|named| named == found);
        agrees(&self.token, info.label())
            && agrees(&self.serial, info.serial_number())
            && agrees(&self.manufacturer, info.manufacturer_id())
            && agrees(&self.model, info.model())
            && self.slot_id.is_none_or(|id| id == slot.id())
    }

    /// For people: `token "hsm"`.
    pub(crate) fn token_name(&self) -> String {
        let mut name = String::from("token");
        let attributes = [("", &self.token), ("serial ", &self.serial), ("model ", &self.model)];
        for (what, value) in attributes.into_iter().chain([("manufacturer ", &self.manufacturer)]) {
            if let Some(value) = value {
                name += &format!(" {what}{value:?}");
            }
        }
        if let Some(slot) = self.slot_id {
            name += &format!(" in slot {slot}");
        }
        if name.len() == 5 { "the only token".into() } else { name }
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn wrong(name: &str, expected: &'static str) -> SpecError {
    SpecError::Value { name: name.into(), expected }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(text: &str) -> Result<Settings, String> {
        Settings::of(text.parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_path_is_that_of_rfc_7512() {
        let uri = Uri::parse(
            "token=The%20HSM;object=a%3Bb;id=%00%ff;slot-id=7;type=secret-key;serial=1;model=m;manufacturer=x",
        );
        let expected = Uri {
            token: Some("The HSM".into()),
            serial: Some("1".into()),
            manufacturer: Some("x".into()),
            model: Some("m".into()),
            slot_id: Some(7),
            object: Some("a;b".into()),
            id: Some(vec![0, 255]),
            class: Some(Class::SecretKey),
        };
        assert_eq!(uri.unwrap(), expected);
        let uri = Uri::parse("object=app;token=hsm").unwrap();
        assert_eq!(uri.to_string(), "key \"app\" of token \"hsm\"");
    }

    #[test]
    fn a_path_that_is_not_right_is_refused() {
        for bad in [
            "",
            "token=x",
            "object",
            "object=",
            "id=",
            "object=a;object=b",
            "object=%ff",
            "object=a;slot-id=x",
            "object=a;type=cert",
            "object=a;tokne=x",
            "object=a;pin-value=1234",
        ] {
            assert!(Uri::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn alternatives_take_over_module_and_pin() {
        let dir = tempfile::tempdir().unwrap();
        let pin = dir.path().join("pin");
        std::fs::write(&pin, "1234\n").unwrap();
        std::fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let text = format!(
            "pkcs11:token=a;object=k?module-path=/m.so&pin-source={}&alternative=pkcs11:token=b;object=k&alternative=pkcs11:token=c;object=k%3Fmodule-path=/n.so",
            pin.display()
        );
        let settings = settings(&text).unwrap();
        let modules: Vec<_> = settings.places.iter().map(|place| place.module.to_str().unwrap()).collect();
        assert_eq!(modules, ["/m.so", "/m.so", "/n.so"]);
        let [first, second, _] = &settings.places[..] else { panic!() };
        assert!(Arc::ptr_eq(first.pin.as_ref().unwrap(), second.pin.as_ref().unwrap()));
        assert!(!format!("{settings:?}").contains("1234"));
    }

    #[test]
    fn a_specification_that_is_not_right_is_refused() {
        for bad in [
            "pkcs11:object=k",
            "pkcs11:object=k?module-path=m.so",
            "pkcs11:object=k?module-path=/m.so&mechanism=rot13",
            "pkcs11:object=k?module-path=/m.so&tiemout=3",
            "pkcs11:object=k?module-path=/m.so&alternative=vault:x",
            "pkcs11:object=k?module-path=/m.so&alternative=pkcs11:object=k%3Fmake=true",
            "pkcs11:object=k?module-path=/m.so&pin-source=/nonexistent",
        ] {
            assert!(settings(bad).is_err(), "{bad}");
        }
        assert!(settings("pkcs11:object=k?module-path=/m.so&mechanism=aes-gcm&timeout=2").is_ok());
    }

    proptest! {
        #[test]
        fn any_path_is_read_without_harm(text in "\\PC{0,80}") {
            let _ = Uri::parse(&text);
        }
    }
}
