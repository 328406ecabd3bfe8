//! What each setting of the transport is worth: bare quinn streams with ours, each with one changed, in
//! turn. 64 KiB frames one way.

use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{BbrConfig, NewRenoConfig};
use quinn::{AckFrequencyConfig, TransportConfig, VarInt};
use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::common::ratios::quartiles;
use crate::floors::{Floor, FloorBed, Settings};
use crate::{MTUS, Named, certificates, compare};

const FRAME: usize = 64 << 10;

fn window(config: &mut TransportConfig, bytes: u32) {
    config
        .stream_receive_window(VarInt::from_u32(bytes))
        .receive_window(VarInt::from_u32(2 * bytes))
        .send_window(2 * u64::from(bytes));
}

/// What is changed, by name, from the settings at an MTU.
fn changes(mtu: u16) -> Vec<(&'static str, Settings)> {
    let ours = Settings::ours(mtu);
    let adjusted = |adjust| Settings { adjust, ..ours };
    let chunked = |chunk| Settings { chunk, ..ours };
    let mut all = vec![
        ("ours", ours),
        ("ours again", ours),
        (
            "no GSO",
            adjusted(|c| {
                c.enable_segmentation_offload(false);
            }),
        ),
        (
            "plain socket",
            Settings {
                plain: true,
                ..ours
            },
        ),
        ("windows 256 KiB", adjusted(|c| window(c, 256 << 10))),
        ("windows 1 MiB", adjusted(|c| window(c, 1 << 20))),
        ("windows 16 MiB", adjusted(|c| window(c, 16 << 20))),
        (
            "NewReno",
            adjusted(|c| {
                c.congestion_controller_factory(Arc::new(NewRenoConfig::default()));
            }),
        ),
        (
            "BBR",
            adjusted(|c| {
                c.congestion_controller_factory(Arc::new(BbrConfig::default()));
            }),
        ),
        (
            "ack every 10",
            adjusted(|c| {
                let mut acks = AckFrequencyConfig::default();
                acks.ack_eliciting_threshold(VarInt::from_u32(10));
                c.ack_frequency_config(Some(acks));
            }),
        ),
        (
            "no fairness",
            adjusted(|c| {
                c.send_fairness(false);
            }),
        ),
        (
            "pad to MTU",
            adjusted(|c| {
                c.pad_to_mtu(true);
            }),
        ),
        (
            "spin bit",
            adjusted(|c| {
                c.allow_spin(true);
            }),
        ),
        ("chunks of 16 KiB", chunked(16 << 10)),
        ("chunks of 4 KiB", chunked(4 << 10)),
        ("chunks of 1 KiB", chunked(1 << 10)),
        ("chunks of 256 B", chunked(256)),
        ("read one chunk", Settings { read: 1, ..ours }),
        ("read by copying", Settings { read: 0, ..ours }),
    ];
    if mtu == MTUS[0] {
        let others = [
            ("MTU 1200", 1200),
            ("MTU 4000", 4000),
            ("MTU 6500", 6500),
            ("MTU 8900", 8900),
            ("MTU 16000", 16_000),
            ("MTU 32000", 32_000),
            ("MTU 65500", 65_500),
        ];
        all.extend(others.map(|(name, mtu)| (name, Settings::ours(mtu))));
        all.push((
            "MTU 8900, plain socket",
            Settings {
                plain: true,
                ..Settings::ours(8900)
            },
        ));
    }
    all
}

pub(crate) fn print() {
    print_ciphers();
    let certs = certificates();
    for mtu in MTUS {
        let start = |(name, settings)| -> Named {
            let mut bed = Box::new(FloorBed::start(Floor::Quinn(settings), &certs));
            crate::Bed::stream(&mut *bed, FRAME, 1024);
            (name, bed)
        };
        let mut beds: Vec<Named> = changes(mtu).into_iter().map(start).collect();
        let title = format!("{mtu}, per MiB");
        let mib = FRAME as f64 / f64::from(1 << 20);
        compare(&title, mib, &mut beds, |bed, count| {
            bed.stream(FRAME, count)
        });
    }
}

/// Sealing alone, of packets of both sizes.
fn print_ciphers() {
    let ciphers = [
        ("AES-128-GCM", &aead::AES_128_GCM),
        ("AES-256-GCM", &aead::AES_256_GCM),
        ("ChaCha20-Poly1305", &aead::CHACHA20_POLY1305),
    ];
    for mtu in MTUS {
        for (name, cipher) in ciphers {
            let key = UnboundKey::new(cipher, &vec![7; cipher.key_len()]).expect("a key");
            let key = LessSafeKey::new(key);
            let mut packet = vec![7; usize::from(mtu)];
            let rounds = (32 << 20) / packet.len();
            let times = (0..9).map(|_| {
                let start = Instant::now();
                for _ in 0..rounds {
                    let nonce = Nonce::assume_unique_for_key([1; 12]);
                    let sealed = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut packet);
                    assert!(sealed.is_ok());
                }
                start.elapsed().as_secs_f64() * 1e6 / 32.0
            });
            let [_, median, _] = quartiles(times.collect());
            println!("sealing, {mtu}, per MiB    {name:<18} {median:>8.1} us");
        }
    }
}
