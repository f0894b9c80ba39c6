//! What the gateway itself costs: `cargo test --release -p holdfast-gateway --lib cost -- --ignored --nocapture`.
//! Below it are metadata in memory and no consensus, so that what is measured is HTTP's share and that of S3.

use super::*;

/// CPU time of this thread, all of which is ours in a current-thread runtime.
fn cpu_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

async fn measure(store: &Store, what: &str, ask: Ask, count: u64, status: u16) {
    let parts = ask.signed();
    let began = cpu_nanos();
    for _ in 0..count {
        let request = Request::from_parts(parts.clone(), Body::from(ask.body.clone()));
        let response = store.gateway.answer(request).await;
        assert_eq!(response.status(), status);
        if ask.method == "GET" {
            response.into_body().collect().await.unwrap();
        }
    }
    let micros = (cpu_nanos() - began) as f64 / 1e3 / count as f64;
    println!("{what}: {micros:.2} us");
}

#[tokio::test]
#[ignore = "a measurement"]
async fn of_small_requests() {
    let store = Store::with_bucket().await;
    let request = Request::from_parts(ask("GET", "/bucket/key").signed(), Body::empty());
    println!(
        "future of a request: {} bytes",
        size_of_val(&store.gateway.answer(request))
    );
    let data = pattern(4096, 1);
    measure(
        &store,
        "PUT 4 KiB",
        ask("PUT", "/bucket/key").body(data),
        20_000,
        200,
    )
    .await;
    measure(&store, "GET 4 KiB", ask("GET", "/bucket/key"), 20_000, 200).await;
    measure(&store, "HEAD", ask("HEAD", "/bucket/key"), 20_000, 200).await;
    measure(
        &store,
        "GET of nothing",
        ask("GET", "/bucket/none"),
        20_000,
        404,
    )
    .await;
    measure(&store, "DELETE", ask("DELETE", "/bucket/key"), 20_000, 204).await;
    for n in 0..10_000 {
        let key = format!("/bucket/some/directory/with/file-{n:06}.txt");
        store.put(&key, "x").await;
    }
    measure(
        &store,
        "LIST of 1000",
        ask("GET", "/bucket?list-type=2"),
        500,
        200,
    )
    .await;
}
