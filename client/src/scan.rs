//! Scans: a stream of keys that survives the loss of the node that serves it.
//!
//! A node sends pages, each with the cursor after its last item. When the node fails, the scan
//! goes on at another after the last page that arrived whole, so no item comes twice and none is
//! left out. The next page is asked of the network only when the caller has taken the last one.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use quorate_proto::v1;

use crate::{
    client::Shared,
    connection::Connection,
    error::Error,
    level::Level,
    options::ScanOptions,
    outcome::ScanItem,
    retry::{Deadline, server_ms},
    token::Cursor,
};

/// The scan as a stream. It ends after the last key, or after its first error.
pub(crate) fn stream(
    shared: Arc<Shared>,
    namespace: Arc<str>,
    options: ScanOptions,
) -> impl Stream<Item = Result<ScanItem, Error>> + Send + 'static {
    let scan = Scan {
        timeout: shared.timeout(options.timeout),
        shared,
        namespace,
        prefix: options.prefix,
        cursor: options.cursor.map(|cursor| cursor.to_bytes()).unwrap_or_default(),
        left: options.limit,
        r: options.r,
        pages: None,
        items: VecDeque::new(),
    };
    stream::try_unfold(
        scan,
        |mut scan| async move { Ok(scan.next().await?.map(|item| (item, scan))) },
    )
}

struct Scan {
    shared: Arc<Shared>,
    namespace: Arc<str>,
    prefix: Bytes,
    /// After the last page.
    cursor: Bytes,
    /// How many more items may be asked for; none: all.
    left: Option<u64>,
    r: Level,
    timeout: Duration,
    pages: Option<Pages>,
    items: VecDeque<ScanItem>,
}

/// The stream under way, and whose it is.
struct Pages {
    node: Arc<Connection>,
    replies: tonic::Streaming<v1::ScanReply>,
}

impl Scan {
    async fn next(&mut self) -> Result<Option<ScanItem>, Error> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Some(item));
            }
            if self.left == Some(0) {
                return Ok(None);
            }
            match self.page().await? {
                Some(page) => self.take(page),
                None => return Ok(None),
            }
        }
    }

    /// The next page, of any node that can serve it; none after the last.
    async fn page(&mut self) -> Result<Option<v1::ScanReply>, Error> {
        let deadline = Deadline::after(self.timeout);
        if let Some(mut pages) = self.pages.take() {
            match pages.next(deadline.share()).await {
                Ok(None) => return Ok(None),
                Ok(page) => {
                    self.pages = Some(pages);
                    return Ok(page);
                }
                // Without a cursor it could only begin anew, and bring every item twice.
                Err(error) if !error.is_retryable() || self.cursor.is_empty() => return Err(error),
                Err(_) => self.shared.refresh_soon(),
            }
        }
        self.shared.resolve(&self.namespace, deadline).await?;
        let scan = &*self;
        let call = |node, limit| scan.begin(node, limit);
        let (page, pages) = scan.shared.ask(scan.shared.any(), deadline, call).await?;
        self.pages = page.is_some().then_some(pages);
        Ok(page)
    }

    /// Begins a stream after the last page, and awaits its first.
    async fn begin(
        &self,
        node: Arc<Connection>,
        limit: Duration,
    ) -> Result<(Option<v1::ScanReply>, Pages), Error> {
        let mut kv = node.kv();
        let scan = |left| async move {
            let request = v1::ScanRequest {
                namespace: self.namespace.to_string(),
                prefix: self.prefix.clone(),
                cursor: self.cursor.clone(),
                limit: self.left.unwrap_or(0),
                r: self.r.to_wire(),
                timeout_ms: server_ms(left),
            };
            kv.scan(request).await
        };
        // A node that has too much to do says so in place of the first page.
        let first = async {
            let replies = node.call(limit, scan).await?;
            let mut pages = Pages { node: Arc::clone(&node), replies };
            let page = pages.next(limit).await?;
            Ok((page, pages))
        };
        node.offer(first).await
    }

    fn take(&mut self, page: v1::ScanReply) {
        self.items.extend(page.items.into_iter().map(ScanItem::from));
        if let Some(last) = self.items.back_mut() {
            last.cursor = Cursor::from_bytes(page.cursor.clone());
        }
        self.cursor = page.cursor;
        self.left = self.left.map(|left| left.saturating_sub(self.items.len() as u64));
    }
}

impl Pages {
    async fn next(&mut self, limit: Duration) -> Result<Option<v1::ScanReply>, Error> {
        self.node.within(limit, self.replies.message()).await
    }
}
