//! What counting commands costs the thread that serves them: the same conversation over a ring of the in-process guest, with a
//! [`Meter`] around the GPU and without. For a count of instructions, which another load of the machine does not change:
//!
//! ```text
//! cargo build --release -p beamsplit-device --example meter
//! valgrind --tool=callgrind --toggle-collect='*Batcher*run*' --toggle-collect='*meter::Counted*::poll' \
//!     target/release/examples/meter with flush 1 10000
//! ```
//!
//! The words are `with` or `without`, a command, how many of them are kicked together, and how many there are; the difference of two runs
//! is without what begins and ends the program. What the guest and the rest of its machine do for a command is not counted.

use std::env;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use device::virtio::{Answer, ConfigSpace, Outbox, Request, Start, VirtioDevice};
use device::{Cursor, Display, Frame, Front, Gpu, GpuOptions, Memory, Meter, Stats};
use protocol::{Rect, ScanoutId};
use renderer::{Null3d, Soft};
use transport::loopback::Loopback;

struct Dark;

impl Display for Dark {
    fn set_scanout(&mut self, _: ScanoutId, _: Option<&Frame<'_>>) {}
    fn flush(&mut self, _: ScanoutId, _: &Frame<'_>, _: Rect) {}
    fn cursor(&mut self, _: &Cursor<'_>) {}
    fn move_cursor(&mut self, _: ScanoutId, _: u32, _: u32) {}
}

/// A GPU whose commands are counted, if they are.
struct Counted {
    gpu: Gpu,
    meter: Option<Meter>,
}

impl VirtioDevice for Counted {
    fn device_id(&self) -> u32 {
        self.gpu.device_id()
    }

    fn queue_sizes(&self) -> &[u16] {
        self.gpu.queue_sizes()
    }

    fn features(&self) -> u64 {
        self.gpu.features()
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.gpu.config()
    }

    fn start(&mut self, features: u64, start: Start) {
        self.gpu.start(features, start);
    }

    fn stop(&mut self) {
        self.gpu.stop();
    }

    fn reset(&mut self) {
        self.gpu.reset();
    }

    fn request(&mut self, memory: &Memory, queue: u16, request: Request<'_>, reply: &mut Vec<u8>) -> Answer {
        let Some(meter) = &mut self.meter else { return self.gpu.request(memory, queue, request, reply) };
        let (bytes, errors) = (request.bytes, meter.errors());
        let answer = self.gpu.request(memory, queue, request, reply);
        meter.count(bytes, errors, answer, reply);
        answer
    }

    fn is_full(&self, queue: u16) -> bool {
        self.gpu.is_full(queue)
    }

    fn poll(&mut self, memory: &Memory, now: Instant, out: &mut Outbox) {
        let Some(meter) = &mut self.meter else { return self.gpu.poll(memory, now, out) };
        meter.batch(now, Instant::now);
        self.gpu.poll(memory, now, out);
        meter.complete(&out.completions, Instant::now);
    }

    fn memory(&mut self, memory: &Memory) {
        self.gpu.memory(memory);
    }

    fn abandon(&mut self, out: &mut Outbox) {
        self.gpu.abandon(out);
    }

    fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.gpu.poll_fds()
    }

    fn deadline(&self) -> Option<Instant> {
        self.gpu.deadline()
    }
}

/// A command with its header: fenced or not, in a context or in none.
fn command(kind: u32, fenced: bool, context: u32, body: &[u32]) -> Vec<u8> {
    let header = [kind, u32::from(fenced), 7, 0, context, 0];
    header.iter().chain(body).flat_map(|word| word.to_le_bytes()).collect()
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let [with, what, together, count] = &args[..] else { panic!("with|without COMMAND TOGETHER COUNT") };
    let (together, count): (usize, usize) = (together.parse().expect("a number"), count.parse().expect("a number"));
    let stats = Arc::new(Stats::default());
    let gpu = Gpu::new(GpuOptions::default(), Box::new(Soft::new()), Box::new(Dark), stats.clone());
    let gpu = gpu.with_three_d(Box::new(Null3d::default()), 1 << 20);
    gpu.config().front(Front { maps: true, context_init: true });
    let meter = (with == "with").then(|| Meter::new(stats.clone()));
    let mut guest = Loopback::new(Counted { gpu, meter });
    let memory = guest.allocate(1 << 16).expect("memory");
    let begin = [
        command(0x101, false, 0, &[1, 1, 64, 64]),
        command(0x106, false, 0, &[1, 1, memory as u32, (memory >> 32) as u32, 64 * 64 * 4, 0]),
        command(0x103, false, 0, &[0, 0, 64, 64, 0, 1]),
        command(0x200, false, 1, &[&[0, 4][..], &[0; 16]].concat()),
    ];
    for bytes in begin {
        let reply = guest.request(0, &bytes, 24).expect("a reply").bytes;
        assert_eq!(reply[..2], [0, 0x11], "{bytes:x?}");
    }
    let bytes = match what.as_str() {
        // 16 times 16 pixels.
        "flush" => command(0x104, false, 0, &[0, 0, 16, 16, 1, 0]),
        "transfer" => command(0x105, false, 0, &[0, 0, 16, 16, 0, 0, 1, 0]),
        // A stream of one word that does nothing.
        "fenced" => command(0x207, true, 1, &[4, 0, 0]),
        _ => panic!("flush, transfer, fenced"),
    };
    let mark = guest.allocate(0).expect("memory");
    for _ in 0..count / together {
        let sent: Vec<_> = (0..together).map(|_| guest.send(0, &[&bytes], &[24]).expect("room")).collect();
        for sent in &sent {
            assert_eq!(guest.wait(sent).expect("a reply").bytes[..2], [0, 0x11]);
        }
        guest.release(mark);
    }
    let counted: u64 = stats.traffic.commands().map(|(_, count)| count).sum();
    println!("{} commands, {counted} counted", stats.commands.get());
}
