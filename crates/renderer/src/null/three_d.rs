//! A 3D renderer without a library.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use device::{Capset, HostBlob, HostMapping, Memory, Pixels, Progress, ThreeD, Ticket, Way};
use protocol::{CapsetId, ContextId, MemEntry, Rect, Resource3d, ResourceId, Transfer3d};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// `VIRTIO_GPU_MAP_CACHE_CACHED`.
const CACHED: u32 = 1;

const DONE: Progress = Progress::Done(Ok(()));

/// Says yes to everything, does nothing and has no pixels. Its fences are done at once; its blobs are memory that can be mapped.
#[derive(Clone, Debug)]
pub struct Null3d {
    capsets: Vec<Capset>,
    blobs: HashMap<ResourceId, HostMapping>,
}

impl Null3d {
    /// With these capability sets.
    pub fn new(capsets: Vec<Capset>) -> Self {
        Self { capsets, blobs: HashMap::new() }
    }
}

impl Default for Null3d {
    /// With OpenGL and Vulkan.
    fn default() -> Self {
        let capset = |id, version, size, rings, maps| Capset { id, version, bytes: vec![0; size].into(), rings, maps };
        let virgl2 = capset(CapsetId::VIRGL2, 2, 1384, 1, false);
        Self::new(vec![virgl2, capset(CapsetId::VENUS, 0, 160, 64, true)])
    }
}

/// Memory as a library exports it: nobody can shrink it.
fn export(size: u64) -> io::Result<HostMapping> {
    let len = size.next_multiple_of(4096);
    let fd = memfd_create("beamsplit-null", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, len)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(HostMapping { file: Arc::new(File::from(fd)), offset: 0, len, caching: CACHED })
}

impl ThreeD for Null3d {
    fn capsets(&self) -> &[Capset] {
        &self.capsets
    }

    fn open(&mut self, _ticket: Ticket, _context: ContextId, _capset: CapsetId, _name: &[u8]) -> Progress {
        DONE
    }

    fn close(&mut self, _context: ContextId) {}

    fn join(&mut self, _context: ContextId, _resource: ResourceId) {}

    fn leave(&mut self, _context: ContextId, _resource: ResourceId) {}

    fn submit(&mut self, _ticket: Ticket, _context: ContextId, _commands: &[u8]) -> Progress {
        DONE
    }

    fn fence(&mut self, _ticket: Ticket, _context: ContextId, _ring: u8) -> Progress {
        DONE
    }

    fn create(&mut self, _ticket: Ticket, _resource: ResourceId, _desc: &Resource3d) -> Progress {
        DONE
    }

    fn create_blob(&mut self, _ticket: Ticket, _context: ContextId, blob: &HostBlob) -> Progress {
        // A blob that could not be exported is one that cannot be mapped.
        if let Ok(mapping) = export(blob.size) {
            self.blobs.insert(blob.resource, mapping);
        }
        DONE
    }

    fn destroy(&mut self, resource: ResourceId) {
        self.blobs.remove(&resource);
    }

    fn attach(&mut self, _ticket: Ticket, _resource: ResourceId, _entries: &[MemEntry]) -> Progress {
        DONE
    }

    fn detach(&mut self, _ticket: Ticket, _resource: ResourceId) -> Progress {
        DONE
    }

    fn transfer(&mut self, _ticket: Ticket, _context: ContextId, _way: Way, _transfer: &Transfer3d) -> Progress {
        DONE
    }

    fn mapping(&mut self, resource: ResourceId) -> Option<HostMapping> {
        self.blobs.get(&resource).cloned()
    }

    fn read(&mut self, _ticket: Ticket, _resource: ResourceId, _rect: Rect) -> Progress {
        DONE
    }

    fn write(&mut self, _ticket: Ticket, _resource: ResourceId, _rect: Rect, _pixels: &Pixels<'_>) -> Progress {
        DONE
    }

    fn forget_pixels(&mut self, _resource: ResourceId) {}

    fn is_open(&self, _context: ContextId) -> bool {
        true
    }

    fn has(&self, _resource: ResourceId) -> bool {
        true
    }

    fn pixels(&mut self, _resource: ResourceId) -> Option<Pixels<'_>> {
        None
    }

    fn memory(&mut self, _memory: &Memory) {}

    fn reset(&mut self) {
        self.blobs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_whole_pages_that_cannot_be_shrunk() {
        let mut null = Null3d::default();
        let resource = ResourceId(1);
        let blob = HostBlob { resource, mem: 2, flags: 1, id: 0, size: 4097 };
        assert_eq!(null.create_blob(Ticket(1), ContextId(1), &blob), DONE);
        let mapping = null.mapping(resource).unwrap();
        assert_eq!((mapping.len, mapping.file.metadata().unwrap().len()), (8192, 8192));
        assert!(mapping.file.set_len(4096).is_err());
        null.destroy(resource);
        assert!(null.mapping(resource).is_none());
    }
}
