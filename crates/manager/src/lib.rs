//! Policy: which vGPUs there are, what each may have, and when it runs. No file, socket, process or clock is touched here: facts
//! and moments come in as values, what is to be done goes out as values.
#![forbid(unsafe_code)]

pub mod attachment;
pub mod gpu;
pub mod grant;
pub mod machine;
pub mod partition;
pub mod placement;
pub mod plan;
pub mod profile;
pub mod record;
pub mod schedule;
pub mod value;
pub mod vgpu;

mod document;
mod rehearsal;
#[cfg(test)]
mod testing;

pub use document::FileError;
pub use gpu::{Gpu, GpuId};
pub use grant::Grant;
pub use machine::{Action, Event, Machine, Refusal};
pub use profile::{Type, Types};
pub use uuid::Uuid;
pub use vgpu::{Definition, State};
