//! The command line: one file per subcommand.

pub mod cluster;
pub mod config;
pub mod controller;
pub mod drop_in;
pub mod explain;
pub mod kubernetes;
pub mod plan;
pub mod plugin;
pub mod profile;
pub mod replay;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::engine::local::supervise;
use crate::output::error::AppError;
use crate::output::exit_code;
use crate::output::logging::{self, LogFile};
use crate::output::printer::{Color, Format, Printer};
use crate::output::progress::Terminal;
use crate::plugin::compile::child;

/// Finds the prefill and decode configuration that meets an SLA at the least cost, by measuring.
#[derive(Debug, Parser)]
#[command(name = "sla-profiler", version, about, max_term_width = 120, propagate_version = true)]
#[command(after_help = "Exit codes: see `sla-profiler help profile`.")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every subcommand takes.
#[derive(Debug, Args)]
pub struct Global {
    /// How results are written to standard output
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Output")]
    output: Format,
    /// Say only what was asked for: no progress, no notes
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    quiet: bool,
    /// Say more on standard error; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Output")]
    verbose: u8,
    /// Draw no progress bar
    #[arg(long, global = true, help_heading = "Output")]
    no_progress: bool,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = "Output")]
    color: Color,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the seven phases: measure, select, plan, write the deployment, apply it
    #[command(after_long_help = exit_code::help())]
    Profile(Box<profile::Args>),
    /// Say what a run would cost, as a range, before anything is created: launches, points, GPU-hours, time, money
    Plan(Box<plan::Args>),
    /// Ask a recorded run again, with another policy or another SLA; measures nothing
    Replay(Box<replay::Args>),
    /// Say why a recorded run came out as it did, and which SLA would make another candidate win
    Explain(explain::Args),
    /// Work off the DGDRs of a cluster that name our class, one Job each
    Controller(controller::Args),
    /// Look at the job that a DGDR and flags make, or at the schemas of files
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Make, check and keep plugins
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
}

/// What subcommands work with.
pub struct Session {
    /// Where words go.
    pub printer: Printer,
    /// Standard error, shared with the progress bar.
    pub terminal: Terminal,
    /// Where log lines go besides.
    pub log_file: LogFile,
}

/// The program.
pub fn main() -> ExitCode {
    // Not a subcommand of clap's: nobody is to find it, and nothing is to run before its limits are set.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(command) if command == child::COMMAND => return ExitCode::from(child::main(arguments)),
        Some(command) if command == supervise::COMMAND => return ExitCode::from(supervise::main(arguments)),
        _ => {}
    }
    child::this_program_compiles();
    let cli = match Cli::try_parse_from(drop_in::arguments(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                drop_in::told(&error.to_string());
            }
            error.exit()
        }
    };
    let printer = Printer::new(cli.global.output, cli.global.quiet, cli.global.no_progress, cli.global.color);
    let terminal = Terminal::new(&printer);
    let log_file = logging::init(cli.global.verbose, cli.global.quiet, &terminal);
    let session = Session { printer, terminal, log_file };
    match run(cli.command, &session) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(anstream::stderr(), "{}", error.render(session.printer.width_of_errors()));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command, session: &Session) -> Result<u8, AppError> {
    let printer = &session.printer;
    match command {
        Command::Profile(args) => args.run(session),
        Command::Plan(args) => args.run(session),
        Command::Replay(args) => args.run(session),
        Command::Explain(args) => args.run(session),
        Command::Controller(args) => args.run(session),
        Command::Config(command) => {
            let mut text = Vec::new();
            command.run(&mut text, printer.is_json())?;
            printer.answer(&text).map(|()| exit_code::OK)
        }
        Command::Plugin(command) => {
            let mut text = Vec::new();
            let code = command.run(&|line| printer.note(line), &mut text, printer.is_json())?;
            printer.answer(&text).map(|()| code)
        }
    }
}
