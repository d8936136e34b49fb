//! What the driver was told of the heads, so that no change of theirs escapes it.
//!
//! A driver that hears of a change asks for the heads and then clears the event (virtio 1.3, section 5.7.4). A change that
//! falls between the answer and the clearing is cleared with the one before it: then the event is raised once more.

use protocol::{MAX_SCANOUTS, ScanoutId};

/// An answer to the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Answer {
    /// The driver has none, or was told to ask again.
    #[default]
    None,
    Newest,
    /// The heads changed since.
    Old,
}

/// The answers that the driver has.
#[derive(Debug, Default)]
pub(super) struct Told {
    info: Answer,
    edids: [Answer; MAX_SCANOUTS as usize],
}

impl Told {
    /// GET_DISPLAY_INFO was answered.
    pub fn info(&mut self) {
        self.info = Answer::Newest;
    }

    /// GET_EDID was answered.
    pub fn edid(&mut self, scanout: ScanoutId) {
        if let Some(edid) = self.edids.get_mut(scanout.0 as usize) {
            *edid = Answer::Newest;
        }
    }

    /// A head changed.
    pub fn changed(&mut self, scanout: ScanoutId) {
        for answer in [Some(&mut self.info), self.edids.get_mut(scanout.0 as usize)].into_iter().flatten() {
            if *answer == Answer::Newest {
                *answer = Answer::Old;
            }
        }
    }

    /// Any head may have changed.
    pub fn all_changed(&mut self) {
        (0..MAX_SCANOUTS).map(ScanoutId).for_each(|scanout| self.changed(scanout));
    }

    /// Whether the driver is to ask again. Says so once for each answer that became old: a driver that clears the event
    /// without asking is not told for ever.
    pub fn take_old(&mut self) -> bool {
        let mut any = false;
        for answer in self.edids.iter_mut().chain([&mut self.info]).filter(|answer| **answer == Answer::Old) {
            *answer = Answer::None;
            any = true;
        }
        any
    }
}
