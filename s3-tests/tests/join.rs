//! Who belongs to a cluster: those with its token, and nobody else.

use std::time::Duration;

use holdfast_s3_tests::{Connection, Content, Request, Scratch, Server, ServerOptions};

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

/// Nodes that are there for the placement group alone have its voters, and nothing else.
#[test]
fn placement_nodes_vote_on_buckets_and_keep_no_data() {
    let scratch = Scratch::new("placement");
    let token = format!("hf1-{}", "5a".repeat(32));
    let with_token = |options: ServerOptions| {
        let mut options = options;
        options.environment = vec![("HOLDFAST_JOIN_TOKEN".to_owned(), token.clone())];
        options
    };
    // Alone there is nothing to vote on.
    let alone = with_token(ServerOptions::new(scratch.join("alone")).role("placement"));
    let error = Server::try_start(&alone)
        .err()
        .expect("a placement node makes no cluster");
    assert!(error.log.contains("--join"), "{error}");

    let first = Server::start(&with_token(ServerOptions::new(scratch.join("first"))));
    let placements: Vec<Server> = (0..3)
        .map(|number| {
            let data = scratch.join(&format!("placement{number}"));
            let mut options = with_token(ServerOptions::new(data).role("placement"));
            options.arguments = vec!["--join".into(), first.address().to_string().into()];
            Server::start(&options)
        })
        .collect();
    let status = first.wait_for_status(
        "the placement group to move",
        Duration::from_secs(60),
        |status| {
            let nodes = status["nodes"].as_array().expect("nodes");
            let apart: Vec<_> = nodes
                .iter()
                .filter(|node| node["role"] == "placement")
                .map(|node| &node["node"])
                .collect();
            let drives = status["drives"].as_array().expect("drives");
            let is_apart = |drive: &serde_json::Value| {
                let found = drives.iter().find(|known| known["drive"] == *drive);
                found.is_some_and(|drive| apart.contains(&&drive["node"]))
            };
            let groups = status["groups"].as_array().expect("groups");
            status["healthy"] == true
                && groups.iter().all(|group| {
                    let voters = group["voters"].as_array().expect("voters");
                    // Without word of a leader these are only the voters that it should have.
                    let is_known = group["leader"].is_u64();
                    is_known
                        && match group["group"] == 0 {
                            true => voters.len() == 3 && voters.iter().all(is_apart),
                            false => voters.len() == 1 && !voters.iter().any(is_apart),
                        }
                })
        },
    );
    assert_eq!(status["protection"], "1+0", "they take no shards: {status}");
    let slots = status["ring"]["slots"].as_array().expect("slots");
    assert_eq!(slots.len(), 1, "{status}");

    let mut client = first.client();
    client.create_bucket("bucket");
    let content = Content::new(7, 3 << 20);
    let put = client.put("bucket", "key", content).expect("an answer");
    assert_eq!(put.status, 200, "{put:?}");
    // One of three may be away: perhaps the leader, after which it takes a moment.
    let mut placements = placements;
    placements[0].kill();
    let request = Request::put("/another");
    let made = client.persist("PUT /another", Duration::from_secs(60), |client| {
        client.send(&request)
    });
    // A lost answer to one that was made is answered so.
    assert!(matches!(made.status, 200 | 409), "{made:?}");
    client.get_whole("bucket", "key", content);
    // It does not answer clients.
    let refused = placements[1].client().send(&Request::get("/bucket/key"));
    assert_eq!(refused.expect("an answer").status, 405);
}
