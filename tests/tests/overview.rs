//! The manager's page in a real browser: what each vGPU shows, how it is, and what who may can do about it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::browser::Browser;
use tests::guest::PATIENCE;
use tests::{Config, Gpu, Guest, Manager, workspace};

const TYPES: &str = r#"
[[type]]
name = "desktop"
memory = "128M"
heads = "800x600"
display = ["web=127.0.0.1:0"]

[[type]]
name = "kiosk"
memory = "64M"
heads = "640x480"
display = ["none"]
"#;

const TOKENS: &str = "control = [\"a-token-that-may-control\"]\nlook = [\"a-token-that-may-look\"]\n";

#[test]
fn a_page_shows_all_vgpus_and_starts_them_for_who_may() -> Result<()> {
    let manager = Manager::with_page(TYPES, TOKENS)?;
    for (kind, name) in [("desktop", "anna"), ("kiosk", "lobby"), ("kiosk", "spare")] {
        manager.tell(&["define", kind, "--name", name])?;
    }
    for name in ["anna", "lobby"] {
        manager.start_vgpu(name)?;
    }
    let boot = |name| Guest::start(&Config::mini().gpu(Gpu::Generic(manager.socket(name)?)));
    let mut guests = [boot("anna")?, boot("lobby")?];
    for (guest, name) in guests.iter_mut().zip(["anna", "lobby"]) {
        guest.wait_for_boot()?;
        let (width, height, _) = guest.heads()?[0].modes[0];
        guest.show(0, width, height)?.wait_until_shown(|| manager.screen(name))?;
    }

    let address = format!("http://{}/", manager.page()?);
    let mut browser = Browser::open(&address)?;
    browser.until("document.getElementById('ask')?.open")?;
    ensure!(browser.evaluate("document.querySelectorAll('.vgpu').length")? == 0, "Who has no token sees vGPUs");

    browser.navigate(&format!("{address}?1#token=a-token-that-may-look"))?;
    browser.until("document.body?.dataset.state === 'connected'")?;
    browser.until("document.querySelectorAll('.vgpu').length === 3")?;
    let card = |name: &str| {
        format!(
            "[...document.querySelectorAll('.vgpu')].find(one => one.querySelector('.name').textContent === '{name}')"
        )
    };
    for name in ["anna", "lobby"] {
        browser.until(&format!("{}?.dataset.state === 'running'", card(name)))?;
        browser.until(&format!("{}?.querySelector('img').naturalWidth === 480", card(name)))?;
    }
    ensure!(browser.evaluate("location.hash")? == "", "The token stays in the address");
    let state = browser.evaluate(&format!("{}.querySelector('.chip').textContent", card("spare")))?;
    ensure!(state == "defined", "spare is {state}");
    let visible = format!("{}.querySelector('.start').offsetParent !== null", card("spare"));
    ensure!(browser.evaluate(&visible)? == false, "Who may look is offered to start");

    browser.navigate(&format!("{address}?2#token=a-token-that-may-control"))?;
    browser.until("document.body?.dataset.right === 'control' && document.querySelectorAll('.vgpu').length === 3")?;
    browser.until(&visible)?;
    browser.evaluate(&format!("{}.querySelector('.start').click()", card("spare")))?;
    manager.wait_for("spare", "running", PATIENCE)?;
    browser.until(&format!("{}?.dataset.state === 'running'", card("spare")))?;
    browser.until(&format!("{}?.querySelector('.dark').textContent === 'No picture yet'", card("spare")))?;
    browser.until(&format!("{}?.querySelector('img').naturalWidth === 480", card("lobby")))?;
    // What runs has its part of the memory, and a bar says so; one by which nothing is drawn in 3D has no share of the time.
    let width =
        |of: &str, part: &str| format!("{}.querySelector('{part}').getBoundingClientRect().width > 0.5", card(of));
    browser.until(&width("lobby", ".kept"))?;
    ensure!(browser.evaluate(&width("lobby", ".used"))? == false, "Who draws nothing in 3D uses its time");
    let meter = "[...document.querySelectorAll('.memory [data-uuid]:not(.rest)')]";
    browser.until(&format!("{meter}.length === 3 && {meter}.every(one => one.offsetWidth > 2)"))?;
    let names =
        "[...document.querySelectorAll('button, a[href]')].filter(one => one.offsetParent && one.tabIndex >= 0)";
    let unnamed = format!("{names}.filter(one => !(one.ariaLabel || one.textContent)).length");
    ensure!(browser.evaluate(&unnamed)? == 0, "A button has no name");
    ensure!(browser.evaluate("document.querySelector('.open').ariaLabel")? == "Console of anna");

    let picture = workspace::target().join("tmp/overview.png");
    browser.resize(1280, 800, false)?;
    browser.screenshot(&picture)?;

    // One is stopped, after it was asked whether that is meant.
    browser.evaluate(&format!("{}.querySelector('.stop').click()", card("spare")))?;
    browser.until("document.getElementById('sure')?.open")?;
    browser.evaluate("document.querySelector('#sure [value=yes]').click()")?;
    manager.wait_for("spare", "defined", PATIENCE)?;

    browser.evaluate("document.querySelector('#which [value=off]').click()")?;
    browser.until(&format!("{}.hidden && !{}.hidden", card("anna"), card("spare")))?;
    browser.evaluate("document.querySelector('#which [value=all]').click()")?;
    browser.key("Slash", "/", true)?;
    browser.key("Slash", "/", false)?;
    browser.until("document.activeElement.id === 'filter' && document.activeElement.value === ''")?;
    browser
        .evaluate("document.getElementById('filter').value = 'kiosk'; document.getElementById('filter').oninput()")?;
    browser.until(&format!("{}.hidden && !{}.hidden", card("anna"), card("lobby")))?;
    browser
        .evaluate("document.getElementById('filter').value = 'nobody'; document.getElementById('filter').oninput()")?;
    browser.until("!document.getElementById('nothing').hidden")?;
    browser.evaluate("document.getElementById('show-all').click()")?;
    browser.until(&format!("!{}.hidden && document.getElementById('nothing').hidden", card("anna")))?;

    // What a click opens is the console.
    let console = browser.evaluate(&format!("{}.querySelector('a.open').href", card("anna")))?;
    // Who had no token was told so, and so was who asked for the picture of a dark head.
    let meant = |line: &String| {
        line.contains("401 (Unauthorized)") || line.contains("404 (Not Found)") && line.contains("/screenshot")
    };
    let complaints: Vec<String> = browser.complaints().into_iter().filter(|line| !meant(line)).collect();
    ensure!(complaints.is_empty(), "The browser complains: {complaints:?}");
    let console = console.as_str().unwrap_or_default();
    // Who only knows where it is sees nothing there.
    let (port, _) = console.split_once('#').context("The console takes no token")?;
    browser.navigate(port)?;
    browser.until("document.body?.dataset?.state === 'missing'")?;
    browser.navigate("about:blank")?;
    browser.navigate(console)?;
    browser
        .until("document.body?.dataset?.state === 'connected' && document.querySelector('canvas')?.width === 800")?;
    // Who may only look at the page may only look there, too.
    let look: Value = serde_json::from_slice(&manager.get("/v1/vgpus/anna", "a-token-that-may-look")?)?;
    ensure!(look["console"].is_string() && look["console"] != console, "Who may look hears how to control");
    Ok(())
}
