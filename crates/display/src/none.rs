//! Shows nothing.

use device::{Cursor, Display, Frame};
use protocol::{Rect, ScanoutId};

/// A display that nobody looks at. Screenshots over the control socket work all the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDisplay;

impl Display for NoDisplay {
    fn set_scanout(&mut self, _scanout: ScanoutId, _frame: Option<&Frame<'_>>) {}
    fn flush(&mut self, _scanout: ScanoutId, _frame: &Frame<'_>, _damage: Rect) {}
    fn cursor(&mut self, _cursor: &Cursor<'_>) {}
    fn move_cursor(&mut self, _scanout: ScanoutId, _x: u32, _y: u32) {}

    fn is_watched(&self, _scanout: ScanoutId) -> bool {
        false
    }
}
