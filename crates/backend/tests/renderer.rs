//! 3D drawn by this host's own library, in a process of its own that is locked in: what is drawn arrives, and its end costs the
//! guest what was in it, and nothing else.

#![allow(clippy::unwrap_used)] // A test that cannot go on ends.

mod support;

use std::os::unix::net::UnixStream;
use std::path::Path;

use bench::frontend::command::{self, Command};
use bench::frontend::{Channel, FrontEnd, Kind, Options};
use protocol::ResourceId;
use renderer::virgl::stream;
use rustix::process::{Pid, Signal, kill_process};
use support::Device;

const SIDE: u32 = 16;
const BYTES: u32 = SIDE * SIDE * 4;
const VIRGL: u64 = 1;

/// A guest that draws in 3D.
struct Guest {
    front_end: FrontEnd,
    fences: u64,
}

impl Guest {
    fn new(device: &Device) -> Self {
        let socket = UnixStream::connect(device.folder.path().join("gpu")).unwrap();
        let mut options = Options::new(Kind::Generic);
        options.features |= VIRGL;
        let mut front_end = FrontEnd::over(Channel::new(socket, options.patience).unwrap(), options).unwrap();
        front_end.negotiate().unwrap();
        assert!(front_end.start().unwrap().is_none());
        Guest { front_end, fences: 0 }
    }

    fn answer(&mut self, command: &Command) -> u32 {
        self.front_end.command(command).unwrap().kind()
    }

    fn must(&mut self, command: &Command) {
        assert_eq!(self.answer(command), command::RESP_OK_NODATA, "{:x?}", command.as_bytes());
    }

    fn fence(&mut self) -> u64 {
        self.fences += 1;
        self.fences
    }

    /// CTX_CREATE, with no work yet.
    fn open(&mut self, context: u32) {
        let create = Command::new(0x200).context(context).words(&[4, 0]).bytes(b"test").bytes(&[0; 60]);
        self.must(&create);
    }

    /// SUBMIT_3D, answered when it is done.
    fn submit(&mut self, context: u32, stream: &[u8]) -> u32 {
        let fence = self.fence();
        let size = stream.len() as u32;
        self.answer(&Command::new(0x207).context(context).fence(fence).words(&[size, 0]).bytes(stream))
    }

    /// A colour (blue, green, red, alpha) that the library drew into an image of this context.
    fn draw(&mut self, context: u32, image: u32, color: [f32; 4]) -> [u8; 4] {
        let backing = self.front_end.memory().allocate(BYTES.into(), 4096).unwrap();
        let bind = stream::RENDER_TARGET | stream::SAMPLED;
        let words = [image, stream::TEXTURE_2D, stream::BGRA, bind, SIDE, SIDE, 1, 1, 0, 0, 0, 0];
        self.must(&Command::new(0x204).context(context).words(&words));
        self.must(&command::attach_backing(image, &[(backing, BYTES)]));
        self.must(&Command::new(0x202).context(context).words(&[image, 0]));
        let clear = stream::clear(ResourceId(image), 1, color);
        assert_eq!(self.submit(context, &clear), command::RESP_OK_NODATA);
        let fence = self.fence();
        let read = Command::new(0x206).context(context).fence(fence).words(&[0, 0, 0, SIDE, SIDE, 1, 0, 0]);
        self.must(&read.words(&[image, 0, SIDE * 4, 0]));
        let pixels = self.front_end.memory().read_vec(backing, BYTES as usize).unwrap();
        assert!(pixels.chunks(4).all(|pixel| pixel == &pixels[..4]), "{:?}", &pixels[..16]);
        pixels[..4].try_into().unwrap()
    }
}

/// A device that has OpenGL, where this host has a library.
fn drawing(words: &[&str]) -> Option<Device> {
    let words = [&["--display=none", "--renderer=virgl", "--capsets=virgl,virgl2"], words].concat();
    let folder = tempfile::tempdir().unwrap();
    if support::run(&["--print-capabilities"]).stdout.windows(7).all(|word| word != b"\"virgl\"") {
        eprintln!("Not tried: this host has no libvirglrenderer");
        return None;
    }
    let socket = format!("--socket-path={}", folder.path().join("gpu").display());
    Some(Device::start(Path::new(support::PROGRAM), folder, &[&[socket.as_str()], words.as_slice()].concat()))
}

fn pid(device: &Device) -> Option<u64> {
    device.stats()["renderer"]["gl"]["pid"].as_u64()
}

#[test]
fn a_process_draws_is_locked_in_and_another_takes_its_place() {
    for sandbox in ["--sandbox=on", "--sandbox=off"] {
        let Some(device) = drawing(&[sandbox]) else { return };
        let mut guest = Guest::new(&device);
        guest.open(1);
        let said = device.stats();
        assert_eq!(said["renderer"]["capsets"], serde_json::json!(["virgl", "virgl2"]));
        assert_eq!(said["renderer"]["gl"]["starts"], 0, "A context without work needs no process");

        assert_eq!(guest.draw(1, 1, [1.0, 0.0, 0.0, 1.0]), [0, 0, 255, 255]);
        let first = pid(&device).unwrap();
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{first}/{name}")).unwrap();
        if sandbox == "--sandbox=on" {
            let status = read("status");
            for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
                assert!(status.contains(line), "{line}: {status}");
            }
        }
        assert!(!read("environ").contains("CARGO"), "What is meant for others is not passed on");

        kill_process(Pid::from_raw(first as i32).unwrap(), Signal::KILL).unwrap();
        // What was in it is lost, whenever that is found out; what is new is drawn by another.
        while guest.submit(1, &stream::nothing()) == command::RESP_OK_NODATA {
            std::thread::yield_now();
        }
        guest.open(2);
        assert_eq!(guest.draw(2, 2, [0.0, 0.0, 1.0, 1.0]), [255, 0, 0, 255]);
        let life = device.stats()["renderer"]["gl"].clone();
        assert_eq!((&life["starts"], &life["ends"]), (&2.into(), &1.into()), "{life}");
        assert_eq!(life["last_end"], "killed by signal 9");
        assert_ne!(pid(&device), Some(first));
    }
}

#[test]
fn what_draws_ends_with_the_device() {
    let Some(mut device) = drawing(&[]) else { return };
    let mut guest = Guest::new(&device);
    guest.open(1);
    guest.draw(1, 1, [0.0; 4]);
    let process = Pid::from_raw(pid(&device).unwrap() as i32).unwrap();
    let watch = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).unwrap();
    device.process.kill().unwrap();
    let mut fds = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, None).unwrap();
}

#[test]
fn what_was_named_and_is_not_there_is_told_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("--socket-path={}", folder.path().join("gpu").display());
    for (words, named) in [
        (&["--virglrenderer=/nonexistent.so"][..], "--virglrenderer /nonexistent.so"),
        (&["--render-server=/nonexistent"], "--render-server /nonexistent"),
        (&["--render-node=/dev/dri/renderD999"], "render node /dev/dri/renderD999"),
        (&["--capsets=drm"], "--capsets drm"),
    ] {
        let output = support::run(&[&[socket.as_str(), "--renderer=virgl"], words].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(named) && text.lines().count() == 1, "{text}");
    }
    assert!(!folder.path().join("gpu").exists());
}
