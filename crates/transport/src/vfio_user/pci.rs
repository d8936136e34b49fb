//! The configuration space: one table of fields, made from what the function is.
//!
//! `docs/bar-layout.md` has the same table for users; a test compares them.

use super::irqs::{Enabled, VECTORS};

/// Bytes of a conventional PCI function's configuration space.
pub const LENGTH: usize = 256;
/// Bits of the command register.
pub mod command {
    /// Accesses to memory are answered.
    pub const MEMORY: u16 = 1 << 1;
    /// The function may use the guest's memory.
    pub const MASTER: u16 = 1 << 2;
    /// The pin is not told.
    pub const INTX_DISABLE: u16 = 1 << 10;
    /// All that can be written: IO (1) and SERR (8) as well. SeaBIOS runs a VGA ROM only when IO reads back.
    pub const WRITABLE: u16 = 1 | MEMORY | MASTER | 1 << 8 | INTX_DISABLE;
}

const COMMAND: usize = 0x04;
const BAR0: usize = 0x10;
/// Where the list of capabilities begins.
const CAPABILITIES: u8 = 0x40;
/// Prefetchable memory.
const PREFETCHABLE: u32 = 8;
/// A range of ports.
const PORTS: u32 = 1;

/// What the function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// A virtio-gpu that is a VGA device as well: firmware draws on it.
    Vga,
    /// A virtio-gpu.
    Virtio,
    /// A display that is nothing but a framebuffer.
    Bochs,
    /// A keyboard or pointer.
    Input,
}

/// What of a function can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What it is.
    pub model: Model,
    /// Whether MSI-X is offered, where the model has it.
    pub msix: bool,
    /// Whether queues can be notified by a port, where the model has it.
    pub pio: bool,
}

impl Model {
    /// Whether it has a framebuffer, and firmware draws on it.
    pub fn has_boot_display(self) -> bool {
        matches!(self, Self::Vga | Self::Bochs)
    }

    /// Whether it is a virtio device.
    pub fn is_virtio(self) -> bool {
        self != Self::Bochs
    }

    /// Vendor and device.
    pub fn ids(self) -> (u16, u16) {
        match self {
            Self::Vga | Self::Virtio => (0x1af4, 0x1050),
            Self::Bochs => (0x1234, 0x1111),
            Self::Input => (0x1af4, 0x1052),
        }
    }

    /// Class, subclass and interface.
    fn class(self) -> u32 {
        match self {
            Self::Vga => 0x03_00_00,
            Self::Virtio | Self::Bochs => 0x03_80_00,
            Self::Input => 0x09_80_00,
        }
    }

    /// QEMU's bochs-display has revision 2.
    fn revision(self) -> u32 {
        if self.is_virtio() { 1 } else { 2 }
    }
}

impl Shape {
    /// Whether there is a table of MSI-X vectors, in BAR 4.
    pub fn has_msix(self) -> bool {
        self.msix && self.model.is_virtio()
    }

    /// Whether there is a port to notify queues by, in BAR 5.
    pub fn has_pio(self) -> bool {
        self.pio && self.model == Model::Vga
    }

    /// Type bits and bytes of each BAR. All are of 32 bits: SeaBIOS' ROM would not find a BAR 2 of 64.
    fn bars(self, framebuffer: u64) -> [(u32, u64); 6] {
        let registers = if self.model.is_virtio() { 0x4000 } else { 0x1000 };
        let framebuffer = if self.model.has_boot_display() { framebuffer } else { 0 };
        let vectors = if self.has_msix() { 0x2000 } else { 0 };
        let port = if self.has_pio() { 4 } else { 0 };
        [(PREFETCHABLE, framebuffer), (0, 0), (0, registers), (0, 0), (0, vectors), (PORTS, port)]
    }
}

/// Some bytes of the configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where it begins.
    pub offset: u8,
    /// Its bytes, 1 to 4.
    pub width: u8,
    /// What it is.
    pub name: &'static str,
    /// What it has after a reset.
    pub reset: u32,
    /// The bits that can be written.
    pub mask: u32,
    /// The bits that are cleared by writing 1.
    pub clear: u32,
}

/// The registers by which a guest that cannot map BARs reaches them (virtio 1.3, section 4.1.4.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Which BAR.
    pub bar: u8,
    /// Where in it.
    pub offset: u32,
    /// How many bytes.
    pub length: u32,
}

/// The configuration space of a function.
#[derive(Clone, Debug)]
pub struct PciConfig {
    table: Vec<Field>,
    bars: [(u32, u64); 6],
    bytes: [u8; LENGTH],
    mask: [u8; LENGTH],
    clear: [u8; LENGTH],
    msix: Option<usize>,
    msi: Option<usize>,
    access: Option<usize>,
}

impl PciConfig {
    /// That of a function which was just switched on, with so many bytes of framebuffer and of expansion ROM.
    pub fn new(shape: Shape, framebuffer: u64, rom: u64) -> Self {
        let bars = shape.bars(framebuffer);
        let mut table = header(shape, &bars, rom);
        let first = table.len();
        if shape.model.is_virtio() {
            chain(&mut table, capabilities(shape));
        }
        let place =
            |name| table[first..].iter().find(|field| field.name == name).map(|field| usize::from(field.offset));
        let (msix, msi, access) = (place("MSI-X control"), place("MSI control"), place(ACCESS_BAR));
        let zeros = [0; LENGTH];
        let mut config = Self { table, bars, bytes: zeros, mask: zeros, clear: zeros, msix, msi, access };
        config.reset();
        config
    }

    /// All fields, in the order of their places.
    pub fn table(&self) -> &[Field] {
        &self.table
    }

    /// Every field has its first value again.
    pub fn reset(&mut self) {
        for field in &self.table {
            let (start, width) = (usize::from(field.offset), usize::from(field.width));
            let end = start + width;
            self.bytes[start..end].copy_from_slice(&field.reset.to_le_bytes()[..width]);
            self.mask[start..end].copy_from_slice(&field.mask.to_le_bytes()[..width]);
            self.clear[start..end].copy_from_slice(&field.clear.to_le_bytes()[..width]);
        }
    }

    /// Fills `data` from `offset` on; zeros past the end.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let mut bytes = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or(&[]).iter();
        for byte in data {
            *byte = bytes.next().copied().unwrap_or(0);
        }
    }

    /// Writes the bits that can be written.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let first = usize::try_from(offset).unwrap_or(LENGTH).min(LENGTH);
        for (at, new) in (first..LENGTH).zip(data) {
            let kept = self.bytes[at] & !self.mask[at] & !(new & self.clear[at]);
            self.bytes[at] = kept | (new & self.mask[at]);
        }
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.word(COMMAND)
    }

    /// Which kinds of interrupts the guest wants.
    pub fn enabled(&self) -> Enabled {
        let msix = self.msix.map_or(0, |at| self.word(at));
        Enabled {
            intx: self.command() & command::INTX_DISABLE == 0,
            msi: self.msi.is_some_and(|at| self.word(at) & 1 != 0),
            msix: msix & 1 << 15 != 0,
            msix_masked: msix & 1 << 14 != 0,
        }
    }

    /// Bytes of a BAR.
    pub fn bar_size(&self, bar: usize) -> u64 {
        self.bars.get(bar).map_or(0, |(_, size)| *size)
    }

    /// Address and length of each BAR that is in the guest's memory now. At 0 is none: that is RAM.
    pub fn bars_in_memory(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let on = self.command() & command::MEMORY != 0;
        let bars = self.bars.iter().enumerate().filter(move |(_, (kind, size))| on && *size != 0 && *kind != PORTS);
        let places = bars.map(|(bar, (_, size))| (u64::from(self.dword(BAR0 + 4 * bar) & !0xf), *size));
        places.filter(|(address, _)| *address != 0)
    }

    /// What the guest wants to reach through configuration space.
    pub fn access(&self) -> Option<Access> {
        let at = self.access?;
        Some(Access { bar: self.bytes[at], offset: self.dword(at + 4), length: self.dword(at + 8) })
    }

    /// Where it reaches it.
    pub fn access_data(&self) -> Option<u64> {
        self.access.map(|at| at as u64 + 12)
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn dword(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | u32::from(self.word(at + 2)) << 16
    }
}

/// The first 64 bytes.
fn header(shape: Shape, bars: &[(u32, u64); 6], rom: u64) -> Vec<Field> {
    let model = shape.model;
    let (vendor, device) = model.ids();
    let [status, first, pin] = if model.is_virtio() { [0x10, CAPABILITIES.into(), 1] } else { [0; 3] };
    let mut table = Vec::new();
    let mut field = |offset, width, name, reset, mask, clear| {
        table.push(Field { offset, width, name, reset, mask, clear });
    };
    field(0x00, 2, "vendor", vendor.into(), 0, 0);
    field(0x02, 2, "device", device.into(), 0, 0);
    field(0x04, 2, "command", 0, command::WRITABLE.into(), 0);
    // The errors that were seen. There are none.
    field(0x06, 2, "status", status, 0, 0xf900);
    field(0x08, 1, "revision", model.revision(), 0, 0);
    field(0x09, 3, "class", model.class(), 0, 0);
    field(0x0c, 1, "cache line", 0, 0xff, 0);
    field(0x0d, 1, "latency", 0, 0xff, 0);
    field(0x0e, 1, "header type", 0, 0, 0);
    for (bar, (kind, size)) in bars.iter().enumerate() {
        const NAMES: [&str; 6] = ["BAR 0", "BAR 1", "BAR 2", "BAR 3", "BAR 4", "BAR 5"];
        let (offset, width, mask) = ((BAR0 + 4 * bar) as u8, 4, (*size as u32).wrapping_neg());
        match size {
            0 => field(offset, width, NAMES[bar], 0, 0, 0),
            _ => field(offset, width, NAMES[bar], *kind, mask, 0),
        }
    }
    field(0x2c, 2, "subsystem vendor", 0x1af4, 0, 0);
    field(0x2e, 2, "subsystem", 0x1100, 0, 0);
    let rom_mask = if rom == 0 { 0 } else { (rom as u32).wrapping_neg() | 1 };
    field(0x30, 4, "expansion ROM", 0, rom_mask, 0);
    field(0x34, 1, "capabilities", first, 0, 0);
    field(0x3c, 1, "interrupt line", 0, 0xff, 0);
    field(0x3d, 1, "interrupt pin", pin, 0, 0);
    table
}

/// Name, width, value and mask of the fields of a capability, behind its id and the place of the next one.
type Capability = (u8, Vec<(&'static str, u8, u32, u32)>);

const ACCESS_BAR: &str = "PCI access BAR";

/// In ACRN's order. Drivers take the first one of a type, so the notify capability of BAR 2 comes before that of BAR 5.
///
/// Room for later: a shared memory capability (type 8, length 24, 64-bit offset and length) goes to the end; its window needs
/// BARs 4 and 5, so MSI-X moves to BAR 1 and the port goes.
fn capabilities(shape: Shape) -> Vec<Capability> {
    const VENDOR: u8 = 0x09;
    const MSI: u8 = 0x05;
    const MSIX: u8 = 0x11;
    let mut list: Vec<Capability> = vec![
        (
            VENDOR,
            vec![
                ("common length", 1, 16, 0),
                ("common type", 1, 1, 0),
                ("common BAR", 4, 2, 0),
                ("common offset", 4, 0x1000, 0),
                ("common bytes", 4, 0x800, 0),
            ],
        ),
        (
            VENDOR,
            vec![
                ("ISR length", 1, 16, 0),
                ("ISR type", 1, 3, 0),
                ("ISR BAR", 4, 2, 0),
                ("ISR offset", 4, 0x1800, 0),
                ("ISR bytes", 4, 0x800, 0),
            ],
        ),
        (
            VENDOR,
            vec![
                ("device length", 1, 16, 0),
                ("device type", 1, 4, 0),
                ("device BAR", 4, 2, 0),
                ("device offset", 4, 0x2000, 0),
                ("device bytes", 4, 0x1000, 0),
            ],
        ),
        (
            VENDOR,
            vec![
                ("notify length", 1, 20, 0),
                ("notify type", 1, 2, 0),
                ("notify BAR", 4, 2, 0),
                ("notify offset", 4, 0x3000, 0),
                ("notify bytes", 4, 0x1000, 0),
                ("notify multiplier", 4, 4, 0),
            ],
        ),
        (
            VENDOR,
            vec![
                ("PCI access length", 1, 20, 0),
                ("PCI access type", 1, 5, 0),
                (ACCESS_BAR, 4, 0, 0xff),
                ("PCI access offset", 4, 0, u32::MAX),
                ("PCI access bytes", 4, 0, u32::MAX),
                ("PCI access data", 4, 0, 0),
            ],
        ),
    ];
    if shape.has_msix() {
        let vectors = u32::from(VECTORS) - 1;
        list.push((
            MSIX,
            vec![("MSI-X control", 2, vectors, 0xc000), ("MSI-X table", 4, 4, 0), ("MSI-X pending", 4, 0x1000 | 4, 0)],
        ));
    }
    list.push((
        MSI,
        vec![
            ("MSI control", 2, 0x80, 1),
            ("MSI address", 4, 0, 0xffff_fffc),
            ("MSI address high", 4, 0, u32::MAX),
            ("MSI data", 2, 0, 0xffff),
        ],
    ));
    if shape.has_pio() {
        list.push((
            VENDOR,
            vec![
                ("port length", 1, 20, 0),
                ("port type", 1, 2, 0),
                ("port BAR", 4, 5, 0),
                ("port offset", 4, 0, 0),
                ("port bytes", 4, 4, 0),
                ("port multiplier", 4, 0, 0),
            ],
        ));
    }
    list
}

/// Puts capabilities one behind the other, each at a multiple of four bytes.
fn chain(table: &mut Vec<Field>, list: Vec<Capability>) {
    let mut at = CAPABILITIES;
    let mut rest = list.into_iter().peekable();
    while let Some((id, fields)) = rest.next() {
        let length: u8 = 2 + fields.iter().map(|(_, width, ..)| width).sum::<u8>();
        let next = at + length.next_multiple_of(4);
        let mut offset = at;
        let next_or_none = if rest.peek().is_some() { next } else { 0 };
        let links = [("capability", 1, id.into(), 0), ("next capability", 1, next_or_none.into(), 0)];
        for (name, width, reset, mask) in links.into_iter().chain(fields) {
            table.push(Field { offset, width, name, reset, mask, clear: 0 });
            offset += width;
        }
        at = next;
    }
}

#[cfg(test)]
mod tests;
