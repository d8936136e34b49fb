//! What only the kernel knows, or does, and no safe function asks of it: the only place in this crate with `unsafe`.
//! Each block says why it may, after `SAFETY:`.

#![allow(unsafe_code)]

pub mod sigbus;
pub(crate) mod unread;
