//! The VMM's own window: QEMU's vhost-user-gpu side socket.
//!
//! Nothing here waits. What the socket does not take now is kept as *state*, not as a queue: the pixels that the VMM has not
//! seen as rectangles, the pointer as its picture and place, at most one message half sent. When there is room again the
//! device is asked for the then newest pixels ([`DisplayEvent::Ready`]). So a VMM that does not read costs a few
//! rectangles, and gets the newest picture when it reads again.
//!
//! A VMM opens a new side socket at each start of its driver and after each pause, and shows nothing until it is told
//! everything again: [`DisplayEvent::Forgot`].

mod head;
mod mailbox;
mod modes;
mod side;
#[cfg(test)]
mod tests;
mod update;

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use device::{Cursor, Display, DisplayEvent, Frame, Modes, Stats, guest_log};
use protocol::{MAX_SCANOUTS, Rect, ScanoutId};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use head::Head;
pub use mailbox::GpuSocketSender;
use mailbox::Mailbox;
use modes::VmmModes;
use side::Side;
use update::Sent;

const WAKE: u64 = 0;
const SIDE: u64 = 1;

/// So many polls in a row may find nothing to expect before one asks the kernel: a poll after each batch of a busy guest's
/// commands costs no system call, and a VMM that hung up is noticed all the same.
const QUIET_POLLS: u8 = 16;

/// Shows heads in the VMM's window.
pub struct VhostUserGpu {
    /// One descriptor for the life of the display, whatever sockets come and go behind it.
    epoll: OwnedFd,
    mailbox: Arc<Mailbox>,
    side: Option<Side>,
    heads: [Head; MAX_SCANOUTS as usize],
    modes: VmmModes,
    /// Heads may have something to say that is not pixels.
    words_due: bool,
    staging: Vec<u8>,
    quiet_polls: u8,
    stats: Arc<Stats>,
}

impl VhostUserGpu {
    /// A display whose VMM has not opened a side socket yet.
    pub fn new(stats: Arc<Stats>) -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mailbox = Mailbox::new()?;
        epoll::add(&epoll, mailbox.as_fd(), EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Self {
            epoll,
            mailbox,
            side: None,
            heads: Default::default(),
            modes: VmmModes::default(),
            words_due: false,
            staging: Vec::new(),
            quiet_polls: 0,
            stats,
        })
    }

    /// Where the transport puts the side sockets that it receives.
    pub fn socket_sender(&self) -> GpuSocketSender {
        GpuSocketSender::new(self.mailbox.clone())
    }

    /// Says all that can be said: the rest of what is half said, small messages, and the pixels of the head whose frame is at
    /// hand.
    fn push(&mut self, supplied: Option<(usize, &Frame<'_>)>) {
        let Some(side) = &mut self.side else { return };
        let sent = loop {
            if let Some(update) = &mut side.update {
                let (index, bytes) = (update.head, update.pixel_bytes());
                let frame = supplied.filter(|(supplied, _)| *supplied == index).map(|(_, frame)| frame);
                if frame.is_none() && !update.orphaned && self.heads[index].has(&update.rect) {
                    break Sent::Blocked;
                }
                if frame.is_some() && std::mem::take(&mut update.orphaned) {
                    self.heads[index].repeat(update.rect);
                }
                let mut copied = 0;
                let (sent, done) = side.send_update(frame, &mut self.staging, &mut copied);
                self.stats.bytes_copied.add(copied);
                match done {
                    Some(update) => {
                        self.stats.bytes_shown.add(bytes as u64);
                        if update.orphaned {
                            self.heads[index].asked = Some(update.rect);
                            self.heads[index].repeat(update.rect);
                        }
                    }
                    None => break sent,
                }
            }
            match side.send_words() {
                Sent::Whole => {}
                stopped => break stopped,
            }
            if let Some(message) = self.modes.next_message() {
                message.encode(side.words());
            } else if self.words_due {
                let words = side.words();
                self.words_due = self.heads.iter_mut().enumerate().any(|(index, head)| head.next_words(index, words));
            } else if let Some((index, _)) = supplied
                && let Some(update) = self.heads[index].next_update(index)
            {
                side.update = Some(update);
            } else {
                break Sent::Whole;
            }
        };
        match sent {
            Sent::Closed => self.mailbox.tell_hung_up(),
            // Also for heads whose pixels are not at hand now: the next poll asks for them.
            _ => {
                let wait = sent == Sent::Blocked || self.heads.iter().any(|head| head.to_ask().is_some());
                side.wait_for_room(&self.epoll, SIDE, wait);
            }
        }
    }

    /// Takes a new side socket in the place of the old one.
    fn adopt(&mut self, socket: OwnedFd, events: &mut Vec<DisplayEvent>) {
        match Side::new(socket, &self.epoll, SIDE) {
            Ok(side) => self.forget(Some(side)),
            Err(error) => {
                guest_log!(warn, "Cannot use the front-end's display socket: {error}");
                return self.hang_up(events);
            }
        }
        self.modes.begin();
        events.push(DisplayEvent::Forgot);
        self.push(None);
    }

    /// The side socket is of no use any more. What heads show is told anew on the next one.
    fn hang_up(&mut self, events: &mut Vec<DisplayEvent>) {
        self.forget(None);
        if self.modes.end() {
            events.push(DisplayEvent::ModesChanged { notify: false });
        }
    }

    /// Closes the socket, which takes it out of the epoll, and with it goes what was said there.
    fn forget(&mut self, next: Option<Side>) {
        self.side = next;
        self.heads = Default::default();
        self.words_due = false;
    }

    /// What the kernel has to say. Returns whether the side socket has room.
    fn wait(&mut self, events: &mut Vec<DisplayEvent>) -> bool {
        let mut room = [MaybeUninit::<Event>::uninit(); 2];
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut room, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) else {
            return false;
        };
        let (mut woken, mut side) = (false, EventFlags::empty());
        for event in ready {
            match event.data.u64() {
                WAKE => woken = true,
                _ => side = event.flags,
            }
        }
        if side.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.receive(events);
        }
        if woken {
            self.open_mailbox(events);
        }
        side.contains(EventFlags::OUT)
    }

    fn open_mailbox(&mut self, events: &mut Vec<DisplayEvent>) {
        let (socket, hung_up) = self.mailbox.take();
        match socket {
            Some(socket) => self.adopt(socket, events),
            None if hung_up => self.hang_up(events),
            None => {}
        }
    }

    fn receive(&mut self, events: &mut Vec<DisplayEvent>) {
        let Some(side) = &mut self.side else { return };
        let was_pending = self.modes.is_pending();
        let mut replies = Vec::new();
        let received = side.receive(&mut replies);
        let taken = replies.into_iter().try_for_each(|reply| self.modes.take(reply).map_err(Some));
        if let Err(reason) = taken.and(received) {
            if let Some(reason) = reason {
                guest_log!(warn, "{reason}: closing it");
            }
            return self.hang_up(events);
        }
        if was_pending && !self.modes.is_pending() {
            events.push(DisplayEvent::ModesChanged { notify: false });
        }
        self.push(None);
    }

    /// Asks the device for the pixels that the VMM has not seen.
    fn ask(&mut self, events: &mut Vec<DisplayEvent>) {
        let Some(side) = &mut self.side else { return };
        if let Some(update) = &mut side.update {
            let head = &mut self.heads[update.head];
            // Asked before, and nothing came: there are no such pixels any more.
            update.orphaned |= head.asked.is_some();
            if update.orphaned || !head.has(&update.rect) {
                return self.push(None);
            }
            head.asked = Some(update.missing());
            events.push(DisplayEvent::Ready { scanout: ScanoutId(update.head as u32), damage: update.missing() });
        }
        for (scanout, head) in (0..MAX_SCANOUTS).map(ScanoutId).zip(&mut self.heads) {
            if let Some(damage) = head.to_ask() {
                head.asked = Some(damage);
                events.push(DisplayEvent::Ready { scanout, damage });
            }
        }
    }

    /// The head with that number, while somebody looks.
    fn head(&mut self, scanout: ScanoutId) -> Option<(usize, &mut Head)> {
        self.side.as_ref()?;
        let index = scanout.0 as usize;
        Some((index, self.heads.get_mut(index)?))
    }
}

impl Display for VhostUserGpu {
    fn set_scanout(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>) {
        let Some((_, head)) = self.head(scanout) else { return };
        head.show(frame);
        if frame.is_none() {
            self.words_due = true;
            self.push(None);
        }
    }

    fn flush(&mut self, scanout: ScanoutId, frame: &Frame<'_>, damage: Rect) {
        let Some((index, head)) = self.head(scanout) else { return };
        head.add_damage(frame, damage);
        self.push(Some((index, frame)));
    }

    fn supply(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>, _damage: Rect) {
        let Some((index, head)) = self.head(scanout) else { return };
        match frame {
            Some(frame) => {
                head.take_supply(frame);
                self.push(Some((index, frame)));
            }
            None => {
                if let Some(update) = self.side.as_mut().and_then(|side| side.update.as_mut())
                    && update.head == index
                {
                    update.orphaned = true;
                }
                self.push(None);
            }
        }
    }

    fn cursor(&mut self, cursor: &Cursor<'_>) {
        let Some((_, head)) = self.head(cursor.scanout) else { return };
        head.pointer.set(cursor);
        self.words_due = true;
        self.push(None);
    }

    fn move_cursor(&mut self, scanout: ScanoutId, x: u32, y: u32) {
        let Some((_, head)) = self.head(scanout) else { return };
        head.pointer.go(x, y);
        self.words_due = true;
        self.push(None);
    }

    fn modes(&self) -> Modes {
        match self.mailbox.is_full() {
            true => Modes::Pending,
            false => self.modes.modes(),
        }
    }

    fn edid(&self, scanout: ScanoutId) -> Option<&[u8]> {
        self.modes.edid(scanout)
    }

    fn refresh_modes(&mut self) {
        if self.side.is_some() {
            self.modes.refresh();
            self.push(None);
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn poll(&mut self, _now: Instant, events: &mut Vec<DisplayEvent>) {
        let blocked = self.side.as_ref().is_some_and(Side::is_blocked);
        self.quiet_polls += 1;
        let mut room = !blocked;
        if blocked || self.modes.is_pending() || self.mailbox.is_full() || self.quiet_polls >= QUIET_POLLS {
            self.quiet_polls = 0;
            room |= self.wait(events);
        }
        if blocked && room {
            self.push(None);
        }
        if room {
            self.ask(events);
        }
    }

    fn reset(&mut self) {
        self.hang_up(&mut Vec::new());
        self.modes = VmmModes::default();
    }
}
