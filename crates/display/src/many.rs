//! Several displays at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use device::{Cursor, Display, DisplayEvent, Frame, Modes};
use protocol::{Rect, ScanoutId};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// Shows everything on all of them. The first one owns the modes.
pub struct Many {
    displays: Vec<Box<dyn Display>>,
    /// Readable when one of them is.
    epoll: OwnedFd,
    /// Who asked for pixels in the last poll, and which.
    asked: Vec<(usize, ScanoutId, Rect)>,
    events: Vec<DisplayEvent>,
}

impl Many {
    /// Puts displays side by side; their order counts.
    pub fn new(displays: Vec<Box<dyn Display>>) -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        for (index, display) in (0..).zip(&displays) {
            if let Some(fd) = display.poll_fd() {
                epoll::add(&epoll, fd, EventData::new_u64(index), EventFlags::IN)?;
            }
        }
        Ok(Self { displays, epoll, asked: Vec::new(), events: Vec::new() })
    }
}

impl Display for Many {
    fn set_scanout(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>) {
        self.displays.iter_mut().for_each(|display| display.set_scanout(scanout, frame));
    }

    fn flush(&mut self, scanout: ScanoutId, frame: &Frame<'_>, damage: Rect) {
        self.displays.iter_mut().for_each(|display| display.flush(scanout, frame, damage));
    }

    /// For those who asked for it, who may be several that asked for different parts of a head.
    fn supply(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>, damage: Rect) {
        let Some(at) = self.asked.iter().position(|(_, asked, _)| *asked == scanout) else { return };
        let (index, _, wanted) = self.asked.remove(at);
        // The device cuts what it brings to the frame's size; one display counts on what it asked for.
        let damage = frame.map_or(damage, |frame| frame.rect().intersection(&wanted).unwrap_or_default());
        self.displays[index].supply(scanout, frame, damage);
    }

    fn catch_up(&mut self, scanout: ScanoutId, frame: &Frame<'_>) {
        self.displays.iter_mut().for_each(|display| display.catch_up(scanout, frame));
    }

    fn cursor(&mut self, cursor: &Cursor<'_>) {
        self.displays.iter_mut().for_each(|display| display.cursor(cursor));
    }

    fn move_cursor(&mut self, scanout: ScanoutId, x: u32, y: u32) {
        self.displays.iter_mut().for_each(|display| display.move_cursor(scanout, x, y));
    }

    fn modes(&self) -> Modes {
        self.displays.first().map_or(Modes::Device, |display| display.modes())
    }

    fn edid(&self, scanout: ScanoutId) -> Option<&[u8]> {
        self.displays.first()?.edid(scanout)
    }

    fn refresh_modes(&mut self) {
        self.displays.iter_mut().take(1).for_each(|display| display.refresh_modes());
    }

    fn is_watched(&self, scanout: ScanoutId) -> bool {
        self.displays.iter().any(|display| display.is_watched(scanout))
    }

    fn hold(&mut self, scanout: ScanoutId, held: bool) {
        self.displays.iter_mut().for_each(|display| display.hold(scanout, held));
    }

    fn wants_shared(&self) -> bool {
        self.displays.iter().any(|display| display.wants_shared())
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn poll(&mut self, now: Instant, events: &mut Vec<DisplayEvent>) {
        self.asked.clear();
        for (index, display) in self.displays.iter_mut().enumerate() {
            display.poll(now, &mut self.events);
            for event in self.events.drain(..) {
                match event {
                    DisplayEvent::ModesChanged { .. } if index > 0 => continue,
                    DisplayEvent::Ready { scanout, damage } => self.asked.push((index, scanout, damage)),
                    _ => {}
                }
                events.push(event);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.displays.iter().filter_map(|display| display.deadline()).min()
    }

    fn reset(&mut self) {
        self.displays.iter_mut().for_each(|display| display.reset());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use device::{Head, Pixels};
    use protocol::Format;
    use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

    use super::*;

    /// Notes what it is told, and says what it is given to say.
    struct Noted {
        notes: Arc<Mutex<Vec<String>>>,
        says: Vec<DisplayEvent>,
        modes: Modes,
        wake: OwnedFd,
        deadline: Option<Instant>,
        watched: Arc<AtomicBool>,
    }

    impl Noted {
        fn note(&self, note: String) {
            self.notes.lock().unwrap().push(note);
        }
    }

    impl Display for Noted {
        fn set_scanout(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>) {
            self.note(format!("show {scanout} {}", frame.is_some()));
        }
        fn flush(&mut self, scanout: ScanoutId, _frame: &Frame<'_>, damage: Rect) {
            self.note(format!("flush {scanout} {}", damage.width));
        }
        fn supply(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>, damage: Rect) {
            self.note(format!("supply {scanout} {} {}", frame.is_some(), damage.width));
        }
        fn catch_up(&mut self, scanout: ScanoutId, frame: &Frame<'_>) {
            self.note(format!("catch up {scanout} {}", frame.width));
        }
        fn cursor(&mut self, cursor: &Cursor<'_>) {
            self.note(format!("cursor {}", cursor.x));
        }
        fn move_cursor(&mut self, _scanout: ScanoutId, x: u32, _y: u32) {
            self.note(format!("move {x}"));
        }
        fn modes(&self) -> Modes {
            self.modes.clone()
        }
        fn refresh_modes(&mut self) {
            self.note("refresh".to_owned());
        }
        fn hold(&mut self, scanout: ScanoutId, held: bool) {
            self.note(format!("hold {scanout} {held}"));
        }
        fn is_watched(&self, scanout: ScanoutId) -> bool {
            scanout.0 == 0 && self.watched.load(Ordering::Relaxed)
        }
        fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
            Some(self.wake.as_fd())
        }
        fn poll(&mut self, _now: Instant, events: &mut Vec<DisplayEvent>) {
            events.append(&mut self.says);
        }
        fn deadline(&self) -> Option<Instant> {
            self.deadline
        }
        fn reset(&mut self) {
            self.note("reset".to_owned());
        }
    }

    struct Two {
        many: Many,
        notes: [Arc<Mutex<Vec<String>>>; 2],
        watched: [Arc<AtomicBool>; 2],
        wakes: [OwnedFd; 2],
        pixels: Vec<u8>,
    }

    impl Two {
        fn new(says: [Vec<DisplayEvent>; 2]) -> Self {
            let notes = [Arc::default(), Arc::default()];
            let watched = [Arc::default(), Arc::default()];
            let wakes = [(); 2].map(|()| eventfd(0, EventfdFlags::NONBLOCK).unwrap());
            let modes = [Modes::Display(vec![Head::default()]), Modes::Pending];
            let parts = says.into_iter().zip(&notes).zip(&wakes).zip(modes).zip(&watched);
            let displays = parts.map(|((((says, notes), wake), modes), watched)| {
                let (notes, wake) = (Arc::clone(notes), wake.try_clone().unwrap());
                let (deadline, watched) = (Some(Instant::now()), Arc::clone(watched));
                Box::new(Noted { notes, says, modes, wake, deadline, watched }) as Box<dyn Display>
            });
            Self { many: Many::new(displays.collect()).unwrap(), notes, watched, wakes, pixels: vec![0; 64] }
        }

        fn frame(&self) -> Frame<'static> {
            let pixels = Pixels::Private(Vec::leak(self.pixels.clone()));
            Frame { format: Format::B8G8R8X8, width: 4, height: 4, stride: 16, offset: 0, pixels }
        }

        fn poll(&mut self) -> Vec<DisplayEvent> {
            let mut events = Vec::new();
            self.many.poll(Instant::now(), &mut events);
            events
        }

        fn take(&self) -> [Vec<String>; 2] {
            [0, 1].map(|index: usize| std::mem::take(&mut *self.notes[index].lock().unwrap()))
        }
    }

    fn ready(width: u32) -> DisplayEvent {
        DisplayEvent::Ready { scanout: ScanoutId(0), damage: Rect::of_size(width, 4) }
    }

    #[test]
    fn a_head_is_watched_as_long_as_one_of_them_watches_it() {
        let two = Two::new([vec![], vec![]]);
        let watched = || [0, 1].map(|head| two.many.is_watched(ScanoutId(head)));
        assert_eq!(watched(), [false; 2]);
        two.watched[1].store(true, Ordering::Relaxed);
        assert_eq!(watched(), [true, false]);
    }

    #[test]
    fn everything_is_shown_on_all_and_the_first_owns_the_modes() {
        let mut two = Two::new([vec![], vec![]]);
        let frame = two.frame();
        two.many.set_scanout(ScanoutId(0), Some(&frame));
        two.many.flush(ScanoutId(0), &frame, Rect::of_size(2, 2));
        two.many.cursor(&Cursor { scanout: ScanoutId(0), x: 5, y: 0, hot_x: 0, hot_y: 0, image: None });
        two.many.move_cursor(ScanoutId(0), 6, 0);
        two.many.catch_up(ScanoutId(0), &frame);
        two.many.reset();
        let [first, second] = two.take();
        assert_eq!(first, ["show 0 true", "flush 0 2", "cursor 5", "move 6", "catch up 0 4", "reset"]);
        assert_eq!(first, second);
        two.many.refresh_modes();
        assert_eq!(two.take().map(|notes| notes.len()), [1, 0]);
        assert_eq!(two.many.modes(), Modes::Display(vec![Head::default()]));
        assert!(two.many.deadline().is_some());
        assert!(!two.many.wants_shared());
    }

    #[test]
    fn pixels_go_to_the_display_that_asked_for_them() {
        let mut two = Two::new([vec![ready(1)], vec![ready(2), ready(3)]]);
        let frame = two.frame();
        assert_eq!(two.poll(), [ready(1), ready(2), ready(3)]);
        for width in [1, 2] {
            two.many.supply(ScanoutId(0), Some(&frame), Rect::of_size(width, 4));
        }
        two.many.supply(ScanoutId(0), None, Rect::of_size(3, 4));
        assert_eq!(two.take(), [vec!["supply 0 true 1"], vec!["supply 0 true 2", "supply 0 false 3"]]);
        // Nobody asked, or not since the last poll.
        two.many.supply(ScanoutId(0), Some(&frame), Rect::of_size(1, 4));
        two.many.supply(ScanoutId(1), None, Rect::of_size(1, 4));
        assert_eq!(two.take(), [vec![""; 0], vec![""; 0]]);
    }

    #[test]
    fn news_of_modes_count_only_from_the_first() {
        let changed = DisplayEvent::ModesChanged { notify: true };
        let mut two = Two::new([vec![changed.clone()], vec![changed.clone(), DisplayEvent::Forgot]]);
        assert_eq!(two.poll(), [changed, DisplayEvent::Forgot]);
    }

    #[test]
    fn one_descriptor_is_readable_when_any_of_them_is() {
        let two = Two::new([vec![], vec![]]);
        let due = || {
            let fd = two.many.poll_fd().unwrap();
            let mut fds = [PollFd::new(&fd, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut fds, Some(&now)).unwrap() > 0
        };
        assert!(!due());
        for wake in &two.wakes {
            rustix::io::write(wake, &1u64.to_ne_bytes()).unwrap();
            assert!(due());
            rustix::io::read(wake, &mut [0; 8]).unwrap();
            assert!(!due());
        }
    }
}
