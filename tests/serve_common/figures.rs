//! What a node's listener for figures and probes says.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::serve_common::{PATIENCE, Site};

/// Status and body.
pub(crate) fn get(port: u16, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// With a listener for figures; returns its port.
pub(crate) fn scraped(site: &Site, node: u64) -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("bound").port();
    let file = OpenOptions::new().append(true).open(site.config(node));
    let text = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n");
    file.expect("settings")
        .write_all(text.as_bytes())
        .expect("settings");
    port
}

pub(crate) fn value(figures: &str, series: &str) -> Option<f64> {
    let line = figures.lines().find(|line| line.starts_with(series))?;
    line.rsplit(' ').next()?.parse().ok()
}
