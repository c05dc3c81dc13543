//! Short byte strings packed by length, addressed by 32 bits: an id of 16 bytes costs 16 bytes.

/// Widths are multiples of this, so at most three bytes of a text are padding.
const STEP: usize = 4;

/// Longest text in bytes: 16 classes of 4-byte steps.
const WIDTH_MAX: usize = 16 * STEP;

/// Texts of one chunk.
const CHUNK_TEXTS: usize = 1024;

/// Texts that one record adds at most: an order id, and a pin and an ip for every item.
const RECORD_TEXTS_MAX: usize = 1 + 2 * crate::limits::ITEMS_MAX;

const _: () = assert!(RECORD_TEXTS_MAX < CHUNK_TEXTS);

/// Bits of an address that number a text within its class.
const INDEX_BITS: u32 = 26;

const _: () = assert!(WIDTH_MAX >= crate::limits::ID_BYTES_MAX);
const _: () = assert!(crate::limits::ORDERS_MAX <= 1 << INDEX_BITS);

/// Address of a text: its class (4 bits), its padding (2 bits) and its number in the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Text(u32);

#[derive(Debug, Clone)]
struct Class {
    chunks: Vec<Box<[u8]>>,
    used: u32,
    free: Vec<u32>,
}

/// The texts of one shard.
#[derive(Debug, Clone)]
pub(super) struct Texts {
    classes: Vec<Class>,
    /// Texts of one class at most.
    class_texts_max: usize,
    /// Whether any class has begun its last chunk.
    crowded: bool,
}

impl Text {
    fn class(self) -> usize {
        (self.0 >> 28) as usize
    }

    fn padding(self) -> usize {
        (self.0 >> INDEX_BITS & 3) as usize
    }

    fn index(self) -> usize {
        (self.0 & ((1 << INDEX_BITS) - 1)) as usize
    }

    fn width(self) -> usize {
        (self.class() + 1) * STEP
    }
}

impl Texts {
    pub(super) fn new() -> Self {
        Self::of_size(1 << INDEX_BITS)
    }

    fn of_size(class_texts_max: usize) -> Self {
        let class = Class {
            chunks: Vec::new(),
            used: 0,
            free: Vec::new(),
        };
        Texts {
            classes: vec![class; WIDTH_MAX / STEP],
            class_texts_max,
            crowded: false,
        }
    }

    /// Whether the texts of one more record fit, whatever their lengths. Order ids, pins and ips of one
    /// length share a class, so it may be full while the shard still has room for orders.
    pub(super) fn has_room(&self) -> bool {
        let room = |class: &Class| {
            self.class_texts_max - class.used as usize + class.free.len() >= RECORD_TEXTS_MAX
        };
        !self.crowded || self.classes.iter().all(room)
    }

    /// Keeps `bytes`, 1 to 64 of them.
    pub(super) fn insert(&mut self, bytes: &[u8]) -> Text {
        assert!(
            !bytes.is_empty() && bytes.len() <= WIDTH_MAX,
            "ids were checked when they were made"
        );
        let width = bytes.len().next_multiple_of(STEP);
        let number = width / STEP - 1;
        let class = &mut self.classes[number];
        let index = class.free.pop().unwrap_or_else(|| {
            if class.used as usize == class.chunks.len() * CHUNK_TEXTS {
                class
                    .chunks
                    .push(vec![0; CHUNK_TEXTS * width].into_boxed_slice());
                self.crowded |= class.chunks.len() * CHUNK_TEXTS >= self.class_texts_max;
            }
            assert!(
                (class.used as usize) < self.class_texts_max,
                "records that do not fit are refused"
            );
            class.used += 1;
            class.used - 1
        });
        let at = index as usize;
        let offset = at % CHUNK_TEXTS * width;
        class.chunks[at / CHUNK_TEXTS][offset..offset + bytes.len()].copy_from_slice(bytes);
        let number = u32::try_from(number).expect("16 classes");
        let padding = u32::try_from(width - bytes.len()).expect("less than a step");
        Text(number << 28 | padding << INDEX_BITS | index)
    }

    /// How many texts are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let kept = |class: &Class| class.used as usize - class.free.len();
        self.classes.iter().map(kept).sum()
    }

    /// The bytes at `text`.
    pub(super) fn get(&self, text: Text) -> &[u8] {
        let width = text.width();
        let offset = text.index() % CHUNK_TEXTS * width;
        &self.classes[text.class()].chunks[text.index() / CHUNK_TEXTS]
            [offset..offset + width - text.padding()]
    }

    /// Frees the place of `text`.
    pub(super) fn remove(&mut self, text: Text) {
        let index = u32::try_from(text.index()).expect("an index has 26 bits");
        self.classes[text.class()].free.push(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_class_is_noticed_while_a_record_still_fits() {
        let mut texts = Texts::of_size(2 * CHUNK_TEXTS);
        let mut kept = Vec::new();
        while texts.has_room() {
            kept.push(texts.insert(b"a-pin-of-14-by"));
        }
        assert_eq!(kept.len(), 2 * CHUNK_TEXTS - RECORD_TEXTS_MAX + 1);
        for _ in 1..RECORD_TEXTS_MAX {
            kept.push(texts.insert(b"order-000000014"));
        }
        assert!(!texts.has_room());
        assert_eq!(texts.get(kept[0]), b"a-pin-of-14-by");
        kept.drain(..RECORD_TEXTS_MAX)
            .for_each(|text| texts.remove(text));
        assert!(texts.has_room());
    }
}
