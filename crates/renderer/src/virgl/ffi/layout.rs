//! The library's structures and numbers (virglrenderer.h).

use std::ffi::{c_char, c_int, c_void};

pub const USE_EGL: c_int = 1 << 0;
pub const THREAD_SYNC: c_int = 1 << 1;
pub const USE_SURFACELESS: c_int = 1 << 3;
pub const USE_EXTERNAL_BLOB: c_int = 1 << 5;
pub const VENUS: c_int = 1 << 6;
pub const NO_VIRGL: c_int = 1 << 7;
pub const ASYNC_FENCE_CB: c_int = 1 << 8;
pub const RENDER_SERVER: c_int = 1 << 9;

/// The newest layout of [`Callbacks`] that every version takes.
pub const CALLBACKS_VERSION: c_int = 3;

/// `VIRGL_RENDERER_BLOB_FD_TYPE_*`
pub const FD_DMABUF: u32 = 1;
pub const FD_SHM: u32 = 3;

/// `struct virgl_renderer_callbacks`
#[repr(C)]
pub struct Callbacks {
    pub version: c_int,
    pub write_fence: Option<unsafe extern "C" fn(*mut c_void, u32)>,
    pub create_gl_context: Option<unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> *mut c_void>,
    pub destroy_gl_context: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
    pub make_current: Option<unsafe extern "C" fn(*mut c_void, c_int, *mut c_void) -> c_int>,
    pub get_drm_fd: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
    pub write_context_fence: Option<unsafe extern "C" fn(*mut c_void, u32, u32, u64)>,
    pub get_server_fd: Option<unsafe extern "C" fn(*mut c_void, u32) -> c_int>,
    /// Of version 4; room for a library that looks without asking.
    pub get_egl_display: Option<unsafe extern "C" fn(*mut c_void) -> *mut c_void>,
}

/// `struct virgl_renderer_resource_create_args`
#[repr(C)]
pub struct CreateArgs {
    pub handle: u32,
    pub target: u32,
    pub format: u32,
    pub bind: u32,
    pub width: u32,
    pub height: u32,
    pub depth: u32,
    pub array_size: u32,
    pub last_level: u32,
    pub nr_samples: u32,
    pub flags: u32,
}

/// `struct virgl_renderer_resource_create_blob_args`
#[repr(C)]
pub struct CreateBlobArgs {
    pub res_handle: u32,
    pub ctx_id: u32,
    pub blob_mem: u32,
    pub blob_flags: u32,
    pub blob_id: u64,
    pub size: u64,
    pub iovecs: *const Iovec,
    pub num_iovs: u32,
}

/// `struct virgl_box`
#[repr(C)]
pub struct VirglBox {
    pub x: u32,
    pub y: u32,
    pub z: u32,
    pub w: u32,
    pub h: u32,
    pub d: u32,
}

/// `struct iovec`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Iovec {
    pub base: *mut c_void,
    pub len: usize,
}

pub type Init = unsafe extern "C" fn(*mut c_void, c_int, *mut Callbacks) -> c_int;
pub type Nothing = unsafe extern "C" fn();
pub type GetPollFd = unsafe extern "C" fn() -> c_int;
pub type GetCapSet = unsafe extern "C" fn(u32, *mut u32, *mut u32);
pub type FillCaps = unsafe extern "C" fn(u32, u32, *mut c_void);
pub type ContextCreate = unsafe extern "C" fn(u32, u32, u32, *const c_char) -> c_int;
pub type Id = unsafe extern "C" fn(u32);
pub type ContextFence = unsafe extern "C" fn(u32, u32, u32, u64) -> c_int;
pub type Submit = unsafe extern "C" fn(*mut c_void, c_int, c_int) -> c_int;
pub type TwoIds = unsafe extern "C" fn(c_int, c_int);
pub type Create = unsafe extern "C" fn(*mut CreateArgs, *mut Iovec, u32) -> c_int;
pub type Attach = unsafe extern "C" fn(c_int, *mut Iovec, c_int) -> c_int;
pub type Detach = unsafe extern "C" fn(c_int, *mut *mut Iovec, *mut c_int);
pub type Transfer = unsafe extern "C" fn(u32, u32, u32, u32, u32, *mut VirglBox, u64, *mut Iovec, c_int) -> c_int;
pub type CreateBlob = unsafe extern "C" fn(*const CreateBlobArgs) -> c_int;
pub type ExportBlob = unsafe extern "C" fn(u32, *mut u32, *mut c_int) -> c_int;
pub type GetMapInfo = unsafe extern "C" fn(u32, *mut u32) -> c_int;
pub type SetLog =
    unsafe extern "C" fn(unsafe extern "C" fn(c_int, *const c_char, *mut c_void), *mut c_void, *const c_void);
