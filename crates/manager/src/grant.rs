//! A grant: a definition and its type as they were when the vGPU was started, with what the one overrides of the other.

use serde::{Deserialize, Serialize};

use crate::profile::Type;
use crate::vgpu::Definition;

/// What a started vGPU was given. It does not change while the vGPU runs, whatever becomes of its type and definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The definition.
    pub definition: Definition,
    /// The type, with the definition's own display and heads.
    pub profile: Type,
}
