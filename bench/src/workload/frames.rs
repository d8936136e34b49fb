//! Pixels and cursors, timed until the other side of the display has them.

use std::time::Duration;

use super::{Budget, Finding, Prepared, Rig};
use crate::error::{Error, Result};
use crate::frontend::command::{self, Rectangle};
use crate::timing::sample;

/// Width and height of the screen.
pub const SIZE: (u32, u32) = (1920, 1080);
/// Bytes of a frame.
pub const FRAME: usize = SIZE.0 as usize * SIZE.1 as usize * 4;
/// Width and height of the damage.
const SQUARE: u32 = 64;
/// How long a picture that must come is waited for.
const LIMIT: Duration = Duration::from_secs(20);
/// How long the first picture may take before the daemon counts as one that shows nothing.
const FIRST: Duration = Duration::from_secs(1);

/// How the guest's memory behind the screen lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backing {
    /// In one piece, as early after the guest's boot.
    Whole,
    /// Page by page, as in a guest that has run for a while.
    Pages,
}

/// Whole frames.
pub fn full(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    let backing = screen(rig, Backing::Pages)?;
    let chains = [draw_chains(rig, [0, 0, SIZE.0, SIZE.1])?];
    draw_all(rig, budget, backing, &chains)
}

/// Squares all over the screen.
pub fn damage(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    squares(rig, budget, Backing::Whole)
}

/// The same out of scattered pages.
pub fn damage_pages(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    squares(rig, budget, Backing::Pages)
}

fn squares(rig: &mut Rig, budget: &Budget, backing: Backing) -> Result<Finding> {
    let backing = screen(rig, backing)?;
    let places = (0..16).map(|at: u32| [at * 331 % (SIZE.0 - SQUARE), at * 173 % (SIZE.1 - SQUARE), SQUARE, SQUARE]);
    let chains = places.map(|rectangle| draw_chains(rig, rectangle)).collect::<Result<Vec<_>>>()?;
    draw_all(rig, budget, backing, &chains)
}

/// Moves of the cursor.
pub fn cursor(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    screen(rig, Backing::Whole)?;
    let chains = (0..16)
        .map(|at| Ok([rig.chain(1, &command::move_cursor(0, 7 * at, 5 * at), 0)?]))
        .collect::<Result<Vec<_>>>()?;
    let shown = rig.shown.clone();
    let first = shown.cursors();
    rig.round(1, &chains[0])?;
    if shown.wait(FIRST, |shown| shown.cursors() > first).is_err() {
        return Err(Error::NotDone("Cursor moves are not delivered".into()));
    }
    let mut sent = shown.cursors();
    let mut turn = chains.iter().cycle();
    rig.timed(|rig| {
        sample(budget.time, 1, || {
            sent += 1;
            if let Some(chain) = turn.next() {
                rig.round(1, chain)?;
            }
            Ok(shown.wait(LIMIT, |shown| shown.cursors() >= sent)?)
        })
    })
}

/// Makes the screen: a resource of 1080p that scanout 0 shows, backed by the guest's memory, which is returned.
fn screen(rig: &mut Rig, backing: Backing) -> Result<u64> {
    let piece = if backing == Backing::Whole { FRAME } else { 4096 };
    let start = rig.guest.memory().allocate(FRAME as u64, 4096)?;
    let entry = |at: usize| (start + at as u64, piece.min(FRAME - at) as u32);
    let entries: Vec<_> = (0..FRAME).step_by(piece).map(entry).collect();
    rig.must(&command::create_2d(1, command::FORMAT_B8G8R8X8, SIZE.0, SIZE.1))?;
    rig.must(&command::attach_backing(1, &entries))?;
    rig.must(&command::set_scanout(0, 1, [0, 0, SIZE.0, SIZE.1]))?;
    Ok(start)
}

/// Transfer and flush of one rectangle: they go out with one kick, as a driver's do.
fn draw_chains(rig: &mut Rig, rectangle: Rectangle) -> Result<[Prepared; 2]> {
    let [x, y, ..] = rectangle;
    let offset = (u64::from(y) * u64::from(SIZE.0) + u64::from(x)) * 4;
    let transfer = rig.chain(0, &command::transfer_to_host_2d(1, rectangle, offset), 24)?;
    let flush = rig.chain(0, &command::flush(1, rectangle), 24)?;
    Ok([transfer, flush])
}

fn draw_all(rig: &mut Rig, budget: &Budget, backing: u64, chains: &[[Prepared; 2]]) -> Result<Finding> {
    let shown = rig.shown.clone();
    let first = shown.updates();
    rig.round(0, &chains[0])?;
    for chain in &chains[0] {
        let kind = rig.answer(chain)?;
        if kind != command::RESP_OK_NODATA {
            return Err(Error::NotDone(format!("It answered {kind:#x}")));
        }
    }
    if shown.wait(FIRST, |shown| shown.updates() > first).is_err() {
        return Err(Error::NotDone("Nothing is shown".into()));
    }
    let mut drawn = shown.updates();
    let mut turn = chains.iter().cycle();
    rig.timed(|rig| {
        sample(budget.time, 1, || {
            drawn += 1;
            rig.guest.memory().write(backing, &drawn.to_le_bytes())?;
            if let Some(chain) = turn.next() {
                rig.round(0, chain)?;
            }
            Ok(shown.wait(LIMIT, |shown| shown.updates() >= drawn)?)
        })
    })
}
