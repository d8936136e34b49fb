//! A `/dev/udmabuf` for programs on a host that has none: loaded before the C library (`LD_PRELOAD`), it takes the calls that open
//! the device and ask it for a dma-buf. What it hands out is the memfd itself, which maps as the dma-buf would; nothing but that
//! works with it. Software drivers of Vulkan export memory only where this device is.
#![allow(unsafe_code)] // These are the C library's own functions, by its own rules.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};

const DEVICE: &CStr = c"/dev/udmabuf";
/// `_IOW('u', 0x42, struct udmabuf_create)`: memfd (32 bits), flags (32 bits), offset, size.
const UDMABUF_CREATE: c_ulong = 0x4018_7542;
/// The letter of a dma-buf's own requests (begin and end of access, a name), in bits 8 to 15.
const DMA_BUF: c_ulong = b'b' as c_ulong;

/// Takes `open`.
///
/// # Safety
/// As of the C library's: the path is a string or null. A mode that was not given is not looked at by the kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller keeps `openat`'s promises.
    unsafe { openat(libc::AT_FDCWD, path, flags, mode) }
}

/// Takes `open64`.
///
/// # Safety
/// As of [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller keeps `openat`'s promises.
    unsafe { openat(libc::AT_FDCWD, path, flags, mode) }
}

/// Takes `openat64`.
///
/// # Safety
/// As of [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the caller keeps `openat`'s promises.
    unsafe { openat(folder, path, flags, mode) }
}

/// Takes `openat`: who opens the device gets a file that answers nothing by itself.
///
/// # Safety
/// As of [`open`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(folder: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: a path that is not null is a string, by this function's own rule.
    let is_device = !path.is_null() && unsafe { CStr::from_ptr(path) } == DEVICE;
    let path = if is_device { c"/dev/null".as_ptr() } else { path };
    // SAFETY: the kernel checks what it is given.
    unsafe { libc::syscall(libc::SYS_openat, folder, path, flags, mode) as c_int }
}

/// Takes `ioctl`: a request for a dma-buf returns the memfd once more, and a dma-buf's own requests succeed.
///
/// # Safety
/// As of the C library's: with UDMABUF_CREATE, the argument points to its structure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(file: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if request & 0xffff_ffff == UDMABUF_CREATE && !argument.is_null() {
        // SAFETY: the structure begins with the memfd, by this function's own rule.
        return unsafe { libc::fcntl(argument.cast::<c_int>().read_unaligned(), libc::F_DUPFD_CLOEXEC, 0) };
    }
    if request >> 8 & 0xff == DMA_BUF {
        return 0;
    }
    // SAFETY: the kernel checks what it is given.
    let answer: c_long = unsafe { libc::syscall(libc::SYS_ioctl, file, request, argument) };
    answer as c_int
}
