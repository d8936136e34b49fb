//! The VGA ports 0x3c0 to 0x3df: kept and read back, for drivers that save, blank and restore. None of them changes what is
//! seen, since text and planar modes do not come this way.

/// Ports by their distance from 0x3c0.
mod port {
    pub const ATTRIBUTE: u8 = 0x00;
    pub const ATTRIBUTE_DATA: u8 = 0x01;
    /// Written; what is read here is input status 0.
    pub const MISC: u8 = 0x02;
    pub const ENABLE: u8 = 0x03;
    pub const SEQUENCER: u8 = 0x04;
    pub const SEQUENCER_DATA: u8 = 0x05;
    pub const PALETTE_MASK: u8 = 0x06;
    /// Written: the entry that is read next. Read: whether the palette is being read.
    pub const PALETTE_READ: u8 = 0x07;
    pub const PALETTE_WRITE: u8 = 0x08;
    pub const PALETTE_DATA: u8 = 0x09;
    pub const FEATURE_READ: u8 = 0x0a;
    pub const MISC_READ: u8 = 0x0c;
    pub const GRAPHICS: u8 = 0x0e;
    pub const GRAPHICS_DATA: u8 = 0x0f;
    pub const CRTC: u8 = 0x14;
    pub const CRTC_DATA: u8 = 0x15;
    /// Read: input status 1. Written: the feature control.
    pub const STATUS: u8 = 0x1a;
}

/// Of input status 1: the picture's gaps, which a driver may wait for in either state.
const STATUS_GAPS: u8 = 0x09;
/// Of the attribute controller's index: which register; the next bit is "screen on".
const ATTRIBUTE_INDEX: u8 = 0x1f;

/// Registers behind an index.
#[derive(Clone, Debug)]
struct Indexed {
    index: u8,
    values: [u8; 256],
}

impl Default for Indexed {
    fn default() -> Self {
        Self { index: 0, values: [0; 256] }
    }
}

impl Indexed {
    fn value(&mut self) -> &mut u8 {
        &mut self.values[usize::from(self.index)]
    }
}

/// The palette: three bytes an entry, one after another.
#[derive(Clone, Debug)]
struct Palette {
    values: [u8; 768],
    /// The byte that is read or written next.
    read: usize,
    write: usize,
    is_read: bool,
    mask: u8,
}

impl Palette {
    fn next(place: &mut usize) -> usize {
        std::mem::replace(place, (*place + 1) % 768)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Ports {
    attribute: Indexed,
    /// What is written to the attribute controller next is a value, not an index.
    attribute_data_next: bool,
    misc: u8,
    enable: u8,
    feature: u8,
    status: u8,
    sequencer: Indexed,
    graphics: Indexed,
    crtc: Indexed,
    palette: Palette,
}

impl Default for Ports {
    fn default() -> Self {
        let palette = Palette { values: [0; 768], read: 0, write: 0, is_read: false, mask: 0xff };
        Self {
            attribute: Indexed::default(),
            attribute_data_next: false,
            misc: 0,
            enable: 0,
            feature: 0,
            status: 0,
            sequencer: Indexed::default(),
            graphics: Indexed::default(),
            crtc: Indexed::default(),
            palette,
        }
    }
}

impl Ports {
    pub fn read(&mut self, port: u8) -> u8 {
        match port {
            port::ATTRIBUTE => self.attribute.index,
            port::ATTRIBUTE_DATA => self.attribute.values[usize::from(self.attribute.index & ATTRIBUTE_INDEX)],
            port::ENABLE => self.enable,
            port::SEQUENCER => self.sequencer.index,
            port::SEQUENCER_DATA => *self.sequencer.value(),
            port::PALETTE_MASK => self.palette.mask,
            port::PALETTE_READ if self.palette.is_read => 3,
            port::PALETTE_WRITE => (self.palette.write / 3) as u8,
            port::PALETTE_DATA => self.palette.values[Palette::next(&mut self.palette.read)],
            port::FEATURE_READ => self.feature,
            port::MISC_READ => self.misc,
            port::GRAPHICS => self.graphics.index,
            port::GRAPHICS_DATA => *self.graphics.value(),
            port::CRTC => self.crtc.index,
            port::CRTC_DATA => *self.crtc.value(),
            port::STATUS => {
                self.attribute_data_next = false;
                self.status ^= STATUS_GAPS;
                self.status
            }
            _ => 0,
        }
    }

    pub fn write(&mut self, port: u8, value: u8) {
        match port {
            port::ATTRIBUTE => {
                match self.attribute_data_next {
                    true => self.attribute.values[usize::from(self.attribute.index & ATTRIBUTE_INDEX)] = value,
                    false => self.attribute.index = value,
                }
                self.attribute_data_next ^= true;
            }
            port::MISC => self.misc = value,
            port::ENABLE => self.enable = value,
            port::SEQUENCER => self.sequencer.index = value,
            port::SEQUENCER_DATA => *self.sequencer.value() = value,
            port::PALETTE_MASK => self.palette.mask = value,
            port::PALETTE_READ => (self.palette.read, self.palette.is_read) = (usize::from(value) * 3, true),
            port::PALETTE_WRITE => (self.palette.write, self.palette.is_read) = (usize::from(value) * 3, false),
            port::PALETTE_DATA => self.palette.values[Palette::next(&mut self.palette.write)] = value,
            port::GRAPHICS => self.graphics.index = value,
            port::GRAPHICS_DATA => *self.graphics.value() = value,
            port::CRTC => self.crtc.index = value,
            port::CRTC_DATA => *self.crtc.value() = value,
            port::STATUS => self.feature = value,
            _ => {}
        }
    }
}
