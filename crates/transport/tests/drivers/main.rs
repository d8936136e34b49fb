//! Drivers that others wrote, crate `virtio-drivers`, over the registers and rings of a PCI function: a second opinion on what
//! a driver may expect.

#![allow(clippy::unwrap_used)] // It is all test, also where no function says so.

mod hal;
#[allow(dead_code)]
mod pci;
#[allow(dead_code)]
#[path = "../../src/vfio_user/tests/vmm.rs"]
mod vmm;

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use device::vga::{Vga, VgaOptions};
use device::{
    Cursor, Desktop, Display, Frame, Gpu, GpuOptions, Input, InputKind, InputOptions, InputSource, InputStats, Leds,
    SourceEvent, Stats, VirtioDevice,
};
use protocol::edid::Mode;
use protocol::{Rect, ScanoutId};
use renderer::Soft;
use rustix::event::{EventfdFlags, eventfd};
use transport::serve::{Endpoint, ServeError};
use transport::vfio_user::pci::{Model, Shape};
use transport::vfio_user::{Options, Server};
use virtio_drivers::device::gpu::VirtIOGpu;
use virtio_drivers::device::input::{InputConfigSelect, VirtIOInput};
use virtio_drivers::transport::{DeviceType, InterruptStatus, Transport};

use hal::SharedMemory;
use pci::Function;

/// What head 0 shows, and the pointer.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    size: Option<(u32, u32)>,
    pixels: Vec<u8>,
    pointer: Option<(u32, u32, Vec<u8>)>,
}

fn rows(frame: &Frame<'_>) -> Vec<u8> {
    let mut pixels = vec![0; frame.width as usize * frame.height as usize * 4];
    for (row, bytes) in pixels.chunks_exact_mut(frame.width as usize * 4).enumerate() {
        frame.read_row(&frame.rect(), row as u32, bytes);
    }
    pixels
}

impl Display for Screen {
    fn set_scanout(&mut self, _scanout: ScanoutId, frame: Option<&Frame<'_>>) {
        self.0.lock().unwrap().size = frame.map(|frame| (frame.width, frame.height));
    }

    fn flush(&mut self, _scanout: ScanoutId, frame: &Frame<'_>, _damage: Rect) {
        self.0.lock().unwrap().pixels = rows(frame);
    }

    fn cursor(&mut self, cursor: &Cursor<'_>) {
        self.0.lock().unwrap().pointer = cursor.image.as_ref().map(|image| (cursor.x, cursor.y, rows(image)));
    }

    fn move_cursor(&mut self, _scanout: ScanoutId, x: u32, y: u32) {
        if let Some(pointer) = &mut self.0.lock().unwrap().pointer {
            (pointer.0, pointer.1) = (x, y);
        }
    }
}

/// A server for one VMM, and the function as its guest sees it.
fn serve(device: Box<dyn VirtioDevice>, shape: Shape, vga: Option<device::vga::VgaPort>) -> (Function, Ended) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = Server::prepare(Endpoint::Connection(theirs), device, shape, vga, None, Options::default()).unwrap();
    let thread = std::thread::spawn(|| server.run());
    (Function::realize(ours), Ended(Some(thread)))
}

/// The server ends by itself once the VMM is gone.
struct Ended(Option<JoinHandle<Result<(), ServeError>>>);

impl Drop for Ended {
    fn drop(&mut self) {
        if !std::thread::panicking()
            && let Some(thread) = self.0.take()
        {
            thread.join().unwrap().unwrap();
        }
    }
}

#[test]
fn a_gpu_is_found_set_up_and_drawn_on() {
    for (model, pio) in [(Model::Vga, true), (Model::Vga, false), (Model::Virtio, true)] {
        let screen = Screen::default();
        let heads = vec![Mode { width: 320, height: 200, refresh: 60 }];
        let options = GpuOptions { heads, edid: None, memory: 64 << 20 };
        let gpu = Gpu::new(options, Box::new(Soft::new()), Box::new(screen.clone()), Arc::new(Stats::default()));
        let (gpu, port) = match model {
            Model::Vga => {
                let (vga, port) = Vga::new(VgaOptions::default()).unwrap();
                (gpu.with_boot(vga), Some(port))
            }
            _ => (gpu, None),
        };
        let (function, ended) = serve(Box::new(gpu), Shape { model, msix: true, pio }, port);
        assert_eq!(function.device_type(), DeviceType::GPU);
        let mut driver = VirtIOGpu::<SharedMemory, _>::new(function).unwrap();
        assert_eq!(driver.resolution().unwrap(), (320, 200));
        assert_eq!(driver.edid_preferred_resolution().unwrap(), (320, 200));
        for round in 0..3u8 {
            let picture: Vec<u8> = (0..320 * 200 * 4).map(|at: u32| (at % 251) as u8 ^ round).collect();
            driver.setup_framebuffer().unwrap()[..picture.len()].copy_from_slice(&picture);
            driver.flush().unwrap();
            let seen = screen.0.lock().unwrap();
            assert_eq!(seen.size, Some((320, 200)));
            assert!(seen.pixels == picture, "round {round} of {model:?}: another picture");
        }
        // As many interrupts as there were, which it does not wait for: it has no vector.
        assert!(driver.ack_interrupt().contains(InterruptStatus::QUEUE_INTERRUPT));
        assert!(driver.ack_interrupt().is_empty());
        let pointer: Vec<u8> = (0..64 * 64 * 4).map(|at: u32| (at % 253) as u8).collect();
        driver.setup_cursor(&pointer, 10, 20, 1, 2).unwrap();
        assert!(screen.0.lock().unwrap().pointer == Some((10, 20, pointer.clone())));
        driver.move_cursor(30, 40).unwrap();
        assert!(screen.0.lock().unwrap().pointer == Some((30, 40, pointer)));
        driver.change_resolution(640, 480).unwrap().fill(0x55);
        driver.flush().unwrap();
        let seen = screen.0.lock().unwrap();
        assert_eq!((seen.size, seen.pixels.len()), (Some((640, 480)), 640 * 480 * 4));
        assert!(seen.pixels.iter().all(|byte| *byte == 0x55));
        drop(seen);
        drop(driver);
        drop(ended);
    }
}

/// Somebody at the keyboard.
#[derive(Clone)]
struct Hand(Arc<(Mutex<VecDeque<SourceEvent>>, OwnedFd)>);

impl InputSource for Hand {
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.0.1.as_fd()
    }

    fn poll(&mut self, events: &mut Vec<SourceEvent>) {
        let _ = rustix::io::read(&self.0.1, &mut [0; 8]);
        events.extend(self.0.0.lock().unwrap().drain(..));
    }

    fn leds(&mut self, _leds: Leds) {}
}

#[test]
fn keys_arrive_through_the_input_function() {
    let hand = Hand(Arc::new((Mutex::default(), eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())));
    let options = InputOptions { name: "Beamsplit".into(), serial: "7".into(), kind: InputKind::Console };
    let input =
        Input::new(options, Box::new(hand.clone()), Arc::new(Desktop::default()), Arc::new(InputStats::default()));
    let (function, _ended) = serve(Box::new(input), Shape { model: Model::Input, msix: true, pio: false }, None);
    assert_eq!(function.device_type(), DeviceType::Input);
    let mut driver = VirtIOInput::<SharedMemory, _>::new(function).unwrap();
    assert_eq!((driver.name().unwrap(), driver.serial_number().unwrap()), ("Beamsplit".into(), "7".into()));
    let mut bits = [0; 128];
    let len = driver.query_config_select(InputConfigSelect::EvBits, 1, &mut bits).unwrap();
    assert!(len > 4 && bits[30 / 8] >> (30 % 8) & 1 == 1, "no key A");
    assert_eq!(driver.abs_info(0).unwrap().max, 32767);
    for round in 0..100 {
        let pressed = round % 2 == 0;
        hand.0.0.lock().unwrap().push_back(SourceEvent::Key { code: 30, pressed });
        rustix::io::write(&hand.0.1, &1u64.to_ne_bytes()).unwrap();
        let mut next = || {
            loop {
                match driver.pop_pending_event() {
                    Some(event) => return (event.event_type, event.code, event.value),
                    None => std::thread::yield_now(),
                }
            }
        };
        assert_eq!((next(), next()), ((1, 30, pressed.into()), (0, 0, 0)));
    }
}
