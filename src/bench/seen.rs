//! A set of numbers with one bit each, so that fifty million messages take six megabytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A set of numbers that grows as needed.
#[derive(Debug, Default, Clone)]
pub(super) struct NumberSet(Vec<u8>);

/// Numbers from here on are ignored, so that a message cannot make the set use more memory.
const LIMIT: u64 = 50 * 51_000_000;

impl NumberSet {
    /// Adds a number. Returns whether it is new; false for a number out of range.
    pub(super) fn add(&mut self, number: u64) -> bool {
        let Some((byte, bit)) = bit_of(number) else { return false };
        if byte >= self.0.len() {
            self.0.resize((byte + 1).next_multiple_of(4_096), 0);
        }
        let is_new = self.0[byte] & bit == 0;
        self.0[byte] |= bit;
        is_new
    }

    /// Returns whether the set contains the number.
    pub(super) fn contains(&self, number: u64) -> bool {
        bit_of(number).is_some_and(|(byte, bit)| self.0.get(byte).is_some_and(|bits| bits & bit != 0))
    }

    /// Returns the numbers, in order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        (0_u64..).zip(&self.0).flat_map(|(byte, bits)| {
            let bits = *bits;
            (0..8).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| byte * 8 + bit)
        })
    }

    /// Returns the set as text.
    pub(super) fn to_text(&self) -> String {
        STANDARD.encode(&self.0)
    }

    /// Parses the text of [`NumberSet::to_text`].
    pub(super) fn from_text(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok().map(Self)
    }
}

/// Returns the index of the byte, and the bit in it.
fn bit_of(number: u64) -> Option<(usize, u8)> {
    let byte = usize::try_from(number / 8).ok()?;
    (number < LIMIT).then_some((byte, 1 << (number % 8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once() {
        let mut set = NumberSet::default();
        assert!(set.add(7) && set.add(8) && set.add(100_000));
        assert!(!set.add(8) && !set.add(u64::MAX) && !set.contains(9) && !set.contains(1_000_000));
        let parsed = NumberSet::from_text(&set.to_text()).unwrap();
        assert_eq!(parsed.numbers().collect::<Vec<_>>(), [7, 8, 100_000]);
        assert!(parsed.contains(100_000) && NumberSet::from_text("?").is_none());
    }
}
