//! Where on the guest's desktop a place on a head is.

use std::sync::{Mutex, MutexGuard};

use protocol::Rect;

use crate::display::Head;

/// The largest value of an absolute axis; the smallest is 0.
pub const AXIS_MAX: u16 = 32767;

/// The heads as they lie on the desktop, which the GPU tells and input devices ask. Absolute axes span all of it.
#[derive(Debug, Default)]
pub struct Desktop(Mutex<Vec<Head>>);

impl Desktop {
    /// A desktop of which nothing is known yet: each head is all of it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The heads are these now.
    pub fn set(&self, heads: &[Head]) {
        let mut known = self.lock();
        known.clear();
        known.extend_from_slice(heads);
    }

    /// The axes' values for a place on a head, given as shares of it (0 is its first pixel, 65535 the last). A head that is
    /// not there is all of the desktop.
    pub fn place(&self, head: u8, x: u16, y: u16) -> (u16, u16) {
        let heads = self.lock();
        let enabled = |head: &&Head| head.enabled && head.rect.width > 0 && head.rect.height > 0;
        let Some(on) = heads.get(usize::from(head)).filter(|head| enabled(head)) else { return (x >> 1, y >> 1) };
        let rects = || heads.iter().filter(enabled).map(|head| head.rect);
        let horizontal = |rect: &Rect| (rect.x, rect.width);
        let vertical = |rect: &Rect| (rect.y, rect.height);
        (
            axis(x, horizontal(&on.rect), rects().map(|rect| horizontal(&rect))),
            axis(y, vertical(&on.rect), rects().map(|rect| vertical(&rect))),
        )
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Head>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The middle of the pixel at `share` of `head`, on an axis that spans all of `heads`. Spans are start and length.
fn axis(share: u16, head: (u32, u32), heads: impl Iterator<Item = (u32, u32)> + Clone) -> u16 {
    let start = heads.clone().map(|(at, _)| u64::from(at)).min().unwrap_or(0);
    let end = heads.map(|(at, len)| u64::from(at) + u64::from(len)).max().unwrap_or(0);
    let (at, len) = (u64::from(head.0).saturating_sub(start), u64::from(head.1.max(1)));
    // In halves of a 65535th of a pixel: at + share * (len - 1) / 65535 + 1/2.
    let half_parts = 2 * (u128::from(at) * 65535 + u128::from(share) * u128::from(len - 1)) + 65535;
    let span = 2 * 65535 * u128::from(end.saturating_sub(start).max(1));
    u16::try_from(half_parts * (u128::from(AXIS_MAX) + 1) / span).unwrap_or(AXIS_MAX).min(AXIS_MAX)
}
