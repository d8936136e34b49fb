//! What the device shows, and who looks at it: the one state of a viewer process.
//!
//! A client is served on request: it asks for an update, gets what it has not seen, and asks again. Only while somebody has
//! asked and has seen everything is the device given a credit for the next frame. So an idle screen costs nothing, and a slow
//! client neither slows another one nor the guest: its tiles just stay marked until it comes for them.

mod head;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use frames::{Damage, Leds, ModeRequest, News, Rect, ViewerEnd, ViewerError};
use tokio::sync::{Notify, watch};

#[cfg(test)]
use crate::floor::Inputs;
use crate::floor::{Floor, FloorNews, InputCounts, Seat, Which};
use crate::log::Lines;
use crate::rfb::cursor::{self, CursorImage};
use crate::rfb::encodings::{Abilities, CursorKind};
use crate::rfb::message::SizeNews;
use crate::rfb::pixel::PixelFormat;
use crate::tiles::Tiles;
use crate::tokens::{Door, Pass, Tokens};

use head::{EMPTY, Head};
pub(crate) use head::{HeadStatus, is_possible, share};

/// Who sees it.
pub(crate) type ClientId = u64;

/// One update for a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) format: PixelFormat,
    pub(crate) abilities: Abilities,
    /// The table of colours comes first.
    pub(crate) colour_map: bool,
    pub(crate) size: Option<(u32, u32, SizeNews)>,
    pub(crate) cursor: Option<Arc<CursorImage>>,
    /// The client learns that it may send codes of keys.
    pub(crate) key_codes: bool,
    /// The client learns that it may send more than eight buttons.
    pub(crate) more_buttons: bool,
    /// The lights of the guest's keyboard.
    pub(crate) leds: Option<Leds>,
    /// The parts of the picture to copy, pack and send.
    pub(crate) rects: Vec<Rect>,
}

#[derive(Debug)]
struct Client {
    head: u8,
    wake: Arc<Notify>,
    format: PixelFormat,
    abilities: Abilities,
    /// The cursor is drawn into the picture whatever the client can do.
    drawn_cursor: bool,
    /// What the client takes the desktop's size to be.
    size: (u32, u32),
    /// What it has not seen.
    unseen: Tiles,
    /// What it asked for.
    request: Option<Rect>,
    colour_map: bool,
    size_news: Option<SizeNews>,
    cursor_news: bool,
    key_codes_news: bool,
    more_buttons_news: bool,
    leds_news: Option<Leds>,
}

impl Client {
    fn draws_cursor(&self) -> bool {
        self.drawn_cursor || self.abilities.cursor == CursorKind::Drawn
    }
}

#[derive(Debug)]
struct State {
    device: ViewerEnd,
    name: String,
    /// The device's own name does not count.
    renamed: bool,
    connected: bool,
    heads: Vec<Head>,
    clients: BTreeMap<ClientId, Client>,
    next: ClientId,
}

/// The state, shared by the tasks of the process (one thread: nobody waits for the lock).
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    /// Rings when the device's socket was full.
    pub(crate) full: Notify,
    /// Rings when somebody wishes for another size.
    pub(crate) wished: Notify,
    /// Who controls.
    pub(crate) floor: Floor,
    /// Who is let in.
    pub(crate) door: Door,
    /// What may be said of clients in the log.
    pub(crate) lines: Lines,
}

impl Hub {
    pub(crate) fn new(device: ViewerEnd, name: Option<String>, floor: Floor, door: Door) -> Self {
        let state = State {
            device,
            renamed: name.is_some(),
            name: name.unwrap_or_default(),
            connected: false,
            heads: Vec::new(),
            clients: BTreeMap::new(),
            next: 0,
        };
        Self { state: Mutex::new(state), full: Notify::new(), wished: Notify::new(), floor, door, lines: Lines::new() }
    }

    /// With no device behind it, no input, and open to everybody.
    #[cfg(test)]
    pub(crate) fn for_tests(socket: OwnedFd) -> Self {
        let device = ViewerEnd::new(socket).expect("a socket of a pair");
        Self::new(device, None, Floor::new(Inputs::default()), Door::open())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the device has said.
    pub(crate) fn hear(&self) -> Result<(), ViewerError> {
        let mut state = self.lock();
        while let Some(news) = state.device.receive()? {
            state.take(news);
        }
        Ok(())
    }

    /// The device's socket, to wait for it.
    pub(crate) fn device(&self) -> io::Result<OwnedFd> {
        self.lock().device.as_fd().try_clone_to_owned()
    }

    /// True when credits wait for room in the device's socket.
    pub(crate) fn wants_write(&self) -> bool {
        self.lock().device.wants_write()
    }

    /// Somebody looks at a head from now on; ends when the result is dropped.
    pub(crate) fn join(self: &Arc<Self>, head: u8, drawn_cursor: bool) -> Joined {
        let wake = Arc::new(Notify::new());
        let client = Client {
            head,
            wake: wake.clone(),
            format: PixelFormat::NATIVE,
            abilities: Abilities::default(),
            drawn_cursor,
            size: (0, 0),
            unseen: Tiles::default(),
            request: None,
            colour_map: false,
            size_news: None,
            cursor_news: true,
            key_codes_news: false,
            more_buttons_news: false,
            leds_news: None,
        };
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.clients.insert(id, client);
        let updates = state.head(head).map_or(0, |head| head.updates);
        state.credit(head, true);
        self.ring(&state);
        Joined { hub: self.clone(), id, wake, synced: updates + 1 }
    }

    /// What the status page tells.
    pub(crate) fn status(&self) -> (String, bool, Vec<HeadStatus>) {
        let state = self.lock();
        let heads = (0..).zip(&state.heads).map(|(index, head)| {
            let (width, height) = head.size();
            let viewers = state.clients.values().filter(|client| client.head == index).count();
            HeadStatus { width, height, showing: head.view.is_some(), too_large: head.is_too_large(), viewers }
        });
        (state.name.clone(), state.connected, heads.collect())
    }

    /// Somebody who was let in takes a seat, until it is dropped. What it is called others see.
    pub(crate) fn sit(self: &Arc<Self>, pass: Pass, name: &str) -> Seat {
        let seat = Seat::new(self.clone(), pass.clone(), name);
        if !self.door.is_good(&pass) {
            // It was taken back since.
            self.floor.revoke(|pass| self.door.is_good(pass));
        }
        seat
    }

    /// Other tokens count from now on: whose token is gone loses its seat's rights at once.
    pub(crate) fn change_tokens(&self, tokens: Tokens) {
        self.door.change(tokens);
        self.floor.revoke(|pass| self.door.is_good(pass));
    }

    /// Takes in what a device for input said, and tells its lights to who can show them. False: it says nothing any more.
    pub(crate) fn attend(&self, which: Which) -> bool {
        let before = self.floor.leds();
        let open = self.floor.attend(which);
        let leds = self.floor.leds();
        if leds != before {
            for client in self.lock().clients.values_mut().filter(|client| client.abilities.leds) {
                client.leds_news = leds;
                client.wake.notify_one();
            }
        }
        open
    }

    /// Who controls, who is here, and the lights of the keyboard.
    pub(crate) fn floor_news(&self) -> watch::Receiver<FloorNews> {
        self.floor.news()
    }

    /// What was typed, in numbers only.
    pub(crate) fn input_counts(&self) -> InputCounts {
        self.floor.counts()
    }

    /// Somebody who may wishes for another size. False: there is no such size, or no such head.
    pub(crate) fn wish(&self, head: u8, width: u32, height: u32) -> bool {
        let mut state = self.lock();
        let head = state.head(head).filter(|_| is_possible(width, height));
        let passed = head.map(|head| head.wish = Some((width, height))).is_some();
        if passed {
            self.wished.notify_one();
        }
        passed
    }

    /// Passes the wishes for other sizes on.
    pub(crate) fn pass_wishes(&self) {
        let mut state = self.lock();
        let State { heads, device, .. } = &mut *state;
        for (head, state) in (0..).zip(heads) {
            if let Some((width, height)) = state.wish.take() {
                // Too busy to hear it, or gone: the next wish may come through.
                let _ = device.resize(ModeRequest { head, width, height });
            }
        }
    }

    fn ring(&self, state: &State) {
        if state.device.wants_write() {
            self.full.notify_one();
        }
    }
}

impl State {
    fn head(&mut self, head: u8) -> Option<&mut Head> {
        self.heads.get_mut(usize::from(head))
    }

    fn watchers(&mut self, head: u8) -> impl Iterator<Item = &mut Client> {
        self.clients.values_mut().filter(move |client| client.head == head)
    }

    /// Gives the device a credit for a head, if it has not got it yet.
    fn credit(&mut self, head: u8, now: bool) {
        let pointer = self.watchers(head).any(|client| client.request.is_some() && client.draws_cursor());
        let Some(state) = self.heads.get_mut(usize::from(head)) else { return };
        if now || state.credit.is_none() || state.credit == Some(false) && pointer {
            let pointer = pointer || state.credit == Some(true);
            state.credit = Some(pointer);
            // An error here is one of the socket, which the next read finds too.
            let _ = self.device.ready(head, now, pointer);
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Session(session) => {
                self.connected = true;
                if !self.renamed {
                    self.name = session.name;
                }
                self.heads = (0..session.heads).map(|_| Head::default()).collect();
                // Ask for each head once, so that the status knows the sizes.
                (0..session.heads).for_each(|head| self.credit(head as u8, true));
            }
            News::Layout(head, layout) => {
                if let Some(head) = self.head(head) {
                    head.layout = layout;
                }
            }
            News::Show(head, view) => {
                if let Some(head) = self.head(head) {
                    head.view = Some(view);
                }
            }
            News::Blank(head) => {
                if let Some(head) = self.head(head) {
                    head.view = None;
                }
            }
            News::Cursor(head, cursor) => {
                let cursor = cursor.map(|cursor| Arc::new(CursorImage::new(cursor)));
                self.change_cursor(head, |head| head.cursor = cursor);
                self.watchers(head).for_each(|client| client.cursor_news = true);
            }
            News::CursorMoved(head, x, y) => self.change_cursor(head, |head| head.pointer = (x, y)),
            News::Frame(head, damage) => self.frame(head, &damage),
        }
    }

    /// Clients that get the cursor with the picture must see where it was and where it is.
    fn change_cursor(&mut self, head: u8, change: impl FnOnce(&mut Head)) {
        let Some(state) = self.head(head) else { return };
        let before = state.cursor_rect();
        change(state);
        let after = state.cursor_rect();
        for client in self.watchers(head).filter(|client| client.draws_cursor()) {
            client.unseen.mark(before);
            client.unseen.mark(after);
        }
    }

    /// The end of an update: reads the pixels and wakes who waits for them.
    fn frame(&mut self, index: u8, damage: &Damage) {
        let watched = self.watchers(index).next().is_some();
        let Some(head) = self.head(index) else { return };
        head.credit = None;
        head.updates += 1;
        if !watched {
            head.screen = None;
            return;
        }
        let changed = head.refresh(damage);
        for client in self.watchers(index) {
            match &changed {
                Some(changed) => client.unseen.add(changed),
                None => client.unseen.mark_all(),
            }
            client.wake.notify_one();
        }
    }
}

/// A client's place in the hub.
#[derive(Debug)]
pub(crate) struct Joined {
    hub: Arc<Hub>,
    id: ClientId,
    /// Rings when there may be an update.
    pub(crate) wake: Arc<Notify>,
    /// The update of the head that answers our joining.
    synced: u64,
}

impl Joined {
    fn with<T>(&self, act: impl FnOnce(&mut Client, Option<&mut Head>) -> T) -> Option<T> {
        let mut state = self.hub.lock();
        let State { clients, heads, .. } = &mut *state;
        let client = clients.get_mut(&self.id)?;
        let head = heads.get_mut(usize::from(client.head));
        Some(act(client, head))
    }

    /// True when what we know of the head is not older than our joining.
    pub(crate) fn is_synced(&self) -> bool {
        self.with(|_, head| head.is_some_and(|head| head.updates >= self.synced)).unwrap_or_default()
    }

    /// The size of the desktop, which the client is told next, and the VM's name.
    pub(crate) fn begin(&self) -> (u32, u32, String) {
        let name = self.hub.lock().name.clone();
        let size = self.with(|client, head| {
            client.size = head.map_or(EMPTY, |head| head.size());
            client.unseen = Tiles::none(client.size.0, client.size.1);
            client.unseen.mark_all();
            client.size
        });
        let (width, height) = size.unwrap_or(EMPTY);
        (width, height, name)
    }

    /// The client asks for an update.
    pub(crate) fn request(&self, incremental: bool, rect: Rect) {
        self.with(|client, _| {
            if !incremental {
                client.unseen.mark(rect);
            }
            client.request = Some(client.request.map_or(rect, |earlier| earlier.union(&rect)));
        });
        self.wake.notify_one();
    }

    /// The client wants other pixels.
    pub(crate) fn set_format(&self, format: PixelFormat) {
        self.with(|client, _| {
            client.format = format;
            client.colour_map = format.needs_table();
            client.cursor_news = true;
        });
    }

    /// The client says what it can take.
    pub(crate) fn set_abilities(&self, abilities: Abilities) {
        let leds = self.hub.floor.leds().filter(|_| abilities.leds);
        self.with(|client, head| {
            client.key_codes_news |= abilities.key_codes && !client.abilities.key_codes;
            client.more_buttons_news |= abilities.more_buttons && !client.abilities.more_buttons;
            if !client.abilities.leds {
                client.leds_news = leds;
            }
            if abilities.extended_desktop_size && !client.abilities.extended_desktop_size {
                // It learns by this that we understand it.
                client.size_news = Some(SizeNews::Changed);
            }
            let drew = client.draws_cursor();
            client.abilities = abilities;
            client.cursor_news = true;
            if drew != client.draws_cursor()
                && let Some(head) = head
            {
                client.unseen.mark(head.cursor_rect());
            }
        });
        self.wake.notify_one();
    }

    /// The guest's cursor is part of the picture from now on, or the client draws it, if it can.
    pub(crate) fn draw_cursor(&self, drawn: bool) {
        self.with(|client, head| {
            let drew = client.draws_cursor();
            client.drawn_cursor = drawn;
            if drew != client.draws_cursor()
                && let Some(head) = head
            {
                client.cursor_news = true;
                client.unseen.mark(head.cursor_rect());
            }
        });
        self.wake.notify_one();
    }

    /// The client wished for another size: this is the answer.
    pub(crate) fn answer_wish(&self, answer: SizeNews) {
        self.with(|client, _| client.size_news = Some(answer));
        self.wake.notify_one();
    }

    /// The share of the head at a pixel of the desktop that the client knows.
    pub(crate) fn share(&self, x: u32, y: u32) -> (u16, u16) {
        let (width, height) = self.with(|client, _| client.size).unwrap_or(EMPTY);
        (share(x, width), share(y, height))
    }

    /// What there is to send now. None: nothing was asked for, or there is no news; the device has a credit then.
    pub(crate) fn next_update(&self) -> Option<Update> {
        let update = self.with(|client, head| {
            let region = client.request?;
            let head = head?;
            let mut update = Update {
                format: client.format,
                abilities: client.abilities,
                colour_map: std::mem::take(&mut client.colour_map),
                size: None,
                cursor: None,
                key_codes: std::mem::take(&mut client.key_codes_news),
                more_buttons: std::mem::take(&mut client.more_buttons_news),
                leds: client.leds_news.take(),
                rects: Vec::new(),
            };
            let size = head.size();
            if client.size != size && client.abilities.can_resize() {
                client.size = size;
                client.unseen = Tiles::none(size.0, size.1);
                client.unseen.mark_all();
                client.size_news.get_or_insert(SizeNews::Changed);
            }
            let news = client.size_news.take().filter(|_| client.abilities.can_resize());
            update.size = news.map(|news| (client.size.0, client.size.1, news));
            if std::mem::take(&mut client.cursor_news) && !client.draws_cursor() {
                update.cursor = Some(head.cursor.clone().unwrap_or_else(|| Arc::new(cursor::hidden())));
            }
            if update.size.is_none() {
                update.rects = client.unseen.take(region);
            }
            let told = update.key_codes || update.more_buttons || update.leds.is_some();
            let something = told || update.size.is_some() || update.cursor.is_some() || !update.rects.is_empty();
            if something {
                client.request = None;
            }
            something.then_some(update)
        });
        let update = update.flatten();
        if update.is_none() {
            let mut state = self.hub.lock();
            if let Some(client) = state.clients.get(&self.id)
                && client.request.is_some()
            {
                let head = client.head;
                state.credit(head, false);
                self.hub.ring(&state);
            }
        }
        update
    }

    /// The pixels of a rectangle as this client sees them.
    pub(crate) fn copy(&self, rect: Rect, pixels: &mut Vec<u32>) {
        pixels.clear();
        self.with(|client, head| {
            let Some(head) = head else { return };
            if let Some(screen) = &head.screen {
                screen.copy(rect, pixels);
            }
            pixels.resize(rect.area() as usize, 0);
            if client.draws_cursor()
                && let Some(cursor) = &head.cursor
            {
                cursor.draw(head.pointer.0, head.pointer.1, rect, pixels);
            }
        });
        pixels.resize(rect.area() as usize, 0);
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        let Some(client) = state.clients.remove(&self.id) else { return };
        if state.watchers(client.head).next().is_none()
            && let Some(head) = state.head(client.head)
        {
            head.screen = None;
        }
    }
}
