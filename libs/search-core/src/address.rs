//! The 64-bit name of a passage: all that the stages exchange.

use std::fmt;

/// A passage of one snapshot: segment number in the upper half, ordinal in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

impl Address {
    /// The address of the passage with this ordinal in this segment.
    pub const fn new(segment: u32, ordinal: u32) -> Self {
        Self(((segment as u64) << 32) | ordinal as u64)
    }

    /// The address as it travels; every number is one.
    pub const fn from_u64(packed: u64) -> Self {
        Self(packed)
    }

    /// The number that travels.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// Segment number.
    pub const fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Place of the passage in its segment.
    pub const fn ordinal(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.segment(), self.ordinal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packs_and_unpacks(segment: u32, ordinal: u32) {
            let address = Address::new(segment, ordinal);
            prop_assert_eq!((address.segment(), address.ordinal()), (segment, ordinal));
            prop_assert_eq!(Address::from_u64(address.to_u64()), address);
        }

        #[test]
        fn orders_by_segment_then_ordinal(left: (u32, u32), right: (u32, u32)) {
            let ordering = Address::new(left.0, left.1).cmp(&Address::new(right.0, right.1));
            prop_assert_eq!(ordering, left.cmp(&right));
        }
    }

    #[test]
    fn displays_segment_and_ordinal() {
        assert_eq!(Address::new(3, 17).to_string(), "3:17");
    }
}
