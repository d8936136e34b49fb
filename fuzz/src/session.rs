//! The seam between device and viewer, with a stranger on either side of an established session.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use frames::{Cursor, DeviceEnd, Format, Geometry, News, Rect, SharedImage, ViewerEnd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};

use crate::bytes::Bytes;

/// A stranger speaks to the viewer (a message's first byte is even) or to the device (odd), with memory or without.
/// Neither may fall over, and the device not even stop.
pub fn intrude(data: &[u8]) {
    let Some(mut session) = Session::new() else { return };
    let mut bytes = Bytes(data);
    let mut viewer_lives = true;
    while !bytes.is_spent() {
        let (kind, len) = (bytes.u8(), usize::from(bytes.u16() % 20_000));
        session.say(kind, bytes.take(len));
        session.device.poll();
        session.device.damage(0, Rect { x: 0, y: 0, width: 4, height: 4 });
        while viewer_lives {
            match session.viewer.receive() {
                Ok(Some(news)) => look(&news),
                Ok(None) => break,
                Err(_) => viewer_lives = false,
            }
        }
        viewer_lives = viewer_lives && session.viewer.ready(0, true, true).is_ok();
    }
    assert!(!session.device.is_closed(), "a stranger's words must not end the device's side");
}

/// Touches every pixel that the viewer was told of.
fn look(news: &News) {
    if let News::Show(_, view) = news {
        let Geometry { width, height, .. } = *view.geometry();
        let mut row = vec![0; width as usize * 4];
        for y in 0..=height {
            let count = view.read_row(0, y, &mut row);
            assert_eq!(count, if y < height { width as usize } else { 0 });
        }
    }
}

struct Session {
    device: DeviceEnd,
    viewer: ViewerEnd,
    /// What is sent here arrives at the device.
    to_device: OwnedFd,
    to_viewer: OwnedFd,
    image: SharedImage,
    /// Memory that could be truncated under whoever maps it.
    unsealed: OwnedFd,
}

impl Session {
    fn new() -> Option<Self> {
        let (a, b) = frames::pair().ok()?;
        let (to_viewer, to_device) = (a.try_clone().ok()?, b.try_clone().ok()?);
        let mut device = DeviceEnd::new(a, "fuzz", 2).ok()?;
        let mut viewer = ViewerEnd::new(b).ok()?;
        let image = SharedImage::create(4096).ok()?;
        device.poll();
        device.show(0, &image, Geometry::packed(16, 16, Format::B8G8R8X8)).ok()?;
        viewer.ready(0, true, true).ok()?;
        device.poll();
        while let Ok(Some(_)) = viewer.receive() {}
        let unsealed = memfd_create("unsealed", MemfdFlags::CLOEXEC).ok()?;
        ftruncate(&unsealed, 4096).ok()?;
        Some(Self { device, viewer, to_device, to_viewer, image, unsealed })
    }

    fn say(&self, kind: u8, message: &[u8]) {
        let socket = if kind & 1 == 0 { &self.to_viewer } else { &self.to_device };
        let fd = match kind >> 1 & 3 {
            1 => Some(self.image.fd()),
            2 => Some(self.unsealed.as_fd()),
            3 => Some(socket.as_fd()),
            _ => None,
        };
        say(socket.as_fd(), message, fd);
    }
}

pub(crate) fn say(socket: BorrowedFd<'_>, message: &[u8], fd: Option<BorrowedFd<'_>>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [std::io::IoSlice::new(message)];
    let _ = sendmsg(socket, &parts, &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// All that the two sides of a real session say to each other, as [`intrude`] takes it.
pub fn seed() -> Option<Vec<u8>> {
    let (a, near_device) = frames::pair().ok()?;
    let (b, near_viewer) = frames::pair().ok()?;
    let mut device = DeviceEnd::new(a, "seed", 2).ok()?;
    let mut viewer = ViewerEnd::new(b).ok()?;
    let image = SharedImage::create(4096).ok()?;
    let mut seed = Vec::new();
    let mut relay = |device: &mut DeviceEnd, viewer: &mut ViewerEnd| {
        let mut buffer = vec![0; 1 << 16];
        for _ in 0..20 {
            for (kind, from, to) in [(1, &near_viewer, &near_device), (2, &near_device, &near_viewer)] {
                while let Ok((len, _)) = recv(from, &mut buffer[..], RecvFlags::DONTWAIT) {
                    let message = &buffer[..len];
                    say(to.as_fd(), message, (kind == 2).then(|| image.fd()));
                    seed.push(kind);
                    seed.extend((len as u16).to_le_bytes());
                    seed.extend(message);
                }
            }
            device.poll();
            while let Ok(Some(_)) = viewer.receive() {}
        }
    };
    relay(&mut device, &mut viewer);
    device.show(0, &image, Geometry::packed(16, 16, Format::B8G8R8X8)).ok()?;
    let pixels = vec![0x80; 64];
    device.cursor(0, Some(Cursor { width: 4, height: 4, hot_x: 1, hot_y: 1, pixels })).ok()?;
    viewer.ready(0, true, true).ok()?;
    relay(&mut device, &mut viewer);
    device.move_cursor(0, 5, 5);
    device.damage(0, Rect { x: 1, y: 1, width: 4, height: 4 });
    viewer.ready(0, false, true).ok()?;
    viewer.close().ok()?;
    relay(&mut device, &mut viewer);
    device.cursor(0, None).ok()?;
    device.forget(&image);
    device.blank(0);
    viewer.ready(0, false, true).ok()?;
    relay(&mut device, &mut viewer);
    Some(seed)
}
