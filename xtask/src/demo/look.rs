//! What is seen on the demo's screens, and what a console answers.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::browser::Browser;
use tests::process::wait_until;
use tests::vnc::Typist;
use tests::{Guest, Manager, Picture, workspace};

/// How many times the picture has to move before a demo that runs once ends.
const MOVES: usize = 5;
/// One pixel in so many has a colour, at least: the messages of a kernel are grey.
const COLOURED: usize = 50;
/// What the page asks for: the width of a thumbnail.
const WIDTH: usize = 480;

/// The vGPUs' screens, by the manager's page.
pub struct Screens<'a> {
    manager: &'a Manager,
    token: &'a str,
}

impl<'a> Screens<'a> {
    /// The screens that a manager shows to who has a token.
    pub fn new(manager: &'a Manager, token: &'a str) -> Self {
        Screens { manager, token }
    }

    fn screen(&self, vgpu: &str, width: &str) -> Result<Picture> {
        let png = self.manager.get(&format!("/v1/vgpus/{vgpu}/screenshot?head=0{width}"), self.token)?;
        Picture::decode(Cursor::new(png))
    }

    /// Takes pictures of a screen and says what is on them.
    pub fn look(&self, vgpu: &str) -> Result<()> {
        // A console has a few colours, however much is written there.
        let first = wait_until(30, "the guest to draw", || {
            let picture = self.screen(vgpu, "")?;
            Ok((picture.colours() > 1000).then_some(picture))
        });
        let first = first.context("There is no picture on the screen")?;
        let mut second = first.clone();
        for _ in 0..MOVES {
            second = wait_until(30, "the picture to move", || {
                let picture = self.screen(vgpu, "")?;
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

    /// Asks the page for what it shows of all: each runs and has a picture, no two the same, which moves.
    pub fn look_at_page(&self, vgpus: &[&str]) -> Result<()> {
        let list: Value = serde_json::from_slice(&self.manager.get("/v1/vgpus", self.token)?)?;
        let list = list["vgpus"].as_array().context("The page has no vGPUs")?;
        let runs = |name: &&str| list.iter().any(|vgpu| vgpu["name"] == **name && vgpu["state"] == "running");
        ensure!(list.len() == vgpus.len() && vgpus.iter().all(runs), "The page has {list:?}");
        let mut seen: Vec<Picture> = Vec::new();
        for vgpu in vgpus {
            let mut last: Option<Picture> = None;
            let picture = wait_until(30, &format!("a picture of {vgpu} that moves"), || {
                let picture = self.screen(vgpu, &format!("&width={WIDTH}"))?;
                let before = last.replace(picture.clone());
                let good = picture.size().0 == WIDTH && is_coloured(&picture);
                Ok((good && before.is_some_and(|before| before != picture)).then_some(picture))
            })?;
            ensure!(!seen.contains(&picture), "{vgpu} shows what another one does");
            seen.push(picture);
        }
        println!(
            "manager's page: {} vGPUs run ({}), each with a picture of its own that moves",
            vgpus.len(),
            vgpus.join(", ")
        );
        Ok(())
    }

    /// Saves what a browser shows of the page.
    pub fn photograph(&self, file: &Path) -> Result<()> {
        let mut browser = Browser::open(&format!("http://{}/#token={}", self.manager.page()?, self.token))?;
        browser.resize(964, 522, false)?;
        let all =
            "[...document.querySelectorAll('.vgpu img')].filter(image => image.naturalWidth === 480).length === 3";
        browser.until(all)?;
        browser.screenshot(file)
    }
}

/// Whether enough pixels are not grey.
fn is_coloured(picture: &Picture) -> bool {
    let (width, height) = picture.size();
    let pixels = (0..height).filter_map(|y| picture.line(0, y, width)).flatten();
    let spread = |pixel: &[u8; 3]| pixel.iter().max().zip(pixel.iter().min()).map_or(0, |(high, low)| high - low);
    pixels.filter(|pixel| spread(pixel) > 24).count() * COLOURED > width * height
}

/// Types a command as a person would, and says what the guest's console answers.
pub fn converse(guest: &mut Guest, mut typist: Typist) -> Result<()> {
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
