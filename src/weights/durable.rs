//! Files that are either whole or absent, whatever happens while they are written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes `path` through a temporary file beside it: `fill` writes, then fsync, rename, fsync of the folder. On any
/// error `path` is what it was before and the temporary file is gone.
pub fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>,
) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::Builder::new().prefix(".partial-").tempfile_in(folder)?;
    let mut writer = BufWriter::with_capacity(1 << 16, temporary.as_file_mut());
    fill(&mut writer)?;
    writer.flush()?;
    drop(writer);
    temporary.as_file().sync_all()?;
    set_default_mode(temporary.as_file())?;
    temporary.persist(path)?;
    File::open(folder)?.sync_all()
}

/// Temporary files are private; finished ones are as readable as any other.
fn set_default_mode(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

/// Removes what an interrupted [`write_atomically`] left in `folder`.
pub fn remove_orphans(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(".partial-") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_atomically(&path, |w| w.write_all(b"old")).unwrap();
        let failure = write_atomically(&path, |w| {
            w.write_all(b"new")?;
            Err(io::Error::other("planted"))
        });
        assert_eq!(failure.unwrap_err().to_string(), "planted");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn orphans_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".partial-abc"), b"half").unwrap();
        std::fs::write(folder.path().join("whole"), b"whole").unwrap();
        remove_orphans(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
