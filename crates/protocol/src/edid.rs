//! EDID 1.4: what a head tells the guest about its monitor.
//!
//! [`Monitor::edid`] writes one base block, and a DisplayID 1.3 extension block when a mode does not fit into an 18-byte
//! detailed timing (more than 4095 pixels, or a pixel clock above 655.35 MHz) or when a large head should offer the usual
//! smaller modes that the base block has no code for. [`Edid::parse`] accepts the file of a real monitor.

mod base;
mod display_id;
mod parse;
#[cfg(test)]
mod tests;
mod timing;

pub use parse::EdidError;

/// Bytes of one block.
pub const BLOCK: usize = 128;
/// Bytes that a GET_EDID reply has room for.
pub const MAX_BYTES: usize = 1024;
/// The largest width or height that [`Monitor::edid`] describes; larger ones are clamped.
pub const MAX_SIDE: u32 = 16384;

/// Not the date of a build: the bytes of a head must stay the same.
const MODEL_YEAR: u32 = 2024;
/// Stands in the place of the week of manufacture.
const MODEL_YEAR_FOLLOWS: u8 = 0xff;

/// A width, a height and a refresh rate in hertz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    /// Pixels in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Frames in a second, rounded.
    pub refresh: u32,
}

/// What a monitor says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// The preferred mode.
    pub mode: Mode,
    /// Width and height of the picture in millimetres; as a screen of 96 dots an inch when absent.
    pub size_mm: Option<(u32, u32)>,
    /// Three letters of the manufacturer.
    pub vendor: [u8; 3],
    /// The manufacturer's number of this model.
    pub product: u16,
    /// Tells two heads of one model apart, the same at every start.
    pub serial: u32,
    /// Shown to the user; the first 13 printable ASCII characters count.
    pub name: String,
}

impl Monitor {
    /// The monitor of head `index`: its serial depends on nothing else, so a guest finds its layout again.
    pub fn head(index: u32, mode: Mode) -> Self {
        Self {
            mode,
            size_mm: None,
            vendor: *b"BSP",
            product: 1,
            serial: index.wrapping_add(1),
            name: "Beamsplit".to_owned(),
        }
    }

    /// The bytes that the guest reads.
    pub fn edid(&self) -> Edid {
        let mode = Mode {
            width: self.mode.width.clamp(1, MAX_SIDE),
            height: self.mode.height.clamp(1, MAX_SIDE),
            refresh: self.mode.refresh.clamp(1, timing::MAX_REFRESH),
        };
        let extension = display_id::block(self, mode);
        let mut bytes = base::block(self, mode, extension.is_some()).to_vec();
        bytes.extend(extension.into_iter().flatten());
        Edid(bytes)
    }

    fn vendor_letters(&self) -> [u8; 3] {
        self.vendor.map(|letter| letter.to_ascii_uppercase().clamp(b'A', b'Z'))
    }

    fn size_mm(&self, mode: Mode) -> (u32, u32) {
        let at_96_dpi = |pixels: u32| (pixels * 254 + 480) / 960;
        let (width, height) = self.size_mm.unwrap_or((at_96_dpi(mode.width), at_96_dpi(mode.height)));
        // What a byte of centimetres holds, so that all places of the EDID agree.
        (width.clamp(10, 2550), height.clamp(10, 2550))
    }
}

/// An EDID that is known to be whole: 1 to 8 blocks, each with its checksum.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Edid(Vec<u8>);

impl Edid {
    /// The blocks, one after another.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Edid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Edid({} bytes, prefers {:?})", self.0.len(), self.preferred_mode())
    }
}

/// Makes the bytes of a block add up to a multiple of 256.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}
