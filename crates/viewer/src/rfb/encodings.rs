//! What a client can take, from its list of encodings.

use super::message::{DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE};

/// Numbers of the encodings.
pub(crate) const RAW: i32 = 0;
pub(crate) const ZRLE: i32 = 16;
pub(crate) const CURSOR: i32 = -239;
pub(crate) const CURSOR_WITH_ALPHA: i32 = -314;
pub(crate) const VMWARE_CURSOR: i32 = 0x574d_5664;

/// Numbers of pseudo-encodings about input: QEMU's codes of keys and lights, and buttons beyond the eighth.
pub(crate) const KEY_CODES: i32 = -258;
pub(crate) const LEDS: i32 = -261;
pub(crate) const MORE_BUTTONS: i32 = -316;

/// How pixels are packed when the way to the client is slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Not at all: the client knows no other or prefers it.
    #[default]
    Raw,
    Zrle,
}

/// How a cursor is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CursorKind {
    /// The client cannot draw it, so we do.
    #[default]
    Drawn,
    /// A picture and a mask of one bit.
    Mask,
    /// Premultiplied alpha.
    Alpha,
    /// Straight alpha.
    Vmware,
}

/// A client's abilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub(crate) packing: Packing,
    pub(crate) cursor: CursorKind,
    pub(crate) desktop_size: bool,
    pub(crate) extended_desktop_size: bool,
    /// It can say which key it is, not only what is printed on it.
    pub(crate) key_codes: bool,
    pub(crate) more_buttons: bool,
    /// It shows the lights of the guest's keyboard.
    pub(crate) leds: bool,
}

impl Abilities {
    /// Of the packings the client's first counts, of the cursors our best.
    pub(crate) fn from_list(list: &[i32]) -> Self {
        let has = |encoding| list.contains(&encoding);
        let packing = list.iter().find_map(|encoding| match *encoding {
            RAW => Some(Packing::Raw),
            ZRLE => Some(Packing::Zrle),
            _ => None,
        });
        let cursor = if has(CURSOR_WITH_ALPHA) {
            CursorKind::Alpha
        } else if has(VMWARE_CURSOR) {
            CursorKind::Vmware
        } else if has(CURSOR) {
            CursorKind::Mask
        } else {
            CursorKind::Drawn
        };
        Self {
            packing: packing.unwrap_or_default(),
            cursor,
            desktop_size: has(DESKTOP_SIZE),
            extended_desktop_size: has(EXTENDED_DESKTOP_SIZE),
            key_codes: has(KEY_CODES),
            more_buttons: has(MORE_BUTTONS),
            leds: has(LEDS),
        }
    }

    /// True when the desktop of this client can change its size.
    pub(crate) fn can_resize(&self) -> bool {
        self.desktop_size || self.extended_desktop_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packing_that_the_client_lists_counts() {
        let packing = |list: &[i32]| Abilities::from_list(list).packing;
        assert_eq!(packing(&[1, 16, 5, 0]), Packing::Zrle);
        assert_eq!(packing(&[0, 16]), Packing::Raw);
        assert_eq!(packing(&[5, 2]), Packing::Raw);
    }

    #[test]
    fn the_best_cursor_is_taken_and_without_one_we_draw() {
        let cursor = |list: &[i32]| Abilities::from_list(list).cursor;
        assert_eq!(cursor(&[0, CURSOR, VMWARE_CURSOR, CURSOR_WITH_ALPHA]), CursorKind::Alpha);
        assert_eq!(cursor(&[0, CURSOR, VMWARE_CURSOR]), CursorKind::Vmware);
        assert_eq!(cursor(&[0, CURSOR]), CursorKind::Mask);
        assert_eq!(cursor(&[0]), CursorKind::Drawn);
    }
}
