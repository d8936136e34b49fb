//! What a card costs a guest, measured inside of a Linux under QEMU: Beamsplit's over vfio-user beside QEMU's own in its process.
//!
//! A measurement: `cargo xtask bench guest`. It prints a table.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tests::bed::apt::checked;
use tests::{Config, Device, Draw, Gpu, Guest, workspace};

/// A register that keeps what is stored, in BAR 2: DISPI's width, and of a card without a boot display the first of virtio's.
const DISPI_X: u32 = 0x502;
const COMMON: u32 = 0x1000;
/// Milliseconds of each measurement.
const TIME: u32 = 1000;
/// Moves of the cursor.
const MOVES: i32 = 200;

/// A card, and where it keeps a register.
struct Card {
    name: &'static str,
    config: Config,
    register: u32,
    framebuffer: bool,
}

#[test]
#[ignore = "a measurement, which prints a table"]
fn what_a_card_costs_its_guest() -> Result<()> {
    let probe = std::fs::read(probe()?)?;
    let [vga, virtio] = ["vga", "virtio"].map(|model| Device::spawn_vfio_user(model, &["--display", "none"]));
    let (vga, virtio) = (vga?, virtio?);
    let config = || Config::mini().machine("pc");
    let cards = [
        Card {
            name: "beamsplit, vga: stores are waited for",
            config: config().gpu(Gpu::vfio_user(&vga)),
            register: DISPI_X,
            framebuffer: true,
        },
        Card {
            name: "beamsplit, virtio: stores are posted",
            config: config().gpu(Gpu::vfio_user(&virtio)),
            register: COMMON,
            framebuffer: false,
        },
        Card {
            name: "QEMU's virtio-vga",
            config: config().modules(&["gpu"]).arguments(["-device", "virtio-vga"]),
            register: DISPI_X,
            framebuffer: true,
        },
    ];
    println!("| card | load, ns | store, ns | framebuffer, MB/s | cursor move, us |\n|---|---:|---:|---:|---:|");
    for card in cards {
        let [load, store, fill, cursor] = measure(&card, &probe).with_context(|| card.name)?;
        println!("| {} | {load:.0} | {store:.0} | {fill:.0} | {cursor:.0} |", card.name);
    }
    Ok(())
}

fn measure(card: &Card, probe: &[u8]) -> Result<[f64; 4]> {
    let mut guest = Guest::boot(card.config.clone())?;
    guest.draw(Draw::Show { head: 0, width: 1280, height: 800 })?;
    let cursor = cursor(&mut guest)?;
    guest.draw(Draw::Release)?;

    guest.put("/tmp/probe", 0o755, probe)?;
    let find = "for d in /sys/bus/pci/devices/*; do [ $(cat $d/device) = 0x1050 ] && basename $d; done";
    let slot = guest.run(find)?.text().trim().to_owned();
    ensure!(!slot.is_empty(), "No card");
    // A kernel lets nobody touch what a driver has.
    guest.run(&format!(
        "echo {slot} > /sys/bus/pci/drivers/virtio-pci/unbind; echo 1 > /sys/bus/pci/devices/{slot}/enable"
    ))?;
    let mut number = |what: String| -> Result<f64> {
        let text = guest.run(&format!("/tmp/probe {what}"))?.text();
        text.trim().parse().with_context(|| text)
    };
    let resource = |bar: u32| format!("/sys/bus/pci/devices/{slot}/resource{bar}");
    let access = |kind: &str| format!("{kind} {} {} {TIME}", resource(2), card.register);
    let (load, store) = (number(access("load"))?, number(access("store"))?);
    let fill = if card.framebuffer { number(format!("fill {} {TIME}", resource(0)))? } else { 0.0 };
    Ok([load, store, fill, cursor])
}

/// Microseconds of a move of the cursor by the driver, as the test that asks for it sees it.
fn cursor(guest: &mut Guest) -> Result<f64> {
    guest.draw(Draw::Cursor { head: 0, hot: [0, 0], at: [10, 10] })?;
    let mut times = Vec::new();
    for turn in 0..MOVES {
        let start = Instant::now();
        guest.draw(Draw::MoveCursor { head: 0, at: [turn, turn] })?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Builds the program that measures, without anything that a guest would have to have.
fn probe() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let folder = workspace::target().join("guest");
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--quiet", "--release", "--target", TARGET, "-p", "beamsplit-guest-probe", "--target-dir"]);
    cargo.arg(&folder).env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.envs([("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols"), ("CARGO_PROFILE_RELEASE_LTO", "off")]);
    checked(cargo).context("The probe does not build")?;
    Ok(folder.join(TARGET).join("release/guest-probe"))
}
