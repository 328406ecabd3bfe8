//! `conveyor-raft wal`.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use conveyor_raft::wal::{
    BatchItem, DirReader, EntryItem, HeaderItem, Item, LogEnd, LogOptions, MappedDir, Medium,
    MetaItem, OpenError, RepairPlan, StopItem, Verified, inspect, plan_repair, repair, verify,
};
use jiff::Timestamp;

use crate::cli::{PayloadForm, WalArgs, WalCommand, WalDumpArgs, WalRepairArgs, WalVerifyArgs};
use crate::failure::Failure;
use crate::output::{count, say};

pub(crate) fn run(args: WalArgs) -> Result<(), Failure> {
    match args.command {
        WalCommand::Dump(args) => dump(&args),
        WalCommand::Verify(args) => check(&args),
        WalCommand::Repair(args) => mend(&args),
    }
}

fn dump(args: &WalDumpArgs) -> Result<(), Failure> {
    let files = DirReader::open(&args.dir)?;
    note_use(&files);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut each = |item: Item<'_>| {
        let line = match args.json {
            true => json_line(&item, args),
            false => text_line(&item, args),
        };
        // Nobody listens any more, as behind `head`.
        match writeln!(out, "{line}") {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    inspect(&files, args.from..=args.to, &mut each)?;
    let _ = out.flush();
    Ok(())
}

fn note_use(files: &DirReader) -> bool {
    let holder = files.in_use_by();
    if let Some(process) = holder {
        eprintln!("note: process {process} has this log open, so it changes while it is read");
    }
    holder.is_some()
}

fn json_line(item: &Item<'_>, args: &WalDumpArgs) -> String {
    let mut value = serde_json::to_value(item).unwrap_or_default();
    if let (Item::Entry(entry), Some(form)) = (item, args.payloads)
        && let Some(fields) = value.as_object_mut()
    {
        let shown = preview(entry.payload, form, args.preview);
        fields.insert("payload".to_owned(), shown.into());
    }
    value.to_string()
}

fn text_line(item: &Item<'_>, args: &WalDumpArgs) -> String {
    match item {
        Item::Meta(meta) => meta_text(meta),
        Item::Hint(hint) => format!(
            "HINT  durable {}, committed {}{}",
            hint.durable,
            hint.commit,
            if hint.failed {
                ", the log had failed"
            } else {
                ""
            }
        ),
        Item::Segment(segment) => {
            let header = segment.header.as_ref().map_or(String::new(), header_text);
            let size = count(segment.size);
            format!("{}  {}, {size} bytes{header}", segment.file, segment.state)
        }
        Item::Batch(batch) => batch_text(batch),
        Item::Entry(entry) => entry_text(entry, args),
        Item::Stop(stop) => stop_text(stop),
    }
}

fn meta_text(meta: &MetaItem) -> String {
    let vote = match meta.voted_node {
        0 => "nobody".to_owned(),
        node => format!("node {node} ({})", meta.voted_incarnation),
    };
    let repair = match (meta.repairing, meta.repair_index) {
        (false, _) => "no".to_owned(),
        (true, 0) => "yes, floor not known yet".to_owned(),
        (true, index) => format!("yes, floor {}.{index}", meta.repair_term),
    };
    let mut text = format!(
        "META  node {}, cluster {}\n      incarnation {}, founder {}\n      \
         update {}, term {}, voted for {vote}\n      \
         log start {}.{}, next segment {:x} or above, clean end {}\n      under repair: {repair}",
        meta.node,
        meta.cluster,
        meta.incarnation,
        meta.genesis,
        meta.seq,
        meta.term,
        meta.start_term,
        meta.start_index,
        meta.next_segment,
        meta.clean_end,
    );
    if let Some(trouble) = &meta.trouble {
        text += &format!("\n      trouble: {trouble}");
    }
    text
}

fn header_text(header: &HeaderItem) -> String {
    let follows = match (header.reset, header.prev_segment) {
        (true, _) => format!(
            "a new beginning after {}.{}",
            header.prev_term, header.prev_index
        ),
        (false, 0) => "the first".to_owned(),
        (false, _) => format!(
            "follows {} and entry {}.{}",
            header.prev_end, header.prev_term, header.prev_index
        ),
    };
    format!(
        ", number {:x}, unit {}, {follows}, synced up to {}",
        header.segment, header.unit, header.synced_upto
    )
}

fn batch_text(batch: &BatchItem) -> String {
    let last = (batch.first_index + u64::from(batch.entries)).saturating_sub(1);
    let what = match (batch.truncates, batch.entries) {
        (true, 0) => format!("drops {} and on", batch.first_index),
        (true, _) => format!("{}..={last}, replacing what was there", batch.first_index),
        (false, 0) => String::new(),
        (false, _) => format!("{}..={last}", batch.first_index),
    };
    let behind = if batch.behind_damage {
        ", behind damage"
    } else {
        ""
    };
    format!(
        "  {:>10}  batch {} {} {what}  {} bytes, synced up to {}, committed {}{behind}",
        batch.offset,
        batch.batch,
        batch.kind,
        count(u64::from(batch.bytes)),
        batch.synced_upto,
        batch.commit_hint
    )
}

fn entry_text(entry: &EntryItem<'_>, args: &WalDumpArgs) -> String {
    let time = i64::try_from(entry.time_us).map(Timestamp::from_microsecond);
    let time = match time {
        Ok(Ok(time)) => time.to_string(),
        _ => format!("{} us", entry.time_us),
    };
    let payload = args.payloads.map_or(String::new(), |form| {
        format!("  {}", preview(entry.payload, form, args.preview))
    });
    format!(
        "  {:>10}    {}.{} {} {} bytes  {time}{payload}",
        entry.offset,
        entry.term,
        entry.index,
        entry.kind,
        count(entry.bytes as u64)
    )
}

fn stop_text(stop: &StopItem) -> String {
    let claims = match stop.claims {
        Some((first, entries)) => format!(" (its header names {entries} entries from {first} on)"),
        None => String::new(),
    };
    let next = match stop.next {
        Some(next) => format!("whole batches go on at {next}"),
        None => "no whole batch follows".to_owned(),
    };
    format!(
        "  {:>10}  stop in {}: {}{claims}; {next}",
        stop.offset, stop.file, stop.what
    )
}

fn preview(payload: &[u8], form: PayloadForm, limit: usize) -> String {
    let shown = payload.get(..limit).unwrap_or(payload);
    let text = match form {
        PayloadForm::Hex => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
        PayloadForm::Text => shown.utf8_chunks().fold(String::new(), |mut text, chunk| {
            // A terminal must not obey what stands in a log.
            text.extend(chunk.valid().chars().map(shown_char));
            text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
            text
        }),
    };
    match payload.len() > limit {
        true => format!("{text}..."),
        false => text,
    }
}

fn shown_char(char: char) -> String {
    match char {
        '\\' => "\\\\".to_owned(),
        char if char.is_control() => char.escape_default().to_string(),
        char => char.to_string(),
    }
}

fn check(args: &WalVerifyArgs) -> Result<(), Failure> {
    let files = DirReader::open(&args.dir)?;
    let live = note_use(&files);
    let verified = verify(&files, false);
    if args.json {
        say!("{}", verdict_json(&verified, live));
    }
    let verified = verified?;
    if !args.json {
        print_verified(&verified, live);
    }
    Ok(())
}

fn verdict_json(verified: &Result<Verified, OpenError>, live: bool) -> serde_json::Value {
    let log = match verified {
        Ok(log) => log,
        Err(OpenError::Corrupt(damage)) => {
            return serde_json::json!({
                "verdict": "corrupt", "live": live, "file": damage.file, "offset": damage.offset,
                "first_index": damage.first, "last_index": damage.last, "what": damage.what,
                "evidence": damage.evidence,
            });
        }
        Err(error) => {
            return serde_json::json!({
                "verdict": "refused", "live": live, "what": error.to_string()
            });
        }
    };
    let (verdict, torn_bytes) = match log.end {
        LogEnd::Clean => ("clean", 0),
        LogEnd::Unclean { torn_bytes, .. } => ("unclean", torn_bytes),
    };
    serde_json::json!({
        "verdict": verdict, "live": live, "torn_bytes": torn_bytes, "node": log.node,
        "cluster": log.cluster.to_string(), "incarnation": log.incarnation.to_string(),
        "term": log.hard_state.term, "start_index": log.start.index, "start_term": log.start.term,
        "last_index": log.last.index, "last_term": log.last.term, "commit_hint": log.commit,
        "repairing": log.repairing.is_some(), "segments": log.segments.len(),
        "spare_files": log.spare.len(),
    })
}

fn print_verified(log: &Verified, live: bool) {
    let verdict = match (&log.end, live) {
        (LogEnd::Clean, _) => "clean: it was closed, and everything in it is whole".to_owned(),
        (LogEnd::Unclean { torn_bytes: 0, .. }, true) => {
            "in use: everything in it is whole".to_owned()
        }
        (LogEnd::Unclean { torn_bytes: 0, .. }, false) => {
            "unclean: it was not closed, and everything in it is whole".to_owned()
        }
        (LogEnd::Unclean { torn_bytes, torn }, _) => format!(
            "unclean: a torn tail of {} bytes, never acknowledged, is dropped at the next start \
             ({})",
            count(*torn_bytes),
            torn.as_deref().unwrap_or("unfinished")
        ),
    };
    say!("{verdict}");
    say!("  node        {}, cluster {}", log.node, log.cluster);
    say!("  incarnation {}", log.incarnation);
    say!("  term        {}", log.hard_state.term);
    say!("  log start   {}", log.start);
    say!("  last entry  {}", log.last);
    say!("  committed   {} at least", log.commit);
    if let Some(floor) = log.repairing {
        say!("  under repair, floor {floor}: it neither votes nor counts until it has caught up");
    }
    for segment in &log.segments {
        let range = match segment.range {
            Some((first, last)) => format!("entries {first}..={last}"),
            None => "no entry".to_owned(),
        };
        let bytes = count(segment.frame_bytes);
        say!("  {}  {range}, {bytes} bytes of them", segment.file);
    }
    say!("  {} files that are spare or left over", log.spare.len());
}

fn mend(args: &WalRepairArgs) -> Result<(), Failure> {
    // A mistaken path must not become a directory.
    let reader = DirReader::open(&args.dir)?;
    if args.dry_run {
        print_plan(&plan_repair(&reader)?);
        say!("Nothing was changed.");
        return Ok(());
    }
    let options = LogOptions {
        // Nothing is mapped here.
        allow_unsupported_fs: true,
        ..LogOptions::default()
    };
    // A directory without a log must not get a lock file either.
    inspect(&reader, 0..=0, &mut |_| ControlFlow::Break(()))?;
    let medium = MappedDir::open(&args.dir, Arc::new(drop), &options)?;
    let plan = plan_repair(&**medium.files())?;
    print_plan(&plan);
    if !args.yes && !agreed()? {
        return Err(Failure::new("not repaired; nothing was changed"));
    }
    let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    repair(&**medium.files(), &plan, &stamp)?;
    say!("Repaired. The old files and copies are in the same directory, as repair-{stamp}-*.");
    say!(
        "The replica lacks entries that it may have acknowledged. Start its node as before: it \
         catches up with the leader that the others elect, and votes and counts again after that."
    );
    Ok(())
}

fn print_plan(plan: &RepairPlan) {
    say!("{}", plan.damage);
    say!("");
    say!("kept   everything up to entry {}", plan.kept);
    match plan.lost() {
        Some((first, last)) => {
            say!("lost   entries {first}..={last}, as far as anything names them")
        }
        None => say!(
            "lost   from entry {} on; nothing says how many",
            plan.kept.index + 1
        ),
    }
    if let Some((low, high)) = plan.lost_terms {
        let (entries, bytes) = plan.readable;
        say!(
            "       {} of them, {} bytes, can still be read, terms {low}..={high}",
            count(entries),
            count(bytes)
        );
    }
    match plan.loses_committed() {
        true => say!(
            "       COMMITTED ENTRIES ARE AMONG THEM, at least up to {}",
            plan.commit
        ),
        false => say!("       none is known to be committed, and any may be"),
    }
    for name in &plan.set_aside {
        say!("moved  {name} to repair-<time>-{name}");
    }
    for name in &plan.copied {
        say!("copied {name} to repair-<time>-{name}");
    }
}

fn agreed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "standard input is no terminal to ask on: give --yes to repair; nothing was changed",
        ));
    }
    eprint!("Type yes to repair: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
