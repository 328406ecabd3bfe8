//! Plans as text: what a failing seed is printed as, and what becomes a test.
//!
//! One fact a line; `#` begins a comment. A strike is
//! `at TIME FAULT TARGET other OFFSET for LONG draw NUMBER`, times in microseconds.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::faults::Fault;
use super::plan::{LinkRates, Plan, Rates, Strike, Target};
use crate::types::Micros;

/// Why a script cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct ScriptError {
    /// The line, from 1 on; 0 if something is missing.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "nodes {}", self.nodes)?;
        writeln!(f, "spares {}", self.spares)?;
        writeln!(f, "chaos {}", self.chaos_us)?;
        writeln!(f, "truth-every {}", self.truth_every)?;
        let mut rates = self.rates.clone();
        for (name, rate) in numbers(&mut rates) {
            writeln!(f, "{name} {rate}")?;
        }
        for (name, range) in ranges(&mut rates) {
            writeln!(f, "{name} {}..{}", range.start, range.end)?;
        }
        self.strikes
            .iter()
            .try_for_each(|strike| writeln!(f, "{strike}"))
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, fault) = (self.at, self.fault.name());
        write!(f, "at {at} {fault} ")?;
        match self.target {
            Target::Node(node) => write!(f, "{node}")?,
            Target::Leader => f.write_str("leader")?,
        }
        let (other, long, draw) = (self.other, self.long, self.draw);
        write!(f, " other {other} for {long} draw {draw}")
    }
}

fn numbers(rates: &mut Rates) -> [(&'static str, &mut u64); 8] {
    let links = &mut rates.links;
    [
        (Fault::Drop.name(), &mut links.drop),
        (Fault::Duplicate.name(), &mut links.duplicate),
        (Fault::Delay.name(), &mut links.delay),
        (Fault::Reorder.name(), &mut links.reorder),
        (Fault::StaleEpoch.name(), &mut links.stale_epoch),
        (Fault::Replay.name(), &mut links.replay),
        (Fault::Full.name(), &mut links.full),
        (Fault::ClockRate.name(), &mut rates.clock_ppm),
    ]
}

fn ranges(rates: &mut Rates) -> [(&'static str, &mut Range<Micros>); 5] {
    [
        ("latency", &mut rates.links.latency),
        ("sync", &mut rates.sync),
        ("prepare", &mut rates.prepare),
        ("apply", &mut rates.apply),
        ("proposals", &mut rates.proposals),
    ]
}

impl FromStr for Plan {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let mut plan = Self {
            seed: 0,
            nodes: 0,
            spares: 0,
            chaos_us: 0,
            truth_every: 1,
            rates: Rates {
                links: LinkRates::default(),
                sync: 0..0,
                prepare: 0..0,
                apply: 0..0,
                proposals: 0..0,
                clock_ppm: 0,
            },
            strikes: Vec::new(),
        };
        for (line, text) in (1..).zip(text.lines()) {
            let words: Vec<_> = text.split_whitespace().collect();
            let read = plan.read(&words);
            read.map_err(|why| ScriptError { line, why })?;
        }
        let why = if !(1..=9).contains(&plan.nodes) {
            "`nodes` must be from 1 to 9"
        } else if ranges(&mut plan.rates)
            .iter()
            .any(|(_, range)| range.is_empty())
        {
            "`latency`, `sync`, `prepare`, `apply` and `proposals` are needed"
        } else {
            return Ok(plan);
        };
        let why = why.to_owned();
        Err(ScriptError { line: 0, why })
    }
}

impl Plan {
    fn read(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["seed", seed] => self.seed = number(seed)?,
            ["nodes", nodes] => self.nodes = number(nodes)? as usize,
            ["spares", spares] => self.spares = number(spares)? as usize,
            ["chaos", chaos] => self.chaos_us = number(chaos)?,
            ["truth-every", every] => self.truth_every = number(every)?,
            ["at", strike @ ..] => self.strikes.push(read_strike(strike)?),
            [name, value] => self.read_rate(name, value)?,
            _ => return Err(format!("`{}` is no line of a script", words.join(" "))),
        }
        Ok(())
    }

    fn read_rate(&mut self, name: &str, value: &str) -> Result<(), String> {
        for (known, rate) in numbers(&mut self.rates) {
            if known == name {
                *rate = number(value)?;
                return Ok(());
            }
        }
        let mut ranges = ranges(&mut self.rates).into_iter();
        let Some((_, range)) = ranges.find(|(known, _)| *known == name) else {
            return Err(format!("nothing is called `{name}`"));
        };
        let bounds = value.split_once("..");
        let (start, end) = bounds.ok_or_else(|| format!("`{value}` is no range"))?;
        *range = number(start)?..number(end)?;
        Ok(())
    }
}

fn read_strike(words: &[&str]) -> Result<Strike, String> {
    let [at, fault, target, "other", other, "for", long, "draw", draw] = words else {
        return Err("a strike is `at TIME FAULT TARGET other N for TIME draw N`".to_owned());
    };
    Ok(Strike {
        at: number(at)?,
        fault: Fault::named(fault).ok_or_else(|| format!("no fault is called `{fault}`"))?,
        target: match *target {
            "leader" => Target::Leader,
            node => Target::Node(number(node)?),
        },
        other: number(other)?,
        long: number(long)?,
        draw: number(draw)?,
    })
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}
