//! A viewer that was built without windows.

use std::convert::Infallible;
use std::sync::Arc;

use tokio::runtime::Handle;
use tracing::warn;

use crate::hub::Hub;
use crate::{RunError, WindowSpec};

/// A window; there is none.
#[derive(Debug)]
pub struct Window(Infallible);

impl Window {
    /// Says that there is none.
    pub(crate) fn open(_: WindowSpec) -> Option<Self> {
        warn!("This program was built without windows (feature `window`): there is none, all else goes on");
        None
    }

    pub(crate) fn run(
        self,
        _: Arc<Hub>,
        _: Handle,
        _: impl FnOnce() -> Result<(), RunError> + Send + 'static,
    ) -> Result<(), RunError> {
        match self.0 {}
    }
}
