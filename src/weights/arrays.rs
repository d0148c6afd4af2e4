//! Named f32 arrays as one safetensors file.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::durable::write_atomically;
use crate::error::{Error, Result};

/// Bytes of a header at most, here and in files that are read: names of a million classes fit, and a hostile one does not
/// cost much.
pub(super) const LONGEST_HEADER: usize = 1 << 24;

/// One array to write.
pub struct Array<'a> {
    /// Its name in the file.
    pub name: String,
    /// Its shape.
    pub dims: Vec<usize>,
    /// Its elements, row by row.
    pub values: &'a [f32],
}

/// Writes a safetensors file, whole or not at all. `metadata` are texts under their keys.
pub fn write_arrays(path: &Path, metadata: &[(&str, String)], arrays: &[Array<'_>]) -> Result<()> {
    let shapes = arrays
        .iter()
        .map(|array| (array.name.clone(), array.dims.as_slice()));
    let header = header(metadata, shapes);
    check_header(path, &header)?;
    write_atomically(path, |writer| {
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(header.as_bytes())?;
        arrays
            .iter()
            .try_for_each(|array| write_f32(writer, array.values))
    })
}

/// Refuses to write what would not be read.
pub(super) fn check_header(path: &Path, header: &str) -> Result<()> {
    if header.len() <= LONGEST_HEADER {
        return Ok(());
    }
    Err(Error::invalid_hint(
        path.display(),
        format_args!("a header of at most {LONGEST_HEADER} bytes"),
        format_args!("one of {}", header.len()),
        "shorter names of classes make it shorter",
    ))
}

/// Little-endian.
pub(super) fn write_f32(writer: &mut impl Write, values: &[f32]) -> io::Result<()> {
    if cfg!(target_endian = "little") {
        return writer.write_all(bytemuck::cast_slice(values));
    }
    values.iter().try_for_each(|v| writer.write_all(&v.to_le_bytes()))
}

/// The JSON header of the safetensors format, padded with spaces to a multiple of 8, for f32 arrays that follow each other.
pub(super) fn header<'a>(
    metadata: &[(&str, String)],
    shapes: impl Iterator<Item = (String, &'a [usize])>,
) -> String {
    let mut texts: Map<String, Value> = metadata
        .iter()
        .map(|(key, text)| (key.to_string(), text.as_str().into()))
        .collect();
    texts.insert("format".into(), "pt".into());
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), Value::Object(texts));
    let mut offset = 0;
    for (name, dims) in shapes {
        let end = offset + size_of::<f32>() * dims.iter().product::<usize>();
        let entry = json!({ "dtype": "F32", "shape": dims, "data_offsets": [offset, end] });
        entries.insert(name, entry);
        offset = end;
    }
    let mut header = Value::Object(entries).to_string();
    let padding = header.len().next_multiple_of(8) - header.len();
    header.extend(std::iter::repeat_n(' ', padding));
    header
}
