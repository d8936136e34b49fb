//! Heads that show resources, and the pointer (virtio 1.3, sections 5.7.6.8 and 5.7.6.10).

use protocol::command::{CursorPosition, ScanoutBlob};
use protocol::{Format, Rect, Reply, ReplyError, ResourceId, ScanoutId};

use super::boot::Boot;
use super::desc::Desc;
use super::resources::Resources;
use super::shown::{Pointer, PointerImage, Scanout};
use super::three_d::Rendering;
use super::{Gpu, Step};
use crate::caps;
use crate::display::{Cursor, Frame, Pixels};
use crate::memory::Memory;
use crate::render::Renderer;
use crate::virtio::Ticket;

/// A copy of what a head shows: rows packed at `width * 4` bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Order of a pixel's bytes.
    pub format: Format,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The rows.
    pub pixels: Vec<u8>,
}

/// The pixels of a head, if they are all there.
fn frame<'a>(
    renderer: &'a mut dyn Renderer,
    three_d: &'a mut Option<Box<Rendering>>,
    resources: &'a mut Resources,
    memory: &'a Memory,
    scanout: &Scanout,
    shared: bool,
) -> Result<Option<Frame<'a>>, ReplyError> {
    let found = resources.get(scanout.resource)?;
    let pixels = match found.desc {
        Desc::Image { .. } => renderer.pixels(scanout.resource, shared),
        Desc::Rendered(_) => three_d.as_mut().and_then(|three_d| three_d.renderer.pixels(scanout.resource)),
        Desc::GuestBlob { .. } => {
            let backing = found.backing.as_mut().ok_or(ReplyError::Unspec)?;
            Some(Pixels::Guest(backing.pages(memory)?))
        }
        Desc::HostBlob(_) => {
            three_d.as_mut().and_then(|three_d| three_d.views.pages(scanout.resource)).map(Pixels::Guest)
        }
        Desc::Lost => None,
    };
    let Some(pixels) = pixels else { return Ok(None) };
    let len = match found.desc.image() {
        Some((_, width, height)) => u64::from(width) * u64::from(height) * u64::from(Format::BYTES_PER_PIXEL),
        None => u64::MAX,
    };
    let present = match &pixels {
        Pixels::Private(bytes) => bytes.len() as u64,
        Pixels::Shared(shared) => shared.slice.len() as u64,
        Pixels::Guest(pages) => pages.len(),
    };
    if scanout.end() > len.min(present) {
        return Err(ReplyError::InvalidParameter);
    }
    let Rect { width, height, .. } = scanout.rect;
    Ok(Some(Frame { format: scanout.format, width, height, stride: scanout.stride, offset: scanout.start(), pixels }))
}

/// What a head is to show of a blob of so many bytes, if that is an image and lies inside.
pub(super) fn blob_image(blob: &ScanoutBlob, size: u64) -> Result<Scanout, ReplyError> {
    let ScanoutBlob { resource, rect, width, height, format, stride, offset, .. } = *blob;
    let is_image = (1..=caps::IMAGE_SIZE).contains(&width) && (1..=caps::IMAGE_SIZE).contains(&height);
    if !is_image || rect.is_empty() || !rect.is_within(width, height) {
        return Err(ReplyError::InvalidParameter);
    }
    let whole = Scanout { resource, rect: Rect::of_size(width, height), format, stride, offset };
    if stride < width * Format::BYTES_PER_PIXEL || whole.end() > size {
        return Err(ReplyError::InvalidParameter);
    }
    Ok(Scanout { rect, ..whole })
}

impl Frame<'_> {
    fn copy(&self) -> Result<Capture, ReplyError> {
        let stride = self.width as usize * Format::BYTES_PER_PIXEL as usize;
        let mut pixels = Vec::new();
        pixels.try_reserve_exact(stride * self.height as usize).map_err(|_| ReplyError::OutOfMemory)?;
        pixels.resize(stride * self.height as usize, 0);
        let rect = self.rect();
        for (row, target) in (0..self.height).zip(pixels.chunks_exact_mut(stride)) {
            self.read_row(&rect, row, target);
        }
        Ok(Capture { format: self.format, width: self.width, height: self.height, pixels })
    }
}

impl Gpu {
    pub(super) fn set_scanout(
        &mut self,
        memory: &Memory,
        id: ScanoutId,
        resource: ResourceId,
        rect: Rect,
    ) -> Result<(), ReplyError> {
        self.check_scanout(id)?;
        if resource.0 == 0 {
            self.switch_off(memory, id);
            return Ok(());
        }
        let desc = self.resources.get(resource)?.desc;
        let (format, width, height) = desc.image().ok_or(ReplyError::InvalidParameter)?;
        if rect.is_empty() || !rect.is_within(width, height) {
            return Err(ReplyError::InvalidParameter);
        }
        let stride = width * Format::BYTES_PER_PIXEL;
        self.show(memory, id, Scanout { resource, rect, format, stride, offset: 0 })?;
        self.drop_unseen_views();
        Ok(())
    }

    pub(super) fn set_scanout_blob(
        &mut self,
        memory: &Memory,
        ticket: Ticket,
        blob: ScanoutBlob,
    ) -> Result<Step, ReplyError> {
        self.check_scanout(blob.scanout)?;
        if blob.resource.0 == 0 {
            self.switch_off(memory, blob.scanout);
            return Ok(Step::Reply(Reply::OkNoData));
        }
        match self.resources.get(blob.resource)?.desc {
            Desc::GuestBlob { size } => {
                let image = blob_image(&blob, size)?;
                self.show(memory, blob.scanout, image)?;
                self.drop_unseen_views();
                Ok(Step::Reply(Reply::OkNoData))
            }
            Desc::HostBlob(_) => self.show_host_blob(memory, ticket, blob),
            Desc::Image { .. } | Desc::Rendered(_) | Desc::Lost => Err(ReplyError::InvalidParameter),
        }
    }

    fn check_scanout(&self, id: ScanoutId) -> Result<(), ReplyError> {
        let exists = self.heads.contains(self.display.as_ref(), id);
        exists.then_some(()).ok_or(ReplyError::InvalidScanoutId)
    }

    fn switch_off(&mut self, memory: &Memory, id: ScanoutId) {
        self.catch_up_with(memory, id);
        self.scanouts.shown.remove(&id);
        if self.scanouts.forget(id) {
            self.display.set_scanout(id, None);
        }
        self.drop_unseen_views();
    }

    pub(super) fn show(&mut self, memory: &Memory, id: ScanoutId, scanout: Scanout) -> Result<(), ReplyError> {
        let shared = self.display.wants_shared();
        let Self { renderer, three_d, resources, .. } = self;
        let awaited = matches!(resources.get(scanout.resource)?.desc, Desc::Rendered(_));
        let frame = frame(renderer.as_mut(), three_d, resources, memory, &scanout, shared)?;
        self.scanouts.shown.insert(id, scanout);
        match awaited {
            true => self.scanouts.awaited.insert(id),
            false => self.scanouts.awaited.remove(&id),
        };
        if self.boot.as_mut().is_some_and(Boot::gives_way) {
            self.leave_boot(memory);
            return Ok(());
        }
        if awaited {
            return Ok(());
        }
        match &frame {
            Some(_) => self.scanouts.lit.insert(id),
            None => self.scanouts.lit.remove(&id),
        };
        self.display.set_scanout(id, frame.as_ref());
        Ok(())
    }

    pub(super) fn flush(
        &mut self,
        memory: &Memory,
        ticket: Ticket,
        resource: ResourceId,
        rect: Rect,
    ) -> Result<Step, ReplyError> {
        let desc = self.resources.get(resource)?.desc;
        if desc.image().is_some_and(|(_, width, height)| !rect.is_within(width, height)) {
            return Err(ReplyError::InvalidParameter);
        }
        match desc {
            Desc::Image { .. } if self.must_read_twin(resource) => {
                self.flush_twin(memory, resource, rect).map(|()| Step::Reply(Reply::OkNoData))
            }
            Desc::Image { .. } | Desc::GuestBlob { .. } | Desc::HostBlob(_) if self.shows_driver() => {
                self.show_damage(memory, resource, &rect).map(|()| Step::Reply(Reply::OkNoData))
            }
            Desc::Image { .. } | Desc::GuestBlob { .. } | Desc::HostBlob(_) => Ok(Step::Reply(Reply::OkNoData)),
            Desc::Rendered(_) => Ok(self.flush_rendered(memory, ticket, resource, rect)),
            Desc::Lost => Err(ReplyError::Unspec),
        }
    }

    /// Pixels of a resource changed: heads that have it show them.
    pub(super) fn show_damage(&mut self, memory: &Memory, resource: ResourceId, rect: &Rect) -> Result<(), ReplyError> {
        let shared = self.display.wants_shared();
        let Self { renderer, three_d, resources, .. } = self;
        for (id, scanout) in self.scanouts.shown.iter().filter(|(_, scanout)| scanout.resource == resource) {
            if self.scanouts.awaited.contains(id) {
                continue;
            }
            let Some(damage) = scanout.shown(rect) else { continue };
            let frame = frame(renderer.as_mut(), three_d, resources, memory, scanout, shared)?;
            let Some(frame) = frame else { continue };
            if self.scanouts.lit.insert(*id) {
                self.display.set_scanout(*id, Some(&frame));
                self.display.flush(*id, &frame, frame.rect());
            } else {
                self.display.flush(*id, &frame, damage);
            }
            self.stats.frames.add(1);
        }
        Ok(())
    }

    /// A display is ready for what it has not seen of a head. A frame that is not there is not shown.
    pub(super) fn supply(&mut self, memory: &Memory, id: ScanoutId, damage: Rect) {
        if let Some(frame) = self.boot.as_ref().and_then(|boot| boot.frame(id)) {
            let inside = frame.rect().intersection(&damage).unwrap_or_default();
            return self.display.supply(id, Some(&frame), inside);
        }
        let shared = self.display.wants_shared();
        let Self { renderer, three_d, resources, .. } = self;
        let frame = self
            .scanouts
            .lit(id)
            .and_then(|scanout| frame(renderer.as_mut(), three_d, resources, memory, scanout, shared).ok().flatten());
        let inside = frame.as_ref().map_or(damage, |frame| frame.rect().intersection(&damage).unwrap_or_default());
        self.display.supply(id, frame.as_ref(), inside);
    }

    /// A display that knows nothing is told everything.
    pub(super) fn show_all(&mut self, memory: &Memory) {
        if !self.shows_driver() {
            return self.show_boot();
        }
        let shared = self.display.wants_shared();
        let Self { renderer, three_d, resources, .. } = self;
        for (id, scanout) in &self.scanouts.shown {
            let frame = frame(renderer.as_mut(), three_d, resources, memory, scanout, shared);
            if let Ok(Some(frame)) = frame {
                self.scanouts.lit.insert(*id);
                self.display.set_scanout(*id, Some(&frame));
                self.display.flush(*id, &frame, frame.rect());
            }
        }
        self.show_pointer();
    }

    pub(super) fn update_cursor(
        &mut self,
        memory: &Memory,
        ticket: Ticket,
        position: CursorPosition,
        resource: ResourceId,
        (hot_x, hot_y): (u32, u32),
    ) -> Result<Step, ReplyError> {
        let CursorPosition { scanout, x, y } = position;
        self.check_scanout(scanout)?;
        if resource.0 != 0 && self.resources.get(resource)?.desc.is_rendered() {
            return self.read_pointer(ticket, position, resource, (hot_x, hot_y));
        }
        let image = match resource.0 {
            0 => None,
            _ => Some(self.read_pointer_image(memory, resource)?),
        };
        self.make_room_for_pointer(image.as_ref().map_or(0, |image| image.pixels.len()))?;
        if let Some(three_d) = &mut self.three_d {
            three_d.reads.pointer = None;
        }
        self.scanouts.pointer = Some(Pointer { scanout, x, y, hot_x, hot_y, image });
        self.show_pointer();
        Ok(Step::Reply(Reply::OkNoData))
    }

    /// A picture of at most 64 times 64 pixels; a blob is exactly that, as Linux makes them.
    fn read_pointer_image(&mut self, memory: &Memory, resource: ResourceId) -> Result<PointerImage, ReplyError> {
        const SIZE: u32 = caps::CURSOR_SIZE;
        let (format, width, height) = match self.resources.get(resource)?.desc {
            Desc::Image { format, width, height } => (format, width, height),
            Desc::GuestBlob { .. } => (Format::B8G8R8A8, SIZE, SIZE),
            Desc::Rendered(_) | Desc::HostBlob(_) | Desc::Lost => return Err(ReplyError::Unspec),
        };
        if width > SIZE || height > SIZE {
            return Err(ReplyError::InvalidParameter);
        }
        let stride = width * Format::BYTES_PER_PIXEL;
        let whole = Scanout { resource, rect: Rect::of_size(width, height), format, stride, offset: 0 };
        let pixels = self.copy_frame(memory, &whole)?.map_or_else(Vec::new, |capture| capture.pixels);
        self.stats.bytes_copied.add(pixels.len() as u64);
        Ok(PointerImage { format, width, height, pixels })
    }

    pub(super) fn move_cursor(&mut self, position: CursorPosition) -> Result<(), ReplyError> {
        let CursorPosition { scanout, x, y } = position;
        self.check_scanout(scanout)?;
        if let Some(pointer) = &mut self.scanouts.pointer {
            (pointer.scanout, pointer.x, pointer.y) = (scanout, x, y);
        }
        if let Some(wanted) = self.three_d.as_mut().and_then(|three_d| three_d.reads.pointer.as_mut()) {
            wanted.position = position;
        }
        if self.shows_driver() {
            self.display.move_cursor(scanout, x, y);
        }
        Ok(())
    }

    pub(super) fn show_pointer(&mut self) {
        let pointer = self.scanouts.pointer.as_ref().filter(|_| self.shows_driver());
        let Some(Pointer { scanout, x, y, hot_x, hot_y, image }) = pointer else { return };
        let image = image.as_ref().filter(|image| !image.pixels.is_empty()).map(|image| Frame {
            format: image.format,
            width: image.width,
            height: image.height,
            stride: image.width * Format::BYTES_PER_PIXEL,
            offset: 0,
            pixels: Pixels::Private(&image.pixels),
        });
        self.display.cursor(&Cursor { scanout: *scanout, x: *x, y: *y, hot_x: *hot_x, hot_y: *hot_y, image });
    }

    pub(super) fn hide_cursor(&mut self) {
        if let Some(pointer) = &mut self.scanouts.pointer {
            pointer.image = None;
            self.show_pointer();
            self.scanouts.pointer = None;
            // Nothing always has room.
            let _ = self.resources.charge_cursor(0);
        }
    }

    fn copy_frame(&mut self, memory: &Memory, scanout: &Scanout) -> Result<Option<Capture>, ReplyError> {
        let Self { renderer, three_d, resources, .. } = self;
        let frame = frame(renderer.as_mut(), three_d, resources, memory, scanout, false)?;
        frame.map(|frame| frame.copy()).transpose()
    }

    /// Before the pixels of a resource go, displays that put something off see them once more.
    pub(super) fn catch_up_on(&mut self, memory: &Memory, resource: ResourceId) {
        for id in self.scanouts.showing(|scanout| scanout.resource == resource) {
            self.catch_up_with(memory, id);
        }
    }

    /// As [`catch_up_on`](Self::catch_up_on), of all heads.
    pub(super) fn catch_up_with_all(&mut self, memory: &Memory) {
        for id in self.scanouts.showing(|_| true) {
            self.catch_up_with(memory, id);
        }
        self.catch_up_with_boot();
    }

    fn catch_up_with(&mut self, memory: &Memory, id: ScanoutId) {
        let shared = self.display.wants_shared();
        let Self { renderer, three_d, resources, .. } = self;
        let Some(scanout) = self.scanouts.lit(id) else { return };
        if let Ok(Some(frame)) = frame(renderer.as_mut(), three_d, resources, memory, scanout, shared) {
            self.display.catch_up(id, &frame);
        }
    }

    /// A copy of what a head shows, without the pointer; nothing when it shows nothing.
    pub fn capture(&mut self, memory: &Memory, id: ScanoutId) -> Option<Capture> {
        if !self.shows_driver() {
            self.refresh_boot();
            return self.boot.as_ref()?.frame(id)?.copy().ok();
        }
        let scanout = *self.scanouts.shown.get(&id)?;
        self.copy_frame(memory, &scanout).ok().flatten()
    }
}
