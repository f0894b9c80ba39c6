//! Keys that the cluster keeps.

use holdfast_placement::directory;
use holdfast_placement::seams::SeededRng;
use holdfast_storage_node::metadata::testing::TestMetadata;

use super::*;

fn identity(secret: &str) -> directory::Identity {
    directory::Identity {
        access_key: "KEPT".to_owned(),
        secret_key: secret.to_owned(),
        owner_id: "0123456789abcdef".repeat(4),
        display_name: "Somebody".to_owned(),
    }
}

fn request(secret: &str) -> Parts {
    let headers = [
        ("host", "localhost"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-date", "20130524T000000Z"),
    ];
    signed_by("KEPT", secret, "GET", "/", &headers)
}

fn cluster(clock: &ManualClock) -> Arc<Directory> {
    TestMetadata::new(Arc::new(clock.clone()), Arc::new(SeededRng::new(1))).directory
}

async fn code(authenticator: &Authenticator, directory: &Directory, secret: &str) -> Option<Code> {
    let request = request(secret);
    let checked = authenticator.authenticate_any(&request, directory);
    checked.await.err().map(|error| error.code)
}

#[tokio::test]
async fn a_key_works_at_once_and_until_it_is_forgotten() {
    let clock = clock();
    let directory = cluster(&clock);
    let authenticator = authenticator(clock.clone());
    let unknown = Some(Code::InvalidAccessKeyId);
    assert_eq!(code(&authenticator, &directory, "secret").await, unknown);
    directory.put_identity(identity("secret")).await.unwrap();
    let request = request("secret");
    let known = authenticator.authenticate_any(&request, &directory);
    let known = known.await.unwrap();
    assert_eq!(known.identity.owner_id, identity("").owner_id);
    assert_eq!(known.identity.display_name, "Somebody");
    assert!(!known.identity.is_root);
    let wrong = code(&authenticator, &directory, "other").await;
    assert_eq!(wrong, Some(Code::SignatureDoesNotMatch));
    directory.delete_identity("KEPT").await.unwrap();
    clock.advance(KEPT_FOR);
    assert_eq!(code(&authenticator, &directory, "secret").await, unknown);
}

#[tokio::test]
async fn a_key_that_is_used_is_asked_for_again() {
    let clock = clock();
    let directory = cluster(&clock);
    let authenticator = authenticator(clock.clone());
    directory.put_identity(identity("first")).await.unwrap();
    assert_eq!(code(&authenticator, &directory, "first").await, None);
    directory.put_identity(identity("second")).await.unwrap();
    // It is remembered for a while ...
    assert_eq!(code(&authenticator, &directory, "first").await, None);
    clock.advance(Duration::from_secs(3));
    // ... and asked for before that is over.
    let changed = Some(Code::SignatureDoesNotMatch);
    assert_eq!(code(&authenticator, &directory, "first").await, changed);
    assert_eq!(code(&authenticator, &directory, "second").await, None);
}

#[tokio::test]
async fn an_older_key_of_the_root_user_does_not_work() {
    let clock = clock();
    let directory = cluster(&clock);
    let owner = identity("").owner_id;
    let root = Credentials::new(ACCESS_KEY, SECRET, owner, "root").of_root();
    let authenticator =
        Authenticator::new(vec![root], "us-east-1".to_owned(), Arc::new(clock.clone()));
    directory.put_identity(identity("secret")).await.unwrap();
    let refused = code(&authenticator, &directory, "secret").await;
    assert_eq!(refused, Some(Code::InvalidAccessKeyId));
}
