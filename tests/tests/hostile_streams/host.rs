//! A guest over the in-process transport whose GPU has the library in a process of its own.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bench::three_d::{Processes, Programs};
use device::{Capset, Gpu, GpuOptions, Stats};
use display::NoDisplay;
use protocol::CapsetId;
use renderer::Soft;
use renderer::isolated::{Isolated, Options};
use renderer::library::Kind;
use rustix::process::{Pid, Signal};
use tests::bed;
use transport::loopback::{Loopback, Sent};

use crate::asks::{self, Ask, kind};
use crate::corpus::{BARE, BUFFER, IMAGE, SHORT};
use crate::venus::{PAGES, RING, RING_BYTES};
use crate::virgl::Stream;

/// A test on a loaded machine waits so long before it gives up.
const LIMIT: Duration = Duration::from_secs(120);
/// Bytes of the window.
const WINDOW: u64 = 64 << 20;
/// Where the pages of resources lie: behind what the transport lays out itself.
const SCRATCH: u64 = 48 << 20;
/// Side of [`IMAGE`].
const SIDE: u32 = 64;
const VENUS: u32 = 4;
/// A context that is there before and after every case.
const STEADY: u32 = 1;

/// A blob that a worker makes if it still lives.
const PROBE: u32 = 210;
/// The test that serves as a library's process.
const CHILD: &str = "a_child_serves_its_socket";

/// The guest.
pub struct Host {
    guest: Loopback,
    stats: Arc<Stats>,
    children: Arc<Processes>,
    seen: Instant,
    next: u32,
    mark: u64,
}

impl Host {
    /// A guest whose child may do nothing for so long.
    pub fn new(tree: &'static bed::Tree, patience: Duration) -> Result<Self> {
        // Why a process ended is in the log. A second test finds it on.
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
            .with_ansi(false)
            .with_test_writer()
            .try_init();
        let capset = |id, version, size, rings, maps| Capset { id, version, bytes: vec![0; size].into(), rings, maps };
        let capsets = vec![
            capset(CapsetId::VIRGL, 1, 308, 1, false),
            capset(CapsetId::VIRGL2, 2, 1384, 1, false),
            capset(CapsetId::VENUS, 0, 160, 64, true),
        ];
        let stats = Arc::new(Stats::default());
        let start = move || {
            let program = std::env::current_exe()?;
            let mut command = bed::run::inside(tree, &program.to_string_lossy());
            command.args(["--exact", CHILD, "--nocapture", "--test-threads", "1"]);
            if std::env::var_os("BEAMSPLIT_TEST_VERBOSE").is_none() {
                command.stderr(Stdio::null());
            }
            Ok(command)
        };
        let children = Programs::new(Box::new(start))?;
        let shared = children.processes();
        let options = Options { capsets, patience, restarts: u32::MAX, name: "hostile".into(), stats: stats.clone() };
        let isolated = Isolated::new(options, Box::new(children))?;
        let gpu = Gpu::new(GpuOptions::default(), Box::new(Soft::new()), Box::new(NoDisplay), stats.clone());
        let mut guest = Loopback::new(gpu.with_three_d(Box::new(isolated), WINDOW));
        guest.count_in(stats.clone());
        let mark = guest.allocate(0).context("No memory")?;
        Ok(Self { guest, stats, children: shared, seen: Instant::now(), next: STEADY, mark })
    }

    /// What the device counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// A new context's name.
    fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// Sends requests in haste, and waits for all replies.
    pub fn all(&mut self, asks: &[Ask]) -> Result<Vec<Vec<u8>>> {
        let sent = self.send(asks)?;
        self.wait(asks, sent)
    }

    /// Sends requests, and lets the device look at them.
    pub fn send(&mut self, asks: &[Ask]) -> Result<Vec<Sent>> {
        let mut sent = Vec::new();
        for ask in asks {
            sent.push(self.guest.send(ask.queue(), &[&ask.bytes()], &[4096]).context("The ring is full")?);
        }
        self.guest.run();
        Ok(sent)
    }

    /// The replies to what was sent.
    pub fn wait(&mut self, asks: &[Ask], sent: Vec<Sent>) -> Result<Vec<Vec<u8>>> {
        let begin = Instant::now();
        let mut replies = Vec::new();
        for (ask, sent) in asks.iter().zip(sent) {
            let reply = loop {
                if let Some(reply) = self.guest.reply(&sent) {
                    break reply;
                }
                if begin.elapsed() > LIMIT {
                    bail!("No reply to {ask:?}");
                }
                self.turn();
            };
            replies.push(reply.bytes);
        }
        // Buffers lie on top of earlier ones from here on.
        self.guest.release(self.mark);
        Ok(replies)
    }

    /// Waits a little for the device's descriptors, and lets as much time pass in the guest as outside.
    pub fn turn(&mut self) {
        self.guest.readable(Duration::from_millis(20));
        self.guest.advance(self.seen.elapsed());
        self.seen = Instant::now();
        self.guest.run();
    }

    /// Waits until something is so.
    pub fn until(&mut self, what: &str, mut so: impl FnMut(&mut Self) -> bool) -> Result<()> {
        let begin = Instant::now();
        while !so(self) {
            ensure!(begin.elapsed() < LIMIT, "{what} never came");
            self.turn();
        }
        Ok(())
    }

    /// As [`all`](Self::all), where each must succeed.
    pub fn must(&mut self, asks: &[Ask]) -> Result<Vec<Vec<u8>>> {
        let replies = self.all(asks)?;
        for (ask, reply) in asks.iter().zip(&replies) {
            let kind = kind(reply);
            ensure!(
                !matches!(kind, "nothing" | "unspec") && !kind.starts_with("invalid") && kind != "out_of_memory",
                "{kind} to {ask:x?}"
            );
        }
        Ok(replies)
    }

    /// The streams of a case, in contexts of OpenGL with [`IMAGE`], [`BUFFER`], [`SHORT`] and [`BARE`]: a context that was refused
    /// something does nothing more, so the next stream gets another one. Returns how many were refused.
    pub fn play_virgl(&mut self, streams: &[Stream]) -> Result<usize> {
        let (mut ctx, mut refused) = (0, 0);
        for (at, stream) in streams.iter().enumerate() {
            if ctx == 0 {
                ctx = self.fresh();
                self.all(&virgl_set_up(ctx))?;
                self.all(&odd_set_up(ctx))?;
            }
            let reply = self.all(&[asks::submit(ctx, &stream.0).fenced(at as u64 + 1)])?;
            let is_refused = reply.iter().any(|reply| kind(reply) != "ok");
            if is_refused || at + 1 == streams.len() {
                self.all(&[asks::leave(ctx, IMAGE), asks::unref(IMAGE), asks::unref(BUFFER)])?;
                self.all(&[asks::unref(SHORT), asks::unref(BARE), asks::close(ctx)])?;
                ctx = 0;
            }
            refused += usize::from(is_refused);
        }
        Ok(refused)
    }

    /// The streams of a case in a context of Vulkan with [`RING`], which begins with these bytes, and [`PAGES`]; another one after
    /// each that was refused. Returns how many were refused.
    pub fn play_venus(&mut self, ring: &[u8], streams: &[Stream]) -> Result<usize> {
        let (mut ctx, mut refused) = (0, 0);
        for (at, stream) in streams.iter().enumerate() {
            if ctx == 0 {
                ctx = self.fresh();
                self.all(&[
                    asks::open(ctx, VENUS),
                    asks::mappable(ctx, RING, RING_BYTES),
                    asks::map(RING, 0),
                    asks::guest_blob(PAGES, SCRATCH, 4096),
                    asks::join(ctx, RING),
                    asks::join(ctx, PAGES),
                ])?;
                self.guest.window().write(1, 0, ring);
            }
            // The worker reads what was submitted when it likes, but before it answers what is asked next.
            let reply = self.all(&[
                asks::submit(ctx, &stream.0).fenced(at as u64 + 1).on(0),
                asks::mappable(ctx, PROBE, 4096),
                asks::unref(PROBE),
            ])?;
            let is_refused = reply[..2].iter().any(|reply| kind(reply) != "ok");
            if is_refused || at + 1 == streams.len() {
                self.all(&[asks::unmap(RING), asks::unref(RING), asks::unref(PAGES), asks::close(ctx)])?;
                ctx = 0;
            }
            refused += usize::from(is_refused);
        }
        Ok(refused)
    }

    /// The device is as it was: it says what its heads are and shows the guest's own image, and the child lives or was counted.
    pub fn is_well(&mut self) -> Result<()> {
        const ID: u32 = 90;
        let frames = self.stats.frames.get();
        self.must(&[
            asks::display_info(),
            asks::create_2d(ID, 8, 8),
            asks::scanout(0, ID, 8, 8),
            asks::flush(ID, 8, 8),
            asks::scanout(0, 0, 0, 0),
            asks::unref(ID),
        ])?;
        ensure!(self.stats.frames.get() > frames, "A flush was not shown");
        ensure!(self.stats.panics.get() == 0, "The device panicked");
        self.until("The count of a dead child", |host| {
            let alive = [Kind::Gl, Kind::Vk].map(|kind| host.children.alive(kind).len() as u64).iter().sum::<u64>();
            host.stats.renderer_deaths.get() + alive >= host.children.started()
        })
    }

    /// A new context of OpenGL draws, and what it drew is read back.
    pub fn draws(&mut self) -> Result<()> {
        let ctx = self.fresh();
        let colour = [ctx % 7, ctx % 5, ctx % 3].map(|part| part as f32 / 8.0);
        let scene = Stream::new().clear(1, IMAGE, [colour[0], colour[1], colour[2], 1.0]);
        self.must(&virgl_set_up(ctx))?;
        self.guest.write(SCRATCH, &vec![0xee; (SIDE * SIDE * 4) as usize]);
        self.must(&[
            asks::submit(ctx, &scene.0).fenced(1),
            asks::from_host(ctx, IMAGE, [0, 0, 0, SIDE, SIDE, 1], 0, [0; 3]).fenced(2),
            asks::unref(IMAGE),
            asks::unref(BUFFER),
            asks::close(ctx),
        ])?;
        let pixels = self.guest.read(SCRATCH, (SIDE * SIDE * 4) as usize);
        let [red, green, blue] = colour.map(|part| (part * 255.0).round() as i32);
        for pixel in pixels.as_chunks::<4>().0 {
            let near =
                [(0, blue), (1, green), (2, red)].iter().all(|(at, want)| (i32::from(pixel[*at]) - want).abs() <= 1);
            ensure!(near, "{pixel:?} where {red} {green} {blue} was drawn");
        }
        Ok(())
    }

    /// What a context reads of a buffer that the library keeps in memory of its own and that nobody has written.
    pub fn reads_unwritten(&mut self, len: u32) -> Result<Vec<u8>> {
        const ID: u32 = 110;
        const CUSTOM: u32 = 1 << 17;
        let ctx = self.fresh();
        self.guest.write(SCRATCH, &vec![0xee; len as usize]);
        self.must(&[
            asks::open(ctx, 2),
            asks::create_3d(ID, [0, 64, CUSTOM, len, 1, 1, 1, 0, 0, 0]),
            asks::attach(ID, SCRATCH, len),
            asks::join(ctx, ID),
            asks::from_host(ctx, ID, [0, 0, 0, len, 1, 1], 0, [0; 3]).fenced(1),
            asks::unref(ID),
            asks::close(ctx),
        ])?;
        Ok(self.guest.read(SCRATCH, len as usize))
    }

    /// The process is killed or stopped at some moment of a context's work, and all of it is answered.
    pub fn dies_at_work(&mut self, signal: Signal, moment: u64) -> Result<()> {
        let ctx = self.fresh();
        let mut asks = virgl_set_up(ctx);
        for fence in 0..30 {
            let scene = Stream::new().clear(1, IMAGE, [0.5; 4]);
            asks.push(asks::submit(ctx, &scene.0).fenced(fence));
            asks.push(asks::from_host(ctx, IMAGE, [0, 0, 0, SIDE, SIDE, 1], 0, [0; 3]).fenced(100 + fence));
        }
        let deaths = self.stats.renderer_deaths.get();
        let sent = self.send(&asks)?;
        // The one before may be about to end: that it is gone was known by its socket.
        self.until("One process", |host| host.children.alive(Kind::Gl).len() == 1)?;
        (0..moment).for_each(|_| self.turn());
        let now = self.stats.renderer_deaths.get();
        ensure!(now == deaths, "A process ended by itself, or made no progress for too long");
        let signalled = self.children.signal(Kind::Gl, signal);
        ensure!(signalled == 1, "{signalled} processes where one drew");
        // The signal is one thread's at first, which may have to wait for a processor; the others go on until it has it.
        if signal == Signal::STOP {
            self.until("A process that stands still", |host| {
                host.children.alive(Kind::Gl).into_iter().all(stands_still)
            })?;
        }
        // A stopped one counts as dead only while there is something that it does not do.
        asks.push(asks::submit(ctx, &[0]).fenced(999));
        let last = self.send(&asks[asks.len() - 1..])?;
        self.wait(&asks, [sent, last].concat())?;
        self.until("The count of a death", |host| host.stats.renderer_deaths.get() > deaths)?;
        self.all(&[asks::unref(IMAGE), asks::unref(BUFFER), asks::close(ctx)])?;
        Ok(())
    }

    /// A new context of Vulkan has memory that it and the guest share.
    pub fn shares(&mut self) -> Result<()> {
        let ctx = self.fresh();
        self.must(&[
            asks::open(ctx, VENUS),
            asks::mappable(ctx, RING, RING_BYTES),
            asks::map(RING, 0),
            asks::join(ctx, RING),
        ])?;
        self.guest.window().write(1, 100, b"shared").context("A blob that is not mapped")?;
        ensure!(self.guest.window().read(1, 100, 6).as_deref() == Some(&b"shared"[..]));
        self.must(&[asks::unmap(RING), asks::unref(RING), asks::close(ctx)])?;
        Ok(())
    }
}

/// Whether each thread of a process is stopped, or the process is gone.
fn stands_still(process: Pid) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    // Behind the name, which may hold anything, comes the state.
    let stands = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok()).all(stands)
}

/// A context with an image and a buffer, each with pages.
pub fn virgl_set_up(ctx: u32) -> Vec<Ask> {
    const VERTICES: u32 = 1 << 4;
    vec![
        asks::open(ctx, 2),
        asks::create_3d(IMAGE, [2, 1, 2 | 8 | 1 << 18, SIDE, SIDE, 1, 1, 0, 0, 0]),
        asks::attach(IMAGE, SCRATCH, SIDE * SIDE * 4),
        asks::create_3d(BUFFER, [0, 64, VERTICES, 4096, 1, 1, 1, 0, 0, 0]),
        asks::attach(BUFFER, SCRATCH + (1 << 20), 4096),
        asks::join(ctx, IMAGE),
        asks::join(ctx, BUFFER),
    ]
}

/// Images of which the pages are too few, and none.
fn odd_set_up(ctx: u32) -> Vec<Ask> {
    let image = |resource| asks::create_3d(resource, [2, 1, 2 | 8, SIDE, SIDE, 1, 1, 0, 0, 0]);
    vec![
        image(SHORT),
        asks::attach(SHORT, SCRATCH + (2 << 20), 256),
        image(BARE),
        asks::join(ctx, SHORT),
        asks::join(ctx, BARE),
    ]
}
