//! A key on its way from a viewer process to a guest's driver, through the program with all its locks on.

#![allow(clippy::unwrap_used)] // A test that cannot go on ends.

mod support;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use bench::frontend::{Buffer, FrontEnd, InputDriver, InputEvent, Kind, Options, command};
use frames::{Input, InputSession, TouchPhase};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use support::{Device, copy_program, shell};

const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_LED: u16 = 17;
const KEY_A: u16 = 30;
const BTN_TOUCH: u16 = 0x14a;
const LED_CAPSL: u16 = 1;

/// A device whose viewer types what it is told.
struct Bed {
    device: Device,
    /// What the viewer does next, a line each.
    words: File,
    /// What the viewer saw, a line each.
    seen: BufReader<File>,
}

impl Bed {
    fn new(words: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        copy_program(&path("beamsplit-device"));
        // Programs are found beside the device's own. This one is this file's `typist`.
        let script = format!(
            "#!/bin/sh\nTYPIST_WORDS=\"$*\" TYPIST_FOLDER='{}' exec '{}' --ignored --exact typist >/dev/null 2>&1\n",
            folder.path().display(),
            std::env::current_exe().unwrap().display()
        );
        shell("printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"", &[script.as_ref(), path("beamsplit").as_ref()]);
        for name in ["words", "seen"] {
            mknodat(CWD, path(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }
        // Open for both, so that one typist can follow another.
        let fifo = |name: &str| OpenOptions::new().read(true).write(true).open(path(name)).unwrap();
        let (words_fifo, seen) = (fifo("words"), BufReader::new(fifo("seen")));
        let socket = |option: &str, name: &str| format!("--{option}={}", path(name).display());
        let options = [socket("input-socket", "input"), socket("input-socket", "touch") + ",touch"];
        let mut all = vec!["--display=web=0", &options[1]];
        // A card has a keyboard without a word.
        if !words.contains(&"--transport=vfio-user") {
            all.push(&options[0]);
        }
        all.extend(words);
        let gpu = socket("socket-path", "gpu");
        if !words.iter().any(|word| word.starts_with("--fd")) {
            all.push(&gpu);
        }
        let program = path("beamsplit-device");
        Bed { device: Device::start(&program, folder, &all), words: words_fifo, seen }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.device.folder.path().join(name)
    }

    /// The viewer does that.
    fn act(&mut self, line: &str) {
        writeln!(self.words, "{line}").unwrap();
    }

    /// What the viewer saw.
    fn see(&mut self) -> String {
        let mut line = String::new();
        self.seen.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn driver(&self, name: &str) -> Driver {
        Driver::new(&self.path(name))
    }

    /// The viewer that was started as the so-manieth.
    fn viewer(&self, starts: u64) -> Pid {
        loop {
            let viewer = &self.device.stats()["viewer"];
            if viewer["starts"] == starts && viewer["pid"].is_u64() {
                return Pid::from_raw(viewer["pid"].as_i64().unwrap() as i32).unwrap();
            }
            std::thread::yield_now();
        }
    }
}

/// The VMM and the guest's driver of an input device.
struct Driver {
    vmm: FrontEnd,
    /// Where the buffer of each descriptor is.
    buffers: Vec<u64>,
}

impl Driver {
    fn new(path: &Path) -> Self {
        let options = Options { queue_size: 64, memory: vec![(0, 1 << 20)], ..Options::new(Kind::Generic) };
        let (mut vmm, _) = FrontEnd::ready(path, options).unwrap();
        let memory = vmm.memory().clone();
        let events = vmm.queue(0).unwrap();
        let mut buffers = vec![0; 64];
        for _ in 0..64 {
            let address = memory.allocate(8, 8).unwrap();
            let head = events.prepare(&[Buffer::Writable(address, 8)]).unwrap();
            buffers[usize::from(head)] = address;
            events.offer(head).unwrap();
        }
        events.publish().unwrap();
        Self { vmm, buffers }
    }

    /// The next event, whose room is given back.
    fn event(&mut self) -> (u16, u16, i32) {
        let memory = self.vmm.memory().clone();
        let events = self.vmm.queue(0).unwrap();
        let used = events.wait().unwrap();
        assert_eq!(used.length, 8);
        let bytes = memory.read_vec(self.buffers[used.id as usize], 8).unwrap();
        events.offer(used.id as u16).unwrap();
        events.publish().unwrap();
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (half(0), half(2), i32::from_le_bytes(*bytes[4..].first_chunk().unwrap()))
    }

    /// The events up to the next SYN_REPORT, which is left out.
    fn frame(&mut self) -> Vec<(u16, u16, i32)> {
        std::iter::from_fn(|| Some(self.event()).filter(|event| event.0 != EV_SYN)).collect()
    }

    fn name(&self) -> String {
        self.vmm.write_config(0, &[1, 0]).unwrap();
        let config = self.vmm.read_config(0, 136).unwrap();
        String::from_utf8(config[8..][..usize::from(config[2])].to_vec()).unwrap()
    }
}

/// No test: the viewer of the tests below, which start it as a process. Its launcher's words are in the environment.
#[test]
#[ignore = "it is a program that the other tests start"]
fn typist() {
    let words = std::env::var("TYPIST_WORDS").unwrap();
    let words: Vec<&str> = words.split(' ').collect();
    let folder = PathBuf::from(std::env::var("TYPIST_FOLDER").unwrap());
    let session = |name: &str| {
        let at = words.iter().position(|word| *word == name).unwrap();
        InputSession::begin(inherited(words[at + 1].parse().unwrap())).unwrap()
    };
    let (mut keyboard, mut screen) = (session("--input-fd"), session("--touch-fd"));
    let mut seen = OpenOptions::new().write(true).open(folder.join("seen")).unwrap();
    for line in BufReader::new(File::open(folder.join("words")).unwrap()).lines() {
        let line = line.unwrap();
        let key = |code: &str, pressed| Input::Key { code: code.parse().unwrap(), pressed };
        match line.split_once(' ').unwrap() {
            ("down", code) => assert!(keyboard.send(0, key(code, true)).unwrap()),
            ("up", code) => assert!(keyboard.send(0, key(code, false)).unwrap()),
            ("touch", slot) => {
                let input = Input::Touch { slot: slot.parse().unwrap(), phase: TouchPhase::Down, x: 0, y: 65535 };
                assert!(screen.send(0, input).unwrap());
            }
            ("leds", _) => loop {
                poll(&mut [PollFd::new(&keyboard, PollFlags::IN)], None).unwrap();
                if let Some(leds) = keyboard.leds().filter(|leds| leds.caps) {
                    writeln!(seen, "{leds:?}").unwrap();
                    break;
                }
            },
            ("say", word) => writeln!(seen, "{word}").unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

/// A descriptor that the launcher passed, by number.
fn inherited(fd: i32) -> OwnedFd {
    // By its name in /proc a socket cannot be opened, so it is asked for as one process asks another.
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).unwrap();
    rustix::process::pidfd_getfd(own, fd, rustix::process::PidfdGetfdFlags::empty()).unwrap()
}

#[test]
fn keys_and_fingers_reach_the_guest_and_lights_come_back() {
    let mut bed = Bed::new(&["--sandbox=on"]);
    let (mut keyboard, mut screen) = (bed.driver("input"), bed.driver("touch"));
    assert!(keyboard.name().contains("keyboard") && screen.name().contains("touch"));
    bed.act("down 30");
    assert_eq!(keyboard.frame(), [(EV_KEY, KEY_A, 1)]);
    bed.act("up 30");
    assert_eq!(keyboard.frame(), [(EV_KEY, KEY_A, 0)]);
    bed.act("touch 3");
    assert!(screen.frame().contains(&(EV_KEY, BTN_TOUCH, 1)));
    bed.act("leds please");
    let lit = [LED_CAPSL.to_le_bytes(), 1u16.to_le_bytes()];
    let words = [&EV_LED.to_le_bytes()[..], &lit[0], &lit[1], &[0, 0]].concat();
    keyboard.vmm.exchange(1, &words, 0).unwrap();
    assert!(bed.see().contains("caps: true"));
    let stats = bed.device.stats();
    assert!(stats["input"]["frames"].as_u64() >= Some(2) && stats["touch"]["frames"].as_u64() >= Some(1), "{stats}");
}

#[test]
fn a_viewer_that_is_killed_lets_go_of_its_keys_and_the_next_one_types_on() {
    let mut bed = Bed::new(&[]);
    let mut keyboard = bed.driver("input");
    bed.act("down 30");
    assert_eq!(keyboard.frame(), [(EV_KEY, KEY_A, 1)]);
    let first = bed.viewer(1);
    kill_process(first, Signal::KILL).unwrap();
    assert_eq!(keyboard.frame(), [(EV_KEY, KEY_A, 0)]);
    bed.act("down 31");
    assert_eq!(keyboard.frame(), [(EV_KEY, 31, 1)]);
    assert_ne!(bed.viewer(2), first);
}

#[test]
fn input_devices_have_threads_of_their_own_and_their_vmms_come_and_go_beside_the_gpu() {
    let mut bed = Bed::new(&[]);
    let tasks = PathBuf::from(format!("/proc/{}/task", bed.device.process.id()));
    for wanted in ["gpu\n", "input\n", "touch\n"] {
        let tasks = || tasks.read_dir().unwrap().map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
        // The device answers questions before its last thread is there.
        while !tasks().any(|name| name.is_ok_and(|name| name == wanted)) {
            std::thread::yield_now();
        }
    }
    let (mut gpu, _display) = FrontEnd::ready(&bed.path("gpu"), Options::default()).unwrap();
    for _ in 0..2 {
        let mut keyboard = bed.driver("input");
        bed.act("down 30");
        assert_eq!(keyboard.frame(), [(EV_KEY, KEY_A, 1)]);
        bed.act("up 30");
        assert_eq!(keyboard.frame(), [(EV_KEY, KEY_A, 0)]);
        // A front-end that speaks nonsense is disconnected, alone.
        keyboard.vmm.channel().send(4711, 0, &[0; 8], &[]).unwrap();
        assert!(gpu.command(&command::create_2d(1, command::FORMAT_B8G8R8X8, 64, 64)).unwrap().is_ok());
        drop(keyboard);
        assert!(gpu.command(&command::unref(1)).unwrap().is_ok());
    }
}

#[test]
fn a_device_with_a_passed_socket_ends_with_its_vmm_whatever_the_input_sockets_do() {
    let (vmm, passed) = UnixStream::pair().unwrap();
    let passed = OwnedFd::from(passed);
    fcntl_setfd(&passed, FdFlags::empty()).unwrap();
    let mut bed = Bed::new(&[&format!("--fd={}", passed.as_raw_fd())]);
    drop(passed);
    let mut keyboard = bed.driver("input");
    bed.act("down 30");
    assert_eq!(keyboard.frame(), [(EV_KEY, KEY_A, 1)]);
    drop(vmm);
    assert!(bed.device.process.wait().unwrap().success());
}

#[test]
fn a_card_has_a_keyboard_beside_it_and_each_is_a_pci_function() {
    let mut bed = Bed::new(&["--transport=vfio-user", "--sandbox=on"]);
    let mut keyboard = InputDriver::connect_pci(&bed.path("gpu.input")).unwrap();
    let mut screen = InputDriver::connect_pci(&bed.path("touch")).unwrap();
    bed.act("down 30");
    // The key, and what ends a frame.
    keyboard.wait(2).unwrap();
    let mut events = Vec::new();
    keyboard.take(&mut events).unwrap();
    assert_eq!(events[0], InputEvent { kind: EV_KEY, code: KEY_A, value: 1 });
    assert!(events[1].ends_frame() && events.len() == 2, "{events:?}");
    bed.act("touch 3");
    screen.wait(2).unwrap();
    // Another VM comes to the same keyboard.
    drop(keyboard);
    bed.act("up 30");
    let mut keyboard = InputDriver::connect_pci(&bed.path("gpu.input")).unwrap();
    bed.act("down 30");
    keyboard.wait(2).unwrap();
}
