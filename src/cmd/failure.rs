//! How a verb of either program fails: fact, cause, remedy, and an exit code.

use std::fmt;

use crate::sys::process::Exit;

/// Exit codes; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Any failure that has no code of its own.
    Failure = 1,
    /// Wrong usage, which the parser also reports with this code.
    Usage = 2,
    /// No key slot opens with the credentials given.
    WrongKey = 3,
    /// Something stored is not what was written.
    Damaged = 4,
    /// In use by another process.
    InUse = 5,
    /// Not a volume, or no place for one.
    NotAVolume = 6,
    /// A format or feature of a later version.
    Unsupported = 7,
    /// Mounting or unmounting failed.
    Mount = 8,
    /// A key provider cannot be reached, refuses, or is not set up.
    Provider = 9,
    /// An attestation report is not genuine or not what was demanded.
    Attestation = 10,
}

impl From<Code> for Exit {
    fn from(code: Code) -> Self {
        Exit::from(code as u8)
    }
}

/// Why a verb failed: fact, cause, remedy, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) fact: String,
    pub(crate) causes: Vec<String>,
    pub(crate) remedy: Option<String>,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: Code, fact: impl Into<String>) -> Self {
        Failure { code, fact: fact.into(), causes: Vec::new(), remedy: None }
    }

    /// Adds what lies behind it.
    pub(crate) fn because(mut self, error: &dyn std::error::Error) -> Self {
        self.causes.push(error.to_string());
        self.causes.extend(sources(error));
        self
    }

    /// Adds what lies behind the error that the fact tells.
    #[cfg(feature = "key-server")]
    pub(crate) fn caused(mut self, error: &dyn std::error::Error) -> Self {
        self.causes.extend(sources(error));
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Says it on standard error in the name of a program, and gives the exit code.
    pub(crate) fn report(&self, program: &str) -> Exit {
        eprintln!("{program}: {self}");
        self.code.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fact)?;
        for cause in &self.causes {
            write!(f, "\n  cause: {}", cause.trim_end())?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  remedy: {remedy}")?;
        }
        Ok(())
    }
}

/// The texts of the errors behind an error.
pub(crate) fn sources(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(error.source(), |error| error.source()).map(ToString::to_string).collect()
}
