//! The program; everything it does is in the library.

fn main() -> std::process::ExitCode {
    verydeep::cli::main()
}
