//! The control thread: accepts front-ends, one after the other, and answers each until it goes.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use device::vga::VgaPort;
use device::{VirtioDevice, guest_log};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use thiserror::Error;

use super::card::{Card, Identity};
use super::channel::{ChannelError, Receiver, Sender, split};
use super::function::PciFunction;
use super::irqs::Irqs;
use super::pci::Shape;
use super::port::Port;
use super::rom::Rom;
use super::session::{Foreign, Reaction, Session};
use super::wire::{Kind, command};
use super::{Endpoint, Options, ServeError};
use crate::serve::{self, Watch, Woken, system};
use crate::sigbus;
use crate::worker::{Gone, GpuThread, Link};

/// How long a front-end of a listener may take to say its first word: the next one waits for it.
const SILENCE: Duration = Duration::from_secs(10);
/// Windows of memory that are taken before the function hears that it was a batch.
const BATCH: usize = 1024;

/// A server that is ready: nothing has been read from a front-end and no thread started.
pub struct Server {
    endpoint: Endpoint,
    card: Card<Arc<Link<Infallible>>>,
    gpu: GpuThread<Arc<Irqs>>,
    name: String,
    stop: OwnedFd,
}

impl Server {
    /// Opens and installs all that is needed. Between this and [`run`](Self::run) the process can lock itself in. `boot` is
    /// the way to the boot display that `device` has.
    pub fn prepare(
        endpoint: Endpoint,
        device: Box<dyn VirtioDevice>,
        shape: Shape,
        boot: Option<VgaPort>,
        rom: Option<Rom>,
        options: Options,
    ) -> Result<Self, ServeError> {
        sigbus::install().map_err(system("install the SIGBUS guard"))?;
        serve::ready(&endpoint)?;
        let stop = match options.stop {
            Some(stop) => stop,
            None => eventfd(0, EventfdFlags::CLOEXEC).map_err(system("make an eventfd"))?,
        };
        let identity = Identity::of(&*device);
        let irqs = Arc::new(Irqs::new(identity.queue_sizes.len()));
        let gpu =
            GpuThread::new(device, irqs.clone(), options.stats).map_err(system("wait on the device's descriptors"))?;
        let card = Card::new(shape, identity, boot, rom, gpu.link(), irqs).map_err(system("make the PCI function"))?;
        Ok(Self { endpoint, card, gpu, name: options.name, stop })
    }

    /// Serves front-ends: for a listener until told to stop, for a connection until it hangs up.
    pub fn run(mut self) -> Result<(), ServeError> {
        let link = self.gpu.link();
        let gpu = self.gpu;
        let builder = thread::Builder::new().name(self.name.clone());
        let thread = builder.spawn(move || gpu.run()).map_err(system("start the device's thread"))?;
        let watch = Watch { stop: &self.stop, ended: link.ended() };
        let served = serve_function(self.endpoint, &mut self.card, watch, &self.name);
        link.quit();
        // That it panicked was seen as its end.
        let _ = thread.join();
        served
    }
}

/// Serves front-ends with `function`: of a listener until `watch` says to stop, of a connection until it hangs up.
pub fn serve_function<F: PciFunction>(
    endpoint: Endpoint,
    function: &mut F,
    watch: Watch<'_>,
    name: &str,
) -> Result<(), ServeError> {
    let limit = matches!(endpoint, Endpoint::Listener(_)).then_some(SILENCE);
    serve_with_limit(endpoint, function, watch, name, limit)
}

/// As [`serve_function`]; who says nothing for so long has to go.
fn serve_with_limit<F: PciFunction>(
    endpoint: Endpoint,
    function: &mut F,
    watch: Watch<'_>,
    name: &str,
    limit: Option<Duration>,
) -> Result<(), ServeError> {
    let stop = watch.stop.try_clone().map_err(system("copy a descriptor"))?;
    let mut control = Control { function, watch, stop: Arc::new(stop), name, limit };
    serve::serve(endpoint, watch, name, |socket| control.connection(socket))
}

/// Why a conversation ended.
#[derive(Debug, Error)]
enum End {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Foreign(#[from] Foreign),
    #[error("It did not say its version in time")]
    Silent,
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Gone(#[from] Gone),
}

/// What the control thread holds.
struct Control<'a, F> {
    function: &'a mut F,
    watch: Watch<'a>,
    stop: Arc<OwnedFd>,
    name: &'a str,
    limit: Option<Duration>,
}

impl<F: PciFunction> Control<'_, F> {
    /// Serves one front-end. Whatever it did, the function is as new when it is gone.
    fn connection(&mut self, socket: UnixStream) -> Result<Woken, ServeError> {
        let (receiver, sender) = split(socket, self.stop.clone());
        let port = Arc::new(Port::new(sender.clone()));
        self.function.connected(port.clone());
        guest_log!(info, "Front-end of {} connected", self.name);
        let end = self.converse(receiver, &sender, &port);
        port.close();
        // Who holds the port holds the socket.
        sender.shut_down();
        self.function.hung_up()?;
        match end {
            Ok(()) => return Ok(Woken::Stop),
            Err(End::Serve(error)) => return Err(error),
            Err(End::Gone(gone)) => return Err(gone.into()),
            Err(End::Channel(ChannelError::HungUp)) => guest_log!(info, "Front-end of {} hung up", self.name),
            Err(why) => guest_log!(warn, "Front-end of {} is disconnected: {why}", self.name),
        }
        Ok(Woken::Readable)
    }

    /// Returns when told to stop; whatever else ends the conversation is an error.
    fn converse(&mut self, mut receiver: Receiver, sender: &Sender, port: &Port) -> Result<(), End> {
        let deadline = self.limit.map(|limit| Instant::now() + limit);
        let mut session = Session::new(self.function);
        loop {
            let limit = match receiver.holds() {
                true => Some(Timespec::default()),
                false => deadline.filter(|_| session.peer().is_none()).map(left),
            };
            let (woken, [mut heard, due]) =
                self.watch.wait_either(receiver.as_fd(), session.function().poll_fd(), limit)?;
            match woken {
                Woken::Stop => return Ok(()),
                Woken::Timeout if !receiver.holds() => return Err(End::Silent),
                Woken::Timeout | Woken::Readable => heard |= receiver.holds(),
            }
            if due {
                session.function().poll()?;
            }
            if heard {
                hear(&mut session, &mut receiver, sender, port)?;
            }
        }
    }
}

/// Answers what came: one message, or a row of windows, which come one after the other without waiting.
fn hear<F: PciFunction>(
    session: &mut Session<'_, F>,
    receiver: &mut Receiver,
    sender: &Sender,
    port: &Port,
) -> Result<(), End> {
    for _ in 0..BATCH {
        let Some(message) = receiver.receive()? else { break };
        if !matches!(message.header.kind, Kind::Request { .. }) {
            port.answered(&message);
            session.function().answered()?;
            break;
        }
        let code = message.header.command;
        match session.handle(message)? {
            Reaction::Reply(bytes, None) => sender.send(bytes, &[], None)?,
            Reaction::Reply(bytes, Some(file)) => sender.send(bytes, &[], Some(file.as_fd()))?,
            Reaction::Silent => {}
            Reaction::End(bytes, why) => {
                sender.send(bytes, &[], None)?;
                return Err(why.into());
            }
        }
        match code {
            command::VERSION => session.peer().into_iter().for_each(|peer| port.limit(peer.max_data)),
            command::DMA_MAP => continue,
            _ => {}
        }
        break;
    }
    Ok(session.function().flush()?)
}

/// What is left until then.
fn left(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
}

#[cfg(test)]
mod tests;
