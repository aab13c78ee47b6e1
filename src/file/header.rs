//! Block 0 of a backing file as a value: the fixed fields, the two wrapped-DEK places and the sealed root record.
//!
//! Parsing is total and exact: any bytes give a header or a [`Damage`], and what parses encodes to the same bytes.
//! Nothing here opens or seals; what [`Header`] says is authentic only once the root record opened under its
//! [associated data](Header::associated_data).

use uuid::Uuid;

use super::Damage;
use super::layout::{self, HEADER_LEN, INLINE_MAX};
use super::tree::{ENTRY_LEN, Entry};
use crate::crypto::aead::WrappedSecret;
use crate::crypto::{Nonce, Tag};
use crate::keys::{FileId, KeyId, WrappedDek};

const MAGIC: [u8; 8] = *b"ENVFS\0\r\n";
/// The version of the format, in the header and in every associated datum.
pub(super) const VERSION: u16 = 1;

// Offsets in the header, each from the one before.
const VERSION_AT: usize = MAGIC.len();
const FLAGS_AT: usize = VERSION_AT + 2;
const EPOCH_AT: usize = FLAGS_AT + 2;
const FILE_ID_AT: usize = EPOCH_AT + 4;
const PLACES_AT: usize = FILE_ID_AT + 16;
const PLACE_LEN: usize = 16 + 12 + 32 + 16;
const ROOT_NONCE_AT: usize = PLACES_AT + PLACES * PLACE_LEN;
const ROOT_TAG_AT: usize = ROOT_NONCE_AT + 12;
const ROOT_AT: usize = ROOT_TAG_AT + 16;
const _: () = assert!(ROOT_AT + ROOT_LEN == HEADER_LEN);

/// Wrapped-DEK places in a header.
pub(super) const PLACES: usize = 2;
/// Bytes of a root record.
pub(super) const ROOT_LEN: usize = 72;

/// The header without the inline contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Epoch of the key the root record is sealed with.
    pub(super) epoch: u32,
    pub(super) file_id: FileId,
    /// The DEK under up to two master keys; `None` is an unused place.
    pub(super) places: [Option<WrappedDek>; PLACES],
    pub(super) root_nonce: Nonce,
    pub(super) root_tag: Tag,
    /// The encrypted root record.
    pub(super) root: [u8; ROOT_LEN],
}

/// `N` bytes at `at`, or `None` behind the end.
fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

impl Header {
    /// Reads the first [`HEADER_LEN`] bytes of a backing file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Header, Damage> {
        const SHORT: Damage = Damage::Header("shorter than a header");
        if array(bytes, 0).ok_or(SHORT)? != MAGIC {
            return Err(Damage::Header("not an envelopefs file (wrong magic)"));
        }
        if u16::from_le_bytes(array(bytes, VERSION_AT).ok_or(SHORT)?) != VERSION {
            return Err(Damage::Header("unknown format version"));
        }
        if array(bytes, FLAGS_AT).ok_or(SHORT)? != [0u8; 2] {
            return Err(Damage::Header("unknown feature flag"));
        }
        let place = |n: usize| array(bytes, PLACES_AT + n * PLACE_LEN).map(parse_place).ok_or(SHORT);
        Ok(Header {
            epoch: u32::from_le_bytes(array(bytes, EPOCH_AT).ok_or(SHORT)?),
            file_id: FileId(array(bytes, FILE_ID_AT).ok_or(SHORT)?),
            places: [place(0)?, place(1)?],
            root_nonce: array(bytes, ROOT_NONCE_AT).ok_or(SHORT)?,
            root_tag: array(bytes, ROOT_TAG_AT).ok_or(SHORT)?,
            root: array(bytes, ROOT_AT).ok_or(SHORT)?,
        })
    }

    /// The bytes [`parse`](Self::parse) reads.
    pub(super) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let (fixed, rest) = bytes.split_at_mut(PLACES_AT);
        fixed.copy_from_slice(&self.fixed());
        let (places, root) = rest.split_at_mut(PLACES * PLACE_LEN);
        for (place, out) in self.places.iter().zip(places.as_chunks_mut::<PLACE_LEN>().0) {
            *out = encode_place(place.as_ref());
        }
        root[..12].copy_from_slice(&self.root_nonce);
        root[12..28].copy_from_slice(&self.root_tag);
        root[28..].copy_from_slice(&self.root);
        bytes
    }

    /// Bytes 0..32: magic to file id.
    fn fixed(&self) -> [u8; PLACES_AT] {
        let mut bytes = [0; PLACES_AT];
        bytes[..VERSION_AT].copy_from_slice(&MAGIC);
        bytes[VERSION_AT..FLAGS_AT].copy_from_slice(&VERSION.to_le_bytes());
        bytes[EPOCH_AT..FILE_ID_AT].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[FILE_ID_AT..].copy_from_slice(&self.file_id.0);
        bytes
    }

    /// Associated data of the root record: the fixed fields and the volume, so that a header cannot move to another one.
    pub(super) fn associated_data(&self, volume: Uuid) -> [u8; PLACES_AT + 16] {
        let mut data = [0; PLACES_AT + 16];
        data[..PLACES_AT].copy_from_slice(&self.fixed());
        data[PLACES_AT..].copy_from_slice(volume.as_bytes());
        data
    }
}

fn parse_place(bytes: [u8; PLACE_LEN]) -> Option<WrappedDek> {
    let used = bytes != [0; PLACE_LEN];
    let [id, nonce, sealed, tag] = [0, 16, 28, 60].map(|at| bytes.get(at..).unwrap_or_default());
    let wrapped =
        WrappedSecret { nonce: *nonce.first_chunk()?, sealed: *sealed.first_chunk()?, tag: *tag.first_chunk()? };
    used.then_some(WrappedDek { key_id: KeyId(*id.first_chunk()?), wrapped })
}

/// Where a wrapped-DEK place begins in a backing file.
pub(super) fn place_offset(place: usize) -> u64 {
    (PLACES_AT + place * PLACE_LEN) as u64
}

pub(super) fn encode_place(place: Option<&WrappedDek>) -> [u8; PLACE_LEN] {
    let mut bytes = [0; PLACE_LEN];
    if let Some(WrappedDek { key_id, wrapped }) = place {
        bytes[..16].copy_from_slice(&key_id.0);
        bytes[16..28].copy_from_slice(&wrapped.nonce);
        bytes[28..60].copy_from_slice(&wrapped.sealed);
        bytes[60..].copy_from_slice(&wrapped.tag);
    }
    bytes
}

/// What a commit seals: the authority on size and tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootRecord {
    /// Plain size.
    pub(super) size: u64,
    /// Goes up by one with each committed root.
    pub(super) generation: u64,
    /// Seals counted in the header's epoch.
    pub(super) seals: u64,
    /// Levels of the tree, 0 = inline.
    pub(super) height: u8,
    /// Describes the top node; a hole when inline or when there is no data.
    pub(super) root: Entry,
}

impl RootRecord {
    /// Reads an opened record. It is authentic, so a violation here is a writer's fault; it is refused all the same.
    pub(super) fn parse(bytes: &[u8; ROOT_LEN]) -> Result<RootRecord, Damage> {
        const SHORT: Damage = Damage::Header("root record is cut off");
        let number = |at| array(bytes, at).map(u64::from_le_bytes).ok_or(SHORT);
        let (height, zero) = (bytes[24], &bytes[25..32]);
        let record = RootRecord {
            size: number(0)?,
            generation: number(8)?,
            seals: number(16)?,
            height,
            root: Entry::from_bytes(array::<ENTRY_LEN>(bytes, 32).ok_or(SHORT)?),
        };
        if zero.iter().chain(&bytes[64..]).any(|&b| b != 0) {
            return Err(Damage::Header("reserved bytes of the root record are not zero"));
        }
        if record.size == 0 || record.size > super::MAX_LEN {
            return Err(Damage::Header("root record has an impossible size"));
        }
        if height != layout::height(record.size) || (record.size <= INLINE_MAX && !record.root.is_hole()) {
            return Err(Damage::Header("root record contradicts itself"));
        }
        Ok(record)
    }

    /// The bytes [`parse`](Self::parse) reads.
    pub(super) fn encode(&self) -> [u8; ROOT_LEN] {
        let mut bytes = [0; ROOT_LEN];
        bytes[..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seals.to_le_bytes());
        bytes[24] = self.height;
        bytes[32..64].copy_from_slice(&self.root.to_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn valid() -> [u8; HEADER_LEN] {
        let mut bytes = [7; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&[1, 0, 0, 0]);
        bytes
    }

    #[test]
    fn what_parses_encodes_to_the_same_bytes() {
        let mut bytes = valid();
        assert_eq!(Header::parse(&bytes).unwrap().encode(), bytes);
        bytes[108..184].fill(0);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.places[1], None);
        assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn other_magic_version_and_flags_are_refused_by_name() {
        for (at, word) in [(0, "magic"), (7, "magic"), (8, "version"), (9, "version"), (10, "flag"), (11, "flag")] {
            let mut bytes = valid();
            bytes[at] ^= 1;
            let Err(Damage::Header(message)) = Header::parse(&bytes) else { panic!("byte {at} accepted") };
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn records_that_contradict_themselves_are_refused() {
        let entry = Entry::from_bytes([1; 32]);
        let good = RootRecord { size: 5000, generation: 1, seals: 2, height: 1, root: entry };
        assert_eq!(RootRecord::parse(&good.encode()), Ok(good));
        for bad in [
            RootRecord { size: 0, ..good },
            RootRecord { size: u64::MAX, ..good },
            RootRecord { height: 0, ..good },
            RootRecord { height: 2, ..good },
            RootRecord { size: 100, height: 0, ..good },
        ] {
            assert!(RootRecord::parse(&bad.encode()).is_err(), "{bad:?}");
        }
        for at in (25..32).chain(64..72) {
            let mut bytes = good.encode();
            bytes[at] = 1;
            assert!(RootRecord::parse(&bytes).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_header_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Header::parse(&bytes);
            let mut near = valid().to_vec();
            near.truncate(bytes.len());
            for (at, byte) in bytes.iter().enumerate().skip(12).take(near.len().saturating_sub(12)) {
                near[at] = *byte;
            }
            if let Ok(header) = Header::parse(&near) {
                prop_assert_eq!(&header.encode()[..], &near[..HEADER_LEN]);
            }
        }

        #[test]
        fn any_record_bytes_come_back_or_are_refused(bytes in any::<[u8; 32]>(), size in any::<u64>()) {
            let mut record = [0; ROOT_LEN];
            record[..32].copy_from_slice(&bytes);
            record[..8].copy_from_slice(&size.to_le_bytes());
            record[32..64].copy_from_slice(&bytes);
            if let Ok(parsed) = RootRecord::parse(&record) {
                prop_assert_eq!(parsed.encode(), record);
            }
        }
    }
}
