//! A set of passage ordinals of one segment, one bit each: deletes, filters, and what a search may return.

use crate::{
    SegmentError,
    layout::{Walk, u64s},
};

const MAGIC: &[u8; 8] = b"fmbits01";
const WORD_BITS: usize = u64::BITS as usize;

/// A set of the numbers below `len`. Bits beyond `len` are always clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    len: u32,
}

impl Bitmap {
    /// The empty set.
    #[must_use]
    pub fn new(len: u32) -> Self {
        Self {
            words: vec![0; word_count(len)],
            len,
        }
    }

    /// The set of all numbers below `len`.
    #[must_use]
    pub fn full(len: u32) -> Self {
        let mut bitmap = Self {
            words: vec![u64::MAX; word_count(len)],
            len,
        };
        bitmap.clear_tail();
        bitmap
    }

    /// The numbers are below this one.
    #[must_use]
    pub fn bound(&self) -> u32 {
        self.len
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Adds a number; one beyond `len` is left out.
    pub fn set(&mut self, number: u32) {
        if number < self.len {
            self.words[number as usize / WORD_BITS] |= 1 << (number as usize % WORD_BITS);
        }
    }

    /// Adds a range of numbers; those beyond `len` are left out.
    pub fn set_range(&mut self, numbers: std::ops::Range<u32>) {
        let (start, end) = (numbers.start as usize, numbers.end.min(self.len) as usize);
        let mut at = start;
        while at < end {
            let bits = (WORD_BITS - at % WORD_BITS).min(end - at);
            self.words[at / WORD_BITS] |= (u64::MAX >> (WORD_BITS - bits)) << (at % WORD_BITS);
            at += bits;
        }
    }

    /// Removes a number.
    pub fn clear(&mut self, number: u32) {
        if number < self.len {
            self.words[number as usize / WORD_BITS] &= !(1 << (number as usize % WORD_BITS));
        }
    }

    /// Whether the set has this number.
    #[must_use]
    #[inline]
    pub fn contains(&self, number: u32) -> bool {
        let word = self
            .words
            .get(number as usize / WORD_BITS)
            .copied()
            .unwrap_or_default();
        word >> (number as usize % WORD_BITS) & 1 == 1
    }

    /// How many numbers the set has.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Keeps the numbers that `other` has too. Sets of different length: the shorter one bounds.
    pub fn and(&mut self, other: &Self) {
        for (index, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(index).copied().unwrap_or_default();
        }
    }

    /// Adds the numbers of `other` below the own length.
    pub fn or(&mut self, other: &Self) {
        self.words
            .iter_mut()
            .zip(&other.words)
            .for_each(|(word, other)| *word |= other);
        self.clear_tail();
    }

    /// Turns the set into its complement.
    pub fn not(&mut self) {
        self.words.iter_mut().for_each(|word| *word = !*word);
        self.clear_tail();
    }

    /// The numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.words
            .iter()
            .enumerate()
            .flat_map(|(index, &word)| ones(word, index))
    }

    /// The bits, 64 to a word, lowest first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The content of a bitmap file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.len.to_le_bytes());
        bytes.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    /// Reads a bitmap file; `file` is its name, for messages.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self, SegmentError> {
        let mut walk = Walk::new(file, bytes, MAGIC)?;
        let len = walk.u32()?;
        let words = walk.array(word_count(len), 8)?;
        walk.end()?;
        let bitmap = Self {
            words: u64s(&bytes[words]).collect(),
            len,
        };
        let mut canonical = bitmap.clone();
        canonical.clear_tail();
        match canonical == bitmap {
            true => Ok(bitmap),
            false => Err(SegmentError::damaged(file, "has bits beyond its length")),
        }
    }

    fn clear_tail(&mut self) {
        let used = self.len as usize % WORD_BITS;
        if let Some(last) = self.words.last_mut().filter(|_| used > 0) {
            *last &= (1 << used) - 1;
        }
    }
}

fn word_count(len: u32) -> usize {
    (len as usize).div_ceil(WORD_BITS)
}

fn ones(mut word: u64, index: usize) -> impl Iterator<Item = u32> {
    let base = u32::try_from(index * WORD_BITS).unwrap_or(u32::MAX);
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(base + bit)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn bitmap_of(len: u32, numbers: &BTreeSet<u32>) -> Bitmap {
        let mut bitmap = Bitmap::new(len);
        numbers.iter().for_each(|&number| bitmap.set(number));
        bitmap
    }

    fn below(len: u32, numbers: &BTreeSet<u32>) -> BTreeSet<u32> {
        numbers
            .iter()
            .copied()
            .filter(|&number| number < len)
            .collect()
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(
            len in 0u32..300,
            left in prop::collection::btree_set(0u32..320, 0..200),
            right in prop::collection::btree_set(0u32..320, 0..200),
        ) {
            let (a, b) = (bitmap_of(len, &left), bitmap_of(len, &right));
            let (left, right) = (below(len, &left), below(len, &right));
            prop_assert_eq!(a.iter().collect::<BTreeSet<_>>(), left.clone());
            prop_assert_eq!(a.count() as usize, left.len());
            prop_assert_eq!(a.is_empty(), left.is_empty());
            prop_assert!((0..330).all(|number| a.contains(number) == left.contains(&number)));
            let mut both = a.clone();
            both.and(&b);
            prop_assert_eq!(both.iter().collect::<BTreeSet<_>>(), &left & &right);
            let mut either = a.clone();
            either.or(&b);
            prop_assert_eq!(either.iter().collect::<BTreeSet<_>>(), &left | &right);
            let mut neither = either.clone();
            neither.not();
            prop_assert_eq!(neither.count(), len - either.count());
            neither.or(&either);
            prop_assert_eq!(neither, Bitmap::full(len));
            prop_assert_eq!(Bitmap::from_bytes("f", &a.to_bytes()).unwrap(), a);
        }

        #[test]
        fn ranges_are_their_numbers(len in 0u32..300, start in 0u32..320, end in 0u32..320) {
            let mut range = Bitmap::new(len);
            range.set_range(start..end);
            let mut one_by_one = Bitmap::new(len);
            (start..end).for_each(|number| one_by_one.set(number));
            prop_assert_eq!(range, one_by_one);
        }

        #[test]
        fn random_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..64), magic in any::<bool>()) {
            let mut file = if magic { MAGIC.to_vec() } else { Vec::new() };
            file.extend(bytes);
            if let Ok(bitmap) = Bitmap::from_bytes("f", &file) {
                prop_assert_eq!(bitmap.to_bytes(), file);
            }
        }
    }
}
