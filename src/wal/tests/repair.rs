//! Repair of a damaged log: what is kept, what is set aside, and that no crash on the way makes a
//! log that opens as if nothing had been lost.

use super::harness::*;
use crate::types::{Entry, LogId};
use crate::wal::{
    Append, Crash, MemoryDisk, OpenError, RepairError, WriteError, plan_repair, repair, verify,
};

/// 120 entries over several segments, in terms 3 and 4, with a hint of what was committed.
fn image() -> (Image, Vec<Entry>) {
    let disk = MemoryDisk::new();
    let mut rig = try_open(&disk, tiny()).expect("opens");
    rig.try_write(Some(state(4, 2)), None, Append::None)
        .expect("written");
    for round in 0..60 {
        rig.append_durably(3 + round / 40, &[1500, 40]);
    }
    rig.log.note_commit(110);
    rig.log.tick(5_000_000);
    rig.settle();
    let all = rig.read_all();
    drop(rig);
    // HINT is there too; it is never synced for its own sake.
    disk.crash(Crash::Kill);
    (disk.image(), all)
}

fn segments(image: &Image) -> Vec<String> {
    let in_use = |bytes: &[u8]| bytes[..8].iter().any(|&byte| byte != 0);
    let live = image
        .iter()
        .filter(|(name, bytes)| name.starts_with("seg-") && in_use(bytes));
    live.map(|(name, _)| name.clone()).collect()
}

/// Every way in which a log is refused as corrupt, by name.
fn damages(image: &Image) -> Vec<(&'static str, Image)> {
    let names = segments(image);
    assert!(names.len() >= 4, "{names:?}");
    let (second, last) = (&names[1], &names[names.len() - 1]);
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut damaged = image.clone();
        change(damaged.get_mut(name).expect("there"));
        damaged
    };
    let without = |name: &str| {
        let mut damaged = image.clone();
        damaged.remove(name);
        damaged
    };
    vec![
        (
            "a body in a sealed segment",
            with(second, &|bytes| bytes[8192 + 4096 + 100] ^= 1),
        ),
        (
            "a sealed segment's first batch",
            with(second, &|bytes| bytes[8192..9000].fill(7)),
        ),
        (
            "both headers of a sealed segment",
            with(second, &|bytes| bytes[..8192].fill(0)),
        ),
        (
            "a body in the last segment",
            with(last, &|bytes| bytes[8192 + 100] ^= 1),
        ),
        (
            "both headers of the last segment",
            with(last, &|bytes| bytes[..8192].fill(0)),
        ),
        (
            "a sealed segment cut short",
            with(second, &|bytes| bytes.truncate(20_000)),
        ),
        ("a missing segment", without(second)),
        ("the first segment missing", without(&names[0])),
        ("the last segment missing", without(last)),
    ]
}

/// After a power cut, so that the boot says nothing.
fn rebooted(image: &Image) -> MemoryDisk {
    let disk = MemoryDisk::from_image(image);
    disk.crash(Crash::PowerCut);
    disk
}

#[test]
fn c4_a_repair_keeps_the_whole_prefix_and_a_copy_of_the_rest() {
    let (good, all) = image();
    for (what, damaged) in damages(&good) {
        let disk = rebooted(&damaged);
        let refused = try_open(&disk, tiny()).err().expect("refused");
        assert!(
            matches!(refused, OpenError::Corrupt(_)),
            "{what}: {refused}"
        );
        let before = disk.image();
        let plan = plan_repair(&disk).expect(what);
        assert_eq!(disk.image(), before, "{what}: planning changes nothing");
        assert_eq!(plan.damage.to_string(), refused.to_string());
        assert!(
            plan.kept.index < 120 && plan.loses_committed(),
            "{what}: {plan:?}"
        );
        let lost = plan.lost().expect(what);
        assert_eq!(lost.0, plan.kept.index + 1, "{what}");
        assert!(lost.1 >= 110, "{what}: {lost:?}");

        repair(&disk, &plan, "now").expect(what);
        let after = disk.image();
        for name in &plan.set_aside {
            assert_eq!(after[&format!("repair-now-{name}")], before[name], "{what}");
            assert!(!after.contains_key(name), "{what}");
        }
        for name in &plan.copied {
            assert_eq!(after[&format!("repair-now-{name}")], before[name], "{what}");
        }
        let verified = verify(&disk, false).expect(what);
        assert_eq!(
            (verified.last, verified.repairing),
            (plan.kept, Some(LogId::default()))
        );
        disk.crash(Crash::PowerCut);
        let rig = try_open(&disk, tiny()).expect(what);
        assert_eq!(rig.log.repairing(), Some(LogId::default()), "{what}");
        assert_eq!(rig.log.last(), plan.kept, "{what}");
        assert_eq!(rig.read_all(), all[..plan.kept.index as usize], "{what}");
        assert_eq!(
            rig.log.hard_state(),
            state(4, 2),
            "{what}: term and vote stay"
        );
        assert_eq!(rig.log.incarnation().0, before["META"][16..32], "{what}");
    }
}

#[test]
fn c5_no_crash_during_a_repair_makes_a_healthy_log_with_fewer_entries() {
    let (good, all) = image();
    for (what, damaged) in damages(&good) {
        let mut step = 0;
        let mut flagged = 0;
        loop {
            let disk = rebooted(&damaged);
            let plan = plan_repair(&disk).expect(what);
            disk.fail_after(step);
            let done = repair(&disk, &plan, "one").is_ok();
            let crash = match step % 3 {
                _ if done => Crash::PowerCut,
                0 => Crash::PowerCut,
                1 => Crash::Subset(step),
                _ => Crash::Kill,
            };
            disk.crash(crash);
            let at = || format!("{what}, step {step}, {crash:?}");
            match try_open(&disk.fork(), tiny()) {
                Ok(rig) => {
                    assert_eq!(rig.log.repairing(), Some(LogId::default()), "{}", at());
                    assert!(all.starts_with(&rig.read_all()), "{}", at());
                    flagged += 1;
                }
                Err(error) => {
                    assert!(matches!(error, OpenError::Corrupt(_)), "{}: {error}", at());
                    assert!(!done, "{}", at());
                    let plan = plan_repair(&disk).expect("again");
                    repair(&disk, &plan, "two").expect("the second time");
                    let rig = try_open(&disk, tiny()).expect("opens");
                    assert!(rig.log.repairing().is_some(), "{}", at());
                }
            }
            if done {
                break;
            }
            step += 1;
        }
        assert!(step > 10 && flagged > 0, "{what}: {step} {flagged}");
    }
}

#[test]
fn only_a_damaged_log_with_its_meta_is_repaired() {
    let (good, _) = image();
    let whole = plan_repair(&rebooted(&good)).expect_err("whole");
    assert!(matches!(whole, RepairError::NotNeeded(_)), "{whole}");
    let (_, damaged) = damages(&good).swap_remove(0);
    let mut headless = damaged.clone();
    headless.remove("META");
    let refused = plan_repair(&rebooted(&headless)).expect_err("no term, no vote");
    assert!(refused.to_string().contains("replace"), "{refused}");
    // Planned for another state of the log.
    let disk = rebooted(&damaged);
    let mut plan = plan_repair(&disk).expect("a plan");
    plan.kept.index -= 1;
    let before = disk.image();
    let refused = repair(&disk, &plan, "now").expect_err("not as planned");
    assert!(matches!(refused, RepairError::Changed(_)), "{refused}");
    assert_eq!(disk.image(), before);
    // What cannot be read is not damage.
    disk.fail_reads();
    let refused = plan_repair(&disk).expect_err("unreadable");
    let io = matches!(refused, RepairError::Refused(OpenError::Io { .. }));
    assert!(io, "{refused}");
}

#[test]
fn c5_a_repair_ends_only_when_everything_up_to_its_floor_is_durable() {
    let (good, _) = image();
    let (_, damaged) = damages(&good).swap_remove(0);
    let disk = rebooted(&damaged);
    let plan = plan_repair(&disk).expect("a plan");
    repair(&disk, &plan, "now").expect("repaired");
    let mut rig = try_open(&disk, tiny()).expect("opens");
    // What was committed with this replica's help lies at or below the floor: 110, says HINT.
    let floor = LogId::new(4, 112);
    rig.next += 1;
    let early = rig.log.end_repair(rig.next, 1).expect_err("no floor yet");
    assert!(matches!(early, WriteError::Repair(_)), "{early}");
    rig.log.set_repair_floor(rig.next, 1, floor).expect("taken");
    assert_eq!(rig.settle(), rig.next);
    drop(rig);
    disk.crash(Crash::PowerCut);

    let mut rig = try_open(&disk, tiny()).expect("opens");
    assert_eq!(rig.log.repairing(), Some(floor));
    let id = rig.append(4, &vec![8; 112 - plan.kept.index as usize]);
    rig.next += 1;
    rig.log
        .end_repair(rig.next, 1)
        .expect_err("not durable yet");
    assert_eq!(rig.settle(), id);
    rig.log.end_repair(rig.next, 1).expect("ends");
    assert_eq!(rig.settle(), rig.next);
    assert_eq!(rig.log.repairing(), None);
    drop(rig);
    disk.crash(Crash::PowerCut);
    let mut rig = try_open(&disk, tiny()).expect("opens");
    assert_eq!(rig.log.repairing(), None);
    rig.log
        .set_repair_floor(1, 1, floor)
        .expect_err("none any more");
}
