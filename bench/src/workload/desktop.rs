//! A desktop on which something moves, and a VNC client that takes every frame.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::board::Board;
use super::console::Keys;
use super::{Budget, FRAME, Finding, Prepared, Rig, SIZE};
use crate::error::{Doing, Error, Result};
use crate::frontend::InputDriver;
use crate::frontend::command::{self, HEADER, Rectangle};
use crate::rfb::{Client, HangUp, encoding};
use crate::timing;

/// The time from one frame of the guest to the next.
const BETWEEN: Duration = Duration::from_nanos(1_000_000_000 / 30);
/// Bytes of a row.
const STRIDE: usize = SIZE.0 as usize * 4;
/// Pieces of the guest's memory.
const PIECE: usize = 64 << 10;
/// Where the window is in which text scrolls.
const WINDOW: Rectangle = [460, 190, 1000, 700];
/// The height of a line of text.
const LINE: usize = 24;
/// Pictures of a film; the next one differs in every pixel.
const PICTURES: usize = 4;
/// How long what was drawn last may be on its way.
const LAST: Duration = Duration::from_secs(60);
/// Where the offset stands in a transfer.
const OFFSET: u64 = HEADER as u64 + 16;

/// What moves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Motion {
    /// Text that scrolls by a line in a window of 1000x700.
    Text,
    /// All of the screen, as in a film.
    Film,
}

/// Scrolling text, sent as it is.
pub fn text_raw(board: &mut impl Board, budget: &Budget) -> Result<Finding> {
    moving(board, budget, Motion::Text, encoding::RAW)
}

/// Scrolling text for a client that would have it packed.
pub fn text_zrle(board: &mut impl Board, budget: &Budget) -> Result<Finding> {
    moving(board, budget, Motion::Text, encoding::ZRLE)
}

/// A film, sent as it is.
pub fn film_raw(board: &mut impl Board, budget: &Budget) -> Result<Finding> {
    moving(board, budget, Motion::Film, encoding::RAW)
}

/// A film for a client that would have it packed.
pub fn film_zrle(board: &mut impl Board, budget: &Budget) -> Result<Finding> {
    moving(board, budget, Motion::Film, encoding::ZRLE)
}

/// Draws one picture, which stays.
pub fn still(board: &mut impl Board) -> Result<()> {
    let mut screen = Canvas::show(board, Motion::Film)?;
    screen.draw(board)
}

/// Keys of a person before whom text scrolls, packed, until the guest's driver has them.
pub fn key_text(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    let mut canvas = Canvas::show(rig, Motion::Text)?;
    let watcher = Watcher::start(rig, &mut canvas, encoding::ZRLE)?;
    let mut keys = Keys::begin(InputDriver::connect(&rig.console()?.input)?, watcher.typist.typist()?)?;
    keys.warm_up()?;
    let (console, start) = (rig.console()?.meter()?, Instant::now());
    let (mut times, mut frames) = (Vec::new(), 0);
    while start.elapsed() < 3 * budget.time || times.is_empty() {
        if start.elapsed() >= BETWEEN * frames {
            frames += 1;
            canvas.draw(rig)?;
        }
        std::thread::sleep(BETWEEN / 16);
        times.push(keys.press()?);
    }
    let viewer = console.read()?;
    let timing = timing::summary(&mut times, start.elapsed(), 1);
    let also = viewer.last().map(|viewer| ("% of a core: viewer", viewer.share())).into_iter().collect();
    Ok(Finding { value: Some(timing.p50_us), timing: Some(timing), also, ..Finding::default() })
}

/// Thirty frames a second, and a client that asks for the next one as soon as it has one.
fn moving(board: &mut impl Board, budget: &Budget, motion: Motion, packing: i32) -> Result<Finding> {
    let mut canvas = Canvas::show(board, motion)?;
    let watcher = Watcher::start(board, &mut canvas, packing)?;
    // As many frames as make the way to the client known.
    pace(10, || canvas.draw(board))?;
    let (meter, start, before) = (board.meter()?, Instant::now(), watcher.so_far());
    let count = ((3 * budget.time).as_nanos() / BETWEEN.as_nanos()).max(3) as u32;
    pace(count, || canvas.draw(board))?;
    let drawn = f64::from(count) / start.elapsed().as_secs_f64();
    let (after, work) = (watcher.so_far(), meter.read()?);
    let Some((viewer, others)) = work.split_last() else { return Err(Error::NotDone("Nobody shows anything".into())) };
    watcher.expect_more_than(before)?;
    // A frame that was read while the next one was drawn comes in two updates.
    let delivered = ((after.updates - before.updates) as f64).min(f64::from(count));
    Ok(Finding {
        value: Some(delivered / viewer.of),
        also: [("frames/s drawn", drawn)]
            .into_iter()
            .chain(others.iter().map(|device| ("% of a core: device", device.share())))
            .chain([
                ("% of a core: viewer", viewer.share()),
                ("% of the time the viewer waited for its core", 100.0 * viewer.waited / viewer.of),
                ("ms of the viewer for each frame", 1000.0 * viewer.busy / delivered.max(1.0)),
                (CORE, delivered / viewer.busy),
                ("MB for each frame", (after.bytes - before.bytes) as f64 / 1e6 / delivered.max(1.0)),
            ])
            .collect(),
        ..Finding::default()
    })
}

/// A VNC client on a thread of its own; it goes when this is dropped.
struct Watcher {
    typist: Client<TcpStream>,
    updates: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    _hang_up: HangUp,
}

/// What a client has got.
#[derive(Clone, Copy)]
struct Got {
    updates: u64,
    bytes: u64,
}

impl Watcher {
    /// Draws the first frame, and comes when it is shown.
    fn start(board: &mut impl Board, canvas: &mut Canvas, packing: i32) -> Result<Self> {
        canvas.draw(board)?;
        let encodings = [packing, encoding::CURSOR, encoding::DESKTOP_SIZE, encoding::KEY_CODES];
        let mut client = Client::connect(board.vnc()?, &encodings)?;
        client.ask(false)?;
        client.update()?;
        let (updates, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, received, typist, hang_up) =
            (updates.clone(), bytes.clone(), client.typist()?, client.hang_up()?);
        let take = move || {
            // Until the connection is closed.
            while client.ask(true).is_ok()
                && let Ok(pixels) = client.update()
            {
                received.store(client.received(), Ordering::Relaxed);
                counted.fetch_add(pixels.into(), Ordering::Relaxed);
            }
        };
        std::thread::Builder::new().name("client".into()).spawn(take).doing("start a thread")?;
        Ok(Self { typist, updates, bytes, _hang_up: hang_up })
    }

    fn so_far(&self) -> Got {
        Got { updates: self.updates.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    fn expect_more_than(&self, before: Got) -> Result<()> {
        let start = Instant::now();
        while self.so_far().updates == before.updates {
            if start.elapsed() > LAST {
                return Err(Error::NotDone("Nothing is shown".into()));
            }
            std::thread::sleep(BETWEEN);
        }
        Ok(())
    }
}

/// What the viewer would do if it had nothing else to do.
const CORE: &str = "frames/s that a core of the viewer is good for";

/// Does something at its times.
fn pace(count: u32, mut act: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    for turn in 1..=count {
        act()?;
        std::thread::sleep((start + BETWEEN * turn).saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// More than the screen shows, in the guest's memory: what moves is transferred from another place each time, so that nobody
/// measures how the guest draws.
struct Canvas {
    transfer: Prepared,
    flush: Prepared,
    rows: usize,
    step: usize,
    /// Rows that are seen at a time.
    height: usize,
    row: usize,
}

impl Canvas {
    /// Makes the screen and lays the canvas behind it.
    fn show(board: &mut impl Board, motion: Motion) -> Result<Self> {
        let (rectangle, step, pixels) = match motion {
            Motion::Text => (WINDOW, LINE, text()),
            Motion::Film => ([0, 0, SIZE.0, SIZE.1], SIZE.1 as usize, film()),
        };
        let memory = board.memory();
        let length = pixels.len().max(FRAME);
        let start = memory.allocate(length as u64, 4096)?;
        memory.write(start, &pixels)?;
        let entry = |at: usize| (start + at as u64, PIECE.min(length - at) as u32);
        let entries: Vec<_> = (0..length).step_by(PIECE).map(entry).collect();
        board.order(&command::create_2d(1, command::FORMAT_B8G8R8X8, SIZE.0, SIZE.1))?;
        board.order(&command::attach_backing(1, &entries))?;
        board.order(&command::set_scanout(0, 1, [0, 0, SIZE.0, SIZE.1]))?;
        let transfer = board.chain(&command::transfer_to_host_2d(1, rectangle, 0))?;
        let flush = board.chain(&command::flush(1, rectangle))?;
        Ok(Self { transfer, flush, rows: pixels.len() / STRIDE, step, height: rectangle[3] as usize, row: 0 })
    }

    /// The next frame.
    fn draw(&mut self, board: &mut impl Board) -> Result<()> {
        let offset = (self.row * STRIDE) as u64;
        board.memory().write(self.transfer.request + OFFSET, &offset.to_le_bytes())?;
        board.run_well(&[self.transfer, self.flush])?;
        self.row += self.step;
        if self.row + self.height > self.rows {
            self.row = 0;
        }
        Ok(())
    }
}

/// A long page of words, dark on white, with soft edges as desktops have them.
fn text() -> Vec<u8> {
    let (weight, size) = (FontWeight::Regular, RasterHeight::Size20);
    let advance = get_raster_width(weight, size);
    let lines = 3 * WINDOW[3] as usize / LINE;
    let mut pixels = vec![255; lines * LINE * STRIDE];
    let mut numbers = numbers();
    for line in 0..lines {
        // Paragraphs end somewhere.
        let columns = WINDOW[2] as usize / advance * if line % 7 == 6 { 1 } else { 3 } / 3;
        for column in 0..columns {
            let number = numbers.next().unwrap_or_default();
            let letter = if number.is_multiple_of(6) { ' ' } else { char::from(b'a' + (number / 6 % 26) as u8) };
            let Some(raster) = get_raster(letter, weight, size) else { continue };
            for (y, row) in raster.rows().enumerate() {
                let start = (line * LINE + 2 + y) * STRIDE + column * advance * 4;
                for (pixel, ink) in pixels[start..].chunks_exact_mut(4).zip(row) {
                    pixel[..3].fill(255 - ink);
                }
            }
        }
    }
    pixels
}

/// Pictures with soft slopes and some noise.
fn film() -> Vec<u8> {
    let mut numbers = numbers();
    let mut pixels = Vec::with_capacity(PICTURES * FRAME);
    for picture in 0..PICTURES as u32 {
        for y in 0..SIZE.1 {
            for x in 0..SIZE.0 {
                let noise = numbers.next().unwrap_or_default() % 4;
                let slope =
                    [x / 5 + y / 9, x / 7 + 300 - y / 4, y / 6].map(|slope| (slope + 40 * picture + noise) as u8);
                pixels.extend([slope[0], slope[1], slope[2], 0]);
            }
        }
    }
    pixels
}

/// The same numbers each time (xorshift).
fn numbers() -> impl Iterator<Item = u32> {
    std::iter::successors(Some(0x9e37_79b9u32), |last| {
        let mut next = *last;
        next ^= next << 13;
        next ^= next >> 17;
        next ^= next << 5;
        Some(next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_picture_of_a_film_differs_in_every_pixel() {
        let pixels = film();
        for picture in 1..PICTURES {
            let (earlier, later) = (&pixels[(picture - 1) * FRAME..][..FRAME], &pixels[picture * FRAME..][..FRAME]);
            let same = earlier.chunks_exact(4).zip(later.chunks_exact(4)).filter(|(earlier, later)| earlier == later);
            assert_eq!(same.count(), 0);
        }
    }

    #[test]
    fn there_is_more_text_than_the_window_shows_and_it_has_soft_edges() {
        let pixels = text();
        assert!(pixels.len() / STRIDE > 2 * WINDOW[3] as usize);
        let shades: std::collections::BTreeSet<u8> = pixels.chunks_exact(4).map(|pixel| pixel[0]).collect();
        assert!(shades.len() > 16);
    }
}
