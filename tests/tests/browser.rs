//! A browser sees the guest's screen on the web page, and comes back by itself; all displays show the same picture.

use anyhow::{Context, Result};
use rustix::process::{Signal, kill_process};
use tests::browser::Browser;
use tests::guest::PATIENCE;
use tests::process::wait_until;
use tests::{Config, Device, Draw, Gpu, Guest, Input, Picture, vnc, workspace};

#[test]
fn a_browser_shows_the_guests_pictures_costs_nothing_when_idle_and_reconnects() -> Result<()> {
    let device = Device::spawn(&["--display", "web=127.0.0.1:0"])?;
    let port = device.port("web")?;
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::generic(&device)))?;
    let mut browser = Browser::open(&format!("http://127.0.0.1:{port}/"))?;
    let (width, height, _) = guest.heads()?[0].modes[0];

    let first = guest.show(0, width, height)?;
    browser.assert_shows(&first)?;
    let second = guest.damage(0, [17, 33, 251, 127])?;
    assert_ne!(first, second);
    browser.assert_shows(&second)?;
    let smaller = guest.show(0, 800, 600)?;
    browser.assert_shows(&smaller)?;
    // Nothing on the page comes from elsewhere, and nothing is missing.
    assert_eq!(browser.hosts(), [format!("127.0.0.1:{port}")]);
    assert_eq!(browser.complaints(), [""; 0]);

    // Nothing moves in the guest: nothing is sent, in as many frames as a screen shows in five seconds. What was still
    // under way when the last picture was seen arrives first: a second passes without anything.
    let frames = |browser: &Browser| {
        ["Network.webSocketFrameReceived", "Network.webSocketFrameSent", "Network.requestWillBeSent"]
            .map(|event| browser.count(event))
    };
    let mut before = frames(&browser);
    wait_until(PATIENCE, "a second without anything", || {
        browser.pass_frames(60)?;
        let now = frames(&browser);
        Ok((std::mem::replace(&mut before, now) == now).then_some(()))
    })?;
    assert!(before[0] > 0 && before[1] > 0, "The browser counts no frames: {before:?}");
    browser.pass_frames(300)?;
    assert_eq!(frames(&browser), before, "Received, sent, requests of an idle screen");

    // The viewer process dies under the browser: the guest draws on, the browser comes back and shows what was drawn.
    let pid = device.id();
    let killed = device.viewer()?.context("No viewer process")?;
    kill_process(killed, Signal::KILL)?;
    let third = guest.show(0, width, height)?;
    browser.assert_shows(&third)?;
    let fourth = guest.flip(0)?;
    browser.assert_shows(&fourth)?;
    assert!(device.viewer()?.is_some_and(|process| process != killed));
    // One for control and one for the screen, each time.
    assert_eq!(browser.count("Network.webSocketCreated"), 4);
    assert_eq!(device.id(), pid);
    let stats = device.stats()?;
    assert_eq!((&stats["device"]["errors"], &stats["device"]["panics"]), (&0.into(), &0.into()), "{stats}");
    // For people to look at: what moves in the guest moves on the page.
    guest.draw(Draw::Animate)?;
    wait_until(PATIENCE, "the page to move", || Ok(browser.canvas()?.filter(|seen| *seen != fourth)))?;
    browser.screenshot(&workspace::target().join("tmp/browser.png"))?;
    guest.power_off()
}

#[test]
fn a_guest_hears_what_is_done_on_the_page_the_page_sees_its_lights_and_no_key_survives_a_viewer() -> Result<()> {
    const EV_KEY: u16 = 1;
    const EV_ABS: u16 = 3;
    const EV_LED: u16 = 17;
    let device = Device::spawn_with_input(&["--display", "web=127.0.0.1:0"])?;
    let console = Input::Generic(device.input_socket());
    let mut guest = Guest::boot(Config::mini().gpu(Gpu::generic(&device)).input(console))?;
    let mut browser = Browser::open(&format!("http://127.0.0.1:{}/", device.port("web")?))?;
    let (width, height, _) = guest.heads()?[0].modes[0];
    let shown = guest.show(0, width, height)?;
    browser.assert_shows(&shown)?;
    let mut watch = guest.watch("keyboard and pointer")?;

    browser.click("#control")?;
    browser.until("document.body.dataset.floor === 'mine'")?;
    for pressed in [true, false] {
        browser.key("KeyZ", "y", pressed)?;
    }
    guest.wait_for_events(&mut watch, "a key to go down and up", |watch| watch.has(EV_KEY, 44, 0))?;
    let place = browser.place("canvas", 0.5, 0.25)?;
    for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
        browser.mouse(kind, place, "left")?;
    }
    guest.wait_for_events(&mut watch, "a click", |watch| watch.has(EV_KEY, 0x110, 0))?;
    let at = [0, 1].map(|axis| watch.last(EV_ABS, axis));
    assert!(matches!(at, [Some(16_200..16_600), Some(8_000..8_400)]), "{at:?}");
    assert_eq!(watch.strokes(), [(44, 1), (44, 0), (0x110, 1), (0x110, 0)]);
    // Caps lock.
    guest.tell(&watch, EV_LED, 1, 1)?;
    browser.until("document.querySelector('#caps').className === 'lit'")?;

    browser.key("ShiftLeft", "Shift", true)?;
    guest.wait_for_events(&mut watch, "shift to go down", |watch| watch.has(EV_KEY, 42, 1))?;
    kill_process(device.viewer()?.context("No viewer process")?, Signal::KILL)?;
    guest.wait_for_events(&mut watch, "shift to go up", |watch| watch.has(EV_KEY, 42, 0))?;
    wait_until(PATIENCE, "the page to come back", || {
        // What the browser tells of is read with an answer.
        browser.evaluate("0")?;
        Ok((browser.count("Network.webSocketCreated") == 4).then_some(()))
    })?;
    browser.until("document.body.dataset.floor === 'mine'")?;
    browser.assert_shows(&shown)?;
    guest.power_off()
}

#[test]
fn vhost_user_gpu_pci_is_shown_by_the_vmm_a_file_vnc_and_a_browser_alike() -> Result<()> {
    all_displays_show_the_same(Gpu::vhost_user_gpu)
}

#[test]
fn vhost_user_vga_is_shown_by_the_vmm_a_file_vnc_and_a_browser_alike() -> Result<()> {
    all_displays_show_the_same(Gpu::vhost_user_vga)
}

fn all_displays_show_the_same(gpu: fn(&Device) -> Gpu) -> Result<()> {
    let dir = workspace::scratch("displays-")?;
    let file = dir.path().join("screen.png");
    let capture = format!("capture={}", file.display());
    let displays = ["vmm", &capture, "vnc=127.0.0.1:0", "web=127.0.0.1:0"];
    let device = Device::spawn(&displays.map(|display| ["--display", display]).concat())?;
    let (rfb, web) = (device.port("vnc")?, device.port("web")?);
    let mut guest = Guest::boot(Config::mini().gpu(gpu(&device)))?;
    let mut browser = Browser::open(&format!("http://127.0.0.1:{web}/"))?;
    let (width, height, _) = guest.heads()?[0].modes[0];

    let first = guest.show(0, width, height)?;
    let mut seen_by_all = |guest: &mut Guest, picture: &Picture| {
        guest.assert_shows(0, picture)?;
        picture.wait_until_shown(|| Picture::open(&file))?;
        picture.wait_until_shown(|| vnc::capture(rfb))?;
        browser.assert_shows(picture)
    };
    seen_by_all(&mut guest, &first)?;
    let second = guest.damage(0, [17, 33, 251, 127])?;
    assert_ne!(first, second);
    seen_by_all(&mut guest, &second)?;
    let third = guest.show(0, 800, 600)?;
    seen_by_all(&mut guest, &third)?;
    guest.power_off()
}
