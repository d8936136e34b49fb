//! What a PCI card costs a guest, measured inside of it: loads from and stores to a register, and a framebuffer that is filled.
//! A static program for a guest's kernel of any kind; it prints one number, in nanoseconds or in MB/s.

use std::fs::OpenOptions;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

/// Accesses that are timed at a time, after as many that are not.
const BATCH: u32 = 16;
/// What a framebuffer is filled with, of a common screen.
const FRAME: usize = 1920 * 1080 * 4;

const USAGE: &str = "guest-probe load|store RESOURCE OFFSET MILLISECONDS | fill RESOURCE MILLISECONDS";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = match words.as_slice() {
        ["load", resource, offset, time] => register(resource, offset, time, false)?,
        ["store", resource, offset, time] => register(resource, offset, time, true)?,
        ["fill", resource, time] => fill(resource, time)?,
        _ => bail!(USAGE),
    };
    println!("{number:.1}");
    Ok(())
}

/// The median time of an access of two bytes: what is stored is what is there.
fn register(resource: &str, offset: &str, time: &str, store: bool) -> Result<f64> {
    let region = map(resource)?;
    let (registers, offset) = (region.as_volatile_slice(), offset.parse().context("OFFSET is a number")?);
    let value: u16 = registers.load(offset, Ordering::Relaxed)?;
    let mut times = Vec::new();
    let (start, limit) = (Instant::now(), milliseconds(time)?);
    while start.elapsed() < limit || times.is_empty() {
        let before = Instant::now();
        for _ in 0..BATCH {
            if store {
                registers.store(value, offset, Ordering::Relaxed)?;
            } else {
                registers.load::<u16>(offset, Ordering::Relaxed)?;
            }
        }
        times.push(before.elapsed().as_nanos() as f64 / f64::from(BATCH));
        // Stores that nobody waited for are waited for here, and not in the next batch.
        let _: u16 = registers.load(offset, Ordering::Relaxed)?;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// MB/s of frames that are written one after the other, of the one in the middle.
fn fill(resource: &str, time: &str) -> Result<f64> {
    let region = map(resource)?;
    let framebuffer = region.as_volatile_slice();
    let frame = vec![0x5a; FRAME.min(framebuffer.len())];
    let mut rates = Vec::new();
    let (start, limit) = (Instant::now(), milliseconds(time)?);
    while start.elapsed() < limit || rates.is_empty() {
        let before = Instant::now();
        framebuffer.write_slice(&frame, 0)?;
        rates.push(frame.len() as f64 / 1e6 / before.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(rates[rates.len() / 2])
}

/// Maps a resource of a PCI function, as in `/sys/bus/pci/devices/0000:00:02.0/resource2`.
fn map(resource: &str) -> Result<MmapRegion<()>> {
    let file = OpenOptions::new().read(true).write(true).open(resource).context("Cannot open the resource")?;
    let length = file.metadata()?.len();
    let length = usize::try_from(length)?;
    MmapRegion::from_file(FileOffset::new(file, 0), length).context("Cannot map the resource")
}

fn milliseconds(text: &str) -> Result<Duration> {
    Ok(Duration::from_millis(text.parse().context("MILLISECONDS is a number")?))
}
