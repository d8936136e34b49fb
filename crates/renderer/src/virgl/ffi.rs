//! The calls into the library. The only unsafe code of this crate: it is a C library, loaded while running.
//!
//! What makes them sound: the library is never unloaded; [`Started`] exists once in a process and cannot leave the thread that
//! started it; memory that the library keeps using (pages of a resource) lives in a table here until it has let go of them; what
//! it writes to has its length checked here. Everything else it is asked, it answers with a number.

#![allow(unsafe_code)]

mod layout;
mod vulkan;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use device::{HostBlob, Ticket, Way};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use protocol::{Rect, Resource3d, Transfer3d};
use vm_memory::VolatileSlice;

use self::layout::*;
pub(super) use self::vulkan::look as look_at_vulkan;
use super::fences::Fences;
use super::renderer::{Calls, Memory};
use super::{Config, log};
use crate::library::{Kind, Piece, Sink};

/// Loads a library for the life of the process: drivers that it loads have threads that never end.
pub(super) fn open(name: &Path) -> Result<&'static Library, String> {
    // SAFETY: a library's constructors run, which is what whoever names it asks for.
    let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) };
    library.map(|library| &*Box::leak(Box::new(library))).map_err(|error| error.to_string())
}

macro_rules! functions {
    (required { $($name:ident: $type:ty = $symbol:literal,)* } optional { $($newer:ident: $newer_type:ty = $newer_symbol:literal,)* }) => {
        /// What the library can do.
        #[derive(Clone, Copy, Debug)]
        pub(super) struct Functions {
            $($name: $type,)*
            $($newer: Option<$newer_type>,)*
        }

        impl Functions {
            /// Finds all functions. An error names the first that is missing and must not.
            pub(super) fn bind(library: &'static Library) -> Result<Self, &'static str> {
                Ok(Self {
                    $($name: {
                        // SAFETY: the type is the one that the library's header gives to this name; never unloaded.
                        let symbol: Result<Symbol<$type>, _> = unsafe { library.get($symbol.as_bytes()) };
                        *symbol.map_err(|_| $symbol)?
                    },)*
                    $($newer: {
                        // SAFETY: as above.
                        let symbol: Result<Symbol<$newer_type>, _> = unsafe { library.get($newer_symbol.as_bytes()) };
                        symbol.ok().map(|symbol| *symbol)
                    },)*
                })
            }

            /// Names of the newer functions that are missing.
            pub(super) fn lacks(&self) -> Vec<&'static str> {
                let all = [$(($newer_symbol, self.$newer.is_some()),)*];
                all.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect()
            }
        }
    };
}

functions! {
    required {
        init: Init = "virgl_renderer_init",
        poll: Nothing = "virgl_renderer_poll",
        get_poll_fd: GetPollFd = "virgl_renderer_get_poll_fd",
        get_cap_set: GetCapSet = "virgl_renderer_get_cap_set",
        fill_caps: FillCaps = "virgl_renderer_fill_caps",
        context_create: ContextCreate = "virgl_renderer_context_create_with_flags",
        context_destroy: Id = "virgl_renderer_context_destroy",
        context_poll: Id = "virgl_renderer_context_poll",
        context_fence: ContextFence = "virgl_renderer_context_create_fence",
        submit: Submit = "virgl_renderer_submit_cmd",
        context_attach: TwoIds = "virgl_renderer_ctx_attach_resource",
        context_detach: TwoIds = "virgl_renderer_ctx_detach_resource",
        create: Create = "virgl_renderer_resource_create",
        unref: Id = "virgl_renderer_resource_unref",
        attach: Attach = "virgl_renderer_resource_attach_iov",
        detach: Detach = "virgl_renderer_resource_detach_iov",
        read: Transfer = "virgl_renderer_transfer_read_iov",
        write: Transfer = "virgl_renderer_transfer_write_iov",
        create_blob: CreateBlob = "virgl_renderer_resource_create_blob",
        export_blob: ExportBlob = "virgl_renderer_resource_export_blob",
        map_info: GetMapInfo = "virgl_renderer_resource_get_map_info",
    }
    optional {
        set_log: SetLog = "virgl_set_log_callback",
        // Only looked at, as marks of a version.
        map_fixed: Nothing = "virgl_renderer_resource_map_fixed",
    }
}

impl Functions {
    pub(super) fn has_log(&self) -> bool {
        self.set_log.is_some()
    }

    pub(super) fn has_fixed_maps(&self) -> bool {
        self.map_fixed.is_some()
    }
}

/// What callbacks reach, on threads of the library's own.
struct Shared {
    sink: Arc<dyn Sink>,
    node: Mutex<Option<OwnedFd>>,
    server: Mutex<Option<OwnedFd>>,
    /// Fences that were not told.
    fences: Mutex<Fences>,
    /// One of them was.
    one_told: Condvar,
}

impl Shared {
    fn fences(&self) -> MutexGuard<'_, Fences> {
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fence of a context is not open any more.
    fn was_told(&self, context: u32, fence: u64) {
        self.fences().told(context, fence);
        self.one_told.notify_all();
    }
}

/// How long a context that is to be closed may have open fences: who draws for longer is taken for one that hangs, elsewhere.
const SETTLE: Duration = Duration::from_secs(2);
/// How often the library is given a turn meanwhile: its thread may wait for the results of queries.
const TURN: Duration = Duration::from_millis(1);

/// The library, started.
pub(super) struct Started {
    functions: Functions,
    shared: &'static Shared,
    /// Pages that the library uses.
    attached: HashMap<u32, Attached>,
    /// Commands that did not lie as the library wants them.
    aligned: Vec<u64>,
    /// The library's contexts are current on one thread.
    _one_thread: PhantomData<*const ()>,
}

/// Pages of one resource. The array's place is known to the library: it is not moved.
struct Attached {
    array: *mut [Iovec],
    _pieces: Vec<Piece>,
}

impl Attached {
    /// `None`: a piece does not lie in its mapping, or there are more than the library counts.
    fn new(pieces: Vec<Piece>) -> Option<Self> {
        let iovec = |piece: &Piece| {
            let end = piece.offset.checked_add(piece.len)?;
            (end <= piece.mapping.size()).then(|| {
                let base = piece.mapping.as_ptr().wrapping_add(piece.offset);
                Iovec { base: base.cast(), len: piece.len }
            })
        };
        let array: Box<[Iovec]> = pieces.iter().map(iovec).collect::<Option<_>>()?;
        c_int::try_from(array.len()).ok()?;
        Some(Self { array: Box::into_raw(array), _pieces: pieces })
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw` in `new`, and whoever drops this has seen to it that the library has let go of it.
        drop(unsafe { Box::from_raw(self.array) });
    }
}

unsafe extern "C" fn write_fence(_: *mut c_void, _: u32) {}

unsafe extern "C" fn write_context_fence(cookie: *mut c_void, context: u32, _ring: u32, id: u64) {
    // SAFETY: the cookie is the leaked `Shared` of `Started::new`.
    let shared = unsafe { &*cookie.cast::<Shared>() };
    shared.sink.retired(Ticket(id));
    shared.was_told(context, id);
}

unsafe extern "C" fn get_drm_fd(cookie: *mut c_void) -> c_int {
    // SAFETY: as above.
    give(unsafe { &(*cookie.cast::<Shared>()).node })
}

unsafe extern "C" fn get_server_fd(cookie: *mut c_void, _version: u32) -> c_int {
    // SAFETY: as above.
    give(unsafe { &(*cookie.cast::<Shared>()).server })
}

/// The library owns what it is given.
fn give(fd: &Mutex<Option<OwnedFd>>) -> c_int {
    fd.lock().ok().and_then(|mut fd| fd.take()).map_or(-1, IntoRawFd::into_raw_fd)
}

unsafe extern "C" fn write_log(level: c_int, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: a string of C, alive for this call.
    log::line(level, unsafe { CStr::from_ptr(text) }.to_bytes());
}

impl Started {
    /// The caller calls this once in a process. An error is the library's number.
    pub(super) fn new(functions: Functions, config: Config) -> Result<Self, c_int> {
        let Config { kind, node, server, sink } = config;
        let flags = THREAD_SYNC | ASYNC_FENCE_CB;
        let vulkan = if server.is_some() { VENUS | RENDER_SERVER } else { 0 };
        let flags = flags
            | vulkan
            | match kind {
                // With a node, its own device is drawn with; without, the driver that needs none.
                Kind::Gl if node.is_some() => USE_EGL | USE_EXTERNAL_BLOB,
                Kind::Gl => USE_EGL | USE_SURFACELESS | USE_EXTERNAL_BLOB,
                Kind::Vk => NO_VIRGL,
            };
        let has_node = node.is_some();
        let (fences, one_told) = Default::default();
        let shared = Shared { sink, node: node.into(), server: server.into(), fences, one_told };
        let shared: &'static Shared = Box::leak(Box::new(shared));
        let callbacks = Box::leak(Box::new(Callbacks {
            version: CALLBACKS_VERSION,
            write_fence: Some(write_fence),
            create_gl_context: None,
            destroy_gl_context: None,
            make_current: None,
            get_drm_fd: has_node.then_some(get_drm_fd as _),
            write_context_fence: Some(write_context_fence),
            get_server_fd: Some(get_server_fd),
            get_egl_display: None,
        }));
        if let Some(set_log) = functions.set_log {
            // SAFETY: the function lives as long as the process; it needs no data, so there is none to free.
            unsafe { set_log(write_log, ptr::null_mut(), ptr::null()) };
        }
        // SAFETY: cookie and callbacks live as long as the process, and what they do is right on any thread.
        let code = unsafe { (functions.init)(ptr::from_ref(shared).cast_mut().cast(), flags, callbacks) };
        if code != 0 {
            return Err(code);
        }
        let (attached, aligned) = (HashMap::new(), Vec::new());
        Ok(Self { functions, shared, attached, aligned, _one_thread: PhantomData })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // The library itself ends with the process: it cannot be started again, and threads of drivers may be at work.
        for resource in self.attached.keys().copied().collect::<Vec<_>>() {
            self.detach(resource);
        }
    }
}

// Ids of the guest are 32 bits; the library takes some of them as signed and gives them back unsigned.
impl Calls for Started {
    fn open(&mut self, context: u32, capset: u32, name: &[u8]) -> i32 {
        let name: Vec<u8> = name.iter().copied().take_while(|byte| *byte != 0).collect();
        let length = u32::try_from(name.len()).unwrap_or(0);
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: a string of C of that length, which the library copies.
        unsafe { (self.functions.context_create)(context, capset, length, name.as_ptr()) }
    }

    fn settle(&mut self, context: u32) {
        let begin = Instant::now();
        let mut fences = self.shared.fences();
        while fences.has(context) && begin.elapsed() < SETTLE {
            drop(fences);
            // SAFETY: no arguments.
            unsafe { (self.functions.poll)() };
            fences = self.shared.fences();
            if fences.has(context) {
                let waited = self.shared.one_told.wait_timeout(fences, TURN);
                fences = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn close(&mut self, context: u32) {
        // What is left of them may never be told, or late: then it is none of the next context of this name.
        self.shared.fences().forget(context);
        // SAFETY: a number.
        unsafe { (self.functions.context_destroy)(context) }
    }

    fn join(&mut self, context: u32, resource: u32) {
        // SAFETY: two numbers.
        unsafe { (self.functions.context_attach)(context.cast_signed(), resource.cast_signed()) }
    }

    fn leave(&mut self, context: u32, resource: u32) {
        // SAFETY: two numbers.
        unsafe { (self.functions.context_detach)(context.cast_signed(), resource.cast_signed()) }
    }

    fn submit(&mut self, context: u32, commands: &mut [u8]) -> i32 {
        let Ok(words) = c_int::try_from(commands.len() / 4) else { return -1 };
        let mut start = commands.as_mut_ptr();
        if !start.cast::<u64>().is_aligned() {
            let (units, rest) = commands.as_chunks::<8>();
            self.aligned.clear();
            self.aligned.extend(units.iter().map(|unit| u64::from_ne_bytes(*unit)));
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.aligned.push(u64::from_ne_bytes(last));
            start = self.aligned.as_mut_ptr().cast();
        }
        // SAFETY: `start` has that many words, nobody else has them, and the library is done with them when it returns.
        unsafe { (self.functions.submit)(start.cast(), context.cast_signed(), words) }
    }

    fn fence(&mut self, context: u32, ring: u32, id: u64) -> i32 {
        self.shared.fences().asked(context, id);
        // SAFETY: numbers.
        let code = unsafe { (self.functions.context_fence)(context, 0, ring, id) };
        if code != 0 {
            self.shared.was_told(context, id);
        }
        code
    }

    fn create(&mut self, resource: u32, desc: &Resource3d) -> i32 {
        let Resource3d { target, format, bind, width, height, depth, array_size, last_level, nr_samples, flags } =
            *desc;
        let mut args = CreateArgs {
            handle: resource,
            target,
            format,
            bind,
            width,
            height,
            depth,
            array_size,
            last_level,
            nr_samples,
            flags,
        };
        // SAFETY: the arguments are only read, and no pages are given.
        unsafe { (self.functions.create)(&mut args, ptr::null_mut(), 0) }
    }

    fn create_blob(&mut self, context: u32, blob: &HostBlob) -> i32 {
        let args = CreateBlobArgs {
            res_handle: blob.resource.0,
            ctx_id: context,
            blob_mem: blob.mem,
            blob_flags: blob.flags,
            blob_id: blob.id,
            size: blob.size,
            iovecs: ptr::null(),
            num_iovs: 0,
        };
        // SAFETY: the arguments are only read, and no pages are given.
        unsafe { (self.functions.create_blob)(&args) }
    }

    fn export(&mut self, resource: u32) -> Option<(Memory, OwnedFd)> {
        let (mut kind, mut fd) = (0, -1);
        // SAFETY: two places to write to.
        let code = unsafe { (self.functions.export_blob)(resource, &mut kind, &mut fd) };
        // SAFETY: the library gives the descriptor away.
        let file = (code == 0 && fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })?;
        match kind {
            FD_DMABUF => Some((Memory::DmaBuf, file)),
            FD_SHM => Some((Memory::Shared, file)),
            _ => None,
        }
    }

    fn map_info(&mut self, resource: u32) -> Option<u32> {
        let mut caching = 0;
        // SAFETY: a place to write to.
        let code = unsafe { (self.functions.map_info)(resource, &mut caching) };
        (code == 0).then_some(caching)
    }

    fn unref(&mut self, resource: u32) {
        self.detach(resource);
        // SAFETY: a number.
        unsafe { (self.functions.unref)(resource) }
    }

    fn attach(&mut self, resource: u32, pieces: Vec<Piece>) -> i32 {
        if self.attached.contains_key(&resource) {
            return -1;
        }
        let Some(attached) = Attached::new(pieces) else { return -1 };
        let count = attached.array.len() as c_int; // Checked by `new`.
        // SAFETY: the array and what it points to stay where they are until `detach` has taken them back. Others may write there,
        // as they may into any shared memory: the library reads it as such.
        let code = unsafe { (self.functions.attach)(resource.cast_signed(), attached.array.cast(), count) };
        if code == 0 {
            self.attached.insert(resource, attached);
        }
        code
    }

    fn detach(&mut self, resource: u32) {
        let Some(attached) = self.attached.remove(&resource) else { return };
        let (mut array, mut count) = (ptr::null_mut(), 0);
        // SAFETY: two places to write to. The library forgets the array, which was given by `attach`.
        unsafe { (self.functions.detach)(resource.cast_signed(), &mut array, &mut count) };
        drop(attached);
    }

    fn transfer(&mut self, context: u32, way: Way, transfer: &Transfer3d) -> i32 {
        let Transfer3d { area, offset, resource, level, stride, layer_stride } = *transfer;
        let mut area = VirglBox { x: area.x, y: area.y, z: area.z, w: area.width, h: area.height, d: area.depth };
        let call = match way {
            Way::ToHost => self.functions.write,
            Way::FromHost => self.functions.read,
        };
        let none = ptr::null_mut();
        // SAFETY: the box is only read; without an array the library uses the attached one, which is alive.
        unsafe { call(resource.0, context, level, stride, layer_stride, &mut area, offset, none, 0) }
    }

    fn read(&mut self, resource: u32, rect: Rect, target: VolatileSlice<'_>, stride: u32) -> i32 {
        let mut area = VirglBox { x: rect.x, y: rect.y, z: 0, w: rect.width, h: rect.height, d: 1 };
        let guard = target.ptr_guard_mut();
        let mut array = [Iovec { base: guard.as_ptr().cast(), len: target.len() }];
        // SAFETY: the array is used during this call only, and the library writes no further than its length. Context 0 is the
        // library's own and there always.
        unsafe { (self.functions.read)(resource, 0, 0, stride, 0, &mut area, 0, array.as_mut_ptr(), 1) }
    }

    fn write(&mut self, resource: u32, rect: Rect, source: VolatileSlice<'_>, stride: u32) -> i32 {
        let mut area = VirglBox { x: rect.x, y: rect.y, z: 0, w: rect.width, h: rect.height, d: 1 };
        let guard = source.ptr_guard_mut();
        let mut array = [Iovec { base: guard.as_ptr().cast(), len: source.len() }];
        // SAFETY: as in `read`; the library only reads what the array names.
        unsafe { (self.functions.write)(resource, 0, 0, stride, 0, &mut area, 0, array.as_mut_ptr(), 1) }
    }

    fn capset(&mut self, id: u32) -> Option<(u32, Vec<u8>)> {
        let (mut version, mut size) = (0, 0);
        // SAFETY: two places to write to.
        unsafe { (self.functions.get_cap_set)(id, &mut version, &mut size) };
        if size == 0 || size > super::rules::CAPSET_BYTES {
            return None;
        }
        let mut bytes = vec![0; size as usize];
        // SAFETY: the library writes as many bytes as it said.
        unsafe { (self.functions.fill_caps)(id, version, bytes.as_mut_ptr().cast()) };
        Some((version, bytes))
    }

    fn needs_polling(&self) -> bool {
        // SAFETY: no arguments.
        unsafe { (self.functions.get_poll_fd)() < 0 }
    }

    fn open_fences(&self) -> bool {
        !self.shared.fences().is_empty()
    }

    fn poll(&mut self, contexts: &mut dyn Iterator<Item = u32>) {
        // SAFETY: no arguments.
        unsafe { (self.functions.poll)() };
        for context in contexts {
            // SAFETY: a number.
            unsafe { (self.functions.context_poll)(context) };
        }
    }
}
