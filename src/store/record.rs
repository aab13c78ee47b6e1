//! Journal records as bytes: the layout is in `journal.md`, section 2.
//!
//! Parsing is total: any bytes give a record or `None`, nothing is allocated by a length that was not checked against the
//! bytes that are there.

use xxhash_rust::xxh3::Xxh3;

use super::Timestamp;

/// Records begin at multiples of this and are padded to it: rewriting a later record never touches a physical sector
/// of an earlier one, even on disks with 4096-byte sectors.
pub(super) const ALIGN: usize = 4096;
/// Largest image: one block.
pub(super) const BLOCK: usize = 4096;
/// Longest path hint; a longer path is left out, and recovery searches.
pub(super) const MAX_HINT: usize = 2048;

const MAGIC: [u8; 8] = *b"ENVJREC1";
/// Bytes in front of the image table.
const FIXED: usize = 128;
/// Bytes of an entry of the image table.
const IMAGE: usize = 16;
const CHECKSUM: std::ops::Range<usize> = 112..128;
/// `mtime` nanoseconds that say: no mtime.
const NO_MTIME: u32 = u32::MAX;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Images and a stored length: a file's next committed state. Length 0: the file was emptied, earlier images are void.
    Commit,
    /// Nothing but which earlier records hold after a power loss.
    Marker,
    /// The file's last name is gone: while the same kernel runs, nobody needs to search for it.
    Gone,
}

/// After-image of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) block: u64,
    /// The block's bytes as far as it has any: at most [`BLOCK`].
    pub(super) bytes: &'a [u8],
}

/// A record to be written. Its sequence number is given by the journal.
#[derive(Debug, Clone)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    /// Backing inode number.
    pub(super) ino: u64,
    /// File id, from the file's header.
    pub(super) id: [u8; 16],
    /// The file's records up to this sequence number hold after a power loss: the data in place that they rely on is durable.
    /// 0 = says nothing, [`Record::OWN`] = up to this record.
    pub(super) through: u64,
    /// Length of the backing file.
    pub(super) len: u64,
    pub(super) mtime: Option<Timestamp>,
    /// Stored names from the root to the file, joined by `/`: where recovery looks first.
    pub(super) hint: &'a [u8],
    pub(super) images: Vec<Image<'a>>,
}

impl Record<'_> {
    /// Stands for the sequence number that the record will get.
    pub(super) const OWN: u64 = u64::MAX;

    /// Bytes in the journal, padding included.
    pub(super) fn size(&self) -> usize {
        let data: usize = self.images.iter().map(|image| trimmed(image.bytes).len()).sum();
        (FIXED + self.images.len() * IMAGE + self.hint.len() + data).next_multiple_of(ALIGN)
    }

    /// Everything in front of the image data, the checksum over both included.
    pub(super) fn encode(&self, volume: &[u8; 16], session: u64, seq: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED + self.images.len() * IMAGE + self.hint.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&(self.size() as u32).to_le_bytes());
        let kind: u16 = match self.kind {
            Kind::Commit => 1,
            Kind::Marker => 2,
            Kind::Gone => 3,
        };
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(self.hint.len() as u16).to_le_bytes());
        out.extend_from_slice(volume);
        out.extend_from_slice(&session.to_le_bytes());
        out.extend_from_slice(&seq.to_le_bytes());
        out.extend_from_slice(&self.ino.to_le_bytes());
        out.extend_from_slice(&self.id);
        let through = if self.through == Self::OWN { seq } else { self.through };
        out.extend_from_slice(&through.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        let mtime = self.mtime.unwrap_or(Timestamp { secs: 0, nanos: NO_MTIME });
        out.extend_from_slice(&mtime.secs.to_le_bytes());
        out.extend_from_slice(&mtime.nanos.to_le_bytes());
        out.extend_from_slice(&(self.images.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 24]);
        for image in &self.images {
            out.extend_from_slice(&image.block.to_le_bytes());
            out.extend_from_slice(&(image.bytes.len() as u16).to_le_bytes());
            out.extend_from_slice(&(trimmed(image.bytes).len() as u16).to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        }
        out.extend_from_slice(self.hint);
        let mut hash = Xxh3::new();
        hash.update(&out);
        self.images.iter().for_each(|image| hash.update(trimmed(image.bytes)));
        out[CHECKSUM].copy_from_slice(&hash.digest128().to_le_bytes());
        out
    }
}

/// A block's bytes without the zeros at its end, which the record does without: most of a header is zeros.
pub(super) fn trimmed(bytes: &[u8]) -> &[u8] {
    // Ciphertext does not end in zeros; a look at its last bytes spares the search.
    let end = match bytes.last_chunk::<8>() {
        Some(last) if *last == [0; 8] => bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1),
        _ => bytes.len(),
    };
    bytes.get(..end).unwrap_or_default()
}

/// An image in a record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredImage {
    pub(super) block: u64,
    /// Where its bytes begin, from the beginning of the record.
    pub(super) at: usize,
    /// Bytes that are there.
    pub(super) stored: usize,
    /// Bytes of the block, the ones behind `stored` being zero.
    pub(super) len: usize,
}

/// A record that was read: complete and with the right checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parsed {
    pub(super) kind: Kind,
    pub(super) size: usize,
    pub(super) seq: u64,
    pub(super) ino: u64,
    pub(super) id: [u8; 16],
    pub(super) through: u64,
    pub(super) len: u64,
    pub(super) mtime: Option<Timestamp>,
    pub(super) hint: Vec<u8>,
    pub(super) images: Vec<StoredImage>,
}

/// The size that the record beginning with these bytes gives, if it can be one of at most `limit` bytes.
pub(super) fn size(start: &[u8], limit: usize) -> Option<usize> {
    let size = u32::from_le_bytes(*start.get(8..)?.first_chunk()?) as usize;
    (start.starts_with(&MAGIC) && size >= ALIGN && size.is_multiple_of(ALIGN) && size <= limit).then_some(size)
}

/// Reads the record that `bytes` begin with. `None` if it is torn, of another volume or session, or no record at all.
pub(super) fn parse(bytes: &[u8], volume: &[u8; 16], session: u64) -> Option<Parsed> {
    let size = size(bytes, bytes.len())?;
    let bytes = bytes.get(..size)?;
    let mut fields = Fields(bytes.get(12..FIXED)?);
    let kind = match u16::from_le_bytes(fields.take()?) {
        1 => Kind::Commit,
        2 => Kind::Marker,
        3 => Kind::Gone,
        _ => return None,
    };
    let hint_len = usize::from(u16::from_le_bytes(fields.take()?));
    if fields.take::<16>()? != *volume || u64::from_le_bytes(fields.take()?) != session {
        return None;
    }
    let seq = u64::from_le_bytes(fields.take()?);
    let ino = u64::from_le_bytes(fields.take()?);
    let id = fields.take()?;
    let through = u64::from_le_bytes(fields.take()?);
    let len = u64::from_le_bytes(fields.take()?);
    let secs = i64::from_le_bytes(fields.take()?);
    let nanos = u32::from_le_bytes(fields.take()?);
    let count = u32::from_le_bytes(fields.take()?) as usize;

    let table_end = FIXED.checked_add(count.checked_mul(IMAGE)?)?;
    let data_start = table_end.checked_add(hint_len)?;
    let table = bytes.get(FIXED..table_end)?;
    let hint = bytes.get(table_end..data_start)?.to_vec();
    let mut images = Vec::with_capacity(count);
    let mut at = data_start;
    for entry in table.chunks_exact(IMAGE) {
        let mut fields = Fields(entry);
        let block = u64::from_le_bytes(fields.take()?);
        let len = usize::from(u16::from_le_bytes(fields.take()?));
        let stored = usize::from(u16::from_le_bytes(fields.take()?));
        if stored > len || len > BLOCK || block > i64::MAX as u64 / BLOCK as u64 {
            return None;
        }
        images.push(StoredImage { block, at, stored, len });
        at += stored;
    }
    let mut hash = Xxh3::new();
    hash.update(bytes.get(..CHECKSUM.start)?);
    hash.update(&[0; 16]);
    hash.update(bytes.get(CHECKSUM.end..at)?);
    if bytes.get(CHECKSUM)? != hash.digest128().to_le_bytes() || len > i64::MAX as u64 {
        return None;
    }
    let mtime = (nanos < 1_000_000_000).then_some(Timestamp { secs, nanos });
    Some(Parsed { kind, size, seq, ino, id, through, len, mtime, hint, images })
}

/// Takes fixed-size fields off the front.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VOLUME: [u8; 16] = [7; 16];

    fn bytes_of(record: &Record<'_>, seq: u64) -> Vec<u8> {
        let mut bytes = record.encode(&VOLUME, 3, seq);
        record.images.iter().for_each(|image| bytes.extend_from_slice(trimmed(image.bytes)));
        bytes.resize(record.size(), 0);
        bytes
    }

    fn sample<'a>(images: Vec<Image<'a>>) -> Record<'a> {
        Record {
            kind: Kind::Commit,
            ino: 12,
            id: [9; 16],
            through: Record::OWN,
            len: 70_000,
            mtime: Some(Timestamp { secs: -5, nanos: 17 }),
            hint: b"dir/file",
            images,
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let mut header = [0; BLOCK];
        header[..284].fill(5);
        let record = sample(vec![Image { block: 0, bytes: &header }, Image { block: 17, bytes: &[3; 100] }]);
        let bytes = bytes_of(&record, 44);
        // The header's zeros are not stored: both images fit into one unit.
        assert_eq!(bytes.len(), ALIGN);
        let parsed = parse(&bytes, &VOLUME, 3).unwrap();
        assert_eq!((parsed.seq, parsed.through, parsed.ino, parsed.len), (44, 44, 12, 70_000));
        assert_eq!((parsed.id, parsed.mtime, parsed.hint.as_slice()), ([9; 16], record.mtime, &b"dir/file"[..]));
        let [first, second] = parsed.images[..] else { panic!("two images") };
        assert_eq!((first.block, first.stored, first.len), (0, 284, BLOCK));
        assert_eq!((second.block, &bytes[second.at..second.at + second.stored]), (17, &[3; 100][..]));
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let record = sample(vec![Image { block: 1, bytes: &[0xee; 300] }]);
        let bytes = bytes_of(&record, 1);
        let used = FIXED + IMAGE + 8 + 300;
        for at in 0..used {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            assert_eq!(parse(&damaged, &VOLUME, 3), None, "byte {at}");
        }
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end], &VOLUME, 3), None, "cut to {end}");
        }
    }

    #[test]
    fn records_of_other_volumes_and_sessions_are_refused() {
        let bytes = bytes_of(&sample(Vec::new()), 1);
        assert!(parse(&bytes, &VOLUME, 3).is_some());
        assert_eq!(parse(&bytes, &[8; 16], 3), None);
        assert_eq!(parse(&bytes, &VOLUME, 4), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..9000), sound: bool) {
            if sound && bytes.len() > FIXED {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..12].copy_from_slice(&4096u32.to_le_bytes());
                bytes[12..14].copy_from_slice(&1u16.to_le_bytes());
            }
            let _ = parse(&bytes, &VOLUME, 3);
        }
    }
}
