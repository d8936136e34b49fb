//! The manager's side of one device.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::page::{Call, Grant, Page, Report, Wanted, now};
use crate::{Error, seat, socket};

/// A device that the manager rules, for as long as this lives.
#[derive(Debug)]
pub struct Ward {
    pub(crate) page: Page,
    socket: OwnedFd,
    /// For the device: look at the page.
    news: OwnedFd,
    /// For us: what we wait for is so.
    pub(crate) work: OwnedFd,
    /// What that is, and how often it was rung, wanted or not.
    wanted: Wanted,
    rings: u64,
    /// How long it was stopped until the last time that it went on.
    stopped: Duration,
    since: Option<Duration>,
}

impl Ward {
    /// Takes the device over that listens at `path`. Whoever ruled it before does no longer.
    pub fn connect(path: &Path) -> Result<Ward, Error> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        let (page, news, work) = (Page::new()?, bell()?, bell()?);
        let fd = page.fd().ok_or(Error::Page)?;
        socket::send(&socket, &[fd, news.as_fd(), work.as_fd()])?;
        let wanted = Wanted::default();
        Ok(Ward { page, socket, news, work, wanted, rings: 0, stopped: Duration::ZERO, since: None })
    }

    /// What its 3D may do from now on. It looks at once. Time in which it is gated is to be told like time in which its processes
    /// were stopped.
    pub fn grant(&self, grant: Grant) {
        self.page.grant(grant);
        seat::ring(&self.news);
    }

    /// Its processes were stopped just now.
    pub fn stopped(&mut self) {
        self.since.get_or_insert_with(now);
        self.page.tell_stopped(self.stopped, self.since);
    }

    /// They go on from now on.
    pub fn continued(&mut self) {
        if let Some(since) = self.since.take() {
            self.stopped += now().saturating_sub(since);
        }
        self.page.tell_stopped(self.stopped, None);
    }

    /// What the device says of itself.
    pub fn report(&self) -> Report {
        self.page.reported()
    }

    /// Has the device ring as soon as that is so, once; [`Call::Rest`] is said before [`Grant::Gated`]. Returns whether it has
    /// work already, where that is what was called for: then the bell is not waited for.
    pub fn call(&mut self, call: Call) -> bool {
        if call == self.called() {
            return false;
        }
        // For what was called for before, or for nothing.
        self.rings += seat::stop_ringing(&self.work);
        self.wanted = self.wanted.next(call);
        self.page.call(self.wanted) && call == Call::Work
    }

    /// What it is to ring for: nothing, since it did.
    pub fn called(&self) -> Call {
        self.wanted.call()
    }

    /// Readable when what was [called](Self::call) for is so. Where nothing was, whoever rings is not listened to.
    pub fn bell(&self) -> Option<BorrowedFd<'_>> {
        (self.called() != Call::Nothing).then(|| self.work.as_fd())
    }

    /// Whether it rang for what it was called for. Then that is over.
    pub fn heard(&mut self) -> bool {
        let rings = if self.called() == Call::Nothing { 0 } else { seat::stop_ringing(&self.work) };
        self.rings += rings;
        if rings > 0 {
            self.wanted = self.wanted.next(Call::Nothing);
            self.page.call(self.wanted);
        }
        rings > 0
    }

    /// How often it rang, as far as that was looked at.
    pub fn rings(&self) -> u64 {
        self.rings
    }

    /// The process that listens there, as the kernel says. `None`: one that has no number here, as it lives outside of our PID
    /// namespace.
    pub fn peer(&self) -> Option<i32> {
        // Not by rustix, whose type has no room for the 0 that is told of such a one.
        let peer = getsockopt(&self.socket, PeerCredentials).ok()?;
        Some(peer.pid()).filter(|pid| *pid > 0)
    }

    /// Whether the device is there, and is ours.
    pub fn is_there(&self) -> bool {
        socket::is_there(&self.socket)
    }
}

fn bell() -> Result<OwnedFd, Error> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}
