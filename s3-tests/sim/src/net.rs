//! Connections of the simulated network. turmoil carries the bytes, late and in order, or loses them; what it does not
//! know is that TCP gives a connection up of which bytes were lost. So every connection is kept in a list, and when a cut
//! has healed those that it went through are reset.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use futures_util::future::BoxFuture;
use holdfast_placement::seams::{Connection, Net};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

use crate::trace::Trace;

/// A machine of the simulation: nodes by number, then the clients.
pub type Host = usize;

/// The port that nodes listen on.
pub const PORT: u16 = 9000;

/// A host's name.
pub fn name(host: Host) -> String {
    format!("host-{host}")
}

/// All connections.
#[derive(Clone)]
pub struct Wires {
    trace: Trace,
    hosts: Arc<Mutex<BTreeMap<IpAddr, Host>>>,
    open: Arc<Mutex<Vec<Open>>>,
}

/// One end of a connection: whose it is, to whom, and how it is.
type Open = (Host, Host, Weak<State>);

#[derive(Default)]
struct State {
    reset: AtomicBool,
    /// What came over it is not read yet.
    held: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl State {
    fn wake(&self) {
        for waker in std::mem::take(&mut *self.wakers.lock()) {
            waker.wake();
        }
    }
}

impl Wires {
    pub fn new(trace: Trace) -> Self {
        Self {
            trace,
            hosts: Arc::default(),
            open: Arc::default(),
        }
    }

    /// Says whose address this is.
    pub fn know(&self, address: IpAddr, host: Host) {
        self.hosts.lock().insert(address, host);
    }

    /// One end of a connection, that of `own`.
    pub fn take(&self, own: Host, stream: TcpStream) -> io::Result<Wire> {
        let peer = stream.peer_addr()?.ip();
        let other = self.hosts.lock().get(&peer).copied().unwrap_or(own);
        let state = Arc::new(State::default());
        let mut open = self.open.lock();
        open.retain(|(_, _, state)| state.strong_count() > 0);
        open.push((own, other, Arc::downgrade(&state)));
        Ok(Wire {
            stream,
            own,
            other,
            state,
            trace: self.trace.clone(),
        })
    }

    /// Resets the connections between two hosts at both ends.
    pub fn reset(&self, a: Host, b: Host) {
        for state in self.between(a, b) {
            state.reset.store(true, Ordering::Relaxed);
            state.wake();
        }
    }

    /// Holds some of the connections between two hosts, one end or the other: what comes over them is read later, while
    /// what goes over the others passes. So a call or its answer is overtaken by what was said long after it.
    pub fn hold(&self, a: Host, b: Host, chosen: impl Fn() -> bool) {
        for state in self.between(a, b) {
            if chosen() {
                state.held.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Reads again what was held.
    pub fn release(&self, a: Host, b: Host) {
        for state in self.between(a, b) {
            state.held.store(false, Ordering::Relaxed);
            state.wake();
        }
    }

    /// The ends of the connections between two hosts, in the order in which they were made.
    fn between(&self, a: Host, b: Host) -> Vec<Arc<State>> {
        let open = self.open.lock();
        let ends = open
            .iter()
            .filter(|(from, to, _)| (*from, *to) == (a, b) || (*from, *to) == (b, a));
        ends.filter_map(|(_, _, state)| state.upgrade()).collect()
    }

    /// Connects `own` to `HOST:PORT`.
    pub async fn connect(&self, own: Host, address: &str) -> io::Result<Wire> {
        let stream = TcpStream::connect(address).await?;
        self.take(own, stream)
    }
}

/// One end of a connection.
pub struct Wire {
    stream: TcpStream,
    own: Host,
    other: Host,
    state: Arc<State>,
    trace: Trace,
}

impl Wire {
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        if self.state.reset.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut wakers = self.state.wakers.lock();
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        if self.state.held.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(len)) = &written {
            self.trace
                .count([1, self.own as u64, self.other as u64, *len as u64]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The network as a node sees it.
pub struct SimNet {
    pub own: Host,
    pub wires: Wires,
}

impl Net for SimNet {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        let (own, wires, address) = (self.own, self.wires.clone(), address.to_owned());
        Box::pin(async move {
            let wire = wires.connect(own, &address).await?;
            Ok(Box::new(wire) as Box<dyn Connection>)
        })
    }
}
