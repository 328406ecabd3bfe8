//! How long certificates are good: a gauge for each, and a line of the log 30, 7 and 1 days ahead. How old
//! revocation lists are: a gauge for each, and no more, since a forgotten list must stop nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{describe_gauge, gauge};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};

use super::tls::{issued, validity};
use crate::types::NodeId;

const DAY: u64 = 24 * 60 * 60;
const GAUGE: &str = "conveyor_raft_cert_not_after_timestamp_seconds";
const AGE: &str = "conveyor_raft_crl_age_seconds";
/// How often the dates are looked at.
pub(crate) const LOOK: Duration = Duration::from_secs(60);

/// Until when the own certificate, named `own`, and each CA of a bundle (`ca`, then `ca-2` and so on)
/// are good.
pub(crate) fn ends(
    (own, leaf): (&str, Option<&CertificateDer<'_>>),
    (ca, bundle): (&str, &[CertificateDer<'_>]),
) -> Vec<(String, UnixTime)> {
    let own = leaf.map(|leaf| (own.to_owned(), leaf));
    let cas = bundle.iter().zip(1..).map(|(one, nth)| match nth {
        1 => (ca.to_owned(), one),
        _ => (format!("{ca}-{nth}"), one),
    });
    let all = own.into_iter().chain(cas);
    all.filter_map(|(name, certificate)| Some((name, validity(certificate)?.1)))
        .collect()
}

/// Since when each revocation list is: `ca`, then `ca-2` and so on, in the order of the file.
pub(crate) fn lists(
    ca: &str,
    crls: &[CertificateRevocationListDer<'_>],
) -> Vec<(String, UnixTime)> {
    let named = crls.iter().zip(1..).map(|(one, nth)| match nth {
        1 => (ca.to_owned(), one),
        _ => (format!("{ca}-{nth}"), one),
    });
    named
        .filter_map(|(name, list)| Some((name, issued(list)?)))
        .collect()
}

/// Sets the gauges of how old revocation lists are.
pub(crate) fn show_lists(node: NodeId, lists: &[(String, UnixTime)], now: UnixTime) {
    describe_gauge!(AGE, "how long ago a revocation list was issued");
    for (crl, since) in lists {
        let labels = [("node", node.to_string()), ("crl", crl.clone())];
        let age = now.as_secs().saturating_sub(since.as_secs());
        gauge!(AGE, &labels).set(age as f64);
    }
}

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nearness {
    Far,
    Month,
    Week,
    Day,
    Expired,
}

/// Watches the certificates of one node and remembers what it has said of them.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    said: BTreeMap<String, (u64, Nearness)>,
}

impl Expiry {
    /// Sets the gauges, and warns of each certificate that came nearer to its end than what was
    /// said of it before.
    pub(crate) fn look(&mut self, node: NodeId, ends: &[(String, UnixTime)], now: UnixTime) {
        describe_gauge!(GAUGE, "until when a certificate is good, in Unix time");
        for (cert, until) in ends {
            let labels = [("node", node.to_string()), ("cert", cert.clone())];
            gauge!(GAUGE, &labels).set(until.as_secs() as f64);
        }
        for (cert, near, left) in self.due(ends, now) {
            if near == Nearness::Expired {
                tracing::error!(
                    cert,
                    "certificate expired: connections that stand go on, no new one begins with \
                     it; issue another (docs/operations.md)"
                );
            } else {
                let days = left / DAY;
                tracing::warn!(
                    cert,
                    days,
                    "certificate expires soon: issue another (docs/operations.md)"
                );
            }
        }
    }

    /// What is to be said now: which certificate, how near its end is, and the seconds left.
    fn due(&mut self, ends: &[(String, UnixTime)], now: UnixTime) -> Vec<(String, Nearness, u64)> {
        let mut due = Vec::new();
        for (cert, until) in ends {
            let (end, near) = (until.as_secs(), nearness(until.as_secs(), now.as_secs()));
            let before = match self.said.get(cert) {
                Some((of, said)) if *of == end => *said,
                _ => Nearness::Far,
            };
            if near > before {
                due.push((cert.clone(), near, end.saturating_sub(now.as_secs())));
            }
            self.said.insert(cert.clone(), (end, near.max(before)));
        }
        self.said
            .retain(|said, _| ends.iter().any(|(cert, _)| cert == said));
        due
    }
}

fn nearness(until: u64, now: u64) -> Nearness {
    match until.checked_sub(now) {
        None => Nearness::Expired,
        Some(left) if left <= DAY => Nearness::Day,
        Some(left) if left <= 7 * DAY => Nearness::Week,
        Some(left) if left <= 30 * DAY => Nearness::Month,
        Some(_) => Nearness::Far,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use metrics::{Key, KeyName, Metadata, Recorder, SharedString, Unit};

    use super::*;

    fn at(days: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(days * DAY))
    }

    #[test]
    fn j3_expiry_is_said_once_at_30_7_and_1_days_and_when_it_has_come() {
        let mut expiry = Expiry::default();
        let ends = [
            ("peer".to_owned(), at(365)),
            ("peer-ca".to_owned(), at(3650)),
        ];
        let mut said = Vec::new();
        for day in 300..=370 {
            for (cert, near, left) in expiry.due(&ends, at(day)) {
                assert_eq!(cert, "peer");
                said.push((day, near, left / DAY));
            }
        }
        let wanted = [
            (335, Nearness::Month, 30),
            (358, Nearness::Week, 7),
            (364, Nearness::Day, 1),
            (366, Nearness::Expired, 0),
        ];
        assert_eq!(said, wanted);
    }

    /// Gauges with the label `node` = 7: by their other label.
    #[derive(Default)]
    struct Gauges(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl Recorder for Gauges {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> metrics::Counter {
            metrics::Counter::noop()
        }
        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> metrics::Gauge {
            let other = match key.name() {
                GAUGE => "cert",
                AGE => "crl",
                name => panic!("{name}"),
            };
            let label = |name: &str| {
                let mut labels = key.labels();
                let label = labels.find(|label| label.key() == name);
                label.expect("label").value().to_owned()
            };
            assert_eq!(label("node"), "7");
            let mut gauges = self.0.lock().expect("lock");
            let gauge = gauges.entry(label(other)).or_default();
            metrics::Gauge::from_arc(Arc::clone(gauge))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> metrics::Histogram {
            metrics::Histogram::noop()
        }
    }

    #[test]
    fn each_certificate_has_a_gauge_of_its_end() {
        let gauges = Gauges::default();
        let ends = [
            ("peer".to_owned(), at(365)),
            ("peer-ca".to_owned(), at(3650)),
        ];
        metrics::with_local_recorder(&gauges, || Expiry::default().look(7, &ends, at(1)));
        let gauges = gauges.0.lock().expect("lock");
        let value = |cert: &str| f64::from_bits(gauges[cert].load(Ordering::Relaxed));
        assert_eq!(value("peer"), (365 * DAY) as f64);
        assert_eq!(value("peer-ca"), (3650 * DAY) as f64);
        assert_eq!(gauges.len(), 2);
    }

    #[test]
    fn each_revocation_list_has_a_gauge_of_its_age() {
        let gauges = Gauges::default();
        let lists = [
            ("peer-ca".to_owned(), at(3)),
            ("peer-ca-2".to_owned(), at(9)),
        ];
        metrics::with_local_recorder(&gauges, || show_lists(7, &lists, at(5)));
        let gauges = gauges.0.lock().expect("lock");
        let value = |crl: &str| f64::from_bits(gauges[crl].load(Ordering::Relaxed));
        assert_eq!(value("peer-ca"), (2 * DAY) as f64);
        assert_eq!(
            value("peer-ca-2"),
            0.0,
            "a clock that lags makes nothing negative"
        );
    }

    #[test]
    fn a_new_certificate_begins_anew_and_a_clock_set_back_repeats_nothing() {
        let mut expiry = Expiry::default();
        let of = |end| [("peer".to_owned(), at(end))];
        assert_eq!(expiry.due(&of(10), at(5)).len(), 1);
        assert!(expiry.due(&of(10), at(1)).is_empty());
        assert!(expiry.due(&of(10), at(5)).is_empty());
        assert!(expiry.due(&of(400), at(5)).is_empty());
        assert_eq!(expiry.due(&of(400), at(375)).len(), 1);
    }
}
