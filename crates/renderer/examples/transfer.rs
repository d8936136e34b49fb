//! What `soft` costs beside a bare copy: `cargo run --release -p beamsplit-renderer --example transfer`.

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use device::{
    Answer, Backing, Cursor, Display, Frame, Gpu, GpuOptions, Memory, Region, Renderer, Request, ResourceDesc, Start,
    Stats, Ticket, Transfer, VirtioDevice,
};
use protocol::{Format, MemEntry, Rect, ResourceId, ScanoutId};
use renderer::Soft;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

const WIDTH: u32 = 1920;
const HEIGHT: u32 = 1080;
const BYTES: usize = (WIDTH * HEIGHT * 4) as usize;
const PAGE: u32 = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let mapping = Arc::new(MmapRegion::new(2 * BYTES)?);
    mapping.as_volatile_slice().write_slice(&vec![1; 2 * BYTES], 0)?; // Else all of it is the kernel's one zero page.
    let memory = Memory::new(vec![Region { start: 0, len: 2 * BYTES as u64, mapping, offset: 0, usable: true }])?;
    // One long entry, and pages of which no two neighbours follow each other.
    let long = vec![MemEntry { addr: 0, length: BYTES as u32 }];
    let count = BYTES as u64 / u64::from(PAGE) + 1;
    let pages = (0..count)
        .map(|at| MemEntry { addr: 2 * at * u64::from(PAGE) % (2 * BYTES as u64 / 8192 * 8192), length: PAGE });
    let pages: Vec<_> = pages.collect();

    let (from, mut to) = (vec![1u8; BYTES], vec![2u8; BYTES]);
    let bare = rate(200, || black_box(&mut to).copy_from_slice(black_box(&from)));
    println!("copy_from_slice of 1080p           {bare:9.0}/s  {:5.1} GB/s", gb(bare));

    for (name, entries) in [("one entry", long), ("4 KiB pages", pages)] {
        let mut backing = Backing::new(entries);
        for shared in [false, true] {
            let mut soft = Soft::new();
            let id = ResourceId(1);
            soft.create(Ticket(0), id, ResourceDesc::Image { format: Format::B8G8R8X8, width: WIDTH, height: HEIGHT });
            black_box(soft.pixels(id, shared).is_some());
            let pages = backing.pages(&memory).map_err(|error| error.to_string())?;
            let mut run = |rect: Rect, count| {
                let offset = u64::from(rect.y * WIDTH + rect.x) * 4;
                rate(count, || {
                    black_box(soft.transfer_to_host(Ticket(0), id, Transfer { rect, offset }, &pages));
                })
            };
            let whole = run(Rect::of_size(WIDTH, HEIGHT), 200);
            let square = run(Rect::new(800, 500, 64, 64), 100_000);
            println!("{name:12} shared {shared:5}: 1080p {whole:9.0}/s  {:5.1} GB/s; 64x64 {square:9.0}/s", gb(whole));
        }
    }

    let mut soft = Soft::new();
    let desc = ResourceDesc::Image { format: Format::B8G8R8X8, width: WIDTH, height: HEIGHT };
    let mut next = 0;
    let pairs = rate(2_000_000, || {
        next += 1;
        black_box(soft.create(Ticket(0), ResourceId(next), desc));
        soft.destroy(ResourceId(next));
    });
    println!("create and destroy of an unused image: {pairs:.0}/s");
    println!("RESOURCE_CREATE_2D and UNREF through the device: {:.0} commands/s", commands());
    Ok(())
}

/// Both commands for a new name each time, from bytes to bytes.
fn commands() -> f64 {
    let stats = Arc::new(Stats::default());
    let display = Box::new(Nothing);
    let mut gpu = Gpu::new(GpuOptions::default(), Box::new(Soft::new()), display, stats);
    gpu.start(0, Start::Fresh);
    let memory = Memory::empty();
    let mut reply = Vec::new();
    let mut next = 0u32;
    let mut ask = |kind: u32, words: &[u32]| {
        let head = [kind, 0, 0, 0, 0, 0];
        let bytes: Vec<u8> = head.iter().chain(words).flat_map(|word| word.to_le_bytes()).collect();
        reply.clear();
        let request = Request { bytes: &bytes, carried: bytes.len() as u64, writable: 24 };
        assert_eq!(gpu.request(&memory, 0, request, &mut reply), Answer::Done);
        assert_eq!(reply[..2], [0x00, 0x11]);
    };
    2.0 * rate(1_000_000, || {
        next += 1;
        ask(0x0101, &[next, 2, 64, 64]);
        ask(0x0102, &[next, 0]);
    })
}

/// A display that shows nothing.
struct Nothing;

impl Display for Nothing {
    fn set_scanout(&mut self, _scanout: ScanoutId, _frame: Option<&Frame<'_>>) {}
    fn flush(&mut self, _scanout: ScanoutId, _frame: &Frame<'_>, _damage: Rect) {}
    fn cursor(&mut self, _cursor: &Cursor<'_>) {}
    fn move_cursor(&mut self, _scanout: ScanoutId, _x: u32, _y: u32) {}
}

fn gb(frames: f64) -> f64 {
    frames * BYTES as f64 / 1e9
}

/// Times a second that `work` can be done.
fn rate(count: u32, mut work: impl FnMut()) -> f64 {
    for _ in 0..count / 10 {
        work();
    }
    let start = Instant::now();
    for _ in 0..count {
        work();
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}
