//! `virtio_gpu_config` (virtio 1.3, section 5.7.4).

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::three_d::Capset;
use crate::virtio::{ConfigSpace, Front};

/// `VIRTIO_GPU_EVENT_DISPLAY`: the heads changed.
const EVENT_DISPLAY: u32 = 1 << 0;

/// The configuration space: events_read, events_clear, num_scanouts, num_capsets, and zeros for all that newer drafts
/// append (QEMU reads a fifth word, blob_alignment).
#[derive(Debug)]
pub struct GpuConfigSpace {
    events: AtomicU32,
    num_scanouts: u32,
    /// Which of [`FRONTS`] is there.
    front: AtomicUsize,
    /// How many capability sets there are for each of them.
    num_capsets: [u32; FRONTS.len()],
}

/// What a front-end can be; the first one is assumed until it is known.
const FRONTS: [Front; 4] = [
    Front { maps: false, context_init: false },
    Front { maps: false, context_init: true },
    Front { maps: true, context_init: false },
    Front { maps: true, context_init: true },
];

impl GpuConfigSpace {
    const EVENTS_CLEAR: u64 = 4;

    pub(super) fn new(num_scanouts: u32, capsets: &[Capset]) -> Self {
        let count = |front| capsets.iter().filter(|capset| capset.is_for(front)).count() as u32;
        let num_capsets = FRONTS.map(count);
        Self { events: AtomicU32::new(0), num_scanouts, front: AtomicUsize::new(0), num_capsets }
    }

    /// What the front-end can do, as far as it is known.
    pub(super) fn front(&self) -> Front {
        FRONTS[self.front.load(Ordering::Acquire)]
    }

    /// The driver is to ask for the heads again.
    pub(super) fn raise_display_event(&self) {
        self.events.fetch_or(EVENT_DISPLAY, Ordering::Release);
    }

    /// Whether the driver has not cleared the event yet.
    pub(super) fn is_display_event_raised(&self) -> bool {
        self.events.load(Ordering::Acquire) & EVENT_DISPLAY != 0
    }

    pub(super) fn clear_events(&self) {
        self.events.store(0, Ordering::Release);
    }
}

impl ConfigSpace for GpuConfigSpace {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let words = [
            self.events.load(Ordering::Acquire),
            0,
            self.num_scanouts,
            self.num_capsets[self.front.load(Ordering::Acquire)],
        ];
        let bytes = words.map(u32::to_le_bytes).concat();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = data.len().min(bytes.len() - start);
        data[..count].copy_from_slice(&bytes[start..start + count]);
        data[count..].fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut clear = [0; 4];
        for (index, target) in (0..).zip(&mut clear) {
            let at = (Self::EVENTS_CLEAR + index).checked_sub(offset).and_then(|at| usize::try_from(at).ok());
            *target = at.and_then(|at| data.get(at)).copied().unwrap_or(0);
        }
        self.events.fetch_and(!u32::from_le_bytes(clear), Ordering::AcqRel);
    }

    fn front(&self, front: Front) {
        let known = FRONTS.iter().position(|known| *known == front);
        self.front.store(known.unwrap_or(0), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2026_50626_any_offset_and_width_reads_the_fields_and_then_zeros() {
        let config = GpuConfigSpace::new(3, &[]);
        config.raise_display_event();
        let mut whole = [0xee; 40];
        config.read(0, &mut whole);
        assert_eq!(whole[..16], [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(whole[16..], [0; 24]);
        for offset in (0..40).chain([u64::from(u32::MAX), u64::MAX - 3, u64::MAX]) {
            for width in [1, 2, 4, 8] {
                let mut data = [0xee; 8];
                config.read(offset, &mut data[..width]);
                for (index, byte) in data[..width].iter().enumerate() {
                    let at = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(index));
                    assert_eq!(*byte, at.and_then(|at| whole.get(at)).copied().unwrap_or(0), "{width} at {offset}");
                }
                config.write(offset, &[]);
            }
        }
    }

    #[test]
    fn writing_events_clear_clears_just_those_events() {
        let config = GpuConfigSpace::new(1, &[]);
        config.raise_display_event();
        config.write(0, &[0xff; 4]);
        config.write(8, &[0xff; 12]);
        config.write(4, &[2, 0, 0, 0]);
        config.write(u64::MAX - 1, &[1, 1]);
        assert_eq!(config.events.load(Ordering::Relaxed), EVENT_DISPLAY);
        let mut all = [0; 20];
        all[4] = 1;
        config.write(0, &all);
        assert_eq!(config.events.load(Ordering::Relaxed), 0);
    }
}
