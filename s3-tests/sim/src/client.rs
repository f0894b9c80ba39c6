//! An S3 client on the simulated network: signed requests over HTTP, one at a time.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use holdfast_placement::seams::spawn;
use holdfast_s3_tests::request::{Keys, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::clock::EPOCH;
use crate::net::{Host, PORT, Wires, name};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(12);

/// A client with a connection to one gateway at a time.
pub struct Client {
    own: Host,
    wires: Wires,
    keys: Keys,
    connected: Option<(Host, SendRequest<Full<Bytes>>)>,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
    /// Why the body is not whole, if it is not.
    pub broken: Option<String>,
}

impl Answer {
    /// S3's error code.
    pub fn code(&self) -> String {
        self.element("Code").unwrap_or_default()
    }

    /// The text of the first element of this name.
    pub fn element(&self, name: &str) -> Option<String> {
        self.elements(name).into_iter().next()
    }

    /// The texts of all elements of this name.
    pub fn elements(&self, name: &str) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.body);
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let pieces = text.split(open.as_str()).skip(1);
        let texts = pieces.filter_map(|piece| piece.split(close.as_str()).next());
        texts.map(|text| text.replace("&quot;", "\"")).collect()
    }

    /// The object's ETag, without quotes.
    pub fn etag(&self) -> Option<String> {
        let etag = match self.header("etag") {
            Some(etag) => etag.to_owned(),
            None => self.element("ETag")?,
        };
        Some(etag.trim_matches('"').to_owned())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Client {
    pub fn new(own: Host, wires: Wires) -> Self {
        Self {
            own,
            wires,
            keys: Keys::for_tests(),
            connected: None,
        }
    }

    /// Sends a request to a gateway; an error says that no answer came, and why.
    pub async fn send(&mut self, to: Host, request: Request) -> Result<Answer, String> {
        match timeout(PATIENCE, self.exchange(to, request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.connected = None;
                Err(error)
            }
            Err(_) => {
                self.connected = None;
                Err("no answer in time".to_owned())
            }
        }
    }

    async fn exchange(&mut self, to: Host, mut request: Request) -> Result<Answer, String> {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        request.time = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(EPOCH) + now);
        // What is signed is the name that is sent; the address is of no matter.
        request.host = Some(format!("{}:{PORT}", name(to)));
        let wire = request.sign(([127, 0, 0, 1], PORT).into(), &self.keys);
        let mut built = http::Request::builder()
            .method(wire.method.as_str())
            .uri(&request.target);
        for (name, value) in &wire.headers {
            built = built.header(name, value);
        }
        let request = built.body(Full::new(Bytes::from(wire.body)));
        let request = request.map_err(|error| error.to_string())?;
        let sender = self.connection(to).await?;
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let mut incoming = response.into_body();
        let mut body = BytesMut::new();
        let mut broken = None;
        while let Some(frame) = incoming.frame().await {
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) => body.extend_from_slice(&data),
                Ok(Err(_)) => {}
                Err(error) => {
                    broken = Some(error.to_string());
                    self.connected = None;
                    break;
                }
            }
        }
        Ok(Answer {
            status,
            headers,
            body: body.freeze(),
            broken,
        })
    }

    async fn connection(&mut self, to: Host) -> Result<&mut SendRequest<Full<Bytes>>, String> {
        let usable = match &mut self.connected {
            Some((host, sender)) => *host == to && sender.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let address = format!("{}:{PORT}", name(to));
            let wire = self.wires.connect(self.own, &address).await;
            let wire = wire.map_err(|error| error.to_string())?;
            let (sender, connection) = http1::handshake(TokioIo::new(wire))
                .await
                .map_err(|error| error.to_string())?;
            spawn(async move {
                // Its end shows in the requests on it.
                let _ended = connection.await;
            });
            self.connected = Some((to, sender));
        }
        match &mut self.connected {
            Some((_, sender)) => Ok(sender),
            None => Err("not connected".to_owned()),
        }
    }
}
