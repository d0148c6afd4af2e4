//! Images on their way to a back end.

use std::sync::Arc;

use crate::backend::Backend;
use crate::data::loader::{Config, Loader, Source, slot_pixels};
use crate::error::Result;

/// A loader whose slots lie where the back end copies from fastest.
pub fn load<B: Backend>(
    backend: &B,
    source: Arc<dyn Source>,
    config: Config,
) -> Result<Loader<B::HostMemory>> {
    let bytes = slot_pixels(config.positions.micro_batch(), config.views.crop());
    let buffers = (0..config.slots)
        .map(|_| backend.allocate_host(bytes))
        .collect::<Result<_>>()?;
    Loader::with_buffers(source, config, buffers)
}
