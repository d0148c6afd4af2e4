//! `--recipe FILE.toml`: its keys are the long flags' names, so it is turned into flags that stand before those on the
//! command line, where the later one wins. One parser knows the flags.

use std::ffi::OsString;
use std::path::Path;

use crate::error::{Error, Result};

/// Replaces `train --recipe FILE ...` by `train <flags of FILE> --recipe FILE ...`.
pub(super) fn expand(arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    if arguments.get(1).is_none_or(|command| command != "train") {
        return Ok(arguments);
    }
    let Some(file) = recipe_of(&arguments[2..]) else {
        return Ok(arguments);
    };
    let mut expanded = arguments[..2].to_vec();
    expanded.extend(flags(Path::new(&file))?.into_iter().map(OsString::from));
    expanded.extend_from_slice(&arguments[2..]);
    Ok(expanded)
}

/// The last `--recipe` said.
fn recipe_of(arguments: &[OsString]) -> Option<OsString> {
    let mut found = None;
    for (i, argument) in arguments.iter().enumerate() {
        let text = argument.to_string_lossy();
        if text == "--recipe" {
            found = arguments.get(i + 1).cloned();
        } else if let Some(file) = text.strip_prefix("--recipe=") {
            found = Some(file.into());
        }
    }
    found
}

/// The flags of a recipe file.
fn flags(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read the recipe", path))?;
    let name = format!("recipe {}", path.display());
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|e| Error::invalid(&name, "TOML", e.to_string().trim_end()))?;
    // A decided recipe holds its plans; `--plans` reads them out of it.
    if let Some(toml::Value::Table(_)) = table.get("plans") {
        table.insert("plans".into(), path.display().to_string().into());
    }
    flags_of(&name, &table)
}

/// `key = value` as `--key=value`.
pub(super) fn flags_of(name: &str, table: &toml::Table) -> Result<Vec<String>> {
    table
        .iter()
        .map(|(key, value)| {
            let value = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => {
                    value.to_string()
                }
                toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                    let what = format!("{name}, key {key}");
                    return Err(Error::invalid(
                        what,
                        "a number, a text, true or false",
                        value.type_str(),
                    ));
                }
            };
            Ok(format!("--{key}={value}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn parse(recipe: &str, said: &[&str]) -> Result<Cli, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("r.toml");
        std::fs::write(&file, recipe).unwrap();
        let mut arguments: Vec<OsString> = ["verydeep", "train", "--recipe"].map(OsString::from).into();
        arguments.push(file.into());
        arguments.extend(said.iter().map(OsString::from));
        let arguments = expand(arguments).map_err(|e| e.to_string())?;
        Cli::try_parse_from(arguments).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_on_the_command_line_win() {
        let recipe = "data = 'd'\nrun = 'r'\nconfig = 'A'\nlr = 0.5\nepochs = 3\nbatch-norm = true\nscale = '64..80'\n";
        let Command::Train(args) = parse(recipe, &["--lr", "0.25", "--iterations", "7"])
            .unwrap()
            .command
        else {
            panic!("not train");
        };
        assert_eq!(
            (args.lr, args.epochs, args.iterations),
            (Some(0.25), None, Some(7))
        );
        assert_eq!(args.network.batch_norm, Some(true));
        assert_eq!(args.scale.unwrap().to_string(), "64..80");
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused() {
        assert!(
            parse("config = 'A'\nlearning-rate = 1\n", &[])
                .unwrap_err()
                .contains("--learning-rate")
        );
        assert!(parse("config = ['A']\n", &[]).unwrap_err().contains("key config"));
        assert!(parse("config = \n", &[]).unwrap_err().contains("TOML"));
    }
}
