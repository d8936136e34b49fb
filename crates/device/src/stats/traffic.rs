//! What came and how long it took: commands and errors by name, and histograms of latency.

use std::time::Duration;

use protocol::names::{COMMANDS, NAMES};
use serde::Serialize;

use super::Counter;

/// Upper bounds of a histogram's buckets in microseconds, inclusive: powers of four from 1 us to about a second. One more
/// bucket takes all that lasted longer.
pub const BOUNDS_US: [u64; 11] = [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576];

/// Commands by name, and how long they took. Written by the [`Meter`](crate::Meter) of one device.
#[derive(Debug, Default)]
pub struct Traffic {
    commands: [Counter; COMMANDS],
    errors: [Counter; COMMANDS],
    /// From the word that there is something to do to the answer, of every command.
    pub queue: Histogram,
    /// The same, of the commands that carry a fence.
    pub fence: Histogram,
}

impl Traffic {
    /// A command came. `place` is [`Header::place`](protocol::Header::place).
    pub fn came(&self, place: usize) {
        if let Some(counter) = self.commands.get(place) {
            counter.add(1);
        }
    }

    /// A command was answered with an error.
    pub fn failed(&self, place: usize) {
        if let Some(counter) = self.errors.get(place) {
            counter.add(1);
        }
    }

    /// How often each command came, by name.
    pub fn commands(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.commands.iter().map(Counter::get))
    }

    /// How often each was answered with an error.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.errors.iter().map(Counter::get))
    }
}

/// How often something lasted how long.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Counter; BOUNDS_US.len() + 1],
    sum_ns: Counter,
}

/// A [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Times {
    /// [`BOUNDS_US`].
    pub bounds_us: [u64; BOUNDS_US.len()],
    /// How often something lasted longer than the bound before and no longer than its own; the last has no bound.
    pub counts: [u64; BOUNDS_US.len() + 1],
    /// All of it together in microseconds.
    pub sum_us: u64,
}

/// The bucket of what lasts so long. Asked for after each batch: bounds are powers of four, so their logarithm is counted, not found.
#[inline]
fn bucket(nanoseconds: u64) -> usize {
    let beyond_one = nanoseconds.div_ceil(1000).saturating_sub(1);
    let bits = (u64::BITS - beyond_one.leading_zeros()) as usize;
    bits.div_ceil(2).min(BOUNDS_US.len())
}

impl Histogram {
    /// `count` times something lasted `time`.
    pub fn add(&self, time: Duration, count: u64) {
        const SECOND: u64 = 1_000_000_000;
        let nanoseconds = time.as_secs().saturating_mul(SECOND).saturating_add(time.subsec_nanos().into());
        self.counts[bucket(nanoseconds)].add(count);
        self.sum_ns.add(nanoseconds.saturating_mul(count));
    }

    /// What it holds now.
    pub fn times(&self) -> Times {
        let counts = std::array::from_fn(|bucket| self.counts[bucket].get());
        Times { bounds_us: BOUNDS_US, counts, sum_us: self.sum_ns.get() / 1000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_ends_with_its_bound() {
        let expected = |nanoseconds: u64| BOUNDS_US.partition_point(|bound| bound * 1000 < nanoseconds);
        let around = BOUNDS_US.iter().flat_map(|bound| [bound * 1000 - 1, bound * 1000, bound * 1000 + 1]);
        let others = (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, (1 << bit) + 999]).chain([u64::MAX]);
        for nanoseconds in around.chain(others) {
            assert_eq!(bucket(nanoseconds), expected(nanoseconds), "{nanoseconds}");
        }
    }

    #[test]
    fn what_lasts_as_long_as_a_bound_is_within_it() {
        let histogram = Histogram::default();
        for (nanoseconds, count) in [(0, 1), (1000, 2), (1001, 4), (4000, 8), (1_048_576_000, 16), (1_048_576_001, 32)]
        {
            histogram.add(Duration::from_nanos(nanoseconds), count);
        }
        let times = histogram.times();
        assert_eq!(times.counts, [3, 12, 0, 0, 0, 0, 0, 0, 0, 0, 16, 32]);
        assert_eq!(times.sum_us, (2000 + 4 * 1001 + 8 * 4000 + 16 * 1_048_576_000 + 32 * 1_048_576_001) / 1000);
        histogram.add(Duration::MAX, 1);
        assert_eq!(histogram.times().counts[11], 33);
    }
}
