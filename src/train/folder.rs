//! The folder of a run, from its recipe on.

use std::io::Write;
use std::path::Path;

use super::recipe::Recipe;
use crate::error::{Error, Result};
use crate::weights::{RunFolder, durable};

/// Creates the folder of a new run and writes its recipe, which makes it a run. A folder that holds anything is refused,
/// except for what an interrupted call of this function left.
pub fn create_run(root: &Path, recipe: &Recipe) -> Result<RunFolder> {
    std::fs::create_dir_all(root).map_err(Error::io("create", root))?;
    durable::remove_orphans(root).map_err(Error::io("clean", root))?;
    let mut entries = std::fs::read_dir(root).map_err(Error::io("read", root))?;
    if entries.next().is_some() {
        return Err(Error::invalid_hint(
            root.display(),
            "a new or empty run folder",
            "a folder with files in it",
            format_args!("go on with it by --resume {}, or name another", root.display()),
        ));
    }
    let run = RunFolder::new(root);
    write_recipe(&run, recipe)?;
    Ok(run)
}

/// Writes the recipe of a run: at its start, and when its length is changed on resuming.
pub fn write_recipe(run: &RunFolder, recipe: &Recipe) -> Result<()> {
    let path = run.recipe();
    durable::write_atomically(&path, |file| file.write_all(recipe.to_toml().as_bytes()))
        .map_err(Error::io("write", &path))
}
