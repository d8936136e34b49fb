//! The manager of time slices, as what draws 3D sees it.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use arbiter::{Name, Report, Seat};
use renderer::isolated::arbiter::{Arbiter, Grant, Progress};

/// A seat that a manager may come to.
#[derive(Debug)]
pub struct Ruled(Seat);

impl Ruled {
    /// Managers connect to `listener`.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        Seat::new(listener.into()).map(Ruled)
    }
}

impl Arbiter for Ruled {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    fn poll(&mut self) {
        let ruled = self.0.is_ruled();
        self.0.poll();
        match (ruled, self.0.is_ruled()) {
            (false, true) => tracing::info!("A manager grants 3D its time"),
            (true, false) => tracing::warn!("The manager is gone: 3D has all the time it wants"),
            _ => {}
        }
    }

    fn granted(&self) -> Grant {
        match self.0.granted() {
            arbiter::Grant::Open => Grant::Open,
            arbiter::Grant::Gated => Grant::Gated,
            arbiter::Grant::Held => Grant::Held,
        }
    }

    fn stopped(&mut self) -> Duration {
        self.0.stopped()
    }

    fn report(&mut self, progress: Progress) {
        let Progress { waiting, done, last } = progress;
        let (command, context) =
            last.map_or((Name::default(), 0), |(command, context)| (Name::new(command), context.0));
        self.0.report(Report { waiting, done, command, context });
    }
}
