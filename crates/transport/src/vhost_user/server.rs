//! The control thread: accepts front-ends, one after the other, and talks to each until it goes.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use device::{VirtioDevice, guest_log};
use rustix::event::{EventfdFlags, eventfd};
use thiserror::Error;

use super::channel::{Channel, ChannelError};
use super::control::{Control, Identity, Refusal};
use super::eventfd::{Eventfds, Wire};
use super::{Endpoint, Options, ServeError};
use crate::serve::{self, Watch, Woken, system};
use crate::sigbus;
use crate::worker::{Change, GpuThread, Link, Worker};

/// A server that is ready: nothing has been read from a front-end and no thread started.
pub struct Server {
    endpoint: Endpoint,
    identity: Identity,
    gpu: GpuThread<Eventfds>,
    name: String,
    on_gpu_socket: Box<dyn FnMut(OwnedFd) + Send>,
    stop: OwnedFd,
}

impl Server {
    /// Opens and installs all that is needed. Between this and [`run`](Self::run) the process can lock itself in.
    pub fn prepare(endpoint: Endpoint, device: Box<dyn VirtioDevice>, options: Options) -> Result<Self, ServeError> {
        sigbus::install().map_err(system("install the SIGBUS guard"))?;
        serve::ready(&endpoint)?;
        let stop = match options.stop {
            Some(stop) => stop,
            None => eventfd(0, EventfdFlags::CLOEXEC).map_err(system("make an eventfd"))?,
        };
        let identity = Identity::of(&*device);
        let interrupt = Eventfds::new(identity.queues, identity.shared.clone())
            .map_err(system("wait for the front-end's answers"))?;
        let gpu =
            GpuThread::new(device, interrupt, options.stats).map_err(system("wait on the device's descriptors"))?;
        Ok(Self { endpoint, identity, gpu, name: options.name, on_gpu_socket: options.on_gpu_socket, stop })
    }

    /// Serves front-ends: for a listener until told to stop, for a connection until it hangs up.
    pub fn run(mut self) -> Result<(), ServeError> {
        let link = self.gpu.link();
        let gpu = self.gpu;
        let builder = thread::Builder::new().name(self.name.clone());
        let thread = builder.spawn(move || gpu.run()).map_err(system("start the device's thread"))?;
        let watch = Watch { stop: &self.stop, ended: link.ended() };
        let mut control = ControlThread {
            name: &self.name,
            identity: &self.identity,
            link: link.clone(),
            on_gpu_socket: &mut *self.on_gpu_socket,
            watch,
        };
        let served = serve::serve(self.endpoint, watch, &self.name, |socket| control.connection(socket));
        link.quit();
        // That it panicked was seen as its end.
        let _ = thread.join();
        served
    }
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

/// What the control thread holds.
struct ControlThread<'a> {
    name: &'a str,
    identity: &'a Identity,
    link: Arc<Link<Wire>>,
    on_gpu_socket: &'a mut (dyn FnMut(OwnedFd) + Send),
    watch: Watch<'a>,
}

impl ControlThread<'_> {
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
        let mut control = Control::new(self.identity, self.link.clone(), self.on_gpu_socket);
        guest_log!(info, "Front-end of {} connected", self.name);
        while self.watch.wait(channel.as_fd(), None)? != Woken::Stop {
            if let Some(message) = channel.receive()?
                && let Some(reply) = control.handle(message)?
            {
                channel.send(&reply, self.watch.stop.as_fd())?;
            }
        }
        Ok(())
    }
}
