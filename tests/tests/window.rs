//! A window on the host's desktop: what it shows, what is typed and pulled in it, and how it goes. No guest: the device is the
//! test.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result};
use frames::{Cursor, Input, InputEvent, ModeRequest, Rect};
use tests::process::{is_asleep, sleeps, wait_until};
use tests::stage::{Setting, Stage};
use tests::xserver::XServer;
use tests::{Picture, vnc};

const PATIENCE: u64 = 60;

/// BTN_LEFT and the others.
const BUTTON: u16 = 0x110;

fn setting(server: &XServer) -> Setting {
    let display = vec![("DISPLAY", server.display()), ("HOME", server.runtime_dir())];
    Setting { words: vec!["--window".into()], display: Some(display), ..Setting::default() }
}

fn with_vnc(setting: Setting) -> Setting {
    let words = [setting.words, vec!["--vnc".into(), "127.0.0.1:0".into()]].concat();
    Setting { words, ..setting }
}

/// Where VNC clients come.
fn vnc_port(stage: &Stage) -> Result<u16> {
    wait_until(PATIENCE, "the port for VNC", || {
        let log = stage.log()?;
        let port = log.split("VNC on 127.0.0.1:").nth(1).and_then(|rest| rest.split(',').next());
        Ok(port.and_then(|port| port.parse().ok()))
    })
}

fn shows(server: &XServer, window: u32, picture: &Picture) -> Result<()> {
    picture.wait_until_shown(|| server.capture(Some(window)))
}

/// Nothing moves: no thread of the viewer wakes. What was under way when the last picture was seen comes to rest first; on a machine that
/// has much to do, others may be late with what they still have to say to it.
fn rests(server: &XServer, stage: &mut Stage, window: u32) -> Result<()> {
    let viewer = stage.viewer().context("No viewer")?;
    let waited = wait_until(PATIENCE, "an idle viewer without wake-ups", || {
        let before = (sleeps(viewer)?, stage.frames(0));
        for _ in 0..20 {
            server.capture(Some(window))?;
        }
        Ok(((sleeps(viewer)?, stage.frames(0)) == before && is_asleep(viewer)?).then_some(()))
    });
    waited.with_context(|| format!("{:?} sleeps, {:?} frames", sleeps(viewer).ok(), stage.frames(0)))?;
    assert!(stage.frames(0).1, "It waits for a picture");
    Ok(())
}

fn until_logged(stage: &Stage, line: &str) -> Result<()> {
    wait_until(PATIENCE, line, || Ok(stage.log()?.contains(line).then_some(())))
}

fn did(input: Input) -> InputEvent {
    InputEvent::Input { head: 0, input }
}

fn key(code: u16, pressed: bool) -> InputEvent {
    did(Input::Key { code, pressed })
}

fn button(number: u16, pressed: bool) -> InputEvent {
    did(Input::Button { code: BUTTON + number, pressed })
}

/// A pixel of a head: 0 is the first one, 65535 the last.
fn at(pixel: (u32, u32), size: (u32, u32)) -> InputEvent {
    let share = |at: u32, length: u32| ((at * 65535 + (length - 1) / 2) / (length - 1)) as u16;
    did(Input::Pointer { x: share(pixel.0, size.0), y: share(pixel.1, size.1) })
}

#[test]
fn a_window_shows_the_picture_to_the_byte_and_costs_nothing_when_idle_or_hidden() -> Result<()> {
    let mut server = XServer::start("1600x1200")?;
    server.manage()?;
    let mut stage = Stage::new(&setting(&server))?;
    let window = server.window("stage - Beamsplit")?;
    assert_eq!(server.size(window)?, (1024, 768), "The head's size");
    let mut picture = stage.show(0, 1024, 768)?;
    shows(&server, window, &picture)?;
    for (part, colour) in [(Rect::new(0, 0, 1, 1), [9, 8, 7]), (Rect::new(600, 500, 424, 268), [1, 2, 3])] {
        stage.fill(0, part, colour)?;
        let [x, y, width, height] = [part.x, part.y, part.width, part.height].map(|length| length as usize);
        picture.fill((x, y), (width, height), colour);
        shows(&server, window, &picture)?;
    }
    server.keep("window.png")?;

    rests(&server, &mut stage, window)?;

    // Sizes that differ: whole pixels where they fit, else the picture's shape.
    for (width, height, side) in [(512, 384, 2), (500, 300, 2), (340, 100, 3), (1000, 768, 1)] {
        let small = stage.show(0, width, height)?;
        shows(&server, window, &small.in_window(side, (1024, 768)))?;
    }
    let wide = stage.show(0, 1500, 768)?;
    let corners = |picture: &Picture, top: usize, bottom: usize| {
        [(0, top), (picture.size().0 - 1, top), (0, bottom)].map(|(x, y)| picture.pixel(x, y))
    };
    wait_until(PATIENCE, "the picture in its shape", || {
        let seen = server.capture(Some(window))?;
        Ok((corners(&seen, 122, 645) == corners(&wide, 0, 767) && seen.pixel(5, 121) == Some([0; 3])).then_some(()))
    })?;
    assert_eq!(server.size(window)?, (1024, 768), "A guest's new mode moves no window");

    // Hidden: the head is not looked at. Shown again: the newest.
    stage.show(0, 1024, 768)?;
    server.minimize(window)?;
    costs_nothing(&mut stage)?;
    let newest = stage.show(0, 1024, 768)?;
    server.hand(&format!("windowmap {window} windowactivate {window}"))?;
    shows(&server, window, &newest)?;
    // Covered: the same.
    let cover = server.cover()?;
    costs_nothing(&mut stage)?;
    let newest = stage.show(0, 1024, 768)?;
    server.uncover(cover)?;
    shows(&server, window, &newest)
}

/// Nobody looks at the head, so pictures of it go nowhere.
fn costs_nothing(stage: &mut Stage) -> Result<()> {
    let viewer = stage.viewer().context("No viewer")?;
    let mut before = (0, 0);
    wait_until(PATIENCE, "nobody to look", || {
        stage.fill(0, Rect::new(0, 0, 1024, 768), [0; 3])?;
        let (frames, awaited) = stage.frames(0);
        let now = (frames, sleeps(viewer)?);
        Ok((std::mem::replace(&mut before, now) == now && !awaited && is_asleep(viewer)?).then_some(()))
    })?;
    let frames = stage.frames(0);
    for turn in 0..20 {
        stage.fill(0, Rect::new(turn, 0, 1, 1), [7; 3])?;
    }
    assert_eq!(stage.frames(0), frames, "Pictures for a window that nobody sees");
    Ok(())
}

#[test]
fn what_is_done_in_a_window_reaches_the_device_and_all_goes_up_when_it_loses_the_focus() -> Result<()> {
    let mut server = XServer::start("1600x1200")?;
    server.manage()?;
    let mut stage = Stage::new(&setting(&server))?;
    let window = server.window("stage")?;
    let picture = stage.show(0, 1024, 768)?;
    shows(&server, window, &picture)?;
    server.focus(window)?;
    server.hand(&format!("mousemove --window {window} 10 20"))?;
    stage.typed_until(at((10, 20), (1024, 768)))?;
    server.hand(&format!("mousemove --window {window} 1023 767"))?;
    stage.typed_until(did(Input::Pointer { x: u16::MAX, y: u16::MAX }))?;

    // KEY_A, KEY_LEFTSHIFT, KEY_RIGHT: places of keys, whatever letters are on them.
    server.hand("key a")?;
    assert_eq!(stage.typed_until(key(30, false))?, [key(30, true), key(30, false)]);
    server.hand("keydown shift key Right keyup shift")?;
    let typed = stage.typed_until(key(42, false))?;
    assert_eq!(typed, [key(42, true), key(106, true), key(106, false), key(42, false)]);

    // Left, middle, right; the wheel up, down, left and right; back and forward.
    for (name, number) in [("1", 0), ("2", 2), ("3", 1), ("8", 3), ("9", 4)] {
        server.hand(&format!("click {name}"))?;
        let events = stage.typed_until(button(number, false))?;
        assert!(events.contains(&button(number, true)), "{events:?}");
    }
    for (name, vertical, horizontal) in [("4", 120, 0), ("5", -120, 0), ("6", 0, -120), ("7", 0, 120)] {
        server.hand(&format!("click {name}"))?;
        stage.typed_until(did(Input::Wheel { vertical, horizontal }))?;
    }

    // A key that is held while another window gets the focus goes up.
    server.hand("keydown b")?;
    stage.typed_until(key(48, true))?;
    server.distract()?;
    stage.typed_until(key(48, false))?;
    server.hand("keyup b")?;
    server.focus(window)?;
    server.hand("key c")?;
    let mut typed = stage.typed_until(key(46, false))?;
    typed.retain(|event| matches!(event, InputEvent::Input { input: Input::Key { .. }, .. }));
    assert_eq!(typed, [key(46, true), key(46, false)]);
    // So does a button.
    server.hand("mousedown 1")?;
    stage.typed_until(button(0, true))?;
    server.distract()?;
    stage.typed_until(did(Input::ReleaseAll)).map(drop)
}

#[test]
fn the_guests_cursor_is_the_windows_own() -> Result<()> {
    let mut server = XServer::start("1600x1200")?;
    server.manage()?;
    let mut stage = Stage::new(&setting(&server))?;
    let window = server.window("stage")?;
    let picture = stage.show(0, 1024, 768)?;
    let colours = [0xff00_00ffu32, 0xff00_ff00, 0x8000_0080, 0];
    let pixels: Vec<u8> = (0..16 * 8).flat_map(|at: usize| colours[at % 4].to_le_bytes()).collect();
    stage.cursor(0, Some(Cursor { width: 16, height: 8, hot_x: 3, hot_y: 5, pixels }))?;
    server.hand(&format!("mousemove --window {window} 100 100"))?;
    let expected: Vec<u32> = (0..16 * 8).map(|at: usize| colours[at % 4]).collect();
    wait_until(PATIENCE, "the guest's cursor", || {
        let (width, height, hot, pixels) = server.pointer()?;
        Ok(((width, height, hot) == (16, 8, (3, 5)) && pixels == expected).then_some(()))
    })?;
    // It is not in the picture too, and it is hidden when the guest hides it.
    shows(&server, window, &picture)?;
    stage.cursor(0, None)?;
    wait_until(PATIENCE, "no cursor", || Ok(server.pointer()?.3.iter().all(|pixel| pixel >> 24 == 0).then_some(())))?;
    // Outside of the picture it is the host's.
    stage.show(0, 512, 300)?;
    server.hand(&format!("mousemove --window {window} 500 20"))?;
    wait_until(PATIENCE, "an arrow", || Ok(server.pointer()?.3.contains(&0xff00_0000).then_some(())))
}

#[test]
fn who_pulls_at_the_window_changes_the_guests_mode_once() -> Result<()> {
    let mut server = XServer::start("1600x1200")?;
    server.manage()?;
    let mut stage = Stage::new(&setting(&server))?;
    let window = server.window("stage")?;
    let picture = stage.show(0, 1024, 768)?;
    shows(&server, window, &picture)?;
    for (width, height) in [(700, 500), (801, 603), (640, 480)] {
        server.hand(&format!("windowsize --sync {window} {width} {height}"))?;
        let wish = loop {
            // Somebody who stands still between two of the three was at rest there.
            let wish = stage.wish()?;
            if (wish.width, wish.height) == (width, height) {
                break wish;
            }
        };
        assert_eq!(wish, ModeRequest { head: 0, width, height });
        let picture = stage.show(0, width, height)?;
        shows(&server, window, &picture)?;
    }
    // A guest that follows is not asked again: the next wish is the next pull's.
    server.focus(window)?;
    server.hand("key ctrl+alt+f")?;
    let wish = stage.wish()?;
    assert_eq!((wish.width, wish.height), (1600, 1200), "All of the monitor");
    let picture = stage.show(0, 1600, 1200)?;
    shows(&server, window, &picture)?;
    server.hand("key ctrl+alt+f")?;
    let wish = stage.wish()?;
    assert_eq!((wish.width, wish.height), (640, 480));
    // The letter was for the window: only the keys before it went to the guest.
    let typed = stage.typed()?;
    assert!(typed.contains(&key(29, true)) && !typed.contains(&key(33, true)), "{typed:?}");
    Ok(())
}

#[test]
fn a_window_asks_before_it_closes_and_the_rest_goes_on() -> Result<()> {
    let mut server = XServer::start("1600x1200")?;
    server.manage()?;
    let mut stage = Stage::new(&with_vnc(setting(&server)))?;
    let window = server.window("stage")?;
    let picture = stage.show(0, 1024, 768)?;
    shows(&server, window, &picture)?;
    server.focus(window)?;

    let differs = || Ok((server.capture(Some(window))? != picture).then_some(()));
    server.close(window)?;
    wait_until(PATIENCE, "the question", differs)?;
    server.keep("window-close.png")?;
    server.hand("key Escape")?;
    shows(&server, window, &picture)?;
    server.hand("key x")?;
    let typed = stage.typed_until(key(45, false))?;
    assert!(!typed.contains(&key(1, true)), "What answers the question is not the guest's: {typed:?}");

    server.close(window)?;
    wait_until(PATIENCE, "the question", differs)?;
    server.hand("key Return")?;
    wait_until(PATIENCE, "no window", || Ok(server.windows("stage")?.is_empty().then_some(())))?;
    // All who look elsewhere see the same as before, and what comes.
    until_logged(&stage, "The window of head 0 was closed")?;
    let port = vnc_port(&stage)?;
    picture.wait_until_shown(|| vnc::capture(port))?;
    let next = stage.show(0, 800, 600)?;
    next.wait_until_shown(|| vnc::capture(port))?;
    let typed = stage.typed()?;
    assert!(!typed.contains(&key(28, true)), "{typed:?}");
    stage.viewer().context("The viewer ended with its window").map(drop)
}

#[test]
fn an_x_server_that_dies_takes_only_the_window_along() -> Result<()> {
    let mut server = XServer::start("1600x1200")?;
    server.manage()?;
    let mut stage = Stage::new(&with_vnc(setting(&server)))?;
    let window = server.window("stage")?;
    let picture = stage.show(0, 1024, 768)?;
    shows(&server, window, &picture)?;
    let viewer = stage.viewer().context("No viewer")?;
    server.focus(window)?;
    server.hand("keydown d")?;
    stage.typed_until(key(32, true))?;
    server.kill();
    outlives(&mut stage, viewer)
}

#[test]
fn without_a_display_server_there_is_one_line_and_no_window() -> Result<()> {
    for display in [vec![], vec![("DISPLAY", ":4711".to_owned())], vec![("WAYLAND_DISPLAY", "/nowhere/0".to_owned())]] {
        let words = vec!["--window".into()];
        let mut stage = Stage::new(&with_vnc(Setting { words, display: Some(display.clone()), ..Setting::default() }))?;
        let port = vnc_port(&stage)?;
        let picture = stage.show(0, 320, 200)?;
        picture.wait_until_shown(|| vnc::capture(port))?;
        let log = stage.log()?;
        let lines = log.lines().filter(|line| line.contains("there is no window, all else goes on"));
        assert_eq!(lines.count(), 1, "{display:?}: {log}");
        assert!(!log.contains("panicked"), "{log}");
        stage.viewer().context("The viewer ended")?;
    }
    Ok(())
}

#[test]
fn an_x_server_that_cannot_read_our_memory_gets_the_pixels_and_one_of_few_colours_no_window() -> Result<()> {
    let mut server = XServer::start_with("1600x1200x24", &["-extension", "MIT-SHM"])?;
    server.manage()?;
    let mut stage = Stage::new(&setting(&server))?;
    let window = server.window("stage")?;
    // More bytes than a message has.
    stage.show(0, 1500, 1100)?;
    server.hand(&format!("windowsize --sync {window} 1500 1100"))?;
    let mut picture = stage.show(0, 1500, 1100)?;
    shows(&server, window, &picture)?;
    stage.fill(0, Rect::new(1400, 1000, 100, 100), [3, 2, 1])?;
    picture.fill((1400, 1000), (100, 100), [3, 2, 1]);
    shows(&server, window, &picture)?;

    let server = XServer::start_with("800x600x16", &[])?;
    let mut stage = Stage::new(&setting(&server))?;
    until_logged(&stage, "The X server has no screen of 24 bits a pixel: there is no window, all else goes on")?;
    stage.viewer().context("The viewer ended").map(drop)
}

/// A VNC client that takes control and does nothing with it.
fn take_control(port: u16) -> Result<TcpStream> {
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    client.write_all(b"RFB 003.008\n\x01\x00")?;
    // Its version, what it offers, that it is content, and the beginning of its screen.
    client.read_exact(&mut [0; 12 + 2 + 4 + 24])?;
    Ok(client)
}

#[test]
fn a_window_watches_while_somebody_else_controls_until_it_takes_control() -> Result<()> {
    let mut server = XServer::start("1600x1200")?;
    server.manage()?;
    let mut stage = Stage::new(&with_vnc(setting(&server)))?;
    let window = server.window("stage")?;
    let picture = stage.show(0, 1024, 768)?;
    shows(&server, window, &picture)?;
    server.focus(window)?;
    server.hand(&format!("mousemove --window {window} 50 50 key a"))?;
    stage.typed_until(key(30, false))?;

    let _client = take_control(vnc_port(&stage)?)?;
    server.window("stage - Beamsplit - watching, Ctrl+Alt+T takes control")?;
    // It says why nothing came of a key, for some seconds.
    wait_until(PATIENCE, "a notice", || {
        server.hand("key b")?;
        Ok((server.capture(Some(window))? != picture).then_some(()))
    })?;
    server.keep("window-watching.png")?;
    server.hand("key ctrl+alt+t")?;
    let title = || Ok((server.title(window)? == "stage - Beamsplit").then_some(()));
    wait_until(PATIENCE, "the title of who controls", title)?;
    shows(&server, window, &picture)?;
    server.hand("key c")?;
    let typed = stage.typed_until(key(46, false))?;
    assert!(!typed.contains(&key(48, true)), "What somebody typed who only watched: {typed:?}");
    Ok(())
}

#[test]
fn each_head_has_a_window_and_one_person_sits_before_them_all() -> Result<()> {
    let mut server = XServer::start("2400x900")?;
    server.manage()?;
    let mut stage = Stage::new(&Setting { heads: 2, ..with_vnc(setting(&server)) })?;
    let windows = [server.window("stage, screen 1 - Beamsplit")?, server.window("stage, screen 2 - Beamsplit")?];
    for (window, x) in windows.iter().zip([0, 1200]) {
        server.hand(&format!("windowmove {window} {x} 40"))?;
    }
    let pictures = [stage.show(0, 1024, 768)?, stage.show(1, 1024, 768)?];
    for (window, picture) in windows.iter().zip(&pictures) {
        shows(&server, *window, picture)?;
    }
    server.keep("window-heads.png")?;
    // Both windows are one seat: who goes from one to the other need not take control.
    server.focus(windows[1])?;
    server.hand(&format!("mousemove --window {} 0 0 key a", windows[1]))?;
    let on = |head: u8, input| InputEvent::Input { head, input };
    stage.typed_until(on(1, Input::Key { code: 30, pressed: false }))?;
    server.focus(windows[0])?;
    server.hand(&format!("mousemove --window {} 0 0 key b", windows[0]))?;
    let typed = stage.typed_until(on(0, Input::Key { code: 48, pressed: false }))?;
    assert!(typed.contains(&on(0, Input::Pointer { x: 0, y: 0 })), "{typed:?}");
    // One is closed, the other goes on.
    server.close(windows[0])?;
    server.close(windows[0])?;
    until_logged(&stage, "The window of head 0 was closed")?;
    let next = stage.show(1, 1024, 700)?;
    shows(&server, windows[1], &next.in_window(1, (1024, 768)))?;
    stage.viewer().context("The viewer ended with a window").map(drop)
}

#[test]
fn the_pointer_stays_in_the_window_while_it_is_grabbed() -> Result<()> {
    let mut server = XServer::start("1600x1200")?;
    server.manage()?;
    let mut stage = Stage::new(&setting(&server))?;
    let window = server.window("stage")?;
    let picture = stage.show(0, 1024, 768)?;
    shows(&server, window, &picture)?;
    server.focus(window)?;
    server.hand(&format!("mousemove --window {window} 500 500 key ctrl+alt+g"))?;
    server.window("stage - Beamsplit - Ctrl+Alt+G frees the pointer")?;
    // Pushed beyond the corner it stays in the corner.
    server.hand("mousemove_relative 3000 3000")?;
    stage.typed_until(did(Input::Pointer { x: u16::MAX, y: u16::MAX }))?;
    let corner = server.pointer_at()?;
    assert!(corner.0 < 1500 && corner.1 < 1100, "{corner:?}");
    server.hand("key ctrl+alt+g")?;
    let title = || Ok((server.title(window)? == "stage - Beamsplit").then_some(()));
    wait_until(PATIENCE, "a free pointer", title)?;
    server.hand("mousemove 1599 1199")?;
    assert_eq!(server.pointer_at()?, (1599, 1199));
    Ok(())
}

#[test]
fn without_a_window_manager_a_window_fills_the_screen_all_the_same() -> Result<()> {
    let server = XServer::start("1280x800")?;
    let words = vec!["--window=fullscreen=nowhere".into()];
    let mut stage = Stage::new(&Setting { words, ..setting(&server) })?;
    let wish = stage.wish()?;
    assert_eq!((wish.width, wish.height), (1280, 800));
    let picture = stage.show(0, 1280, 800)?;
    shows(&server, server.window("stage")?, &picture)?;
    until_logged(&stage, "No such monitor to fill; there are 0 (screen)")
}

/// A Wayland compositor in a window of the X server. Its words, and the window's title.
fn compose(server: &mut XServer, words: &[&str]) -> Result<Vec<(&'static str, String)>> {
    // Its panel is there some time after the first windows, and may cover a part of them.
    let settings = std::path::PathBuf::from(server.runtime_dir()).join("weston.ini");
    std::fs::write(&settings, "[shell]\npanel-position=none\n")?;
    let settings = format!("--config={}", settings.display());
    let all = [&["--backend=x11", &settings, "--idle-time=0", "--socket=stage"], words].concat();
    server.spawn("weston", &all)?;
    let (folder, socket) = (server.runtime_dir(), "stage".to_owned());
    let path = std::path::PathBuf::from(&folder).join(&socket);
    wait_until(PATIENCE, "the compositor", || Ok(path.exists().then_some(())))?;
    Ok(vec![("WAYLAND_DISPLAY", socket), ("XDG_RUNTIME_DIR", folder.clone()), ("HOME", folder)])
}

#[test]
fn a_wayland_window_shows_the_picture_takes_keys_and_outlives_its_compositor() -> Result<()> {
    let mut server = XServer::start("1300x900")?;
    let display = compose(&mut server, &["--shell=kiosk", "--width=1280", "--height=800"])?;
    let words = vec!["--window".into()];
    let mut stage = Stage::new(&with_vnc(Setting { words, display: Some(display), ..Setting::default() }))?;
    let weston = server.window("Weston")?;
    // This shell gives a window all of the monitor: the guest follows.
    server.hand("mousemove 1299 899")?;
    let wish = stage.wish()?;
    assert_eq!(wish, ModeRequest { head: 0, width: 1280, height: 800 });
    let mut picture = stage.show(0, 1280, 800)?;
    shows(&server, weston, &picture)?;
    for turn in 0..8u32 {
        let part = Rect::new(turn * 150, turn * 90, 40 + turn, 50);
        stage.fill(0, part, [turn as u8; 3])?;
        let [x, y, width, height] = [part.x, part.y, part.width, part.height].map(|length| length as usize);
        picture.fill((x, y), (width, height), [turn as u8; 3]);
        shows(&server, weston, &picture)?;
    }
    server.keep("window-wayland.png")?;
    rests(&server, &mut stage, weston)?;
    server.focus(weston)?;
    server.hand("mousemove 100 50 key a click 1")?;
    let typed = stage.typed_until(button(0, false))?;
    for event in [at((100, 50), (1280, 800)), key(30, true), key(30, false), button(0, true)] {
        assert!(typed.contains(&event), "{event:?} is not in {typed:?}");
    }
    server.hand("keydown d")?;
    stage.typed_until(key(32, true))?;
    let viewer = stage.viewer().context("No viewer")?;
    server.end("weston");
    outlives(&mut stage, viewer)
}

/// The window is gone, with one line that says why; what was held is up, and all others see what comes.
fn outlives(stage: &mut Stage, viewer: u32) -> Result<()> {
    stage.typed_until(did(Input::ReleaseAll))?;
    until_logged(stage, "the virtual machine and all others who look go on")?;
    let port = vnc_port(stage)?;
    let next = stage.show(0, 800, 600)?;
    next.wait_until_shown(|| vnc::capture(port))?;
    assert_eq!(stage.viewer(), Some(viewer));
    let log = stage.log()?;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(!log.contains("panicked"), "{log}");
    Ok(())
}

#[test]
fn a_dense_wayland_monitor_shows_the_heads_pixels_as_they_are() -> Result<()> {
    let mut server = XServer::start("2600x1700")?;
    let display = compose(&mut server, &["--width=1280", "--height=800", "--scale=2"])?;
    let mut stage =
        Stage::new(&Setting { words: vec!["--window".into()], display: Some(display), ..Setting::default() })?;
    server.window("Weston")?;
    // The pointer is beside the window.
    server.hand("mousemove 20 1590")?;
    let picture = stage.show(0, 1024, 768)?;
    // Somewhere on the monitor, but as it is.
    let found = || Ok(server.capture(None)?.contains(&picture).then_some(()));
    let found = wait_until(PATIENCE, "the picture", found);
    server.keep("window-dense.png")?;
    found
}

#[test]
fn a_window_fills_the_monitor_of_that_name() -> Result<()> {
    let mut server = XServer::start("1700x700")?;
    let display = compose(&mut server, &["--width=800", "--height=600", "--output-count=2"])?;
    let monitors = ["screen0", "screen1"].map(|name| server.window(&format!("Weston Compositor - {name}")));
    let monitors: Vec<u32> = monitors.into_iter().collect::<Result<_>>()?;
    server.hand(&format!("windowmove --sync {} 850 0", monitors[1]))?;
    for (word, monitor) in [("fullscreen=screen1", 1), ("fullscreen=0", 0), ("fullscreen=1", 1)] {
        // The pointer is on the other one.
        server.hand(&format!("mousemove --window {} 300 300 mousemove_relative 5 5", monitors[1 - monitor]))?;
        let (words, display) = (vec![format!("--window={word}")], Some(display.clone()));
        let mut stage = Stage::new(&Setting { words, display, ..Setting::default() })?;
        let wish = stage.wish()?;
        assert_eq!((wish.width, wish.height), (800, 600), "{word}");
        let picture = stage.show(0, 800, 600)?;
        shows(&server, monitors[monitor], &picture)?;
        server.keep("window-fullscreen.png")?;
    }
    Ok(())
}
