//! The binary: parse, set up, run, map the error to an exit code. All of it is in the library.

fn main() -> std::process::ExitCode {
    sla_profiler::cli::main()
}
