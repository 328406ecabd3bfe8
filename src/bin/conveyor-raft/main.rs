//! The `conveyor-raft` program: a cluster on one machine to try, a node to run, and the commands
//! to talk to either.

mod certs;
mod cli;
mod config;
mod failure;
mod logging;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Certs(args) => certs::run(args),
        _ => Ok(()),
    }
}
