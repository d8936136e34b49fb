//! More than one monitor: each is somebody, has a size of its own, and shows a picture of its own.

use anyhow::{Context, Result, ensure};
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::xserver::XServer;
use tests::{Config, Device, Gpu, Guest, Head, bed, workspace};

#[test]
fn monitors_of_every_size_are_as_the_standard_says() -> Result<()> {
    let device = Device::spawn(&["--display", "none", "--heads", "1280x800,1920x1080@75"])?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::generic(&device)))?;
    let heads = guest.heads()?;
    ensure!(heads.len() == 2 && heads.iter().all(|head| head.connected), "{heads:?}");
    assert_eq!((heads[0].modes[0], heads[1].modes[0]), ((1280, 800, 60), (1920, 1080, 75)));
    different_pictures(&mut guest, &device, [(1280, 800), (1920, 1080)])?;

    let identities = [0, 1].map(|head| identity(&mut guest, head));
    let [first, second] = [&identities[0], &identities[1]].map(|identity| identity.as_deref().ok());
    ensure!(
        first.is_some() && second.is_some() && first != second,
        "Two monitors cannot be told apart: {identities:?}"
    );
    // Small and odd ones, and those for which the standard's first block has no room.
    for (step, size) in
        [(640, 480), (1366, 768), (3840, 2160), (4096, 2160), (5120, 2880), (7680, 4320)].iter().enumerate()
    {
        let resized = step % 2;
        device.resize(u32::try_from(resized)?, size.0, size.1)?;
        wait_for_size(&mut guest, resized, *size)?;
        for head in [0, 1] {
            let now = identity(&mut guest, head)?;
            assert_eq!(Some(now.as_str()), [first, second][head], "Another monitor at {size:?}");
        }
    }
    // What was shown before can be shown again.
    for head in [0, 1] {
        device.resize(head, 1024, 768)?;
        wait_for_size(&mut guest, head as usize, (1024, 768))?;
    }
    different_pictures(&mut guest, &device, [(1024, 768), (1024, 768)])
}

#[test]
fn vhost_user_gpu_pci_has_a_second_head_once_qemus_second_window_has_a_size() -> Result<()> {
    let server = XServer::start("2560x1600")?;
    let device = Device::spawn(&["--display", "vmm"])?;
    let config = Config::mini().window(&server).arguments(["-name", "heads"]);
    let mut guest = Guest::boot(config.gpu_with(Gpu::vhost_user_gpu(&device), "max_outputs=2"))?;
    let heads = guest.heads()?;
    ensure!(heads.len() == 2 && heads[0].connected && !heads[1].connected, "{heads:?}");
    let windows = [server.window("QEMU (heads-0)")?];
    ensure!(server.windows("QEMU")? == windows, "QEMU has more than one window");

    // QEMU opens a window when somebody draws on a head, and tells of a monitor when that window has a size.
    let status = format!("/sys/class/drm/card0-{}/status", heads[1].name);
    guest.run(&format!("echo on > {status}"))?;
    guest.show(1, 1024, 768)?;
    let second = server.window("QEMU (heads-1)")?;
    server.hand(&format!("windowmove {second} 0 0 windowsize --sync {second} 800 600"))?;
    wait_for_size(&mut guest, 1, (800, 600))?;
    guest.run(&format!("echo detect > {status}"))?;
    let heads = guest.heads()?;
    ensure!(heads.iter().all(|head| head.connected && !head.edid.is_empty()), "{heads:?}");
    assert_ne!(heads[0].edid, heads[1].edid);
    different_pictures(&mut guest, &device, [(1280, 800), (800, 600)])
}

/// Draws on both heads at once, and looks at both after each change of one.
fn different_pictures(guest: &mut Guest, device: &Device, sizes: [(u32, u32); 2]) -> Result<()> {
    let mut pictures = [guest.show(0, sizes[0].0, sizes[0].1)?, guest.show(1, sizes[1].0, sizes[1].1)?];
    for step in 0..3 {
        for (head, picture) in (0..).zip(&pictures) {
            guest.assert_shown(device, head, picture)?;
        }
        let head = step % 2;
        pictures[head as usize] = if step < 2 { guest.flip(head)? } else { guest.damage(head, [7, 11, 130, 17])? };
    }
    for (head, picture) in (0..).zip(&pictures) {
        guest.assert_shown(device, head, picture)?;
    }
    Ok(())
}

/// Waits until a head prefers a size.
fn wait_for_size(guest: &mut Guest, index: usize, size: (u32, u32)) -> Result<()> {
    let mut last = None;
    let found = wait_until(PATIENCE, &format!("head {index} to prefer {size:?}"), || {
        let head: Head = guest.heads()?.swap_remove(index);
        let prefers = head.modes.first().is_some_and(|mode| (mode.0, mode.1) == size);
        last = Some(head);
        Ok(prefers.then_some(()))
    });
    found.with_context(|| format!("{last:?}"))
}

/// Who a monitor says it is: what does not change with its size. What it says is what the standard says, as far as
/// edid-decode knows, which others wrote.
fn identity(guest: &mut Guest, head: usize) -> Result<String> {
    let heads = guest.heads()?;
    let head = heads.get(head).context("No such head")?;
    let edid = guest.get(&format!("/sys/class/drm/card0-{}/edid", head.name))?;
    let dir = workspace::scratch("edid-")?;
    let file = dir.path().join("edid");
    std::fs::write(&file, &edid)?;
    let mut command = bed::run::program(bed::tools()?, "usr/bin/edid-decode");
    let output =
        command.arg("--check").arg("--preferred-timings").arg(&file).output().context("Cannot run edid-decode")?;
    let words = String::from_utf8_lossy(&output.stdout);
    let conforms = output.status.success() && words.contains("EDID conformity: PASS");
    ensure!(conforms, "{}, {:?}:\n{words}", head.name, head.modes.first());
    let (width, height, _) = *head.modes.first().context("A head without modes")?;
    ensure!(words.contains(&format!("{width}x{height} ")), "{width}x{height} is not in\n{words}");
    let names = ["Manufacturer:", "Model:", "Serial Number:", "Display Product Serial Number:"];
    let line = |name: &str| words.lines().map(str::trim).find(|line| line.starts_with(name));
    let identity: Option<Vec<_>> = names.into_iter().map(line).collect();
    Ok(identity.with_context(|| format!("No identity in\n{words}"))?.join("\n"))
}
