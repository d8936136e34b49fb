//! Times of many operations, and what is said of them.

use std::time::{Duration, Instant};

use crate::error::Result;

/// The times of one run of a workload.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timing {
    /// Operations in a second, all in all: what else ran on the machine is in it.
    pub rate: f64,
    /// Half of the operations took at most so many microseconds.
    pub p50_us: f64,
    /// Ninety-nine of a hundred operations took at most so many microseconds.
    pub p99_us: f64,
    /// Operations that were timed.
    pub count: u64,
}

impl Timing {
    /// Operations in a second if all took as long as the one in the middle: what else runs on the machine hardly matters.
    pub fn typical_rate(&self) -> f64 {
        1e6 / self.p50_us
    }
}

/// Runs `operation` over and over for `budget` after a tenth of that as warm-up, at least once. Each call is one sample
/// and `per_call` operations.
pub fn sample(budget: Duration, per_call: u32, mut operation: impl FnMut() -> Result<()>) -> Result<Timing> {
    let warm = Instant::now();
    while warm.elapsed() < budget / 10 {
        operation()?;
    }
    let mut nanoseconds: Vec<u32> = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    let mut last = start;
    let elapsed = loop {
        operation()?;
        let now = Instant::now();
        nanoseconds.push((now - last).as_nanos().try_into().unwrap_or(u32::MAX));
        last = now;
        if now - start >= budget {
            break now - start;
        }
    };
    Ok(summary(&mut nanoseconds, elapsed, per_call))
}

/// What is said of the times of some calls, each of so many operations.
pub(crate) fn summary(nanoseconds: &mut [u32], elapsed: Duration, per_call: u32) -> Timing {
    nanoseconds.sort_unstable();
    let calls = nanoseconds.len();
    let at = |share: f64| f64::from(nanoseconds[((calls - 1) as f64 * share) as usize]) / 1000.0 / f64::from(per_call);
    let count = calls as u64 * u64::from(per_call);
    Timing { rate: count as f64 / elapsed.as_secs_f64(), p50_us: at(0.5), p99_us: at(0.99), count }
}

/// The middle one of some numbers, or the mean of the two in the middle.
pub fn median(numbers: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        length if length % 2 == 1 => Some(numbers[middle]),
        _ => Some((numbers[middle - 1] + numbers[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_divides_a_call_by_its_operations() {
        let mut calls: Vec<u32> = (1..=100).map(|call| call * 64_000).collect();
        let timing = summary(&mut calls, Duration::from_secs(2), 64);
        assert_eq!((timing.p50_us, timing.p99_us, timing.count), (50.0, 99.0, 6400));
        assert_eq!(timing.rate, 3200.0);
    }

    #[test]
    fn the_median_does_not_care_for_one_wild_number() {
        assert_eq!(median([3.0, 1.0, 1e9]), Some(3.0));
        assert_eq!(median([1.0, 2.0]), Some(1.5));
        assert_eq!(median([]), None);
    }
}
