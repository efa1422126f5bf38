//! A bucket of results, at whatever speaks S3: `s3://bucket/prefix`.
//!
//! Each thing is one PUT, so it is there whole or not at all. What is read is checked against its name.

use super::{BYTES_MAX, Store, StoreError, name_of, parts};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, Error, ObjectStoreExt, RetryConfig};
use std::sync::Once;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// How to reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// The server's address, if it is not Amazon's: `http://minio.example:9000`.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The key's name.
    pub key: Option<String>,
    /// The key.
    pub secret: Option<String>,
    /// And what comes with a key that ends.
    pub token: Option<String>,
}

pub struct S3 {
    place: String,
    prefix: String,
    store: AmazonS3,
    // One thread at a time drives it; many may wait in it.
    runtime: Runtime,
}

impl S3 {
    pub fn open(place: &str, options: &S3Options) -> Result<Self, StoreError> {
        static CIPHERS: Once = Once::new();
        CIPHERS.call_once(|| {
            // Somebody else's choice is as good.
            let _set = rustls::crypto::ring::default_provider().install_default();
        });
        let failed = |e: &dyn std::fmt::Display| StoreError {
            what: "open the place of",
            name: String::new(),
            place: place.into(),
            why: e.to_string(),
        };
        let rest = place.strip_prefix("s3://").unwrap_or(place);
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(options.region.as_deref().unwrap_or("us-east-1"))
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(200),
                    max_backoff: Duration::from_secs(5),
                    base: 2.0,
                },
                max_retries: 5,
                retry_timeout: Duration::from_secs(60),
            });
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
        }
        match (&options.key, &options.secret) {
            (Some(key), Some(secret)) => builder = builder.with_access_key_id(key).with_secret_access_key(secret),
            _ => return Err(failed(&"no key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")),
        }
        if let Some(token) = &options.token {
            builder = builder.with_token(token);
        }
        let store = builder.build().map_err(|e| failed(&e))?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().map_err(|e| failed(&e))?;
        Ok(Self { place: place.into(), prefix: prefix.trim_matches('/').into(), store, runtime })
    }

    fn path(&self, (first, rest): (&str, &str)) -> Path {
        Path::from(format!("{}/{first}/{rest}", self.prefix))
    }

    fn error(&self, what: &'static str, name: &str, e: &dyn std::fmt::Display) -> StoreError {
        StoreError { what, name: name.into(), place: self.place.clone(), why: e.to_string() }
    }
}

impl Store for S3 {
    fn put(&self, bytes: &[u8]) -> Result<String, StoreError> {
        let name = name_of(bytes);
        let path = self.path(name.split_at(2));
        // What is there is the same: half of all screenshots are of error pages, and a HEAD is cheaper.
        let there = self.runtime.block_on(self.store.head(&path)).is_ok_and(|meta| meta.size == bytes.len() as u64);
        if !there {
            let put = self.runtime.block_on(self.store.put(&path, bytes.to_vec().into()));
            put.map_err(|e| self.error("store", &name, &e))?;
        }
        Ok(name)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(parts) = parts(name) else { return Err(self.error("read", name, &"this is no name")) };
        let path = self.path(parts);
        let got = self.runtime.block_on(async {
            let got = self.store.get(&path).await?;
            if got.meta.size > BYTES_MAX as u64 {
                return Ok(None);
            }
            got.bytes().await.map(Some)
        });
        match got {
            Ok(Some(bytes)) if name_of(&bytes) == name => Ok(Some(bytes.into())),
            Ok(Some(_)) => Err(self.error("read", name, &"what is there is not what its name says")),
            Ok(None) => Err(self.error("read", name, &"it is too large")),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error("read", name, &e)),
        }
    }
}
