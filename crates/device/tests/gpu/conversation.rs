//! Conversations: requests with the replies they must have, and what must be seen in between.
//!
//! ```text
//! create_2d 1 bgrx 4x4 -> ok           a request and its reply
//! wait                                 the guest waits for all replies
//! shows 0 4x4 bgrx                     head 0 is of this size
//! pixels 0 0,0+4x4 0x1000 16           .. and shows what lies at 0x1000, rows 16 bytes apart
//! dark 0 1,1+1x1                       .. or nothing yet
//! off 0                                .. or nothing at all
//! pointer 0 3,4 1,1 8x8 0x1000         the pointer: head, place, hot spot, size, picture; or `pointer hidden`
//! memory 0 2                           the table of guest memory holds these pieces
//! stop / start resumed / start fresh / reset
//! resources 1                          so many exist
//! ```
//!
//! Each is held with `soft`, its images private and shared, in haste with `late` under several seeds, and both over the
//! rings of an in-process guest: the replies must be the same. At its end nothing may be left.

use device::Start;
use renderer::Mood;

use crate::machine::Machine;
use crate::ring::RingMachine;
use crate::screen::Screen;
use crate::script::{Request, describe_format, number, pair, rect};

const SEEDS: u64 = 24;

/// Holds a conversation in every way there is.
pub fn hold(text: &str) {
    Conversation::new(Machine::soft(), "soft").hold(text);
    Conversation::new(Machine::with(Box::new(renderer::Soft::new()), true), "soft, shared").hold(text);
    Conversation::new(RingMachine::soft(), "soft over rings").hold(text);
    for seed in 0..SEEDS {
        let mood = Mood::honest(seed);
        Conversation::new(Machine::late(mood, seed % 2 == 1), &format!("late, seed {seed}")).hold(text);
        if seed % 6 == 0 {
            let machine = RingMachine::late(mood, seed % 4 == 0);
            Conversation::new(machine, &format!("late over rings, seed {seed}")).hold(text);
        }
    }
}

/// A machine that a conversation can be held with.
pub trait Interlocutor {
    /// Sends a request and says how to ask for its reply; `None` when it cannot be said in this way.
    fn send(&mut self, request: &Request) -> Option<usize>;
    /// Lets the device do something.
    fn nudge(&mut self);
    /// Waits until every request has its reply.
    fn wait(&mut self);
    /// The reply as text, if it is there.
    fn reply(&self, index: usize) -> Option<String>;
    /// Whether requests are sent without waiting for the replies of earlier ones.
    fn is_hasty(&self) -> bool;
    /// Replaces the table of memory by one of the given pieces of [`crate::machine::RAM`].
    fn set_memory(&mut self, pieces: &[usize]);
    /// Stops every ring.
    fn stop(&mut self);
    /// Starts every ring.
    fn start(&mut self, start: Start);
    /// The front-end goes and another one comes.
    fn reset(&mut self);
    /// What is seen.
    fn screen(&self) -> Screen;
    /// How many resources there are.
    fn resources(&self) -> u64;
    /// The end: nothing may be left.
    fn finish(&mut self);

    /// Sends a request and waits for its reply.
    fn ask(&mut self, line: &str) -> String {
        let index = self.send(&Request::parse(line)).expect("a request that can be said in this way");
        self.wait();
        self.reply(index).expect("a reply")
    }
}

/// Names a conversation after what it guards.
macro_rules! conversations {
    ($($(#[$meta:meta])* $name:ident: $text:expr;)*) => {
        $(
            $(#[$meta])*
            #[test]
            fn $name() {
                $crate::conversation::hold($text);
            }
        )*
    };
}
pub(crate) use conversations;

struct Conversation<M> {
    machine: M,
    way: String,
    /// Line, reply as it must be, how to ask for it.
    expected: Vec<(String, String, usize)>,
}

impl<M: Interlocutor> Conversation<M> {
    fn new(machine: M, way: &str) -> Self {
        Self { machine, way: way.into(), expected: Vec::new() }
    }

    fn hold(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once("->") {
                Some((request, reply)) => self.request(request, reply.trim()),
                None => self.statement(line),
            }
        }
        self.wait();
        self.machine.finish();
    }

    fn request(&mut self, request: &str, reply: &str) {
        let Some(index) = self.machine.send(&Request::parse(request)) else { return };
        self.expected.push((request.trim().into(), reply.into(), index));
        if !self.machine.is_hasty() {
            self.wait();
        } else if index.is_multiple_of(3) {
            self.machine.nudge();
        }
    }

    fn wait(&mut self) {
        self.machine.wait();
        for (request, reply, index) in self.expected.drain(..) {
            assert_eq!(self.machine.reply(index), Some(reply), "{request} ({})", self.way);
        }
    }

    fn statement(&mut self, line: &str) {
        self.wait();
        let words: Vec<&str> = line.split_whitespace().collect();
        let way = format!("{line} ({})", self.way);
        let screen = self.machine.screen();
        let seen = || screen.seen();
        match words[..] {
            ["wait"] => {}
            ["shows", head, size, format] => {
                let seen = seen();
                let picture = seen.heads.get(&(number(head) as u32)).unwrap_or_else(|| panic!("{way}: it is off"));
                let (width, height) = pair(size, 'x');
                assert_eq!((u64::from(picture.width), u64::from(picture.height)), (width, height), "{way}");
                assert_eq!(picture.format as u32, describe_format(format), "{way}");
            }
            ["pixels", head, area, addr, stride] => {
                let seen = seen();
                let picture = &seen.heads[&(number(head) as u32)];
                let [x, y, width, height] = rect(area);
                for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
                    let pixel = picture.pixels[((y + row) * u64::from(picture.width) + x + column) as usize];
                    let expected = (number(addr) + row * number(stride) + column * 4) as u32;
                    let found = pixel.map(u32::from_le_bytes);
                    assert_eq!(found, Some(expected), "{way}: pixel {column},{row} of {expected:#x}");
                }
            }
            ["dark", head, area] => {
                let seen = seen();
                let picture = &seen.heads[&(number(head) as u32)];
                let [x, y, width, height] = rect(area);
                for (row, column) in (y..y + height).flat_map(|row| (x..x + width).map(move |column| (row, column))) {
                    let pixel = picture.pixels[(row * u64::from(picture.width) + column) as usize];
                    assert_eq!(pixel, None, "{way}: pixel {column},{row}");
                }
            }
            ["off", head] => assert!(!seen().heads.contains_key(&(number(head) as u32)), "{way}"),
            ["pointer", "hidden"] => assert_eq!(seen().pointer.image, None, "{way}"),
            ["pointer", head, at, hot, size, addr] => {
                let pointer = seen().pointer.clone();
                assert_eq!(u64::from(pointer.scanout), number(head), "{way}");
                assert_eq!((u64::from(pointer.at.0), u64::from(pointer.at.1)), pair(at, ','), "{way}");
                assert_eq!((u64::from(pointer.hot.0), u64::from(pointer.hot.1)), pair(hot, ','), "{way}");
                let (width, height, bytes) = pointer.image.unwrap_or_else(|| panic!("{way}: it is hidden"));
                assert_eq!((u64::from(width), u64::from(height)), pair(size, 'x'), "{way}");
                let expected = (number(addr)..).step_by(4).map(|addr| addr as u32);
                assert!(
                    bytes
                        .as_chunks()
                        .0
                        .iter()
                        .map(|pixel| u32::from_le_bytes(*pixel))
                        .eq(expected.take(bytes.len() / 4)),
                    "{way}"
                );
            }
            ["memory", ref pieces @ ..] => {
                let pieces: Vec<usize> = pieces.iter().map(|piece| number(piece) as usize).collect();
                self.machine.set_memory(&pieces);
            }
            ["stop"] => self.machine.stop(),
            ["start", "resumed"] => self.machine.start(Start::Resumed),
            ["start", "fresh"] => self.machine.start(Start::Fresh),
            ["reset"] => self.machine.reset(),
            ["resources", count] => assert_eq!(self.machine.resources(), number(count), "{way}"),
            _ => panic!("{way}: no such statement"),
        }
    }
}
