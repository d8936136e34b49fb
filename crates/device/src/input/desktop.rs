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

#[cfg(test)]
mod tests {
    use super::*;

    fn head(x: u32, y: u32, width: u32, height: u32) -> Head {
        Head { enabled: true, rect: Rect::new(x, y, width, height) }
    }

    /// The pixel that a guest whose desktop is so wide makes of an axis' value, as libinput does it.
    fn pixel(value: u16, width: u32) -> u32 {
        u32::from(value) * width / 32768
    }

    #[test]
    fn every_pixel_is_met() {
        for width in [1, 2, 3, 640, 1280, 1366, 1920, 2560, 3840, 7680, 16384] {
            let desktop = Desktop::new();
            desktop.set(&[head(0, 0, width, width)]);
            for at in 0..width {
                // As a viewer does it that knows the pixel.
                let share = if width == 1 { 0 } else { (at * 65535 / (width - 1)) as u16 };
                let (x, y) = desktop.place(0, share, share);
                let met = pixel(x, width);
                // The shares of neighbours differ by more than one, so a head can be told to the pixel.
                assert_eq!((met, x), (at, y), "pixel {at} of {width}");
            }
        }
    }

    #[test]
    fn the_corners_of_every_head_are_met_on_a_desktop_of_several() {
        let heads = [head(0, 200, 1280, 800), head(1280, 0, 1920, 1080), head(3200, 100, 1024, 768)];
        let desktop = Desktop::new();
        desktop.set(&heads);
        for (index, Head { rect, .. }) in (0..).zip(heads) {
            for (share, far) in [(0, 0), (65535, 1)] {
                let (x, y) = desktop.place(index, share, share);
                let met = (pixel(x, 1280 + 1920 + 1024), pixel(y, 1080));
                assert_eq!(met, (rect.x + far * (rect.width - 1), rect.y + far * (rect.height - 1)), "{index}");
            }
        }
    }

    #[test]
    fn impossible_heads_do_no_harm() {
        let desktop = Desktop::new();
        assert_eq!(desktop.place(0, 65535, 1), (32767, 0));
        desktop.set(&[head(5, 5, 0, 10), head(u32::MAX, u32::MAX, u32::MAX, u32::MAX), Head::default()]);
        assert_eq!(desktop.place(0, 65535, 2), (32767, 1), "a head without pixels is all of the desktop");
        assert_eq!(desktop.place(1, 65535, 0), (32767, 0));
        desktop.set(&[head(0, 0, 1, 1), head(u32::MAX, u32::MAX, u32::MAX, u32::MAX)]);
        let (x, y) = desktop.place(1, 65535, 65535);
        assert!(x <= 32767 && y <= 32767);
        desktop.set(&[]);
        assert_eq!(desktop.place(0, 2, 2), (1, 1));
    }
}
