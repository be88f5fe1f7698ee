//! Messages, jobs, frames and tensors.

use super::{Inputs, named};
use medley_common::proto::coordinator_message::Body as Order;
use medley_common::proto::worker_message::Body;
use medley_common::proto::{self, WorkerMessage};
use medley_fuzz::cluster::{GENERATION, WORKERS};
use medley_worker::collective::fuzzing::{self, Call};
use prost::Message;
use safetensors::tensor::{Dtype, TensorView};

/// A report of every kind.
fn reports() -> Vec<(&'static str, Body)> {
    let loss = proto::PeerLoss { peer: 1, total: 1.5, cross_entropy: 1.0, ..proto::PeerLoss::default() };
    let metric = proto::Metric { name: "NDCG@10".into(), mean: 0.25, half_width: 0.01 };
    let evaluation = proto::Evaluation {
        subject: "peer-0".into(),
        step: 2,
        split: "test".into(),
        protocol: "uniform99".into(),
        candidates_hash: "h".into(),
        users: 9,
        metrics: vec![metric],
    };
    let failed =
        |because_of_rank| proto::Failed { message: "no rows\nfrom it".into(), bad_input: false, because_of_rank };
    vec![
        ("heartbeat", Body::Heartbeat(proto::Heartbeat { step: 3 })),
        ("ready", ready()),
        ("steps", Body::Steps(proto::StepReport { steps: vec![step(1, vec![loss]), step(2, Vec::new())] })),
        ("evaluation", Body::Evaluation(evaluation)),
        ("shards", shards(2)),
        ("completed", completed()),
        ("failed", Body::Failed(failed(-1))),
        ("failed-because", Body::Failed(failed(1))),
    ]
}

fn ready() -> Body {
    Body::Ready(proto::Ready { data_hash: "d".into(), total_steps: 10, users: 5, ..proto::Ready::default() })
}

fn completed() -> Body {
    Body::Completed(proto::Completed { step: 2, reason: "steps".into(), ..proto::Completed::default() })
}

fn shards(step: u64) -> Body {
    let file = proto::ShardFile { name: "shared.safetensors".into(), bytes: 7, sha256: "h".into() };
    Body::Shards(proto::ShardsWritten { step, staging: "staging".into(), files: vec![file], state: "{}".into() })
}

fn step(step: u64, losses: Vec<proto::PeerLoss>) -> proto::StepRecord {
    proto::StepRecord { step, rows: 9, seconds: 0.5, losses, stage: "train".into(), ..proto::StepRecord::default() }
}

fn steps(steps: &[u64]) -> Body {
    Body::Steps(proto::StepReport { steps: steps.iter().map(|number| step(*number, Vec::new())).collect() })
}

fn message(body: Body) -> WorkerMessage {
    WorkerMessage { worker: "worker-0".into(), generation: GENERATION, body: Some(body) }
}

pub fn messages() -> Inputs {
    let order = |body| proto::CoordinatorMessage { generation: GENERATION, body: Some(body) };
    let member = proto::Member { rank: 0, address: "127.0.0.1:1".into(), peers: vec![0, 1] };
    let assignment = proto::Assignment {
        job: "job".into(),
        members: vec![member],
        config: "[data]\npath = \"x\"\n".into(),
        secret: vec![7; 8],
        ..proto::Assignment::default()
    };
    let join =
        proto::JoinRequest { job: "job".into(), version: "0.1.0".into(), slot: 1, ..proto::JoinRequest::default() };
    let reply = proto::JoinReply { worker: "worker-1-00".into(), heartbeat_ms: 100, death_ms: 10_000 };
    let encoded = |kind: u8, bytes: Vec<u8>| [vec![kind], bytes].concat();
    let mut inputs = vec![
        named("join", encoded(0, join.encode_to_vec())),
        named("join-reply", encoded(1, reply.encode_to_vec())),
        named("assignment", encoded(2, order(Order::Assignment(assignment)).encode_to_vec())),
        named("stop", encoded(2, order(Order::Stop(proto::Stop { reason: "asked".into() })).encode_to_vec())),
        named("release", encoded(2, order(Order::Release(proto::Release {})).encode_to_vec())),
        named("empty", encoded(3, WorkerMessage::default().encode_to_vec())),
        named("cut-short", [3, 10, 200, 1, b'w']),
        named("endless-length", [3, 10, 255, 255, 255, 255, 255, 255, 255, 255, 127]),
    ];
    for (name, body) in reports() {
        inputs.push(named(name, encoded(3, message(body).encode_to_vec())));
    }
    inputs
}

/// Kinds of events as `medley_fuzz::cluster` numbers them.
const JOINED: u8 = 8;
const SESSION_LOST: u8 = 9;
const EXITED: u8 = 10;
const COMMITTED: u8 = 11;
const NOT_COMMITTED: u8 = 12;
const STOP: u8 = 13;
const BROKEN: u8 = 14;
const TICK: u8 = 15;

/// A job being written, an event after the other.
struct Script(Vec<u8>);

impl Script {
    fn new(is_resumed: bool, has_started: bool) -> Self {
        Self(vec![u8::from(is_resumed) | u8::from(has_started) << 1])
    }

    fn event(mut self, kind: u8, slot: u8, pause: u8) -> Self {
        self.0.extend([kind << 2 | slot, pause]);
        self
    }

    fn says(mut self, slot: u8, body: Body) -> Self {
        self = self.event(0, slot, 1);
        self.0.extend(message(body).encode_length_delimited_to_vec());
        self
    }

    fn all_say(self, body: &Body) -> Self {
        (0..WORKERS as u8).fold(self, |script, slot| script.says(slot, body.clone()))
    }
}

pub fn jobs() -> Inputs {
    let met = || Script::new(false, true).all_say(&ready());
    let mut whole = Script::new(false, false);
    for slot in 0..WORKERS as u8 {
        whole = whole.event(JOINED, slot, 9);
    }
    let whole = whole
        .all_say(&ready())
        .all_say(&steps(&[1, 2]))
        .all_say(&shards(2))
        .event(COMMITTED | 2 << 4, 0, 5)
        .all_say(&steps(&[3]))
        .all_say(&completed());
    let mut inputs = vec![
        named("whole", whole.0),
        named("resumed", Script::new(true, true).all_say(&ready()).all_say(&steps(&[4, 5, 6])).all_say(&completed()).0),
        named("stopped", met().all_say(&steps(&[1])).event(STOP, 0, 5).all_say(&completed()).0),
        named("stopped-twice", met().event(STOP, 0, 5).event(TICK, 0, 255).event(STOP, 0, 255).0),
        named("killed", met().event(EXITED, 1, 5).event(SESSION_LOST, 1, 5).0),
        named("broken", met().event(BROKEN, 0, 5).0),
        named("not-committed", met().all_say(&shards(1)).event(NOT_COMMITTED | 1 << 4, 0, 5).0),
        named("stranger", met().event(JOINED, 3, 5).says(3, steps(&[9])).0),
        named("gap", met().says(0, steps(&[9, 7, 8])).says(1, steps(&[7])).says(2, steps(&[7, 8, 9])).0),
        named("nobody-joins", Script::new(false, false).event(TICK, 0, 200).0),
    ];
    for (name, body) in reports() {
        inputs.push(named(format!("says-{name}"), met().all_say(&body).0));
    }
    inputs
}

/// Kinds of input as `medley_fuzz::frames` numbers them.
const HELLO: u8 = 0;
const VERDICT: u8 = 1;
const FRAMES: u8 = 2;
const SEALED: u8 = 4;

pub fn frames() -> Inputs {
    let hello = |version: u16, world_size: u16, source: u16, generation: u64, job: &str| {
        let mut bytes = b"MEDLEYDP".to_vec();
        for number in [version, world_size, source, 0] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(generation.to_le_bytes());
        bytes.extend([9; 32]);
        bytes.extend((job.len() as u32).to_le_bytes());
        bytes.extend(job.as_bytes());
        [vec![HELLO], bytes].concat()
    };
    let calls = [Call { kind: 0, sequence: 1, floats: 3 }, Call { kind: 4, sequence: 2, floats: 0 }];
    let wire = [fuzzing::frame(calls[0], &[1.0, -0.0, f32::NAN]), fuzzing::frame(calls[1], &[])].concat();
    let described = |kind: u8, wire: &[u8]| {
        let mut bytes = vec![kind, calls.len() as u8];
        for call in calls {
            bytes.extend([call.kind, call.sequence as u8, call.floats as u8]);
        }
        [&bytes, wire].concat()
    };
    let mut long_job = hello(1, 3, 2, 4, "toys");
    long_job[57..61].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut huge = wire.clone();
    huge[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut inputs = vec![
        named("hello", hello(1, 3, 2, 4, "toys")),
        named("hello-of-another-version", hello(2, 3, 2, 4, "toys")),
        named("hello-of-another-job", hello(1, 3, 2, 4, "ga\nmes")),
        named("hello-of-another-generation", hello(1, 3, 2, 5, "toys")),
        named("hello-of-another-world", hello(1, 4, 2, 4, "toys")),
        named("hello-of-a-lower-rank", hello(1, 3, 0, 4, "toys")),
        named("hello-with-endless-job", long_job),
        named("accepted", [VERDICT, 0]),
        named("no-verdict", [VERDICT, 9]),
        named("frames", described(FRAMES, &wire)),
        named("frames-sealed", described(FRAMES | SEALED, &wire)),
        named("frames-cut-short", described(FRAMES, &wire[..wire.len() - 1])),
        named("frames-huge", described(FRAMES | SEALED, &huge)),
        named("frames-out-of-order", described(FRAMES, &[&wire[60..], &wire[..60]].concat())),
    ];
    for refusal in 1..=8u8 {
        let bytes = [&[VERDICT, refusal][..], &4u64.to_le_bytes()].concat();
        inputs.push(named(format!("refusal-{refusal}"), bytes));
    }
    inputs
}

/// Kinds of input as `medley_fuzz::checkpoint` numbers them.
const MANIFEST: u8 = 0;
const PARAMETERS: u8 = 1;
const MOMENTS: u8 = 2;

pub fn checkpoints() -> Inputs {
    let parameters = medley_fuzz::checkpoint::parameters();
    let file = |prefixes: &[&str], rows: usize, dtype: Dtype| {
        let data = [0u8; 64];
        let mut views = Vec::new();
        for prefix in prefixes {
            for specification in parameters.specifications() {
                let mut shape: Vec<usize> = specification.shape.iter().map(|size| *size as usize).collect();
                shape[0] = rows;
                let bytes = dtype.bitsize() / 8 * shape.iter().product::<usize>();
                let view = TensorView::new(dtype, shape, &data[..bytes]).expect("data of that size");
                views.push((format!("{prefix}{}", specification.name), view));
            }
        }
        safetensors::serialize(views, None).expect("tensors that can be written")
    };
    let header =
        |text: &str, data: usize| [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &vec![0; data]].concat();
    let input = |name: &str, kind: u8, bytes: Vec<u8>| named(name, [vec![kind], bytes].concat());
    let whole = file(&[""], 2, Dtype::F32);
    let mut inputs = vec![
        input("parameters", PARAMETERS, whole.clone()),
        input("moments", MOMENTS, file(&["first.", "second."], 2, Dtype::F32)),
        input("moments-missing", MOMENTS, file(&["first."], 2, Dtype::F32)),
        input("other-shape", PARAMETERS, file(&[""], 1, Dtype::F32)),
        input("other-type", PARAMETERS, file(&[""], 2, Dtype::F16)),
        input("cut-short", PARAMETERS, whole[..whole.len() - 1].to_vec()),
        input("nothing", PARAMETERS, Vec::new()),
        input("endless-header", PARAMETERS, u64::MAX.to_le_bytes().to_vec()),
        input("huge-header", PARAMETERS, (99_000_000u64).to_le_bytes().to_vec()),
        input("header-of-lines", PARAMETERS, header("{\n\"a\":\n{}}", 0)),
        input(
            "huge-shape",
            PARAMETERS,
            header(r#"{"weight":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0),
        ),
        input(
            "overlap",
            PARAMETERS,
            header(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                12,
            ),
        ),
        input("backwards", PARAMETERS, header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, 8)),
    ];
    for (name, bytes) in super::text::manifests() {
        if ["whole", "not-json", "version-of-lines"].contains(&name.as_str()) {
            inputs.push(input(&format!("manifest-{name}"), MANIFEST, bytes));
        }
    }
    inputs
}
