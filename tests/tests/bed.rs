//! The bed itself, on QEMU's own virtio-gpu: what the other tests rely on.

use anyhow::Result;
use serde_json::json;
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::{Config, Draw, Gpu, Guest};

#[test]
fn the_agent_runs_commands_and_draws_what_the_host_then_sees() -> Result<()> {
    let mut guest = Guest::boot(Config::mini().gpu_with(Gpu::Qemu, "max_outputs=2"))?;

    let output = guest.try_run("head -c 3 /dev/zero; echo wrong >&2; exit 3")?;
    assert_eq!(
        (output.code, output.stdout.as_slice(), output.stderr.as_slice()),
        (3, b"\0\0\0".as_slice(), b"wrong\n".as_slice())
    );
    guest.put("/tmp/file", 0o755, &[0, 1, 255])?;
    assert_eq!(guest.get("/tmp/file")?, [0, 1, 255]);
    assert_eq!(guest.run("stat -c %a /tmp/file")?.text(), "755");
    assert!(guest.run("exit 7").is_err());
    let pid = guest.spawn("echo begun; sleep 1000")?;
    guest.wait_for(&format!("grep begun /tmp/spawn.{pid}"))?;

    let heads = guest.heads()?;
    assert_eq!(heads.len(), 2);
    assert!(heads[0].connected && !heads[1].connected, "{heads:?}");
    assert!(!heads[0].edid.is_empty());
    let (width, height, _) = heads[0].modes[0];

    let first = guest.show(0, width, height)?;
    guest.assert_shows(0, &first)?;
    let second = guest.damage(0, [3, 5, 101, 99])?;
    assert_ne!(first, second);
    guest.assert_shows(0, &second)?;
    let third = guest.flip(0)?;
    assert_ne!(second, third);
    guest.assert_shows(0, &third)?;
    let smaller = guest.show(0, 800, 600)?;
    guest.assert_shows(0, &smaller)?;
    guest.draw(Draw::Cursor { head: 0, hot: [1, 2], at: [30, 40] })?;
    guest.draw(Draw::MoveCursor { head: 0, at: [300, 40] })?;
    guest.draw(Draw::HideCursor { head: 0 })?;

    guest.draw(Draw::Animate)?;
    let before = guest.screen()?;
    wait_until(PATIENCE, "the picture to move", || Ok((guest.screen()? != before).then_some(())))?;
    guest.screen()?.save(&tests::workspace::target().join("tmp/scene.png"))?;

    guest.draw(Draw::Release)?;
    guest.reboot()?;
    let fourth = guest.show(0, width, height)?;
    guest.assert_shows(0, &fourth)?;
    guest.reset()?;
    assert_eq!(guest.qmp("query-status", json!({}))?["status"], "running");
    guest.power_off()
}
