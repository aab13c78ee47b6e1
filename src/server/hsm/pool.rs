//! The tokens: which of them work, their sessions, and who waits for one.
//!
//! One mutex guards the bookkeeping (a few counters for each token). It is never held over a call of a module, so nothing waits for a token
//! but the calls that it serves. A call takes one of a token's places, runs on a thread of its own with a session that is logged in, and
//! gives both back. If it does not come back in time, it keeps its session, and its place is given to others; so many may be away
//! ([`MAX_AWAY`]), then the token is left alone until one returns.
//!
//! A token that fails is taken out; it is opened anew at once, then after a pause that doubles up to [`MAX_PAUSE`], each time with the
//! self-test. It is logged in with the PIN that a token has taken before, and never with one that was refused. Attempts that hang are
//! bounded, too ([`MAX_ATTEMPTS`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Limit, Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use parking_lot::{Condvar, Mutex};

use super::blob::Body;
use super::profile::{Kdf, Oaep};
use super::settings::{HsmSettings, Pin, TokenSettings, read_pin};
use super::threads::{NoResult, Threads};
use super::work::{Bench, Fault, Meaning, Rules, is_lost, is_of_blob};
use super::{HsmError, KeyId, TokenStatus, selftest};
use crate::api::signature::SigningKey;
use crate::keys::pkcs11::module::{Lease, Module};
use crate::keys::pkcs11::uri::Uri;

/// Calls of one token that may be away without an answer.
const MAX_AWAY: usize = 32;
/// Attempts to open one token that may be under way, all but one of them given up.
const MAX_ATTEMPTS: usize = 8;
/// How long a token that lacks a key is passed over before it is asked again.
const LACKING: Duration = Duration::from_secs(5);
/// How long the end waits for sessions to be closed.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);
/// Longest pause before a token is tried again.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// First pause.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How long a call waits for a token that has just been lost.
const GRACE: Duration = Duration::from_secs(3);

/// Everything about the tokens.
pub(super) struct Pool {
    tokens: Vec<Token>,
    state: Mutex<State>,
    /// For calls: a place is free, or a token is up or down.
    changed: Condvar,
    /// For the watch: a token is down.
    down: Condvar,
    /// What the first token has made of each key, with which the others must agree.
    references: Mutex<HashMap<KeyId, Reference>>,
    /// One login at a time. Not for calls.
    login: Mutex<()>,
    threads: Threads,
    rules: Arc<Rules>,
    settings: HsmSettings,
}

/// What does not change about a token.
struct Token {
    name: String,
    settings: TokenSettings,
    uri: Uri,
    module: Arc<Module>,
}

struct State {
    tokens: Vec<TokenState>,
    /// A PIN that a token has taken.
    pin: Option<Arc<Pin>>,
    /// A token has refused the last PIN that came.
    refused: bool,
    /// Where the search for the least busy token begins.
    turn: usize,
    /// Counts attempts to open tokens.
    attempts: u64,
    /// The cluster is gone: nothing is opened any more.
    closed: bool,
}

/// What shows that two tokens have the same key under one id.
#[derive(Clone)]
enum Reference {
    /// Something wrapped under a key that was derived from it.
    Domain(Body),
    /// Its public half.
    Sign(SigningKey),
}

#[derive(Default)]
struct TokenState {
    health: Health,
    link: Option<Arc<Link>>,
    /// Sessions of `link` that nobody uses. They end before it, with which the lease of the module does.
    idle: Vec<Session>,
    busy: usize,
    away: usize,
    /// The latest attempt to open it, by its number, and since when; older ones are given up.
    opening: Option<(u64, Instant)>,
    /// Attempts that have not come back.
    attempts: usize,
    last_error: Option<String>,
    /// What it could do when it was last open.
    kdfs: Option<Vec<Kdf>>,
    /// This token's own PIN, from its file.
    pin: Option<Arc<Pin>>,
    /// Calls that it takes at once.
    limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Health {
    /// No PIN has come yet.
    #[default]
    Waiting,
    Up,
    /// Taken out; tried again then.
    Down {
        again: Instant,
        pause: Duration,
    },
    /// It refused its PIN: not tried again before another one comes.
    Refused,
}

/// A token that is open and logged in.
pub(super) struct Link {
    /// Keeps the login alive, which ends with the last session. Nothing else is done in it.
    _anchor: Mutex<Session>,
    pkcs11: Pkcs11,
    slot: Slot,
    writable: bool,
    rules: Arc<Rules>,
    kdfs: Vec<Kdf>,
    pub(super) oaep: Oaep,
    /// Handles of the keys that were looked up.
    keys: Mutex<HashMap<(Use, KeyId), ObjectHandle>>,
    /// Keys that are not there, or others than elsewhere, and since when.
    lacking: Mutex<HashMap<KeyId, Instant>>,
    /// Most sessions at once.
    sessions: usize,
    name: String,
    pool: Weak<Pool>,
    // Last but the module: it ends when the anchor is closed.
    _lease: Lease,
    _module: Arc<Module>,
}

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Use {
    Domain,
    Sign,
}

/// Why a token is not open.
struct NotOpen {
    error: HsmError,
    login: Login,
}

/// What came of the PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// It was not sent.
    Untried,
    /// It is right.
    Taken,
    /// It is wrong.
    Refused,
    /// It was held back: the next wrong one would lock the token, or it is locked.
    Withheld,
}

/// What a token had when it was taken out, in the order in which it is to be dropped; not under the lock, since the module closes the sessions.
#[derive(Default)]
struct Gone {
    _idle: Vec<Session>,
    _link: Option<Arc<Link>>,
}

/// A call's place at a token; given back when it is dropped, on whatever thread.
struct Place {
    pool: Arc<Pool>,
    token: usize,
    /// Where the call is; changed under the lock of the state alone.
    at: Arc<AtomicU8>,
}

/// A call is under way, and somebody waits for it.
const UNDER_WAY: u8 = 0;
/// It has come back.
const BACK: u8 = 1;
/// Nobody waits for it any more.
const LATE: u8 = 2;

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        let token = &mut state.tokens[self.token];
        if self.at.swap(BACK, Ordering::SeqCst) == LATE {
            token.away = token.away.saturating_sub(1);
        } else {
            token.busy = token.busy.saturating_sub(1);
        }
        drop(state);
        self.pool.changed.notify_one();
    }
}

impl Link {
    fn session(&self) -> Result<Session, Error> {
        if self.writable { self.pkcs11.open_rw_session(self.slot) } else { self.pkcs11.open_ro_session(self.slot) }
    }

    /// The handle of a key, looked up once, and compared with what other tokens have under its id.
    pub(super) fn key(&self, bench: &Bench<'_>, purpose: Use, id: KeyId) -> Result<ObjectHandle, Fault> {
        if let Some(handle) = self.keys.lock().get(&(purpose, id)) {
            return Ok(*handle);
        }
        let handle = match purpose {
            Use::Domain => bench.domain_key(id)?,
            Use::Sign => bench.private_key(id)?,
        };
        if let Some(pool) = self.pool.upgrade() {
            let known = pool.references.lock().get(&id).cloned();
            let agrees = match (&known, purpose) {
                (Some(Reference::Domain(body)), Use::Domain) => bench.opens(handle, body)?,
                (Some(Reference::Sign(public)), Use::Sign) => bench.signing_key(id)? == *public,
                (Some(_), _) => false,
                (None, _) => true,
            };
            if !agrees {
                tracing::error!(token = self.name, key = %id, "this token has another key under the id than the other tokens");
                return Err(HsmError::NoSuchKey(id).into());
            }
            if known.is_none() {
                let reference = match purpose {
                    Use::Domain => Reference::Domain(bench.reference(self.kdf(), handle)?),
                    Use::Sign => Reference::Sign(bench.signing_key(id)?),
                };
                pool.references.lock().entry(id).or_insert(reference);
            }
        }
        self.keys.lock().insert((purpose, id), handle);
        Ok(handle)
    }

    /// Whether a key was not there just now.
    fn lacks(&self, id: KeyId) -> bool {
        self.lacking.lock().get(&id).is_some_and(|since| since.elapsed() < LACKING)
    }

    /// Does work in a session for writing.
    pub(super) fn write<T>(&self, work: impl FnOnce(&Bench<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let session = self.pkcs11.open_rw_session(self.slot)?;
        work(&Bench::new(&session, &self.rules))
    }

    /// The derivation that probes try.
    pub(super) fn kdf(&self) -> Kdf {
        self.kdfs.first().copied().unwrap_or(Kdf::AesCbc)
    }

    fn forget(&self, id: KeyId) {
        self.keys.lock().retain(|(_, known), _| *known != id);
        self.lacking.lock().remove(&id);
    }

    /// Does work in a session; an error is looked into, in another session.
    fn work<T>(
        &self,
        session: Session,
        work: impl FnOnce(&Link, &Bench<'_>) -> Result<T, Fault>,
    ) -> (Option<Session>, Result<T, Outcome>) {
        let bench = Bench::new(&session, &self.rules);
        match work(self, &bench) {
            Ok(value) => {
                let spoilt = bench.is_spoilt();
                ((!spoilt).then_some(session), Ok(value))
            }
            Err(Fault::Known(error)) => {
                let spoilt = bench.is_spoilt();
                if let HsmError::NoSuchKey(id) = &error {
                    self.lacking.lock().insert(*id, Instant::now());
                }
                let outcome = match error {
                    // It has given what no token gives.
                    HsmError::Unavailable(_) => Outcome::Lost(error),
                    _ => Outcome::Answer(error),
                };
                ((!spoilt).then_some(session), Err(outcome))
            }
            Err(Fault::Token(error, meaning)) => {
                drop(session);
                (None, Err(self.judge(error, meaning)))
            }
        }
    }

    /// Whether an error is the token's or that of what was sent: tokens give one code for both, so the token is asked for what it must be able to do.
    fn judge(&self, error: Error, meaning: Meaning) -> Outcome {
        let lost = |error: Error| Outcome::Lost(HsmError::Unavailable(error.into()));
        if meaning == Meaning::Blob && is_of_blob(&error) {
            return Outcome::Answer(HsmError::WrongContext);
        }
        if is_lost(&error) {
            return lost(error);
        }
        let well = || -> Result<(), Fault> {
            let session = self.session()?;
            let bench = Bench::new(&session, &self.rules);
            bench.test_wrapping(self.kdf())
        };
        match (well(), meaning) {
            (Err(_), _) => lost(error),
            (Ok(()), Meaning::Blob) => Outcome::Answer(HsmError::WrongContext),
            (Ok(()), Meaning::RsaKey) => Outcome::Answer(HsmError::RsaKey),
            (Ok(()), Meaning::Nothing) => Outcome::Answer(HsmError::Unavailable(error.into())),
        }
    }
}

/// How a call on one token ended, other than well.
enum Outcome {
    /// The token is well and this is the answer.
    Answer(HsmError),
    /// The token is not well.
    Lost(HsmError),
}

impl Pool {
    /// Loads the modules. Reads PINs that have a file. Opens nothing.
    pub(super) fn new(settings: &HsmSettings) -> Result<Arc<Pool>, HsmError> {
        settings.check()?;
        let mut tokens = Vec::new();
        let mut states = Vec::new();
        for token in &settings.tokens {
            let uri = token.uri()?;
            // One for all tokens behind it: they are restarted together or not at all.
            let same = tokens.iter().find(|other: &&Token| other.settings.module == token.module);
            let module = match same {
                Some(other) => other.module.clone(),
                None => Arc::new(Module::open(&token.module)?),
            };
            let pin = token.pin.as_ref().map(read_pin).transpose()?.map(Arc::new);
            let limit = settings.sessions;
            states.push(TokenState { pin, limit, ..TokenState::default() });
            tokens.push(Token { name: uri.token_name(), settings: token.clone(), uri, module });
        }
        let rules = Rules {
            domain_key: settings.domain_key_label.clone(),
            signing_key: settings.signing_key_label.clone(),
            public_key: settings.public_key_label.clone(),
            temporary: settings.temporary_token_objects.then(|| format!("envelopefs-tmp/{}/", settings.node)),
        };
        let pool = Arc::new(Pool {
            tokens,
            state: Mutex::new(State { tokens: states, pin: None, refused: false, turn: 0, attempts: 0, closed: false }),
            changed: Condvar::new(),
            down: Condvar::new(),
            references: Mutex::new(HashMap::new()),
            login: Mutex::new(()),
            threads: Threads::default(),
            rules: Arc::new(rules),
            settings: settings.clone(),
        });
        let watched = Arc::downgrade(&pool);
        let started = std::thread::Builder::new().name("hsm-watch".into()).spawn(move || watch(&watched));
        started.map_err(|error| HsmError::Unavailable(error.into()))?;
        Ok(pool)
    }

    /// The PIN that holds for a token.
    fn pin_of(&self, token: usize) -> Option<Arc<Pin>> {
        let state = self.state.lock();
        state.tokens[token].pin.clone().or_else(|| state.pin.clone())
    }

    /// A token's own PIN.
    pub(super) fn own_pin(&self, token: usize) -> Option<Arc<Pin>> {
        self.state.lock().tokens[token].pin.clone()
    }

    pub(super) fn has_pin(&self) -> bool {
        let state = self.state.lock();
        state.pin.is_some() || state.tokens.iter().all(|token| token.pin.is_some())
    }

    /// Whether there are tokens that have refused the PIN which others took.
    pub(super) fn is_refused_somewhere(&self) -> bool {
        self.state.lock().tokens.iter().any(|token| token.health == Health::Refused && token.pin.is_none())
    }

    /// Tokens that a new PIN is for.
    pub(super) fn waiting(&self) -> Vec<usize> {
        let state = self.state.lock();
        let waits = |at: &usize| state.tokens[*at].pin.is_none() && state.tokens[*at].health != Health::Up;
        (0..self.tokens.len()).filter(waits).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    pub(super) fn sessions(&self) -> usize {
        self.settings.sessions * self.tokens.len()
    }

    /// One login at a time; notes a PIN that was taken or refused.
    pub(super) fn logging_in(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.login.lock()
    }

    pub(super) fn was_refused(&self) -> bool {
        self.state.lock().refused
    }

    /// Keeps a PIN that a token has taken.
    pub(super) fn keep_pin(&self, taken: Arc<Pin>) {
        let mut state = self.state.lock();
        state.refused = false;
        state.pin = Some(taken);
        // Those that waited for it are due.
        let now = Instant::now();
        for token in &mut state.tokens {
            if token.health == Health::Waiting && token.pin.is_none() {
                token.health = Health::Down { again: now, pause: FIRST_PAUSE };
            }
        }
        drop(state);
        self.changed.notify_all();
        self.down.notify_all();
    }

    /// Opens a token and waits for it. What came of it is noted.
    pub(super) fn open(self: &Arc<Self>, at: usize, pin: Option<Arc<Pin>>) -> (Login, Result<(), HsmError>) {
        let Some(attempt) = self.begin(&mut self.state.lock(), at) else {
            return (Login::Untried, Err(HsmError::Unavailable(NoResult::Late(self.settings.timeout).into())));
        };
        let pool = self.clone();
        let job = move || {
            let opened = pool.link(at, pin.as_deref());
            pool.note_opened(at, attempt, opened)
        };
        // A self-test is several calls.
        match self.threads.run(self.settings.timeout * 3, job) {
            Ok(outcome) => outcome,
            Err(no_result) => {
                let error = HsmError::Unavailable(no_result.into());
                self.take_out(at, &error);
                (Login::Untried, Err(error))
            }
        }
    }

    /// Numbers an attempt to open a token; `None` if too many hang.
    fn begin(&self, state: &mut State, at: usize) -> Option<u64> {
        state.attempts += 1;
        let attempt = state.attempts;
        let token = &mut state.tokens[at];
        if token.attempts >= MAX_ATTEMPTS {
            return None;
        }
        token.attempts += 1;
        token.opening = Some((attempt, Instant::now()));
        Some(attempt)
    }

    /// Puts a token that has been opened to work, or takes it out.
    fn note_opened(&self, at: usize, attempt: u64, opened: Result<Link, NotOpen>) -> (Login, Result<(), HsmError>) {
        let mut state = self.state.lock();
        let (closed, has_pin) = (state.closed, state.pin.is_some());
        if matches!(&opened, Err(NotOpen { login: Login::Refused, .. })) && state.tokens[at].pin.is_none() {
            state.refused = true;
        }
        let token = &mut state.tokens[at];
        token.attempts = token.attempts.saturating_sub(1);
        let latest = token.opening.is_some_and(|(latest, _)| latest == attempt);
        if latest {
            token.opening = None;
        }
        let mut gone = Gone::default();
        let mut late = None;
        let outcome = match opened {
            // Another attempt has been faster.
            Ok(link) if token.health == Health::Up || closed => {
                late = Some(link);
                (Login::Taken, Ok(()))
            }
            Ok(link) => {
                tracing::info!(
                    token = self.tokens[at].name,
                    kdf = link.kdf().word(),
                    oaep = link.oaep.word(),
                    "the token is in use"
                );
                token.kdfs = Some(link.kdfs.clone());
                token.limit = link.sessions;
                token.health = Health::Up;
                token.last_error = None;
                gone = token.give_up();
                token.link = Some(Arc::new(link));
                (Login::Taken, Ok(()))
            }
            Err(NotOpen { error, login }) => {
                if token.health != Health::Up || latest {
                    gone = token.give_up();
                    if matches!(error, HsmError::NoPin) && (token.pin.is_some() || has_pin) {
                        // It has come while this attempt was under way.
                        token.health = Health::Down { again: Instant::now(), pause: FIRST_PAUSE };
                    } else if matches!(error, HsmError::NoPin) {
                        token.health = Health::Waiting;
                    } else {
                        token.fail(&self.tokens[at].name, &error);
                    }
                }
                if matches!(login, Login::Refused | Login::Withheld) {
                    token.health = Health::Refused;
                    // A PIN that no token takes any more must not stand in the way of another.
                    if login == Login::Refused && state.tokens.iter().all(|token| token.health != Health::Up) {
                        state.pin = None;
                    }
                }
                (login, Err(error))
            }
        };
        drop(state);
        self.changed.notify_all();
        self.down.notify_all();
        // Sessions are closed by the module, so not under the lock.
        drop((gone, late));
        outcome
    }

    /// Finds a token, logs in and tests it.
    fn link(self: &Arc<Self>, at: usize, pin: Option<&Pin>) -> Result<Link, NotOpen> {
        let token = &self.tokens[at];
        let not = |error: HsmError| NotOpen { error, login: Login::Untried };
        let pkcs11 = token.module.pkcs11().clone();
        let mut lease = token.module.lease();
        let mut found = find_token(&pkcs11, token);
        if matches!(found, Err(HsmError::Unavailable(_))) {
            // It was away, and the module may keep on thinking so.
            drop(lease);
            let restarted = self.restart(at);
            lease = token.module.lease();
            if restarted {
                found = find_token(&pkcs11, token);
            }
        }
        let (slot, info) = found.map_err(not)?;
        let writable = self.rules.temporary.is_some();
        let failed = |error: Error| not(HsmError::Unavailable(error.into()));
        let anchor = if writable { pkcs11.open_rw_session(slot) } else { pkcs11.open_ro_session(slot) };
        let anchor = anchor.map_err(failed)?;
        let login = log_in(&token.name, &anchor, &info, pin)?;
        let mut link = Link {
            _anchor: Mutex::new(anchor),
            pkcs11,
            slot,
            writable,
            rules: self.rules.clone(),
            kdfs: Vec::new(),
            oaep: Oaep::Token,
            keys: Mutex::new(HashMap::new()),
            lacking: Mutex::new(HashMap::new()),
            // Two stay free: the one that keeps the login, and one to look into errors.
            sessions: match info.max_session_count() {
                Limit::Max(most) => usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(2),
                _ => usize::MAX,
            }
            .clamp(1, self.settings.sessions),
            name: token.name.clone(),
            pool: Arc::downgrade(self),
            _lease: lease,
            _module: token.module.clone(),
        };
        let first = self.state.lock().tokens[at].kdfs.is_none();
        let tested = selftest::run(&token.name, &self.settings, || link.session(), &self.rules, first);
        let found = tested.map_err(|error| NotOpen { error, login })?;
        (link.kdfs, link.oaep) = found;
        Ok(link)
    }

    /// Restarts a token's module unless another of its tokens is in use, a call is under way, or an attempt to open one: all of them hold leases.
    fn restart(&self, at: usize) -> bool {
        let module = &self.tokens[at].module;
        let mut state = self.state.lock();
        let mut tokens =
            state.tokens.iter_mut().zip(&self.tokens).filter(|(_, token)| Arc::ptr_eq(&token.module, module));
        let mut gone = Vec::new();
        let all_down = tokens.all(|(state, _)| {
            let down = state.health != Health::Up;
            if down {
                gone.push(state.give_up());
            }
            down
        });
        drop(state);
        drop(gone);
        all_down && module.restart()
    }

    fn take_out(&self, at: usize, error: &HsmError) {
        let mut state = self.state.lock();
        let token = &mut state.tokens[at];
        let gone = token.give_up();
        token.fail(&self.tokens[at].name, error);
        drop(state);
        self.changed.notify_all();
        self.down.notify_all();
        // Closing sessions may hang.
        let _ = self.threads.run(Duration::ZERO, move || drop(gone));
    }

    /// Takes a token out by whose `link` it failed; another call may have taken it out before, and it may be back.
    fn take_out_if(&self, at: usize, link: &Arc<Link>, error: &HsmError) {
        let current = self.state.lock().tokens[at].link.as_ref().is_some_and(|now| Arc::ptr_eq(now, link));
        if current {
            self.take_out(at, error);
        }
    }

    /// Closes all sessions, as far as they come back; nothing is opened any more.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let gone: Vec<_> = state.tokens.iter_mut().map(TokenState::give_up).collect();
        drop(state);
        self.down.notify_all();
        let _ = self.threads.run(FAREWELL, move || drop(gone));
    }

    /// Derivations in order of preference that every token which was ever open can do.
    fn kdf(state: &State, settings: &HsmSettings) -> Option<Kdf> {
        let all =
            |kdf: &Kdf| state.tokens.iter().filter_map(|token| token.kdfs.as_ref()).all(|kdfs| kdfs.contains(kdf));
        settings.kdf.or_else(|| Kdf::ALL.into_iter().find(all))
    }

    /// Runs a call on a token that works and has the keys; if it fails there, on another.
    ///
    /// # Errors
    /// [`HsmError`].
    pub(super) fn call<T: Send + 'static>(
        self: &Arc<Self>,
        keys: &[KeyId],
        work: impl Fn(&Link, &Bench<'_>, Kdf) -> Result<T, Fault> + Send + Sync + 'static,
    ) -> Result<T, HsmError> {
        let work = Arc::new(work);
        let deadline = Instant::now() + self.settings.timeout * 2;
        let mut failed = None;
        // One more than there are tokens: the only one may have been lost and found.
        for _ in 0..=self.tokens.len() {
            let (place, link, session, kdf) = match self.place(keys, deadline, failed.is_some()) {
                Ok(place) => place,
                Err(error) => return Err(failed.unwrap_or(error)),
            };
            let work = work.clone();
            let time = self.settings.timeout.min(deadline.saturating_duration_since(Instant::now()));
            match self.run(place, link, session, time, move |link, bench| work(link, bench, kdf)) {
                Ok(value) => return Ok(value),
                // Another token may have it; if none has, the search for a place says so.
                Err(Outcome::Answer(HsmError::NoSuchKey(_))) if self.tokens.len() > 1 => {}
                Err(Outcome::Answer(error)) => return Err(error),
                Err(Outcome::Lost(error)) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| HsmError::Unavailable("no token works".into())))
    }

    /// Runs a call once, on one token that works, in a session for writing.
    ///
    /// # Errors
    /// [`HsmError`].
    pub(super) fn write<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Bench<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, HsmError> {
        let (place, link, session, _) = self.place(&[], Instant::now() + self.settings.timeout, false)?;
        let job = move |link: &Link, _: &Bench<'_>| link.write(work);
        // An RSA or EC key takes its time in a smart card.
        self.run(place, link, session, self.settings.timeout * 3, job).map_err(|outcome| match outcome {
            Outcome::Answer(error) | Outcome::Lost(error) => error,
        })
    }

    /// Runs a call on one token, whether or not it is the least busy.
    ///
    /// # Errors
    /// [`HsmError`].
    pub(super) fn on<T: Send + 'static>(
        self: &Arc<Self>,
        at: usize,
        work: impl FnOnce(&Link, &Bench<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, HsmError> {
        let (place, link) = self.place_at(at)?;
        self.run(place, link, None, self.settings.timeout, work).map_err(|outcome| match outcome {
            Outcome::Answer(error) | Outcome::Lost(error) => error,
        })
    }

    /// Runs a probe on one token. A token that does not pass is taken out, unless what it lacks is its operator's to mend. One that
    /// is out already is left to the watch: its next time comes no later because somebody asks.
    ///
    /// # Errors
    /// [`HsmError`].
    pub(super) fn probe(
        self: &Arc<Self>,
        at: usize,
        work: impl FnOnce(&Link, &Bench<'_>) -> Result<(), Fault> + Send + 'static,
    ) -> Result<(), HsmError> {
        let (place, link) = self.place_at(at)?;
        self.run(place, link.clone(), None, self.settings.timeout, work).map_err(|outcome| match outcome {
            Outcome::Answer(error) if !matches!(error, HsmError::Setup { .. }) => {
                self.take_out_if(at, &link, &error);
                error
            }
            Outcome::Answer(error) | Outcome::Lost(error) => error,
        })
    }

    /// A place at this token, if it is up.
    fn place_at(self: &Arc<Self>, at: usize) -> Result<(Place, Arc<Link>), HsmError> {
        let mut state = self.state.lock();
        let token = &mut state.tokens[at];
        let Some(link) = token.link.clone().filter(|_| token.health == Health::Up) else {
            let why = token.last_error.clone().unwrap_or_else(|| "it is not open".into());
            let waiting = token.health == Health::Waiting;
            return Err(if waiting { HsmError::NoPin } else { HsmError::Unavailable(why.into()) });
        };
        token.busy += 1;
        Ok((self.new_place(at), link))
    }

    fn new_place(self: &Arc<Self>, token: usize) -> Place {
        Place { pool: self.clone(), token, at: Arc::default() }
    }

    /// Takes a place at the least busy token, and waits for one.
    fn place(
        self: &Arc<Self>,
        keys: &[KeyId],
        deadline: Instant,
        again: bool,
    ) -> Result<(Place, Arc<Link>, Option<Session>, Kdf), HsmError> {
        let grace = Instant::now() + GRACE;
        let mut state = self.state.lock();
        loop {
            let turn = state.turn;
            let count = self.tokens.len();
            let up = |token: &TokenState| {
                let link = token.link.as_ref().filter(|_| token.health == Health::Up && token.away < MAX_AWAY);
                link.is_some_and(|link| !keys.iter().any(|key| link.lacks(*key)))
            };
            let order = (0..count).map(|step| (turn + step) % count).filter(|at| up(&state.tokens[*at]));
            let best = order.min_by_key(|at| state.tokens[*at].busy);
            let mut links = state.tokens.iter().filter_map(|token| token.link.as_ref());
            let lacking = keys.iter().find(|key| links.clone().all(|link| link.lacks(**key)));
            if let (Some(key), None, Some(_)) = (lacking, best, links.next()) {
                return Err(HsmError::NoSuchKey(*key));
            }
            let Some(kdf) = Self::kdf(&state, &self.settings) else {
                return Err(HsmError::Setup {
                    fact: "the tokens have no derivation in common".into(),
                    remedy: "use tokens of one kind, and see their mechanisms with pkcs11-tool --list-mechanisms",
                    source: None,
                });
            };
            let until = match best {
                Some(at) if state.tokens[at].busy < state.tokens[at].limit => {
                    state.turn = (at + 1) % count;
                    let token = &mut state.tokens[at];
                    token.busy += 1;
                    let session = token.idle.pop();
                    let link = token.link.clone();
                    let place = self.new_place(at);
                    if let Some(link) = link {
                        return Ok((place, link, session, kdf));
                    }
                    drop(state);
                    return Err(HsmError::Unavailable("the token is not open".into()));
                }
                // All are busy.
                Some(_) => deadline,
                None if state.tokens.iter().all(|token| token.health == Health::Waiting) => {
                    return Err(HsmError::NoPin);
                }
                // It may be back in a moment: it was well just now.
                None if again || state.tokens.iter().any(TokenState::is_coming) => deadline.min(grace),
                None => return Err(HsmError::Unavailable(self.why(&state).into())),
            };
            if self.changed.wait_until(&mut state, until).timed_out() {
                let why = if best.is_some() { "every session is busy".into() } else { self.why(&state) };
                return Err(HsmError::Unavailable(why.into()));
            }
        }
    }

    /// Why no token works, for people.
    fn why(&self, state: &State) -> String {
        let reasons = self.tokens.iter().zip(&state.tokens).map(|(token, state)| {
            format!("{}: {}", token.name, state.last_error.as_deref().unwrap_or("no PIN has come yet"))
        });
        format!("no token works; {}", reasons.collect::<Vec<_>>().join("; "))
    }

    /// Runs a job at a place that was taken.
    fn run<T: Send + 'static>(
        self: &Arc<Self>,
        place: Place,
        link: Arc<Link>,
        session: Option<Session>,
        time: Duration,
        work: impl FnOnce(&Link, &Bench<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Outcome> {
        let (at, call) = (place.token, place.at.clone());
        let own = link.clone();
        let job = move || {
            let session = match session.map_or_else(|| own.session(), Ok) {
                Ok(session) => session,
                Err(error) => return Err(Outcome::Lost(HsmError::Unavailable(error.into()))),
            };
            let (session, outcome) = own.work(session, work);
            if let Some(session) = session {
                place.keep(&own, session);
            }
            drop(place);
            outcome
        };
        let outcome = self.threads.run(time, job).unwrap_or_else(|no_result| {
            if let NoResult::Late(_) = no_result {
                let mut state = self.state.lock();
                // Unless it has just come back.
                if call.load(Ordering::SeqCst) == UNDER_WAY {
                    call.store(LATE, Ordering::SeqCst);
                    let token = &mut state.tokens[at];
                    token.busy = token.busy.saturating_sub(1);
                    token.away += 1;
                }
            }
            Err(Outcome::Lost(HsmError::Unavailable(no_result.into())))
        });
        if let Err(Outcome::Lost(error)) = &outcome {
            self.take_out_if(at, &link, error);
        }
        outcome
    }

    /// Forgets the handles of a key everywhere.
    pub(super) fn forget(&self, id: KeyId) {
        self.references.lock().remove(&id);
        let links: Vec<_> = self.state.lock().tokens.iter().filter_map(|token| token.link.clone()).collect();
        links.iter().for_each(|link| link.forget(id));
    }

    pub(super) fn status(&self) -> Vec<TokenStatus> {
        let state = self.state.lock();
        let tokens = self.tokens.iter().zip(&state.tokens);
        let kdf = Self::kdf(&state, &self.settings);
        let status = |(token, state): (&Token, &TokenState)| TokenStatus {
            name: token.name.clone(),
            module: token.settings.module.clone(),
            healthy: state.health == Health::Up,
            kdf: state.link.as_ref().and(kdf),
            oaep: state.link.as_ref().map(|link| link.oaep),
            busy: state.busy,
            stuck: state.away,
            last_error: state.last_error.clone(),
        };
        tokens.map(status).collect()
    }
}

impl Place {
    /// Puts a session back for the next call, if its token is still the same.
    fn keep(&self, link: &Arc<Link>, session: Session) {
        let mut state = self.pool.state.lock();
        let token = &mut state.tokens[self.token];
        let same = token.link.as_ref().is_some_and(|now| Arc::ptr_eq(now, link));
        if same && token.idle.len() < token.limit {
            token.idle.push(session);
            return;
        }
        drop(state);
        drop(session);
    }
}

impl TokenState {
    /// Takes its link and what belongs to it.
    fn give_up(&mut self) -> Gone {
        Gone { _idle: std::mem::take(&mut self.idle), _link: self.link.take() }
    }

    /// Whether it is about to be opened, or is being opened.
    fn is_coming(&self) -> bool {
        match self.health {
            Health::Down { again, .. } => self.opening.is_some() || again <= Instant::now() + FIRST_PAUSE,
            _ => false,
        }
    }

    fn fail(&mut self, name: &str, error: &HsmError) {
        let text = super::told(error);
        if self.last_error.as_ref() != Some(&text) {
            tracing::warn!(token = name, error = text, "the token is taken out");
        }
        let (again, pause) = match self.health {
            // At once: the connection may have been cut, no more.
            Health::Up | Health::Waiting | Health::Refused => (Instant::now(), FIRST_PAUSE),
            Health::Down { pause, .. } => (Instant::now() + pause, (pause * 2).min(MAX_PAUSE)),
        };
        self.health = Health::Down { again, pause };
        self.last_error = Some(text);
    }
}

/// Opens tokens that are down when their time has come, as long as there is a pool.
fn watch(pool: &Weak<Pool>) {
    while let Some(pool) = pool.upgrade() {
        let now = Instant::now();
        // Not for ever, so that the end of the pool is seen.
        let mut next = now + Duration::from_millis(500);
        // An attempt that hangs is given up after this, and followed by another.
        let patience = pool.settings.timeout * 6;
        let mut due = Vec::new();
        let mut state = pool.state.lock();
        if state.closed {
            return;
        }
        for at in 0..state.tokens.len() {
            let token = &state.tokens[at];
            let Health::Down { again, .. } = token.health else { continue };
            if token.opening.is_some_and(|(_, since)| now.duration_since(since) < patience) {
                continue;
            }
            if again > now {
                next = next.min(again);
            } else if let Some(attempt) = pool.begin(&mut state, at) {
                due.push((at, attempt));
            }
        }
        if due.is_empty() {
            pool.down.wait_until(&mut state, next);
            continue;
        }
        drop(state);
        for (at, attempt) in due {
            let opener = pool.clone();
            let _ = pool.threads.run(Duration::ZERO, move || {
                let pin = opener.pin_of(at);
                let opened = opener.link(at, pin.as_deref());
                let _ = opener.note_opened(at, attempt, opened);
            });
        }
    }
}

/// The one token that has all attributes which are named.
fn find_token(pkcs11: &Pkcs11, token: &Token) -> Result<(Slot, TokenInfo), HsmError> {
    let slots = pkcs11.get_slots_with_token().map_err(|error| HsmError::Unavailable(error.into()))?;
    let (mut fitting, mut others) = (Vec::new(), Vec::new());
    for slot in slots {
        let Ok(info) = pkcs11.get_token_info(slot) else { continue };
        match token.uri.fits(slot, &info) && info.token_initialized() {
            true => fitting.push((slot, info)),
            false if info.token_initialized() => others.push(format!("{:?}", info.label())),
            false => {}
        }
    }
    let present = if others.is_empty() { "none".into() } else { others.join(", ") };
    match (fitting.pop(), fitting.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(HsmError::Unavailable(format!("there is no such token; present: {present}").into())),
        (Some(_), false) => Err(HsmError::Setup {
            fact: format!("several tokens fit {}", token.name),
            remedy: "name one of them by serial=…, as `pkcs11-tool --list-token-slots` shows it",
            source: None,
        }),
    }
}

/// Logs the process in unless it is, with one attempt.
fn log_in(name: &str, session: &Session, info: &TokenInfo, pin: Option<&Pin>) -> Result<Login, NotOpen> {
    let not = |login, error| Err(NotOpen { error, login });
    let refused = |fact: String, remedy| HsmError::Setup { fact, remedy, source: None };
    let state = session.get_session_info().map(|info| info.session_state());
    if !info.login_required() {
        return Ok(Login::Untried);
    }
    let Some(pin) = pin else { return not(Login::Untried, HsmError::NoPin) };
    if matches!(state, Ok(SessionState::RoUser | SessionState::RwUser)) {
        return Ok(Login::Untried);
    }
    const UNLOCK: &str = "have its security officer unlock it, with the vendor's tool";
    if info.user_pin_locked() {
        return not(Login::Withheld, refused(format!("the PIN of {name} is locked (CKF_USER_PIN_LOCKED)"), UNLOCK));
    }
    if info.user_pin_final_try() {
        let fact = format!("one wrong PIN more would lock {name} (CKF_USER_PIN_FINAL_TRY), so none is sent");
        return not(Login::Withheld, refused(fact, "log in once with the vendor's tool, which ends this state"));
    }
    // The library takes a box of its own, and wipes it.
    let entered = session.login_with_raw(UserType::User, &RawAuthPin::new(Box::new(pin.expose().to_vec())));
    use RvError as E;
    match entered {
        Ok(()) | Err(Error::Pkcs11(E::UserAlreadyLoggedIn, _)) => Ok(Login::Taken),
        Err(Error::Pkcs11(
            code @ (E::PinIncorrect
            | E::PinInvalid
            | E::PinLenRange
            | E::PinLocked
            | E::PinExpired
            | E::UserPinNotInitialized),
            _,
        )) => {
            let remedy =
                "hand in the right PIN; a wrong one is not sent again by itself, since it would lock the token";
            not(Login::Refused, refused(format!("{name} refuses the PIN ({code:?})"), remedy))
        }
        Err(error) => not(Login::Untried, HsmError::Unavailable(error.into())),
    }
}
