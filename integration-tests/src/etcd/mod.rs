//! A real etcd cluster of three members on loopback, whose members can be killed, stopped and started again.

mod certificates;

use crate::text;
pub use certificates::Certificates;
use medley_common::environment::REQUIRE_ETCD;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many members a cluster has.
pub const MEMBERS: usize = 3;

/// A cluster must answer so soon after its start.
const STARTING: Duration = Duration::from_secs(60);

/// One cluster at a time: they would take the processor from one another, and the tests measure times.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Three members. They end with the value, and with the test's process however that ends.
pub struct EtcdCluster {
    programs: PathBuf,
    members: Vec<Member>,
    watchdog: Child,
    /// What the watchdog reads: the processes that must not outlive us.
    leash: Option<ChildStdin>,
    directory: tempfile::TempDir,
    certificates: Option<Certificates>,
    _turn: MutexGuard<'static, ()>,
}

struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl EtcdCluster {
    /// Starts three members and waits until they answer. `None` where etcd cannot be installed, which it says, unless
    /// `MEDLEY_REQUIRE_ETCD` is set.
    ///
    /// # Panics
    /// Where the cluster does not come up; where etcd is required and cannot be had.
    pub fn start() -> Option<Self> {
        Self::start_with(false)
    }

    /// Like [`EtcdCluster::start`], with members that speak TLS and ask for certificates of the same authority.
    ///
    /// # Panics
    /// As [`EtcdCluster::start`].
    pub fn start_secured() -> Option<Self> {
        Self::start_with(true)
    }

    fn start_with(is_secured: bool) -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/etcd");
        let found = Command::new(&script).stdin(Stdio::null()).output().expect("scripts/etcd can be started");
        if !found.status.success() {
            let reason = text(&found.stderr);
            assert!(std::env::var_os(REQUIRE_ETCD).is_none(), "{REQUIRE_ETCD} is set, and there is no etcd: {reason}");
            println!("skipped, for there is no etcd: {reason}");
            return None;
        }
        let (watchdog, leash) = watchdog();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let certificates = is_secured.then(|| Certificates::make(directory.path()));
        let mut cluster = Self {
            programs: text(&found.stdout).trim().into(),
            members: Vec::new(),
            watchdog,
            leash: Some(leash),
            directory,
            certificates,
            _turn: turn,
        };
        // Somebody may take a port between our look at it and etcd's.
        for attempt in 1.. {
            cluster.members =
                ports().into_iter().map(|(client, peer)| Member { client, peer, process: None }).collect();
            (0..MEMBERS).for_each(|member| cluster.launch(member));
            match cluster.is_up(STARTING) {
                true => break,
                false if attempt == 3 => panic!("no etcd cluster after three attempts:\n{}", cluster.logs()),
                false => cluster.clear(),
            }
        }
        Some(cluster)
    }

    /// The members' URLs.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| self.client_url(member.client)).collect()
    }

    /// The certificates of a secured cluster.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    fn client_url(&self, port: u16) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{port}")
    }

    /// Ends a member by SIGKILL.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut process) = self.members[member].process.take() {
            process.kill().expect("our child can be killed");
            process.wait().expect("our child can be waited for");
        }
        self.tell_watchdog();
    }

    /// Starts a member that was killed; does not wait for it.
    pub fn launch(&mut self, member: usize) {
        let peer_url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<String> =
            self.members.iter().enumerate().map(|(at, member)| format!("m{at}={}", peer_url(member.peer))).collect();
        let home = self.directory.path();
        let log = File::options().create(true).append(true).open(home.join(format!("m{member}.log")));
        let log = log.expect("the cluster's directory is writable");
        let Member { client, peer, .. } = self.members[member];
        let mut command = Command::new(self.programs.join("etcd"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(name);
        }
        if let Some(certificates) = &self.certificates {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&certificates.authority);
            command.arg("--cert-file").arg(&certificates.certificate).arg("--key-file").arg(&certificates.key);
        }
        let (client, peer) = (self.client_url(client), peer_url(peer));
        let process = command
            .args(["--name", &format!("m{member}")])
            .arg("--data-dir")
            .arg(home.join(format!("m{member}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"])
            .args(["--logger", "zap", "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("etcd can be started");
        self.members[member].process = Some(process);
        self.tell_watchdog();
    }

    /// Stops a member's process: its connections stay, and it says nothing.
    pub fn stop(&self, member: usize) {
        self.signal(member, Signal::STOP);
    }

    /// Lets a stopped member go on.
    pub fn cont(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    /// Kills all members, starts them again and waits until they answer.
    ///
    /// # Panics
    /// When they do not.
    pub fn restart_all(&mut self) {
        (0..MEMBERS).for_each(|member| self.kill(member));
        (0..MEMBERS).for_each(|member| self.launch(member));
        self.wait();
    }

    /// Waits until every member answers.
    ///
    /// # Panics
    /// When one does not in time.
    pub fn wait(&self) {
        assert!(self.is_up(STARTING), "the cluster does not come up:\n{}", self.logs());
    }

    /// The member that leads the others.
    ///
    /// # Panics
    /// When none does in time.
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + STARTING;
        while Instant::now() < deadline {
            for (member, endpoint) in self.endpoints().iter().enumerate() {
                let output = self.ctl_at(endpoint, &["endpoint", "status", "-w", "json"]);
                let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
                let status = &status[0]["Status"];
                if status["leader"].is_u64() && status["leader"] == status["header"]["member_id"] {
                    return member;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no member leads:\n{}", self.logs());
    }

    /// Runs `etcdctl` with all members.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_at(&self.endpoints().join(","), arguments)
    }

    fn ctl_at(&self, endpoints: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.programs.join("etcdctl"));
        if let Some(certificates) = &self.certificates {
            command.arg("--cacert").arg(&certificates.authority);
            command.arg("--cert").arg(&certificates.certificate).arg("--key").arg(&certificates.key);
        }
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", endpoints, "--dial-timeout=2s", "--command-timeout=5s"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("etcdctl can be started")
    }

    fn is_up(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let answers = |endpoint: &String| self.ctl_at(endpoint, &["endpoint", "health"]).status.success();
        while !self.endpoints().iter().all(answers) {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        true
    }

    fn signal(&self, member: usize, signal: Signal) {
        let process = self.members[member].process.as_ref().expect("the member runs");
        kill_process(Pid::from_child(process), signal).expect("our child can be signalled");
    }

    /// What the members said last.
    fn logs(&self) -> String {
        let tail = |member| {
            let log = std::fs::read_to_string(self.directory.path().join(format!("m{member}.log")));
            let log = log.unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            format!("m{member}: {}", last.into_iter().rev().collect::<Vec<_>>().join("\n    "))
        };
        (0..self.members.len()).map(tail).collect::<Vec<_>>().join("\n")
    }

    fn tell_watchdog(&mut self) {
        let running = self.members.iter().filter_map(|member| member.process.as_ref());
        let line: Vec<String> = running.map(|process| process.id().to_string()).collect();
        if let Some(leash) = &mut self.leash {
            writeln!(leash, "{}", line.join(" ")).expect("the watchdog listens");
        }
    }

    /// Ends all members and removes what they wrote.
    fn clear(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
        for member in 0..self.members.len() {
            // One that never started has none.
            let _ = std::fs::remove_dir_all(self.directory.path().join(format!("m{member}")));
        }
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        self.clear();
        // It has nobody to end any more.
        drop(self.leash.take());
        let _ = self.watchdog.wait();
    }
}

/// A process that ends the processes in the last line that it was told, once we say no more: when we have ended.
fn watchdog() -> (Child, ChildStdin) {
    let script = "while read -r line; do ours=$line; done; for one in $ours; do kill -9 \"$one\"; done";
    let mut watchdog = Command::new("/bin/sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C is not for it.
        .process_group(0)
        .spawn()
        .expect("a shell can be started");
    let leash = watchdog.stdin.take().expect("its input is a pipe");
    (watchdog, leash)
}

/// A port for clients and one for other members, for each member.
fn ports() -> Vec<(u16, u16)> {
    let listen = || TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let taken: Vec<TcpListener> = (0..2 * MEMBERS).map(|_| listen()).collect();
    let port = |listener: &TcpListener| listener.local_addr().expect("it is bound").port();
    taken.chunks(2).map(|pair| (port(&pair[0]), port(&pair[1]))).collect()
}
