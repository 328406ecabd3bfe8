//! `conveyor-raft certs show`.

use std::time::{SystemTime, UNIX_EPOCH};

use conveyor_raft::quic::certs::{CertificateInfo, show};

use crate::cli::CertsShowArgs;
use crate::failure::Failure;
use crate::output::{json, say};

const DAY: i64 = 24 * 60 * 60;

pub(super) fn run(args: CertsShowArgs) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    });
    let all = show(&args.dir)?;
    if args.json {
        for info in &all {
            say!("{}", json(&value(info, now))?);
        }
        return Ok(());
    }
    for info in &all {
        let days = (info.not_after - now).div_euclid(DAY);
        let key = info.key_mode.map(|mode| format!(", key {mode:04o}"));
        say!("{}: {}", info.file.display(), state(info, now));
        say!("  {}, by {}", info.who, info.issuer);
        say!(
            "  until {} ({days} days){}",
            time(info.not_after),
            key.unwrap_or_default()
        );
        say!("  serial {}", info.serial);
        say!("  sha256 {}", info.fingerprint);
    }
    Ok(())
}

fn value(info: &CertificateInfo, now: i64) -> serde_json::Value {
    serde_json::json!({
        "file": info.file.display().to_string(),
        "state": state(info, now),
        "who": info.who,
        "issuer": info.issuer,
        "ca": info.ca,
        "is_ca": info.is_ca,
        "not_before": time(info.not_before),
        "not_after": time(info.not_after),
        "days_left": (info.not_after - now).div_euclid(DAY),
        "serial": info.serial,
        "sha256": info.fingerprint,
        "key_mode": info.key_mode.map(|mode| format!("{mode:04o}")),
    })
}

/// What is wrong with it, the worst first.
fn state(info: &CertificateInfo, now: i64) -> &'static str {
    if info.revoked {
        "revoked"
    } else if !info.trusted {
        "its CA is not in the bundle"
    } else if info.not_after < now {
        "expired"
    } else if info.not_before > now {
        "not yet good"
    } else if info.key_mode.is_some_and(|mode| mode & 0o077 != 0) {
        "others can read its key: chmod 600 it"
    } else {
        "good"
    }
}

fn time(unix: i64) -> String {
    jiff::Timestamp::from_second(unix).map_or_else(|_| unix.to_string(), |time| time.to_string())
}
