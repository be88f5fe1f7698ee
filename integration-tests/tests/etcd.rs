//! The harness itself: no member outlives the test that started it.

use medley_integration_tests::etcd::EtcdCluster;
use medley_integration_tests::until;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};

const HOLD: &str = "holds_a_cluster_until_it_is_killed";

/// Not a test: the process that the one below kills.
#[test]
#[ignore = "started by members_end_with_the_process_that_started_them"]
fn holds_a_cluster_until_it_is_killed() {
    let cluster = EtcdCluster::start();
    println!("\nholds {}", cluster.as_ref().map(|cluster| cluster.endpoints().join(" ")).unwrap_or_default());
    std::thread::sleep(std::time::Duration::from_secs(60));
}

fn answers(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

#[test]
fn members_end_with_the_process_that_started_them() {
    let mut child = Command::new(std::env::current_exe().expect("a test knows itself"))
        .args(["--exact", HOLD, "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a test can be started");
    let output = BufReader::new(child.stdout.take().expect("its output is a pipe"));
    let held = output.lines().map_while(Result::ok).find_map(|line| Some(line.strip_prefix("holds ")?.to_owned()));
    let held = held.expect("it says what it holds");
    let addresses: Vec<&str> = held.split_whitespace().filter_map(|url| url.strip_prefix("http://")).collect();
    let were_up = addresses.iter().all(|address| answers(address));
    // As the system would: nothing of it gets to clean up.
    child.kill().expect("our child can be killed");
    child.wait().expect("our child can be waited for");
    if addresses.is_empty() {
        println!("skipped, for there is no etcd");
        return;
    }
    assert!(were_up, "the members answer");
    until("the members are gone", || !addresses.iter().any(|address| answers(address)));
}
