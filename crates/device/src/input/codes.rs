//! Words of evdev, as virtio 1.3, section 5.8, and Linux have them, and the frames that are made of them.

pub(super) const EV_SYN: u16 = 0x00;
pub(super) const EV_KEY: u16 = 0x01;
pub(super) const EV_REL: u16 = 0x02;
pub(super) const EV_ABS: u16 = 0x03;
pub(super) const EV_LED: u16 = 0x11;
pub(super) const EV_REP: u16 = 0x14;

pub(super) const SYN_REPORT: u16 = 0;

pub(super) const REL_HWHEEL: u16 = 0x06;
pub(super) const REL_WHEEL: u16 = 0x08;
pub(super) const REL_WHEEL_HI_RES: u16 = 0x0b;
pub(super) const REL_HWHEEL_HI_RES: u16 = 0x0c;

pub(super) const ABS_X: u16 = 0x00;
pub(super) const ABS_Y: u16 = 0x01;
pub(super) const ABS_MT_SLOT: u16 = 0x2f;
pub(super) const ABS_MT_POSITION_X: u16 = 0x35;
pub(super) const ABS_MT_POSITION_Y: u16 = 0x36;
pub(super) const ABS_MT_TRACKING_ID: u16 = 0x39;

pub(super) const BTN_LEFT: u16 = 0x110;
pub(super) const BTN_EXTRA: u16 = 0x114;
pub(super) const BTN_TOUCH: u16 = 0x14a;

pub(super) const LED_NUML: u16 = 0;
pub(super) const LED_CAPSL: u16 = 1;
pub(super) const LED_SCROLLL: u16 = 2;

pub(super) const REP_DELAY: u16 = 0;
pub(super) const REP_PERIOD: u16 = 1;

pub(super) const INPUT_PROP_DIRECT: u16 = 1;

/// Fingers that a touch screen tells apart.
pub(super) const FINGERS: u8 = 10;

/// First and last of the key codes that a keyboard may send: all of the first page, and beyond it what keyboards and remote
/// controls really have. Not the codes of game pads and pens, by which a guest would take it for one of these.
pub(super) const KEYS: [(u16, u16); 9] = [
    // KEY_ESC to KEY_MICMUTE.
    (1, 248),
    // KEY_OK to KEY_INFO.
    (0x160, 0x166),
    // KEY_FULL_SCREEN, and KEY_KEYBOARD to KEY_PC.
    (0x174, 0x174),
    (0x176, 0x178),
    // KEY_WORDPROCESSOR to KEY_MEDIA_REPEAT.
    (0x1a5, 0x1b7),
    // KEY_FN to KEY_FN_B.
    (0x1d0, 0x1e4),
    // KEY_BUTTONCONFIG to KEY_DICTATE.
    (0x240, 0x24a),
    // KEY_BRIGHTNESS_MIN and KEY_BRIGHTNESS_MAX.
    (0x250, 0x251),
    // KEY_KBDINPUTASSIST_PREV to KEY_KBDINPUTASSIST_CANCEL.
    (0x260, 0x265),
];

/// A set of key and button codes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeySet([u64; 12]);

impl KeySet {
    pub fn has(&self, code: u16) -> bool {
        self.0.get(usize::from(code / 64)).is_some_and(|word| word >> (code % 64) & 1 == 1)
    }

    /// Codes that no set can hold are left out.
    pub fn set(&mut self, code: u16, is_in: bool) {
        if let Some(word) = self.0.get_mut(usize::from(code / 64)) {
            *word = *word & !(1 << (code % 64)) | u64::from(is_in) << (code % 64);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The smallest code that is in this set and not in `other`.
    pub fn first_without(&self, other: &KeySet) -> Option<u16> {
        let at = self.0.iter().zip(other.0).position(|(word, other)| word & !other != 0)?;
        Some(at as u16 * 64 + (self.0[at] & !other.0[at]).trailing_zeros() as u16)
    }
}

/// A virtio_input_event (virtio 1.3, section 5.8.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    pub kind: u16,
    pub code: u16,
    pub value: i32,
}

impl Event {
    pub const BYTES: usize = 8;

    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..2].copy_from_slice(&self.kind.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.code.to_le_bytes());
        bytes[4..].copy_from_slice(&self.value.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let [a, b, c, d, value @ ..] = *bytes;
        Self { kind: u16::from_le_bytes([a, b]), code: u16::from_le_bytes([c, d]), value: i32::from_le_bytes(value) }
    }
}

/// Events that belong together, SYN_REPORT included: the event queue of QEMU's vhost-user-input-pci has room for no more.
pub(super) const FRAME_EVENTS: usize = 4;

/// Events that take effect together. The guest gets all of them or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    /// Without the SYN_REPORT.
    events: [Event; FRAME_EVENTS - 1],
    count: usize,
}

impl Frame {
    /// With one more event; there is room for three.
    pub fn with(mut self, kind: u16, code: u16, value: impl Into<i32>) -> Self {
        debug_assert!(self.count < self.events.len());
        if let Some(place) = self.events.get_mut(self.count) {
            *place = Event { kind, code, value: value.into() };
            self.count += 1;
        }
        self
    }

    /// The events without the SYN_REPORT.
    pub fn events(&self) -> &[Event] {
        &self.events[..self.count]
    }

    /// How many chains the frame takes.
    pub fn len(&self) -> usize {
        self.count + 1
    }

    /// All events, as they are put into the queue.
    pub fn messages(&self) -> impl Iterator<Item = [u8; Event::BYTES]> + '_ {
        let end = Event { kind: EV_SYN, code: SYN_REPORT, value: 0 };
        self.events().iter().copied().chain([end]).map(Event::to_bytes)
    }
}
