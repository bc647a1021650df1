//! Reading and writing the keys of one namespace.
use bytes::Bytes;
use futures::Stream;

use crate::{
    client::{Client, rough},
    error::{Error, WriteError},
    options::{DeleteOptions, GetOptions, PutOptions, ScanOptions, UpdateOptions},
    outcome::{Deleted, Read, ScanItem, Sibling, Updated, Written},
};

/// A handle to one namespace: cheap to make and to clone.
#[derive(Clone, Debug)]
pub struct Namespace {
    pub(crate) client: Client,
    pub(crate) name: String,
}

impl Namespace {
    /// Its name.
    pub fn name(&self) -> &str {
        let _ = &self.client;
        &self.name
    }
    /// Reads a key.
    pub async fn get(&self, key: impl Into<Bytes>, options: GetOptions) -> Result<Read, Error> {
        let _ = (key.into(), options);
        Err(rough())
    }
    /// Writes a value.
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<Written, WriteError> {
        let _ = (key.into(), value.into(), options);
        Err(WriteError::NotApplied { error: rough() })
    }
    /// Deletes.
    pub async fn delete(
        &self,
        key: impl Into<Bytes>,
        options: DeleteOptions,
    ) -> Result<Deleted, WriteError> {
        let _ = (key.into(), options);
        Err(WriteError::NotApplied { error: rough() })
    }
    /// Reads, asks `f` for a new value, writes it.
    pub async fn update(
        &self,
        key: impl Into<Bytes>,
        options: UpdateOptions,
        mut f: impl FnMut(&[Sibling]) -> Option<Bytes>,
    ) -> Result<Updated, WriteError> {
        let _ = (key.into(), options, f(&[]));
        Err(WriteError::NotApplied { error: rough() })
    }
    /// Scans.
    pub fn scan(
        &self,
        options: ScanOptions,
    ) -> impl Stream<Item = Result<ScanItem, Error>> + Send + 'static {
        let _ = options;
        crate::scan::empty()
    }
}
