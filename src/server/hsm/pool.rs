//! The tokens: which of them work, their sessions, and who waits for one.
//!
//! One mutex guards the bookkeeping (a few counters for each token). It is never held over a call of a module, so nothing waits for a token
//! but the calls that it serves. A call takes one of a token's places, runs on a thread of its own with a session that is logged in, and
//! gives both back. If it does not come back in time, it keeps its session, and its place is given to others; so many may be away
//! ([`MAX_AWAY`]), then the token is left alone until one returns.
//!
//! A token that fails is taken out; it is opened anew at once, then after a pause that doubles up to [`MAX_PAUSE`], each time with the
//! self-test. It is logged in with the PIN that a token has taken before, and never with one that was refused.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use parking_lot::{Condvar, Mutex};

use super::profile::{Kdf, Oaep};
use super::settings::{HsmSettings, Pin, TokenSettings, read_pin};
use super::threads::{NoResult, Threads};
use super::work::{Bench, Fault, Meaning, Rules, is_lost, is_of_blob};
use super::{HsmError, KeyId, TokenStatus, selftest};
use crate::keys::pkcs11::module::Module;
use crate::keys::pkcs11::uri::Uri;

/// Calls of one token that may be away without an answer.
const MAX_AWAY: usize = 32;
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
    /// A place is free, a token is up or down.
    changed: Condvar,
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
}

#[derive(Default)]
struct TokenState {
    health: Health,
    link: Option<Arc<Link>>,
    /// Sessions of `link` that nobody uses.
    idle: Vec<Session>,
    busy: usize,
    away: usize,
    /// An attempt to open it is under way, since then.
    opening: Option<Instant>,
    last_error: Option<String>,
    /// What it could do when it was last open.
    kdfs: Option<Vec<Kdf>>,
    /// This token's own PIN, from its file.
    pin: Option<Arc<Pin>>,
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

/// A call's place at a token; given back when it is dropped, on whatever thread.
struct Place {
    pool: Arc<Pool>,
    token: usize,
    /// The caller has gone, and the place has been given back.
    late: Arc<std::sync::atomic::AtomicBool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock();
        let token = &mut state.tokens[self.token];
        if self.late.load(std::sync::atomic::Ordering::SeqCst) {
            token.away = token.away.saturating_sub(1);
        } else {
            token.busy = token.busy.saturating_sub(1);
        }
        drop(state);
        self.pool.changed.notify_all();
    }
}

impl Link {
    fn session(&self) -> Result<Session, Error> {
        if self.writable { self.pkcs11.open_rw_session(self.slot) } else { self.pkcs11.open_ro_session(self.slot) }
    }

    /// The handle of a key, looked up once.
    pub(super) fn key(&self, bench: &Bench<'_>, purpose: Use, id: KeyId) -> Result<ObjectHandle, Fault> {
        if let Some(handle) = self.keys.lock().get(&(purpose, id)) {
            return Ok(*handle);
        }
        let handle = match purpose {
            Use::Domain => bench.domain_key(id)?,
            Use::Sign => bench.private_key(id)?,
        };
        self.keys.lock().insert((purpose, id), handle);
        Ok(handle)
    }

    /// The derivation that probes try.
    pub(super) fn kdf(&self) -> Kdf {
        self.kdfs.first().copied().unwrap_or(Kdf::AesCbc)
    }

    fn forget(&self, id: KeyId) {
        self.keys.lock().retain(|(_, known), _| *known != id);
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
                ((!spoilt).then_some(session), Err(Outcome::Answer(error)))
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
            states.push(TokenState { pin, ..TokenState::default() });
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
            state: Mutex::new(State { tokens: states, pin: None, refused: false, turn: 0 }),
            changed: Condvar::new(),
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

    /// Tokens that have a PIN of their own.
    pub(super) fn has_own_pin(&self, token: usize) -> bool {
        self.state.lock().tokens[token].pin.is_some()
    }

    pub(super) fn has_pin(&self) -> bool {
        let state = self.state.lock();
        state.pin.is_some() || state.tokens.iter().all(|token| token.pin.is_some())
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

    pub(super) fn note_pin(&self, taken: Option<Arc<Pin>>) {
        let mut state = self.state.lock();
        state.refused = taken.is_none();
        if taken.is_some() {
            state.pin = taken;
            // Those that waited for it or refused another are due.
            let now = Instant::now();
            for token in &mut state.tokens {
                if matches!(token.health, Health::Waiting | Health::Refused) && token.pin.is_none() {
                    token.health = Health::Down { again: now, pause: FIRST_PAUSE };
                }
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Opens a token and waits for it. What came of it is noted.
    pub(super) fn open(self: &Arc<Self>, token: usize, pin: Option<Arc<Pin>>) -> (Login, Result<(), HsmError>) {
        let pool = self.clone();
        self.state.lock().tokens[token].opening = Some(Instant::now());
        let job = move || {
            let opened = pool.link(token, pin.as_deref());
            pool.note_opened(token, opened)
        };
        // A self-test is several calls.
        match self.threads.run(self.settings.timeout * 3, job) {
            Ok(outcome) => outcome,
            Err(no_result) => {
                let error = HsmError::Unavailable(no_result.into());
                self.take_out(token, &error);
                (Login::Untried, Err(error))
            }
        }
    }

    /// Puts a token that has been opened to work, or takes it out.
    fn note_opened(&self, at: usize, opened: Result<Link, NotOpen>) -> (Login, Result<(), HsmError>) {
        let mut state = self.state.lock();
        let token = &mut state.tokens[at];
        token.opening = None;
        let (gone, outcome) = match opened {
            Ok(link) => {
                tracing::info!(
                    token = self.tokens[at].name,
                    kdf = link.kdfs.first().map_or("", |kdf| kdf.word()),
                    oaep = link.oaep.word(),
                    "the token is in use"
                );
                token.kdfs = Some(link.kdfs.clone());
                token.health = Health::Up;
                token.last_error = None;
                let gone = (token.link.replace(Arc::new(link)), std::mem::take(&mut token.idle));
                (gone, (Login::Taken, Ok(())))
            }
            Err(NotOpen { error, login }) => {
                let gone = (token.link.take(), std::mem::take(&mut token.idle));
                if matches!(error, HsmError::NoPin) {
                    token.health = Health::Waiting;
                } else {
                    token.fail(&self.tokens[at].name, &error);
                    if matches!(login, Login::Refused | Login::Withheld) {
                        token.health = Health::Refused;
                    }
                }
                (gone, (login, Err(error)))
            }
        };
        drop(state);
        self.changed.notify_all();
        // Sessions are closed by the module, so not under the lock.
        drop(gone);
        outcome
    }

    /// Finds a token, logs in and tests it.
    fn link(&self, at: usize, pin: Option<&Pin>) -> Result<Link, NotOpen> {
        let token = &self.tokens[at];
        let not = |error: HsmError| NotOpen { error, login: Login::Untried };
        let pkcs11 = token.module.pkcs11().clone();
        let (slot, info) = match find_token(&pkcs11, token) {
            Err(HsmError::Unavailable(_)) if self.may_restart(at) => {
                // It was away, and the module may keep on thinking so.
                token.module.restart();
                find_token(&pkcs11, token).map_err(not)?
            }
            found => found.map_err(not)?,
        };
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
            _module: token.module.clone(),
        };
        let first = self.state.lock().tokens[at].kdfs.is_none();
        let tested = selftest::run(&token.name, &self.settings, || link.session(), &self.rules, first);
        let found = tested.map_err(|error| NotOpen { error, login })?;
        (link.kdfs, link.oaep) = found;
        Ok(link)
    }

    /// Whether a module may be finalised: nobody has a session with any of its tokens.
    fn may_restart(&self, at: usize) -> bool {
        let mut state = self.state.lock();
        let same =
            |(other, _): &(usize, &mut TokenState)| Arc::ptr_eq(&self.tokens[*other].module, &self.tokens[at].module);
        let mut gone = Vec::new();
        let free = state.tokens.iter_mut().enumerate().filter(same).all(|(other, token)| {
            if token.health != Health::Up {
                gone.push((token.link.take(), std::mem::take(&mut token.idle)));
            }
            let quiet = token.busy == 0 && token.away == 0 && (other == at || token.opening.is_none());
            token.health != Health::Up && quiet
        });
        drop(state);
        drop(gone);
        free
    }

    fn take_out(&self, at: usize, error: &HsmError) {
        let mut state = self.state.lock();
        let token = &mut state.tokens[at];
        let gone = (token.link.take(), std::mem::take(&mut token.idle));
        token.fail(&self.tokens[at].name, error);
        drop(state);
        self.changed.notify_all();
        self.bury(gone);
    }

    /// Closes sessions, which may hang.
    fn bury(&self, gone: (Option<Arc<Link>>, Vec<Session>)) {
        let _ = self.threads.run(Duration::ZERO, move || drop(gone));
    }

    /// Derivations in order of preference that every token which was ever open can do.
    fn kdf(state: &State, settings: &HsmSettings) -> Option<Kdf> {
        let all =
            |kdf: &Kdf| state.tokens.iter().filter_map(|token| token.kdfs.as_ref()).all(|kdfs| kdfs.contains(kdf));
        settings.kdf.or_else(|| Kdf::ALL.into_iter().find(all))
    }

    /// Runs a call on a token that works; if it fails there, on another.
    ///
    /// # Errors
    /// [`HsmError`].
    pub(super) fn call<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Fn(&Link, &Bench<'_>, Kdf) -> Result<T, Fault> + Send + Sync + 'static,
    ) -> Result<T, HsmError> {
        let work = Arc::new(work);
        let deadline = Instant::now() + self.settings.timeout * 2;
        let mut failed = None;
        // One more than there are tokens: the only one may have been lost and found.
        for _ in 0..=self.tokens.len() {
            let (place, link, session, kdf) = match self.place(deadline, failed.is_some()) {
                Ok(place) => place,
                Err(error) => return Err(failed.unwrap_or(error)),
            };
            let work = work.clone();
            match self.run(place, link, session, move |link, bench| work(link, bench, kdf)) {
                Ok(value) => return Ok(value),
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
        let (place, link, _, _) = self.place(Instant::now() + self.settings.timeout, false)?;
        let job = move |link: &Link, _: &Bench<'_>| {
            let session = link.pkcs11.open_rw_session(link.slot)?;
            work(&Bench::new(&session, &link.rules))
        };
        self.run(place, link, None, job).map_err(|outcome| match outcome {
            Outcome::Answer(error) | Outcome::Lost(error) => error,
        })
    }

    /// Runs a call on one token, whether or not it is the least busy; for probes.
    pub(super) fn on<T: Send + 'static>(
        self: &Arc<Self>,
        at: usize,
        work: impl FnOnce(&Link, &Bench<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, HsmError> {
        let (place, link) = {
            let mut state = self.state.lock();
            let token = &mut state.tokens[at];
            let Some(link) = token.link.clone().filter(|_| token.health == Health::Up) else {
                let why = token.last_error.clone().unwrap_or_else(|| "it is not open".into());
                let waiting = token.health == Health::Waiting;
                return Err(if waiting { HsmError::NoPin } else { HsmError::Unavailable(why.into()) });
            };
            token.busy += 1;
            (self.new_place(at), link)
        };
        self.run(place, link, None, work).map_err(|outcome| match outcome {
            Outcome::Answer(error) | Outcome::Lost(error) => error,
        })
    }

    fn new_place(self: &Arc<Self>, token: usize) -> Place {
        Place { pool: self.clone(), token, late: Arc::default() }
    }

    /// Takes a place at the least busy token, and waits for one.
    fn place(
        self: &Arc<Self>,
        deadline: Instant,
        again: bool,
    ) -> Result<(Place, Arc<Link>, Option<Session>, Kdf), HsmError> {
        let grace = Instant::now() + GRACE;
        let mut state = self.state.lock();
        loop {
            let turn = state.turn;
            let count = self.tokens.len();
            let up = |token: &TokenState| token.health == Health::Up && token.link.is_some() && token.away < MAX_AWAY;
            let order = (0..count).map(|step| (turn + step) % count).filter(|at| up(&state.tokens[*at]));
            let best = order.min_by_key(|at| state.tokens[*at].busy);
            let Some(kdf) = Self::kdf(&state, &self.settings) else {
                return Err(HsmError::Setup {
                    fact: "the tokens have no derivation in common".into(),
                    remedy: "use tokens of one kind, and see their mechanisms with pkcs11-tool --list-mechanisms",
                    source: None,
                });
            };
            let until = match best {
                Some(at) if state.tokens[at].busy < self.settings.sessions => {
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
        work: impl FnOnce(&Link, &Bench<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Outcome> {
        let (at, late) = (place.token, place.late.clone());
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
        let outcome = self.threads.run(self.settings.timeout, job).unwrap_or_else(|no_result| {
            if let NoResult::Late(_) = no_result {
                let mut state = self.state.lock();
                // Unless it has just come back: then the place has been given back.
                if Arc::strong_count(&late) > 1 && !late.swap(true, std::sync::atomic::Ordering::SeqCst) {
                    let token = &mut state.tokens[at];
                    token.busy = token.busy.saturating_sub(1);
                    token.away += 1;
                }
            }
            Err(Outcome::Lost(HsmError::Unavailable(no_result.into())))
        });
        if let Err(Outcome::Lost(error)) = &outcome {
            let current = self.state.lock().tokens[at].link.as_ref().is_some_and(|now| Arc::ptr_eq(now, &link));
            // Another call may have taken it out, and it may be back.
            if current {
                self.take_out(at, error);
            }
        }
        outcome
    }

    /// Forgets the handles of a key everywhere.
    pub(super) fn forget(&self, id: KeyId) {
        let links: Vec<_> = self.state.lock().tokens.iter().filter_map(|token| token.link.clone()).collect();
        links.iter().for_each(|link| link.forget(id));
    }

    /// Takes a token out that has failed a probe.
    pub(super) fn fail(&self, at: usize, error: &HsmError) {
        self.take_out(at, error);
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
        let limit = self.pool.settings.sessions;
        let token = &mut state.tokens[self.token];
        let same = token.link.as_ref().is_some_and(|now| Arc::ptr_eq(now, link));
        if same && token.idle.len() < limit {
            token.idle.push(session);
            return;
        }
        drop(state);
        drop(session);
    }
}

impl TokenState {
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
        let mut next = now + Duration::from_millis(500);
        let mut state = pool.state.lock();
        let stuck = pool.settings.timeout * 6;
        for at in 0..state.tokens.len() {
            let token = &mut state.tokens[at];
            let Health::Down { again, .. } = token.health else { continue };
            // An attempt that hangs is followed by another, much later.
            if token.opening.is_some_and(|since| now.duration_since(since) < stuck) {
                continue;
            }
            if again > now {
                next = next.min(again);
                continue;
            }
            token.opening = Some(now);
            let opener = pool.clone();
            drop(state);
            let _ = pool.threads.run(Duration::ZERO, move || {
                let pin = opener.pin_of(at);
                let opened = opener.link(at, pin.as_deref());
                let _ = opener.note_opened(at, opened);
            });
            state = pool.state.lock();
        }
        pool.changed.wait_until(&mut state, next);
        drop(state);
        drop(pool);
        // Changes are many under load.
        std::thread::sleep(Duration::from_millis(20));
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
