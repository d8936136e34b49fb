//! The two interfaces of a GPU. Both are C, and checked by nobody: what is passed lives until its frame has ended.
#![allow(unsafe_code)] // OpenGL and Vulkan. SAFETY: each block says why.

pub mod dumb;
pub mod gl;
pub mod kms;
pub mod vulkan;
