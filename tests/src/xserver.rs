//! A desktop of the host: an X server without a screen, from the bed, with what a person needs on it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use x11rb::connection::Connection as _;
use x11rb::protocol::xfixes::ConnectionExt as _;
use x11rb::protocol::xproto::{
    Atom, AtomEnum, ClientMessageEvent, ConnectionExt as _, CreateWindowAux, EventMask, ImageFormat, InputFocus,
    MapState, Window, WindowClass,
};
use x11rb::rust_connection::RustConnection;

use crate::bed::{self, apt::checked, run};
use crate::picture::Picture;
use crate::process::{Process, wait_until};
use crate::workspace;

/// Seconds that something may take on a machine that stands still for a while.
const PATIENCE: u64 = 60;

/// A pointer's picture: width, height, hot spot, and pixels as 0xAARRGGBB.
pub type Pointer = (u16, u16, (u16, u16), Vec<u32>);

/// An X server. It ends with the value, and who is connected to it loses it then.
pub struct XServer {
    number: u32,
    connection: RustConnection,
    root: Window,
    programs: Vec<Process>,
    process: Process,
    dir: tempfile::TempDir,
}

impl XServer {
    /// Starts one with a screen of that size, as in `1280x1024`.
    pub fn start(size: &str) -> Result<Self> {
        Self::start_with(&format!("{size}x24"), &[])
    }

    /// Starts one with a screen of that size and depth, as in `1280x1024x16`, and more words.
    pub fn start_with(screen: &str, words: &[&str]) -> Result<Self> {
        let dir = workspace::scratch("x-")?;
        let mut command = run::inside(bed::window()?, "Xvfb");
        // Its abstract socket is what keeps two servers from taking one number.
        command.args(["-displayfd", "1", "-ac", "-nolisten", "tcp", "-noreset"]);
        command.args(["-screen", "0", screen]).args(words);
        let mut process = Process::spawn(command, "Xvfb", &dir.path().join("log"))?;
        let number = wait_until(PATIENCE, "the X server", || {
            if !process.is_running() {
                bail!("The X server ended at its start:\n{}", process.log_tail());
            }
            let log = process.log_tail();
            Ok(log.split_inclusive('\n').find_map(|line| line.strip_suffix('\n')?.parse().ok()))
        })?;
        let (connection, screen) = RustConnection::connect(Some(&format!(":{number}")))?;
        let root = connection.setup().roots.get(screen).context("An X server without a screen")?.root;
        connection.xfixes_query_version(4, 0)?.reply()?;
        Ok(XServer { number, connection, root, programs: Vec::new(), process, dir })
    }

    /// What DISPLAY must be.
    pub fn display(&self) -> String {
        format!(":{}", self.number)
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        // A server that is killed leaves these behind. Once it is dead they may be another one's.
        if self.process.is_running() {
            for left in [format!(".X11-unix/X{}", self.number), format!(".X{}-lock", self.number)] {
                let _ = fs::remove_file(PathBuf::from("/tmp").join(left));
            }
        }
        self.process.kill();
    }

    fn program(&self, name: &str) -> Result<Command> {
        let mut command = run::inside(bed::window()?, name);
        command.env("DISPLAY", self.display()).env("HOME", self.dir.path()).env("XDG_RUNTIME_DIR", self.dir.path());
        Ok(command)
    }

    /// Where programs on it find their sockets.
    pub fn runtime_dir(&self) -> String {
        self.dir.path().display().to_string()
    }

    /// Kills a program that was started on it.
    pub fn end(&mut self, name: &str) {
        self.programs.retain(|program| program.name() != name);
    }

    /// Starts a program on it.
    pub fn spawn(&mut self, name: &str, words: &[&str]) -> Result<&mut Process> {
        let mut command = self.program(name)?;
        command.args(words);
        let process = Process::spawn(command, name, &self.dir.path().join(format!("{name}.log")))?;
        self.programs.push(process);
        self.programs.last_mut().context("It was just started")
    }

    /// Gives it a window manager.
    pub fn manage(&mut self) -> Result<()> {
        self.spawn("openbox", &["--sm-disable"])?;
        let atom = self.atom("_NET_SUPPORTING_WM_CHECK")?;
        let manages = || Ok((!self.property(self.root, atom, AtomEnum::WINDOW)?.is_empty()).then_some(()));
        wait_until(PATIENCE, "the window manager", manages)?;
        // It says so before it looks for its fonts, and what asks to be seen meanwhile it may forget.
        let probe = self.create(CreateWindowAux::new(), (1, 1))?;
        wait_until(PATIENCE, "the window manager to show a window", || {
            self.connection.map_window(probe)?.check()?;
            Ok(self.is_visible(probe)?.then_some(()))
        })?;
        Ok(self.connection.destroy_window(probe)?.check()?)
    }

    fn create(&self, attributes: CreateWindowAux, (width, height): (u16, u16)) -> Result<Window> {
        let window = self.connection.generate_id()?;
        let (class, same) = (WindowClass::INPUT_OUTPUT, x11rb::COPY_FROM_PARENT);
        self.connection
            .create_window(0, window, self.root, 0, 0, width, height, 0, class, same, &attributes)?
            .check()?;
        Ok(window)
    }

    /// Does with keyboard and pointer what xdotool does.
    pub fn hand(&self, words: &str) -> Result<()> {
        let mut command = self.program("xdotool")?;
        command.args(words.split_whitespace());
        checked(command).map(drop)
    }

    fn atom(&self, name: &str) -> Result<Atom> {
        Ok(self.connection.intern_atom(false, name.as_bytes())?.reply()?.atom)
    }

    fn property(&self, window: Window, property: Atom, kind: AtomEnum) -> Result<Vec<u8>> {
        let reply = self.connection.get_property(false, window, property, kind, 0, 1024)?.reply();
        // It may be gone already.
        Ok(reply.map(|reply| reply.value).unwrap_or_default())
    }

    /// The title of a window.
    pub fn title(&self, window: Window) -> Result<String> {
        let (name, kind) = (self.atom("_NET_WM_NAME")?, self.atom("UTF8_STRING")?);
        let reply = self.connection.get_property(false, window, name, kind, 0, 1024)?.reply();
        Ok(reply.map(|reply| String::from_utf8_lossy(&reply.value).into_owned()).unwrap_or_default())
    }

    /// The windows that can be seen and have a title that begins so.
    pub fn windows(&self, title: &str) -> Result<Vec<Window>> {
        let mut found = Vec::new();
        let mut left = vec![self.root];
        while let Some(window) = left.pop() {
            // Whatever went in between has no children and no title.
            let Ok(tree) = self.connection.query_tree(window)?.reply() else { continue };
            left.extend(tree.children);
            if self.title(window)?.starts_with(title) && self.is_visible(window)? {
                found.push(window);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn is_visible(&self, window: Window) -> Result<bool> {
        let attributes = self.connection.get_window_attributes(window)?.reply();
        Ok(attributes.is_ok_and(|attributes| attributes.map_state == MapState::VIEWABLE))
    }

    /// Waits for a window with a title that begins so.
    pub fn window(&self, title: &str) -> Result<Window> {
        wait_until(PATIENCE, &format!("the window {title}"), || Ok(self.windows(title)?.first().copied()))
    }

    /// Its width and height.
    pub fn size(&self, window: Window) -> Result<(u16, u16)> {
        let geometry = self.connection.get_geometry(window)?.reply()?;
        Ok((geometry.width, geometry.height))
    }

    /// What a window shows, or with none the screen.
    pub fn capture(&self, window: Option<Window>) -> Result<Picture> {
        let window = window.unwrap_or(self.root);
        let (width, height) = self.size(window)?;
        let image = self.connection.get_image(ImageFormat::Z_PIXMAP, window, 0, 0, width, height, u32::MAX)?.reply()?;
        Picture::from_xrgb(width.into(), height.into(), &image.data)
    }

    /// The pointer's picture.
    pub fn pointer(&self) -> Result<Pointer> {
        let image = self.connection.xfixes_get_cursor_image()?.reply()?;
        Ok((image.width, image.height, (image.xhot, image.yhot), image.cursor_image))
    }

    /// Where the pointer is.
    pub fn pointer_at(&self) -> Result<(i16, i16)> {
        let at = self.connection.query_pointer(self.root)?.reply()?;
        Ok((at.root_x, at.root_y))
    }

    /// Asks a window to close, as the cross in its frame does.
    pub fn close(&self, window: Window) -> Result<()> {
        let (kind, delete) = (self.atom("WM_PROTOCOLS")?, self.atom("WM_DELETE_WINDOW")?);
        let event = ClientMessageEvent::new(32, window, kind, [delete, x11rb::CURRENT_TIME, 0, 0, 0]);
        self.connection.send_event(false, window, EventMask::NO_EVENT, event)?.check()?;
        Ok(())
    }

    /// Hides a window, as a click on its frame does.
    pub fn minimize(&self, window: Window) -> Result<()> {
        self.hand(&format!("windowminimize --sync {window}"))
    }

    /// Gives a window the keyboard's focus.
    pub fn focus(&self, window: Window) -> Result<()> {
        self.hand(&format!("windowfocus --sync {window}"))
    }

    /// Gives the keyboard's focus to a window of nobody's.
    pub fn distract(&self) -> Result<()> {
        let connection = &self.connection;
        let window = connection.generate_id()?;
        let plain = CreateWindowAux::new().override_redirect(1);
        let class = WindowClass::INPUT_ONLY;
        connection
            .create_window(0, window, self.root, 0, 0, 1, 1, 0, class, x11rb::COPY_FROM_PARENT, &plain)?
            .check()?;
        connection.map_window(window)?.check()?;
        connection.set_input_focus(InputFocus::POINTER_ROOT, window, x11rb::CURRENT_TIME)?.check()?;
        Ok(())
    }

    /// Lays a window of nobody's over all others.
    pub fn cover(&self) -> Result<Window> {
        let window = self.create(CreateWindowAux::new().override_redirect(1), self.size(self.root)?)?;
        self.connection.map_window(window)?.check()?;
        Ok(window)
    }

    /// Takes it away.
    pub fn uncover(&self, cover: Window) -> Result<()> {
        Ok(self.connection.destroy_window(cover)?.check()?)
    }

    /// Takes a picture for people to look at.
    pub fn keep(&self, name: &str) -> Result<()> {
        self.capture(None)?.save(&workspace::target().join("tmp").join(name))
    }
}

impl Drop for XServer {
    fn drop(&mut self) {
        self.programs.clear();
        self.kill();
    }
}
