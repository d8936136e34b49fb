//! Video timings after VESA's CVT 1.2 with reduced blanking (version 1).
//!
//! Two liberties: widths need not be a multiple of 8, so that 1366x768 is 1366 wide, and the pixel clock is rounded to
//! the descriptors' 10 kHz instead of 250 kHz, so that 60 Hz means 60.00 Hz.

use super::Mode;

/// CVT's shortest vertical blanking leaves no time for a picture beyond this rate.
pub(super) const MAX_REFRESH: u32 = 1000;

/// The shortest vertical blanking, in microseconds.
const MIN_VERTICAL_BLANK_US: u64 = 460;
/// The fewest lines between vertical sync and picture.
const MIN_VERTICAL_BACK_PORCH: u32 = 6;
/// Readers take a slower pixel clock for garbage, so a small picture gets more blanking.
const MIN_CLOCK: u64 = 10_000_000;
/// The pixel clock of a DisplayID timing has 24 bits.
const MAX_CLOCK_10KHZ: u64 = (1 << 24) - 1;

/// A mode with everything around the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    pub(super) mode: Mode,
    /// In units of 10 kHz.
    pub(super) clock: u32,
    pub(super) h_blank: u32,
    pub(super) h_front: u32,
    pub(super) h_sync: u32,
    pub(super) v_blank: u32,
    pub(super) v_front: u32,
    pub(super) v_sync: u32,
}

impl Timing {
    /// The reduced-blanking timing of a mode whose sides and rate are in bounds.
    pub(super) fn reduced_blanking(mode: Mode) -> Self {
        let (h_blank, h_front, h_sync) = (160, 48, 32);
        let v_front = 3;
        let v_sync = v_sync(mode.width, mode.height);
        let active_us = 1_000_000 / u64::from(mode.refresh.clamp(1, MAX_REFRESH)) - MIN_VERTICAL_BLANK_US;
        let blank_lines = MIN_VERTICAL_BLANK_US * u64::from(mode.height) / active_us + 1;
        let h_total = u64::from(mode.width + h_blank);
        let slow = MIN_CLOCK.div_ceil(h_total * u64::from(mode.refresh)).saturating_sub(u64::from(mode.height));
        let least = u64::from(v_front + v_sync + MIN_VERTICAL_BACK_PORCH);
        let v_blank = blank_lines.max(least).max(slow.min(0xfff)) as u32;
        let pixels = h_total * u64::from(mode.height + v_blank);
        let clock = (pixels * u64::from(mode.refresh) + 5_000) / 10_000;
        Self { mode, clock: clock.clamp(1, MAX_CLOCK_10KHZ) as u32, h_blank, h_front, h_sync, v_blank, v_front, v_sync }
    }

    /// Whether an 18-byte detailed timing descriptor can hold it.
    pub(super) fn fits_descriptor(&self) -> bool {
        self.mode.width <= 0xfff && self.mode.height <= 0xfff && self.v_blank <= 0xfff && self.clock <= 0xffff
    }
}

/// CVT tells the aspect ratio by the width of vertical sync.
fn v_sync(width: u32, height: u32) -> u32 {
    let is = |w, h| width * h == height * w;
    match () {
        () if is(4, 3) => 4,
        () if is(16, 9) => 5,
        () if is(16, 10) => 6,
        () if is(5, 4) || is(15, 9) => 7,
        () => 10,
    }
}
