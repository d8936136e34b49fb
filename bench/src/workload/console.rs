//! What people type and point at, until the guest's driver has it; and what a console costs that nobody uses.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::board::{Board, Keyboard, QemuBoard};
use super::{Budget, Finding, Rig, SIZE};
use crate::console::Console;
use crate::error::{Doing, Error, Result};
use crate::frontend::evdev::word;
use crate::frontend::{self, InputDriver, InputEvent};
use crate::page::Page;
use crate::process;
use crate::rfb::{Client, KEY_A, encoding};
use crate::timing::{self, Timing};

/// A person presses and releases no faster. A client that says more than 10,000 things a second is held back.
const BETWEEN_KEYS: Duration = Duration::from_micros(300);
/// The time from one move of the pointer to the next.
const BETWEEN_MOVES: Duration = Duration::from_millis(1);
/// How long a move may be on its way before it counts as lost.
const LIMIT: Duration = Duration::from_secs(60);
/// Events of a key: itself and the end of its frame.
const KEY_EVENTS: u16 = 2;
/// How long people's connections take to fall silent after they began.
const SETTLES: Duration = Duration::from_millis(500);
/// What VNC clients that type say they can take.
const ENCODINGS: [i32; 4] = [encoding::RAW, encoding::CURSOR, encoding::DESKTOP_SIZE, encoding::KEY_CODES];

/// A key from a VNC client.
pub fn key(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    let console = rig.console()?;
    type_keys(console, budget, Client::connect(console.vnc, &ENCODINGS)?)
}

/// A key from a page.
pub fn key_page(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    let console = rig.console()?;
    let Page { control: _open, screen } = Page::open(console.web, &ENCODINGS)?;
    type_keys(console, budget, screen)
}

fn type_keys<S: Read + Write>(console: &Console, budget: &Budget, client: Client<S>) -> Result<Finding> {
    let mut keys = Keys::begin(InputDriver::connect(&console.input)?, looking(client)?)?;
    keys.warm_up()?;
    let (meter, before) = (console.meter()?, keys.driver.signals()?);
    let timing = keys.type_for(budget.time)?;
    let (count, after) = (timing.count as f64, keys.driver.signals()?);
    let each: Vec<f64> = meter.read()?.iter().map(|work| work.busy * 1e6 / count).collect();
    Ok(Finding {
        value: Some(timing.p50_us),
        timing: Some(timing),
        cpu_us: Some(each[0]),
        kicks: Some((after.kicks - before.kicks) as f64 / count),
        interrupts: Some((after.interrupts - before.interrupts) as f64 / count),
        also: vec![("us of processor of the device for each", each[0]), ("us of processor of the viewer", each[1])],
    })
}

/// A key from a VNC client of QEMU's.
pub fn key_of_qemu(board: &mut QemuBoard, budget: &Budget) -> Result<Finding> {
    super::desktop::still(board)?;
    let client = looking(Client::connect(board.vnc()?, &ENCODINGS)?)?;
    let meter = board.meter()?;
    let mut keys = Keys::begin(board.keyboard()?, client)?;
    keys.warm_up()?;
    let timing = keys.type_for(budget.time)?;
    let cpu_us = meter.read()?.first().map(|work| work.busy * 1e6 / timing.count as f64);
    Ok(Finding { value: Some(timing.p50_us), timing: Some(timing), cpu_us, ..Finding::default() })
}

/// Who types looks at the screen as well, and waits for it to change.
fn looking<S: Read + Write>(mut client: Client<S>) -> Result<Client<S>> {
    client.ask(false)?;
    client.update()?;
    client.ask(true)?;
    Ok(client)
}

/// Somebody who types, and the guest.
pub(super) struct Keys<S, D> {
    client: Client<S>,
    driver: D,
    pressed: bool,
    events: Vec<InputEvent>,
}

impl<S: Read + Write, D: Keyboard> Keys<S, D> {
    pub(super) fn begin(driver: D, client: Client<S>) -> Result<Self> {
        Ok(Self { client, driver, pressed: false, events: Vec::new() })
    }

    /// The first key takes control.
    pub(super) fn warm_up(&mut self) -> Result<()> {
        (0..10).try_for_each(|_| self.press().map(drop))
    }

    /// Types for so long.
    fn type_for(&mut self, time: Duration) -> Result<Timing> {
        let (start, mut times) = (Instant::now(), Vec::new());
        while start.elapsed() < time || times.is_empty() {
            std::thread::sleep(BETWEEN_KEYS);
            times.push(self.press()?);
        }
        Ok(timing::summary(&mut times, start.elapsed(), 1))
    }

    /// Presses the key, or releases it; returns the nanoseconds until the guest's driver has it.
    pub(super) fn press(&mut self) -> Result<u32> {
        self.pressed = !self.pressed;
        let start = Instant::now();
        self.client.key(KEY_A, self.pressed)?;
        self.driver.wait(KEY_EVENTS)?;
        let taken = start.elapsed();
        self.events.clear();
        self.driver.take(&mut self.events)?;
        match self.events[..] {
            [InputEvent { kind: word::EV_KEY, code: word::KEY_A, value }, end]
                if value == i32::from(self.pressed) && end.ends_frame() =>
            {
                Ok(taken.as_nanos().try_into().unwrap_or(u32::MAX))
            }
            _ => Err(Error::NotDone(format!("{:?} instead of a key", self.events))),
        }
    }
}

/// Moves of the pointer, a thousand a second.
pub fn pointer(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    let console = rig.console()?;
    let mut client = Client::connect(console.vnc, &ENCODINGS)?;
    let mut driver = InputDriver::connect(&console.input)?;
    let mut seen = Seen::default();
    // The first one takes control.
    client.point(0, 0)?;
    seen.watch(&mut driver, (0, 0), LIMIT)?;
    let count = ((3 * budget.time).as_micros() / BETWEEN_MOVES.as_micros()).max(10) as u32;
    let (passed, coalesced) = (console.passed()?, console.counted("coalesced")?);
    let (meter, before) = (console.meter()?, driver.signals()?);
    let mut seen = Seen::default();
    let start = Instant::now();
    let moves = move_pointer(client, count)?;
    seen.watch(&mut driver, place(count), BETWEEN_MOVES * count + LIMIT)?;
    let elapsed = start.elapsed().as_secs_f64();
    let (work, signals) = (meter.read()?, driver.signals()?);
    let Ok(said) = moves.join() else { return Err(Error::NotDone("The pointer's thread broke".into())) };
    // What was joined on the way, and what arrived, must be all that was said.
    let client = said?;
    let in_viewer = u64::from(count) - (console.passed()? - passed).min(u64::from(count));
    let in_device = console.counted("coalesced")? - coalesced;
    drop(client);
    let missing = i64::from(count) - in_viewer as i64 - in_device as i64 - i64::from(seen.frames);
    let is_there = seen.place == Some(place(count));
    let moves = f64::from(seen.frames.max(1));
    Ok(Finding {
        value: Some(f64::from(seen.frames) / elapsed),
        cpu_us: Some(work[0].busy * 1e6 / moves),
        kicks: Some((signals.kicks - before.kicks) as f64 / moves),
        interrupts: Some((signals.interrupts - before.interrupts) as f64 / moves),
        also: vec![
            (BAD_MOVES, f64::from(seen.cut) + missing.unsigned_abs() as f64 + f64::from(u8::from(!is_there))),
            ("joined in the viewer", in_viewer as f64),
            ("joined in the device", in_device as f64),
            ("interrupts for each", (signals.interrupts - before.interrupts) as f64 / moves),
            ("kicks for each", (signals.kicks - before.kicks) as f64 / moves),
            ("% of a core: device", work[0].share()),
            ("% of a core: viewer", work[1].share()),
        ],
        ..Finding::default()
    })
}

/// Moves that came to nothing, or not as a whole frame, and a last one that is not where the pointer was left.
pub const BAD_MOVES: &str = "lost, cut or wrong";

/// Where the pointer is after so many moves; never twice in a row on the same column or row.
fn place(count: u32) -> (u16, u16) {
    ((count * 7 % SIZE.0) as u16, (count * 5 % SIZE.1) as u16)
}

/// Says moves on a thread of its own.
fn move_pointer(mut client: Client<TcpStream>, count: u32) -> Result<JoinHandle<Result<Client<TcpStream>>>> {
    let say = move || {
        let start = Instant::now();
        for at in 1..=count {
            let due = start + BETWEEN_MOVES * at;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (x, y) = place(at);
            client.point(x, y)?;
        }
        Ok(client)
    };
    std::thread::Builder::new().name("pointer".into()).spawn(say).doing("start a thread")
}

/// What the guest sees of the pointer.
#[derive(Debug, Default)]
struct Seen {
    /// Frames that were whole.
    frames: u32,
    /// Frames in which something was said twice, or something else.
    cut: u32,
    /// What the frame that has begun says.
    begun: Vec<InputEvent>,
    axes: (i32, i32),
    /// The pixel that the pointer is on.
    place: Option<(u16, u16)>,
}

impl Seen {
    /// Watches until the pointer is there.
    fn watch(&mut self, driver: &mut InputDriver, there: (u16, u16), limit: Duration) -> Result<()> {
        let (start, mut events) = (Instant::now(), Vec::new());
        while self.place != Some(there) && start.elapsed() < limit {
            match driver.wait(1) {
                Err(frontend::Error::TimedOut(_)) => return Ok(()),
                other => other?,
            }
            driver.take(&mut events)?;
            events.drain(..).for_each(|event| self.take(event));
        }
        Ok(())
    }

    fn take(&mut self, event: InputEvent) {
        if !event.ends_frame() {
            self.begun.push(event);
            return;
        }
        let axis = |code| {
            let mut said = self.begun.iter().filter(|event| event.kind == word::EV_ABS && event.code == code);
            (said.next().map(|event| event.value), said.next().is_some())
        };
        let ((x, x_again), (y, y_again)) = (axis(word::ABS_X), axis(word::ABS_Y));
        let parts = usize::from(x.is_some()) + usize::from(y.is_some());
        let whole = !x_again && !y_again && parts > 0 && parts == self.begun.len();
        self.begun.clear();
        self.frames += u32::from(whole);
        self.cut += u32::from(!whole);
        self.axes = (x.unwrap_or(self.axes.0), y.unwrap_or(self.axes.1));
        // What a guest makes of it.
        let pixel = |value: i32, length: u32| (i64::from(value) * i64::from(length) / 32768) as u16;
        self.place = Some((pixel(self.axes.0, SIZE.0), pixel(self.axes.1, SIZE.1)));
    }
}

/// Context switches of device and viewer while a VNC client and a page look at a screen that does not change.
pub fn idle(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    super::desktop::still(rig)?;
    let console = rig.console()?;
    let mut client = Client::connect(console.vnc, &ENCODINGS)?;
    let mut page = Page::open(console.web, &ENCODINGS)?;
    client.ask(false)?;
    page.screen.ask(false)?;
    client.update()?;
    page.screen.update()?;
    client.ask(true)?;
    page.screen.ask(true)?;
    std::thread::sleep(SETTLES);
    let count = || -> Result<[u64; 3]> {
        let [device, viewer] = [console.device, console.viewer].map(process::context_switches);
        Ok([device?, viewer?, process::context_switches(console.launcher)?])
    };
    let connections = [client.stream(), page.screen.stream().connection(), page.control.connection()];
    let waiting = || -> Result<u64> {
        let waiting = connections.map(rustix::io::ioctl_fionread);
        waiting.into_iter().try_fold(0, |sum, bytes| Ok(sum + bytes.doing("look at a connection")?))
    };
    let (before, told, meter) = (count()?, waiting()?, console.meter()?);
    std::thread::sleep(budget.idle);
    let (after, bytes, work) = (count()?, waiting()? - told, meter.read()?);
    let ten_seconds = 10.0 / budget.idle.as_secs_f64();
    let [device, viewer, launcher] = [0, 1, 2].map(|at| (after[at] - before[at]) as f64 * ten_seconds);
    Ok(Finding {
        value: Some(device + viewer + launcher),
        also: vec![
            ("of the device", device),
            ("of the viewer", viewer),
            ("of the launcher", launcher),
            ("bytes sent", bytes as f64 * ten_seconds),
            ("% of a core: device", work[0].share()),
            ("% of a core: viewer", work[1].share()),
        ],
        ..Finding::default()
    })
}

/// The same of QEMU, with a VNC client.
pub fn idle_qemu(board: &mut QemuBoard, budget: &Budget) -> Result<Finding> {
    super::desktop::still(board)?;
    let _client = looking(Client::connect(board.vnc()?, &ENCODINGS)?)?;
    std::thread::sleep(SETTLES);
    let (before, meter) = (process::context_switches(board.pid()?)?, board.meter()?);
    std::thread::sleep(budget.idle);
    let switches = process::context_switches(board.pid()?)? - before;
    let also = meter.read()?.first().map(|work| ("% of a core: viewer", work.share())).into_iter().collect();
    Ok(Finding { value: Some(switches as f64 * 10.0 / budget.idle.as_secs_f64()), also, ..Finding::default() })
}
