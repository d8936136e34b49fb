//! People in front of real guests: they type and point in a browser, in VNC clients and in windows on the host's desktop, and the
//! guest does what they wanted.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tests::browser::Browser;
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::progress::say;
use tests::vnc::{Typist, Viewer};
use tests::xserver::XServer;
use tests::{Config, Device, Gpu, Guest, Input, Picture, Watch, workspace};

const EV_KEY: u16 = 1;
const EV_REL: u16 = 2;
const EV_ABS: u16 = 3;
const EV_REP: u16 = 0x14;
const REP_DELAY: u16 = 0;
const KEY_Q: u16 = 16;
const KEY_A: u16 = 30;
const KEY_S: u16 = 31;
const KEY_D: u16 = 32;
const KEY_F: u16 = 33;
const KEY_LEFTSHIFT: u16 = 42;
const KEY_Z: u16 = 44;
const BTN_LEFT: u16 = 0x110;
const BTN_RIGHT: u16 = 0x111;
const ABS_X: u16 = 0;
const ABS_Y: u16 = 1;
const REL_WHEEL: u16 = 8;

/// What the guest's kernel says of a key that is held for long.
const REPEATED: i32 = 2;

/// Milliseconds for which a key is held before the guest's kernel repeats it: what it does by itself, and longer than any test takes.
const USUAL: i32 = 250;
const NEVER: i32 = 3_600_000;

/// Values of an absolute axis.
const AXIS: i32 = 1 << 15;

/// The name of the guest's input device, as far as it matters.
const DEVICE: &str = "keyboard and pointer";

const FIRST: &str = "the-first-one-who-may-type";
const SECOND: &str = "the-second-one-who-may-type";
const LOOK: &str = "the-one-who-may-only-look";

const CONNECTED: &str = "document.body?.dataset?.state === 'connected' && document.querySelector('canvas')?.width > 0";

fn write_tokens(file: &Path, control: &[&str]) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(file)?;
    Ok(file.write_all(format!("control = {control:?}\nlook = [{LOOK:?}]\n").as_bytes())?)
}

/// A shell on the screen.
fn open_shell(guest: &mut Guest) -> Result<()> {
    guest.run("dmesg -n 1; echo 0 > /sys/class/graphics/fbcon/cursor_blink; clear > /dev/tty1")?;
    guest.spawn("PS1='shell: ' HOME=/tmp setsid -c sh -i </dev/tty1 >/dev/tty1 2>&1")?;
    wait_for_line(guest, |line| line == "shell:")
}

fn wait_for_line(guest: &mut Guest, is_there: impl Fn(&str) -> bool) -> Result<()> {
    let mut text = String::new();
    let waited = wait_until(PATIENCE, "a line on the guest's screen", || {
        text = guest.terminal(1)?;
        Ok(text.lines().any(&is_there).then_some(()))
    });
    waited.with_context(|| format!("The guest's screen shows:\n{text}"))
}

/// Says when keys are repeated. Where words are typed they are not: a machine that stands still for a moment between a key's going down
/// and up holds it, for the guest.
fn repeat_after(guest: &mut Guest, watch: &Watch, milliseconds: i32) -> Result<()> {
    guest.tell(watch, EV_REP, REP_DELAY, milliseconds)
}

/// Waits until a command that was typed has written its words to the screen, and then, as `tee` does it, to a file.
fn wait_for_words(guest: &mut Guest, words: &str) -> Result<()> {
    wait_for_line(guest, |line| line == words)?;
    let (line, mut file) = (format!("{words}\n").into_bytes(), Vec::new());
    let written = wait_until(PATIENCE, "the words in the file", || {
        file = guest.get("/tmp/typed")?;
        Ok((file == line).then_some(()))
    });
    written.with_context(|| format!("The file has {:?}", String::from_utf8_lossy(&file)))
}

/// Waits until somebody sees what the device shows.
fn shows_the_same(device: &Device, mut look: impl FnMut() -> Result<Option<Picture>>) -> Result<()> {
    wait_until(PATIENCE, "the device's picture", || Ok((look()? == Some(device.screen()?)).then_some(())))
}

/// Waits until a key is up or down in the guest.
fn wait_for_key(guest: &mut Guest, watch: &mut Watch, code: u16, is_down: bool) -> Result<()> {
    let what = format!("key {code} to go {}", if is_down { "down" } else { "up" });
    guest.wait_for_events(watch, &what, |watch| watch.last(EV_KEY, code).is_some_and(|value| (value != 0) == is_down))
}

/// The pixel of a screen of that size that the guest's pointer is on.
fn pixel(watch: &Watch, (width, height): (u32, u32)) -> Option<(i32, i32)> {
    let on = |axis, length: u32| Some(watch.last(EV_ABS, axis)? * length as i32 / AXIS);
    Some((on(ABS_X, width)?, on(ABS_Y, height)?))
}

fn is_near(seen: Option<(i32, i32)>, wanted: (i32, i32)) -> bool {
    seen.is_some_and(|seen| (seen.0 - wanted.0).abs() <= 1 && (seen.1 - wanted.1).abs() <= 1)
}

/// What was pressed went up again, each time.
fn assert_all_is_up(watch: &Watch) {
    let mut down = Vec::new();
    for (code, value) in watch.strokes() {
        match value {
            1 => down.push(code),
            _ => down.retain(|key| *key != code),
        }
    }
    assert!(down.is_empty(), "{down:?} are down; {:?}", watch.words());
    assert!(!watch.has_lost(), "Nobody took the guest's events");
}

/// The guest's first mode.
fn mode(guest: &mut Guest) -> Result<(u32, u32)> {
    let mode = *guest.heads()?.first().and_then(|head| head.modes.first()).context("A head without modes")?;
    Ok((mode.0, mode.1))
}

fn assert_no_faults(device: &Device) -> Result<()> {
    let stats = device.stats()?;
    assert_eq!((&stats["device"]["errors"], &stats["device"]["panics"]), (&0.into(), &0.into()), "{stats}");
    say(format_args!("input: {}", stats["input"]));
    Ok(())
}

fn kill_viewer(device: &Device) -> Result<Pid> {
    let killed = device.viewer()?.context("No viewer process")?;
    kill_process(killed, Signal::KILL)?;
    Ok(killed)
}

/// A person at a page, who sees the screen.
fn open_page(device: &Device, token: &str) -> Result<Browser> {
    let mut page = Browser::open(&format!("http://127.0.0.1:{}/#token={token}", device.port("web")?))?;
    page.until(CONNECTED)?;
    Ok(page)
}

fn until_floor(page: &mut Browser, is: &str) -> Result<()> {
    page.until(&format!("document.body.dataset.floor === '{is}'"))
}

fn take_control(page: &mut Browser) -> Result<()> {
    page.click("#control")?;
    until_floor(page, "mine")
}

/// Types a command on an empty line, and waits for what it writes to the screen and to a file.
fn command_from(page: &mut Browser, guest: &mut Guest, words: &str) -> Result<()> {
    for pressed in [true, false] {
        page.key("ControlLeft", "Control", pressed)?;
        if pressed {
            page.key("KeyU", "u", true)?;
            page.key("KeyU", "u", false)?;
        }
    }
    page.type_text(&format!("echo {words} | tee /tmp/typed\n"))?;
    wait_for_words(guest, words)?;
    Ok(())
}

#[test]
fn a_command_is_typed_on_the_page_by_one_person_at_a_time_and_no_key_outlives_a_token_or_a_viewer() -> Result<()> {
    let dir = workspace::scratch("console-")?;
    let tokens = dir.path().join("tokens");
    write_tokens(&tokens, &[FIRST, SECOND])?;
    let words = ["--display", "web=127.0.0.1:0", "--display", "vnc=127.0.0.1:0", "--tokens"];
    let mut device = Device::spawn_with_input(&[&words[..], &[&tokens.display().to_string()]].concat())?;
    let console = Input::Generic(device.input_socket());
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::generic(&device)).input(console))?;
    open_shell(&mut guest)?;
    let mut page = open_page(&device, FIRST)?;
    let before = page.canvas()?.context("No picture")?;
    let mut watch = guest.watch(DEVICE)?;
    repeat_after(&mut guest, &watch, NEVER)?;
    take_control(&mut page)?;

    // Shift, Enter, and what the guest answers: on its screen, and on the page's.
    command_from(&mut page, &mut guest, "Hello, Page 1!")?;
    shows_the_same(&device, || Ok(page.canvas()?.filter(|seen| *seen != before)))?;
    page.screenshot(&workspace::target().join("tmp/console-page.png"))?;
    wait_for_key(&mut guest, &mut watch, KEY_LEFTSHIFT, false)?;
    assert_all_is_up(&watch);

    // The guest repeats a key that is held, until it goes up.
    repeat_after(&mut guest, &watch, USUAL)?;
    page.key("KeyA", "a", true)?;
    let repeats = |watch: &Watch| watch.words().iter().filter(|word| **word == (EV_KEY, KEY_A, REPEATED)).count();
    guest.wait_for_events(&mut watch, "a key to be repeated", |watch| repeats(watch) >= 3)?;
    wait_for_line(&mut guest, |line| line.starts_with("shell: aaaa"))?;
    page.key("KeyA", "a", false)?;
    wait_for_key(&mut guest, &mut watch, KEY_A, false)?;
    repeat_after(&mut guest, &watch, NEVER)?;

    // A movement, a click, the wheel.
    let size = mode(&mut guest)?;
    for (x, y) in [(320, 600), (1279, 0), (640, 400)] {
        let share = |at: i32, length: u32| (f64::from(at) + 0.5) / f64::from(length);
        let place = page.place("canvas", share(x, size.0), share(y, size.1))?;
        page.mouse("mouseMoved", place, "none")?;
        let there = |watch: &Watch| is_near(pixel(watch, size), (x, y));
        guest.wait_for_events(&mut watch, &format!("the pointer on {x}, {y} of {size:?}"), there)?;
        for (button, code) in [("left", BTN_LEFT), ("right", BTN_RIGHT)] {
            page.mouse("mousePressed", place, button)?;
            wait_for_key(&mut guest, &mut watch, code, true)?;
            page.mouse("mouseReleased", place, button)?;
            wait_for_key(&mut guest, &mut watch, code, false)?;
        }
        assert!(there(&watch), "A click moved the pointer: {:?}", pixel(&watch, size));
        page.wheel(place, 0.0, 200.0)?;
        guest.wait_for_events(&mut watch, "the wheel", |watch| watch.has(EV_REL, REL_WHEEL, -1))?;
    }

    // Others look. Who may type takes control on purpose: what was down goes up, and nothing more comes from who had it.
    let mut other = open_page(&device, LOOK)?;
    other.until("document.querySelector('#mode').textContent === 'View only'")?;
    shows_the_same(&device, || other.canvas())?;
    other.click("canvas")?;
    other.type_text("q")?;
    let mut stranger = Typist::with_token(device.port("vnc")?, LOOK)?;
    stranger.type_text("q")?;
    stranger.settle()?;
    drop(stranger);
    other.navigate(&format!("http://127.0.0.1:{}/#token={SECOND}", device.port("web")?))?;
    other.until("!document.querySelector('#control').hidden")?;
    other.until(CONNECTED)?;
    until_floor(&mut other, "other")?;
    page.key("KeyS", "s", true)?;
    wait_for_key(&mut guest, &mut watch, KEY_S, true)?;
    take_control(&mut other)?;
    wait_for_key(&mut guest, &mut watch, KEY_S, false)?;
    until_floor(&mut page, "other")?;
    page.key("KeyS", "s", false)?;
    page.type_text("q")?;
    command_from(&mut other, &mut guest, "I am the second")?;

    // A token that is withdrawn takes its page and its keys along.
    other.key("KeyD", "d", true)?;
    wait_for_key(&mut guest, &mut watch, KEY_D, true)?;
    write_tokens(&tokens, &[FIRST])?;
    wait_for_key(&mut guest, &mut watch, KEY_D, false)?;
    other.until("document.querySelector('#ask').open && !document.querySelector('canvas')")?;
    drop(other);
    until_floor(&mut page, "free")?;
    take_control(&mut page)?;
    command_from(&mut page, &mut guest, "The first again")?;

    // The viewer is killed with a key down: it goes up then and not before, and the page comes back.
    repeat_after(&mut guest, &watch, USUAL)?;
    page.key("KeyF", "f", true)?;
    let held = |watch: &Watch| watch.words().iter().filter(|word| **word == (EV_KEY, KEY_F, REPEATED)).count() >= 5;
    guest.wait_for_events(&mut watch, "a key to be repeated", held)?;
    assert_eq!(watch.last(EV_KEY, KEY_F), Some(REPEATED), "It went up by itself");
    let killed = kill_viewer(&device)?;
    wait_for_key(&mut guest, &mut watch, KEY_F, false)?;
    wait_until(PATIENCE, "another viewer", || Ok(device.viewer()?.filter(|process| *process != killed)))?;
    page.key("KeyF", "f", false)?;
    until_floor(&mut page, "mine")?;
    page.until(CONNECTED)?;
    repeat_after(&mut guest, &watch, NEVER)?;
    command_from(&mut page, &mut guest, "Still the first")?;

    guest.read_events(&mut watch)?;
    assert_all_is_up(&watch);
    assert!(!watch.has(EV_KEY, KEY_Q, 1), "Somebody typed who may not: {:?}", watch.words());
    let log = device.process().log_tail();
    for token in [FIRST, SECOND, LOOK] {
        assert!(!log.contains(token), "{log}");
    }
    assert_no_faults(&device)?;
    guest.power_off()
}

/// A thousand movements in about a second: the guest gets whole frames, and the last one.
fn flood(guest: &mut Guest, typist: &mut Typist, size: (u32, u32)) -> Result<()> {
    let mut watch = guest.watch(DEVICE)?;
    for step in 0..1000 {
        typist.point(100 + step, 10 + step, 0)?;
        // As fast as a hand with a good mouse.
        thread::sleep(Duration::from_millis(1));
    }
    guest.wait_for_events(&mut watch, "the last movement", |watch| pixel(watch, size) == Some((1099, 1009)))?;
    assert!(!watch.has_lost(), "Nobody took the guest's events");
    for frame in watch.whole_frames() {
        let [(EV_ABS, ABS_X, x), (EV_ABS, ABS_Y, y)] = frame[..] else { panic!("Half a movement: {frame:?}") };
        let at = (x * size.0 as i32 / AXIS, y * size.1 as i32 / AXIS);
        assert_eq!(at.0 - at.1, 90, "A mixture of two movements: {at:?}");
    }
    say(format_args!("1000 movements came in {} frames", watch.frames()));
    Ok(())
}

#[test]
fn vnc_clients_type_and_point_also_after_a_flood_a_pause_a_suspend_and_a_reboot() -> Result<()> {
    let dir = workspace::scratch("console-")?;
    let tokens = dir.path().join("tokens");
    write_tokens(&tokens, &[FIRST, SECOND])?;
    let words = ["--display", "vnc=127.0.0.1:0", "--heads", "1280x1024", "--tokens"];
    let device = Device::spawn_with_input(&[&words[..], &[&tokens.display().to_string()]].concat())?;
    let (port, size) = (device.port("vnc")?, (1280, 1024));
    let console = Input::Generic(device.input_socket());
    let config = Config::mini().real_mode().arguments(["-global", "ICH9-LPC.disable_s3=0"]);
    let mut guest = Guest::boot(config.gpu(Gpu::generic(&device)).input(console))?;
    open_shell(&mut guest)?;
    let mut watch = guest.watch(DEVICE)?;
    repeat_after(&mut guest, &watch, NEVER)?;

    // A person in front of TigerVNC's viewer.
    let mut desktop = XServer::start("1600x1200")?;
    desktop.manage()?;
    let viewer = Viewer::on(&desktop, port, FIRST)?;
    let window = desktop.window("gpu - ")?;
    shows_the_same(&device, || desktop.capture(Some(window)).map(Some))?;
    // It tells of the mouse's movements from its first click on.
    desktop.hand(&format!("windowactivate --sync {window} mousemove --window {window} 320 700 click 1"))?;
    guest.wait_for_events(&mut watch, "a click", |watch| watch.has(EV_KEY, BTN_LEFT, 0))?;
    assert_eq!(pixel(&watch, size), Some((320, 700)));
    desktop.hand(&format!("mousemove --window {window} 1200 20"))?;
    guest.wait_for_events(&mut watch, "the pointer", |watch| pixel(watch, size) == Some((1200, 20)))?;
    desktop.hand("click 4")?;
    guest.wait_for_events(&mut watch, "the wheel", |watch| watch.has(EV_REL, REL_WHEEL, 1))?;
    desktop.hand("key e c h o space H e l l o comma space V N C bar t e e space slash t m p slash t y p e d Return")?;
    wait_for_words(&mut guest, "Hello, VNC")?;
    desktop.keep("console-vnc.png")?;
    guest.read_events(&mut watch)?;
    assert_all_is_up(&watch);
    drop((viewer, desktop));

    let mut typist = Typist::with_token(port, SECOND)?;
    flood(&mut guest, &mut typist, size)?;

    assert_types_while_paused(&mut guest, &mut typist, size)?;

    // What was held when the guest slept or began anew is no hindrance.
    typist.key(u32::from('f'), true)?;
    wait_for_key(&mut guest, &mut watch, KEY_F, true)?;
    guest.suspend_and_wake()?;
    assert_types(&mut guest, &mut typist)?;
    typist.key(u32::from('g'), true)?;
    guest.reboot()?;
    assert_types(&mut guest, &mut typist)?;
    assert_no_faults(&device)?;
    guest.power_off()
}

/// What is done while the guest stands still comes when it goes on.
fn assert_types_while_paused(guest: &mut Guest, typist: &mut Typist, size: (u32, u32)) -> Result<()> {
    let mut watch = guest.watch(DEVICE)?;
    guest.qmp("stop", json!({}))?;
    typist.type_text("s")?;
    typist.point(640, 512, 1)?;
    typist.point(640, 512, 0)?;
    typist.key(u32::from('d'), true)?;
    typist.settle()?;
    guest.qmp("cont", json!({}))?;
    wait_for_key(guest, &mut watch, KEY_D, true)?;
    typist.key(u32::from('d'), false)?;
    wait_for_key(guest, &mut watch, KEY_D, false)?;
    assert_eq!(watch.strokes(), [(KEY_S, 1), (KEY_S, 0), (BTN_LEFT, 1), (BTN_LEFT, 0), (KEY_D, 1), (KEY_D, 0)]);
    assert_eq!(pixel(&watch, size), Some((640, 512)));
    Ok(())
}

/// A key that is typed and a click arrive, and nothing stays down.
fn assert_types(guest: &mut Guest, typist: &mut Typist) -> Result<()> {
    let mut watch = guest.watch(DEVICE)?;
    for key in "fg".chars() {
        typist.key(key.into(), false)?;
    }
    typist.type_text("a")?;
    wait_for_key(guest, &mut watch, KEY_A, false)?;
    typist.point(0, 0, 4)?;
    typist.point(1279, 1023, 0)?;
    guest.wait_for_events(&mut watch, "a click", |watch| watch.has(EV_KEY, BTN_RIGHT, 0))?;
    assert_eq!(watch.strokes(), [(KEY_A, 1), (KEY_A, 0), (BTN_RIGHT, 1), (BTN_RIGHT, 0)]);
    Ok(())
}

/// Where a picture is in a larger one.
fn find(picture: &Picture, within: &Picture) -> Option<(i32, i32)> {
    let (width, height) = picture.size();
    let (columns, rows) = within.size();
    let (right, bottom) = (columns.checked_sub(width)?, rows.checked_sub(height)?);
    let is_at = |(x, y): &(usize, usize)| {
        (0..8).all(|at| picture.pixel(at, 0) == within.pixel(x + at, *y))
            && within.crop(*x, *y, width, height).is_ok_and(|part| part == *picture)
    };
    let place = (0..=bottom).flat_map(|y| (0..=right).map(move |x| (x, y))).find(is_at)?;
    Some((place.0 as i32, place.1 as i32))
}

/// A window under an X server, then under a Wayland compositor; the guest has QEMU's own input device, whose rings hold four.
#[test]
fn a_window_shows_the_guest_takes_keys_and_gives_the_guest_its_size() -> Result<()> {
    let mut desktop = XServer::start("1600x1200")?;
    desktop.manage()?;
    let named = |name: &str| name.to_owned();
    let environment = [
        ("DISPLAY", desktop.display()),
        ("WAYLAND_DISPLAY", named("later")),
        ("XDG_RUNTIME_DIR", desktop.runtime_dir()),
        ("HOME", desktop.runtime_dir()),
    ];
    let words = ["--display", "window", "--display", "vnc=127.0.0.1:0", "--heads", "1280x1024"];
    let device = Device::spawn_on_desktop(&environment, &words)?;
    let console = Input::VhostUserInput(device.input_socket());
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::generic(&device)).input(console))?;
    let picture = guest.show(0, 1280, 1024)?;
    let window = desktop.window("gpu - ")?;
    picture.wait_until_shown(|| desktop.capture(Some(window)))?;
    let mut watch = guest.watch(DEVICE)?;
    let size = (1280, 1024);
    desktop.hand(&format!("windowactivate --sync {window} mousemove --window {window} 900 77"))?;
    guest.wait_for_events(&mut watch, "the pointer", |watch| pixel(watch, size) == Some((900, 77)))?;
    desktop.hand("click 1 keydown shift key a keyup shift")?;
    wait_for_key(&mut guest, &mut watch, KEY_LEFTSHIFT, false)?;
    let shifted = [(KEY_LEFTSHIFT, 1), (KEY_A, 1), (KEY_A, 0), (KEY_LEFTSHIFT, 0)];
    assert_eq!(watch.strokes(), [&[(BTN_LEFT, 1), (BTN_LEFT, 0)][..], &shifted].concat());

    // Who pulls at the window gives the guest another mode, which it then shows.
    let wanted = (1000, 700);
    desktop.hand(&format!("windowsize --sync {window} {} {}", wanted.0, wanted.1))?;
    wait_until(PATIENCE, "the guest to hear of the new mode", || Ok((mode(&mut guest)? == wanted).then_some(())))?;
    let picture = guest.show(0, wanted.0, wanted.1)?;
    picture.wait_until_shown(|| desktop.capture(Some(window)))?;
    desktop.keep("console-window.png")?;

    // The viewer dies with a key down; the next one finds a compositor.
    let number = desktop.display();
    let compositor = ["--backend=x11", "--renderer=pixman", "--socket=later", "--width=1200", "--height=900"];
    desktop.spawn("weston", &[&compositor[..], &["--no-config", "--idle-time=0"]].concat())?;
    let output = desktop.window("Weston")?;
    desktop.hand(&format!("windowactivate --sync {window} keydown f"))?;
    wait_for_key(&mut guest, &mut watch, KEY_F, true)?;
    let socket = Path::new(&desktop.runtime_dir()).join("later");
    wait_until(PATIENCE, &format!("weston on {number}"), || Ok(socket.exists().then_some(())))?;
    kill_viewer(&device)?;
    wait_for_key(&mut guest, &mut watch, KEY_F, false)?;
    desktop.hand("keyup f")?;
    let (x, y) =
        wait_until(PATIENCE, "the guest's picture in weston", || Ok(find(&picture, &desktop.capture(Some(output))?)))?;
    desktop.keep("console-weston.png")?;
    desktop.hand(&format!("windowactivate --sync {output} mousemove --window {output} {} {}", x + 400, y + 300))?;
    guest.wait_for_events(&mut watch, "the pointer", |watch| pixel(watch, wanted) == Some((400, 300)))?;
    desktop.hand("click 3")?;
    guest.wait_for_events(&mut watch, "a click", |watch| watch.has(EV_KEY, BTN_RIGHT, 0))?;
    desktop.hand("key z")?;
    wait_for_key(&mut guest, &mut watch, KEY_Z, false)?;
    assert!(watch.has(EV_KEY, KEY_Z, 1), "{:?}", watch.words());
    desktop.hand("key ctrl+alt+f")?;
    wait_until(PATIENCE, "the guest to fill weston's output", || Ok((mode(&mut guest)? == (1200, 900)).then_some(())))?;
    let picture = guest.show(0, 1200, 900)?;
    picture.wait_until_shown(|| desktop.capture(Some(output)))?;
    guest.read_events(&mut watch)?;
    assert_all_is_up(&watch);
    drop(desktop);

    // Nobody is at a window now: others find everything as it was.
    device.resize(0, 1280, 1024)?;
    wait_until(PATIENCE, "the mode", || Ok((mode(&mut guest)? == size).then_some(())))?;
    guest.show(0, 1280, 1024)?;
    let mut typist = Typist::connect(device.port("vnc")?)?;
    flood(&mut guest, &mut typist, size)?;
    assert_types_while_paused(&mut guest, &mut typist, size)?;
    typist.key(u32::from('f'), true)?;
    guest.reboot()?;
    assert_types(&mut guest, &mut typist)?;
    assert_no_faults(&device)?;
    guest.power_off()
}

/// A card and its keyboard as two functions in one slot; before the driver is there, the kernel's console is on the boot display.
#[test]
fn the_functions_of_a_card_over_vfio_user_take_keys_and_the_pointer_before_and_after_the_driver() -> Result<()> {
    let words = ["--display", "vnc=127.0.0.1:0", "--heads", "1024x768"];
    let device = Device::spawn_vfio_user("vga", &words)?;
    let config = Config::mini().machine("pc").modules(&[]).real_mode().kernel_words("vga=0x344");
    let config = config.gpu_with(Gpu::vfio_user(&device), "addr=5.0,multifunction=on");
    let mut guest = Guest::boot(config.input(Input::VfioUser(device.input_function(), "addr=5.1")))?;
    let log = guest.run("dmesg")?.text();
    assert!(log.contains("VESA VGA frame buffer device"), "{log}");
    open_shell(&mut guest)?;
    let watch = guest.watch(DEVICE)?;
    repeat_after(&mut guest, &watch, NEVER)?;
    let mut typist = Typist::connect(device.port("vnc")?)?;
    assert_commands_are_typed(&mut guest, &device, &mut typist, (1024, 768), "Before the driver")?;

    guest.run("for module in /modules/gpu/*.ko; do insmod $module || exit 1; done")?;
    guest.wait_for("test -e /dev/dri/card0")?;
    assert_commands_are_typed(&mut guest, &device, &mut typist, (1024, 768), "After the driver")?;
    device.resize(0, 1280, 800)?;
    wait_until(PATIENCE, "the mode", || Ok((mode(&mut guest)? == (1280, 800)).then_some(())))?;
    let picture = guest.show(0, 1280, 800)?;
    guest.assert_shown(&device, 0, &picture)?;
    let mut watch = guest.watch(DEVICE)?;
    // Who came before keeps the size that there was then, and the floor.
    drop(typist);
    let mut typist = Typist::connect(device.port("vnc")?)?;
    typist.point(1279, 777, 0)?;
    guest.wait_for_events(&mut watch, "the pointer", |watch| pixel(watch, (1280, 800)) == Some((1279, 777)))?;

    // What was held when the guest began anew is no hindrance.
    typist.key(u32::from('f'), true)?;
    wait_for_key(&mut guest, &mut watch, KEY_F, true)?;
    guest.reset()?;
    assert_types(&mut guest, &mut typist)?;
    assert_no_faults(&device)?;
    guest.power_off()
}

/// A command that is typed is on the guest's screen, the screen changes, and the pointer is on the pixel that was meant.
fn assert_commands_are_typed(
    guest: &mut Guest,
    device: &Device,
    typist: &mut Typist,
    size: (u32, u32),
    words: &str,
) -> Result<()> {
    let before = device.screen()?;
    assert_eq!(before.size(), (size.0 as usize, size.1 as usize));
    typist.type_text(&format!("echo {words} | tee /tmp/typed\n"))?;
    wait_for_words(guest, words)?;
    wait_until(PATIENCE, "the words on the screen", || Ok((device.screen()? != before).then_some(())))?;
    let mut watch = guest.watch(DEVICE)?;
    for (x, y) in [(320, 600), (1023, 0)] {
        typist.point(x, y, 0)?;
        let place = (i32::from(x), i32::from(y));
        guest.wait_for_events(&mut watch, "the pointer", |watch| pixel(watch, size) == Some(place))?;
    }
    Ok(())
}
