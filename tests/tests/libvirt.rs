//! libvirt finds the device by itself, starts one for each display of a domain, and leaves none behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::guest::PATIENCE;
use tests::libvirt::Libvirt;
use tests::manager::Manager;
use tests::process::wait_until;
use tests::progress::say;
use tests::{Draw, bed, workspace};

const DEVICE: &str = "beamsplit-device";
const VIEWER: &str = "beamsplit";
const QEMU: &str = "qemu-system-x86_64";
/// A file of types for whom it does not matter.
const NO_TYPES: &str = "defaults = true\n";

#[test]
fn a_domain_with_two_displays_is_shown_paused_resumed_and_destroyed() -> Result<()> {
    let program = workspace::binary(DEVICE)?;
    let libvirt = Libvirt::start(&description(&program)?)?;
    // The host's manager offers nothing of its own here, and lists what it did not start.
    let manager = Manager::start(NO_TYPES)?;
    // What libvirt cannot pass comes from the daemon's user's own file.
    let settings = format!("control-socket = \"{}/{{pid}}.sock\"\n", manager.runtime().display());
    fs::create_dir_all(libvirt.path("config/beamsplit"))?;
    fs::write(libvirt.path("config/beamsplit/device.toml"), settings)?;

    let mut domain = libvirt.create("screen", 2)?;
    let devices = libvirt.programs(DEVICE)?;
    assert_eq!(devices.len(), 2, "One process for each display");
    assert_eq!(libvirt.programs(QEMU)?.len(), 1);
    assert_eq!(
        listed(&manager)?,
        sorted(&devices),
        "Each by its control socket, as the process that the kernel says it is"
    );
    let table = manager.tell(&["list"])?;
    assert!(devices.iter().all(|pid| table.contains(&pid.to_string())), "{table}");

    domain.wait_for_boot()?;
    let cards = domain.run("dmesg | grep -c 'Initialized virtio_gpu'")?;
    assert_eq!(cards, "2", "The guest has two cards");
    let first = domain.show(1024, 768)?;
    domain.assert_shows(&first)?;
    let second = domain.show(800, 600)?;
    assert_ne!(first, second);
    domain.assert_shows(&second)?;

    // Paused, the picture stands still; resumed, it goes on, and so does the same process.
    domain.draw(Draw::Animate)?;
    let start = domain.screenshot(0)?;
    wait_until(PATIENCE, "the picture to move", || Ok((domain.screenshot(0)? != start).then_some(())))?;
    domain.virsh(&["suspend"])?;
    // What was on its way to QEMU when the guest was stopped may come after that.
    let mut paused = domain.screenshot(0)?;
    wait_until(PATIENCE, "the picture to stand still", || {
        let now = domain.screenshot(0)?;
        Ok((std::mem::replace(&mut paused, now.clone()) == now).then_some(()))
    })?;
    for _ in 0..3 {
        assert_eq!(domain.screenshot(0)?, paused);
    }
    paused.save(&workspace::target().join("tmp/libvirt.png"))?;
    domain.virsh(&["resume"])?;
    wait_until(PATIENCE, "the picture to move again", || Ok((domain.screenshot(0)? != paused).then_some(())))?;
    let third = domain.show(1024, 768)?;
    domain.assert_shows(&third)?;
    assert_eq!(libvirt.programs(DEVICE)?, devices);

    // What the device would lose is not saved: QEMU itself says no, and says why.
    let reason = "vhost-user backend lacks VHOST_USER_PROTOCOL_F_LOG_SHMFD";
    let answer = domain.qmp(r#"{"execute":"migrate","arguments":{"uri":"file:/dev/null"}}"#)?;
    let refusal = answer["error"]["desc"].as_str().context("QEMU did not refuse to migrate")?;
    assert!(refusal.contains(reason), "{refusal}");
    let refusal = domain.virsh_refuses(&["save", &libvirt.path("saved").to_string_lossy()])?;
    assert!(refusal.contains(reason), "{refusal}");
    say(format_args!("virsh save: {refusal}"));
    let fourth = domain.show(800, 600)?;
    domain.assert_shows(&fourth)?;
    assert_eq!(libvirt.programs(DEVICE)?, devices);

    // A manager that ends leaves what is not its own.
    drop(manager);
    assert_eq!(libvirt.programs(DEVICE)?, devices);

    domain.virsh(&["destroy"])?;
    nothing_is_left(&libvirt)?;

    // The next domain gets a device of its own, and by another file a viewer too.
    fs::write(libvirt.path("config/beamsplit/device.toml"), "display = [\"vmm\", \"vnc=127.0.0.1:0\"]\n")?;
    let next = libvirt.create("next", 1)?;
    wait_until(PATIENCE, "a viewer", || Ok((libvirt.programs(VIEWER)?.len() == 1).then_some(())))?;
    assert!(libvirt.programs(DEVICE)?.iter().all(|process| !devices.contains(process)));
    wait_until(PATIENCE, "the firmware's text", || Ok((next.screenshot(0)?.colours() > 1).then_some(())))?;
    next.virsh(&["destroy"])?;
    nothing_is_left(&libvirt)
}

/// The processes of devices that a manager lists and did not start.
fn listed(manager: &Manager) -> Result<Vec<u32>> {
    let list = manager.ask(&["list"])?;
    let foreign = list["foreign"].as_array().context("No list of others")?;
    let pid = |device: &Value| u32::try_from(device["pid"].as_u64()?).ok();
    let pids: Vec<u32> = foreign.iter().filter_map(pid).collect();
    ensure!(pids.len() == foreign.len() && foreign.iter().all(|device| device["managed"] == false), "{list}");
    Ok(sorted(&pids))
}

fn sorted(pids: &[u32]) -> Vec<u32> {
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    pids
}

/// What a package installs as libvirt's file, for a program that lies elsewhere.
fn description(program: &Path) -> Result<String> {
    let file = workspace::root().join("packaging/10-beamsplit.json");
    let mut description: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let installed = Path::new(description["binary"].as_str().context("No binary in libvirt's file")?);
    assert_eq!(installed.file_name(), program.file_name());
    description["binary"] = program.to_str().context("A path that is no UTF-8")?.into();
    Ok(description.to_string())
}

/// libvirt returns from destroy when QEMU is gone, and tells our processes to end.
fn nothing_is_left(libvirt: &Libvirt) -> Result<()> {
    wait_until(PATIENCE, "the processes to end", || {
        let left = [DEVICE, VIEWER, QEMU].map(|name| libvirt.programs(name));
        Ok(left.into_iter().collect::<Result<Vec<_>>>()?.concat().is_empty().then_some(()))
    })
}

#[test]
fn the_capabilities_are_what_libvirt_asks_for() -> Result<()> {
    let mut command = Command::new(workspace::binary(DEVICE)?);
    command.arg("--print-capabilities");
    let output = bed::apt::checked(command)?;
    let capabilities: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(capabilities["type"], "gpu");
    // With "render-node" libvirt looks for one in /dev/dri and starts no domain without.
    let features = capabilities["features"].as_array().context("No list of features")?;
    let has_node = fs::read_dir("/dev/dri").is_ok_and(|mut nodes| nodes.next().is_some());
    assert!(has_node || !features.contains(&"render-node".into()), "{features:?}");
    Ok(())
}
