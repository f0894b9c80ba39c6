//! Whether a write may take effect (S3 user guide, "Conditional requests").

use super::command::Refusal;
use super::record::VersionSummary;
use super::store::Condition;

impl Condition {
    /// For a PUT or a completed upload: `If-Match` on a key that is not there is `NoSuchKey`, any other condition that
    /// does not hold `PreconditionFailed`.
    pub(super) fn allows_write(&self, newest: Option<&VersionSummary>) -> Result<(), Refusal> {
        match newest {
            Some(newest) => self.holds_for(newest),
            None if self.etag.is_some() && !self.absent => Err(Refusal::NoSuchKey),
            None => Ok(()),
        }
    }

    /// For a DELETE: a condition on a key that is not there holds (S3 API reference, DeleteObject: "If the ETag
    /// matches or if the object doesn't exist, the operation will return a 204 Success response"). A delete marker is
    /// there, has no bytes, and no etag but `*`.
    pub(super) fn allows_delete(&self, newest: Option<&VersionSummary>) -> Result<(), Refusal> {
        newest.map_or(Ok(()), |newest| self.holds_for(newest))
    }

    fn holds_for(&self, newest: &VersionSummary) -> Result<(), Refusal> {
        let etag_matches = match self.etag.as_deref() {
            None | Some("*") => true,
            Some(etag) => !newest.delete_marker && etag == newest.etag.to_string(),
        };
        // `If-None-Match: *`, too, is of what is there.
        let holds = etag_matches != self.absent
            && self
                .modified_secs
                .is_none_or(|secs| secs == newest.modified.secs())
            && self.size.is_none_or(|size| size == newest.size);
        if holds {
            Ok(())
        } else {
            Err(Refusal::PreconditionFailed)
        }
    }
}
