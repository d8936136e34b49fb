//! What a VNC client types and points at, as input for the guest.

use std::sync::Arc;
use std::time::Duration;

use frames::Input;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::floor::{Outcome, Seat};
use crate::hub::{Hub, Joined};
use crate::keys::{Typing, Unknown};
use crate::rfb::message::SizeNews;

/// BTN_* of the buttons in the order of RFB's bits; the four directions of the wheel between them.
const BUTTONS: [(u16, u16); 5] = [(0, 0x110), (1, 0x112), (2, 0x111), (7, 0x113), (8, 0x114)];

/// The wheel's bits, and what one notch of each is.
const WHEEL: [(u16, i16, i16); 4] = [(3, 120, 0), (4, -120, 0), (5, 0, -120), (6, 0, 120)];

/// Messages that a client may say in a window of time before it has to wait. Stops one that says 100,000 in a second from
/// keeping everybody busy: the rest stays where it is, and that client's own network holds it back.
const MESSAGES: u32 = 100;
const WINDOW: Duration = Duration::from_millis(10);

/// Moves of the pointer that count as one message: most of them are only looked at, for the last one in a row counts.
const MOVES: u32 = 32;

/// How fast a client is heard.
pub(crate) struct Pace {
    since: Instant,
    /// In moves.
    heard: u32,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), heard: 0 }
    }

    /// After each message: waits when there were too many.
    pub(crate) async fn step(&mut self) {
        self.count(MOVES).await;
    }

    /// After each move of the pointer that others may take the place of.
    pub(crate) async fn step_of_move(&mut self) {
        self.count(1).await;
    }

    async fn count(&mut self, moves: u32) {
        self.heard += moves;
        if self.heard < MESSAGES * MOVES {
            return;
        }
        yield_now().await;
        sleep_until(self.since + WINDOW).await;
        *self = Self::new();
    }
}

/// What it is when these buttons take the place of those.
pub(crate) fn buttons(before: u16, now: u16) -> impl Iterator<Item = Input> {
    let changed = before ^ now;
    let button =
        move |(bit, code)| (changed >> bit & 1 == 1).then_some(Input::Button { code, pressed: now >> bit & 1 == 1 });
    let notch = move |(bit, vertical, horizontal)| {
        ((changed & now) >> bit & 1 == 1).then_some(Input::Wheel { vertical, horizontal })
    };
    BUTTONS.into_iter().filter_map(button).chain(WHEEL.into_iter().filter_map(notch))
}

/// A client's keyboard and pointer.
pub(crate) struct Hand<'a> {
    hub: &'a Arc<Hub>,
    seat: &'a Seat,
    joined: &'a Joined,
    head: u8,
    buttons: u16,
    typing: Typing,
    /// A move that waits for the next one.
    moved: Option<(u16, u16)>,
}

impl<'a> Hand<'a> {
    pub(crate) fn new(hub: &'a Arc<Hub>, seat: &'a Seat, joined: &'a Joined, head: u8) -> Self {
        Self { hub, seat, joined, head, buttons: 0, typing: Typing::default(), moved: None }
    }

    /// Takes a move alone; false: buttons changed too.
    pub(crate) fn moves_only(&mut self, buttons: u16, x: u16, y: u16) -> bool {
        let only = buttons == self.buttons;
        if only {
            self.moved = Some((x, y));
        }
        only
    }

    /// The pointer is there and has these buttons.
    pub(crate) fn pointer(&mut self, buttons: u16, x: u16, y: u16) {
        self.moved = Some((x, y));
        self.rest();
        let events = self::buttons(self.buttons, buttons);
        self.buttons = buttons;
        events.for_each(|event| self.input(event));
    }

    /// Nothing more is said for now: a move that waited goes out. False: there was none.
    pub(crate) fn rest(&mut self) -> bool {
        let Some((x, y)) = self.moved.take() else { return false };
        let (x, y) = self.joined.share(x.into(), y.into());
        self.input(Input::Pointer { x, y });
        true
    }

    /// A key went down or up.
    pub(crate) fn key(&mut self, keysym: u32, pressed: bool, code: Option<u32>) {
        self.rest();
        let leds = self.hub.floor.leds().unwrap_or_default();
        match self.typing.key((keysym, code), pressed, &|code| self.seat.is_down(code), leds) {
            Ok(events) => events.into_iter().for_each(|(code, pressed)| self.input(Input::Key { code, pressed })),
            Err(Unknown) => self.seat.unknown(),
        }
    }

    /// The client wishes for another size.
    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        self.joined.answer_wish(match self.seat.may_resize() {
            Outcome::Passed if self.hub.wish(self.head, width, height) => SizeNews::Forwarded,
            Outcome::Passed => SizeNews::Invalid,
            _ => SizeNews::Prohibited,
        });
    }

    pub(crate) fn is_pressing(&self) -> bool {
        self.seat.is_pressing()
    }

    /// Everything goes up.
    pub(crate) fn let_go(&mut self) {
        self.input(Input::ReleaseAll);
    }

    fn input(&mut self, input: Input) {
        if self.seat.input(self.head, input) != Outcome::Passed {
            // What was typed before means nothing any more.
            self.typing = Typing::default();
        }
    }
}

impl Drop for Hand<'_> {
    /// The seat may outlive this connection; what was pressed through it must not.
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of time that it takes to hear so many.
    async fn windows(messages: u32, moves: u32) -> u32 {
        let (start, mut pace) = (Instant::now(), Pace::new());
        for _ in 0..messages {
            pace.step().await;
        }
        for _ in 0..moves {
            pace.step_of_move().await;
        }
        start.elapsed().div_duration_f64(WINDOW).round() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_messages_or_of_moves_is_heard_at_a_pace() {
        assert_eq!(windows(MESSAGES - 1, MOVES - 1).await, 0);
        assert_eq!(windows(10 * MESSAGES, 0).await, 10);
        assert_eq!(windows(0, 10 * MESSAGES * MOVES).await, 10);
        assert_eq!(windows(MESSAGES / 2, MESSAGES / 2 * MOVES).await, 1);
    }
}
