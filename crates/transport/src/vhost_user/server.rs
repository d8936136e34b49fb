//! The control thread: accepts front-ends, one after the other, and talks to each until it goes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;

use device::{VirtioDevice, guest_log};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use thiserror::Error;

use super::change::{Change, Gone, Worker};
use super::channel::{Channel, ChannelError};
use super::control::{Control, Identity, Refusal};
use super::gpu::{Gpu, Link};
use super::{Endpoint, Options, ServeError};
use crate::sigbus;

/// How long to wait before another try to accept, when the process is short of something.
const ACCEPT_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A server that is ready: nothing has been read from a front-end and no thread started.
pub struct Server {
    endpoint: Endpoint,
    identity: Identity,
    gpu: Gpu,
    name: String,
    on_gpu_socket: Box<dyn FnMut(OwnedFd) + Send>,
    stop: OwnedFd,
}

impl Server {
    /// Opens and installs all that is needed. Between this and [`run`](Self::run) the process can lock itself in.
    pub fn prepare(endpoint: Endpoint, device: Box<dyn VirtioDevice>, options: Options) -> Result<Self, ServeError> {
        sigbus::install().map_err(system("install the SIGBUS guard"))?;
        if let Endpoint::Listener(listener) = &endpoint {
            listener.set_nonblocking(true).map_err(system("use the listening socket"))?;
        }
        let stop = match options.stop {
            Some(stop) => stop,
            None => eventfd(0, EventfdFlags::CLOEXEC).map_err(system("make an eventfd"))?,
        };
        let identity = Identity {
            features: device.features(),
            queues: device.queue_sizes().len(),
            config: device.config(),
            shared_memory: options.shared_memory,
        };
        let gpu = Gpu::new(device, options.stats).map_err(system("wait on the device's descriptors"))?;
        Ok(Self { endpoint, identity, gpu, name: options.name, on_gpu_socket: options.on_gpu_socket, stop })
    }

    /// Serves front-ends: for a listener until told to stop, for a connection until it hangs up.
    pub fn run(mut self) -> Result<(), ServeError> {
        let link = self.gpu.link();
        let gpu = self.gpu;
        let builder = thread::Builder::new().name(self.name.clone());
        let thread = builder.spawn(move || gpu.run()).map_err(system("start the device's thread"))?;
        let mut control = ControlThread {
            name: &self.name,
            identity: &self.identity,
            link,
            on_gpu_socket: &mut *self.on_gpu_socket,
            stop: &self.stop,
        };
        let served = control.serve(self.endpoint);
        control.link.quit();
        // That it panicked was seen as its end.
        let _ = thread.join();
        served
    }
}

/// What the control thread holds.
struct ControlThread<'a> {
    name: &'a str,
    identity: &'a Identity,
    link: Arc<Link>,
    on_gpu_socket: &'a mut (dyn FnMut(OwnedFd) + Send),
    stop: &'a OwnedFd,
}

/// What a wait ended with.
#[derive(Debug, PartialEq, Eq)]
enum Woken {
    Readable,
    Stop,
    Timeout,
}

/// Why a conversation ended.
#[derive(Debug, Error)]
enum End {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Refusal(#[from] Refusal),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl ControlThread<'_> {
    fn serve(&mut self, endpoint: Endpoint) -> Result<(), ServeError> {
        match endpoint {
            Endpoint::Connection(socket) => self.connection(socket).map(drop),
            Endpoint::Listener(listener) => self.listen(&listener),
        }
    }

    fn listen(&mut self, listener: &UnixListener) -> Result<(), ServeError> {
        while self.wait(listener.as_fd(), None)? != Woken::Stop {
            match listener.accept() {
                Ok((socket, _)) => {
                    if self.connection(socket)? == Woken::Stop {
                        break;
                    }
                }
                // It went away before we came to it.
                Err(error) if Errno::from_io_error(&error).is_some_and(is_passing) => {}
                Err(error) => {
                    guest_log!(error, "Cannot accept a front-end of {}: {error}", self.name);
                    if self.wait(self.stop.as_fd(), Some(ACCEPT_AGAIN))? != Woken::Timeout {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Serves one front-end. Whatever it did, the device is as new when it is gone.
    fn connection(&mut self, socket: UnixStream) -> Result<Woken, ServeError> {
        let end = self.converse(socket);
        self.link.change(Change::Reset)?;
        self.link.settle()?;
        match end {
            Ok(()) => return Ok(Woken::Stop),
            Err(End::Serve(error)) => return Err(error),
            Err(End::Refusal(Refusal::Gone(gone))) => return Err(gone.into()),
            Err(End::Channel(ChannelError::HungUp)) => guest_log!(info, "Front-end of {} hung up", self.name),
            Err(why) => guest_log!(warn, "Front-end of {} is disconnected: {why}", self.name),
        }
        Ok(Woken::Readable)
    }

    /// Returns when told to stop; whatever else ends the conversation is an error.
    fn converse(&mut self, socket: UnixStream) -> Result<(), End> {
        let mut channel = Channel::new(socket)?;
        let (link, stop) = (self.link.clone(), self.stop);
        let mut control = Control::new(self.identity, link.clone(), self.on_gpu_socket);
        guest_log!(info, "Front-end of {} connected", self.name);
        while wait(channel.as_fd(), stop, &link, None)? != Woken::Stop {
            if let Some(message) = channel.receive()?
                && let Some(reply) = control.handle(message)?
            {
                channel.send(&reply, stop.as_fd())?;
            }
        }
        Ok(())
    }

    fn wait(&self, fd: BorrowedFd<'_>, limit: Option<Timespec>) -> Result<Woken, ServeError> {
        wait(fd, self.stop, &self.link, limit)
    }
}

/// Waits for `fd`, for the word to stop, and for the gpu thread, whose end is an error.
fn wait(fd: BorrowedFd<'_>, stop: &OwnedFd, link: &Link, limit: Option<Timespec>) -> Result<Woken, ServeError> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(fd, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(link.ended(), PollFlags::IN),
        ];
        match poll(&mut fds, limit.as_ref()) {
            Ok(0) => return Ok(Woken::Timeout),
            Ok(_) if !fds[2].revents().is_empty() => return Err(Gone.into()),
            Ok(_) if !fds[1].revents().is_empty() => return Ok(Woken::Stop),
            Ok(_) => return Ok(Woken::Readable),
            Err(Errno::INTR) => {}
            Err(error) => return Err(system("wait for a front-end")(error)),
        }
    }
}

/// Errors of accept that concern only the front-end that did not come.
fn is_passing(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::PERM)
}

fn system<E: Into<std::io::Error>>(doing: &'static str) -> impl FnOnce(E) -> ServeError {
    move |error| ServeError::System { doing, source: error.into() }
}
