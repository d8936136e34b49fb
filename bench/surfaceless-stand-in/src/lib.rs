//! Has a program that draws with virglrenderer do so on a host without a render node: loaded before that library (`LD_PRELOAD`), it
//! takes the call that starts it. QEMU's daemon asks for EGL on a DRM device and has no option for anything else; with this the
//! library is asked for EGL without surfaces, on which software drivers draw. Nothing else is changed: what the daemon does with
//! commands, fences and memory is what it does on a GPU. Pictures on a head alone it cannot export, and it refuses them: guests that are
//! measured draw off the screen.
#![allow(unsafe_code)] // A C library's own function, by its own rules.

use std::ffi::{c_char, c_int, c_void};
use std::mem;
use std::sync::OnceLock;

/// `VIRGL_RENDERER_USE_EGL` and `VIRGL_RENDERER_USE_SURFACELESS`.
const WITHOUT_SURFACES: c_int = 1 | 1 << 3;
/// Words of the structure of callbacks in its newest version: the version itself, then functions.
const WORDS: usize = 9;
/// How many functions it has by its version.
const FUNCTIONS: [usize; 5] = [0, 4, 5, 7, 8];
/// Where the function is that returns a DRM device.
const GET_DRM_FD: usize = 5;

/// What it is called with, of which pointers keep their meaning.
type Callbacks = [usize; WORDS];
type Init = unsafe extern "C" fn(*mut c_void, c_int, *mut Callbacks) -> c_int;

/// Takes `virgl_renderer_init`.
///
/// # Safety
/// As of the library's: `callbacks` points to a structure as long as its version says, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn virgl_renderer_init(cookie: *mut c_void, flags: c_int, callbacks: *const c_int) -> c_int {
    // The library keeps the pointer.
    static KEPT: OnceLock<usize> = OnceLock::new();
    let Some(init) = next(c"virgl_renderer_init".as_ptr()) else { return -1 };
    if callbacks.is_null() {
        return -1;
    }
    // SAFETY: it begins with its version, by this function's own rule.
    let version = unsafe { callbacks.read() };
    let Some(functions) = usize::try_from(version).ok().and_then(|version| FUNCTIONS.get(version)) else { return -1 };
    let mut words: Callbacks = [0; WORDS];
    // SAFETY: a structure of this version has so many words; the first is the version, and what fills it up.
    unsafe { callbacks.cast::<usize>().copy_to_nonoverlapping(words.as_mut_ptr(), 1 + functions) };
    words[GET_DRM_FD] = 0;
    let kept = *KEPT.get_or_init(|| Box::into_raw(Box::new(words)) as usize);
    // SAFETY: the library's own function, with what the caller promised; the copy is never freed.
    unsafe { init(cookie, flags | WITHOUT_SURFACES, kept as *mut Callbacks) }
}

/// Takes `virgl_renderer_get_fd_for_texture`: without a device there is nothing to export, which the library says in a way that the
/// daemon takes for a success, and then dies of.
#[unsafe(no_mangle)]
pub extern "C" fn virgl_renderer_get_fd_for_texture(_texture: u32, _file: *mut c_int) -> c_int {
    -libc::EINVAL
}

/// The library's function that this one stands before.
fn next(name: *const c_char) -> Option<Init> {
    // SAFETY: the name is a string; a null pointer becomes nothing.
    unsafe { mem::transmute::<*mut c_void, Option<Init>>(libc::dlsym(libc::RTLD_NEXT, name)) }
}
