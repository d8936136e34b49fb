//! The configuration of an input device (virtio 1.3, section 5.8.4): a table that the driver asks entry by entry.
//!
//! A driver writes `select` and `subsel` and reads the answer, about sixty times; over vhost-user each is a message, and
//! QEMU reads all 136 bytes back for each. So every answer is there beforehand.

use std::sync::atomic::{AtomicU16, Ordering};

use super::codes::{
    ABS_MT_POSITION_X, ABS_MT_POSITION_Y, ABS_MT_SLOT, ABS_MT_TRACKING_ID, ABS_X, ABS_Y, BTN_EXTRA, BTN_LEFT,
    BTN_TOUCH, EV_ABS, EV_KEY, EV_LED, EV_REL, EV_REP, FINGERS, INPUT_PROP_DIRECT, KEYS, KeySet, LED_CAPSL, LED_NUML,
    LED_SCROLLL, REL_HWHEEL, REL_HWHEEL_HI_RES, REL_WHEEL, REL_WHEEL_HI_RES, REP_DELAY, REP_PERIOD,
};
use super::desktop::AXIS_MAX;
use super::{InputKind, InputOptions};
use crate::virtio::ConfigSpace;

/// VIRTIO_INPUT_CFG_*.
const ID_NAME: u8 = 0x01;
const ID_SERIAL: u8 = 0x02;
const ID_DEVIDS: u8 = 0x03;
const PROP_BITS: u8 = 0x10;
const EV_BITS: u8 = 0x11;
const ABS_INFO: u8 = 0x12;

/// Of the union that holds an answer.
const ANSWER_BYTES: usize = 128;
/// Select, subsel, size, five reserved bytes.
const HEAD_BYTES: usize = 8;
const BYTES: usize = HEAD_BYTES + ANSWER_BYTES;

/// BUS_VIRTUAL.
const BUS: u16 = 0x06;
/// The vendor of virtio's own PCI devices.
const VENDOR: u16 = 0x1af4;
const VERSION: u16 = 1;

/// What a driver can ask.
#[derive(Debug)]
pub(super) struct Table {
    answers: Vec<(u8, u8, Vec<u8>)>,
    keys: KeySet,
    /// Low byte `select`, high byte `subsel`.
    selected: AtomicU16,
}

impl Table {
    pub fn new(options: &InputOptions) -> Self {
        let mut keys = KeySet::default();
        let product = match options.kind {
            InputKind::Console => {
                let all = KEYS.iter().chain(&[(BTN_LEFT, BTN_EXTRA)]).flat_map(|&(first, last)| first..=last);
                all.for_each(|code| keys.set(code, true));
                1
            }
            InputKind::Touch => {
                keys.set(BTN_TOUCH, true);
                2
            }
        };
        let key_bits = bits((0..=u16::MAX).filter(|code| keys.has(*code)));
        let mut answers = vec![
            (ID_NAME, 0, text(&options.name)),
            (ID_SERIAL, 0, text(&options.serial)),
            (ID_DEVIDS, 0, [BUS, VENDOR, product, VERSION].map(u16::to_le_bytes).concat()),
            (EV_BITS, EV_KEY as u8, key_bits),
        ];
        match options.kind {
            InputKind::Console => {
                let wheel = [REL_WHEEL, REL_HWHEEL, REL_WHEEL_HI_RES, REL_HWHEEL_HI_RES];
                answers.push((EV_BITS, EV_REL as u8, bits(wheel)));
                answers.push((EV_BITS, EV_ABS as u8, bits([ABS_X, ABS_Y])));
                answers.push((EV_BITS, EV_LED as u8, bits([LED_NUML, LED_CAPSL, LED_SCROLLL])));
                // The guest repeats keys, by its own clock and its own settings.
                answers.push((EV_BITS, EV_REP as u8, bits([REP_DELAY, REP_PERIOD])));
                answers.extend([ABS_X, ABS_Y].map(|axis| range(axis, AXIS_MAX)));
            }
            InputKind::Touch => {
                let axes = [ABS_MT_SLOT, ABS_MT_TRACKING_ID, ABS_MT_POSITION_X, ABS_MT_POSITION_Y];
                answers.push((PROP_BITS, 0, bits([INPUT_PROP_DIRECT])));
                answers.push((EV_BITS, EV_ABS as u8, bits(axes)));
                let last = [u16::from(FINGERS - 1), u16::MAX, AXIS_MAX, AXIS_MAX];
                answers.extend(axes.into_iter().zip(last).map(|(axis, last)| range(axis, last)));
            }
        }
        Self { answers, keys, selected: AtomicU16::new(0) }
    }

    /// Whether the driver was told of a key or button.
    pub fn has_key(&self, code: u16) -> bool {
        self.keys.has(code)
    }

    /// Another driver: nothing is selected.
    pub fn deselect(&self) {
        self.selected.store(0, Ordering::Relaxed);
    }

    fn answer(&self, select: u8, subsel: u8) -> &[u8] {
        let found = self.answers.iter().find(|(of, with, _)| (*of, *with) == (select, subsel));
        found.map_or(&[], |(.., answer)| answer)
    }
}

impl ConfigSpace for Table {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let [select, subsel] = self.selected.load(Ordering::Relaxed).to_le_bytes();
        let answer = self.answer(select, subsel);
        let mut bytes = [0; BYTES];
        bytes[..3].copy_from_slice(&[select, subsel, answer.len() as u8]);
        bytes[HEAD_BYTES..][..answer.len()].copy_from_slice(answer);
        data.fill(0);
        let there = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(there) {
            *to = *from;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut selected = self.selected.load(Ordering::Relaxed).to_le_bytes();
        for (field, byte) in selected.iter_mut().zip(0u64..) {
            if let Some(written) = byte.checked_sub(offset).and_then(|at| data.get(usize::try_from(at).ok()?)) {
                *field = *written;
            }
        }
        self.selected.store(u16::from_le_bytes(selected), Ordering::Relaxed);
    }
}

/// As much of a text as there is room for.
fn text(text: &str) -> Vec<u8> {
    text.as_bytes()[..text.floor_char_boundary(ANSWER_BYTES)].to_vec()
}

/// A bitmap, as long as it needs to be.
fn bits(codes: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for code in codes {
        let at = usize::from(code / 8);
        if bytes.len() <= at {
            bytes.resize(at + 1, 0);
        }
        bytes[at] |= 1 << (code % 8);
    }
    bytes
}

/// Smallest and largest value of an axis; fuzz, flat and resolution are 0.
fn range(axis: u16, last: u16) -> (u8, u8, Vec<u8>) {
    let words = [0, u32::from(last), 0, 0, 0];
    (ABS_INFO, axis as u8, words.map(u32::to_le_bytes).concat())
}

// The bitmap of keys is the longest answer.
const _: () = assert!(KEYS[KEYS.len() - 1].1 as usize / 8 < ANSWER_BYTES);
