//! Commands that nobody sends and bytes that nobody wrote.

use holdfast_placement::command::Stamp;
use holdfast_placement::consensus::StateMachine;
use holdfast_placement::ids::{BucketId, GroupId, Lane, UploadId};
use holdfast_placement::seams::{
    Batch, Durability, Index, IndexError, IndexView, Keyspace, MemoryIndex, Rng, SeededRng,
    SystemRng,
};

use super::{any, chunked, etag, set};
use crate::metadata::command::{Address, Command, DeleteKey, DeleteVersion, encode_missed};
use crate::metadata::lifecycle_actions::{KeyActions, Standing};
use crate::metadata::record::{Body, ChunkedBody, MissedSlot, PartRecord};
use crate::metadata::values::VersionDetails;
use crate::metadata::{
    BodyPlace, BucketEvents, BucketVersioning, Cause, DefaultRetention, EventId, EventRule,
    LockChange, LockConfiguration, LockMode, ObjectHeaders, ReclaimId, RepairId, RetentionPeriod,
    RuleForm, StorageClass, VersionId, VersionLock, VersionRef, Versioning, metadata_machine,
};

const GROUP: GroupId = GroupId(3);

fn commands() -> Vec<Vec<u8>> {
    let at = Address {
        bucket: BucketId(1),
        lane: Lane(0),
        key: "k",
    };
    let upload = UploadId([5; 16]);
    let details = postcard::to_stdvec(&VersionDetails {
        checksum: None,
        headers: ObjectHeaders::default(),
        tags: Vec::new(),
    });
    let details = details.unwrap();
    let part = PartRecord {
        number: 1,
        size: 10,
        md5: [1; 16],
        modified: Default::default(),
        checksum: None,
        body: chunked(3, 10),
    };
    let mut digest = crate::metadata::command::PartsDigest::new();
    digest.add(&part);
    let put = |body| Command::Put {
        at,
        condition: any(),
        size: 3,
        etag: etag(1),
        checksum: None,
        body,
        details: &details,
    };
    let caused = postcard::to_stdvec(&Command::DeleteVersions {
        bucket: at.bucket,
        keys: vec![DeleteVersion {
            lane: at.lane,
            key: at.key,
            version: None,
            condition: any(),
            bypass_governance: false,
        }],
    });
    let caused = caused.unwrap();
    let commands = [
        put(chunked(1, 3)),
        put(Body::Inline),
        Command::SetTags {
            at,
            tags: vec![("a".to_owned(), "b".to_owned())],
        },
        Command::CreateUpload {
            at,
            upload,
            headers: ObjectHeaders::default(),
            tags: Vec::new(),
            checksum: None,
        },
        Command::PutPart { at, upload, part },
        Command::CompleteUpload {
            at,
            condition: any(),
            upload,
            numbers: vec![1],
            digest: digest.finish(),
            size: 10,
            etag: etag(2),
            checksum: None,
        },
        Command::AbortUpload { at, upload },
        Command::Delete {
            bucket: at.bucket,
            keys: vec![DeleteKey {
                lane: at.lane,
                key: at.key,
                condition: any(),
            }],
        },
        Command::SetVersioning {
            bucket: at.bucket,
            lanes: vec![Lane(0)],
            versioning: BucketVersioning {
                change: 1,
                versioning: Versioning::Enabled,
                lock: Some(LockConfiguration {
                    default: Some(DefaultRetention {
                        mode: LockMode::Governance,
                        period: RetentionPeriod::Years(1),
                    }),
                }),
            },
        },
        put(chunked(5, 3)),
        put(Body::Inline),
        Command::SetLock {
            at,
            version: None,
            change: LockChange::Retention(None),
            bypass_governance: true,
        },
        Command::SetVersionTags {
            at,
            version: VersionRef::Id(version_of(10)),
            tags: Vec::new(),
        },
        Command::ReplaceBody {
            at,
            place: BodyPlace::Noncurrent {
                version: version_of(9),
            },
            old: set(5),
            new: body_of(&chunked(6, 3)),
        },
        Command::CreateLockedUpload {
            at,
            upload,
            headers: ObjectHeaders::default(),
            tags: Vec::new(),
            checksum: None,
            lock: VersionLock {
                retention: None,
                legal_hold: Some(true),
            },
        },
        Command::AbortUpload { at, upload },
        Command::DeleteVersions {
            bucket: at.bucket,
            keys: [None, Some(version_of(9)), Some(version_of(10))]
                .map(|version| DeleteVersion {
                    lane: at.lane,
                    key: at.key,
                    version: version.map(VersionRef::Id),
                    condition: any(),
                    bypass_governance: true,
                })
                .into(),
        },
        Command::CloseLanes {
            bucket: at.bucket,
            lanes: vec![Lane(0), Lane(1)],
            deletion: 1,
        },
        Command::ReopenLanes {
            bucket: at.bucket,
            lanes: vec![Lane(0), Lane(1)],
            deletion: 1,
        },
        Command::ReplaceBody {
            at,
            place: BodyPlace::Version,
            old: set(1),
            new: body_of(&chunked(4, 3)),
        },
        Command::Repaired {
            ids: vec![RepairId {
                set: set(1),
                chunk: 0,
                slot: 0,
            }],
        },
        Command::Reclaimed {
            ids: vec![ReclaimId([0; 12])],
        },
        Command::SetEvents {
            bucket: at.bucket,
            lanes: vec![Lane(0)],
            events: BucketEvents {
                change: 1,
                rules: vec![EventRule {
                    id: "r".to_owned(),
                    form: RuleForm::Queue,
                    arn: String::new(),
                    target: "w".to_owned(),
                    events: vec!["s3:ObjectRemoved:*".to_owned()],
                    prefix: None,
                    suffix: None,
                }],
                ..BucketEvents::default()
            },
            test: true,
        },
        put(chunked(7, 3)),
        Command::Caused {
            cause: Cause::Lifecycle,
            command: &caused,
        },
        Command::ForgetEvents {
            target: "w",
            through: EventId([0xFF; 12]),
        },
        Command::CarryOut {
            bucket: at.bucket,
            tags: vec![("a", "b")],
            actions: [None, Some(StorageClass::GlacierIr)]
                .map(|class| KeyActions {
                    lane: at.lane,
                    key: at.key,
                    standing: Standing::Noncurrent {
                        above: vec![version_of(24)],
                    },
                    class,
                    versions: vec![version_of(23)],
                })
                .into(),
        },
        Command::CarryOut {
            bucket: at.bucket,
            tags: Vec::new(),
            actions: [Standing::Alone, Standing::Current]
                .map(|standing| KeyActions {
                    lane: at.lane,
                    key: at.key,
                    standing,
                    class: None,
                    versions: vec![version_of(23)],
                })
                .into(),
        },
    ];
    let encoded = commands.iter().enumerate().map(|(number, command)| {
        let mut bytes = vec![1];
        bytes.extend_from_slice(&[number as u8; 16]);
        bytes.extend_from_slice(&Stamp(number as u64 + 1).0.to_be_bytes());
        bytes = postcard::to_extend(command, bytes).unwrap();
        if let Command::Put {
            body: Body::Inline, ..
        } = command
        {
            bytes.extend_from_slice(b"abc");
        }
        if command.new_chunks().is_some() {
            let missed = [MissedSlot { chunk: 0, slot: 0 }];
            bytes.extend_from_slice(&encode_missed(&missed).unwrap());
        }
        bytes
    });
    encoded.collect()
}

/// The version that the command of that number writes.
fn version_of(number: u8) -> VersionId {
    let mut id = [0; 16];
    id[7] = number + 1;
    id[11] = GROUP.0 as u8;
    id[12..].copy_from_slice(&[number; 4]);
    VersionId(id)
}

fn body_of(body: &Body) -> ChunkedBody {
    match body {
        Body::Chunked(body) => *body,
        other => panic!("{other:?}"),
    }
}

fn apply(
    machine: &mut dyn StateMachine,
    index: &MemoryIndex,
    command: &[u8],
) -> Result<bytes::Bytes, IndexError> {
    let mut batch = Batch::new();
    let outcome = machine.apply(index, &mut batch, command)?;
    if outcome[1] != 0 {
        assert!(batch.is_empty(), "refused, but something is written");
    }
    for op in &batch.ops {
        let (holdfast_placement::seams::Op::Put { key, .. }
        | holdfast_placement::seams::Op::Delete { key, .. }
        | holdfast_placement::seams::Op::DeleteRange { from: key, .. }) = op;
        assert_eq!(key[..4], GROUP.0.to_be_bytes(), "outside of the group");
    }
    index.write(batch, Durability::Unsynced)?;
    Ok(outcome)
}

/// Bytes of commands are changed at random: whatever comes of them, no replica stops.
#[test]
fn changed_commands_stop_nobody() {
    let seed = match std::env::var("HOLDFAST_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemRng.next_u64() >> 16,
    };
    println!("HOLDFAST_SEED={seed}");
    let rng = SeededRng::new(seed);
    let commands = commands();
    for _ in 0..2000 {
        let index = MemoryIndex::new();
        let mut machine = metadata_machine(GROUP);
        for (number, command) in commands.iter().enumerate() {
            let mut changed = command.clone();
            for _ in 0..rng.below(3) {
                let place = rng.below(changed.len() as u64) as usize;
                match rng.below(3) {
                    0 => changed[place] ^= 1 << rng.below(8),
                    1 => changed[place] = [0, 0x7F, 0xFF][rng.below(3) as usize],
                    _ => changed.truncate(place + 1),
                }
            }
            // The original follows, unless it has the token of the changed one.
            for command in [&changed, command] {
                let outcome = apply(&mut *machine, &index, command);
                let outcome = outcome.unwrap_or_else(|error| panic!("command {number}: {error}"));
                assert!(outcome.len() >= 10);
            }
        }
    }
}

#[test]
fn unchanged_commands_are_understood() {
    let index = MemoryIndex::new();
    let mut machine = metadata_machine(GROUP);
    for command in commands() {
        let outcome = apply(&mut *machine, &index, &command).unwrap();
        assert_eq!(outcome[..2], [1, 0]);
    }
}

/// A record that is not what was written stops the replica instead of being taken for something else.
#[test]
fn a_damaged_record_is_noticed() {
    let index = MemoryIndex::new();
    let mut machine = metadata_machine(GROUP);
    let commands = commands();
    apply(&mut *machine, &index, &commands[0]).unwrap();
    let (_, key, value) = index
        .entries()
        .into_iter()
        .find(|(space, _, _)| *space == Keyspace::Objects)
        .unwrap();
    for damaged in [
        value.slice(..5),
        bytes::Bytes::from_static(b"\x02"),
        bytes::Bytes::new(),
    ] {
        let mut batch = Batch::new();
        batch.put(Keyspace::Objects, key.clone(), damaged);
        index.write(batch, Durability::Unsynced).unwrap();
        let outcome = apply(&mut *machine, &index, &commands[1]);
        assert!(matches!(outcome, Err(IndexError::Corrupt(_))));
    }
    assert!(index.get(Keyspace::Objects, &key).unwrap().is_some());
}
