//! Who may look, who may type, and who does: at most one person at a time holds the floor.
//!
//! A *seat* is one person: a browser page, a VNC client, the window. Whoever may control and types or points while nobody holds
//! the floor takes it. Whoever only moved a pointer, which happens when a window opens under a mouse, loses it to the first one
//! who types or clicks; from another holder it is taken only on purpose ([`Seat::take`]). What a holder holds down goes up before
//! anybody else types, and when a seat leaves, is revoked or lets go. So the guest never sees two people's keys mixed.

mod down;
mod inputs;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use frames::{Input, Leds};
use tokio::sync::watch;

use crate::hub::Hub;
use crate::tokens::Pass;

pub(crate) use down::Down;
use down::Grip;
pub(crate) use inputs::{Inputs, Lost, Which};

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// See the screen.
    Look,
    /// Type, point and change the mode as well; with a manager, start and stop.
    Control,
}

/// A seat's number; no two in the life of a process are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) struct SeatId(u64);

/// What became of something that a person did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It went to the guest, or changed nothing that the guest knows (a key that is down already).
    Passed,
    /// Another seat holds the floor.
    NotYours,
    /// This seat only looks.
    MayNot,
    /// The VM takes no input from here.
    NoInput,
}

/// What everybody may know about the floor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FloorNews {
    /// Who controls.
    pub(crate) holder: Option<SeatId>,
    /// It did more than to move a pointer; else whoever types or clicks gets control.
    pub(crate) firm: bool,
    /// What that one is called.
    pub(crate) name: Option<Arc<str>>,
    /// People who are here, with the holder.
    pub(crate) seats: usize,
    /// The VM takes keys and a pointer.
    pub(crate) input: bool,
    /// The VM takes fingers, more than one.
    pub(crate) touch: bool,
    /// The lights of the guest's keyboard.
    pub(crate) leds: Leds,
}

/// What passed and what did not, for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct InputCounts {
    /// Events that went to the device.
    pub(crate) passed: u64,
    /// Events of people who may not, or not now.
    pub(crate) refused: u64,
    /// Keys, buttons and fingers that no keyboard, mouse or hand has.
    pub(crate) unknown: u64,
    /// Events that found the device too busy: everything went up instead.
    pub(crate) lost: u64,
}

#[derive(Debug)]
struct Person {
    pass: Pass,
    name: Arc<str>,
    revoked: watch::Sender<bool>,
}

impl Person {
    fn may_control(&self) -> bool {
        self.pass.right() == Right::Control && !*self.revoked.borrow()
    }
}

#[derive(Debug)]
struct State {
    inputs: Inputs,
    people: BTreeMap<SeatId, Person>,
    next: u64,
    holder: Option<SeatId>,
    /// The holder did more than to move a pointer.
    firm: bool,
    /// What the holder holds down.
    down: Down,
    leds: Leds,
    counts: InputCounts,
}

/// The floor of a VM.
#[derive(Debug)]
pub(crate) struct Floor {
    state: Mutex<State>,
    news: watch::Sender<FloorNews>,
}

impl Floor {
    pub(crate) fn new(inputs: Inputs) -> Self {
        let state = State {
            inputs,
            people: BTreeMap::new(),
            next: 0,
            holder: None,
            firm: false,
            down: Down::default(),
            leds: Leds::default(),
            counts: InputCounts::default(),
        };
        let news = watch::Sender::new(state.news());
        Self { state: Mutex::new(state), news }
    }

    /// What everybody may know, and when it changes.
    pub(crate) fn news(&self) -> watch::Receiver<FloorNews> {
        self.news.subscribe()
    }

    /// The lights of the guest's keyboard, if it has one.
    pub(crate) fn leds(&self) -> Option<Leds> {
        let state = self.lock();
        state.inputs.has(Which::Console).then_some(state.leds)
    }

    pub(crate) fn counts(&self) -> InputCounts {
        self.lock().counts
    }

    /// Somebody comes who was let in.
    pub(crate) fn sit(&self, pass: Pass, name: &str) -> (SeatId, watch::Receiver<bool>) {
        self.change(|state| {
            let id = SeatId(state.next);
            state.next += 1;
            let (revoked, gone) = watch::channel(false);
            state.people.insert(id, Person { pass, name: name.into(), revoked });
            (id, gone)
        })
    }

    /// Takes their rights from all whose pass is not good any more.
    pub(crate) fn revoke(&self, is_good: impl Fn(&Pass) -> bool) {
        self.change(|state| {
            let gone = state.people.iter().filter(|(_, person)| !is_good(&person.pass));
            let gone: Vec<SeatId> = gone.map(|(id, _)| *id).collect();
            for id in gone {
                state.give_back(id);
                state.people.get(&id).into_iter().for_each(|person| _ = person.revoked.send_replace(true));
            }
        });
    }

    /// Takes in what the device said about its lights, and sends what it had no room for. False: that session has ended.
    pub(crate) fn attend(&self, which: Which) -> bool {
        self.change(|state| {
            if let Some(leds) = state.inputs.attend(which) {
                state.leds = leds;
            }
            let open = state.inputs.has(which);
            if !open {
                // The device let go of everything when it hung up.
                state.let_go();
            }
            open
        })
    }

    /// What there is to wait for: the session's socket, and whether for room in it too.
    pub(crate) fn socket(&self, which: Which) -> Option<OwnedFd> {
        self.lock().inputs.socket(which)
    }

    pub(crate) fn wants_write(&self, which: Which) -> bool {
        self.lock().inputs.wants_write(which)
    }

    /// Waits until a session had no room for something.
    pub(crate) async fn until_lost(&self, which: Which) {
        let lost = self.lock().inputs.lost(which);
        match lost {
            Some(lost) => lost.notified().await,
            None => std::future::pending().await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = act(&mut state);
        let now = state.news();
        self.news.send_if_modified(|news| {
            let differs = *news != now;
            *news = now;
            differs
        });
        result
    }

    /// True when a seat may act now: it may control, and nobody else does.
    fn is_free_for(&self, id: SeatId) -> Outcome {
        self.lock().is_free_for(id)
    }
}

impl State {
    fn news(&self) -> FloorNews {
        let holder = self.holder.and_then(|id| self.people.get(&id));
        FloorNews {
            holder: self.holder,
            firm: self.holder.is_some() && self.firm,
            name: holder.map(|person| person.name.clone()),
            seats: self.people.len(),
            input: self.inputs.has(Which::Console),
            touch: self.inputs.has(Which::Touch),
            leds: self.leds,
        }
    }

    fn is_free_for(&self, id: SeatId) -> Outcome {
        match self.people.get(&id) {
            Some(person) if person.may_control() => match self.holder {
                Some(holder) if holder != id && self.firm => Outcome::NotYours,
                _ => Outcome::Passed,
            },
            _ => Outcome::MayNot,
        }
    }

    fn input(&mut self, id: SeatId, head: u8, input: Input) -> Outcome {
        let grip = down::grip(&input);
        let others = self.holder.is_some_and(|holder| holder != id);
        let outcome = match self.is_free_for(id) {
            Outcome::Passed if others && grip != Grip::Firm => Outcome::NotYours,
            Outcome::Passed if !self.inputs.any() => Outcome::NoInput,
            outcome => outcome,
        };
        if outcome != Outcome::Passed {
            self.counts.refused += 1;
            return outcome;
        }
        if self.holder != Some(id) {
            // Something that ends has nothing to end: no floor is taken by it.
            if grip == Grip::None {
                return Outcome::Passed;
            }
            self.hand_to(id);
        }
        self.firm |= grip == Grip::Firm;
        match self.down.note(input) {
            Ok(Some(input)) => self.send(head, input),
            Ok(None) => {}
            Err(down::Unknown) => self.counts.unknown += 1,
        }
        Outcome::Passed
    }

    /// A seat has the floor from now on.
    fn hand_to(&mut self, id: SeatId) {
        self.let_go();
        self.holder = Some(id);
        self.firm = false;
    }

    fn send(&mut self, head: u8, input: Input) {
        match self.inputs.send(head, input) {
            Ok(()) => self.counts.passed += 1,
            Err(Lost) => {
                self.counts.lost += 1;
                // The session says that everything goes up as soon as it can; the other one must not lag behind.
                self.down = Down::default();
                self.inputs.release();
            }
        }
    }

    /// Everything that the holder holds down goes up.
    fn let_go(&mut self) {
        if self.down != Down::default() {
            self.down = Down::default();
            self.inputs.release();
        }
    }

    /// A seat has the floor no more, if it had.
    fn give_back(&mut self, id: SeatId) {
        if self.holder == Some(id) {
            self.let_go();
            self.holder = None;
        }
    }
}

/// A person's place; dropped: the person leaves.
#[derive(Debug)]
pub(crate) struct Seat {
    hub: Arc<Hub>,
    id: SeatId,
    right: Right,
    revoked: watch::Receiver<bool>,
}

impl Seat {
    pub(crate) fn new(hub: Arc<Hub>, pass: Pass, name: &str) -> Self {
        let right = pass.right();
        let (id, revoked) = hub.floor.sit(pass, name);
        Self { hub, id, right, revoked }
    }

    pub(crate) fn id(&self) -> SeatId {
        self.id
    }

    pub(crate) fn right(&self) -> Right {
        self.right
    }

    /// Takes the floor from whoever has it. False: this seat may not.
    pub(crate) fn take(&self) -> bool {
        self.hub.floor.change(|state| {
            let may = state.people.get(&self.id).is_some_and(Person::may_control);
            if may && state.holder != Some(self.id) {
                state.hand_to(self.id);
            }
            state.firm |= may;
            may
        })
    }

    /// Takes the floor if nobody has it, or nobody who means it.
    pub(crate) fn take_if_free(&self) {
        self.hub.floor.change(|state| {
            if state.is_free_for(self.id) == Outcome::Passed {
                if state.holder != Some(self.id) {
                    state.hand_to(self.id);
                }
                state.firm = true;
            }
        });
    }

    /// Gives the floor back, if this seat has it; what it holds down goes up.
    pub(crate) fn release(&self) {
        self.hub.floor.change(|state| state.give_back(self.id));
    }

    /// True while this seat has the floor.
    #[cfg(test)]
    pub(crate) fn holds(&self) -> bool {
        self.hub.floor.lock().holder == Some(self.id)
    }

    /// True while this seat holds something down.
    pub(crate) fn is_pressing(&self) -> bool {
        let state = self.hub.floor.lock();
        state.holder == Some(self.id) && state.down != Down::default()
    }

    /// True while this seat holds a key or a button down.
    pub(crate) fn is_down(&self, code: u16) -> bool {
        let state = self.hub.floor.lock();
        state.holder == Some(self.id) && state.down.has(code)
    }

    /// Passes on what the person did on a head; a seat that may takes the floor by it when nobody has it.
    /// [`Input::ReleaseAll`] lets go of everything and keeps the floor: the person looked away.
    pub(crate) fn input(&self, head: u8, input: Input) -> Outcome {
        self.hub.floor.change(|state| {
            if input == Input::ReleaseAll {
                if state.holder == Some(self.id) {
                    state.let_go();
                }
                return Outcome::Passed;
            }
            state.input(self.id, head, input)
        })
    }

    /// Counts a key that no keyboard has.
    pub(crate) fn unknown(&self) {
        self.hub.floor.lock().counts.unknown += 1;
    }

    /// Wishes for another size of a head, in pixels. The last wish within a tenth of a second counts. Only who may control, and
    /// while nobody else does.
    #[cfg_attr(not(feature = "window"), expect(dead_code, reason = "VNC clients want to be told what became of it"))]
    pub(crate) fn resize(&self, head: u8, width: u32, height: u32) -> Outcome {
        let outcome = self.may_resize();
        if outcome == Outcome::Passed {
            self.hub.wish(head, width, height);
        }
        outcome
    }

    /// Whether a wish for another size would be passed on.
    pub(crate) fn may_resize(&self) -> Outcome {
        self.hub.floor.is_free_for(self.id)
    }

    /// Waits until this seat's token is good no more: close the connection then.
    pub(crate) async fn revoked(&self) {
        // The sender lives as long as this seat.
        let _ = self.revoked.clone().wait_for(|gone| *gone).await;
    }

    /// True when this seat's token is good no more.
    #[cfg(test)]
    pub(crate) fn is_revoked(&self) -> bool {
        *self.revoked.borrow()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.floor.change(|state| {
            state.give_back(self.id);
            state.people.remove(&self.id);
        });
    }
}

#[cfg(test)]
mod tests;
