//! What is measured: one function for each workload, and the table of them.

mod all;
mod board;
mod console;
mod desktop;
mod frames;
mod lifetime;
mod registers;
mod resources;
mod rings;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::console::{self as consoles, Console};
use crate::daemon::{Daemon, Program};
use crate::error::{Error, Result};
use crate::frontend::vfio_user::{Registers, Wire};
use crate::frontend::vmm_display::Settings;
use crate::frontend::{
    self, Buffer, Channel, Command, Driver, FrontEnd, Kind, Memory, Options, PciGuest, Queue, Reply, Shown, Wait,
};
use crate::process;
use crate::timing::Timing;
use crate::viewer;

pub use all::ALL;
use board::QemuBoard;
pub use console::BAD_MOVES;
pub use frames::{FRAME, SIZE};
pub use registers::OVER_BARE;

/// The daemon that has viewers of its own.
const BEAMSPLIT: &str = "beamsplit";
/// What makes it a PCI card.
const PCI: [&str; 4] = ["--transport", "vfio-user", "--model", "virtio"];
/// The daemon beside which lies a VMM with a VNC server.
const QEMU: &str = "qemu";
/// The longest that a daemon lives here.
const LIFE: Duration = Duration::from_secs(120);

/// Where the daemon and the generator run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    /// Both on one core.
    One,
    /// The daemon on one, the generator on another.
    Two,
}

/// Which display the daemon shows its frames on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// On none.
    None,
    /// The VMM's own, over the side socket.
    Vmm,
    /// A viewer that maps the daemon's frames. Only Beamsplit has one.
    Viewer,
    /// The viewer that people use, with an input device beside the GPU. Only Beamsplit has one.
    Console,
}

/// How the guest's words reach the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// vhost-user.
    VhostUser,
    /// vfio-user; a kick is awaited, as by a guest whose VMM has some of the function mapped. Only Beamsplit has it.
    VfioUser,
    /// The same, and kicks are posted.
    VfioUserPosted,
}

/// How long and how large.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Time of one run of one workload.
    pub time: Duration,
    /// Resources of the workload with many of them.
    pub many: u32,
    /// Time that an idle daemon is watched.
    pub idle: Duration,
}

/// What one run of a workload found.
#[derive(Debug, Clone, Default)]
pub struct Finding {
    /// Times, for workloads that repeat something.
    pub timing: Option<Timing>,
    /// A plain number, for workloads that look once: see [`Workload::unit`].
    pub value: Option<f64>,
    /// Microseconds of processor that the daemon took for each operation.
    pub cpu_us: Option<f64>,
    /// Kicks that the daemon wanted for each batch of commands.
    pub kicks: Option<f64>,
    /// Interrupts that the daemon sent for each batch of commands.
    pub interrupts: Option<f64>,
    /// What else was counted, each in its own words.
    pub also: Vec<(&'static str, f64)>,
}

impl Finding {
    /// The number of the table.
    pub fn number(&self) -> Option<f64> {
        self.value.or(self.timing.as_ref().map(Timing::typical_rate))
    }
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Its name for `--only`.
    pub name: &'static str,
    /// What it does, in a few words.
    pub what: &'static str,
    /// What is counted: `commands/s`, or the unit of a plain number.
    pub unit: &'static str,
    /// Is a larger number the better one?
    pub more_is_better: bool,
    /// Where it runs.
    pub cores: Cores,
    /// Where it shows frames.
    pub screen: Screen,
    /// How it talks.
    pub transport: Transport,
    /// Runs in so many rounds at most: some take long and hardly vary.
    pub rounds: usize,
    run: fn(&mut Rig, &Budget) -> Result<Finding>,
    /// The same with QEMU's own VNC server, for workloads of the console.
    qemu: Option<fn(&mut QemuBoard, &Budget) -> Result<Finding>>,
}

/// A daemon, and the guest that works it.
#[derive(Debug)]
pub struct Rig {
    guest: Box<dyn Driver>,
    /// Of a PCI function, the way to its registers.
    function: Option<Function>,
    shown: Arc<Shown>,
    /// Ends with the rig.
    _daemon: Daemon,
    pid: Pid,
    batches: u64,
    program: Program,
    folder: PathBuf,
    cores: Vec<usize>,
    console: Option<Console>,
}

impl Workload {
    /// Starts a daemon, runs the workload, ends the daemon.
    pub fn run(&self, program: &Program, folder: &Path, cores: &[usize], budget: &Budget) -> Result<Finding> {
        if let (Screen::Console, QEMU, Some(run)) = (self.screen, program.name.as_str(), self.qemu) {
            return run(&mut QemuBoard::start(program, folder, cores)?, budget);
        }
        if self.transport != Transport::VhostUser && program.name != BEAMSPLIT {
            return Err(Error::NotDone("-".into()));
        }
        let mut rig = match self.screen {
            Screen::None => Rig::connect(&without_a_screen(program), folder, cores, Talk::Pci(self.transport))?,
            Screen::Vmm => Rig::start(program, folder, cores, self.cores)?,
            Screen::Viewer => Rig::start_with_viewer(program, folder, cores, self.transport)?,
            Screen::Console => Rig::start_with_console(program, folder, cores, self.cores)?,
        };
        (self.run)(&mut rig, budget)
    }
}

impl Rig {
    fn start(program: &Program, folder: &Path, cores: &[usize], place: Cores) -> Result<Self> {
        let rig = Self::connect(program, folder, cores, Talk::Virtio(Kind::Gpu))?;
        if place == Cores::Two
            && let Some(&there) = cores.last()
        {
            process::pin_process(rig.pid, there)?;
        }
        Ok(rig)
    }

    /// As [`Rig::start`], with a viewer of ours as the display; only Beamsplit can have one.
    fn start_with_viewer(program: &Program, folder: &Path, cores: &[usize], transport: Transport) -> Result<Self> {
        if program.name != BEAMSPLIT {
            return Err(Error::NotDone("-".into()));
        }
        let (mut program, listener) = viewer::prepare(program, folder)?;
        let talk = match transport {
            Transport::VhostUser => Talk::Virtio(Kind::Generic),
            other => {
                program.arguments.extend(PCI.map(String::from));
                Talk::Pci(other)
            }
        };
        let mut rig = Self::connect(&program, folder, cores, talk)?;
        rig.shown = viewer::listen(&listener)?;
        Ok(rig)
    }

    /// As [`Rig::start`], with the console; of two cores the viewer has one to itself. Only Beamsplit can have one.
    fn start_with_console(program: &Program, folder: &Path, cores: &[usize], place: Cores) -> Result<Self> {
        if program.name != BEAMSPLIT {
            return Err(Error::NotDone("-".into()));
        }
        let talk = Talk::Virtio(Kind::Generic);
        let mut rig = Self::connect(&consoles::prepare(program, folder), folder, cores, talk)?;
        let console = Console::find(rig.pid, folder)?;
        if place == Cores::Two
            && let Some(&there) = cores.last()
        {
            process::pin_process(console.viewer, there)?;
        }
        rig.console = Some(console);
        Ok(rig)
    }

    fn console(&self) -> Result<&Console> {
        self.console.as_ref().ok_or_else(|| Error::NotDone("It has no console".into()))
    }

    fn connect(program: &Program, folder: &Path, cores: &[usize], talk: Talk) -> Result<Self> {
        let here = cores.first().ok_or_else(|| Error::NotDone("No core may be used".into()))?;
        process::pin(*here)?;
        let mut daemon = Daemon::start(program, folder)?;
        let pid = daemon.pid()?;
        let stream = daemon.take_stream().ok_or_else(|| Error::NotDone("It does not listen".into()))?;
        let mut ready = connect(stream, talk)?;
        let abandons = [0, 1].map(|index| ready.guest.queue(index).and_then(|queue| queue.abandoner()));
        daemon.watch(abandons.into_iter().collect::<frontend::Result<_>>()?, LIFE)?;
        let shown = ready.display.as_ref().map(frontend::VmmDisplay::shown).unwrap_or_default();
        if let Some(display) = ready.display {
            // Its thread ends when the daemon does.
            display.spawn()?;
        }
        let (program, folder, cores) = (program.clone(), folder.to_path_buf(), cores.to_vec());
        let Ready { guest, function, .. } = ready;
        Ok(Self { guest, function, shown, _daemon: daemon, pid, batches: 0, program, folder, cores, console: None })
    }

    /// Runs what is timed, and adds the daemon's time on the processor.
    fn timed(&mut self, run: impl FnOnce(&mut Self) -> Result<Timing>) -> Result<Finding> {
        let (before, start, signals) = (process::cpu_time(self.pid)?, Instant::now(), self.signals()?);
        self.batches = 0;
        let timing = run(self)?;
        let after = self.signals()?;
        let share = |count: u64| Some(count as f64 / self.batches.max(1) as f64);
        let (kicks, interrupts) = (share(after.0 - signals.0), share(after.1 - signals.1));
        // The warm-up is in the processor's time but not in the count: scale by the elapsed time.
        let spent = (process::cpu_time(self.pid)? - before) as f64 / 1000.0 / start.elapsed().as_secs_f64();
        let cpu_us = Some(spent / timing.rate);
        Ok(Finding { timing: Some(timing), cpu_us, kicks, interrupts, ..Finding::default() })
    }

    /// Kicks and interrupts of both queues.
    fn signals(&mut self) -> Result<(u64, u64)> {
        let [control, cursor] = [self.guest.queue(0)?.signals(), self.guest.queue(1)?.signals()];
        Ok((control.kicks + cursor.kicks, control.interrupts + cursor.interrupts))
    }

    /// Sends a command that must succeed.
    fn must(&mut self, command: &Command) -> Result<Reply> {
        let reply = self.guest.exchange(0, command.as_bytes(), 2048)?;
        if !reply.is_ok() {
            return Err(Error::NotDone(format!("It answered {:#x}", reply.kind())));
        }
        Ok(reply)
    }

    /// Writes a chain for a command: the request, then room for the answer.
    fn chain(&mut self, queue: usize, command: &Command, room: u32) -> Result<Prepared> {
        let memory = self.guest.memory().clone();
        prepare(self.guest.queue(queue)?, &memory, command, room)
    }

    /// Offers chains that were written before, and waits until all are given back.
    fn round(&mut self, queue: usize, chains: &[Prepared]) -> Result<()> {
        self.batches += 1;
        let queue = self.guest.queue(queue)?;
        for chain in chains {
            queue.offer(chain.head)?;
        }
        queue.publish()?;
        queue.wait_until_ready(chains.len() as u16)?;
        for _ in chains {
            queue.take()?;
        }
        Ok(())
    }

    /// The type word of a chain's answer.
    fn answer(&self, chain: &Prepared) -> Result<u32> {
        chain.kind(self.guest.memory())
    }
}

/// Writes a chain for a command: the request, then room for the answer.
fn prepare(queue: &mut Queue, memory: &Memory, command: &Command, room: u32) -> Result<Prepared> {
    let bytes = command.as_bytes();
    let request = memory.allocate(bytes.len() as u64, 64)?;
    memory.write(request, bytes)?;
    let mut buffers = vec![Buffer::Readable(request, bytes.len() as u32)];
    let answer = memory.allocate(u64::from(room), 64)?;
    if room > 0 {
        buffers.push(Buffer::Writable(answer, room));
    }
    let head = queue.prepare(&buffers)?;
    Ok(Prepared { head, request, answer })
}

/// A chain that lies in the ring's table and can be offered again and again.
#[derive(Debug, Clone, Copy)]
struct Prepared {
    head: u16,
    request: u64,
    answer: u64,
}

impl Prepared {
    /// The type word of the answer.
    fn kind(&self, memory: &Memory) -> Result<u32> {
        let mut word = [0; 4];
        memory.read(self.answer, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }
}

/// How a daemon is talked to.
#[derive(Clone, Copy)]
enum Talk {
    /// As that front-end of vhost-user.
    Virtio(Kind),
    /// Over vfio-user.
    Pci(Transport),
}

/// A guest whose driver is up.
struct Ready {
    guest: Box<dyn Driver>,
    function: Option<Function>,
    display: Option<frontend::VmmDisplay>,
}

/// The registers of a PCI function, and the way to them.
#[derive(Debug, Clone)]
struct Function {
    wire: Arc<Wire>,
    registers: Registers,
}

fn connect(stream: UnixStream, talk: Talk) -> Result<Ready> {
    let kind = match talk {
        Talk::Virtio(kind) => kind,
        Talk::Pci(_) => Kind::Generic,
    };
    let mut options = Options { wait: Wait::Block, ..Options::new(kind) };
    options.display = Settings { heads: vec![(1920, 1080)], ..Settings::default() };
    if let Talk::Pci(transport) = talk {
        let mut guest = PciGuest::realize(stream, options)?;
        guest.start(transport == Transport::VfioUserPosted)?;
        let function = Some(Function { wire: guest.wire().clone(), registers: guest.registers() });
        return Ok(Ready { guest: Box::new(guest), function, display: None });
    }
    let channel = Channel::new(stream, options.patience)?;
    let mut guest = FrontEnd::over(channel, options)?;
    guest.negotiate()?;
    let display = guest.start()?;
    Ok(Ready { guest: Box::new(guest), function: None, display })
}

/// Our daemon as a PCI card that nobody sees.
fn without_a_screen(program: &Program) -> Program {
    let words = ["--renderer", "soft", "--display", "none", "--heads", "1920x1080"];
    let arguments = words.into_iter().chain(PCI).map(String::from).collect();
    Program { arguments, ..program.clone() }
}
