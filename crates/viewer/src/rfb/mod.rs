//! The remote framebuffer protocol (RFC 6143 and the community's register of extensions), as bytes in and bytes out: nothing
//! here knows a socket, a clock or a device.

pub(crate) mod cursor;
pub(crate) mod decode;
pub(crate) mod encodings;
pub(crate) mod message;
pub(crate) mod pixel;
pub(crate) mod zlib;
pub(crate) mod zrle;
