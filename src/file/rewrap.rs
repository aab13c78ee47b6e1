//! Rotation: the same DEK under the active master key, in the place of the header that is not needed.
//!
//! Nothing else of a file changes, neither its contents nor its id nor its root record, which is not bound to the places. A place is 76
//! bytes in the first sector of the backing file and written in one call, so it is there or it is not; torn all the same, it
//! fails authentication and the other place serves (format, section 3).

use std::io::{IoSlice, IoSliceMut};

use super::header::{self, Header, PLACES};
use super::layout::HEADER_LEN;
use super::{Damage, File, FileError, State, is_zero};
use crate::crypto::secret::Secret;
use crate::keys::{FileId, KeyId, KeyRing, WrappedDek};
use crate::store::{BackingFile, SetTime, Stat};

/// What was found in a header, or done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// An empty file: it has no header and needs no key.
    None,
    /// The DEK unwraps with this master key: the active one if it does with that.
    Under(KeyId),
    /// It was wrapped under another one only, and now is under the active one as well.
    Rewrapped(KeyId),
}

/// The place that serves: of those whose tag verifies, the one under the newest master key; and the DEK that it wraps.
fn serving(
    places: &[Option<WrappedDek>; PLACES],
    file: &FileId,
    ring: &KeyRing,
) -> Result<(usize, KeyId, Secret<32>), FileError> {
    let ranked = places.iter().enumerate().filter_map(|(at, place)| {
        let place = place.as_ref()?;
        Some((ring.rank(place.key_id)?, at, place))
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_unstable_by_key(|(rank, at, _)| (*rank, *at));
    let known = !ranked.is_empty();
    let mut served =
        ranked.into_iter().filter_map(|(_, at, place)| Some((at, place.key_id, ring.unwrap_dek(file, place).ok()?)));
    served.next().ok_or_else(|| match known {
        true => Damage::Header("the wrapped DEK fails authentication").into(),
        false => FileError::NoKey,
    })
}

/// Sees to it that a file's header has the DEK under the active master key. For a backing file that nobody has open as a [`File`], and
/// nobody will open meanwhile, whose attributes are `stat`; `write` false changes nothing. Its mtime stays, its ctime does not.
///
/// # Errors
/// [`FileError::NoKey`] if no master key in the ring unwraps it, [`FileError::Damaged`] for what is no header.
pub fn rewrap(raw: &dyn BackingFile, stat: &Stat, ring: &KeyRing, write: bool) -> Result<Wrapping, FileError> {
    let mut bytes = [0; HEADER_LEN];
    let got = raw.read_vectored_at(&mut [IoSliceMut::new(&mut bytes)], 0)?;
    let bytes = bytes.get(..got).unwrap_or_default();
    if bytes.is_empty() || (got == HEADER_LEN && is_zero(bytes)) {
        return Ok(Wrapping::None);
    }
    let header = Header::parse(bytes)?;
    let (at, under, dek) = serving(&header.places, &header.file_id, ring)?;
    if !write || under == ring.active() {
        return Ok(Wrapping::Under(under));
    }
    let wrapped = header::encode_place(Some(&ring.wrap_dek(&header.file_id, &dek)));
    raw.write_all_vectored_at(&mut [IoSlice::new(&wrapped)], header::place_offset(other(at)))?;
    // A daemon that may write to a file it does not own cannot; then it was written to now, which is true.
    let _ = raw.set_times(SetTime::Keep, SetTime::To(stat.mtime));
    Ok(Wrapping::Rewrapped(under))
}

/// The place that a new wrapping takes: not the one that serves.
fn other(at: usize) -> usize {
    (at + 1) % PLACES
}

impl File {
    /// As [`rewrap`](rewrap()), for a file that is open.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn rewrap(&self, write: bool) -> Result<Wrapping, FileError> {
        let mut state = self.writing();
        if state.committed == 0 {
            // Whenever its header is made, it is made with the active master key.
            return Ok(Wrapping::None);
        }
        let id = self.keys().id();
        let (_, under, _) = serving(&state.places, &id, &self.ring)?;
        if !write || under == self.ring.active() {
            return Ok(Wrapping::Under(under));
        }
        state.keep_mtime(&self.blocks)?;
        state.dirty = true;
        self.commit_locked(&mut state)?;
        Ok(Wrapping::Rewrapped(under))
    }

    /// The places for a header about to be written, and the master key that serves: as they are, or with a wrapping under the active one if
    /// there is none, because it was taken over meanwhile.
    pub(super) fn with_active_place(&self, state: &State) -> ([Option<WrappedDek>; PLACES], KeyId) {
        let (mut places, active, id) = (state.places, self.ring.active(), self.keys().id());
        if state.under == Some(active) {
            return (places, active);
        }
        let serves = serving(&places, &id, &self.ring).ok();
        if serves.as_ref().is_none_or(|(_, under, _)| *under != active)
            && let Some(place) = places.get_mut(serves.map_or(0, |(at, ..)| other(at)))
        {
            *place = Some(self.ring.wrap_dek(&id, self.keys().dek()));
        }
        (places, active)
    }
}
