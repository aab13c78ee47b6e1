//! What a power loss may leave: from a log of calls and a point in it, backing filesystems that a crash there could show.
//!
//! The model of ext4, XFS and btrfs:
//! - *Data.* Each 512-byte sector of an allocated block holds any version written since the file's last flush, or the one before.
//! - *Blocks and length* of one file change in order: a prefix of the unflushed changes survives. A block that was allocated and whose
//!   data was lost reads as zeros; data written to a block goes with the block, so a write behind a truncation that was lost is lost.
//! - *Names and attributes*, first model (one journal for all): a prefix of all unflushed changes survives.
//! - Second model: each inode keeps a prefix of the changes that concern it; one that concerns several is kept in all or lost in
//!   all, with what follows it in any of them.
//! - *Flushes.* fsync of a file covers data, length, blocks and every change that concerns the inode, its creation first of all;
//!   fdatasync the same without later changes of names and attributes. In the first model all that came before the newest covered
//!   change is covered too, but nothing more: flushing a file that was only overwritten commits no other's metadata.
//!   fsync of a directory covers the changes that concern it; syncfs covers everything.
//!
//! A [`Tracker`] follows the log; at each point it makes any number of states, each from a [`Choice`] that its number alone determines.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::image::{BLOCK, Body, Change, Contents, Id, Image, Page, blocks};
use super::sim::{Event, time_of};
use crate::random::Rng;

const SECTOR: usize = 512;
/// Where untorn choices are no more than this, all of them come.
const MAX_COMBINATIONS: u64 = 512;

/// How names may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    OneJournal,
    PerInode,
}

/// What happens to one unflushed write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Kept,
    /// Only so many sectors at the beginning, or at the end.
    Torn {
        front: bool,
        sectors: usize,
    },
    /// Each sector by itself.
    Scattered(u64),
}

impl Fate {
    /// Whether sector `n` of `count` got to the disk.
    fn keeps(self, n: usize, count: usize) -> bool {
        match self {
            Fate::Lost => false,
            Fate::Kept => true,
            Fate::Torn { front: true, sectors } => n < sectors,
            Fate::Torn { front: false, sectors } => n + sectors >= count,
            Fate::Scattered(seed) => Rng::new(seed ^ n as u64).one_in(2),
        }
    }
}

/// One way in which a crash can go.
#[derive(Debug, Clone)]
pub struct Choice {
    pub model: Model,
    /// First model: number of unflushed changes of names and attributes that survive.
    pub names: usize,
    /// Second model: for each inode, the number of the first change that it loses.
    pub cuts: BTreeMap<Id, usize>,
    pub files: BTreeMap<Id, FileChoice>,
}

#[derive(Debug, Clone)]
pub struct FileChoice {
    /// Number of unflushed events whose effect on blocks and length survives.
    pub metadata: usize,
    /// By event.
    pub data: Vec<Fate>,
}

/// A change of names or attributes that is not known to be durable.
#[derive(Debug, Clone)]
struct Unflushed {
    change: Change,
    number: u64,
    /// Durable in the second model already.
    held: bool,
}

/// A file's contents between its last flush and now.
#[derive(Debug, Clone, Default)]
struct FileTrack {
    durable: Contents,
    now: Contents,
    events: Vec<Change>,
    /// Number of changes of names made when it last got blocks or another length.
    grew_at: u64,
}

/// The filesystem at a point of the log: what is durable and what is not.
#[derive(Debug, Clone)]
pub struct Tracker {
    /// Names and attributes that are durable in both models.
    names: Image,
    files: HashMap<Id, FileTrack>,
    unflushed: VecDeque<Unflushed>,
    /// Changes of names so far; the last ones of them are in `unflushed`.
    seen: u64,
    /// Of those, how many are durable in the first model.
    covered: u64,
    changes: u64,
}

impl Tracker {
    /// Begins with everything durable.
    pub fn new(base: Image) -> Self {
        Tracker { names: base, files: HashMap::new(), unflushed: VecDeque::new(), seen: 0, covered: 0, changes: 0 }
    }

    /// Takes the next event of the log.
    pub fn push(&mut self, event: &Event) {
        match event {
            Event::Change(change) => {
                self.changes += 1;
                match change.contents_of() {
                    Some(id) => self.change_contents(id, change),
                    None => {
                        if let Change::Create { id, .. } = change {
                            self.files.remove(id);
                        }
                        self.unflushed.push_back(Unflushed {
                            change: change.clone(),
                            number: self.changes,
                            held: false,
                        });
                        self.seen += 1;
                    }
                }
            }
            Event::SyncFile { id, metadata } => {
                if let Some(file) = self.files.get_mut(id) {
                    file.durable = file.now.clone();
                    file.events.clear();
                }
                let grew_at = self.files.get(id).map_or(0, |file| file.grew_at);
                let is_covered = |change: &Change| {
                    change.concerns().contains(id) && (*metadata || matches!(change, Change::Create { .. }))
                };
                self.cover(grew_at, is_covered);
            }
            Event::SyncDir { id } => self.cover(0, |change| change.concerns().contains(id)),
            Event::SyncAll => {
                for file in self.files.values_mut() {
                    file.durable = file.now.clone();
                    file.events.clear();
                }
                self.cover(self.seen, |_| true);
            }
        }
    }

    fn change_contents(&mut self, id: Id, change: &Change) {
        let unflushed = &self.unflushed;
        let names = &self.names;
        let file = self.files.entry(id).or_insert_with(|| {
            let created = unflushed.iter().find_map(|one| match &one.change {
                Change::Create { id: created, node, .. } if *created == id => Some(&**node),
                _ => None,
            });
            let contents = match created.or_else(|| names.node(id)).map(|node| &node.body) {
                Some(Body::File(contents)) => contents.clone(),
                _ => Contents::default(),
            };
            FileTrack { durable: contents.clone(), now: contents, events: Vec::new(), grew_at: 0 }
        });
        let (len, now) = (file.now.len(), &mut file.now);
        let grows = match change {
            Change::Write { offset, data, .. } => {
                let grows = blocks(*offset, data.len()).any(|(at, _)| now.page(at).is_none());
                now.write(data, *offset);
                grows || now.len() != len
            }
            Change::SetLen { len, .. } => {
                now.set_len(*len);
                true
            }
            Change::Punch { offset, len, .. } => {
                now.punch(*offset, *len);
                true
            }
            _ => false,
        };
        if grows {
            file.grew_at = self.seen;
        }
        file.events.push(change.clone());
    }

    /// Changes became durable: those that `is_covered` says and the first `upto` ones, with what must come before them.
    fn cover(&mut self, upto: u64, is_covered: impl Fn(&Change) -> bool) {
        let first = self.seen - self.unflushed.len() as u64;
        let last = self.unflushed.iter().rposition(|one| is_covered(&one.change)).map_or(0, |at| first + at as u64 + 1);
        self.covered = self.covered.max(upto).max(last);
        // From the newest to the oldest: a durable change takes along what came before it in any inode it concerns.
        let mut taken: Vec<Id> = Vec::new();
        for one in self.unflushed.iter_mut().rev() {
            let concerns = one.change.concerns();
            one.held |= is_covered(&one.change) || concerns.iter().any(|id| taken.contains(id));
            if one.held {
                taken.extend(concerns);
            }
        }
        while self.unflushed.front().is_some_and(|one| one.held)
            && self.seen - (self.unflushed.len() as u64) < self.covered
        {
            if let Some(one) = self.unflushed.pop_front() {
                self.names.apply(&one.change, time_of(one.number));
            }
        }
    }

    /// Unflushed changes of names of which the first model may lose a suffix; those before are durable in it.
    fn loose_names(&self) -> std::ops::RangeInclusive<usize> {
        let first = self.seen - self.unflushed.len() as u64;
        self.covered.saturating_sub(first) as usize..=self.unflushed.len()
    }

    /// Files with something unflushed, in order.
    fn loose_files(&self) -> BTreeMap<Id, &FileTrack> {
        self.files.iter().filter(|(_, file)| !file.events.is_empty()).map(|(id, file)| (*id, file)).collect()
    }

    fn everywhere(&self, names: usize, fate: Fate, metadata: impl Fn(usize) -> usize) -> Choice {
        let file = |file: &FileTrack| FileChoice {
            metadata: metadata(file.events.len()),
            data: vec![fate; file.events.len()],
        };
        let files = self.loose_files().into_iter().map(|(id, track)| (id, file(track))).collect();
        Choice { model: Model::OneJournal, names, cuts: BTreeMap::new(), files }
    }

    /// Nothing is lost: what the death of the daemon leaves.
    pub fn kept(&self) -> Choice {
        self.everywhere(self.unflushed.len(), Fate::Kept, |events| events)
    }

    /// Number of choices without tearing in the first model, if they are not very many.
    fn combinations(&self) -> Option<u64> {
        let names = self.loose_names();
        let of_names = (names.end() - names.start() + 1) as u64;
        self.loose_files().values().try_fold(of_names, |all, file| {
            let events = file.events.len() as u64;
            (events < 10).then(|| (all * (events + 1)) << events).filter(|all| *all <= MAX_COMBINATIONS)
        })
    }

    fn combination(&self, mut number: u64) -> Choice {
        let mut digit = |base: u64| {
            let digit = number % base;
            number /= base;
            digit
        };
        let names = self.loose_names();
        let names = names.start() + digit((names.end() - names.start() + 1) as u64) as usize;
        let mut choice = self.everywhere(names, Fate::Lost, |_| 0);
        for file in choice.files.values_mut() {
            let events = file.data.len();
            file.metadata = digit(events as u64 + 1) as usize;
            let kept = digit(1 << events);
            (0..events).filter(|event| kept >> event & 1 == 1).for_each(|event| file.data[event] = Fate::Kept);
        }
        choice
    }

    /// The choice of a number: first the extremes, then chance in turn with all combinations, if they are few.
    pub fn choice(&self, number: u64, rng: &mut Rng) -> Choice {
        let names = self.loose_names();
        let (none, all) = (*names.start(), *names.end());
        match number {
            0 => return self.everywhere(none, Fate::Lost, |_| 0),
            1 => return self.kept(),
            2 => return self.everywhere(all, Fate::Lost, |_| 0),
            3 => return self.everywhere(all, Fate::Lost, |events| events),
            4 => return self.everywhere(none, Fate::Kept, |events| events),
            _ => {}
        }
        if number % 2 == 1
            && let Some(combinations) = self.combinations()
            && number / 2 - 2 < combinations
        {
            return self.combination(number / 2 - 2);
        }
        let mut choice =
            self.everywhere(none + rng.below((all - none) as u64 + 1) as usize, Fate::Kept, |events| events);
        match rng.below(4) {
            0 => choice.names = all,
            1 => choice.names = none,
            2 => {
                choice.model = Model::PerInode;
                for one in &self.unflushed {
                    for id in one.change.concerns() {
                        choice.cuts.entry(id).or_insert_with(|| match rng.below(3) {
                            0 => 0,
                            1 => all,
                            _ => rng.below(all as u64 + 1) as usize,
                        });
                    }
                }
            }
            _ => {}
        }
        // Most often one file misbehaves, now and then all do.
        let odd = rng.below(choice.files.len().max(1) as u64) as usize;
        let all_odd = rng.one_in(3);
        let rest_kept = rng.one_in(2);
        for (at, file) in choice.files.values_mut().enumerate() {
            if at == odd || all_odd {
                file.disturb(rng);
            } else if !rest_kept {
                file.metadata = 0;
                file.data.fill(Fate::Lost);
            }
        }
        choice
    }

    /// The filesystem that a choice leaves.
    pub fn state(&self, choice: &Choice) -> Image {
        let mut image = self.names.clone();
        let mut broken: Vec<Id> = Vec::new();
        for (at, one) in self.unflushed.iter().enumerate() {
            let kept = match choice.model {
                Model::OneJournal => at < choice.names,
                Model::PerInode => {
                    let concerns = one.change.concerns();
                    let lost = concerns
                        .iter()
                        .any(|id| broken.contains(id) || choice.cuts.get(id).is_some_and(|cut| at >= *cut));
                    if lost && !one.held {
                        broken.extend(concerns);
                    }
                    one.held || !lost
                }
            };
            if kept {
                image.apply(&one.change, time_of(one.number));
            }
        }
        for (id, file) in &self.files {
            let Some(contents) = image.contents_mut(*id) else { continue };
            *contents = match choice.files.get(id) {
                Some(choice) => file.after(choice),
                None => file.durable.clone(),
            };
        }
        image.next_id = self.names.next_id + self.seen;
        image.drop_orphans();
        image
    }
}

impl FileChoice {
    fn disturb(&mut self, rng: &mut Rng) {
        let events = self.data.len();
        let one = rng.below(events as u64) as usize;
        match rng.below(7) {
            0 => self.data.fill(Fate::Lost),
            1 => self.data[one] = Fate::Lost,
            2 => {
                self.data.fill(Fate::Lost);
                self.data[one] = Fate::Kept;
            }
            3 => self.data[one..].fill(Fate::Lost),
            4 => self.data.iter_mut().for_each(|fate| *fate = Fate::Scattered(rng.next())),
            5 => self.data.iter_mut().filter(|_| rng.one_in(2)).for_each(|fate| *fate = Fate::Lost),
            _ => {}
        }
        if rng.one_in(2) {
            self.data[one] = Fate::Torn { front: !rng.one_in(3), sectors: 1 + rng.below(8) as usize };
        }
        self.metadata = match rng.below(4) {
            0 => 0,
            1 => rng.below(events as u64 + 1) as usize,
            _ => events,
        };
    }
}

/// A block on the disk: what it held at the file's last flush, and the writes to it since.
struct Place {
    base: Option<Arc<Page>>,
    writes: Vec<Piece>,
}

/// The part of an event that went to one place, or was zeroed in it.
#[derive(Clone)]
struct Piece {
    event: usize,
    /// Within the block.
    from: usize,
    to: usize,
    /// Where in the event's data it begins.
    at: usize,
}

/// Which place a block of the file has, and what was cut out of it by truncations and punches.
type Map = BTreeMap<u64, Option<(usize, Vec<Piece>)>>;

impl FileTrack {
    /// The contents that a choice leaves.
    fn after(&self, choice: &FileChoice) -> Contents {
        let (places, map, len) = self.places(choice.metadata);
        let mut result = self.durable.clone();
        for (at, place) in map {
            let page = place.map(|(place, cuts)| Arc::new(self.page(&places[place], &cuts, &choice.data)));
            result.set_page(at, page);
        }
        result.set_len(i64::MAX as u64 / BLOCK as u64 * BLOCK as u64);
        result.set_len(len);
        result
    }

    /// Follows all events, and gives the places with all that was written to them, and blocks and length after the first `metadata`.
    fn places(&self, metadata: usize) -> (Vec<Place>, Map, u64) {
        let mut places = Vec::new();
        let mut map = Map::new();
        for event in &self.events {
            let touched: Vec<u64> = match event {
                Change::Write { offset, data, .. } => blocks(*offset, data.len()).map(|(at, _)| at).collect(),
                _ => self.durable.pages().map(|(at, _)| at).collect(),
            };
            for at in touched {
                map.entry(at).or_insert_with(|| {
                    let base = self.durable.page(at)?.clone();
                    places.push(Place { base: Some(base), writes: Vec::new() });
                    Some((places.len() - 1, Vec::new()))
                });
            }
        }
        let mut len = self.durable.len();
        let mut survived = None;
        for (event, change) in self.events.iter().enumerate() {
            if event == metadata {
                survived = Some((map.clone(), len));
            }
            match change {
                Change::Write { offset, data, .. } => {
                    for (at, range) in blocks(*offset, data.len()) {
                        let from = ((offset + range.start as u64) % BLOCK as u64) as usize;
                        let piece = Piece { event, from, to: from + range.len(), at: range.start };
                        let slot = map.entry(at).or_default();
                        let (place, _) = slot.get_or_insert_with(|| {
                            places.push(Place { base: None, writes: Vec::new() });
                            (places.len() - 1, Vec::new())
                        });
                        places[*place].writes.push(piece);
                    }
                    len = len.max(offset + data.len() as u64);
                }
                Change::SetLen { len: new, .. } => {
                    cut_out(&mut map, event, *new, len.next_multiple_of(BLOCK as u64));
                    len = *new;
                }
                Change::Punch { offset, len: bytes, .. } => {
                    cut_out(&mut map, event, *offset, (offset + bytes).min(len.next_multiple_of(BLOCK as u64)));
                }
                _ => {}
            }
        }
        let (map, len) = survived.unwrap_or((map, len));
        (places, map, len)
    }

    /// The bytes of a place: for each sector the newest version that got to the disk.
    fn page(&self, place: &Place, cuts: &[Piece], fates: &[Fate]) -> Page {
        let mut page = place.base.as_ref().map_or([0; BLOCK], |base| **base);
        let mut steps: Vec<(&Piece, bool)> =
            place.writes.iter().map(|piece| (piece, true)).chain(cuts.iter().map(|piece| (piece, false))).collect();
        steps.sort_by_key(|(piece, _)| piece.event);
        for sector in 0..BLOCK / SECTOR {
            let (start, end) = (sector * SECTOR, (sector + 1) * SECTOR);
            // The version in the page cache, and the newest one that was written back.
            let mut cached = [0; SECTOR];
            cached.copy_from_slice(&page[start..end]);
            for (piece, is_write) in &steps {
                let (from, to) = (piece.from.max(start), piece.to.min(end));
                if from >= to {
                    continue;
                }
                let range = from - start..to - start;
                match &self.events[piece.event] {
                    Change::Write { offset, data, .. } if *is_write => {
                        let at = piece.at + from - piece.from;
                        cached[range].copy_from_slice(&data[at..at + to - from]);
                        let first = *offset as usize / SECTOR;
                        let count = (*offset as usize + data.len()).div_ceil(SECTOR) - first;
                        if fates[piece.event].keeps((*offset as usize + at) / SECTOR - first, count) {
                            page[start..end].copy_from_slice(&cached);
                        }
                    }
                    _ => {
                        cached[range].fill(0);
                        page[from..to].fill(0);
                    }
                }
            }
        }
        page
    }
}

/// Takes a range of bytes out of a file: whole blocks become holes, parts of blocks become zeros together with that.
fn cut_out(map: &mut Map, event: usize, start: u64, end: u64) {
    if start >= end {
        return;
    }
    for (at, slot) in map.range_mut(start / BLOCK as u64..end.div_ceil(BLOCK as u64)) {
        let first = at * BLOCK as u64;
        let from = start.saturating_sub(first) as usize;
        let to = BLOCK.min((end - first) as usize);
        match slot {
            _ if (from, to) == (0, BLOCK) => *slot = None,
            Some((_, cuts)) => cuts.push(Piece { event, from, to, at: 0 }),
            None => {}
        }
    }
}
