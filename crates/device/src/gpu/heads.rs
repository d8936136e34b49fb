//! The heads: how large a guest should make each, and what their monitors say of themselves.

use protocol::edid::{Edid, Mode, Monitor};
use protocol::reply::DisplayOne;
use protocol::{MAX_SCANOUTS, Rect, ScanoutId};

use crate::caps;
use crate::display::{Display, Modes};

/// The device's own heads. The display's take their place where it has some.
pub(super) struct Heads {
    own: Vec<OwnHead>,
    given_edid: Option<Edid>,
}

struct OwnHead {
    mode: Mode,
    edid: Edid,
}

impl OwnHead {
    fn new(index: u32, mode: Mode) -> Self {
        Self { mode, edid: Monitor::head(index, mode).edid() }
    }
}

impl Heads {
    pub fn new(modes: Vec<Mode>, given_edid: Option<Edid>) -> Self {
        let own = (0..MAX_SCANOUTS).zip(modes).map(|(index, mode)| OwnHead::new(index, mode)).collect();
        Self { own, given_edid }
    }

    /// How many heads there are of our own.
    pub fn len(&self) -> u32 {
        self.own.len() as u32
    }

    /// Whether the display owns the modes and does not know them yet.
    pub fn are_pending(&self, display: &dyn Display) -> bool {
        display.modes() == Modes::Pending
    }

    /// Whether a guest may name this head. A VMM that owns the modes may have more heads than we were told of.
    pub fn contains(&self, display: &dyn Display, scanout: ScanoutId) -> bool {
        let limit = match display.modes() {
            Modes::Device => self.len(),
            Modes::Display(_) | Modes::Pending => MAX_SCANOUTS,
        };
        scanout.0 < limit
    }

    /// The answer to GET_DISPLAY_INFO. Our own heads stand side by side.
    pub fn info(&self, display: &dyn Display) -> Vec<DisplayOne> {
        match display.modes() {
            Modes::Display(heads) => {
                heads.iter().map(|head| DisplayOne { rect: head.rect, enabled: head.enabled }).collect()
            }
            Modes::Device | Modes::Pending => {
                let mut x = 0u32;
                let side_by_side = |head: &OwnHead| {
                    let rect = Rect::new(x, 0, head.mode.width, head.mode.height);
                    x = x.saturating_add(head.mode.width);
                    DisplayOne { rect, enabled: true }
                };
                self.own.iter().map(side_by_side).collect()
            }
        }
    }

    /// The answer to GET_EDID.
    pub fn edid<'a>(&'a self, display: &'a dyn Display, scanout: ScanoutId) -> Option<&'a [u8]> {
        if let Some(edid) = display.edid(scanout) {
            return Some(edid);
        }
        let own = self.own.get(scanout.0 as usize)?;
        // Two monitors with one serial would be one to the guest.
        let given = self.given_edid.as_ref().filter(|_| scanout.0 == 0);
        Some(given.unwrap_or(&own.edid).as_bytes())
    }

    /// Somebody wants a head of another size. `false`: it has that size, or cannot have it.
    pub fn resize(&mut self, scanout: ScanoutId, width: u32, height: u32) -> bool {
        let possible = 1..=caps::IMAGE_SIZE;
        let Some(own) = self.own.get_mut(scanout.0 as usize) else { return false };
        let is_new = (own.mode.width, own.mode.height) != (width, height);
        let resized = is_new && possible.contains(&width) && possible.contains(&height);
        if resized {
            *own = OwnHead::new(scanout.0, Mode { width, height, ..own.mode });
        }
        resized
    }

    /// The modes of our own heads.
    pub fn modes(&self) -> impl Iterator<Item = Mode> + '_ {
        self.own.iter().map(|own| own.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::display::{Cursor, Frame};

    struct Dark;

    impl Display for Dark {
        fn set_scanout(&mut self, _: ScanoutId, _: Option<&Frame<'_>>) {}
        fn flush(&mut self, _: ScanoutId, _: &Frame<'_>, _: Rect) {}
        fn cursor(&mut self, _: &Cursor<'_>) {}
        fn move_cursor(&mut self, _: ScanoutId, _: u32, _: u32) {}
    }

    #[test]
    fn a_given_edid_is_the_first_heads_and_serials_stay_over_a_resize() {
        let mode = Mode { width: 640, height: 480, refresh: 60 };
        let given = Monitor::head(7, mode).edid();
        let mut heads = Heads::new(vec![mode; 3], Some(given.clone()));
        let serial = |edid: &[u8]| edid[12..16].to_vec();
        assert_eq!(heads.edid(&Dark, ScanoutId(0)), Some(given.as_bytes()));
        let before = [1, 2].map(|id| serial(heads.edid(&Dark, ScanoutId(id)).unwrap()));
        assert_ne!(before[0], before[1]);
        assert!(heads.resize(ScanoutId(1), 800, 600));
        assert_eq!([1, 2].map(|id| serial(heads.edid(&Dark, ScanoutId(id)).unwrap())), before);
        assert_eq!(heads.edid(&Dark, ScanoutId(3)), None);
    }
}
