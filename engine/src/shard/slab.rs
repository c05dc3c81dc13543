//! Slots addressed by 32-bit numbers, in chunks that never move: growing copies nothing, so no
//! request waits for a large table to be copied.

/// Slots of one chunk.
const CHUNK_SLOTS: usize = 1024;

/// A slab of `T`. A freed slot is handed out again.
#[derive(Debug, Clone)]
pub(super) struct Slab<T> {
    chunks: Vec<Box<[T]>>,
    used: u32,
    free: Vec<u32>,
}

impl<T: Copy + Default> Slab<T> {
    /// An empty slab.
    pub(super) fn new() -> Self {
        Slab {
            chunks: Vec::new(),
            used: 0,
            free: Vec::new(),
        }
    }

    /// Puts `value` into a free slot and returns its number.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        let slot = if let Some(slot) = self.free.pop() {
            slot
        } else {
            if self.used as usize == self.chunks.len() * CHUNK_SLOTS {
                self.chunks
                    .push(vec![T::default(); CHUNK_SLOTS].into_boxed_slice());
            }
            self.used += 1;
            self.used - 1
        };
        *self.get_mut(slot) = value;
        slot
    }

    /// Frees a slot; its content becomes the default.
    pub(super) fn remove(&mut self, slot: u32) -> T {
        let value = std::mem::take(self.get_mut(slot));
        self.free.push(slot);
        value
    }

    /// The content of a slot.
    pub(super) fn get(&self, slot: u32) -> &T {
        let slot = slot as usize;
        &self.chunks[slot / CHUNK_SLOTS][slot % CHUNK_SLOTS]
    }

    /// The content of a slot, to change.
    pub(super) fn get_mut(&mut self, slot: u32) -> &mut T {
        let slot = slot as usize;
        &mut self.chunks[slot / CHUNK_SLOTS][slot % CHUNK_SLOTS]
    }

    /// One past the highest slot ever handed out.
    pub(super) fn end(&self) -> u32 {
        self.used
    }

    /// How many slots are taken.
    pub(super) fn len(&self) -> usize {
        self.used as usize - self.free.len()
    }
}
