//! Who belongs to a cluster: those with its token, and nobody else.

use holdfast_s3_tests::{Connection, Scratch, Server, ServerOptions};

/// What only nodes may ask of each other is not answered to somebody without the secret, whatever he says.
#[test]
fn calls_between_nodes_need_the_secret() {
    let scratch = Scratch::new("peer");
    let server = Server::start(&ServerOptions::new(scratch.join("node")));
    for service in ["join", "raft", "shards", "map", "query", "x"] {
        for headers in [
            "",
            "authorization: none\r\n",
            "x-holdfast-mac: 00\r\n",
            "holdfast-mac: 0011\r\n",
        ] {
            let mut connection = Connection::open(server.address()).expect("connect");
            let request = format!(
                "POST /-/peer/{service} HTTP/1.1\r\nhost: {}\r\n{headers}content-length: 4\r\n\r\n\0\0\0\0",
                server.address()
            );
            connection.write(request.as_bytes()).expect("write");
            let answer = connection.read_response("POST").expect("an answer");
            assert!(
                (400..500).contains(&answer.status),
                "{service} {headers:?}: {answer:?}"
            );
            assert!(answer.body.len() < 300, "{answer:?}");
        }
    }
}
