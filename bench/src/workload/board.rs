//! Who is drawn on and typed into: a device of ours, or QEMU's own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::{Prepared, Rig, prepare};
use crate::console::Meter;
use crate::daemon::Program;
use crate::error::{Error, Result};
use crate::frontend::command::{self, Command};
use crate::frontend::{EventRoom, InputDriver, InputEvent, Memory, Queue};
use crate::process;
use crate::qemu::{Port, Qemu};

/// The longest that QEMU may take for a batch.
const LIMIT: Duration = Duration::from_secs(60);
/// QEMU has no interrupt to wait for here.
const LOOK_EACH: Duration = Duration::from_micros(50);
/// The longest queues that both devices have.
const QUEUE: u16 = 64;
/// virtio's numbers of devices.
const GPU: u32 = 16;
const INPUT: u32 = 18;

/// A virtio-gpu that is drawn on from here, and the VNC server that shows it.
pub(super) trait Board {
    fn memory(&self) -> Arc<Memory>;
    fn queue(&mut self) -> Result<&mut Queue>;
    /// Offers chains, and waits until all are given back.
    fn run(&mut self, chains: &[Prepared]) -> Result<()>;
    fn vnc(&self) -> Result<SocketAddr>;
    /// Watches the processes; the last one has the VNC server in it.
    fn meter(&self) -> Result<Meter>;

    fn chain(&mut self, command: &Command) -> Result<Prepared> {
        let memory = self.memory();
        prepare(self.queue()?, &memory, command, 24)
    }

    /// Runs chains that must succeed.
    fn run_well(&mut self, chains: &[Prepared]) -> Result<()> {
        self.run(chains)?;
        for chain in chains {
            match chain.kind(&self.memory())? {
                command::RESP_OK_NODATA => {}
                kind => return Err(Error::NotDone(format!("It answered {kind:#x}"))),
            }
        }
        Ok(())
    }

    /// Sends a command that must succeed.
    fn order(&mut self, command: &Command) -> Result<()> {
        let chain = self.chain(command)?;
        self.run_well(&[chain])?;
        self.queue()?.recycle(chain.head);
        Ok(())
    }
}

impl Board for Rig {
    fn memory(&self) -> Arc<Memory> {
        self.guest.memory().clone()
    }

    fn queue(&mut self) -> Result<&mut Queue> {
        Ok(self.guest.queue(0)?)
    }

    fn run(&mut self, chains: &[Prepared]) -> Result<()> {
        self.round(0, chains)
    }

    fn vnc(&self) -> Result<SocketAddr> {
        Ok(self.console()?.vnc)
    }

    fn meter(&self) -> Result<Meter> {
        self.console()?.meter()
    }
}

/// QEMU, and the drivers of its devices.
pub(super) struct QemuBoard {
    qemu: Qemu,
    gpu: Port,
    keyboard: Port,
}

impl QemuBoard {
    /// Starts the QEMU that a daemon belongs to, on a core of its own where there are two.
    pub(super) fn start(daemon: &Program, folder: &Path, cores: &[usize]) -> Result<Self> {
        let missing = || Error::NotDone("There is no qemu-system-x86_64 beside it".into());
        let program = Qemu::beside(daemon).ok_or_else(missing)?;
        if let Some(&here) = cores.first() {
            process::pin(here)?;
        }
        let mut qemu = Qemu::start(&program, folder)?;
        if let Some(&there) = cores.last() {
            process::pin_process(qemu.pid()?, there)?;
        }
        let (gpu, keyboard) = (qemu.drive(GPU, QUEUE)?, qemu.drive(INPUT, QUEUE)?);
        Ok(Self { qemu, gpu, keyboard })
    }

    /// Its process.
    pub(super) fn pid(&self) -> Result<Pid> {
        self.qemu.pid()
    }

    /// Its keyboard.
    pub(super) fn keyboard(&mut self) -> Result<QemuKeyboard<'_>> {
        let room = EventRoom::fill(self.qemu.memory(), &mut self.keyboard.queue)?;
        self.qemu.notify(&self.keyboard)?;
        Ok(QemuKeyboard { queue: &mut self.keyboard.queue, room })
    }
}

impl Board for QemuBoard {
    fn memory(&self) -> Arc<Memory> {
        self.qemu.memory().clone()
    }

    fn queue(&mut self) -> Result<&mut Queue> {
        Ok(&mut self.gpu.queue)
    }

    fn run(&mut self, chains: &[Prepared]) -> Result<()> {
        for chain in chains {
            self.gpu.queue.offer(chain.head)?;
        }
        self.gpu.queue.publish()?;
        self.qemu.notify(&self.gpu)?;
        let start = Instant::now();
        while usize::from(self.gpu.queue.ready()?) < chains.len() {
            if start.elapsed() > LIMIT {
                return Err(Error::NotDone("QEMU does not answer".into()));
            }
            std::thread::sleep(LOOK_EACH);
        }
        for _ in chains {
            self.gpu.queue.take()?;
        }
        Ok(())
    }

    fn vnc(&self) -> Result<SocketAddr> {
        Ok(self.qemu.vnc)
    }

    fn meter(&self) -> Result<Meter> {
        Meter::start(vec![self.qemu.pid()?])
    }
}

/// The driver of a keyboard.
pub(super) trait Keyboard {
    fn wait(&mut self, count: u16) -> Result<()>;
    fn take(&mut self, events: &mut Vec<InputEvent>) -> Result<()>;
}

impl Keyboard for InputDriver {
    fn wait(&mut self, count: u16) -> Result<()> {
        Ok(self.wait(count)?)
    }

    fn take(&mut self, events: &mut Vec<InputEvent>) -> Result<()> {
        Ok(self.take(events)?)
    }
}

/// The driver of QEMU's keyboard. It looks without a rest, so that no interrupt has to be paid for.
pub(super) struct QemuKeyboard<'a> {
    queue: &'a mut Queue,
    room: EventRoom,
}

impl Keyboard for QemuKeyboard<'_> {
    fn wait(&mut self, count: u16) -> Result<()> {
        let start = Instant::now();
        while self.queue.ready()? < count {
            if start.elapsed() > LIMIT {
                return Err(Error::NotDone("The key does not come".into()));
            }
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn take(&mut self, events: &mut Vec<InputEvent>) -> Result<()> {
        Ok(self.room.take(self.queue, events)?)
    }
}
