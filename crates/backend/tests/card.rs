//! A whole PCI card of the program's: what a VMM and a guest's driver find behind its socket, with all locks on.

#![allow(clippy::unwrap_used)] // A test that cannot go on ends.

mod support;

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use bench::frontend::vfio_user::region;
use bench::frontend::{Driver, Kind, Options, PciGuest, command};
use rustix::io::{FdFlags, fcntl_setfd};
use support::{Device, PROGRAM};

/// In BAR 2: the bochs registers x, y, bits a pixel, enable.
const DISPI: u64 = 0x500;
const MODE: [(u64, u16); 4] = [(1, 640), (2, 480), (3, 32), (4, 0x41)];

fn card(words: &[&str]) -> Device {
    Device::listening(&[&["--transport=vfio-user", "--sandbox=on", "--display=none"], words].concat())
}

fn guest(device: &Device) -> PciGuest {
    over(UnixStream::connect(device.folder.path().join("gpu")).unwrap())
}

fn over(socket: UnixStream) -> PciGuest {
    PciGuest::realize(socket, Options::new(Kind::Generic)).unwrap()
}

#[test]
fn a_driver_draws_on_a_card_and_the_next_vm_finds_it_as_new() {
    for model in ["--model=virtio", "--model=vga"] {
        let device = card(&[model]);
        for _ in 0..2 {
            let mut guest = guest(&device);
            guest.start(false).unwrap();
            let backing = guest.memory().allocate(640 * 480 * 4, 4096).unwrap();
            for command in [
                command::create_2d(1, command::FORMAT_B8G8R8X8, 640, 480),
                command::attach_backing(1, &[(backing, 640 * 480 * 4)]),
                command::set_scanout(0, 1, [0, 0, 640, 480]),
                command::transfer_to_host_2d(1, [0, 0, 640, 480], 0),
                command::flush(1, [0, 0, 640, 480]),
            ] {
                assert!(guest.command(&command).unwrap().is_ok(), "{model}");
            }
            assert!(device.ask("GET /v1/screenshot HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"), "{model}");
        }
        // It let go of what the second one had when that hung up, or is about to.
        while device.stats()["device"]["resources"] != 0 {
            std::thread::yield_now();
        }
        assert_eq!(device.stats()["device"]["panics"], 0);
    }
}

#[test]
fn firmware_has_a_screen_without_a_driver_and_the_next_vm_does_not_see_it() {
    for model in ["--model=vga", "--model=bochs"] {
        let device = card(&[model]);
        for _ in 0..2 {
            let screenshot = || device.ask("GET /v1/screenshot HTTP/1.1\r\n\r\n");
            while !screenshot().starts_with("HTTP/1.1 404") {
                std::thread::yield_now();
            }
            let socket = UnixStream::connect(device.folder.path().join("gpu")).unwrap();
            let wire = PciGuest::switch_on(socket, &Options::new(Kind::Generic)).unwrap();
            for (register, value) in MODE {
                wire.store(region::BAR2, DISPI + 2 * register, &value.to_le_bytes()).unwrap();
            }
            while !screenshot().starts_with("HTTP/1.1 200") {
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_card_on_a_passed_socket_ends_with_its_vmm() {
    let (vmm, passed) = UnixStream::pair().unwrap();
    let passed = OwnedFd::from(passed);
    fcntl_setfd(&passed, FdFlags::empty()).unwrap();
    let mut process = Command::new(PROGRAM)
        .args([&format!("--fd={}", passed.as_raw_fd()), "--transport=vfio-user", "--display=none"])
        .env("BEAMSPLIT_CONFIG", Path::new("/dev/null"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(passed);
    let mut guest = over(vmm);
    guest.start(false).unwrap();
    assert!(guest.command(&command::get_display_info()).unwrap().is_ok());
    drop(guest);
    assert!(process.wait().unwrap().success());
}

#[test]
fn without_msix_a_card_has_no_table_for_it() {
    let device = card(&["--msix=off"]);
    let mut guest = guest(&device);
    assert_eq!(guest.registers().msix, 0);
    assert!(guest.start(false).unwrap_err().to_string().contains("MSI-X"));
}
