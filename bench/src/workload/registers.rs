//! A guest's accesses to registers over vfio-user, beside what the bare socket costs at least.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Budget, Finding, Function, Rig};
use crate::error::{Doing, Error, Result};
use crate::timing::{Timing, sample};

/// In [`Finding::also`]: a bare ping-pong.
pub const BARE: &str = "us for a bare ping-pong of the same size";
/// In [`Finding::also`], too: what an access takes longer than that.
pub const OVER_BARE: &str = "us more than the bare ping-pong";
/// From the wake-up that a message is, to the sleep after the answer.
pub const DEVICE: &str = "us of processor in the device, waking up and going to sleep included";
/// In the common configuration: a word that reads back, and that nothing follows from.
const DEVICE_FEATURE_SELECT: u64 = 0;
/// The header of a message, what names the register, and the register.
const REQUEST: usize = 36;
/// Posted stores in a row.
const POSTED: u32 = 64;
/// The part of the time that goes to the comparison.
const SHARE: u32 = 4;

/// A load.
pub fn load(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    let Function { wire, registers } = function(rig)?;
    let at = registers.common + DEVICE_FEATURE_SELECT;
    let mut word = [0; 4];
    beside_bare(rig, budget, |_| Ok(wire.load(registers.region, at, &mut word)?))
}

/// A store that the guest's processor waits for.
pub fn store(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    let Function { wire, registers } = function(rig)?;
    let at = registers.common + DEVICE_FEATURE_SELECT;
    let finding = beside_bare(rig, budget, |turn| Ok(wire.store(registers.region, at, &(turn & 1).to_le_bytes())?))?;
    keeps(&wire, registers.region, at)?;
    Ok(finding)
}

/// Stores that it does not wait for.
pub fn posted(rig: &mut Rig, budget: &Budget) -> Result<Finding> {
    let Function { wire, registers } = function(rig)?;
    let (region, at) = (registers.region, registers.common + DEVICE_FEATURE_SELECT);
    let timing = sample(budget.time, POSTED, || {
        for turn in 0..POSTED {
            wire.post(region, at, &(turn & 1).to_le_bytes())?;
        }
        Ok(wire.load_u32(region, at).map(drop)?)
    })?;
    keeps(&wire, region, at)?;
    Ok(Finding { value: Some(timing.p50_us), timing: Some(timing), ..Finding::default() })
}

fn function(rig: &Rig) -> Result<Function> {
    rig.function.clone().ok_or_else(|| Error::NotDone("It is no PCI function".into()))
}

/// Whether stores do anything at all.
fn keeps(wire: &crate::frontend::vfio_user::Wire, region: u32, at: u64) -> Result<()> {
    for value in [1, 0] {
        wire.store(region, at, &u32::to_le_bytes(value))?;
        if wire.load_u32(region, at)? != value {
            return Err(Error::NotDone("A register does not keep what is stored".into()));
        }
    }
    Ok(())
}

fn beside_bare(rig: &mut Rig, budget: &Budget, mut access: impl FnMut(u32) -> Result<()>) -> Result<Finding> {
    let time = budget.time / SHARE;
    let mut echo = Echo::start()?;
    let before = echo.measure(time / 2)?;
    let mut turn = 0u32;
    let mut finding = rig.timed(|_| {
        sample(budget.time - time, 1, || {
            turn = turn.wrapping_add(1);
            access(turn)
        })
    })?;
    // What else the machine does changes with time.
    let after = echo.measure(time / 2)?;
    let bare = (before.p50_us + after.p50_us) / 2.0;
    finding.value = finding.timing.map(|timing| timing.p50_us);
    finding.also = vec![(BARE, bare)];
    finding.also.extend(finding.value.map(|value| (OVER_BARE, value - bare)));
    finding.also.extend(finding.cpu_us.map(|time| (DEVICE, time)));
    Ok(finding)
}

/// Another process that sends back what it gets, and does nothing else. On the same core as all of a [`Rig`].
struct Echo {
    process: Child,
    socket: UnixStream,
}

impl Echo {
    fn start() -> Result<Self> {
        let (socket, theirs) = UnixStream::pair().doing("make a socket pair")?;
        let other = theirs.try_clone().doing("duplicate a socket")?;
        let process = Command::new("cat")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(other)))
            .stderr(Stdio::null())
            .spawn()
            .doing("start cat")?;
        Ok(Self { process, socket })
    }

    fn measure(&mut self, time: Duration) -> Result<Timing> {
        let mut bytes = [1; REQUEST];
        sample(time, 1, || {
            self.socket.write_all(&bytes).and_then(|()| self.socket.read_exact(&mut bytes)).doing("hear an echo")
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Nothing is left to do if they fail: it is gone then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
