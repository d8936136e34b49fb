//! The end of a device, or of its guest: the last picture is kept, and the process ends as it was asked to.

#![allow(clippy::unwrap_used)] // A test that cannot go on ends.

mod support;

use std::fs::File;
use std::io::BufReader;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bench::frontend::{Channel, FrontEnd, Kind, Options, command};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use support::{Device, PROGRAM};

const SIDE: u32 = 64;
const WHOLE: [u32; 4] = [0, 0, SIDE, SIDE];

/// A guest that draws one picture after another, faster than they are written.
struct Guest {
    front_end: FrontEnd,
    backing: u64,
}

impl Guest {
    /// Its picture is in its own memory (a blob), or in the device's (an image).
    fn new(socket: UnixStream, blob: bool) -> Self {
        let options = Options::new(Kind::Generic);
        let mut front_end = FrontEnd::over(Channel::new(socket, options.patience).unwrap(), options).unwrap();
        front_end.negotiate().unwrap();
        assert!(front_end.start().unwrap().is_none());
        let bytes = SIDE * SIDE * 4;
        let backing = front_end.memory().allocate(bytes.into(), 4096).unwrap();
        let mut guest = Self { front_end, backing };
        match blob {
            true => {
                // RESOURCE_CREATE_BLOB of guest memory, SET_SCANOUT_BLOB.
                let [low, high] = [backing as u32, (backing >> 32) as u32];
                let create = command::Command::new(0x010c).words(&[1, 1, 0, 1, 0, 0, bytes, 0, low, high, bytes, 0]);
                guest.must(&create);
                let format = command::FORMAT_B8G8R8X8;
                let show = command::Command::new(0x010d).words(&WHOLE);
                let stride = SIDE * 4;
                guest.must(&show.words(&[0, 1, SIDE, SIDE, format, 0, stride, 0, 0, 0, 0, 0, 0, 0]));
            }
            false => {
                guest.must(&command::create_2d(1, command::FORMAT_B8G8R8X8, SIDE, SIDE));
                guest.must(&command::attach_backing(1, &[(backing, bytes)]));
                guest.must(&command::set_scanout(0, 1, WHOLE));
            }
        }
        // The second is drawn long before the file of the first may be replaced.
        for shade in [1, 2] {
            guest.front_end.memory().write(backing, &[shade, shade, shade, 0].repeat((SIDE * SIDE) as usize)).unwrap();
            if !blob {
                guest.must(&command::transfer_to_host_2d(1, WHOLE, 0));
            }
            guest.must(&command::flush(1, WHOLE));
        }
        guest
    }

    fn must(&mut self, command: &command::Command) {
        let reply = self.front_end.command(command).unwrap();
        assert_eq!(reply.kind(), command::RESP_OK_NODATA);
    }
}

/// The shade of a picture, if it is there.
fn shade(file: &Path) -> Option<u8> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(file).ok()?)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    assert!(pixels.iter().all(|byte| *byte == pixels[0]));
    Some(pixels[0])
}

fn wait_for_shade(file: &Path, expected: u8) {
    let waited = (0..6000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        shade(file) == Some(expected)
    });
    assert!(waited, "{:?} is shown", shade(file));
}

fn capturing(words: &[&str]) -> (Device, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("screen.png");
    let capture = format!("--display=capture={}", file.display());
    let socket = format!("--socket-path={}", folder.path().join("gpu").display());
    let device = Device::start(Path::new(PROGRAM), folder, &[&[socket.as_str(), &capture], words].concat());
    (device, file)
}

fn connect(device: &Device) -> UnixStream {
    // The socket for questions, which was waited for, is made first.
    loop {
        match UnixStream::connect(device.folder.path().join("gpu")) {
            Ok(socket) => return socket,
            Err(_) => std::thread::yield_now(),
        }
    }
}

#[test]
fn a_device_that_is_asked_to_end_writes_the_last_picture_and_ends_with_code_0() {
    for (signal, blob) in [(Signal::TERM, false), (Signal::INT, true)] {
        let (mut device, file) = capturing(&[]);
        let _guest = Guest::new(connect(&device), blob);
        kill_process(Pid::from_child(&device.process), signal).unwrap();
        assert_eq!(device.process.wait().unwrap().code(), Some(0), "{signal:?}");
        assert_eq!(shade(&file), Some(2));
    }
}

#[test]
fn a_device_without_a_guest_ends_when_it_is_asked_to() {
    let mut device = Device::listening(&[]);
    kill_process(Pid::from_child(&device.process), Signal::TERM).unwrap();
    assert_eq!(device.process.wait().unwrap().code(), Some(0));
}

#[test]
fn a_device_that_may_takes_its_sockets_along() {
    let (mut device, _) = capturing(&["--sandbox=off"]);
    let sockets = ["gpu", "control"].map(|name| device.folder.path().join(name));
    assert!(sockets.iter().all(|socket| socket.exists()));
    kill_process(Pid::from_child(&device.process), Signal::TERM).unwrap();
    assert_eq!(device.process.wait().unwrap().code(), Some(0));
    assert!(!sockets.iter().any(|socket| socket.exists()));
}

#[test]
fn the_last_picture_of_a_vm_that_is_gone_is_kept() {
    for blob in [false, true] {
        let (device, file) = capturing(&[]);
        drop(Guest::new(connect(&device), blob));
        wait_for_shade(&file, 2);
    }
}

#[test]
fn the_last_picture_of_a_head_that_went_off_is_kept() {
    for blob in [false, true] {
        let (device, file) = capturing(&[]);
        let mut guest = Guest::new(connect(&device), blob);
        guest.must(&command::set_scanout(0, 0, WHOLE));
        wait_for_shade(&file, 2);
        // Its memory is another boot's.
        guest.front_end.memory().write(guest.backing, &[9; 4]).unwrap();
        assert_eq!(shade(&file), Some(2));
    }
}

#[test]
fn a_device_with_a_passed_socket_ends_with_its_vm_and_keeps_the_last_picture() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = OwnedFd::from(theirs);
    fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("screen.png");
    let words = [format!("--fd={}", theirs.as_raw_fd()), format!("--display=capture={}", file.display())];
    let mut device = Device::start(Path::new(PROGRAM), folder, &[&words[0], &words[1]]);
    drop(theirs);
    drop(Guest::new(ours, true));
    assert_eq!(device.process.wait().unwrap().code(), Some(0));
    assert_eq!(shade(&file), Some(2));
}
