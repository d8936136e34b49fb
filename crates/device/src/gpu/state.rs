//! A 2D device's state as a value, so that it can be saved and restored.

use protocol::{Format, MemEntry, ResourceId, ScanoutId};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use super::Gpu;
use super::desc::Desc;
use super::resources::check_entries;
use super::shown::{Pointer, Scanout};
use crate::backing::Backing;
use crate::caps;
use crate::display::Pixels;
use crate::render::{Progress, ResourceDesc};
use crate::virtio::Ticket;

/// The version of the layout that this code writes and reads.
const VERSION: u32 = 1;

/// All that a guest can find again: resources with pixels and backing, heads and pointer. Not what is under way: a
/// device is saved when nothing is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    features: u64,
    heads: Vec<(u32, u32, u32)>,
    resources: Vec<ResourceState>,
    scanouts: Vec<(ScanoutId, Scanout)>,
    pointer: Option<Pointer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ResourceState {
    id: ResourceId,
    kind: Kind,
    uuid: Option<Uuid>,
    entries: Option<Vec<MemEntry>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Image {
        format: Format,
        width: u32,
        height: u32,
        pixels: Vec<u8>,
    },
    GuestBlob {
        size: u64,
    },
    /// A resource of the 3D renderer's, which cannot be saved: the guest can only drop it.
    Lost,
}

/// Why a state cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// Written by another version.
    #[error("Saved state has version {0}, this is version {VERSION}")]
    Version(u32),
    /// Something in it exceeds a cap, or does not fit together.
    #[error("Saved state names an impossible {0}")]
    Impossible(&'static str),
}

impl Gpu {
    /// The state now. The caller has made sure that nothing is parked.
    pub fn state(&mut self) -> State {
        let Self { resources, renderer, .. } = self;
        let mut saved: Vec<_> = resources
            .iter()
            .map(|(id, resource)| {
                let kind = match resource.desc {
                    Desc::Image { format, width, height } => {
                        let pixels = renderer.pixels(id, false).map_or_else(Vec::new, |pixels| match pixels {
                            Pixels::Private(bytes) => bytes.to_vec(),
                            Pixels::Shared(shared) => {
                                let mut bytes = vec![0; shared.slice.len()];
                                shared.slice.copy_to(&mut bytes);
                                bytes
                            }
                            Pixels::Guest(_) => Vec::new(),
                        });
                        Kind::Image { format, width, height, pixels }
                    }
                    Desc::GuestBlob { size } => Kind::GuestBlob { size },
                    Desc::Rendered(_) | Desc::HostBlob(_) | Desc::Lost => Kind::Lost,
                };
                let entries = resource.backing.as_ref().map(|backing| backing.entries().to_vec());
                ResourceState { id, kind, uuid: resource.uuid, entries }
            })
            .collect();
        saved.sort_by_key(|resource| resource.id);
        let has_pixels = |scanout: &Scanout| {
            let found = saved.binary_search_by_key(&scanout.resource, |resource| resource.id);
            found.is_ok_and(|at| saved[at].kind != Kind::Lost)
        };
        let shown = self.scanouts.shown.iter().filter(|(_, scanout)| has_pixels(scanout));
        let scanouts = shown.map(|(id, scanout)| (*id, *scanout)).collect();
        State {
            version: VERSION,
            features: self.features,
            heads: self.heads.modes().map(|mode| (mode.width, mode.height, mode.refresh)).collect(),
            resources: saved,
            scanouts,
            pointer: self.scanouts.pointer.clone(),
        }
    }

    /// Takes on a saved state in place of what there is. A state is as little trusted as a guest: on an error the
    /// device is empty. Backings are looked up when they are first used.
    pub fn restore(&mut self, state: State) -> Result<(), RestoreError> {
        self.forget_guest();
        let restored = self.try_restore(state);
        match restored {
            Ok(()) => {
                self.unseen = true;
                if !self.scanouts.shown.is_empty() {
                    self.yield_boot();
                }
            }
            Err(_) => self.forget_guest(),
        }
        restored
    }

    fn try_restore(&mut self, state: State) -> Result<(), RestoreError> {
        if state.version != VERSION {
            return Err(RestoreError::Version(state.version));
        }
        self.features = state.features;
        for (id, (width, height, _)) in (0..).map(ScanoutId).zip(state.heads) {
            self.heads.resize(id, width, height);
        }
        self.lay_out();
        for resource in state.resources {
            self.restore_resource(resource).ok_or(RestoreError::Impossible("resource"))?;
        }
        for (id, scanout) in state.scanouts {
            self.restore_scanout(id, scanout).ok_or(RestoreError::Impossible("scanout"))?;
        }
        self.scanouts.pointer = match state.pointer {
            Some(pointer) if !is_possible(&pointer) => return Err(RestoreError::Impossible("pointer")),
            pointer => pointer,
        };
        let image = self.scanouts.pointer.as_ref().and_then(|pointer| pointer.image.as_ref());
        let charged = self.resources.charge_cursor(image.map_or(0, |image| image.pixels.len()));
        charged.map_err(|_| RestoreError::Impossible("pointer"))?;
        Ok(())
    }

    fn restore_resource(&mut self, saved: ResourceState) -> Option<()> {
        let desc = match saved.kind {
            Kind::Image { format, width, height, .. } => {
                let possible = 1..=caps::IMAGE_SIZE;
                (possible.contains(&width) && possible.contains(&height)).then_some(())?;
                Some(ResourceDesc::Image { format, width, height })
            }
            Kind::GuestBlob { size } => Some(ResourceDesc::GuestBlob { size }),
            Kind::Lost => None,
        };
        (saved.id.0 != 0).then_some(())?;
        // Nobody waits for the ticket: a renderer that answers later is in order all the same.
        let ticket = self.order.ticket();
        self.resources.insert(saved.id, desc.map_or(Desc::Lost, Desc::from), ticket).ok()?;
        if let Some(desc) = desc {
            self.create_restored(ticket, saved.id, desc)?;
        }
        if let Kind::Image { pixels, .. } = saved.kind
            && !pixels.is_empty()
        {
            self.renderer.restore(saved.id, &pixels).ok()?;
        }
        if let Some(entries) = saved.entries {
            check_entries(&entries).ok()?;
            let backing = Backing::new(entries);
            if let Some(ResourceDesc::GuestBlob { size }) = desc {
                (backing.len() >= size).then_some(())?;
            }
            self.resources.set_backing(saved.id, Some(backing)).ok()?;
        }
        self.resources.get(saved.id).ok()?.uuid = saved.uuid;
        Some(())
    }

    fn create_restored(&mut self, ticket: Ticket, id: ResourceId, desc: ResourceDesc) -> Option<()> {
        match self.renderer.create(ticket, id, desc) {
            Progress::Done(result) => result.ok(),
            Progress::Later => Some(()),
        }
    }

    fn restore_scanout(&mut self, id: ScanoutId, scanout: Scanout) -> Option<()> {
        (id.0 < protocol::MAX_SCANOUTS).then_some(())?;
        let len = match self.resources.get(scanout.resource).ok()?.desc {
            Desc::Image { width, height, .. } => {
                u64::from(width) * u64::from(height) * u64::from(Format::BYTES_PER_PIXEL)
            }
            Desc::GuestBlob { size } => size,
            Desc::Rendered(_) | Desc::HostBlob(_) | Desc::Lost => return None,
        };
        let Scanout { rect, stride, .. } = scanout;
        let within = rect.is_within(caps::IMAGE_SIZE, caps::IMAGE_SIZE) && !rect.is_empty();
        let rows_fit = rect.right() * u64::from(Format::BYTES_PER_PIXEL) <= u64::from(stride);
        (within && rows_fit && scanout.end() <= len).then_some(())?;
        self.scanouts.shown.insert(id, scanout);
        Some(())
    }
}

fn is_possible(pointer: &Pointer) -> bool {
    let sizes = 1..=caps::CURSOR_SIZE;
    pointer.scanout.0 < protocol::MAX_SCANOUTS
        && pointer.image.as_ref().is_none_or(|image| {
            let bytes = image.width as usize * image.height as usize * Format::BYTES_PER_PIXEL as usize;
            sizes.contains(&image.width)
                && sizes.contains(&image.height)
                && (image.pixels.is_empty() || image.pixels.len() == bytes)
        })
}
