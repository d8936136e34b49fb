//! Conversations as text: what a VMM and its guest say, and what they must hear.
//!
//! A number is hexadecimal, but for counts and widths. `?` stands for any digit of a reply.
//!
//! - `shape MODEL [no-msix] [pio] [rom]`: what the device is;
//! - `version`, `info`, `reset`;
//! - `map IOVA SIZE r|rw [file OFFSET]`, `unmap IOVA SIZE`;
//! - `region N = FLAGS SIZE`, `irq N = COUNT`, `irqs FLAGS INDEX START COUNT [fds N]`;
//! - `read R+OFFSET/WIDTH [= VALUE]`, `until R+OFFSET/WIDTH = VALUE`: read until it is so;
//! - `edid FROM..TO`: byte by byte, and the blocks that were read are sound;
//! - `write R+OFFSET/WIDTH VALUE`; `post`: without a reply;
//! - `kick QUEUE COMMAND..`: the driver's requests, each of which must succeed, and a kick;
//! - `interrupt VECTOR|intx`: waits for it;
//! - `resize WxH`: somebody wants another size.

use super::super::pci::{Model, Shape};
use super::super::rom::Rom;
use super::served::{Served, Stage};
use super::vmm::Vmm;
use super::words::Request;
use crate::loopback::{Descriptor, DriverQueue, WRITE};
use crate::ring::Layout;

/// Where the driver's requests and replies lie, and the pixels.
const REQUESTS: u64 = 0x0300_0000;
const REPLIES: u64 = 0x0310_0000;

/// Plays a conversation to its end, and the VMM hangs up.
pub fn play(text: &str) {
    let mut player: Option<Player> = None;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "shape" {
            player = Some(Player::new(&words[1..]));
            continue;
        }
        let player = player.as_mut().expect("a shape first");
        player.at = format!("line {}: {line}", number + 1);
        player.say(&words);
    }
}

struct Player {
    _served: Served,
    stage: Stage,
    vmm: Vmm,
    at: String,
    /// Registers of the queue that is selected, as the driver wrote them.
    selected: usize,
    layouts: [Layout; 2],
    features: u64,
    feature_word: u32,
    queues: [Option<DriverQueue>; 2],
    image: u32,
    requests: u64,
}

impl Player {
    fn new(words: &[&str]) -> Self {
        let model = match words[0] {
            "vga" => Model::Vga,
            "virtio" => Model::Virtio,
            "bochs" => Model::Bochs,
            other => panic!("{other} is no model"),
        };
        let has = |word| words.contains(&word);
        let shape = Shape { model, msix: model != Model::Bochs && !has("no-msix"), pio: has("pio") };
        let rom = has("rom").then(|| rom(model));
        let (served, stage) = Served::gpu(shape, rom);
        let vmm = served.vmm();
        let none = Layout { size: 1024, descriptors: 0, available: 0, used: 0 };
        Self {
            _served: served,
            stage,
            vmm,
            at: String::new(),
            selected: 0,
            layouts: [none; 2],
            features: 0,
            feature_word: 0,
            queues: [None, None],
            image: 0,
            requests: 0,
        }
    }

    fn say(&mut self, words: &[&str]) {
        match *words {
            ["version"] => drop(self.vmm.version()),
            ["info"] => assert_eq!(self.vmm.info().unwrap(), [16, 3, 9, 5], "{}", self.at),
            ["reset"] => self.vmm.reset(),
            ["map", iova, size, access, ref file @ ..] => {
                let offset = file.get(1).map(|offset| hex(offset));
                let mapped = self.vmm.map(hex(iova), hex(size), access == "rw", offset);
                assert_eq!(mapped, Ok(()), "{}", self.at);
            }
            ["unmap", iova, size] => assert_eq!(self.vmm.unmap(hex(iova), hex(size)), Ok(()), "{}", self.at),
            ["region", index, "=", flags, size] => {
                let region = self.vmm.region(hex(index) as u32);
                assert_eq!(region, (hex(flags) as u32, hex(size)), "{}", self.at);
            }
            ["irq", index, "=", count] => {
                assert_eq!(self.vmm.irq(hex(index) as u32).1, hex(count) as u32, "{}", self.at);
            }
            ["irqs", flags, index, start, count, ref fds @ ..] => {
                let [flags, index, start, count] = [flags, index, start, count].map(|word| hex(word) as u32);
                let fds = fds.get(1).map_or(0, |fds| hex(fds) as u32);
                assert_eq!(self.vmm.set_irqs(flags, index, start, count, fds), Ok(()), "{}", self.at);
            }
            ["read", place] => drop(self.read(place)),
            ["read", place, "=", expected] => {
                let value = self.read(place);
                assert!(matches(&value, expected), "{}, but {value}", self.at);
            }
            ["until", place, "=", expected] => {
                let mut reads = 0;
                while !matches(&self.read(place), expected) {
                    reads += 1;
                    assert!(reads < 1_000_000, "{}", self.at);
                    std::thread::yield_now();
                }
            }
            ["edid", range] => self.edid(range),
            ["write" | "post", place, value] => self.write(words[0] == "post", place, value),
            ["kick", queue, ref commands @ ..] => self.kick(hex(queue) as usize, commands),
            ["interrupt", "intx"] => drop(self.vmm.wait_interrupt(0, 0)),
            ["interrupt", vector] => drop(self.vmm.wait_interrupt(2, hex(vector) as u32)),
            ["resize", size] => {
                let (width, height) = size.split_once('x').unwrap();
                self.stage.resize(width.parse().unwrap(), height.parse().unwrap());
            }
            _ => panic!("{}: unknown", self.at),
        }
    }

    fn read(&self, place: &str) -> String {
        let (region, offset, width) = parse(place);
        let bytes = self.vmm.read(region, offset, width);
        bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect()
    }

    fn edid(&self, range: &str) {
        let (from, to) = range.split_once("..").unwrap();
        let bytes: Vec<u8> = (hex(from)..hex(to)).map(|at| self.vmm.read(2, at, 1)[0]).collect();
        assert_eq!(bytes[..8], [0, 255, 255, 255, 255, 255, 255, 0]);
        for block in bytes.chunks(128) {
            assert_eq!(block.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "{}", self.at);
        }
    }

    fn write(&mut self, post: bool, place: &str, value: &str) {
        let (region, offset, width) = parse(place);
        let value = hex(value);
        let bytes = &value.to_le_bytes()[..width as usize];
        if post {
            self.vmm.post(region, offset, bytes);
        } else {
            self.vmm.write(region, offset, bytes);
        }
        if region == 2 {
            self.follow(offset, value);
        }
    }

    /// What the driver knows of its queues.
    fn follow(&mut self, offset: u64, value: u64) {
        let Some(layout) = self.layouts.get_mut(self.selected) else { return };
        match offset {
            0x1008 => self.feature_word = value as u32,
            0x100c if self.feature_word < 2 => {
                let shift = 32 * self.feature_word;
                self.features = self.features & !(0xffff_ffff << shift) | value << shift;
            }
            0x1016 => self.selected = value as usize,
            0x1018 => layout.size = value as u16,
            0x1020 => layout.descriptors = value,
            0x1028 => layout.available = value,
            0x1030 => layout.used = value,
            0x101c => {
                // As the driver allocates it: all zeros.
                for (at, len) in [
                    (layout.descriptors, 16 * u64::from(layout.size)),
                    (layout.available, 6 + 2 * u64::from(layout.size)),
                    (layout.used, 6 + 8 * u64::from(layout.size)),
                ] {
                    self.vmm.put(at, &vec![0; len as usize]);
                }
                self.queues[self.selected] = Some(DriverQueue::new(*layout, self.features));
            }
            _ => {}
        }
    }

    fn kick(&mut self, queue: usize, commands: &[&str]) {
        let memory = &self.vmm.memory;
        let driver = self.queues[queue].as_mut().expect("a queue that is set up");
        let mut replies = Vec::new();
        for command in commands {
            if *command == "101" {
                self.image += 1;
            }
            let image = self.image;
            let line = match *command {
                "100" => "display_info".to_owned(),
                "101" => format!("create_2d {image} bgrx 64x48"),
                "102" => format!("unref {}", image - 1),
                "103" => format!("scanout 0 {image} 0,0+64x48"),
                "104" => format!("flush {image} 0,0+64x48"),
                "105" => format!("transfer {image} 0,0+64x48"),
                "106" => format!("attach {image} 0x2000000+0x3000"),
                "107" => format!("detach {}", image - 1),
                "10a" => "edid 0".to_owned(),
                "300" => "cursor 0 1,2 0 0,0".to_owned(),
                other => panic!("{other} is no command"),
            };
            let bytes = Request::parse(&line).bytes;
            let slot = self.requests % 64;
            self.requests += 1;
            let (request, reply) = (REQUESTS + 0x1000 * slot, REPLIES + 0x1000 * slot);
            self.vmm.put(request, &bytes);
            self.vmm.put(reply, &[0; 0x800]);
            let buffers = [
                Descriptor { addr: request, len: bytes.len() as u32, ..Descriptor::default() },
                Descriptor { addr: reply, len: 0x800, flags: WRITE, next: 0 },
            ];
            let head = driver.chain(memory, &buffers).unwrap();
            driver.offer(memory, head);
            replies.push((line, reply));
        }
        driver.publish(memory);
        self.vmm.write_word(2, 0x3000 + 4 * queue as u64, 2, queue as u64);
        let mut done = 0;
        assert!(self.vmm.serve_until(|| {
            done += usize::from(driver.take(memory).is_some());
            done == replies.len()
        }));
        for (line, reply) in replies {
            let kind = u32::from_le_bytes(*self.vmm.get(reply, 4).first_chunk().unwrap());
            assert_eq!(kind & 0xff00, 0x1100, "{}: {line} -> {kind:#x}", self.at);
        }
    }
}

fn hex(word: &str) -> u64 {
    u64::from_str_radix(word, 16).unwrap_or_else(|_| panic!("{word} is no number"))
}

/// `R+OFFSET/WIDTH`.
fn parse(place: &str) -> (u32, u64, u32) {
    let (region, rest) = place.split_once('+').unwrap();
    let (offset, width) = rest.split_once('/').unwrap();
    (region.parse().unwrap(), hex(offset), width.parse().unwrap())
}

fn matches(value: &str, expected: &str) -> bool {
    value.len() == expected.len()
        && value.chars().zip(expected.chars()).all(|(value, wanted)| wanted == '?' || value == wanted)
}

/// The smallest ROM that firmware would run.
fn rom(model: Model) -> Rom {
    let mut bytes = vec![0; 28 << 10];
    bytes[..3].copy_from_slice(&[0x55, 0xaa, (28 << 10 >> 9) as u8]);
    bytes[0x18] = 0x40;
    bytes[0x40..0x58].copy_from_slice(&[
        b'P',
        b'C',
        b'I',
        b'R',
        0x34,
        0x12,
        0x11,
        0x11,
        0,
        0,
        0x18,
        0,
        0,
        0,
        0,
        3,
        (28 << 10 >> 9) as u8,
        0,
        0,
        0,
        0,
        0x80,
        0,
        0,
    ]);
    bytes[6] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rom");
    std::fs::write(&path, bytes).unwrap();
    Rom::load(&path, model).unwrap()
}
