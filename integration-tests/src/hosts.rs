//! Hosts for tests: network namespaces, joined by a hub that cuts and slows links when told to. Everything that was made
//! is removed again, also when a test panics.

use medley_common::environment::REQUIRE_HOSTS;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const HUB: &str = include_str!("hub.py");

/// Says that a test is skipped where this machine does not allow what it needs.
///
/// # Panics
/// Where `MEDLEY_REQUIRE_HOSTS` is set: the machine was said to allow it.
pub fn skip(what: &str, reason: &str) {
    assert!(std::env::var_os(REQUIRE_HOSTS).is_none(), "{REQUIRE_HOSTS} is set, and {what} cannot be tested: {reason}");
    println!("skipped: {what}: {reason}");
}

/// Hosts `0..count`, number N at [`Hosts::address`] of N.
pub struct Hosts {
    name: String,
    count: usize,
    hub: Option<(Child, ChildStdin, BufReader<ChildStdout>)>,
}

impl Hosts {
    /// Makes them; why it cannot, where it cannot: only root may.
    ///
    /// # Errors
    /// One line.
    pub fn new(directory: &Path, count: usize) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".into());
        }
        // Interface names have 15 letters.
        let name = format!("md{}", std::process::id() % 1_000_000);
        let mut hosts = Self { name, count, hub: None };
        let script = directory.join("hub.py");
        std::fs::write(&script, HUB).map_err(|error| format!("hub.py: {error}"))?;
        let script = script.display().to_string();
        for host in 0..count {
            let (namespace, inside, outside) = (hosts.namespace(host), hosts.link(host, 'i'), hosts.link(host, 'o'));
            let address = format!("{}/24", Self::address(host));
            ip(&["netns", "add", &namespace])?;
            ip(&["link", "add", &outside, "type", "veth", "peer", "name", &inside])?;
            ip(&["link", "set", &inside, "netns", &namespace])?;
            ip(&["link", "set", &outside, "up"])?;
            ip(&["-n", &namespace, "address", "add", &address, "dev", &inside])?;
            ip(&["-n", &namespace, "link", "set", &inside, "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
            ip(&["netns", "exec", &namespace, "python3", &script, "--plain", &inside])?;
        }
        let mut command = Command::new("python3");
        command.arg(&script).args((0..count).map(|host| hosts.link(host, 'o')));
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.map_err(|error| format!("python3: {error}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err("the hub has no pipes".into()) };
        hosts.hub = Some((child, input, BufReader::new(output)));
        hosts.answer()?;
        Ok(hosts)
    }

    /// A host's address.
    pub fn address(host: usize) -> String {
        format!("10.213.77.{}", host + 1)
    }

    /// A host's namespace.
    pub fn namespace(&self, host: usize) -> String {
        format!("{}-{host}", self.name)
    }

    fn link(&self, host: usize, side: char) -> String {
        format!("{}{side}{host}", self.name)
    }

    /// Tells the hub; see `hub.py`.
    pub fn order(&mut self, order: &str) {
        let (_, input, _) = self.hub.as_mut().expect("the hub was started");
        writeln!(input, "{order}").expect("the hub reads");
        let answer = self.answer().expect("the hub answers");
        assert_eq!(answer, "done");
    }

    fn answer(&mut self) -> Result<String, String> {
        let (_, _, output) = self.hub.as_mut().ok_or("there is no hub")?;
        let mut line = String::new();
        output.read_line(&mut line).map_err(|error| format!("the hub: {error}"))?;
        match line.trim() {
            "" => Err("the hub ended".into()),
            line => Ok(line.to_owned()),
        }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if let Some((mut child, input, _)) = self.hub.take() {
            drop(input);
            // It may have ended with its input.
            let _ = child.kill();
            let _ = child.wait();
        }
        for host in 0..self.count {
            // Those that were never made cannot be removed. A link goes with its namespace, if it came that far.
            let _ = ip(&["netns", "del", &self.namespace(host)]);
            let _ = ip(&["link", "del", &self.link(host, 'o')]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}
