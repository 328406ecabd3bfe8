//! Writes a day of commands as JSON lines to the standard output, what it must come to beside it.
//!
//! ```text
//! cargo run --release --example conveyor_day -- --seed 1 > examples/conveyor-day.ndjson
//! ```
//! `--sidecars N` (a multiple of 40) and `--hours H` (at least 3) make bigger days, `--plural` one
//! whose offsets and watermarks are committed by the plural commands.

mod day;
mod random;
mod world;

use std::error::Error;
use std::io::{self, BufWriter, Write};

use day::Options;

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    while let Some(flag) = args.next() {
        if flag == "--plural" {
            options.plural = true;
            continue;
        }
        let value = args.next();
        let number = value.as_deref().and_then(|value| value.parse::<u64>().ok());
        let Some(number) = number else {
            return Err(format!("{flag}: a number must follow"));
        };
        match flag.as_str() {
            "--seed" => options.seed = number,
            "--sidecars" if number > 0 && number.is_multiple_of(40) => {
                options.sidecars = number as usize;
            }
            "--sidecars" => return Err("--sidecars: must be a multiple of 40".into()),
            "--hours" if number >= 3 => options.hours = number as usize,
            "--hours" => return Err("--hours: must be at least 3".into()),
            _ => {
                return Err(format!(
                    "{flag}: unknown; there are --seed N, --sidecars N, --hours N and --plural"
                ));
            }
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let day = day::generate(options(std::env::args().skip(1))?);
    let mut out = BufWriter::new(io::stdout().lock());
    for line in &day.lines {
        serde_json::to_writer(&mut out, line)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    let counts: Vec<String> = day
        .counts
        .iter()
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    eprintln!(
        "{} lines, of which {} are refused; they end with {}",
        day.lines.len(),
        day.rejections,
        counts.join(", ")
    );
    Ok(())
}
