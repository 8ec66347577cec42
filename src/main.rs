//! The `captionacc` command.

fn main() -> std::process::ExitCode {
    captionacc::cli::main()
}
