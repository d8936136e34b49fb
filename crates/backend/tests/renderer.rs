//! 3D drawn by this host's own library, in a process of its own that is locked in: what is drawn arrives, and its end costs the
//! guest what was in it, and nothing else.

#![allow(clippy::unwrap_used)] // A test that cannot go on ends.

mod support;

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bench::frontend::command;
use bench::frontend::message::request;
use bench::frontend::{Buffer, Channel, Driver, FrontEnd, Kind, Options, PciGuest};
use protocol::ResourceId;
use renderer::virgl::stream;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::Device;

const SIDE: u32 = 16;
const BYTES: u32 = SIDE * SIDE * 4;
const VIRGL: u64 = 1;
const VIRGL2: u32 = 2;
const VENUS: u32 = 4;

/// A guest that draws in 3D.
struct Guest {
    front_end: Box<dyn Driver>,
    fences: u64,
}

impl Guest {
    fn new(device: &Device) -> Self {
        let socket = UnixStream::connect(device.folder.path().join("gpu")).unwrap();
        let mut options = Options::new(Kind::Generic);
        options.features |= VIRGL;
        let mut front_end = FrontEnd::over(Channel::new(socket, options.patience).unwrap(), options).unwrap();
        front_end.negotiate().unwrap();
        // As the generic device does: it maps memory, so its guest may have all of 3D.
        front_end.channel().ask(request::GET_SHMEM_CONFIG, &[], &[]).unwrap();
        assert!(front_end.start().unwrap().is_none());
        Guest { front_end: Box::new(front_end), fences: 0 }
    }

    /// Over vfio-user.
    fn of_a_card(device: &Device) -> Self {
        let socket = UnixStream::connect(device.folder.path().join("gpu")).unwrap();
        let mut options = Options::new(Kind::Generic);
        options.features |= VIRGL;
        let mut front_end = PciGuest::realize(socket, options).unwrap();
        front_end.start(false).unwrap();
        Guest { front_end: Box::new(front_end), fences: 0 }
    }

    fn answer(&mut self, command: &command::Command) -> u32 {
        self.front_end.command(command).unwrap().kind()
    }

    fn must(&mut self, command: &command::Command) {
        assert_eq!(self.answer(command), command::RESP_OK_NODATA, "{:x?}", command.as_bytes());
    }

    fn fence(&mut self) -> u64 {
        self.fences += 1;
        self.fences
    }

    /// CTX_CREATE, with no work yet.
    fn open(&mut self, context: u32, capset: u32) {
        let create = command::Command::new(0x200).context(context).words(&[4, capset]).bytes(b"test").bytes(&[0; 60]);
        self.must(&create);
    }

    /// SUBMIT_3D, answered when it is done.
    fn submit(&mut self, context: u32, stream: &[u8]) -> u32 {
        let fence = self.fence();
        let size = stream.len() as u32;
        self.answer(&command::Command::new(0x207).context(context).fence(fence).words(&[size, 0]).bytes(stream))
    }

    /// A colour (blue, green, red, alpha) that the library drew into an image of this context.
    fn draw(&mut self, context: u32, image: u32, color: [f32; 4]) -> [u8; 4] {
        let backing = self.front_end.memory().allocate(BYTES.into(), 4096).unwrap();
        let bind = stream::RENDER_TARGET | stream::SAMPLED;
        let words = [image, stream::TEXTURE_2D, stream::BGRA, bind, SIDE, SIDE, 1, 1, 0, 0, 0, 0];
        self.must(&command::Command::new(0x204).context(context).words(&words));
        self.must(&command::attach_backing(image, &[(backing, BYTES)]));
        self.must(&command::Command::new(0x202).context(context).words(&[image, 0]));
        let clear = stream::clear(ResourceId(image), 1, color);
        assert_eq!(self.submit(context, &clear), command::RESP_OK_NODATA);
        let fence = self.fence();
        let read = command::Command::new(0x206).context(context).fence(fence).words(&[0, 0, 0, SIDE, SIDE, 1, 0, 0]);
        self.must(&read.words(&[image, 0, SIDE * 4, 0]));
        let pixels = self.front_end.memory().read_vec(backing, BYTES as usize).unwrap();
        assert!(pixels.chunks(4).all(|pixel| pixel == &pixels[..4]), "{:?}", &pixels[..16]);
        pixels[..4].try_into().unwrap()
    }
}

/// Devices that have `capset`: with this host's own library, and with the bed's, as far as there are such. `FOLDER` in a word is
/// the device's own.
fn drawing(capset: &str, words: &[&str]) -> Vec<Device> {
    let places = [Some(Command::new(support::PROGRAM)), support::inside()];
    let has = |place: &mut Command| {
        let folder = tempfile::tempdir().unwrap();
        // Nothing is known yet.
        let output = place.args(["--print-capabilities", "--verbose"]).env("XDG_CACHE_HOME", folder.path()).output();
        let said: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        let offered = said["beamsplit"]["offered"].as_array().unwrap();
        capset.split(',').all(|capset| offered.iter().any(|offered| offered == capset))
    };
    let there: Vec<_> = places.into_iter().map(|mut place| place.as_mut().is_some_and(has)).collect();
    if there == [false, false] {
        assert!(std::env::var_os("CI").is_none(), "No library has {capset}");
        eprintln!("Not tried: no library here has {capset}");
    }
    let places = [Some(Command::new(support::PROGRAM)), support::inside()];
    let places = places.into_iter().zip(there).filter_map(|(place, there)| place.filter(|_| there));
    let start = |mut place: Command| {
        let folder = tempfile::tempdir().unwrap();
        place.env("XDG_CACHE_HOME", folder.path());
        let [socket, capset] =
            [format!("--socket-path={}", folder.path().join("gpu").display()), format!("--capsets={capset}")];
        let own = folder.path().to_str().unwrap();
        let words: Vec<String> = words.iter().map(|word| word.replace("FOLDER", own)).collect();
        let words = words.iter().map(String::as_str);
        let all: Vec<&str> =
            ["--display=none", "--renderer=virgl", &capset, &socket].into_iter().chain(words).collect();
        Device::start_by(place, folder, &all)
    };
    places.map(start).collect()
}

/// What is told of processes of a kind, once it is so: the launcher's word may come later than what it is about.
fn told(device: &Device, kind: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let life = device.stats()["renderer"][kind].take();
        if is_so(&life) {
            return life;
        }
        assert!(Instant::now() < limit, "{life}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pid(device: &Device, kind: &str) -> u64 {
    told(device, kind, |life| life["pid"].is_u64())["pid"].as_u64().unwrap()
}

/// All processes of a group that live: what one started, it ends with. Whoever is dead and was not waited for yet does not count: it may be
/// for the first process of all to do that, which is not in a hurry everywhere.
fn group(leader: u64) -> Vec<u64> {
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let in_it = |pid: &u64| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name, which may have anything in it: state, parent, group.
        let mut rest = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let lives = rest.next().is_some_and(|state| !["Z", "X"].contains(&state));
        lives && rest.nth(1).and_then(|group| group.parse().ok()) == Some(leader)
    };
    processes.filter(in_it).collect()
}

fn wait_until_gone(leader: u64) {
    while !group(leader).is_empty() {
        std::thread::yield_now();
    }
}

fn kill(pid: u64) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
}

fn must_be_locked_in(pid: u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
}

fn must_draw_and_survive(device: &Device, locked_in: bool) {
    let mut guest = Guest::new(device);
    guest.open(1, VIRGL2);
    let said = device.stats();
    assert_eq!(said["renderer"]["capsets"], serde_json::json!(["virgl2"]));
    assert_eq!(said["renderer"]["gl"]["starts"], 0, "A context without work needs no process");

    assert_eq!(guest.draw(1, 1, [1.0, 0.0, 0.0, 1.0]), [0, 0, 255, 255]);
    let first = pid(device, "gl");
    if locked_in {
        must_be_locked_in(first);
    }
    let environ = std::fs::read_to_string(format!("/proc/{first}/environ")).unwrap();
    assert!(!environ.contains("CARGO"), "What is meant for others is not passed on");

    kill(first);
    // What was in it is lost, whenever that is found out; what is new is drawn by another.
    while guest.submit(1, &stream::nothing()) == command::RESP_OK_NODATA {
        std::thread::yield_now();
    }
    guest.open(2, VIRGL2);
    assert_eq!(guest.draw(2, 2, [0.0, 0.0, 1.0, 1.0]), [255, 0, 0, 255]);
    let life = told(device, "gl", |life| life["ends"] == 1);
    assert_eq!(life["starts"], 2);
    assert_eq!(life["last_end"], "killed by signal 9");
    assert_ne!(pid(device, "gl"), first);
}

#[test]
fn a_process_draws_is_locked_in_and_another_takes_its_place() {
    for sandbox in ["--sandbox=on", "--sandbox=off"] {
        for device in drawing("virgl2", &[sandbox]) {
            must_draw_and_survive(&device, sandbox.ends_with("on"));
        }
    }
}

#[test]
fn a_library_in_the_devices_own_process_draws_as_locked_in_as_that_is() {
    for sandbox in ["--sandbox=on", "--sandbox=off"] {
        for device in drawing("virgl2", &[sandbox, "--isolate=off"]) {
            let mut guest = Guest::new(&device);
            guest.open(1, VIRGL2);
            assert_eq!(guest.draw(1, 1, [1.0, 0.0, 0.0, 1.0]), [0, 0, 255, 255]);
            let said = device.stats();
            assert_eq!(said["renderer"]["isolate"], "off");
            assert!(said["renderer"]["gl"].is_null(), "There is no process to speak of: {said}");
            let own = u64::from(device.process.id());
            let maps = std::fs::read_to_string(format!("/proc/{own}/maps")).unwrap();
            assert!(maps.contains("libvirglrenderer.so"), "{maps}");
            if sandbox.ends_with("on") {
                must_be_locked_in(own);
            }
            // A second guest, on the same library.
            drop(guest);
            let mut guest = Guest::new(&device);
            guest.open(1, VIRGL2);
            assert_eq!(guest.draw(1, 1, [0.0, 0.0, 1.0, 1.0]), [255, 0, 0, 255]);
        }
    }
}

#[test]
fn a_library_in_the_devices_own_process_has_its_render_server_elsewhere() {
    for device in drawing("virgl2,venus", &["--isolate=off"]) {
        let mut guest = Guest::new(&device);
        guest.open(1, VIRGL2);
        assert_eq!(guest.draw(1, 1, [1.0, 0.0, 0.0, 1.0]), [0, 0, 255, 255]);
        guest.open(2, VENUS);
        guest.must(&command::Command::new(0x010c).context(2).words(&[2, 2, 1, 0, 0, 0, 65536, 0]));
        assert_eq!(guest.submit(2, &[]), command::RESP_OK_NODATA);
        // Neither has what is the other's: a picture is no memory of Vulkan's.
        guest.must(&command::Command::new(0x202).context(2).words(&[1, 0]));
        let leader = pid(&device, "vk");
        let all = group(leader);
        assert!(all.len() >= 2, "the server, and a process for the context: {all:?}");
        all.into_iter().for_each(must_be_locked_in);
        // OpenGL goes on without it.
        kill(leader);
        wait_until_gone(leader);
        told(&device, "vk", |life| life["last_end"] == "killed by signal 9");
        assert_eq!(guest.draw(1, 3, [0.0, 1.0, 0.0, 1.0]), [0, 255, 0, 255]);
        drop(device);
    }
}

#[test]
fn a_render_server_ends_with_the_device_whose_library_it_serves() {
    for mut device in drawing("venus", &["--isolate=off"]) {
        let mut guest = Guest::new(&device);
        guest.open(1, VENUS);
        guest.must(&command::Command::new(0x010c).context(1).words(&[1, 2, 1, 0, 0, 0, 4096, 0]));
        let leader = pid(&device, "vk");
        device.process.kill().unwrap();
        wait_until_gone(leader);
    }
}

#[test]
fn a_card_over_vfio_user_draws_too() {
    for model in ["--model=virtio", "--model=vga"] {
        for device in drawing("virgl2", &["--transport=vfio-user", model]) {
            let mut guest = Guest::of_a_card(&device);
            guest.open(1, VIRGL2);
            assert_eq!(guest.draw(1, 1, [1.0, 1.0, 0.0, 1.0]), [0, 255, 255, 255]);
        }
    }
}

#[test]
fn one_that_stands_still_is_ended_and_another_takes_its_place() {
    for device in drawing("virgl2", &[]) {
        let mut guest = Guest::new(&device);
        guest.open(1, VIRGL2);
        assert_eq!(guest.draw(1, 1, [0.0, 1.0, 0.0, 1.0]), [0, 255, 0, 255]);
        let first = pid(&device, "gl");
        kill_process(Pid::from_raw(first as i32).unwrap(), Signal::STOP).unwrap();
        // Answered by nobody but the device.
        assert_ne!(guest.submit(1, &stream::nothing()), command::RESP_OK_NODATA);
        guest.open(2, VIRGL2);
        assert_eq!(guest.draw(2, 2, [0.0, 1.0, 0.0, 1.0]), [0, 255, 0, 255]);
        wait_until_gone(first);
        assert_eq!(device.stats()["renderer"]["gl"]["starts"], 2);
    }
}

#[test]
fn one_that_stands_still_holds_up_its_own_work_and_not_the_console() {
    for device in drawing("virgl2", &["--renderer-patience=600"]) {
        let mut guest = Guest::new(&device);
        guest.open(1, VIRGL2);
        assert_eq!(guest.draw(1, 1, [0.0, 1.0, 0.0, 1.0]), [0, 255, 0, 255]);
        let first = pid(&device, "gl");
        let process = Pid::from_raw(first as i32).unwrap();
        kill_process(process, Signal::STOP).unwrap();
        // Much more than the process and its queue have room for: each does nothing, at length.
        const COUNT: u16 = 100;
        let nothing = vec![0; 256 << 10];
        let submit = command::Command::new(0x207).context(1).words(&[nothing.len() as u32, 0]).bytes(&nothing);
        let memory = guest.front_end.memory().clone();
        let at = memory.allocate(submit.as_bytes().len() as u64, 4096).unwrap();
        memory.write(at, submit.as_bytes()).unwrap();
        let replies = memory.allocate(64 * u64::from(COUNT), 64).unwrap();
        let queue = guest.front_end.queue(0).unwrap();
        for number in 0..u64::from(COUNT) {
            let readable = Buffer::Readable(at, submit.as_bytes().len() as u32);
            let head = queue.prepare(&[readable, Buffer::Writable(replies + 64 * number, 64)]).unwrap();
            queue.offer(head).unwrap();
        }
        queue.publish().unwrap();
        // 2D goes on.
        guest.must(&command::create_2d(9, 1, 16, 16));
        let display_info = command::Command::new(0x100);
        assert_eq!(guest.answer(&display_info), 0x1101);
        kill_process(process, Signal::CONT).unwrap();
        guest.front_end.queue(0).unwrap().wait_until_ready(COUNT).unwrap();
        for number in 0..u64::from(COUNT) {
            let kind = memory.read_vec(replies + 64 * number, 4).unwrap();
            assert_eq!(kind, command::RESP_OK_NODATA.to_le_bytes());
        }
        assert_eq!(pid(&device, "gl"), first);
    }
}

#[test]
fn a_manager_of_time_holds_and_releases_it_and_is_told_how_it_gets_on() {
    for device in drawing("virgl2", &["--arbiter-socket=FOLDER/arbiter"]) {
        let path = device.folder.path().join("arbiter");
        let mut guest = Guest::new(&device);
        guest.open(1, VIRGL2);
        assert_eq!(guest.draw(1, 1, [0.0, 1.0, 0.0, 1.0]), [0, 255, 0, 255]);
        let ward = arbiter::Ward::connect(&path).unwrap();
        let until = |what: &str, is_so: &dyn Fn() -> bool| {
            let limit = Instant::now() + Duration::from_secs(60);
            while !is_so() {
                assert!(Instant::now() < limit, "{what}: {:?}", ward.report());
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        // The device takes it in when it has something to do.
        until("what it did before", &|| ward.report().done > 0);
        assert_eq!(guest.draw(1, 2, [1.0, 0.0, 0.0, 1.0]), [0, 0, 255, 255]);
        until("what was done last", &|| ward.report().waiting == 0 && ward.report().context == 1);
        let first = pid(&device, "gl");
        ward.grant(arbiter::Grant::Held);
        wait_until_gone(first);
        assert_ne!(guest.submit(1, &stream::nothing()), command::RESP_OK_NODATA);
        // 2D goes on, and 3D when it may.
        guest.must(&command::create_2d(9, 1, 16, 16));
        ward.grant(arbiter::Grant::Open);
        let mut context = 2;
        let limit = Instant::now() + Duration::from_secs(60);
        while {
            guest.open(context, VIRGL2);
            guest.submit(context, &stream::nothing()) != command::RESP_OK_NODATA
        } {
            context += 1;
            assert!(Instant::now() < limit, "it is never released");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(guest.draw(context, 3, [0.0, 0.0, 1.0, 1.0]), [255, 0, 0, 255]);
        // Behind a gate nothing gets on, until the manager is gone, however.
        ward.grant(arbiter::Grant::Gated);
        let drawn = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let opens = scope.spawn(|| {
                // What was begun is done, and nothing new is.
                until("work is under way", &|| ward.report().waiting == 0);
                std::thread::sleep(Duration::from_millis(100));
                let early = drawn.load(Ordering::Acquire);
                ward.grant(arbiter::Grant::Open);
                early
            });
            assert_eq!(guest.draw(context, 4, [0.0, 1.0, 0.0, 1.0]), [0, 255, 0, 255]);
            drawn.store(true, Ordering::Release);
            assert!(!opens.join().unwrap(), "It was drawn behind the gate");
        });
        drop(ward);
        assert_eq!(guest.draw(context, 5, [0.0, 1.0, 0.0, 1.0]), [0, 255, 0, 255]);
    }
}

#[test]
fn vulkan_has_a_server_and_a_process_for_each_context_which_all_end_together() {
    for device in drawing("venus", &[]) {
        let mut guest = Guest::new(&device);
        for context in [1, 2] {
            guest.open(context, VENUS);
            // A blob that the context's process makes.
            let blob = [context, 2, 1, 0, 0, 0, 65536, 0];
            guest.must(&command::Command::new(0x010c).context(context).words(&blob));
        }
        let leader = pid(&device, "vk");
        let all = group(leader);
        assert!(all.len() >= 2, "the library, its server, perhaps a process for each context: {all:?}");
        all.into_iter().for_each(must_be_locked_in);
        kill(leader);
        wait_until_gone(leader);
        guest.open(3, VENUS);
        while guest.answer(&command::Command::new(0x010c).context(3).words(&[3, 2, 1, 0, 0, 0, 4096, 0]))
            != command::RESP_OK_NODATA
        {
            // A context whose process was gone before it was known is lost; its name is free for another.
            guest.must(&command::Command::new(0x201).context(3));
            guest.open(3, VENUS);
        }
        assert_eq!(device.stats()["renderer"]["vk"]["starts"], 2);
    }
}

#[test]
fn what_draws_ends_with_the_device() {
    for mut device in drawing("virgl2", &[]) {
        let mut guest = Guest::new(&device);
        guest.open(1, VIRGL2);
        guest.draw(1, 1, [0.0; 4]);
        let leader = pid(&device, "gl");
        device.process.kill().unwrap();
        wait_until_gone(leader);
    }
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
