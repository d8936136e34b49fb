//! A guest that is stopped while its GPU owes it an answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use device::gpu::{Gpu as VirtioGpu, GpuOptions};
use device::{Pages, Pixels, Progress, Rendered, Renderer, ResourceDesc, Stats, Ticket, Transfer};
use display::VhostUserGpu;
use protocol::{MemEntry, ReplyError, ResourceId};
use renderer::Soft;
use rustix::event::{EventfdFlags, eventfd};
use serde_json::json;
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::{Config, Draw, Gpu, Guest, workspace};
use transport::vhost_user::{Endpoint, Options, ServeError, Server};

/// Answers that wait until they are let go.
struct Hold {
    state: Mutex<State>,
    /// Readable when they are let go.
    wake: OwnedFd,
}

#[derive(Default)]
struct State {
    holds: bool,
    waiting: Vec<Rendered>,
}

impl Hold {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on no transfer is answered. Waits until an answer is owed.
    fn close(&self) -> Result<()> {
        self.lock().holds = true;
        wait_until(PATIENCE, "the guest to wait for an answer", || Ok((!self.lock().waiting.is_empty()).then_some(())))
    }

    fn open(&self) -> Result<()> {
        self.lock().holds = false;
        rustix::io::write(&self.wake, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

/// The software renderer, with its answers to transfers held.
struct Held {
    soft: Soft,
    hold: Arc<Hold>,
}

impl Renderer for Held {
    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: ResourceDesc) -> Progress {
        self.soft.create(ticket, resource, desc)
    }

    fn destroy(&mut self, resource: ResourceId) {
        self.soft.destroy(resource);
    }

    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress {
        self.soft.attach(ticket, resource, entries)
    }

    fn detach(&mut self, ticket: Ticket, resource: ResourceId) -> Progress {
        self.soft.detach(ticket, resource)
    }

    fn transfer_to_host(&mut self, ticket: Ticket, id: ResourceId, transfer: Transfer, pages: &Pages<'_>) -> Progress {
        let progress = self.soft.transfer_to_host(ticket, id, transfer, pages);
        let mut state = self.hold.lock();
        match progress {
            Progress::Done(result) if state.holds => {
                state.waiting.push(Rendered { ticket, result });
                Progress::Later
            }
            progress => progress,
        }
    }

    fn pixels(&mut self, resource: ResourceId, shared: bool) -> Option<Pixels<'_>> {
        self.soft.pixels(resource, shared)
    }

    fn restore(&mut self, resource: ResourceId, pixels: &[u8]) -> Result<(), ReplyError> {
        self.soft.restore(resource, pixels)
    }

    fn reset(&mut self) {
        self.soft.reset();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.hold.wake.as_fd())
    }

    fn poll(&mut self, done: &mut Vec<Rendered>) {
        let mut state = self.hold.lock();
        if !state.holds {
            // Nothing to read is as good.
            let _ = rustix::io::read(&self.hold.wake, &mut [0; 8]);
            done.append(&mut state.waiting);
        }
    }
}

/// A device like `beamsplit-device`, but in this process, so that a test holds its renderer.
struct HeldDevice {
    hold: Arc<Hold>,
    stats: Arc<Stats>,
    stop: OwnedFd,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    dir: tempfile::TempDir,
}

impl HeldDevice {
    fn start() -> Result<Self> {
        let dir = workspace::scratch("held-")?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let hold = Arc::new(Hold { state: Mutex::default(), wake });
        let stats = Arc::new(Stats::default());
        let window = VhostUserGpu::new(stats.clone())?;
        let side_sockets = window.socket_sender();
        let renderer = Held { soft: Soft::new(), hold: hold.clone() };
        let gpu = VirtioGpu::new(GpuOptions::default(), Box::new(renderer), Box::new(window), stats.clone());
        let stop = eventfd(0, EventfdFlags::CLOEXEC)?;
        let options = Options {
            on_gpu_socket: Box::new(move |socket| side_sockets.send(socket)),
            stats: Some(stats.clone()),
            stop: Some(stop.try_clone()?),
            ..Options::default()
        };
        let endpoint = Endpoint::Listener(UnixListener::bind(socket(dir.path()))?);
        let server = Server::prepare(endpoint, Box::new(gpu), options)?;
        let thread = Some(std::thread::spawn(move || server.run()));
        Ok(HeldDevice { hold, stats, stop, thread, dir })
    }
}

impl Drop for HeldDevice {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        let served = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(served, Some(Ok(Ok(())))), "The device did not go on to its end");
        }
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("gpu")
}

fn wait_until_moving(guest: &mut Guest) -> Result<()> {
    let before = guest.screen()?;
    wait_until(PATIENCE, "the picture to move", || Ok((guest.screen()? != before).then_some(())))
}

#[test]
fn a_guest_that_is_stopped_while_it_waits_for_an_answer_goes_on_drawing() -> Result<()> {
    let device = HeldDevice::start()?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::VhostUserGpu(socket(device.dir.path()))))?;
    guest.draw(Draw::Animate)?;
    wait_until_moving(&mut guest)?;

    // The answer never comes while it is stopped, and comes when nobody waits for it any more.
    device.hold.close()?;
    guest.qmp("stop", json!({}))?;
    ensure!(guest.qmp("query-status", json!({}))?["status"] == "paused", "The guest is not stopped");
    device.hold.open()?;
    guest.qmp("cont", json!({}))?;
    wait_until_moving(&mut guest)?;

    // It comes after the guest went on, which waits for another one by then.
    device.hold.close()?;
    guest.qmp("stop", json!({}))?;
    guest.qmp("cont", json!({}))?;
    let owed = device.hold.lock().waiting.len();
    wait_until(PATIENCE, "the guest to ask again", || Ok((device.hold.lock().waiting.len() > owed).then_some(())))?;
    device.hold.open()?;
    wait_until_moving(&mut guest)?;

    let shown = guest.show(0, 1280, 800)?;
    guest.assert_shows(0, &shown)?;
    let stats = device.stats.snapshot();
    ensure!(stats.parked > 2 && stats.panics == 0, "{stats:?}");
    let errors = stats.errors;
    ensure!(errors > 0, "Nothing that was owed was given up");
    let log = guest.run("dmesg")?.text();
    let failed = log.matches("*ERROR* response").count();
    ensure!(failed as u64 == errors, "The guest saw {failed} errors of {errors}:\n{log}");
    guest.qemu().is_running().then_some(()).context("QEMU ended")?;
    guest.power_off()
}
