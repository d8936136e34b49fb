//! One command at a time: what a round trip through the ring costs.

use super::{Budget, Finding, Rig};
use crate::error::{Error, Result};
use crate::frontend::command::{self, Command};
use crate::timing::sample;

/// No command of virtio-gpu has this number.
const UNKNOWN: u32 = 0x0fff;

/// A command that succeeds and has nothing to do: no scanout shows the resource.
pub fn idle_flush(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    rig.must(&command::create_2d(1, command::FORMAT_B8G8R8X8, 64, 64))?;
    round_trip(rig, budget, 0, &command::flush(1, [0, 0, 64, 64]), 24, |kind| kind == command::RESP_OK_NODATA)
}

/// An unknown command: the device has nothing to do but to say so.
pub fn error(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    round_trip(rig, budget, 0, &Command::new(UNKNOWN), 24, |kind| kind >= command::RESP_ERR_UNSPEC)
}

/// As much on the cursor queue, where no answer is due. It is as long as a cursor command.
pub fn cursor(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    round_trip(rig, budget, 1, &Command::new(UNKNOWN).words(&[0; 8]), 0, |_| true)
}

/// GET_DISPLAY_INFO.
pub fn display_info(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    let info = rig.must(&command::get_display_info())?;
    // Behind the header: the first mode's rectangle (x, y, width, height).
    if (info.word(8), info.word(9)) != (1920, 1080) {
        return Err(Error::NotDone(format!("It says {}x{} instead of 1920x1080", info.word(8), info.word(9))));
    }
    round_trip(rig, budget, 0, &command::get_display_info(), 408, |kind| kind == command::RESP_OK_DISPLAY_INFO)
}

/// GET_EDID.
pub fn edid(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    round_trip(rig, budget, 0, &command::get_edid(0), 1056, |kind| kind == command::RESP_OK_EDID)
}

fn round_trip(
    rig: &mut Rig,
    budget: &Budget,
    queue: usize,
    command: &Command,
    room: u32,
    right: impl Fn(u32) -> bool,
) -> Result<Finding> {
    let chain = [rig.chain(queue, command, room)?];
    let finding = rig.timed(|rig| sample(budget.time, 1, || rig.round(queue, &chain)))?;
    let kind = if room > 0 { rig.answer(&chain[0])? } else { 0 };
    if !right(kind) {
        return Err(Error::NotDone(format!("It answered {kind:#x}")));
    }
    Ok(finding)
}
