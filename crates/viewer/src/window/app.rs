//! All windows: what the desktop and the hub say goes to the one that it is for.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use softbuffer::Context;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{info, warn};
use winit::application::ApplicationHandler;
use winit::dpi::PhysicalSize;
use winit::event::WindowEvent;
use winit::event_loop::{ActiveEventLoop, ControlFlow, EventLoopProxy, OwnedDisplayHandle};
use winit::monitor::MonitorHandle;
use winit::platform::x11::WindowAttributesExtX11;
use winit::raw_window_handle::{HasWindowHandle, RawWindowHandle};
use winit::window::{Fullscreen, Window, WindowId};

use super::canvas::{Broken, Canvas};
use super::desk::Desk;
use super::pane::{Beginning, Pane, Wish};
use super::wayland::Sheet;
use super::x11::{self, Server};
use crate::floor::FloorNews;
use crate::{Monitor, WindowSpec};

/// What the rest of the viewer says to the windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// We look at that head, and know what it shows.
    Ready(u8),
    /// It shows something new.
    Head(u8),
    /// Who controls may have changed.
    Floor,
    /// There is no rest any more.
    Ended,
}

/// The display server.
pub(super) enum Display {
    X11(Rc<Server>),
    Wayland(Context<OwnedDisplayHandle>),
}

/// Why windows cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gone {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("The display server gave no window: {0}")]
    Refused(#[from] winit::error::OsError),
}

/// Why there are no windows any more.
#[derive(Debug)]
pub(super) enum End {
    /// The last one was closed.
    Closed,
    /// There is nothing to show.
    Served,
    /// They cannot be shown.
    Gone(Gone),
}

/// All windows.
pub(super) struct App {
    spec: WindowSpec,
    display: Display,
    desk: Arc<Desk>,
    proxy: EventLoopProxy<News>,
    runtime: Handle,
    floor: watch::Receiver<FloorNews>,
    panes: BTreeMap<WindowId, Pane>,
    /// The window of each head; none once it is closed.
    heads: BTreeMap<u8, Option<WindowId>>,
    /// Who brings the news of a head.
    followers: BTreeMap<u8, AbortHandle>,
    /// None while they are there, and when the display server did not say that it goes.
    pub(super) end: Option<End>,
}

impl App {
    pub(super) fn new(
        spec: WindowSpec,
        display: Display,
        desk: Arc<Desk>,
        proxy: EventLoopProxy<News>,
        runtime: Handle,
    ) -> Self {
        let floor = desk.hub().floor_news();
        let (panes, heads, followers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { spec, display, desk, proxy, runtime, floor, panes, heads, followers, end: None }
    }

    /// Looks at a head from now on: brings news of it, once it is known what it shows.
    fn follow(&mut self, head: u8) {
        let (desk, proxy) = (self.desk.clone(), self.proxy.clone());
        let task = self.runtime.spawn(async move {
            let joined = desk.hub().join(head, false);
            let wake = joined.wake.clone();
            while !joined.is_synced() {
                wake.notified().await;
            }
            desk.place(head, joined);
            let mut news = News::Ready(head);
            while proxy.send_event(news).is_ok() {
                wake.notified().await;
                news = News::Head(head);
            }
        });
        if let Some(earlier) = self.followers.insert(head, task.abort_handle()) {
            earlier.abort();
        }
    }

    /// Looks at a head no more.
    fn unfollow(&mut self, head: u8) {
        if let Some(follower) = self.followers.remove(&head) {
            follower.abort();
        }
        self.desk.leave(head);
    }

    fn pane(&mut self, head: u8) -> Option<&mut Pane> {
        let window = (*self.heads.get(&head)?)?;
        self.panes.get_mut(&window)
    }

    fn ready(&mut self, event_loop: &ActiveEventLoop, head: u8) -> Result<(), Gone> {
        let news = self.floor.borrow().clone();
        if self.heads.contains_key(&head) {
            match self.pane(head).filter(|pane| pane.looking) {
                Some(pane) => pane.look(&news),
                // It was closed, or is hidden again.
                None => self.unfollow(head),
            }
            return Ok(());
        }
        let (_, _, heads) = self.desk.hub().status();
        if self.heads.is_empty() {
            (0..heads.len()).map(|head| head as u8).filter(|other| *other != head).for_each(|head| self.follow(head));
        }
        let mut pane = self.open(event_loop, head, heads.len())?;
        pane.look(&news);
        self.heads.insert(head, Some(pane.window.id()));
        self.panes.insert(pane.window.id(), pane);
        Ok(())
    }

    fn open(&self, event_loop: &ActiveEventLoop, head: u8, heads: usize) -> Result<Pane, Gone> {
        let (width, height, name) = self.desk.at(head, |joined| joined.begin()).unwrap_or_default();
        let title = title(&name, head, heads);
        let monitor = self.monitor(event_loop, head);
        let own_size = window_size((width, height), monitor.as_ref().map(|monitor| monitor.size().into()));
        let mut attributes = Window::default_attributes()
            .with_title(&title)
            .with_name("beamsplit", "beamsplit")
            .with_min_inner_size(PhysicalSize::new(160, 120))
            .with_inner_size(PhysicalSize::new(own_size.0, own_size.1));
        if self.spec.fullscreen.is_some() {
            if let Some(monitor) = &monitor {
                // Where there is no window manager nobody else puts it there.
                attributes = attributes.with_inner_size(monitor.size()).with_position(monitor.position());
            }
            attributes = attributes.with_fullscreen(Some(Fullscreen::Borderless(monitor)));
        }
        let window = Arc::new(event_loop.create_window(attributes)?);
        if self.spec.fullscreen.is_none() && window.scale_factor() != 1. {
            // A dense monitor, which a window does not know before it is there.
            let _ = window.request_inner_size(PhysicalSize::new(own_size.0, own_size.1));
        }
        let canvas: Box<dyn Canvas> = match &self.display {
            Display::Wayland(context) => Box::new(Sheet::new(context, &window)?),
            Display::X11(server) => Box::new(x11::Window::new(server, number(&window))?),
        };
        let x11 = matches!(self.display, Display::X11(_));
        let (desk, size) = (self.desk.clone(), (width, height));
        let given = window.inner_size();
        let mut pane = Pane::new(Beginning { head, window, canvas, x11, desk, size, own_size, name, title });
        // A desktop that knows better said so before anybody listened.
        pane.resized(given);
        Ok(pane)
    }

    /// The monitor that a head's window begins on.
    fn monitor(&self, event_loop: &ActiveEventLoop, head: u8) -> Option<MonitorHandle> {
        let monitors: Vec<MonitorHandle> = event_loop.available_monitors().collect();
        let names: Vec<String> = monitors.iter().map(|monitor| monitor.name().unwrap_or_default()).collect();
        let primary = || event_loop.primary_monitor().or_else(|| monitors.first().cloned());
        let first = match self.spec.fullscreen.as_ref() {
            None => return primary(),
            Some(Monitor::Here) if head == 0 => return primary(),
            Some(Monitor::Here) => Some(0),
            Some(Monitor::Number(number)) => Some(*number).filter(|number| *number < monitors.len()),
            Some(Monitor::Named(name)) => names.iter().position(|known| known == name),
        };
        let Some(first) = first else {
            let known: Vec<String> = names.iter().enumerate().map(|(at, name)| format!("{at} ({name})")).collect();
            warn!("No such monitor to fill; there are {}", known.join(", "));
            return primary();
        };
        // The other heads' follow it.
        monitors.get((first + usize::from(head)) % monitors.len().max(1)).cloned()
    }

    fn grant(&mut self, event_loop: &ActiveEventLoop, window: WindowId, wish: Wish) {
        let Some(head) = self.panes.get(&window).map(|pane| pane.head) else { return };
        match wish {
            Wish::Look | Wish::LookAway => {
                let look = wish == Wish::Look;
                let changed =
                    self.panes.get_mut(&window).is_some_and(|pane| std::mem::replace(&mut pane.looking, look) != look);
                match look {
                    true if changed => self.follow(head),
                    false if changed => self.unfollow(head),
                    _ => {}
                }
            }
            Wish::Close => {
                self.unfollow(head);
                self.panes.remove(&window);
                self.heads.insert(head, None);
                info!("The window of head {head} was closed; the virtual machine goes on");
                if self.panes.is_empty() {
                    self.leave(event_loop, End::Closed);
                }
            }
        }
    }

    fn hear(&mut self, event_loop: &ActiveEventLoop, window: WindowId, event: WindowEvent) -> Result<(), Gone> {
        let Some(pane) = self.panes.get_mut(&window) else { return Ok(()) };
        let wish = match event {
            WindowEvent::RedrawRequested => pane.redraw()?,
            WindowEvent::Resized(size) => {
                pane.resized(size);
                None
            }
            WindowEvent::ScaleFactorChanged { mut inner_size_writer, .. } => {
                if let Some(size) = pane.keeps_size() {
                    // Too late only when nobody waits for it.
                    let _ = inner_size_writer.request_inner_size(size);
                }
                None
            }
            WindowEvent::CloseRequested => pane.close(),
            WindowEvent::Focused(focused) => {
                pane.focused(focused);
                None
            }
            WindowEvent::Occluded(occluded) => pane.occluded(occluded),
            WindowEvent::ModifiersChanged(modifiers) => {
                pane.modifiers(modifiers.state());
                None
            }
            WindowEvent::KeyboardInput { event, is_synthetic, .. } => pane.key(&event, is_synthetic),
            WindowEvent::CursorMoved { position, .. } => {
                pane.moved(position);
                None
            }
            WindowEvent::MouseInput { state, button, .. } => pane.clicked(state, button),
            WindowEvent::MouseWheel { delta, .. } => {
                pane.scrolled(delta);
                None
            }
            WindowEvent::Touch(touch) => pane.touched(&touch),
            _ => None,
        };
        pane.point(event_loop);
        if let Some(wish) = wish {
            self.grant(event_loop, window, wish);
        }
        Ok(())
    }

    fn check(&mut self, event_loop: &ActiveEventLoop, done: Result<(), Gone>) {
        if let Err(gone) = done {
            self.leave(event_loop, End::Gone(gone));
        }
    }

    fn leave(&mut self, event_loop: &ActiveEventLoop, end: End) {
        self.end.get_or_insert(end);
        event_loop.exit();
    }
}

impl ApplicationHandler<News> for App {
    fn resumed(&mut self, _: &ActiveEventLoop) {
        if !self.heads.is_empty() || !self.followers.is_empty() {
            return;
        }
        self.follow(0);
        let (mut floor, proxy) = (self.floor.clone(), self.proxy.clone());
        self.runtime.spawn(async move {
            while floor.changed().await.is_ok() {
                if proxy.send_event(News::Floor).is_err() {
                    return;
                }
            }
        });
    }

    fn user_event(&mut self, event_loop: &ActiveEventLoop, news: News) {
        match news {
            News::Ready(head) => {
                let done = self.ready(event_loop, head);
                self.check(event_loop, done);
            }
            News::Head(head) => self.pane(head).into_iter().for_each(Pane::poll),
            News::Floor => {
                let news = self.floor.borrow_and_update().clone();
                for pane in self.panes.values_mut() {
                    pane.listen(&news);
                    pane.point(event_loop);
                }
            }
            News::Ended => self.leave(event_loop, End::Served),
        }
    }

    fn window_event(&mut self, event_loop: &ActiveEventLoop, window: WindowId, event: WindowEvent) {
        let done = self.hear(event_loop, window, event);
        self.check(event_loop, done);
    }

    fn about_to_wait(&mut self, event_loop: &ActiveEventLoop) {
        let now = Instant::now();
        for pane in self.panes.values_mut().filter(|pane| pane.deadline().is_some_and(|deadline| deadline <= now)) {
            pane.tick(now);
        }
        let next = self.panes.values().filter_map(Pane::deadline).min();
        event_loop.set_control_flow(next.map_or(ControlFlow::Wait, ControlFlow::WaitUntil));
    }
}

/// A window's number at the X server.
fn number(window: &Window) -> u32 {
    match window.window_handle().map(|handle| handle.as_raw()) {
        Ok(RawWindowHandle::Xlib(handle)) => handle.window as u32,
        Ok(RawWindowHandle::Xcb(handle)) => handle.window.get(),
        _ => 0,
    }
}

/// The size of a window that shows a head for the first time.
fn window_size(head: (u32, u32), monitor: Option<(u32, u32)>) -> (u32, u32) {
    let Some((width, height)) = monitor.filter(|monitor| head.0 > monitor.0 || head.1 > monitor.1) else { return head };
    // Room for what a desktop keeps on its monitor, and the head's shape.
    let (width, height) = (u64::from(width) * 9 / 10, u64::from(height) * 9 / 10);
    let (columns, rows) = (u64::from(head.0.max(1)), u64::from(head.1.max(1)));
    let (width, height) = if width * rows <= height * columns {
        (width, width * rows / columns)
    } else {
        (height * columns / rows, height)
    };
    (width.max(1) as u32, height.max(1) as u32)
}

fn title(name: &str, head: u8, heads: usize) -> String {
    let name: String = name.chars().filter(|letter| !letter.is_control()).collect();
    match (name.is_empty(), heads) {
        (true, 0 | 1) => "Beamsplit".to_owned(),
        (true, _) => format!("Beamsplit, screen {}", head + 1),
        (false, 0 | 1) => format!("{name} - Beamsplit"),
        (false, _) => format!("{name}, screen {} - Beamsplit", head + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_the_heads_size_unless_the_monitor_is_smaller() {
        assert_eq!(window_size((1280, 800), Some((1920, 1080))), (1280, 800));
        assert_eq!(window_size((1920, 1080), Some((1920, 1080))), (1920, 1080));
        assert_eq!(window_size((1280, 800), None), (1280, 800));
        assert_eq!(window_size((3840, 2160), Some((1920, 1080))), (1728, 972));
        assert_eq!(window_size((800, 1600), Some((1920, 1080))), (486, 972));
        assert_eq!(window_size((16384, 1), Some((100, 100))), (90, 1));
    }

    #[test]
    fn the_title_names_the_machine_and_the_head_where_there_are_several() {
        assert_eq!(title("vm", 0, 1), "vm - Beamsplit");
        assert_eq!(title("vm", 1, 2), "vm, screen 2 - Beamsplit");
        assert_eq!(title("v\u{1b}]0;m\u{7}", 0, 1), "v]0;m - Beamsplit");
        assert_eq!(title("", 0, 1), "Beamsplit");
    }
}
