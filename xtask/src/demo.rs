//! The first try: a real guest whose screen is seen, and whose console is typed into, on a web page and by VNC.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use tests::guest::has_device;
use tests::process::wait_until;
use tests::progress::say;
use tests::vnc::Typist;
use tests::{Accel, Config, Device, Gpu, Guest, Input, bed, workspace};

use crate::step::cargo;

/// The input device that older QEMUs have; the generic one, with its longer rings, is better.
const INPUT: &str = "vhost-user-input-pci";

/// What the guest does on its first terminal.
const CONSOLE: &str = include_str!("demo.sh");

/// How long a guest may stay silent under KVM before TCG is tried.
const SILENCE: u64 = 15;

/// How many times the picture has to move before a demo that runs once ends.
const MOVES: usize = 15;

/// How to run the demo.
#[derive(Args)]
pub struct Options {
    /// Take a picture, say what is on it, type something, say what the guest answers, stop everything.
    #[arg(long)]
    once: bool,
    /// Who runs the guest's instructions.
    #[arg(long, value_enum, default_value_t = Acceleration::Auto)]
    accel: Acceleration,
    /// Where the web page is served.
    #[arg(long, value_name = "ADDR")]
    web: Option<SocketAddr>,
    /// Where VNC viewers connect.
    #[arg(long, value_name = "ADDR")]
    vnc: Option<SocketAddr>,
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
    let host = host_qemu().filter(|_| !options.bed);
    match &host {
        Some(program) => say(format_args!("demo: using this host's {}", program.display())),
        None => drop(bed::vm()?),
    }
    bed::kernel()?;
    bed::initramfs(&["gpu", "input"])?;
    let words = ["--display", "vmm", "--display", &format!("web={web}"), "--display", &format!("vnc={vnc}")];
    let device = Device::spawn_with_input(&words)?;
    let mut guest = boot(&device, host, options.accel)?;
    guest.put("/tmp/demo.sh", 0o755, CONSOLE.as_bytes())?;
    guest.spawn("setsid -c sh /tmp/demo.sh </dev/tty1 >/dev/tty1 2>&1")?;
    if options.once {
        look(&device)?;
        converse(&mut guest, Typist::connect(vnc.port())?)?;
        return guest.power_off();
    }
    say("demo: the guest draws, and listens to its keyboard; its screen is at");
    println!("\n    web page    http://{web}/\n    VNC viewer  {vnc}    (as in: gvncviewer {})\n", vnc_name(vnc));
    println!("There, Enter brings the guest's console: type. Here, Ctrl-C stops everything.");
    guest.qemu().wait(u64::from(u32::MAX)).map(drop)
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

/// This host's own QEMU, if it has the device.
fn host_qemu() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found =
        std::env::split_paths(&path).map(|dir| dir.join("qemu-system-x86_64")).find(|program| program.exists())?;
    ["vhost-user-gpu-pci", INPUT].iter().all(|device| has_device(&found, device)).then_some(found)
}

/// Boots with this host's QEMU if it has one and that one can, else with the bed's.
fn boot(device: &Device, host: Option<PathBuf>, acceleration: Acceleration) -> Result<Guest> {
    let config = Config::mini().gpu(Gpu::vhost_user_gpu(device));
    let with_host =
        host.map(|program| config.clone().qemu(program).input(Input::VhostUserInput(device.input_socket())));
    let config = config.input(Input::Generic(device.input_socket()));
    let first = with_host.as_ref().unwrap_or(&config);
    let usable = || fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    match acceleration {
        Acceleration::Tcg => {}
        Acceleration::Kvm => return Guest::boot(first.clone().accel(Accel::Kvm)),
        Acceleration::Auto => match usable() {
            Err(error) => say(format_args!("demo: no KVM here ({error}), using TCG")),
            Ok(_) => match boot_with_kvm(first.clone().accel(Accel::Kvm)) {
                Ok(guest) => return Ok(guest),
                Err(error) => say(format_args!("demo: KVM does not work here ({error}), using TCG")),
            },
        },
    }
    if let Some(config) = with_host {
        say("demo: booting a guest");
        // Before 8.0 QEMU wants KVM for any vhost-user device.
        match Guest::start(&config).and_then(|mut guest| guest.wait_for_boot().map(|()| guest)) {
            Ok(guest) => return Ok(guest),
            Err(_) => say("demo: this host's QEMU cannot do it without KVM, using one of our own"),
        }
    }
    bed::vm()?;
    say("demo: booting a guest");
    Guest::boot(config)
}

fn boot_with_kvm(config: Config) -> Result<Guest> {
    say("demo: booting a guest under KVM");
    let Ok(mut guest) = Guest::start(&config) else { bail!("QEMU refuses it") };
    let spoke = wait_until(SILENCE, "the guest to print something", || {
        ensure!(guest.qemu().is_running(), "QEMU ended");
        Ok((!guest.console().is_empty()).then_some(()))
    });
    spoke.ok().with_context(|| format!("the guest printed nothing in {SILENCE} s"))?;
    guest.wait_for_boot().ok().context("the guest did not come up")?;
    Ok(guest)
}

/// Takes pictures from the device itself and says what is on them.
fn look(device: &Device) -> Result<()> {
    // A console has a few colours, however much is written there.
    let first = wait_until(30, "the guest to draw", || {
        let picture = device.screen()?;
        Ok((picture.colours() > 1000).then_some(picture))
    });
    let first = first.context("There is no picture on the screen")?;
    let mut second = first.clone();
    for _ in 0..MOVES {
        second = wait_until(30, "the picture to move", || {
            let picture = device.screen()?;
            Ok((picture != second).then_some(picture))
        })
        .context("The picture does not move")?;
    }
    let difference = first.difference(&second).context("The picture does not move")?;
    let path = workspace::target().join("demo/screen.png");
    fs::create_dir_all(workspace::target().join("demo"))?;
    second.save(&path)?;
    let (width, height) = second.size();
    println!("screen: {width}x{height}, {} colours, moving ({difference})", second.colours());
    println!("picture: {}", path.display());
    Ok(())
}

/// Types a command as a person would, and says what the guest's console answers.
fn converse(guest: &mut Guest, mut typist: Typist) -> Result<()> {
    let (command, answer) = ("uname -r", guest.kernel().to_owned());
    typist.type_text("\n")?;
    wait_for_text(guest, "a shell on the guest's console", |line| line == "guest:~#")?;
    typist.type_text(&format!("{command}\n"))?;
    wait_for_text(guest, "the guest's answer", |line| line == answer)?;
    println!("typed: {command}\nthe guest's console answered: {answer}");
    Ok(())
}

fn wait_for_text(guest: &mut Guest, what: &str, is_there: impl Fn(&str) -> bool) -> Result<()> {
    let mut text = String::new();
    let waited = wait_until(60, what, || {
        text = guest.terminal(1)?;
        Ok(text.lines().any(&is_there).then_some(()))
    });
    waited.with_context(|| format!("The console shows:\n{text}"))
}
