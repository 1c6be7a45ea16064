//! Slots: memory for the model's pixels that is used again, so that no image takes any from the system.
//!
//! A decoding thread takes a slot from its own, and whoever has made a row of the image gives it back there by dropping it.
//! What an earlier image left in a slot stays in it until all of it is written over: whoever takes one must do that.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex},
};

/// Bytes that the free slots of one thread may have in all: 55 images of 224 pixels a side, more than a thread has under
/// way at a usual micro-batch. Those of larger ones are given back to the system.
const MOST_KEPT_BYTES: usize = 8 << 20;

/// The slots of a thread.
#[derive(Debug, Default)]
pub(super) struct Slots {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Slots {
    /// A slot of `len` bytes, whatever is in them.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Slot {
        let latest = self.free.lock().ok().and_then(|mut free| free.pop());
        let mut bytes = latest.unwrap_or_default();
        if bytes.len() != len {
            bytes.clear();
            bytes.shrink_to(len);
            bytes.resize(len, 0);
        }
        Slot { bytes, home: self.clone() }
    }
}

/// One of them: the pixels of an image.
pub struct Slot {
    bytes: Vec<u8>,
    home: Arc<Slots>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Ok(mut free) = self.home.free.lock() else { return };
        let kept: usize = free.iter().map(Vec::capacity).sum();
        if kept + self.bytes.capacity() <= MOST_KEPT_BYTES {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

impl Clone for Slot {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), home: self.home.clone() }
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot of {} bytes", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_at_any_size() {
        let slots = Arc::<Slots>::default();
        let at = slots.take(3000).as_ptr();
        assert_eq!(slots.take(3000).as_ptr(), at);
        for len in [3000, 10, 0, 4000, 3000] {
            let (mut one, mut other) = (slots.take(len), slots.take(len));
            assert_eq!((one.len(), other.len()), (len, len));
            one.fill(1);
            other.fill(2);
            assert!(one.iter().all(|&byte| byte == 1), "two slots share memory");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let slots = Arc::<Slots>::default();
        let kept = || slots.free.lock().unwrap().iter().map(Vec::capacity).sum::<usize>();
        drop((0..20).map(|_| slots.take(1 << 20)).collect::<Vec<_>>());
        assert_eq!(kept(), MOST_KEPT_BYTES);
        drop(slots.take(MOST_KEPT_BYTES + 1));
        assert!(kept() <= MOST_KEPT_BYTES);
        // Small images after large ones do not hold on to the large ones' memory.
        drop((0..20).map(|_| slots.take(100)).collect::<Vec<_>>());
        assert!(kept() <= 20 * 100, "{}", kept());
    }
}
