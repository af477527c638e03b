//! Metrics with labels that have closed lists of values.
//!
//! The series of a metric are an array, and the values of its labels are the index: updating a series costs as much as
//! updating a counter, without formatting or looking up a name. The series of a counter with few of them are registered,
//! and exported, from the start: Prometheus does not see the increment with which a series appears. Other series are
//! registered when they are first used.

use std::fmt;
use std::marker::PhantomData;
use std::sync::OnceLock;

use metrics::Label as Pair;

use super::registry::Instrument;

/// Maximum number of series of a counter that are exported from the start.
const MAX_REGISTERED: usize = 64;

/// The values of a label.
pub trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// All values, in the order of their numbers.
    const VALUES: &'static [Self];
    /// Number of values.
    const SIZE: usize = Self::VALUES.len();

    /// Returns the value's number, below [`Self::SIZE`].
    fn index(self) -> usize;

    /// Returns the value.
    fn word(self) -> &'static str;
}

/// The values of all labels of a metric: a tuple.
pub trait Labels: Copy {
    /// Number of combinations.
    const SIZE: usize;

    /// Returns the number of this combination, below [`Self::SIZE`].
    fn index(self) -> usize;

    /// Returns the combination with this number, which is below [`Self::SIZE`].
    fn from_index(index: usize) -> Self;

    /// Returns the names and values.
    fn pairs(self) -> Vec<Pair>;
}

macro_rules! impl_labels {
    ($($label:ident . $position:tt),+) => {
        impl<$($label: Label),+> Labels for ($($label,)+) {
            const SIZE: usize = 1 $(* $label::SIZE)+;

            fn index(self) -> usize {
                let mut index = 0;
                $(index = index * $label::SIZE + self.$position.index();)+
                index
            }

            fn from_index(index: usize) -> Self {
                let mut rest = Self::SIZE;
                ($({
                    rest /= $label::SIZE;
                    $label::VALUES[index / rest % $label::SIZE]
                },)+)
            }

            fn pairs(self) -> Vec<Pair> {
                vec![$(Pair::from_static_parts($label::NAME, self.$position.word())),+]
            }
        }
    };
}

impl_labels!(A.0);
impl_labels!(A.0, B.1);
impl_labels!(A.0, B.1, C.2);
impl_labels!(A.0, B.1, C.2, D.3);

/// Defines a label with its values.
macro_rules! label {
    (
        $(#[doc = $about:literal])+
        pub enum $type:ident as $label:literal {
            $($(#[doc = $meaning:literal])+ $name:ident = $word:literal,)+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl $type {
            /// All values.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$name),+];
        }

        impl $crate::metrics::family::Label for $type {
            const NAME: &'static str = $label;
            const VALUES: &'static [Self] = &Self::ALL;

            fn index(self) -> usize {
                self as usize
            }

            fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }
        }
    };
}

pub(super) use label;

/// A metric with the labels `L`.
pub struct Family<L, I> {
    name: &'static str,
    series: Box<[OnceLock<I>]>,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels, I: Instrument> Family<L, I> {
    /// Creates the metric. The series `first` is exported before it is used, so that the metric is never absent.
    pub(super) fn new(name: &'static str, help: &'static str, first: L) -> Self {
        I::describe(name, help);
        let family = Self { name, series: (0..L::SIZE).map(|_| OnceLock::new()).collect(), labels: PhantomData };
        family.get(first);
        if I::IS_COUNTER && L::SIZE <= MAX_REGISTERED {
            for index in 0..L::SIZE {
                family.get(L::from_index(index));
            }
        }
        family
    }

    /// Returns the series with these values.
    pub fn get(&self, values: L) -> &I {
        self.series[values.index()].get_or_init(|| I::register(self.name, values.pairs()))
    }
}

impl<L, I> fmt::Debug for Family<L, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::labels::{PoolName, PoolState, Stream};

    #[test]
    fn every_combination_has_its_own_index() {
        type All = (Stream, PoolName, PoolState);
        let mut indexes = Vec::new();
        for stream in Stream::ALL {
            for pool in PoolName::ALL {
                indexes.extend(PoolState::ALL.map(|state| (stream, pool, state).index()));
            }
        }
        assert_eq!(indexes, (0..<All as Labels>::SIZE).collect::<Vec<_>>());
        assert!(indexes.iter().all(|index| All::from_index(*index).index() == *index));
    }

    #[test]
    fn labels_have_their_names_and_values() {
        let pairs = (Stream::Bulk, PoolState::Idle).pairs();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|pair| (pair.key(), pair.value())).collect();
        assert_eq!(pairs, [("stream", "bulk"), ("state", "idle")]);
    }
}
