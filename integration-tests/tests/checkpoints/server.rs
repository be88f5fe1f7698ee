//! An S3-compatible server on loopback, in this process: it keeps objects as files, where tests look at them.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The bucket that is there.
pub const BUCKET: &str = "medley";

const WHO: &str = "tester";
const PASSWORD: &str = "secret of the tests";

/// A server that stops when it is dropped, with all connections.
pub struct Server {
    address: SocketAddr,
    root: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    /// A server that keeps its objects in a directory.
    pub fn start(root: &Path) -> Self {
        Self::start_at(root, "127.0.0.1:0".parse().expect("an address"))
    }

    /// The server of a directory again, where it was before.
    pub fn start_at(root: &Path, address: SocketAddr) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).expect("a directory");
        let mut service = S3ServiceBuilder::new(FileSystem::new(root).expect("a file system"));
        service.set_auth(SimpleAuth::from_single(WHO, PASSWORD));
        let service = service.build().into_shared();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    // A client that goes away is its own affair.
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { address, root: root.to_owned(), runtime: Some(runtime) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets a command use this server.
    pub fn introduce<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for (name, value) in Self::environment(self.address) {
            command.env(name, value);
        }
        command
    }

    /// What says where a server is, and as whom to ask it.
    pub fn environment(address: SocketAddr) -> [(&'static str, String); 6] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", WHO.into()),
            ("AWS_SECRET_ACCESS_KEY", PASSWORD.into()),
            ("AWS_REGION", "us-east-1".into()),
            ("NO_PROXY", "127.0.0.1".into()),
        ]
    }

    /// The directory that keeps a prefix.
    pub fn directory(&self, prefix: &str) -> PathBuf {
        self.root.join(BUCKET).join(prefix)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
    }
}
