//! A server on a thread of its own, with a device of any kind.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use device::vga::{Vga, VgaOptions, VgaPort};
use device::{Cursor, Display, DisplayEvent, Frame, Gpu, GpuOptions, Stats, VirtioDevice};
use protocol::edid::Mode;
use protocol::{Rect, ScanoutId};
use renderer::Soft;
use rustix::event::{EventfdFlags, eventfd};

use super::super::pci::{Model, Shape};
use super::super::rom::Rom;
use super::super::{Options, Server};
use super::vmm::Vmm;
use crate::fake::{Fake, Shared};
use crate::serve::{Endpoint, ServeError};

/// Where a device's picture goes.
#[derive(Clone)]
pub struct Stage(Arc<(Mutex<Shown>, OwnedFd)>);

#[derive(Default)]
pub struct Shown {
    /// Size and pixels of head 0.
    pub picture: Option<(u32, u32, Vec<u8>)>,
    pub flushes: u64,
    events: Vec<DisplayEvent>,
}

impl Stage {
    fn new() -> Self {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        Self(Arc::new((Mutex::default(), wake)))
    }

    /// Somebody wants head 0 in another size.
    pub fn resize(&self, width: u32, height: u32) {
        let resize = DisplayEvent::Resize { scanout: ScanoutId(0), width, height };
        self.shown(|shown| shown.events.push(resize));
        rustix::io::write(&self.0.1, &1u64.to_ne_bytes()).unwrap();
    }

    pub fn shown<T>(&self, look: impl FnOnce(&mut Shown) -> T) -> T {
        look(&mut self.0.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}

impl Display for Stage {
    fn set_scanout(&mut self, scanout: ScanoutId, frame: Option<&Frame<'_>>) {
        if scanout.0 == 0 {
            let picture = frame.map(|frame| (frame.width, frame.height, pixels(frame)));
            self.shown(|shown| shown.picture = picture);
        }
    }

    fn flush(&mut self, scanout: ScanoutId, frame: &Frame<'_>, damage: Rect) {
        assert!(u64::from(damage.x) + u64::from(damage.width) <= u64::from(frame.width));
        assert!(u64::from(damage.y) + u64::from(damage.height) <= u64::from(frame.height));
        self.shown(|shown| shown.flushes += 1);
        self.set_scanout(scanout, Some(frame));
    }

    fn cursor(&mut self, _cursor: &Cursor<'_>) {}

    fn move_cursor(&mut self, _scanout: ScanoutId, _x: u32, _y: u32) {}

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.1.as_fd())
    }

    fn poll(&mut self, _now: Instant, events: &mut Vec<DisplayEvent>) {
        let _ = rustix::io::read(&self.0.1, &mut [0; 8]);
        self.shown(|shown| events.append(&mut shown.events));
    }
}

fn pixels(frame: &Frame<'_>) -> Vec<u8> {
    let mut pixels = Vec::new();
    for row in 0..frame.height {
        let mut bytes = vec![0; frame.width as usize * 4];
        frame.read_row(&frame.rect(), row, &mut bytes);
        pixels.append(&mut bytes);
    }
    pixels
}

/// A virtio-gpu with images of its own and, for the models that have one, a boot display.
pub fn gpu(model: Model) -> (Gpu, Option<VgaPort>, Stage, Arc<Stats>) {
    let heads = vec![Mode { width: 800, height: 600, refresh: 60 }];
    let stage = Stage::new();
    let stats = Arc::new(Stats::default());
    let options = GpuOptions { heads, edid: None, memory: 256 << 20 };
    let gpu = Gpu::new(options, Box::new(Soft::new()), Box::new(stage.clone()), stats.clone());
    let virtio = match model {
        Model::Vga => true,
        Model::Bochs => false,
        Model::Virtio | Model::Input => return (gpu, None, stage, stats),
    };
    let (vga, port) = Vga::new(VgaOptions { virtio, ..VgaOptions::default() }).unwrap();
    (gpu.with_boot(vga), Some(port), stage, stats)
}

/// A server whose front-ends come to a path.
pub struct Served {
    pub stats: Arc<Stats>,
    path: tempfile::TempDir,
    stop: OwnedFd,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Served {
    /// With a device that does as it is told.
    pub fn fake() -> (Self, Shared) {
        let (fake, seen) = Fake::new();
        let shape = Shape { model: Model::Virtio, msix: true, pio: true };
        (Self::with(Box::new(fake), shape, None, None, Arc::default()), seen)
    }

    /// With a GPU.
    pub fn gpu(shape: Shape, rom: Option<Rom>) -> (Self, Stage) {
        let (gpu, port, stage, stats) = gpu(shape.model);
        (Self::with(Box::new(gpu), shape, port, rom, stats), stage)
    }

    pub fn with(
        device: Box<dyn VirtioDevice>,
        shape: Shape,
        boot: Option<VgaPort>,
        rom: Option<Rom>,
        stats: Arc<Stats>,
    ) -> Self {
        let path = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Listener(UnixListener::bind(path.path().join("socket")).unwrap());
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let options =
            Options { stats: Some(stats.clone()), stop: Some(stop.try_clone().unwrap()), ..Options::default() };
        let server = Server::prepare(endpoint, device, shape, boot, rom, options).unwrap();
        Self { stats, path, stop, thread: Some(std::thread::spawn(|| server.run())) }
    }

    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path.path().join("socket")).unwrap()
    }

    /// Connected, nothing said.
    pub fn vmm(&self) -> Vmm {
        Vmm::over(self.connect())
    }

    /// Connected, and the version agreed on.
    pub fn greeted(&self) -> Vmm {
        let vmm = self.vmm();
        vmm.version();
        vmm
    }

    pub fn stop(&mut self) {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).unwrap();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}
