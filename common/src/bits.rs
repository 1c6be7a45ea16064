//! A set of numbers, one bit each: which batches of a job have a part.
//!
//! Used wherever plan and parts are compared (a resume, a rebuild, finalize, verify), so that four million batches
//! cost half a megabyte. Bits are made in blocks where a number is, so that a name that claims a far number, which
//! anybody may put into an output, costs a block and not everything below it.

use std::{collections::BTreeMap, ops::Range};

/// Bits of a word.
const WORD: u64 = 64;

/// Words of a block: 8 KiB, the parts of 16 million images in batches of 256.
const WORDS: usize = 1024;

/// Numbers of a block.
const BLOCK: u64 = WORDS as u64 * WORD;

/// A set of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    blocks: BTreeMap<u64, Box<[u64; WORDS]>>,
    len: u64,
}

impl Bits {
    /// Adds a number; true if it is new.
    pub fn set(&mut self, number: u64) -> bool {
        let block = self.blocks.entry(number / BLOCK).or_insert_with(|| Box::new([0; WORDS]));
        let (word, bit) = place(number);
        let new = block[word] & bit == 0;
        block[word] |= bit;
        self.len += u64::from(new);
        new
    }

    /// Whether a number is there.
    pub fn has(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.blocks.get(&(number / BLOCK)).is_some_and(|block| block[word] & bit != 0)
    }

    /// How many numbers are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether any number of a range is there; sixty-four are looked at together.
    pub fn any(&self, range: Range<u64>) -> bool {
        !range.is_empty() && self.from(range.start).next().is_some_and(|number| number < range.end)
    }

    /// The numbers from `first` on, in their order.
    pub fn from(&self, first: u64) -> impl Iterator<Item = u64> + Send + '_ {
        let blocks = self.blocks.range(first / BLOCK..).map(|(at, block)| (*at, &**block));
        blocks.flat_map(move |(at, block)| numbers(at, block, first))
    }

    /// All numbers in their order; for streams, which must own what they go through.
    pub fn into_numbers(self) -> impl Iterator<Item = u64> + Send {
        let owned = |(at, block): (u64, Box<[u64; WORDS]>)| {
            (0..WORDS).flat_map(move |word| of_word(at, word, block[word]))
        };
        self.blocks.into_iter().flat_map(owned)
    }
}

impl FromIterator<u64> for Bits {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut bits = Self::default();
        numbers.into_iter().for_each(|number| _ = bits.set(number));
        bits
    }
}

/// The word within its block and the bit of a number.
fn place(number: u64) -> (usize, u64) {
    ((number % BLOCK / WORD) as usize, 1 << (number % WORD))
}

/// The numbers of a block that are not below `first`.
fn numbers(at: u64, block: &[u64; WORDS], first: u64) -> impl Iterator<Item = u64> + Send + '_ {
    let within = first.saturating_sub(at * BLOCK);
    let skipped = (within / WORD) as usize;
    let words = block.iter().enumerate().skip(skipped).filter(|(_, bits)| **bits != 0);
    words.flat_map(move |(word, bits)| of_word(at, word, *bits)).skip_while(move |number| *number < first)
}

fn of_word(at: u64, word: usize, bits: u64) -> impl Iterator<Item = u64> + Send {
    let base = at * BLOCK + word as u64 * WORD;
    (0..WORD).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| base + bit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_is_the_set_that_a_set_is() {
        let numbers = [0, 1, 63, 64, 65, 65_535, 65_536, 65_537, 200_000, 1 << 40, u64::MAX - 1, u64::MAX];
        let (mut bits, mut set) = (Bits::default(), BTreeSet::new());
        assert!(bits.is_empty() && !bits.any(0..u64::MAX));
        for number in numbers.into_iter().chain([64, u64::MAX]) {
            assert_eq!(bits.set(number), set.insert(number), "{number}");
        }
        assert_eq!((bits.len(), bits.is_empty()), (set.len() as u64, false));
        for number in numbers.iter().flat_map(|n| [n.saturating_sub(1), *n, n.saturating_add(1)]) {
            assert_eq!(bits.has(number), set.contains(&number), "{number}");
            assert!(bits.from(number).eq(set.range(number..).copied()), "{number}");
            for end in [number, number.saturating_add(1), number.saturating_add(70_000)] {
                assert_eq!(bits.any(number..end), set.range(number..end).next().is_some(), "{number}..{end}");
            }
        }
        assert!(bits.clone().into_numbers().eq(set));
    }

    #[test]
    fn a_far_number_costs_a_block_and_many_near_ones_a_bit_each() {
        let mut bits = Bits::default();
        bits.set(u64::MAX);
        assert_eq!(bits.blocks.len(), 1);
        (0..4 * BLOCK).for_each(|number| assert!(bits.set(number)));
        assert_eq!((bits.blocks.len(), bits.len()), (5, 4 * BLOCK + 1));
    }
}
