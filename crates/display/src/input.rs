//! What people type and point at in the viewer process, as an input device wants it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use device::{InputSource, Leds, SourceEvent, TouchPhase, guest_log};
use frames::{Input, InputCounters, InputEnd, InputEvent};

/// The viewers' keyboard, pointer and fingers, whichever viewer it is just now.
pub struct ViewerInput {
    end: InputEnd,
    /// Kept between polls so that an idle one allocates nothing.
    events: Vec<InputEvent>,
    told: InputCounters,
}

impl ViewerInput {
    /// Takes one socket of a [`frames::pair`]; each viewer in turn has the other one.
    pub fn new(lasting: OwnedFd) -> io::Result<Self> {
        Ok(Self { end: InputEnd::new(lasting)?, events: Vec::new(), told: InputCounters::default() })
    }

    /// Says what a viewer did wrong.
    fn complain(&mut self) {
        let now = self.end.counters();
        if now.garbage != self.told.garbage {
            guest_log!(warn, "The viewer sent input that no viewer sends: all keys go up");
        }
        if now.versions != self.told.versions {
            guest_log!(
                warn,
                "The viewer speaks another version of the protocol for input: use the same build for both"
            );
        }
        self.told = now;
    }
}

impl InputSource for ViewerInput {
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    fn poll(&mut self, events: &mut Vec<SourceEvent>) {
        self.end.poll(&mut self.events);
        events.extend(self.events.drain(..).map(|event| match event {
            InputEvent::Input { head, input } => translated(head, input),
            InputEvent::Gone => SourceEvent::Gone,
        }));
        self.complain();
    }

    fn leds(&mut self, Leds { num, caps, scroll }: Leds) {
        self.end.leds(frames::Leds { num, caps, scroll });
    }
}

fn translated(head: u8, input: Input) -> SourceEvent {
    match input {
        Input::Key { code, pressed } => SourceEvent::Key { code, pressed },
        Input::Pointer { x, y } => SourceEvent::Pointer { head, x, y },
        Input::Button { code, pressed } => SourceEvent::Button { code, pressed },
        Input::Wheel { vertical, horizontal } => SourceEvent::Wheel { vertical, horizontal },
        Input::Touch { slot, phase, x, y } => {
            let phase = match phase {
                frames::TouchPhase::Down => TouchPhase::Down,
                frames::TouchPhase::Move => TouchPhase::Move,
                frames::TouchPhase::Up => TouchPhase::Up,
            };
            SourceEvent::Touch { slot, phase, head, x, y }
        }
        Input::ReleaseAll => SourceEvent::ReleaseAll,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frames::InputSession;

    struct Bed {
        source: ViewerInput,
        viewer: InputSession,
    }

    impl Bed {
        fn new() -> Self {
            let (ours, theirs) = frames::pair().unwrap();
            let mut bed = Bed { source: ViewerInput::new(ours).unwrap(), viewer: InputSession::begin(theirs).unwrap() };
            assert!(bed.poll().is_empty());
            bed
        }

        fn poll(&mut self) -> Vec<SourceEvent> {
            let mut events = Vec::new();
            self.source.poll(&mut events);
            events
        }
    }

    #[test]
    fn everything_a_person_can_do_reaches_the_device() {
        let mut bed = Bed::new();
        let phases = [
            (frames::TouchPhase::Down, TouchPhase::Down),
            (frames::TouchPhase::Move, TouchPhase::Move),
            (frames::TouchPhase::Up, TouchPhase::Up),
        ];
        let touches = phases.map(|(said, heard)| {
            let said = Input::Touch { slot: 1, phase: said, x: 2, y: 3 };
            (said, SourceEvent::Touch { slot: 1, phase: heard, head: 7, x: 2, y: 3 })
        });
        let others = [
            (Input::Key { code: 30, pressed: true }, SourceEvent::Key { code: 30, pressed: true }),
            (Input::Pointer { x: 1, y: 2 }, SourceEvent::Pointer { head: 7, x: 1, y: 2 }),
            (Input::Button { code: 272, pressed: false }, SourceEvent::Button { code: 272, pressed: false }),
            (Input::Wheel { vertical: -120, horizontal: 5 }, SourceEvent::Wheel { vertical: -120, horizontal: 5 }),
            (Input::ReleaseAll, SourceEvent::ReleaseAll),
        ];
        for (said, heard) in touches.into_iter().chain(others) {
            assert!(bed.viewer.send(7, said).unwrap());
            assert_eq!(bed.poll(), [heard]);
        }
    }

    #[test]
    fn the_guests_lights_reach_the_viewer_and_its_end_the_device() {
        let mut bed = Bed::new();
        bed.source.leds(Leds { num: true, caps: false, scroll: true });
        assert_eq!(bed.viewer.leds(), Some(frames::Leds { num: true, caps: false, scroll: true }));
        drop(bed.viewer);
        let mut events = Vec::new();
        bed.source.poll(&mut events);
        assert_eq!(events, [SourceEvent::Gone]);
    }
}
