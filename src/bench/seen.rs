//! A set of numbers with one bit each, so that fifty million messages take six megabytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A set of numbers that grows as needed.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen(Vec<u8>);

/// Larger numbers are ignored, so that memory does not depend on what a message contains.
const LIMIT: u64 = 50 * 51_000_000;

impl Seen {
    /// Adds a number. Returns whether it is new; a number out of bounds never is.
    pub(super) fn add(&mut self, number: u64) -> bool {
        let Some((byte, bit)) = place(number) else { return false };
        if byte >= self.0.len() {
            self.0.resize((byte + 1).next_multiple_of(4_096), 0);
        }
        let is_new = self.0[byte] & bit == 0;
        self.0[byte] |= bit;
        is_new
    }

    /// Returns whether the number was added.
    pub(super) fn has(&self, number: u64) -> bool {
        place(number).is_some_and(|(byte, bit)| self.0.get(byte).is_some_and(|bits| bits & bit != 0))
    }

    /// The numbers, in order.
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

    /// Reads the text of [`Seen::to_text`].
    pub(super) fn from_text(text: &str) -> Option<Self> {
        STANDARD.decode(text).ok().map(Self)
    }
}

fn place(number: u64) -> Option<(usize, u8)> {
    let byte = usize::try_from(number / 8).ok()?;
    (number < LIMIT).then_some((byte, 1 << (number % 8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_new_once() {
        let mut seen = Seen::default();
        assert!(seen.add(7) && seen.add(8) && seen.add(100_000));
        assert!(!seen.add(8) && !seen.add(u64::MAX) && !seen.has(9) && !seen.has(1_000_000));
        let told = Seen::from_text(&seen.to_text()).unwrap();
        assert_eq!(told.numbers().collect::<Vec<_>>(), [7, 8, 100_000]);
        assert!(told.has(100_000) && Seen::from_text("?").is_none());
    }
}
