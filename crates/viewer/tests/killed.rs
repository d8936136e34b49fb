//! A viewer process is killed under a connected client; another one takes over its sockets. Started with `viewer` as its first
//! word this program is that viewer.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::{Child, Command};

use clap::Parser;
use frames::{DeviceEvent, Input, InputEvent, Rect};
use rustix::io::{FdFlags, fcntl_setfd};
use support::{Client, Device, Keyboard, Picture, bind};

#[derive(Parser)]
struct Words {
    #[command(flatten)]
    args: viewer::Args,
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("viewer") {
        let options = Words::parse_from(std::env::args().skip(1)).args.open().unwrap();
        return viewer::run(options).unwrap();
    }
    // The harness that is not there would list nothing.
    if std::env::args().any(|word| word == "--list") {
        return;
    }
    a_killed_viewer_is_replaced_and_the_device_and_the_port_notice_nothing();
    println!("test result: ok. 1 passed; 0 failed");
}

fn a_killed_viewer_is_replaced_and_the_device_and_the_port_notice_nothing() {
    let (ours, theirs) = frames::pair().unwrap();
    let listening = bind("127.0.0.1:0").into_socket();
    let address = listening.local_addr().unwrap();
    fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
    fcntl_setfd(&listening, FdFlags::empty()).unwrap();
    let (keys_ours, keys_theirs) = frames::pair().unwrap();
    fcntl_setfd(&keys_theirs, FdFlags::empty()).unwrap();
    let mut keyboard = Keyboard::new(keys_ours, &keys_theirs);
    keyboard.start();
    let start = || -> Child {
        let numbers = [theirs.as_raw_fd(), listening.as_raw_fd(), keys_theirs.as_raw_fd()].map(|fd| fd.to_string());
        let [socket, vnc, keys] = &numbers;
        let program = std::env::current_exe().unwrap();
        Command::new(program).args(["viewer", "--fd", socket, "--vnc-fd", vnc, "--input-fd", keys]).spawn().unwrap()
    };
    let device = Device::new(ours, 1);
    let picture = Picture::native(64, 64);
    device.show(0, &picture);
    for shade in 1..=5 {
        let mut viewer = start();
        let mut client = Client::connect(address);
        picture.fill(Rect::new(0, 0, 1, 1), |_, _| shade);
        device.lock().damage(0, Rect::new(0, 0, 1, 1));
        assert_eq!(device.events.recv(), Ok(DeviceEvent::Connected));
        // What the last viewer left unsaid or unread does not reach this one's client.
        let mut shown = client.picture()[0];
        while shown != shade as u8 {
            client.request(true);
            shown = client.update()[0].data[0];
        }
        client.request(true);
        client.key('a' as u32, None, true);
        assert_eq!(keyboard.input(), Input::Key { code: 30, pressed: true });
        viewer.kill().unwrap();
        viewer.wait().unwrap();
        // Whoever starts viewers holds the lasting socket all the time: it is the session that hangs up.
        assert_eq!(keyboard.next(), InputEvent::Gone);
        for _ in 0..1000 {
            device.lock().damage(0, picture.geometry.rect());
        }
        // Its connection ends, by a close or a reset.
        let _ = std::io::copy(&mut client.stream, &mut std::io::sink());
        // Who connects while no viewer runs waits for the next one.
        drop(TcpStream::connect(address).unwrap());
    }
    let counters = device.lock().counters();
    assert_eq!((counters.sessions, counters.garbage), (5, 0));
    assert!(counters.frames < 50, "{counters:?}");
}
