//! What a start does: finds the records that were durable before the index knew of them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use holdfast_placement::seams::IndexError;

use super::disk::{DiskError, DiskFile, PAGE_LEN};
use super::index_entry::{Phase, ShardEntry};
use super::record::{ExtentHeader, Header, Location, Nonce};
use super::store::{Core, ReadError, extent_name, extent_number};
use super::walk::Walk;
use super::{OpenShardStoreError, ShardId};

/// Records found in this start, to tell which of two of a shard is the later one.
type Found = HashMap<ShardId, Location>;

/// What the beginning of an extent says.
enum FirstPages {
    Nonce(Nonce),
    /// There is no record.
    Blank,
    Damaged,
}

impl Core {
    /// Brings every extent to rest: sealed, or gone. The next put begins a new one, so that whatever a dead process
    /// still had under way cannot meet new records.
    pub(super) async fn recover(&self) -> Result<(), OpenShardStoreError> {
        let names = self.disk.list().await?;
        let files: BTreeSet<u64> = names
            .iter()
            .filter_map(|name| extent_number(name))
            .collect();
        if let Some(last) = files.last() {
            self.ledger.numbers_used(*last);
        }
        let known: HashMap<u64, _> = self.ledger.extents().into_iter().collect();
        for number in known.keys().filter(|number| !files.contains(number)) {
            if known[number].phase == Phase::Dead {
                self.forget_extent(*number)?;
            } else {
                tracing::error!(extent = number, "the file of an extent is missing");
                self.ledger.mark_missing(*number);
                // Nothing will be found in it; when all its shards are replaced or deleted it can go.
                self.ledger.change(&HashSet::new(), |change| {
                    if let Some(extent) = change.extent(*number) {
                        extent.entry.phase = Phase::Sealed;
                    }
                    Ok(())
                })?;
            }
        }
        let mut found = Found::new();
        for number in files {
            match known.get(&number) {
                Some(extent) if extent.phase == Phase::Sealed => {}
                Some(extent) if extent.phase == Phase::Dead => {
                    self.disk.delete(&extent_name(number)).await?;
                    self.forget_extent(number)?;
                }
                Some(extent) => {
                    let (nonce, from) = (extent.nonce, extent.high_water);
                    self.rescan(number, nonce, from, &mut found).await?;
                }
                None => self.adopt(number, &mut found).await?,
            }
        }
        self.remove_dead()
            .await
            .map_err(OpenShardStoreError::from)?;
        self.ledger.sync().await?;
        Ok(())
    }

    fn forget_extent(&self, number: u64) -> Result<(), IndexError> {
        self.ledger.change(&HashSet::new(), |change| {
            change.remove_extent(number);
            Ok(())
        })
    }

    /// An extent of which the index does not know: it was new when the index lost its last changes, or the index is
    /// new.
    async fn adopt(&self, number: u64, found: &mut Found) -> Result<(), OpenShardStoreError> {
        let nonce = match self.nonce_of(number).await? {
            FirstPages::Nonce(nonce) => nonce,
            FirstPages::Blank => {
                // No record was ever written: that begins when the header is durable.
                tracing::info!(extent = number, "removing an extent that was not finished");
                return Ok(self.disk.delete(&extent_name(number)).await?);
            }
            FirstPages::Damaged => {
                tracing::error!(
                    extent = number,
                    "an extent that is damaged and not in the index is left alone"
                );
                return Ok(());
            }
        };
        let from = PAGE_LEN as u64;
        self.ledger.change(&HashSet::new(), |change| {
            change.add_extent(number, nonce, from);
            Ok(())
        })?;
        self.rescan(number, nonce, from, found).await
    }

    /// Looks for the nonce in the extent's header, else in its first record.
    async fn nonce_of(&self, number: u64) -> Result<FirstPages, OpenShardStoreError> {
        let file = self.disk.open(&extent_name(number)).await?;
        let len = file.len()?.min(2 * PAGE_LEN as u64) as usize / PAGE_LEN * PAGE_LEN;
        for _ in 0..3 {
            let room = self.pool.acquire(len).await?;
            let Ok(pages) = file.read(room, 0, len).await else {
                continue;
            };
            let (header, first) = pages.payload().split_at(len.min(PAGE_LEN));
            if let Ok(header) = ExtentHeader::decode(header)
                && header.number == number
            {
                return Ok(FirstPages::Nonce(header.nonce));
            }
            if let Some(nonce) = Header::nonce_of_first(first, number) {
                return Ok(FirstPages::Nonce(nonce));
            }
            if first.iter().all(|byte| *byte == 0) {
                return Ok(FirstPages::Blank);
            }
        }
        Ok(FirstPages::Damaged)
    }

    /// Tells the index of the records from `from` on that lived, and seals the extent.
    async fn rescan(
        &self,
        number: u64,
        nonce: Nonce,
        from: u64,
        found: &mut Found,
    ) -> Result<(), OpenShardStoreError> {
        let file = self.disk.open(&extent_name(number)).await?;
        let tombstones = self.ledger.extent(number).map(|extent| extent.tombstones);
        let tombstones = tombstones.unwrap_or_default();
        let mut walk = Walk::new(file.clone(), number, nonce, &self.pool, from, file.len()?);
        let mut records = Vec::new();
        let mut torn = 0;
        while let Some(header) = walk.next().await? {
            if tombstones.contains(&header.location.offset) {
                continue;
            }
            if self.is_whole(&file, &header).await? {
                records.push(header);
            } else {
                torn += 1;
            }
        }
        // Not the end of the last whole record: the index may refer to a damaged one behind it.
        let end = walk.data_end;
        if walk.unreadable_pages > 0 {
            let pages = walk.unreadable_pages;
            tracing::error!(extent = number, pages, "pages of an extent cannot be read");
        }
        if let Err(error) = file.truncate(end).await {
            tracing::warn!(extent = number, %error, "an extent was not cut to its end");
        }
        let count = records.len();
        if count > 0 {
            // What a process wrote that was killed can be read, and is not durable yet: the index would lead.
            file.sync().await?;
        }
        self.ledger.change(&HashSet::new(), |change| {
            for header in records {
                let id = header.shard.id;
                let before = change.get(id)?;
                if !is_news(&header, before.as_ref(), found) {
                    continue;
                }
                found.insert(id, header.location);
                change.put(ShardEntry {
                    shard: header.shard,
                    location: header.location,
                })?;
                change.set_bad(id, false);
            }
            if let Some(extent) = change.extent(number) {
                extent.entry.phase = Phase::Sealed;
                extent.entry.high_water = end;
            }
            Ok(())
        })?;
        tracing::debug!(
            extent = number,
            from,
            end,
            count,
            torn,
            "rescanned an extent"
        );
        Ok(())
    }

    /// Whether the payload is what the header says.
    async fn is_whole(
        &self,
        file: &Arc<dyn DiskFile>,
        header: &Header,
    ) -> Result<bool, OpenShardStoreError> {
        let entry = ShardEntry {
            shard: header.shard.clone(),
            location: header.location,
        };
        for _ in 0..3 {
            match self.verify(&**file, &entry).await {
                Ok(()) => return Ok(true),
                Err(ReadError::Busy) => return Err(OpenShardStoreError::Busy),
                Err(ReadError::Disk(gone @ DiskError::Gone(_))) => return Err(gone.into()),
                Err(_) => {}
            }
        }
        Ok(false)
    }
}

/// Whether a record past the high-water mark says more than the index, see [`Ledger`](super::ledger): a put does,
/// since it was committed after what the index remembers, or never; a copy never does. Of several puts of a shard the
/// last one counts.
fn is_news(header: &Header, before: Option<&ShardEntry>, found: &Found) -> bool {
    let Some(before) = before else { return true };
    if before.location == header.location || header.copy {
        return false;
    }
    let earlier = found.get(&header.shard.id);
    earlier.is_none_or(|earlier| *earlier < header.location)
}
