//! How fast the way to a client is, and so whether packing pays.
//!
//! Measured for a moving picture of 1920x1080: making bytes of it takes 2 to 5 ms of a core, packing it losslessly 15 ms (text)
//! to 125 ms (photographs). On the way to a browser on the same host packing only costs; through a tunnel it is all that helps.
//! Both look alike from here, so the way is measured, by what is sent anyway.

/// Bytes of an update from which on its time says something; less disappears in buffers.
const SAMPLE: usize = 512 << 10;

/// Bytes a second from which on packing costs more time than it saves.
const FAST: u64 = 80_000_000;

/// Bytes a second below which packing saves time.
const SLOW: u64 = 30_000_000;

/// Fast samples that a way must show after it was found slow, at first and at most; doubled each time it disappoints, because
/// a tunnel's buffers look fast.
const PENANCE: std::ops::RangeInclusive<u32> = 4..=256;

/// What is known of the way to a client.
#[derive(Debug, Default)]
pub(crate) struct Link {
    fast: bool,
    penance: u32,
    left: u32,
}

impl Link {
    /// True when pixels are best sent as they are.
    pub(crate) fn is_fast(&self) -> bool {
        self.fast
    }

    /// An update of that many bytes took that long to get rid of.
    pub(crate) fn sample(&mut self, bytes: usize, nanoseconds: u128) {
        if bytes < SAMPLE {
            return;
        }
        let rate = bytes as u128 * 1_000_000_000 / nanoseconds.max(1);
        if rate >= u128::from(FAST) {
            self.left = self.left.saturating_sub(1);
            self.fast |= self.left == 0;
        } else if rate < u128::from(SLOW) && self.fast {
            self.fast = false;
            self.penance = (self.penance * 2).clamp(*PENANCE.start(), *PENANCE.end());
            self.left = self.penance;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: (usize, u128) = (8 << 20, 10_000_000);
    const TARDY: (usize, u128) = (8 << 20, 4_000_000_000);

    fn feed(link: &mut Link, (bytes, nanoseconds): (usize, u128), times: usize) {
        (0..times).for_each(|_| link.sample(bytes, nanoseconds));
    }

    #[test]
    fn a_new_way_is_taken_for_slow_until_it_shows_otherwise() {
        let mut link = Link::default();
        assert!(!link.is_fast());
        link.sample(SAMPLE - 1, 1);
        assert!(!link.is_fast(), "too little to tell");
        feed(&mut link, QUICK, 1);
        assert!(link.is_fast());
    }

    #[test]
    fn a_way_that_disappoints_must_show_more_each_time() {
        let mut link = Link::default();
        feed(&mut link, QUICK, 1);
        for penance in [4, 8, 16, 32, 64, 128, 256, 256] {
            feed(&mut link, TARDY, 1);
            assert!(!link.is_fast());
            feed(&mut link, QUICK, penance - 1);
            assert!(!link.is_fast());
            feed(&mut link, QUICK, 1);
            assert!(link.is_fast());
        }
    }
}
