//! The device's side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::page::{Call, Grant, Page, Report, Wanted, now};
use crate::{Error, socket};

/// Where a device is ruled from. Without a manager everything is granted.
#[derive(Debug)]
pub struct Seat {
    listener: OwnedFd,
    /// Of all that is waited for.
    epoll: OwnedFd,
    ruler: Option<Ruler>,
    /// One that connected and has said nothing yet. There is room for one: the newest.
    guest: Option<OwnedFd>,
    report: Report,
    /// As it was at the last poll: who obeys it has obeyed it when it reports.
    granted: Grant,
    /// The last time that is known for certain.
    known: Duration,
    /// How long processes were stopped under rulers before this one.
    before: Duration,
}

#[derive(Debug)]
struct Ruler {
    page: Page,
    socket: OwnedFd,
    news: OwnedFd,
    work: OwnedFd,
    /// The call that was answered last.
    answered: Wanted,
}

impl Seat {
    /// `listener` is a stream socket that listens.
    pub fn new(listener: OwnedFd) -> io::Result<Seat> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        watch(&epoll, &listener)?;
        let (known, before) = (Duration::ZERO, Duration::ZERO);
        let (report, granted) = (Report::default(), Grant::Open);
        Ok(Seat { listener, epoll, ruler: None, guest: None, report, granted, known, before })
    }

    /// Readable when there is something for [`poll`](Self::poll). The same for its life.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Lets managers come and go. Returns whether [`granted`](Self::granted) may have changed; never waits.
    pub fn poll(&mut self) -> bool {
        let mut changed = false;
        // A flood of them would otherwise hold the device up: the rest comes at the next poll.
        for _ in 0..8 {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(guest) => self.admit(guest),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => break,
            }
        }
        if let Some(guest) = &self.guest {
            match socket::receive(guest) {
                Ok(None) => {}
                Ok(Some(fds)) => changed |= self.enthrone(fds),
                Err(_) => self.send_away(),
            }
        }
        if let Some(ruler) = &self.ruler {
            changed |= stop_ringing(&ruler.news) > 0;
            if !socket::is_there(&ruler.socket) {
                self.dethrone();
                changed = true;
            }
        }
        self.granted = self.ruler.as_ref().map_or(Grant::Open, |ruler| ruler.page.granted());
        changed
    }

    fn admit(&mut self, guest: OwnedFd) {
        self.send_away();
        if watch(&self.epoll, &guest).is_ok() {
            self.guest = Some(guest);
        }
    }

    fn send_away(&mut self) {
        if let Some(guest) = self.guest.take() {
            let _ = epoll::delete(&self.epoll, guest);
        }
    }

    /// Who was a guest rules from now on, if what it brought is what it should be.
    fn enthrone(&mut self, fds: Vec<OwnedFd>) -> bool {
        let Some(guest) = self.guest.take() else { return false };
        let _ = epoll::delete(&self.epoll, &guest);
        let Ok(ruler) = Ruler::new(guest, fds) else { return false };
        if watch(&self.epoll, &ruler.socket).and_then(|()| watch(&self.epoll, &ruler.news)).is_err() {
            return false;
        }
        self.dethrone();
        ruler.page.report(self.report);
        self.ruler = Some(ruler);
        self.answer();
        true
    }

    fn dethrone(&mut self) {
        // A stop that it left behind is over: with it goes who would end it.
        self.before = self.stopped();
        if let Some(Ruler { socket, news, .. }) = self.ruler.take() {
            // The other side has the bell too: it would go on ringing here.
            let _ = (epoll::delete(&self.epoll, socket), epoll::delete(&self.epoll, news));
        }
    }

    /// Whether a manager rules.
    pub fn is_ruled(&self) -> bool {
        self.ruler.is_some()
    }

    /// What 3D may do, as of the last [`poll`](Self::poll).
    pub fn granted(&self) -> Grant {
        self.granted
    }

    /// For how long processes were stopped from outside so far: time that passed for us and not for them. Never falls.
    pub fn stopped(&mut self) -> Duration {
        let current = self.ruler.as_ref().map_or(Some(Duration::ZERO), |ruler| ruler.page.stopped(now()));
        if let Some(current) = current {
            self.known = self.known.max(self.before.saturating_add(current));
        }
        self.known
    }

    /// Tells how 3D gets on under what is [`granted`](Self::granted), and rings if the manager waits for that: see [`Call`].
    pub fn report(&mut self, report: Report) {
        if report != self.report
            && let Some(ruler) = &self.ruler
        {
            ruler.page.report(report);
        }
        self.report = report;
        // Also for what is not new: a gate may have been shut since.
        self.answer();
    }

    /// Rings for what the manager waits for, if that is so and it was not rung for yet.
    fn answer(&mut self) {
        let (waits, gated) = (self.report.waiting > 0, self.granted == Grant::Gated);
        let Some(ruler) = &mut self.ruler else { return };
        let wanted = ruler.page.called();
        let is_so = match wanted.call() {
            Call::Nothing => false,
            Call::Work => waits,
            Call::Rest => gated && !waits,
        };
        if is_so && wanted != ruler.answered {
            ruler.answered = wanted;
            ring(&ruler.work);
        }
    }
}

impl Ruler {
    fn new(socket: OwnedFd, fds: Vec<OwnedFd>) -> Result<Ruler, Error> {
        let [page, news, work] = <[OwnedFd; socket::FDS]>::try_from(fds).map_err(|_| Error::Garbage)?;
        for bell in [&news, &work] {
            // Neither a read nor a write of ours may wait.
            if !fcntl_getfl(bell)?.contains(OFlags::NONBLOCK) {
                return Err(Error::Garbage);
            }
        }
        socket::send(&socket, &[])?;
        Ok(Ruler { page: Page::map(page)?, socket, news, work, answered: Wanted::default() })
    }
}

fn watch(epoll: &OwnedFd, fd: &OwnedFd) -> Result<(), Errno> {
    epoll::add(epoll, fd, EventData::new_u64(0), EventFlags::IN | EventFlags::RDHUP)
}

/// Makes a bell readable. One that rings already goes on.
pub fn ring(bell: &OwnedFd) {
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

/// Silences a bell; how often it was rung.
pub fn stop_ringing(bell: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(bell, &mut count) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}
