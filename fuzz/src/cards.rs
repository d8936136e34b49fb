//! Bytes as what a VMM and its guest do to a PCI function.

use std::sync::Arc;

use device::vga::{Vga, VgaOptions};
use device::{
    Desktop, Input, InputKind, InputOptions, InputSource, InputStats, Leds, SourceEvent, Stats, VirtioDevice,
};
use renderer::Soft;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use transport::vfio_user::pci::{Model, Shape};
use transport::vfio_user::replay::Replay;
use transport::vfio_user::wire::{HEADER_BYTES, Header, Request, parse_dma};

use crate::machine;

/// A function as the first byte says, and a guest whose memory the bytes are.
fn replay(data: &[u8]) -> Option<(Replay, Arc<Stats>)> {
    let choice = data.first().copied().unwrap_or(0);
    let model = [Model::Vga, Model::Virtio, Model::Bochs, Model::Input][usize::from(choice & 3)];
    let shape = Shape { model, msix: choice & 4 == 0, pio: choice & 8 == 0 };
    let (gpu, _, stats) = machine::gpu(Box::new(Soft::new()), false);
    let (device, port): (Box<dyn VirtioDevice>, _) = match model {
        Model::Input => (Box::new(input()?), None),
        Model::Virtio => (Box::new(gpu), None),
        Model::Vga | Model::Bochs => {
            let (vga, port) = Vga::new(VgaOptions { virtio: model == Model::Vga, ..VgaOptions::default() }).ok()?;
            (Box::new(gpu.with_boot(vga)), Some(port))
        }
    };
    Some((Replay::new(device, shape, port, data)?, stats))
}

/// Nobody types.
struct Nobody(OwnedFd);

impl InputSource for Nobody {
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn poll(&mut self, _events: &mut Vec<SourceEvent>) {}

    fn leds(&mut self, _leds: Leds) {}
}

fn input() -> Option<Input> {
    let options = InputOptions { name: "fuzz".into(), serial: String::new(), kind: InputKind::Console };
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    Some(Input::new(options, Box::new(Nobody(fd)), Arc::new(Desktop::default()), Arc::new(InputStats::default())))
}

/// Messages. Panics when something panicked inside.
pub fn converse(data: &[u8]) {
    let Some((mut replay, stats)) = replay(data) else { return };
    replay.messages(data.get(1..).unwrap_or_default());
    drop(replay);
    let stats = stats.snapshot();
    assert_eq!((stats.panics, stats.resources, stats.image_bytes), (0, 0, 0));
}

/// A guest's accesses. Panics when one is answered with an error, or something panicked inside.
pub fn touch(data: &[u8]) {
    let Some((mut replay, stats)) = replay(data) else { return };
    assert_eq!(replay.accesses(data.get(1..).unwrap_or_default()), Ok(()));
    drop(replay);
    let stats = stats.snapshot();
    assert_eq!((stats.panics, stats.resources, stats.image_bytes), (0, 0, 0));
}

/// What is understood is said again in the same words.
pub fn parse(data: &[u8]) {
    let _ = parse_dma(data);
    let Some((head, payload)) = data.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(header) = Header::parse(head) else { return };
    assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
    if let Ok(request) = Request::parse(header.command, payload) {
        let mut again = Vec::new();
        let command = request.encode(&mut again);
        assert_eq!(Request::parse(command, &again), Ok(request));
    }
}

/// A conversation of the transport's own tests as messages: `converse` takes them. The guest's requests are not among them.
pub fn seed(text: &str) -> Vec<u8> {
    let mut seed = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["shape", ref shape @ ..] = words[..] {
            let model = ["vga", "virtio", "bochs", "input"].iter().position(|model| shape.first() == Some(model));
            seed.push(model.unwrap_or(0) as u8 | if shape.contains(&"no-msix") { 4 } else { 0 });
        } else if let Some((fds, quiet, command, payload)) = words_of(&words) {
            seed.push(fds);
            seed.extend(command.to_le_bytes().into_iter().fold(vec![1, 0], |mut head, byte| {
                head.push(byte);
                head
            }));
            seed.extend((16 + payload.len() as u32).to_le_bytes());
            seed.extend([if quiet { 16 } else { 0 }, 0, 0, 0, 0, 0, 0, 0]);
            seed.extend(payload);
        }
    }
    seed
}

/// Descriptors, whether it is posted, the command and its payload.
fn words_of(words: &[&str]) -> Option<(u8, bool, u16, Vec<u8>)> {
    let hex = |word: &str| u64::from_str_radix(word, 16).unwrap_or(0);
    let w = |words: &[u64]| words.iter().flat_map(|word| (*word as u32).to_le_bytes()).collect::<Vec<u8>>();
    let l = |longs: &[u64]| longs.iter().flat_map(|long| long.to_le_bytes()).collect::<Vec<u8>>();
    let place = |place: &str| {
        let (region, rest) = place.split_once('+')?;
        let (offset, width) = rest.split_once('/')?;
        Some((hex(region), hex(offset), width.parse::<u64>().ok()?))
    };
    // All of a guest's memory is the first MiB here.
    let short = |value: u64| value & 0xf_ffff;
    Some(match *words {
        ["version"] => (0, false, 1, [&[0; 4], &b"{\"capabilities\":{\"max_data_xfer_size\":4096}}\0"[..]].concat()),
        ["info"] => (0, false, 4, w(&[16, 0, 0, 0])),
        ["reset"] => (0, false, 13, vec![]),
        ["map", iova, size, access, ref file @ ..] => {
            let flags = if access == "rw" { 3 } else { 1 };
            let size = hex(size).min(1 << 20);
            (file.len().min(1) as u8, false, 2, [w(&[32, flags]), l(&[0, hex(iova), size])].concat())
        }
        ["unmap", iova, size] => (0, false, 3, [w(&[24, 0]), l(&[hex(iova), hex(size).min(1 << 20)])].concat()),
        ["region", index, ..] => (0, false, 5, [w(&[64, 0, hex(index), 0]), l(&[0, 0])].concat()),
        ["irq", index, ..] => (0, false, 7, w(&[16, 0, hex(index), 0])),
        ["irqs", flags, index, start, count, ref fds @ ..] => {
            let fds = fds.get(1).map_or(0, |fds| hex(fds) as u8);
            (fds, false, 8, w(&[20, hex(flags), hex(index), hex(start), hex(count)]))
        }
        ["read" | "until", at, ..] => {
            let (region, offset, width) = place(at)?;
            (0, false, 9, [l(&[offset]), w(&[region, width])].concat())
        }
        ["write" | "post", at, value] => {
            let (region, offset, width) = place(at)?;
            let ring = region == 2 && (0x1020..0x1038).contains(&offset);
            let value = if ring { short(hex(value)) } else { hex(value) };
            let data = value.to_le_bytes().get(..width as usize)?.to_vec();
            (0, words[0] == "post", 10, [l(&[offset]), w(&[region, width]), data].concat())
        }
        ["kick", queue, ..] => (0, false, 10, [l(&[0x3000 + 4 * hex(queue)]), w(&[2, 2]), vec![0, 0]].concat()),
        _ => return None,
    })
}
