//! The folder of a run, from its recipe on.

use std::io::Write;
use std::path::Path;

use super::recipe::Recipe;
use crate::durable::{create_folder, remove_orphans, write_atomically};
use crate::error::{Error, Result};
use crate::weights::RunFolder;

/// Creates the folder of a new run, takes it for this process, and writes its recipe, which makes it a run. A folder that
/// holds anything is refused, except for what an interrupted call of this function left.
pub fn create_run(root: &Path, recipe: &Recipe) -> Result<RunFolder> {
    create_folder(root).map_err(Error::unsaved(root))?;
    let run = RunFolder::new(root);
    refuse_to_overwrite(&run)?;
    let run = run.locked()?;
    // Another process may have begun a run between the look and the lock.
    refuse_to_overwrite(&run)?;
    write_recipe(&run, recipe)?;
    Ok(run)
}

fn refuse_to_overwrite(run: &RunFolder) -> Result<()> {
    let root = run.root();
    remove_orphans(root)?;
    for entry in std::fs::read_dir(root).map_err(Error::io("read", root))? {
        if entry.map_err(Error::io("read", root))?.path() != run.lock_file() {
            return Err(Error::invalid_hint(
                root.display(),
                "a new or empty run folder",
                "a folder with files in it",
                format_args!("go on with it by --resume {}, or name another", root.display()),
            ));
        }
    }
    Ok(())
}

/// Writes the recipe of a run: at its start, and when its length is changed on resuming.
pub fn write_recipe(run: &RunFolder, recipe: &Recipe) -> Result<()> {
    write_atomically(&run.recipe(), |file| file.write_all(recipe.to_toml().as_bytes()))
        .map_err(Error::unsaved(run.root()))
}
