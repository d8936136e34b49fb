//! The launcher's own life: its duties, until the device is gone.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketType;

use super::nursery::{Nursery, Wait};
use super::viewer::Keeper;
use crate::child::Spec;
use crate::inherited;

/// The first word of a command line that makes this program a launcher. Not for people.
pub const ROLE: &str = "as-launcher";
/// What stands for a duty that it does not have.
pub const NONE: &str = "-";

/// Lives as a launcher. `words` are the number of the socket to the device; that of the socket by which 3D processes are asked
/// for, and how they are started; the viewer's program and its arguments.
pub fn run(words: &[OsString]) -> Result<()> {
    start(words, inherited::rest)
}

/// `rest` is asked for what else was passed once the sockets are taken.
pub(super) fn start(words: &[OsString], rest: impl FnOnce() -> Result<Vec<OwnedFd>>) -> Result<()> {
    let [device, orders, spec, viewer @ ..] = words else { anyhow::bail!("A launcher is started by its device only") };
    let device = socket(device)?;
    let nursery = match (orders.to_str(), spec.to_str()) {
        (Some(NONE), _) => None,
        (_, Some(spec)) => Some(Nursery::new(socket(orders)?, Spec::from_word(spec)?)),
        (_, None) => anyhow::bail!("A launcher's words are no text"),
    };
    let passed = rest()?;
    let keeper =
        |(program, arguments): (&OsString, &[OsString])| Keeper::new(program.clone(), arguments.to_vec(), passed);
    let keeper = viewer.split_first().map(keeper);
    // What the viewer inherits: it, not we, meets the network.
    rustix::thread::set_no_new_privs(true).context("Cannot give up new privileges")?;
    jail::drop_capabilities().context("Cannot give up capabilities")?;
    live(&device, keeper, nursery)
}

fn socket(word: &OsString) -> Result<OwnedFd> {
    let number = word.to_str().and_then(|text| text.parse().ok()).context("A launcher's socket is no number")?;
    inherited::unix_socket(number, SocketType::SEQPACKET)
}

/// Until the device is gone; what was started goes with us.
fn live(device: &OwnedFd, mut keeper: Option<Keeper>, mut nursery: Option<Nursery>) -> Result<()> {
    if let Some(keeper) = &mut keeper {
        keeper.turn(device.as_fd(), false)?;
    }
    loop {
        // A hang-up is reported without being asked for.
        let mut fds = vec![PollFd::new(device, PollFlags::empty())];
        let watched = keeper.as_ref().and_then(Keeper::fd);
        fds.extend(watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let first = fds.len();
        let (waits, children): (Vec<Wait>, Vec<PollFd<'_>>) = nursery.iter().flat_map(Nursery::fds).unzip();
        fds.extend(children);
        wait(&mut fds, keeper.as_ref().and_then(Keeper::due))?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let viewer_ended = watched.is_some() && ready[1];
        drop(fds);
        if ready[0] {
            return Ok(());
        }
        if let Some(keeper) = &mut keeper {
            keeper.turn(device.as_fd(), viewer_ended)?;
        }
        let due: Vec<Wait> =
            waits.into_iter().zip(&ready[first..]).filter(|(_, ready)| **ready).map(|(wait, _)| wait).collect();
        if !due.is_empty() && nursery.as_mut().is_some_and(|nursery| !nursery.turn(&due)) {
            nursery = None;
        }
    }
}

fn wait(fds: &mut [PollFd<'_>], until: Option<Instant>) -> Result<()> {
    loop {
        let timeout = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match poll(fds, timeout.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("Cannot wait for what was started"),
        }
    }
}
