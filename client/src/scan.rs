//! Scans.
use crate::{
    error::{Error, ErrorKind},
    outcome::ScanItem,
};
use futures::{Stream, stream};
pub(crate) fn empty() -> impl Stream<Item = Result<ScanItem, Error>> + Send + 'static {
    stream::once(async { Err(Error::new(ErrorKind::Internal, "rough")) })
}
