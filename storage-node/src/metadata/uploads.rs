//! Multipart uploads and what they become.

use std::ops::Range;

use holdfast_placement::ids::{BucketId, UploadId};
use holdfast_placement::seams::UnixMillis;

use super::command::{Command, Outcome, PartsDigest, Refusal, encode_missed};
use super::keys;
use super::parts::{Completed, FindParts, FindUpload, PartsAfter, PartsInRange};
use super::record::{PartRecord, UploadRecord, VersionSummary};
use super::store::{
    CompleteUpload, CompleteUploadError, Condition, ListParts, Metadata, MetadataError, NewPart,
    NewUpload, PartsPage, Place, WriteError, strange,
};
use super::values::unencodable;

impl Metadata {
    /// Begins an upload.
    pub async fn create_upload(
        &self,
        bucket: BucketId,
        key: &str,
        new: NewUpload,
    ) -> Result<UploadId, WriteError> {
        let place = self.place(bucket, key);
        let upload = self.upload_id();
        let at = place.address;
        let NewUpload {
            headers,
            tags,
            lock,
            checksum,
        } = new;
        let command = match lock.is_none() {
            true => Command::CreateUpload {
                at,
                upload,
                headers,
                tags,
                checksum,
            },
            false => Command::CreateLockedUpload {
                at,
                upload,
                headers,
                tags,
                checksum,
                lock,
            },
        };
        match self.decide(place.group, &command, &[]).await?.1 {
            Outcome::Done => Ok(upload),
            Outcome::Refused(refusal) => Err(refusal.into()),
            other => Err(strange(&other).into()),
        }
    }

    /// A fresh id: 48 bits of milliseconds, so that a key's uploads are listed oldest first, then chance.
    fn upload_id(&self) -> UploadId {
        let mut id = UploadId::random(self.proposer.rng());
        let time = self.proposer.now().millis().0.to_be_bytes();
        id.0[..6].copy_from_slice(&time[2..]);
        id
    }

    /// The upload, if it is under way.
    pub async fn upload(
        &self,
        bucket: BucketId,
        key: &str,
        upload: UploadId,
    ) -> Result<Option<UploadRecord>, MetadataError> {
        let at = self.place(bucket, key);
        Ok(self
            .asker
            .ask(at.group, &FindUpload { at, upload })
            .await??)
    }

    /// Records a part; one of the same number is replaced and its body reclaimed. Gives the part's time.
    pub async fn put_part(
        &self,
        bucket: BucketId,
        key: &str,
        upload: UploadId,
        part: NewPart,
    ) -> Result<UnixMillis, WriteError> {
        let place = self.place(bucket, key);
        let missed = encode_missed(&part.missed).map_err(unencodable)?;
        let part = PartRecord {
            number: part.number,
            size: part.size,
            md5: part.md5,
            modified: UnixMillis::default(),
            checksum: part.checksum,
            body: part.body,
        };
        let command = Command::PutPart {
            at: place.address,
            upload,
            part,
        };
        match self.decide(place.group, &command, &missed).await? {
            (at, Outcome::Done) => Ok(at.millis()),
            (_, Outcome::Refused(refusal)) => Err(refusal.into()),
            (_, other) => Err(strange(&other).into()),
        }
    }

    /// A page of an upload's parts; `None`: no such upload.
    pub async fn list_parts(
        &self,
        bucket: BucketId,
        key: &str,
        list: &ListParts,
    ) -> Result<Option<PartsPage>, MetadataError> {
        let at = self.place(bucket, key);
        Ok(self
            .asker
            .ask(at.group, &FindParts { at, list: *list })
            .await??)
    }

    /// Makes the upload's parts the key's newest version; the object is as old as the upload (S3 user guide,
    /// "System-defined object metadata").
    pub async fn complete_upload(
        &self,
        bucket: BucketId,
        key: &str,
        complete: CompleteUpload,
        condition: &Condition,
    ) -> Result<VersionSummary, CompleteUploadError> {
        let place = self.place(bucket, key);
        let mut digest = PartsDigest::new();
        for part in &complete.parts {
            digest.add(part);
        }
        let command = Command::CompleteUpload {
            at: place.address,
            condition: condition.clone(),
            upload: complete.upload,
            numbers: complete.parts.iter().map(|part| part.number).collect(),
            digest: digest.finish(),
            size: complete.size,
            etag: complete.etag,
            checksum: complete.checksum,
        };
        let decided = self.decide_at(&place, &command, &[]).await;
        match decided.map_err(WriteError::from)? {
            Outcome::Written(summary) => Ok(summary),
            Outcome::Refused(Refusal::PartsChanged) => Err(CompleteUploadError::PartsChanged),
            Outcome::Refused(refusal) => Err(WriteError::from(refusal).into()),
            other => Err(WriteError::from(strange(&other)).into()),
        }
    }

    /// The version that an upload already completed to (a repeated CompleteMultipartUpload answers with success), if it
    /// is remembered: each group remembers its last 1024.
    pub async fn completed(
        &self,
        bucket: BucketId,
        key: &str,
        upload: UploadId,
    ) -> Result<Option<VersionSummary>, MetadataError> {
        let at = self.place(bucket, key);
        Ok(self
            .asker
            .ask(at.group, &Completed { at, upload })
            .await??)
    }

    /// Ends an upload; its parts are reclaimed.
    pub async fn abort_upload(
        &self,
        bucket: BucketId,
        key: &str,
        upload: UploadId,
    ) -> Result<(), WriteError> {
        let place = self.place(bucket, key);
        let command = Command::AbortUpload {
            at: place.address,
            upload,
        };
        match self.decide(place.group, &command, &[]).await?.1 {
            Outcome::Done => Ok(()),
            Outcome::Refused(refusal) => Err(refusal.into()),
            other => Err(strange(&other).into()),
        }
    }

    /// Parts of a completed object that hold bytes of `range`, each with the object offset of its first byte.
    pub async fn parts_in_range(
        &self,
        bucket: BucketId,
        key: &str,
        table: UploadId,
        range: Range<u64>,
    ) -> Result<Vec<(u64, PartRecord)>, MetadataError> {
        let at = self.place(bucket, key);
        let question = PartsInRange { at, table, range };
        Ok(self.asker.ask(at.group, &question).await?)
    }

    /// Parts of a completed object with a number greater than `after`, each with its offset, at most `max`.
    pub async fn parts_after(
        &self,
        bucket: BucketId,
        key: &str,
        table: UploadId,
        after: u16,
        max: usize,
    ) -> Result<Vec<(u64, PartRecord)>, MetadataError> {
        let at = self.place(bucket, key);
        let question = PartsAfter {
            at,
            table,
            after,
            max,
        };
        Ok(self.asker.ask(at.group, &question).await?)
    }
}

impl Place<'_> {
    pub fn upload_key(&self, upload: UploadId) -> Vec<u8> {
        let at = self.address;
        keys::upload(self.group, at.bucket, at.lane, at.key, upload)
    }
}
