//! Ratios that a busy machine does not spoil: all sides take turns, round after round, and what is
//! compared is the times of one round.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::time::Duration;

use super::log::{Group, Side, run};

/// How long each side works in a round.
const SLICE: Duration = Duration::from_millis(30);
pub(crate) const ROUNDS: usize = 41;

/// One side under its name.
pub(crate) struct Named<'a> {
    pub(crate) name: String,
    pub(crate) side: Box<dyn Side + 'a>,
}

pub(crate) fn named<'a>(name: &str, side: impl Side + 'a) -> Named<'a> {
    Named {
        name: name.to_owned(),
        side: Box::new(side),
    }
}

/// Lower quartile, median, upper quartile.
pub(crate) fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

/// Whether `main` is to print ratios: not for a list, a test run or another filter than "ratios".
pub(crate) fn wanted() -> bool {
    let mut args = std::env::args().skip(1);
    args.all(|arg| arg == "--bench" || arg == "ratios")
}

/// Lets all sides take turns and prints, for each, nanoseconds per entry and how many times as
/// long as the first side it took (median, with quartiles, over the rounds): by the clock, then in
/// processor time.
pub(crate) fn compare(title: &str, group: &Group, sides: &mut [Named<'_>]) {
    let counts: Vec<u64> = sides
        .iter_mut()
        .map(|side| {
            run(&mut *side.side, group, 4);
            let took = run(&mut *side.side, group, 16).wall;
            (SLICE.as_nanos() * 16 / took.as_nanos().max(1)).max(2) as u64
        })
        .collect();
    let mut walls = vec![Vec::new(); sides.len()];
    let mut cpus = walls.clone();
    for round in 0..ROUNDS {
        for nth in 0..sides.len() {
            // No side always comes after the same one.
            let nth = (nth + round) % sides.len();
            let took = run(&mut *sides[nth].side, group, counts[nth]);
            let entries = counts[nth] as f64 * group.len() as f64;
            walls[nth].push(took.wall.as_nanos() as f64 / entries);
            cpus[nth].push(took.cpu.as_nanos() as f64 / entries);
        }
    }
    for (nth, side) in sides.iter().enumerate() {
        println!(
            "{title:<5} {size:>6} B  {name:<28} {wall}   cpu {cpu}",
            size = group.size,
            name = side.name,
            wall = line(&walls[nth], &walls[0]),
            cpu = line(&cpus[nth], &cpus[0]),
        );
    }
}

fn line(of_side: &[f64], of_first: &[f64]) -> String {
    let [_, median, _] = quartiles(of_side.to_vec());
    let ratios = of_side.iter().zip(of_first).map(|(it, first)| it / first);
    let [low, ratio, high] = quartiles(ratios.collect());
    format!("{median:>9.1} ns/entry x{ratio:.2} ({low:.2} to {high:.2})")
}
