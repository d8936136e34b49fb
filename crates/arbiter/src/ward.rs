//! The manager's side of one device.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::page::{Grant, Page, Report, now};
use crate::{Error, seat, socket};

/// A device that the manager rules, for as long as this lives.
#[derive(Debug)]
pub struct Ward {
    page: Page,
    socket: OwnedFd,
    /// For the device: look at the page.
    news: OwnedFd,
    /// For us: there is work again.
    work: OwnedFd,
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
        Ok(Ward { page, socket, news, work, stopped: Duration::ZERO, since: None })
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

    /// Readable when the device had nothing to do and has now, and when it is done behind a shut gate; [`heard`](Self::heard)
    /// ends that.
    pub fn work(&self) -> BorrowedFd<'_> {
        self.work.as_fd()
    }

    /// Forgets that the device rang.
    pub fn heard(&self) {
        seat::stop_ringing(&self.work);
    }

    /// The process that listens there, as the kernel says.
    pub fn peer(&self) -> Option<i32> {
        socket_peercred(&self.socket).ok().map(|peer| peer.pid.as_raw_pid())
    }

    /// Whether the device is there, and is ours.
    pub fn is_there(&self) -> bool {
        socket::is_there(&self.socket)
    }
}

fn bell() -> Result<OwnedFd, Error> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}
