//! A guest's OpenGL, drawn by the host over QEMU's vhost-user GPU.

use anyhow::{Context, Result};
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::progress::say;
use tests::{Config, Device, Gpu, Guest, Picture, Scene, scene, workspace};

const FRAMES: u32 = 200;

#[test]
fn opengl_of_a_guest_is_drawn_by_the_host_as_the_host_draws_it_itself_and_shown_on_its_screen() -> Result<()> {
    // Where QEMU shows the screen, it says how large it is: small, as each frame is copied to it.
    let device = Device::spawn_rendering(&["--display", "vmm"])?;
    let mut guest = Guest::boot(Config::mesa().gpu_with(Gpu::vhost_user_gpu(&device), "xres=640,yres=480"))?;
    assert!(device.renderers()?.is_empty(), "A guest that draws nothing has processes for it");

    scene::bring(&mut guest)?;
    let drawn = Scene::in_guest(&mut guest, "", "gl", FRAMES)?;
    say(format_args!("in the guest: {}", drawn.words));
    let on_host = Scene::on_host("gl", FRAMES)?;
    say(format_args!("on the host: {}", on_host.words));
    assert!(drawn.renderer.starts_with("virgl ("), "Drawn by {}", drawn.renderer);
    assert!(on_host.renderer.starts_with("llvmpipe"), "Drawn by {}", on_host.renderer);
    drawn.assert_same(&on_host)?;

    // A buffer of the console's kind in a context: OpenGL sees what the processor wrote, and the processor what OpenGL drew.
    let dumb = Scene::in_guest(&mut guest, "", "dumb", 1)?;
    say(format_args!("a dumb buffer: {}", dumb.words));
    assert!(dumb.renderer.starts_with("virgl ("), "Drawn by {}", dumb.renderer);
    assert!(dumb.words.contains("sampled 65536 right") && dumb.words.contains("drawn 65536 right"));

    let names = guest.run("eglinfo.x86_64-linux-gnu -B -p surfaceless")?.text();
    let named = names.lines().find(|line| line.contains("renderer: virgl ("));
    say(format_args!("{}", named.context("EGL names another renderer")?));

    // A benchmark that people know, so many frames of each scene.
    for scene in ["build", "texture"] {
        let command = format!("glmark2-es2-drm --off-screen -s 256x256 -b {scene}:nframes=25:duration=1000");
        let words = guest.run(&command)?.text();
        assert!(words.contains("virgl ("), "{words}");
        let rate = words.lines().find(|line| line.contains("FPS:")).with_context(|| words.clone())?;
        say(format_args!("glmark2: {rate}"));
    }

    // It ends when something can be read from its standard input.
    guest.spawn("sleep 1000 | kmscube -c 300 >/tmp/cube 2>&1")?;
    let cube = cube_on(&device)?;
    cube.save(&workspace::target().join("tmp/virgl.png"))?;
    let in_qemu = wait_until(PATIENCE, "a cube in QEMU", || Ok(cubic(&guest.screen()?).then_some(())));
    in_qemu.with_context(|| format!("{guest}"))?;
    let moves = wait_until(PATIENCE, "the cube to turn", || {
        let picture = device.screen()?;
        Ok((picture != cube && cubic(&picture)).then_some(()))
    });
    moves.with_context(|| format!("{guest}"))?;
    guest.wait_for("grep Rendered /tmp/cube")?;
    say(format_args!("kmscube: {}", guest.run("grep Rendered /tmp/cube | tail -n 1")?.text()));
    let stats = device.stats()?;
    say(format_args!("{stats}"));
    Ok(())
}

/// Waits until a cube is on a screen.
fn cube_on(device: &Device) -> Result<Picture> {
    wait_until(PATIENCE, "a cube on the screen", || Ok(device.screen_if_lit()?.filter(cubic)))
}

/// Whether a picture has many colours, as a shaded cube does and a console does not.
fn cubic(picture: &Picture) -> bool {
    picture.colours() > 200
}
