//! The same machine, with rings between guest and device.

use std::sync::Arc;

use device::{Memory, Region, Renderer, Start, Stats};
use renderer::{Late, Mood, Soft};
use transport::loopback::{Loopback, Sent, Shape};

use crate::conversation::Interlocutor;
use crate::machine::{PIECES, gpu};
use crate::screen::Screen;
use crate::script::{Request, describe};

/// Where rings and buffers lie, away from what the conversations speak of.
const RINGS: (u64, u64) = (1 << 32, 8 << 20);

pub struct RingMachine {
    guest: Loopback,
    screen: Screen,
    stats: Arc<Stats>,
    rings: Region,
    hasty: bool,
    /// Where buffers begin.
    mark: u64,
    sent: Vec<(Sent, Option<String>)>,
}

impl RingMachine {
    fn with(renderer: Box<dyn Renderer>, hasty: bool, indirect: bool) -> Self {
        let (gpu, screen, stats) = gpu(renderer, hasty);
        let shape = Shape { memory: vec![RINGS], indirect, ..Shape::default() };
        let mut guest = Loopback::with_shape(Box::new(gpu), &shape);
        let rings = guest.memory().regions()[0].clone();
        let mark = guest.allocate(0).unwrap();
        let mut machine = Self { guest, screen, stats, rings, hasty, mark, sent: Vec::new() };
        machine.set_memory(&[0, 1, 2, 3]);
        machine
    }

    pub fn soft() -> Self {
        Self::with(Box::new(Soft::new()), false, false)
    }

    pub fn late(mood: Mood, indirect: bool) -> Self {
        Self::with(Box::new(Late::new(Soft::new(), mood).unwrap()), true, indirect)
    }
}

impl Interlocutor for RingMachine {
    fn send(&mut self, request: &Request) -> Option<usize> {
        // A ring cannot say that it is another one, and carries what it says it does.
        if request.queue > 1 || request.carried != request.bytes.len() as u64 {
            return None;
        }
        // In two descriptors each where there is something to part.
        let (head, tail) = request.bytes.split_at(request.bytes.len().min(24));
        let (first, second) = (request.room.min(24) as u32, request.room.saturating_sub(24) as u32);
        let rooms: &[u32] = if request.room == 0 { &[] } else { &[first, second] };
        let sent = self.guest.send(request.queue, &[head, tail], rooms).expect("room in the ring");
        self.sent.push((sent, None));
        Some(self.sent.len() - 1)
    }

    fn nudge(&mut self) {
        self.guest.run();
    }

    fn wait(&mut self) {
        for (sent, reply) in self.sent.iter_mut().filter(|(_, reply)| reply.is_none()) {
            let came = self.guest.wait(sent).expect("a reply");
            assert_eq!(came.bytes.len(), came.used_len as usize, "ACRN: the length of a reply is what was written");
            *reply = Some(describe(&came.bytes));
        }
        self.guest.release(self.mark);
    }

    fn reply(&self, index: usize) -> Option<String> {
        self.sent[index].1.clone()
    }

    fn is_hasty(&self) -> bool {
        self.hasty
    }

    fn set_memory(&mut self, pieces: &[usize]) {
        let pieces = pieces.iter().map(|piece| PIECES[*piece].clone());
        let memory = Memory::new(std::iter::once(self.rings.clone()).chain(pieces).collect()).unwrap();
        self.guest.set_memory(memory);
    }

    fn stop(&mut self) {
        assert_eq!(self.guest.pause().len(), 2);
    }

    fn start(&mut self, start: Start) {
        match start {
            Start::Fresh => self.guest.reboot(),
            Start::Resumed => self.guest.resume(),
        }
    }

    fn reset(&mut self) {
        self.guest.reconnect();
        let is_rings = |region: &&Region| region.start == RINGS.0;
        self.rings = self.guest.memory().regions().iter().find(is_rings).unwrap().clone();
        self.set_memory(&[0, 1, 2, 3]);
    }

    fn screen(&self) -> Screen {
        self.screen.clone()
    }

    fn resources(&self) -> u64 {
        self.stats.resources.get()
    }

    fn finish(&mut self) {
        assert_eq!(self.guest.counts().broken, [0, 0]);
        self.reset();
        let stats = self.stats.snapshot();
        assert_eq!((stats.resources, stats.image_bytes, stats.panics), (0, 0, 0), "what a guest left behind");
        assert!(self.screen.seen().heads.is_empty());
    }
}
