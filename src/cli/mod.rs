//! The command line: what was said becomes what runs. The only floor that prints, and the only one that knows which
//! kinds of device there are.

mod args;
mod bench;
mod bench_layers;
mod bench_scale;
mod compute;
mod convert;
mod decide;
mod doctor;
mod eval;
mod eval_report;
mod features;
mod forecast_cluster;
mod forecast_gpu;
mod forecasts;
mod inspect;
mod networks;
mod output;
mod pack;
mod plan;
mod plans;
mod predict;
mod processes;
mod progress;
mod quickstart;
mod recipe_file;
mod reproduce;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::durable::faults;
use crate::error::Result;
use args::{BenchCommand, Cli, Command};

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let begin = || {
        if let Some(faults) = faults::asked()? {
            output::note(format_args!(
                "verydeep: {}={faults}: faults on purpose",
                faults::VARIABLE
            ));
        }
        run(Cli::parse_from(recipe_file::expand(arguments)?))
    };
    match begin() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Runs one command and returns its exit code.
fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Pack(args) => pack::pack(&args),
        Command::Verify(args) => pack::verify(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Train(args) => train::train(&args),
        Command::Diff(args) => train::diff(&args),
        Command::Eval(args) => eval::eval(&args),
        Command::Reproduce(args) => reproduce::reproduce(&args),
        Command::Features(args) => features::features(&args),
        Command::Convert(args) => convert::convert(&args),
        Command::Predict(args) => predict::predict(&args),
        Command::Bench(BenchCommand::Train(args)) => bench::train(&args),
        Command::Bench(BenchCommand::Infer(args)) => bench::infer(&args),
        Command::Bench(BenchCommand::Layers(args)) => bench_layers::layers(&args),
        Command::Bench(BenchCommand::Data(args)) => bench::data(&args),
        Command::Bench(BenchCommand::Scale(args)) => bench_scale::scale(&args),
        Command::Bench(BenchCommand::Reduce(args)) => bench_scale::reduce(&args),
        Command::Bench(BenchCommand::Tune(args)) => plans::tune(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Quickstart(args) => quickstart::quickstart(&args),
    }
}
