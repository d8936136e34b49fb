//! What this machine can do at best, measured in the same run: copying and the bare socket.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::error::{Doing, Result};
use crate::frontend::vmm_display::{Settings, word};
use crate::frontend::{Memory, VmmDisplay};
use crate::process;
use crate::timing::{Timing, sample};
use crate::workload::{Cores, FRAME, SIZE};

/// The longest wait for a frame.
const LIMIT: Duration = Duration::from_secs(20);

/// A limit that a workload is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a few words.
    pub what: &'static str,
    run: fn(&[usize], Duration) -> Result<Timing>,
}

/// All limits, in frames of 1080p a second.
pub const ALL: &[Limit] = &[
    Limit {
        name: "copy",
        what: "copy of a frame out of a guest's memory",
        run: |cores, time| copy(cores, time, false),
    },
    Limit {
        name: "copy_touch",
        what: "the same, then each pixel read once",
        run: |cores, time| copy(cores, time, true),
    },
    Limit { name: "socket", what: "bare socket pair", run: |cores, time| socket(cores, time, Cores::One, false) },
    Limit {
        name: "copy_socket",
        what: "one copy and the bare socket pair",
        run: |cores, time| socket(cores, time, Cores::One, true),
    },
    Limit {
        name: "socket_two_cores",
        what: "bare socket pair, writer and reader on a core each",
        run: |cores, time| socket(cores, time, Cores::Two, false),
    },
    Limit {
        name: "copy_socket_two_cores",
        what: "one copy and the bare socket pair, writer and reader on a core each",
        run: |cores, time| socket(cores, time, Cores::Two, true),
    },
];

impl Limit {
    /// Measures it for so long.
    pub fn run(&self, cores: &[usize], time: Duration) -> Result<Timing> {
        (self.run)(cores, time)
    }
}

fn copy(cores: &[usize], time: Duration, touch: bool) -> Result<Timing> {
    process::pin(cores[0])?;
    let (guest, mut image) = (guest()?, vec![2u8; FRAME]);
    let mut sum = 0;
    let timing = sample(time, 1, || {
        guest.read(0, &mut image)?;
        if touch {
            sum ^= read_pixels(std::hint::black_box(&image));
        }
        Ok(())
    });
    std::hint::black_box((sum, image));
    timing
}

/// A frame in the kind of memory that guests have.
fn guest() -> Result<Memory> {
    let memory = Memory::new(&[(0, FRAME as u64)])?;
    memory.write(0, &vec![1; FRAME])?;
    Ok(memory)
}

/// Reads each pixel once.
fn read_pixels(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_ne_bytes));
    words.fold(0, |sum, word| sum ^ word)
}

/// Sends UPDATEs of a whole frame in plain blocking writes; each is awaited before the next, as in the workload.
fn socket(cores: &[usize], time: Duration, place: Cores, copy: bool) -> Result<Timing> {
    let here = cores[0];
    let there = if place == Cores::Two { cores[cores.len() - 1] } else { here };
    process::pin(here)?;
    let (mut device, vmm) = UnixStream::pair().doing("make a socket pair")?;
    let display = VmmDisplay::new(vmm, Settings::default());
    let shown = display.shown();
    let reader = display.spawn()?;
    process::pin(there)?;
    let (guest, mut image) = (guest()?, vec![2u8; FRAME]);
    let header: Vec<u8> = [word::UPDATE, 0, FRAME as u32 + 20, 0, 0, 0, SIZE.0, SIZE.1]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    let mut sent = 0;
    let timing = sample(time, 1, || {
        if copy {
            guest.read(0, &mut image)?;
        }
        device.write_all(&header).and_then(|()| device.write_all(&image)).doing("write to a socket pair")?;
        sent += 1;
        Ok(shown.wait(LIMIT, |shown| shown.updates() >= sent)?)
    });
    process::pin(here)?;
    drop(device);
    // It ends with the socket; how is of no interest.
    let _ = reader.join();
    timing
}
