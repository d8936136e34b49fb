//! What a 3D renderer has no room for waits here, in the order in which it came, while all else goes on.
//!
//! A renderer may stand still for a while, because it is busy or because somebody stopped it. Then it takes no more work of a
//! kind, its gate is shut, and whatever goes through that gate waits in [`Order`](super::order::Order), with its place on its
//! timeline. What waits there has a cap: over it, the ring itself waits ([`Gpu::is_crowded`]), and with it whoever fills it.

use protocol::{CapsetId, Command, ContextId, Header, Transfer3d};

use super::Gpu;
use super::desc::Desc;
use crate::caps;

/// Work that waits for the same room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Gate {
    /// OpenGL's.
    Gl,
    /// That of all other contexts.
    Other,
}

impl Gate {
    pub const ALL: [Gate; 2] = [Gate::Gl, Gate::Other];

    fn of(capset: CapsetId) -> Self {
        match capset {
            CapsetId::VIRGL | CapsetId::VIRGL2 => Gate::Gl,
            _ => Gate::Other,
        }
    }

    /// A set whose contexts' work goes through it.
    fn capset(self) -> CapsetId {
        match self {
            Gate::Gl => CapsetId::VIRGL2,
            Gate::Other => CapsetId::VENUS,
        }
    }
}

impl Gpu {
    /// Asks the 3D renderer where it has room. What images have and their twins lack is written before work that is to see it.
    pub(super) fn look_at_gates(&mut self) {
        let may_pass = self.write_stale();
        let Some(three_d) = &self.three_d else { return };
        for gate in Gate::ALL {
            let has_room = !three_d.renderer.is_full(gate.capset());
            self.order.set_gate(gate, !has_room || gate == Gate::Gl && !may_pass);
        }
    }

    /// The gate that a command has to pass, where that is shut or others wait before it.
    pub(super) fn gate(&self, header: &Header, command: &Command) -> Option<Gate> {
        let gate = self.way(header, command)?;
        self.order.is_shut(gate).then_some(gate)
    }

    /// The gate through which a command goes: what it is for the 3D renderer, which keeps to the order of all of it.
    fn way(&self, header: &Header, command: &Command) -> Option<Gate> {
        let three_d = self.three_d.as_ref()?;
        let of_context = |context| three_d.contexts.capset(context).map(Gate::of);
        match command {
            Command::Submit3d { .. }
            | Command::CtxDestroy
            | Command::CtxAttachResource { .. }
            | Command::CtxDetachResource { .. }
            | Command::ResourceCreateBlob(_) => of_context(ContextId(header.ctx_id)),
            Command::ResourceCreate3d { .. } => Some(Gate::Gl),
            // Seen and asked of what is there; nothing of it is the renderer's.
            Command::ResourceMapBlob { .. }
            | Command::ResourceUnmapBlob { .. }
            | Command::ResourceAssignUuid { .. } => None,
            _ => match self.resources.desc(command.resource()?)? {
                Desc::Image { .. } => self.way_of_image(command),
                Desc::Rendered(_) => Some(Gate::Gl),
                Desc::HostBlob(blob) => Some(of_context(blob.context).unwrap_or(Gate::Other)),
                Desc::GuestBlob { .. } | Desc::Lost => None,
            },
        }
    }

    /// Of what names an image only that which the guest's pages in the renderer's hands depend on: the rest is ours.
    fn way_of_image(&self, command: &Command) -> Option<Gate> {
        let three_d = self.three_d.as_ref()?;
        match command {
            Command::TransferFromHost3d(_) => Some(Gate::Gl),
            Command::ResourceUnref { resource } | Command::ResourceDetachBacking { resource } => {
                three_d.twins.has(*resource).then_some(Gate::Gl)
            }
            _ => None,
        }
    }

    /// Whether a command has the 3D renderer do something with an image that is ours.
    pub(super) fn uses_image(&self, command: &Command) -> bool {
        let (Command::CtxAttachResource { resource }
        | Command::CtxDetachResource { resource }
        | Command::TransferFromHost3d(Transfer3d { resource, .. })) = command
        else {
            return false;
        };
        matches!(self.resources.desc(*resource), Some(Desc::Image { .. }))
    }

    /// Whether so much waits that no more is to be taken from the ring.
    ///
    /// Then all programs of the guest wait, whoever of them it was, and so does its console: there is one ring for all of them, whose
    /// order is not ours to change by looking further than we may keep. It lasts for as long as the renderer takes nothing at all,
    /// which ends it (`--renderer-patience`, of time in which it may run); each stream that it takes makes room for another. To refuse
    /// streams instead would poison contexts that did nothing wrong, and to keep more would be the host's memory.
    pub(super) fn is_crowded(&self) -> bool {
        self.order.waiting_bytes() >= caps::WAITING_BYTES
    }
}
