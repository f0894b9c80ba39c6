mod shards;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_placement::seams::spawn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Front, Gateway, GatewayConfig, serve};
use crate::ops::tests::{Ask, Store, ask, pattern};

const MIB: usize = 1 << 20;

/// A gateway that listens.
struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn of(gateway: Arc<Gateway>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        let front = Front::new(gateway.config.clone(), gateway.clock.clone());
        front.open(gateway);
        Self {
            address,
            stop: Some(stop),
            task: spawn(serve(front, listener, stopped)),
        }
    }

    /// With a bucket called `bucket`.
    async fn start(config: GatewayConfig) -> (Self, Store) {
        let store = Store::configured(config);
        store.send(ask("PUT", "/bucket")).await.expect(200);
        (Self::of(store.gateway.clone()).await, store)
    }

    async fn connect(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.address).await.unwrap(),
            read: Vec::new(),
        }
    }
}

struct Client {
    stream: TcpStream,
    /// Bytes that came but were not asked for yet.
    read: Vec<u8>,
}

struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (own, value) = line.split_once(':')?;
            own.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    #[track_caller]
    fn expect(self, status: u16, code: &str) -> Self {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{} {body}", self.head);
        assert!(body.contains(code), "{body}");
        self
    }
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends a whole request.
    async fn ask(&mut self, ask: &Ask, body: &[u8]) {
        self.send(&ask.wire_head()).await;
        self.send(body).await;
    }

    async fn more(&mut self) -> usize {
        let reading = self.stream.read_buf(&mut self.read);
        let read = tokio::time::timeout(Duration::from_secs(20), reading).await;
        read.expect("the server answers").unwrap()
    }

    async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self
                .read
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                let rest = self.read.split_off(end + 4);
                let head = std::mem::replace(&mut self.read, rest);
                return String::from_utf8(head).unwrap();
            }
            assert_ne!(self.more().await, 0, "closed early");
        }
    }

    async fn response(&mut self) -> Response {
        let head = self.head().await;
        let mut response = Response {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head,
            body: Vec::new(),
        };
        let len = response
            .header("content-length")
            .map_or(0, |len| len.parse().unwrap());
        while self.read.len() < len {
            assert_ne!(self.more().await, 0, "closed early");
        }
        let rest = self.read.split_off(len);
        response.body = std::mem::replace(&mut self.read, rest);
        response
    }

    async fn expect_closed(&mut self) {
        while self.more().await > 0 {}
        assert!(
            self.read.is_empty(),
            "{:?}",
            String::from_utf8_lossy(&self.read)
        );
    }
}

#[tokio::test]
async fn the_connection_survives_errors() {
    let (server, _store) = Server::start(GatewayConfig::default()).await;
    let mut client = server.connect().await;
    let data = pattern(200_000, 1);
    let put = ask("PUT", "/nobucket/key").body(data.clone());
    let streamed = ask("PUT", "/bucket/key")
        .header("transfer-encoding", "chunked")
        .header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
    for _ in 0..3 {
        client.ask(&put, &data).await;
        let refused = client.response().await.expect(404, "NoSuchBucket");
        assert_eq!(refused.header("connection"), None);
        assert_eq!(refused.header("content-type"), Some("application/xml"));
        assert!(refused.header("date").is_some());
        client.ask(&streamed, b"5\r\nhello\r\n0\r\n\r\n").await;
        client.response().await.expect(400, "BadDigest");
        client.ask(&ask("GET", "/bucket/none"), b"").await;
        client.response().await.expect(404, "NoSuchKey");
        client.ask(&ask("PUT", "/bucket?policy"), b"").await;
        client.response().await.expect(501, "NotImplemented");
    }
    let put = ask("PUT", "/bucket/key").body(data.clone());
    client.ask(&put, &data).await;
    client.response().await.expect(200, "");
    client.ask(&ask("GET", "/bucket/key"), b"").await;
    assert_eq!(client.response().await.expect(200, "").body, data);
}

/// The chunks of HTTP that carry `data`, without the last.
fn chunks(data: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in data.chunks(100_000) {
        wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

/// The end of a body in HTTP's chunks is certain, so its length need not be known before.
#[tokio::test]
async fn bodies_may_come_in_chunks_of_http() {
    let (server, store) = Server::start(GatewayConfig::default()).await;
    let mut client = server.connect().await;
    let streamed = ask("PUT", "/bucket/key").header("transfer-encoding", "chunked");
    for len in [0, 5, 32 * 1024, 32 * 1024 + 1, 4 * MIB, 9 * MIB + 7] {
        let data = pattern(len, 5);
        let wire = [&chunks(&data)[..], b"0\r\n\r\n"].concat();
        client.ask(&streamed, &wire).await;
        client.response().await.expect(200, "");
        client.ask(&ask("GET", "/bucket/key"), b"").await;
        let got = client.response().await.expect(200, "");
        assert!(got.body == data, "{len} bytes");
        let wrong = ask("PUT", "/bucket/wrong")
            .header("transfer-encoding", "chunked")
            .header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
        client.ask(&wrong, &wire).await;
        client.response().await.expect(400, "BadDigest");
    }
    for len in [5, 9 * MIB] {
        let mut cut_off = server.connect().await;
        let cut = ask("PUT", "/bucket/cut").header("transfer-encoding", "chunked");
        let data = pattern(len, 3);
        cut_off.ask(&cut, &chunks(&data)).await;
        cut_off.stream.shutdown().await.unwrap();
        cut_off.response().await.expect(400, "IncompleteBody");
    }
    for key in ["wrong", "cut"] {
        let none = store.get(&format!("/bucket/{key}")).await;
        none.expect_error(404, "NoSuchKey");
    }
}

#[tokio::test]
async fn a_long_body_that_nobody_wants_does_not_hide_the_answer() {
    let (server, _store) = Server::start(GatewayConfig::default()).await;
    let mut client = server.connect().await;
    let data = pattern(20 * MIB, 1);
    let put = ask("PUT", "/nobucket/key").body(data.clone());
    // All of it is sent before the answer is read: without lingering the answer would be lost in a reset.
    client.ask(&put, &data).await;
    let refused = client.response().await.expect(404, "NoSuchBucket");
    assert_eq!(refused.header("connection"), Some("close"));
    client.stream.shutdown().await.unwrap();
    client.expect_closed().await;
}

#[tokio::test]
async fn a_body_is_asked_for_only_when_it_is_wanted() {
    let (server, _store) = Server::start(GatewayConfig::default()).await;
    let mut client = server.connect().await;
    let data = pattern(100_000, 1);
    let put = |path: &str| {
        ask("PUT", path)
            .header("expect", "100-continue")
            .body(data.clone())
    };
    client.send(&put("/bucket/key").wire_head()).await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.send(&data).await;
    client.response().await.expect(200, "");
    client.send(&put("/nobucket/key").wire_head()).await;
    let refused = client.response().await.expect(404, "NoSuchBucket");
    assert_eq!(refused.header("connection"), Some("close"));
    client.stream.shutdown().await.unwrap();
    client.expect_closed().await;
}

/// A final answer without a `100 Continue` before it makes botocore take the next answer on the connection for the rest
/// of this one, and wait for its end in vain.
#[tokio::test]
async fn a_client_that_waits_to_send_nothing_is_not_answered_on_a_connection_it_uses_again() {
    let (server, _store) = Server::start(GatewayConfig::default()).await;
    let mut client = server.connect().await;
    let put = ask("PUT", "/bucket/empty").header("expect", "100-continue");
    client.send(&put.wire_head()).await;
    let stored = client.response().await.expect(200, "");
    assert_eq!(stored.header("connection"), Some("close"));
    client.stream.shutdown().await.unwrap();
    client.expect_closed().await;
}

#[tokio::test]
async fn answers_to_head_have_no_body() {
    let (server, _store) = Server::start(GatewayConfig::default()).await;
    let mut client = server.connect().await;
    client.ask(&ask("HEAD", "/bucket/none"), b"").await;
    assert!(client.head().await.starts_with("HTTP/1.1 404 "));
    client
        .ask(&ask("PUT", "/bucket/key").body("hello"), b"hello")
        .await;
    client.response().await.expect(200, "");
    client.ask(&ask("HEAD", "/bucket/key"), b"").await;
    assert!(client.head().await.contains("\r\nContent-Length: 5\r\n"));
    client.ask(&ask("GET", "/bucket?location"), b"").await;
    client.response().await.expect(200, "LocationConstraint");
}

#[tokio::test]
async fn headers_are_bounded() {
    let (server, _store) = Server::start(GatewayConfig::default()).await;
    let mut client = server.connect().await;
    let long = ask("GET", "/bucket").header("x-amz-meta-long", "x".repeat(20_000));
    client.ask(&long, b"").await;
    client
        .response()
        .await
        .expect(400, "RequestHeaderSectionTooLarge");
    client.ask(&ask("GET", "/bucket?location"), b"").await;
    client.response().await.expect(200, "LocationConstraint");
    let endless = ask("GET", "/bucket").header("x-amz-meta-long", "x".repeat(200_000));
    // The server may stop reading before all is sent.
    let _ = client.stream.write_all(&endless.wire_head()).await;
    client.response().await.expect(431, "");
}

#[tokio::test]
async fn a_panic_is_an_internal_error() {
    let mut store = Store::configured(GatewayConfig::default());
    let gateway = Arc::get_mut(&mut store.gateway).unwrap();
    gateway.status = Box::new(|| panic!("as the test wants it"));
    let server = Server::of(store.gateway.clone()).await;
    let mut client = server.connect().await;
    client.ask(&ask("GET", "/-/status"), b"").await;
    client.response().await.expect(500, "InternalError");
    client.ask(&ask("GET", "/-/live"), b"").await;
    client.response().await.expect(200, "live");
}

#[tokio::test]
async fn shutdown_lets_requests_finish() {
    let (mut server, _store) = Server::start(GatewayConfig::default()).await;
    let mut busy = server.connect().await;
    let mut idle = server.connect().await;
    idle.ask(&ask("GET", "/-/live"), b"").await;
    idle.response().await.expect(200, "live");
    let data = pattern(2 * MIB, 1);
    busy.send(&ask("PUT", "/bucket/key").body(data.clone()).wire_head())
        .await;
    busy.send(&data[..MIB]).await;
    // The server is at the request when it has taken some of the body from the socket; asking another connection
    // makes it so that the first was accepted.
    let mut other = server.connect().await;
    other.ask(&ask("GET", "/bucket?location"), b"").await;
    other.response().await.expect(200, "LocationConstraint");
    server.stop.take().unwrap().send(()).unwrap();
    idle.expect_closed().await;
    other.expect_closed().await;
    busy.send(&data[MIB..]).await;
    let stored = busy.response().await.expect(200, "");
    assert_eq!(stored.header("connection"), Some("close"));
    busy.expect_closed().await;
    server.task.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let config = GatewayConfig {
        shutdown_grace: Duration::from_millis(50),
        ..GatewayConfig::default()
    };
    let (mut server, _store) = Server::start(config).await;
    let mut stuck = server.connect().await;
    let put = ask("PUT", "/bucket/key")
        .header("expect", "100-continue")
        .body(pattern(MIB, 1));
    stuck.send(&put.wire_head()).await;
    assert!(stuck.head().await.starts_with("HTTP/1.1 100 "));
    server.stop.take().unwrap().send(()).unwrap();
    server.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_takes_nothing_is_cut_off() {
    let config = GatewayConfig {
        write_stall_timeout: Duration::from_millis(100),
        ..GatewayConfig::default()
    };
    let (mut server, store) = Server::start(config).await;
    store.put("/bucket/key", pattern(40 * MIB, 1)).await;
    let mut client = server.connect().await;
    client.ask(&ask("GET", "/bucket/key"), b"").await;
    // It reads nothing: more than the sockets' buffers hold is left, and the connection must end by itself.
    server.stop.take().unwrap().send(()).unwrap();
    server.task.await.unwrap().unwrap();
    let mut all = Vec::new();
    // Cut off in the middle, perhaps by a reset.
    let _ = client.stream.read_to_end(&mut all).await;
    assert!(all.len() < 40 * MIB, "{}", all.len());
}

#[tokio::test]
async fn connections_are_bounded() {
    let config = GatewayConfig {
        connections_max: 2,
        ..GatewayConfig::default()
    };
    let (server, _store) = Server::start(config).await;
    let live = ask("GET", "/-/live");
    let mut first = server.connect().await;
    let mut second = server.connect().await;
    for client in [&mut first, &mut second] {
        client.ask(&live, b"").await;
        client.response().await.expect(200, "live");
    }
    // Others than clients get through; who is one is told so, and the connection ends.
    let mut third = server.connect().await;
    third.ask(&live, b"").await;
    third.response().await.expect(200, "live");
    third.ask(&ask("GET", "/bucket/key"), b"").await;
    third.response().await.expect(503, "SlowDown");
    let mut rest = Vec::new();
    assert_eq!(third.stream.read_to_end(&mut rest).await.unwrap(), 0);
    drop(first);
    for _ in 0..100 {
        let mut fourth = server.connect().await;
        fourth.ask(&ask("GET", "/bucket/key"), b"").await;
        if fourth.response().await.status != 503 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("a connection that became free was not given to another client");
}
