//! Hash tables of slot numbers: eight bytes an entry, keys stay where they are.
//!
//! An index is split by hash into parts. Each part is an array with gaps, sorted by *tag*, the upper
//! half of the hash. The *home* of an entry is where its tag would stand if all tags were evenly
//! spread; the entry stands there or further right with no gap in between, so a search steps right from
//! home until a gap or a greater tag. Since an entry carries its tag, a part grows by copying it in
//! order, without looking at a single key, and it grows by half: an entry is copied two to three times on
//! average however many there are, and no request waits for more than one small part.
//!
//! Invariant: a part is sorted by tag, and there is no gap between an entry and its home.

/// Parts of an index of many keys.
pub(super) const PARTS: usize = 256;

/// Places behind the last home, for entries pushed right.
const SPILL: usize = 16;

/// Homes of a part that has any. It grows when less than one in eight is left.
const HOMES_MIN: usize = 16;

/// Cache lines from an entry's home on that a search or an insertion most often looks at.
const LINES_AHEAD: usize = 2;

/// An unoccupied place. No tag is greater than a gap's, and no entry equals it: slots are below
/// `u32::MAX`.
const GAP: u64 = u64::MAX;

/// An index of slots by the hash of their keys.
#[derive(Debug, Clone)]
pub(super) struct Index {
    parts: Vec<Part>,
}

/// Where a key that is not in an index would be put in.
#[derive(Debug)]
pub(super) struct Vacancy {
    hash: u64,
    place: usize,
}

#[derive(Debug, Clone, Default)]
struct Part {
    entries: Box<[u64]>,
    /// Places that are homes; a few more follow.
    homes: usize,
    used: usize,
}

fn tag_of_hash(hash: u64) -> u32 {
    u32::try_from(hash >> 32).expect("the upper half of 64 bits")
}

fn tag_of(entry: u64) -> u32 {
    tag_of_hash(entry)
}

fn slot_of(entry: u64) -> u32 {
    u32::try_from(entry & u64::from(u32::MAX)).expect("the lower half of 64 bits")
}

/// The entry of a slot below `u32::MAX`.
fn entry_of(hash: u64, slot: u32) -> u64 {
    hash >> 32 << 32 | u64::from(slot)
}

/// The part of a hash among so many, by its lower bits. The last part gets twice the share of the first, and the ones
/// between evenly spread shares: so parts grow one after another, and the memory that one leaves the next
/// one takes.
fn part_of(hash: u64, parts: usize) -> usize {
    let share = hash & 0xffff;
    let bent = share + ((share * (0x1_0000 - share)) >> 16) / 3;
    usize::try_from((bent * parts as u64) >> 16).expect("few parts")
}

/// A search for a key, by the part it leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search<'a> {
    part: &'a Part,
    tag: u32,
}

impl Search<'_> {
    /// Looks at the part, which says where its entries are.
    pub(super) fn look_at_part(self) -> u64 {
        self.part.homes as u64
    }

    /// Looks at the entries that the search, or an insertion, most often looks at.
    pub(super) fn look_at_entries(self) -> u64 {
        const LINE_ENTRIES: usize = 64 / size_of::<u64>();
        let home = self.part.home(self.tag);
        let word = |line| self.part.entries.get(home + line * LINE_ENTRIES);
        (0..LINES_AHEAD)
            .filter_map(word)
            .fold(0, |all, word| all ^ word)
    }
}

impl Index {
    /// An empty index of so many parts, 1 to [`PARTS`].
    pub(super) fn new(parts: usize) -> Self {
        Index {
            parts: vec![Part::default(); parts],
        }
    }

    /// The slot with this hash for which `is` holds.
    pub(super) fn find(&self, hash: u64, is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.find_or_vacancy(hash, is).ok()
    }

    /// The slot with this hash for which `is` holds, or where one would be put in.
    pub(super) fn find_or_vacancy(
        &self,
        hash: u64,
        is: impl FnMut(u32) -> bool,
    ) -> Result<u32, Vacancy> {
        let Search { part, tag } = self.search(hash);
        match part.find(tag, is) {
            Ok(place) => Ok(slot_of(part.entries[place])),
            Err(place) => Err(Vacancy { hash, place }),
        }
    }

    /// A search for the key of this hash, which has not looked at anything yet.
    pub(super) fn search(&self, hash: u64) -> Search<'_> {
        Search {
            part: &self.parts[part_of(hash, self.parts.len())],
            tag: tag_of_hash(hash),
        }
    }

    /// Adds a slot whose key is not in the index.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) {
        let Search { part, tag } = self.search(hash);
        let place = part.place(tag);
        self.fill(Vacancy { hash, place }, slot);
    }

    /// Puts a slot where a search of its key ended.
    ///
    /// # Panics
    /// If something was put in or removed since, so that the key would not be found here.
    pub(super) fn fill(&mut self, Vacancy { hash, mut place }: Vacancy, slot: u32) {
        let part = self.part_mut(hash);
        let entry = entry_of(hash, slot);
        let is_place = part.is_place(place, tag_of_hash(hash));
        assert!(
            is_place,
            "an index does not change between a search and what fills its vacancy"
        );
        if part.used * 8 >= part.homes * 7 {
            part.grow();
            place = part.place(tag_of_hash(hash));
        }
        while !part.insert(place, entry) {
            part.grow();
            place = part.place(tag_of_hash(hash));
        }
    }

    /// Removes a slot.
    pub(super) fn remove(&mut self, hash: u64, slot: u32) {
        let part = self.part_mut(hash);
        let place = part.find(tag_of_hash(hash), |other| other == slot);
        part.remove(place.expect("every taken slot is in its index"));
    }

    fn part_mut(&mut self, hash: u64) -> &mut Part {
        let parts = self.parts.len();
        &mut self.parts[part_of(hash, parts)]
    }
}

impl Part {
    fn home(&self, tag: u32) -> usize {
        usize::try_from((u64::from(tag) * self.homes as u64) >> 32).expect("less than all homes")
    }

    /// The place of the entry with this tag for whose slot `is` holds, or else where an entry with this tag would be put in.
    fn find(&self, tag: u32, mut is: impl FnMut(u32) -> bool) -> Result<usize, usize> {
        let home = self.home(tag);
        for (place, entry) in (home..).zip(&self.entries[home..]) {
            if tag_of(*entry) > tag || *entry == GAP {
                return Err(place);
            }
            if tag_of(*entry) == tag && is(slot_of(*entry)) {
                return Ok(place);
            }
        }
        Err(self.entries.len())
    }

    /// Where a further entry with this tag would be put in: behind all with a lesser or the same.
    fn place(&self, tag: u32) -> usize {
        self.find(tag, |_| false).unwrap_or_else(|place| place)
    }

    /// Whether a search for this tag that finds nothing ends here.
    fn is_place(&self, place: usize, tag: u32) -> bool {
        let is_before = |entry: &u64| tag_of(*entry) <= tag && *entry != GAP;
        let home = self.home(tag);
        let follows = place == home || place > home && is_before(&self.entries[place - 1]);
        follows && !self.entries.get(place).is_some_and(is_before)
    }

    /// Puts an entry in at its place and pushes those there right, up to the next gap. False if there is none.
    fn insert(&mut self, place: usize, entry: u64) -> bool {
        let Some(length) = self.entries[place..].iter().position(|other| *other == GAP) else {
            return false;
        };
        self.entries.copy_within(place..place + length, place + 1);
        self.entries[place] = entry;
        self.used += 1;
        true
    }

    /// Takes an entry out and pulls those behind it, up to the next gap or the next one at home, left.
    fn remove(&mut self, place: usize) {
        let at_home =
            |(place, entry): (usize, &u64)| *entry == GAP || self.home(tag_of(*entry)) == place;
        let behind = (place + 1..).zip(&self.entries[place + 1..]);
        let length = behind.take_while(|entry| !at_home(*entry)).count();
        self.entries.copy_within(place + 1..=place + length, place);
        self.entries[place + length] = GAP;
        self.used -= 1;
    }

    /// Makes the part half as large again, every entry as near to its new home as order allows.
    fn grow(&mut self) {
        self.homes = HOMES_MIN.max(self.homes + self.homes / 2);
        let mut entries = vec![GAP; self.homes + SPILL];
        let mut free = 0;
        for entry in self.entries.iter().filter(|entry| **entry != GAP) {
            let place = self.home(tag_of(*entry)).max(free);
            if place >= entries.len() {
                entries.resize(place + SPILL, GAP);
            }
            entries[place] = *entry;
            free = place + 1;
        }
        self.entries = entries.into_boxed_slice();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few hashes, many of them alike in their upper or lower half.
    fn hash_of(slot: u32) -> u64 {
        let tag = u64::from(slot % 97) * 0x0400_0000 + u64::from(slot / 500);
        tag << 32 | u64::from(slot % 3)
    }

    #[test]
    fn every_slot_is_found_until_it_is_removed() {
        let mut index = Index::new(PARTS);
        let mut slots: Vec<u32> = Vec::new();
        // Grows to 3,000 slots and shrinks again, removing from the middle.
        for turn in 0..9_000u32 {
            if turn < 3_000 || turn % 3 == 0 && turn < 6_000 {
                index.insert(hash_of(turn), turn);
                slots.push(turn);
            } else if let Some(place) = (turn as usize * 31).checked_rem(slots.len()) {
                let slot = slots.swap_remove(place);
                index.remove(hash_of(slot), slot);
                assert_eq!(index.find(hash_of(slot), |other| other == slot), None);
            }
            if turn % 100 == 0 {
                for slot in &slots {
                    let found = index.find(hash_of(*slot), |other| other == *slot);
                    assert_eq!(found, Some(*slot), "in turn {turn}");
                }
                let used: usize = index.parts.iter().map(|part| part.used).sum();
                assert_eq!(used, slots.len());
            }
        }
        assert!(slots.len() < 10, "{} are left", slots.len());
    }

    #[test]
    #[should_panic(expected = "does not change between a search")]
    fn a_vacancy_is_filled_before_anything_else_is_put_in() {
        let mut index = Index::new(1);
        let hash = 7 << 32;
        let vacancy = index.find_or_vacancy(hash, |_| true);
        let vacancy = vacancy.expect_err("it is empty");
        (0..9).for_each(|slot| index.insert(hash, slot));
        index.fill(vacancy, 9);
    }

    #[test]
    fn parts_stay_sorted_and_without_gaps_before_an_entry() {
        let mut index = Index::new(PARTS);
        for slot in 0..2_000 {
            index.insert(hash_of(slot), slot);
        }
        for slot in (0..2_000).step_by(3) {
            index.remove(hash_of(slot), slot);
        }
        for part in &index.parts {
            let tags = part.entries.iter().filter(|entry| **entry != GAP);
            assert!(tags.clone().map(|entry| tag_of(*entry)).is_sorted());
            for (place, entry) in part
                .entries
                .iter()
                .enumerate()
                .filter(|(_, entry)| **entry != GAP)
            {
                let home = part.home(tag_of(*entry));
                assert!(
                    home <= place && part.entries[home..place].iter().all(|entry| *entry != GAP)
                );
            }
        }
    }
}
