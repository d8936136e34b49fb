//! The first try: three real guests on three vGPUs of a manager. One's screen is seen, and its console is typed into, on a web page
//! and by VNC; all are on the manager's page.

mod boot;
mod look;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use tests::manager::new_token;
use tests::progress::say;
use tests::vnc::Typist;
use tests::{Guest, Manager, bed};

use crate::step::cargo;

/// What a guest does on its first terminal, with a program of what moves there.
const CONSOLE: &str = include_str!("demo/console.sh");

/// The vGPUs, each of a type of its own.
const VGPUS: [&str; 3] = ["desktop", "kiosk", "sign"];

/// What the small guests draw on their text screens. What the first one does comes with it.
const BOARDS: [(&str, &str); 2] = [("kiosk", include_str!("demo/kiosk.sh")), ("sign", include_str!("demo/sign.sh"))];

/// How to run the demo.
#[derive(Args)]
pub struct Options {
    /// Take a picture, say what is on it, type something, say what the guest answers, stop everything.
    #[arg(long)]
    once: bool,
    /// Who runs the guest's instructions.
    #[arg(long, value_enum, default_value_t = Acceleration::Auto)]
    accel: Acceleration,
    /// Where the web page of the first guest is served.
    #[arg(long, value_name = "ADDR")]
    web: Option<SocketAddr>,
    /// Where the manager's page is served, of all three.
    #[arg(long, value_name = "ADDR")]
    page: Option<SocketAddr>,
    /// Where VNC viewers connect.
    #[arg(long, value_name = "ADDR")]
    vnc: Option<SocketAddr>,
    /// With --once: save a picture of the manager's page, as the bed's browser shows it.
    #[arg(long, value_name = "FILE", requires = "once")]
    picture: Option<PathBuf>,
    /// Use the bed's QEMU even if this host has one.
    #[arg(long)]
    bed: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Acceleration {
    /// KVM, and TCG when a guest says nothing under it.
    Auto,
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// Runs the demo.
pub fn run(options: &Options) -> Result<()> {
    cargo(&["build", "-p", "beamsplit-backend", "-p", "beamsplit"])?;
    let web = address(options.web, 8080)?;
    let vnc = address(options.vnc, 5900)?;
    let page = address(options.page, 8000)?;
    let host = boot::host_qemu().filter(|_| !options.bed);
    match &host {
        Some(program) => say(format_args!("demo: using this host's {}", program.display())),
        None => drop(bed::vm()?),
    }
    bed::kernel()?;
    bed::initramfs(&["gpu", "input"])?;
    let token = new_token()?;
    let manager = Manager::plain(&types(web, vnc), page, &format!("control = [\"{token}\"]\n"))?;
    for (name, digit) in VGPUS.iter().zip(1..) {
        // The page has them in this order.
        let uuid = format!("{digit}e6f0c5a-3b7d-4c19-9a52-d84b1f6e2a70");
        manager.tell(&["define", name, "--name", name, "--uuid", &uuid, "--start"])?;
        manager.wait_for(name, "running", 60)?;
    }
    // Dropped before the manager: no device ends while its guest runs.
    let (mut guest, machine) = boot::first(&manager, "desktop", host, options.accel)?;
    let mut others = machine.others(&manager, &BOARDS.map(|(name, _)| name))?;
    animate(&mut guest, "picture")?;
    let screens = look::Screens::new(&manager, &token);
    if options.once {
        screens.look("desktop")?;
    }
    boot::wait_for(&mut others)?;
    others.iter_mut().zip(BOARDS).try_for_each(|(guest, (name, _))| animate(guest, name))?;
    if options.once {
        screens.look_at_page(&VGPUS)?;
        if let Some(file) = &options.picture {
            screens.photograph(file)?;
        }
        // Whoever types has the processor for that.
        drop(others);
        look::converse(&mut guest, Typist::connect(vnc.port())?)?;
        return guest.power_off();
    }
    say("demo: three guests draw, each on a vGPU of its own, and listen to their keyboards");
    println!("\n    all of them  http://{}/#token={token}", manager.page()?);
    println!("    web page     http://{web}/    (the first)");
    println!("    VNC viewer   {vnc}    (the first, as in: gvncviewer {})\n", vnc_name(vnc));
    println!("There, Enter brings a guest's console: type. Here, Ctrl-C stops everything.");
    guest.qemu().wait(u64::from(u32::MAX)).map(drop)
}

/// What the manager offers: nothing that draws 3D, which wants libraries.
fn types(web: SocketAddr, vnc: SocketAddr) -> String {
    let any = "web=127.0.0.1:0".to_owned();
    let desktop = ["vmm".to_owned(), format!("web={web}"), format!("vnc={vnc}")];
    let of = |name: &str, memory: &str, heads: &str, display: &[String]| {
        format!(
            "[[type]]\nname = \"{name}\"\nmemory = \"{memory}\"\nheads = \"{heads}\"\ndisplay = {display:?}\nmax-instances = 1\n\n"
        )
    };
    let small = |name| of(name, "64M", "640x480", std::slice::from_ref(&any));
    [of("desktop", "128M", "1280x800", &desktop), small("kiosk"), small("sign")].concat()
}

/// Has a guest draw on its first terminal.
fn animate(guest: &mut Guest, program: &str) -> Result<()> {
    for (name, text) in BOARDS.iter().filter(|(name, _)| *name == program) {
        guest.put(&format!("/bin/{name}"), 0o755, text.as_bytes())?;
    }
    guest.put("/tmp/demo.sh", 0o755, CONSOLE.as_bytes())?;
    guest.spawn(&format!("setsid -c sh /tmp/demo.sh {program} </dev/tty1 >/dev/tty1 2>&1")).map(drop)
}

/// The wanted address, or a free one on loopback.
fn address(wanted: Option<SocketAddr>, port: u16) -> Result<SocketAddr> {
    if let Some(address) = wanted {
        return Ok(address);
    }
    let free = (port..port.saturating_add(20)).chain([0]).find_map(|port| {
        let listener = TcpListener::bind(("127.0.0.1", port)).ok()?;
        listener.local_addr().ok()
    });
    free.context("No free port on 127.0.0.1")
}

/// An address as VNC viewers name it: the display's number instead of the port.
fn vnc_name(address: SocketAddr) -> String {
    match address.port().checked_sub(5900) {
        Some(display) if display < 100 => format!("{}:{display}", address.ip()),
        _ => format!("{}::{}", address.ip(), address.port()),
    }
}
