//! What a webhook is told (S3 user guide, "Event message structure").

use holdfast_placement::seams::UnixMillis;
use holdfast_storage_node::metadata::{EventName, QueuedEvent};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// Version of the structure.
const EVENT_VERSION: &str = "2.2";

/// The message of one event, JSON.
pub fn message(queued: &QueuedEvent, region: &str) -> Vec<u8> {
    let event = &queued.event;
    let time = iso8601(queued.id.time());
    if event.name == EventName::Test {
        let test = json!({
            "Service": "Amazon S3",
            "Event": event.name.as_str(),
            "Time": time,
            "Bucket": event.bucket,
            "RequestId": queued.id.sequencer(),
            "HostId": "",
        });
        return test.to_string().into_bytes();
    }
    let mut object = Map::new();
    object.insert("key".to_owned(), form_encoded(&event.key).into());
    if let Some(size) = event.size {
        object.insert("size".to_owned(), size.into());
    }
    if let Some(etag) = &event.etag {
        object.insert("eTag".to_owned(), etag.to_string().into());
    }
    if let Some(version) = event.version {
        object.insert("versionId".to_owned(), version.to_string().into());
    }
    object.insert("sequencer".to_owned(), queued.id.sequencer().into());
    let record = json!({
        "eventVersion": EVENT_VERSION,
        "eventSource": "aws:s3",
        "awsRegion": region,
        "eventTime": time,
        "eventName": event.name.as_str().trim_start_matches("s3:"),
        "userIdentity": { "principalId": "" },
        "requestParameters": { "sourceIPAddress": "" },
        "responseElements": { "x-amz-request-id": "", "x-amz-id-2": "" },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": event.rule,
            "bucket": {
                "name": event.bucket,
                "ownerIdentity": { "principalId": event.owner },
                "arn": format!("arn:aws:s3:::{}", event.bucket),
            },
            "object": Value::Object(object),
        },
    });
    json!({ "Records": [record] }).to_string().into_bytes()
}

/// A key as in messages: as in a form, but that slashes stay.
fn form_encoded(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'.' | b'_' | b'*' | b'/' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn iso8601(time: UnixMillis) -> String {
    let at = OffsetDateTime::from_unix_timestamp(time.secs() as i64)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        time.0 % 1000
    )
}

#[cfg(test)]
mod tests {
    use holdfast_storage_node::metadata::{Etag, Event, EventId, VersionId, VersionRef};

    use super::*;

    fn queued(name: EventName) -> QueuedEvent {
        let mut id = [0; 12];
        // 2023-11-14T22:13:20.123Z.
        id[..8].copy_from_slice(&(1_700_000_000_123u64 << 16 | 5).to_be_bytes());
        id[11] = 2;
        QueuedEvent {
            id: EventId(id),
            event: Event {
                name,
                rule: "r".to_owned(),
                bucket: "b".to_owned(),
                owner: "o".to_owned(),
                key: "a/b c+ü~".to_owned(),
                size: Some(7),
                etag: Some(Etag::Md5([0xAB; 16])),
                version: Some(VersionRef::Id(VersionId([1; 16]))),
            },
        }
    }

    #[test]
    fn messages_are_s3s() {
        let told = message(&queued(EventName::CreatedPut), "eu-west-1");
        let told: Value = serde_json::from_slice(&told).unwrap();
        let record = &told["Records"][0];
        assert_eq!(record["eventVersion"], "2.2");
        assert_eq!(record["eventName"], "ObjectCreated:Put");
        assert_eq!(record["eventTime"], "2023-11-14T22:13:20.123Z");
        assert_eq!(record["awsRegion"], "eu-west-1");
        let object = &record["s3"]["object"];
        assert_eq!(object["key"], "a/b+c%2B%C3%BC%7E");
        assert_eq!(object["size"], 7);
        assert_eq!(object["eTag"], "ab".repeat(16));
        assert_eq!(object["versionId"], "01".repeat(16));
        assert_eq!(object["sequencer"], "018BCFE5687B000500000002");
        assert_eq!(record["s3"]["bucket"]["arn"], "arn:aws:s3:::b");
        assert_eq!(record["s3"]["configurationId"], "r");
    }

    #[test]
    fn the_first_event_has_a_form_of_its_own() {
        let told: Value =
            serde_json::from_slice(&message(&queued(EventName::Test), "eu-west-1")).unwrap();
        assert_eq!(told["Event"], "s3:TestEvent");
        assert_eq!(told["Bucket"], "b");
    }
}
