//! The `conveyor-raft` program: a cluster on one machine to try, a node to run, and the commands
//! to talk to either.

mod backup;
mod certs;
mod check;
mod cli;
mod client;
mod completions;
mod config;
mod dev;
mod edge;
mod failure;
mod health;
mod input;
mod leave;
mod links;
mod logging;
mod members;
mod metrics;
mod output;
mod propose;
mod recover;
mod reload;
mod serve;
mod snapshot;
mod state;
mod status;
mod top;
mod transfer;
mod wal;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use failure::{Context, Failure};
use logging::Format;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit() as u8)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Certs(args) => return certs::run(args),
        Command::Wal(args) => return wal::run(args),
        Command::Recover(args) => return recover::run(args),
        Command::Completions(args) => return completions::completions(&args),
        Command::Man(args) => return completions::man(&args),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(command(cli));
    // A thread that still waits for standard input must not hold up the end.
    runtime.shutdown_background();
    result
}

async fn command(cli: Cli) -> Result<(), Failure> {
    if let Command::Serve(args) = cli.command {
        // Its file may set how events are shown.
        return serve::run(args, cli.log).await;
    }
    logging::init(cli.log.as_deref().unwrap_or("error"), Format::Text)?;
    match cli.command {
        Command::Dev(args) => dev::run(args).await,
        Command::Propose(args) => propose::run(args).await,
        Command::State(args) => state::run(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Members(args) => members::run(args).await,
        Command::TransferLeadership(args) => transfer::run(args).await,
        Command::Backup(args) => backup::run(args).await,
        Command::Snapshot(args) => snapshot::run(args).await,
        Command::Health(args) => health::run(args).await,
        Command::Leave(args) => leave::run(args).await,
        Command::Config(args) => check::run(args).await,
        Command::Certs(_)
        | Command::Wal(_)
        | Command::Recover(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Serve(_) => Ok(()),
    }
}
