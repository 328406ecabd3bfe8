//! What the tests of real processes share: a directory of certificates and settings, and nodes
//! started from it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_conveyor-raft");

/// Enough for a loaded machine; a healthy one needs a fraction.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &[&str]) -> Output {
    Command::new(BINARY)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn certs_init(dir: &Path, nodes: &[u64]) {
    let dir = dir.to_str().expect("UTF-8");
    let nodes: Vec<String> = nodes.iter().map(u64::to_string).collect();
    let mut args = vec!["certs", "init", "--cluster", "test", "--dir", dir];
    for node in &nodes {
        args.extend(["--node", node]);
    }
    let output = run(&args);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// A cluster's directory: certificates, settings, data, output of the nodes.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    /// By node, from 1: the peer port and the client port.
    pub(crate) ports: Vec<(u16, u16)>,
    /// The same: where its peers find it, if not at its own port.
    fronts: Vec<u16>,
}

impl Site {
    /// On the RAM disk where there is one: elections then do not wait for a busy disk.
    pub(crate) fn new(nodes: u64) -> Self {
        let ram = Path::new("/dev/shm");
        let dir = match ram.is_dir() {
            true => tempfile::tempdir_in(ram),
            false => tempfile::tempdir(),
        };
        let dir = dir.expect("directory");
        let all: Vec<u64> = (1..=nodes).collect();
        certs_init(&dir.path().join("certs"), &all);
        // All are held until the last is found, so that none comes twice.
        let held: Vec<_> = all
            .iter()
            .map(|_| {
                let peers = UdpSocket::bind("127.0.0.1:0").expect("port");
                (peers, TcpListener::bind("127.0.0.1:0").expect("port"))
            })
            .collect();
        let port = |held: &(UdpSocket, TcpListener)| {
            let peers = held.0.local_addr().expect("address").port();
            (peers, held.1.local_addr().expect("address").port())
        };
        let site = Self {
            ports: held.iter().map(port).collect(),
            fronts: Vec::new(),
            dir,
        };
        for node in all {
            site.write_config(node, "certs");
        }
        site
    }

    /// The first `founders` found the cluster, the others, whose certificates are made later, wait to be
    /// added.
    pub(crate) fn growing(founders: u64, all: u64) -> Self {
        let site = Self::new(all);
        let certs = site.path("certs");
        let mut args = vec!["certs", "add", "--dir", certs.to_str().expect("UTF-8")];
        let later: Vec<_> = (founders + 1..=all).map(|node| node.to_string()).collect();
        for (node, number) in (founders + 1..=all).zip(&later) {
            fs::remove_dir_all(certs.join(format!("node-{node}"))).expect("its certificates");
            args.extend(["--node", number]);
        }
        let output = run(&args);
        assert!(output.status.success(), "{}", stderr(&output));
        for node in 1..=all {
            site.write(node, "certs", founders, node > founders);
        }
        site
    }

    /// Nodes that list each other, and all wait to be added.
    pub(crate) fn waiting(nodes: u64) -> Self {
        let site = Self::new(nodes);
        (1..=nodes).for_each(|node| site.write(node, "certs", nodes, true));
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Peers find each other at these ports, by node, from the next start on.
    pub(crate) fn found_at(&mut self, fronts: Vec<u16>) {
        self.fronts = fronts;
        (1..=self.ports.len() as u64).for_each(|node| self.write_config(node, "certs"));
    }

    /// Where peers find a node.
    fn front(&self, node: u64) -> u16 {
        let at = node as usize - 1;
        self.fronts.get(at).copied().unwrap_or(self.ports[at].0)
    }

    pub(crate) fn write_config(&self, node: u64, certs: &str) {
        self.write(node, certs, self.ports.len() as u64, false);
    }

    fn write(&self, node: u64, certs: &str, founders: u64, join: bool) {
        let (peers, clients) = self.ports[node as usize - 1];
        let list = (1..=founders).map(|id| {
            let front = self.front(id);
            format!("{{ id = {id}, addr = \"127.0.0.1:{front}\" }}")
        });
        let list = match self.ports.len() {
            1 => "single = true".to_owned(),
            _ => format!("list = [{}]", list.collect::<Vec<_>>().join(", ")),
        };
        let advertise = match self.fronts.get(node as usize - 1) {
            Some(front) => format!("advertise = \"127.0.0.1:{front}\"\n"),
            None => String::new(),
        };
        let text = format!(
            "[node]\nid = {node}\ndata_dir = \"data-{node}\"\n\
             [peers]\nlisten = \"127.0.0.1:{peers}\"\n{advertise}{list}\njoin = {join}\n\
             ca = \"{certs}/peer-ca.pem\"\ncrl = \"{certs}/peer-ca.crl\"\n\
             cert = \"{certs}/node-{node}/peer.pem\"\nkey = \"{certs}/node-{node}/peer.key\"\n\
             [edge]\nlisten = \"127.0.0.1:{clients}\"\n\
             client_ca = \"{certs}/client-ca.pem\"\ncrl = \"{certs}/client-ca.crl\"\n\
             cert = \"{certs}/node-{node}/edge.pem\"\nkey = \"{certs}/node-{node}/edge.key\"\n\
             [wal]\nsegment_bytes = 8388608\nallow_unsupported_fs = true\n"
        );
        fs::write(self.config(node), text).expect("settings");
    }

    pub(crate) fn config(&self, node: u64) -> PathBuf {
        self.path(&format!("node-{node}.toml"))
    }

    pub(crate) fn log(&self, node: u64) -> String {
        fs::read_to_string(self.path(&format!("log-{node}"))).unwrap_or_default()
    }

    pub(crate) fn endpoint(&self, node: u64) -> String {
        format!("https://127.0.0.1:{}", self.ports[node as usize - 1].1)
    }

    /// Starts a node; its output is appended to the node's log.
    pub(crate) fn start(&self, node: u64) -> Running {
        self.start_program(BINARY, node)
    }

    /// The same with another build of the program.
    pub(crate) fn start_program(&self, program: &str, node: u64) -> Running {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("log-{node}")))
            .expect("log");
        let child = Command::new(program)
            .arg("serve")
            .arg("--config")
            .arg(self.config(node))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program runs");
        Running {
            node,
            child: Some(child),
        }
    }

    /// Runs a node that is expected to end by itself, and returns what it said.
    pub(crate) fn refused(&self, node: u64) -> String {
        let mut child = Command::new(BINARY)
            .arg("serve")
            .arg("--config")
            .arg(self.config(node))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let give_up = Instant::now() + PATIENCE;
        while child.try_wait().expect("wait").is_none() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let output = child.wait_with_output().expect("output");
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let text = stderr(&output);
        let errors = text.lines().filter(|line| line.starts_with("error: "));
        assert_eq!(errors.count(), 1, "one clear line, but: {text}");
        text
    }
}

/// A node's process; killed when dropped.
pub(crate) struct Running {
    pub(crate) node: u64,
    child: Option<Child>,
}

impl Running {
    /// As a crash: no handler runs, nothing is closed.
    pub(crate) fn kill(mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("runs"))
    }

    /// Has it take up its certificates at once.
    pub(crate) fn hang_up(&self) {
        kill_process(self.pid(), Signal::HUP).expect("signal");
    }

    /// It does nothing any more, and nobody is told.
    pub(crate) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).expect("signal");
    }

    /// It goes on where it was.
    pub(crate) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).expect("signal");
    }

    /// A figure of `/proc/PID/status` that is given in kB, such as `VmRSS`; in bytes.
    pub(crate) fn memory(&self, figure: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(path).expect("it runs");
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.expect(figure).parse::<u64>().expect("a number") << 10
    }

    /// As an operator or a supervisor does.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("signal");
        let mut child = self.child.take().expect("runs");
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status;
            }
            assert!(
                Instant::now() < give_up,
                "SIGTERM did not end node {}",
                self.node
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| child.try_wait().expect("wait").is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
