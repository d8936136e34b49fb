//! The seam between the device and who makes pixels.

use std::os::fd::BorrowedFd;

use protocol::{Format, MemEntry, Rect, ReplyError, ResourceId};

use crate::backing::Pages;
use crate::display::Pixels;
use crate::virtio::Ticket;

/// What a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceDesc {
    /// An image of RESOURCE_CREATE_2D, whose pixels the renderer keeps.
    Image {
        /// Order of a pixel's bytes.
        format: Format,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A blob that is nothing but the guest's pages.
    GuestBlob {
        /// Size in bytes.
        size: u64,
    },
}

/// A copy between a resource and its backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The part of the image; lies inside it.
    pub rect: Rect,
    /// Position in the backing of the rectangle's first pixel, in bytes.
    pub offset: u64,
}

/// What becomes of a request to a renderer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done, or it failed.
    Done(Result<(), ReplyError>),
    /// [`Renderer::poll`] will tell, once.
    Later,
}

/// A request that was answered [`Progress::Later`] is done, or it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Which request.
    pub ticket: Ticket,
    /// How it went.
    pub result: Result<(), ReplyError>,
}

/// Who makes pixels. The device has checked that the resource exists (or does not yet), that rectangles lie inside it
/// and that the cap of memory holds. No method blocks.
pub trait Renderer: Send {
    /// A new resource.
    fn create(&mut self, ticket: Ticket, resource: ResourceId, desc: ResourceDesc) -> Progress;

    /// The resource is gone. Takes effect at once, whatever is still under way on it.
    fn destroy(&mut self, resource: ResourceId);

    /// The guest gave the resource pages, all of which are in its memory.
    fn attach(&mut self, ticket: Ticket, resource: ResourceId, entries: &[MemEntry]) -> Progress;

    /// The guest took them back.
    fn detach(&mut self, ticket: Ticket, resource: ResourceId) -> Progress;

    /// Copies from the backing into the image.
    fn transfer_to_host(
        &mut self,
        ticket: Ticket,
        resource: ResourceId,
        transfer: Transfer,
        pages: &Pages<'_>,
    ) -> Progress;

    /// The image's pixels as they are now, rows packed at `width * 4` bytes. With `shared`, in memory that another
    /// process can map, if the renderer can. `None`: the renderer has no pixels.
    fn pixels(&mut self, resource: ResourceId, shared: bool) -> Option<Pixels<'_>>;

    /// Puts an image's pixels back, as [`pixels`](Self::pixels) gave them.
    fn restore(&mut self, resource: ResourceId, pixels: &[u8]) -> Result<(), ReplyError>;

    /// Every resource is gone.
    fn reset(&mut self);

    /// Readable when [`poll`](Self::poll) has something to tell. The same descriptor for the renderer's life.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Appends what was promised by [`Progress::Later`] and has come.
    fn poll(&mut self, _done: &mut Vec<Rendered>) {}
}
