//! A library that does what its caller's bytes say.

use std::sync::{Condvar, Mutex, PoisonError};

use device::HostBlob;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vm_memory::VolatileSlice;

use super::*;
use crate::library::{Exported, Library, Piece, Sink};

/// What a library was told, and what its test tells it.
#[derive(Default)]
pub struct Script {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub struct State {
    /// Each call.
    pub calls: Vec<String>,
    /// A submit waits for this to be false.
    pub closed: bool,
    /// So many go on all the same.
    pub steps: usize,
    /// Fences stay open until the test retires them.
    pub holds_fences: bool,
    pub fences: Vec<Ticket>,
    pub sink: Option<Arc<dyn Sink>>,
    pub submitted: Vec<Vec<u8>>,
    pub attached: Vec<Piece>,
}

impl Script {
    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets submits go on.
    pub fn let_go(&self) {
        self.state().closed = false;
        self.changed.notify_all();
    }

    /// Lets one submit go on that waits.
    pub fn step(&self) {
        self.state().steps += 1;
        self.changed.notify_all();
    }

    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }
}

/// Plays the process: the real one, around a library that follows the script.
pub fn play(script: &Arc<Script>) -> impl Fn(Kind, OwnedFd) + Send + Sync + 'static {
    let script = script.clone();
    move |kind, socket| {
        let script = script.clone();
        let _ = child::run(socket, |sink| {
            script.state().sink = Some(sink.clone());
            let library = Scripted { script: script.clone(), sink, kind };
            library.note("start".into());
            Ok(Box::new(library))
        });
    }
}

struct Scripted {
    script: Arc<Script>,
    sink: Arc<dyn Sink>,
    kind: Kind,
}

impl Scripted {
    fn note(&self, call: String) {
        self.script.state().calls.push(format!("{:?} {call}", self.kind));
    }
}

impl Library for Scripted {
    fn open(&mut self, context: ContextId, capset: CapsetId, name: &[u8]) -> Result<(), ReplyError> {
        self.note(format!("open {} {capset} {}", context.0, name.escape_ascii()));
        if context.0 == 666 { Err(ReplyError::OutOfMemory) } else { Ok(()) }
    }

    fn close(&mut self, context: ContextId) {
        self.note(format!("close {}", context.0));
    }

    fn join(&mut self, context: ContextId, resource: ResourceId) {
        self.note(format!("join {} {}", context.0, resource.0));
    }

    fn leave(&mut self, context: ContextId, resource: ResourceId) {
        self.note(format!("leave {} {}", context.0, resource.0));
    }

    fn submit(&mut self, context: ContextId, commands: &mut [u8]) -> Result<(), ReplyError> {
        assert_eq!(commands.as_ptr() as usize % 8, 0);
        self.note(format!("submit {} {}", context.0, commands.len()));
        let mut state = self.script.state();
        state.submitted.push(commands.to_vec());
        while state.closed {
            if let Some(left) = state.steps.checked_sub(1) {
                state.steps = left;
                break;
            }
            state = self.script.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if commands.starts_with(b"bad") { Err(ReplyError::InvalidParameter) } else { Ok(()) }
    }

    fn fence(&mut self, ticket: Ticket, context: ContextId, ring: u8) -> Result<(), ReplyError> {
        self.note(format!("fence {} {ring}", context.0));
        if ring == 63 {
            return Err(ReplyError::InvalidParameter);
        }
        if self.script.state().holds_fences {
            self.script.state().fences.push(ticket);
        } else {
            self.sink.retired(ticket);
        }
        Ok(())
    }

    fn create(&mut self, resource: ResourceId, desc: &Resource3d) -> Result<(), ReplyError> {
        self.note(format!("create {} {}x{}", resource.0, desc.width, desc.height));
        if resource.0 == 666 { Err(ReplyError::OutOfMemory) } else { Ok(()) }
    }

    fn create_blob(&mut self, context: ContextId, blob: &HostBlob) -> Result<Option<Exported>, ReplyError> {
        self.note(format!("blob {} of {}, {} bytes", blob.resource.0, context.0, blob.size));
        if blob.id == 0 {
            return Ok(None);
        }
        let file = memfd_create("blob", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, blob.size).unwrap();
        rustix::io::pwrite(&file, &blob.id.to_le_bytes(), 0).unwrap();
        Ok(Some(Exported { file, caching: 1 }))
    }

    fn destroy(&mut self, resource: ResourceId) {
        self.note(format!("destroy {}", resource.0));
    }

    fn attach(&mut self, resource: ResourceId, pieces: Vec<Piece>) -> Result<(), ReplyError> {
        self.note(format!("attach {} {} pieces", resource.0, pieces.len()));
        self.script.state().attached = pieces;
        Ok(())
    }

    fn detach(&mut self, resource: ResourceId) {
        self.note(format!("detach {}", resource.0));
        self.script.state().attached.clear();
    }

    fn transfer(&mut self, context: ContextId, way: Way, transfer: &Transfer3d) -> Result<(), ReplyError> {
        self.note(format!("transfer {} {} {way:?}", context.0, transfer.resource.0));
        Ok(())
    }

    /// Each pixel says where it is.
    fn read(
        &mut self,
        resource: ResourceId,
        rect: Rect,
        target: VolatileSlice<'_>,
        stride: u32,
    ) -> Result<(), ReplyError> {
        self.note(format!("read {} {rect:?}", resource.0));
        for row in 0..rect.height {
            for column in 0..rect.width {
                let pixel = [resource.0 as u8, (rect.x + column) as u8, (rect.y + row) as u8, 0xff];
                target.subslice((row * stride + column * 4) as usize, 4).unwrap().copy_from(&pixel);
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        resource: ResourceId,
        rect: Rect,
        source: VolatileSlice<'_>,
        stride: u32,
    ) -> Result<(), ReplyError> {
        let mut first = [0_u8; 4];
        source.copy_to(&mut first);
        let Rect { x, y, width, height } = rect;
        self.note(format!("write {} {width}x{height} at {x},{y} {first:?} {stride}", resource.0));
        Ok(())
    }

    fn poll(&mut self) -> Option<u32> {
        None
    }
}
