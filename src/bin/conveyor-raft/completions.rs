//! `conveyor-raft completions` and `man`: made from the command line itself.

use std::io;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::failure::{Context, Failure};

const NAME: &str = "conveyor-raft";

pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut text);
    let mut text = String::from_utf8(text)?;
    if args.shell == Shell::Bash {
        // clap_complete 4.6 calls a command with a hyphen by two names, and then finds nothing below it.
        text = text.replace("__subcmd__", "__");
    }
    print(text.as_bytes());
    Ok(())
}

pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    if let Some(dir) = &args.dir {
        let written = clap_mangen::generate_to(Cli::command(), dir);
        return written.context(format!("cannot write to {}", dir.display()));
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text)?;
    print(&text);
    Ok(())
}

fn print(text: &[u8]) {
    // Nobody listening any more, as behind `head`, is no failure.
    let _ = io::Write::write_all(&mut io::stdout(), text);
}
