//! The same policies behind gRPC: a process of its own on the same machine, spoken to over TCP on the loopback device. It
//! is what a plugin system without a sandbox in the process would be made of.
//!
//! Spared wherever it can be: one connection that is up already, no TLS, no Nagle, flow control windows that hold
//! a whole question, one thread on each side.

mod messages;

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll};

use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response};
use sla_profiler::domain::Selection;
use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::decisions::{POLICIES, Policy};
use crate::question::Question;

/// The argument that makes this program the server.
pub const SERVE: &str = "--serve-policies";

/// Bytes that may be on their way without an answer: more than the largest question.
const WINDOW_BYTES: u32 = 1 << 30;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Serves all policies until it is killed, and says on stdout where.
pub fn serve() {
    runtime().block_on(async {
        let incoming = TcpIncoming::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        println!("{}", incoming.local_addr().expect("it is bound"));
        Server::builder()
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .serve_with_incoming(Policies, incoming.with_nodelay(Some(true)))
            .await
            .expect("serves");
    });
}

/// The server: the method's name is the policy's.
#[derive(Clone)]
struct Policies;

impl Service<Request<Body>> for Policies {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let policy = POLICIES.iter().find(|policy| request.uri().path() == path(policy)).expect("a known policy");
        let codec = ProstCodec::<messages::Selection, messages::Question>::default();
        let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(usize::MAX);
        Box::pin(async move { Ok(grpc.unary(Answers(policy), request).await) })
    }
}

fn path(policy: &Policy) -> String {
    format!("/sla_profiler.Selection/{}", policy.name)
}

struct Answers(&'static Policy);

impl tonic::server::UnaryService<messages::Question> for Answers {
    type Response = messages::Selection;
    type Future = Ready<Result<tonic::Response<messages::Selection>, Status>>;

    fn call(&mut self, request: tonic::Request<messages::Question>) -> Self::Future {
        let (job, demand, candidates, history) = request.into_inner().into_sdk();
        let selection = (self.0.native)(&job, &demand, &candidates, &history).expect("an answer");
        ready(Ok(tonic::Response::new(selection.into())))
    }
}

/// The server's process, and the connection to it.
pub struct Remote {
    server: Child,
    runtime: Runtime,
    grpc: tonic::client::Grpc<Channel>,
}

impl Remote {
    /// Starts the server and connects.
    pub fn start() -> Self {
        let this = std::env::current_exe().expect("a program knows its path");
        let mut server = Command::new(this).arg(SERVE).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut address = String::new();
        BufReader::new(server.stdout.take().expect("it is piped")).read_line(&mut address).expect("it says where");
        let endpoint = Endpoint::from_shared(format!("http://{}", address.trim())).expect("an address");
        let runtime = runtime();
        let connection = endpoint
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        let channel = runtime.block_on(connection.connect()).expect("it listens");
        Self { server, runtime, grpc: tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX) }
    }

    /// Asks a policy: makes the message, sends it, waits, and makes a selection of the answer.
    pub fn ask(&mut self, policy: &Policy, question: &Question) -> Selection {
        let message = messages::Question::new(&question.job, &question.candidates, &question.history);
        let method = PathAndQuery::try_from(path(policy)).expect("a path");
        let codec = ProstCodec::<messages::Question, messages::Selection>::default();
        let grpc = &mut self.grpc;
        let answer = self.runtime.block_on(async {
            grpc.ready().await.expect("the server is there");
            grpc.unary(tonic::Request::new(message), method, codec).await
        });
        answer.expect("an answer").into_inner().into()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
